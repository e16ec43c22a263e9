// What people do in the console, done in a real browser over the real processes. Each scenario is told to the test that
// started this; whatever a page complains of on the way is one more failure.
import { accessible, launch, must, newContext, plan, settle, signIn, tell, watch, wire, within } from "./browser.mjs";

const browser = await launch();
const scenarios = [];
const scenario = (name, run, quick = false) => scenarios.push({ name, run, quick });

const people = ["ana", "dan", "olga", "vic", "sue"];

async function api(page, path, options) {
  return page.evaluate(async ([p, o]) => {
    const r = await fetch("/api/v1" + p, o);
    return { status: r.status, body: await r.json().catch(() => undefined) };
  }, [path, options]);
}

const staticPages = ["/", "/welcome", "/apps", "/apps/web", "/apps/web/processes", "/apps/web/builds", "/apps/web/releases", "/apps/web/environment", "/apps/web/resources", "/apps/web/settings", "/logs", "/logs?app=web", "/instances", "/audit?span=all", "/users", "/users?add=true", "/roles", "/roles/deployer", "/roles/release-manager", "/roles/new", "/tokens", "/tokens/new", "/connect", "/account", "/settings", "/settings?history=session_idle_minutes", "/integrations", "/integrations/slack?error=access_denied", "/background", "/nowhere"];

async function allPages(page) {
  const user = (await api(page, "/users?search=hostile0")).body.items[0].id;
  const token = (await api(page, "/tokens?search=github")).body.items[0].id;
  const event = (await api(page, "/audit/events?phase=refused&limit=1")).body.items[0].request_id;
  const release = (await api(page, "/rack/apps/web/releases")).body[0].id;
  const build = (await api(page, "/rack/apps/web/builds")).body[0].id;
  return [...staticPages, `/users/${user}`, `/tokens/${token}`, `/audit/${event}`, `/apps/web/releases/${release}`, `/apps/web/builds/${build}`];
}

const open = async (page, path) => {
  await page.goto(plan.console + "/console" + path);
  await settle(page);
};

scenario("nobody who is not signed in sees anything, and comes back to where they were going", async ({ page }) => {
  await page.goto(plan.console + "/console/users?q=ana");
  await page.getByRole("button", { name: "Sign in" }).waitFor();
  must(new URL(page.url()).pathname === "/login/", page.url());
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.locator('button[value="ana"]').click();
  await page.getByRole("main").getByText("ana@example.com").first().waitFor();
  must(page.url().endsWith("/console/users?q=ana"), page.url());
}, true);

scenario("somebody who was never added is told why, and whom to ask", async ({ page }) => {
  await page.goto(plan.console + "/login/");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.locator('button[value="nobody"]').click();
  await page.getByText("not signed in").waitFor();
  must((await page.textContent("main")).match(/administrator/i), await page.textContent("main"));
});

scenario("each role sees the pages that are theirs, and is told why not of the others", async ({ context, page, found }) => {
  const expected = {
    ana: ["Overview", "Audit", "Apps", "Logs", "Instances", "People", "Roles", "API tokens", "Settings", "Integrations", "Background work", "Connect CLI", "My account"],
    dan: ["Overview", "Apps", "Logs", "Instances", "Connect CLI", "My account"],
    olga: ["Overview", "Apps", "Logs", "Instances", "Connect CLI", "My account"],
    vic: ["Overview", "Apps", "Logs", "Instances", "Connect CLI", "My account"],
    sue: ["Overview", "Apps", "Logs", "Instances", "Connect CLI", "My account"],
  };
  for (const who of people) {
    await context.clearCookies();
    await signIn(page, who);
    const seen = await page.locator("nav[aria-label=Main] a").allTextContents();
    must(JSON.stringify(seen) === JSON.stringify(expected[who]), `${who} sees ${seen}`);
    for (const name of seen) {
      await page.locator("nav[aria-label=Main]").getByRole("link", { name, exact: true }).click();
      await settle(page);
      must((await page.title()).startsWith(name), `${name} is called ${await page.title()}`);
    }
    if (who !== "ana") {
      await open(page, "/users");
      await page.getByRole("heading", { name: "You may not see this" }).waitFor();
      must((await page.textContent("main")).includes("gateway:user:read"), "it does not say what is lacking");
    }
  }
  must(found.length === 0, found.join("\n"));
});

