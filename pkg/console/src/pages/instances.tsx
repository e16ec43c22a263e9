import { useQuery, useQueryClient } from "@tanstack/react-query";
import { MoreHorizontal, Server, Trash2 } from "lucide-react";
import { useMemo, useState } from "react";
import { change, isTime, path, type Instance } from "@/api/rack";
import { instances } from "@/api/queries";
import { holds } from "@/lib/match";
import { Page, Toolbar } from "@/shell/page";
import { useCan } from "@/shell/who";
import { IconButton, SearchField } from "@/ui/controls";
import { Async, Empty, Name, RefreshButton, State, Time } from "@/ui/display";
import { Menu, useConfirm, useToast } from "@/ui/overlay";
import { Table, type Column } from "@/ui/table";

export function Instances() {
  const query = useQuery(instances);
  const client = useQueryClient();
  const say = useToast();
  const may = useCan("convox:instance:terminate");
  const [typed, setTyped] = useState("");
  const [confirm, ask] = useConfirm();
  const rows = useMemo(() => (query.data ?? []).filter((i) => holds(typed, i.id, i["private-ip"], i["public-ip"], i.status)), [query.data, typed]);
  const columns = useMemo<Column<Instance>[]>(
    () => [
      { id: "id", header: "Instance", accessorFn: (i) => i.id, cell: ({ row: { original: i } }) => <Name className="font-mono text-note font-medium">{i.id}</Name>, meta: { width: "minmax(9rem, 1.5fr)", narrow: "title" } },
      { id: "status", header: "State", accessorFn: (i) => i.status, cell: ({ row: { original: i } }) => <State meaning={i.status === "running" ? "ok" : "warn"}>{i.status}</State>, meta: { width: "7rem", narrow: "end" } },
      { id: "cpu", header: "CPU", accessorFn: (i) => i.cpu / (i["cpu-capacity"] || 1), cell: ({ row: { original: i } }) => <Share used={i.cpu} of={i["cpu-capacity"]} label="CPU" />, meta: { width: "8rem", from: "lg" } },
      { id: "memory", header: "Memory", accessorFn: (i) => i.memory / (i["memory-capacity"] || 1), cell: ({ row: { original: i } }) => <Share used={i.memory} of={i["memory-capacity"]} label="Memory" />, meta: { width: "8rem", from: "lg" } },
      { id: "processes", header: "Processes", accessorFn: (i) => i.processes, meta: { width: "6rem", align: "right", narrow: "hide", from: "lg" } },
      { id: "private", header: "Private address", accessorFn: (i) => i["private-ip"], cell: ({ row: { original: i } }) => <span className="font-mono text-note">{i["private-ip"]}</span>, meta: { width: "7.5rem", narrow: "hide", from: "xl" } },
      { id: "public", header: "Public address", accessorFn: (i) => i["public-ip"], cell: ({ row: { original: i } }) => <span className="font-mono text-note">{i["public-ip"]}</span>, meta: { width: "7.5rem", narrow: "hide", from: "xl" } },
      { id: "started", header: "Started", accessorFn: (i) => i.started, cell: ({ row: { original: i } }) => <span className="text-ink-2"><Time at={isTime(i.started) ? i.started : undefined} /></span>, meta: { width: "5.5rem", align: "right", narrow: "hide" } },
    ],
    [],
  );
  const terminate = (i: Instance) =>
    ask({
      title: "Terminate this instance?",
      verb: "Terminate",
      type: i.id,
      children: (
        <>
          <p>The machine is ended. Its {i.processes} processes are started elsewhere by the rack, and the rack makes a new machine in its place.</p>
          <p>It is refused while destructive actions are not allowed.</p>
        </>
      ),
      act: async () => {
        await change("DELETE", path("instances", i.id));
        await client.invalidateQueries({ queryKey: ["rack", "instances"] });
        say("The instance is being terminated.");
      },
    });
  return (
    <Page title="Instances" lead="The machines that the rack runs on." actions={<RefreshButton keys={[["rack", "instances"]]} />}>
      <Toolbar>
        <SearchField label="Search ids and addresses" value={typed} onChange={setTyped} className="w-full sm:w-72" />
      </Toolbar>
      <Async query={query}>
        {() => (
          <Table
            label="Instances"
            rows={rows}
            columns={columns}
            rowKey={(i) => i.id}
            {...(may
              ? {
                  actions: (i: Instance) => (
                    <Menu
                      trigger={
                        <IconButton label={`What to do with ${i.id}`}>
                          <MoreHorizontal aria-hidden />
                        </IconButton>
                      }
                      items={[{ label: "Terminate…", danger: true, icon: <Trash2 aria-hidden />, onSelect: () => terminate(i) }]}
                    />
                  ),
                }
              : {})}
            empty={<Empty icon={<Server aria-hidden />} title={typed ? "None fits" : "The rack tells of no machine"}>{typed ? "No instance has this in its id or addresses." : "Some racks run where there are none to be seen."}</Empty>}
          />
        )}
      </Async>
      {confirm}
    </Page>
  );
}

function Share({ used, of, label }: { used: number; of: number; label: string }) {
  if (!(of > 0)) return <span className="text-ink-3">not told</span>;
  const share = Math.min(1, Math.max(0, used / of));
  const percent = Math.round(share * 100);
  return (
    <span className="flex items-center gap-2">
      <span role="meter" aria-label={label} aria-valuenow={percent} aria-valuemin={0} aria-valuemax={100} className="h-1.5 w-16 overflow-hidden rounded-full bg-line max-md:hidden">
        <span className={`block h-full ${percent >= 90 ? "bg-bad-dot" : percent >= 75 ? "bg-warn-dot" : "bg-ink-3"}`} style={{ width: `${percent}%` }} />
      </span>
      <span className="num text-ink-2">
        <span className="md:hidden">{label} </span>
        {percent} %
      </span>
    </span>
  );
}
