import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Laptop, ServerCog } from "lucide-react";
import { useState } from "react";
import { call, type Schemas } from "@/api/client";
import { myDevices, type Token } from "@/api/queries";
import { loginLine, rackURLLine } from "@/lib/snippets";
import { Page } from "@/shell/page";
import { useWho } from "@/shell/who";
import { Button, Checkbox, Field, Input } from "@/ui/controls";
import { Async, Badge, Banner, Code, Empty, Name, Section, SkeletonRows, State, Time } from "@/ui/display";
import { FormError, useConfirm, useToast } from "@/ui/overlay";
import { gatewayHost } from "./newtoken";
import { tokenStates } from "./parts";

export function Connect() {
  const who = useWho();
  const [issued, setIssued] = useState<Schemas["IssuedToken"] | null>(null);
  return (
    <Page title="Connect CLI" width="read" lead={<>The convox CLI as you know it, through this gateway. Each device has a token of its own, which does what you may do and nothing more.</>}>
      {issued ? <Lines issued={issued} onDone={() => setIssued(null)} /> : who.kind === "session" ? <NewDevice onIssued={setIssued} /> : null}
      <Section title="Your devices">
        <Devices />
      </Section>
    </Page>
  );
}

function NewDevice({ onIssued }: { onIssued: (t: Schemas["IssuedToken"]) => void }) {
  const client = useQueryClient();
  const [name, setName] = useState(guess);
  const [headless, setHeadless] = useState(false);
  const create = useMutation({
    mutationFn: () => call("post", "/me/devices", { body: { name: name.trim(), headless } }),
    onSuccess: (made) => {
      void client.invalidateQueries({ queryKey: ["tokens"] });
      void client.invalidateQueries({ queryKey: ["overview"] });
      onIssued(made);
    },
  });
  return (
    <form
      className="grid max-w-xl gap-4"
      onSubmit={(e) => {
        e.preventDefault();
        create.mutate();
      }}
    >
      <Field label="Which device is it for?" hint="So that you can tell it from others when one is lost.">
        {(ids) => <Input {...ids} required maxLength={200} value={name} onChange={(e) => setName(e.target.value)} />}
      </Field>
      <Checkbox label="It has no browser" hint="A server that you reach by SSH. Second factors are then given here, in the console." checked={headless} onChange={(e) => setHeadless(e.target.checked)} />
      <FormError error={create.error} />
      <div>
        <Button type="submit" tone="primary" busy={create.isPending} disabled={name.trim() === ""}>
          Make a token
        </Button>
      </div>
    </form>
  );
}

function guess(): string {
  const system = /iPhone|iPad|Android|Windows|Mac OS|CrOS|Linux/.exec(navigator.userAgent)?.[0] ?? "";
  return { "Mac OS": "my Mac", Windows: "my Windows PC", Linux: "my Linux machine" }[system] ?? "my computer";
}

function Lines({ issued, onDone }: { issued: Schemas["IssuedToken"]; onDone: () => void }) {
  const who = useWho();
  const host = gatewayHost(who.gateway_host);
  return (
    <div className="grid gap-5">
      <Banner meaning="warn" title="This is shown once">
        Paste it now. If it is lost, revoke the device below and make another.
      </Banner>
      <div className="grid gap-1.5">
        <h2 className="text-row font-medium">Sign in</h2>
        <Code text={loginLine(host, issued.secret)} label="Line for convox login" wrap secret />
        <p className="text-note text-ink-3">
          Then <code className="font-mono">convox racks</code>, <code className="font-mono">convox switch {who.rack}</code>, and every command as before.
        </p>
      </div>
      <div className="grid gap-1.5">
        <h2 className="text-row font-medium">Or for one shell alone</h2>
        <Code text={rackURLLine(host, issued.secret)} label="Line for RACK_URL" wrap secret />
      </div>
      <div>
        <Button onClick={onDone} tone="primary">
          I have pasted it
        </Button>
      </div>
    </div>
  );
}

export function Devices() {
  const query = useQuery(myDevices);
  const client = useQueryClient();
  const say = useToast();
  const [confirm, ask] = useConfirm();
  const revoke = (t: Token) =>
    ask({
      title: `Revoke ${t.name}?`,
      verb: "Revoke",
      children: <p>Its CLI is signed out at once, and shells that it has open end. Other devices go on.</p>,
      act: async () => {
        await call("delete", "/me/devices/{tokenId}", { path: { tokenId: t.id } });
        await client.invalidateQueries({ queryKey: ["tokens"] });
        say(`${t.name} is signed out.`);
      },
    });
  const setHeadless = (t: Token) =>
    ask({
      title: t.headless ? `Say that ${t.name} has a browser?` : `Say that ${t.name} has no browser?`,
      verb: t.headless ? "It has one" : "It has none",
      tone: "primary",
      children: t.headless ? (
        <p>When a command there needs a second factor, a page opens on that device.</p>
      ) : (
        <p>When a command there needs a second factor, the terminal shows two words and waits. You answer on your overview, here or on your phone, and type the words. Do it for servers and remote shells of your own.</p>
      ),
      act: async () => {
        await call("put", "/me/devices/{tokenId}/headless", { path: { tokenId: t.id }, body: { headless: !t.headless } });
        await client.invalidateQueries({ queryKey: ["tokens"] });
        say(t.headless ? `${t.name} has a browser.` : `${t.name} has no browser: you are asked here.`);
      },
    });
  return (
    <>
      <Async query={query} skeleton={<SkeletonRows rows={2} />}>
        {(data) =>
          data.items.length === 0 ? (
            <Empty icon={<Laptop aria-hidden />} title="No device yet">
              Name this computer above, and paste the line that you get.
            </Empty>
          ) : (
            <ul className="divide-y divide-line border-y border-line text-row">
              {data.items.map((t) => {
                const [meaning, text] = tokenStates[t.state];
                return (
                  <li key={t.id} className="flex flex-wrap items-center gap-x-4 gap-y-1 px-3 py-2.5">
                    <span className="text-ink-3 [&_svg]:size-4">{t.headless ? <ServerCog aria-hidden /> : <Laptop aria-hidden />}</span>
                    <span className="min-w-0 flex-1 basis-52">
                      <Name className="font-medium">{t.name}</Name> {t.headless && <Badge>no browser</Badge>}
                      <span className="block text-note text-ink-3">
                        <span className="font-mono">…{t.last_four}</span> · used <Time at={t.last_used_at} />
                        {t.last_used_address && <> from <span className="font-mono">{t.last_used_address}</span></>} · ends <Time at={t.expires_at} />
                      </span>
                    </span>
                    <State meaning={meaning}>{text}</State>
                    {(t.state === "active" || t.state === "sign-in-due") && (
                      <span className="flex flex-wrap gap-2">
                        <Button size="sm" aria-label={t.headless ? `Say that ${t.name} has a browser` : `Say that ${t.name} has no browser`} onClick={() => setHeadless(t)}>
                          {t.headless ? "Has a browser" : "No browser"}
                        </Button>
                        <Button size="sm" tone="danger" onClick={() => revoke(t)}>
                          Revoke
                        </Button>
                      </span>
                    )}
                  </li>
                );
              })}
            </ul>
          )
        }
      </Async>
      {confirm}
    </>
  );
}
