// Every question that pages ask, in one place: the same question has the same key wherever it is asked, so that a change
// is seen by all.
import { infiniteQueryOptions, QueryClient, queryOptions } from "@tanstack/react-query";
import { call, ProblemError, worthRetrying, type Schemas } from "./client";
import * as rack from "./rack";

export type Me = Schemas["Me"];
export type User = Schemas["User"];
export type Role = Schemas["Role"];
export type Token = Schemas["Token"];
export type Session = Schemas["Session"];
export type Setting = Schemas["Setting"];
export type AuditEvent = Schemas["Event"];
export type Binding = Schemas["Binding"];
export type Integration = Schemas["Integration"];
export type NoticeRule = Schemas["NoticeRule"];
export type NoticeChoice = Schemas["NoticeChoice"];

export function newQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        staleTime: 10_000,
        gcTime: 5 * 60_000,
        // A refusal is an answer: only what may go better by itself is asked again.
        retry: (count, error) => count < 2 && worthRetrying(error),
        retryDelay: (count, error) => (error instanceof ProblemError && error.retryAfter !== undefined ? error.retryAfter * 1000 : Math.min(1000 * 2 ** count, 8000)),
        networkMode: "always",
      },
      mutations: { networkMode: "always" },
    },
  });
}

export const me = queryOptions({ queryKey: ["me"], queryFn: ({ signal }) => call("get", "/me", { signal }), staleTime: 60_000 });

// The gateway.

const page = 200;

export interface UserSearch {
  search?: string | undefined;
  role?: string | undefined;
  state?: "locked" | "removed" | undefined;
}

export const users = (s: UserSearch) =>
  infiniteQueryOptions({
    queryKey: ["users", s],
    queryFn: ({ pageParam, signal }) =>
      call("get", "/users", {
        signal,
        query: { limit: page, ...given({ cursor: pageParam, search: s.search, role: s.role }), ...(s.state === "locked" ? { locked: true } : {}), ...(s.state === "removed" ? { removed: true } : {}) },
      }),
    initialPageParam: "",
    getNextPageParam: (last) => last.next,
  });

export const user = (id: string) => queryOptions({ queryKey: ["users", "one", id], queryFn: ({ signal }) => call("get", "/users/{userId}", { path: { userId: id }, signal }) });

/** Whether mail reaches somebody, and what they were told last. */
export const userMail = (id: string) => queryOptions({ queryKey: ["users", "mail", id], queryFn: ({ signal }) => call("get", "/users/{userId}/mail", { path: { userId: id }, signal }), staleTime: 30_000 });

export const roles = queryOptions({ queryKey: ["roles"], queryFn: ({ signal }) => call("get", "/roles", { signal }) });

export const permissions = queryOptions({ queryKey: ["permissions"], queryFn: ({ signal }) => call("get", "/permissions", { signal }), staleTime: Infinity });

export interface TokenSearch {
  search?: string | undefined;
  kind?: "cli" | "api" | undefined;
  ended?: boolean | undefined;
  owner?: string | undefined;
}

export const tokens = (s: TokenSearch) =>
  infiniteQueryOptions({
    queryKey: ["tokens", s],
    queryFn: ({ pageParam, signal }) =>
      call("get", "/tokens", { signal, query: { limit: page, ...given({ cursor: pageParam, search: s.search, owner: s.owner }), ...(s.kind ? { kind: s.kind } : {}), ...(s.ended ? { ended: true } : {}) } }),
    initialPageParam: "",
    getNextPageParam: (last) => last.next,
  });

export const token = (id: string) => queryOptions({ queryKey: ["tokens", "one", id], queryFn: ({ signal }) => call("get", "/tokens/{tokenId}", { path: { tokenId: id }, signal }) });

export const sessionsOf = (user: string) =>
  queryOptions({ queryKey: ["sessions", user], queryFn: ({ signal }) => call("get", "/sessions", { query: { user, limit: 100 }, signal }) });

export const mySessions = queryOptions({ queryKey: ["sessions", "mine"], queryFn: ({ signal }) => call("get", "/me/sessions", { query: { limit: 100 }, signal }) });

export const myDevices = queryOptions({ queryKey: ["tokens", "mine"], queryFn: ({ signal }) => call("get", "/me/devices", { query: { limit: 200 }, signal }) });

export const settings = queryOptions({ queryKey: ["settings"], queryFn: ({ signal }) => call("get", "/settings", { signal }) });

