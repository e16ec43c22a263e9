// What people do on the page that a command line opens for a second factor, in a real browser with an authenticator of
// its own. The page is admin's, and rendered there; the command is one of the stock CLI, or requests as it makes them.
import { spawn } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { mkdirSync, mkdtempSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect } from "node:tls";
import { chromium } from "playwright-core";
import { accessible, must, plan, tell, watch, within } from "./browser.mjs";

const admin = plan.console;
const sizes = { desktop: { width: 1280, height: 900 }, phone: { width: 360, height: 740 } };
if (plan.out) mkdirSync(plan.out, { recursive: true });

// The browser is told of the server's very key: what it takes for an error of the certificate, it keeps passkeys away from.
const key = await new Promise((done, fail) => {
  const socket = connect({ port: Number(new URL(admin).port), host: "localhost", servername: "localhost" }, () => {
    const der = new X509Certificate(socket.getPeerCertificate().raw).publicKey.export({ type: "spki", format: "der" });
    socket.destroy();
    done(createHash("sha256").update(der).digest("base64"));
  });
  socket.on("error", fail);
});
const browser = await chromium.launch({ executablePath: plan.chromium, args: [`--ignore-certificate-errors-spki-list=${key}`, "--no-sandbox", "--disable-gpu", "--font-render-hinting=none"] });

/** ask makes a request as the stock CLI does, which takes the gateway for its console. */
async function ask(who, session, method, path, form) {
  const headers = { Authorization: "Basic " + Buffer.from("convox:" + plan.tokens[who]).toString("base64") };
  if (session !== undefined) headers.Session = session;
  if (form !== undefined) headers["Content-Type"] = "application/x-www-form-urlencoded";
  const answer = await fetch(plan.gateway + path, { method, headers, body: form });
  return { status: answer.status, body: await answer.text(), challenge: answer.headers.get("www-authenticate") };
}

/** command begins what takes a factor: it waits for the browser at an address of this machine, as the stock CLI does. */
async function command(who, method, path, form) {
  const asked = await ask(who, "", method, path, form);
  const at = /^Session path="([^"]+)" token="(true|false)"$/.exec(asked.challenge ?? "");
  must(asked.status === 401 && at, `${path} is answered with ${asked.status} ${asked.body} ${asked.challenge}`);
  const finish = async (code) => {
    const given = await fetch(plan.gateway + at[1], { method: "POST", headers: { Authorization: "Basic " + Buffer.from("convox:" + plan.tokens[who]).toString("base64"), Session: "" }, body: code });
    if (!given.ok) return { status: given.status, body: await given.text() };
    return ask(who, (await given.json()).id, method, path, form);
  };
  const id = at[1].slice("/session/".length);
  if (at[2] === "false") return { id, done: finish(undefined) };
  const challenge = await ask(who, "", "GET", at[1]);
  let came;
  const brought = new Promise((done) => (came = done));
  const waits = createServer((r, w) => {
    const data = new URL(r.url, "http://localhost").searchParams.get("data");
    w.end("you may now close the window");
    if (data) came(Buffer.from(data, "base64"));
  });
  await new Promise((done) => waits.listen(0, done));
  const callback = `http://localhost:${waits.address().port}`;
  const link = `${plan.gateway}/login/u2f?${new URLSearchParams({ callback_url: callback, token: Buffer.from(challenge.body).toString("base64") })}`;
  const done = brought.then(async (code) => {
    waits.close();
    return finish(code);
  });
  return { id, link, callback, done, close: () => waits.close() };
}

/** convox runs the stock CLI, and tells the link that it shows. */
function convox(who, ...args) {
  const home = mkdtempSync(join(tmpdir(), "convox-"));
  const child = spawn(plan.convox, args, { env: { PATH: "/usr/bin:/bin", HOME: home, CONVOX_CONFIG: home, CONVOX_HOST: new URL(plan.gateway).host, CONVOX_PASSWORD: plan.tokens[who], CONVOX_RACK: plan.rack }, stdio: ["ignore", "pipe", "pipe"] });
  let out = "";
  let errs = "";
  let shown;
  const link = new Promise((done) => (shown = done));
  child.stdout.on("data", (text) => {
    out += text;
    const found = /https:\/\/localhost:\d+\/login\/u2f\?\S+(?=\s)/.exec(out);
    if (found) shown(found[0]);
  });
  child.stderr.on("data", (text) => (errs += text));
  const done = new Promise((end) => child.on("close", (code) => {
    shown("");
    end({ code, out, errs });
  }));
  return { link, done };
}

