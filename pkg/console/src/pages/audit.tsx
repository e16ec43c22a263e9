import { useInfiniteQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { Download, Radio, ScrollText, ShieldCheck, X } from "lucide-react";
import { useEffect, useMemo, useRef, useState } from "react";
import { apiBase, ProblemError, queryString } from "@/api/client";
import { events, rowOf, type AuditEvent, type EventRow } from "@/api/queries";
import { useTyped } from "@/lib/list";
import { compose } from "@/lib/search";
import type { AuditSearch } from "@/router";
import { Page, Toolbar } from "@/shell/page";
import { useCan } from "@/shell/who";
import { Button, ButtonLink, Chips, SearchField, Select } from "@/ui/controls";
import { Async, Banner, Empty, RefreshButton } from "@/ui/display";
import { Menu } from "@/ui/overlay";
import { usePages } from "@/ui/table";
import { EventList } from "./eventlist";

const route = getRouteApi("/audit");

/** The record has no end: so many of its events are sorted here, and what is sorted is searched for otherwise. */
const mostSorted = 10_000;

const none: ReadonlySet<string> = new Set();
const picked = ["actor", "app", "action", "decision"] as const;
const pickedTitles = { actor: "Who", app: "App", action: "Action", decision: "Decision" };

export function Audit() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const mayExport = useCan("gateway:audit:export");
  const q = compose(search);
  const query = useInfiniteQuery(events(q));
  const { rows, more } = usePages(query);
  const live = search.live === true;
  const tail = useTail(q, live);
  const known = useMemo(() => (live ? new Set(rows.map((e) => e.id)) : none), [live, rows]);
  const all = useMemo(() => (tail.rows.length === 0 ? rows : [...tail.rows.filter((e) => !known.has(e.id)), ...rows]), [tail.rows, known, rows]);
  const set = (change: Partial<AuditSearch>) => void navigate({ search: (s) => ({ ...s, ...change }), replace: true });
  const [typed, setTyped] = useTyped(search.q, (v) => set({ q: v }));
  const chosen = picked.filter((f) => search[f] !== undefined);
  const mistake = query.error instanceof ProblemError && query.error.problem.code === "bad-search" ? query.error.problem.detail : undefined;
  const clear = () => {
    setTyped("");
    void navigate({ search: { span: "all" } });
  };
  return (
    <Page
      title="Audit"
      lead="Everything that was asked of the rack and of the gateway, with who asked, what was decided, and what came of it. Reading it is recorded too."
      actions={
        <>
          <RefreshButton keys={[["audit"]]} />
          <ButtonLink to="/background">
            <ShieldCheck aria-hidden />
            Verify
          </ButtonLink>
          {mayExport && (
            <Menu
              trigger={
                <Button>
                  <Download aria-hidden />
                  Export
                </Button>
              }
              items={[
                { label: "JSON Lines, with proofs", onSelect: () => location.assign(apiBase + "/audit/export" + queryString({ q, format: "jsonl" })) },
                { label: "CSV, for a spreadsheet", onSelect: () => location.assign(apiBase + "/audit/export" + queryString({ q, format: "csv", proofs: false })) },
              ]}
            />
          )}
          <Button aria-pressed={live} onClick={() => set({ live: live ? undefined : true })} tone={live ? "primary" : "plain"}>
            <Radio aria-hidden className={live ? "animate-pulse" : ""} />
            {live ? "Following" : "Follow"}
          </Button>
        </>
      }
    >
      <Toolbar>
        <SearchField label='Search, such as actor:ana@acme.com app:web action:process.* "drop table"' value={typed} onChange={setTyped} className="w-full xl:w-auto xl:min-w-96 xl:flex-1" mono />
        <Select aria-label="Time" value={search.span ?? "24h"} onChange={(e) => set({ span: e.target.value as AuditSearch["span"] })}>
          <option value="1h">The last hour</option>
          <option value="24h">The last day</option>
          <option value="7d">The last week</option>
          <option value="30d">The last month</option>
          <option value="all">From the beginning</option>
        </Select>
        <Select aria-label="What clients do" value={search.kind ?? ""} onChange={(e) => set({ kind: (e.target.value || undefined) as AuditSearch["kind"] })}>
          <option value="">What was done</option>
          <option value="action">What people did</option>
          <option value="all">Everything, polls too</option>
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
        {chosen.map((f) => (
          <button key={f} type="button" onClick={() => set({ [f]: undefined })} className="inline-flex h-7 max-w-full items-center gap-1.5 rounded-full border border-ink px-3 text-row hover:bg-hover" aria-label={`Take away ${pickedTitles[f]} ${search[f]}`}>
            <span className="text-ink-3">{pickedTitles[f]}</span>
            <bdi className="truncate">{search[f]}</bdi>
            <X className="size-3.5 shrink-0" aria-hidden />
          </button>
        ))}
      </Toolbar>
      {live && tail.down && <Banner meaning="warn">The connection dropped. It is made again by itself, from where it stopped, so that nothing is left out or shown twice.</Banner>}
      {mistake !== undefined ? (
        <Banner meaning="bad" title="The search cannot be read">
          {mistake}
        </Banner>
      ) : (
        <Async query={query}>
          {() => (
            <EventList
              label="Events, newest first"
              events={all}
              more={{ ...more, most: mostSorted }}
              fresh={tail.fresh}
              empty={
                <Empty icon={<ScrollText aria-hidden />} title={q === "since:24h" ? "Nothing happened in the last day" : "Nothing fits"} action={<Button onClick={clear}>Show everything from the beginning</Button>}>
                  {(search.span ?? "24h") === "all" ? "No event has all of that." : "No event of this time has all of that. Choose a longer time."}
                </Empty>
              }
            />
          )}
        </Async>
      )}
    </Page>
  );
}

interface Tail {
  rows: EventRow[];
  fresh: ReadonlySet<string>;
  down: boolean;
}

const quiet: Tail = { rows: [], fresh: new Set(), down: false };

/** useTail shows events as they get their place in the ledger. After a drop it goes on behind the last place that it has
    seen, so that nothing is lost and nothing doubled. What comes in a burst is shown a few times a second. */
function useTail(q: string, on: boolean): Tail {
  const [tail, setTail] = useState<Tail>(quiet);
  const last = useRef("");
  useEffect(() => {
    setTail(quiet);
    last.current = "";
    if (!on) return;
    let source: EventSource;
    let timer = 0;
    let waiting: EventRow[] = [];
    const flush = window.setInterval(() => {
      if (waiting.length === 0) return;
      const more = waiting.reverse();
      waiting = [];
      setTail((t) => {
        const known = new Set(t.rows.map((e) => e.id));
        return { rows: [...more.filter((e) => !known.has(e.id)), ...t.rows].slice(0, 5000), fresh: new Set(more.map((e) => e.id)), down: false };
      });
    }, 200);
    const open = () => {
      source = new EventSource(apiBase + "/audit/tail" + queryString({ q: q.replace(/(?:^|\s)since:\S+$/, ""), after: last.current }));
      source.onopen = () => setTail((t) => (t.down ? { ...t, down: false } : t));
      source.onmessage = (e: MessageEvent<string>) => {
        last.current = e.lastEventId;
        waiting.push(rowOf(JSON.parse(e.data) as AuditEvent));
      };
      source.onerror = () => {
        setTail((t) => (t.down ? t : { ...t, down: true }));
        if (source.readyState === EventSource.CLOSED) timer = window.setTimeout(open, 3000);
      };
    };
    open();
    return () => {
      window.clearInterval(flush);
      window.clearTimeout(timer);
      source.close();
    };
  }, [q, on]);
  return tail;
}
