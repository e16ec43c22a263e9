// The design system, shown: every component in every state, in the theme that is on. What a page needs is here first.
import { Inbox, KeyRound, MoreHorizontal, Plus, RefreshCw } from "lucide-react";
import { useState, type ReactNode } from "react";
import { OfflineError, ProblemError } from "@/api/client";
import { diffEnv, parseEnv } from "@/lib/env";
import { Page, Toolbar } from "@/shell/page";
import { Button, Checkbox, Chips, Field, IconButton, Input, SearchField, Select, Switch, TextArea, type Tone } from "@/ui/controls";
import { Badge, Banner, Code, Empty, Fact, Facts, Failure, Id, Kbd, Name, Section, Skeleton, SkeletonRows, Stale, State, Time, type Meaning } from "@/ui/display";
import { Confirm, Dialog, Menu, useToast } from "@/ui/overlay";
import { Table, type Column } from "@/ui/table";
import { EnvDiffView } from "./app";
import { PermissionPicker } from "./permissionpicker";

const colours = ["paper", "raised", "sunken", "line", "line-strong", "control", "ink", "ink-2", "ink-3", "accent", "accent-soft", "ok", "ok-soft", "ok-dot", "warn", "warn-soft", "warn-dot", "bad", "bad-soft", "bad-dot"];
const meanings: Meaning[] = ["ok", "warn", "bad", "info", "none"];
const tones: Tone[] = ["primary", "plain", "quiet", "danger"];

// Names that people and racks may choose, and that must come out as they are.
const hostile = [
  "Ana Example",
  "<script>alert(1)</script>",
  '<img src=x onerror="alert(1)">',
  "\u202Egnp.exe",
  "محمد عبد الله الأمين",
  "יוסי כהן",
  "👩‍👩‍👧‍👦 family 🏳️‍🌈",
  "Wolfeschlegelsteinhausenbergerdorff".repeat(4),
  "Z̸̢̛a̷̧͝l̵̡̈g̶̨̔o̴̧͋",
  "{{7*7}} ${7*7} %s %n",
];

interface Row {
  id: number;
  name: string;
}

const problem = (status: number, code: string, detail: string) => new ProblemError({ status, code, detail, request_id: "019a9c1f-7a3e-7c55-8b1f-0e5a9b6f2d11" });

function Show({ title, children }: { title: string; children: ReactNode }) {
  return (
    <div className="grid gap-2 py-3 sm:grid-cols-[9rem_1fr]">
      <h3 className="text-note text-ink-3">{title}</h3>
      <div className="flex min-w-0 flex-wrap items-center gap-2.5 overflow-x-clip overflow-y-visible">{children}</div>
    </div>
  );
}

