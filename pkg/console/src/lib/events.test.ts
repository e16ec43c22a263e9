import { expect, it } from "vitest";
import { bytes, changes, outcome, unknownOutcome } from "./events";

it("an outcome is what became of it, not what was decided", () => {
  expect(outcome({ phase: "finished", decision: "allow", status: 200 })).toEqual({ meaning: "ok", text: "done" });
  expect(outcome({ phase: "finished", decision: "allow", status: 502 }).meaning).toBe("bad");
  expect(outcome({ phase: "finished", decision: "allow", status: 404 }).meaning).toBe("warn");
  expect(outcome({ phase: "refused", decision: "deny", status: 403 }).text).toBe("refused");
  expect(outcome({ phase: "refused", decision: "challenge", status: 401 })).toEqual({ meaning: "warn", text: "challenged" });
});

it("what began and never ended is unknown, once it has had its time", () => {
  const begun = { phase: "started", occurred_at: "2026-11-23T18:00:00Z" } as never;
  const ended = { phase: "finished", occurred_at: "2026-11-23T18:00:01Z" } as never;
  expect(unknownOutcome([begun], new Date("2026-11-23T18:01:00Z"))).toBe(false);
  expect(unknownOutcome([begun], new Date("2026-11-23T18:10:00Z"))).toBe(true);
  expect(unknownOutcome([begun, ended], new Date("2026-11-23T18:10:00Z"))).toBe(false);
});

it("what was before and what is after are found by their names", () => {
  expect(changes({ params: { old: "false", new: "true", key: "allow_destructive" } })).toEqual({ changes: [{ name: "value", before: "false", after: "true" }], rest: [["key", "allow_destructive"]] });
  expect(changes({ params: { roles_old: "viewer", roles_new: "admin" } }).changes).toEqual([{ name: "roles", before: "viewer", after: "admin" }]);
  expect(changes({ params: { limit: 5 } })).toEqual({ changes: [], rest: [["limit", "5"]] });
  expect(changes({})).toEqual({ changes: [], rest: [] });
});

it("bytes have two figures", () => expect([999, 1500, 25_000_000, 2.5e9].map(bytes)).toEqual(["999 B", "1.5 kB", "25 MB", "2.5 GB"]));
