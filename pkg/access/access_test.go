package access_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/access"
)

func role(t testing.TB, name string) access.Role {
	t.Helper()
	for _, r := range access.BuiltinRoles() {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("there is no role %s", name)
	return access.Role{}
}

// grants gives roles over patterns: "deployer web-*", "viewer *".
func grants(t testing.TB, bindings ...string) []access.Grant {
	t.Helper()
	list := []access.Grant{}
	for _, b := range bindings {
		name, pattern, _ := strings.Cut(b, " ")
		r := role(t, name)
		list = append(list, access.Grant{Role: name, Permissions: r.Permissions, App: pattern, OwnProcessesOnly: r.OwnProcessesOnly})
	}
	return list
}

func person(t testing.TB, bindings ...string) *access.Principal {
	return &access.Principal{Kind: access.KindUser, UserLabel: "ana@acme.com", TokenKind: "cli", Grants: grants(t, bindings...)}
}

func pipeline(t testing.TB, bindings ...string) *access.Principal {
	return &access.Principal{Kind: access.KindAPIToken, TokenName: "deploys", UserLabel: "ana@acme.com", TokenKind: "api", Grants: grants(t, bindings...)}
}

func with(perms ...access.Permission) *access.Principal {
	return &access.Principal{Kind: access.KindUser, UserLabel: "bo@acme.com",
		Grants: []access.Grant{{Role: "custom", Permissions: access.NewPermissionSet(perms...), App: "*"}}}
}

func ask(t testing.TB, op, app string) access.Request {
	t.Helper()
	rule, ok := access.RuleFor(op)
	if !ok {
		t.Fatalf("there is no rule for %s", op)
	}
	return access.Request{Rule: rule, App: app}
}

// process is a process of service web that somebody else started.
var process = access.Facts{ProcessKnown: true, ProcessService: "web"}

func TestRolesAddUp(t *testing.T) {
	roles := access.BuiltinRoles()
	var names []string
	for i, r := range roles {
		names = append(names, r.Name)
		if r.Description == "" || strings.Contains(r.Description, "%") {
			t.Errorf("%s has no description that can be shown", r.Name)
		}
		if i > 0 && i < 4 && (!roles[i-1].Permissions.Minus(r.Permissions).Empty() || r.Permissions == roles[i-1].Permissions) {
			t.Errorf("%s is not %s and more", r.Name, roles[i-1].Name)
		}
		if own := r.Name == "cicd"; r.OwnProcessesOnly != own || r.TokensOnly != own {
			t.Errorf("%s: OwnProcessesOnly %t, TokensOnly %t", r.Name, r.OwnProcessesOnly, r.TokensOnly)
		}
	}
	if got := strings.Join(names, " "); got != "viewer ops deployer admin cicd" {
		t.Errorf("roles are %s", got)
	}
	for _, p := range access.Permissions() {
		if !role(t, "admin").Permissions.Has(p) {
			t.Errorf("admin lacks %s", p)
		}
	}
	for _, name := range []string{"viewer", "ops", "deployer", "cicd"} {
		for _, p := range []access.Permission{access.PermSecretRead, access.PermSecretSet, access.PermProcessPrivileged, access.PermUserManage, access.PermRackUpdate} {
			if role(t, name).Permissions.Has(p) {
				t.Errorf("%s has %s", name, p)
			}
		}
	}
	if role(t, "viewer").Permissions.Has(access.PermRackLog) || !role(t, "ops").Permissions.Has(access.PermRackLog) {
		t.Error("the rack's logs begin at ops")
	}
}

func TestPermissionsAreNamedAndParsed(t *testing.T) {
	all := access.Permissions()
	if !slices.IsSortedFunc(all, func(a, b access.Permission) int {
		return strings.Compare(string(a), string(b))
	}) || len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Error("permissions are not sorted, or twice")
	}
	form := regexp.MustCompile(`^(convox|gateway):[a-z]+:[a-z]+$`)
	for _, p := range all {
		if !form.MatchString(string(p)) {
			t.Errorf("%s is not scope:resource:action", p)
		}
		if got, err := access.ParsePermission(string(p)); err != nil || got != p {
			t.Errorf("%s parses as %s, %v", p, got, err)
		}
		set := access.NewPermissionSet(p)
		if got := slices.Collect(set.All()); !slices.Equal(got, []access.Permission{p}) {
			t.Errorf("the set of %s holds %v", p, got)
		}
	}
	if got := slices.Collect(access.AllPermissions().All()); !slices.Equal(got, all) {
		t.Errorf("the set of all holds %v", got)
	}
	for name, nearest := range map[string]string{
		"convox:app:lists": "convox:app:list", "release:promot": "convox:release:promote", "gateway:user:mange": "gateway:user:manage",
		"": "convox:", "convox:app:*": "convox:app:", strings.Repeat("x", 1000): "convox:",
	} {
		if _, err := access.ParsePermission(name); err == nil || !strings.Contains(err.Error(), nearest) || len(err.Error()) > 200 {
			t.Errorf("%.20q: %v, which does not name %s", name, err, nearest)
		}
	}
	none := access.NewPermissionSet("convox:no:thing")
	if !none.Empty() || none.Has("convox:no:thing") {
		t.Error("a permission that does not exist is held")
	}
	two := access.NewPermissionSet(access.PermAppList, access.PermUserRead)
	for p := range two.All() {
		if p != access.PermAppList {
			t.Errorf("the first is %s", p)
		}
		break
	}
	if two.Minus(access.NewPermissionSet(access.PermAppList)) != access.NewPermissionSet(access.PermUserRead) {
		t.Error("subtraction is wrong")
	}
}

