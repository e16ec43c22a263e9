package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/config"
	"rackgateway/pkg/deployment"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/postgres"
	"rackgateway/pkg/postgres/cluster"
	"rackgateway/pkg/postgres/postgrestest"
	"rackgateway/pkg/secret"
	schema "rackgateway/sql"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// gateway is one that is as it should be, until a test plants a fault.
type gateway struct {
	t        *testing.T
	doctor   *Doctor
	database *postgrestest.Database
	owner    *sqlx.DB
	told     deployment.Proxy // what the proxy tells
	proxyOff bool

	notBefore, notAfter time.Time         // of the front's certificate
	hsts                string            // that admin sends
	route               map[string]string // path to process, in place of the rules
	issuerName          string            // that the issuer calls itself; its own address when empty
	refuses             string            // the redirect address that the issuer does not know
	issuerDate          time.Duration     // by how much its clock is ahead
}

func random(t *testing.T) secret.Text {
	t.Helper()
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	return secret.NewText(hex.EncodeToString(b[:]))
}

// healthy makes a gateway; begin starts what it consists of.
func healthy(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{t: t, hsts: "max-age=31536000; includeSubDomains", notBefore: time.Now().Add(-time.Hour), notAfter: time.Now().Add(60 * 24 * time.Hour), route: map[string]string{}}
	g.database = postgrestest.New(t)
	g.owner = g.database.Owner(t)
	g.doctor = &Doctor{Config: new(config.Admin), DB: g.database.Admin(t), Now: time.Now}
	settings := directory.NewReader(g.doctor.DB, directory.ReaderOptions{})
	g.doctor.Setting = func(ctx context.Context, key string) (json.RawMessage, error) {
		setting, err := settings.Setting(ctx, "", key)
		return setting.Value, err
	}
	cfg := g.doctor.Config
	cfg.Audit.MACKey, cfg.Secrets.AppKey = random(t), random(t)
	cfg.Database.URL = secret.NewText(string(g.database.AdminURL()))
	cfg.SignIn.ClientID, cfg.SignIn.AllowedDomain = "gateway", "example.com"
	cfg.Ledger = config.Ledger{AnchorBucket: "anchors", AnchorMode: "COMPLIANCE", AnchorMinutes: 60, AnchorRetention: 400, RetentionDays: 400}
	g.anchored(time.Minute)
	g.doctor.S3 = bucketOf(t, new(storage))
	g.doctor.ScrapedAt = func() (bool, time.Time) { return true, time.Now() }

	nobody, err := net.Listen("tcp", "127.0.0.1:0") // a rack that nobody may connect to
	if err != nil {
		t.Fatal(err)
	}
	_ = nobody.Close()
	g.told.Version = "v1"
	g.told.Rack.URL, g.told.Rack.Reachable, g.told.Rack.Verified = "https://"+nobody.Addr().String(), true, "authority"
	g.told.Rack.Parameters, g.told.Rack.EnvDisabled = true, true
	g.told.Metrics.Served = true
	return g
}

