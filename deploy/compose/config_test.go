package compose_test

import (
	"strings"
	"testing"

	"rackgateway/pkg/config"
)

// filled is .env as somebody would fill it in.
var filled = map[string]string{
	"DOMAIN":            "gateway.example.com",
	"ACME_EMAIL":        "ops@example.com",
	"RACK_HOST":         "api.rack.example.com",
	"RACK_TOKEN":        "f0c1d2e3b4a5968778695a4b3c2d1e0f",
	"RACK_ORGANIZATION": "acme",
	"RACK_ALIAS":        "staging",
	"AUDIT_MAC_KEY":     "8d1f3a5c7e9b0d2f4a6c8e0b1d3f5a7c9e1b2d4f6a8c0e2b3d5f7a9c1e3b4d6f",
	"POSTGRES_PASSWORD": "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
	"OWNER_DB_PASSWORD": "1f1e2d3c4b5a69788796a5b4c3d2e1f0",
	"ADMIN_DB_PASSWORD": "2f1e2d3c4b5a69788796a5b4c3d2e1f0",
	"PROXY_DB_PASSWORD": "3f1e2d3c4b5a69788796a5b4c3d2e1f0",
}

// environment is what compose gives a service, in the form of os.Environ.
func environment(t *testing.T, service string) []string {
	t.Helper()
	var environ []string
	for name, value := range parseCompose(t).Services[service].Environment {
		value = reference.ReplaceAllStringFunc(value, func(text string) string {
			match := reference.FindStringSubmatch(text)
			if given, ok := filled[match[1]]; ok {
				return given
			}
			if match[2] != "-" {
				t.Errorf("%s: this test has no value for %s", service, match[1])
			}
			return match[3]
		})
		environ = append(environ, name+"="+value)
	}
	return environ
}

func TestTheProxyTakesWhatComposeGivesIt(t *testing.T) {
	got, report, err := config.LoadProxy(environment(t, "proxy"))
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Warnings) > 0 {
		t.Errorf("warnings: %s", strings.Join(report.Warnings, "\n"))
	}
	if got.Server.DevMode {
		t.Error("development mode is on")
	}
	if len(got.Rack.TLSPins) != 0 {
		t.Errorf("without RACK_TLS_PIN there is a pin: %v", got.Rack.TLSPins)
	}
	if got.Rack.Host.String() != "https://api.rack.example.com" || got.Rack.Organization+"/"+got.Rack.Alias != "acme/staging" {
		t.Errorf("rack %s %s/%s", got.Rack.Host, got.Rack.Organization, got.Rack.Alias)
	}
}

func TestAdminTakesWhatComposeGivesIt(t *testing.T) {
	_, report, err := config.LoadAdmin(environment(t, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Warnings) > 0 {
		t.Errorf("warnings: %s", strings.Join(report.Warnings, "\n"))
	}
}
