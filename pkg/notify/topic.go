package notify

// The sorts of notices, and by which events each is given rise to.

import (
	"slices"
	"strings"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
)

// Audience is whom a topic is for.
type Audience string

// The audiences.
const (
	ToPerson Audience = "person" // whom the event is about
	ToAdmins Audience = "admins" // everybody who can administer the gateway
)

// Topic is one sort of notice.
type Topic struct {
	Name     string
	Audience Audience
	// Own says that it is about a person's own security: the mail cannot be turned off.
	Own         bool
	Description string
}

// Names of topics that code refers to.
const (
	topicWelcome       = "account.welcome"
	topicRoles         = "account.roles"
	topicLocked        = "account.locked"
	topicUnlocked      = "account.unlocked"
	topicFactor        = "account.factor"
	topicFactorLock    = "account.factor-lock"
	topicSignIn        = "account.sign-in"
	topicRefusals      = "account.refusals"
	topicTokenMade     = "token.made"
	topicTokenExpiring = "token.expiring"
	topicTokenExpired  = "token.expired"

	topicPeopleAdded    = "people.added"
	topicPeopleLocked   = "people.locked"
	topicPeopleFactors  = "people.factors"
	topicPeopleRefusals = "people.refusals"
	topicPeopleAdmin    = "people.admin"
	topicDestructive    = "gateway.destructive"
	topicParameters     = "rack.parameters"
	topicAppDeleted     = "app.deleted"
	topicAlert          = "audit.alert"
	topicAnchor         = "audit.anchor-late"
	topicVerify         = "audit.verification"
	topicTrouble        = "gateway.trouble"

	topicDigest  = "digest"
	topicTest    = "test"
	topicChannel = "channel" // what a rule tells a channel; the rest of the name is the action
)

// Topics lists the sorts of notices that people can choose about, in the order in which they are shown.
func Topics() []Topic {
	return []Topic{
		{topicWelcome, ToPerson, true, "You were added to the gateway."},
		{topicRoles, ToPerson, true, "What you may do was changed."},
		{topicLocked, ToPerson, true, "Your account was locked."},
		{topicUnlocked, ToPerson, true, "Your account was unlocked."},
		{topicFactor, ToPerson, true, "A second factor of yours was added, removed or reset."},
		{topicFactorLock, ToPerson, true, "Wrong second factors locked a device of yours for a while."},
		{topicSignIn, ToPerson, true, "You signed in with a new device or from a new network."},
		{topicRefusals, ToPerson, true, "You, or a token of yours, were refused again and again."},
		{topicTokenMade, ToPerson, true, "A token was made or rotated for you."},
		{topicTokenExpiring, ToPerson, false, "A token of yours expires within a week."},
		{topicTokenExpired, ToPerson, false, "A token of yours expired."},
		{topicPeopleAdded, ToAdmins, false, "Somebody was added to the gateway."},
		{topicPeopleLocked, ToAdmins, false, "Somebody was locked or unlocked, or locked themself by wrong factors."},
		{topicPeopleFactors, ToAdmins, false, "Somebody's second factors were reset."},
		{topicPeopleRefusals, ToAdmins, false, "Somebody was refused again and again."},
		{topicPeopleAdmin, ToAdmins, false, "Somebody was made an admin."},
		{topicDestructive, ToAdmins, false, "Destructive actions were switched on or off."},
		{topicParameters, ToAdmins, false, "The rack's parameters were changed."},
		{topicAppDeleted, ToAdmins, false, "An app was deleted."},
		{topicAlert, ToAdmins, false, "The audit log noticed something that should not be."},
		{topicAnchor, ToAdmins, false, "The audit log could not be copied to its bucket."},
		{topicVerify, ToAdmins, false, "The audit log did not verify."},
		{topicTrouble, ToAdmins, false, "The gateway had trouble with its database."},
	}
}

// topicNamed returns a topic that people can choose about.
func topicNamed(name string) (Topic, bool) {
	for _, t := range Topics() {
		if t.Name == name {
			return t, true
		}
	}
	return Topic{}, false
}

// telling is one thing that an event gives rise to: a topic, and whom it is about.
type telling struct {
	topic string
	about string // address or id of the person, for topics that are for a person; else empty
}

