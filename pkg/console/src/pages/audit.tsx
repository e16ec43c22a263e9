import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { Radio, ScrollText } from "lucide-react";
import { useEffect, useMemo, useRef, useState } from "react";
import { call } from "@/api/client";
import { events, type AuditEvent, type AuditFilter } from "@/api/queries";
import { useTyped } from "@/lib/list";
import { since } from "@/lib/time";
import type { AuditSearch } from "@/router";
import { Page, Toolbar } from "@/shell/page";
import { Button, Chips, Input, Select } from "@/ui/controls";
import { Async, Banner, Empty, RefreshButton } from "@/ui/display";
import { usePages } from "@/ui/table";
import { EventList } from "./eventlist";

const route = getRouteApi("/audit");

// filterOf turns an address into a question. The beginning of a span is rounded to the minute, so that the same address
// asks the same question for a while.
function filterOf(s: AuditSearch): AuditFilter {
  const span = s.span ?? "24h";
  const begin = span === "all" ? undefined : since(span, new Date(Math.floor(Date.now() / 60_000) * 60_000));
  return { actor: s.actor, app: s.app, action: s.action, decision: s.decision, phase: s.phase, kind: s.kind, since: begin?.toISOString() };
}

export function Audit() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const key = JSON.stringify(search);
  // eslint-disable-next-line react-hooks/exhaustive-deps -- the address says all
  const filter = useMemo(() => filterOf(search), [key]);
  const query = useInfiniteQuery(events(filter));
  const { rows, more } = usePages(query);
  const live = search.live === true;
  const tail = useTail(filter, live, rows);
  const all = useMemo(() => (tail.rows.length === 0 ? rows : [...tail.rows, ...rows]), [tail.rows, rows]);
  const set = (change: Partial<AuditSearch>) => void navigate({ search: (s) => ({ ...s, ...change }), replace: true });
  const [actor, setActor] = useTyped(search.actor, (v) => set({ actor: v }));
  const [app, setApp] = useTyped(search.app, (v) => set({ app: v }));
  const [action, setAction] = useTyped(search.action, (v) => set({ action: v }));
  const filtered = Object.keys(search).some((k) => k !== "live" && k !== "span");
  return (
    <Page
      title="Audit"
      lead="Everything that was asked of the rack and of the gateway, with who asked, what was decided, and what came of it. Reading it is recorded too."
      actions={
        <>
          <RefreshButton keys={[["audit"]]} />
          <Button aria-pressed={live} onClick={() => set({ live: live ? undefined : true })} tone={live ? "primary" : "plain"}>
            <Radio aria-hidden className={live ? "animate-pulse" : ""} />
            {live ? "Following" : "Follow"}
          </Button>
        </>
      }
    >
      <Toolbar>
        <div className="grid w-full grid-cols-1 gap-2 sm:grid-cols-3 lg:w-auto lg:grid-cols-[15rem_11rem_13rem]">
          <Input data-search aria-label="Who: an address, a token's name or an id" placeholder="Who" value={actor} onChange={(e) => setActor(e.target.value)} />
          <Input aria-label="App" placeholder="App" value={app} onChange={(e) => setApp(e.target.value)} />
          <Input aria-label="Action, such as release.promote" placeholder="Action" className="font-mono" value={action} onChange={(e) => setAction(e.target.value)} />
        </div>
        <Select aria-label="Time" value={search.span ?? "24h"} onChange={(e) => set({ span: e.target.value as AuditSearch["span"] })}>
          <option value="1h">The last hour</option>
          <option value="24h">The last day</option>
          <option value="7d">The last week</option>
          <option value="30d">The last month</option>
          <option value="all">From the beginning</option>
        </Select>
        <Select aria-label="What clients do" value={search.kind ?? ""} onChange={(e) => set({ kind: (e.target.value || undefined) as AuditSearch["kind"] })}>
          <option value="">What people did</option>
          <option value="all">Everything</option>
          <option value="poll">Polls of clients</option>
          <option value="system">The gateway itself</option>
        </Select>
        <Chips
          label="Outcome"
          value={search.phase ?? "all"}
          onChange={(phase) => set({ phase: phase === "all" ? undefined : phase })}
          options={[
            { value: "all", label: "Any outcome" },
            { value: "refused", label: "Refused" },
            { value: "started", label: "Started" },
            { value: "cut", label: "Cut off" },
          ]}
        />
      </Toolbar>
      {live && tail.down && (
        <Banner meaning="warn">New events could not be asked for. It is tried again by itself, from where it stopped, so that none is left out.</Banner>
      )}
      <Async query={query}>
        {() => (
          <EventList
            label="Events, newest first"
            events={all}
            more={more}
            fresh={tail.fresh}
            empty={
              <Empty
                icon={<ScrollText aria-hidden />}
                title={filtered ? "Nothing fits" : "Nothing happened in this time"}
                action={
                  <Button onClick={() => { setActor(""); setApp(""); setAction(""); void navigate({ search: { span: "all" } }); }}>
                    Show everything from the beginning
                  </Button>
                }
              >
                {filtered ? "No event of this time has all of that." : "Choose a longer time."}
              </Empty>
            }
          />
        )}
      </Async>
    </Page>
  );
}

