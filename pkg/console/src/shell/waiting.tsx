// What commands elsewhere wait for: a second factor of the person who is signed in here.
import { useQuery } from "@tanstack/react-query";
import { ArrowRight } from "lucide-react";
import type { Schemas } from "@/api/client";
import { stepUps } from "@/api/queries";
import { Banner, Name } from "@/ui/display";
import { useWho } from "./who";

type StepUp = Schemas["StepUp"];

/** waitingCommands are those that are answered from here: what a command opened a page for is answered on that page. */
export function waitingCommands(items: readonly StepUp[] | undefined): StepUp[] {
  return (items ?? []).filter((s) => s.state === "pending" && !s.page_only && s.device !== "this browser");
}

export function AnswerCommand({ step }: { step: StepUp }) {
  return (
    <a href={`/login/u2f?token=${encodeURIComponent(step.id)}`} className="row-link inline-flex items-center gap-1 text-accent" aria-label={`Answer ${step.operation}`}>
      <ArrowRight className="size-4" aria-hidden />
    </a>
  );
}

/** Waiting stands above every page while a command waits. The overview has it among what needs attention. */
export function Waiting({ path }: { path: string }) {
  const who = useWho();
  const waiting = useQuery({ ...stepUps, enabled: who.kind === "session" });
  const items = waitingCommands(waiting.data?.items);
  const first = items[0];
  if (first === undefined || path === "/") return null;
  return (
    <div className="mx-auto w-full max-w-[92rem] px-4 pt-4 sm:px-8">
      <Banner meaning="bad" title={items.length > 1 ? `${items.length} commands wait for you` : "A command waits for you"} action={<AnswerCommand step={first} />}>
        <Name>{first.operation}</Name>, on <Name>{first.device}</Name>, from {first.address}.
      </Banner>
    </div>
  );
}
