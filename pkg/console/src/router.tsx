// Every page and its address. What a page was asked to show, filters and all, is in the address, so that it can be sent,
// kept, and gone back to. Each page is a file of its own, fetched when it is first gone to.
import { createRootRoute, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import { queryString, type QueryValues } from "./api/client";
import { Shell } from "./shell/shell";
import { Crash, NotFound } from "./shell/crash";

type Raw = Record<string, unknown>;

// Readers of what an address says. Anything that is not understood is left out.
const text = (raw: Raw, name: string): string | undefined => {
  const value = raw[name];
  return typeof value === "string" && value !== "" ? value.slice(0, 500) : undefined;
};
const oneOf = <const T extends string>(raw: Raw, name: string, values: readonly T[]): T | undefined => values.find((v) => v === raw[name]);
const flag = (raw: Raw, name: string): true | undefined => (raw[name] === "true" || raw[name] === true ? true : undefined);

// compact leaves out what is not set, so that addresses stay short.
function compact<T extends object>(values: T): T {
  for (const name of Object.keys(values) as (keyof T)[]) if (values[name] === undefined) delete values[name];
  return values;
}

const root = createRootRoute({ component: Shell, errorComponent: Crash, notFoundComponent: NotFound });

const page = <Path extends string>(path: Path, load: () => Promise<Record<string, unknown>>, name: string) =>
  createRoute({ getParentRoute: () => root, path, component: lazyRouteComponent(load as () => Promise<Record<string, never>>, name) });

export const overviewRoute = createRoute({ getParentRoute: () => root, path: "/", component: lazyRouteComponent(() => import("./pages/overview"), "Overview") });
export const welcomeRoute = page("/welcome", () => import("./pages/welcome"), "Welcome");

export interface AppsSearch {
  q?: string | undefined;
  state?: "running" | "changing" | undefined;
  add?: true | undefined;
}
export const appsRoute = createRoute({
  getParentRoute: () => root,
  path: "/apps",
  validateSearch: (raw: Raw): AppsSearch => compact({ q: text(raw, "q"), state: oneOf(raw, "state", ["running", "changing"]), add: flag(raw, "add") }),
  component: lazyRouteComponent(() => import("./pages/apps"), "Apps"),
});

export const appRoute = createRoute({ getParentRoute: () => root, path: "/apps/$app", component: lazyRouteComponent(() => import("./pages/app"), "AppFrame") });
const appPage = <Path extends string>(path: Path, name: string) => createRoute({ getParentRoute: () => appRoute, path, component: lazyRouteComponent(() => import("./pages/app") as Promise<Record<string, unknown>> as Promise<Record<string, never>>, name) });
export const appServicesRoute = appPage("/", "Services");
export const appProcessesRoute = appPage("/processes", "Processes");
export const appBuildsRoute = appPage("/builds", "Builds");
export const appReleasesRoute = appPage("/releases", "Releases");
export const appEnvironmentRoute = appPage("/environment", "Environment");
export const appResourcesRoute = appPage("/resources", "Resources");
export const appSettingsRoute = createRoute({
  getParentRoute: () => appRoute,
  path: "/settings",
  validateSearch: (raw: Raw): { history?: string | undefined } => compact({ history: text(raw, "history") }),
  component: lazyRouteComponent(() => import("./pages/app"), "AppSettings"),
});
export const buildRoute = createRoute({ getParentRoute: () => root, path: "/apps/$app/builds/$build", component: lazyRouteComponent(() => import("./pages/build"), "BuildPage") });
export const releaseRoute = createRoute({ getParentRoute: () => root, path: "/apps/$app/releases/$release", component: lazyRouteComponent(() => import("./pages/release"), "ReleasePage") });

export interface LogsSearch {
  app?: string | undefined;
  service?: string | undefined;
  q?: string | undefined;
}
export const logsRoute = createRoute({
  getParentRoute: () => root,
  path: "/logs",
  validateSearch: (raw: Raw): LogsSearch => compact({ app: text(raw, "app"), service: text(raw, "service"), q: text(raw, "q") }),
  component: lazyRouteComponent(() => import("./pages/logs"), "Logs"),
});

export const instancesRoute = page("/instances", () => import("./pages/instances"), "Instances");

export const spans = ["1h", "24h", "7d", "30d", "all"] as const;
export interface AuditSearch {
  q?: string | undefined;
  actor?: string | undefined;
  app?: string | undefined;
  action?: string | undefined;
  decision?: "allow" | "deny" | "challenge" | "wait" | undefined;
  phase?: "started" | "finished" | "refused" | "cut" | undefined;
  kind?: "action" | "poll" | "preflight" | "system" | "all" | undefined;
  span?: (typeof spans)[number] | undefined;
  live?: true | undefined;
}
export const auditRoute = createRoute({
  getParentRoute: () => root,
  path: "/audit",
  validateSearch: (raw: Raw): AuditSearch =>
    compact({
      q: text(raw, "q"),
      actor: text(raw, "actor"),
      app: text(raw, "app"),
      action: text(raw, "action"),
      decision: oneOf(raw, "decision", ["allow", "deny", "challenge", "wait"]),
      phase: oneOf(raw, "phase", ["started", "finished", "refused", "cut"]),
      kind: oneOf(raw, "kind", ["action", "poll", "preflight", "system", "all"]),
      span: oneOf(raw, "span", spans),
      live: flag(raw, "live"),
    }),
  component: lazyRouteComponent(() => import("./pages/audit"), "Audit"),
});
export const eventRoute = createRoute({ getParentRoute: () => root, path: "/audit/$request", component: lazyRouteComponent(() => import("./pages/event"), "EventPage") });

export interface UsersSearch {
  q?: string | undefined;
  role?: string | undefined;
  state?: "locked" | "removed" | undefined;
  add?: true | undefined;
}
export const usersRoute = createRoute({
  getParentRoute: () => root,
  path: "/users",
  validateSearch: (raw: Raw): UsersSearch => compact({ q: text(raw, "q"), role: text(raw, "role"), state: oneOf(raw, "state", ["locked", "removed"]), add: flag(raw, "add") }),
  component: lazyRouteComponent(() => import("./pages/users"), "Users"),
});
export const userRoute = createRoute({ getParentRoute: () => root, path: "/users/$user", component: lazyRouteComponent(() => import("./pages/user"), "UserPage") });

export const rolesRoute = page("/roles", () => import("./pages/roles"), "Roles");
export const newRoleRoute = page("/roles/new", () => import("./pages/role"), "NewRole");
export const roleRoute = createRoute({ getParentRoute: () => root, path: "/roles/$role", component: lazyRouteComponent(() => import("./pages/role"), "RolePage") });

export interface TokensSearch {
  q?: string | undefined;
  kind?: "cli" | "api" | undefined;
  ended?: true | undefined;
}
export const tokensRoute = createRoute({
  getParentRoute: () => root,
  path: "/tokens",
  validateSearch: (raw: Raw): TokensSearch => compact({ q: text(raw, "q"), kind: oneOf(raw, "kind", ["cli", "api"]), ended: flag(raw, "ended") }),
  component: lazyRouteComponent(() => import("./pages/tokens"), "Tokens"),
});
export const newTokenRoute = page("/tokens/new", () => import("./pages/newtoken"), "NewToken");
export const tokenRoute = createRoute({ getParentRoute: () => root, path: "/tokens/$token", component: lazyRouteComponent(() => import("./pages/token"), "TokenPage") });

export const connectRoute = page("/connect", () => import("./pages/connect"), "Connect");
export const accountRoute = page("/account", () => import("./pages/account"), "Account");
export const settingsRoute = createRoute({
  getParentRoute: () => root,
  path: "/settings",
  validateSearch: (raw: Raw): { history?: string | undefined } => compact({ history: text(raw, "history") }),
  component: lazyRouteComponent(() => import("./pages/settings"), "Settings"),
});
export const integrationsRoute = page("/integrations", () => import("./pages/integrations"), "Integrations");
export const slackBackRoute = createRoute({
  getParentRoute: () => root,
  path: "/integrations/slack",
  validateSearch: (raw: Raw): { code?: string | undefined; state?: string | undefined; error?: string | undefined } => compact({ code: text(raw, "code"), state: text(raw, "state"), error: text(raw, "error") }),
  component: lazyRouteComponent(() => import("./pages/integrations"), "SlackBack"),
});
export const backgroundRoute = page("/background", () => import("./pages/background"), "Background");
export const designRoute = page("/design", () => import("./pages/design"), "Design");

const tree = root.addChildren([
  overviewRoute,
  welcomeRoute,
  appsRoute,
  appRoute.addChildren([appServicesRoute, appProcessesRoute, appBuildsRoute, appReleasesRoute, appEnvironmentRoute, appResourcesRoute, appSettingsRoute]),
  buildRoute,
  releaseRoute,
  logsRoute,
  instancesRoute,
  auditRoute,
  eventRoute,
  usersRoute,
  userRoute,
  rolesRoute,
  newRoleRoute,
  roleRoute,
  tokensRoute,
  newTokenRoute,
  tokenRoute,
  connectRoute,
  accountRoute,
  settingsRoute,
  integrationsRoute,
  slackBackRoute,
  backgroundRoute,
  designRoute,
]);

export function newRouter() {
  return createRouter({
    routeTree: tree,
    basepath: "/console",
    defaultPreload: "intent",
    defaultPreloadDelay: 60,
    scrollRestoration: true,
    // Addresses as people write them: no quotes, no JSON.
    parseSearch: (search) => Object.fromEntries(new URLSearchParams(search)),
    stringifySearch: (search) => queryString(search as QueryValues),
  });
}

declare module "@tanstack/react-router" {
  interface Register {
    router: ReturnType<typeof newRouter>;
  }
}