export const settingHistory = (key: string) =>
  queryOptions({ queryKey: ["settings", key, "history"], queryFn: ({ signal }) => call("get", "/settings/{settingKey}/history", { path: { settingKey: key }, query: { limit: 50 }, signal }) });

/** The settings that an app can have values of its own for, as they hold for it. */
export const appSettings = (app: string) => queryOptions({ queryKey: ["settings", "app", app], queryFn: ({ signal }) => call("get", "/apps/{appName}/settings", { path: { appName: app }, signal }) });

export const appSettingHistory = (app: string, key: string) =>
  queryOptions({ queryKey: ["settings", "app", app, key, "history"], queryFn: ({ signal }) => call("get", "/apps/{appName}/settings/{settingKey}/history", { path: { appName: app, settingKey: key }, query: { limit: 50 }, signal }) });

export const health = queryOptions({
  queryKey: ["health"],
  queryFn: async ({ signal }): Promise<Schemas["Health"]> => {
    // 503 is an answer here too: it says what is in the way.
    const answer = await fetch("/api/v1/health/ready", { signal, cache: "no-store" });
    return (await answer.json()) as Schemas["Health"];
  },
  refetchInterval: 30_000,
});

// given leaves out what was not asked for.
function given(values: Record<string, string | undefined>): Record<string, string> {
  const out: Record<string, string> = {};
  for (const [name, value] of Object.entries(values)) if (value !== undefined && value !== "") out[name] = value;
  return out;
}

// The rack. Each question is recorded as asked by the person, so pages ask when somebody looks, and again when something
// has changed; only what the gateway counts as polling is asked for by a clock.

export const system = queryOptions({ queryKey: ["rack", "system"], queryFn: ({ signal }) => rack.get<rack.System>("/system", {}, signal), staleTime: 60_000 });

export const apps = queryOptions({ queryKey: ["rack", "apps"], queryFn: ({ signal }) => rack.list<rack.App>("/apps", {}, signal) });

export const app = (name: string) => queryOptions({ queryKey: ["rack", "app", name], queryFn: ({ signal }) => rack.get<rack.App>(rack.path("apps", name), {}, signal) });

export const services = (name: string) =>
  queryOptions({ queryKey: ["rack", "app", name, "services"], queryFn: ({ signal }) => rack.list<rack.Service>(rack.path("apps", name, "services"), {}, signal) });

export const processes = (name: string) =>
  queryOptions({ queryKey: ["rack", "app", name, "processes"], queryFn: ({ signal }) => rack.list<rack.Process>(rack.path("apps", name, "processes"), {}, signal), refetchInterval: 10_000 });

export const builds = (name: string) =>
  queryOptions({ queryKey: ["rack", "app", name, "builds"], queryFn: ({ signal }) => rack.list<rack.Build>(rack.path("apps", name, "builds"), { limit: 100 }, signal) });

export const build = (name: string, id: string) =>
  queryOptions({ queryKey: ["rack", "app", name, "builds", id], queryFn: ({ signal }) => rack.get<rack.Build>(rack.path("apps", name, "builds", id), {}, signal) });

export const releases = (name: string) =>
  queryOptions({ queryKey: ["rack", "app", name, "releases"], queryFn: ({ signal }) => rack.list<rack.Release>(rack.path("apps", name, "releases"), { limit: 100 }, signal) });

export const release = (name: string, id: string) =>
  queryOptions({ queryKey: ["rack", "app", name, "releases", id], queryFn: ({ signal }) => rack.get<rack.Release>(rack.path("apps", name, "releases", id), {}, signal), staleTime: 60_000 });

export const resources = (name: string) =>
  queryOptions({ queryKey: ["rack", "app", name, "resources"], queryFn: ({ signal }) => rack.list<rack.Resource>(rack.path("apps", name, "resources"), {}, signal) });

export const instances = queryOptions({ queryKey: ["rack", "instances"], queryFn: ({ signal }) => rack.list<rack.Instance>("/instances", {}, signal) });

export type Overview = Schemas["Overview"];

export const overview = queryOptions({ queryKey: ["overview"], queryFn: ({ signal }) => call("get", "/overview", { signal }) });

// The record.

export interface AuditFilter {
  actor?: string | undefined;
  app?: string | undefined;
  action?: string | undefined;
  kind?: "action" | "poll" | "preflight" | "system" | "all" | undefined;
}

