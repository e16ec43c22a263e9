package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files and docs/configuration.md anew")

// goodKey is a key that is strong enough; drawn once for these tests.
const goodKey = "5ba1bf28c2a3fd6f1de14a1fbd07c55e9c2c4f3c5b67c8f8e8f6f0f7d91f7c0a"

// good is the least that a process needs.
func good(more ...string) []string {
	return append([]string{
		"DOMAIN=gateway.acme.com",
		"DATABASE_URL=postgres://gateway:canary-db@db.acme.com/gateway",
		"RACK_HOST=api.rack.acme.com",
		"RACK_TOKEN=canary-rack",
		"AUDIT_MAC_KEY=" + goodKey,
	}, more...)
}

func proxy(t *testing.T, environ ...string) (*Proxy, *Report) {
	t.Helper()
	cfg, report, err := LoadProxy(environ)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, report
}

// mistake is what LoadProxy says of a variable; "" when it says nothing.
func mistake(t *testing.T, name string, environ ...string) string {
	t.Helper()
	_, _, err := LoadProxy(environ)
	var mistakes *MistakesError
	if err != nil && !errors.As(err, &mistakes) {
		t.Fatalf("the error is a %T", err)
	}
	if mistakes != nil {
		for _, m := range mistakes.Mistakes {
			if m.Name == name {
				return m.What
			}
		}
	}
	return ""
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is made now; run go test ./pkg/config -update and look at the difference. Made now:\n%s", name, got)
	}
}

func TestTheLeastConfigurationHasItsDefaults(t *testing.T) {
	cfg, report := proxy(t, good()...)
	if cfg.Server.Port != 8080 || cfg.Server.Domain != "gateway.acme.com" || cfg.Server.AdminURL.String() != "https://gateway.acme.com" ||
		cfg.Server.DrainTimeout != 30*time.Second || cfg.Server.DevMode || cfg.Server.TrustedProxyCIDRs != nil {
		t.Errorf("server is %+v", cfg.Server)
	}
	if cfg.Log.Level != slog.LevelInfo || cfg.Log.Format != "json" {
		t.Errorf("log is %+v", cfg.Log)
	}
	if d := cfg.Database; d.URL.Reveal() != "postgres://gateway:canary-db@db.acme.com/gateway" || d.MaxOpenConns != 25 || d.MaxIdleConns != 25 ||
		d.ConnMaxLifetime != 30*time.Minute || d.ConnMaxIdleTime != 5*time.Minute {
		t.Errorf("database is %+v", d)
	}
	if r := cfg.Rack; r.Host.String() != "https://api.rack.acme.com" || r.Token.Reveal() != "canary-rack" || r.Username != "convox" ||
		r.Organization != "gateway" || r.Alias != "rack" || r.TLSPins != nil || !r.TokenNext.IsZero() {
		t.Errorf("rack is %+v", r)
	}
	if cfg.Audit.MACKey.Reveal() != goodKey || cfg.Audit.MaxWait != 10*time.Second {
		t.Errorf("audit is %+v", cfg.Audit)
	}
	if cfg.Access.MaxStaleness != 10*time.Second || cfg.Access.SocketGrace != time.Minute {
		t.Errorf("access is %+v", cfg.Access)
	}
	if len(report.Warnings) != 0 {
		t.Errorf("warnings: %q", report.Warnings)
	}
}

