import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi, Link } from "@tanstack/react-router";
import { RotateCw } from "lucide-react";
import { useState } from "react";
import { call, type Schemas } from "@/api/client";
import { eventsOf, token as tokenQuery, type Binding, type Token } from "@/api/queries";
import { Page } from "@/shell/page";
import { useWho } from "@/shell/who";
import { Button, ButtonLink, Field, Select, TextArea } from "@/ui/controls";
import { Async, Badge, Banner, Empty, Fact, Facts, Failure, Id, Name, Section, SkeletonRows, Time } from "@/ui/display";
import { Actions, Dialog, FormError, useConfirm, useToast } from "@/ui/overlay";
import { EventList } from "./eventlist";
import { SecretOnce } from "./newtoken";
import { BindingEditor, Bindings, cleanBindings } from "./parts";
import { TokenState } from "./tokenlist";

const route = getRouteApi("/tokens/$token");

export function TokenPage() {
  const { token: id } = route.useParams();
  const query = useQuery(tokenQuery(id));
  if (!query.data) {
    return (
      <Page title="Token" above={{ label: "API tokens", to: { to: "/tokens" } }}>
        {query.error ? <Failure error={query.error} retry={() => void query.refetch()} what="token" /> : <SkeletonRows rows={5} />}
      </Page>
    );
  }
  return <Known token={query.data} />;
}

function Known({ token }: { token: Token }) {
  const who = useWho();
  const client = useQueryClient();
  const say = useToast();
  const [confirm, ask] = useConfirm();
  const [rotating, setRotating] = useState(false);
  const [editing, setEditing] = useState(false);
  const alive = token.state === "active" || token.state === "idle" || token.state === "owner-locked" || token.state === "sign-in-due";
  const manage = who.can("gateway:token:manage") && alive;
  const activity = useQuery({ ...eventsOf({ actor: token.id }, 15), enabled: who.can("gateway:audit:read") && token.kind === "api" });
  const revoke = () =>
    ask({
      title: `Revoke ${token.name}?`,
      verb: "Revoke",
      type: token.name.length <= 40 ? token.name : token.last_four,
      children: <p>Whatever uses it is refused at once, and shells that it has open end. It cannot be brought back; make a new one instead.</p>,
      act: async () => {
        await call("delete", "/tokens/{tokenId}", { path: { tokenId: token.id } });
        await client.invalidateQueries({ queryKey: ["tokens"] });
        say("The token is revoked.");
      },
    });
  return (
    <Page
      title={token.name}
      heading={<Name>{token.name}</Name>}
      above={{ label: "API tokens", to: { to: "/tokens" } }}
      actions={
        manage && (
          <>
            {token.kind === "api" && <Button onClick={() => setEditing(true)}>Change rights</Button>}
            <Button onClick={() => setRotating(true)}>
              <RotateCw aria-hidden />
              Rotate
            </Button>
            <Button tone="danger" onClick={revoke}>
              Revoke
            </Button>
          </>
        )
      }
    >
      {token.state === "revoked" && <Banner meaning="warn" title="Revoked"><Time at={token.revoked_at} />{token.revoked_reason ? <>: <Name>{token.revoked_reason}</Name></> : null}</Banner>}
      {token.state === "owner-locked" && <Banner meaning="bad" title="Its owner is locked">It is refused until they are unlocked.</Banner>}
      {token.old_secret_until && <Banner meaning="info" title="It was rotated">The secret from before works until <Time at={token.old_secret_until} />.</Banner>}
      <Facts>
        <Fact label="State"><TokenState token={token} /></Fact>
        <Fact label="Kind">{token.kind === "api" ? "API token, of a pipeline" : `CLI token, of a person${token.headless ? ", for a device without a browser" : ""}`}</Fact>
        <Fact label="Token"><span className="font-mono text-note">{token.prefix}…{token.last_four}</span></Fact>
        <Fact label="May do">{token.kind === "cli" ? "What its owner may do" : token.permissions.length > 0 ? <span className="flex flex-wrap gap-1">{token.permissions.map((p) => <Badge key={p} mono>{p}</Badge>)}</span> : <Bindings bindings={token.bindings} none="Nothing" />}</Fact>
        <Fact label="From">{token.source_cidrs.length === 0 ? "Anywhere" : <span className="font-mono text-note">{token.source_cidrs.join(", ")}</span>}</Fact>
        <Fact label="Owner">
          {who.can("gateway:user:read") ? <Link className="link" to="/users/$user" params={{ user: token.owner.id }}><Name>{token.owner.email}</Name></Link> : <Name>{token.owner.email}</Name>}
          {token.creator && token.creator.id !== token.owner.id && <span className="text-ink-3"> · bounded by the rights of <Name>{token.creator.email}</Name>, who made it</span>}
        </Fact>
        <Fact label="Last used"><Time at={token.last_used_at} focusable />{token.last_used_address && <span className="text-ink-3"> from <span className="font-mono text-note">{token.last_used_address}</span></span>}</Fact>
        <Fact label="Ends"><Time at={token.expires_at} focusable /></Fact>
        <Fact label="Made"><Time at={token.created_at} focusable /> by <Name>{token.created_by}</Name></Fact>
        <Fact label="Id"><Id value={token.id} /></Fact>
      </Facts>
      {activity.isEnabled && (
        <div className="mt-10">
          <Section title="What it did last" action={<ButtonLink size="sm" to="/audit" search={{ actor: token.id, span: "all" }}>All of it</ButtonLink>}>
            <Async query={activity} skeleton={<SkeletonRows rows={3} />}>
              {(data) => (data.items.length === 0 ? <Empty title="Nothing yet">It was never used for anything that is recorded.</Empty> : <EventList label={`Events of ${token.name}`} events={data.items} actor={false} />)}
            </Async>
          </Section>
        </div>
      )}
      {confirm}
      <Rotate token={token} open={rotating} onClose={() => setRotating(false)} />
      <Dialog open={editing} onClose={() => setEditing(false)} title={`Rights of ${token.name}`} description="They change at once. What was given as single permissions is replaced by these roles." wide>
        <Edit token={token} onClose={() => setEditing(false)} />
      </Dialog>
    </Page>
  );
}

