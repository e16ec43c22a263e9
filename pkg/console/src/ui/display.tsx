// What one reads: names, ids, times, states, and what there is when there is nothing.
import { useQueryClient } from "@tanstack/react-query";
import { Check, CircleSlash, CloudOff, Copy, Lock, RefreshCw, TriangleAlert } from "lucide-react";
import { Fragment, useEffect, useRef, useState, type ReactNode } from "react";
import { explain, isForbidden, isNotFound, OfflineError, ProblemError } from "@/api/client";
import { exact, parseTime, relative } from "@/lib/time";
import { useNow, usePreferences } from "@/lib/preferences";
import { Button, IconButton } from "./controls";
import { cx } from "./cx";

export type Meaning = "ok" | "warn" | "bad" | "info" | "none";

const soft: Record<Meaning, string> = {
  ok: "bg-ok-soft text-ok",
  warn: "bg-warn-soft text-warn",
  bad: "bg-bad-soft text-bad",
  info: "bg-accent-soft text-accent",
  none: "bg-sunken text-ink-2",
};

export function Badge({ meaning = "none", children, mono = false }: { meaning?: Meaning; children: ReactNode; mono?: boolean }) {
  return <span className={cx("inline-flex max-w-full items-center gap-1 rounded-sm px-1.5 text-note leading-5 font-medium whitespace-nowrap", soft[meaning], mono && "font-mono font-normal")}>{children}</span>;
}

const dots: Record<Meaning, string> = { ok: "bg-ok-dot", warn: "bg-warn-dot", bad: "bg-bad-dot", info: "bg-accent", none: "bg-control" };

export function Dot({ meaning, pulse = false }: { meaning: Meaning; pulse?: boolean }) {
  return <span aria-hidden className={cx("dot inline-block size-2 shrink-0 rounded-full", dots[meaning], pulse && "animate-pulse")} />;
}

/** A state in a word, with a dot that says the same. */
export function State({ meaning, children, pulse = false }: { meaning: Meaning; children: ReactNode; pulse?: boolean }) {
  return (
    <span className="inline-flex items-center gap-2 whitespace-nowrap">
      <Dot meaning={meaning} pulse={pulse} />
      {children}
    </span>
  );
}

/** A moment: how long ago, and exactly on hover and focus. */
export function Time({ at, focusable = false, prefix }: { at: string | null | undefined; focusable?: boolean; prefix?: string }) {
  const now = useNow();
  const { zone } = usePreferences();
  const when = parseTime(at);
  if (!when) return <span className="text-ink-3">never</span>;
  return (
    <time dateTime={when.toISOString()} data-tip={exact(when, zone)} tabIndex={focusable ? 0 : undefined} className="above num whitespace-nowrap rounded-sm">
      {prefix}
      {relative(when, now)}
    </time>
  );
}

/** A name that somebody else chose: any script, any length, shown as text. */
export function Name({ children, className }: { children: string; className?: string }) {
  return (
    <bdi className={cx("name", className)} title={children.length > 40 ? children : undefined}>
      {children}
    </bdi>
  );
}

export function CopyButton({ text, label = "Copy", size = "sm" }: { text: string; label?: string; size?: "sm" | "md" }) {
  const [done, setDone] = useState(false);
  const timer = useRef(0);
  useEffect(() => () => window.clearTimeout(timer.current), []);
  return (
    <IconButton
      label={done ? "Copied" : label}
      size={size}
      className="above"
      onClick={(e) => {
        e.preventDefault();
        e.stopPropagation();
        void navigator.clipboard.writeText(text).then(() => {
          setDone(true);
          timer.current = window.setTimeout(() => setDone(false), 1600);
        });
      }}
    >
      {done ? <Check className="text-ok" aria-hidden /> : <Copy aria-hidden />}
    </IconButton>
  );
}

