import { expect, it } from "vitest";
import { best, holds, matches, score } from "./match";

it("a run of letters is better than letters in order, and those better than none", () => {
  expect(score("API tokens", "token")).toBeGreaterThan(score("Two kinds open", "token"));
  expect(score("Audit", "adt")).toBeGreaterThan(0);
  expect(score("Audit", "xyz")).toBe(0);
  expect(best(["Roles", "Overview", "People"], (s) => s, "ro", 3)[0]).toBe("Roles");
});

it("every word must be somewhere", () => {
  expect(holds("ana example", "Ana", "ana@EXAMPLE.com")).toBe(true);
  expect(holds("ana other", "Ana", undefined)).toBe(false);
  expect(holds("", "anything")).toBe(true);
});

it("a pattern matches as the gateway matches it", () => {
  expect(matches("*", "web")).toBe(true);
  expect(matches("web-*", "web-1")).toBe(true);
  expect(matches("web-*", "web")).toBe(false);
  expect(matches("a*a", "a")).toBe(false);
  expect(matches("*-x-*", "a-x-b")).toBe(true);
  expect(matches("a*b*c", "abc")).toBe(true);
  expect(matches("a*bc*c", "abc")).toBe(false);
});