func (g *gateway) exec(statement string, args ...any) {
	g.t.Helper()
	err := postgres.InTx(g.t.Context(), g.owner, func(tx *sqlx.Tx) error {
		tx.MustExec(`select set_config('rgw.request_id', 'a test', true)`)
		_, err := tx.Exec(statement, args...)
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) admin(email string) {
	g.t.Helper()
	g.exec(`insert into rgw.users (email, created_by) values ($1, 'test')`, email)
	g.exec(`insert into rgw.bindings (user_id, role, created_by) select id, 'admin', 'test' from rgw.users where email = $1`, email)
	g.factors(email, 1, 1)
}

// factors gives somebody as many second factors, and as many backup codes.
func (g *gateway) factors(email string, factors, codes int) {
	g.t.Helper()
	for n := range factors {
		g.exec(`insert into rgw.factors (user_id, kind, name, sealed, created_by) select id, 'totp', $2, 'sealed', 'test' from rgw.users where email = $1`, email, fmt.Sprintf("phone %d", n))
	}
	for range codes {
		g.exec(`insert into rgw.backup_codes (hash, user_id) select $2, id from rgw.users where email = $1`, email, random(g.t).Reveal()[:32])
	}
}

// anchored says that the ledger was copied to the bucket.
func (g *gateway) anchored(ago time.Duration) {
	g.t.Helper()
	g.exec(`insert into rgw.ledger_anchors (chain, size, whole, object_key, anchored_at) values ('anchors/x', 1, true, 'checkpoints/x', now() - make_interval(secs => $1))`, ago.Seconds())
}

// event records something that happened, by the gateway itself.
func (g *gateway) event(action, code string, ago time.Duration) {
	g.t.Helper()
	key, err := audit.NewKey([]byte(strings.Repeat("k", 32)))
	if err != nil {
		g.t.Fatal(err)
	}
	e := audit.NewEvent(time.Now().Add(-ago))
	e.Kind, e.ActorKind, e.Action, e.Detail.Code = audit.KindSystem, audit.ActorSystem, action, code
	if err := postgres.InTx(g.t.Context(), g.doctor.DB, func(tx *sqlx.Tx) error { return audit.InsertTx(g.t.Context(), tx, key, e) }); err != nil {
		g.t.Fatal(err)
	}
}

// started records that a proxy began with a password of the rack.
func (g *gateway) started(password string, ago time.Duration) {
	g.t.Helper()
	key, err := audit.NewKey([]byte(strings.Repeat("k", 32)))
	if err != nil {
		g.t.Fatal(err)
	}
	e := audit.NewEvent(time.Now().Add(-ago))
	e.Kind, e.ActorKind, e.Action = audit.KindSystem, audit.ActorSystem, deployment.StartedAction
	e.Detail.Params.Add(deployment.PasswordParameter, password)
	if err := postgres.InTx(g.t.Context(), g.doctor.DB, func(tx *sqlx.Tx) error { return audit.InsertTx(g.t.Context(), tx, key, e) }); err != nil {
		g.t.Fatal(err)
	}
}

// begin starts the front, the issuer and the proxy.
func (g *gateway) begin() {
	g.t.Helper()
	certificate, roots := selfMade(g.t, g.notBefore, g.notAfter)
	front := httptest.NewUnstartedServer(http.HandlerFunc(g.front))
	front.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	front.StartTLS()
	g.t.Cleanup(front.Close)
	cfg := g.doctor.Config
	if cfg.Server.AdminURL == nil {
		cfg.Server.AdminURL = address(g.t, front.URL)
	}
	cfg.Server.Domain = strings.TrimPrefix(front.URL, "https://")

	issuer := httptest.NewUnstartedServer(http.HandlerFunc(g.issuer))
	issuer.TLS = front.TLS.Clone()
	issuer.StartTLS()
	g.t.Cleanup(issuer.Close)
	if cfg.SignIn.Issuer == "" {
		cfg.SignIn.Issuer = issuer.URL
	}
	if g.doctor.Public == nil {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
		g.t.Cleanup(transport.CloseIdleConnections)
		g.doctor.Public = transport
	}

	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.proxyOff || r.URL.Path != deployment.Path {
			http.NotFound(w, r)
			return
		}
		told := g.told
		if told.Time.IsZero() {
			told.Time = time.Now()
		}
		if told.Metrics.ScrapedAt == nil {
			now := time.Now()
			told.Metrics.ScrapedAt = &now
		}
		_ = json.NewEncoder(w).Encode(told)
	}))
	g.t.Cleanup(proxy.Close)
	if cfg.Upstream.ProxyURL == nil {
		cfg.Upstream.ProxyURL = address(g.t, proxy.URL)
	}
}

func address(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// front is what people reach: both processes, as their answers tell them apart.
func (g *gateway) front(w http.ResponseWriter, r *http.Request) {
	process := "proxy"
	if strings.HasPrefix(r.URL.Path, "/api/") && !strings.HasPrefix(r.URL.Path, "/api/v1/rack-proxy/") {
		process = "admin"
	}
	if other, ok := g.route[r.URL.Path]; ok {
		process = other
	}
	if process == "proxy" {
		w.Header().Set("Content-Security-Policy", "sandbox; default-src 'none'")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if g.hsts != "" {
		w.Header().Set("Strict-Transport-Security", g.hsts)
	}
	fmt.Fprint(w, `{"openapi": "3.1.0", "info": {"title": "Rack Gateway"}}`)
}

func (g *gateway) issuer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", time.Now().Add(g.issuerDate).UTC().Format(http.TimeFormat))
	name := "https://" + r.Host
	if r.URL.Path == "/authorize" {
		if r.URL.Query().Get("redirect_uri") == g.refuses {
			http.Error(w, "unknown redirect address", http.StatusBadRequest)
			return
		}
		http.Redirect(w, r, "/sign-in", http.StatusFound)
		return
	}
	if g.issuerName != "" {
		name = g.issuerName
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"issuer": name, "authorization_endpoint": "https://" + r.Host + "/authorize"})
}

