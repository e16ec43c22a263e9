// Mail and Slack: how they do, which channels are told of what, and a test of each.
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi, useNavigate } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";
import { call } from "@/api/client";
import { integrations, noticeRules, slackChannels, type Integration, type NoticeRule } from "@/api/queries";
import { Page } from "@/shell/page";
import { useWho } from "@/shell/who";
import { Button, Field, Input, Select } from "@/ui/controls";
import { Async, Badge, Fact, Facts, Name, Notice, RefreshButton, Section, State, Time } from "@/ui/display";
import { FormError, useConfirm, useToast } from "@/ui/overlay";

export function stateOf(m: Integration): ["ok" | "warn" | "bad" | "none", string] {
  if (m.log_only) return ["warn", "logged only"];
  if (!m.configured) return ["none", "not configured"];
  if (!m.connected) return ["none", "not connected"];
  if (m.failures > 0) return ["bad", "has trouble"];
  return ["ok", "works"];
}

/** How a medium does, in facts. */
export function MediumFacts({ medium: m }: { medium: Integration }) {
  const [meaning, text] = stateOf(m);
  return (
    <Facts>
      <Fact label="State">
        <State meaning={meaning}>{text}</State>
      </Fact>
      {m.from && <Fact label="From"><Name>{m.from}</Name></Fact>}
      {m.team && (
        <Fact label="Workspace">
          <Name>{m.team}</Name> · connected <Time at={m.connected_at} focusable /> by <Name>{m.connected_by ?? ""}</Name>
        </Fact>
      )}
      <Fact label="Last success"><Time at={m.succeeded_at} focusable /></Fact>
      <Fact label="Last failure">
        <Time at={m.failed_at} focusable />
        {m.trouble && <span className="block text-ink-2">{m.trouble}</span>}
      </Fact>
      <Fact label="Notices">
        {m.sent_today} sent in a day · {m.waiting} waiting · {m.held} held for a digest · {m.dead} given up
      </Fact>
    </Facts>
  );
}

function Test({ medium, hint, initial }: { medium: "mail" | "slack"; hint: string; initial: string }) {
  const say = useToast();
  const client = useQueryClient();
  const [to, setTo] = useState(initial);
  const test = useMutation({
    mutationFn: () => call("post", "/integrations/test", { body: { medium, recipient: to.trim() } }),
    onSuccess: async () => {
      say("The test is on its way.");
      await client.invalidateQueries({ queryKey: ["integrations"] });
    },
  });
  return (
    <form
      className="mt-4 grid max-w-md gap-3"
      onSubmit={(e) => {
        e.preventDefault();
        test.mutate();
      }}
    >
      <Field label="Send a test to" hint={hint}>
        {(ids) => <Input {...ids} value={to} onChange={(e) => setTo(e.target.value)} required />}
      </Field>
      <FormError error={test.error} />
      <div>
        <Button type="submit" busy={test.isPending}>
          Send a test
        </Button>
      </div>
    </form>
  );
}

