// Searches of the record, in the gateway's grammar. The address holds what was typed and what was chosen; what is asked is
// one text of both.

export interface Search {
  q?: string | undefined;
  actor?: string | undefined;
  app?: string | undefined;
  action?: string | undefined;
  decision?: string | undefined;
  phase?: string | undefined;
  kind?: string | undefined;
  span?: string | undefined;
}

/** term is one term of the grammar. What has blanks, colons, commas or quotes in it stands in quotes. */
export function term(field: string, value: string): string {
  return /^[^\s:,"*-][^\s:,"*]*$/.test(value) ? `${field}:${value}` : `${field}:"${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
}

const chosen = ["actor", "app", "action", "decision", "phase", "kind"] as const;

/** compose makes the text that is asked. A span that the typed text has already counts over the chosen one. */
export function compose(s: Search, standard = "24h"): string {
  const typed = (s.q ?? "").trim();
  const terms = typed === "" ? [] : [typed];
  for (const field of chosen) {
    const value = s[field];
    if (value !== undefined && value !== "") terms.push(term(field, value));
  }
  const span = s.span ?? standard;
  if (span !== "all" && !/(?:^|\s)-?(?:since|until|id|request):/.test(typed)) terms.push(`since:${span}`);
  return terms.join(" ");
}
