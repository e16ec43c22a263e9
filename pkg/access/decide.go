// The decision.

package access

import (
	"net/netip"
	"strings"
)

// Variant is what a request asks for beyond its operation's plain form.
type Variant struct {
	Privileged    bool // a process with another image, volumes, environment or place than its service has
	CarriesEnv    bool // a release that brings an environment
	ExternalBuild bool // a build made outside the rack
}

// BuildService is the name of the service whose processes build images. Their environment holds the rack's password.
const BuildService = "build"

// SystemApp is the app by whose name a rack means itself: its own processes, the API's among them, which hold
// its password.
const SystemApp = "system"

// Request is what is asked for.
type Request struct {
	Rule    Rule
	App     string // for AppVar: the app in the path
	Service string // the service in the path, if any
	Variant Variant
	Source  netip.Addr // where the request comes from
	Setting string     // for Rule.OfSetting: the key in the path
}

// Facts are what was found out about a request before deciding, as its rule's Facts asks for.
type Facts struct {
	ProcessKnown   bool
	ProcessService string // the service of the process
	StartedBySelf  bool   // the same principal started the process

	HostKnown bool   // the host belongs to a resource
	HostApp   string // that resource's app; "" for a resource of the rack

	Approved bool // a deploy approval covers the request
}

// Factor is what is known of the principal's second factor.
type Factor struct {
	Enforced      bool // everybody needs one, and levels are enforced; otherwise they are only computed
	Enrolled      bool // the person has one
	Verified      bool // one was given when the browser session began, or the credential is none
	Fresh         bool // one was given within the window
	AlwaysGranted bool // one was given for this very operation
}

// Effect is what becomes of a request.
type Effect uint8

const (
	Deny Effect = iota
	Allow
	Challenge // a second factor is asked for
	Wait      // held until somebody approves
)

func (e Effect) String() string {
	switch e {
	case Allow:
		return "allow"
	case Challenge:
		return "challenge"
	case Wait:
		return "wait"
	default:
		return "deny"
	}
}

// Codes of decisions. They are stable: audit events and metrics carry them.
const (
	CodeAllowed          = "allowed"
	CodeNoCredential     = "no-credential"
	CodeNoRule           = "no-rule"
	CodeSourceAddress    = "source-address"
	CodeRefusedForAll    = "refused-for-everybody"
	CodeNoPermission     = "no-permission"
	CodeOutOfScope       = "app-out-of-scope"
	CodeNoApp            = "all-apps-needed"
	CodeOverCeiling      = "creator-lacks-permission"
	CodeNotOwnProcess    = "not-own-process"
	CodeOnlyBuildLogs    = "only-build-logs"
	CodeApprovalNeeded   = "approval-needed"
	CodeProcessUnknown   = "process-unknown"
	CodeHostUnknown      = "host-unknown"
	CodeDestructiveOff   = "destructive-off"
	CodeAPITokenAlways   = "api-token-always"
	CodePersonOnly       = "person-only"
	CodeSessionOnly      = "session-only"
	CodeEnrolmentNeeded  = "enrolment-needed"
	CodeSignInFactor     = "sign-in-factor-needed"
	CodeFactorNeeded     = "factor-needed"
	CodeFactorImpossible = "factor-without-challenge"
)

// What became of the second factor, for the audit log.
const (
	MFANotRequired = "not-required"
	MFANotEnforced = "not-enforced"
	MFAToken       = "token" // an API token stands for the factor that its making took
	MFAFresh       = "fresh"
	MFAGranted     = "granted"
	MFAFirst       = "first" // the person has none yet, and adds the first
	MFAMissing     = "missing"
)

// Decision is the outcome, and why.
type Decision struct {
	Effect     Effect
	Code       string
	Rule       string     // what decided: a grant ("role:deployer app:web-*"), a setting, or the table
	Permission Permission // the one that was had, or that was lacking
	Level      Level
	MFA        string
	Message    string // why not, as a sentence for a person, with what to do next; "" when allowed
}

