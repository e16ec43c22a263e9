// What is around every page: the way to all others, the rack one is at, whether what one sees is live, and who one is.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, Outlet, useRouter, useRouterState } from "@tanstack/react-router";
import { CircleHelp, Clock, LogOut, Menu as MenuIcon, Monitor, Moon, Search, Sun, UserRound, X } from "lucide-react";
import { lazy, Suspense, useEffect, useMemo, useRef, useState, useSyncExternalStore, type ReactNode } from "react";
import { Live, type LiveState } from "@/api/live";
import { session } from "@/api/client";
import { system } from "@/api/queries";
import { prefer, usePreferences } from "@/lib/preferences";
import { IconButton } from "@/ui/controls";
import { cx } from "@/ui/cx";
import { Dot, Name, type Meaning } from "@/ui/display";
import { Menu } from "@/ui/overlay";
import { useShortcuts } from "./keys";
import { Mark } from "./mark";
import { places, type Place } from "./nav";
import { Waiting } from "./waiting";
import { useWho } from "./who";

const Palette = lazy(() => import("./palette").then((m) => ({ default: m.Palette })));
const Help = lazy(() => import("./help").then((m) => ({ default: m.Help })));

export function Shell() {
  const [open, setOpen] = useState(false);
  const [palette, setPalette] = useState(false);
  const [help, setHelp] = useState(false);
  const path = useRouterState({ select: (s) => s.location.pathname });
  useEffect(() => setOpen(false), [path]);
  useFocusAfterNavigation();
  useShortcuts({ palette: () => setPalette(true), help: () => setHelp(true) });
  const live = useLive();
  return (
    <div className="min-h-dvh md:grid md:grid-cols-[var(--rail)_minmax(0,1fr)] [--bar:3.25rem] md:[--bar:0px]">
      <a href="#main" className="fixed top-2 left-2 z-90 -translate-y-20 rounded-md bg-ink px-3 py-2 text-row text-on-ink focus:translate-y-0">
        Skip to the page
      </a>
      <header className="sticky top-0 z-30 flex h-13 items-center gap-2 border-b border-line bg-paper px-3 md:hidden" data-print="no">
        <IconButton label={open ? "Close the menu" : "Open the menu"} size="md" aria-expanded={open} aria-controls="rail" onClick={() => setOpen(!open)}>
          {open ? <X aria-hidden /> : <MenuIcon aria-hidden />}
        </IconButton>
        <Link to="/" className="flex min-w-0 items-center gap-2 rounded-md">
          <Mark className="size-6 shrink-0" />
          <RackName />
        </Link>
        <IconButton label="Search or jump to" size="md" className="ml-auto" onClick={() => setPalette(true)}>
          <Search aria-hidden />
        </IconButton>
      </header>
      <Rail open={open} live={live} onSearch={() => setPalette(true)} onHelp={() => setHelp(true)} />
      <main id="main" tabIndex={-1} className="min-w-0">
        <Waiting path={path} />
        <Suspense fallback={<PageSkeleton />}>
          <Outlet />
        </Suspense>
      </main>
      <Suspense fallback={null}>
        {palette && <Palette onClose={() => setPalette(false)} />}
        {help && <Help onClose={() => setHelp(false)} />}
      </Suspense>
    </div>
  );
}

export function PageSkeleton() {
  return <div role="status" aria-label="Loading" className="mx-auto min-h-96 max-w-[92rem] px-4 pt-8 sm:px-8" />;
}

function RackName() {
  const { rack } = useWho();
  const [organization, alias] = rack.split("/");
  return (
    <span className="min-w-0 truncate text-row">
      <span className="text-ink-3">{organization}/</span>
      <span className="font-semibold">{alias}</span>
    </span>
  );
}

