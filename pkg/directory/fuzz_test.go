package directory_test

import (
	"net/mail"
	"strings"
	"testing"
	"unicode/utf8"

	"rackgateway/pkg/directory"
)

// An address that is taken is one that the database takes, that mail could be sent to, and that stays as it is when
// it is folded again.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"ana@example.com", "Ana <ana@example.com>", "a@b", "\"a b\"@c", "İ@example.com", "a@[::1]", " a@b\n", "a@b\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		email, err := directory.CheckEmail(s)
		if err != nil {
			if directory.CodeOf(err) != "bad-address" || !utf8.ValidString(err.Error()) || strings.Contains(err.Error(), "%") {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		again, err := directory.CheckEmail(email)
		parsed, parseErr := mail.ParseAddress(email)
		if err != nil || again != email || email != strings.ToLower(email) || len(email) < 3 || len(email) > 254 ||
			parseErr != nil || parsed.Address != email || strings.ContainsAny(email, "\x00 <>\n") {
			t.Errorf("%q is taken as %q (%v, %v)", s, email, err, parseErr)
		}
	})
}

// A cursor from outside opens to what the database can compare, or does not open.
func FuzzCursor(f *testing.F) {
	f.Add("")
	f.Add("AAAA")
	f.Add(strings.Repeat("A", 30))
	f.Fuzz(func(t *testing.T, s string) {
		key, id, err := directory.OpenCursor(s)
		switch {
		case err != nil && directory.CodeOf(err) != "bad-cursor":
			t.Errorf("%q: %v", s, err)
		case err == nil && (!utf8.ValidString(key) || strings.ContainsRune(key, 0)):
			t.Errorf("%q opens to %q", s, key)
		case err == nil && s != "":
			if againKey, againID, err := directory.OpenCursor(directory.SealCursor(key, id)); err != nil || againKey != key || againID != id {
				t.Errorf("%q opens to %q, which seals to another", s, key)
			}
		}
	})
}

// A binding that is read can be written and read again, and names nothing that the database refuses.
func FuzzBinding(f *testing.F) {
	for _, s := range []string{"viewer", "deployer@web-*", "@", "a@b@c", " ops @ web ", "x@*", "%@%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := directory.ParseBinding(s)
		if err != nil {
			if directory.CodeOf(err) == "" || strings.Contains(err.Error(), "%") || !utf8.ValidString(err.Error()) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if again, err := directory.ParseBinding(b.String()); err != nil || again != b {
			t.Errorf("%q is read as %+v, and that as %+v (%v)", s, b, again, err)
		}
	})
}
