// The first page: how the rack and the gateway are, what happened last, and what waits for somebody.
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { ArrowRight } from "lucide-react";
import type { ReactNode } from "react";
import { apps, doctor, health, overview, settings, stepUps, system, type Overview as Answer } from "@/api/queries";
import { detailOf, outcome } from "@/lib/events";
import { Page } from "@/shell/page";
import { AnswerCommand, waitingCommands } from "@/shell/waiting";
import { useWho } from "@/shell/who";
import { ButtonLink } from "@/ui/controls";
import { Async, Badge, Empty, Failure, Name, Section, Skeleton, SkeletonRows, State, Time, type Meaning } from "@/ui/display";
import { appState } from "./parts";

export function Overview() {
  const who = useWho();
  const query = useQuery(overview);
  return (
    <Page title="Overview" lead={<RackLine />} heading={<span className="flex flex-wrap items-baseline gap-x-3">{who.rack}</span>}>
      <Async query={query} skeleton={<Skeleton className="h-24 w-full" />}>
        {(data) => <Numbers data={data} />}
      </Async>
      <div className="mt-10 grid gap-x-12 gap-y-10 xl:grid-cols-[minmax(0,3fr)_minmax(0,2fr)]">
        <div>
        {who.can("gateway:audit:read") ? (
          <Section title="Latest deploys" action={<Link to="/audit" search={{ action: "release.promote", span: "all" }} className="link text-row">All of them</Link>}>
            {query.data ? <Deploys data={query.data} /> : query.error ? null : <SkeletonRows rows={4} />}
          </Section>
        ) : (
          <MyApps />
        )}
        </div>
        <div>
          <Section title="Needs attention">
            <Attention data={query.data} />
          </Section>
        </div>
      </div>
    </Page>
  );
}

function RackLine() {
  const who = useWho();
  const query = useQuery({ ...system, enabled: who.can("convox:rack:read") });
  if (!who.can("convox:rack:read")) return null;
  const s = query.data;
  if (!s) return query.error ? <State meaning="bad">The rack could not be asked: {query.error.message}</State> : <Skeleton className="mt-1.5 h-4 w-80 max-w-full" />;
  const facts = [s.provider, s.region, s.type, s.count > 0 ? `${s.count} instances` : "", `version ${s.version}`].filter(Boolean);
  return (
    <span className="flex flex-wrap items-center gap-x-4 gap-y-1">
      <State meaning={s.status === "running" ? "ok" : s.status === "updating" ? "info" : "warn"}>{s.status}</State>
      <span className="num text-ink-3">{facts.join(" · ")}</span>
    </span>
  );
}

function Figure({ label, value, note, to, children }: { label: string; value: ReactNode; note?: ReactNode; to?: ReactNode; children?: ReactNode }) {
  return (
    <div className="relative grid content-start gap-0.5 border-line px-4 py-4 not-first:border-t sm:nth-[2]:border-t-0 sm:even:border-l lg:border-t-0! lg:not-first:border-l">
      <dt className="text-note text-ink-3">{to ?? label}</dt>
      <dd className="num text-[1.75rem] leading-9 font-semibold tracking-[-0.02em]">{value}</dd>
      {note !== undefined && <dd className="text-note text-ink-3">{note}</dd>}
      {children !== undefined && <dd className="mt-1">{children}</dd>}
    </div>
  );
}

function Numbers({ data }: { data: Answer }) {
  const { sessions, tokens, people, record } = data;
  if (sessions === undefined && !record && !tokens && !people) return null;
  const link = (to: string, label: string, search?: Record<string, unknown>) => (
    <Link to={to} {...(search ? { search: search as never } : {})} className="row-link hover:text-ink">
      {label}
    </Link>
  );
  return (
    <dl className="grid border-y border-line sm:grid-cols-2 lg:grid-cols-4">
      {people && sessions !== undefined && <Figure label="Signed in now" to={link("/users", "Signed in now")} value={sessions} note={`of ${people.total.toLocaleString("en")} people${people.locked > 0 ? `, ${people.locked} locked` : ""}`} />}
      {record && (
        <Figure label="Refused in a day" to={link("/audit", "Refused in a day", { phase: "refused", span: "24h" })} value={record.refusals.toLocaleString("en")}>
          <Bars hours={record.refusals_by_hour} />
        </Figure>
      )}
      {tokens && <Figure label="API tokens" to={link("/tokens", "API tokens", { kind: "api" })} value={tokens.active.toLocaleString("en")} note={tokens.expiring > 0 ? `${tokens.expiring} end within a week` : "none ends within a week"} />}
      {record && <Figure label="Recorded in a day" to={link("/audit", "Recorded in a day", { span: "24h", kind: "all" })} value={record.events.toLocaleString("en")} note={<>the last one <Time at={record.last_at} /></>} />}
    </dl>
  );
}

