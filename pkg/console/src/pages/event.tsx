// One request, with all of its events: what was asked, what was decided and why, what became of it.
import { useQuery } from "@tanstack/react-query";
import { getRouteApi, Link } from "@tanstack/react-router";
import { LockKeyhole } from "lucide-react";
import type { ReactNode } from "react";
import { proof as proofQuery, request, type AuditEvent } from "@/api/queries";
import { browser } from "@/lib/agent";
import { bytes, changes, detailOf, endOf, outcome, unknownOutcome, type Detail } from "@/lib/events";
import { useNow, usePreferences } from "@/lib/preferences";
import { clock, duration, exact } from "@/lib/time";
import { Page } from "@/shell/page";
import { useWho } from "@/shell/who";
import { Button } from "@/ui/controls";
import { Badge, Banner, Code, Dot, Empty, Fact, Facts, Failure, Id, Name, Section, SkeletonRows, State, Time } from "@/ui/display";
import { Actor } from "./eventlist";

const route = getRouteApi("/audit/$request");

export function EventPage() {
  const { request: id } = route.useParams();
  const query = useQuery(request(id));
  const items = query.data?.items;
  const above = { label: "Audit", to: { to: "/audit" as const } };
  if (!items) {
    return (
      <Page title="Event" above={above} width="read">
        {query.error ? <Failure error={query.error} retry={() => void query.refetch()} what="request" /> : <SkeletonRows rows={6} />}
      </Page>
    );
  }
  const end = endOf(items);
  if (!end) {
    return (
      <Page title="Event" above={above} width="read">
        <Empty title="The record has no such request">It may be older than what is kept, or the address was not copied whole.</Empty>
      </Page>
    );
  }
  return <Known items={items} end={end} />;
}

const decisions: Record<string, string> = { allow: "Allowed", deny: "Denied", challenge: "A second factor was asked for", wait: "It waits for an approval", none: "Nothing was to be decided" };

