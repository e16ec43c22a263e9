package adminapi_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/adminapi"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
)

var update = flag.Bool("update", false, "write the golden file anew")

const matrixLegend = `# Who may do what: every operation of the API, every role and kind of credential, over HTTP. Made by
# go test ./pkg/adminapi -update; read it before committing it.
#
#   yes      allowed                      .        lacks the permission       all      anybody, without a credential
#   apps     has it over some apps only, and this belongs to none             ceiling  the token's creator has it no longer
#   person   for people, not pipelines    session  for somebody signed in by the browser alone
#   csrf     a session's request without the token that its own pages have    401      the credential is missing, or no good
#   address  the token may not be used from there
#   factor   takes a person's factor each time, which a token cannot give
#
# Each request carries a parameter that no operation takes, so that what is allowed goes no further than that. auditor
# has gateway:audit:read alone, by a custom role. scoped is an admin over the app web. api- is an API token with the role,
# made by an admin; demoted is one whose creator is a viewer now; afar is one for another network; ses- is a browser session.
`

var matrixCode = map[string]string{
	"bad-parameter": "yes", "no-permission": ".", "all-apps-needed": "apps", "creator-lacks-permission": "ceiling", "person-only": "person",
	"session-only": "session", "csrf": "csrf", "source-address": "address", "api-token-always": "factor", "no-credential": "401", "malformed-credential": "401",
	"token-expired": "401", "token-revoked": "401", "owner-locked": "401", "owner-removed": "401", "token-unknown": "401",
}

// fill puts something into the variables of a path.
func fill(path string) string {
	id := uuid.NewString()
	return strings.NewReplacer("{userId}", id, "{tokenId}", id, "{sessionId}", id, "{eventId}", id, "{holdId}", id, "{factorId}", id, "{enrolmentId}", id, "{trustedId}", id, "{stepUpId}", id, "{ruleId}", id, "{noticeId}", id, "{roleName}", "nosuch", "{settingKey}", "allow_destructive", "{appName}", "web").Replace(path)
}

// matrixWorld has everybody whom the matrix has columns for.
func matrixWorld(t testing.TB) *world {
	w := newWorld(t)
	w.person("admin", "admin")
	must[directory.Role](t)(w.writer.CreateRole(t.Context(), console, directory.NewRole{Name: "auditor", Permissions: []string{"gateway:audit:read"}}))
	for _, role := range []string{"viewer", "ops", "deployer", "auditor"} {
		w.person(role, role)
	}
	w.person("scoped", "admin@web")
	w.person("second", "admin")
	w.person("locked", "admin")
	w.person("removed", "admin")
	w.person("revoked", "admin")
	w.person("expired", "admin")
	for _, name := range []string{"admin", "viewer", "locked"} {
		w.session(name)
		w.tokens["ses-"+name] = w.tokens[name+"'s session"]
	}
	w.apiToken("api-admin", "admin", "admin", "admin")
	w.apiToken("api-auditor", "admin", "admin", "auditor")
	w.apiToken("api-cicd", "admin", "admin", "cicd")
	w.apiToken("api-scoped", "admin", "admin", "admin@web")
	w.apiToken("demoted", "second", "admin", "admin")
	w.apiToken("afar", "admin", "admin", "admin")
	w.exec(`update rgw.tokens set source_cidrs = '{198.51.100.0/24}' where id = $1`, w.ids["afar"])

	must[directory.User](t)(w.writer.SetRoles(t.Context(), console, "second@example.com", bindings(t, "viewer")))
	must[directory.User](t)(w.writer.Lock(t.Context(), console, "locked@example.com", "left"))
	must[directory.User](t)(w.writer.Remove(t.Context(), console, "removed@example.com"))
	must[directory.Token](t)(w.writer.Revoke(t.Context(), console, w.ids["revoked"].String(), "lost"))
	w.exec(`update rgw.tokens set expires_at = now() where id = $1`, w.ids["expired"])
	never := must[credential.Token](t)(credential.New(credential.API))
	w.tokens["unknown"] = never
	return w
}