func TestEveryOperationHasAWholeRule(t *testing.T) {
	seen := map[string]bool{}
	known := access.AllPermissions()
	for _, r := range access.Rules() {
		if seen[r.Op] {
			t.Errorf("%s has two rules", r.Op)
		}
		seen[r.Op] = true
		if !r.Anybody && !known.Has(r.Permission) {
			t.Errorf("%s takes %q, which is no permission", r.Op, r.Permission)
		}
		for _, also := range r.Also {
			if !known.Has(also.Permission) || also.Why == "" {
				t.Errorf("%s also takes %q, because %q", r.Op, also.Permission, also.Why)
			}
		}
		if !regexp.MustCompile(`^[a-z-]+\.[a-z_-]+$`).MatchString(r.Action) {
			t.Errorf("%s is recorded as %q", r.Op, r.Action)
		}
		if strings.Contains(r.Refused, "%") {
			t.Errorf("%s: the reason cannot be shown", r.Op)
		}
		if got, ok := access.RuleFor(r.Op); !ok || got.Action != r.Action {
			t.Errorf("RuleFor(%s) is %v, %t", r.Op, got, ok)
		}
	}
	if _, ok := access.RuleFor("NoSuchThing"); ok {
		t.Error("an operation that does not exist has a rule")
	}
}

// standing is a factor that was not given, of somebody in some state.
func standing(enforced, enrolled, verified bool) access.Factor {
	return access.Factor{Enforced: enforced, Enrolled: enrolled, Verified: verified}
}

// session is a person signed in by the browser.
func session(t *testing.T, grants ...string) *access.Principal {
	p := person(t, grants...)
	p.TokenKind = access.TokenKindSession
	return p
}

