// Second factors: giving one, and adding one. The same parts are shown in a dialog, when a change asks for a factor, and as a
// page of their own, when signing in is not done without.
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Fingerprint, KeyRound, Smartphone } from "lucide-react";
import { useEffect, useRef, useState, type FormEvent, type ReactNode } from "react";
import { call, explain, type Problem, type Schemas } from "@/api/client";
import { me, myFactors } from "@/api/queries";
import * as webauthn from "@/lib/webauthn";
import { Button, Checkbox, Chips, Field, Input } from "@/ui/controls";
import { Banner, Code, Failure, Name, Skeleton } from "@/ui/display";
import { Actions, Dialog } from "@/ui/overlay";
import { Mark } from "./mark";
import { signOut } from "./shell";

type Kind = Schemas["FactorKind"];
type Way = "passkey" | "totp" | "yubikey-otp" | "backup-code";

const ways: Record<Way, string> = { passkey: "Passkey or security key", totp: "Authenticator app", "yubikey-otp": "YubiKey", "backup-code": "Backup code" };

export const kindTitles: Record<Kind, string> = { passkey: "Passkey", "security-key": "Security key", totp: "Authenticator app", "yubikey-otp": "YubiKey OTP" };

/** AskInDialog asks for a factor for what a request wants to do. */
export function AskInDialog({ problem, onDone }: { problem: Problem; onDone: (given: boolean) => void }) {
  if (problem.code === "enrolment-needed") {
    return (
      <Dialog open onClose={() => onDone(false)} title="Add a second factor first" description={problem.detail} wide>
        <AddFactor onDone={() => onDone(true)} onCancel={() => onDone(false)} />
      </Dialog>
    );
  }
  return (
    <Dialog open onClose={() => onDone(false)} title="Confirm that it is you" sticky>
      <GiveFactor id={problem.step_up?.id} onDone={() => onDone(true)} onCancel={() => onDone(false)} />
    </Dialog>
  );
}