// selfMade is a certificate for this machine, and who vouches for it.
func selfMade(t *testing.T, notBefore, notAfter time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: notBefore, NotAfter: notAfter, IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots
}

// line examines everything and returns one line.
func (g *gateway) line(id string) Line {
	g.t.Helper()
	for _, c := range checklist() {
		if c.id != id {
			continue
		}
		ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
		defer cancel()
		f := c.examine(ctx, g.doctor, newSight(g.doctor))
		return Line{ID: id, Status: f.status, Detail: f.detail}
	}
	g.t.Fatalf("there is no line %s", id)
	return Line{}
}

// What this machine's database and disk are not, they cannot be made: those lines have tests of their own.
var elsewhere = map[string]Status{"database-tls": Fail, "database-encryption": Unknown, "database-backups": Unknown, "database-durable": Fail}

func TestAGatewayThatIsAsItShouldBePasses(t *testing.T) {
	g := healthy(t)
	g.admin("ana@example.com")
	g.admin("ben@example.com")
	g.started("before", 48*time.Hour)
	g.started("now", 0)
	g.begin()
	lines := g.doctor.Examine(t.Context())
	ids := map[string]bool{}
	for _, line := range lines {
		want := Pass
		if other, ok := elsewhere[line.ID]; ok {
			want = other
		}
		if line.Status != want {
			t.Errorf("%s: %s, want %s: %s", line.ID, line.Status, want, line.Detail)
		}
		if ids[line.ID] || line.Title == "" || line.Group == "" || line.Detail == "" || (line.Remedy == "") != (line.Status == Pass) {
			t.Errorf("a line that is there twice, or lacks something: %+v", line)
		}
		ids[line.ID] = true
	}
	passed, failed, unknown := Count(lines)
	if passed+failed+unknown != len(lines) || failed != 2 || unknown != 2 {
		t.Errorf("%d pass, %d fail, %d unknown of %d", passed, failed, unknown, len(lines))
	}
}