/** code is what somebody's app shows, or showed so many steps ago; each counts once, and none before one that was used. */
const code = async (who, steps = 0) => (await fetch(`${plan.control}/code/${who}?steps=${steps}`)).text();

async function authenticator(context, page, options = {}) {
  const keys = await context.newCDPSession(page);
  await keys.send("WebAuthn.enable");
  const { authenticatorId } = await keys.send("WebAuthn.addVirtualAuthenticator", { options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true, ...options } });
  return { keys, authenticatorId };
}

/** signIn goes through the provider, when the page led there. */
async function signIn(page, who) {
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.locator(`button[value="${who}"]`).click();
  await page.waitForURL((url) => url.href.startsWith(admin + "/login/u2f"));
}

const heading = (page, name) => page.getByRole("heading", { name, exact: true }).waitFor();

/** look holds what is shown to what every page has to be, light and dark, large and small, and photographs it. */
async function look(page, name) {
  for (const [size, viewport] of Object.entries(sizes)) {
    await page.setViewportSize(viewport);
    for (const scheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
      await within(page, `${name}, ${size}`);
      await accessible(page, `${name}, ${size}, ${scheme}`);
      if (plan.out) await page.screenshot({ path: join(plan.out, `step-up-${name}-${size}-${scheme}.png`), fullPage: true });
    }
  }
  await page.setViewportSize(sizes.desktop);
  await page.emulateMedia({ colorScheme: null, reducedMotion: null });
}

const scenarios = [];
const scenario = (name, run) => scenarios.push({ name, run });
const restart = ["POST", "/apps/demo/services/web/restart", ""];

// Later scenarios use the passkey that this one makes.
let kept = [];