/** An id, short enough to be read and whole when it is copied. */
export function Id({ value, short = false, label }: { value: string; short?: boolean; label?: string }) {
  return (
    <span className="inline-flex max-w-full items-center gap-1">
      <code className="truncate font-mono text-note" title={value}>
        {short && value.length > 13 ? value.slice(0, 8) + "…" + value.slice(-4) : value}
      </code>
      <CopyButton text={value} label={label ?? `Copy ${value.slice(0, 40)}`} />
    </span>
  );
}

/** Something to paste, in one piece. */
export function Code({ text, label, wrap = false, secret = false }: { text: string; label: string; wrap?: boolean; secret?: boolean }) {
  return (
    <div className="group relative min-w-0 rounded-md border border-line bg-sunken">
      <pre tabIndex={0} aria-label={label} className={cx("max-h-96 overflow-auto rounded-md py-3 pr-12 pl-3.5 font-mono text-note leading-5", wrap ? "break-all whitespace-pre-wrap" : "whitespace-pre")} data-secret={secret || undefined}>
        {text}
      </pre>
      <span className="absolute top-1.5 right-1.5">
        <CopyButton text={text} label={`Copy ${label.toLowerCase()}`} />
      </span>
    </div>
  );
}

export function Kbd({ children }: { children: ReactNode }) {
  return <kbd className="inline-grid h-5 min-w-5 place-items-center rounded-sm border border-line-strong bg-raised px-1 font-mono text-label text-ink-2">{children}</kbd>;
}

export function Skeleton({ className }: { className?: string }) {
  return <span aria-hidden className={cx("block animate-pulse rounded-sm bg-line", className)} />;
}

export function SkeletonRows({ rows = 8 }: { rows?: number }) {
  return (
    <div role="status" aria-label="Loading" className="divide-y divide-line border-y border-line">
      {Array.from({ length: rows }, (_, i) => (
        <div key={i} className="flex h-11 items-center gap-6 px-3">
          <Skeleton className={cx("h-3", ["w-40", "w-56", "w-32", "w-48"][i % 4])} />
          <Skeleton className="hidden h-3 w-24 sm:block" />
          <Skeleton className="ml-auto h-3 w-16" />
        </div>
      ))}
    </div>
  );
}

interface NoticeProps {
  icon?: ReactNode;
  title: string;
  children?: ReactNode;
  action?: ReactNode;
}

/** What stands where a list would be: why there is nothing, and what to do. */
export function Notice({ icon, title, children, action }: NoticeProps) {
  return (
    <div className="grid justify-items-start gap-3 border-y border-line px-3 py-10 sm:px-6">
      {icon !== undefined && <span className="text-ink-3 [&_svg]:size-5">{icon}</span>}
      <div className="grid max-w-prose gap-1">
        <h2 className="text-body font-semibold">{title}</h2>
        {children !== undefined && <div className="text-row text-ink-2">{children}</div>}
      </div>
      {action !== undefined && <div className="flex flex-wrap gap-2">{action}</div>}
    </div>
  );
}

export const Empty = (props: NoticeProps) => <Notice icon={<CircleSlash aria-hidden />} {...props} />;

/** An error in the place of what it kept away, with a way to try again and the id to tell an administrator. */
export function Failure({ error, retry, what }: { error: unknown; retry?: (() => void) | undefined; what?: string }) {
  const problem = error instanceof ProblemError ? error.problem : undefined;
  const again = retry !== undefined && (
    <Button size="sm" onClick={retry}>
      <RefreshCw aria-hidden />
      Try again
    </Button>
  );
  const reference = problem && problem.request_id !== "" && (
    <p className="mt-2 flex flex-wrap items-center gap-1 text-note text-ink-3">
      {problem.code}, request <Id value={problem.request_id} short label="Copy the request's id" />
    </p>
  );
  if (isForbidden(error)) {
    return (
      <Notice icon={<Lock aria-hidden />} title="You may not see this" action={again}>
        {error.message}
        {reference}
      </Notice>
    );
  }
  if (isNotFound(error)) {
    return (
      <Notice icon={<CircleSlash aria-hidden />} title={what === undefined ? "It is not there" : `There is no such ${what}`} action={again}>
        {error.message}
        {reference}
      </Notice>
    );
  }
  if (error instanceof OfflineError) {
    return (
      <Notice icon={<CloudOff aria-hidden />} title="The gateway cannot be reached" action={again}>
        Nothing answers at this address. Check your connection. Command lines and pipelines may still be served.
      </Notice>
    );
  }
  return (
    <Notice icon={<TriangleAlert aria-hidden />} title="This could not be loaded" action={again}>
      {explain(error)}
      {reference}
    </Notice>
  );
}

