import { describe, expect, it } from "vitest";
import { clock, duration, exact, parseTime, relative, since } from "./time";

const now = new Date("2026-11-23T18:00:00Z");
const before = (seconds: number) => new Date(now.getTime() - seconds * 1000);

describe("relative", () => {
  it.each([
    [0, "now"],
    [4, "now"],
    [59, "59s ago"],
    [60, "1m ago"],
    [3599, "59m ago"],
    [86_399, "23h ago"],
    [86_400, "1d ago"],
    [86_400 * 29, "29d ago"],
    [86_400 * 31, "1mo ago"],
    [86_400 * 800, "2y ago"],
    [-90, "in 1m"],
    [-86_400 * 3, "in 3d"],
  ])("%d seconds before now is %s", (seconds, text) => expect(relative(before(seconds), now)).toBe(text));
});

describe("exact", () => {
  it("sorts, and names its zone", () => {
    expect(exact(new Date("2026-01-02T03:04:05Z"), "utc")).toBe("2026-01-02 03:04:05 UTC");
    expect(exact(now, "local")).toMatch(/^2026-11-2\d \d\d:00:00 UTC/);
    expect(clock(new Date("2026-01-02T03:04:05.006Z"), "utc")).toBe("03:04:05.006");
  });
});

it("durations keep two or three figures", () => {
  expect([950, 1500, 25_000, 2_500_000, 61_000_000, 7_200_000_000].map(duration)).toEqual(["950 µs", "1.5 ms", "25 ms", "2.5 s", "1 min 1 s", "2 h 0 min"]);
});

it("a rack's zero time is none, and neither is nonsense", () => {
  expect(parseTime("0001-01-01T00:00:00Z")).toBeUndefined();
  expect(parseTime("yesterday")).toBeUndefined();
  expect(parseTime(undefined)).toBeUndefined();
  expect(parseTime("2026-11-23T18:00:00Z")).toEqual(now);
});

it("since counts back from now, and takes nothing else", () => {
  expect(since("15m", now)).toEqual(before(900));
  expect(since("7d", now)).toEqual(before(7 * 86_400));
  expect(since("7w", now)).toBeUndefined();
  expect(since("-1h", now)).toBeUndefined();
});
