// One app: its services, processes, builds, releases, environment, resources and settings, each at an address of its own.
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi, Link, Outlet, useRouter } from "@tanstack/react-router";
import { Eye, EyeOff, Hammer, Layers, MoreHorizontal, Pencil, RotateCw, ScrollText, Square, TrendingUp, Trash2, Variable as VariableIcon } from "lucide-react";
import { lazy, Suspense, useMemo, useState } from "react";
import { change, isTime, path, type Build, type Process, type Release, type Resource, type Service } from "@/api/rack";
import { app as appQuery, builds, processes, release as releaseQuery, releases, resources, services } from "@/api/queries";
import { checkEnv, diffEnv, formatEnv, holdsMask, isEmpty, masked, parseEnv, withoutRemarks, type EnvDiff, type Variable } from "@/lib/env";
import { holds } from "@/lib/match";
import { Page, Tabs, Toolbar } from "@/shell/page";
import { useCan, useWho } from "@/shell/who";
import { Button, ButtonLink, Field, IconButton, Input, SearchField, TextArea } from "@/ui/controls";
import { Async, Badge, Banner, CopyButton, Empty, Fact, Facts, Failure, Name, RefreshButton, Section, Skeleton, SkeletonRows, State, Time } from "@/ui/display";
import { Actions, Dialog, FormError, Menu, useConfirm, useToast } from "@/ui/overlay";
import { Table, type Column } from "@/ui/table";
import { appState, buildState, processState } from "./parts";
import { SettingsOfApp } from "./settings";

const LogView = lazy(() => import("./logview").then((m) => ({ default: m.LogView })));
const route = getRouteApi("/apps/$app");

export function AppFrame() {
  const { app: name } = route.useParams();
  const query = useQuery(appQuery(name));
  const who = useWho();
  const a = query.data;
  const to = (page: string) => ({ to: page, params: { app: name } }) as never;
  const tabs = [
    { label: "Services", to: to("/apps/$app"), exact: true, needs: "convox:app:read" },
    { label: "Processes", to: to("/apps/$app/processes"), needs: "convox:process:list" },
    { label: "Builds", to: to("/apps/$app/builds"), needs: "convox:build:list" },
    { label: "Releases", to: to("/apps/$app/releases"), needs: "convox:release:list" },
    { label: "Environment", to: to("/apps/$app/environment"), needs: "convox:env:read" },
    { label: "Resources", to: to("/apps/$app/resources"), needs: "convox:resource:list" },
    { label: "Settings", to: to("/apps/$app/settings"), needs: "convox:app:read" },
  ].filter((t) => who.can(t.needs));
  if (!a && query.error) {
    return (
      <Page title={name} above={{ label: "Apps", to: { to: "/apps" } }}>
        <Failure error={query.error} retry={() => void query.refetch()} what="app" />
      </Page>
    );
  }
  return (
    <Page
      title={name}
      heading={<Name>{name}</Name>}
      above={{ label: "Apps", to: { to: "/apps" } }}
      lead={
        a ? (
          <span className="flex flex-wrap items-center gap-x-4 gap-y-1">
            <State meaning={appState(a.status)} pulse={a.status === "updating"}>{a.status}</State>
            {a.release ? <Link className="font-mono text-note link" to="/apps/$app/releases/$release" params={{ app: name, release: a.release }}>{a.release}</Link> : <span>nothing is deployed yet</span>}
          </span>
        ) : (
          <Skeleton className="mt-1 h-4 w-48" />
        )
      }
      actions={
        <>
          <RefreshButton keys={[["rack", "app", name]]} />
          {who.can("convox:log:read") && (
            <ButtonLink to="/logs" search={{ app: name }}>
              <ScrollText aria-hidden />
              Logs
            </ButtonLink>
          )}
        </>
      }
      tabs={<Tabs label={`Pages of ${name}`} tabs={tabs} />}
    >
      <Outlet />
    </Page>
  );
}

// Services.

