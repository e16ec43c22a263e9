import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { UserPlus, UsersRound } from "lucide-react";
import { useCallback, useMemo, useState, type FormEvent } from "react";
import { call, ProblemError } from "@/api/client";
import { roles, users, type Binding, type User } from "@/api/queries";
import { useTyped } from "@/lib/list";
import { Page, Toolbar } from "@/shell/page";
import { useWho } from "@/shell/who";
import { Button, Chips, Field, Input, SearchField, Select } from "@/ui/controls";
import { Async, Empty, Name, RefreshButton, State, Time } from "@/ui/display";
import { Actions, Dialog, FormError, useToast } from "@/ui/overlay";
import { Table, usePages, type Column } from "@/ui/table";
import { BindingEditor, Bindings, cleanBindings } from "./parts";

const route = getRouteApi("/users");

export function Users() {
  const who = useWho();
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const [typed, setTyped] = useTyped(search.q, (q) => void navigate({ search: (s) => ({ ...s, q }), replace: true }));
  const query = useInfiniteQuery(users({ search: search.q, role: search.role, state: search.state }));
  const roleList = useQuery({ ...roles, enabled: who.can("gateway:role:read") });
  const { rows, more } = usePages(query);
  const filtered = search.q !== undefined || search.role !== undefined || search.state !== undefined;
  const close = useCallback(() => void navigate({ search: ({ add: _, ...s }) => s, replace: true }), [navigate]);

  const columns = useMemo<Column<User>[]>(
    () => [
      {
        id: "name",
        header: "Name",
        accessorFn: (u) => (u.name || u.email).toLowerCase(),
        cell: ({ row: { original: u } }) => (
          <>
            <Name className="font-medium">{u.name || u.email}</Name>
          </>
        ),
        meta: { width: "minmax(10rem, 1.4fr)", narrow: "title" },
      },
      { id: "email", header: "Address", accessorFn: (u) => u.email, cell: ({ row }) => <Name className="text-ink-2">{row.original.email}</Name>, meta: { width: "minmax(10rem, 1.4fr)" } },
      { id: "roles", header: "Roles", accessorFn: (u) => u.bindings.map((b) => b.role).join(" "), cell: ({ row }) => <Bindings bindings={row.original.bindings} />, meta: { width: "minmax(9rem, 1.2fr)", narrow: "end" } },
      { id: "state", header: "State", accessorFn: stateOf, cell: ({ row }) => <UserState user={row.original} />, meta: { width: "8rem", narrow: "hide" } },
      { id: "signed_in", header: "Last sign-in", accessorFn: (u) => u.signed_in_at ?? "", cell: ({ row }) => <span className="text-ink-2"><Time at={row.original.signed_in_at} /></span>, meta: { width: "7.5rem", align: "right", narrow: "hide", from: "lg" } },
      { id: "added", header: "Added", accessorFn: (u) => u.created_at, cell: ({ row }) => <span className="text-ink-2"><Time at={row.original.created_at} /></span>, meta: { width: "7rem", align: "right", narrow: "hide", from: "xl" } },
    ],
    [],
  );

  return (
    <Page
      title="People"
      lead="Who may sign in, and what each of them may do."
      actions={
        <>
          <RefreshButton keys={[["users"]]} />
          {who.can("gateway:user:manage") && (
            <Button tone="primary" onClick={() => void navigate({ search: (s) => ({ ...s, add: true }) })}>
              <UserPlus aria-hidden />
              Add a person
            </Button>
          )}
        </>
      }
    >
      <Toolbar>
        <SearchField label="Search names and addresses" value={typed} onChange={setTyped} className="w-full sm:w-72" />
        <Chips
          label="State"
          value={search.state ?? "all"}
          onChange={(state) => void navigate({ search: (s) => ({ ...s, state: state === "all" ? undefined : state }) })}
          options={[
            { value: "all", label: "All" },
            { value: "locked", label: "Locked" },
            { value: "removed", label: "With removed" },
          ]}
        />
        {roleList.data && (
          <Select size="sm" aria-label="Role" value={search.role ?? ""} onChange={(e) => void navigate({ search: (s) => ({ ...s, role: e.target.value || undefined }) })}>
            <option value="">Any role</option>
            {roleList.data.items.filter((r) => !r.tokens_only).map((r) => (
              <option key={r.name}>{r.name}</option>
            ))}
          </Select>
        )}
      </Toolbar>
      <Async query={query}>
        {() => (
          <Table
            label="People"
            rows={rows}
            columns={columns}
            rowKey={(u) => u.id}
            to={(u) => ({ to: "/users/$user", params: { user: u.id } })}
            more={more}
            empty={
              filtered ? (
                <Empty title="Nobody fits" action={<Button onClick={() => { setTyped(""); void navigate({ search: {} }); }}>Show everybody</Button>}>
                  No person has this in their name or address, with these filters.
                </Empty>
              ) : (
                <Empty icon={<UsersRound aria-hidden />} title="Nobody is here yet">
                  Add the people who may sign in. Everybody else is refused.
                </Empty>
              )
            }
          />
        )}
      </Async>
      <AddUser open={search.add === true} onClose={close} />
    </Page>
  );
}

