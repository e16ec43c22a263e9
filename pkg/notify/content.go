package notify

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"rackgateway/pkg/audit"
)

// Content is what a notice says, as facts; how it reads is made of them when it goes out.
type Content struct {
	Topic     string            `json:"topic"`
	Event     uuid.UUID         `json:"event,omitzero"`
	Request   uuid.UUID         `json:"request,omitzero"`
	Leaf      int64             `json:"leaf"`
	At        time.Time         `json:"at,omitzero"`
	Action    string            `json:"action,omitempty"`
	Phase     string            `json:"phase,omitempty"`
	Decision  string            `json:"decision,omitempty"`
	Actor     string            `json:"actor,omitempty"`
	App       string            `json:"app,omitempty"`
	Resource  string            `json:"resource,omitempty"`
	Status    int32             `json:"status,omitempty"`
	Address   string            `json:"address,omitempty"`
	UserAgent string            `json:"user_agent,omitempty"`
	Token     string            `json:"token,omitempty"`
	Code      string            `json:"code,omitempty"`
	Error     string            `json:"error,omitempty"`
	Count     int64             `json:"count,omitempty"`
	Facts     map[string]string `json:"facts,omitempty"`
	Digest    *Digest           `json:"digest,omitempty"`
}

// Digest is many notices in one.
type Digest struct {
	Total  int64         `json:"total"`
	Since  time.Time     `json:"since"`
	Until  time.Time     `json:"until"`
	Topics []DigestTopic `json:"topics"`
}

// DigestTopic is what a digest says of one topic.
type DigestTopic struct {
	Topic string    `json:"topic"`
	Many  int64     `json:"many"`
	Some  []Content `json:"some"` // the newest few
}

// told are the parameters of events that notices may show. All were redacted when the event was recorded; this leaves
// out what says nothing to a person.
var told = map[string]bool{
	"old": true, "new": true, "given": true, "taken": true, "roles": true, "reason": true, "expires": true, "expires_at": true, "owner": true,
	"networks": true, "kind": true, "name": true, "until": true, "failures": true, "old_until": true, "locked_reason": true, "device": true, "network": true,
	"minutes": true, "factors": true, "seconds": true,
}

// longest bounds each text of a notice, in bytes.
const longest = 500

func contentOf(topic string, leaf int64, e *audit.Event) Content {
	c := Content{
		Topic: topic, Event: e.ID, Request: e.RequestID, Leaf: leaf, At: e.OccurredAt, Action: e.Action, Phase: string(e.Phase), Decision: string(e.Decision),
		Actor: short(e.ActorLabel), App: short(e.App), Resource: short(e.Resource), Status: e.Status,
		UserAgent: short(e.Detail.UserAgent), Token: short(e.Detail.TokenName), Code: short(e.Detail.Code), Error: short(e.Detail.Error), Count: e.Detail.Count,
	}
	if e.Address.IsValid() {
		c.Address = e.Address.String()
	}
	for _, p := range e.Detail.Params {
		if told[p.Name] && p.Value != "" {
			c.fact(p.Name, p.Value)
		}
	}
	return c
}

func (c *Content) fact(name, value string) {
	if c.Facts == nil {
		c.Facts = make(map[string]string)
	}
	c.Facts[name] = short(value)
}

// short cuts a text to what a notice may show of it, on one line and without what terminals and mail programs act on.
func short(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\r', r == '\t', r == '\u2028', r == '\u2029', r == '\u0085':
			return ' '
		case r < ' ', r >= 0x7f && r < 0xa0, r >= 0x200b && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2060 && r <= 0x2069, r == 0xfeff, r == '\ufffd':
			return -1
		}
		return r
	}, s)
	if len(s) <= longest {
		return s
	}
	cut := longest
	for cut > 0 && s[cut]&0xc0 == 0x80 {
		cut--
	}
	return s[:cut] + "…"
}