function Rail({ open, live, onSearch, onHelp }: { open: boolean; live: LiveState; onSearch: () => void; onHelp: () => void }) {
  const who = useWho();
  const seen = places.filter((p) => p.needs === undefined || who.can(p.needs));
  const groups = ["", "Rack", "Access", "Gateway", "You"] as const;
  const mac = /Mac|iPhone|iPad/.test(navigator.userAgent);
  return (
    <aside id="rail" aria-label="Navigation and account" data-print="no" className={cx("fixed inset-x-0 top-13 bottom-0 z-20 overflow-y-auto bg-paper md:sticky md:top-0 md:flex md:h-dvh md:flex-col md:border-r md:border-line md:bg-sunken", !open && "max-md:hidden")}>
      <div className="hidden px-4 pt-4 md:block">
        <Link to="/" className="flex items-center gap-2.5 rounded-md">
          <Mark className="size-7 shrink-0" />
          <span className="grid min-w-0">
            <RackName />
            <RackState />
          </span>
        </Link>
      </div>
      <div className="hidden px-3 pt-4 md:block">
        <button type="button" onClick={onSearch} className="flex h-8 w-full items-center gap-2 rounded-md border border-line-strong bg-raised px-2.5 text-row text-ink-3 hover:border-control hover:text-ink-2">
          <Search className="size-3.5" aria-hidden />
          Search or jump to
          <span className="ml-auto font-mono text-label">{mac ? "⌘K" : "Ctrl K"}</span>
        </button>
      </div>
      <nav aria-label="Main" className="grid gap-4 px-3 pt-4 pb-6 md:flex-1 md:content-start md:overflow-y-auto">
        {groups.map((g) => {
          const items = seen.filter((p) => p.group === g);
          if (items.length === 0) return null;
          return (
            <div key={g}>
              {g !== "" && <h2 className="px-2.5 pb-1 text-label font-medium text-ink-3">{g}</h2>}
              <ul className="grid gap-px">
                {items.map((p) => (
                  <li key={p.to}>
                    <NavLink place={p} />
                  </li>
                ))}
              </ul>
            </div>
          );
        })}
      </nav>
      <div className="grid gap-1 border-t border-line px-3 py-3">
        <div className="flex items-center justify-between gap-1 px-1">
          <LiveMark state={live} />
          <IconButton label="Keyboard shortcuts" onClick={onHelp}>
            <CircleHelp aria-hidden />
          </IconButton>
        </div>
        <UserMenu />
      </div>
    </aside>
  );
}

function NavLink({ place }: { place: Place }) {
  const Icon = place.icon;
  return (
    <Link
      to={place.to}
      activeOptions={{ exact: place.to === "/", includeSearch: false }}
      activeProps={{ "aria-current": "page" }}
      className="group flex h-10 items-center gap-2.5 rounded-md px-2.5 text-body text-ink-2 transition-colors hover:bg-hover hover:text-ink data-[status=active]:bg-raised data-[status=active]:font-medium data-[status=active]:text-ink data-[status=active]:shadow-[0_0_0_1px_var(--line)] md:h-8 md:text-row"
    >
      <Icon className="size-4 text-ink-3 group-hover:text-ink-2 group-data-[status=active]:text-ink" aria-hidden />
      {place.label}
    </Link>
  );
}

const rackStates: Record<string, Meaning> = { running: "ok", updating: "info", rollback: "warn" };

function RackState() {
  const who = useWho();
  const query = useQuery({ ...system, enabled: who.can("convox:rack:read") });
  if (!who.can("convox:rack:read")) return null;
  const status = query.data?.status ?? (query.error ? "not reached" : "…");
  return (
    <span className="flex items-center gap-1.5 text-note text-ink-3">
      <Dot meaning={query.data ? (rackStates[status] ?? "warn") : query.error ? "bad" : "none"} pulse={status === "updating"} />
      {status}
      {query.data && <span className="num truncate">· {query.data.version}</span>}
    </span>
  );
}

const liveTexts: Record<LiveState, [Meaning, string, string]> = {
  live: ["ok", "Live", "Changes show as they happen"],
  connecting: ["none", "Connecting", "Listening for changes"],
  down: ["warn", "Not live", "The connection dropped; what you see may be old. It comes back by itself"],
  paused: ["none", "Paused", "Nobody was here for ten minutes. It goes on at a click or a key"],
};

