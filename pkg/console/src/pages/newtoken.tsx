import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useRouter } from "@tanstack/react-router";
import { useEffect, useState, type FormEvent } from "react";
import { call, ProblemError, type Schemas } from "@/api/client";
import { permissions, settings, type Binding } from "@/api/queries";
import { rackURL, snippets } from "@/lib/snippets";
import { Page } from "@/shell/page";
import { useWho } from "@/shell/who";
import { Button, ButtonLink, Chips, Field, Input, TextArea } from "@/ui/controls";
import { Banner, Code, Section } from "@/ui/display";
import { FormError } from "@/ui/overlay";
import { BindingEditor, cleanBindings } from "./parts";
import { PermissionPicker } from "./permissionpicker";

export function NewToken() {
  const [issued, setIssued] = useState<Schemas["IssuedToken"] | null>(null);
  return issued ? <Issued issued={issued} /> : <Form onIssued={setIssued} />;
}

function Form({ onIssued }: { onIssued: (issued: Schemas["IssuedToken"]) => void }) {
  const who = useWho();
  const client = useQueryClient();
  const router = useRouter();
  const [name, setName] = useState("");
  const [rights, setRights] = useState<"roles" | "permissions">("roles");
  const [bindings, setBindings] = useState<Binding[]>([{ role: "cicd", app: "*" }]);
  const [picked, setPicked] = useState<string[]>([]);
  const [networks, setNetworks] = useState("");
  const [days, setDays] = useState("90");
  const all = useQuery({ ...permissions, enabled: rights === "permissions" && who.can("gateway:role:read") });
  const limits = useQuery({ ...settings, enabled: who.can("gateway:setting:read") });
  const longest = Number(limits.data?.items.find((s) => s.key === "api_token_days")?.value ?? 3650);
  useEffect(() => setDays((d) => (Number(d) > longest ? String(longest) : d)), [longest]);
  const create = useMutation({
    mutationFn: () => {
      const cidrs = networks.split(/[\s,]+/).filter(Boolean);
      return call("post", "/tokens", {
        body: {
          name: name.trim(),
          ...(rights === "roles" ? { bindings: cleanBindings(bindings) } : { permissions: picked }),
          ...(cidrs.length > 0 ? { source_cidrs: cidrs } : {}),
          expires_in_days: Number(days),
        },
      });
    },
    onSuccess: (made) => {
      void client.invalidateQueries({ queryKey: ["tokens"] });
      onIssued(made);
    },
  });
  const problem = create.error instanceof ProblemError ? create.error.problem : undefined;
  const of = (field: string) => (problem?.field?.startsWith(field) ? problem.detail : undefined);
  const submit = (e: FormEvent) => {
    e.preventDefault();
    create.mutate();
  };
  return (
    <Page title="Create an API token" above={{ label: "API tokens", to: { to: "/tokens" } }} width="read" lead="For a pipeline or a script. It can do what you give it here, and never more than you may do yourself: when your rights shrink, so do its.">
      <form onSubmit={submit} className="grid max-w-2xl gap-6">
        <Field label="Name" hint="What uses it, such as web-deploys or nightly-backup. The record shows it with everything it does." error={of("name")}>
          {(ids) => <Input {...ids} required autoFocus maxLength={200} value={name} onChange={(e) => setName(e.target.value)} />}
        </Field>
        <fieldset>
          <legend className="mb-2 text-row font-medium">What it may do</legend>
          <div className="grid gap-3">
            <Chips
              label="Rights"
              value={rights}
              onChange={setRights}
              options={[
                { value: "roles", label: "Roles over apps" },
                { value: "permissions", label: "Single permissions" },
              ]}
            />
            {rights === "roles" ? <BindingEditor value={bindings} onChange={setBindings} forToken /> : <PermissionPicker all={(all.data?.items ?? who.permissions).filter((p) => who.can(p))} value={picked} onChange={setPicked} />}
          </div>
        </fieldset>
        <Field label="Where it may be used from" optional hint="Networks, such as 203.0.113.0/24, one a line. Empty means anywhere." error={of("source_cidrs")}>
          {(ids) => <TextArea {...ids} rows={2} className="font-mono" value={networks} onChange={(e) => setNetworks(e.target.value)} />}
        </Field>
        <Field label="Ends after" hint={`Days. At most ${longest}, as set; it can be rotated before.`} error={of("expires_in_days")}>
          {(ids) => <Input {...ids} type="number" required min={1} max={longest} value={days} onChange={(e) => setDays(e.target.value)} className="max-w-32" />}
        </Field>
        {!(problem?.field && ["name", "source_cidrs", "expires_in_days"].some((f) => problem.field?.startsWith(f))) && <FormError error={create.error} />}
        <div className="flex gap-2">
          <Button type="submit" tone="primary" busy={create.isPending} disabled={rights === "permissions" && picked.length === 0}>
            Create the token
          </Button>
          <Button onClick={() => void router.navigate({ to: "/tokens" })}>Cancel</Button>
        </div>
      </form>
    </Page>
  );
}

/** gatewayHost is where CLIs reach the gateway: where this page is, unless the gateway says otherwise. */
export function gatewayHost(gateway?: string): string {
  return gateway ?? location.host;
}

function Issued({ issued }: { issued: Schemas["IssuedToken"] }) {
  return (
    <Page title={issued.token.name} above={{ label: "API tokens", to: { to: "/tokens" } }} width="read" lead="The token was made.">
      <SecretOnce issued={issued} />
      <div className="mt-8">
        <ButtonLink to="/tokens/$token" params={{ token: issued.token.id }} tone="primary">
          I have kept it
        </ButtonLink>
      </div>
    </Page>
  );
}

/** A secret that is shown this once, and what to do with it. */
export function SecretOnce({ issued }: { issued: Schemas["IssuedToken"] }) {
  const who = useWho();
  const host = gatewayHost(who.gateway_host);
  const app = issued.token.bindings.find((b) => b.app !== "*" && !b.app.includes("*"))?.app ?? "myapp";
  const list = snippets({ host, rack: who.rack, app });
  const [shown, setShown] = useState(list[0]?.id ?? "");
  const snippet = list.find((s) => s.id === shown);
  return (
    <>
      <Banner meaning="warn" title="This is shown once">
        The gateway keeps a fingerprint of it only. Copy it now to where it is needed; if it is lost, rotate the token.
      </Banner>
      <div className="grid gap-3">
        <div>
          <h3 className="mb-1 text-note font-medium text-ink-3">The token</h3>
          <Code text={issued.secret} label="Token" wrap secret />
        </div>
        <div>
          <h3 className="mb-1 text-note font-medium text-ink-3">As RACK_URL, which is all that the convox CLI needs</h3>
          <Code text={rackURL(host, issued.secret)} label="RACK_URL" wrap secret />
        </div>
      </div>
      <Section title="In your pipeline">
        <div className="grid gap-3">
          <Chips label="Pipeline" value={shown} onChange={setShown} options={list.map((s) => ({ value: s.id, label: s.title }))} />
          {snippet && (
            <>
              <p className="text-row text-ink-2">{snippet.where}</p>
              <Code text={snippet.text} label={`${snippet.title} snippet`} />
            </>
          )}
        </div>
      </Section>
    </>
  );
}
