// What scenarios and photographs share: a browser, people who sign in with it, and what no page may ever do.
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const plan = JSON.parse(process.env.PLAN ?? "{}");

/** wire is what lies between the browser and admin, so that it can be cut. */
export const wire = {
  port: 0,
  broken: false,
  open: new Set(),
  cut() {
    for (const socket of this.open) socket.destroy();
  },
};

async function layWire() {
  const to = Number(new URL(plan.console).port);
  const server = createServer((socket) => {
    if (wire.broken) return socket.destroy();
    const other = connect(to, "localhost");
    for (const s of [socket, other]) {
      wire.open.add(s);
      s.on("error", () => undefined);
      s.on("close", () => {
        wire.open.delete(s);
        socket.destroy();
        other.destroy();
      });
    }
    socket.pipe(other).pipe(socket);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  server.unref();
  wire.port = server.address().port;
}

export async function launch() {
  await layWire();
  return chromium.launch({ executablePath: plan.chromium, args: [`--host-resolver-rules=MAP localhost 127.0.0.1:${wire.port}`, "--no-sandbox", "--disable-gpu", "--font-render-hinting=none", ...(process.env.DIST ? ["--disable-features=LocalNetworkAccessChecks"] : [])] });
}

/** watch notes what no page may do: complain on its console, break its policy, or ask another host. */
export function watch(page, found) {
  page.on("console", (m) => {
    if (m.type() !== "error" && m.type() !== "warning") return;
    const text = m.text();
    // The browser itself notes answers that are no success; whether they were meant is for the scenario to say.
    if (/^Failed to load resource/.test(text)) return;
    found.push(`console ${m.type()} at ${page.url()}: ${text}`);
  });
  page.on("pageerror", (e) => found.push(`error at ${page.url()}: ${e.message}`));
  page.on("request", (r) => {
    const url = new URL(r.url());
    if (url.protocol === "data:" || url.protocol === "blob:") return;
    const own = new URL(plan.console).host;
    if (url.host !== own && url.pathname.startsWith("/console")) found.push(`another host is asked: ${r.url()}`);
    if (page.url().startsWith(plan.console + "/console") && url.host !== own && r.resourceType() !== "document") found.push(`another host is asked: ${r.url()}`);
  });
}

/** context is a browser of somebody's own. */
export async function newContext(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: "en-GB", timezoneId: "UTC", permissions: ["clipboard-read", "clipboard-write"], ...options });
  // While one works on it: a build from the disk in place of the one in admin, with what admin says beside it.
  const dist = process.env.DIST;
  if (dist) {
    await context.route((url) => url.pathname.startsWith("/console/"), async (route) => {
      const answer = await route.fetch({ url: plan.console + "/console/" });
      const headers = { "content-security-policy": answer.headers()["content-security-policy"] };
      const name = new URL(route.request().url()).pathname.slice("/console/".length);
      const path = join(dist, name.startsWith("assets/") ? name : "index.html");
      await (existsSync(path) ? route.fulfill({ path, headers }) : route.fulfill({ status: 404 }));
    });
  }
  return context;
}

/** signIn goes in as one of the people whom the provider knows, to a page of the console. */
export async function signIn(page, who, to = "/console/") {
  await page.goto(plan.console + to);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.locator(`button[value="${who}"]`).click();
  await page.waitForURL((url) => url.href.startsWith(plan.console + "/console"));
  // What a redirect leads to is not taken from the disk.
  if (process.env.DIST) await page.goto(plan.console + to);
  await page.locator("[data-title]").waitFor();
}

/** settle waits until nothing is loading any more. */
export async function settle(page) {
  await page.locator("[data-title], main h1").first().waitFor();
  await page.waitForFunction(() => ![...document.querySelectorAll('[role=status][aria-label="Loading"]')].some((e) => !e.closest("[data-sample]")), undefined, { timeout: 15_000 });
  await page.evaluate(() => document.fonts.ready.then(() => true));
  await page.waitForTimeout(120);
}

/** tell prints the outcome of a scenario, for the test that started this. */
export function tell(name, seconds, error, note) {
  process.stdout.write(JSON.stringify({ name, seconds, ...(error ? { error } : {}), ...(note ? { note } : {}) }) + "\n");
}

/** must ends a scenario that is not as it should be. */
export function must(ok, what) {
  if (!ok) throw new Error(what);
}

/** accessible holds the page that is shown to WCAG 2.2 AA, as far as a machine can tell. */
export async function accessible(page, where) {
  // Run by the debugger, which no page's policy binds.
  await page.evaluate(axe);
  // Colours are judged once they are what they will be.
  await page.evaluate(() => Promise.all(document.getAnimations().filter((a) => a.effect?.getComputedTiming().iterations !== Infinity).map((a) => a.finished.catch(() => undefined))));
  const result = await page.evaluate(() => window.axe.run({ exclude: [["[role=tooltip]"]] }, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  must(
    result.violations.length === 0,
    result.violations.map((v) => `${where}: ${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.target.join(" ") + " " + (n.any[0]?.message ?? n.all[0]?.message ?? "")).join("; ")}`).join("\n"),
  );
}

/** within holds a page to the window's width. */
export async function within(page, where) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  must(over <= 0, `${where} is ${over} px wider than the window`);
}
