import { useQuery } from "@tanstack/react-query";
import { Plus } from "lucide-react";
import { useMemo } from "react";
import { roles, type Role } from "@/api/queries";
import { Page } from "@/shell/page";
import { useCan } from "@/shell/who";
import { ButtonLink } from "@/ui/controls";
import { Async, Badge, RefreshButton } from "@/ui/display";
import { Table, type Column } from "@/ui/table";

export function Roles() {
  const query = useQuery(roles);
  const manage = useCan("gateway:role:manage");
  const columns = useMemo<Column<Role>[]>(
    () => [
      { id: "name", header: "Role", accessorFn: (r) => r.name, cell: ({ row: { original: r } }) => <span className="font-medium">{r.name}</span>, meta: { width: "minmax(8rem, 12rem)", narrow: "title" } },
      { id: "kind", header: "Kind", accessorFn: (r) => String(r.built_in), cell: ({ row: { original: r } }) => <Badge meaning={r.built_in ? "none" : "info"}>{r.built_in ? (r.tokens_only ? "built in, for tokens" : "built in") : "custom"}</Badge>, meta: { width: "10rem", narrow: "end" } },
      { id: "description", header: "What it is for", enableSorting: false, accessorFn: (r) => r.description, cell: ({ row: { original: r } }) => <span className="text-ink-2">{r.description}</span>, meta: { width: "minmax(10rem, 1fr)" } },
      { id: "permissions", header: "Permissions", accessorFn: (r) => r.permissions.length, cell: ({ row: { original: r } }) => r.permissions.length, meta: { width: "7rem", align: "right", narrow: "hide" } },
      { id: "people", header: "People", accessorFn: (r) => r.people, cell: ({ row: { original: r } }) => r.people.toLocaleString("en"), meta: { width: "6rem", align: "right", narrow: "hide" } },
      { id: "tokens", header: "Tokens", accessorFn: (r) => r.tokens, cell: ({ row: { original: r } }) => r.tokens.toLocaleString("en"), meta: { width: "6rem", align: "right", narrow: "hide" } },
    ],
    [],
  );
  return (
    <Page
      title="Roles"
      lead="A role is a list of permissions. People and tokens have roles, each over all apps or over some."
      actions={
        <>
          <RefreshButton keys={[["roles"]]} />
          {manage && (
            <ButtonLink to="/roles/new" tone="primary">
              <Plus aria-hidden />
              Make a role
            </ButtonLink>
          )}
        </>
      }
    >
      <Async query={query}>{(data) => <Table label="Roles" rows={data.items} columns={columns} rowKey={(r) => r.name} to={(r) => ({ to: "/roles/$role", params: { role: r.name } })} />}</Async>
    </Page>
  );
}
