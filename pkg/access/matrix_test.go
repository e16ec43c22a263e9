package access_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"rackgateway/pkg/access"
	"rackgateway/pkg/rack"
)

var update = flag.Bool("update", false, "write the golden file anew")

// matrixLegend opens the golden file.
const matrixLegend = `# Who may do what: every route, every role. Made by go test ./pkg/access -update; read it before committing it.
#
#   yes       allowed                       scope    has it, but over other apps
#   yes S     allowed, with a factor that   apps     has it, but over some apps only, and this belongs to none
#             is fresh                      ceiling  the token's creator has it no longer
#   yes A     allowed, with a factor for    own      a pipeline has it only over processes it started
#             this very operation           logs     a pipeline has it only for logs of builds
#   .         lacks the permission          factor   takes a person's factor each time, which a token cannot give
#   never     refused for everybody         off      refused while destructive actions are off
#   401       no credential                 unknown  refused, as the rack does not know the process or host
#
# web: a deployer over the app web, asking about web. web>api: the same, asking about api. api-admin: an API token with
# the role admin. demoted: the same after its creator became a viewer. Nobody is asked for a second factor here.
# Unless a line says otherwise, processes are of the service web and were started by somebody else.
`

// matrixCode is how the golden file spells a denial.
var matrixCode = map[string]string{
	access.CodeNoPermission: ".", access.CodeOutOfScope: "scope", access.CodeNoApp: "apps", access.CodeOverCeiling: "ceiling",
	access.CodeNotOwnProcess: "own", access.CodeOnlyBuildLogs: "logs", access.CodeAPITokenAlways: "factor", access.CodeDestructiveOff: "off",
	access.CodeRefusedForAll: "never", access.CodeNoCredential: "401", access.CodeProcessUnknown: "unknown", access.CodeHostUnknown: "unknown",
}

// twist is a line of its own below an operation's: the same with something changed.
type twist struct {
	label  string
	change func(*access.Request, *access.Facts, *access.Settings)
}

func twists(rule access.Rule) []twist {
	var list []twist
	add := func(label string, change func(*access.Request, *access.Facts, *access.Settings)) {
		list = append(list, twist{label, change})
	}
	for _, also := range rule.Also {
		switch also.When {
		case access.WhenPrivileged:
			add("… with another image, volumes, …", func(r *access.Request, _ *access.Facts, _ *access.Settings) { r.Variant.Privileged = true })
		case access.WhenEnv:
			add("… with an environment", func(r *access.Request, _ *access.Facts, _ *access.Settings) { r.Variant.CarriesEnv = true })
		case access.WhenBuild:
			add("… of a build", func(r *access.Request, f *access.Facts, _ *access.Settings) {
				if f.ProcessService = access.BuildService; rule.Facts != access.FactProcess {
					r.Service = access.BuildService
				}
			})
		}
	}
	switch rule.Facts {
	case access.FactProcess:
		add("… of one's own", func(_ *access.Request, f *access.Facts, _ *access.Settings) { f.StartedBySelf = true })
		add("… that nobody knows", func(_ *access.Request, f *access.Facts, _ *access.Settings) { *f = access.Facts{} })
	case access.FactStarter:
		add("… of one's own", func(_ *access.Request, f *access.Facts, _ *access.Settings) { f.StartedBySelf = true })
	case access.FactHost:
		add("… to a resource of the rack", func(_ *access.Request, f *access.Facts, _ *access.Settings) { f.HostApp = "" })
		add("… to a host nobody knows", func(_ *access.Request, f *access.Facts, _ *access.Settings) { *f = access.Facts{} })
	}
	if rule.Destructive {
		add("… while they are on", func(_ *access.Request, _ *access.Facts, s *access.Settings) { s.AllowDestructive = true })
	}
	if rule.Op == "BuildCreate" {
		add("… with external=true", func(r *access.Request, _ *access.Facts, _ *access.Settings) { r.Variant.ExternalBuild = true })
	}
	if rule.Op == "ProcessExec" {
		add("… of the rack itself", func(r *access.Request, _ *access.Facts, _ *access.Settings) { r.App = access.SystemApp })
	}
	return list
}

