// Photographs every page, light and dark, on a desktop and on a phone.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { launch, newContext, plan, settle, signIn, tell, watch } from "./browser.mjs";

const api = async (page, path) => page.evaluate((p) => fetch(p).then((r) => r.json()), path);

const browser = await launch();
mkdirSync(plan.out, { recursive: true });

// The page that people see before they are in.
for (const scheme of ["light", "dark"]) {
  const context = await newContext(browser, { colorScheme: scheme });
  const page = await context.newPage();
  await page.goto(plan.console + "/login/");
  await page.screenshot({ path: join(plan.out, `sign-in-desktop-${scheme}.png`) });
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.locator('button[value="nobody"]').click();
  await page.getByText("not signed in").waitFor();
  await page.screenshot({ path: join(plan.out, `refused-desktop-${scheme}.png`) });
  await context.close();
}

// Others are signed in too: their names are told by the provider.
for (const who of ["dan", "olga", "vic", "sue"]) {
  const context = await newContext(browser);
  await signIn(await context.newPage(), who);
  await context.close();
}

const sizes = { desktop: { width: 1440, height: 900 }, phone: { width: 360, height: 740 } };

async function pagesOf(page) {
  const users = (await api(page, "/api/v1/users?limit=200")).items;
  const tokens = (await api(page, "/api/v1/tokens?limit=200")).items;
  const events = (await api(page, "/api/v1/audit/events?limit=200")).items;
  const releases = await api(page, "/api/v1/rack/apps/web/releases");
  const builds = await api(page, "/api/v1/rack/apps/web/builds");
  const by = (email) => users.find((u) => u.email === email).id;
  const event = (f) => (events.find(f) ?? events[0]).request_id;
  return {
    overview: "/", welcome: "/welcome", apps: "/apps", "app-services": "/apps/web", "app-processes": "/apps/web/processes", "app-builds": "/apps/web/builds",
    "app-releases": "/apps/web/releases", "app-environment": "/apps/web/environment", "app-resources": "/apps/web/resources", "app-settings": "/apps/web/settings",
    release: `/apps/web/releases/${releases[0].id}`, build: `/apps/web/builds/${builds[0].id}`, logs: "/logs?app=web", "logs-choose": "/logs", instances: "/instances",
    audit: "/audit?span=all", "audit-empty": "/audit?actor=nobody-at-all", "event-refused": `/audit/${event((e) => e.phase === "refused" && e.app)}`, "event-promote": `/audit/${event((e) => e.action === "release.promote")}`,
    "event-setting": `/audit/${event((e) => e.action === "setting.set")}`, users: "/users", "users-add": "/users?add=true", user: `/users/${by("dan@example.com")}`, "user-locked": `/users/${by("left@example.com")}`,
    roles: "/roles", role: "/roles/deployer", "role-custom": "/roles/release-manager", "role-new": "/roles/new", tokens: "/tokens", "tokens-empty": "/tokens?q=zzz",
    token: `/tokens/${tokens.find((t) => t.name === "github-web-deploys").id}`, "token-new": "/tokens/new", connect: "/connect", account: "/account",
    settings: "/settings", "settings-history": "/settings?history=session_idle_minutes", integrations: "/integrations", "slack-refused": "/integrations/slack?error=access_denied", background: "/background", design: "/design", "not-found": "/nowhere", "app-missing": "/apps/nosuch",
  };
}

for (const [size, viewport] of Object.entries(sizes)) {
  for (const scheme of ["light", "dark"]) {
    const context = await newContext(browser, { viewport, colorScheme: scheme, deviceScaleFactor: size === "phone" ? 2 : 1, hasTouch: size === "phone" });
    const page = await context.newPage();
    const found = [];
    watch(page, found);
    await signIn(page, "ana");
    for (const [name, path] of Object.entries(await pagesOf(page))) {
      if (plan.only && !new RegExp(plan.only).test(name)) continue;
      const began = Date.now();
      let error = "";
      try {
        await page.goto(plan.console + "/console" + path);
        await settle(page);
        if (name.startsWith("logs") || name === "build") await page.waitForTimeout(900);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        if (wide > 0) error = `the page is ${wide} px wider than the window`;
        await page.screenshot({ path: join(plan.out, `${name}-${size}-${scheme}.png`), fullPage: size === "phone" && name !== "design" });
      } catch (e) {
        error = String(e);
      }
      tell(`${name} ${size} ${scheme}`, (Date.now() - began) / 1000, error);
    }
    // What is behind a button.
    if (!plan.only) {
      await page.goto(plan.console + "/console/");
      await settle(page);
      await page.keyboard.press("Control+k");
      await page.getByRole("combobox").fill("web");
      await page.waitForTimeout(400);
      await page.screenshot({ path: join(plan.out, `palette-${size}-${scheme}.png`) });
      await page.keyboard.press("Escape");
      if (size === "phone") {
        await page.getByRole("button", { name: "Open the menu" }).click();
        await page.waitForTimeout(200);
        await page.screenshot({ path: join(plan.out, `menu-${size}-${scheme}.png`) });
      }
    }
    if (found.length > 0) tell(`complaints ${size} ${scheme}`, 0, [...new Set(found)].slice(0, 20).join("\n"));
    await context.close();
  }
}
await browser.close();
