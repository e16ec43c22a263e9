package compose_test

import (
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

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
	"APP_SECRET_KEY":    "9e1d3a5c7e9b0d2f4a6c8e0b1d3f5a7c9e1b2d4f6a8c0e2b3d5f7a9c1e3b4d6f",
	"POSTGRES_PASSWORD": "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
	"OWNER_DB_PASSWORD": "1f1e2d3c4b5a69788796a5b4c3d2e1f0",
	"ADMIN_DB_PASSWORD": "2f1e2d3c4b5a69788796a5b4c3d2e1f0",
	"PROXY_DB_PASSWORD": "3f1e2d3c4b5a69788796a5b4c3d2e1f0",

	"GOOGLE_CLIENT_ID":      "1234567890-abc",
	"GOOGLE_CLIENT_SECRET":  "4f1e2d3c4b5a69788796a5b4c3d2e1f0",
	"GOOGLE_ALLOWED_DOMAIN": "example.com",
	"ADMIN_USERS":           "ana@example.com",
}

// environment is what compose gives a service, in the form of os.Environ.
func environment(t *testing.T, service string) []string {
	t.Helper()
	return filledIn(t, service, parseCompose(t).Services[service].Environment)
}

func filledIn(t *testing.T, service string, variables map[string]string) []string {
	t.Helper()
	var environ []string
	for name, value := range variables {
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
	got, report, err := config.LoadAdminServe(environment(t, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Warnings) > 0 {
		t.Errorf("warnings: %s", strings.Join(report.Warnings, "\n"))
	}
	if got.SignIn.Issuer != config.GoogleIssuer || got.Server.AdminURL.String() != "https://gateway.example.com" {
		t.Errorf("people sign in at %s and come back to %s", got.SignIn.Issuer, got.Server.AdminURL)
	}
}

// A trial's settings fit each other: what admin is told of Dex is what Dex is told.
func TestATrialSignsInAtDex(t *testing.T) {
	services := parseComposeFile(t, "deploy/compose/trial.yml").Services
	environ := append(environment(t, "admin"), filledIn(t, "admin", services["admin"].Environment)...)
	got, _, err := config.LoadAdminServe(append(environ, "DOMAIN=localhost"))
	if err != nil {
		t.Fatal(err)
	}
	var dex struct {
		Issuer string `yaml:"issuer"`
		Web    struct {
			HTTP string `yaml:"http"`
		} `yaml:"web"`
		Clients []struct {
			IDEnv        string   `yaml:"idEnv"`
			SecretEnv    string   `yaml:"secretEnv"`
			RedirectURIs []string `yaml:"redirectURIs"`
		} `yaml:"staticClients"`
		People []struct {
			Email       string `yaml:"email"`
			HashFromEnv string `yaml:"hashFromEnv"`
		} `yaml:"staticPasswords"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "deploy/compose/dex.yaml")), &dex); err != nil {
		t.Fatal(err)
	}
	if dex.Issuer != got.SignIn.Issuer || !strings.HasPrefix(dex.Issuer, "http://127.0.0.1:5556/") || dex.Web.HTTP != "0.0.0.0:5556" {
		t.Errorf("Dex is %s at %s, and admin looks for %s", dex.Issuer, dex.Web.HTTP, got.SignIn.Issuer)
	}
	if len(dex.Clients) != 1 || dex.Clients[0].RedirectURIs[0] != got.Server.AdminURL.JoinPath("/login/callback").String() {
		t.Errorf("Dex sends people back to %+v", dex.Clients)
	}
	given := services["dex"].Environment
	if given[dex.Clients[0].IDEnv] != "${GOOGLE_CLIENT_ID}" || given[dex.Clients[0].SecretEnv] != "${GOOGLE_CLIENT_SECRET}" {
		t.Errorf("Dex is given %v", given)
	}
	first := slices.Concat([]string{"admin@example.com"}, got.SignIn.DeployerUsers, got.SignIn.OpsUsers, got.SignIn.ViewerUsers)
	for i, person := range dex.People {
		if person.Email != first[i] || !strings.HasPrefix(given[person.HashFromEnv], "${TRIAL_PASSWORD_HASH:?") {
			t.Errorf("Dex knows %+v, and the gateway %v", person, first)
		}
	}
	if services["dex"].NetworkMode != "service:admin" {
		t.Errorf("Dex is reached by %q", services["dex"].NetworkMode)
	}
}
