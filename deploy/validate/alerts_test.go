package validate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/testenv"
)

var suite testenv.Suite

func TestMain(m *testing.M) {
	code := m.Run()
	if err := suite.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// prometheus asks real processes for their metrics, keeps the answers as Prometheus does, and evaluates the rules over
// them by its own engine. Its time is its own: between two rounds of asking it takes a quarter of a minute to have
// passed, however long it took, so that rules that want minutes do not want them of a test.
type prometheus struct {
	t       *testing.T
	db      *tsdb.DB
	engine  *promql.Engine
	rules   []rulefmt.Rule
	now     time.Time
	targets map[string]func() string // instance → URL of its metrics
	seen    map[string][]labels.Labels
	since   map[string]time.Time // alert → since when it holds
	fired   map[string]bool
}

// step is the time between two rounds.
const step = 15 * time.Second

func newPrometheus(t *testing.T) *prometheus {
	t.Helper()
	db, err := tsdb.Open(t.TempDir(), slog.New(slog.DiscardHandler), nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	p := &prometheus{
		t: t, db: db, now: time.Now(), targets: map[string]func() string{}, seen: map[string][]labels.Labels{}, since: map[string]time.Time{}, fired: map[string]bool{},
		engine: promql.NewEngine(promql.EngineOpts{MaxSamples: 1_000_000, Timeout: time.Minute}),
	}
	for _, group := range rules(t).Groups {
		p.rules = append(p.rules, group.Rules...)
	}
	return p
}

func rules(t *testing.T) *rulefmt.RuleGroups {
	t.Helper()
	groups, errs := rulefmt.Parse([]byte(read(t, "deploy/monitoring/alerts.yaml")), false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errors.Join(errs...))
	}
	return groups
}

func (p *prometheus) watch(env *testenv.Env) {
	for _, proxy := range env.Proxies {
		p.targets[proxy.Name] = func() string { return proxy.Metrics }
	}
	for _, admin := range env.Admins {
		p.targets[admin.Name] = func() string { return admin.Metrics }
	}
}

// gather asks one target.
func gather(address string) (map[string]*dto.MetricFamily, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(address + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	reader := expfmt.NewTextParser(model.UTF8Validation)
	return reader.TextToMetricFamilies(bytes.NewReader(body))
}

// round asks everybody, lets a quarter of a minute pass, and looks which alerts fire.
func (p *prometheus) round() {
	p.t.Helper()
	p.now = p.now.Add(step)
	at := p.now.UnixMilli()
	appender := p.db.Appender(p.t.Context())
	add := func(series labels.Labels, v float64) {
		if _, err := appender.Append(0, series, at, v); err != nil {
			p.t.Fatalf("%s: %v", series, err)
		}
	}
	for instance, address := range p.targets {
		up := labels.FromStrings("__name__", "up", "job", "rack-gateway", "instance", instance)
		families, err := gather(address())
		if err != nil {
			add(up, 0)
			for _, series := range p.seen[instance] {
				add(series, math.Float64frombits(value.StaleNaN))
			}
			p.seen[instance] = nil
			continue
		}
		add(up, 1)
		var now []labels.Labels
		for name, family := range families {
			for _, metric := range family.Metric {
				put := func(suffix string, v float64, more ...string) {
					b := labels.NewBuilder(labels.EmptyLabels())
					for _, pair := range metric.Label {
						b.Set(pair.GetName(), pair.GetValue())
					}
					b.Set("__name__", name+suffix).Set("job", "rack-gateway").Set("instance", instance)
					for i := 0; i < len(more); i += 2 {
						b.Set(more[i], more[i+1])
					}
					now = append(now, b.Labels())
					add(b.Labels(), v)
				}
				switch {
				case metric.Counter != nil:
					put("", metric.Counter.GetValue())
				case metric.Gauge != nil:
					put("", metric.Gauge.GetValue())
				case metric.Histogram != nil:
					put("_count", float64(metric.Histogram.GetSampleCount()))
					put("_sum", metric.Histogram.GetSampleSum())
					for _, bucket := range metric.Histogram.Bucket {
						put("_bucket", float64(bucket.GetCumulativeCount()), "le", fmt.Sprint(bucket.GetUpperBound()))
					}
				}
			}
		}
		p.seen[instance] = now
	}
	if err := appender.Commit(); err != nil {
		p.t.Fatal(err)
	}
	for _, rule := range p.rules {
		query, err := p.engine.NewInstantQuery(p.t.Context(), p.db, nil, rule.Expr, p.now)
		if err != nil {
			p.t.Fatalf("%s: %v", rule.Alert, err)
		}
		result := query.Exec(p.t.Context())
		if result.Err != nil {
			p.t.Fatalf("%s: %v", rule.Alert, result.Err)
		}
		vector, err := result.Vector()
		if err != nil {
			p.t.Fatalf("%s: %v", rule.Alert, err)
		}
		if len(vector) == 0 {
			delete(p.since, rule.Alert)
			p.fired[rule.Alert] = false
		} else {
			if p.since[rule.Alert].IsZero() {
				p.since[rule.Alert] = p.now
			}
			p.fired[rule.Alert] = p.now.Sub(p.since[rule.Alert]) >= time.Duration(rule.For)
		}
		query.Close()
	}
}

// until lets rounds pass, with something done before each, until all the alerts fire.
func (p *prometheus) until(rounds int, before func(round int), alerts ...string) {
	p.t.Helper()
	missing := alerts
	for i := range rounds {
		if before != nil {
			before(i)
		}
		p.round()
		missing = slices.DeleteFunc(slices.Clone(missing), func(alert string) bool { return p.fired[alert] })
		if len(missing) == 0 {
			return
		}
	}
	p.t.Errorf("after %d rounds these did not fire: %s", rounds, strings.Join(missing, ", "))
}

// quiet lets rounds pass in which nothing may fire.
func (p *prometheus) quiet(rounds int, before func()) {
	p.t.Helper()
	for range rounds {
		before()
		p.round()
		for alert, fires := range p.fired {
			if fires {
				p.t.Errorf("%s fires, and nothing is wrong", alert)
			}
		}
	}
}

// world is a gateway of two proxies and an admin, watched.
func world(t *testing.T, opts testenv.Options) (*testenv.Env, *prometheus) {
	t.Helper()
	if opts.Proxies == 0 {
		opts.Proxies = 2
	}
	config := map[string]string{"ADMIN_CIDRS": "127.0.0.0/8"}
	maps.Copy(config, opts.Config)
	opts.Config = config
	env := suite.Start(t, opts)
	admin := env.AddAdminWith(map[string]string{"AUDIT_MAX_WAIT": "1s"})
	admin.WaitReady(t.Context())
	p := newPrometheus(t)
	p.watch(env)
	return env, p
}

// ask sends a request that may fail, and waits for its answer for as long as the context allows.
func ask(ctx context.Context, client *http.Client, method, url, token string) int {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// ordinary is a little of what people do.
func ordinary(env *testenv.Env) func() {
	return func() {
		for _, proxy := range env.Proxies {
			for _, who := range []string{"admin", "viewer", "ops"} {
				ask(context.Background(), env.Client(), http.MethodGet, proxy.URL+"/apps", env.Token(who))
			}
		}
		for _, admin := range env.Admins {
			ask(context.Background(), env.Client(), http.MethodGet, admin.URL+"/api/v1/me", env.Token("viewer"))
		}
	}
}

func TestAGatewayThatIsWellRaisesNoAlert(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{})
	p.quiet(50, ordinary(env))
}

func TestADatabaseThatHangsIsTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{OwnPostgres: true})
	p.quiet(2, ordinary(env))
	if err := env.Postgres.Pause(); err != nil {
		t.Fatal(err)
	}
	var asking sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range 4 {
		asking.Go(func() {
			for ctx.Err() == nil {
				ask(ctx, env.Client(), http.MethodGet, env.Admins[0].URL+"/api/v1/users", env.Token("viewer"))
				ask(ctx, env.Client(), http.MethodGet, env.Proxies[0].URL+"/apps", env.Token("viewer"))
			}
		})
	}
	p.until(120, func(int) { pause(t, 500*time.Millisecond) }, "RackGatewayCannotRecord", "RackGatewayDeaf", "RackGatewayErrors", "RackGatewayAdminCannotRecord", "RackGatewayAdminErrors")
	stop()
	if err := env.Postgres.Resume(); err != nil {
		t.Fatal(err)
	}
	asking.Wait()
}