export function Design() {
  const say = useToast();
  const [text, setText] = useState("web");
  const [chip, setChip] = useState<"all" | "some">("all");
  const [on, setOn] = useState(true);
  const [picked, setPicked] = useState(["convox:app:list"]);
  const [dialog, setDialog] = useState(false);
  const [confirm, setConfirm] = useState(false);
  const now = new Date();
  const columns: Column<Row>[] = [
    { id: "name", header: "Name", accessorFn: (r) => r.name, cell: ({ row }) => <Name className="font-medium">{row.original.name}</Name>, meta: { width: "minmax(8rem, 2fr)", narrow: "title" } },
    { id: "state", header: "State", accessorFn: (r) => r.id % 5, cell: ({ row }) => <State meaning={meanings[row.original.id % 5] ?? "none"}>{meanings[row.original.id % 5]}</State>, meta: { width: "8rem", narrow: "end" } },
    { id: "n", header: "Number", accessorFn: (r) => r.id, cell: ({ row }) => (row.original.id * 1237).toLocaleString("en"), meta: { width: "8rem", align: "right" } },
  ];
  const rows = Array.from({ length: 10_000 }, (_, i): Row => ({ id: i, name: `${hostile[i % hostile.length] ?? ""} ${i}` }));
  return (
    <Page title="Design system" lead="Every component in every state. Quiet colours, five sizes of type, hairlines in place of boxes, one accent; what is dangerous says so in words.">
      <Section title="Colour">
        <ul className="grid grid-cols-[repeat(auto-fill,minmax(7rem,1fr))] gap-3">
          {colours.map((c) => (
            <li key={c} className="text-note">
              <span className="block h-12 rounded-md border border-line" style={{ background: `var(--${c})` }} />
              <code className="font-mono text-label text-ink-3">{c}</code>
            </li>
          ))}
        </ul>
      </Section>
      <Section title="Type">
        <div className="grid gap-1.5">
          <p className="text-title font-semibold tracking-[-0.015em]">Title, 20: Releases of web</p>
          <p className="text-lead">Lead, 16: what a dialog is about</p>
          <p className="text-body">Body, 14: what one reads and fills in</p>
          <p className="text-row">Row, 13: what lists are made of; figures stand below each other: <span className="num">1,111 8,888</span></p>
          <p className="text-note text-ink-3">Note, 12: what explains</p>
          <p className="text-label text-ink-3">Label, 11: what groups</p>
          <p className="font-mono text-note">Monospace, for what is typed and pasted: convox login gateway.example.com</p>
        </div>
      </Section>
      <Section title="Buttons">
        {tones.map((tone) => (
          <Show key={tone} title={tone}>
            <Button tone={tone}>Promote</Button>
            <Button tone={tone} size="sm">Promote</Button>
            <Button tone={tone}><Plus aria-hidden />Create</Button>
            <Button tone={tone} disabled>Disabled</Button>
            <Button tone={tone} busy>Busy</Button>
            <IconButton tone={tone} label={`Load again, ${tone}`}><RefreshCw aria-hidden /></IconButton>
          </Show>
        ))}
      </Section>
      <Section title="Fields">
        <div className="grid max-w-xl gap-4">
          <Field label="Name" hint="What uses it, such as web-deploys.">{(ids) => <Input {...ids} value={text} onChange={(e) => setText(e.target.value)} />}</Field>
          <Field label="Address" error="ana@ is no address: it needs a domain.">{(ids) => <Input {...ids} defaultValue="ana@" />}</Field>
          <Field label="Disabled" optional>{(ids) => <Input {...ids} disabled defaultValue="cannot be changed" />}</Field>
          <Field label="Role">{(ids) => <Select {...ids}><option>viewer</option><option>deployer</option></Select>}</Field>
          <Field label="Environment">{(ids) => <TextArea {...ids} rows={3} className="font-mono text-note" defaultValue={"LOG_LEVEL=info\nPORT=3000"} />}</Field>
          <SearchField label="Search apps" value={text} onChange={setText} />
          <Checkbox label="Those that have ended too" hint="They stay in the record." checked={on} onChange={(e) => setOn(e.target.checked)} />
          <Checkbox label="Disabled" disabled />
          <span className="flex items-center gap-3 text-row"><Switch label="Destructive actions" checked={on} onChange={setOn} /> <Switch label="Off" checked={!on} onChange={(v) => setOn(!v)} /> <Switch label="Cannot be changed" checked disabled onChange={() => undefined} /></span>
          <Chips label="Outcome" value={chip} onChange={setChip} options={[{ value: "all", label: "All", count: 1204 }, { value: "some", label: "Refused", count: 3 }]} />
        </div>
      </Section>
      <Section title="States and names">
        <Show title="State">{meanings.map((m) => <State key={m} meaning={m} pulse={m === "info"}>{m}</State>)}</Show>
        <Show title="Badge">{meanings.map((m) => <Badge key={m} meaning={m}>{m}</Badge>)}<Badge mono>convox:app:read</Badge></Show>
        <Show title="Time"><Time at={now.toISOString()} focusable /><Time at={new Date(now.getTime() - 7_500_000).toISOString()} focusable /><Time at={new Date(now.getTime() + 3 * 86_400_000).toISOString()} focusable /><Time at={undefined} /></Show>
        <Show title="Id"><Id value="019a9c1f-7a3e-7c55-8b1f-0e5a9b6f2d11" /><Id value="019a9c1f-7a3e-7c55-8b1f-0e5a9b6f2d11" short label="Copy the short one" /></Show>
        <Show title="Keys"><Kbd>g</Kbd><Kbd>a</Kbd><Kbd>Ctrl</Kbd><Kbd>K</Kbd></Show>
        <Show title="Any name">
          <ul className="grid w-full min-w-0 gap-1">{hostile.map((h) => <li key={h} className="truncate"><Name>{h}</Name></li>)}</ul>
        </Show>
      </Section>
      <Section title="Banners">
        {meanings.map((m) => <Banner key={m} meaning={m === "bad" ? "bad" : m} title={m === "bad" ? "Locked" : undefined} action={<Button size="sm">Look</Button>}>This is what a banner of the kind “{m}” says, in a sentence or two.</Banner>)}
        <Stale since={now.getTime() - 120_000} error={new OfflineError(null)} retry={() => undefined} />
      </Section>
      <Section title="In the place of a list">
        <div className="grid gap-6" data-sample>
          <SkeletonRows rows={3} />
          <Skeleton className="h-4 w-64" />
          <Empty icon={<KeyRound aria-hidden />} title="There are no tokens yet" action={<Button tone="primary">Create a token</Button>}>A pipeline needs one to deploy through the gateway.</Empty>
          <Failure error={problem(403, "no-permission", "You need gateway:user:read over all apps: ask an administrator for a role that has it.")} retry={() => undefined} />
          <Failure error={problem(503, "unavailable", "The gateway could not reach its database in time, and nothing was changed: try again in a few seconds.")} retry={() => undefined} />
          <Failure error={problem(404, "no-such-token", "There is no token with this id.")} what="token" />
          <Failure error={new OfflineError(null)} retry={() => undefined} />
        </div>
      </Section>
      <Section title="Facts and code">
        <Facts>
          <Fact label="State"><State meaning="ok">active</State></Fact>
          <Fact label="Owner"><Name>ana@example.com</Name></Fact>
          <Fact label="Made"><Time at={now.toISOString()} focusable /> by <Name>{hostile[4] ?? ""}</Name></Fact>
        </Facts>
        <div className="mt-4 grid gap-3">
          <Code text="convox login gateway.example.com -t rgw_cli_…" label="Line to paste" />
          <EnvDiffView reveal diff={diffEnv(parseEnv("A=1\nOLD=gone\nLOG_LEVEL=info"), parseEnv("A=1\nLOG_LEVEL=debug\nNEW=<b>1</b>"))} />
        </div>
      </Section>
      <Section title="Over the page">
        <Show title="Dialogs">
          <Button onClick={() => setDialog(true)}>Open a dialog</Button>
          <Button tone="danger" onClick={() => setConfirm(true)}>Ask before deleting</Button>
          <Menu trigger={<IconButton label="What to do" tone="plain" size="md"><MoreHorizontal aria-hidden /></IconButton>} items={[{ label: "Rename", onSelect: () => say("It would be renamed.") }, { label: "Not now", onSelect: () => undefined, disabled: "It is locked." }, "line", { label: "Delete…", danger: true, onSelect: () => setConfirm(true) }]} />
          <Button onClick={() => say("The role was changed.")}>Say something</Button>
          <Button onClick={() => say("The gateway could not be reached.", true)}>Say that it failed</Button>
        </Show>
      </Section>
      <Section title="Permissions">
        <PermissionPicker all={["convox:app:list", "convox:app:read", "convox:app:delete", "convox:secret:read", "gateway:user:read", "gateway:user:manage"]} value={picked} onChange={setPicked} />
      </Section>
      <Section title="A list of ten thousand" note="Of which the page holds those that can be seen.">
        <Toolbar><span className="text-note text-ink-3">Sort by a header; walk with j and k where rows are links.</span></Toolbar>
        <Table label="Ten thousand rows" rows={rows} columns={columns} rowKey={(r) => String(r.id)} empty={<Empty icon={<Inbox aria-hidden />} title="None" />} />
      </Section>
      <Dialog open={dialog} onClose={() => setDialog(false)} title="A dialog" description="It says what it is about, and holds the focus until it is closed.">
        <Field label="Name">{(ids) => <Input {...ids} autoFocus />}</Field>
      </Dialog>
      <Confirm open={confirm} onClose={() => setConfirm(false)} title="Delete web?" verb="Delete it" type="web" act={() => new Promise((done) => window.setTimeout(done, 800))}>
        <p>Its processes end, and its builds, releases and databases are deleted. Nothing brings them back.</p>
      </Confirm>
    </Page>
  );
}
