import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi, useRouter } from "@tanstack/react-router";
import { Lock, LockOpen, MoreHorizontal, UserX } from "lucide-react";
import { useMemo, useState } from "react";
import { call } from "@/api/client";
import { eventsOf, sessionsOf, tokens, user as userQuery, userMail, type Binding, type User } from "@/api/queries";
import { Page } from "@/shell/page";
import { useWho } from "@/shell/who";
import { Button, ButtonLink, IconButton } from "@/ui/controls";
import { Async, Banner, Empty, Fact, Facts, Failure, Id, Name, Section, Skeleton, SkeletonRows, State, Time } from "@/ui/display";
import { Actions, Dialog, FormError, Menu, useConfirm, useToast } from "@/ui/overlay";
import { EventList } from "./eventlist";
import { FactorsOf } from "./factors";
import { BindingEditor, Bindings, cleanBindings } from "./parts";
import { SessionList } from "./sessions";
import { TokenList } from "./tokenlist";
import { UserState } from "./users";

const route = getRouteApi("/users/$user");

export function UserPage() {
  const { user: id } = route.useParams();
  const query = useQuery(userQuery(id));
  const above = { label: "People", to: { to: "/users" as const } };
  if (!query.data) {
    return (
      <Page title="Person" above={above}>
        {query.error ? <Failure error={query.error} retry={() => void query.refetch()} what="person" /> : <SkeletonRows rows={4} />}
      </Page>
    );
  }
  return <Known user={query.data} />;
}

function Known({ user }: { user: User }) {
  const who = useWho();
  const client = useQueryClient();
  const router = useRouter();
  const say = useToast();
  const [confirm, ask] = useConfirm();
  const [editing, setEditing] = useState(false);
  const manage = who.can("gateway:user:manage") && !user.removed_at;
  const self = who.user_id === user.id;
  const name = user.name || user.email;
  const changed = () => client.invalidateQueries({ queryKey: ["users"] });

  const lock = () =>
    ask({
      title: `Lock ${name}?`,
      verb: "Lock",
      reason: "Why",
      children: (
        <>
          <p>They are signed out at once. Their CLI tokens and every API token that they own stop working, and open shells of theirs end within a tenth of a second.</p>
          <p>Nothing is deleted: unlocking gives everything back.</p>
        </>
      ),
      act: async (reason) => {
        await call("post", "/users/{userId}/lock", { path: { userId: user.id }, body: { reason } });
        await changed();
        say(`${name} is locked.`);
      },
    });
  const unlock = () =>
    ask({
      title: `Unlock ${name}?`,
      verb: "Unlock",
      tone: "primary",
      children: <p>They can sign in again, and tokens of theirs that have not ended work again.</p>,
      act: async () => {
        await call("post", "/users/{userId}/unlock", { path: { userId: user.id } });
        await changed();
        say(`${name} is unlocked.`);
      },
    });
  const remove = () =>
    ask({
      title: `Remove ${name}?`,
      verb: "Remove",
      type: user.email,
      children: (
        <>
          <p>They can no longer sign in, and all their tokens and sessions end. This cannot be undone: added again, they begin anew.</p>
          <p>The audit record keeps their name.</p>
        </>
      ),
      act: async () => {
        await call("delete", "/users/{userId}", { path: { userId: user.id } });
        await changed();
        say(`${name} is removed.`);
        void router.navigate({ to: "/users" });
      },
    });

  return (
    <Page
      title={name}
      heading={<Name>{name}</Name>}
      above={{ label: "People", to: { to: "/users" } }}
      lead={user.name ? <Name>{user.email}</Name> : undefined}
      actions={
        manage && (
          <>
            <Button onClick={() => setEditing(true)}>Change roles</Button>
            {user.locked_at ? (
              <Button onClick={unlock}>
                <LockOpen aria-hidden />
                Unlock
              </Button>
            ) : (
              <Button tone="danger" onClick={lock} disabled={self} {...(self ? { "data-tip": "You cannot lock yourself" } : {})}>
                <Lock aria-hidden />
                Lock
              </Button>
            )}
            <Menu
              trigger={
                <IconButton label="More to do" size="md" tone="plain">
                  <MoreHorizontal aria-hidden />
                </IconButton>
              }
              items={[{ label: "Remove…", danger: true, icon: <UserX aria-hidden />, onSelect: remove, disabled: self ? "You cannot remove yourself." : undefined }]}
            />
          </>
        )
      }
    >
      {user.locked_at && (
        <Banner meaning="bad" title="Locked">
          <Time at={user.locked_at} />: <Name>{user.locked_reason ?? ""}</Name>
        </Banner>
      )}
      {user.removed_at && (
        <Banner meaning="warn" title="Removed">
          <Time at={user.removed_at} />. What they did stays in the record.
        </Banner>
      )}
      <Facts>
        <Fact label="State"><UserState user={user} /></Fact>
        <Fact label="Roles"><Bindings bindings={user.bindings} none="No role: they can sign in, and see nothing." /></Fact>
        <Fact label="Last sign-in"><Time at={user.signed_in_at} focusable /></Fact>
        <Fact label="Added"><Time at={user.created_at} focusable /> by <Name>{user.created_by}</Name></Fact>
        {!user.removed_at && <Fact label="Mail"><Mail user={user} /></Fact>}
        <Fact label="Id"><Id value={user.id} /></Fact>
      </Facts>
      <div className="mt-10">
        {!user.removed_at && <FactorsOf user={user} />}
        {who.can("gateway:session:manage") && <Sessions user={user} />}
        {who.can("gateway:token:read") && <Tokens user={user} />}
        {who.can("gateway:audit:read") && <ActivityOf user={user} />}
      </div>
      {confirm}
      <Dialog open={editing} onClose={() => setEditing(false)} title={`Roles of ${name}`} description="What they may do changes at once, in shells and sessions that are open too." wide>
        <Roles user={user} onClose={() => setEditing(false)} />
      </Dialog>
    </Page>
  );
}