export function Services() {
  const { app } = route.useParams();
  const query = useQuery(services(app));
  const client = useQueryClient();
  const say = useToast();
  const [confirm, ask] = useConfirm();
  const [scaling, setScaling] = useState<Service | null>(null);
  const mayScale = useCan("convox:app:update");
  const mayRestart = useCan("convox:app:restart");
  const columns = useMemo<Column<Service>[]>(
    () => [
      { id: "name", header: "Service", accessorFn: (s) => s.name, cell: ({ row: { original: s } }) => <Name className="font-medium">{s.name}</Name>, meta: { width: "minmax(8rem, 1fr)", narrow: "title" } },
      { id: "count", header: "Processes", accessorFn: (s) => s.count, cell: ({ row: { original: s } }) => <span className="num">{s.count}{s.autoscale?.enabled && s.min !== undefined && s.max !== undefined ? <span className="text-ink-3"> of {s.min}–{s.max}</span> : ""}</span>, meta: { width: "7.5rem", align: "right", narrow: "end" } },
      { id: "cpu", header: "CPU", accessorFn: (s) => s.cpu, cell: ({ row: { original: s } }) => (s.cpu > 0 ? `${s.cpu} m` : "–"), meta: { width: "6rem", align: "right", narrow: "hide" } },
      { id: "memory", header: "Memory", accessorFn: (s) => s.memory, cell: ({ row: { original: s } }) => (s.memory > 0 ? `${s.memory} MB` : "–"), meta: { width: "7rem", align: "right", narrow: "hide" } },
      { id: "domain", header: "Domain", accessorFn: (s) => s.domain, cell: ({ row: { original: s } }) => (s.domain ? <span className="inline-flex max-w-full items-center gap-1"><span className="truncate font-mono text-note">{s.domain}</span><CopyButton text={s.domain} label="Copy the domain" /></span> : <span className="text-ink-3">internal</span>), meta: { width: "minmax(12rem, 2fr)" } },
      { id: "ports", header: "Ports", enableSorting: false, accessorFn: (s) => s.ports?.length ?? 0, cell: ({ row: { original: s } }) => <span className="font-mono text-note text-ink-3">{(s.ports ?? []).map((p) => (p.balancer ? `${p.balancer}:${p.container}` : String(p.container))).join(" ")}</span>, meta: { width: "9rem", narrow: "hide", from: "lg" } },
    ],
    [],
  );
  const restart = (s: Service) =>
    ask({
      title: `Restart ${s.name}?`,
      verb: "Restart",
      tone: "primary",
      children: <p>Its {s.count} {s.count === 1 ? "process is" : "processes are"} replaced one after the other, by the same release.</p>,
      act: async () => {
        await change("POST", path("apps", app, "services", s.name, "restart"));
        await client.invalidateQueries({ queryKey: ["rack", "app", app] });
        say(`${s.name} is being restarted.`);
      },
    });
  return (
    <>
      <Async query={query}>
        {(list) => (
          <Table
            label={`Services of ${app}`}
            rows={list}
            columns={columns}
            rowKey={(s) => s.name}
            {...(mayScale || mayRestart
              ? {
                  actions: (s: Service) => (
                    <Menu
                      trigger={<IconButton label={`What to do with ${s.name}`}><MoreHorizontal aria-hidden /></IconButton>}
                      items={[
                        mayScale && { label: "Scale…", icon: <TrendingUp aria-hidden />, onSelect: () => setScaling(s) },
                        mayRestart && { label: "Restart…", icon: <RotateCw aria-hidden />, onSelect: () => restart(s) },
                      ]}
                    />
                  ),
                }
              : {})}
            empty={<Empty icon={<Layers aria-hidden />} title="No services yet">They come with the first release that is promoted.</Empty>}
          />
        )}
      </Async>
      {confirm}
      <Dialog open={scaling !== null} onClose={() => setScaling(null)} title={`Scale ${scaling?.name ?? ""}`} description="Processes are started and ended until it is so.">
        {scaling && <Scale key={scaling.name} app={app} service={scaling} onClose={() => setScaling(null)} />}
      </Dialog>
    </>
  );
}