function Rules() {
  const client = useQueryClient();
  const say = useToast();
  const [confirm, ask] = useConfirm();
  const rules = useQuery(noticeRules);
  const channels = useQuery(slackChannels);
  const [channel, setChannel] = useState("");
  const [patterns, setPatterns] = useState("refused, alert");
  const add = useMutation({
    mutationFn: () =>
      call("post", "/notice-rules", {
        body: { channel_id: channel, channel_name: channels.data?.items.find((c) => c.id === channel)?.name ?? "", patterns: patterns.split(/[\s,]+/).filter(Boolean) },
      }),
    onSuccess: async () => {
      await client.invalidateQueries({ queryKey: ["notice-rules"] });
      say("The channel is told from now on.");
    },
  });
  const remove = (rule: NoticeRule) =>
    ask({
      title: `Tell #${rule.channel_name || rule.channel_id} no more?`,
      verb: "Remove the rule",
      children: <p>Events that match {rule.patterns.join(", ")} are not told there any more. What was told stays in Slack.</p>,
      act: async () => {
        await call("delete", "/notice-rules/{ruleId}", { path: { ruleId: rule.id } });
        await client.invalidateQueries({ queryKey: ["notice-rules"] });
        say("The rule is gone.");
      },
    });
  return (
    <Section title="Channels" note="Which events are told where, as they get their place in the audit log.">
      <Async query={rules}>
        {(data) =>
          data.items.length === 0 ? (
            <Notice title="No channel is told of anything yet">Choose a channel and what it is to hear of.</Notice>
          ) : (
            <ul className="divide-y divide-line border-y border-line text-row">
              {data.items.map((rule) => (
                <li key={rule.id} className="flex flex-wrap items-center gap-x-4 gap-y-1 px-3 py-2.5">
                  <span className="min-w-0 flex-1 basis-52">
                    <span className="font-medium"><Name>{"#" + (rule.channel_name || rule.channel_id)}</Name></span>
                    <span className="mt-1 flex flex-wrap gap-1">
                      {rule.patterns.map((p) => <Badge key={p} mono>{p}</Badge>)}
                    </span>
                  </span>
                  <span className="text-note text-ink-3">by <Name>{rule.created_by}</Name> <Time at={rule.created_at} /></span>
                  <Button size="sm" tone="danger" onClick={() => remove(rule)}>Remove</Button>
                </li>
              ))}
            </ul>
          )
        }
      </Async>
      <form
        className="mt-4 grid max-w-md gap-3"
        onSubmit={(e) => {
          e.preventDefault();
          add.mutate();
        }}
      >
        <Field label="Channel">
          {(ids) => (
            <Select {...ids} value={channel} onChange={(e) => setChannel(e.target.value)} required>
              <option value="">{channels.isPending ? "Asking Slack…" : "Choose a channel"}</option>
              {channels.data?.items.map((c) => <option key={c.id} value={c.id}>#{c.name}</option>)}
            </Select>
          )}
        </Field>
        <Field label="Hears of" hint="Actions such as app.delete, all of a kind such as user.*, refused, alert, or * for everything that people change.">
          {(ids) => <Input {...ids} value={patterns} onChange={(e) => setPatterns(e.target.value)} required />}
        </Field>
        <FormError error={add.error ?? channels.error} />
        <div>
          <Button type="submit" busy={add.isPending}>Add a rule</Button>
        </div>
      </form>
      {confirm}
    </Section>
  );
}

function Slack({ medium }: { medium: Integration }) {
  const client = useQueryClient();
  const say = useToast();
  const [confirm, ask] = useConfirm();
  const begin = useMutation({
    mutationFn: () => call("post", "/integrations/slack", {}),
    onSuccess: (answer) => window.location.assign(answer.url),
  });
  const disconnect = () =>
    ask({
      title: "Disconnect Slack?",
      verb: "Disconnect",
      children: <p>The token is revoked at Slack and forgotten here. What waits to go to Slack is given up. Rules stay, for when it is connected again.</p>,
      act: async () => {
        await call("delete", "/integrations/slack", {});
        await client.invalidateQueries({ queryKey: ["integrations"] });
        say("Slack is disconnected.");
      },
    });
  return (
    <>
      <Section
        title="Slack"
        note="Messages to channels by rules, and to people who want them, by their address."
        action={
          medium.connected ? (
            <Button size="sm" tone="danger" onClick={disconnect}>Disconnect</Button>
          ) : medium.configured ? (
            <Button size="sm" tone="primary" busy={begin.isPending} onClick={() => begin.mutate()}>Connect Slack</Button>
          ) : undefined
        }
      >
        <MediumFacts medium={medium} />
        <FormError error={begin.error} />
        {!medium.configured && <p className="mt-3 max-w-prose text-row text-ink-2">Make an app at Slack, and give admin SLACK_CLIENT_ID, SLACK_CLIENT_SECRET and SLACK_SIGNING_SECRET.</p>}
        {medium.connected && <Test medium="slack" initial="" hint="A channel's id, or @ and the address of somebody who is a user here." />}
      </Section>
      {medium.connected && <Rules />}
      {confirm}
    </>
  );
}

export function Integrations() {
  const query = useQuery(integrations);
  const who = useWho();
  return (
    <Page title="Integrations" width="read" lead="How people hear of what happens, and whether that works." actions={<RefreshButton keys={[["integrations"], ["notice-rules"]]} />}>
      <Async query={query}>
        {(data) => (
          <>
            {data.items.map((m) =>
              m.medium === "mail" ? (
                <Section key="mail" title="Mail" note="Through Postmark. Everybody chooses under My account what they hear of.">
                  <MediumFacts medium={m} />
                  {!m.configured && <p className="mt-3 max-w-prose text-row text-ink-2">Give admin POSTMARK_API_TOKEN and POSTMARK_FROM. What would go out meanwhile waits for three days.</p>}
                  {(m.configured || m.log_only) && <Test medium="mail" initial={who.email ?? ""} hint="The address of somebody who is a user here." />}
                </Section>
              ) : (
                <Slack key="slack" medium={m} />
              ),
            )}
          </>
        )}
      </Async>
    </Page>
  );
}

const back = getRouteApi("/integrations/slack");

/** Where Slack sends the browser back to. */
export function SlackBack() {
  const { code, state, error } = back.useSearch();
  const client = useQueryClient();
  const navigate = useNavigate();
  const say = useToast();
  const begun = useRef(false);
  const finish = useMutation({
    mutationFn: () => call("put", "/integrations/slack", { body: { code: code ?? "", state: state ?? "" } }),
    onSuccess: async () => {
      await client.invalidateQueries({ queryKey: ["integrations"] });
      say("Slack is connected.");
      await navigate({ to: "/integrations", replace: true });
    },
  });
  const { mutate } = finish;
  useEffect(() => {
    if (begun.current || code === undefined || state === undefined) return;
    begun.current = true;
    mutate();
  }, [code, state, mutate]);
  const refused = error !== undefined || code === undefined || state === undefined;
  return (
    <Page title="Connecting Slack" width="read">
      {refused ? (
        <Notice title="Slack was not connected">{error === "access_denied" ? "It was not allowed at Slack." : "What came back from Slack is not whole."} Begin again under Integrations.</Notice>
      ) : (
        <p className="text-row text-ink-2">{finish.isError ? "It did not work." : "One moment…"}</p>
      )}
      <FormError error={finish.error} />
    </Page>
  );
}