// Decide decides about a request. The right comes first, then the factor: who lacks the right is told so, and is
// never asked for a factor.
func Decide(p *Principal, r Request, f Facts, s Settings, fac Factor) Decision {
	if p == nil || p.Kind == KindNobody {
		return deny(CodeNoCredential, "no credential", "",
			"this needs a token of this gateway; make one in its console, then run convox login again")
	}
	rule := &r.Rule
	if rule.Op == "" {
		return deny(CodeNoRule, "table", "", "this gateway does not know what this request does, and so refuses it")
	}
	if len(p.SourceCIDRs) > 0 && !fromAny(p.SourceCIDRs, r.Source) {
		return deny(CodeSourceAddress, "token:source-addresses", "",
			"this token may not be used from this address; use it from where it was made for, or ask its owner to add the network")
	}
	if d := onlyFor(rule, p); d != nil {
		return *d
	}
	if rule.Anybody {
		out := Decision{Effect: Allow, Code: CodeAllowed, Rule: "any credential", Level: rule.Level}
		factor(&out, p, rule, fac)
		return out
	}
	if why := refusedForAll(&r); why != "" {
		return deny(CodeRefusedForAll, "table", rule.Permission, "this gateway refuses this for everybody: "+why)
	}

	s = s.For(appOf(&r, &f))
	level := rule.Level
	by := ""
	d := need(p, &r, &f, &s, rule.Permission, "", &by)
	for i := 0; i < len(rule.Also) && d == nil; i++ {
		also := &rule.Also[i]
		if !also.When.holds(&r, &f) {
			continue
		}
		level = max(level, also.Level)
		d = need(p, &r, &f, &s, also.Permission, also.Why, nil)
	}
	if rule.OfSetting {
		level = max(level, settingLevel(r.Setting))
	}
	if rule.Lasting && p.Kind == KindUser && p.TokenKind != TokenKindSession {
		level = LevelAlways
	}
	if d != nil {
		d.Level = level
		return *d
	}

	out := Decision{Effect: Allow, Code: CodeAllowed, Rule: by, Permission: rule.Permission}
	if rule.Facts == FactProcess && !f.ProcessKnown {
		d := deny(CodeProcessUnknown, "table", rule.Permission,
			"the rack knows no such process or service of this app, or did not say in time; see convox ps and run it again")
		d.Level = level
		return d
	}
	if rule.Destructive && !s.AllowDestructive {
		d := deny(CodeDestructiveOff, "setting:allow_destructive", rule.Permission,
			"destructive actions are off in this gateway; an administrator can allow them for the time being in its settings")
		d.Level = level
		return d
	}
	if rule.OwnIsFree && f.StartedBySelf {
		level = LevelNone
	}
	out.Level = level
	factor(&out, p, rule, fac)
	return out
}

// onlyFor returns nil when the operation can be asked for with the principal's kind of credential, and a denial
// otherwise.
func onlyFor(rule *Rule, p *Principal) *Decision {
	var d Decision
	switch {
	case rule.Only == OnlyPerson && p.Kind != KindUser:
		d = deny(CodePersonOnly, "table", rule.Permission,
			"this is about a person's own devices and sessions, of which an API token has none; do it as a person")
	case rule.Only == OnlySession && p.TokenKind != TokenKindSession:
		d = deny(CodeSessionOnly, "table", rule.Permission,
			"this takes somebody who is signed in by the browser; sign in at the gateway's console and do it there")
	default:
		return nil
	}
	d.Level = rule.Level
	return &d
}

// HasRight reports whether the principal may have the right to the operation, before any facts are known: when it
// is false, Decide denies whatever the facts are, and they need not be gathered.
func HasRight(p *Principal, r Request) bool {
	if p == nil || p.Kind == KindNobody || r.Rule.Op == "" {
		return false
	}
	if r.Rule.Anybody {
		return true
	}
	if refusedForAll(&r) != "" {
		return false
	}
	has := func(grants []Grant) bool {
		for i := range grants {
			g := &grants[i]
			if g.Permissions.Has(r.Rule.Permission) && (r.Rule.AppFrom == AppFact || inScope(&r, nil, g)) {
				return true
			}
		}
		return false
	}
	return has(p.Grants) && (p.Ceiling == nil || has(p.Ceiling))
}