function Scale({ app, service, onClose }: { app: string; service: Service; onClose: () => void }) {
  const client = useQueryClient();
  const say = useToast();
  const [count, setCount] = useState(String(service.count));
  const [cpu, setCPU] = useState(String(service.cpu));
  const [memory, setMemory] = useState(String(service.memory));
  const save = useMutation({
    mutationFn: () =>
      change("PUT", path("apps", app, "services", service.name), {
        ...(count !== String(service.count) ? { count } : {}),
        ...(cpu !== String(service.cpu) ? { cpu } : {}),
        ...(memory !== String(service.memory) ? { memory } : {}),
      }),
    onSuccess: async () => {
      await client.invalidateQueries({ queryKey: ["rack", "app", app] });
      say(`${service.name} is being scaled.`);
      onClose();
    },
  });
  const same = count === String(service.count) && cpu === String(service.cpu) && memory === String(service.memory);
  return (
    <form
      className="grid gap-4"
      onSubmit={(e) => {
        e.preventDefault();
        save.mutate();
      }}
    >
      <div className="grid grid-cols-3 gap-3">
        <Field label="Processes">{(ids) => <Input {...ids} type="number" min={0} max={1000} required autoFocus value={count} onChange={(e) => setCount(e.target.value)} />}</Field>
        <Field label="CPU, m">{(ids) => <Input {...ids} type="number" min={0} value={cpu} onChange={(e) => setCPU(e.target.value)} />}</Field>
        <Field label="Memory, MB">{(ids) => <Input {...ids} type="number" min={0} value={memory} onChange={(e) => setMemory(e.target.value)} />}</Field>
      </div>
      {count === "0" && <Banner meaning="warn">With none, the service answers nobody.</Banner>}
      <FormError error={save.error} />
      <Actions>
        <Button onClick={onClose}>Cancel</Button>
        <Button type="submit" tone="primary" busy={save.isPending} disabled={same}>
          Scale
        </Button>
      </Actions>
    </form>
  );
}

// Processes.