func TestDecisions(t *testing.T) {
	enforced := access.Factor{Enforced: true, Enrolled: true, Verified: true}
	fresh := access.Factor{Enforced: true, Enrolled: true, Verified: true, Fresh: true}
	granted := access.Factor{Enforced: true, Enrolled: true, Verified: true, AlwaysGranted: true}
	own := access.Facts{ProcessKnown: true, ProcessService: "web", StartedBySelf: true}
	build := access.Facts{ProcessKnown: true, ProcessService: "build"}
	host := access.Facts{HostKnown: true, HostApp: "web"}
	rackHost := access.Facts{HostKnown: true}
	demoted := pipeline(t, "admin *")
	demoted.Ceiling = grants(t, "viewer *")
	barred := pipeline(t, "admin *")
	barred.Ceiling = []access.Grant{}
	narrowed := pipeline(t, "deployer *")
	narrowed.Ceiling = grants(t, "admin web")
	fixed := person(t, "viewer *")
	fixed.SourceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}

	type want struct {
		effect access.Effect
		code   string
		level  access.Level
		mfa    string
	}
	const none, S, A = access.LevelNone, access.LevelStepUp, access.LevelAlways
	for _, c := range []struct {
		name   string
		who    *access.Principal
		op     string
		app    string
		set    func(*access.Request)
		facts  access.Facts
		change func(*access.Settings)
		factor access.Factor
		want   want
	}{
		{name: "nobody", who: nil, op: "AppList", want: want{access.Deny, access.CodeNoCredential, none, access.MFANotRequired}},
		{name: "nobody, by kind", who: &access.Principal{}, op: "Racks", want: want{access.Deny, access.CodeNoCredential, none, access.MFANotRequired}},
		{name: "somebody with nothing sees the rack's name", who: with(), op: "Racks", want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "a viewer looks", who: person(t, "viewer *"), op: "AppGet", app: "web", want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "a viewer does not promote", who: person(t, "viewer *"), op: "ReleasePromote", app: "web", want: want{access.Deny, access.CodeNoPermission, S, access.MFANotRequired}},
		{name: "a deployer promotes", who: person(t, "deployer *"), op: "ReleasePromote", app: "web", want: want{access.Allow, access.CodeAllowed, S, access.MFANotEnforced}},
		{name: "a deployer promotes with a fresh factor", who: person(t, "deployer *"), op: "ReleasePromote", app: "web", factor: fresh, want: want{access.Allow, access.CodeAllowed, S, access.MFAFresh}},
		{name: "a deployer without one is asked for it", who: person(t, "deployer *"), op: "ReleasePromote", app: "web", factor: enforced, want: want{access.Challenge, access.CodeFactorNeeded, S, access.MFAMissing}},
		{name: "a viewer is not asked for a factor", who: person(t, "viewer *"), op: "ReleasePromote", app: "web", factor: enforced, want: want{access.Deny, access.CodeNoPermission, S, access.MFANotRequired}},
		{name: "an import is refused rather than challenged", who: person(t, "deployer *"), op: "BuildImport", app: "web", factor: enforced, want: want{access.Deny, access.CodeFactorImpossible, S, access.MFAMissing}},
		{name: "an import passes with a fresh factor", who: person(t, "deployer *"), op: "BuildImport", app: "web", factor: fresh, want: want{access.Allow, access.CodeAllowed, S, access.MFAFresh}},
		{name: "a fresh factor is not one for this very operation", who: person(t, "admin *"), op: "SystemUpdate", factor: fresh, want: want{access.Challenge, access.CodeFactorNeeded, A, access.MFAMissing}},
		{name: "one for this very operation is", who: person(t, "admin *"), op: "SystemUpdate", factor: granted, want: want{access.Allow, access.CodeAllowed, A, access.MFAGranted}},
		{name: "and is fresh too", who: person(t, "admin *"), op: "AppUpdate", app: "web", factor: granted, want: want{access.Allow, access.CodeAllowed, S, access.MFAFresh}},

		{name: "who has no factor yet is asked for one, whatever they want", who: person(t, "viewer *"), op: "AppGet", app: "web", factor: standing(true, false, false), want: want{access.Challenge, access.CodeEnrolmentNeeded, none, access.MFAMissing}},
		{name: "but can log in", who: person(t, "viewer *"), op: "Auth", factor: standing(true, false, false), want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "and add the first", who: session(t, "viewer *"), op: "beginEnrolment", factor: standing(true, false, false), want: want{access.Allow, access.CodeAllowed, S, access.MFAFirst}},
		{name: "who has no factor and no right is told of the right", who: person(t, "viewer *"), op: "AppUpdate", app: "web", factor: standing(true, false, false), want: want{access.Deny, access.CodeNoPermission, S, access.MFANotRequired}},
		{name: "who has not finished signing in is asked to", who: session(t, "viewer *"), op: "AppGet", app: "web", factor: standing(true, true, false), want: want{access.Challenge, access.CodeSignInFactor, none, access.MFAMissing}},
		{name: "and gives the factor for it", who: session(t, "viewer *"), op: "approveStepUp", factor: standing(true, true, false), want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "a second factor takes the first, fresh", who: session(t, "viewer *"), op: "beginEnrolment", factor: enforced, want: want{access.Challenge, access.CodeFactorNeeded, S, access.MFAMissing}},
		{name: "even where nobody is asked for any", who: session(t, "viewer *"), op: "removeMyFactor", factor: standing(false, true, true), want: want{access.Challenge, access.CodeFactorNeeded, S, access.MFAMissing}},
		{name: "a command line does not change factors", who: person(t, "viewer *"), op: "removeMyFactor", factor: fresh, want: want{access.Deny, access.CodeSessionOnly, S, access.MFANotRequired}},
		{name: "an API token has no factor and needs none", who: pipeline(t, "viewer *"), op: "AppGet", app: "web", factor: standing(true, false, true), want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "an import by who has none", who: person(t, "deployer *"), op: "BuildImport", app: "web", factor: standing(true, false, true), want: want{access.Deny, access.CodeFactorImpossible, S, access.MFAMissing}},
		{name: "resetting factors is asked for each time", who: person(t, "admin *"), op: "resetFactors", factor: fresh, want: want{access.Challenge, access.CodeFactorNeeded, A, access.MFAMissing}},

		{name: "in scope", who: person(t, "deployer web-*"), op: "AppUpdate", app: "web-1", want: want{access.Allow, access.CodeAllowed, S, access.MFANotEnforced}},
		{name: "out of scope", who: person(t, "deployer web-*"), op: "AppUpdate", app: "api", want: want{access.Deny, access.CodeOutOfScope, S, access.MFANotRequired}},
		{name: "scoped, at what has no app", who: person(t, "admin web"), op: "InstanceList", want: want{access.Deny, access.CodeNoApp, none, access.MFANotRequired}},
		{name: "scoped, at the list of apps", who: person(t, "viewer web"), op: "AppList", want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "scoped, at the rack", who: person(t, "viewer web"), op: "SystemGet", want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "scoped, at the rack's logs", who: person(t, "ops web"), op: "SystemLogs", want: want{access.Deny, access.CodeNoApp, none, access.MFANotRequired}},
		{name: "ops, at the rack's logs", who: person(t, "ops *"), op: "SystemLogs", want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "scoped, renewing certificates of the app", who: person(t, "deployer web"), op: "CertificateRenew", app: "web", want: want{access.Allow, access.CodeAllowed, S, access.MFANotEnforced}},
		{name: "scoped, renewing those of another", who: person(t, "deployer web"), op: "CertificateRenew", app: "api", want: want{access.Deny, access.CodeOutOfScope, S, access.MFANotRequired}},
		{name: "two roles over two apps", who: person(t, "viewer api", "deployer web"), op: "AppUpdate", app: "api", want: want{access.Deny, access.CodeOutOfScope, S, access.MFANotRequired}},

		{name: "an API token stands for step-up", who: pipeline(t, "deployer *"), op: "ReleasePromote", app: "web", factor: enforced, want: want{access.Allow, access.CodeAllowed, S, access.MFAToken}},
		{name: "but not for always", who: pipeline(t, "admin *"), op: "SystemUpdate", want: want{access.Deny, access.CodeAPITokenAlways, A, access.MFAMissing}},
		{name: "a token of a demoted creator", who: demoted, op: "ReleasePromote", app: "web", want: want{access.Deny, access.CodeOverCeiling, S, access.MFANotRequired}},
		{name: "what the creator still has", who: demoted, op: "AppGet", app: "web", want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "a token of a creator with nothing", who: barred, op: "AppGet", app: "web", want: want{access.Deny, access.CodeOverCeiling, none, access.MFANotRequired}},
		{name: "a ceiling over one app, there", who: narrowed, op: "AppUpdate", app: "web", want: want{access.Allow, access.CodeAllowed, S, access.MFAToken}},
		{name: "a ceiling over one app, elsewhere", who: narrowed, op: "AppUpdate", app: "api", want: want{access.Deny, access.CodeOverCeiling, S, access.MFANotRequired}},
		{name: "from a network of the token", who: fixed, op: "AppList", set: func(r *access.Request) { r.Source = netip.MustParseAddr("::ffff:10.1.2.3") }, want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "from elsewhere", who: fixed, op: "Racks", set: func(r *access.Request) { r.Source = netip.MustParseAddr("192.0.2.1") }, want: want{access.Deny, access.CodeSourceAddress, none, access.MFANotRequired}},
		{name: "from nowhere known", who: fixed, op: "AppList", want: want{access.Deny, access.CodeSourceAddress, none, access.MFANotRequired}},

		{name: "ops runs a command", who: person(t, "ops *"), op: "ProcessExec", app: "web", facts: process, want: want{access.Allow, access.CodeAllowed, S, access.MFANotEnforced}},
		{name: "in a process that nobody knows", who: person(t, "admin *"), op: "ProcessExec", app: "web", want: want{access.Deny, access.CodeProcessUnknown, S, access.MFANotRequired}},
		{name: "in a build", who: person(t, "ops *"), op: "ProcessExec", app: "web", facts: build, want: want{access.Deny, access.CodeNoPermission, A, access.MFANotRequired}},
		{name: "an admin, in a build", who: person(t, "admin *"), op: "ProcessExec", app: "web", facts: build, factor: enforced, want: want{access.Challenge, access.CodeFactorNeeded, A, access.MFAMissing}},
		{name: "files of a build", who: person(t, "ops *"), op: "FilesDownload", app: "web", facts: build, want: want{access.Deny, access.CodeNoPermission, A, access.MFANotRequired}},
		{name: "logs of a build's process", who: person(t, "viewer *"), op: "ProcessLogs", app: "web", facts: build, want: want{access.Deny, access.CodeNoPermission, A, access.MFANotRequired}},
		{name: "logs of a process", who: person(t, "viewer *"), op: "ProcessLogs", app: "web", facts: process, want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "logs of the service build", who: person(t, "viewer *"), op: "ServiceLogs", app: "web", set: func(r *access.Request) { r.Service = "build" }, want: want{access.Deny, access.CodeNoPermission, A, access.MFANotRequired}},
		{name: "a run of the service build", who: person(t, "ops *"), op: "ProcessRun", app: "web", set: func(r *access.Request) { r.Service = "build" }, want: want{access.Deny, access.CodeNoPermission, A, access.MFANotRequired}},
		{name: "a run", who: person(t, "ops *"), op: "ProcessRun", app: "web", want: want{access.Allow, access.CodeAllowed, S, access.MFANotEnforced}},
		{name: "a privileged run", who: person(t, "deployer *"), op: "ProcessRun", app: "web", set: func(r *access.Request) { r.Variant.Privileged = true }, want: want{access.Deny, access.CodeNoPermission, A, access.MFANotRequired}},
		{name: "an admin's privileged run", who: person(t, "admin *"), op: "ProcessRun", app: "web", set: func(r *access.Request) { r.Variant.Privileged = true }, want: want{access.Allow, access.CodeAllowed, A, access.MFANotEnforced}},
		{name: "the end of somebody's process", who: person(t, "ops *"), op: "ProcessStop", app: "web", factor: enforced, want: want{access.Challenge, access.CodeFactorNeeded, S, access.MFAMissing}},
		{name: "the end of one's own process", who: person(t, "ops *"), op: "ProcessStop", app: "web", facts: own, factor: enforced, want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},

		{name: "a pipeline in its own process", who: pipeline(t, "cicd *"), op: "ProcessExec", app: "web", facts: own, want: want{access.Allow, access.CodeAllowed, S, access.MFAToken}},
		{name: "a pipeline in another's", who: pipeline(t, "cicd *"), op: "ProcessExec", app: "web", facts: process, want: want{access.Deny, access.CodeNotOwnProcess, S, access.MFANotRequired}},
		{name: "a pipeline ends another's", who: pipeline(t, "cicd *"), op: "ProcessStop", app: "web", facts: process, want: want{access.Deny, access.CodeNotOwnProcess, S, access.MFANotRequired}},
		{name: "a pipeline ends its own", who: pipeline(t, "cicd *"), op: "ProcessStop", app: "web", facts: own, want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "a pipeline with ops too", who: pipeline(t, "cicd *", "ops *"), op: "ProcessExec", app: "web", facts: process, want: want{access.Allow, access.CodeAllowed, S, access.MFAToken}},
		{name: "a pipeline reads a build's logs", who: pipeline(t, "cicd *"), op: "BuildLogs", app: "web", want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "a pipeline reads an app's logs", who: pipeline(t, "cicd *"), op: "AppLogs", app: "web", want: want{access.Deny, access.CodeOnlyBuildLogs, none, access.MFANotRequired}},
		{name: "a pipeline's role gives a person nothing", who: person(t, "cicd *"), op: "AppList", want: want{access.Deny, access.CodeNoPermission, none, access.MFANotRequired}},
		{name: "a pipeline waits for approval", who: pipeline(t, "cicd *"), op: "ReleasePromote", app: "web", change: func(s *access.Settings) { s.DeployApprovals = true }, want: want{access.Deny, access.CodeApprovalNeeded, S, access.MFANotRequired}},
		{name: "a pipeline looks without approval", who: pipeline(t, "cicd *"), op: "AppGet", app: "web", change: func(s *access.Settings) { s.DeployApprovals = true }, want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "a pipeline has its approval", who: pipeline(t, "cicd *"), op: "ReleasePromote", app: "web", facts: access.Facts{Approved: true}, change: func(s *access.Settings) { s.DeployApprovals = true }, want: want{access.Allow, access.CodeAllowed, S, access.MFAToken}},
		{name: "a deployer needs no approval", who: person(t, "deployer *"), op: "ReleasePromote", app: "web", change: func(s *access.Settings) { s.DeployApprovals = true }, want: want{access.Allow, access.CodeAllowed, S, access.MFANotEnforced}},

		{name: "releases are in clear", who: person(t, "ops *"), op: "ReleaseList", app: "web", want: want{access.Deny, access.CodeNoPermission, none, access.MFANotRequired}},
		{name: "releases, with the right to secrets", who: with(access.PermReleaseList, access.PermSecretRead), op: "ReleaseList", app: "web", want: want{access.Allow, access.CodeAllowed, none, access.MFANotRequired}},
		{name: "a release without env", who: with(access.PermReleaseCreate, access.PermSecretRead), op: "ReleaseCreate", app: "web", want: want{access.Allow, access.CodeAllowed, S, access.MFANotEnforced}},
		{name: "a release with env", who: with(access.PermReleaseCreate, access.PermSecretRead), op: "ReleaseCreate", app: "web", set: func(r *access.Request) { r.Variant.CarriesEnv = true }, want: want{access.Deny, access.CodeNoPermission, S, access.MFANotRequired}},
		{name: "a release with env and the right to it", who: with(access.PermReleaseCreate, access.PermSecretRead, access.PermEnvSet), op: "ReleaseCreate", app: "web", set: func(r *access.Request) { r.Variant.CarriesEnv = true }, want: want{access.Allow, access.CodeAllowed, S, access.MFANotEnforced}},

		{name: "a deletion while they are off", who: person(t, "admin *"), op: "AppDelete", app: "web", want: want{access.Deny, access.CodeDestructiveOff, A, access.MFANotRequired}},
		{name: "a deletion without the right, while they are off", who: person(t, "deployer *"), op: "AppDelete", app: "web", want: want{access.Deny, access.CodeNoPermission, A, access.MFANotRequired}},
		{name: "a deletion while they are on", who: person(t, "admin *"), op: "AppDelete", app: "web", change: func(s *access.Settings) { s.AllowDestructive = true }, want: want{access.Allow, access.CodeAllowed, A, access.MFANotEnforced}},
		{name: "an instance's end while they are off", who: person(t, "admin *"), op: "InstanceTerminate", want: want{access.Deny, access.CodeDestructiveOff, A, access.MFANotRequired}},

		{name: "a tunnel to a resource", who: person(t, "admin *"), op: "Proxy", facts: host, want: want{access.Allow, access.CodeAllowed, S, access.MFANotEnforced}},
		{name: "a tunnel to a resource in scope", who: person(t, "admin web"), op: "Proxy", facts: host, want: want{access.Allow, access.CodeAllowed, S, access.MFANotEnforced}},
		{name: "a tunnel to a resource out of scope", who: person(t, "admin api"), op: "Proxy", facts: host, want: want{access.Deny, access.CodeOutOfScope, S, access.MFANotRequired}},
		{name: "a tunnel to a resource of the rack", who: person(t, "admin *"), op: "Proxy", facts: rackHost, want: want{access.Allow, access.CodeAllowed, S, access.MFANotEnforced}},
		{name: "a scoped tunnel to a resource of the rack", who: person(t, "admin web"), op: "Proxy", facts: rackHost, want: want{access.Deny, access.CodeOutOfScope, S, access.MFANotRequired}},
		{name: "a tunnel to a host that nobody knows", who: person(t, "admin *"), op: "Proxy", want: want{access.Deny, access.CodeHostUnknown, S, access.MFANotRequired}},
		{name: "a tunnel without the right", who: person(t, "deployer *"), op: "Proxy", facts: host, want: want{access.Deny, access.CodeNoPermission, S, access.MFANotRequired}},

		{name: "a build outside the rack", who: person(t, "admin *"), op: "BuildCreate", app: "web", set: func(r *access.Request) { r.Variant.ExternalBuild = true }, want: want{access.Deny, access.CodeRefusedForAll, none, access.MFANotRequired}},
		{name: "a password of the rack", who: person(t, "admin *"), op: "SystemJwtToken", want: want{access.Deny, access.CodeRefusedForAll, none, access.MFANotRequired}},
		{name: "a process of the rack itself", who: person(t, "admin *"), op: "ProcessExec", app: "system", facts: process, want: want{access.Deny, access.CodeRefusedForAll, none, access.MFANotRequired}},
		{name: "an operation without a rule", who: person(t, "admin *"), op: "AppGet", app: "web", set: func(r *access.Request) { r.Rule = access.Rule{} }, want: want{access.Deny, access.CodeNoRule, none, access.MFANotRequired}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := ask(t, c.op, c.app)
			if c.set != nil {
				c.set(&r)
			}
			settings := access.DefaultSettings()
			if c.change != nil {
				c.change(&settings)
			}
			d := access.Decide(c.who, r, c.facts, settings, c.factor)
			if got := (want{d.Effect, d.Code, d.Level, d.MFA}); got != c.want {
				t.Errorf("got %+v, want %+v (%s)", got, c.want, d.Message)
			}
			checkMessage(t, d)
			if d.Effect == access.Allow && !access.HasRight(c.who, r) {
				t.Error("it is allowed, and HasRight says it cannot be")
			}
		})
	}
}