// faults are planted one at a time; each must be caught by its line.
func faults() []struct {
	line   string
	plant  func(*gateway)
	status Status
	says   string
} {
	type row = struct {
		line   string
		plant  func(*gateway)
		status Status
		says   string
	}
	return []row{
		{"configuration", func(g *gateway) { g.doctor.Slips = []string{"RACK_TOKN is set, and is not a variable"} }, Fail, "RACK_TOKN"},
		{"keys-strong", func(g *gateway) { g.doctor.Config.Secrets.AppKey = secret.NewText(strings.Repeat("changeme", 8)) }, Fail, "APP_SECRET_KEY does not look random"},
		{"keys-strong", func(g *gateway) {
			g.doctor.Config.Audit.MACKey = secret.NewText("the quick brown fox jumps")
		}, Fail, "AUDIT_MAC_KEY does not look random"},
		{"keys-strong", func(g *gateway) { g.doctor.Config.Audit.MACKey = g.doctor.Config.Secrets.AppKey }, Fail, "the same"},
		{"keys-strong", func(g *gateway) { g.doctor.Config.Secrets.AppKey = secret.Text{} }, Unknown, "not set here"},
		{"keys-current", func(g *gateway) { g.doctor.Config.Secrets.AppKeyPrevious = random(g.t) }, Fail, "APP_SECRET_KEY_PREVIOUS is set"},
		{"development", func(g *gateway) { g.doctor.Config.Server.DevMode = true }, Fail, "DEV_MODE is on"},

		{"https", func(g *gateway) { g.doctor.Config.Server.AdminURL = address(g.t, "http://gateway.example.com") }, Fail, "http://gateway.example.com"},
		{"https", func(g *gateway) { g.doctor.Public = http.DefaultTransport }, Fail, "certificate"},
		{"https", func(g *gateway) { g.notAfter = time.Now().Add(-time.Minute) }, Fail, "expired"},
		{"https", func(g *gateway) { g.doctor.Config.Server.AdminURL = address(g.t, "https://127.0.0.1:1") }, Unknown, "cannot be reached from here"},
		{"certificate-age", func(g *gateway) { g.notAfter = time.Now().Add(5 * 24 * time.Hour) }, Fail, "in 4 days"},
		{"certificate-age", func(g *gateway) { g.notAfter = time.Now().Add(-time.Minute) }, Fail, "has ended"},
		{"certificate-age", func(g *gateway) { g.notAfter = time.Now().Add(800 * 24 * time.Hour) }, Fail, "more than 398 days"},
		{"hsts", func(g *gateway) { g.hsts = "" }, Fail, "no Strict-Transport-Security"},
		{"hsts", func(g *gateway) { g.hsts = "max-age=300" }, Fail, "max-age=300"},
		{"paths", func(g *gateway) { g.route["/api/v1/rack-proxy/health"] = "admin" }, Fail, "/api/v1/rack-proxy/health was not answered by the proxy"},
		{"paths", func(g *gateway) { g.route["/apps"] = "admin" }, Fail, "/apps was not answered by the proxy"},
		{"paths", func(g *gateway) { g.route["/api/v1/openapi.json"] = "proxy" }, Fail, "was not answered by admin"},

		{"issuer", func(g *gateway) { g.doctor.Config.SignIn.Issuer = "https://127.0.0.1:1" }, Fail, "asking the issuer"},
		{"issuer", func(g *gateway) { g.issuerName = "https://login.example.org" }, Fail, `calls itself "https://login.example.org"`},
		{"redirect", func(g *gateway) {
			g.doctor.Config.Server.AdminURL = address(g.t, "https://other.example.com")
			g.refuses = "https://other.example.com/login/callback"
		}, Fail, "refuses the client, or https://other.example.com/login/callback"},
		{"allowed-domain", func(g *gateway) { g.doctor.Config.SignIn.AllowedDomain = "gmail.com" }, Fail, "anybody gets an address"},
		{"allowed-domain", func(g *gateway) { g.doctor.Config.SignIn.AllowedDomain = "" }, Unknown, "not set here"},

		{"two-admins", func(g *gateway) { g.exec(`update rgw.users set locked_at = now() where email = 'ben@example.com'`) }, Fail, "there is 1"},
		{"two-admins", func(g *gateway) {
			g.exec(`update rgw.bindings set app_pattern = 'web' where user_id = (select id from rgw.users where email = 'ben@example.com')`)
		}, Fail, "there is 1"},
		{"idle-admins", func(g *gateway) {
			g.exec(`update rgw.users set signed_in_at = now() - interval '100 days' where email = 'ana@example.com'`)
		}, Fail, "ana@example.com"},
		{"destructive-off", func(g *gateway) {
			g.exec(`insert into rgw.settings (key, value, updated_by) values ('allow_destructive', 'true', 'test')`)
		}, Fail, "is true"},
		{"destructive-off", func(g *gateway) {
			g.exec(`insert into rgw.settings (key, app, value, updated_by) values ('allow_destructive', 'web', 'true', 'test')`)
		}, Fail, "is on for web"},
		{"destructive-off", func(g *gateway) {
			g.doctor.Config.Settings.Defaults = []access.SettingValue{{App: "worker", Key: "allow_destructive", Value: json.RawMessage("true")}}
		}, Fail, "is on for worker"},
		{"mfa-required", func(g *gateway) {
			g.exec(`insert into rgw.settings (key, value, updated_by) values ('mfa_required', 'false', 'test')`)
		}, Fail, "mfa_required is false"},
		{"mfa-required", func(g *gateway) { g.doctor.Setting = nil }, Unknown, "not at hand"},
		{"admin-factors", func(g *gateway) { g.exec(`update rgw.factors set removed_at = now()`) }, Fail, "no administrator has one"},
		{"admin-factors", func(g *gateway) {
			g.exec(`update rgw.factors set removed_at = now() where user_id = (select id from rgw.users where email = 'ben@example.com')`)
		}, Fail, "of their own: ben@example.com"},
		{"admin-factors", func(g *gateway) { g.exec(`update rgw.backup_codes set used_at = now()`) }, Fail, "nothing when it is lost: ana@example.com, ben@example.com"},
		{"admin-factors", func(g *gateway) { g.exec(`update rgw.users set removed_at = now()`) }, Fail, "there is no administrator"},
		{"factor-fresh", func(g *gateway) {
			g.exec(`insert into rgw.settings (key, value, updated_by) values ('step_up_minutes', '480', 'test')`)
		}, Fail, "step_up_minutes is 480"},

		{"database-version", func(g *gateway) {
			g.doctor.Now = func() time.Time { return time.Now().AddDate(20, 0, 0) }
		}, Fail, "not mended any more"},
		{"database-rights", func(g *gateway) { g.exec(`grant delete on rgw.audit_events to rgw_admin`) }, Fail, "rgw_admin may also delete on table audit_events"},
		{"database-rights", func(g *gateway) { g.exec(`grant update (name) on rgw.users to rgw_proxy`) }, Fail, "rgw_proxy may also update on column users.name"},
		{"database-rights", func(g *gateway) { g.exec(`revoke select on rgw.tokens from rgw_proxy`) }, Fail, "rgw_proxy may not select on table tokens"},
		{"database-rights", func(g *gateway) { g.connect(cluster.Owner, "rackgateway proxy") }, Fail, "owns the schema"},
		{"database-rights", func(g *gateway) { g.connect(cluster.Admin, "rackgateway proxy") }, Fail, "has admin's rights too"},
		{"database-rights", func(g *gateway) { g.connect(cluster.Superuser, "rackgateway admin") }, Fail, "superuser"},
		{"database-schema", func(g *gateway) {
			g.exec(`delete from rgw.schema_migrations where version_id = (select max(version_id) from rgw.schema_migrations)`)
		}, Fail, "lacks 1 of"},
		{"database-partitions", func(g *gateway) {
			g.exec(`drop table rgw.audit_events_` + time.Now().UTC().AddDate(0, 0, -time.Now().UTC().Day()+1).AddDate(0, 2, 0).Format("200601"))
		}, Fail, "1 of the coming months"},
		{"database-partitions", func(g *gateway) {
			g.exec(`insert into rgw.audit_events (occurred_at, event_id, epoch, request_id, kind, phase, decision, actor_kind, actor_id, actor_label, action, app, resource, status, detail)
				values (now() + interval '40 years', gen_random_uuid(), 1, gen_random_uuid(), 'system', 'finished', 'none', 'system', '', '', 'x', '', '', 0, '{}')`)
		}, Fail, "in the net"},
		{"owner-apart", func(g *gateway) { g.doctor.DB = g.owner }, Fail, "is the schema's owner"},

		{"proxy-reached", func(g *gateway) { g.proxyOff = true }, Fail, "ADMIN_CIDRS"},
		{"proxy-reached", func(g *gateway) { g.doctor.Config.Upstream.ProxyURL = address(g.t, "http://127.0.0.1:1") }, Fail, "asking the proxy"},
		{"rack-reached", func(g *gateway) {
			g.told.Rack.Reachable, g.told.Rack.Trouble = false, "it refuses the gateway's password"
		}, Fail, "refuses the gateway's password"},
		{"rack-reached", func(g *gateway) { g.proxyOff = true }, Unknown, "only the proxy can see it"},
		{"rack-verified", func(g *gateway) { g.told.Rack.URL, g.told.Rack.Verified = "http://rack.example.com", "" }, Fail, "not reached by https"},
		{"rack-verified", func(g *gateway) {
			soon := time.Now().Add(24 * time.Hour)
			g.told.Rack.CertificateEnds = &soon
		}, Fail, "it ends on"},
		{"rack-env", func(g *gateway) { g.told.Rack.EnvDisabled = false }, Fail, "RACK_URL"},
		{"rack-env", func(g *gateway) { g.told.Rack.Parameters = false }, Unknown, "did not tell"},
		{"rack-restricted", func(g *gateway) { g.listen(); g.doctor.Elsewhere = true }, Fail, "no process of the gateway"},
		{"rack-restricted", func(g *gateway) { g.listen() }, Unknown, "a private network"},
		{"rack-password", func(g *gateway) {
			g.exec(`alter table rgw.audit_events disable trigger user`) // none there today; the rows go all the same
			g.exec(`delete from rgw.audit_events where detail->'params'->>'rack_password' = 'before'`)
		}, Fail, "the one that the gateway began with"},
		{"rack-password", func(g *gateway) { g.doctor.Now = func() time.Time { return time.Now().AddDate(0, 0, 200) } }, Fail, "for 20"},

		{"record-kept", func(g *gateway) { g.exec(`truncate rgw.audit_events`) }, Fail, "no event of the last day"},
		{"changed-outside", func(g *gateway) {
			g.owner.MustExec(`insert into rgw.users (email, created_by) values ('eve@example.com', 'sql')`)
		}, Fail, "1 times"},

		{"record-placed", func(g *gateway) { g.event("x", "", time.Hour) }, Fail, "1 events or more"},
		{"ledger-alerts", func(g *gateway) { g.event("ledger.alert", "mac-wrong", time.Hour) }, Fail, "mac-wrong"},
		{"anchored", func(g *gateway) { g.doctor.Config.Ledger.AnchorBucket = "" }, Fail, "AUDIT_ANCHOR_BUCKET is not set"},
		{"anchored", func(g *gateway) { g.doctor.Config.Ledger.AnchorMode = "GOVERNANCE" }, Fail, "can undo"},
		{"anchored", func(g *gateway) { g.exec(`delete from rgw.ledger_anchors`) }, Fail, "nothing has been copied yet"},
		{"anchored", func(g *gateway) { g.exec(`update rgw.ledger_anchors set anchored_at = now() - interval '1 day'`) }, Fail, "last copied at"},
		{"retention", func(g *gateway) { g.doctor.Config.Ledger.RetentionDays = 0 }, Fail, "for ever"},
		{"retention", func(g *gateway) { g.doctor.Config.Ledger.AnchorRetention = 30 }, Fail, "for 30 days"},

		{"metrics", func(g *gateway) { g.doctor.ScrapedAt = func() (bool, time.Time) { return false, time.Time{} } }, Fail, "admin serves none"},
		{"metrics", func(g *gateway) {
			ago := time.Now().Add(-time.Hour)
			g.told.Metrics.ScrapedAt = &ago
		}, Fail, "the proxy was last asked at"},
		{"metrics", func(g *gateway) { g.told.Metrics.Served = false }, Fail, "the proxy serves none"},
		{"metrics", func(g *gateway) { g.proxyOff = true }, Unknown, "the proxy does not tell"},
		{"clocks", func(g *gateway) { g.told.Time = time.Now().Add(time.Hour) }, Fail, "the proxy is 1h0m0s off"},
		{"clocks", func(g *gateway) { g.issuerDate = -10 * time.Minute }, Fail, "the identity provider is 10m"},
		{"clocks", func(g *gateway) { g.doctor.Now = func() time.Time { return time.Now().Add(time.Minute) } }, Fail, "the database is 1m"},
	}
}

