// The first steps of a new admin, each with whether it is done. It is not in the navigation: the overview leads here until
// all of it is.
import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Check } from "lucide-react";
import type { ReactNode } from "react";
import { doctor, overview, tokens, users } from "@/api/queries";
import { Page } from "@/shell/page";
import { useWho } from "@/shell/who";
import { ButtonLink } from "@/ui/controls";
import { cx } from "@/ui/cx";
import { Code } from "@/ui/display";
import { gatewayHost } from "./newtoken";

interface Step {
  title: string;
  text: ReactNode;
  done: boolean | undefined;
  action: ReactNode;
}

export function Welcome() {
  const who = useWho();
  const figures = useQuery(overview);
  const people = useInfiniteQuery({ ...users({}), enabled: who.can("gateway:user:read") });
  const api = useInfiniteQuery({ ...tokens({ kind: "api" }), enabled: who.can("gateway:token:read") });
  const checklist = useQuery({ ...doctor, enabled: who.can("gateway:setting:read") });
  const host = gatewayHost(who.gateway_host);
  const steps: Step[] = [
    ...(who.factor
      ? [
          {
            title: "Add a second factor",
            text: "A passkey is best: it cannot be phished, and it takes ten seconds. Add two, so that one can be lost.",
            done: who.factor.enrolled,
            action: <ButtonLink to="/account">Your factors</ButtonLink>,
          },
        ]
      : []),
    ...(who.can("gateway:user:manage")
      ? [
          {
            title: "Add your colleagues",
            text: "Whoever is not added is refused. Make a second admin, so that one can be away.",
            done: people.data && figures.data ? (people.data.pages[0]?.items.length ?? 0) > 1 && (figures.data.people?.admins ?? 0) > 1 : undefined,
            action: <ButtonLink to="/users" search={{ add: true }}>Add a person</ButtonLink>,
          },
        ]
      : []),
    {
      title: "Connect your own CLI",
      text: (
        <>
          Make a token for this computer, and paste one line. Every convox command then works as before:
          <span className="mt-2 block max-w-md">
            <Code text={`convox login ${host} -t …\nconvox racks\nconvox switch ${who.rack}\nconvox apps`} label="First commands" />
          </span>
        </>
      ),
      done: figures.data?.cli_connected,
      action: <ButtonLink to="/connect">Connect the CLI</ButtonLink>,
    },
    ...(who.can("gateway:token:manage")
      ? [
          {
            title: "Give each pipeline a token of its own",
            text: "With the rights that it needs over the apps that it deploys, and ready lines for GitHub Actions, CircleCI, GitLab and shells.",
            done: api.data && (api.data.pages[0]?.items.length ?? 0) > 0,
            action: <ButtonLink to="/tokens/new">Create a token</ButtonLink>,
          },
        ]
      : []),
    ...(who.can("gateway:setting:read")
      ? [
          {
            title: "Look at what is left before production",
            text: "The production checklist, line by line, with what to do about each.",
            done: checklist.data && checklist.data.failed === 0,
            action: <ButtonLink to="/background">See how it is</ButtonLink>,
          },
        ]
      : []),
  ];
  const done = steps.filter((s) => s.done === true).length;
  return (
    <Page title="First steps" width="read" lead={<span role="status">{done === 0 ? "A few minutes, and the gateway is ready for others." : `${done} of ${steps.length} are done.`}</span>}>
      <ol className="border-t border-line">
        {steps.map((s, i) => (
          <li key={s.title} className="grid grid-cols-[auto_1fr] gap-x-4 gap-y-3 border-b border-line py-6 sm:grid-cols-[auto_1fr_auto]">
            <span aria-hidden className={cx("num grid size-7 place-items-center rounded-full border text-row font-semibold", s.done ? "border-transparent bg-ok-soft text-ok" : "border-line-strong text-ink-2")}>
              {s.done ? <Check className="size-4" /> : i + 1}
            </span>
            <div className="min-w-0">
              <h2 className="text-body font-semibold">
                {s.title}
                {s.done && <span className="sr-only">, done</span>}
              </h2>
              <div className="max-w-prose text-row text-ink-2">{s.text}</div>
            </div>
            <div className="max-sm:col-start-2">{s.action}</div>
          </li>
        ))}
      </ol>
    </Page>
  );
}