// checkMessage fails when a message cannot be shown by the CLI, or says what the CLI takes for something else.
func checkMessage(t *testing.T, d access.Decision) {
	t.Helper()
	if (d.Effect == access.Allow) != (d.Message == "") || d.Rule == "" {
		t.Errorf("%s: rule %q, message %q", d.Effect, d.Rule, d.Message)
	}
	for _, bad := range []string{"%", "\n", "no such app", "app not found", "app config not found", "no such resource", "does not exist", "response status 404", "cli token is expired", "  ", ",,"} {
		if strings.Contains(d.Message, bad) {
			t.Errorf("the message holds %q: %s", bad, d.Message)
		}
	}
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	r := ask(t, "ReleaseList", "web")
	for want, p := range map[string]*access.Principal{
		"this needs release:list over app web; you do not have it, so ask an administrator of this gateway for it":                                                                person(t, "viewer *"),
		"this needs secret:read over app web, because the rack's answer holds the app's environment in clear; you do not have it, so ask an administrator of this gateway for it": person(t, "ops *"),
		"this needs release:list over app web; this token has it over other apps only, so ask an administrator of this gateway for it":                                            pipeline(t, "ops api"),
	} {
		if d := access.Decide(p, r, access.Facts{}, access.DefaultSettings(), access.Factor{}); d.Message != want {
			t.Errorf("got  %s\nwant %s", d.Message, want)
		}
	}
	odd := ask(t, "AppGet", "100% \x1b[31mred")
	if d := access.Decide(person(t), odd, access.Facts{}, access.DefaultSettings(), access.Factor{}); !strings.Contains(d.Message, "app 100? ?[31mred") {
		t.Errorf("a name that cannot be shown is shown: %q", d.Message)
	}
	odd.App = strings.Repeat("x", 5000)
	if d := access.Decide(person(t), odd, access.Facts{}, access.DefaultSettings(), access.Factor{}); len(d.Message) > 300 {
		t.Errorf("the message is %d bytes long", len(d.Message))
	}
}

