// Parts that several pages show: roles over apps, states of apps and tokens.
import { useQuery } from "@tanstack/react-query";
import { Plus, X } from "lucide-react";
import { apps, roles, type Binding, type Token } from "@/api/queries";
import { matches } from "@/lib/match";
import { useWho } from "@/shell/who";
import { Button, IconButton, Input, Select } from "@/ui/controls";
import { Badge, type Meaning } from "@/ui/display";

export function appState(status: string): Meaning {
  return { running: "ok", created: "none", updating: "info", rollback: "warn", deleting: "warn", failed: "bad" }[status] as Meaning | undefined ?? "none";
}

export function processState(status: string): Meaning {
  return { running: "ok", pending: "info", unhealthy: "warn", crashed: "bad", failed: "bad" }[status] as Meaning | undefined ?? "none";
}

export function buildState(status: string): Meaning {
  return { complete: "ok", running: "info", created: "info", failed: "bad" }[status] as Meaning | undefined ?? "none";
}

export const tokenStates: Record<Token["state"], [Meaning, string]> = {
  active: ["ok", "active"],
  expired: ["none", "expired"],
  idle: ["warn", "idle too long"],
  revoked: ["none", "revoked"],
  "owner-locked": ["bad", "owner is locked"],
  "sign-in-due": ["warn", "owner must sign in"],
};

/** Roles, with the apps that each is over. */
export function Bindings({ bindings, none = "no role" }: { bindings: readonly Binding[]; none?: string }) {
  if (bindings.length === 0) return <span className="text-ink-3">{none}</span>;
  return (
    <span className="inline-flex max-w-full items-center gap-1 overflow-hidden align-middle">
      {bindings.map((b) => (
        <Badge key={b.role + b.app} meaning={b.role === "admin" ? "info" : "none"}>
          {b.role}
          {b.app !== "*" && <span className="font-mono font-normal opacity-80">{b.app}</span>}
        </Badge>
      ))}
    </span>
  );
}

export interface BindingEditorProps {
  value: Binding[];
  onChange: (value: Binding[]) => void;
  /** Roles for tokens only are offered for tokens only. */
  forToken?: boolean;
}

/** Chooses roles, and the apps that each is over. */
export function BindingEditor({ value, onChange, forToken = false }: BindingEditorProps) {
  const who = useWho();
  const query = useQuery({ ...roles, enabled: who.can("gateway:role:read") });
  const known = useQuery({ ...apps, enabled: who.can("convox:app:list") });
  const offered = (query.data?.items ?? []).filter((r) => forToken || !r.tokens_only);
  const set = (i: number, b: Partial<Binding>) => onChange(value.map((old, n) => (n === i ? { ...old, ...b } : old)));
  return (
    <div className="grid gap-2">
      {value.map((b, i) => {
        const over = b.app !== "*" && b.app !== "" ? (known.data ?? []).filter((a) => matches(b.app, a.name)) : undefined;
        return (
          <div key={i} className="grid gap-1">
            <div className="grid grid-cols-[minmax(0,1fr)_minmax(0,1fr)_auto] items-center gap-2">
              <Select aria-label="Role" value={b.role} onChange={(e) => set(i, { role: e.target.value })}>
                {!offered.some((r) => r.name === b.role) && <option value={b.role}>{b.role === "" ? "Choose a role" : b.role}</option>}
                {offered.map((r) => (
                  <option key={r.name} value={r.name}>
                    {r.name}
                  </option>
                ))}
              </Select>
              <Input aria-label="Apps, by name or pattern" className="font-mono" value={b.app} placeholder="*" list="known-apps" pattern="[a-z0-9*\-]{1,64}" onChange={(e) => set(i, { app: e.target.value })} />
              <IconButton label={`Take away ${b.role || "this role"}`} size="md" onClick={() => onChange(value.filter((_, n) => n !== i))}>
                <X aria-hidden />
              </IconButton>
            </div>
            <p className="text-note text-ink-3">
              {offered.find((r) => r.name === b.role)?.description} {over === undefined ? "Over all apps." : over.length === 0 ? "No app has such a name yet." : `Over ${over.slice(0, 4).map((a) => a.name).join(", ")}${over.length > 4 ? ` and ${over.length - 4} more` : ""}.`}
            </p>
          </div>
        );
      })}
      <datalist id="known-apps">
        <option value="*" />
        {(known.data ?? []).slice(0, 200).map((a) => (
          <option key={a.name} value={a.name} />
        ))}
      </datalist>
      <div>
        <Button size="sm" onClick={() => onChange([...value, { role: value.length === 0 ? (offered[0]?.name ?? "") : "", app: "*" }])}>
          <Plus aria-hidden />
          {value.length === 0 ? "Give a role" : "Give another role"}
        </Button>
      </div>
    </div>
  );
}

export function cleanBindings(bindings: readonly Binding[]): Binding[] {
  return bindings.filter((b) => b.role !== "").map((b) => ({ role: b.role, app: b.app === "" ? "*" : b.app }));
}
