import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { CloudUpload, ShieldCheck } from "lucide-react";
import { call, type Schemas } from "@/api/client";
import { doctor, health, ledger } from "@/api/queries";
import { Page } from "@/shell/page";
import { useWho } from "@/shell/who";
import { Button } from "@/ui/controls";
import { Async, Badge, Banner, Code, Fact, Facts, Id, RefreshButton, Section, SkeletonRows, State, Time, type Meaning } from "@/ui/display";
import { useToast } from "@/ui/overlay";
import { Outbox } from "./notices";

/** What each check is about, in words. A check that is not known here is shown by its name. */
const texts: Record<string, [title: string, text: string]> = {
  audit: ["Recording", "Events of admin become durable in PostgreSQL."],
  database: ["Database", "PostgreSQL answers."],
  draining: ["Serving", "This process takes requests."],
  ledger: ["Ledger", "Events get their place in the signed log."],
  listener: ["Changes of access", "They are heard as they are made, so that a lock or a new role is in force at once."],
  migrations: ["Schema", "The database has every step that this version knows."],
  "sign-in": ["Sign-in", "The identity provider answers. Without it nobody new can sign in; everybody else goes on."],
};

export function Background() {
  const who = useWho();
  const query = useQuery(health);
  return (
    <Page title="Background work" width="read" lead="What goes on beside requests, and whether it does." actions={<RefreshButton keys={[["health"], ["audit", "ledger"], ["doctor"]]} />}>
      {who.can("gateway:audit:read") && <Ledger />}
      <Section title="Health" note="Looked at again every half minute.">
        <Async query={query}>
          {(data) => (
            <ul className="divide-y divide-line border-y border-line text-row">
              {Object.entries(data.checks)
                .sort(([a, x], [b, y]) => Number(x.ok) - Number(y.ok) || a.localeCompare(b))
                .map(([name, check]) => {
                  const [title, text] = texts[name] ?? [name.charAt(0).toUpperCase() + name.slice(1), ""];
                  return (
                    <li key={name} className="grid gap-x-6 gap-y-0.5 px-3 py-3 sm:grid-cols-[11rem_minmax(0,1fr)_8rem]">
                      <span className="font-medium">{title}</span>
                      <span className="text-ink-2">
                        {text}
                        {check.detail && <span className={check.ok ? "block text-ink-3" : "block text-bad"}>{check.detail}</span>}
                      </span>
                      <span className="sm:justify-self-end">
                        <State meaning={check.ok ? "ok" : name === "sign-in" ? "warn" : "bad"}>{check.ok ? "works" : "has trouble"}</State>
                      </span>
                    </li>
                  );
                })}
            </ul>
          )}
        </Async>
      </Section>
      {who.can("gateway:integration:manage") && <Outbox />}
      {who.can("gateway:setting:read") && <ChecklistOf />}
    </Page>
  );
}