interface AsyncProps<T> {
  query: { data: T | undefined; error: unknown; isPending: boolean; isFetching: boolean; dataUpdatedAt: number; refetch: () => unknown };
  children: (data: T) => ReactNode;
  skeleton?: ReactNode;
  what?: string;
}

/** The states of a question: not answered yet, answered, refused, and answered once but not lately. */
export function Async<T>({ query, children, skeleton, what }: AsyncProps<T>) {
  if (query.data !== undefined) {
    return (
      <Fragment>
        {query.error !== null && <Stale since={query.dataUpdatedAt} retry={() => void query.refetch()} error={query.error} />}
        {children(query.data)}
      </Fragment>
    );
  }
  if (query.error !== null) return <Failure error={query.error} retry={() => void query.refetch()} {...(what === undefined ? {} : { what })} />;
  return skeleton ?? <SkeletonRows />;
}

export function Stale({ since, retry, error }: { since: number; retry: () => void; error: unknown }) {
  return (
    <Banner meaning="warn" action={<Button size="sm" onClick={retry}>Try again</Button>}>
      This is from <Time at={new Date(since).toISOString()} />, and could not be asked for since. {explain(error)}
    </Banner>
  );
}

export function Banner({ meaning, children, action, title }: { meaning: Meaning; children: ReactNode; action?: ReactNode; title?: string }) {
  return (
    <div role={meaning === "bad" ? "alert" : "status"} className={cx("mb-4 flex flex-wrap items-center gap-x-4 gap-y-2 rounded-md px-3.5 py-2.5 text-row", soft[meaning])}>
      <div className="min-w-0 flex-1 basis-64">
        {title !== undefined && <p className="font-semibold">{title}</p>}
        {children}
      </div>
      {action}
    </div>
  );
}

/** Facts about a thing: what, and how it is. */
export function Facts({ children }: { children: ReactNode }) {
  return <dl className="grid border-y border-line text-row sm:grid-cols-[minmax(9rem,max-content)_1fr]">{children}</dl>;
}

export function Fact({ label, children }: { label: string; children: ReactNode }) {
  return (
    <div className="col-span-full grid grid-cols-subgrid gap-x-6 border-b border-line px-3 py-2 last:border-0">
      <dt className="text-ink-3">{label}</dt>
      <dd className="min-w-0">{children}</dd>
    </div>
  );
}

export function Section({ title, children, action, note, id }: { title: string; children: ReactNode; action?: ReactNode; note?: ReactNode; id?: string }) {
  return (
    <section className="mt-10 first:mt-0" {...(id === undefined ? {} : { id })}>
      <div className="mb-3 flex min-h-7 flex-wrap items-end justify-between gap-x-4 gap-y-2">
        <div>
          <h2 className="text-body font-semibold">{title}</h2>
          {note !== undefined && <p className="max-w-prose text-row text-ink-3">{note}</p>}
        </div>
        {action}
      </div>
      {children}
    </section>
  );
}

/** Refetches what a page shows. */
export function RefreshButton({ keys }: { keys: readonly (readonly unknown[])[] }) {
  const client = useQueryClient();
  const [busy, setBusy] = useState(false);
  return (
    <IconButton
      label="Load again"
      size="md"
      busy={busy}
      onClick={() => {
        setBusy(true);
        void Promise.all(keys.map((queryKey) => client.invalidateQueries({ queryKey }))).finally(() => setBusy(false));
      }}
    >
      <RefreshCw aria-hidden />
    </IconButton>
  );
}