func TestTheMatrixOfOperationsAndCredentialsIsAsAgreed(t *testing.T) {
	w := matrixWorld(t)
	columns := []string{
		"nobody", "viewer", "ops", "deployer", "admin", "auditor", "scoped", "ses-viewer", "ses-admin", "no-csrf",
		"api-admin", "api-auditor", "api-cicd", "api-scoped", "demoted", "afar", "locked", "ses-locked", "removed", "revoked", "expired", "unknown",
	}
	before := w.state()
	var out bytes.Buffer
	out.WriteString(matrixLegend + "\n")
	fmt.Fprintf(&out, "%-44s", "")
	for _, c := range columns {
		fmt.Fprintf(&out, " %-11s", c)
	}
	row := func(method, path string, public bool) {
		fmt.Fprintf(&out, "\n%-6s %-37s", method, path)
		for _, who := range columns {
			as := who
			switch who {
			case "nobody":
				as = ""
			case "no-csrf":
				as = "ses-admin"
			}
			r := w.request(as, method, fill(path)+"?no=such", nil)
			if who == "no-csrf" {
				r.Header.Del("X-CSRF-Token")
			}
			got := w.send(r)
			p := got.problem(t)
			cell, ok := matrixCode[p.Code]
			if !ok {
				t.Errorf("%s %s as %s: %d %s has no spelling here", method, path, who, got.status, p.Code)
			}
			status := map[string]int{"yes": http.StatusBadRequest, "401": http.StatusUnauthorized}[cell]
			if status == 0 {
				status = http.StatusForbidden
			}
			if got.status != status {
				t.Errorf("%s %s as %s: %s with status %d", method, path, who, p.Code, got.status)
			}
			if public {
				cell = strings.Replace(cell, "yes", "all", 1)
			}
			fmt.Fprintf(&out, " %-11s", cell)
		}
		out.Truncate(len(bytes.TrimRight(out.Bytes(), " ")))
	}
	for _, op := range w.api.Operations() {
		row(op.Method, op.Path, op.Public)
		if op.Path == "/settings/{settingKey}" { // those that second factors hang on take more
			row(op.Method, "/settings/mfa_required", op.Public)
		}
	}
	out.WriteByte('\n')
	if after := w.state(); after != before {
		t.Error("asking changed something")
	}

	const golden = "testdata/matrix.golden"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(out.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		var got, want string
		if i < len(gotLines) {
			got = gotLines[i]
		}
		if i < len(wantLines) {
			want = wantLines[i]
		}
		if got != want {
			t.Fatalf("line %d differs; if that is meant, run the test with -update\ngot  %s\nwant %s", i+1, got, want)
		}
	}
}

func TestEveryRefusalOfTheMatrixIsInTheRecordBeforeItIsTold(t *testing.T) {
	w := newWorld(t)
	for i, op := range w.api.Operations() {
		if op.Public {
			continue
		}
		// Of one principal, no more than sixty a minute are recorded one by one.
		viewer := fmt.Sprintf("viewer-%d", i/40)
		if _, known := w.tokens[viewer]; !known {
			w.person(viewer, "viewer")
		}
		var got answer
		events := w.since(func() { got = w.do(viewer, op.Method, fill(op.Path)+"?no=such", nil) })
		if got.status != http.StatusForbidden {
			continue
		}
		p := got.problem(t)
		if len(events) != 1 || events[0].Phase != "refused" || events[0].Decision != "deny" || events[0].Actor != viewer+"@example.com" || !events[0].Signed ||
			events[0].Request != p.RequestId || !strings.Contains(events[0].Detail, `"op":"`+op.ID+`"`) || !strings.Contains(events[0].Detail, `"code":"`+p.Code+`"`) {
			t.Errorf("%s left %+v", op.ID, events)
		}
	}
}

func TestRefusalsOfAFloodAreCounted(t *testing.T) {
	w := newWorld(t)
	events := w.since(func() {
		for range 30 {
			w.want(http.StatusUnauthorized, "no-credential", "", "GET", "/me", nil)
		}
	})
	if len(events) < 10 || len(events) > 12 { // and what the limiter lets through in the meantime
		t.Errorf("%d records of 30 refusals", len(events))
	}
	w.person("ana", "viewer")
	w.person("ben", "viewer")
	w.want(http.StatusOK, "", "ana", "GET", "/me", nil)
	unknown := must[credential.Token](t)(credential.New(credential.API))
	w.tokens["unknown"] = unknown
	w.until(func() bool {
		got := w.do("unknown", "GET", "/me", nil)
		return got.status == http.StatusTooManyRequests && got.header.Get("Retry-After") != "" && got.problem(t).Code == "too-many-failures"
	})
	// Whoever was there before goes on, with the cache dropped too; somebody new at that address waits.
	w.exec(`select pg_notify('rgw_access', 'all')`)
	w.want(http.StatusOK, "", "ana", "GET", "/me", nil)
	w.until(func() bool { return w.do("ben", "GET", "/me", nil).status == http.StatusOK })
}

// TestAFloodFromOneNetworkIsCountedWhateverItsAddresses is about IPv6, of which one host may own 2^64 addresses.
func TestAFloodFromOneNetworkIsCountedWhateverItsAddresses(t *testing.T) {
	address := netip.MustParseAddr("2001:db8::1")
	w := newWorld(t, func(c *adminapi.Config) {
		c.ClientAddress = func(*http.Request) netip.Addr { // one request after the other
			address = address.Next()
			return address
		}
	})
	events := w.since(func() {
		for range 30 {
			w.want(http.StatusUnauthorized, "no-credential", "", "GET", "/me", nil)
		}
	})
	if len(events) < 10 || len(events) > 12 {
		t.Errorf("%d records of 30 refusals", len(events))
	}
}

func TestADemotionAndALockAreInForceAtOnce(t *testing.T) {
	w := newWorld(t)
	w.person("keeper", "admin")
	w.person("admin", "admin")
	w.want(http.StatusOK, "", "admin", "GET", "/users", nil)
	must[directory.User](t)(w.writer.SetRoles(t.Context(), console, "admin@example.com", bindings(t, "viewer")))
	w.until(func() bool { return w.do("admin", "GET", "/users", nil).status == http.StatusForbidden })
	must[directory.User](t)(w.writer.Lock(t.Context(), console, "admin@example.com", "left"))
	w.until(func() bool { return w.do("admin", "GET", "/me", nil).status == http.StatusUnauthorized })
}

// until waits for what an announcement brings about.
func (w *world) until(ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatal("it does not come about")
		}
	}
}