// refusedForAll returns why nobody may do this, or "".
func refusedForAll(r *Request) string {
	switch {
	case r.Rule.Refused != "":
		return r.Rule.Refused
	case r.Variant.ExternalBuild:
		return "a build outside the rack is given the rack's own password; leave out --external and the rack builds it"
	case r.Rule.AppFrom == AppVar && isRackItself(r.App):
		return shown(r.App) + " is the rack itself, whose processes hold its own password; see convox rack for what can be asked about it"
	default:
		return ""
	}
}

// isRackItself reports whether a rack takes the name of an app for something else: for its own namespace, for
// a name it keeps for itself, or, on AWS, for no app at all and so for the objects of every app.
func isRackItself(app string) bool {
	return app == SystemApp || app == "rack" || app == "x-undefined-app-x"
}

// need returns nil when the principal has the permission over what the request touches, and a denial otherwise.
// It notes in by, when that is not nil, which grant gives it.
func need(p *Principal, r *Request, f *Facts, s *Settings, perm Permission, why string, by *string) *Decision {
	own, lack := gives(p.Grants, p.Kind == KindAPIToken, r, f, s, perm)
	if own != nil && p.Ceiling != nil {
		var over string
		if ceiling, _ := gives(p.Ceiling, true, r, f, s, perm); ceiling == nil {
			own, over = nil, CodeOverCeiling
		}
		lack = over
	}
	if own != nil {
		if by != nil {
			*by = own.String()
		}
		return nil
	}
	d := deny(lack, "no grant", perm, lackMessage(lack, p, r, perm, why))
	return &d
}

// gives returns the first grant that gives the permission over what the request touches, or why none does:
// of several reasons, the one that comes closest.
func gives(grants []Grant, token bool, r *Request, f *Facts, s *Settings, perm Permission) (*Grant, string) {
	lack, closeness := CodeNoPermission, 0
	nearer := func(code string, how int) {
		if how > closeness {
			lack, closeness = code, how
		}
	}
	for i := range grants {
		g := &grants[i]
		switch {
		case !g.Permissions.Has(perm):
		case g.OwnProcessesOnly && !token:
			// A role for tokens gives a person nothing.
		case r.Rule.AppFrom == AppFact && !f.HostKnown:
			nearer(CodeHostUnknown, 2)
		case !inScope(r, f, g):
			if r.Rule.AppFrom == AppNone {
				nearer(CodeNoApp, 1)
			} else {
				nearer(CodeOutOfScope, 1)
			}
		case g.OwnProcessesOnly && perm == PermLogRead && !r.Rule.BuildLogs:
			nearer(CodeOnlyBuildLogs, 3)
		case g.OwnProcessesOnly && ofProcessStarted(perm) && !f.StartedBySelf:
			nearer(CodeNotOwnProcess, 3)
		case g.OwnProcessesOnly && s.DeployApprovals && !f.Approved && approvable.Has(perm):
			nearer(CodeApprovalNeeded, 4)
		default:
			return g, ""
		}
	}
	return nil, lack
}

// ofProcessStarted reports whether a pipeline has the permission only over processes that it started.
func ofProcessStarted(perm Permission) bool {
	return perm == PermProcessExec || perm == PermProcessTerminate
}

// inScope reports whether the grant's pattern covers what the request touches.
func inScope(r *Request, f *Facts, g *Grant) bool {
	switch r.Rule.AppFrom {
	case AppVar:
		return PatternMatch(g.App, r.App)
	case AppFilter, AppSystem:
		return true
	case AppFact:
		if f.HostApp == "" { // a resource of the rack
			return g.App == "*"
		}
		return PatternMatch(g.App, f.HostApp)
	default:
		return g.App == "*"
	}
}

// appOf is the app whose settings count for the request, "" for the gateway's.
func appOf(r *Request, f *Facts) string {
	switch r.Rule.AppFrom {
	case AppVar:
		return r.App
	case AppFact:
		return f.HostApp
	case AppNone, AppFilter, AppSystem: // about no one app
	}
	return ""
}

