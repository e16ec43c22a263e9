import { useState } from "react";
import { action, group, isGrave } from "@/lib/permissions";
import { holds } from "@/lib/match";
import { Checkbox, SearchField } from "@/ui/controls";
import { Badge } from "@/ui/display";

/** Chooses permissions, grouped by what they are about. Those that reach far are marked. */
export function PermissionPicker({ all, value, onChange }: { all: readonly string[]; value: readonly string[]; onChange: (value: string[]) => void }) {
  const [typed, setTyped] = useState("");
  const chosen = new Set(value);
  const groups = group(all.filter((p) => holds(typed, p)));
  const toggle = (permissions: readonly string[], on: boolean) => {
    const next = new Set(chosen);
    for (const p of permissions) if (on) next.add(p);
    else next.delete(p);
    onChange([...next].sort());
  };
  return (
    <div className="grid gap-3">
      <div className="flex flex-wrap items-center justify-between gap-2">
        <SearchField label="Search permissions" value={typed} onChange={setTyped} className="w-full sm:w-64" />
        <span className="num text-note text-ink-3" role="status">
          {chosen.size} of {all.length} chosen
        </span>
      </div>
      <div className="divide-y divide-line border-y border-line">
        {groups.map((g) => {
          const on = g.permissions.filter((p) => chosen.has(p)).length;
          return (
            <fieldset key={g.name} className="grid gap-x-6 gap-y-2 px-3 py-3 sm:grid-cols-[11rem_1fr]">
              <legend className="sr-only">{g.title}</legend>
              <Checkbox label={<span className="font-medium">{g.title}</span>} aria-label={`All of ${g.title}`} hint={<span className="font-mono">{g.name}</span>} checked={on === g.permissions.length} ref={(el) => { if (el) el.indeterminate = on > 0 && on < g.permissions.length; }} onChange={(e) => toggle(g.permissions, e.target.checked)} />
              <div className="flex flex-wrap gap-x-5 gap-y-2">
                {g.permissions.map((p) => (
                  <Checkbox key={p} checked={chosen.has(p)} onChange={(e) => toggle([p], e.target.checked)} label={<span className="inline-flex items-center gap-1.5" title={p}>{action(p)}{isGrave(p) && <Badge meaning="warn">reaches far</Badge>}</span>} aria-label={p} />
                ))}
              </div>
            </fieldset>
          );
        })}
        {groups.length === 0 && <p className="px-3 py-4 text-row text-ink-3">No permission has this in its name.</p>}
      </div>
    </div>
  );
}
