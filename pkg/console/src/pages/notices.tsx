// What one hears of oneself, and what waits to go out.
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { call } from "@/api/client";
import { deadNotices, integrations, myNotices, type NoticeChoice } from "@/api/queries";
import { Button, Switch } from "@/ui/controls";
import { Async, Name, Notice, Section, State, Time } from "@/ui/display";
import { useToast } from "@/ui/overlay";
import { stateOf } from "./integrations";

/** Everybody's own choice of what they hear of. */
export function MyNotices() {
  const query = useQuery(myNotices);
  const client = useQueryClient();
  const say = useToast();
  const choose = useMutation({
    mutationFn: (wish: { topic: string; mail?: boolean; slack?: boolean }) => call("put", "/me/notices", { body: { items: [wish] } }),
    onSuccess: (data) => client.setQueryData(myNotices.queryKey, data),
    onError: (error) => say(error.message, true),
  });
  const row = (c: NoticeChoice) => (
    <li key={c.topic} className="grid grid-cols-[minmax(0,1fr)_3.5rem_3.5rem] items-center gap-x-3 px-3 py-2.5">
      <span>
        {c.description}
        {c.own && <span className="block text-note text-ink-3">Your own security: the mail always comes.</span>}
      </span>
      <span className="justify-self-center">
        <Switch label={`Mail: ${c.description}`} checked={c.mail} disabled={c.own || choose.isPending} onChange={(mail) => choose.mutate({ topic: c.topic, mail })} />
      </span>
      <span className="justify-self-center">
        <Switch label={`Slack: ${c.description}`} checked={c.slack} disabled={choose.isPending} onChange={(slack) => choose.mutate({ topic: c.topic, slack })} />
      </span>
    </li>
  );
  return (
    <Section title="Notices" note="What you are told of. In Slack you are found by your address, where an administrator has connected it.">
      <Async query={query}>
        {(data) => (
          <>
            <div aria-hidden className="grid grid-cols-[minmax(0,1fr)_3.5rem_3.5rem] gap-x-3 px-3 pb-1.5 text-note text-ink-3">
              <span />
              <span className="justify-self-center">Mail</span>
              <span className="justify-self-center">Slack</span>
            </div>
            <ul className="divide-y divide-line border-y border-line text-row">{data.items.map(row)}</ul>
          </>
        )}
      </Async>
    </Section>
  );
}

/** The outbox: what waits, and what was given up. */
export function Outbox() {
  const state = useQuery(integrations);
  const dead = useQuery(deadNotices);
  const client = useQueryClient();
  const say = useToast();
  const retry = useMutation({
    mutationFn: (id: string | undefined) =>
      id === undefined ? call("post", "/notices/retry", {}) : call("post", "/notices/{noticeId}/retry", { path: { noticeId: id } }),
    onSuccess: async () => {
      await Promise.all([client.invalidateQueries({ queryKey: ["notices"] }), client.invalidateQueries({ queryKey: ["integrations"] })]);
      say("It is tried again.");
    },
    onError: (error) => say(error.message, true),
  });
  return (
    <Section
      title="Outbox"
      note="Mails and Slack messages. What fails is tried again for three days, and then given up."
      action={
        (dead.data?.items.length ?? 0) > 0 ? (
          <Button size="sm" busy={retry.isPending} onClick={() => retry.mutate(undefined)}>
            Retry all
          </Button>
        ) : undefined
      }
    >
      <Async query={state}>
        {(data) => (
          <ul className="divide-y divide-line border-y border-line text-row">
            {data.items.map((m) => {
              const [meaning, text] = stateOf(m);
              return (
                <li key={m.medium} className="grid gap-x-6 gap-y-0.5 px-3 py-3 sm:grid-cols-[11rem_minmax(0,1fr)_8rem]">
                  <Link to="/integrations" className="font-medium">{m.medium === "mail" ? "Mail" : "Slack"}</Link>
                  <span className="num text-ink-2">
                    {m.waiting} waiting{m.oldest && <> since <Time at={m.oldest} /></>} · {m.held} held · {m.dead} given up · {m.sent_today} sent in a day
                    {m.failures > 0 && m.trouble && <span className="block text-bad">{m.trouble}</span>}
                  </span>
                  <span className="sm:justify-self-end"><State meaning={meaning}>{text}</State></span>
                </li>
              );
            })}
          </ul>
        )}
      </Async>
      <div className="mt-4">
        <Async query={dead}>
          {(data) =>
            data.items.length === 0 ? (
              <Notice title="Nothing was given up">Notices that nobody takes for three days show here, and can be tried again.</Notice>
            ) : (
              <ul className="divide-y divide-line border-y border-line text-row">
                {data.items.map((n) => (
                  <li key={n.id} className="flex flex-wrap items-center gap-x-4 gap-y-1 px-3 py-2.5">
                    <span className="min-w-0 flex-1 basis-52">
                      <span className="font-medium"><Name>{n.headline}</Name></span>
                      <span className="block text-note text-ink-3"><Name>{n.recipient}</Name> · <Time at={n.happened_at} /></span>
                      {n.trouble && <span className="block text-note text-bad">{n.trouble}</span>}
                    </span>
                    <Button size="sm" busy={retry.isPending} onClick={() => retry.mutate(n.id)}>Retry</Button>
                  </li>
                ))}
              </ul>
            )
          }
        </Async>
      </div>
    </Section>
  );
}
