// Events of the record as a list, as the audit page and the pages of people and tokens show them.
import { useMemo } from "react";
import type { EventRow } from "@/api/queries";
import { outcome } from "@/lib/events";
import { usePreferences } from "@/lib/preferences";
import { duration, exact, stamp } from "@/lib/time";
import { Badge, Name, State } from "@/ui/display";
import { Table, type Column, type TableProps } from "@/ui/table";

export function EventList({ events, label, more, empty, fresh, actor = true }: { events: readonly EventRow[]; label: string; actor?: boolean } & Pick<TableProps<EventRow>, "more" | "empty" | "fresh">) {
  const { zone } = usePreferences();
  const columns = useMemo<Column<EventRow>[]>(() => {
    const all: Column<EventRow>[] = [
      {
        id: "action",
        header: "Action",
        accessorFn: (e) => e.action,
        cell: ({ row: { original: e } }) => <span className="font-mono text-note">{e.action}</span>,
        meta: { width: "minmax(9rem, 1fr)", narrow: "title" },
      },
      {
        id: "on",
        header: "On",
        accessorFn: (e) => e.app + e.resource,
        cell: ({ row: { original: e } }) => (
          <span className="text-ink-2">
            {e.app !== "" && <Name className="font-medium text-ink">{e.app}</Name>} <Name>{e.resource === e.app ? "" : e.resource}</Name>
          </span>
        ),
        meta: { width: "minmax(9rem, 1.4fr)" },
      },
      { id: "actor", header: "Who", accessorFn: (e) => e.actor_label, cell: ({ row: { original: e } }) => <Actor event={e} />, meta: { width: "minmax(9rem, 1.3fr)", narrow: "meta" } },
      {
        id: "outcome",
        header: "Outcome",
        accessorFn: (e) => outcome(e).text,
        cell: ({ row: { original: e } }) => {
          const o = outcome(e);
          return <State meaning={o.meaning}>{o.text}</State>;
        },
        meta: { width: "7rem", narrow: "end" },
      },
      { id: "took", header: "Took", accessorFn: (e) => e.took ?? 0, cell: ({ row: { original: e } }) => <span className="text-ink-3">{e.took === undefined ? "" : duration(e.took)}</span>, meta: { width: "5.5rem", align: "right", narrow: "hide", from: "xl" } },
      {
        id: "when",
        header: zone === "utc" ? "When, UTC" : "When",
        accessorFn: (e) => e.occurred_at,
        cell: ({ row: { original: e } }) => {
          const at = new Date(e.occurred_at);
          return (
            <time dateTime={e.occurred_at} data-tip={exact(at, zone)} className="above num whitespace-nowrap text-ink-2">
              {stamp(at, zone)}
            </time>
          );
        },
        meta: { width: "8.5rem", align: "right", narrow: "meta" },
      },
    ];
    return all.filter((c) => actor || c.id !== "actor");
  }, [zone, actor]);
  return <Table label={label} rows={events} columns={columns} rowKey={keyOf} to={toRequest} more={more} empty={empty} fresh={fresh ?? none} />;
}

const keyOf = (e: EventRow): string => e.id;
const toRequest = (e: EventRow) => ({ to: "/audit/$request" as const, params: { request: e.request_id } });
const none: ReadonlySet<string> = new Set();

export function Actor({ event: e }: { event: EventRow }) {
  if (e.actor_kind === "nobody") return <span className="text-ink-3">nobody known</span>;
  if (e.actor_kind === "system") return <span className="text-ink-2">{e.actor_label || "the gateway"}</span>;
  if (e.actor_kind === "database") return <Badge meaning="bad">SQL, around the gateway</Badge>;
  return (
    <span className="text-ink-2">
      <Name>{e.actor_label}</Name>
      {e.actor_kind === "api_token" && <span className="ml-1.5 text-note text-ink-3">token</span>}
    </span>
  );
}