scenario("whoever has no factor adds a passkey, keeps the codes, and approves the very command that led there", async ({ context, page }) => {
  const { keys, authenticatorId } = await authenticator(context, page);
  const run = await command("nina", ...restart);
  await page.goto(run.link);
  must(page.url().startsWith(admin + "/login/"), `the gateway leads to ${page.url()}`);
  await signIn(page, "nina");
  await heading(page, "Add a second factor");
  must(!(await page.textContent("main")).includes("undefined"), "the page shows what it does not know");
  await look(page, "enrol");
  await page.getByRole("button", { name: /^passkey/i }).click();
  await heading(page, "Add a passkey");
  await page.getByRole("button", { name: "Go on" }).click();
  await heading(page, "Added");
  must((await page.locator(".codes li").count()) === 10, "there are not ten codes");
  await look(page, "backup-codes");
  await page.getByRole("link", { name: "Go on" }).click();
  await heading(page, "Is this you?");
  const text = await page.textContent("main");
  must(/restart/.test(text) && /nina's laptop/.test(text) && /(127\.0\.0\.1|::1)/.test(text) && /new today/.test(text), text);
  await look(page, "asked");
  await page.getByRole("button", { name: "Use a passkey or security key" }).click();
  await page.waitForURL(run.callback + "/**");
  must((await page.textContent("body")).includes("close the window"), "the command line was not reached");
  const got = await run.done;
  must(got.status === 200, `${got.status} ${got.body}`);
  kept = (await keys.send("WebAuthn.getCredentials", { authenticatorId })).credentials;
  must(kept.length === 1, `${kept.length} passkeys were made`);
});

scenario("the stock CLI's promote goes on once the passkey was given", async ({ context, page }) => {
  if (!plan.convox) return;
  const { keys, authenticatorId } = await authenticator(context, page);
  for (const credential of kept) await keys.send("WebAuthn.addCredential", { authenticatorId, credential });
  const release = JSON.parse((await ask("admin", undefined, "GET", "/apps/demo/releases")).body)[0].id;
  const run = convox("nina", "releases", "promote", release, "-a", "demo");
  await page.goto(await run.link);
  await signIn(page, "nina");
  await heading(page, "Is this you?");
  must((await page.textContent(".operation")).includes(`promote release ${release} of demo`), await page.textContent(".operation"));
  await page.getByRole("button", { name: "Use a passkey or security key" }).click();
  const got = await run.done;
  must(got.code === 0 && got.out.startsWith(`Promoting ${release}... `) && got.out.trimEnd().endsWith("OK") && got.errs === "", JSON.stringify(got));
  kept = (await keys.send("WebAuthn.getCredentials", { authenticatorId })).credentials;
});

scenario("a passkey that does not answer, or is not the person's, says so, and can be tried again", async ({ context, page }) => {
  const { keys, authenticatorId } = await authenticator(context, page, { isUserVerified: false });
  const run = await command("nina", ...restart);
  await page.goto(run.link);
  await signIn(page, "nina");
  await heading(page, "Is this you?");
  const use = page.getByRole("button", { name: "Use a passkey or security key" });
  await use.click();
  await page.getByRole("alert").getByText("was not given what it asked for").waitFor({ timeout: 90_000 });
  await look(page, "no-passkey");
  for (const credential of kept) await keys.send("WebAuthn.addCredential", { authenticatorId, credential });
  await keys.send("WebAuthn.setUserVerified", { authenticatorId, isUserVerified: true });
  await use.click();
  await page.waitForURL(run.callback + "/**");
  must((await run.done).status === 200, "it did not go on");
  kept = (await keys.send("WebAuthn.getCredentials", { authenticatorId })).credentials; // their counters go on
});

scenario("a wrong code says so and asks again; the right one goes on; used again it does not", async ({ page }) => {
  const run = await command("deployer", ...restart);
  await page.goto(run.link);
  await signIn(page, "deployer");
  await heading(page, "Is this you?");
  must((await page.getByRole("button", { name: /passkey/ }).count()) === 0, "a passkey is offered to who has none");
  await look(page, "asked-for-a-code");
  const field = page.getByLabel(/^Code of your authenticator app/);
  await field.fill("000000");
  await page.getByRole("button", { name: "Approve" }).click();
  await page.getByRole("alert").getByText(/code is wrong/).waitFor();
  await heading(page, "Is this you?");
  await look(page, "wrong-code");
  const right = await code("deployer");
  await field.fill(right);
  await field.press("Enter");
  await page.waitForURL(run.callback + "/**");
  must((await run.done).status === 200, "it did not go on");
  const again = await command("deployer", ...restart);
  await page.goto(again.link);
  await field.fill(right);
  await field.press("Enter");
  await page.getByRole("alert").getByText(/used already/).waitFor();
  await page.getByRole("button", { name: "It was not me: refuse" }).click();
  must((await again.done).status === 403, "it was not refused");
});

scenario("what was not asked for by the person is refused, and the command ends with that", async ({ page }) => {
  const run = await command("ops", ...restart);
  await page.goto(run.link);
  await signIn(page, "ops");
  await page.getByRole("button", { name: "It was not me: refuse" }).click();
  await page.waitForURL(run.callback + "/**");
  const got = await run.done;
  must(got.status === 403 && got.body.includes("it was refused in the browser"), `${got.status} ${got.body}`);
  await page.goto(run.link);
  await heading(page, "Refused");
  await look(page, "refused");
});

scenario("a challenge that nobody answered is too late, on the page and while it is open", async ({ page }) => {
  const run = await command("ops", ...restart);
  await page.goto(run.link);
  await signIn(page, "ops");
  await heading(page, "Is this you?");
  must((await fetch(`${plan.control}/expire/${run.id}`, { method: "POST" })).ok, "it was not expired");
  await page.getByLabel(/^Code of your authenticator app/).fill(await code("ops"));
  await page.getByRole("button", { name: "Approve" }).click();
  await heading(page, "That did not work");
  await page.getByRole("alert").getByText(/run it again/).waitFor();
  await look(page, "failed");
  await page.goto(run.link);
  await heading(page, "Too late");
  run.close();
});

scenario("where the terminal shows two words, the page asks for them", async ({ page }) => {
  const told = JSON.parse((await ask("secrets", undefined, ...restart)).body).error;
  const [, link, words] = /open (\S+) , type the words "([a-z ]+)"/.exec(told);
  await page.goto(link);
  await signIn(page, "secrets");
  await heading(page, "Is this you?");
  const type = page.getByLabel("The two words that your terminal shows");
  const given = page.getByLabel(/^Code of your authenticator app/);
  await given.fill("123456");
  await page.getByRole("button", { name: "Approve" }).click();
  must(page.url().includes("/login/u2f?"), "it was sent without the words");
  await look(page, "words");
  await type.fill("some others");
  await page.getByRole("button", { name: "Approve" }).click();
  await page.getByRole("alert").getByText(/not the two words/).waitFor();
  await type.fill(words.toUpperCase());
  await given.fill(await code("secrets"));
  await page.getByRole("button", { name: "Approve" }).click();
  await heading(page, "Approved");
  await look(page, "approved");
  const got = await ask("secrets", undefined, ...restart);
  must(got.status === 200, `${got.status} ${got.body}`);
});

scenario("a console is told of a command that waits elsewhere; a new address has to be known", async ({ page }) => {
  await page.goto(admin + "/console/apps");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.locator('button[value="admin"]').click();
  await heading(page, "Confirm that it is you");
  await page.getByLabel("The six digits that your app shows").fill(await code("admin", -1));
  await page.getByRole("button", { name: "Confirm" }).click();
  await heading(page, "Apps");
  await page.getByText("live", { exact: false }).first().waitFor();
  const held = await command("server", ...restart);
  await page.getByText("A command waits for you").waitFor();
  await within(page, "the console while a command waits");
  await accessible(page, "the console while a command waits");
  if (plan.out) await page.screenshot({ path: join(plan.out, "step-up-console-desktop-light.png") });
  must((await fetch(`${plan.control}/move/${held.id}`, { method: "POST" })).ok, "its address was not changed");
  await page.getByRole("link", { name: "Answer restart web of demo" }).click();
  await heading(page, "Is this you?");
  await look(page, "new-address");
  await page.getByLabel(/^Code of your authenticator app/).fill(await code("admin"));
  await page.getByRole("button", { name: "Approve" }).click();
  must((await page.evaluate(() => document.querySelector("input[name=address]").validity.valueMissing)) && page.url().includes("/login/u2f?"), "it was sent without a word about the address");
  await page.getByLabel(/I know the address 203\.0\.113\.9/).check();
  await page.getByRole("button", { name: "Approve" }).click();
  await heading(page, "Approved");
  must((await held.done).status === 200, "the device did not go on");
});

scenario("another site can neither send the page's forms nor show it, and the page leads nowhere else", async ({ context, page }) => {
  const mine = await command("ops", ...restart);
  await page.goto(mine.link);
  await signIn(page, "ops");
  await heading(page, "Is this you?");
  const body = (csrf) => new URLSearchParams({ csrf, id: mine.id, callback_url: mine.callback }).toString();
  const status = await page.evaluate(async (text) => (await fetch("/login/u2f/refuse", { method: "POST", headers: { "Content-Type": "application/x-www-form-urlencoded" }, body: text })).status, body("made up"));
  must(status === 403, `a form without the page's own token: ${status}`);

  const evil = createServer((r, w) => {
    w.setHeader("Content-Type", "text/html");
    if (r.url === "/frame") return w.end(`<iframe src="${mine.link.replace(plan.gateway, admin)}"></iframe>`);
    w.end(`<form method="post" action="${admin}/login/u2f/refuse">${[...new URLSearchParams(body("x"))].map(([n, v]) => `<input name="${n}" value="${v}">`).join("")}</form><script>document.forms[0].submit()</script>`);
  });
  await new Promise((done) => evil.listen(0, "127.0.0.1", done));
  const other = await context.newPage();
  const at = `http://127.0.0.1:${evil.address().port}`;
  const refused = other.waitForResponse((r) => r.url() === `${admin}/login/u2f/refuse`);
  await other.goto(at + "/form").catch(() => undefined);
  must([401, 403].includes((await refused).status()), `another site's form: ${(await refused).status()}`);
  await other.goto(at + "/frame");
  await other.waitForLoadState();
  must(!(await Promise.all(other.frames().slice(1).map((f) => f.content().catch(() => "")))).join("").includes("Is this you"), "the page lets itself be framed");
  await other.close();
  evil.close();
  for (const callback of ["https://evil.example.com", "http://localhost.evil.example.com:9", "http://localhost:80@evil.example.com", "http://[::1]:9", "javascript:alert(1)"]) {
    await page.goto(`${admin}/login/u2f?${new URLSearchParams({ token: mine.id, callback_url: callback })}`);
    await page.getByRole("alert").getByText(/somewhere else than to the command line/).waitFor();
  }
  await page.goto(mine.link); // it is as it was
  await page.getByRole("button", { name: "It was not me: refuse" }).click();
  must((await mine.done).status === 403, "it was not refused");
});

scenario("an authenticator app is added by its QR code, in a window of one's own", async ({ context, page }) => {
  const { keys, authenticatorId } = await authenticator(context, page);
  for (const credential of kept) await keys.send("WebAuthn.addCredential", { authenticatorId, credential });
  await page.goto(admin + "/login/u2f");
  await signIn(page, "nina");
  await heading(page, "Finish signing in");
  await look(page, "finish-signing-in");
  await page.getByRole("button", { name: "Go on" }).click();
  await page.getByLabel(/Do not ask at sign-in in this browser/).check();
  await page.getByRole("button", { name: "Use a passkey or security key" }).click();
  await heading(page, "Thank you");
  await page.goto(admin + "/login/u2f");
  await heading(page, "Your second factors");
  await look(page, "factors");
  await page.getByRole("button", { name: /^authenticator app/i }).click();
  await heading(page, "Add an authenticator app");
  must(await page.getByAltText("QR code of the secret").evaluate((image) => image.naturalWidth >= 200), "the QR code does not show");
  await look(page, "authenticator-app");
  await page.getByLabel("Code", { exact: true }).fill("000000");
  await page.getByRole("button", { name: "Add it" }).click();
  await page.getByRole("alert").getByText(/not the code which the app shows/).waitFor();
  // The browser is trusted now: signed in anew, it is asked nothing.
  const cookies = (await context.cookies()).filter((c) => c.name === "__Host-rgw-device");
  must(cookies.length === 1 && cookies[0].httpOnly && cookies[0].secure, "the browser is not trusted");
  await context.clearCookies();
  await context.addCookies(cookies);
  await page.goto(admin + "/login/u2f");
  await signIn(page, "nina");
  await heading(page, "Your second factors");
});

let failed = 0;
for (const s of scenarios) {
  if (plan.only && !new RegExp(plan.only).test(s.name)) continue;
  const began = performance.now();
  const context = await browser.newContext({ viewport: sizes.desktop, locale: "en-GB", timezoneId: "UTC" });
  context.setDefaultTimeout(30_000);
  const page = await context.newPage();
  const found = [];
  watch(page, found);
  let error = "";
  try {
    await s.run({ context, page, found });
  } catch (e) {
    error = `${e.message}\n${(e.stack ?? "").split("\n").filter((l) => l.includes("page.mjs")).slice(0, 3).join("\n")}\nat ${page.url()}\n${await page.locator("main").textContent({ timeout: 1000 }).catch(() => "")}`;
  }
  const complaints = [...new Set(found)];
  if (complaints.length > 0) error += "\n" + complaints.join("\n");
  if (error) failed++;
  tell(s.name, (performance.now() - began) / 1000, error);
  await context.close();
}
await browser.close();
process.exit(failed > 0 ? 1 : 0);