export function Processes() {
  const { app } = route.useParams();
  const query = useQuery(processes(app));
  const client = useQueryClient();
  const say = useToast();
  const [typed, setTyped] = useState("");
  const [confirm, ask] = useConfirm();
  const [logsOf, setLogsOf] = useState<Process | null>(null);
  const mayStop = useCan("convox:process:terminate");
  const mayLog = useCan("convox:log:read");
  const rows = useMemo(() => (query.data ?? []).filter((p) => holds(typed, p.id, p.name, p.command, p.release, p.status, p.instance)), [query.data, typed]);
  const columns = useMemo<Column<Process>[]>(
    () => [
      { id: "id", header: "Process", accessorFn: (p) => p.id, cell: ({ row: { original: p } }) => <Name className="font-mono text-note font-medium">{p.id}</Name>, meta: { width: "minmax(10rem, 1.3fr)", narrow: "title" } },
      { id: "service", header: "Service", accessorFn: (p) => p.name, cell: ({ row: { original: p } }) => <Name>{p.name}</Name>, meta: { width: "minmax(6rem, 0.8fr)" } },
      { id: "status", header: "State", accessorFn: (p) => p.status, cell: ({ row: { original: p } }) => <State meaning={processState(p.status)} pulse={p.status === "pending"}>{p.status}</State>, meta: { width: "8rem", narrow: "end" } },
      { id: "release", header: "Release", accessorFn: (p) => p.release, cell: ({ row: { original: p } }) => <span className="font-mono text-note text-ink-2">{p.release}</span>, meta: { width: "9rem", narrow: "hide" } },
      { id: "command", header: "Command", accessorFn: (p) => p.command, cell: ({ row: { original: p } }) => <Name className="font-mono text-note text-ink-2">{p.command}</Name>, meta: { width: "minmax(8rem, 1.3fr)", narrow: "hide", from: "lg" } },
      { id: "instance", header: "Instance", accessorFn: (p) => p.instance, cell: ({ row: { original: p } }) => <span className="font-mono text-note text-ink-3">{p.instance}</span>, meta: { width: "minmax(8rem, 1fr)", narrow: "hide", from: "xl" } },
      { id: "started", header: "Started", accessorFn: (p) => p.started, cell: ({ row: { original: p } }) => <span className="text-ink-2"><Time at={isTime(p.started) ? p.started : undefined} /></span>, meta: { width: "6.5rem", align: "right" } },
    ],
    [],
  );
  const stop = (p: Process) =>
    ask({
      title: `Stop ${p.id}?`,
      verb: "Stop it",
      children: <p>It is ended. If it belongs to a service, the rack starts another in its place.</p>,
      act: async () => {
        await change("DELETE", path("apps", app, "processes", p.id));
        await client.invalidateQueries({ queryKey: ["rack", "app", app] });
        say(`${p.id} is being stopped.`);
      },
    });
  return (
    <>
      <Toolbar>
        <SearchField label="Search processes" value={typed} onChange={setTyped} className="w-full sm:w-72" />
        {query.data && <span className="num text-note text-ink-3">{rows.length === query.data.length ? rows.length : `${rows.length} of ${query.data.length}`}</span>}
      </Toolbar>
      <Async query={query}>
        {(all) => (
          <Table
            label={`Processes of ${app}`}
            rows={rows}
            columns={columns}
            rowKey={(p) => p.id}
            {...(mayStop || mayLog
              ? {
                  actions: (p: Process) => (
                    <Menu
                      trigger={<IconButton label={`What to do with ${p.id}`}><MoreHorizontal aria-hidden /></IconButton>}
                      items={[
                        mayLog && { label: "Logs", icon: <ScrollText aria-hidden />, onSelect: () => setLogsOf(p) },
                        mayStop && { label: "Stop…", danger: true, icon: <Square aria-hidden />, onSelect: () => stop(p) },
                      ]}
                    />
                  ),
                }
              : {})}
            empty={<Empty title={all.length > 0 ? "None fits" : "Nothing runs"}>{all.length > 0 ? "No process has this." : "Promote a release, or scale a service up."}</Empty>}
          />
        )}
      </Async>
      {confirm}
      <Dialog open={logsOf !== null} onClose={() => setLogsOf(null)} title={`Logs of ${logsOf?.id ?? ""}`} wide>
        {logsOf && (
          <Suspense fallback={<SkeletonRows />}>
            <LogView at={path("apps", app, "processes", logsOf.id, "logs")} name={`${app}-${logsOf.id}`} />
          </Suspense>
        )}
      </Dialog>
    </>
  );
}

// Builds.

export function Builds() {
  const { app } = route.useParams();
  const query = useQuery(builds(app));
  const columns = useMemo<Column<Build>[]>(
    () => [
      { id: "id", header: "Build", accessorFn: (b) => b.id, cell: ({ row: { original: b } }) => <span className="font-mono text-note font-medium">{b.id}</span>, meta: { width: "9rem", narrow: "title" } },
      { id: "status", header: "State", accessorFn: (b) => b.status, cell: ({ row: { original: b } }) => <State meaning={buildState(b.status)} pulse={b.status === "running"}>{b.status}</State>, meta: { width: "8rem", narrow: "end" } },
      { id: "description", header: "Description", accessorFn: (b) => b.description, cell: ({ row: { original: b } }) => <Name>{b.description}</Name>, meta: { width: "minmax(10rem, 2fr)" } },
      { id: "commit", header: "Commit", accessorFn: (b) => b["git-sha"], cell: ({ row: { original: b } }) => <span className="font-mono text-note text-ink-3">{(b["git-sha"] ?? "").slice(0, 7)}</span>, meta: { width: "6rem", narrow: "hide" } },
      { id: "release", header: "Release", accessorFn: (b) => b.release, cell: ({ row: { original: b } }) => <span className="font-mono text-note text-ink-2">{b.release}</span>, meta: { width: "9rem", narrow: "hide", from: "lg" } },
      { id: "started", header: "Started", accessorFn: (b) => b.started, cell: ({ row: { original: b } }) => <span className="text-ink-2"><Time at={isTime(b.started) ? b.started : undefined} /></span>, meta: { width: "6.5rem", align: "right" } },
    ],
    [],
  );
  return (
    <Async query={query}>
      {(list) => (
        <Table
          label={`Builds of ${app}`}
          rows={list}
          columns={columns}
          rowKey={(b) => b.id}
          to={(b) => ({ to: "/apps/$app/builds/$build", params: { app, build: b.id } })}
          empty={<Empty icon={<Hammer aria-hidden />} title="Nothing was built yet">A build is made by <code className="font-mono">convox build</code> or <code className="font-mono">convox deploy</code>.</Empty>}
        />
      )}
    </Async>
  );
}

