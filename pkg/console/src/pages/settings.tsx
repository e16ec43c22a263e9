import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi, Link } from "@tanstack/react-router";
import { History, Undo2 } from "lucide-react";
import { useState } from "react";
import { call } from "@/api/client";
import { appSettingHistory, appSettings, settingHistory, settings, type Setting } from "@/api/queries";
import { changes, detailOf } from "@/lib/events";
import { titleOf, groupsOf, type Group } from "@/lib/settings";
import { Page } from "@/shell/page";
import { useCan } from "@/shell/who";
import { Button, IconButton, Input, Switch } from "@/ui/controls";
import { Async, Badge, Empty, Name, RefreshButton, Section, SkeletonRows, Time, type Meaning } from "@/ui/display";
import { Dialog, useConfirm, useToast } from "@/ui/overlay";

const route = getRouteApi("/settings");

export function Settings() {
  const query = useQuery(settings);
  const search = route.useSearch();
  const navigate = route.useNavigate();
  return (
    <Page title="Settings" width="read" lead="What is in force now, and where each value comes from. What is set here counts over the environment, and that over the default." actions={<RefreshButton keys={[["settings"]]} />}>
      <Async query={query}>
        {(data) =>
          groupsOf(data.items).map((g: Group<Setting>) => (
            <Section key={g.title} title={g.title}>
              <ul className="divide-y divide-line border-y border-line">
                {g.settings.map((s) => (
                  <SettingRow key={s.key} setting={s} onHistory={() => void navigate({ search: { history: s.key } })} />
                ))}
              </ul>
            </Section>
          ))
        }
      </Async>
      <Dialog open={search.history !== undefined} onClose={() => void navigate({ search: {} })} title={`History of ${titleOf(search.history ?? "")}`} wide>
        {search.history !== undefined && <HistoryOf setting={search.history} />}
      </Dialog>
    </Page>
  );
}

const sources: Record<Setting["source"], [Meaning, string]> = { database: ["info", "set here"], environment: ["warn", "environment"], default: ["none", "default"] };

function valueText(value: unknown, unit: string | undefined): string {
  if (value === true) return "on";
  if (value === false) return "off";
  return `${String(value)}${unit ? " " + unit : ""}`;
}

/** A setting, of the gateway or, with an app, as it holds for that. */
export function SettingRow({ setting: s, app, onHistory }: { setting: Setting; app?: string; onHistory: () => void }) {
  const client = useQueryClient();
  const say = useToast();
  const manage = useCan("gateway:setting:manage");
  const [confirm, ask] = useConfirm();
  const [typed, setTyped] = useState<string | null>(null);
  const set = useMutation({
    mutationFn: (value: boolean | number) =>
      app === undefined
        ? call("put", "/settings/{settingKey}", { path: { settingKey: s.key }, body: { value } })
        : call("put", "/apps/{appName}/settings/{settingKey}", { path: { appName: app, settingKey: s.key }, body: { value } }),
    onSuccess: async () => {
      await client.invalidateQueries({ queryKey: ["settings"] });
      setTyped(null);
      say(`${titleOf(s.key)} was changed.`);
    },
    onError: (error) => say(error.message, true),
  });
  const unset = () =>
    ask({
      title: `Let ${titleOf(s.key).toLowerCase()} fall back?`,
      verb: "Let it fall back",
      tone: "primary",
      children:
        app === undefined ? (
          <p>What is set here is forgotten. The environment's value counts then, or the default, which is {valueText(s.default, s.unit)}.</p>
        ) : (
          <p>The app's own value is forgotten. The gateway's holds for it then, as for every app without one.</p>
        ),
      act: async () => {
        if (app === undefined) await call("delete", "/settings/{settingKey}", { path: { settingKey: s.key } });
        else await call("delete", "/apps/{appName}/settings/{settingKey}", { path: { appName: app, settingKey: s.key } });
        await client.invalidateQueries({ queryKey: ["settings"] });
        say("The setting fell back.");
      },
    });
  const toggle = (on: boolean) => {
    // What opens a door is asked about; what closes one is done.
    if (s.key !== "allow_destructive" || !on) return set.mutate(on);
    ask({
      title: "Allow destructive actions?",
      verb: "Allow them",
      children: <p>{app === undefined ? "Whoever has the right may then delete apps and terminate instances." : `Whoever has the right may then delete ${app}.`} Turn it off again when that is done.</p>,
      act: () => set.mutateAsync(on),
    });
  };
  const own = app === undefined ? s.source === "database" : s.source === "database" && s.inherited !== true;
  const [meaning, source]: [Meaning, string] = app === undefined ? sources[s.source] : s.inherited === true ? ["none", "the gateway's"] : s.source === "database" ? ["info", "the app's own"] : sources[s.source];
  const number = typed ?? String(s.value);
  const bad = typed !== null && (!/^\d+$/.test(typed) || Number(typed) < (s.min ?? 0) || Number(typed) > (s.max ?? Infinity));
  return (
    <li className="grid gap-x-8 gap-y-2 px-3 py-3.5 sm:grid-cols-[minmax(0,1fr)_auto]">
      <div className="min-w-0">
        <h3 className="text-row font-medium">{titleOf(s.key)}</h3>
        <p id={s.key + "-text"} className="max-w-prose text-row text-ink-2">
          {s.description}
        </p>
        <p className="mt-1 flex flex-wrap items-center gap-x-2.5 gap-y-1 text-note text-ink-3">
          <Badge meaning={meaning}>{source}</Badge>
          <code className="font-mono">{s.key}</code>
          {s.source !== "default" && <span>default {valueText(s.default, s.unit)}</span>}
          {s.updated_at && (
            <span>
              <Time at={s.updated_at} />
              {s.updated_by && (
                <>
                  {" "}
                  by <Name>{s.updated_by}</Name>
                </>
              )}
            </span>
          )}
        </p>
        {s.apps !== undefined && s.apps.length > 0 && (
          <p className="mt-1 flex flex-wrap gap-x-3 text-note text-ink-3">
            Otherwise for
            {s.apps.map((a) => (
              <Link key={a.app} className="link" to="/apps/$app/settings" params={{ app: a.app }}>
                {a.app}, {valueText(a.value, s.unit)}
              </Link>
            ))}
          </p>
        )}
        {s.ignored !== undefined && <p className="mt-1 text-note text-bad">The value in the database is not in force: {s.ignored}</p>}
      </div>
      <div className="flex items-center gap-1.5 justify-self-start sm:justify-self-end">
        {s.type === "bool" ? (
          <span className="flex items-center gap-2.5 text-row text-ink-2">
            {valueText(s.value, undefined)}
            <Switch label={titleOf(s.key)} describedBy={s.key + "-text"} checked={s.value === true} disabled={!manage || set.isPending} onChange={toggle} />
          </span>
        ) : manage ? (
          <form
            className="flex items-center gap-1.5"
            onSubmit={(e) => {
              e.preventDefault();
              if (!bad && typed !== null) set.mutate(Number(typed));
            }}
          >
            <Input aria-label={titleOf(s.key)} aria-describedby={s.key + "-text"} aria-invalid={bad || undefined} inputMode="numeric" className="num max-w-24 text-right" value={number} onChange={(e) => setTyped(e.target.value === String(s.value) ? null : e.target.value)} />
            <span className="w-16 text-row text-ink-3">{s.unit}</span>
            {typed !== null && (
              <>
                <Button type="submit" size="sm" tone="primary" disabled={bad} busy={set.isPending}>
                  Save
                </Button>
                <Button size="sm" tone="quiet" onClick={() => setTyped(null)}>
                  Cancel
                </Button>
              </>
            )}
          </form>
        ) : (
          <span className="num text-row">{valueText(s.value, s.unit)}</span>
        )}
        <span className="flex">
          <IconButton label={`History of ${titleOf(s.key)}`} onClick={onHistory}>
            <History aria-hidden />
          </IconButton>
          {manage && (
            <IconButton label={own ? `Let ${titleOf(s.key)} fall back` : "Nothing is set here"} onClick={unset} disabled={!own}>
              <Undo2 aria-hidden />
            </IconButton>
          )}
        </span>
        {confirm}
      </div>
      {bad && <p className="text-note text-bad sm:col-span-2 sm:text-right" role="alert">A whole number from {s.min} to {s.max}.</p>}
    </li>
  );
}

