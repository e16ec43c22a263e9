// How the palette and the filters find things: letters in order, earlier and closer together being better.

/** score of a text for what was typed; 0 when it does not fit. */
export function score(text: string, typed: string): number {
  if (typed === "") return 1;
  const hay = text.toLowerCase();
  const needle = typed.toLowerCase().replace(/\s+/g, "");
  const whole = hay.indexOf(typed.toLowerCase());
  if (whole >= 0) return 1000 - whole * 4 - (hay.length - typed.length);
  let at = -1;
  let points = 200;
  for (const letter of needle) {
    const next = hay.indexOf(letter, at + 1);
    if (next < 0) return 0;
    points -= at < 0 ? next : (next - at - 1) * 3;
    at = next;
  }
  return Math.max(points, 1);
}

/** best returns what fits, best first, in its own order where it is as good. */
export function best<T>(items: readonly T[], text: (item: T) => string, typed: string, count: number): T[] {
  return items
    .map((item, i) => ({ item, i, score: score(text(item), typed) }))
    .filter((s) => s.score > 0)
    .sort((a, b) => b.score - a.score || a.i - b.i)
    .slice(0, count)
    .map((s) => s.item);
}

/** holds reports whether any of the texts has every word that was typed. */
export function holds(typed: string, ...texts: (string | undefined)[]): boolean {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  const hay = texts.filter((t) => t !== undefined).join("\n").toLowerCase();
  return words.every((w) => hay.includes(w));
}

/** matches reports whether an app's name fits a pattern with * for any run of characters. */
export function matches(pattern: string, name: string): boolean {
  const parts = pattern.split("*");
  if (parts.length === 1) return pattern === name;
  const first = parts[0] ?? "";
  const last = parts[parts.length - 1] ?? "";
  if (!name.startsWith(first) || !name.endsWith(last) || name.length < first.length + last.length) return false;
  let at = first.length;
  const end = name.length - last.length;
  for (const part of parts.slice(1, -1)) {
    const next = name.indexOf(part, at);
    if (next < 0 || next + part.length > end) return false;
    at = next + part.length;
  }
  return true;
}
