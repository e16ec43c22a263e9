import { expect, test } from "vitest";
import { sorted } from "./sort";

test("texts go as people count, numbers by size, and both the other way round", () => {
  expect(sorted(["web-10", "Web-2", "api", ""], (s) => s, false)).toEqual(["", "api", "Web-2", "web-10"]);
  expect(sorted([10, 9, 100], (n) => n, false)).toEqual([9, 10, 100]);
  expect(sorted([10, 9, 100], (n) => n, true)).toEqual([100, 10, 9]);
});

test("rows of equal keys stay in their order, in either direction", () => {
  const rows = [{ k: "b", n: 1 }, { k: "a", n: 2 }, { k: "B", n: 3 }, { k: "a", n: 4 }];
  const order = (descending: boolean) => sorted(rows, (r) => r.k, descending).map((r) => r.n);
  expect(order(false)).toEqual([2, 4, 1, 3]);
  expect(order(true)).toEqual([1, 3, 2, 4]);
});

test("what has no key comes first, and the list that is given stays as it was", () => {
  const rows = [{ k: "x" }, { k: undefined }, { k: null }];
  expect(sorted(rows, (r) => r.k, false)).toEqual([{ k: undefined }, { k: null }, { k: "x" }]);
  expect(rows[0]).toEqual({ k: "x" });
});