interface Tail {
  rows: AuditEvent[];
  fresh: ReadonlySet<string>;
  down: boolean;
}

/** useTail goes on where the list began: each time it hears that the record grew it asks for what is newer than the newest
    that it has, so that a drop in between loses nothing and doubles nothing. */
function useTail(filter: AuditFilter, on: boolean, rows: readonly AuditEvent[]): Tail {
  const client = useQueryClient();
  const [tail, setTail] = useState<Tail>({ rows: [], fresh: new Set(), down: false });
  const state = useRef({ known: new Set<string>(), newest: "", busy: false, again: false });
  useEffect(() => {
    setTail({ rows: [], fresh: new Set(), down: false });
    state.current = { known: new Set(), newest: "", busy: false, again: false };
  }, [filter, on]);
  useEffect(() => {
    for (const r of rows) state.current.known.add(r.id);
    if (state.current.newest === "" && rows[0]) state.current.newest = rows[0].occurred_at;
  }, [rows]);
  useEffect(() => {
    if (!on) return;
    let over = false;
    const s = state.current;
    const ask = async () => {
      if (s.busy) {
        s.again = true;
        return;
      }
      s.busy = true;
      try {
        const { since: _, ...rest } = filter;
        const from = s.newest === "" ? (filter.since ?? "") : new Date(new Date(s.newest).getTime() - 2000).toISOString();
        const query = Object.fromEntries(Object.entries({ ...rest, since: from }).filter(([, v]) => v !== undefined && v !== ""));
        const page = await call("get", "/audit/events", { query: { ...query, limit: 200 } as never });
        if (over) return;
        // What this very question leaves in the record is not shown: it would call itself for ever.
        const fresh = page.items.filter((e) => !s.known.has(e.id) && e.action !== "audit.read");
        for (const e of page.items) s.known.add(e.id);
        if (page.items[0] && page.items[0].occurred_at > s.newest) s.newest = page.items[0].occurred_at;
        setTail((t) => (fresh.length === 0 && !t.down ? t : { rows: [...fresh, ...t.rows].slice(0, 5000), fresh: new Set(fresh.map((e) => e.id)), down: false }));
      } catch {
        if (!over) setTail((t) => ({ ...t, down: true }));
      } finally {
        s.busy = false;
        if (s.again && !over) {
          s.again = false;
          window.setTimeout(() => void ask(), 1000);
        }
      }
    };
    const timer = window.setInterval(() => void ask(), 3000);
    void ask();
    return () => {
      over = true;
      window.clearInterval(timer);
    };
  }, [on, filter, client]);
  return tail;
}