// pause lets real time pass, for what is measured in it.
func pause(t *testing.T, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

func TestASlowDatabaseIsTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{OwnPostgres: true})
	p.quiet(2, ordinary(env))
	slowly := func(round int) {
		if round%10 != 0 {
			return
		}
		if err := env.Postgres.Pause(); err != nil {
			t.Fatal(err)
		}
		var asking sync.WaitGroup
		asking.Go(ordinary(env))
		pause(t, 1500*time.Millisecond)
		if err := env.Postgres.Resume(); err != nil {
			t.Fatal(err)
		}
		asking.Wait()
	}
	p.until(40, slowly, "RackGatewayRecordsSlow")
}

func TestEventsThatPileUpAreTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{OwnPostgres: true, Config: map[string]string{"AUDIT_MAX_WAIT": "1m", "RGW_SETTING_IN_FLIGHT_PER_PRINCIPAL": "10000"}})
	long := strings.Repeat("x", 3500)
	for who := range 3 { // so that none has to be looked up while nothing answers
		ask(t.Context(), env.Client(), http.MethodGet, env.Proxies[0].URL+"/apps", env.Token([]string{"admin", "ops", "viewer"}[who]))
	}
	if err := env.Postgres.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for i := range 3500 {
		asking.Go(func() {
			ask(ctx, env.Client(), http.MethodGet, fmt.Sprintf("%s/apps/demo/configs/%s%d", env.Proxies[0].URL, long, i), env.Token([]string{"admin", "ops", "viewer"}[i%3]))
		})
	}
	p.until(300, func(int) { pause(t, 100*time.Millisecond) }, "RackGatewayRecordsPileUp")
	if families, err := gather(env.Proxies[0].Metrics); err == nil && t.Failed() {
		t.Logf("in flight %v, queued %v", families["rgw_requests_in_flight"].GetMetric(), families["rgw_audit_queue_bytes"].GetMetric())
	}
	stop()
	if err := env.Postgres.Resume(); err != nil {
		t.Fatal(err)
	}
	asking.Wait()
}