function LiveMark({ state }: { state: LiveState }) {
  const [meaning, text, tip] = liveTexts[state];
  return (
    <span role="status" data-live={state} data-tip={tip} tabIndex={0} className="flex items-center gap-2 rounded-sm px-1.5 py-1 text-note text-ink-3">
      <Dot meaning={meaning} pulse={state === "connecting"} />
      {text}
    </span>
  );
}

function useLive(): LiveState {
  const client = useQueryClient();
  const live = useMemo(() => new Live(client), [client]);
  useEffect(() => live.start(), [live]);
  return useSyncExternalStore(live.subscribe, live.snapshot);
}

/** signOut is a form that is sent, so that the browser goes where the gateway says. */
export function signOut(): void {
  const form = document.createElement("form");
  form.method = "post";
  form.action = "/login/logout";
  const field = document.createElement("input");
  field.type = "hidden";
  field.name = "csrf";
  field.value = session.csrf;
  form.append(field);
  document.body.append(form);
  form.submit();
}

function UserMenu(): ReactNode {
  const who = useWho();
  const { theme, zone } = usePreferences();
  const router = useRouter();
  const name = who.name || who.email || who.label;
  return (
    <Menu
      align="start"
      header={
        <div className="grid">
          <Name className="truncate font-medium">{name}</Name>
          <span className="truncate text-note text-ink-3">{who.email}</span>
        </div>
      }
      trigger={
        <button type="button" className="flex w-full items-center gap-2.5 rounded-md px-1.5 py-1.5 text-left hover:bg-hover">
          <span aria-hidden className="grid size-7 shrink-0 place-items-center rounded-full bg-line text-note font-semibold text-ink-2 uppercase">
            {[...name][0] ?? "?"}
          </span>
          <span className="grid min-w-0 text-row leading-4">
            <Name className="truncate font-medium">{name}</Name>
            <span className="truncate text-note text-ink-3">{roleText(who.bindings)}</span>
          </span>
        </button>
      }
      items={[
        { label: "My account", icon: <UserRound aria-hidden />, onSelect: () => void router.navigate({ to: "/account" }) },
        "line",
        { label: "Light", icon: <Sun aria-hidden />, checked: theme === "light", onSelect: () => prefer({ theme: "light" }) },
        { label: "Dark", icon: <Moon aria-hidden />, checked: theme === "dark", onSelect: () => prefer({ theme: "dark" }) },
        { label: "As the system", icon: <Monitor aria-hidden />, checked: theme === "system", onSelect: () => prefer({ theme: "system" }) },
        "line",
        { label: zone === "utc" ? "Show local times" : "Show times in UTC", icon: <Clock aria-hidden />, onSelect: () => prefer({ zone: zone === "utc" ? "local" : "utc" }) },
        "line",
        { label: "Sign out", icon: <LogOut aria-hidden />, onSelect: signOut },
      ]}
    />
  );
}

export function roleText(bindings: readonly { role: string; app: string }[]): string {
  if (bindings.length === 0) return "no role";
  return bindings.map((b) => (b.app === "*" ? b.role : `${b.role} of ${b.app}`)).join(", ");
}

/** After a navigation the focus is on the title, which is read out; not after one within the page, such as a filter. */
function useFocusAfterNavigation(): void {
  const router = useRouter();
  const before = useRef(router.state.location.pathname);
  useEffect(
    () =>
      router.subscribe("onRendered", () => {
        const path = router.state.location.pathname;
        if (path === before.current) return;
        before.current = path;
        let tries = 0;
        const look = () => {
          const title = document.querySelector<HTMLElement>("[data-title]");
          if (title) title.focus({ preventScroll: true });
          else if (tries++ < 60) requestAnimationFrame(look);
        };
        look();
      }),
    [router],
  );
}
