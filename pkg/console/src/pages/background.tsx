import { useQuery } from "@tanstack/react-query";
import { health } from "@/api/queries";
import { Page } from "@/shell/page";
import { Async, RefreshButton, State } from "@/ui/display";

/** What each check is about, in words. A check that is not known here is shown by its name. */
const texts: Record<string, [title: string, text: string]> = {
  audit: ["Recording", "Events of admin become durable in PostgreSQL."],
  database: ["Database", "PostgreSQL answers."],
  draining: ["Serving", "This process takes requests."],
  listener: ["Changes of access", "They are heard as they are made, so that a lock or a new role is in force at once."],
  migrations: ["Schema", "The database has every step that this version knows."],
  "sign-in": ["Sign-in", "The identity provider answers. Without it nobody new can sign in; everybody else goes on."],
};

export function Background() {
  const query = useQuery(health);
  return (
    <Page title="Background work" width="read" lead="What goes on beside requests, and whether it does. It is looked at again every half minute." actions={<RefreshButton keys={[["health"]]} />}>
      <Async query={query}>
        {(data) => (
          <ul className="divide-y divide-line border-y border-line text-row">
            {Object.entries(data.checks)
              .sort(([a, x], [b, y]) => Number(x.ok) - Number(y.ok) || a.localeCompare(b))
              .map(([name, check]) => {
                const [title, text] = texts[name] ?? [name.charAt(0).toUpperCase() + name.slice(1), ""];
                return (
                  <li key={name} className="grid gap-x-6 gap-y-0.5 px-3 py-3 sm:grid-cols-[11rem_minmax(0,1fr)_8rem]">
                    <span className="font-medium">{title}</span>
                    <span className="text-ink-2">
                      {text}
                      {check.detail && <span className={check.ok ? "block text-ink-3" : "block text-bad"}>{check.detail}</span>}
                    </span>
                    <span className="sm:justify-self-end">
                      <State meaning={check.ok ? "ok" : name === "sign-in" ? "warn" : "bad"}>{check.ok ? "works" : "has trouble"}</State>
                    </span>
                  </li>
                );
              })}
          </ul>
        )}
      </Async>
    </Page>
  );
}