/** GiveFactor shows what is asked for, and takes a factor for it. Without an id it asks for this session. */
export function GiveFactor({ id, onDone, onCancel, trust = false }: { id?: string | undefined; onDone: () => void; onCancel?: () => void; trust?: boolean }) {
  const factors = useQuery(myFactors);
  const opened = useQuery({
    queryKey: ["step-up", id ?? "session"],
    queryFn: ({ signal }) => (id === undefined ? call("post", "/me/step-ups") : call("get", "/me/step-ups/{stepUpId}", { path: { stepUpId: id }, signal })),
    staleTime: Infinity,
    gcTime: 0,
  });
  const kinds = new Set(factors.data?.items.map((f) => f.kind));
  const has: Way[] = [
    ...(kinds.has("passkey") || kinds.has("security-key") ? (["passkey"] as const) : []),
    ...(kinds.has("totp") ? (["totp"] as const) : []),
    ...(kinds.has("yubikey-otp") ? (["yubikey-otp"] as const) : []),
    ...((factors.data?.backup_codes_left ?? 0) > 0 ? (["backup-code"] as const) : []),
  ];
  const [chosen, setChosen] = useState<Way | null>(null);
  const way = chosen ?? has[0];
  const [code, setCode] = useState("");
  const [words, setWords] = useState("");
  const [trusted, setTrusted] = useState(false);
  const [known, setKnown] = useState(false);
  const step = opened.data;
  const approve = useMutation({
    mutationFn: async (): Promise<void> => {
      if (!step || !way) return;
      const more = { ...(words ? { words } : {}), ...(trusted ? { trust_browser: true } : {}), ...(known ? { known_address: true } : {}) };
      if (way !== "passkey") {
        await call("post", "/me/step-ups/{stepUpId}/approve", { path: { stepUpId: step.id }, body: { kind: way, code: code.trim(), ...more } });
        return;
      }
      const asked = await call("post", "/me/step-ups/{stepUpId}/assertion", { path: { stepUpId: step.id } });
      const got = await navigator.credentials.get({ publicKey: webauthn.request(asked.public_key as Record<string, unknown>) });
      if (!(got instanceof PublicKeyCredential)) throw new Error("The browser gave nothing back.");
      await call("post", "/me/step-ups/{stepUpId}/approve", { path: { stepUpId: step.id }, body: { kind: "passkey", assertion_id: asked.id, credential: webauthn.answer(got) as never, ...more } });
    },
    onSuccess: onDone,
    onError: () => setCode(""),
  });
  if (factors.error) return <Failure error={factors.error} retry={() => void factors.refetch()} />;
  if (opened.error) return <Failure error={opened.error} retry={() => void opened.refetch()} />;
  if (!step || !factors.data) return <Skeleton className="h-40 w-full" />;
  const submit = (e: FormEvent) => {
    e.preventDefault();
    approve.mutate();
  };
  return (
    <form onSubmit={submit} className="grid gap-4">
      {id !== undefined && (
        <div className="grid gap-1 border-l-2 border-line-strong pl-3 text-row">
          <p className="font-medium"><Name>{step.operation}</Name></p>
          {step.details.slice(0, 6).map((d) => (
            <p key={d.name} className="text-note text-ink-3">
              {d.name}: <Name>{d.value}</Name>
            </p>
          ))}
        </div>
      )}
      {has.length === 0 && <Banner meaning="bad">You have no factor that can be used here. Ask an administrator to reset yours.</Banner>}
      {has.length > 1 && way && <Chips label="How" value={way} onChange={(w) => { setChosen(w); setCode(""); approve.reset(); }} options={has.map((w) => ({ value: w, label: ways[w] }))} />}
      {step.words_needed && (
        <Field label="The two words that the terminal shows" hint={`From ${step.device}, ${step.address}${step.new_address ? ", an address that was never seen of you before" : ""}.`}>
          {(ids) => <Input {...ids} required value={words} onChange={(e) => setWords(e.target.value)} />}
        </Field>
      )}
      {way !== undefined && way !== "passkey" && (
        <Field label={way === "totp" ? "The six digits that your app shows" : way === "yubikey-otp" ? "Touch the YubiKey" : "One of your backup codes"} hint={way === "backup-code" ? "Each works once." : undefined}>
          {(ids) => <Input {...ids} key={way} autoFocus required value={code} inputMode={way === "totp" ? "numeric" : "text"} autoComplete={way === "totp" ? "one-time-code" : "off"} className="font-mono tracking-wider" onChange={(e) => setCode(e.target.value)} />}
        </Field>
      )}
      {step.address_needed && <Checkbox label={`I know the address ${step.address}, from where this was run`} hint="It was never seen of you before." required checked={known} onChange={(e) => setKnown(e.target.checked)} />}
      {trust && <Checkbox label="Do not ask in this browser for 30 days" hint="When signing in. What changes things still asks." checked={trusted} onChange={(e) => setTrusted(e.target.checked)} />}
      {approve.error !== null && <p role="alert" className="rounded-md bg-bad-soft px-3 py-2 text-row text-bad">{approve.error instanceof DOMException ? webauthn.trouble(approve.error) : explain(approve.error)}</p>}
      <Actions>
        {onCancel && <Button onClick={onCancel}>Cancel</Button>}
        <Button type="submit" tone="primary" busy={approve.isPending} disabled={way === undefined} autoFocus={way === "passkey"}>
          {way === "passkey" ? "Use a passkey" : "Confirm"}
        </Button>
      </Actions>
    </form>
  );
}

const kindIcons: Record<Kind, ReactNode> = { passkey: <Fingerprint aria-hidden />, "security-key": <KeyRound aria-hidden />, totp: <Smartphone aria-hidden />, "yubikey-otp": <KeyRound aria-hidden /> };

const kindTexts: Record<Kind, string> = {
  passkey: "Your fingerprint, face or screen lock, on this device or a phone. It cannot be phished.",
  "security-key": "A key that you plug in or hold to the device. It cannot be phished.",
  totp: "Six digits from an app on your phone.",
  "yubikey-otp": "A YubiKey that types a one-time password.",
};