// connect has somebody connected to the database under the name of a process.
func (g *gateway) connect(login, name string) {
	g.t.Helper()
	db, err := postgres.Open(postgres.Config{URL: postgres.URL(g.database.Cluster.URL(login, g.database.Name)), Name: name})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = db.Close() })
	if err := db.PingContext(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
}

// listen has the rack take connections from here.
func (g *gateway) listen() {
	g.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = listener.Close() })
	g.told.Rack.URL = "https://" + listener.Addr().String()
}

func TestEachPlantedFaultIsCaught(t *testing.T) {
	for _, fault := range faults() {
		t.Run(fault.line+" "+fault.says, func(t *testing.T) {
			t.Parallel()
			g := healthy(t)
			g.admin("ana@example.com")
			g.admin("ben@example.com")
			g.started("before", 48*time.Hour)
			g.started("now", 0)
			fault.plant(g)
			g.begin()
			got := g.line(fault.line)
			if got.Status != fault.status || !strings.Contains(got.Detail, fault.says) {
				t.Errorf("%s: %s\nwant %s with %q", got.Status, got.Detail, fault.status, fault.says)
			}
		})
	}
}

// TestEveryLineHasAFault holds the table above, and the tests below, to the checklist.
func TestEveryLineHasAFault(t *testing.T) {
	planted := map[string]bool{"database-tls": true, "database-durable": true, "database-backups": true, "database-listen": true, "database-encryption": true,
		"bucket-lock": true, "bucket-versions": true, "bucket-encryption": true, "bucket-refuses": true}
	for _, fault := range faults() {
		planted[fault.line] = true
	}
	for _, c := range checklist() {
		if !planted[c.id] {
			t.Errorf("no test plants a fault for %s", c.id)
		}
	}
}