function Rotate({ token, open, onClose }: { token: Token; open: boolean; onClose: () => void }) {
  const client = useQueryClient();
  const [keep, setKeep] = useState("24");
  const [issued, setIssued] = useState<Schemas["IssuedToken"] | null>(null);
  const rotate = useMutation({
    mutationFn: () => call("post", "/tokens/{tokenId}/rotate", { path: { tokenId: token.id }, body: { keep_old_hours: Number(keep) } }),
    onSuccess: (made) => {
      setIssued(made);
      void client.invalidateQueries({ queryKey: ["tokens"] });
    },
  });
  const close = () => {
    setIssued(null);
    rotate.reset();
    onClose();
  };
  if (issued) {
    return (
      <Dialog open={open} onClose={close} title="The new secret" wide sticky>
        <SecretOnce issued={issued} />
        <Actions>
          <Button tone="primary" onClick={close}>
            I have kept it
          </Button>
        </Actions>
      </Dialog>
    );
  }
  return (
    <Dialog open={open} onClose={close} title={`Rotate ${token.name}?`} description="It gets a new secret. Name, rights and history stay.">
      <form
        onSubmit={(e) => {
          e.preventDefault();
          rotate.mutate();
        }}
      >
        <Field label="The old secret works for" hint="So that a pipeline goes on while you bring the new one there.">
          {(ids) => (
            <Select {...ids} value={keep} onChange={(e) => setKeep(e.target.value)}>
              <option value="0">no longer: it ends at once</option>
              <option value="1">another hour</option>
              <option value="24">another day</option>
              <option value="168">another week</option>
            </Select>
          )}
        </Field>
        <FormError error={rotate.error} />
        <Actions>
          <Button onClick={close}>Cancel</Button>
          <Button type="submit" tone="primary" busy={rotate.isPending}>
            Rotate
          </Button>
        </Actions>
      </form>
    </Dialog>
  );
}

function Edit({ token, onClose }: { token: Token; onClose: () => void }) {
  const client = useQueryClient();
  const say = useToast();
  const [bindings, setBindings] = useState<Binding[]>(token.bindings);
  const [networks, setNetworks] = useState(token.source_cidrs.join("\n"));
  const save = useMutation({
    mutationFn: () => call("put", "/tokens/{tokenId}/rights", { path: { tokenId: token.id }, body: { bindings: cleanBindings(bindings), source_cidrs: networks.split(/[\s,]+/).filter(Boolean) } }),
    onSuccess: async () => {
      await client.invalidateQueries({ queryKey: ["tokens"] });
      say("The rights were changed.");
      onClose();
    },
  });
  return (
    <form
      className="grid gap-4"
      onSubmit={(e) => {
        e.preventDefault();
        save.mutate();
      }}
    >
      <BindingEditor value={bindings} onChange={setBindings} forToken />
      <Field label="Where it may be used from" optional hint="Networks, one a line. Empty means anywhere.">
        {(ids) => <TextArea {...ids} rows={2} className="font-mono" value={networks} onChange={(e) => setNetworks(e.target.value)} />}
      </Field>
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
