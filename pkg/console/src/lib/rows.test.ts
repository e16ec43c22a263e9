import { describe, expect, it } from "vitest";
import { most, visible } from "./rows";

describe("visible", () => {
  it("shows what can be seen, whatever is scrolled", () => {
    for (const view of [300, 640, 1080, 2160]) {
      for (let scrolled = -500; scrolled < 410_000; scrolled += 997) {
        const span = visible(10_000, 40, scrolled, view);
        const first = Math.floor(Math.max(scrolled, 0) / 40);
        const last = Math.min(10_000, Math.ceil((Math.max(scrolled, 0) + view) / 40));
        expect(span.from).toBeGreaterThanOrEqual(0);
        expect(span.to).toBeLessThanOrEqual(10_000);
        expect(span.to - span.from).toBeLessThanOrEqual(most);
        if (first < 10_000) {
          expect(span.from).toBeLessThanOrEqual(first);
          expect(span.to).toBeGreaterThanOrEqual(last);
        }
      }
    }
  });
  it("knows short and empty lists", () => {
    expect(visible(0, 40, 0, 800)).toEqual({ from: 0, to: 0 });
    expect(visible(3, 40, 0, 800)).toEqual({ from: 0, to: 3 });
    expect(visible(3, 40, 9000, 800)).toEqual({ from: 3, to: 3 });
  });
});