function Known({ items, end }: { items: readonly AuditEvent[]; end: AuditEvent }) {
  const who = useWho();
  const now = useNow();
  const { zone } = usePreferences();
  const d = detailOf(end);
  const o = outcome(end);
  const lost = unknownOutcome(items, now);
  const { changes: changed, rest } = changes(d);
  const env = d.env_keys;
  const sorted = [...items].sort((a, b) => (a.occurred_at < b.occurred_at ? -1 : 1));
  const first = sorted[0] ?? end;
  return (
    <Page
      title={`${end.action}${end.app ? ` of ${end.app}` : ""}`}
      heading={
        <span className="flex flex-wrap items-baseline gap-x-2.5">
          <span className="font-mono text-[1.1875rem]">{end.action}</span>
          {end.app !== "" && <Name className="text-ink-2">{end.app}</Name>}
        </span>
      }
      above={{ label: "Audit", to: { to: "/audit" } }}
      lead={
        <span className="flex flex-wrap items-center gap-x-3 gap-y-1">
          <State meaning={lost ? "warn" : o.meaning}>{lost ? "outcome unknown" : o.text}</State>
          <span>
            by <Actor event={end} />
          </span>
          <Time at={end.occurred_at} focusable />
        </span>
      }
      width="read"
    >
      {lost && (
        <Banner meaning="warn" title="Its outcome is not known">
          The rack was asked, and nothing was recorded since. It may have been done: look at the rack before it is repeated.
        </Banner>
      )}
      {end.phase === "refused" && d.error !== undefined && (
        <Banner meaning={o.meaning} title={end.decision === "challenge" ? "A factor was asked for" : "It was refused"}>
          {d.error}
        </Banner>
      )}
      <Section title="What">
        <Facts>
          {end.resource !== "" && <Fact label="On"><Name>{end.resource}</Name></Fact>}
          {end.app !== "" && <Fact label="App">{who.can("convox:app:list") ? <Link className="link" to="/apps/$app" params={{ app: end.app }}><Name>{end.app}</Name></Link> : <Name>{end.app}</Name>}</Fact>}
          {d.path !== undefined && <Fact label="Request"><code className="font-mono text-note">{d.method} {d.path}</code></Fact>}
          {end.status > 0 && <Fact label="Answer"><span className="num">{end.status}</span>{d.code !== undefined && <code className="ml-2 font-mono text-note text-ink-3">{d.code}</code>}</Fact>}
          {d.error !== undefined && end.phase !== "refused" && <Fact label="Error"><Name>{d.error}</Name></Fact>}
          {d.exit_code !== undefined && <Fact label="Exit code"><span className="num">{d.exit_code}</span></Fact>}
          {d.duration_us !== undefined && <Fact label="Took"><span className="num">{duration(d.duration_us)}</span></Fact>}
          {(d.bytes_in !== undefined || d.bytes_out !== undefined) && <Fact label="Size"><span className="num">{[d.bytes_in === undefined ? "" : `${bytes(d.bytes_in)} in`, d.bytes_out === undefined ? "" : `${bytes(d.bytes_out)} out`].filter(Boolean).join(", ")}</span></Fact>}
          {d.count !== undefined && d.count > 0 && <Fact label="Stands for"><span className="num">{d.count}</span> alike</Fact>}
          {rest.map(([name, value]) => (
            <Fact key={name} label={name}><code className="font-mono text-note whitespace-pre-wrap">{value}</code></Fact>
          ))}
        </Facts>
      </Section>
      {(changed.length > 0 || (env && (env.added?.length || env.changed?.length || env.removed?.length))) && (
        <Section title="What it changed">
          <div className="grid gap-2">
            {changed.map((c) => (
              <div key={c.name} className="grid gap-1 border-l-2 border-line-strong pl-3 text-row">
                <span className="text-note text-ink-3">{c.name}</span>
                <span className="flex flex-wrap items-center gap-2 font-mono text-note">
                  <del className="rounded-sm bg-bad-soft px-1.5 text-bad no-underline"><span className="sr-only">before: </span>{c.before === undefined || c.before === "" ? "nothing" : c.before}</del>
                  <span aria-hidden>→</span>
                  <ins className="rounded-sm bg-ok-soft px-1.5 text-ok no-underline"><span className="sr-only">after: </span>{c.after === undefined || c.after === "" ? "nothing" : c.after}</ins>
                </span>
              </div>
            ))}
            {env && <EnvKeys env={env} />}
          </div>
        </Section>
      )}
      <Section title="Who, and from where">
        <Facts>
          <Fact label="Who">{end.actor_kind === "user" && end.actor_id && who.can("gateway:user:read") ? <Link className="link" to="/users/$user" params={{ user: end.actor_id }}><Name>{end.actor_label}</Name></Link> : end.actor_kind === "api_token" && end.actor_id && who.can("gateway:token:read") ? <Link className="link" to="/tokens/$token" params={{ token: end.actor_id }}><Name>{end.actor_label}</Name></Link> : <Actor event={end} />}</Fact>
          {d.owner !== undefined && <Fact label="Owner"><Name>{d.owner}</Name></Fact>}
          {d.token_name !== undefined && <Fact label="With"><Name>{d.token_name}</Name>{d.token !== undefined && <span className="ml-2"><Id value={d.token} short /></span>}</Fact>}
          {end.address !== undefined && <Fact label="From"><Id value={end.address} label="Copy the address" /></Fact>}
          {d.user_agent !== undefined && <Fact label="Client"><span title={d.user_agent}>{d.client === "cli" ? "CLI" : browser(d.user_agent).name}</span> <code className="block font-mono text-note text-ink-3">{d.user_agent}</code></Fact>}
        </Facts>
      </Section>
      <Section title="Why it was decided so">
        <Facts>
          <Fact label="Decision">{decisions[end.decision] ?? end.decision}</Fact>
          {d.permission !== undefined && d.permission !== "" && <Fact label="Permission"><Badge mono>{d.permission}</Badge></Fact>}
          {d.rule !== undefined && d.rule !== "" && <Fact label="By"><Name>{d.rule}</Name></Fact>}
          {d.mfa_level !== undefined && d.mfa_level !== "none" && <Fact label="Second factor">{d.mfa_level}{d.mfa !== undefined && <span className="text-ink-3"> · {d.mfa}</span>}</Fact>}
        </Facts>
      </Section>
      <Section title="Its events" note={<>Request <Id value={end.request_id} /></>}>
        <ol className="border-y border-line text-row">
          {sorted.map((e) => {
            const out = outcome(e);
            return (
              <li key={e.id} className="grid grid-cols-[auto_1fr_auto] items-baseline gap-x-3 border-b border-line px-3 py-2 last:border-0">
                <Dot meaning={out.meaning} />
                <span>
                  {e.phase} <span className="text-ink-3">{e.action !== end.action ? e.action : ""}</span>
                </span>
                <time className="num font-mono text-note text-ink-3" dateTime={e.occurred_at} data-tip={exact(new Date(e.occurred_at), zone)}>
                  {clock(new Date(e.occurred_at), zone)}
                  {e !== first && <> +{duration((new Date(e.occurred_at).getTime() - new Date(first.occurred_at).getTime()) * 1000)}</>}
                </time>
              </li>
            );
          })}
        </ol>
      </Section>
      <Proof event={end} />
      <Section title="As it was recorded">
        <details>
          <summary className="w-fit rounded-sm text-row text-ink-2 hover:text-ink">Show the events as JSON</summary>
          <div className="mt-3 grid gap-3">
            {sorted.map((e) => (
              <Code key={e.id} text={JSON.stringify(e, null, 2)} label={`Event ${e.id}`} />
            ))}
          </div>
        </details>
      </Section>
    </Page>
  );
}

