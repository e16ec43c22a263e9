package credential

import (
	"github.com/google/uuid"
)

// subjectKind is what an announcement is about.
type subjectKind uint8

const (
	userSubject subjectKind = iota + 1
	tokenSubject
	roleSubject
	factorSubject // of a user, or of a token: what second factors they have and gave
)

// subject is something whose change concerns the entries that were made from it.
type subject struct {
	kind subjectKind
	id   uuid.UUID // of a user or token
	name string    // of a role
}

// index finds the entries that a change concerns. Each entry is in one list for each of its subjects;
// the lists run through the entries' own links, so that a hundred thousand entries need no sets. It
// holds the first of each list, and has no lock of its own.
type index map[subject]*link

type link struct {
	entry      *Entry
	prev, next *link
}

// add puts an entry into the lists of its subjects.
func (x index) add(e *Entry) {
	if len(e.subjects) <= len(e.ownLinks) {
		e.links = e.ownLinks[:len(e.subjects)]
	} else {
		e.links = make([]link, len(e.subjects)) // somebody with many roles
	}
	for i, s := range e.subjects {
		first := x[s]
		if first != nil && s.kind == userSubject {
			e.share(first.entry)
		}
		l := &e.links[i]
		*l = link{entry: e, next: first}
		if first != nil {
			first.prev = l
		}
		x[s] = l
	}
}

// remove takes an entry out of all lists.
func (x index) remove(e *Entry) {
	for i := range e.links {
		l := &e.links[i]
		if l.next != nil {
			l.next.prev = l.prev
		}
		switch {
		case l.prev != nil:
			l.prev.next = l.next
		case l.next != nil:
			x[e.subjects[i]] = l.next
		default:
			delete(x, e.subjects[i])
		}
		*l = link{}
	}
	e.links = nil
}

// entries returns those that a change of the subject concerns.
func (x index) entries(s subject) []*Entry {
	var list []*Entry
	for l := x[s]; l != nil; l = l.next {
		list = append(list, l.entry)
	}
	return list
}
