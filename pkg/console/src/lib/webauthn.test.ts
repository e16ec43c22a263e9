import { expect, it } from "vitest";
import { answer, bytes, creation, request, text } from "./webauthn";

it("bytes come back whatever they are", () => {
  for (const sample of [[], [0], [255, 254, 253], [1, 2, 3, 4], Array.from({ length: 256 }, (_, i) => i)]) {
    const made = text(Uint8Array.from(sample).buffer);
    expect(made).toMatch(/^[A-Za-z0-9_-]*$/);
    expect([...bytes(made)]).toEqual(sample);
  }
});

it("options have buffers where browsers want them, and are otherwise as they came", () => {
  const made = creation({ challenge: "AQI", rp: { id: "localhost" }, user: { id: "Aw", name: "ana" }, excludeCredentials: [{ type: "public-key", id: "BA", transports: ["usb"] }], timeout: 5 });
  expect([...(made.challenge as Uint8Array)]).toEqual([1, 2]);
  expect([...(made.user.id as Uint8Array)]).toEqual([3]);
  expect(made.excludeCredentials?.[0]?.transports).toEqual(["usb"]);
  expect(made.timeout).toBe(5);
  expect(request({ challenge: "AQI" }).allowCredentials).toEqual([]);
});

it("an answer is JSON", () => {
  const buffer = Uint8Array.from([1]).buffer;
  const made = answer({ id: "AQ", rawId: buffer, type: "public-key", authenticatorAttachment: null, getClientExtensionResults: () => ({}), response: { clientDataJSON: buffer, authenticatorData: buffer, signature: buffer, userHandle: null } } as never);
  expect(JSON.parse(JSON.stringify(made))).toEqual({ id: "AQ", rawId: "AQ", type: "public-key", clientExtensionResults: {}, response: { clientDataJSON: "AQ", authenticatorData: "AQ", signature: "AQ" } });
});
