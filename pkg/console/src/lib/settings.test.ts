import { expect, it } from "vitest";
import { groupsOf, titleOf } from "./settings";

it("every setting is in one group, known or not", () => {
  const keys = ["allow_destructive", "session_idle_minutes", "in_flight_per_principal", "mfa_required", "something_new"];
  const groups = groupsOf(keys.map((key) => ({ key })));
  expect(groups.map((g) => g.title)).toEqual(["What is allowed", "Second factors", "Sessions and tokens", "Limits", "More"]);
  expect(groups.flatMap((g) => g.settings).length).toBe(keys.length);
  expect(titleOf("something_new")).toBe("Something new");
});