/** Refusals by the hour, the last one at the right. */
function Bars({ hours }: { hours: number[] }) {
  const top = Math.max(1, ...hours);
  return (
    <svg viewBox={`0 0 ${hours.length * 6} 24`} preserveAspectRatio="none" className="h-6 w-full max-w-48" role="img" aria-label={`Refusals by the hour, the last day: at most ${Math.max(0, ...hours)} in one`}>
      {hours.map((n, i) => {
        const h = n === 0 ? 1.2 : Math.max(3, (n / top) * 24);
        return <rect key={i} x={i * 6 + 0.5} y={24 - h} width={4.6} height={h} rx={0.8} className={n === 0 ? "fill-line-strong" : "fill-bad-dot"} />;
      })}
    </svg>
  );
}

function Deploys({ data }: { data: Answer }) {
  const list = data.deploys ?? [];
  if (list.length === 0) {
    return (
      <Empty title="Nothing was deployed yet">
        Once somebody promotes a release, by <code className="font-mono">convox deploy</code> or here, it shows with who did it.
      </Empty>
    );
  }
  return (
    <ul className="divide-y divide-line border-y border-line text-row">
      {list.map((e) => {
        const end = outcome(e);
        const by = detailOf(e);
        return (
          <li key={e.id} className="relative grid grid-cols-[1fr_auto] items-baseline gap-x-4 gap-y-0.5 px-3 py-2.5 hover:bg-hover sm:grid-cols-[minmax(8rem,1fr)_minmax(8rem,1fr)_6rem_5rem]">
            <Link to="/audit/$request" params={{ request: e.request_id }} className="row-link min-w-0 truncate font-medium" data-row-link>
              {e.app} <span className="ml-1 font-mono text-note font-normal text-ink-3">{e.resource}</span>
            </Link>
            <span className="min-w-0 truncate text-ink-2 max-sm:order-3">
              <Name>{by.token_name !== undefined && e.actor_kind === "api_token" ? by.token_name : e.actor_label}</Name>
            </span>
            <span className="max-sm:hidden">
              <State meaning={end.meaning}>{end.text}</State>
            </span>
            <span className="text-right text-ink-3">
              <Time at={e.occurred_at} />
            </span>
          </li>
        );
      })}
    </ul>
  );
}

/** For somebody who may see the rack and nothing of the gateway: what they are here for. */
function MyApps() {
  const who = useWho();
  const query = useQuery({ ...apps, enabled: who.can("convox:app:list") });
  return (
    <Section title="Apps" action={<Link to="/apps" className="link text-row">All apps</Link>}>
      <Async query={query}>
        {(list) =>
          list.length === 0 ? (
            <Empty title="No apps">There are none on this rack that you may see.</Empty>
          ) : (
            <ul className="divide-y divide-line border-y border-line text-row">
              {list.slice(0, 8).map((a) => (
                <li key={a.name} className="relative flex items-center justify-between gap-4 px-3 py-2.5 hover:bg-hover">
                  <Link to="/apps/$app" params={{ app: a.name }} className="row-link min-w-0 truncate font-medium" data-row-link>
                    {a.name}
                  </Link>
                  <State meaning={appState(a.status)}>{a.status}</State>
                </li>
              ))}
            </ul>
          )
        }
      </Async>
    </Section>
  );
}

interface Item {
  meaning: Meaning;
  title: string;
  text: ReactNode;
  to: ReactNode;
}