// The rules out of the box: what an event, by itself, gives rise to. Sign-ins and refusals, which take memory, are
// in follow.go.
func tellings(e *audit.Event) (list []telling) {
	if e.Phase != audit.PhaseFinished || e.Kind == audit.KindPoll || e.Kind == audit.KindPreflight {
		return nil
	}
	params := e.Detail.Params
	about := cut(params.Get("id"), e.Resource)
	switch e.Action {
	case "user.add":
		list = append(list, telling{topicWelcome, about})
		if hasAdmin(params.Get("roles")) { // whoever hears of that need not hear the other
			list = append(list, telling{topicPeopleAdmin, ""})
		}
		list = append(list, telling{topicPeopleAdded, ""})
	case "user.set_roles":
		list = append(list, telling{topicRoles, about})
		if hasAdmin(params.Get("given")) {
			list = append(list, telling{topicPeopleAdmin, ""})
		}
	case "user.lock":
		list = append(list, telling{topicLocked, about}, telling{topicPeopleLocked, ""})
	case "user.unlock":
		list = append(list, telling{topicUnlocked, about}, telling{topicPeopleLocked, ""})
	case "factor.lock", "factor.pause":
		list = append(list, telling{topicFactorLock, e.Resource}, telling{topicPeopleLocked, ""})
	case "factor.add", "factor.remove", "factor.backup_codes", "factor.unlock":
		list = append(list, telling{topicFactor, e.Resource})
	case "factor.reset":
		list = append(list, telling{topicFactor, e.Resource}, telling{topicPeopleFactors, ""})
	case "token.create", "token.rotate":
		if owner := ownerOf(e); owner != "" {
			list = append(list, telling{topicTokenMade, owner})
		}
	case actionExpiresSoon:
		list = append(list, telling{topicTokenExpiring, ownerOf(e)})
	case actionExpired:
		list = append(list, telling{topicTokenExpired, ownerOf(e)})
	case "setting.set", "setting.unset":
		if e.Resource == "allow_destructive" && params.Get("old") != params.Get("new") {
			list = append(list, telling{topicDestructive, ""})
		}
	case "rack.update":
		if done(e) {
			list = append(list, telling{topicParameters, ""})
		}
	case "app.delete":
		if done(e) {
			list = append(list, telling{topicAppDeleted, ""})
		}
	case ledger.ActionAlert:
		switch e.Detail.Code {
		case ledger.AlertAnchor, ledger.AlertPush:
			list = append(list, telling{topicAnchor, ""})
		case ledger.AlertVerify, ledger.AlertBucket:
			list = append(list, telling{topicVerify, ""})
		default:
			list = append(list, telling{topicAlert, ""})
		}
	case actionTrouble:
		list = append(list, telling{topicTrouble, ""})
	}
	return list
}

// cut is the user's id where there is one, since an address may be given to somebody else later.
func cut(id, address string) string {
	if len(id) == 36 {
		return id
	}
	return address
}

// ownerOf is whose token an event is about.
func ownerOf(e *audit.Event) string { return e.Detail.Params.Get("owner") }

// done reports whether the rack did what was asked.
func done(e *audit.Event) bool {
	return e.Decision == audit.DecisionAllow && e.Status < 400
}

// hasAdmin reports whether the role admin is among bindings, over whichever apps.
func hasAdmin(bindings string) bool {
	return slices.ContainsFunc(strings.Fields(bindings), func(b string) bool {
		role, _, _ := strings.Cut(b, "@")
		return role == "admin"
	})
}

// refused reports whether an event is that somebody was not let do something.
func refused(e *audit.Event) bool {
	return e.Phase == audit.PhaseRefused && e.Decision == audit.DecisionDeny
}

// Words in the place of a pattern of actions.
const (
	patternRefused = "refused" // whatever was refused
	patternAlert   = "alert"   // whatever the ledger noticed, and trouble of the gateway
)

// checkPattern holds a pattern to its form, and returns it as it is kept: user.*, app.delete (app:delete is the same),
// refused, alert, or * for everything that people do.
func checkPattern(text string) (string, bool) {
	pattern := strings.ReplaceAll(strings.ToLower(strings.TrimSpace(text)), ":", ".")
	if pattern == "*" || pattern == patternRefused || pattern == patternAlert {
		return pattern, true
	}
	resource, verb, found := strings.Cut(pattern, ".")
	if !found || len(pattern) > 64 || !isWord(resource) || verb != "*" && !isWord(verb) {
		return "", false
	}
	return pattern, true
}

func isWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' && r != '-' })
}

// quiet are actions that a pattern matches only when it names them: what the gateway and clients do again and again.
func quiet(e *audit.Event) bool {
	if e.Kind == audit.KindPoll || e.Kind == audit.KindPreflight || e.Phase == audit.PhaseStarted {
		return true
	}
	return e.Kind == audit.KindSystem && e.Action != ledger.ActionAlert && e.Action != actionTrouble && e.Action != actionExpired && e.Action != actionExpiresSoon
}

// matches reports whether an event is one that a pattern is about.
func matches(pattern string, e *audit.Event) bool {
	if quiet(e) {
		return false
	}
	switch pattern {
	case patternRefused:
		return refused(e)
	case patternAlert:
		return e.Action == ledger.ActionAlert || e.Action == actionTrouble
	case "*":
		return e.Kind == audit.KindAction && !reads(e)
	}
	if prefix, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(e.Action, prefix) && !reads(e)
	}
	return e.Action == pattern
}

// reads reports whether an event is that somebody looked at something, which only a pattern that names it is about.
func reads(e *audit.Event) bool {
	if e.Phase == audit.PhaseRefused {
		return false
	}
	_, verb, _ := strings.Cut(e.Action, ".")
	switch verb {
	case "list", "get", "read", "logs", "metrics", "history", "pass", "processes", "capacity", "releases":
		return true
	}
	return false
}