/** AddFactor leads through adding a factor. With the first one come backup codes, which are shown this once. */
export function AddFactor({ onDone, onCancel }: { onDone: () => void; onCancel?: () => void }) {
  const client = useQueryClient();
  const overview = useQuery(myFactors);
  const [kind, setKind] = useState<Kind | null>(null);
  const [name, setName] = useState("");
  const [code, setCode] = useState("");
  const [codes, setCodes] = useState<string[] | null>(null);
  const begin = useMutation({ mutationFn: (k: Kind) => call("post", "/me/factors/enrolments", { body: { kind: k, name: name.trim() || kindTitles[k] } }) });
  const finish = useMutation({
    mutationFn: (proof: Schemas["FactorProof"]) => call("post", "/me/factors/enrolments/{enrolmentId}", { path: { enrolmentId: begin.data?.id ?? "" }, body: proof }),
    onSuccess: async (added) => {
      await client.invalidateQueries({ queryKey: ["factors"] });
      if (added.backup_codes && added.backup_codes.length > 0) setCodes(added.backup_codes);
      else onDone();
    },
  });
  const create = useMutation({
    mutationFn: async () => {
      const key = begin.data?.public_key as Record<string, unknown> | undefined;
      if (!key) return;
      // What the gateway sends may be wrapped, as the standard's own JSON is.
      const options = (key["publicKey"] as Record<string, unknown> | undefined) ?? key;
      const made = await navigator.credentials.create({ publicKey: webauthn.creation(options) });
      if (!(made instanceof PublicKeyCredential)) throw new Error("The browser gave nothing back.");
      await finish.mutateAsync({ credential: webauthn.answer(made) as never });
    },
  });
  if (codes) return <BackupCodes codes={codes} onDone={onDone} />;
  if (overview.error) return <Failure error={overview.error} retry={() => void overview.refetch()} />;
  if (!overview.data) return <Skeleton className="h-40 w-full" />;
  const error = create.error ?? finish.error ?? begin.error;
  const wrong = error !== null && <p role="alert" className="rounded-md bg-bad-soft px-3 py-2 text-row text-bad">{error instanceof DOMException ? webauthn.trouble(error) : explain(error)}</p>;
  if (kind === null) {
    return (
      <div className="grid gap-3">
        <ul className="divide-y divide-line border-y border-line">
          {overview.data.kinds.map((k) => (
            <li key={k}>
              <button type="button" className="flex w-full items-center gap-4 px-3 py-3 text-left hover:bg-hover [&_svg]:size-5 [&_svg]:shrink-0 [&_svg]:text-ink-3" onClick={() => { setKind(k); setName(""); }}>
                {kindIcons[k]}
                <span>
                  <span className="block text-row font-medium">{kindTitles[k]}</span>
                  <span className="block text-row text-ink-2">{kindTexts[k]}</span>
                </span>
              </button>
            </li>
          ))}
        </ul>
        {onCancel && <Actions><Button onClick={onCancel}>Cancel</Button></Actions>}
      </div>
    );
  }
  if (!begin.data) {
    return (
      <form
        className="grid gap-4"
        onSubmit={(e) => {
          e.preventDefault();
          begin.mutate(kind);
        }}
      >
        <Field label="What do you call it?" hint="So that you can tell it from others.">
          {(ids) => <Input {...ids} autoFocus maxLength={100} placeholder={kindTitles[kind]} value={name} onChange={(e) => setName(e.target.value)} />}
        </Field>
        {wrong}
        <Actions>
          <Button onClick={() => setKind(null)}>Back</Button>
          <Button type="submit" tone="primary" busy={begin.isPending}>Go on</Button>
        </Actions>
      </form>
    );
  }
  if (begin.data.public_key) {
    return (
      <form
        className="grid gap-4"
        onSubmit={(e) => {
          e.preventDefault();
          create.mutate();
        }}
      >
        <p className="text-row text-ink-2">Your browser asks you now. Follow what it says.</p>
        {wrong}
        <Actions>
          <Button onClick={() => { begin.reset(); setKind(null); }}>Back</Button>
          <Button type="submit" tone="primary" busy={create.isPending} autoFocus>{kind === "passkey" ? "Make the passkey" : "Add the key"}</Button>
        </Actions>
      </form>
    );
  }
  return (
    <form
      className="grid gap-4"
      onSubmit={(e) => {
        e.preventDefault();
        finish.mutate({ code: code.trim() });
      }}
    >
      {begin.data.qr && (
        <div className="flex flex-wrap items-center gap-5">
          <img src={begin.data.qr} alt="The secret as a QR code" width={176} height={176} className="rounded-md bg-[#fff] p-2" />
          <div className="grid min-w-0 flex-1 basis-52 gap-2 text-row text-ink-2">
            <p>Scan it with your app, or type the secret in:</p>
            <Code text={begin.data.secret ?? ""} label="Secret" wrap secret />
          </div>
        </div>
      )}
      <Field label={kind === "totp" ? "The six digits that it shows now" : "Touch the YubiKey"}>
        {(ids) => <Input {...ids} autoFocus required inputMode={kind === "totp" ? "numeric" : "text"} autoComplete="one-time-code" className="font-mono tracking-wider" value={code} onChange={(e) => setCode(e.target.value)} />}
      </Field>
      {wrong}
      <Actions>
        <Button onClick={() => { begin.reset(); setKind(null); }}>Back</Button>
        <Button type="submit" tone="primary" busy={finish.isPending}>Add it</Button>
      </Actions>
    </form>
  );
}