func TestEveryVariableIsRead(t *testing.T) {
	cert, key := certificate(t)
	cfg, report := proxy(t,
		"DOMAIN=LocalHost:8443", "PORT=8443", "ADMIN_URL=admin.acme.com/", "TRUSTED_PROXY_CIDRS= 10.0.0.0/16, 192.0.2.1,fd00::/8,",
		"TLS_CERT_FILE="+cert, "TLS_KEY_FILE="+key, "METRICS_ADDR=:9090", "DRAIN_TIMEOUT=1m30s", "DEV_MODE=Yes",
		"LOG_LEVEL=debug", "LOG_FORMAT=text",
		"DATABASE_URL=postgres://g@/gateway?host=/run/postgresql", "DB_MAX_OPEN_CONNS=10", "DB_MAX_IDLE_CONNS=5", "DB_CONN_MAX_LIFETIME=1h", "DB_CONN_MAX_IDLE_TIME=0s",
		"RACK_HOST=http://rack.internal:5443", "RACK_TOKEN=a", "RACK_TOKEN_NEXT=b", "RACK_USERNAME=me", "RACK_ORGANIZATION=acme", "RACK_ALIAS=staging", "RACK=prod-1",
		"RACK_CA_FILE="+cert, "RACK_TLS_PIN=sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=, E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55",
		"AUDIT_MAC_KEY="+goodKey, "AUDIT_MAX_WAIT=500ms", "ACCESS_MAX_STALENESS=5s", "ACCESS_SOCKET_GRACE=5s",
		"ADMIN_CIDRS=10.0.3.0/24,127.0.0.1", "RGW_SETTING_REAUTH_DAYS=14", "RGW_SETTING_ALLOW_DESTRUCTIVE=Yes",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318", "OTEL_EXPORTER_OTLP_HEADERS=api-key=k, tenant=acme", "OTEL_TRACES_SAMPLER_ARG=0.25", "SENTRY_DSN=https://k@sentry.acme.com/1",
		"LISTEN_LOCAL=yes", "RGW_APP_MY_WEB_SETTING_DEPLOY_APPROVALS=on", "RGW_APP_A_SETTING_B_SETTING_DEPLOY_APPROVALS=off",
	)
	s := cfg.Server
	if s.Domain != "localhost:8443" || s.Hostname() != "localhost" || s.Port != 8443 || s.AdminURL.String() != "https://admin.acme.com" ||
		fmt.Sprint(s.TrustedProxyCIDRs) != "[10.0.0.0/16 192.0.2.1/32 fd00::/8]" || s.TLSCertFile != cert || s.MetricsAddr != ":9090" ||
		s.DrainTimeout != 90*time.Second || !s.DevMode {
		t.Errorf("server is %+v", s)
	}
	r := cfg.Rack
	if r.Host.String() != "http://rack.internal:5443" || r.TokenNext.Reveal() != "b" || r.Organization != "acme" || r.Alias != "staging" ||
		len(r.TLSPins) != 2 || r.TLSPins[0] != r.TLSPins[1] || r.TLSPins[0].String() != "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" {
		t.Errorf("rack is %+v", r)
	}
	if cfg.Log.Level != slog.LevelDebug || cfg.Database.MaxIdleConns != 5 || cfg.Database.ConnMaxIdleTime != 0 || cfg.Audit.MaxWait != 500*time.Millisecond {
		t.Errorf("the rest is %+v", cfg)
	}
	if fmt.Sprint(cfg.Console.AdminCIDRs) != "[10.0.3.0/24 127.0.0.1/32]" {
		t.Errorf("admin asks from %v", cfg.Console.AdminCIDRs)
	}
	if h := cfg.Telemetry.Headers(); cfg.Telemetry.TracesURL.Host != "collector:4318" || h.Get("Api-Key") != "k" || h.Get("Tenant") != "acme" || cfg.Telemetry.TracesRatio != 0.25 {
		t.Errorf("telemetry is %+v", cfg.Telemetry)
	}
	for _, bad := range []string{"OTEL_TRACES_SAMPLER_ARG=2", "OTEL_TRACES_SAMPLER_ARG=some", "OTEL_EXPORTER_OTLP_HEADERS=key", "SENTRY_DSN=https://sentry.acme.com"} {
		name, value, _ := strings.Cut(bad, "=")
		var mistakes *MistakesError
		if _, _, err := LoadProxy(append(good(), bad)); !errors.As(err, &mistakes) || len(mistakes.Mistakes) != 1 || mistakes.Mistakes[0].Name != name || strings.Contains(err.Error(), value+" ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	var defaults []string
	for _, d := range cfg.Settings.Defaults {
		defaults = append(defaults, d.App+" "+d.Key+"="+string(d.Value))
	}
	if got := strings.Join(defaults, ", "); got != "a-setting-b deploy_approvals=false, my-web deploy_approvals=true,  allow_destructive=true,  reauth_days=14" {
		t.Errorf("the environment's settings are %s", got)
	}
	for _, row := range report.Rows {
		if row.Source != "environment" {
			t.Errorf("%s comes from %s", row.Name, row.Source)
		}
	}
}

// What people see, with everything wrong at once.
func TestEveryMistakeIsReportedAtOnce(t *testing.T) {
	_, report, err := LoadProxy([]string{
		"DOMAIN=https://gateway.acme.com/", "PORT=eighty", "ADMIN_URL=ftp://admin.acme.com", "TRUSTED_PROXY_CIDRS=10.0.0.0/16,everybody",
		"TLS_KEY_FILE=/nonexistent/tls.key", "METRICS_ADDR=9090", "DRAIN_TIMEOUT=30", "DEV_MODE=perhaps",
		"LOG_LEVEL=loud", "LOG_FORMAT=xml",
		"DATABASE_URL=postgres://gateway:canary/pass@db/gateway", "DB_MAX_OPEN_CONNS=0", "DB_CONN_MAX_LIFETIME=2 days",
		"RACK_HOST=https://convox:canary@rack.acme.com", "RACK_TOKEN=canary with spaces", "RACK_ORGANIZATION=a/b", "RACK_CA_FILE=/nonexistent/ca.pem", "RACK_TLS_PIN=abc",
		"AUDIT_MAC_KEY=canary", "AUDIT_MAX_WAIT=1h", "ACCESS_MAX_STALENESS=2m",
		"ADMIN_CIDRS=0.0.0.0/0", "RGW_SETTING_REAUTH_DAYS=0", "RGW_SETTING_ALLOW_DESTRUCTIVE=maybe",
		"RGW_APP_WEB_SETTING_REAUTH_DAYS=3", "RGW_APP_WEB_SETTING_DEPLOY_APPROVALS=maybe", "RGW_APP__WEB_SETTING_DEPLOY_APPROVALS=on", "RGW_APP_WEB_SETTING_NO_SUCH=1",
	})
	if err == nil {
		t.Fatal("all of that is accepted")
	}
	golden(t, "testdata/mistakes.golden", err.Error()+"\n")
	var table strings.Builder
	if _, err := report.WriteTo(&table); err != nil {
		t.Fatal(err)
	}
	if all := err.Error() + table.String(); strings.Contains(all, "canary") {
		t.Errorf("a secret shows:\n%s", all)
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	_, _, err := LoadProxy([]string{"DOMAIN=", "RACK_TOKEN=  "})
	golden(t, "testdata/missing.golden", fmt.Sprintln(err))
	_, _, err = LoadAdmin(nil)
	golden(t, "testdata/missing-admin.golden", fmt.Sprintln(err))
	_, _, err = LoadAdminServe(nil)
	golden(t, "testdata/missing-admin-serve.golden", fmt.Sprintln(err))
}

func TestASingleMistakeIsExplained(t *testing.T) {
	cert, key := certificate(t)
	broken := filepath.Join(t.TempDir(), "broken.pem")
	write(t, broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	for _, test := range []struct{ name, value, want string }{
		{"DOMAIN", "203.0.113.7", "network address"},
		{"DOMAIN", "gateway_1.acme.com", "not a host name"},
		{"DOMAIN", "gateway.acme.com:0", "port"},
		{"DOMAIN", "gateway.acme.com:", "port"},
		{"DOMAIN", "user@gateway.acme.com", "host name alone"},
		{"DOMAIN", strings.Repeat("a", 64) + ".com", "not a host name"},
		{"PORT", "70000", "between 0 and 65535"},
		{"PORT", "-1", "between 0 and 65535"},
		{"ADMIN_URL", "https://admin.acme.com/console", "goes on after the host"},
		{"ADMIN_URL", "https://", "names no host"},
		{"TRUSTED_PROXY_CIDRS", "0.0.0.0/0", "every address"},
		{"TRUSTED_PROXY_CIDRS", "::/0", "every address"},
		{"TRUSTED_PROXY_CIDRS", "10.0.0.1/8", "10.0.0.0/8"},
		{"TRUSTED_PROXY_CIDRS", "::ffff:10.0.0.0/104", "IPv4"},
		{"TRUSTED_PROXY_CIDRS", "fe80::1%eth0", "not a network"},
		{"METRICS_ADDR", "localhost:http", "port"},
		{"METRICS_ADDR", ":8080", "port of PORT"},
		{"TLS_CERT_FILE", cert, ""},
		{"DEV_MODE", "true", "not localhost"},
		{"DB_MAX_IDLE_CONNS", "26", "more than DB_MAX_OPEN_CONNS"},
		{"DATABASE_URL", "mysql://db/gateway", "postgres://"},
		{"DATABASE_URL", "postgres:///gateway", "names no host"},
		{"DATABASE_URL", "postgres://db", "names no database"},
		{"DATABASE_URL", "host=db dbname=gateway", "postgres://"},
		{"RACK_HOST", "http://rack.acme.com", "in the clear"},
		{"RACK_HOST", "http://127.0.0.1:5443", ""},
		{"RACK_HOST", "http://localhost:5443", ""},
		{"RACK_HOST", "rack.acme.com:5443", ""},
		{"RACK_HOST", "rack.acme.com?x", "goes on after the host"},
		{"RACK_HOST", "https://rack.acme.com:port", "cannot be read"},
		{"RACK_USERNAME", "a:b", "colon"},
		{"RACK_ALIAS", "-staging", "begins with"},
		{"RACK", "a b", "begins with"},
		{"RACK_CA_FILE", cert, ""},
		{"RACK_CA_FILE", key, "no certificate"},
		{"RACK_CA_FILE", broken, "cannot be read"},
		{"RACK_TLS_PIN", "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", ""},
		{"RACK_TLS_PIN", "sha256//7DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", ""}, // its own slash, one in 64 has one
		{"RACK_TLS_PIN", strings.Repeat("0", 62), "SHA-256"},
		{"AUDIT_MAX_WAIT", "0s", "between 100ms and 5m"},
		{"ACCESS_SOCKET_GRACE", "5s", "less than ACCESS_MAX_STALENESS"},
		{"LOG_LEVEL", "WARN", ""},
	} {
		environ := slices.DeleteFunc(good(), func(entry string) bool { return strings.HasPrefix(entry, test.name+"=") })
		got := mistake(t, test.name, append(environ, test.name+"="+test.value)...)
		if test.name == "TLS_CERT_FILE" {
			got = mistake(t, test.name, append(environ, test.name+"="+test.value, "TLS_KEY_FILE="+key)...)
		}
		if test.want == "" && got != "" || !strings.Contains(got, test.want) {
			t.Errorf("%s=%s: %q, not %q", test.name, test.value, got, test.want)
		}
	}
	if got := mistake(t, "TLS_CERT_FILE", good("TLS_CERT_FILE="+key, "TLS_KEY_FILE="+key)...); !strings.Contains(got, "cannot be used") {
		t.Errorf("a key in place of a certificate: %q", got)
	}
	if got := mistake(t, "TLS_KEY_FILE", good("TLS_CERT_FILE="+cert)...); !strings.Contains(got, "needs both") {
		t.Errorf("a certificate without its key: %q", got)
	}
}

func TestAKeyThatCanBeGuessedIsRefused(t *testing.T) {
	random := make([]byte, 32)
	for i := range 200 { // many draws, since a draw may lack some digits
		_, _ = rand.Read(random)
		if what := weakness(hex.EncodeToString(random)); what != "" {
			t.Fatalf("draw %d of 32 random bytes %s", i, what)
		}
	}
	for key, good := range map[string]bool{
		goodKey: true,
		"q1Vbb0cQJ4mXb1m0w2mJcA3nN8t0d1h7b6Kf9r5sY2Q=":           true, // base64
		"q1Vbb0cQJ4mXb1m0w2mJcA3nN8t0d1h7b6Kf9r5sY2Q":            true, // base64 without padding
		"q1Vbb0cQJ4mXb1m0w2mJcA3nN8-_d1h7b6Kf9r5sY2Q":            true, // base64url
		"Kq7!zP0@wX#vM4$rT9^bN2&cL6*dJ8(fH1)gS3_yE5+uA-iO=pQ{Z}": true, // other text
		"":                           true, // its absence is reported elsewhere
		"password":                   false,
		goodKey[:62]:                 false,
		strings.Repeat("a", 64):      false,
		strings.Repeat("0f", 32):     false,
		strings.Repeat("ab cd ", 10): false,
		"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef": false,
		"0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF": false,
		"$(openssl rand -hex 32)": false,
		"change-me-5ba1bf28c2a3fd6f1de14a1fbd07c55e9c2c4f3c5b67c8f8e8f6f0f7d91f": false,
		"correct horse battery staple":                                           false,
	} {
		if what := weakness(key); (what == "") != good && key != "" {
			t.Errorf("of %q it is said that it %q", key, what)
		}
	}
	if got := mistake(t, "AUDIT_MAC_KEY", "AUDIT_MAC_KEY=short"); !strings.Contains(got, "too short") && !strings.Contains(got, "guess") {
		t.Errorf("a short key: %q", got)
	}
	_, _, err := LoadAdmin([]string{"DATABASE_URL=postgres://a@b/c", "AUDIT_MAC_KEY=" + goodKey, "AUDIT_MAC_KEY_PREVIOUS=short"})
	var mistakes *MistakesError
	if !errors.As(err, &mistakes) || len(mistakes.Mistakes) != 1 || mistakes.Mistakes[0].Name != "AUDIT_MAC_KEY_PREVIOUS" {
		t.Errorf("a short previous key: %v", err)
	}
}

// The examples in the documentation are no secrets, so whoever copies one is told.
func TestNoDocumentedKeyIsAccepted(t *testing.T) {
	keys := 0
	for _, v := range variables(reflect.TypeFor[Admin](), "") {
		if !strings.HasPrefix(v.Name, "AUDIT_MAC_KEY") {
			continue
		}
		keys++
		if weakness(v.Example) == "" {
			t.Errorf("the example of %s passes for a key", v.Name)
		}
	}
	if keys != 2 {
		t.Errorf("%d keys were looked at", keys)
	}
}

func TestASecretMayComeFromAFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	write(t, file, "from-a-file\n")
	environ := slices.DeleteFunc(good(), func(entry string) bool { return strings.HasPrefix(entry, "RACK_TOKEN=") })
	cfg, report := proxy(t, append(environ, "RACK_TOKEN_FILE="+file)...)
	if cfg.Rack.Token.Reveal() != "from-a-file" {
		t.Errorf("read as %q", cfg.Rack.Token.Reveal())
	}
	if row := rowOf(t, report, "RACK_TOKEN"); row.Source != "file "+file || row.Value != "[hidden]" {
		t.Errorf("reported as %+v", row)
	}
	if len(report.Warnings) != 0 {
		t.Errorf("warnings: %q", report.Warnings)
	}
	if got := mistake(t, "RACK_TOKEN", good("RACK_TOKEN_FILE="+file)...); !strings.Contains(got, "given twice") {
		t.Errorf("both ways at once: %q", got)
	}
	if got := mistake(t, "RACK_TOKEN", append(environ, "RACK_TOKEN_FILE="+dir+"/none")...); !strings.Contains(got, "no such file") {
		t.Errorf("no file: %q", got)
	}
	write(t, file, "\n")
	if got := mistake(t, "RACK_TOKEN", append(environ, "RACK_TOKEN_FILE="+file)...); !strings.Contains(got, "is empty") {
		t.Errorf("an empty file: %q", got)
	}
	// What is no secret has no such way.
	if _, report := proxy(t, good("RACK_ALIAS_FILE="+file)...); len(report.Warnings) != 1 {
		t.Errorf("warnings: %q", report.Warnings)
	}
	// By another name, too.
	write(t, file, goodKey)
	environ = slices.DeleteFunc(good(), func(entry string) bool { return strings.HasPrefix(entry, "AUDIT_MAC_KEY=") })
	if cfg, _ := proxy(t, append(environ, "AUDIT_HMAC_SECRET_FILE="+file)...); cfg.Audit.MACKey.Reveal() != goodKey {
		t.Error("the key's other name is not read from a file")
	}
}

func TestOtherNamesAreUnderstood(t *testing.T) {
	without := func(name string) []string {
		return slices.DeleteFunc(good(), func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
	}
	for _, name := range []string{"RGW_DATABASE_URL", "GATEWAY_DATABASE_URL"} {
		cfg, report := proxy(t, append(without("DATABASE_URL"), name+"=postgres://a@b/c")...)
		if cfg.Database.URL.Reveal() != "postgres://a@b/c" || rowOf(t, report, "DATABASE_URL").Source != "environment, as "+name {
			t.Errorf("%s: %s from %s", name, cfg.Database.URL.Reveal(), rowOf(t, report, "DATABASE_URL").Source)
		}
	}
	cfg, _ := proxy(t, append(without("AUDIT_MAC_KEY"), "AUDIT_HMAC_SECRET="+goodKey)...)
	if cfg.Audit.MACKey.Reveal() != goodKey {
		t.Error("AUDIT_HMAC_SECRET is not understood")
	}
	if got := mistake(t, "DATABASE_URL", good("RGW_DATABASE_URL=postgres://a@b/c")...); !strings.Contains(got, "DATABASE_URL and by RGW_DATABASE_URL") || strings.Contains(got, "canary") {
		t.Errorf("two databases: %q", got)
	}
	if got := mistake(t, "AUDIT_MAC_KEY", good("AUDIT_HMAC_SECRET="+goodKey)...); got != "" {
		t.Errorf("the same key twice: %q", got)
	}
	_, report := proxy(t, good("RACK=staging")...)
	if row := rowOf(t, report, "RACK_ALIAS"); row.Value != "staging" || row.Source != "RACK" {
		t.Errorf("the alias is %+v", row)
	}
	admin, _, err := LoadAdmin(without("DOMAIN"))
	if err != nil || admin.Database.OwnerURL.Reveal() != admin.Database.URL.Reveal() {
		t.Errorf("without a URL of its own the owner's is %v, %v", admin.Database.OwnerURL, err)
	}
}

func TestPostgresOwnVariablesMakeAURL(t *testing.T) {
	environ := slices.DeleteFunc(good(), func(entry string) bool { return strings.HasPrefix(entry, "DATABASE_URL=") })
	for want, variables := range map[string][]string{
		"postgres://me:p%40ss%2Fword@db:5433/gateway?sslmode=verify-full&sslrootcert=%2Fca.pem": {"PGHOST=db", "PGPORT=5433", "PGUSER=me",
			"PGPASSWORD=p@ss/word", "PGDATABASE=gateway", "PGSSLMODE=verify-full", "PGSSLROOTCERT=/ca.pem"},
		"postgres:///gateway?host=%2Frun%2Fpostgresql&port=5433": {"PGHOST=/run/postgresql", "PGPORT=5433", "PGDATABASE=gateway"},
		"postgres://me@localhost/gateway":                        {"PGUSER=me", "PGDATABASE=gateway"},
		"postgres://me@[fd00::1]/me":                             {"PGHOST=fd00::1", "PGUSER=me"},
	} {
		cfg, report := proxy(t, append(slices.Clone(environ), variables...)...)
		if cfg.Database.URL.Reveal() != want {
			t.Errorf("%v make %s, not %s", variables, cfg.Database.URL.Reveal(), want)
		}
		if row := rowOf(t, report, "DATABASE_URL"); row.Source != "environment, as PGHOST and others" || row.Value != "[hidden]" {
			t.Errorf("reported as %+v", row)
		}
	}
	if cfg, _ := proxy(t, good("PGHOST=elsewhere", "PGDATABASE=other")...); !strings.Contains(cfg.Database.URL.Reveal(), "db.acme.com") {
		t.Error("they beat DATABASE_URL")
	}
	if got := mistake(t, "DATABASE_URL", append(slices.Clone(environ), "PGUSER=me")...); got != "is not set" {
		t.Errorf("a user name alone: %q", got)
	}
}

func TestSlipsOfTheFingerAreWarnedOf(t *testing.T) {
	_, report := proxy(t, good(
		"RACK_TOKN=x", "AUDIT_MAXWAIT=1s", "RGW_SETTING_X=1", "RGW_SETTING_REAUTH_DAY=3", "GOOGLE_CLIENT_IT=x", "DATABSE_URL=x", "LOG_LEVL=info", "WEBAUTHN_RP_ID=x",
		// These are none of ours, or the other process's.
		"RACK_URL=https://x", "RACK_URL_ADMIN=https://x", "GOOGLE_CLIENT_ID=x", "APP_SECRET_KEY_FILE=/x", "GOOGLE_APPLICATION_CREDENTIALS=/x", "ADMIN_DATABASE_URL=postgres://a@b/c", "AUDIT_MAC_KEY_PREVIOUS=x",
		"RACK_TOKEN_NEXT_FILE=", "PATH=/bin", "HOME=/root", "TERM=xterm", "PORTS=1", "HOSTNAME=x", "EDITOR=vi",
	)...)
	want := []string{
		"AUDIT_MAXWAIT is set, and is not a variable of this version of the gateway; it has no effect; the nearest that is one is AUDIT_MAX_WAIT",
		"DATABSE_URL is set, and is not a variable of this version of the gateway; it has no effect; the nearest that is one is DATABASE_URL",
		"GOOGLE_CLIENT_IT is set, and is not a variable of this version of the gateway; it has no effect; the nearest that is one is GOOGLE_CLIENT_ID",
		"LOG_LEVL is set, and is not a variable of this version of the gateway; it has no effect; the nearest that is one is LOG_LEVEL",
		"RACK_TOKN is set, and is not a variable of this version of the gateway; it has no effect; the nearest that is one is RACK_TOKEN",
		"RGW_SETTING_REAUTH_DAY is set, and is not a variable of this version of the gateway; it has no effect; the nearest that is one is RGW_SETTING_REAUTH_DAYS",
		"RGW_SETTING_X is set, and is not a variable of this version of the gateway; it has no effect",
		"WEBAUTHN_RP_ID is set, and is not a variable of this version of the gateway; it has no effect",
	}
	if !slices.Equal(report.Warnings, want) {
		t.Errorf("the warnings are\n%s", strings.Join(report.Warnings, "\n"))
	}
}

func TestTheTableShowsWhatIsInForceAndWhereItCameFrom(t *testing.T) {
	_, report := proxy(t, good("PORT=9000", "DB_MAX_OPEN_CONNS=10", "RACK=staging", "METRICS_ADDR=127.0.0.1:9090")...)
	var table strings.Builder
	n, err := report.WriteTo(&table)
	if err != nil || n != int64(table.Len()) {
		t.Errorf("written were %d bytes of %d, %v", n, table.Len(), err)
	}
	golden(t, "testdata/table.golden", table.String())
	if strings.Contains(table.String(), "canary") || strings.Contains(table.String(), goodKey) {
		t.Error("a secret shows")
	}
}

func TestTheConfigurationItselfHidesItsSecrets(t *testing.T) {
	cfg, _ := proxy(t, good()...)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, *cfg); strings.Contains(text, "canary") || strings.Contains(text, goodKey) {
			t.Errorf("a secret shows with %s", verb)
		}
	}
}

func TestTheTagsAreSound(t *testing.T) {
	for _, of := range []reflect.Type{reflect.TypeFor[Proxy](), reflect.TypeFor[Admin]()} {
		seen := make(map[string]bool)
		for _, v := range variables(of, "") {
			if seen[v.Name] {
				t.Errorf("%s has %s twice", of, v.Name)
			}
			seen[v.Name] = true
			if v.Doc == "" || !strings.HasSuffix(v.Doc, ".") || v.Example == "" || v.Group == "" {
				t.Errorf("%s is not documented", v.Name)
			}
			if v.Needed && v.Default != "" {
				t.Errorf("%s is needed and has a default", v.Name)
			}
			if (v.Min == "") != (v.Max == "") {
				t.Errorf("%s is bounded on one side", v.Name)
			}
			for _, bound := range []string{v.Min, v.Max} {
				if bound != "" && bound != "0" && bound != "0s" && number(bound) == 0 {
					t.Errorf("%s has a bound that is no number or duration: %s", v.Name, bound)
				}
			}
			if v.Min != "" && (number(v.Default) < number(v.Min) || number(v.Default) > number(v.Max)) {
				t.Errorf("the default of %s is out of its bounds", v.Name)
			}
		}
	}
}

func rowOf(t *testing.T, report *Report, name string) Row {
	t.Helper()
	for _, row := range report.Rows {
		if row.Name == name {
			return row
		}
	}
	t.Fatalf("%s is not reported", name)
	return Row{}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate makes a certificate and its key, and returns their files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	privateDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: privateDER})))
	return cert, key
}
