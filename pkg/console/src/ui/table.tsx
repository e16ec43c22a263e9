// The one list: rows of one height, of which the page holds only those that can be seen, so that ten thousand scroll like
// ten. Sorted by its headers, walked with j and k, and where there is room for one column only, each row is a short block.
//
// What a scroll costs does not grow with the list: the table knows of the rows that are shown and of no other, a row that
// stays is not made anew, and what makes a row is cheap. Sorting is done once, over the rows themselves.
import { useRouter, type LinkProps } from "@tanstack/react-router";
import { getCoreRowModel, useReactTable, type ColumnDef, type Row, type RowData, type SortingState } from "@tanstack/react-table";
import { ArrowDown, ArrowUp, LoaderCircle } from "lucide-react";
import { memo, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState, type KeyboardEvent, type MouseEvent, type ReactNode } from "react";
import { useNarrow } from "@/lib/preferences";
import { visible, type Span } from "@/lib/rows";
import { sorted as sort } from "@/lib/sort";
import { Button } from "./controls";
import { cx } from "./cx";

declare module "@tanstack/react-table" {
  // eslint-disable-next-line @typescript-eslint/no-unused-vars
  interface ColumnMeta<TData extends RowData, TValue> {
    /** A track of CSS grid. */
    width?: string;
    align?: "right";
    /** What becomes of it where there is room for one column: the row's title, part of the line below, at its end, or nothing. */
    narrow?: "title" | "meta" | "end" | "hide";
    /** Hidden below this width of the window. */
    from?: "lg" | "xl";
  }
}

export type Column<T> = ColumnDef<T, any>; // eslint-disable-line @typescript-eslint/no-explicit-any

/** More of a list that is paged by the server. */
export interface More {
  has: boolean;
  loading: boolean;
  failed: boolean;
  load: () => void;
  /** A list that may be without end is sorted as far as this many rows, and says so. */
  most?: number;
}

export interface TableProps<T> {
  label: string;
  rows: readonly T[];
  columns: Column<T>[];
  rowKey: (row: T) => string;
  /** Where a row leads. */
  to?: (row: T) => LinkProps;
  more?: More | undefined;
  /** Actions at the end of a row. */
  actions?: (row: T) => ReactNode;
  initialSort?: SortingState;
  sortable?: boolean;
  empty?: ReactNode;
  /** Rows that have just come, to be shown so for a moment. */
  fresh?: ReadonlySet<string>;
  /** Beside the list, what a row shows when it is not a link of its own. */
  onOpen?: (row: T) => void;
}

const wideHeight = 44;
const narrowHeight = 68;

const hidden = { lg: "max-lg:hidden", xl: "max-xl:hidden" };

