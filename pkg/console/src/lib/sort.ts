// Sorting a long list: each row is asked for its key once, and rows of equal keys stay in the order in which they came.

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** sorted returns rows in the order of their keys. Numbers go by size; all else as text, with the numbers in it by size, so
    that web-2 is before web-10. */
export function sorted<T>(rows: readonly T[], key: (row: T) => unknown, descending: boolean): T[] {
  const keys = rows.map(key);
  const ranks = keys.every((k) => typeof k === "number") ? keys : ranked(keys);
  const order = Array.from(rows, (_, i) => i);
  const sign = descending ? -1 : 1;
  order.sort((a, b) => sign * ((ranks[a] as number) - (ranks[b] as number)) || a - b);
  return order.map((i) => rows[i] as T);
}

// ranked compares each text with others once, however many rows have it: of ten thousand events there are a few actions.
function ranked(keys: readonly unknown[]): number[] {
  const texts = keys.map((k) => (k === undefined || k === null ? "" : String(k as string | number | boolean)));
  const rank = new Map<string, number>();
  let last: string | undefined;
  let n = 0;
  for (const text of [...new Set(texts)].sort(collator.compare)) {
    if (last === undefined || collator.compare(last, text) !== 0) n++;
    rank.set(text, n);
    last = text;
  }
  return texts.map((t) => rank.get(t) ?? 0);
}