/** What an app has of its own among the gateway's settings. */
export function SettingsOfApp({ app, history, onHistory }: { app: string; history: string | undefined; onHistory: (key: string | undefined) => void }) {
  const query = useQuery(appSettings(app));
  return (
    <Section title="At the gateway" note="A value of the app's own counts over the gateway's.">
      <Async query={query} skeleton={<SkeletonRows rows={2} />}>
        {(data) =>
          data.items.length === 0 ? (
            <Empty title="None">No setting can be told for one app alone.</Empty>
          ) : (
            <ul className="divide-y divide-line border-y border-line">
              {data.items.map((s) => (
                <SettingRow key={s.key} app={app} setting={s} onHistory={() => onHistory(s.key)} />
              ))}
            </ul>
          )
        }
      </Async>
      <Dialog open={history !== undefined} onClose={() => onHistory(undefined)} title={`History of ${titleOf(history ?? "")}`} wide>
        {history !== undefined && <HistoryOf setting={history} app={app} />}
      </Dialog>
    </Section>
  );
}

function HistoryOf({ setting, app }: { setting: string; app?: string }) {
  const ofGateway = useQuery({ ...settingHistory(setting), enabled: app === undefined });
  const ofApp = useQuery({ ...appSettingHistory(app ?? "", setting), enabled: app !== undefined });
  const query = app === undefined ? ofGateway : ofApp;
  return (
    <Async query={query} skeleton={<SkeletonRows rows={3} />}>
      {(data) =>
        data.items.length === 0 ? (
          <Empty title="It was never changed">Since the gateway was installed it has been as the environment or the default has it.</Empty>
        ) : (
          <ol className="divide-y divide-line border-y border-line text-row">
            {data.items.map((e) => {
              const c = changes(detailOf(e)).changes[0];
              return (
                <li key={e.id} className="flex flex-wrap items-baseline justify-between gap-x-4 gap-y-1 px-3 py-2.5">
                  <span className="min-w-0">
                    <Name>{e.actor_label}</Name>{" "}
                    {c ? (
                      <span className="text-ink-2">
                        from <code className="font-mono text-note">{c.before || "nothing"}</code> to <code className="font-mono text-note">{c.after || "nothing"}</code>
                      </span>
                    ) : (
                      <span className="text-ink-2">{e.action === "setting.unset" ? "let it fall back" : `set it${paramText(e)}`}</span>
                    )}
                  </span>
                  <span className="text-ink-3">
                    <Time at={e.occurred_at} focusable />
                  </span>
                </li>
              );
            })}
          </ol>
        )
      }
    </Async>
  );
}

function paramText(e: Parameters<typeof detailOf>[0]): string {
  const value = detailOf(e).params?.["value"];
  return value === undefined ? "" : ` to ${String(value)}`;
}