/** What a list shows of an event. Its detail stays behind: ten thousand of them would be most of the page's memory. */
export interface EventRow extends Pick<AuditEvent, "id" | "request_id" | "occurred_at" | "action" | "app" | "resource" | "actor_kind" | "actor_label" | "phase" | "decision" | "status"> {
  /** In microseconds. */
  took?: number | undefined;
}

export function rowOf(e: AuditEvent): EventRow {
  const { id, request_id, occurred_at, action, app, resource, actor_kind, actor_label, phase, decision, status } = e;
  const took = (e.detail as { duration_us?: unknown }).duration_us;
  return { id, request_id, occurred_at, action, app, resource, actor_kind, actor_label, phase, decision, status, ...(typeof took === "number" ? { took } : {}) };
}

/** A search by the grammar of lib/search. */
export const events = (q: string) =>
  infiniteQueryOptions({
    queryKey: ["audit", "events", q],
    queryFn: async ({ pageParam, signal }) => {
      const { items, next } = await call("get", "/audit/events", { signal, query: { limit: pageParam === "" ? page : 500, ...given({ cursor: pageParam, q }) } });
      return { items: items.map(rowOf), next };
    },
    initialPageParam: "",
    getNextPageParam: (last) => last.next,
    staleTime: 60_000,
    // A page of the record never changes: there is nothing to compare.
    structuralSharing: false,
  });

export const eventsOf = (f: AuditFilter, limit: number) =>
  queryOptions({
    queryKey: ["audit", "some", f, limit],
    queryFn: async ({ signal }) => {
      const { items } = await call("get", "/audit/events", { signal, query: { limit, ...given({ actor: f.actor, app: f.app, action: f.action }), ...(f.kind ? { kind: f.kind } : {}) } });
      return { items: items.map(rowOf) };
    },
    staleTime: 60_000,
  });

export const request = (id: string) =>
  queryOptions({ queryKey: ["audit", "request", id], queryFn: ({ signal }) => call("get", "/audit/events", { signal, query: { request_id: id, kind: "all", limit: 100 } }), staleTime: 60_000 });

// Second factors.

export type FactorOverview = Schemas["FactorOverview"];

export const myFactors = queryOptions({ queryKey: ["factors", "mine"], queryFn: ({ signal }) => call("get", "/me/factors", { signal }) });

export const factorsOf = (user: string) => queryOptions({ queryKey: ["factors", user], queryFn: ({ signal }) => call("get", "/users/{userId}/factors", { path: { userId: user }, signal }) });

export const trustedDevices = queryOptions({ queryKey: ["factors", "trusted"], queryFn: ({ signal }) => call("get", "/me/trusted-devices", { signal }) });

/** What waits for the person's factor elsewhere: commands on devices without a browser, and sockets. The stream of changes tells of it. */
export const stepUps = queryOptions({ queryKey: ["step-ups"], queryFn: ({ signal }) => call("get", "/me/step-ups", { signal }) });

// The ledger, and the production checklist.

export const ledger = queryOptions({ queryKey: ["audit", "ledger"], queryFn: ({ signal }) => call("get", "/audit/ledger", { signal }), staleTime: 5000 });

export const proof = (event: string) => queryOptions({ queryKey: ["audit", "proof", event], queryFn: ({ signal }) => call("get", "/audit/events/{eventId}/proof", { path: { eventId: event }, signal }), staleTime: 60_000, retry: false });

export const doctor = queryOptions({ queryKey: ["doctor"], queryFn: ({ signal }) => call("get", "/doctor", { signal }), staleTime: 30_000 });

// Notices.

export const integrations = queryOptions({ queryKey: ["integrations"], queryFn: ({ signal }) => call("get", "/integrations", { signal }), refetchInterval: 30_000 });

export const noticeRules = queryOptions({ queryKey: ["notice-rules"], queryFn: ({ signal }) => call("get", "/notice-rules", { signal }) });

export const slackChannels = queryOptions({ queryKey: ["slack-channels"], queryFn: ({ signal }) => call("get", "/integrations/slack/channels", { signal }), staleTime: 60_000 });

export const myNotices = queryOptions({ queryKey: ["my-notices"], queryFn: ({ signal }) => call("get", "/me/notices", { signal }) });

export const deadNotices = queryOptions({ queryKey: ["notices", "dead"], queryFn: ({ signal }) => call("get", "/notices", { query: { state: "dead", limit: 100 }, signal }) });