scenario("a person is added, given roles, locked with a reason, unlocked and removed", async ({ page }) => {
  await signIn(page, "ana", "/console/users");
  await page.getByRole("button", { name: "Add a person" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Address").fill("new.person@example.com");
  await dialog.getByLabel("Role", { exact: true }).selectOption("ops");
  await dialog.getByLabel("Apps, by name or pattern").fill("web*");
  await dialog.getByRole("button", { name: "Add", exact: true }).click();
  await dialog.waitFor({ state: "hidden" });
  await page.getByRole("link", { name: "new.person@example.com" }).click();
  await settle(page);
  must((await page.textContent("main")).includes("web*"), "the roles are not shown");
  await page.getByRole("button", { name: "Lock" }).click();
  must(await page.getByRole("dialog").getByRole("button", { name: "Lock" }).isDisabled(), "no reason is asked for");
  await page.getByLabel("Why").fill("<b>left</b> & gone");
  await page.getByRole("dialog").getByRole("button", { name: "Lock" }).click();
  await page.getByText("<b>left</b> & gone").waitFor();
  await page.getByRole("button", { name: "Unlock" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Unlock" }).click();
  await page.getByRole("button", { name: "Lock", exact: true }).waitFor();
  await page.getByRole("button", { name: "More to do" }).click();
  await page.getByRole("menuitem", { name: /Remove/ }).click();
  must(await page.getByRole("dialog").getByRole("button", { name: "Remove" }).isDisabled(), "the name is not asked for");
  await page.getByLabel("Type new.person@example.com to go on").fill("new.person@example.com");
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await page.waitForURL("**/console/users");
}, true);

scenario("a token is made, shown once, and works through the proxy as far as it was given", async ({ page }) => {
  await signIn(page, "ana", "/console/tokens");
  await page.getByRole("link", { name: "Create a token" }).first().click();
  await page.getByLabel("Name", { exact: true }).fill("e2e pipeline");
  await page.getByLabel("Role", { exact: true }).selectOption("viewer");
  await page.getByLabel("Apps, by name or pattern").fill("web");
  await page.getByRole("button", { name: "Create the token" }).click();
  await page.getByText("This is shown once").waitFor();
  const secret = await page.getByLabel("Token", { exact: true }).textContent();
  must(/^rgw_api_/.test(secret), secret);
  for (const name of ["GitHub Actions", "CircleCI", "GitLab", "Shell"]) {
    await page.getByRole("button", { name, exact: true }).click();
    await page.getByLabel(`${name} snippet`, { exact: true }).waitFor();
  }
  await page.getByRole("button", { name: "Copy token", exact: true }).click();
  must((await page.evaluate(() => navigator.clipboard.readText())) === secret, "the copy is another text");
  const auth = { headers: { Authorization: "Basic " + Buffer.from("convox:" + secret).toString("base64") } };
  const list = await fetch(plan.gateway + "/apps", auth);
  must(list.status === 200 && (await list.json()).map((a) => a.name).join() === "web", `apps: ${list.status}`);
  const refused = await fetch(plan.gateway + "/apps/web/services/web/restart", { method: "POST", ...auth });
  must(refused.status === 403, `restart: ${refused.status}`);
  await page.getByRole("link", { name: "I have kept it" }).click();
  await settle(page);
  must(!(await page.content()).includes(secret), "the secret is still in the page");
  await page.getByRole("button", { name: "Revoke" }).click();
  await page.getByLabel("Type e2e pipeline to go on").fill("e2e pipeline");
  await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  await page.getByText("Revoked").first().waitFor();
  must((await fetch(plan.gateway + "/apps", auth)).status === 401, "it still works");
}, true);

scenario("a device is connected by one line, and its owner ends it", async ({ page }) => {
  await signIn(page, "dan", "/console/connect");
  await page.getByLabel("Which device is it for?").fill("Dan's \"new\" laptop");
  await page.getByRole("button", { name: "Make a token" }).click();
  const text = await page.getByLabel("Line for convox login", { exact: true }).textContent();
  must(/^convox login localhost:\d+ -t rgw_cli_\w+$/.test(text), text);
  const token = text.split(" ").pop();
  const headers = { Authorization: "Basic " + Buffer.from("convox:" + token).toString("base64") };
  must((await fetch(plan.gateway + "/apps", { headers })).status === 200, "the token does not work");
  await page.getByRole("button", { name: "I have pasted it" }).click();
  const row = page.getByRole("listitem").filter({ hasText: "Dan's \"new\" laptop" });
  await row.getByRole("button", { name: "Revoke" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  must((await fetch(plan.gateway + "/apps", { headers })).status === 401, "it still works");
});

scenario("what is refused shows in the record as it happens, and after a drop nothing is left out or doubled", async ({ page }) => {
  await signIn(page, "ana", "/console/audit?live=true&span=1h");
  const refused = async (n) => {
    for (let i = 0; i < n; i++) await fetch(`${plan.gateway}/apps/live-${Date.now()}-${i}`, { method: "DELETE", headers: { Authorization: "Basic " + Buffer.from("convox:" + plan.tokens.viewer).toString("base64") } });
  };
  const count = () => page.getByRole("row").filter({ hasText: "live-" }).count();
  await page.getByRole("table").or(page.getByText("Nothing happened")).first().waitFor();
  await refused(2);
  await page.waitForFunction(() => [...document.querySelectorAll("[role=row]")].filter((r) => r.textContent.includes("live-")).length === 2, undefined, { timeout: 15_000 });
  wire.broken = true;
  wire.cut();
  await refused(3);
  await page.getByText("The connection dropped").waitFor({ timeout: 15_000 });
  await page.locator("[data-live=down]").waitFor({ state: "attached" });
  must((await count()) === 2, "more rows while nothing comes");
  wire.broken = false;
  await page.waitForFunction(() => [...document.querySelectorAll("[role=row]")].filter((r) => r.textContent.includes("live-")).length === 5, undefined, { timeout: 20_000 });
});

scenario("an event says who, what, why, and what became of it", async ({ page }) => {
  await signIn(page, "ana", "/console/audit?span=all&phase=refused&actor=vic@example.com");
  await page.locator("[data-row-link]").first().click();
  await settle(page);
  const text = await page.textContent("main");
  for (const want of ["It was refused", "vic@example.com", "Permission", "Its events", "127.0.0.1"]) must(text.includes(want), `${want} is not shown`);
  must(/(convox|gateway):\w+:\w+/.test(text), "the permission is not shown");
  await page.reload();
  await settle(page);
  must((await page.textContent("main")).includes("It was refused"), "not after a reload");
});

scenario("somebody who is locked loses what is open, in the console too", async ({ context, page }) => {
  const other = await context.browser().newContext();
  const victim = await other.newPage();
  await signIn(victim, "olga", "/console/apps");
  await signIn(page, "ana", "/console/users?q=olga");
  await page.locator("[data-row-link]").first().click();
  await page.getByRole("button", { name: "Lock", exact: true }).click();
  await page.getByLabel("Why").fill("test");
  await page.getByRole("dialog").getByRole("button", { name: "Lock" }).click();
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  await victim.getByRole("button", { name: "Load again" }).click();
  await victim.getByRole("alertdialog").getByText("You are signed out").waitFor();
  await page.getByRole("button", { name: "Unlock" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Unlock" }).click();
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  await victim.getByRole("button", { name: "Sign in" }).click();
  await victim.getByRole("button", { name: "Sign in" }).click();
  await victim.locator('button[value="olga"]').click();
  await victim.waitForURL("**/console/apps");
  await other.close();
});

scenario("a change by somebody else shows by itself", async ({ context, page }) => {
  await signIn(page, "ana", "/console/roles");
  await page.locator("[data-live=live]").waitFor({ state: "attached" });
  const other = await context.browser().newContext();
  const second = await other.newPage();
  await signIn(second, "ana", "/console/roles/new");
  await second.getByLabel("Name", { exact: true }).fill("made-elsewhere");
  await second.getByRole("checkbox", { name: "convox:app:list" }).check();
  await second.getByRole("button", { name: "Make the role" }).click();
  await second.waitForURL("**/roles/made-elsewhere");
  await page.getByRole("link", { name: "made-elsewhere" }).waitFor({ timeout: 10_000 });
  // Its change says what it would do, and for whom.
  await second.getByRole("button", { name: "Change" }).click();
  await second.getByRole("checkbox", { name: "convox:secret:read" }).check();
  await second.getByText("may also").waitFor();
  await second.getByRole("button", { name: "Save" }).click();
  await second.getByText("2 permissions").waitFor();
  await second.getByRole("button", { name: "Delete" }).click();
  await second.getByLabel("Type made-elsewhere to go on").fill("made-elsewhere");
  await second.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await page.getByRole("link", { name: "made-elsewhere" }).waitFor({ state: "detached", timeout: 10_000 });
  await other.close();
});

scenario("an app is scaled, restarted, its process stopped, its environment changed and promoted", async ({ page }) => {
  await signIn(page, "ana", "/console/apps");
  await page.getByRole("textbox", { name: "Search apps" }).fill("search");
  await page.getByRole("link", { name: "search" }).click();
  await settle(page);
  await page.getByRole("button", { name: "What to do with web" }).click();
  await page.getByRole("menuitem", { name: /Scale/ }).click();
  await page.getByLabel("Processes", { exact: true }).fill("2");
  await page.getByRole("dialog").getByRole("button", { name: "Scale" }).click();
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  await page.getByRole("link", { name: "Environment" }).click();
  await page.getByText("LOG_LEVEL").waitFor();
  must(!(await page.textContent("main")).includes("sk-live-1"), "values are shown before they are asked for");
  await page.getByRole("button", { name: "Reveal API_KEY" }).click();
  await page.getByText("sk-live-1").waitFor();
  await page.getByRole("button", { name: "Edit" }).click();
  const area = page.getByLabel("Environment", { exact: true });
  await area.fill((await area.inputValue()).replace("LOG_LEVEL=debug", "LOG_LEVEL=warn") + "\nADDED=<script>1</script>\nnonsense");
  await page.getByRole("alert").getByText("it has no =").waitFor();
  await area.fill((await area.inputValue()).replace("\nnonsense", ""));
  await page.getByRole("button", { name: "Reveal values" }).click();
  await page.getByText("<script>1</script>").last().waitFor();
  await page.getByRole("button", { name: "Save and promote" }).click();
  await page.getByText("is being promoted").waitFor();
  await page.getByRole("link", { name: "Releases" }).click();
  await settle(page);
  await page.locator("[data-row-link]").nth(1).click();
  await settle(page);
  await page.getByRole("button", { name: "Roll back to this" }).waitFor();
  await page.getByRole("button", { name: "Reveal values" }).click();
  await page.getByText("LOG_LEVEL=warn").waitFor();
});

scenario("deleting an app says what happens, asks for its name, and is refused while it is not allowed", async ({ page }) => {
  await signIn(page, "ana", "/console/apps/billing/settings");
  await page.getByRole("button", { name: "Delete", exact: true }).click();
  const dialog = page.getByRole("dialog");
  must(await dialog.getByRole("button", { name: "Delete it" }).isDisabled(), "its name is not asked for");
  await dialog.getByLabel("Type billing to go on").fill("billing");
  await dialog.getByRole("button", { name: "Delete it" }).click();
  await dialog.getByRole("alert").getByText(/destructive/i).waitFor();
});

scenario("a log is followed, filtered and paused", async ({ page }) => {
  await signIn(page, "vic", "/console/logs");
  await page.getByLabel("App", { exact: true }).selectOption("web");
  await page.getByText("following").waitFor();
  await page.waitForFunction(() => document.querySelectorAll("[role=log] bdi").length > 2, undefined, { timeout: 20_000 });
  await page.getByRole("textbox", { name: "Filter the lines" }).fill("no line has this");
  await page.getByText("No line has this in it").waitFor();
  await page.waitForURL("**q=no+line+has+this");
  await page.getByRole("textbox", { name: "Filter the lines" }).fill("");
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByText("paused").first().waitFor();
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download these lines" }).click()]);
  must(file.suggestedFilename() === "web.log", file.suggestedFilename());
});

scenario("settings are changed, explained by their history, and let fall back", async ({ page }) => {
  await signIn(page, "ana", "/console/settings");
  const field = page.getByLabel("Requests at once", { exact: true });
  await field.fill("0");
  await page.getByText("A whole number from 1 to 10000").waitFor();
  await field.fill("65");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("Requests at once was changed").waitFor();
  await page.getByRole("button", { name: "History of Requests at once" }).click();
  await page.getByRole("dialog").getByText("ana@example.com").first().waitFor();
  await page.getByRole("button", { name: "Close" }).click();
  await page.getByRole("button", { name: "Let Requests at once fall back" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Let it fall back" }).click();
  await page.getByText("The setting fell back").waitFor();
  await page.getByRole("switch", { name: "Destructive actions" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  must((await page.getByRole("switch", { name: "Destructive actions" }).getAttribute("aria-checked")) === "false", "it was set");
});

scenario("everything can be done by keys alone", async ({ page }) => {
  await signIn(page, "ana");
  const key = async (...keys) => {
    for (const k of keys) await page.keyboard.press(k);
  };
  const at = async (path) => page.waitForURL((u) => u.pathname === "/console" + path);
  await key("g", "u");
  await at("/users");
  await settle(page);
  must(await page.evaluate(() => document.activeElement?.hasAttribute("data-title")), "the focus is not on the title after a navigation");
  await key("/");
  await page.keyboard.type("dan@");
  await page.waitForURL("**q=dan%40");
  await settle(page);
  await key("Escape", "Escape", "/");
  await page.keyboard.type("vic@");
  await page.waitForURL("**q=vic%40");
  await page.getByRole("row").nth(1).getByText("vic@example.com").first().waitFor();
  await page.evaluate(() => document.activeElement.blur());
  await key("j", "Enter");
  await page.waitForURL("**/console/users/*-*");
  await settle(page);
  await key("Control+k");
  await page.getByRole("combobox").waitFor();
  await page.keyboard.type("api tok");
  await page.waitForTimeout(200);
  await key("Enter");
  await at("/tokens");
  await settle(page);
  await key("?");
  await page.getByRole("dialog", { name: "Keyboard shortcuts" }).waitFor();
  await key("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  // From the top, by Tab: the first stop leads over the navigation.
  await page.goto(plan.console + "/console/apps");
  await settle(page);
  await key("Tab");
  must((await page.evaluate(() => document.activeElement?.textContent)).includes("Skip to the page"), "the first stop does not lead over the navigation");
  await key("Enter");
  // A change from beginning to end: the focus goes into the dialog, stays in it, and comes back.
  await page.goto(plan.console + "/console/users");
  await settle(page);
  const add = page.getByRole("button", { name: "Add a person" });
  await add.focus();
  await key("Enter");
  await page.getByRole("dialog").waitFor();
  for (let i = 0; i < 25; i++) {
    await key("Tab");
    must(await page.evaluate(() => document.activeElement?.closest("[role=dialog]") !== null), "the focus left the dialog");
  }
  await key("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  // Each stop can be seen.
  await page.goto(plan.console + "/console/settings");
  await settle(page);
  for (let i = 0; i < 40; i++) {
    await key("Tab");
    const seen = await page.evaluate(() => {
      const el = document.activeElement;
      if (!el || el === document.body) return true;
      const s = getComputedStyle(el);
      const after = getComputedStyle(el, "::after");
      return s.outlineStyle !== "none" || after.outlineStyle !== "none" || s.boxShadow !== "none";
    });
    must(seen, `stop ${i + 1} cannot be seen: ${await page.evaluate(() => document.activeElement?.outerHTML.slice(0, 200))}`);
  }
});

scenario("back, forward, reload and addresses lead where they say", async ({ page }) => {
  await signIn(page, "ana", "/console/users");
  await page.getByRole("button", { name: "Locked" }).click();
  await page.waitForURL("**state=locked");
  await page.locator("[data-row-link]").first().click();
  await page.waitForURL("**/console/users/*-*");
  await settle(page);
  const title = await page.title();
  await page.goBack();
  await page.waitForURL("**state=locked");
  await settle(page);
  must((await page.getByRole("button", { name: "Locked" }).getAttribute("aria-pressed")) === "true", "the filter is gone");
  await page.goBack();
  await page.waitForURL("**/console/users");
  await page.goForward();
  await page.goForward();
  await page.waitForURL("**/console/users/*-*");
  await settle(page);
  must((await page.title()) === title, await page.title());
  for (const path of await allPages(page)) {
    await open(page, path);
    await page.waitForFunction(() => document.querySelector("[data-title]")?.textContent !== "");
    const before = [page.url(), await page.title()];
    await page.reload();
    await settle(page);
    await page.waitForFunction((t) => document.title === t, before[1]).catch(() => undefined);
    must(page.url() === before[0] && (await page.title()) === before[1], `${path}: ${before} became ${page.url()} ${await page.title()}`);
  }
});

for (const scheme of ["light", "dark"]) {
  for (const [name, viewport] of [["a desktop", { width: 1280, height: 800 }], ["360 px", { width: 360, height: 740 }], ["1920 px", { width: 1920, height: 1080 }]]) {
    scenario(`every page fits, and axe finds nothing: ${scheme}, ${name}`, async ({ page }) => {
      await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
      await page.setViewportSize(viewport);
      await signIn(page, "ana");
      const wrong = [];
      for (const path of [...(await allPages(page)), "/design"]) {
        try {
          await open(page, path);
          await within(page, path);
          await accessible(page, path);
        } catch (e) {
          wrong.push(e.message);
        }
      }
      must(wrong.length === 0, wrong.join("\n"));
    }, scheme === "light" && name === "a desktop");
  }
}

scenario("names of any kind are shown as text", async ({ page }) => {
  await signIn(page, "ana", "/console/users?q=hostile");
  for (const path of ["/users?q=hostile", "/tokens?kind=api", "/audit?span=all"]) {
    await open(page, path);
    const text = await page.textContent("main");
    if (!path.startsWith("/audit")) for (const name of plan.hostile) must(text.includes(name), `${path} does not show ${name.slice(0, 40)}`);
    must(!(await page.title()).includes("hacked"), "a name was run");
    must((await page.locator("main img, main script").count()) === 0, "a name became markup");
    await within(page, path);
  }
  for (const u of (await api(page, "/users?search=hostile")).body.items) {
    await open(page, `/users/${u.id}`);
    must((await page.textContent("h1")) === u.name, `${u.name} became ${await page.textContent("h1")}`);
    await within(page, u.name);
  }
});

scenario("an app has a setting of its own, which lets the gateway's be", async ({ page }) => {
  await signIn(page, "ana", "/console/apps/worker/settings");
  await page.getByRole("heading", { name: "At the gateway" }).waitFor();
  const approvals = page.getByRole("switch", { name: "Deploy approvals" });
  await approvals.click();
  await page.getByText("Deploy approvals was changed").waitFor();
  await page.getByText("the app's own", { exact: true }).waitFor();
  await page.getByRole("button", { name: "History of Deploy approvals" }).click();
  await page.waitForURL("**history=deploy_approvals");
  await page.getByRole("dialog").getByText("ana@example.com").first().waitFor();
  await page.getByRole("button", { name: "Close" }).click();
  await open(page, "/settings");
  must((await page.getByRole("switch", { name: "Deploy approvals" }).getAttribute("aria-checked")) === "false", "the gateway's was set too");
  await page.getByRole("link", { name: "worker, on" }).click();
  await page.getByRole("button", { name: "Let Deploy approvals fall back" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Let it fall back" }).click();
  await page.getByText("The setting fell back").waitFor();
  must((await approvals.getAttribute("aria-checked")) === "false", "it did not fall back");
});

scenario("the owner of a device says that it has no browser", async ({ page }) => {
  await signIn(page, "dan", "/console/connect");
  await page.getByLabel("Which device is it for?").fill("bastion");
  await page.getByRole("button", { name: "Make a token" }).click();
  await page.getByRole("button", { name: "I have pasted it" }).click();
  const row = page.getByRole("listitem").filter({ hasText: "bastion" });
  await row.getByRole("button", { name: "Say that bastion has no browser" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "It has none" }).click();
  await row.getByText("no browser", { exact: true }).waitFor();
  await page.reload();
  await settle(page);
  await row.getByRole("button", { name: "Say that bastion has a browser" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "It has one" }).click();
  await row.getByRole("button", { name: "Say that bastion has no browser" }).waitFor();
});

scenario("mail that comes back shows on the person's page", async ({ page }) => {
  await signIn(page, "ana", "/console/users?q=vic@");
  await page.route("**/api/v1/users/*/mail", (r) => r.fulfill({ status: 200, contentType: "application/json", body: JSON.stringify({ state: "bounced", reason: "<b>no such mailbox</b>", since: "2026-01-02T03:04:05Z", items: [] }) }));
  await page.locator("[data-row-link]").first().click();
  await page.getByText("comes back").waitFor();
  await page.getByText("<b>no such mailbox</b>").waitFor();
  await accessible(page, "a person whose mail comes back");
});

scenario("what cannot be reached, or breaks, says so and goes on by itself", async ({ page }) => {
  await signIn(page, "ana", "/console/apps");
  await page.getByText("web", { exact: true }).first().waitFor();
  wire.broken = true;
  wire.cut();
  await page.getByRole("button", { name: "Load again" }).click();
  await page.getByText("could not be asked for since").waitFor({ timeout: 20_000 });
  await page.getByText("web", { exact: true }).first().waitFor(); // what was there stays
  wire.broken = false;
  await page.getByRole("button", { name: "Try again" }).click();
  await page.getByText("could not be asked for since").waitFor({ state: "hidden" });
  // The rack is gone; the gateway is not.
  await page.route("**/api/v1/rack/instances", (r) => r.fulfill({ status: 502, contentType: "application/json", body: '{"error":"the rack does not answer","code":"rack-unreachable","request_id":"019a9c1f-7a3e-7c55-8b1f-0e5a9b6f2d11"}' }));
  await open(page, "/instances");
  await page.getByText("The rack does not answer").waitFor({ timeout: 20_000 });
  await page.getByText("rack-unreachable").waitFor();
  await page.unroute("**/api/v1/rack/instances");
  await page.getByRole("button", { name: "Try again" }).click();
  await page.getByRole("table", { name: "Instances" }).waitFor();
  // Slow: there is a skeleton, and no blank page.
  await page.route("**/api/v1/users?**", async (r) => { await new Promise((d) => setTimeout(d, 1200)); await r.continue(); });
  await page.goto(plan.console + "/console/users");
  await page.getByRole("status", { name: "Loading" }).first().waitFor();
  await page.unroute("**/api/v1/users?**");
});

scenario("signing out ends the session, here and in other tabs", async ({ context, page }) => {
  await signIn(page, "vic", "/console/account");
  const tab = await context.newPage();
  await tab.goto(plan.console + "/console/apps");
  await settle(tab);
  await page.getByRole("button", { name: "Sign out" }).first().click();
  await page.getByText("You are signed out").waitFor();
  await tab.getByRole("button", { name: "Load again" }).click();
  await tab.getByRole("alertdialog").waitFor();
}, true);

// The last one: from then on everybody needs a factor.
scenario("a new admin adds a passkey, keeps the backup codes, is led on, and confirms what cannot be undone", async ({ context, page }) => {
  const keys = await context.newCDPSession(page);
  await keys.send("WebAuthn.enable");
  await keys.send("WebAuthn.addVirtualAuthenticator", { options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true } });
  const other = await newContext(context.browser());
  const ana = await other.newPage();
  await signIn(ana, "ana");
  const required = async (value) => {
    const csrf = (await api(ana, "/me")).body.csrf_token;
    const answer = await api(ana, "/settings/mfa_required", { method: "PUT", headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf }, body: JSON.stringify({ value }) });
    must(answer.status === 200, JSON.stringify(answer.body));
  };
  await required(true);
  try {
    await signIn(page, "first", "/console/users");
    await page.getByRole("heading", { name: "Add a second factor" }).waitFor();
    must(!(await page.textContent("body")).includes("ana@example.com"), "the page is there before the factor");
    await accessible(page, "enrolment");
    await page.getByRole("button", { name: /^Passkey/ }).click();
    await page.getByLabel("What do you call it?").fill("My <b>laptop</b>");
    await page.getByRole("button", { name: "Go on" }).click();
    await page.getByRole("button", { name: "Make the passkey" }).click();
    await page.getByText("These are shown once").waitFor();
    must((await page.getByLabel("Backup codes", { exact: true }).textContent()).trim().split("\n").length === 10, "there are not ten codes");
    await page.getByRole("button", { name: "I have kept them" }).click();
    await page.getByRole("heading", { name: "People" }).waitFor();
    await open(page, "/welcome");
    await page.getByText("Add a second factor, done").waitFor();
    // What cannot be undone asks again, for this very deed.
    const csrf = (await api(page, "/me")).body.csrf_token;
    const added = await api(page, "/users", { method: "POST", headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf }, body: JSON.stringify({ email: "short@example.com" }) });
    must(added.status === 201, JSON.stringify(added.body));
    await open(page, `/users/${added.body.id}`);
    await page.getByRole("button", { name: "More to do" }).click();
    await page.getByRole("menuitem", { name: /Remove/ }).click();
    await page.getByLabel("Type short@example.com to go on").fill("short@example.com");
    await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
    const asked = page.getByRole("dialog", { name: "Confirm that it is you" });
    await asked.waitFor();
    await accessible(page, "step-up");
    await asked.getByRole("button", { name: "Use a passkey" }).click();
    await page.waitForURL("**/console/users");
    must((await api(page, `/users/${added.body.id}`)).body.removed_at, "nobody was removed");
    // Signed in anew, it is asked for before anything is shown.
    await context.clearCookies();
    await page.goto(plan.console + "/console/account");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.locator('button[value="first"]').click();
    await page.getByRole("heading", { name: "Confirm that it is you" }).waitFor();
    await page.getByRole("button", { name: "Use a passkey" }).click();
    await page.getByRole("heading", { name: "Second factors" }).waitFor();
    await page.getByText("My <b>laptop</b>").waitFor();
    await accessible(page, "/account with a factor");
    // A factor that was given a moment ago does not do for switching factors off.
    const again = (await api(page, "/me")).body.csrf_token;
    const off = await api(page, "/settings/mfa_required", { method: "PUT", headers: { "Content-Type": "application/json", "X-CSRF-Token": again }, body: JSON.stringify({ value: false }) });
    must(off.status !== 200 && off.body.step_up, `factors were switched off without one: ${off.status} ${JSON.stringify(off.body)}`);
  } finally {
    await other.close();
  }
}, true);

let failed = 0;
for (const s of scenarios) {
  if (plan.only ? !new RegExp(plan.only).test(s.name) : plan.quick && !s.quick) continue;
  const began = performance.now();
  const context = await newContext(browser);
  context.setDefaultTimeout(12_000);
  const page = await context.newPage();
  const found = [];
  watch(page, found);
  let error = "";
  try {
    await s.run({ context, page, found });
  } catch (e) {
    error = `${e.message}\n${(e.stack ?? "").split("\n").filter((l) => l.includes("scenarios.mjs")).slice(0, 3).join("\n")}\nat ${page.url()}`;
    if (process.env.KEEP) await page.screenshot({ path: `${process.env.KEEP}/${s.name.replace(/\W+/g, "-").slice(0, 60)}.png` }).catch(() => undefined);
  }
  wire.broken = false;
  const complaints = [...new Set(found)];
  if (complaints.length > 0) error += "\n" + complaints.join("\n");
  if (error) failed++;
  tell(s.name, (performance.now() - began) / 1000, error);
  await context.close();
}
await browser.close();
process.exit(failed > 0 ? 1 : 0);