func TestTheMatrixOfRolesAndRoutesIsAsAgreed(t *testing.T) {
	demoted := pipeline(t, "admin *")
	demoted.Ceiling = grants(t, "viewer *")
	columns := []struct {
		name string
		who  *access.Principal
		app  string
	}{
		{"nobody", &access.Principal{}, "web"},
		{"viewer", person(t, "viewer *"), "web"},
		{"ops", person(t, "ops *"), "web"},
		{"deployer", person(t, "deployer *"), "web"},
		{"admin", person(t, "admin *"), "web"},
		{"cicd", pipeline(t, "cicd *"), "web"},
		{"web", person(t, "deployer web"), "web"},
		{"web>api", person(t, "deployer web"), "api"},
		{"api-admin", pipeline(t, "admin *"), "web"},
		{"demoted", demoted, "web"},
	}

	var out bytes.Buffer
	out.WriteString(matrixLegend + "\n")
	line := func(what string, cells []string) {
		fmt.Fprintf(&out, "%-69s", what)
		for _, c := range cells {
			fmt.Fprintf(&out, " %-9s", c)
		}
		out.Truncate(len(bytes.TrimRight(out.Bytes(), " ")))
		out.WriteByte('\n')
	}
	var heads []string
	for _, c := range columns {
		heads = append(heads, c.name)
	}
	line("", heads)

	row := func(label, op string, change func(*access.Request, *access.Facts, *access.Settings)) {
		var cells []string
		for _, c := range columns {
			request := ask(t, op, "")
			if request.Rule.AppFrom == access.AppVar {
				request.App = c.app
			}
			facts := access.Facts{ProcessKnown: true, ProcessService: "web", HostKnown: true, HostApp: c.app}
			settings := access.DefaultSettings()
			if change != nil {
				change(&request, &facts, &settings)
			}
			d := access.Decide(c.who, request, facts, settings, access.Factor{})
			checkMessage(t, d)
			cell := matrixCode[d.Code]
			switch {
			case d.Effect == access.Allow:
				cell = strings.TrimRight("yes "+map[access.Level]string{access.LevelStepUp: "S", access.LevelAlways: "A"}[d.Level], " ")
			case cell == "" || d.Effect != access.Deny:
				t.Errorf("%s for %s: %s, %s has no spelling here", op, c.name, d.Effect, d.Code)
			}
			cells = append(cells, cell)
		}
		line(label, cells)
	}
	for _, r := range rack.Routes() {
		method := r.Method
		if r.Socket {
			method = "SOCKET"
		}
		row(fmt.Sprintf("%-7s %s", method, r.Pattern), string(r.Op), nil)
		rule, _ := access.RuleFor(string(r.Op))
		for _, tw := range twists(rule) {
			// Width counts runes, and the ellipsis is one.
			row(fmt.Sprintf("%7s   %s", "", tw.label), string(r.Op), tw.change)
		}
	}
	out.WriteByte('\n')
	for _, own := range []struct{ path, op string }{{"/auth", "Auth"}, {"/racks", "Racks"}, {"/racks/{org}/{name}", "RackGet"}, {"/machines", "Machines"}, {"/session/{id}", "SessionChallenge"}} {
		row("GET     "+own.path, own.op, nil)
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

func TestEveryRouteHasARuleAndEveryRuleARoute(t *testing.T) {
	table, err := rack.NewTable()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table.Routes() {
		rule, ok := access.RuleFor(string(r.Op))
		if !ok {
			t.Errorf("route %s %s (%s) has no rule", r.Method, r.Pattern, r.Op)
			continue
		}
		has := func(variable string) bool { return strings.Contains(r.Pattern, "{"+variable+"}") }
		if (rule.AppFrom == access.AppVar) != has("app") {
			t.Errorf("%s: the pattern %s and the rule differ about the app", r.Op, r.Pattern)
		}
		if rule.Facts == access.FactProcess && !has("pid") || (rule.Facts == access.FactHost) != has("host") {
			t.Errorf("%s: the pattern %s lacks what facts are gathered about", r.Op, r.Pattern)
		}
		if (rule.Refused != "") != r.Shut {
			t.Errorf("%s is refused for everybody in one table alone", r.Op)
		}
		if rule.NoChallenge && r.Body != rack.StreamBody {
			t.Errorf("%s could be challenged", r.Op)
		}
		if rule.Kind == access.EventPoll && (r.Method != "GET" || r.Socket) {
			t.Errorf("%s is a poll that does something", r.Op)
		}
		if rule.Destructive && r.Method != "DELETE" {
			t.Errorf("%s is destructive and no DELETE", r.Op)
		}
	}
	own := []string{"Auth", "Racks", "RackGet", "Machines", "SessionChallenge", "SessionExchange"}
	for _, rule := range access.Rules() {
		if unicode.IsLower(rune(rule.Op[0])) {
			continue // of the admin API, whose tests compare them with its document
		}
		if slices.Contains(own, rule.Op) {
			if table.Route(rack.Op(rule.Op)) != nil || !rule.Anybody {
				t.Errorf("%s is the gateway's own", rule.Op)
			}
			continue
		}
		if table.Route(rack.Op(rule.Op)) == nil {
			t.Errorf("rule %s has no route", rule.Op)
		}
		if rule.Anybody {
			t.Errorf("anybody may do %s", rule.Op)
		}
	}
}
