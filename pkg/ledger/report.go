package ledger

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// The kinds of findings.
const (
	KindEdited     = "edited"      // an event is not what was put into the ledger
	KindDeleted    = "deleted"     // an event, or its place, is gone
	KindAdded      = "added"       // an event without a place where all have one, or a place that nothing signs
	KindReordered  = "reordered"   // events stand in each other's places
	KindForked     = "forked"      // the tree is another than one that was signed
	KindRolledBack = "rolled-back" // a larger tree was signed
	KindSignature  = "signature"   // a signature does not verify
	KindKey        = "key"         // signed with a key that is not trusted
	KindTree       = "tree"        // stored hashes are not those of the tree
	KindCheckpoint = "checkpoint"  // a checkpoint is missing or cannot be read
	KindMAC        = "mac"         // an event that no process of the gateway made, or not so
	KindObject     = "object"      // an object of the bucket was overwritten, deleted, or is missing
	KindUnlocked   = "unlocked"    // an object of the bucket is not protected
)

// Finding is something that does not fit.
type Finding struct {
	Kind string `json:"kind"`
	// Where is "database", "bucket" or "directory".
	Where string `json:"where"`
	// Leaf is the first place concerned; -1 when that is not known.
	Leaf int64 `json:"leaf"`
	// Event is the first event concerned; zero when that is not known.
	Event   uuid.UUID `json:"event,omitzero"`
	Object  string    `json:"object,omitempty"`
	Message string    `json:"message"`
	// Count is how many alike were found.
	Count int64 `json:"count"`
}

// Report is what a verification found.
type Report struct {
	Where       string    `json:"where"`
	Origin      string    `json:"origin,omitempty"`
	Size        int64     `json:"size"` // leaves of the newest checkpoint
	Root        string    `json:"root,omitempty"`
	Events      int64     `json:"events"`      // whose bytes were hashed
	Dropped     int64     `json:"dropped"`     // that retention dropped
	Checkpoints int64     `json:"checkpoints"` // whose signatures were verified
	Objects     int64     `json:"objects,omitempty"`
	Keys        Keyring   `json:"keys"`
	Findings    []Finding `json:"findings"`
	Notes       []string  `json:"notes,omitempty"`
}

// Sound tells whether nothing was found.
func (r *Report) Sound() bool { return len(r.Findings) == 0 }

// add notes a finding. Those alike are counted, and the first of them is told.
func (r *Report) add(kind string, leaf int64, event uuid.UUID, object, format string, args ...any) {
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Kind == kind && f.Where == r.Where {
			f.Count++
			if leaf >= 0 && (f.Leaf < 0 || leaf < f.Leaf) {
				f.Leaf, f.Event, f.Object, f.Message = leaf, event, object, fmt.Sprintf(format, args...)
			}
			return
		}
	}
	r.Findings = append(r.Findings, Finding{Kind: kind, Where: r.Where, Leaf: leaf, Event: event, Object: object, Message: fmt.Sprintf(format, args...), Count: 1})
}

func (r *Report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// First is the finding with the lowest place, nil when there is none.
func (r *Report) First() *Finding {
	var first *Finding
	for i := range r.Findings {
		f := &r.Findings[i]
		if first == nil || f.Leaf >= 0 && (first.Leaf < 0 || f.Leaf < first.Leaf) {
			first = f
		}
	}
	return first
}

// String is the report for people.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d events in %d leaves under %d checkpoints", r.Where, r.Events, r.Size, r.Checkpoints)
	if r.Dropped > 0 {
		fmt.Fprintf(&b, ", %d dropped by retention", r.Dropped)
	}
	if r.Objects > 0 {
		fmt.Fprintf(&b, ", %d objects", r.Objects)
	}
	if r.Sound() {
		b.WriteString(": everything fits.\n")
	} else {
		b.WriteString(".\n")
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "  %s: %s", strings.ToUpper(f.Kind), f.Message)
		if f.Count > 1 {
			fmt.Fprintf(&b, " (and %d more alike)", f.Count-1)
		}
		b.WriteString("\n")
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "  note: %s\n", n)
	}
	return b.String()
}

// JSON is the report for programs and for the record.
func (r *Report) JSON() []byte {
	text, err := json.Marshal(r)
	if err != nil { // made of strings and numbers
		panic(err)
	}
	return text
}
