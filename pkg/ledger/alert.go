package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/audit"
)

// Action names of the ledger's own events.
const (
	ActionAlert    = "ledger.alert"     // something is not as it should be; Detail.Code says what
	ActionKey      = "ledger.key"       // a signing key was made or first seen
	ActionVerified = "ledger.verified"  // the gateway verified itself
	ActionAnchored = "ledger.anchored"  // the ledger was copied to its bucket
	ActionRestored = "ledger.restored"  // the log was rebuilt from its bucket
	ActionDropped  = "ledger.dropped"   // retention dropped a month
	ActionPushed   = "ledger.push"      // pushing to the SIEM endpoint began to fail, or works again
	ActionEpoch    = "ledger.new_epoch" // the database cluster began a new life
)

// The codes of alerts.
const (
	AlertMAC         = "mac-wrong"       // an event is not what its writer made
	AlertNoMAC       = "mac-missing"     // an event that its writer should have made one for
	AlertMACKey      = "mac-key-unknown" // made with a key that is not at hand
	AlertOutside     = "changed-outside" // access was changed by SQL, around the gateway
	AlertGap         = "events-missing"  // numbers of a writer that never came
	AlertSilent      = "writer-silent"   // a writer ended without saying so: events after a number may be missing
	AlertRepeated    = "number-repeated" // two events of a writer with one number
	AlertClock       = "clock"           // an event is of another time than it was recorded in
	AlertLate        = "event-late"      // an event was found without a leaf, below the horizon
	AlertOverflow    = "no-partition"    // an event is of a month that has no partition
	AlertRolledBack  = "rolled-back"     // the database is behind what was signed
	AlertForked      = "forked"          // the database is another than what was signed
	AlertStored      = "tree-damaged"    // the stored tree is not what was signed
	AlertKey         = "key-changed"     // the newest checkpoint is signed with another key
	AlertAnchor      = "anchor-failing"  // the bucket could not be written for long, or refused
	AlertBucket      = "bucket-changed"  // the bucket holds another thing than was put there
	AlertVerify      = "verify-failed"   // self-verification found something
	AlertPush        = "push-failing"    // the SIEM endpoint does not take events
	AlertTransaction = "horizon-held"    // a transaction has been open for long, so that newer events have no leaf
)

// Alert is something that the ledger noticed and records.
type Alert struct {
	Code    string
	Message string // a sentence: what, and what to do
	// Event is the first event concerned, Leaf its place; both may be unknown (zero, negative).
	Event uuid.UUID
	Leaf  int64
	Count int64 // how many it stands for
}

// event is the alert as it is recorded.
func (a *Alert) event(now time.Time) *audit.Event {
	e := systemEvent(now, ActionAlert)
	e.Resource = a.Code
	e.Detail.Code, e.Detail.Error, e.Detail.Count = a.Code, a.Message, a.Count
	if a.Event != (uuid.UUID{}) {
		e.Detail.Params.Add("event", a.Event.String())
	}
	if a.Leaf >= 0 {
		e.Detail.Params.Add("leaf", strconv.FormatInt(a.Leaf, 10))
	}
	return e
}

// systemEvent is an event of the ledger's own.
func systemEvent(now time.Time, action string) *audit.Event {
	e := audit.NewEvent(now)
	e.Kind, e.ActorKind, e.ActorID, e.ActorLabel, e.Action = audit.KindSystem, audit.ActorSystem, "ledger", "ledger", action
	return e
}

// alerts gathers what a batch gave rise to: one alert for each code, about the first event concerned, so that a
// million forged events do not make a million alerts.
type alerts struct {
	list []*Alert
}

// note adds an occurrence. The sentence is that of the first.
func (a *alerts) note(code string, e *audit.Event, leaf int64, format string, args ...any) {
	for _, known := range a.list {
		if known.Code == code {
			known.Count++
			return
		}
	}
	alert := &Alert{Code: code, Message: fmt.Sprintf(format, args...), Leaf: leaf, Count: 1}
	if e != nil {
		alert.Event = e.ID
	}
	a.list = append(a.list, alert)
}

func (a *alerts) sorted() []*Alert {
	slices.SortFunc(a.list, func(x, y *Alert) int { return cmp.Compare(x.Code, y.Code) })
	return a.list
}
