package mfa_test

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rackgateway/pkg/mfa"
)

// Whatever a link says, an approval goes to a port of the machine that the browser runs on, and arrives there as it was.
func FuzzCallback(f *testing.F) {
	for _, seed := range []string{
		"http://localhost:8123", "http://127.0.0.1:1/", "http://localhost:65536", "https://localhost:1", "http://localhost:80@evil.example.com",
		"http://localhost.evil.example.com:9", "http://localhost:80\\@evil.example.com", "http://localhost:1/\nhttp://evil.example.com", "http://[::1]:9", "HTTP://LOCALHOST:9",
		"http://localhost:١", "http://127.0.0.1:80#@evil.example.com/", "http://localhost:9?x=http://evil.example.com", "javascript:alert(1)", "//localhost:1", "",
	} {
		f.Add(seed, []byte{0, 255, '+', '/', '='})
	}
	f.Fuzz(func(t *testing.T, text string, data []byte) {
		to, ok := mfa.Callback(text, data)
		if !ok {
			if to != "" {
				t.Fatalf("%q is refused, and leads to %q", text, to)
			}
			return
		}
		// As a browser reads it: tabs and line ends are dropped, and \ is /.
		u, err := url.Parse(strings.NewReplacer("\t", "", "\n", "", "\r", "", "\\", "/").Replace(to))
		if err != nil || u.Scheme != "http" || u.User != nil || u.Path != "/" || u.Fragment != "" || u.Opaque != "" {
			t.Fatalf("%q leads to %q (%v)", text, to, err)
		}
		if host := u.Hostname(); host != "localhost" && host != "127.0.0.1" || u.Port() == "" {
			t.Fatalf("%q leads to %q", text, to)
		}
		// As the stock CLI reads it.
		if values := u.Query(); len(values) != 1 || len(values["data"]) != 1 {
			t.Fatalf("%q leads to %q", text, to)
		}
		got, err := base64.StdEncoding.DecodeString(u.Query().Get("data"))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%x arrives as %x (%v)", data, got, err)
		}
	})
}

// A link is of one challenge or of none: the same one however it is written.
func FuzzStepUpLink(f *testing.F) {
	id := "6f1c2f0e-8a50-4cc3-98c4-dc0c0c07398f"
	for _, seed := range []string{id, base64.StdEncoding.EncodeToString([]byte(id)), strings.ToUpper(id), "{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""), base64.StdEncoding.EncodeToString([]byte("{" + id[1:] + "}")), "", "AA==", id + " "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := mfa.StepUpID(text)
		if !ok {
			return
		}
		plain := text
		if raw, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(text, " ", "+")); err == nil && len(text) != 36 {
			plain = string(raw)
		}
		if got == uuid.Nil && !strings.Contains(plain, "0000") || !strings.EqualFold(got.String(), plain) {
			t.Fatalf("%q is taken for %s", text, got)
		}
	})
}
