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
)

// subject is something whose change concerns the entries that were made from it.
type subject struct {
	kind subjectKind
	id   uuid.UUID // of a user or token
	name string    // of a role
}

// index finds the entries that a change concerns. Each entry is in one list for each of its subjects;
// the lists run through the entries' own links, so that a hundred thousand entries need no sets. It
// has no lock of its own.
type index map[subject]*members

type members struct {
	subject subject
	first   *link
}

type link struct {
	entry      *Entry
	of         *members
	prev, next *link
}

// add puts an entry into the lists of its subjects.
func (x index) add(e *Entry) {
	e.links = make([]link, len(e.subjects))
	for i, s := range e.subjects {
		m := x[s]
		if m == nil {
			m = &members{subject: s}
			x[s] = m
		}
		l := &e.links[i]
		l.entry, l.of, l.next = e, m, m.first
		if m.first != nil {
			m.first.prev = l
		}
		m.first = l
	}
}

// remove takes an entry out of all lists.
func (x index) remove(e *Entry) {
	for i := range e.links {
		l := &e.links[i]
		if l.next != nil {
			l.next.prev = l.prev
		}
		if l.prev != nil {
			l.prev.next = l.next
		} else if l.of.first = l.next; l.next == nil {
			delete(x, l.of.subject)
		}
	}
	e.links = nil
}

// entries returns those that a change of the subject concerns.
func (x index) entries(s subject) []*Entry {
	var list []*Entry
	if m := x[s]; m != nil {
		for l := m.first; l != nil; l = l.next {
			list = append(list, l.entry)
		}
	}
	return list
}
