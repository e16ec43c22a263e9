// Browser sessions: where somebody is signed in, and a way to end it.
import { useQueryClient } from "@tanstack/react-query";
import { Monitor, Smartphone } from "lucide-react";
import { call } from "@/api/client";
import type { Session } from "@/api/queries";
import { browser } from "@/lib/agent";
import { useWho } from "@/shell/who";
import { Button } from "@/ui/controls";
import { Badge, Time } from "@/ui/display";
import { useConfirm, useToast } from "@/ui/overlay";

export function SessionList({ sessions, mine = false }: { sessions: readonly Session[]; mine?: boolean }) {
  const who = useWho();
  const client = useQueryClient();
  const say = useToast();
  const [confirm, ask] = useConfirm();
  const end = (s: Session) =>
    ask({
      title: "End this session?",
      verb: "End it",
      children: <p>The browser is signed out at once{s.current ? ", which is the one you are using" : ""}. Whoever uses it has to sign in again.</p>,
      act: async () => {
        if (mine) await call("delete", "/me/sessions/{sessionId}", { path: { sessionId: s.id } });
        else await call("delete", "/sessions/{sessionId}", { path: { sessionId: s.id } });
        await client.invalidateQueries({ queryKey: ["sessions"] });
        say("The session has ended.");
      },
    });
  return (
    <>
      <ul className="divide-y divide-line border-y border-line text-row">
        {sessions.map((s) => {
          const b = browser(s.user_agent);
          return (
            <li key={s.id} className="flex flex-wrap items-center gap-x-4 gap-y-1 px-3 py-2.5">
              <span className="text-ink-3 [&_svg]:size-4">{b.mobile ? <Smartphone aria-hidden /> : <Monitor aria-hidden />}</span>
              <span className="min-w-0 flex-1 basis-52">
                <span className="font-medium" title={s.user_agent}>
                  {b.name}
                </span>{" "}
                {s.current && <Badge meaning="ok">this one</Badge>}
                <span className="block text-note text-ink-3">
                  <span className="font-mono">{s.address}</span> · signed in <Time at={s.created_at} /> · seen <Time at={s.last_seen_at} /> · ends <Time at={s.expires_at} />
                </span>
              </span>
              {(mine || who.can("gateway:session:manage")) && (
                <Button size="sm" tone="danger" onClick={() => end(s)}>
                  End
                </Button>
              )}
            </li>
          );
        })}
      </ul>
      {confirm}
    </>
  );
}
