package notify_test

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
)

// What Postmark's webhook sends is kept only as an address and a sentence that the database and a page can hold.
func FuzzBounce(f *testing.F) {
	f.Add([]byte(`{"RecordType":"Bounce","Type":"HardBounce","Email":"Dan@acme.com","Description":"The server was unable to deliver your message.","Inactive":true}`))
	f.Add([]byte(`{"RecordType":"SpamComplaint","Email":"dan@acme.com\u0000"}`))
	f.Add([]byte(`{"RecordType":"SubscriptionChange","Recipient":"dan@acme.com","SuppressSending":true,"SuppressionReason":"\ud800\u202e\r\nx"}`))
	f.Add([]byte(`{"RecordType":["Bounce"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		address, state, reason, err := notify.BounceOf(text)
		if err != nil {
			return
		}
		if !slices.Contains([]string{"", "bounced", "complained", "fine"}, state) {
			t.Errorf("the state is %q", state)
		}
		for _, s := range []string{address, reason} {
			if !utf8.ValidString(s) || strings.ContainsAny(s, "\x00\r\n\u202e") || len(s) > notify.Longest+len("…") {
				t.Errorf("%q would be kept", s)
			}
		}
		if state != "" && (len(address) < 3 || address != strings.ToLower(address)) {
			t.Errorf("an address would be kept as %q", address)
		}
	})
}

// Nobody makes a button, and nobody makes another one of one that the gateway made.
func FuzzButton(f *testing.F) {
	keys, err := seal.NewKeys(secret.NewText(strings.Repeat("application key of tests ", 4)), secret.Text{})
	if err != nil {
		f.Fatal(err)
	}
	now := time.Date(2026, 11, 23, 15, 4, 5, 0, time.UTC)
	s := notify.New(notify.Config{Keys: keys, Console: gateway, Now: func() time.Time { return now }})
	good := s.SignButton("approve", "deploy 7", now.Add(time.Hour))
	f.Add("approve", good)
	f.Add("reject", good)
	f.Add("approve", good+"=")
	f.Add("approve", base64.RawURLEncoding.EncodeToString([]byte(`{"n":"approve","s":"deploy 8","u":9999999999}`))+".")
	f.Fuzz(func(t *testing.T, name, value string) {
		subject, opened := notify.OpenButton(s, name, value)
		if !opened {
			if name == "approve" && value == good {
				t.Error("the gateway's own button does not open")
			}
			return
		}
		if name != "approve" || subject != "deploy 7" {
			t.Errorf("%q opens as %s of %s", value, name, subject)
		}
	})
}

// What is taken for a pattern is one, stays as it is, and can be held against any event.
func FuzzPattern(f *testing.F) {
	for _, seed := range []string{"*", "user.*", "App:Delete", "refused", "alert", "user.%", ".*", "a.b.c", "x\u0130.y", " * "} {
		f.Add(seed, "app.delete")
	}
	form := regexp.MustCompile(`^(\*|refused|alert|[a-z_-]+\.(\*|[a-z_-]+))$`)
	f.Fuzz(func(t *testing.T, text, action string) {
		pattern, ok := notify.CheckPattern(text)
		if !ok {
			return
		}
		if !form.MatchString(pattern) || len(pattern) > 64 {
			t.Errorf("%q is taken as %q", text, pattern)
		}
		if again, ok := notify.CheckPattern(pattern); !ok || again != pattern {
			t.Errorf("%q becomes %q the second time", pattern, again)
		}
		e := audit.NewEvent(time.Now())
		e.Action = action
		if prefix, open := strings.CutSuffix(pattern, "*"); notify.Matches(pattern, e) && (open && !strings.HasPrefix(action, prefix) || !open && action != pattern) {
			t.Errorf("%s matches %q", pattern, action)
		}
		pause := notify.RetryAfter(map[string][]string{"Retry-After": {text}}, time.Now())
		if pause < 0 || pause > time.Hour {
			t.Errorf("%q is a pause of %s", text, pause)
		}
	})
}