// Releases.

export function Releases() {
  const { app } = route.useParams();
  const query = useQuery(releases(app));
  const current = useQuery(appQuery(app)).data?.release;
  const columns = useMemo<Column<Release>[]>(
    () => [
      { id: "id", header: "Release", accessorFn: (r) => r.id, cell: ({ row: { original: r } }) => <span className="font-mono text-note font-medium">{r.id}</span>, meta: { width: "9.5rem", narrow: "title" } },
      { id: "current", header: "State", accessorFn: (r) => (r.id === current ? "0" : "1"), cell: ({ row: { original: r } }) => (r.id === current ? <State meaning="ok">active</State> : ""), meta: { width: "7rem", narrow: "end" } },
      { id: "description", header: "Description", accessorFn: (r) => r.description, cell: ({ row: { original: r } }) => <Name>{r.description}</Name>, meta: { width: "minmax(10rem, 2fr)" } },
      { id: "build", header: "Build", accessorFn: (r) => r.build, cell: ({ row: { original: r } }) => <span className="font-mono text-note text-ink-2">{r.build}</span>, meta: { width: "9rem", narrow: "hide" } },
      { id: "created", header: "Made", accessorFn: (r) => r.created, cell: ({ row: { original: r } }) => <span className="text-ink-2"><Time at={isTime(r.created) ? r.created : undefined} /></span>, meta: { width: "6.5rem", align: "right" } },
    ],
    [current],
  );
  return (
    <Async query={query}>
      {(list) => (
        <Table
          label={`Releases of ${app}`}
          rows={list}
          columns={columns}
          rowKey={(r) => r.id}
          to={(r) => ({ to: "/apps/$app/releases/$release", params: { app, release: r.id } })}
          empty={<Empty title="No releases yet">A release is a build with an environment. The first comes with the first build.</Empty>}
        />
      )}
    </Async>
  );
}

// Environment.

export function Environment() {
  const { app } = route.useParams();
  const a = useQuery(appQuery(app));
  const current = a.data?.release ?? "";
  const query = useQuery({ ...releaseQuery(app, current), enabled: current !== "" });
  if (a.data && current === "") {
    return <Empty icon={<VariableIcon aria-hidden />} title="No environment yet">Deploy something first: an environment belongs to a release.</Empty>;
  }
  return <Async query={query}>{(r) => <EnvOf key={r.id} app={app} release={r} />}</Async>;
}

