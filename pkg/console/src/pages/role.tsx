import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi, Link, useRouter } from "@tanstack/react-router";
import { useState, type FormEvent } from "react";
import { call, ProblemError } from "@/api/client";
import { permissions, roles, users, type Role } from "@/api/queries";
import { action, diffSets, group, isGrave } from "@/lib/permissions";
import { Page } from "@/shell/page";
import { useWho } from "@/shell/who";
import { Button, ButtonLink, Field, Input } from "@/ui/controls";
import { Async, Badge, Empty, Fact, Facts, Failure, Name, Section, SkeletonRows } from "@/ui/display";
import { FormError, useConfirm, useToast } from "@/ui/overlay";
import { PermissionPicker } from "./permissionpicker";

const route = getRouteApi("/roles/$role");

export function RolePage() {
  const { role: name } = route.useParams();
  const query = useQuery(roles);
  const found = query.data?.items.find((r) => r.name === name);
  const above = { label: "Roles", to: { to: "/roles" as const } };
  if (!found) {
    return (
      <Page title={name} above={above}>
        {query.error ? <Failure error={query.error} retry={() => void query.refetch()} /> : query.data ? <Empty title="There is no such role">It may have been deleted, or the address was not copied whole.</Empty> : <SkeletonRows />}
      </Page>
    );
  }
  return <Known key={found.name} role={found} />;
}

function Known({ role }: { role: Role }) {
  const who = useWho();
  const client = useQueryClient();
  const router = useRouter();
  const say = useToast();
  const [confirm, ask] = useConfirm();
  const [editing, setEditing] = useState(false);
  const manage = who.can("gateway:role:manage") && !role.built_in;
  const remove = () =>
    ask({
      title: `Delete the role ${role.name}?`,
      verb: "Delete",
      type: role.name,
      children: <p>{role.people + role.tokens > 0 ? "Somebody still has it, so that it will be refused: take it from them first." : "Nobody has it, so nobody loses anything."}</p>,
      act: async () => {
        await call("delete", "/roles/{roleName}", { path: { roleName: role.name } });
        await client.invalidateQueries({ queryKey: ["roles"] });
        say("The role is deleted.");
        void router.navigate({ to: "/roles" });
      },
    });
  return (
    <Page
      title={role.name}
      above={{ label: "Roles", to: { to: "/roles" } }}
      lead={role.description}
      actions={
        manage && !editing && (
          <>
            <Button onClick={() => setEditing(true)}>Change</Button>
            <Button tone="danger" onClick={remove}>
              Delete
            </Button>
          </>
        )
      }
    >
      <Facts>
        <Fact label="Kind">{role.built_in ? "Built in: it cannot be changed" : "Custom"}{role.tokens_only && ", for API tokens only"}</Fact>
        <Fact label="Who has it"><span className="num">{role.people}</span> {role.people === 1 ? "person" : "people"}, <span className="num">{role.tokens}</span> {role.tokens === 1 ? "API token" : "API tokens"}</Fact>
      </Facts>
      <div className="mt-10">
        {editing ? (
          <Edit role={role} onClose={() => setEditing(false)} />
        ) : (
          <Section title={`${role.permissions.length} permissions`}>
            <PermissionTable permissions={role.permissions} />
          </Section>
        )}
        {!role.tokens_only && who.can("gateway:user:read") && <Holders role={role} />}
      </div>
      {confirm}
    </Page>
  );
}

function PermissionTable({ permissions: list }: { permissions: readonly string[] }) {
  return (
    <dl className="divide-y divide-line border-y border-line text-row">
      {group(list).map((g) => (
        <div key={g.name} className="grid gap-x-6 gap-y-1 px-3 py-2 sm:grid-cols-[11rem_1fr]">
          <dt className="font-medium">{g.title}</dt>
          <dd className="flex flex-wrap gap-1">
            {g.permissions.map((p) => (
              <span key={p} title={p}>
                <Badge mono meaning={isGrave(p) ? "warn" : "none"}>
                  {action(p)}
                </Badge>
              </span>
            ))}
          </dd>
        </div>
      ))}
    </dl>
  );
}

function Holders({ role }: { role: Role }) {
  const query = useInfiniteQuery(users({ role: role.name }));
  const list = query.data?.pages[0]?.items ?? [];
  return (
    <Section title="People who have it" action={<ButtonLink size="sm" to="/users" search={{ role: role.name }}>As a list</ButtonLink>}>
      <Async query={query} skeleton={<SkeletonRows rows={2} />}>
        {() =>
          list.length === 0 ? (
            <Empty title="Nobody">No person has this role.</Empty>
          ) : (
            <ul className="flex flex-wrap gap-x-4 gap-y-1.5 border-y border-line px-3 py-3 text-row">
              {list.slice(0, 60).map((u) => (
                <li key={u.id}>
                  <Link className="link" to="/users/$user" params={{ user: u.id }}>
                    <Name>{u.name || u.email}</Name>{u.name ? <Name className="ml-2 font-normal text-ink-3">{u.email}</Name> : null}
                  </Link>{" "}
                  {u.bindings.filter((b) => b.role === role.name && b.app !== "*").map((b) => (
                    <span key={b.app} className="font-mono text-note text-ink-3">{b.app} </span>
                  ))}
                </li>
              ))}
              {list.length > 60 && <li className="text-ink-3">and more</li>}
            </ul>
          )
        }
      </Async>
    </Section>
  );
}

