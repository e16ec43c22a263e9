// Second factors on the pages of oneself and, for admins, of others.
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Fingerprint, KeyRound, Plus, Smartphone } from "lucide-react";
import { useState } from "react";
import { call, type Schemas } from "@/api/client";
import { factorsOf, myFactors, trustedDevices, type User } from "@/api/queries";
import { browser } from "@/lib/agent";
import { AddFactor, BackupCodes, kindTitles } from "@/shell/factor";
import { useWho } from "@/shell/who";
import { Button } from "@/ui/controls";
import { Async, Badge, Banner, Empty, Name, Section, SkeletonRows, Time } from "@/ui/display";
import { Dialog, useConfirm, useToast } from "@/ui/overlay";

function icon(kind: Schemas["FactorKind"]) {
  return kind === "totp" ? <Smartphone aria-hidden /> : kind === "passkey" ? <Fingerprint aria-hidden /> : <KeyRound aria-hidden />;
}

function List({ items, remove }: { items: readonly Schemas["Factor"][]; remove?: (f: Schemas["Factor"]) => void }) {
  return (
    <ul className="divide-y divide-line border-y border-line text-row">
      {items.map((f) => (
        <li key={f.id} className="flex flex-wrap items-center gap-x-4 gap-y-1 px-3 py-2.5">
          <span className="text-ink-3 [&_svg]:size-4">{icon(f.kind)}</span>
          <span className="min-w-0 flex-1 basis-52">
            <Name className="font-medium">{f.name}</Name> {f.synced && <Badge>on several devices</Badge>}
            <span className="block text-note text-ink-3">
              {kindTitles[f.kind]} · added <Time at={f.created_at} /> · used <Time at={f.used_at} />
            </span>
          </span>
          {remove && (
            <Button size="sm" tone="danger" onClick={() => remove(f)}>
              Remove
            </Button>
          )}
        </li>
      ))}
    </ul>
  );
}

/** One's own factors. Changing them asks for one that is there. */
export function Factors() {
  const query = useQuery(myFactors);
  const trusted = useQuery(trustedDevices);
  const client = useQueryClient();
  const say = useToast();
  const [adding, setAdding] = useState(false);
  const [codes, setCodes] = useState<string[] | null>(null);
  const [confirm, ask] = useConfirm();
  const again = () => client.invalidateQueries({ queryKey: ["factors"] });
  const make = useMutation({ mutationFn: () => call("post", "/me/backup-codes"), onSuccess: (made) => { setCodes(made.codes); void again(); }, onError: (error) => say(error.message, true) });
  const remove = (f: Schemas["Factor"]) =>
    ask({
      title: `Remove ${f.name}?`,
      verb: "Remove",
      children: <p>It can no longer be used. {(query.data?.items.length ?? 0) < 2 ? "It is your last one: add another first, or you are asked for a new one at your next sign-in." : ""}</p>,
      act: async () => {
        await call("delete", "/me/factors/{factorId}", { path: { factorId: f.id } });
        await again();
        say(`${f.name} is removed.`);
      },
    });
  return (
    <Section
      title="Second factors"
      note="What proves that it is you, besides signing in."
      action={
        <span className="flex flex-wrap gap-2">
          {(query.data?.items.length ?? 0) > 0 && (
            <Button size="sm" busy={make.isPending} onClick={() => make.mutate()}>
              New backup codes
            </Button>
          )}
          <Button size="sm" onClick={() => setAdding(true)}>
            <Plus aria-hidden />
            Add a factor
          </Button>
        </span>
      }
    >
      <Async query={query} skeleton={<SkeletonRows rows={2} />}>
        {(data) => (
          <>
            {data.locked_until && <Banner meaning="warn">Too many wrong ones were given. They are checked again <Time at={data.locked_until} />.</Banner>}
            {data.items.length === 0 ? <Empty title="None yet">{data.required ? "This gateway asks everybody for one." : "Add a passkey: it takes ten seconds."}</Empty> : <List items={data.items} remove={remove} />}
            {data.items.length > 0 && (
              <p className="mt-2 text-note text-ink-3">
                {data.backup_codes_left === 0 ? <span className="text-bad">No backup code is left. Make new ones.</span> : <span className="num">{data.backup_codes_left} backup codes are left.</span>} {data.items.length === 1 && "Add a second factor of another kind, so that one can be lost."}
              </p>
            )}
          </>
        )}
      </Async>
      {(trusted.data?.items.length ?? 0) > 0 && (
        <div className="mt-5">
          <h3 className="mb-2 text-row font-medium">Browsers that sign in without one</h3>
          <ul className="divide-y divide-line border-y border-line text-row">
            {trusted.data?.items.map((d) => (
              <li key={d.id} className="flex flex-wrap items-center justify-between gap-3 px-3 py-2.5">
                <span title={d.user_agent}>
                  {browser(d.user_agent).name} <span className="text-ink-3">from {d.address}, until <Time at={d.expires_at} /></span>
                </span>
                <Button size="sm" onClick={() => void call("delete", "/me/trusted-devices/{trustedId}", { path: { trustedId: d.id } }).then(again, (error: Error) => say(error.message, true))}>
                  Ask again
                </Button>
              </li>
            ))}
          </ul>
        </div>
      )}
      {confirm}
      <Dialog open={adding} onClose={() => setAdding(false)} title="Add a factor" wide sticky>
        <AddFactor onDone={() => { setAdding(false); void client.invalidateQueries({ queryKey: ["me"] }); }} onCancel={() => setAdding(false)} />
      </Dialog>
      <Dialog open={codes !== null} onClose={() => setCodes(null)} title="New backup codes" sticky>
        {codes && <BackupCodes codes={codes} onDone={() => setCodes(null)} />}
      </Dialog>
    </Section>
  );
}

/** Somebody else's factors, for those who may reset them. */
export function FactorsOf({ user }: { user: User }) {
  const who = useWho();
  const query = useQuery(factorsOf(user.id));
  const client = useQueryClient();
  const say = useToast();
  const [confirm, ask] = useConfirm();
  const manage = who.can("gateway:user:manage");
  const reset = () =>
    ask({
      title: `Reset the factors of ${user.name || user.email}?`,
      verb: "Reset",
      type: user.email,
      children: <p>All of them are taken away, with backup codes and trusted browsers. They add new ones at their next sign-in. Do it only when you are sure that it is them who asks.</p>,
      act: async () => {
        await call("delete", "/users/{userId}/factors", { path: { userId: user.id } });
        await client.invalidateQueries({ queryKey: ["factors"] });
        say("The factors are reset.");
      },
    });
  const unlock = () =>
    void call("post", "/users/{userId}/factors/unlock", { path: { userId: user.id } }).then(
      () => client.invalidateQueries({ queryKey: ["factors"] }),
      (error: Error) => say(error.message, true),
    );
  return (
    <Section
      title="Second factors"
      action={
        manage && (query.data?.items.length ?? 0) > 0 && (
          <span className="flex gap-2">
            {query.data?.locked_until && <Button size="sm" onClick={unlock}>Check them again</Button>}
            <Button size="sm" tone="danger" onClick={reset}>Reset</Button>
          </span>
        )
      }
    >
      <Async query={query} skeleton={<SkeletonRows rows={2} />}>
        {(data) => (data.items.length === 0 ? <Empty title="None">{data.required ? "They add one at their next sign-in." : "They have added none."}</Empty> : <List items={data.items} />)}
      </Async>
      {confirm}
    </Section>
  );
}