export function BackupCodes({ codes, onDone }: { codes: readonly string[]; onDone: () => void }) {
  return (
    <div className="grid gap-4">
      <Banner meaning="warn" title="These are shown once">
        Ten codes for the day that your factor is lost. Each works once. Keep them where you would look for a spare key.
      </Banner>
      <Code text={codes.join("\n")} label="Backup codes" secret />
      <Actions>
        <Button tone="primary" onClick={onDone} autoFocus>I have kept them</Button>
      </Actions>
    </div>
  );
}

/** Gate is the whole page while signing in is not done: a first factor is to be added, or one given. */
export function Gate({ enrolled }: { enrolled: boolean }) {
  const client = useQueryClient();
  const title = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = enrolled ? "Confirm that it is you" : "Add a second factor";
    title.current?.focus();
  }, [enrolled]);
  const [stuck, setStuck] = useState(false);
  const on = () => {
    setStuck(false);
    // The page goes on once the gateway says that it may; where that cannot be asked, it says so and asks again.
    void client.fetchQuery({ ...me, staleTime: 0 }).then(
      (m) => setStuck(m.factor !== undefined && m.factor.required && !m.factor.verified),
      () => setStuck(true),
    );
  };
  return (
    <main className="mx-auto w-full max-w-lg px-4 py-[12vh]">
      <Mark className="mb-7 size-9" />
      <h1 ref={title} tabIndex={-1} data-title className="mb-1 text-title font-semibold tracking-[-0.015em]">
        {enrolled ? "Confirm that it is you" : "Add a second factor"}
      </h1>
      <p className="mb-6 text-row text-ink-2">
        {enrolled ? "You have signed in. This gateway asks for your second factor too." : "This gateway asks everybody for one: a password that was lost is then not enough to get in. It takes a minute."}
      </p>
      {stuck && (
        <Banner meaning="warn" action={<Button size="sm" onClick={on}>Try again</Button>}>
          Your factor was taken, but the gateway did not say that you may go on.
        </Banner>
      )}
      {enrolled ? <GiveFactor onDone={on} trust /> : <AddFactor onDone={on} />}
      <p className="mt-8 border-t border-line pt-4 text-row">
        <button type="button" className="link" onClick={signOut}>
          Sign out
        </button>
      </p>
    </main>
  );
}
