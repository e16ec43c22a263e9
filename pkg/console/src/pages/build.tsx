import { useQuery } from "@tanstack/react-query";
import { getRouteApi, Link } from "@tanstack/react-router";
import { isTime, path } from "@/api/rack";
import { build as buildQuery } from "@/api/queries";
import { duration } from "@/lib/time";
import { Page } from "@/shell/page";
import { useCan } from "@/shell/who";
import { Async, Banner, Code, Fact, Facts, Id, Name, RefreshButton, Section, State, Time } from "@/ui/display";
import { LogView } from "./logview";
import { buildState } from "./parts";

const route = getRouteApi("/apps/$app/builds/$build");

export function BuildPage() {
  const { app, build: id } = route.useParams();
  const query = useQuery(buildQuery(app, id));
  const mayLog = useCan("convox:log:read");
  return (
    <Page
      title={`Build ${id}`}
      heading={<span className="font-mono text-[1.1875rem]">{id}</span>}
      above={{ label: `Builds of ${app}`, to: { to: "/apps/$app/builds", params: { app } } as never }}
      lead={query.data && <State meaning={buildState(query.data.status)}>{query.data.status}</State>}
      actions={<RefreshButton keys={[["rack", "app", app, "builds", id]]} />}
    >
      <Async query={query} what="build">
        {(b) => (
          <>
            {b.status === "failed" && b.reason && <Banner meaning="bad" title="It failed"><Name>{b.reason}</Name></Banner>}
            <Facts>
              <Fact label="App"><Link className="link" to="/apps/$app" params={{ app }}>{app}</Link></Fact>
              {b.description && <Fact label="Description"><Name>{b.description}</Name></Fact>}
              {b["git-sha"] && <Fact label="Commit"><Id value={b["git-sha"]} /></Fact>}
              {b.release && <Fact label="Release"><Link className="link font-mono text-note" to="/apps/$app/releases/$release" params={{ app, release: b.release }}>{b.release}</Link></Fact>}
              <Fact label="Started"><Time at={isTime(b.started) ? b.started : undefined} focusable /></Fact>
              {isTime(b.started) && isTime(b.ended) && <Fact label="Took"><span className="num">{duration(Math.max(0, new Date(b.ended).getTime() - new Date(b.started).getTime()) * 1000)}</span></Fact>}
            </Facts>
            <div className="mt-10">
              {mayLog && (
                <Section title="Its log">
                  <LogView at={path("apps", app, "builds", id, "logs")} name={`${app}-${id}`} />
                </Section>
              )}
              {b.manifest && (
                <Section title="Its convox.yml">
                  <Code text={b.manifest} label="convox.yml" />
                </Section>
              )}
            </div>
          </>
        )}
      </Async>
    </Page>
  );
}