func TestDatabaseTLSIsSeen(t *testing.T) {
	g := healthy(t)
	dir, err := os.MkdirTemp("", "rgw-doctor-") //nolint:usetesting // the server's own user may not look into t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken")
	database := postgrestest.NewCluster(t, cluster.Options{NoFSync: true, Extra: []string{"archive_mode=on", "archive_command=test ! -e " + broken}})
	g.database, g.doctor.DB = database, database.Admin(t)
	if got := g.line("database-tls"); got.Status != Fail || !strings.Contains(got.Detail, "not encrypted") {
		t.Errorf("without TLS: %+v", got)
	}
	if got := g.line("database-durable"); got.Status != Fail || !strings.Contains(got.Detail, "fsync") {
		t.Errorf("without fsync: %+v", got)
	}

	// The server is given a certificate while it runs.
	certificate, _ := selfMade(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	root := withTLS(t, database, certificate)
	for mode, want := range map[string]Status{"require": Fail, "verify-full": Pass, "verify-ca": Pass} {
		at, err := url.Parse(string(database.AdminURL()))
		if err != nil {
			t.Fatal(err)
		}
		query := at.Query()
		query.Set("sslmode", mode)
		query.Set("sslrootcert", root)
		at.RawQuery = query.Encode()
		g.doctor.Config.Database.URL = secret.NewText(at.String())
		g.doctor.DB = postgrestest.Open(t, postgres.URL(at.String()))
		if got := g.line("database-tls"); got.Status != want || want == Pass && !strings.Contains(got.Detail, "TLS") {
			t.Errorf("%s: %+v", mode, got)
		}
	}

	// And its archiving works, and then does not.
	super := postgrestest.Open(t, database.SuperuserURL())
	super.MustExec(`create table public.something (at timestamptz)`)
	write := func() {
		super.MustExec(`insert into public.something values (now())`)
		super.MustExec(`select pg_switch_wal()`)
	}
	await(t, g, write, "database-backups", Pass, "last archived")
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, g, write, "database-backups", Fail, "fails")
}