// factor fills in what the second factor makes of a request that is allowed.
func factor(d *Decision, p *Principal, rule *Rule, fac Factor) {
	lacks := func(effect Effect, code, message string) {
		d.Effect, d.Code, d.Rule, d.MFA, d.Message = effect, code, "table", MFAMissing, message
	}
	ask := func(code, message string) {
		if rule.NoChallenge {
			lacks(Deny, CodeFactorImpossible, message+"; what it uploads cannot be sent twice, so give the factor first")
			return
		}
		lacks(Challenge, code, message)
	}
	switch {
	case p.Kind == KindAPIToken && d.Level == LevelAlways:
		lacks(Deny, CodeAPITokenAlways, "this takes a person's second factor each time, which an API token cannot give; do it as a person")
	case p.Kind == KindAPIToken && d.Level == LevelNone, rule.Factorless && d.Level == LevelNone:
		d.MFA = MFANotRequired
	case p.Kind == KindAPIToken:
		d.MFA = MFAToken
	case rule.OwnFactors && !fac.Enrolled:
		d.MFA = MFAFirst
	case !fac.Enforced && !rule.OwnFactors && d.Level == LevelNone:
		d.MFA = MFANotRequired
	case !fac.Enforced && !rule.OwnFactors:
		d.MFA = MFANotEnforced
	case !fac.Enrolled:
		ask(CodeEnrolmentNeeded, "this gateway asks everybody for a second factor, and you have none yet; add one, a passkey for instance")
	case !fac.Verified:
		ask(CodeSignInFactor, "you have signed in, and have not given your second factor yet")
	case d.Level == LevelNone:
		d.MFA = MFANotRequired
	case d.Level == LevelAlways && fac.AlwaysGranted:
		d.MFA = MFAGranted
	case d.Level == LevelStepUp && (fac.Fresh || fac.AlwaysGranted):
		d.MFA = MFAFresh
	case d.Level == LevelAlways:
		ask(CodeFactorNeeded, "this takes a second factor each time")
	default:
		ask(CodeFactorNeeded, "this takes a second factor, and you have given none lately")
	}
}

func deny(code, rule string, perm Permission, message string) Decision {
	return Decision{Effect: Deny, Code: code, Rule: rule, Permission: perm, MFA: MFANotRequired, Message: message}
}

// lackMessage says what is lacking, and what to do.
func lackMessage(code string, p *Principal, r *Request, perm Permission, why string) string {
	if code == CodeHostUnknown {
		return "this gateway connects only to hosts of resources that the rack lists, and this host is none of them; see convox resources for those there are"
	}
	has, hasNot := "you have it", "you do not have it"
	if p.Kind == KindAPIToken {
		has, hasNot = "this token has it", "this token does not have it"
	}
	var b strings.Builder
	b.Grow(256)
	b.WriteString("this needs ")
	b.WriteString(perm.short())
	switch r.Rule.AppFrom {
	case AppVar:
		b.WriteString(" over app ")
		b.WriteString(shown(r.App))
	case AppNone:
		b.WriteString(" over all apps")
	case AppFilter, AppSystem, AppFact: // there is no app to name
	}
	if why != "" {
		b.WriteString(", because ")
		b.WriteString(why)
	}
	b.WriteString("; ")
	const ask = ", so ask an administrator of this gateway for it"
	switch code {
	case CodeOutOfScope:
		b.WriteString(has)
		b.WriteString(" over other apps only" + ask)
	case CodeNoApp:
		b.WriteString(has)
		b.WriteString(" over some apps only" + ask)
	case CodeOverCeiling:
		b.WriteString("the person who made this token no longer has it, so have the token made anew by somebody who has")
	case CodeNotOwnProcess:
		b.WriteString("a pipeline has it only over processes that it started itself, so run the command with convox run")
	case CodeOnlyBuildLogs:
		b.WriteString("a pipeline has it only for the logs of builds, so read these as a person")
	case CodeApprovalNeeded:
		b.WriteString("a pipeline does not have it while deploy approvals are on, so have a person run it, or have an administrator switch deploy_approvals off")
	default:
		b.WriteString(hasNot)
		b.WriteString(ask)
	}
	return b.String()
}

// shown makes a name fit for a message: short, printable, and without the percent sign.
func shown(name string) string {
	if len(name) > 64 {
		return "of that name"
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == '%' || c > '~' {
			return '?'
		}
		return c
	}, name)
}

func fromAny(networks []netip.Prefix, from netip.Addr) bool {
	from = from.Unmap()
	for _, n := range networks {
		if n.Contains(from) {
			return true
		}
	}
	return false
}