export function stateOf(u: User): "removed" | "locked" | "invited" | "active" {
  return u.removed_at ? "removed" : u.locked_at ? "locked" : u.signed_in_at ? "active" : "invited";
}

export function UserState({ user }: { user: User }) {
  const state = stateOf(user);
  return <State meaning={{ removed: "none", locked: "bad", invited: "info", active: "ok" }[state] as "ok"}>{state === "invited" ? "never came" : state}</State>;
}

function AddUser({ open, onClose }: { open: boolean; onClose: () => void }) {
  return (
    <Dialog open={open} onClose={onClose} title="Add a person" description="They can sign in at once, with this address. Nothing is sent to them: tell them yourself." wide>
      <AddUserForm onClose={onClose} />
    </Dialog>
  );
}

function AddUserForm({ onClose }: { onClose: () => void }) {
  const client = useQueryClient();
  const say = useToast();
  const [email, setEmail] = useState("");
  const [name, setName] = useState("");
  const [bindings, setBindings] = useState<Binding[]>([{ role: "viewer", app: "*" }]);
  const add = useMutation({
    mutationFn: () => call("post", "/users", { body: { email: email.trim(), ...(name.trim() ? { name: name.trim() } : {}), bindings: cleanBindings(bindings) } }),
    onSuccess: (u) => {
      void client.invalidateQueries({ queryKey: ["users"] });
      say(`${u.email} can sign in now.`);
      onClose();
    },
  });
  const problem = add.error instanceof ProblemError ? add.error.problem : undefined;
  const submit = (e: FormEvent) => {
    e.preventDefault();
    add.mutate();
  };
  return (
    <form onSubmit={submit} className="grid gap-4">
      <Field label="Address" hint="The one that your identity provider knows them by." error={problem?.field === "email" ? problem.detail : undefined}>
        {(ids) => <Input {...ids} type="email" required autoFocus maxLength={254} value={email} onChange={(e) => setEmail(e.target.value)} />}
      </Field>
      <Field label="Name" optional hint="The provider tells it at the first sign-in.">
        {(ids) => <Input {...ids} maxLength={200} value={name} onChange={(e) => setName(e.target.value)} />}
      </Field>
      <fieldset className="grid gap-1.5">
        <legend className="mb-1.5 text-row font-medium">Roles, and over which apps</legend>
        <BindingEditor value={bindings} onChange={setBindings} />
      </fieldset>
      {problem?.field !== "email" && <FormError error={add.error} />}
      <Actions>
        <Button onClick={onClose}>Cancel</Button>
        <Button type="submit" tone="primary" busy={add.isPending}>
          Add
        </Button>
      </Actions>
    </form>
  );
}
