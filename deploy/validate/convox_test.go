package validate

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// convoxManifest is a convox.yml, as far as ours goes. Convox's own parser overlooks what it does not know; here it is a
// mistake. (Its module cannot be had from the module proxy; deploy/convox/README.md says how the file was held to it.)
type convoxManifest struct {
	Environment []string
	Resources   map[string]struct {
		Type    string
		Options map[string]any
	}
	Services map[string]convoxService
}

type convoxService struct {
	Build       struct{ Path, Manifest string }
	Command     string
	Domain      string
	Port        int
	Ports       []int
	Environment []string
	Resources   []string
	Timeout     int
	Health      struct {
		Path                     string
		Interval, Timeout, Grace int
	}
	Liveness struct {
		Path                     string
		Interval, Timeout, Grace int
		FailureThreshold         int `yaml:"failureThreshold"`
	}
	Scale struct {
		Count       string
		CPU, Memory int
		Targets     struct{ CPU int }
	}
	Termination struct{ Grace int }
	Deployment  struct{ Minimum, Maximum int }
}

// given is the app's environment as the guide sets it.
var given = map[string]string{
	"DOMAIN": "gateway.example.com", "CONSOLE": "console.example.com", "ADMIN_URL": "https://console.example.com",
	"RACK_ORGANIZATION": "acme", "RACK_ALIAS": "staging", "RACK_HOST": "https://api.rack.example.com", "RACK_TOKEN": "f0c1d2e3b4a5968778695a4b3c2d1e0f",
	"AUDIT_MAC_KEY": secrets["AUDIT_MAC_KEY"], "APP_SECRET_KEY": secrets["APP_SECRET_KEY"],
	"RGW_DATABASE_URL": secrets["DATABASE_URL"], "GATEWAY_DATABASE_URL": secrets["DATABASE_URL"], "ADMIN_DATABASE_URL": secrets["ADMIN_DATABASE_URL"],
	"GOOGLE_CLIENT_ID": "1234567890-abc.apps.googleusercontent.com", "GOOGLE_CLIENT_SECRET": secrets["GOOGLE_CLIENT_SECRET"], "GOOGLE_ALLOWED_DOMAIN": "example.com",
	"ADMIN_USERS": "ana@example.com,ben@example.com", "PROXY_URL": "http://proxy.rack-gateway.svc.cluster.local:8080",
	"TRUSTED_PROXY_CIDRS": "10.1.0.0/16", "ADMIN_CIDRS": "10.1.0.0/16",
}

func parseConvox(t *testing.T) convoxManifest {
	t.Helper()
	var m convoxManifest
	text := strings.NewReplacer("${DOMAIN}", given["DOMAIN"], "${CONSOLE}", given["CONSOLE"]).Replace(read(t, "deploy/convox/convox.yml"))
	decoder := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

// environment is what the rack gives a service: what the manifest lists for it, from the app's, else the default.
func (m convoxManifest) environment(t *testing.T, service string) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, entry := range append(slices.Clone(m.Environment), m.Services[service].Environment...) {
		name, value, optional := strings.Cut(entry, "=")
		if set, ok := given[name]; ok {
			value = set
		} else if !optional {
			t.Errorf("%s needs %s, which the guide does not set", service, name)
		}
		env[name] = value
	}
	return env
}

func TestEachServiceOfConvoxTakesWhatItIsGiven(t *testing.T) {
	m := parseConvox(t)
	for _, process := range []string{"proxy", "admin", "migrate"} {
		environ := []string{"PORT=8080"} // which the rack sets
		for variable, value := range m.environment(t, process) {
			environ = append(environ, variable+"="+value)
		}
		takes(t, "convox "+process, process, environ)
	}
}

func TestEachServiceOfConvoxHoldsItsOwnSecretsOnly(t *testing.T) {
	m := parseConvox(t)
	holders := map[string]string{
		"RACK_TOKEN": "proxy", "APP_SECRET_KEY": "admin", "GOOGLE_CLIENT_SECRET": "admin", "ADMIN_DATABASE_URL": "migrate",
		"RGW_DATABASE_URL": "proxy", "GATEWAY_DATABASE_URL": "admin",
	}
	for name, service := range m.Services {
		env := m.environment(t, name)
		for secret, holder := range holders {
			if _, has := env[secret]; has != (holder == name) {
				t.Errorf("%s has %s: %t", name, secret, has)
			}
		}
		if len(service.Resources) > 0 {
			t.Errorf("%s is linked to %v, which gives it the owner's password", name, service.Resources)
		}
	}
}

// A rack routes by name: each process has one, and what a browser looks for under the other's is led there by the proxy
// (pkg/proxy).
func TestConvoxSendsEachNameToItsProcess(t *testing.T) {
	m := parseConvox(t)
	for name, domain := range map[string]string{"proxy": "gateway.example.com", "admin": "console.example.com", "migrate": ""} {
		if service := m.Services[name]; service.Domain != domain || domain != "" && service.Port != 8080 {
			t.Errorf("%s is reached as %q at port %d", name, service.Domain, service.Port)
		}
	}
	// Under the proxy's name every path is the proxy's, whatever process it belongs to where both share one.
	for path, process := range pathRules {
		if process != "proxy" && m.Services["proxy"].Domain == m.Services["admin"].Domain {
			t.Errorf("%s cannot be told apart", path)
		}
	}
}

func TestConvoxRunsTwoOfEachAndGivesThemTimeToEnd(t *testing.T) {
	m := parseConvox(t)
	for name, drain := range map[string]int{"proxy": 60, "admin": 30} {
		service := m.Services[name]
		if !strings.HasPrefix(service.Scale.Count, "2") || service.Scale.Memory != 256 {
			t.Errorf("%s: %+v", name, service.Scale)
		}
		if service.Termination.Grace < drain+30 || service.Deployment.Minimum != 100 || service.Health.Path != "/api/v1/health/ready" || service.Liveness.Path != "/api/v1/health" || service.Health.Interval > 2 {
			t.Errorf("%s: %+v", name, service)
		}
	}
	if migrate := m.Services["migrate"]; migrate.Scale.Count != "0" || migrate.Command != "migrate" {
		t.Errorf("the migrations run by themselves: %+v", migrate)
	}
	if m.Resources["database"].Type != "postgres" {
		t.Errorf("%+v", m.Resources)
	}
}