function Attention({ data }: { data: Answer | undefined }) {
  const who = useWho();
  const checks = useQuery({ ...health, enabled: who.can("gateway:setting:read") });
  const checklist = useQuery({ ...doctor, enabled: who.can("gateway:setting:read") });
  const waiting = useQuery({ ...stepUps, enabled: who.kind === "session" });
  const values = useQuery({ ...settings, enabled: who.can("gateway:setting:read") });
  const items: Item[] = [];
  const open = (to: string, label: string, search?: Record<string, unknown>) => (
    <Link to={to} {...(search ? { search: search as never } : {})} className="row-link inline-flex items-center gap-1 text-accent" aria-label={label}>
      <ArrowRight className="size-4" aria-hidden />
    </Link>
  );
  for (const [name, check] of Object.entries(checks.data?.checks ?? {})) {
    if (!check.ok) items.push({ meaning: name === "sign-in" ? "warn" : "bad", title: `${name} has trouble`, text: check.detail ?? "", to: open("/background", `Look at ${name}`) });
  }
  for (const s of waitingCommands(waiting.data?.items)) {
    items.push({ meaning: "bad", title: `A command waits for you: ${s.operation}`, text: `On ${s.device}, from ${s.address}.`, to: <AnswerCommand step={s} /> });
  }
  if ((checklist.data?.failed ?? 0) > 0) {
    items.push({ meaning: "warn", title: `${checklist.data?.failed} of the production checklist ${checklist.data?.failed === 1 ? "is" : "are"} left to do`, text: checklist.data?.lines.filter((l) => l.status === "fail").slice(0, 3).map((l) => l.title).join("; ") ?? "", to: open("/background", "See the checklist") });
  }
  for (const s of values.data?.items ?? []) {
    if (s.key === "allow_destructive" && s.value === true) items.push({ meaning: "warn", title: "Destructive actions are allowed", text: "Apps can be deleted and instances terminated. Turn it off when that is done.", to: open("/settings", "Go to the setting") });
  }
  if ((data?.tokens?.expiring ?? 0) > 0) {
    items.push({ meaning: "warn", title: `${data?.tokens?.expiring} API ${data?.tokens?.expiring === 1 ? "token ends" : "tokens end"} within a week`, text: "Rotate them before pipelines stop.", to: open("/tokens", "See the tokens", { kind: "api" }) });
  }
  if (data?.people && data.people.admins < 2) items.push({ meaning: "warn", title: "There is one admin", text: "Give a second person the role, so that the gateway can be managed while one is away.", to: open("/users", "See the people") });
  if (data?.people && data.people.without_role > 0) items.push({ meaning: "info", title: `${data.people.without_role} ${data.people.without_role === 1 ? "person has" : "people have"} no role`, text: "They can sign in, and see nothing.", to: open("/users", "See the people") });
  if (who.kind === "session" && data?.cli_connected === false) items.push({ meaning: "info", title: "Your CLI is not connected yet", text: "Make a token for this computer, and paste one line.", to: open("/connect", "Connect the CLI") });

  if (checks.error) return <Failure error={checks.error} retry={() => void checks.refetch()} />;
  if (items.length === 0) {
    return (
      <div className="border-y border-line px-3 py-4 text-row text-ink-2">
        <State meaning="ok">All is well.</State>
        <p className="mt-1 text-ink-3">Nothing that you can see waits for anybody.</p>
      </div>
    );
  }
  const order: Meaning[] = ["bad", "warn", "info", "ok", "none"];
  return (
    <>
      <ul className="divide-y divide-line border-y border-line text-row">
        {items
          .sort((a, b) => order.indexOf(a.meaning) - order.indexOf(b.meaning))
          .map((i) => (
            <li key={i.title} className="relative flex items-start gap-3 px-3 py-3 hover:bg-hover">
              <Badge meaning={i.meaning}>{i.meaning === "bad" ? "now" : i.meaning === "warn" ? "soon" : "tip"}</Badge>
              <div className="min-w-0 flex-1">
                <p className="font-medium">{i.title}</p>
                <p className="text-ink-2">{i.text}</p>
              </div>
              {i.to}
            </li>
          ))}
      </ul>
      {who.can("gateway:user:manage") && (
        <p className="mt-3">
          <ButtonLink to="/welcome" tone="quiet" size="sm">
            First steps
          </ButtonLink>
        </p>
      )}
    </>
  );
}