func TestDecisionsNameTheGrant(t *testing.T) {
	p := person(t, "viewer *", "deployer web-*")
	d := access.Decide(p, ask(t, "AppUpdate", "web-1"), access.Facts{}, access.DefaultSettings(), access.Factor{})
	if d.Rule != "role:deployer app:web-*" || d.Permission != access.PermAppUpdate {
		t.Errorf("%s by %s", d.Permission, d.Rule)
	}
	named := &access.Principal{Kind: access.KindAPIToken, Grants: []access.Grant{{Permissions: access.NewPermissionSet(access.PermAppList), App: "*"}}}
	if d := access.Decide(named, ask(t, "AppList", ""), access.Facts{}, access.DefaultSettings(), access.Factor{}); d.Rule != "permissions app:*" {
		t.Errorf("by %s", d.Rule)
	}
}

func TestFactsAreNotGatheredForWhoLacksTheRight(t *testing.T) {
	for _, c := range []struct {
		who     *access.Principal
		op, app string
		want    bool
	}{
		{nil, "AppList", "", false},
		{person(t, "viewer *"), "ProcessExec", "web", false},
		{person(t, "ops *"), "ProcessExec", "web", true},
		{person(t, "ops api"), "ProcessExec", "web", false},
		{person(t, "admin *"), "ProcessExec", "system", false},
		{person(t, "admin web"), "Proxy", "", true},
		{person(t, "deployer *"), "Proxy", "", false},
		{with(), "Auth", "", true},
	} {
		if got := access.HasRight(c.who, ask(t, c.op, c.app)); got != c.want {
			t.Errorf("%v at %s %s: %t", c.who, c.op, c.app, got)
		}
	}
	under := pipeline(t, "ops *")
	under.Ceiling = grants(t, "viewer *")
	if access.HasRight(under, ask(t, "ProcessExec", "web")) {
		t.Error("the ceiling is not looked at")
	}
}