/** What a change would do, before it is made. */
function WouldChange({ role, after }: { role: Role; after: readonly string[] }) {
  const diff = diffSets(role.permissions, after);
  const holders = role.people + role.tokens;
  if (diff.added.length + diff.removed.length === 0) return <p className="text-row text-ink-3">Nothing would change.</p>;
  const list = (label: string, permissions: string[], look: string) =>
    permissions.length > 0 && (
      <p className="flex flex-wrap items-center gap-1.5">
        <span className="w-20 text-note text-ink-3">{label}</span>
        {permissions.map((p) => (
          <code key={p} className={`rounded-sm px-1.5 font-mono text-note ${look}`}>{p}</code>
        ))}
      </p>
    );
  return (
    <div className="grid gap-1.5" role="status">
      <p className="text-row">{holders === 0 ? "Nobody has the role yet." : `At once, for ${role.people} ${role.people === 1 ? "person" : "people"} and ${role.tokens} ${role.tokens === 1 ? "token" : "tokens"}:`}</p>
      {list("may also", diff.added, "bg-ok-soft text-ok")}
      {list("may not", diff.removed, "bg-bad-soft text-bad")}
    </div>
  );
}

function Edit({ role, onClose }: { role: Role; onClose: () => void }) {
  const who = useWho();
  const client = useQueryClient();
  const say = useToast();
  const all = useQuery({ ...permissions, enabled: who.can("gateway:role:read") });
  const [description, setDescription] = useState(role.description);
  const [picked, setPicked] = useState<string[]>(role.permissions);
  const save = useMutation({
    mutationFn: () => call("put", "/roles/{roleName}", { path: { roleName: role.name }, body: { description, permissions: picked } }),
    onSuccess: async () => {
      await client.invalidateQueries({ queryKey: ["roles"] });
      say("The role was changed.");
      onClose();
    },
  });
  return (
    <form
      className="grid gap-5"
      onSubmit={(e) => {
        e.preventDefault();
        save.mutate();
      }}
    >
      <Field label="What it is for" optional>
        {(ids) => <Input {...ids} maxLength={500} value={description} onChange={(e) => setDescription(e.target.value)} className="max-w-xl" />}
      </Field>
      {all.data ? <PermissionPicker all={all.data.items} value={picked} onChange={setPicked} /> : <SkeletonRows />}
      <WouldChange role={role} after={picked} />
      <FormError error={save.error} />
      <div className="flex gap-2">
        <Button type="submit" tone="primary" busy={save.isPending} disabled={picked.length === 0}>
          Save
        </Button>
        <Button onClick={onClose}>Cancel</Button>
      </div>
    </form>
  );
}

export function NewRole() {
  const client = useQueryClient();
  const router = useRouter();
  const say = useToast();
  const all = useQuery(permissions);
  const existing = useQuery(roles);
  const [name, setName] = useState("");
  const [description, setDescription] = useState("");
  const [picked, setPicked] = useState<string[]>([]);
  const create = useMutation({
    mutationFn: () => call("post", "/roles", { body: { name, description, permissions: picked } }),
    onSuccess: async (made) => {
      await client.invalidateQueries({ queryKey: ["roles"] });
      say("The role was made.");
      void router.navigate({ to: "/roles/$role", params: { role: made.name } });
    },
  });
  const problem = create.error instanceof ProblemError ? create.error.problem : undefined;
  const submit = (e: FormEvent) => {
    e.preventDefault();
    create.mutate();
  };
  return (
    <Page title="Make a role" above={{ label: "Roles", to: { to: "/roles" } }} lead="Give it what is needed, and no more. It can be changed later, for everybody who has it at once.">
      <form onSubmit={submit} className="grid gap-5">
        <div className="grid max-w-xl gap-5">
          <Field label="Name" hint="Small letters, digits and dashes, such as release-manager." error={problem?.field === "name" ? problem.detail : undefined}>
            {(ids) => <Input {...ids} required autoFocus pattern="[a-z][a-z0-9\-]{0,62}" className="font-mono" value={name} onChange={(e) => setName(e.target.value)} />}
          </Field>
          <Field label="What it is for" optional>
            {(ids) => <Input {...ids} maxLength={500} value={description} onChange={(e) => setDescription(e.target.value)} />}
          </Field>
          {existing.data && (
            <p className="flex flex-wrap items-center gap-1.5 text-row text-ink-2">
              Begin with
              {existing.data.items.map((r) => (
                <Button key={r.name} size="sm" onClick={() => setPicked(r.permissions)}>
                  {r.name}
                </Button>
              ))}
            </p>
          )}
        </div>
        <Async query={all}>{(data) => <PermissionPicker all={data.items} value={picked} onChange={setPicked} />}</Async>
        {problem?.field !== "name" && <FormError error={create.error} />}
        <div className="flex gap-2">
          <Button type="submit" tone="primary" busy={create.isPending} disabled={picked.length === 0}>
            Make the role
          </Button>
          <Button onClick={() => void router.navigate({ to: "/roles" })}>Cancel</Button>
        </div>
      </form>
    </Page>
  );
}
