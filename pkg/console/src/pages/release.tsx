import { useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi, Link } from "@tanstack/react-router";
import { ArrowUpRight, Undo2 } from "lucide-react";
import { useMemo, useState } from "react";
import { change, isTime, path } from "@/api/rack";
import { app as appQuery, release as releaseQuery, releases } from "@/api/queries";
import { diffEnv, parseEnv } from "@/lib/env";
import { Page } from "@/shell/page";
import { useCan } from "@/shell/who";
import { Button, Select } from "@/ui/controls";
import { Async, Fact, Facts, Name, RefreshButton, Section, SkeletonRows, State, Time } from "@/ui/display";
import { useConfirm, useToast } from "@/ui/overlay";
import { EnvDiffView } from "./app";

const route = getRouteApi("/apps/$app/releases/$release");

export function ReleasePage() {
  const { app, release: id } = route.useParams();
  const query = useQuery(releaseQuery(app, id));
  const current = useQuery(appQuery(app)).data?.release ?? "";
  const list = useQuery(releases(app));
  const client = useQueryClient();
  const say = useToast();
  const may = useCan("convox:release:promote");
  const [confirm, ask] = useConfirm();
  const [other, setOther] = useState<string | undefined>();
  const [reveal, setReveal] = useState(false);
  const active = current === id;
  // Against what runs; or, where this is what runs, against the one before it.
  const before = useMemo(() => {
    const all = list.data ?? [];
    const at = all.findIndex((r) => r.id === id);
    return other ?? (active ? (all[at + 1]?.id ?? "") : current);
  }, [list.data, id, other, active, current]);
  const compared = useQuery({ ...releaseQuery(app, before), enabled: before !== "" });
  const diff = useMemo(() => (query.data && compared.data ? diffEnv(parseEnv(compared.data.env), parseEnv(query.data.env)) : undefined), [query.data, compared.data]);

  // A release from before the active one is gone back to.
  const all = list.data ?? [];
  const older = all.findIndex((r) => r.id === id) > all.findIndex((r) => r.id === current);
  const promote = () =>
    ask({
      title: older ? `Roll back to ${id}?` : `Promote ${id}?`,
      verb: older ? "Roll back" : "Promote",
      tone: "primary",
      children: (
        <>
          <p>
            {app} runs with this release from then on: its processes are replaced one after the other.
            {diff && ` Of the environment, ${diff.added.length} are added, ${diff.changed.length} change, ${diff.removed.length} go.`}
          </p>
          {older && <p>The rack makes a new release of the old one's build and environment.</p>}
        </>
      ),
      act: async () => {
        let target = id;
        if (older && query.data) {
          const made = (await change("POST", path("apps", app, "releases"), { build: query.data.build, env: query.data.env, description: `rollback to ${id}` })) as { id: string };
          target = made.id;
        }
        await change("POST", path("apps", app, "releases", target, "promote"));
        await client.invalidateQueries({ queryKey: ["rack", "app", app] });
        say(`${target} is being promoted.`);
      },
    });
  return (
    <Page
      title={`Release ${id}`}
      heading={<span className="font-mono text-[1.1875rem]">{id}</span>}
      above={{ label: `Releases of ${app}`, to: { to: "/apps/$app/releases", params: { app } } as never }}
      lead={active ? <State meaning="ok">active</State> : query.data ? <Name>{query.data.description}</Name> : undefined}
      actions={
        <>
          <RefreshButton keys={[["rack", "app", app]]} />
          {may && !active && query.data && current !== "" && (
            <Button tone="primary" onClick={promote}>
              {older ? <Undo2 aria-hidden /> : <ArrowUpRight aria-hidden />}
              {older ? "Roll back to this" : "Promote"}
            </Button>
          )}
        </>
      }
      width="read"
    >
      <Async query={query} what="release">
        {(r) => (
          <>
            <Facts>
              <Fact label="App"><Link className="link" to="/apps/$app" params={{ app }}>{app}</Link></Fact>
              {r.description && <Fact label="Description"><Name>{r.description}</Name></Fact>}
              {r.build && <Fact label="Build"><Link className="link font-mono text-note" to="/apps/$app/builds/$build" params={{ app, build: r.build }}>{r.build}</Link></Fact>}
              <Fact label="Made"><Time at={isTime(r.created) ? r.created : undefined} focusable /></Fact>
            </Facts>
            <div className="mt-10">
              <Section
                title="Environment, compared"
                action={
                  <span className="flex flex-wrap items-center gap-2">
                    <Select size="sm" aria-label="Compare with" value={before} onChange={(e) => setOther(e.target.value)}>
                      {before === "" && <option value="">nothing before it</option>}
                      {all.filter((x) => x.id !== id).slice(0, 50).map((x) => (
                        <option key={x.id} value={x.id}>
                          {x.id}{x.id === current ? ", active" : ""}
                        </option>
                      ))}
                    </Select>
                    <Button size="sm" onClick={() => setReveal(!reveal)}>{reveal ? "Hide values" : "Reveal values"}</Button>
                  </span>
                }
              >
                {diff ? <EnvDiffView diff={diff} reveal={reveal} /> : before === "" ? <p className="text-row text-ink-3">There is no release to compare it with.</p> : <Async query={compared} skeleton={<SkeletonRows rows={3} />}>{() => null}</Async>}
              </Section>
            </div>
          </>
        )}
      </Async>
      {confirm}
    </Page>
  );
}
