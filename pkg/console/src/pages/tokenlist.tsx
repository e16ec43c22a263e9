// A list of tokens, as the pages of tokens and of people show it.
import { useMemo } from "react";
import type { Token } from "@/api/queries";
import { Badge, Name, State, Time } from "@/ui/display";
import { Table, type Column, type TableProps } from "@/ui/table";
import { Bindings, tokenStates } from "./parts";

export function TokenList({ rows, label, more, empty, owner = true }: { rows: readonly Token[]; label: string; owner?: boolean } & Pick<TableProps<Token>, "more" | "empty">) {
  const columns = useMemo<Column<Token>[]>(() => {
    const all: Column<Token>[] = [
      { id: "name", header: "Name", accessorFn: (t) => t.name.toLowerCase(), cell: ({ row }) => <Name className="font-medium">{row.original.name}</Name>, meta: { width: "minmax(10rem, 1.5fr)", narrow: "title" } },
      { id: "kind", header: "Kind", accessorFn: (t) => t.kind, cell: ({ row }) => <Badge meaning={row.original.kind === "api" ? "info" : "none"}>{row.original.kind === "api" ? "API" : "CLI"}</Badge>, meta: { width: "4.5rem", narrow: "end" } },
      { id: "token", header: "Token", enableSorting: false, accessorFn: (t) => t.last_four, cell: ({ row }) => <span className="font-mono text-note text-ink-3">{row.original.prefix}…{row.original.last_four}</span>, meta: { width: "9rem", narrow: "hide", from: "xl" } },
      { id: "rights", header: "May do", enableSorting: false, accessorFn: () => "", cell: ({ row }) => <Rights token={row.original} />, meta: { width: "minmax(9rem, 1.2fr)", narrow: "hide" } },
      { id: "owner", header: "Owner", accessorFn: (t) => t.owner.email, cell: ({ row }) => <Name className="text-ink-2">{row.original.owner.email}</Name>, meta: { width: "minmax(9rem, 1.2fr)", narrow: "meta" } },
      { id: "state", header: "State", accessorFn: (t) => t.state, cell: ({ row }) => <TokenState token={row.original} />, meta: { width: "8.5rem", narrow: "meta" } },
      { id: "used", header: "Last used", accessorFn: (t) => t.last_used_at ?? "", cell: ({ row }) => <span className="text-ink-2"><Time at={row.original.last_used_at} /></span>, meta: { width: "6.5rem", align: "right", narrow: "hide", from: "lg" } },
      { id: "expires", header: "Ends", accessorFn: (t) => t.expires_at, cell: ({ row }) => <span className="text-ink-2"><Time at={row.original.expires_at} /></span>, meta: { width: "6rem", align: "right", narrow: "hide", from: "lg" } },
    ];
    return all.filter((c) => owner || c.id !== "owner");
  }, [owner]);
  return <Table label={label} rows={rows} columns={columns} rowKey={(t) => t.id} to={(t) => ({ to: "/tokens/$token", params: { token: t.id } })} more={more} empty={empty} />;
}

export function TokenState({ token }: { token: Token }) {
  const [meaning, text] = tokenStates[token.state];
  return <State meaning={meaning}>{text}</State>;
}

export function Rights({ token }: { token: Token }) {
  if (token.kind === "cli") return <span className="text-ink-3">what its owner may</span>;
  if (token.permissions.length > 0) return <span>{token.permissions.length === 1 ? token.permissions[0] : `${token.permissions.length} permissions`}</span>;
  return <Bindings bindings={token.bindings} />;
}
