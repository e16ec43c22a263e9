// The scenarios of the API, driven by the types that another generator than the server's has made. It takes the API's
// address and an admin's token from the environment, and fails when anything is not as it should be.
import assert from "node:assert/strict";
import { Client, ProblemError } from "./client.js";

const base = process.env["API_URL"] ?? "";
const admin = new Client(base, process.env["API_TOKEN"] ?? "");

async function refused(code: string, asked: Promise<unknown>): Promise<void> {
  await assert.rejects(asked, (error) => error instanceof ProblemError && error.problem.code === code && error.problem.detail !== "");
}

// Who am I.
const me = await admin.call("get", "/me");
assert.equal(me.kind, "cli");
assert.ok(me.permissions.includes("gateway:user:manage"));

// What the document does not know, the compiler does not either.
// @ts-expect-error there is no such path
const noPath = () => admin.call("get", "/nosuch");
// @ts-expect-error users are not patched
const noMethod = () => admin.call("delete", "/users");
// @ts-expect-error a person needs an address
const noAddress = () => admin.call("post", "/users", { body: { name: "Tess" } });
// @ts-expect-error there is no such state
const noState = async () => (await admin.call("get", "/tokens")).items[0]?.state === "lost";
void [noPath, noMethod, noAddress, noState];

// A person is added once, however often it is asked under one key; locked, and unlocked.
const body = { email: "tess@example.com", name: "Tess", bindings: [{ role: "deployer", app: "web-*" }] };
const tess = await admin.call("post", "/users", { body, key: "add-tess-once" });
assert.deepEqual(await admin.call("post", "/users", { body, key: "add-tess-once" }), tess);
await refused("key-reused", admin.call("post", "/users", { body: { email: "other@example.com" }, key: "add-tess-once" }));
await refused("user-exists", admin.call("post", "/users", { body }));
const path = { userId: tess.id };
const locked = await admin.call("post", "/users/{userId}/lock", { path, body: { reason: "left" } });
assert.equal(locked.locked_reason, "left");
await admin.call("post", "/users/{userId}/unlock", { path });
const bound = await admin.call("put", "/users/{userId}/bindings", { path, body: { bindings: [{ role: "viewer", app: "*" }] } });
assert.deepEqual(bound.bindings, [{ role: "viewer", app: "*" }]);

// Lists are paged.
const emails: string[] = [];
for (let cursor: string | undefined; ; ) {
  const page = await admin.call("get", "/users", { query: cursor === undefined ? { limit: 1 } : { limit: 1, cursor } });
  emails.push(...page.items.map((user) => user.email));
  cursor = page.next;
  if (cursor === undefined) break;
}
assert.ok(emails.includes("tess@example.com"));
assert.deepEqual(emails, [...emails].sort());

// A token is made, used, rotated and revoked.
const made = await admin.call("post", "/tokens", { body: { name: "ts", permissions: ["gateway:user:read"], expires_in_days: 1 } });
const robot = new Client(base, made.secret);
assert.equal((await robot.call("get", "/me")).label, "ts");
await refused("no-permission", robot.call("get", "/roles"));
await refused("person-only", robot.call("get", "/me/devices"));
const rotated = await admin.call("post", "/tokens/{tokenId}/rotate", { path: { tokenId: made.token.id }, body: { keep_old_hours: 1 } });
assert.equal((await new Client(base, rotated.secret).call("get", "/me")).label, "ts");
await admin.call("delete", "/tokens/{tokenId}", { path: { tokenId: made.token.id } });
assert.equal((await admin.call("get", "/tokens/{tokenId}", { path: { tokenId: made.token.id } })).state, "revoked");

// Roles, settings, the record.
await admin.call("post", "/roles", { body: { name: "reader", permissions: ["convox:app:list"] } });
await admin.call("delete", "/roles/{roleName}", { path: { roleName: "reader" } });
const setting = await admin.call("put", "/settings/{settingKey}", { path: { settingKey: "allow_destructive" }, body: { value: true } });
assert.equal(setting.source, "database");
assert.equal((await admin.call("delete", "/settings/{settingKey}", { path: { settingKey: "allow_destructive" } })).source, "default");
const history = await admin.call("get", "/settings/{settingKey}/history", { path: { settingKey: "allow_destructive" } });
assert.deepEqual(history.items.map((event) => event.action), ["setting.unset", "setting.set"]);
const events = await admin.call("get", "/audit/events", { query: { action: "user.lock", since: new Date(Date.now() - 3_600_000).toISOString() } });
assert.equal(events.items[0]?.resource, "tess@example.com");
await admin.call("delete", "/users/{userId}", { path });
console.log("all scenarios passed");
