package validate

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose loads files as docker compose does, by its own library, with the environment that somebody would fill in.
func compose(t *testing.T, more map[string]string, files ...string) *types.Project {
	t.Helper()
	env := map[string]string{
		"DOMAIN": "gateway.example.com", "ACME_EMAIL": "ops@example.com", "RACK_HOST": "api.rack.example.com", "RACK_TOKEN": secrets["RACK_TOKEN"],
		"RACK_ORGANIZATION": "acme", "RACK_ALIAS": "staging", "AUDIT_MAC_KEY": secrets["AUDIT_MAC_KEY"], "APP_SECRET_KEY": secrets["APP_SECRET_KEY"],
		"POSTGRES_PASSWORD": "0f1e2d3c", "OWNER_DB_PASSWORD": "1f1e2d3c", "ADMIN_DB_PASSWORD": "2f1e2d3c", "PROXY_DB_PASSWORD": "3f1e2d3c",
		"GOOGLE_CLIENT_ID": "gateway", "GOOGLE_CLIENT_SECRET": "secret", "GOOGLE_ALLOWED_DOMAIN": "example.com", "ADMIN_USERS": "ana@example.com",
	}
	maps.Copy(env, more)
	var entries []string
	for name, value := range env {
		entries = append(entries, name+"="+value)
	}
	for i, file := range files {
		files[i] = filepath.Join(root, file)
	}
	options, err := cli.NewProjectOptions(files, cli.WithEnv(entries), cli.WithProfiles([]string{"*"}), cli.WithWorkingDirectory(root))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func environOf(service types.ServiceConfig) []string {
	var environ []string
	for name, value := range service.Environment {
		if value != nil {
			environ = append(environ, name+"="+*value)
		}
	}
	return environ
}

func TestComposeReadsItsFiles(t *testing.T) {
	project := compose(t, nil, "docker-compose.yml")
	for service, process := range map[string]string{"proxy": "proxy", "admin": "admin", "migrate": "migrate"} {
		takes(t, "compose "+service, process, environOf(project.Services[service]))
	}
	for name, service := range project.Services {
		if !service.ReadOnly || service.Privileged || !slices.Equal(service.CapDrop, []string{"ALL"}) {
			t.Errorf("%s has more rights than it needs", name)
		}
		if len(service.Ports) > 0 && name != "front" {
			t.Errorf("%s is reachable from outside", name)
		}
	}
}

func TestComposeReadsTheTrial(t *testing.T) {
	project := compose(t, map[string]string{"DOMAIN": "localhost", "TRIAL_PASSWORD_HASH": "hash"}, "docker-compose.yml", "deploy/compose/trial.yml")
	if project.Services["dex"].NetworkMode != "service:admin" {
		t.Errorf("%+v", project.Services["dex"])
	}
}

// Over a tailnet nothing is published, and the front is asked by Tailscale's container alone.
func TestComposeReadsTheTailnet(t *testing.T) {
	project := compose(t, map[string]string{"TS_AUTHKEY": "tskey-auth-x"}, "docker-compose.yml", "deploy/tailscale/compose.yml")
	for name, service := range project.Services {
		if len(service.Ports) > 0 {
			t.Errorf("%s is published: %+v", name, service.Ports)
		}
	}
	tailscale := project.Services["tailscale"]
	if _, ok := tailscale.Networks["tailnet"]; !ok || !tailscale.ReadOnly || !slices.Equal(tailscale.CapDrop, []string{"ALL"}) {
		t.Errorf("%+v", tailscale)
	}
	if _, ok := project.Services["front"].Networks["tailnet"]; !ok {
		t.Error("the front cannot be reached by Tailscale's container")
	}
}