export function Table<T>({ label, rows, columns, rowKey, to, more, actions, initialSort = [], sortable = true, empty, fresh }: TableProps<T>) {
  const narrow = useNarrow();
  const [sorting, setSorting] = useState<SortingState>(initialSort);
  const sortedBy = sorting[0];
  // A sorted part of a list would be a lie: sorting asks for the rest of it, and is done once that is there.
  const full = sortedBy !== undefined && more?.has === true && rows.length >= (more.most ?? Infinity);
  const wantsAll = sortedBy !== undefined && more?.has === true && !full;
  const sorted = useMemo(() => {
    if (sortedBy === undefined || wantsAll) return rows;
    const column = columns.find((c) => c.id === sortedBy.id);
    const read = column && "accessorFn" in column ? column.accessorFn : undefined;
    return read ? sort(rows, (row) => read(row, 0) as unknown, sortedBy.desc) : rows;
  }, [rows, columns, sortedBy, wantsAll]);
  const height = narrow ? narrowHeight : wideHeight;
  const body = useRef<HTMLDivElement>(null);
  const span = useVisible(body, sorted.length, height);
  const shown = useMemo(() => sorted.slice(span.from, span.to), [sorted, span.from, span.to]);
  const table = useReactTable<T>({
    data: shown,
    columns,
    state: { sorting },
    onSortingChange: setSorting,
    getCoreRowModel: getCoreRowModel(),
    getRowId: rowKey,
    enableSorting: sortable,
    enableMultiSort: false,
    manualSorting: true,
    sortDescFirst: false,
  });

  const nearEnd = more?.has === true && !full && span.to >= sorted.length - 20;
  const load = more?.load;
  const idle = more !== undefined && !more.loading && !more.failed;
  useEffect(() => {
    if ((wantsAll || nearEnd) && idle) load?.();
  }, [wantsAll, nearEnd, idle, load, rows.length]);

  const tracks = useMemo(() => columns.map((c) => c.meta?.width ?? "minmax(6rem, 1fr)"), [columns]);
  const keys = useCallback(
    (e: KeyboardEvent) => {
      const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[e.key];
      if (step === undefined || e.metaKey || e.ctrlKey || e.altKey || !(e.target instanceof HTMLElement) || !e.target.matches("[data-row-link]")) return;
      e.preventDefault();
      walk(body.current, step, height);
    },
    [height],
  );

  const visibleColumns = table.getVisibleLeafColumns();
  const headers = table.getHeaderGroups()[0]?.headers ?? [];
  const grid = useTracks(tracks, visibleColumns.map((c) => c.columnDef.meta?.from), actions !== undefined);
  if (rows.length === 0 && !more?.has && empty !== undefined) return empty;
  return (
    <>
    <div role="table" aria-label={label} aria-rowcount={more?.has && !full ? -1 : sorted.length + 1} className="text-row" onKeyDown={keys} ref={grid}>
      <div role="rowgroup" className={narrow ? "sr-only" : "sticky top-(--bar,0px) z-10 border-b border-line-strong bg-paper"}>
        <div role="row" aria-rowindex={1} className="rows-grid items-center">
          {headers.map((h) => {
            const sort = h.column.getIsSorted();
            const meta = h.column.columnDef.meta;
            const can = h.column.getCanSort();
            const title = typeof h.column.columnDef.header === "string" ? h.column.columnDef.header : "";
            return (
              <div key={h.id} role="columnheader" aria-sort={sort === "asc" ? "ascending" : sort === "desc" ? "descending" : can ? "none" : undefined} className={cx("min-w-0 px-3 py-1.5", meta?.align === "right" && "text-right", meta?.from && hidden[meta.from])}>
                {can ? (
                  <button type="button" tabIndex={narrow ? -1 : 0} onClick={h.column.getToggleSortingHandler()} className={cx("-mx-1 inline-flex items-center gap-1 rounded-sm px-1 text-note font-medium", sort ? "text-ink" : "text-ink-3 hover:text-ink")}>
                    {title}
                    {sort === "asc" && <ArrowUp className="size-3" aria-hidden />}
                    {sort === "desc" && <ArrowDown className="size-3" aria-hidden />}
                  </button>
                ) : (
                  <span className="text-note font-medium text-ink-3">{title}</span>
                )}
              </div>
            );
          })}
          {actions && <div role="columnheader" className="px-2"><span className="sr-only">Actions</span></div>}
        </div>
      </div>
      <div role="rowgroup" ref={body} className="relative border-b border-line" style={{ height: sorted.length * height }}>
        <div className="absolute inset-x-0 top-0" style={{ transform: `translateY(${span.from * height}px)` }}>
          {table.getRowModel().rows.map((row, i) => (
            <TableRow key={row.id} row={row as Row<unknown>} index={span.from + i} height={height} narrow={narrow} columns={columns as Column<unknown>[]} to={to as ((row: unknown) => LinkProps) | undefined} actions={actions as ((row: unknown) => ReactNode) | undefined} fresh={fresh?.has(row.id) === true} />
          ))}
        </div>
      </div>
    </div>
      {more?.has === true && (
        <div className="flex h-12 items-center gap-2 px-3 text-note text-ink-3" role="status">
          {full ? (
            `The first ${rows.length.toLocaleString("en")} are sorted, and there are more. Search for less to have all of them in order.`
          ) : more.failed ? (
            <>
              The rest could not be loaded.
              <Button size="sm" onClick={more.load}>
                Try again
              </Button>
            </>
          ) : (
            <>
              <LoaderCircle className="size-4 animate-spin" aria-hidden />
              {wantsAll ? `Sorting takes all of them: ${sorted.length.toLocaleString("en")} loaded` : "Loading more"}
            </>
          )}
        </div>
      )}
    </>
  );
}

