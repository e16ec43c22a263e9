import { useQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { ScrollText } from "lucide-react";
import { path } from "@/api/rack";
import { apps, services } from "@/api/queries";
import { useTyped } from "@/lib/list";
import { Page, Toolbar } from "@/shell/page";
import { useCan } from "@/shell/who";
import { Select } from "@/ui/controls";
import { Async, Empty } from "@/ui/display";
import { LogView } from "./logview";

const route = getRouteApi("/logs");

export function Logs() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const list = useQuery(apps);
  const may = useCan("convox:app:read");
  const of = useQuery({ ...services(search.app ?? ""), enabled: search.app !== undefined && may });
  const [typed, setTyped] = useTyped(search.q, (q) => void navigate({ search: (s) => ({ ...s, q }), replace: true }));
  return (
    <Page title="Logs" lead="What apps write, as they write it. It begins with the last minutes.">
      <Async query={list}>
        {(all) =>
          all.length === 0 ? (
            <Empty icon={<ScrollText aria-hidden />} title="There are no apps that you may see">
              Logs are of apps. Once there is one, it can be followed here.
            </Empty>
          ) : (
            <>
              <Toolbar>
                <Select aria-label="App" value={search.app ?? ""} onChange={(e) => void navigate({ search: { app: e.target.value || undefined, q: search.q } })} className="min-w-44">
                  <option value="">Choose an app</option>
                  {[...all].sort((a, b) => a.name.localeCompare(b.name)).map((a) => (
                    <option key={a.name}>{a.name}</option>
                  ))}
                </Select>
                {search.app !== undefined && (
                  <Select aria-label="Service" value={search.service ?? ""} onChange={(e) => void navigate({ search: (s) => ({ ...s, service: e.target.value || undefined }) })}>
                    <option value="">All services</option>
                    {(of.data ?? []).map((s) => (
                      <option key={s.name}>{s.name}</option>
                    ))}
                  </Select>
                )}
              </Toolbar>
              {search.app === undefined ? (
                <Empty icon={<ScrollText aria-hidden />} title="Choose an app">
                  Its log then shows here. The address of this page has the choice, so it can be kept and sent.
                </Empty>
              ) : (
                <LogView
                  key={search.app + "/" + (search.service ?? "")}
                  at={search.service === undefined ? path("apps", search.app, "logs") : path("apps", search.app, "services", search.service, "logs")}
                  name={search.service === undefined ? search.app : `${search.app}-${search.service}`}
                  filter={typed}
                  onFilter={setTyped}
                />
              )}
            </>
          )
        }
      </Async>
    </Page>
  );
}