func TestAnEventThatTheDatabaseRefusesIsTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{})
	p.quiet(2, ordinary(env))
	env.DB.MustExec(`alter table rgw.audit_events add constraint a_tests check (detail->>'path' is null or detail->>'path' not like '%forbidden%')`)
	ask(t.Context(), env.Client(), http.MethodGet, env.Proxies[0].URL+"/apps/forbidden", env.Token("admin"))
	p.until(4, nil, "RackGatewayRecordsCutShort")
}

func TestTroubleWithTheRackIsTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{})
	p.quiet(2, ordinary(env))
	refusing := env.Rack.Inject(racktest.Fault{Status: http.StatusUnauthorized})
	p.until(6, func(int) { ordinary(env)() }, "RackGatewayRackPasswordRefused")
	refusing.Clear()
	if err := env.RackServer.Refuse(); err != nil {
		t.Fatal(err)
	}
	p.until(20, func(int) { ordinary(env)() }, "RackGatewayRackUnreachable", "RackGatewayErrors")
}

func TestASlowRackIsTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{})
	p.quiet(2, ordinary(env))
	env.Rack.Inject(racktest.Fault{Path: "/apps", Delay: 6 * time.Second})
	p.until(40, func(round int) {
		if round%12 == 0 {
			var asking sync.WaitGroup
			for range 8 {
				asking.Go(func() {
					ask(t.Context(), env.Client(), http.MethodGet, env.Proxies[0].URL+"/apps", env.Token("viewer"))
				})
			}
			asking.Wait()
		}
	}, "RackGatewaySlow")
}

func TestRefusalsAndWrongCredentialsAreTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{})
	p.quiet(2, ordinary(env))
	p.until(40, func(int) {
		for range 15 {
			ask(t.Context(), env.Client(), http.MethodDelete, env.Proxies[0].URL+"/apps/demo", env.Token("viewer"))
		}
		for range 20 {
			ask(t.Context(), env.Client(), http.MethodGet, env.Proxies[0].URL+"/apps", "")
		}
	}, "RackGatewayRefusalsJump", "RackGatewayWrongCredentials")
}

func TestProcessesThatGoAreTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{})
	p.quiet(2, ordinary(env))
	p.until(12, func(round int) {
		if round < 5 {
			env.Proxies[0].Kill()
			env.Proxies[0].Start()
			env.Proxies[0].WaitReady(t.Context())
		}
	}, "RackGatewayRestarts")
	env.Proxies[0].Stop()
	p.until(50, nil, "RackGatewayLastProxy")
	env.Proxies[1].Stop()
	p.until(20, nil, "RackGatewayGone")
	env.Proxies[1].Start()
	env.Proxies[1].WaitReady(t.Context())
	p.round()
	if p.fired["RackGatewayGone"] {
		t.Error("a proxy that is back is still gone")
	}
	env.Admins[0].Stop()
	p.until(20, nil, "RackGatewayGone")
}

func TestAProcessThatFillsItsMemoryIsTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{Proxies: 1, Config: map[string]string{"GOGC": "off"}}) // so that it frees nothing
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			for ctx.Err() == nil {
				ask(ctx, env.Client(), http.MethodGet, env.Proxies[0].URL+"/apps?"+strings.Repeat("y", 8000), env.Token("admin"))
			}
		})
	}
	p.until(2400, func(int) { pause(t, 50*time.Millisecond) }, "RackGatewayMemory")
	stop()
	asking.Wait()
}

func TestWhatTheLedgerNoticesIsTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{})
	p.quiet(2, ordinary(env))
	env.DB.MustExec(`insert into rgw.users (email, created_by) values ('eve@example.com', 'sql')`) // around the gateway
	p.until(1200, func(int) { pause(t, 100*time.Millisecond) }, "RackGatewayLedgerAlert")
}

func TestALedgerThatLagsIsTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{})
	p.quiet(2, ordinary(env))
	open := env.DB.MustBegin()
	defer func() { _ = open.Rollback() }()
	open.MustExec(`select pg_current_xact_id()`)
	ordinary(env)()
	p.until(300, func(int) { pause(t, 500*time.Millisecond) }, "RackGatewayLedgerLags")
}

func TestALedgerThatNobodyKeepsIsTold(t *testing.T) {
	t.Parallel()
	env, p := world(t, testenv.Options{})
	p.quiet(2, ordinary(env))
	env.Admins[0].Stop()
	held := env.DB.MustBegin()
	defer func() { _ = held.Rollback() }()
	held.MustExec(`select pg_advisory_lock(7220417051)`)
	env.Admins[0].Start()
	env.Admins[0].WaitReady(t.Context())
	p.until(20, nil, "RackGatewayLedgerStands")
}

