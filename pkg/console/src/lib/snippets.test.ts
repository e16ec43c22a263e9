import { expect, it } from "vitest";
import { loginLine, quote, rackURLLine, snippets } from "./snippets";

it("what a person could have typed is one word to a shell", () => {
  expect(quote("web")).toBe("web");
  expect(quote("a b")).toBe("'a b'");
  expect(quote("$(rm -rf /)'x")).toBe(`'$(rm -rf /)'\\''x'`);
  expect(quote("")).toBe("''");
});

it("lines name the gateway as the CLI takes it", () => {
  expect(loginLine("gateway.example.com", "rgw_cli_x")).toBe("convox login gateway.example.com -t rgw_cli_x");
  expect(rackURLLine("gateway.example.com", "rgw_api_x")).toBe("export RACK_URL=https://convox:rgw_api_x@gateway.example.com");
});

it("no snippet holds a secret", () => {
  for (const s of snippets({ host: "gateway.example.com", rack: "acme/staging", app: "web" })) {
    expect(s.text).not.toMatch(/rgw_/);
    expect(s.text).toContain("web");
  }
});
