// Settings as people read them. The gateway says what there is; what is not known here is shown all the same.

const titles: Record<string, string> = {
  allow_destructive: "Destructive actions",
  deploy_approvals: "Deploy approvals",
  join_as_viewer: "Newcomers join as viewers",
  session_idle_minutes: "Idle browser sessions",
  cli_token_idle_days: "Idle CLI tokens",
  cli_token_days: "Life of CLI tokens",
  api_token_days: "Life of API tokens",
  reauth_days: "Time between sign-ins",
  in_flight_per_principal: "Requests at once",
  sockets_per_principal: "Sockets at once",
  refusals_per_minute: "Refusals recorded",
  mfa_required: "Second factor for everybody",
  step_up_minutes: "A factor stays fresh",
  factor_lock_minutes: "Locked after wrong factors",
};

const order: [title: string, keys: RegExp][] = [
  ["What is allowed", /^(?:allow_|deploy_|join_)/],
  ["Second factors", /^(?:mfa_|step_up_|factor_|trusted_)/],
  ["Sessions and tokens", /(?:session|token|reauth)/],
  ["The record", /(?:retention|anchor|audit|legal)/],
  ["Limits", /per_(?:principal|minute)/],
];

export function titleOf(key: string): string {
  return titles[key] ?? (key === "" ? "" : key.charAt(0).toUpperCase() + key.slice(1).replaceAll("_", " "));
}

export interface Group<S> {
  title: string;
  settings: S[];
}

export function groupsOf<S extends { key: string }>(settings: readonly S[]): Group<S>[] {
  const groups = new Map<string, S[]>(order.map(([title]) => [title, []]));
  groups.set("More", []);
  for (const s of settings) {
    const title = order.find(([, keys]) => keys.test(s.key))?.[0] ?? "More";
    groups.get(title)?.push(s);
  }
  return [...groups].filter(([, list]) => list.length > 0).map(([title, list]) => ({ title, settings: list }));
}