function Ledger() {
  const who = useWho();
  const client = useQueryClient();
  const say = useToast();
  const query = useQuery(ledger);
  const may = who.can("gateway:audit:export");
  const verify = useMutation({
    mutationFn: () => call("post", "/audit/verifications"),
    onSuccess: () => {
      say("The verification has begun. What it finds shows here.");
      window.setTimeout(() => void client.invalidateQueries({ queryKey: ["audit", "ledger"] }), 3000);
    },
    onError: (error) => say(error.message, true),
  });
  const anchor = useMutation({ mutationFn: () => call("post", "/audit/anchors"), onSuccess: () => say("The copy to the bucket has begun."), onError: (error) => say(error.message, true) });
  return (
    <Section
      title="The ledger"
      note="Every event has a place in a signed, append-only log that anybody with the public key can check."
      action={
        may && (
          <span className="flex flex-wrap gap-2">
            {query.data?.anchor && (
              <Button size="sm" busy={anchor.isPending} onClick={() => anchor.mutate()}>
                <CloudUpload aria-hidden />
                Copy now
              </Button>
            )}
            <Button size="sm" busy={verify.isPending} onClick={() => verify.mutate()}>
              <ShieldCheck aria-hidden />
              Verify now
            </Button>
          </span>
        )
      }
    >
      <Async query={query} skeleton={<SkeletonRows rows={4} />}>
        {(l) => (
          <>
            {l.trouble && <Banner meaning="bad" title="Nothing is signed at present">{l.trouble}</Banner>}
            <Facts>
              <Fact label="Size"><span className="num">{l.size.toLocaleString("en")} events</span></Fact>
              <Fact label="Signed"><Time at={l.signed_at} focusable />{l.waiting_seconds > 0 && <span className="text-warn"> · the oldest event waits since {l.waiting_seconds} s</span>}</Fact>
              {l.root && <Fact label="Root"><Id value={l.root} /></Fact>}
              <Fact label="Verified">
                {l.verifications.length === 0 ? <span className="text-ink-3">not yet</span> : l.verifications.map((v) => (
                  <span key={v.what} className="mr-4 inline-flex gap-2"><State meaning={v.sound ? "ok" : "bad"}>{v.what}: {v.sound ? "sound" : "not sound"}</State><span className="text-ink-3"><Time at={v.verified_at} /></span></span>
                ))}
              </Fact>
              <Fact label="Copies">{l.anchor ? <>{l.anchor.chain}, <span className="num">{l.anchor.size.toLocaleString("en")}</span> events, <Time at={l.anchor.anchored_at} />{l.anchor.trouble && <span className="block text-bad">{l.anchor.trouble}</span>}</> : <span className="text-ink-3">no bucket is configured</span>}</Fact>
              {l.push && <Fact label="Pushed to">{l.push.url}, <span className="num">{l.push.behind}</span> wait{l.push.trouble && <span className="block text-bad">{l.push.trouble}</span>}</Fact>}
              <Fact label="Kept">{l.retention_days === undefined ? "for ever" : `${l.retention_days} days`}</Fact>
            </Facts>
            <details className="mt-3">
              <summary className="w-fit rounded-sm text-row text-ink-2 hover:text-ink">Public key, to check without trusting the gateway</summary>
              <div className="mt-3 grid gap-3">
                <Code text={l.public_keys.join("\n")} label="Public keys" wrap />
                {l.checkpoint && <Code text={l.checkpoint} label="Newest checkpoint" />}
              </div>
            </details>
          </>
        )}
      </Async>
    </Section>
  );
}

const lineStates: Record<Schemas["ChecklistLine"]["status"], [Meaning, string]> = { pass: ["ok", "yes"], fail: ["bad", "no"], "cannot-tell": ["warn", "cannot tell"] };

/** The production checklist: what is left to do stands first. */
export function ChecklistOf({ short = false }: { short?: boolean }) {
  const query = useQuery(doctor);
  const order = { fail: 0, "cannot-tell": 1, pass: 2 };
  return (
    <Section title="Production checklist" note={query.data && <span className="num">{query.data.passed} pass, {query.data.failed} fail, {query.data.cannot_tell} cannot be told from here.</span>}>
      <Async query={query}>
        {(data) => (
          <ul className="divide-y divide-line border-y border-line text-row">
            {[...data.lines]
              .sort((a, b) => order[a.status] - order[b.status])
              .slice(0, short ? 6 : undefined)
              .map((l) => {
                const [meaning, text] = lineStates[l.status];
                return (
                  <li key={l.id} className="grid gap-x-4 gap-y-1 px-3 py-2.5 sm:grid-cols-[minmax(0,1fr)_auto]">
                    <div className="min-w-0">
                      <p className="font-medium">{l.title} <Badge>{l.group}</Badge></p>
                      <p className="text-ink-2">{l.detail}</p>
                      {l.remedy && <p className="text-ink-2">{l.remedy}</p>}
                    </div>
                    <span><State meaning={meaning}>{text}</State></span>
                  </li>
                );
              })}
          </ul>
        )}
      </Async>
    </Section>
  );
}
