// Who asks: a principal, and the grants that it has over apps.

package access

import (
	"net/netip"
	"regexp"
	"time"
)

// PrincipalKind says what a principal is.
type PrincipalKind uint8

const (
	KindNobody   PrincipalKind = iota // no credential, or none that is good
	KindUser                          // a person: a browser session or a CLI token
	KindAPIToken                      // a pipeline
)

// TokenKindSession is the kind of credential that a browser session is.
const TokenKindSession = "session"

// Principal is who asks. It must not be changed once others can see it.
type Principal struct {
	Kind PrincipalKind

	UserID    string // the person; of an API token, its owner
	UserLabel string // the person's address; of an API token, its owner's

	TokenID   string
	TokenName string
	TokenKind string // "cli", "api" or TokenKindSession

	Grants []Grant

	// Ceiling is what an API token can never exceed: its creator's grants. Nil means that there is none;
	// empty but not nil means that the creator has nothing left, and so the token has nothing.
	Ceiling []Grant

	SourceCIDRs []netip.Prefix // where the credential may be used from; empty means anywhere
	Headless    bool           // a device without a browser
	ExpiresAt   time.Time
}

// Label is how people call the principal: a person's address, or an API token's name.
func (p *Principal) Label() string {
	switch p.Kind {
	case KindUser:
		return p.UserLabel
	case KindAPIToken:
		return p.TokenName
	default:
		return "nobody"
	}
}

// Grant gives permissions over the apps that match a pattern.
type Grant struct {
	Role             string // the role it comes from; "" when the permissions were given by name
	Permissions      PermissionSet
	App              string // pattern; "*" also covers what belongs to no app
	OwnProcessesOnly bool   // see Role
}

// String names the grant, as audit events do: "role:deployer app:web-*".
func (g *Grant) String() string {
	if g.Role == "" {
		return "permissions app:" + g.App
	}
	return "role:" + g.Role + " app:" + g.App
}

// patternForm is the form of a pattern, the same as the database's.
var patternForm = regexp.MustCompile(`^[a-z0-9*-]{1,64}$`)

// ValidPattern reports whether the text is an app pattern: a name, or one with * for any run of characters.
func ValidPattern(pattern string) bool { return patternForm.MatchString(pattern) }

// PatternMatch reports whether the app's name matches the pattern, in which * stands for any run of
// characters, also none, and every other character for itself. No pattern matches the empty name.
func PatternMatch(pattern, app string) bool {
	if app == "" {
		return false
	}
	// Greedy, with one place to go back to: a later * makes earlier ones immaterial.
	i, j := 0, 0
	star, from := -1, 0
	for j < len(app) {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			star, from = i, j
			i++
		case i < len(pattern) && pattern[i] == app[j]:
			i++
			j++
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	for i < len(pattern) && pattern[i] == '*' {
		i++
	}
	return i == len(pattern)
}

// AppInScope reports whether the principal has the permission over the app.
func AppInScope(p *Principal, perm Permission, app string) bool {
	return covers(p.Grants, perm, app) && (p.Ceiling == nil || covers(p.Ceiling, perm, app))
}

// AllApps reports whether the principal has the permission over every app, and over what belongs to none.
func AllApps(p *Principal, perm Permission) bool {
	return coversAll(p.Grants, perm) && (p.Ceiling == nil || coversAll(p.Ceiling, perm))
}

func covers(grants []Grant, perm Permission, app string) bool {
	for i := range grants {
		if grants[i].Permissions.Has(perm) && PatternMatch(grants[i].App, app) {
			return true
		}
	}
	return false
}

func coversAll(grants []Grant, perm Permission) bool {
	for i := range grants {
		if grants[i].Permissions.Has(perm) && grants[i].App == "*" {
			return true
		}
	}
	return false
}