// ours are the metrics that both processes have, by what they tell when asked.
func ours(t *testing.T) map[string]bool {
	t.Helper()
	env, _ := world(t, testenv.Options{})
	ordinary(env)()
	ask(t.Context(), env.Client(), http.MethodDelete, env.Proxies[0].URL+"/apps/demo", env.Token("viewer"))
	// What counts by code is told once there is something to count.
	env.DB.MustExec(`insert into rgw.users (email, created_by) values ('eve@example.com', 'sql')`)
	for told := false; !told && t.Context().Err() == nil; pause(t, 100*time.Millisecond) {
		families, err := gather(env.Admins[0].Metrics)
		if err != nil {
			t.Fatal(err)
		}
		_, told = families["rgw_admin_ledger_alerts_total"]
	}
	known := map[string]bool{"up": true}
	for _, address := range []string{env.Proxies[0].Metrics, env.Admins[0].Metrics} {
		families, err := gather(address)
		if err != nil {
			t.Fatal(err)
		}
		for name, family := range families {
			if family.GetType() == dto.MetricType_HISTOGRAM {
				known[name+"_bucket"], known[name+"_sum"], known[name+"_count"] = true, true, true
			} else {
				known[name] = true
			}
		}
	}
	return known
}

// metricsOf are the metrics that an expression asks for, with the labels that it goes by.
func metricsOf(t *testing.T, what, expression string) map[string][]string {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	found := map[string][]string{}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			found[selector.Name] = nil
			for _, matcher := range selector.LabelMatchers {
				if matcher.Name != "__name__" {
					found[selector.Name] = append(found[selector.Name], matcher.Name)
				}
			}
		}
		return nil
	})
	return found
}

func TestAlertsAndDashboardNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	known := ours(t)
	for _, group := range rules(t).Groups {
		for _, rule := range group.Rules {
			for name := range metricsOf(t, rule.Alert, rule.Expr) {
				if !known[name] {
					t.Errorf("%s asks for %s, which nobody tells", rule.Alert, name)
				}
			}
		}
	}
	var dashboard struct {
		Title  string
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "deploy/monitoring/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	shown, places := map[string]bool{}, map[string]bool{}
	for _, panel := range dashboard.Panels {
		place := fmt.Sprint(panel.GridPos.X, " ", panel.GridPos.Y)
		if places[place] || len(panel.Targets) == 0 {
			t.Errorf("%s lies on another panel, or shows nothing", panel.Title)
		}
		places[place] = true
		for _, target := range panel.Targets {
			expression := strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")
			for name := range metricsOf(t, panel.Title, expression) {
				shown[name] = true
				if !known[name] {
					t.Errorf("%s asks for %s, which nobody tells", panel.Title, name)
				}
			}
		}
	}
	for name := range known { // what is counted is shown
		if base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, ""); strings.HasPrefix(name, "rgw_") && !shown[name] && !shown[base+"_bucket"] {
			t.Errorf("%s is on no panel", name)
		}
	}
}

// Each alert has its runbook, and each was made to fire above.
func TestEachAlertHasItsRunbookAndItsTest(t *testing.T) {
	runbooks, tests := read(t, "docs/runbooks.md"), read(t, "deploy/validate/alerts_test.go")
	alerts := 0
	for _, group := range rules(t).Groups {
		for _, rule := range group.Rules {
			alerts++
			if !strings.Contains(runbooks, "\n## "+rule.Alert+"\n") || rule.Annotations["runbook_url"] != "docs/runbooks.md#"+strings.ToLower(rule.Alert) {
				t.Errorf("%s has no runbook", rule.Alert)
			}
			if !strings.Contains(tests, `"`+rule.Alert+`"`) {
				t.Errorf("no test has %s fire", rule.Alert)
			}
			if severity := rule.Labels["severity"]; severity != "page" && severity != "ticket" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s lacks a severity, a summary or a description", rule.Alert)
			}
		}
	}
	if sections := strings.Count(runbooks, "\n## "); sections != alerts {
		t.Errorf("%d runbooks for %d alerts", sections, alerts)
	}
}