// await waits until a line comes to something, and does something between two looks.
func await(t *testing.T, g *gateway, meanwhile func(), id string, status Status, says string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	every := time.NewTicker(200 * time.Millisecond)
	defer every.Stop()
	for {
		meanwhile()
		got := g.line(id)
		if got.Status == status && strings.Contains(got.Detail, says) {
			return
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			t.Fatalf("%s never came to %s: %+v", id, status, got)
		}
	}
}

// withTLS gives a running server a certificate, and returns the file of who vouches for it.
func withTLS(t *testing.T, database *postgrestest.Database, certificate tls.Certificate) (root string) {
	t.Helper()
	dir := database.Cluster.Dir()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	owner, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	who := owner.Sys().(*syscall.Stat_t)
	for name, text := range map[string][]byte{"tls.crt": chain, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, int(who.Uid), int(who.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	super := postgrestest.Open(t, database.SuperuserURL())
	for _, statement := range []string{
		`alter system set ssl_cert_file = '` + filepath.Join(dir, "tls.crt") + `'`, `alter system set ssl_key_file = '` + filepath.Join(dir, "tls.key") + `'`,
		`alter system set ssl = on`, `select pg_reload_conf()`,
	} {
		super.MustExec(statement)
	}
	root = filepath.Join(t.TempDir(), "root.crt")
	if err := os.WriteFile(root, chain, 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// A server that delivers no announcement: what is asked goes to one database, what is listened to another.
func TestListenThatIsSwallowedIsSeen(t *testing.T) {
	g := healthy(t)
	if got := g.line("database-listen"); got.Status != Pass {
		t.Fatalf("%+v", got)
	}
	super := postgrestest.Open(t, g.database.SuperuserURL())
	super.MustExec(`revoke execute on function pg_notify(text, text) from public`)
	if got := g.line("database-listen"); got.Status != Fail || !strings.Contains(got.Detail, "delivers no notification") {
		t.Errorf("%+v", got)
	}
}

func TestWhatARoleMayDoIsToldApart(t *testing.T) {
	more, less := differ(schema.ProxyRights, schema.AdminRights)
	if more == "" || less == "" {
		t.Errorf("the two roles are told apart by %q and %q", more, less)
	}
	if more, less := differ(schema.ProxyRights, schema.ProxyRights); more+less != "" {
		t.Errorf("the same differs by %q and %q", more, less)
	}
	if !slices.Contains(strings.Split(schema.ProxyRights, "\n"), "column audit_events.mac") {
		t.Error("the list of the proxy's rights does not hold what is known to be in it")
	}
}