// headline is what a notice says in a few words: the subject of a mail, the first line of a message.
func (c *Content) headline() string {
	about := c.Resource
	switch c.Topic {
	case topicWelcome:
		return "Welcome to the gateway"
	case topicRoles:
		return "What you may do was changed"
	case topicLocked:
		return "Your account was locked"
	case topicUnlocked:
		return "Your account was unlocked"
	case topicFactor:
		switch c.Action {
		case "factor.remove":
			return "A second factor of yours was removed"
		case "factor.reset":
			return "Your second factors were reset"
		case "factor.backup_codes":
			return "New backup codes were made for you"
		case "factor.unlock":
			return "Your second factors were unlocked"
		}
		return "A second factor was added to your account"
	case topicFactorLock:
		return "Wrong second factors locked your device for a while"
	case topicSignIn:
		if c.Facts["device"] == "" {
			return "You signed in from a new network"
		}
		return "You signed in with a new device"
	case topicRefusals:
		return "The gateway refused you again and again"
	case topicTokenMade:
		if c.Action == "token.rotate" {
			return "The token " + about + " was given a new secret"
		}
		return "The token " + about + " was made for you"
	case topicTokenExpiring:
		return "The token " + about + " expires soon"
	case topicTokenExpired:
		return "The token " + about + " expired"
	case topicPeopleAdded:
		return about + " was added to the gateway"
	case topicPeopleLocked:
		switch c.Action {
		case "user.unlock":
			return about + " was unlocked"
		case "factor.lock", "factor.pause":
			return about + " is locked for a while: wrong second factors"
		}
		return about + " was locked"
	case topicPeopleFactors:
		return "The second factors of " + about + " were reset"
	case topicPeopleRefusals:
		return c.who() + " is refused again and again"
	case topicPeopleAdmin:
		return about + " was made an admin"
	case topicDestructive:
		if c.Facts["new"] == "true" {
			return "Destructive actions were switched on"
		}
		return "Destructive actions were switched off"
	case topicParameters:
		return "The rack's parameters were changed"
	case topicAppDeleted:
		return "The app " + c.App + " was deleted"
	case topicAlert:
		return "The audit log raised an alert: " + c.Code
	case topicAnchor:
		return "The audit log could not be copied: " + c.Code
	case topicVerify:
		return "The audit log did not verify: " + c.Code
	case topicTrouble:
		return "The gateway had trouble with its database"
	case topicTest:
		return "This is a test of the gateway's notices"
	case topicDigest:
		if c.Digest != nil {
			return fmt.Sprintf("%d notices of the gateway in one", c.Digest.Total)
		}
	}
	return c.plainly()
}

// plainly says what an event is where no topic says it better.
func (c *Content) plainly() string {
	text := c.who()
	switch {
	case c.Phase == string(audit.PhaseRefused):
		text += " was refused " + c.Action
	case c.Decision == string(audit.DecisionAllow) && c.Status >= 400:
		text += " tried " + c.Action
	default:
		text += " did " + c.Action
	}
	switch {
	case c.App != "" && c.Resource != "" && c.Resource != c.App:
		text += " on " + c.App + " (" + c.Resource + ")"
	case c.App != "":
		text += " on " + c.App
	case c.Resource != "":
		text += " on " + c.Resource
	}
	return text
}

func (c *Content) who() string {
	if c.Actor == "" {
		if c.Address != "" {
			return "Somebody at " + c.Address
		}
		return "Somebody"
	}
	return c.Actor
}

// lead is a sentence or two that go on from the headline.
func (c *Content) lead() string {
	by := ""
	if c.Actor != "" && c.Actor != c.Resource {
		by = " by " + c.Actor
	}
	switch c.Topic {
	case topicWelcome:
		return "You were added" + by + ". Sign in with your company account; what you may do is listed below."
	case topicRoles:
		return "Your roles were changed" + by + "."
	case topicLocked:
		return "Your account was locked" + by + ". Sessions and tokens of yours stopped at once, and work again when it is unlocked."
	case topicUnlocked:
		return "Your account was unlocked" + by + ". Your sessions and tokens work again, as far as they have not expired."
	case topicFactor:
		if c.Action == "factor.reset" {
			return "All second factors were taken from your account" + by + ". You set up new ones at your next sign-in."
		}
		return "The second factors of your account were changed" + by + "."
	case topicFactorLock:
		return "Several wrong second factors were given in your name. The device is locked until the time below; nothing else is."
	case topicSignIn:
		return "Somebody signed in as you, with a browser or from a network that the gateway has not seen of you before."
	case topicRefusals:
		return "Requests in your name were refused " + c.times() + " within ten minutes."
	case topicTokenMade:
		if c.Action == "token.rotate" {
			return "Whoever holds the new secret can act in your name, within the token's rights. It was rotated" + by + "."
		}
		return "Whoever holds it can act in your name, within its rights. It was made" + by + "."
	case topicTokenExpiring:
		return "It stops working at the time below. Rotate it, or make another one, before then."
	case topicTokenExpired:
		return "It does not work any more. Whatever used it needs another one."
	case topicPeopleAdded:
		return "They may sign in now. They were added" + by + "."
	case topicPeopleLocked:
		return "This was done" + by + "."
	case topicPeopleFactors:
		return "They set up new ones at their next sign-in. This was done" + by + "."
	case topicPeopleRefusals:
		return "Their requests were refused " + c.times() + " within ten minutes. The last refusal said: " + sentence(c.Error)
	case topicPeopleAdmin:
		return "They can do everything now, on the rack and in the gateway. This was done" + by + "."
	case topicDestructive:
		if c.Facts["new"] == "true" {
			return "Apps can be deleted and instances terminated by those who have the right, until it is switched off again. This was done" + by + "."
		}
		return "Nobody can delete apps or terminate instances. This was done" + by + "."
	case topicParameters:
		return "They were changed" + by + ". The event shows which."
	case topicAppDeleted:
		return "It was deleted" + by + ", with everything in it."
	case topicAlert, topicAnchor, topicVerify, topicTrouble:
		return sentence(c.Error)
	case topicTest:
		return c.who() + " asked for it. Notices reach you this way."
	case topicDigest:
		return "So many came at once, or had to wait, that they are gathered here."
	}
	return sentence(c.Error)
}

