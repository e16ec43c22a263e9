import { expect, it } from "vitest";
import { level, Lines, parseLine } from "./logline";

it("a line of a rack has its time and source apart", () => {
  const line = parseLine(1, "2026-11-23T18:00:00Z service/web/web-1 GET / 200");
  expect(line).toEqual({ id: 1, at: new Date("2026-11-23T18:00:00Z"), source: "service/web/web-1", text: "GET / 200" });
  expect(parseLine(2, "Step 1/4 : FROM alpine").text).toBe("Step 1/4 : FROM alpine");
});

it("what is meant for a terminal is taken out", () => {
  expect(parseLine(0, "\u001b[31mred\u001b[0m \u001b]0;title\u0007x\u0007y\u0000").text).toBe("red xy");
});

it("lines are cut where they end, however the pieces come", () => {
  const text = "one\ntwo\r\n\nthree";
  for (let size = 1; size <= text.length; size++) {
    const lines = new Lines();
    const got: string[] = [];
    for (let i = 0; i < text.length; i += size) got.push(...lines.push(text.slice(i, i + size)).map((l) => l.text));
    got.push(...lines.end().map((l) => l.text));
    expect(got).toEqual(["one", "two", "", "three"]);
  }
});

it("a line without end is not gathered for ever", () => {
  const lines = new Lines();
  let got = 0;
  for (let i = 0; i < 40; i++) got += lines.push("x".repeat(4096)).length;
  expect(got).toBeGreaterThan(0);
});

it("gravity is guessed by words, not by parts of them", () => {
  expect(level("ERROR: no such table")).toBe("bad");
  expect(level("terrors of the deep")).toBeUndefined();
  expect(level("a warning")).toBe("warn");
});
