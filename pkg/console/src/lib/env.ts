// An app's environment: KEY=VALUE lines, what of it is shown, and what a change would do.

export interface Variable {
  key: string;
  value: string;
}

/** masked stands for a value that the gateway took out of an answer. */
export const masked = "****";

/** parseEnv reads the rack's form: a line a variable. A value may hold an equals sign; it never holds a line break. */
export function parseEnv(text: string): Variable[] {
  const seen = new Map<string, string>();
  for (const line of text.split("\n")) {
    const at = line.indexOf("=");
    if (at > 0) seen.set(line.slice(0, at).trim(), line.slice(at + 1));
  }
  return [...seen].map(([key, value]) => ({ key, value })).sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
}

export function formatEnv(variables: readonly Variable[]): string {
  return variables.map((v) => `${v.key}=${v.value}`).join("\n");
}

export interface Mistake {
  line: number;
  text: string;
}

/** checkEnv says what in a text that a person edits is no variable. Empty lines and lines that begin with # are let be. */
export function checkEnv(text: string): Mistake[] {
  const mistakes: Mistake[] = [];
  const seen = new Map<string, number>();
  text.split("\n").forEach((line, i) => {
    const trimmed = line.trim();
    if (trimmed === "" || trimmed.startsWith("#")) return;
    const at = line.indexOf("=");
    const key = at < 0 ? trimmed : line.slice(0, at).trim();
    const first = seen.get(key);
    if (at < 0) mistakes.push({ line: i + 1, text: "it has no =: write KEY=VALUE" });
    else if (!/^[A-Za-z_][A-Za-z0-9_.-]*$/.test(key)) mistakes.push({ line: i + 1, text: "a name has letters, digits and _, and begins with no digit" });
    else if (first !== undefined) mistakes.push({ line: i + 1, text: `${key} is in line ${first} already` });
    else seen.set(key, i + 1);
  });
  return mistakes;
}

/** withoutRemarks is what is left to be set of a text that a person edited. */
export function withoutRemarks(text: string): string {
  return text
    .split("\n")
    .filter((line) => line.trim() !== "" && !line.trim().startsWith("#"))
    .join("\n");
}

export interface EnvDiff {
  added: Variable[];
  removed: Variable[];
  changed: { key: string; from: string; to: string }[];
}

export function diffEnv(before: readonly Variable[], after: readonly Variable[]): EnvDiff {
  const old = new Map(before.map((v) => [v.key, v.value]));
  const now = new Map(after.map((v) => [v.key, v.value]));
  const diff: EnvDiff = { added: [], removed: [], changed: [] };
  for (const v of after) {
    const from = old.get(v.key);
    if (from === undefined) diff.added.push(v);
    else if (from !== v.value) diff.changed.push({ key: v.key, from, to: v.value });
  }
  for (const v of before) if (!now.has(v.key)) diff.removed.push(v);
  return diff;
}

export function isEmpty(d: EnvDiff): boolean {
  return d.added.length + d.removed.length + d.changed.length === 0;
}

/** holdsMask tells whether a text that would be set has a mask in the place of a value: it must not become the value. */
export function holdsMask(variables: readonly Variable[]): Variable | undefined {
  return variables.find((v) => v.value === masked);
}
