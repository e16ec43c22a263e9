import { useQuery } from "@tanstack/react-query";
import { mySessions } from "@/api/queries";
import { group, action, isGrave } from "@/lib/permissions";
import { Page } from "@/shell/page";
import { signOut } from "@/shell/shell";
import { useWho } from "@/shell/who";
import { Button, ButtonLink } from "@/ui/controls";
import { Async, Badge, Fact, Facts, Id, Name, Section, SkeletonRows, Time } from "@/ui/display";
import { Devices } from "./connect";
import { MyNotices } from "./notices";
import { Bindings } from "./parts";
import { Factors } from "./factors";
import { SessionList } from "./sessions";

export function Account() {
  const who = useWho();
  const sessions = useQuery(mySessions);
  return (
    <Page
      title="My account"
      width="read"
      actions={<Button onClick={signOut}>Sign out</Button>}
    >
      <Facts>
        <Fact label="Name"><Name>{who.name || "not told yet"}</Name></Fact>
        <Fact label="Address"><Name>{who.email ?? ""}</Name></Fact>
        <Fact label="Roles"><Bindings bindings={who.bindings} none="No role yet: ask an administrator for one." /></Fact>
        {who.expires_at && <Fact label="This session ends"><Time at={who.expires_at} focusable /></Fact>}
        <Fact label="Id"><Id value={who.user_id} /></Fact>
      </Facts>
      <div className="mt-10">
        <Factors />
        <Section title="Signed in at" note="End what you do not know.">
          <Async query={sessions} skeleton={<SkeletonRows rows={2} />}>
            {(data) => <SessionList sessions={data.items} mine />}
          </Async>
        </Section>
        <Section title="Devices with the CLI" action={<ButtonLink size="sm" to="/connect">Connect another</ButtonLink>}>
          <Devices />
        </Section>
        <MyNotices />
        <Section title="What you may do" note="By all your roles together, over some app or over all.">
          <details>
            <summary className="w-fit rounded-sm text-row text-ink-2 hover:text-ink">{who.permissions.length} permissions</summary>
            <dl className="mt-3 divide-y divide-line border-y border-line text-row">
              {group(who.permissions).map((g) => (
                <div key={g.name} className="grid gap-x-6 gap-y-1 px-3 py-2 sm:grid-cols-[11rem_1fr]">
                  <dt className="font-medium">{g.title}</dt>
                  <dd className="flex flex-wrap gap-1">
                    {g.permissions.map((p) => (
                      <Badge key={p} mono meaning={isGrave(p) ? "warn" : "none"}>
                        {action(p)}
                      </Badge>
                    ))}
                  </dd>
                </div>
              ))}
            </dl>
          </details>
        </Section>
      </div>
    </Page>
  );
}