/** Where the event stands in the signed log, and how that is checked without trusting the gateway. */
function Proof({ event }: { event: AuditEvent }) {
  const query = useQuery(proofQuery(event.id));
  const p = query.data;
  const download = () => {
    const url = URL.createObjectURL(new Blob([JSON.stringify(p, null, 2) + "\n"], { type: "application/json" }));
    const a = document.createElement("a");
    a.href = url;
    a.download = `proof-${event.id}.json`;
    a.click();
    window.setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
  return (
    <Section title="Proof" action={p && <Button size="sm" onClick={download}>Download the proof</Button>}>
      {p ? (
        <>
          <Facts>
            <Fact label="In the ledger"><span className="inline-flex items-center gap-1.5"><LockKeyhole className="size-4 text-ok" aria-hidden />at place <span className="num">{p.leaf_index.toLocaleString("en")}</span></span></Fact>
            <Fact label="Under a checkpoint of"><Time at={p.signed_at} focusable /></Fact>
            <Fact label="Copied to the bucket">{p.anchored_at ? <Time at={p.anchored_at} focusable /> : <span className="text-ink-3">not yet</span>}</Fact>
          </Facts>
          <p className="mt-2 text-note text-ink-3">
            <code className="font-mono">admin audit check</code> verifies the file offline, with the public key alone.
          </p>
        </>
      ) : query.error ? (
        <p className="border-y border-line px-3 py-3 text-row text-ink-2">It has no place in the ledger yet: {query.error.message}</p>
      ) : (
        <SkeletonRows rows={2} />
      )}
    </Section>
  );
}

function EnvKeys({ env }: { env: NonNullable<Detail["env_keys"]> }): ReactNode {
  const row = (label: string, keys: string[] | null | undefined, look: string) =>
    keys && keys.length > 0 ? (
      <p className="flex flex-wrap items-center gap-1.5">
        <span className="w-16 text-note text-ink-3">{label}</span>
        {keys.map((k) => (
          <code key={k} className={`rounded-sm px-1.5 font-mono text-note ${look}`}>{k}</code>
        ))}
      </p>
    ) : null;
  return (
    <div className="grid gap-1 border-l-2 border-line-strong pl-3">
      <span className="text-note text-ink-3">environment; values are never recorded</span>
      {row("added", env.added, "bg-ok-soft text-ok")}
      {row("changed", env.changed, "bg-warn-soft text-warn")}
      {row("removed", env.removed, "bg-bad-soft text-bad")}
    </div>
  );
}