interface RowProps {
  row: Row<unknown>;
  index: number;
  height: number;
  narrow: boolean;
  columns: Column<unknown>[];
  to: ((row: unknown) => LinkProps) | undefined;
  actions: ((row: unknown) => ReactNode) | undefined;
  fresh: boolean;
}

// A row is made anew when what it shows is another thing, and not because the list around it has moved.
const TableRow = memo(
  function TableRow({ row, index, height, narrow, to, actions, fresh }: RowProps) {
    const cells = row.getVisibleCells().map((cell) => {
      const def = cell.column.columnDef;
      return { id: cell.column.id, meta: def.meta, node: typeof def.cell === "function" ? (def.cell(cell.getContext()) as ReactNode) : (cell.getValue() as ReactNode) };
    });
    const link = to?.(row.original);
    const linked = (node: ReactNode) => (link === undefined ? node : <RowLink to={link}>{node}</RowLink>);
    const look = cx("table-row-box relative border-t border-line", index === 0 && "border-t-0", link !== undefined && "hover:bg-hover", fresh && "animate-fresh");
    if (narrow) {
      const at = (where: string) => cells.filter((c) => (c.meta?.narrow ?? "meta") === where);
      return (
        <div role="row" aria-rowindex={index + 2} className={cx(look, "flex items-center gap-2 px-1")} style={{ height }}>
          <div className="min-w-0 flex-1">
            {at("title").map((c) => (
              <div key={c.id} role="cell" className="truncate text-body font-medium">
                {linked(c.node)}
              </div>
            ))}
            <div className="flex min-w-0 items-center gap-x-2.5 overflow-hidden text-note whitespace-nowrap text-ink-3" role="presentation">
              {at("meta").map((c) => (
                <div key={c.id} role="cell" className="min-w-0 truncate">
                  {c.node}
                </div>
              ))}
            </div>
          </div>
          {at("end").map((c) => (
            <div key={c.id} role="cell" className="shrink-0 text-note">
              {c.node}
            </div>
          ))}
          {actions && <div role="cell" className="above shrink-0">{actions(row.original)}</div>}
        </div>
      );
    }
    return (
      <div role="row" aria-rowindex={index + 2} className={cx(look, "rows-grid items-center")} style={{ height }}>
        {cells.map((c, n) => (
          <div key={c.id} role="cell" className={cx("min-w-0 truncate px-3", c.meta?.align === "right" && "num text-right", c.meta?.from && hidden[c.meta.from])}>
            {n === 0 ? linked(c.node) : c.node}
          </div>
        ))}
        {actions && <div role="cell" className="above flex justify-end px-2">{actions(row.original)}</div>}
      </div>
    );
  },
  (a, b) => a.row.original === b.row.original && a.index === b.index && a.height === b.height && a.narrow === b.narrow && a.columns === b.columns && a.to === b.to && a.actions === b.actions && a.fresh === b.fresh,
);