// sentence is what was recorded in the middle of one, as one.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	first, size := utf8.DecodeRuneInString(text)
	text = string(unicode.ToUpper(first)) + text[size:]
	if last, _ := utf8.DecodeLastRuneInString(text); !strings.ContainsRune(".!?…", last) {
		text += "."
	}
	return text
}

func (c *Content) times() string {
	if c.Count == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", c.Count)
}

// advice is what to do if it was not meant; empty where there is nothing to do.
func (c *Content) advice() string {
	switch c.Topic {
	case topicSignIn:
		return "If this was not you: end that session under My account in the console, change the password of your company account, and tell an administrator of the gateway."
	case topicTokenMade:
		return "If you did not ask for it: revoke it in the console, and tell an administrator of the gateway."
	case topicFactor, topicFactorLock:
		return "If this was not you: tell an administrator of the gateway at once, and ask them to lock your account."
	case topicRefusals:
		return "If you do not know what this is: look at the event, revoke the token that was used, and tell an administrator of the gateway."
	case topicLocked, topicRoles:
		return "If you do not know why: ask an administrator of the gateway."
	case topicWelcome:
		return "If you did not expect this: you need not do anything. Nobody can sign in as you without your company account."
	case topicPeopleAdmin, topicDestructive, topicPeopleAdded, topicPeopleLocked, topicPeopleFactors:
		if c.Topic == topicPeopleLocked && c.Action != "user.lock" && c.Action != "user.unlock" {
			return "If they do not know why: somebody else may be trying their account. The event says from where."
		}
		return "If nobody should have done this: undo it in the console, and lock whoever did."
	case topicParameters, topicAppDeleted, topicPeopleRefusals:
		return "If this was not meant: the event says who did it, and from where. Lock them in the console if you must."
	case topicAlert, topicVerify:
		return "Find out what it is before anything else: admin audit verify names the first event that does not fit."
	case topicAnchor:
		return "Until it is mended, the record is kept in the database alone."
	case topicTrouble:
		return "Meanwhile, what could not be recorded was refused. If you do not know why: look at the database's server, and at the logs of admin."
	}
	return ""
}

// fact is a line of what is known.
type fact struct{ Name, Value string }

// details are the lines of a notice: what, who, from where, when.
func (c *Content) details() (list []fact) {
	add := func(name, value string) {
		if value != "" {
			list = append(list, fact{name, value})
		}
	}
	switch {
	case c.Topic == topicDigest || c.Topic == topicTest:
		return nil
	case c.Topic == topicTokenMade, c.Topic == topicTokenExpiring, c.Topic == topicTokenExpired:
		add("Token", c.Resource)
	case c.Topic == topicDestructive:
		add("Setting", c.Resource)
	case strings.HasPrefix(c.Topic, "account."), strings.HasPrefix(c.Topic, "people."):
		if strings.Contains(c.Resource, "@") {
			add("Who", c.Resource)
		} else {
			add("What", c.Resource)
		}
	case c.Resource != c.Code:
		add("What", c.Resource)
	}
	if c.Topic == topicRefusals || c.Topic == topicPeopleRefusals {
		add("Refused", c.Action)
	}
	add("App", c.App)
	for _, f := range []struct{ key, name string }{
		{"roles", "Roles"}, {"given", "Given"}, {"taken", "Taken"}, {"kind", "Kind"}, {"name", "Name"}, {"owner", "Owner"}, {"expires", "Expires"},
		{"networks", "Networks"}, {"device", "Device"}, {"network", "Network"}, {"reason", "Reason"}, {"locked_reason", "Was locked for"},
		{"failures", "Failures"}, {"until", "Until"}, {"old_until", "Old secret until"},
	} {
		add(f.name, factText(f.key, c.Facts[f.key]))
	}
	if c.Topic != topicRoles {
		add("Before", c.Facts["old"])
		add("Now", c.Facts["new"])
	}
	if c.Status != 0 && strings.HasPrefix(c.Topic, topicChannel) {
		add("Status", fmt.Sprint(c.Status))
	}
	if c.Error != "" && strings.HasPrefix(c.Topic, topicChannel) {
		add("Because", c.Error)
	}
	add("By", c.Actor)
	if c.Token != "" && c.Token != c.Actor {
		add("With token", c.Token)
	}
	add("From", c.Address)
	add("With", c.UserAgent)
	if !c.At.IsZero() {
		add("When", c.At.UTC().Format(moment))
	}
	return list
}

// moment is how a notice writes one.
const moment = "Monday, 2 January 2006, 15:04:05 UTC"

// factText is a fact as people read it: moments and kinds are recorded for programs.
func factText(key, value string) string {
	if key == "kind" {
		switch value {
		case "totp":
			return "authenticator app"
		case "passkey":
			return "passkey or security key"
		case "api":
			return "API token"
		case "cli":
			return "CLI token"
		}
		return value
	}
	if at, err := time.Parse(time.RFC3339, value); err == nil {
		return at.UTC().Format(moment)
	}
	return value
}