function EnvOf({ app, release }: { app: string; release: Release }) {
  const variables = useMemo(() => parseEnv(release.env), [release.env]);
  const [shown, setShown] = useState<ReadonlySet<string>>(new Set());
  const [editing, setEditing] = useState(false);
  const [typed, setTyped] = useState("");
  const may = useCan("convox:env:set");
  const all = shown.size === variables.length && variables.length > 0;
  if (editing) return <EditEnv app={app} release={release} before={variables} onClose={() => setEditing(false)} />;
  const rows = variables.filter((v) => holds(typed, v.key));
  return (
    <>
      <Toolbar>
        <SearchField label="Search names" value={typed} onChange={setTyped} className="w-full sm:w-72" />
        <Button onClick={() => setShown(all ? new Set() : new Set(variables.map((v) => v.key)))} disabled={variables.length === 0}>
          {all ? <EyeOff aria-hidden /> : <Eye aria-hidden />}
          {all ? "Hide values" : "Reveal all"}
        </Button>
        {may && (
          <Button onClick={() => setEditing(true)}>
            <Pencil aria-hidden />
            Edit
          </Button>
        )}
        <span className="text-note text-ink-3">
          of release <code className="font-mono">{release.id}</code>
        </span>
      </Toolbar>
      {rows.length === 0 ? (
        <Empty title={variables.length === 0 ? "It is empty" : "None fits"}>{variables.length === 0 ? "This release has no variables." : "No variable has this in its name."}</Empty>
      ) : (
        <ul className="divide-y divide-line border-y border-line font-mono text-note">
          {rows.map((v) => (
            <li key={v.key} className="grid grid-cols-[minmax(0,1fr)_auto] items-center gap-x-4 px-3 py-1.5 sm:grid-cols-[minmax(10rem,18rem)_minmax(0,1fr)_auto]">
              <span className="truncate font-medium" title={v.key}>{v.key}</span>
              <span className="min-w-0 break-all whitespace-pre-wrap text-ink-2 max-sm:col-span-2 max-sm:row-start-2">
                <Value variable={v} shown={shown.has(v.key)} />
              </span>
              <span className="flex max-sm:row-start-1 max-sm:col-start-2">
                <IconButton
                  label={shown.has(v.key) ? `Hide ${v.key}` : `Reveal ${v.key}`}
                  disabled={v.value === masked}
                  onClick={() => {
                    const next = new Set(shown);
                    if (!next.delete(v.key)) next.add(v.key);
                    setShown(next);
                  }}
                >
                  {shown.has(v.key) ? <EyeOff aria-hidden /> : <Eye aria-hidden />}
                </IconButton>
                <CopyButton text={v.value} label={`Copy ${v.key}`} />
              </span>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function Value({ variable, shown }: { variable: Variable; shown: boolean }) {
  if (variable.value === masked) return <Badge>masked by the gateway</Badge>;
  if (variable.value === "") return <span className="text-ink-3">empty</span>;
  if (!shown) return <span aria-label="hidden" className="tracking-widest text-ink-3">••••••••</span>;
  return <bdi>{variable.value}</bdi>;
}

export function EnvDiffView({ diff, reveal }: { diff: EnvDiff; reveal: boolean }) {
  const value = (v: string) => (reveal ? <bdi className="break-all whitespace-pre-wrap">{v === "" ? "(empty)" : v}</bdi> : <span aria-label="hidden">••••</span>);
  if (isEmpty(diff)) return <p className="text-row text-ink-3">Nothing differs.</p>;
  return (
    <ul className="divide-y divide-line border-y border-line font-mono text-note" aria-label="What changes">
      {diff.removed.map((v) => (
        <li key={v.key} className="flex gap-3 bg-bad-soft px-3 py-1.5 text-bad"><span aria-label="removed">−</span><del className="no-underline">{v.key}={value(v.value)}</del></li>
      ))}
      {diff.changed.map((v) => (
        <li key={v.key} className="grid gap-0.5 px-3 py-1.5"><span className="flex gap-3 text-bad"><span aria-label="before">−</span><del className="no-underline">{v.key}={value(v.from)}</del></span><span className="flex gap-3 text-ok"><span aria-label="after">+</span><ins className="no-underline">{v.key}={value(v.to)}</ins></span></li>
      ))}
      {diff.added.map((v) => (
        <li key={v.key} className="flex gap-3 bg-ok-soft px-3 py-1.5 text-ok"><span aria-label="added">+</span><ins className="no-underline">{v.key}={value(v.value)}</ins></li>
      ))}
    </ul>
  );
}

function EditEnv({ app, release, before, onClose }: { app: string; release: Release; before: readonly Variable[]; onClose: () => void }) {
  const client = useQueryClient();
  const router = useRouter();
  const say = useToast();
  const mayPromote = useCan("convox:release:promote");
  const [text, setText] = useState(formatEnv(before));
  const [reveal, setReveal] = useState(false);
  const mistakes = checkEnv(text);
  const after = useMemo(() => parseEnv(withoutRemarks(text)), [text]);
  const diff = useMemo(() => diffEnv(before, after), [before, after]);
  const mask = holdsMask(after);
  const set = useMutation({
    mutationFn: async (promote: boolean) => {
      const made = (await change("POST", path("apps", app, "releases"), { env: formatEnv(after), "parent-release": release.id })) as Release;
      if (promote) await change("POST", path("apps", app, "releases", made.id, "promote"));
      return { made, promote };
    },
    onSuccess: async ({ made, promote }) => {
      await client.invalidateQueries({ queryKey: ["rack", "app", app] });
      say(promote ? `Release ${made.id} is being promoted.` : `Release ${made.id} was made. It is in force once it is promoted.`);
      onClose();
      if (!promote) void router.navigate({ to: "/apps/$app/releases/$release", params: { app, release: made.id } });
    },
  });
  const ready = mistakes.length === 0 && !isEmpty(diff) && mask === undefined;
  return (
    <form
      className="grid gap-5"
      onSubmit={(e) => {
        e.preventDefault();
        if (ready) set.mutate(false);
      }}
    >
      <Field label="Environment" hint="A line a variable, KEY=VALUE. It makes a new release; nothing runs with it before that is promoted." error={mistakes[0] ? `Line ${mistakes[0].line}: ${mistakes[0].text}.` : mask ? `${mask.key} is masked: leave this to somebody who may see its value, or give it a new one.` : undefined}>
        {(ids) => <TextArea {...ids} autoFocus rows={Math.min(28, Math.max(8, before.length + 2))} className="font-mono text-note leading-5 whitespace-pre" value={text} onChange={(e) => setText(e.target.value)} />}
      </Field>
      <Section title="What would change" action={<Button size="sm" onClick={() => setReveal(!reveal)}>{reveal ? "Hide values" : "Reveal values"}</Button>}>
        <EnvDiffView diff={diff} reveal={reveal} />
      </Section>
      <FormError error={set.error} />
      <div className="flex flex-wrap gap-2">
        {mayPromote && (
          <Button tone="primary" disabled={!ready} busy={set.isPending} onClick={() => set.mutate(true)}>
            Save and promote
          </Button>
        )}
        <Button type="submit" disabled={!ready} busy={set.isPending}>
          Save as a release
        </Button>
        <Button onClick={onClose} tone="quiet">
          Cancel
        </Button>
      </div>
    </form>
  );
}

// Resources.

export function Resources() {
  const { app } = route.useParams();
  const query = useQuery(resources(app));
  return (
    <Async query={query}>
      {(list) =>
        list.length === 0 ? (
          <Empty title="No resources">Databases and caches come with the app's convox.yml.</Empty>
        ) : (
          <ul className="divide-y divide-line border-y border-line text-row">
            {list.map((r) => (
              <ResourceRow key={r.name} resource={r} />
            ))}
          </ul>
        )
      }
    </Async>
  );
}

function ResourceRow({ resource: r }: { resource: Resource }) {
  const [shown, setShown] = useState(false);
  return (
    <li className="grid items-center gap-x-6 gap-y-1 px-3 py-2.5 sm:grid-cols-[minmax(8rem,12rem)_7rem_8rem_minmax(0,1fr)]">
      <Name className="font-medium">{r.name}</Name>
      <span className="text-ink-2">{r.type}</span>
      <State meaning={r.status === undefined || r.status === "running" ? "ok" : "warn"}>{r.status ?? "running"}</State>
      <span className="flex min-w-0 items-center gap-1">
        <code className="min-w-0 flex-1 truncate font-mono text-note text-ink-2">{shown ? r.url : hideCredentials(r.url)}</code>
        <IconButton label={shown ? `Hide the address of ${r.name}` : `Reveal the address of ${r.name}`} onClick={() => setShown(!shown)}>
          {shown ? <EyeOff aria-hidden /> : <Eye aria-hidden />}
        </IconButton>
        <CopyButton text={r.url} label={`Copy the address of ${r.name}`} />
      </span>
    </li>
  );
}

function hideCredentials(url: string): string {
  return url.replace(/^([a-z][a-z0-9+.-]*:\/\/)[^@/]*@/i, "$1••••@");
}

// Settings.

const settingsRoute = getRouteApi("/apps/$app/settings");

export function AppSettings() {
  const { app: name } = route.useParams();
  const { history } = settingsRoute.useSearch();
  const navigate = settingsRoute.useNavigate();
  const mayRead = useCan("gateway:setting:read");
  const query = useQuery(appQuery(name));
  const client = useQueryClient();
  const router = useRouter();
  const say = useToast();
  const mayUpdate = useCan("convox:app:update");
  const mayDelete = useCan("convox:app:delete");
  const [confirm, ask] = useConfirm();
  return (
    <Async query={query}>
      {(a) => (
        <>
          <Facts>
            <Fact label="Generation">{a.generation ?? "not told"}</Fact>
            <Fact label="Router"><code className="font-mono text-note">{a.router || "none"}</code></Fact>
            <Fact label="Protected from deletion">{a.locked ? "yes" : "no"}</Fact>
            {Object.entries(a.parameters ?? {}).sort().map(([key, value]) => (
              <Fact key={key} label={key}><code className="font-mono text-note">{value === "" ? "–" : value}</code></Fact>
            ))}
          </Facts>
          {mayRead && (
            <div className="mt-10">
              <SettingsOfApp app={name} history={history} onHistory={(key) => void navigate({ search: key === undefined ? {} : { history: key } })} />
            </div>
          )}
          {(mayUpdate || mayDelete) && (
            <div className="mt-10">
              <Section title="What cannot be undone">
                <ul className="divide-y divide-line border-y border-line text-row">
                  {mayUpdate && (
                    <li className="flex flex-wrap items-center justify-between gap-3 px-3 py-3">
                      <span>
                        <span className="font-medium">Protection</span>
                        <span className="block text-ink-2">A protected app is not deleted by the rack, whoever asks.</span>
                      </span>
                      <Button
                        onClick={() =>
                          ask({
                            title: a.locked ? `Take the protection from ${name}?` : `Protect ${name}?`,
                            verb: a.locked ? "Take it away" : "Protect",
                            tone: a.locked ? "danger" : "primary",
                            children: <p>{a.locked ? "Whoever may delete apps can then delete it." : "It cannot be deleted until the protection is taken away."}</p>,
                            act: async () => {
                              await change("PUT", path("apps", name), { lock: !a.locked });
                              await client.invalidateQueries({ queryKey: ["rack"] });
                            },
                          })
                        }
                      >
                        {a.locked ? "Take it away" : "Protect"}
                      </Button>
                    </li>
                  )}
                  {mayDelete && (
                    <li className="flex flex-wrap items-center justify-between gap-3 px-3 py-3">
                      <span>
                        <span className="font-medium">Delete this app</span>
                        <span className="block text-ink-2">With its processes, builds, releases and resources.</span>
                      </span>
                      <Button
                        tone="danger"
                        onClick={() =>
                          ask({
                            title: `Delete ${name}?`,
                            verb: "Delete it",
                            type: name,
                            children: (
                              <>
                                <p>Its processes end, and its builds, releases and resources, databases among them, are deleted. Nothing brings them back.</p>
                                <p>It is refused while destructive actions are not allowed.</p>
                              </>
                            ),
                            act: async () => {
                              await change("DELETE", path("apps", name));
                              await client.invalidateQueries({ queryKey: ["rack", "apps"] });
                              say(`${name} is being deleted.`);
                              void router.navigate({ to: "/apps" });
                            },
                          })
                        }
                      >
                        <Trash2 aria-hidden />
                        Delete
                      </Button>
                    </li>
                  )}
                </ul>
              </Section>
            </div>
          )}
          {confirm}
        </>
      )}
    </Async>
  );
}
