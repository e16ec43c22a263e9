import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi, useRouter } from "@tanstack/react-router";
import { Boxes, Lock, Plus } from "lucide-react";
import { useCallback, useMemo, useState } from "react";
import { change, type App } from "@/api/rack";
import { apps } from "@/api/queries";
import { useTyped } from "@/lib/list";
import { holds } from "@/lib/match";
import { Page, Toolbar } from "@/shell/page";
import { useCan } from "@/shell/who";
import { Button, Chips, Field, Input, SearchField } from "@/ui/controls";
import { Async, Code, Empty, Name, RefreshButton, State } from "@/ui/display";
import { Actions, Dialog, FormError, useToast } from "@/ui/overlay";
import { Table, type Column } from "@/ui/table";
import { appState } from "./parts";

const route = getRouteApi("/apps");

export function Apps() {
  const query = useQuery(apps);
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const may = useCan("convox:app:create");
  const [typed, setTyped] = useTyped(search.q, (q) => void navigate({ search: (s) => ({ ...s, q }), replace: true }));
  const close = useCallback(() => void navigate({ search: ({ add: _, ...s }) => s, replace: true }), [navigate]);
  const rows = useMemo(
    () => (query.data ?? []).filter((a) => holds(typed, a.name, a.release) && (search.state === undefined || (search.state === "running") === (a.status === "running"))),
    [query.data, typed, search.state],
  );
  const columns = useMemo<Column<App>[]>(
    () => [
      {
        id: "name",
        header: "App",
        accessorFn: (a) => a.name,
        cell: ({ row: { original: a } }) => (
          <span className="inline-flex max-w-full items-center gap-1.5">
            <Name className="truncate font-medium">{a.name}</Name>
            {a.locked && <Lock className="size-3.5 shrink-0 text-ink-3" aria-label="protected from deletion" />}
          </span>
        ),
        meta: { width: "minmax(10rem, 1.5fr)", narrow: "title" },
      },
      { id: "status", header: "State", accessorFn: (a) => a.status, cell: ({ row: { original: a } }) => <State meaning={appState(a.status)} pulse={a.status === "updating"}>{a.status}</State>, meta: { width: "minmax(8rem, 1fr)", narrow: "end" } },
      { id: "release", header: "Release", accessorFn: (a) => a.release, cell: ({ row: { original: a } }) => (a.release ? <Name className="font-mono text-note text-ink-2">{a.release}</Name> : <span className="text-ink-3">none yet</span>), meta: { width: "minmax(8rem, 1fr)" } },
      { id: "generation", header: "Generation", accessorFn: (a) => a.generation ?? "", cell: ({ row: { original: a } }) => <span className="text-ink-3">{a.generation ?? ""}</span>, meta: { width: "7rem", align: "right", narrow: "hide", from: "lg" } },
    ],
    [],
  );
  return (
    <Page
      title="Apps"
      lead={query.data && <span className="num">{query.data.length.toLocaleString("en")} that you may see</span>}
      actions={
        <>
          <RefreshButton keys={[["rack", "apps"]]} />
          {may && (
            <Button tone="primary" onClick={() => void navigate({ search: (s) => ({ ...s, add: true }) })}>
              <Plus aria-hidden />
              Create an app
            </Button>
          )}
        </>
      }
    >
      <Toolbar>
        <SearchField label="Search apps" value={typed} onChange={setTyped} className="w-full sm:w-72" />
        <Chips
          label="State"
          value={search.state ?? "all"}
          onChange={(state) => void navigate({ search: (s) => ({ ...s, state: state === "all" ? undefined : state }) })}
          options={[
            { value: "all", label: "All" },
            { value: "running", label: "Running" },
            { value: "changing", label: "Anything else" },
          ]}
        />
      </Toolbar>
      <Async query={query}>
        {(all) => (
          <Table
            label="Apps"
            rows={rows}
            columns={columns}
            rowKey={(a) => a.name}
            to={(a) => ({ to: "/apps/$app", params: { app: a.name } })}
            initialSort={all.length > 0 ? [{ id: "name", desc: false }] : []}
            empty={
              all.length > 0 ? (
                <Empty title="No app fits" action={<Button onClick={() => { setTyped(""); void navigate({ search: {} }); }}>Show all</Button>}>
                  None of {all.length} has this in its name or release.
                </Empty>
              ) : (
                <Empty icon={<Boxes aria-hidden />} title="There are no apps that you may see">
                  <p className="mb-3">An app is made here, or from a folder with a convox.yml:</p>
                  <Code text={"convox apps create myapp\nconvox deploy -a myapp"} label="First deploy" />
                </Empty>
              )
            }
          />
        )}
      </Async>
      <Dialog open={search.add === true} onClose={close} title="Create an app" description="It is empty until something is deployed to it.">
        <CreateForm onClose={close} />
      </Dialog>
    </Page>
  );
}

function CreateForm({ onClose }: { onClose: () => void }) {
  const client = useQueryClient();
  const router = useRouter();
  const say = useToast();
  const [name, setName] = useState("");
  const create = useMutation({
    mutationFn: () => change("POST", "/apps", { name }),
    onSuccess: async () => {
      await client.invalidateQueries({ queryKey: ["rack", "apps"] });
      say(`${name} was created.`);
      void router.navigate({ to: "/apps/$app", params: { app: name } });
    },
  });
  return (
    <form
      onSubmit={(e) => {
        e.preventDefault();
        create.mutate();
      }}
    >
      <Field label="Name" hint="Small letters, digits and dashes.">
        {(ids) => <Input {...ids} required autoFocus pattern="[a-z][a-z0-9\-]{0,62}" className="font-mono" value={name} onChange={(e) => setName(e.target.value)} />}
      </Field>
      <FormError error={create.error} />
      <Actions>
        <Button onClick={onClose}>Cancel</Button>
        <Button type="submit" tone="primary" busy={create.isPending}>
          Create
        </Button>
      </Actions>
    </form>
  );
}
