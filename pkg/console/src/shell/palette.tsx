// The palette: everything that can be gone to or done, found by a few letters.
import * as RadixDialog from "@radix-ui/react-dialog";
import { useQuery } from "@tanstack/react-query";
import { useRouter } from "@tanstack/react-router";
import { AppWindow, Boxes, CornerDownLeft, KeyRound, LogOut, Moon, Search, Sun, UserPlus, UserRound } from "lucide-react";
import { useDeferredValue, useEffect, useId, useMemo, useRef, useState, type ReactNode } from "react";
import { call } from "@/api/client";
import { apps } from "@/api/queries";
import { best } from "@/lib/match";
import { prefer } from "@/lib/preferences";
import { cx } from "@/ui/cx";
import { Name } from "@/ui/display";
import { places } from "./nav";
import { signOut } from "./shell";
import { useWho } from "./who";

interface Entry {
  id: string;
  label: string;
  kind: string;
  icon: ReactNode;
  words?: string | undefined;
  run: () => void;
}

export function Palette({ onClose }: { onClose: () => void }) {
  const who = useWho();
  const router = useRouter();
  const [typed, setTyped] = useState("");
  const [at, setAt] = useState(0);
  const list = useId();
  const box = useRef<HTMLUListElement>(null);
  const asked = useDeferredValue(typed.trim());

  const appList = useQuery({ ...apps, enabled: who.can("convox:app:list") });
  const people = useQuery({
    queryKey: ["users", "palette", asked],
    queryFn: ({ signal }) => call("get", "/users", { query: { search: asked, limit: 5 }, signal }),
    enabled: who.can("gateway:user:read") && asked.length >= 2,
    placeholderData: (before) => before,
  });

  const entries = useMemo<Entry[]>(() => {
    const go = (to: string) => () => void router.navigate({ to });
    const all: Entry[] = [
      ...places.filter((p) => p.needs === undefined || who.can(p.needs)).map((p) => ({ id: p.to, label: p.label, kind: "Page", icon: <p.icon aria-hidden />, words: p.words, run: go(p.to) })),
      ...(who.can("gateway:user:manage") ? [{ id: "add-user", label: "Add a person", kind: "Do", icon: <UserPlus aria-hidden />, run: () => void router.navigate({ to: "/users", search: { add: true } }) }] : []),
      ...(who.can("gateway:token:manage") ? [{ id: "add-token", label: "Create an API token", kind: "Do", icon: <KeyRound aria-hidden />, run: go("/tokens/new") }] : []),
      { id: "light", label: "Light theme", kind: "Do", icon: <Sun aria-hidden />, run: () => prefer({ theme: "light" }) },
      { id: "dark", label: "Dark theme", kind: "Do", icon: <Moon aria-hidden />, run: () => prefer({ theme: "dark" }) },
      { id: "design", label: "Design system", kind: "Page", icon: <AppWindow aria-hidden />, words: "components gallery", run: go("/design") },
      { id: "sign-out", label: "Sign out", kind: "Do", icon: <LogOut aria-hidden />, run: signOut },
      ...(appList.data ?? []).map((a) => ({ id: "app:" + a.name, label: a.name, kind: "App", icon: <Boxes aria-hidden />, run: () => void router.navigate({ to: "/apps/$app", params: { app: a.name } }) })),
    ];
    const found = best(all, (e) => e.label + (asked.length > 2 ? " " + (e.words ?? "") : ""), asked, 12);
    if (asked.length >= 2) {
      for (const u of people.data?.items ?? []) {
        found.push({ id: "user:" + u.id, label: u.name ? `${u.name} ${u.email}` : u.email, kind: "Person", icon: <UserRound aria-hidden />, run: () => void router.navigate({ to: "/users/$user", params: { user: u.id } }) });
      }
    }
    return found;
  }, [asked, appList.data, people.data, router, who]);

  useEffect(() => setAt(0), [asked]);
  const chosen = entries[Math.min(at, entries.length - 1)];
  useEffect(() => {
    box.current?.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }, [chosen]);
  const run = (entry: Entry | undefined) => {
    if (!entry) return;
    onClose();
    entry.run();
  };
  return (
    <RadixDialog.Root open onOpenChange={(o) => !o && onClose()}>
      <RadixDialog.Portal>
        <div className="fixed inset-0 z-50 animate-fade bg-scrim p-3 pt-[12vh]">
          <RadixDialog.Content aria-describedby={undefined} className="mx-auto w-full max-w-xl animate-rise overflow-hidden rounded-lg border border-line bg-raised shadow-float">
            <RadixDialog.Title className="sr-only">Search or jump to</RadixDialog.Title>
            <div className="flex items-center gap-3 border-b border-line px-4">
              <Search className="size-4 text-ink-3" aria-hidden />
              <input
                autoFocus
                role="combobox"
                aria-expanded
                aria-controls={list}
                aria-activedescendant={chosen ? list + chosen.id : undefined}
                aria-label="Search or jump to"
                placeholder="A page, an app, a person, something to do"
                className="h-12 min-w-0 flex-1 bg-transparent text-body focus-visible:outline-none"
                value={typed}
                autoComplete="off"
                spellCheck={false}
                onChange={(e) => setTyped(e.target.value)}
                onKeyDown={(e) => {
                  if (e.key === "ArrowDown" || (e.ctrlKey && e.key === "n")) {
                    e.preventDefault();
                    setAt((i) => Math.min(i + 1, entries.length - 1));
                  } else if (e.key === "ArrowUp" || (e.ctrlKey && e.key === "p")) {
                    e.preventDefault();
                    setAt((i) => Math.max(i - 1, 0));
                  } else if (e.key === "Enter") {
                    e.preventDefault();
                    run(chosen);
                  }
                }}
              />
            </div>
            <ul id={list} ref={box} role="listbox" aria-label="What was found" className="max-h-[50vh] overflow-y-auto p-1.5">
              {entries.map((e) => (
                <li
                  key={e.id}
                  id={list + e.id}
                  role="option"
                  aria-selected={e === chosen}
                  onClick={() => run(e)}
                  onPointerMove={() => setAt(entries.indexOf(e))}
                  className={cx("flex h-9 items-center gap-3 rounded-md px-2.5 text-row [&_svg]:size-4 [&_svg]:shrink-0", e === chosen ? "bg-hover text-ink" : "text-ink-2")}
                >
                  {e.icon}
                  <Name className="min-w-0 truncate">{e.label}</Name>
                  <span className="ml-auto flex items-center gap-2 text-note text-ink-3">
                    {e.kind}
                    {e === chosen && <CornerDownLeft aria-hidden />}
                  </span>
                </li>
              ))}
            </ul>
            {entries.length === 0 && <p className="px-4 pb-5 text-row text-ink-3">Nothing here is called “{typed}”.</p>}
          </RadixDialog.Content>
        </div>
      </RadixDialog.Portal>
    </RadixDialog.Root>
  );
}
