import { expect, it } from "vitest";
import { checkEnv, diffEnv, formatEnv, holdsMask, isEmpty, parseEnv, withoutRemarks } from "./env";

it("a value may hold an equals sign, a quote, a blank and any script", () => {
  const text = 'A=b=c==\nQUOTED="x y"\nEMPTY=\nNAME=שלום <b>';
  expect(parseEnv(text)).toEqual([
    { key: "A", value: "b=c==" },
    { key: "EMPTY", value: "" },
    { key: "NAME", value: "שלום <b>" },
    { key: "QUOTED", value: '"x y"' },
  ]);
  expect(parseEnv(formatEnv(parseEnv(text)))).toEqual(parseEnv(text));
});

it("a later line of the same name counts, as on the rack", () => {
  expect(parseEnv("A=1\nA=2")).toEqual([{ key: "A", value: "2" }]);
});

it("what is no variable is named by its line", () => {
  expect(checkEnv("A=1\n\n# why\nnonsense\n9X=1\nA=2").map((m) => m.line)).toEqual([4, 5, 6]);
  expect(checkEnv("A=1\nB=")).toEqual([]);
  expect(withoutRemarks("# why\nA=1\n\nB=#2")).toBe("A=1\nB=#2");
});

it("a diff names each variable once", () => {
  const d = diffEnv(parseEnv("A=1\nB=2\nC=3"), parseEnv("B=2\nC=4\nD=5"));
  expect(d).toEqual({ added: [{ key: "D", value: "5" }], removed: [{ key: "A", value: "1" }], changed: [{ key: "C", from: "3", to: "4" }] });
  expect(isEmpty(d)).toBe(false);
  expect(isEmpty(diffEnv(parseEnv("B=1\nA=2"), parseEnv("A=2\nB=1")))).toBe(true);
});

it("a mask is never set as a value", () => {
  expect(holdsMask(parseEnv("A=1\nB=****"))?.key).toBe("B");
  expect(holdsMask(parseEnv("A=1\nB=*****"))).toBeUndefined();
});
