// Package validate holds what is under deploy/ to the tools that will read it. See go.mod for why it stands apart.
package validate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rackgateway/pkg/config"
)

// root is the repository's top folder, seen from this package.
const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// secrets are values that the processes take for the secrets of a deployment.
var secrets = map[string]string{
	"DATABASE_URL":         "postgres://rgw_login:f0c1d2e3b4a59687@db.example.com:5432/rackgateway?sslmode=verify-full",
	"ADMIN_DATABASE_URL":   "postgres://rgw_owner:f0c1d2e3b4a59687@db.example.com:5432/rackgateway?sslmode=verify-full",
	"AUDIT_MAC_KEY":        "8d1f3a5c7e9b0d2f4a6c8e0b1d3f5a7c9e1b2d4f6a8c0e2b3d5f7a9c1e3b4d6f",
	"APP_SECRET_KEY":       "1d1f3a5c7e9b0d2f4a6c8e0b1d3f5a7c9e1b2d4f6a8c0e2b3d5f7a9c1e3b4d6f",
	"RACK_TOKEN":           "f0c1d2e3b4a5968778695a4b3c2d1e0f",
	"GOOGLE_CLIENT_SECRET": "GOCSPX-f0c1d2e3b4a59687",
}

// takes loads the environment of a process as that process would, and fails on every mistake and every warning.
func takes(t *testing.T, what, process string, environ []string) {
	t.Helper()
	folder := t.TempDir()
	for i, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		secret, isFile := strings.CutSuffix(name, "_FILE")
		if !isFile || !strings.HasPrefix(value, "/run/secrets/") {
			continue
		}
		content, known := secrets[secret]
		if !known {
			t.Errorf("%s: this test has no value for %s", what, secret)
		}
		path := filepath.Join(folder, secret)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		environ[i] = name + "=" + path
	}
	var report *config.Report
	var err error
	switch process {
	case "proxy":
		_, report, err = config.LoadProxy(environ)
	case "admin":
		_, report, err = config.LoadAdminServe(environ)
	case "migrate":
		_, report, err = config.LoadAdmin(append(environ, "AUDIT_MAC_KEY="+secrets["AUDIT_MAC_KEY"], "DATABASE_URL="+secrets["DATABASE_URL"]))
	default:
		t.Fatalf("there is no process %q", process)
	}
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	for _, warning := range report.Warnings {
		t.Errorf("%s: %s", what, warning)
	}
}

// pathRules is which process answers which path where both share a name; every front that is shipped is held to it.
var pathRules = map[string]string{
	"/": "proxy", "/auth": "proxy", "/racks": "proxy", "/racks/acme/staging": "proxy", "/machines": "proxy", "/session/0190d5": "proxy",
	"/apps": "proxy", "/apps/api": "proxy", "/apps/console/processes": "proxy", "/apps/web/objects/tmp/login/x.tgz": "proxy",
	"/apiary": "proxy", "/consoles": "proxy", "/logins": "proxy", "/system/logs": "proxy",
	"/api/v1/rack-proxy": "proxy", "/api/v1/rack-proxy/": "proxy", "/api/v1/rack-proxy/apps": "proxy",
	"/api/v1/rack-proxy/apps/web/processes/web/exec": "proxy", "/api/v1/rack-proxy/health/ready": "proxy",
	"/api/v1/rack-proxyx": "admin", "/api/v1": "admin", "/api/": "admin", "/api": "admin", "/api/v1/users": "admin", "/api/v1/health": "admin",
	"/console": "admin", "/console/": "admin", "/console/audit": "admin", "/console/assets/app.js": "admin",
	"/login/": "admin", "/login/u2f": "admin", "/login/callback": "admin",
}

// variablesOf are all variables that either process reads.
func variablesOf(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	_, proxy, _ := config.LoadProxy(nil) // mistakes, because nothing is set; the report is whole
	_, admin, _ := config.LoadAdmin(nil)
	for _, report := range []*config.Report{proxy, admin} {
		for _, row := range report.Rows {
			known[row.Name] = true
		}
	}
	return known
}