/** A row's link: the router's own one follows where the page is, and a hundred of those are felt in each scroll. */
function RowLink({ to, children }: { to: LinkProps; children: ReactNode }) {
  const router = useRouter();
  const at = router.buildLocation(to as Parameters<typeof router.buildLocation>[0]);
  const timer = useRef(0);
  useEffect(() => () => window.clearTimeout(timer.current), []);
  const go = (e: MouseEvent) => {
    // What opens a tab or a window is for the browser.
    if (e.defaultPrevented || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return;
    e.preventDefault();
    void router.navigate(to as Parameters<typeof router.navigate>[0]);
  };
  const preload = () => {
    window.clearTimeout(timer.current);
    timer.current = window.setTimeout(() => void router.preloadRoute(to as Parameters<typeof router.preloadRoute>[0]).catch(() => undefined), 60);
  };
  return (
    <a href={router.history.createHref(at.publicHref)} onClick={go} onPointerEnter={preload} onPointerLeave={() => window.clearTimeout(timer.current)} onFocus={preload} data-row-link className="row-link block min-w-0 truncate">
      {children}
    </a>
  );
}

/** useTracks gives a table its tracks. They are set as a property of the element: a style attribute in markup would be
    against the page's policy, a property is not. */
function useTracks(tracks: string[], from: (("lg" | "xl") | undefined)[], actions: boolean) {
  const key = JSON.stringify([tracks, from, actions]);
  return useCallback(
    (element: HTMLDivElement | null) => {
      if (!element) return;
      const end = actions ? " 3.25rem" : "";
      const of = (keep: (f: "lg" | "xl" | undefined) => boolean) => tracks.filter((_, i) => keep(from[i])).join(" ") + end;
      element.style.setProperty("--tracks", of((f) => f === undefined));
      element.style.setProperty("--tracks-lg", of((f) => f !== "xl"));
      element.style.setProperty("--tracks-xl", of(() => true));
    },
    // The key says all that the tracks do.
    // eslint-disable-next-line react-hooks/exhaustive-deps
    [key],
  );
}

/** walk moves the focus along the rows; a row that is not in the page yet is scrolled to first. */
function walk(body: HTMLElement | null, step: number, height: number): void {
  if (!body) return;
  const links = [...body.querySelectorAll<HTMLElement>("[data-row-link]")];
  const at = links.indexOf(document.activeElement as HTMLElement);
  const next = links[at + step];
  if (!next) return;
  next.focus({ preventScroll: true });
  const box = next.closest("[role=row]")?.getBoundingClientRect();
  if (!box) return;
  if (box.top < 2 * height) window.scrollBy({ top: box.top - 3 * height });
  else if (box.bottom > innerHeight - height) window.scrollBy({ top: box.bottom - innerHeight + 2 * height });
}

/** useVisible follows the window's scrolling. */
function useVisible(body: { current: HTMLElement | null }, count: number, height: number): Span {
  const [span, setSpan] = useState<Span>({ from: 0, to: Math.min(count, 40) });
  const measure = useCallback(() => {
    const element = body.current;
    if (!element) return;
    const next = visible(count, height, -element.getBoundingClientRect().top, innerHeight);
    setSpan((old) => (old.from === next.from && old.to === next.to ? old : next));
  }, [body, count, height]);
  useLayoutEffect(measure, [measure]);
  useEffect(() => {
    window.addEventListener("scroll", measure, { passive: true });
    window.addEventListener("resize", measure);
    return () => {
      window.removeEventListener("scroll", measure);
      window.removeEventListener("resize", measure);
    };
  }, [measure]);
  return { from: Math.min(span.from, count), to: Math.min(span.to, count) };
}

/** useAll joins the pages of a list that the server pages. */
export function usePages<T>(query: {
  data: { pages: { items: T[] }[] } | undefined;
  hasNextPage: boolean;
  isFetchingNextPage: boolean;
  isFetchNextPageError: boolean;
  fetchNextPage: () => unknown;
}): { rows: T[]; more: More } {
  const rows = useMemo(() => query.data?.pages.flatMap((p) => p.items) ?? [], [query.data]);
  return { rows, more: { has: query.hasNextPage, loading: query.isFetchingNextPage, failed: query.isFetchNextPageError, load: query.fetchNextPage } };
}