function Roles({ user, onClose }: { user: User; onClose: () => void }) {
  const client = useQueryClient();
  const say = useToast();
  const [bindings, setBindings] = useState<Binding[]>(user.bindings);
  const save = useMutation({
    mutationFn: () => call("put", "/users/{userId}/bindings", { path: { userId: user.id }, body: { bindings: cleanBindings(bindings) } }),
    onSuccess: async () => {
      await client.invalidateQueries({ queryKey: ["users"] });
      say("The roles were changed.");
      onClose();
    },
  });
  return (
    <form
      onSubmit={(e) => {
        e.preventDefault();
        save.mutate();
      }}
    >
      <BindingEditor value={bindings} onChange={setBindings} />
      <FormError error={save.error} />
      <Actions>
        <Button onClick={onClose}>Cancel</Button>
        <Button type="submit" tone="primary" busy={save.isPending}>
          Save
        </Button>
      </Actions>
    </form>
  );
}

/** Whether mail reaches them: what concerns their security is told by mail. */
function Mail({ user }: { user: User }) {
  const query = useQuery(userMail(user.id));
  if (query.error) return <span className="text-ink-3">Could not be asked for: {query.error.message}</span>;
  const mail = query.data;
  if (!mail) return <Skeleton className="h-4 w-32" />;
  if (mail.state === "fine") return <State meaning="ok">{mail.items.length === 0 ? "nothing was sent yet" : "arrives, as far as is known"}</State>;
  return (
    <>
      <State meaning="bad">{mail.state === "bounced" ? "comes back" : "was marked as spam"}</State>{" "}
      <span className="text-ink-3"><Time at={mail.since} focusable /></span>
      {mail.reason && <span className="block text-ink-2"><Name>{mail.reason}</Name></span>}
      <span className="block text-ink-2">They hear of nothing by mail, of their own security either. See that the address is right, and tell them in another way.</span>
    </>
  );
}

function Sessions({ user }: { user: User }) {
  const query = useQuery(sessionsOf(user.id));
  return (
    <Section title="Signed in at">
      <Async query={query} skeleton={<SkeletonRows rows={2} />}>
        {(data) => (data.items.length === 0 ? <Empty title="Nowhere">No browser is signed in as them.</Empty> : <SessionList sessions={data.items} />)}
      </Async>
    </Section>
  );
}

function Tokens({ user }: { user: User }) {
  const query = useInfiniteQuery(tokens({ owner: user.id, ended: true }));
  const rows = useMemo(() => query.data?.pages.flatMap((p) => p.items) ?? [], [query.data]);
  return (
    <Section title="Devices and tokens">
      <Async query={query} skeleton={<SkeletonRows rows={2} />}>
        {() => (rows.length === 0 ? <Empty title="None">They have no CLI token, and own no API token.</Empty> : <TokenList rows={rows} label={`Tokens of ${user.email}`} owner={false} />)}
      </Async>
    </Section>
  );
}

function ActivityOf({ user }: { user: User }) {
  const query = useQuery(eventsOf({ actor: user.email }, 15));
  return (
    <Section title="What they did last" action={<ButtonLink size="sm" to="/audit" search={{ actor: user.email, span: "all" }}>All of it</ButtonLink>}>
      <Async query={query} skeleton={<SkeletonRows rows={4} />}>
        {(data) => (data.items.length === 0 ? <Empty title="Nothing yet">The record has nothing of them.</Empty> : <EventList label={`Events of ${user.email}`} events={data.items} actor={false} />)}
      </Async>
    </Section>
  );
}