func TestScopes(t *testing.T) {
	p := pipeline(t, "deployer web-*", "viewer *")
	for _, c := range []struct {
		perm access.Permission
		app  string
		want bool
	}{
		{access.PermAppUpdate, "web-1", true}, {access.PermAppUpdate, "api", false}, {access.PermAppUpdate, "", false},
		{access.PermAppList, "api", true}, {access.PermSecretRead, "web-1", false},
	} {
		if got := access.AppInScope(p, c.perm, c.app); got != c.want {
			t.Errorf("%s over %s: %t", c.perm, c.app, got)
		}
	}
	if access.AllApps(p, access.PermAppUpdate) || !access.AllApps(p, access.PermAppList) {
		t.Error("AllApps is wrong")
	}
	p.Ceiling = grants(t, "viewer web-1")
	if access.AppInScope(p, access.PermAppUpdate, "web-1") || access.AppInScope(p, access.PermAppList, "api") || !access.AppInScope(p, access.PermAppList, "web-1") || access.AllApps(p, access.PermAppList) {
		t.Error("the ceiling is not looked at")
	}
}

func TestPrincipalsHaveLabels(t *testing.T) {
	if got := person(t).Label() + " " + pipeline(t).Label() + " " + (&access.Principal{}).Label(); got != "ana@acme.com deploys nobody" {
		t.Errorf("labels are %s", got)
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, app string
		want         bool
	}{
		{"web", "web", true}, {"web", "web2", false}, {"web", "we", false}, {"*", "anything", true}, {"*", "", false}, {"", "", false},
		{"web-*", "web-", true}, {"web-*", "web-1", true}, {"web-*", "web", false}, {"*-web", "my-web", true}, {"a*b*c", "a-b-b-c", true},
		{"a*b*c", "a-b-b", false}, {"**", "x", true}, {"*a*", "bab", true}, {"a*a", "a", false}, {"web", "Web", false}, {"w.b", "web", false},
	} {
		if got := access.PatternMatch(c.pattern, c.app); got != c.want {
			t.Errorf("%q matches %q: %t", c.pattern, c.app, got)
		}
	}
	for pattern, want := range map[string]bool{"web": true, "web-*": true, "*": true, "": false, "Web": false, "web/x": false, "a b": false, strings.Repeat("a", 65): false, "web\n": false} {
		if got := access.ValidPattern(pattern); got != want {
			t.Errorf("%q is a pattern: %t", pattern, got)
		}
	}
}

