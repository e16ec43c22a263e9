// Times as people read them: how long ago, and exactly; in the zone of the reader or in UTC.

export type Zone = "local" | "utc";

const steps: [limit: number, seconds: number, unit: Intl.RelativeTimeFormatUnit][] = [
  [60, 1, "second"],
  [3600, 60, "minute"],
  [86_400, 3600, "hour"],
  [86_400 * 30, 86_400, "day"],
  [86_400 * 365, 86_400 * 30, "month"],
  [Infinity, 86_400 * 365, "year"],
];

const short: Partial<Record<Intl.RelativeTimeFormatUnit, string>> = { second: "s", minute: "m", hour: "h", day: "d", month: "mo", year: "y" };

/** relative says how far a moment is from now: "now", "5m ago", "in 3d". */
export function relative(at: Date, now: Date): string {
  const seconds = Math.round((at.getTime() - now.getTime()) / 1000);
  const far = Math.abs(seconds);
  if (far < 5) return "now";
  for (const [limit, size, unit] of steps) {
    if (far >= limit) continue;
    const text = `${Math.floor(far / size)}${short[unit] ?? ""}`;
    return seconds < 0 ? `${text} ago` : `in ${text}`;
  }
  return "";
}

const pad = (n: number, width = 2): string => String(n).padStart(width, "0");

/** exact is the moment to the second, in an order that sorts, with its zone. */
export function exact(at: Date, zone: Zone): string {
  if (zone === "utc") return `${at.getUTCFullYear()}-${pad(at.getUTCMonth() + 1)}-${pad(at.getUTCDate())} ${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}:${pad(at.getUTCSeconds())} UTC`;
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())} ${offset(at)}`;
}

/** clock is the time of day, for logs. */
export function clock(at: Date, zone: Zone): string {
  const [h, m, s, ms] = zone === "utc" ? [at.getUTCHours(), at.getUTCMinutes(), at.getUTCSeconds(), at.getUTCMilliseconds()] : [at.getHours(), at.getMinutes(), at.getSeconds(), at.getMilliseconds()];
  return `${pad(h)}:${pad(m)}:${pad(s)}.${pad(ms, 3)}`;
}

/** stamp is day and time without the zone, for columns in which every row has the same one. */
export function stamp(at: Date, zone: Zone): string {
  return exact(at, zone).slice(5, 19);
}

function offset(at: Date): string {
  const minutes = -at.getTimezoneOffset();
  if (minutes === 0) return "UTC";
  const sign = minutes < 0 ? "−" : "+";
  const whole = Math.abs(minutes);
  return `UTC${sign}${Math.floor(whole / 60)}${whole % 60 === 0 ? "" : ":" + pad(whole % 60)}`;
}

/** duration says how long something took, from microseconds. */
export function duration(us: number): string {
  if (us < 1000) return `${us} µs`;
  if (us < 1_000_000) return `${(us / 1000).toFixed(us < 10_000 ? 1 : 0)} ms`;
  const seconds = us / 1_000_000;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** parseTime reads a time of an answer; undefined when there is none. */
export function parseTime(text: string | null | undefined): Date | undefined {
  if (text === undefined || text === null || text === "" || text.startsWith("0001-")) return undefined;
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? undefined : at;
}

/** since turns "15m", "24h" or "7d" into the moment that long ago. */
export function since(text: string, now: Date): Date | undefined {
  const match = /^(\d{1,5})([mhd])$/.exec(text);
  if (!match) return undefined;
  const unit = { m: 60_000, h: 3_600_000, d: 86_400_000 }[match[2] as "m" | "h" | "d"];
  return new Date(now.getTime() - Number(match[1]) * unit);
}
