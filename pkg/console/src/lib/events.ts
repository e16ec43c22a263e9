// What an event of the record says, in words and colours.
import type { Schemas } from "@/api/client";
import type { Meaning } from "@/ui/display";

type AuditEvent = Schemas["Event"];

/** What the detail of an event may hold, as far as the console reads it. */
export interface Detail {
  method?: string;
  path?: string;
  op?: string;
  permission?: string;
  rule?: string;
  code?: string;
  error?: string;
  mfa?: string;
  mfa_level?: string;
  auth?: string;
  client?: string;
  token?: string;
  token_name?: string;
  owner?: string;
  user_agent?: string;
  duration_us?: number;
  bytes_in?: number;
  bytes_out?: number;
  exit_code?: number;
  count?: number;
  params?: Record<string, unknown>;
  env_keys?: { added?: string[] | null; changed?: string[] | null; removed?: string[] | null };
  truncated?: string[];
  [more: string]: unknown;
}

export function detailOf(e: AuditEvent): Detail {
  return e.detail as Detail;
}

export interface Outcome {
  meaning: Meaning;
  text: string;
}

/** outcome is what became of it, in a word. */
export function outcome(e: Pick<AuditEvent, "phase" | "decision" | "status">): Outcome {
  if (e.phase === "refused") return { meaning: e.decision === "challenge" || e.decision === "wait" ? "warn" : "bad", text: e.decision === "challenge" ? "challenged" : e.decision === "wait" ? "waits" : "refused" };
  if (e.phase === "cut") return { meaning: "warn", text: "cut off" };
  if (e.phase === "started") return { meaning: "info", text: "started" };
  if (e.status >= 500) return { meaning: "bad", text: "failed" };
  if (e.status >= 400) return { meaning: "warn", text: `answer ${e.status}` };
  return { meaning: "ok", text: "done" };
}

/** of joins the events of one request: how it began, and how it ended. */
export function endOf(events: readonly AuditEvent[]): AuditEvent | undefined {
  return events.find((e) => e.phase === "finished") ?? events.find((e) => e.phase === "refused") ?? events.find((e) => e.phase === "cut") ?? events[0];
}

/** unknownOutcome tells a request that was begun and of whose end nothing is known, though it is over. */
export function unknownOutcome(events: readonly AuditEvent[], now: Date): boolean {
  const begun = events.find((e) => e.phase === "started");
  return begun !== undefined && !events.some((e) => e.phase !== "started") && now.getTime() - new Date(begun.occurred_at).getTime() > 5 * 60_000;
}

export interface Change {
  name: string;
  before: string | undefined;
  after: string | undefined;
}

/** changes finds, among the parameters of an event, what was before and what is after. */
export function changes(detail: Detail): { changes: Change[]; rest: [string, string][] } {
  const params = Object.entries(detail.params ?? {}).map(([k, v]): [string, string] => [k, typeof v === "string" ? v : JSON.stringify(v)]);
  const found = new Map<string, Change>();
  const rest: [string, string][] = [];
  const all = new Map(params);
  for (const [name, value] of params) {
    const match = /^(?:(old|from|before)[_-]?(.*)|(.*?)[_-](old|from|before))$/.exec(name);
    if (match) {
      const base = match[2] ?? match[3] ?? "";
      const after = all.get("new_" + base) ?? all.get(base + "_new") ?? all.get("to") ?? all.get("new") ?? all.get("after") ?? (base === "" ? undefined : all.get(base));
      found.set(base, { name: base === "" ? "value" : base, before: value, after });
    }
  }
  const taken = new Set<string>();
  for (const [base] of found) for (const n of ["old", "from", "before", "new", "to", "after", "old_" + base, "from_" + base, "before_" + base, base + "_old", base + "_from", "new_" + base, base + "_new", base]) taken.add(n);
  for (const [name, value] of params) if (!taken.has(name)) rest.push([name, value]);
  return { changes: [...found.values()], rest };
}

/** bytes are shown as people count them. */
export function bytes(n: number): string {
  if (n < 1000) return `${n} B`;
  for (const [unit, size] of [["kB", 1e3], ["MB", 1e6], ["GB", 1e9]] as const) if (n < size * 1000) return `${(n / size).toFixed(n / size < 10 ? 1 : 0)} ${unit}`;
  return `${(n / 1e12).toFixed(1)} TB`;
}
