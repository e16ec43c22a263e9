import { expect, it } from "vitest";
import { compose, term } from "./search";

it("a value is quoted where the grammar would read it otherwise", () => {
  expect(term("app", "web")).toBe("app:web");
  expect(term("actor", "ana@example.com")).toBe("actor:ana@example.com");
  expect(term("actor", "Ana's laptop")).toBe(`actor:"Ana's laptop"`);
  expect(term("actor", 'a"b\\c')).toBe('actor:"a\\"b\\\\c"');
  expect(term("app", "-web")).toBe('app:"-web"');
  expect(term("action", "process.*")).toBe('action:"process.*"');
  expect(term("actor", "a,b:c")).toBe('actor:"a,b:c"');
});

it("what was typed and what was chosen are asked together, within a day unless said otherwise", () => {
  expect(compose({})).toBe("since:24h");
  expect(compose({ span: "all" })).toBe("");
  expect(compose({ q: " app:web  ", phase: "refused", span: "7d" })).toBe("app:web phase:refused since:7d");
  expect(compose({ q: "since:3h", span: "7d" })).toBe("since:3h");
  expect(compose({ q: "request:abc" })).toBe("request:abc");
});