func FuzzPatternMatch(f *testing.F) {
	for _, s := range [][2]string{{"web-*", "web-1"}, {"a*b*c", "abbbc"}, {"*", ""}, {"**a**", "bab"}, {"*a*b*a*", "aabbaabb"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, app string) {
		if len(pattern) > 64 || len(app) > 200 {
			return
		}
		quoted := strings.ReplaceAll(regexp.QuoteMeta(strings.ToValidUTF8(pattern, "?")), `\*`, `(?s:.*)`)
		app = strings.ToValidUTF8(app, "?")
		want := app != "" && regexp.MustCompile(`\A`+quoted+`\z`).MatchString(app)
		if got := access.PatternMatch(strings.ToValidUTF8(pattern, "?"), app); got != want {
			t.Fatalf("%q matches %q: %t, want %t", pattern, app, got, want)
		}
	})
}

func TestSettingsHaveDefaultsAndBounds(t *testing.T) {
	s := access.DefaultSettings()
	if s.AllowDestructive || s.DeployApprovals || s.JoinAsViewer {
		t.Errorf("switches: %+v", s)
	}
	if s.SessionIdle != 30*time.Minute || s.CLITokenIdle != 30*24*time.Hour || s.CLITokenLife != 90*24*time.Hour ||
		s.APITokenLongest != 90*24*time.Hour || s.ReauthEvery != 7*24*time.Hour || s.InFlightPerPrincipal != 64 || s.SocketsPerPrincipal != 100 {
		t.Errorf("values: %+v", s)
	}
	for _, d := range access.SettingDefs() {
		if !regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`).MatchString(d.Key) || d.Description == "" || d.Default < d.Min || d.Default > d.Max {
			t.Errorf("%+v is not whole", d)
		}
		changed := access.DefaultSettings()
		if err := changed.Set(d.Key, d.DefaultJSON()); err != nil || changed != s {
			t.Errorf("%s: setting the default changes something (%v)", d.Key, err)
		}
		other := json.RawMessage("true")
		if d.Type == access.SettingInt {
			other = json.RawMessage("2")
			if d.Min > 2 {
				other = json.RawMessage("6")
			}
		} else if d.Default != 0 {
			other = json.RawMessage("false")
		}
		if err := changed.Set(d.Key, other); err != nil || changed == s {
			t.Errorf("%s: setting %s changes nothing (%v)", d.Key, other, err)
		}
		if d.Validate(other) != nil {
			t.Errorf("%s: %s is not valid", d.Key, other)
		}
		for _, bad := range []string{"", "null", `"10"`, "1.5", "-1", "1e99", "[]", "tru", "0x1", "1 2"} {
			before := changed
			if err := changed.Set(d.Key, json.RawMessage(bad)); err == nil || changed != before || strings.Contains(err.Error(), "%") {
				t.Errorf("%s takes %s (%v)", d.Key, bad, err)
			}
		}
	}
	if err := s.Set("no_such_thing", json.RawMessage("1")); !errors.Is(err, access.ErrNoSetting) {
		t.Errorf("an unknown setting: %v", err)
	}
	if d, err := access.SettingDefFor("session_idle_minutes"); err != nil || d.Unit != "minutes" {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestNamesOfEnumerations(t *testing.T) {
	got := []string{access.Allow.String(), access.Deny.String(), access.Challenge.String(), access.Wait.String(),
		access.LevelNone.String(), access.LevelStepUp.String(), access.LevelAlways.String()}
	if s := strings.Join(got, " "); s != "allow deny challenge wait none step-up always" {
		t.Error(s)
	}
}

func BenchmarkDecide(b *testing.B) {
	settings := access.DefaultSettings()
	allowed, refused := person(b, "viewer *", "deployer web-*"), person(b, "viewer *")
	exec := ask(b, "ProcessExec", "web-1")
	for name, p := range map[string]*access.Principal{"allowed": allowed, "refused": refused} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				access.Decide(p, exec, process, settings, access.Factor{})
			}
		})
	}
}

func TestAnAppsOwnSettingsCountForWhatIsAboutIt(t *testing.T) {
	s := access.DefaultSettings()
	before := s
	for _, v := range []struct{ app, key, value string }{
		{"web", "allow_destructive", "true"}, {"api", "deploy_approvals", "true"}, {"api", "allow_destructive", "true"}, {"api", "allow_destructive", "false"},
	} {
		if err := s.SetFor(v.app, v.key, json.RawMessage(v.value)); err != nil {
			t.Fatal(err)
		}
	}
	if !before.Equal(access.DefaultSettings()) || before.Equal(s) || !s.Equal(s) {
		t.Error("settings are not values, or not compared as such")
	}
	if !s.For("web").AllowDestructive || s.For("api").AllowDestructive || !s.For("api").DeployApprovals || s.AllowDestructive || s.For("other").DeployApprovals {
		t.Errorf("web has %+v, api has %+v", s.For("web"), s.For("api"))
	}
	for _, bad := range []struct{ app, key, value string }{
		{"", "allow_destructive", "true"}, {"Web", "allow_destructive", "true"}, {"web", "reauth_days", "3"}, {"web", "nosuch", "true"}, {"web", "allow_destructive", "1"},
	} {
		if err := s.SetFor(bad.app, bad.key, json.RawMessage(bad.value)); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
	admin, ci := person(t, "admin *"), pipeline(t, "cicd *")
	for _, tc := range []struct {
		who     *access.Principal
		op, app string
		code    string
	}{
		{admin, "AppDelete", "web", access.CodeAllowed},
		{admin, "AppDelete", "api", access.CodeDestructiveOff},
		{admin, "AppDelete", "other", access.CodeDestructiveOff},
		{admin, "InstanceTerminate", "", access.CodeDestructiveOff}, // about no app
		{ci, "ReleasePromote", "web", access.CodeAllowed},
		{ci, "ReleasePromote", "api", access.CodeApprovalNeeded},
	} {
		if d := access.Decide(tc.who, ask(t, tc.op, tc.app), access.Facts{}, s, access.Factor{}); d.Code != tc.code {
			t.Errorf("%s of %q: %s, want %s", tc.op, tc.app, d.Code, tc.code)
		}
	}
}

func TestSettingsThatSecondFactorsHangOnTakeOneForThisVeryOperation(t *testing.T) {
	fresh := access.Factor{Enforced: true, Enrolled: true, Verified: true, Fresh: true}
	for _, op := range []string{"setSetting", "unsetSetting", "setAppSetting", "unsetAppSetting"} {
		for key, want := range map[string]access.Level{
			"mfa_required": access.LevelAlways, "step_up_minutes": access.LevelAlways, "factor_lock_minutes": access.LevelAlways,
			"allow_destructive": access.LevelStepUp, "reauth_days": access.LevelStepUp,
			"": access.LevelAlways, "MFA_REQUIRED": access.LevelAlways, "mfa%5Frequired": access.LevelAlways,
		} {
			request := ask(t, op, "web")
			request.Setting = key
			token := access.Decide(pipeline(t, "admin *"), request, access.Facts{}, access.DefaultSettings(), access.Factor{})
			window := access.Decide(session(t, "admin *"), request, access.Facts{}, access.DefaultSettings(), fresh)
			if token.Level != want || window.Level != want || (token.Effect == access.Allow) != (want == access.LevelStepUp) || (window.Effect == access.Allow) != (want == access.LevelStepUp) {
				t.Errorf("%s of %q: a token %+v, a window %+v", op, key, token, window)
			}
			fresh := fresh
			fresh.AlwaysGranted = true
			if d := access.Decide(session(t, "admin *"), request, access.Facts{}, access.DefaultSettings(), fresh); d.Effect != access.Allow {
				t.Errorf("%s of %q with a grant: %+v", op, key, d)
			}
		}
	}
}

func TestWhatOutlastsTheWindowTakesAFactorEachTimeOfACommandLine(t *testing.T) {
	marked := 0
	for _, rule := range access.Rules() {
		if !rule.Lasting {
			continue
		}
		marked++
		for _, c := range []struct {
			name string
			who  *access.Principal
			want access.Level
		}{
			{"a CLI token", person(t, "admin *"), access.LevelAlways},
			{"a browser session", session(t, "admin *"), access.LevelStepUp},
			{"an API token", pipeline(t, "admin *"), access.LevelStepUp},
		} {
			got := access.Decide(c.who, access.Request{Rule: rule}, access.Facts{}, access.DefaultSettings(), access.Factor{Enforced: true, Enrolled: true, Verified: true, Fresh: true})
			if allowed := c.want == access.LevelStepUp; got.Level != c.want || (got.Effect == access.Allow) != allowed {
				t.Errorf("%s by %s with a fresh factor: %+v", rule.Op, c.name, got)
			}
		}
	}
	if marked != 6 {
		t.Errorf("%d operations are marked", marked)
	}
}
