package secret_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"rackgateway/pkg/secret"
)

const canary = "canary-5f1d"

// holder has secrets where formatting reaches them by reflection, and where it may call their methods.
type holder struct {
	Shown  secret.Text
	inside secret.Text
	deep   struct{ key secret.Bytes }
	Key    secret.Bytes
	ptr    *secret.Text
	list   []secret.Text
	byName map[string]secret.Bytes
}

func newHolder() holder {
	text := secret.NewText(canary)
	h := holder{
		Shown: text, inside: text, Key: secret.NewBytes([]byte(canary)), ptr: &text,
		list: []secret.Text{text}, byName: map[string]secret.Bytes{"k": secret.NewBytes([]byte(canary))},
	}
	h.deep.key = secret.NewBytes([]byte(canary))
	return h
}

func TestASecretIsNeverPrinted(t *testing.T) {
	h := newHolder()
	leaks := []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), strings.Trim(fmt.Sprint([]byte(canary)), "[]")}
	check := func(how, got string) {
		t.Helper()
		for _, leak := range leaks {
			if strings.Contains(got, leak) {
				t.Errorf("%s shows the secret: %s", how, got)
			}
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%10.3s", "%c", "%w"} {
		for _, value := range []any{h, &h, h.Shown, h.Key, &h.Shown, &h.Key, h.list, h.byName, []any{h.Shown, h.Key}, h.deep, fmt.Errorf("with %v", h.Shown)} {
			check(verb, fmt.Sprintf(verb, value))
		}
	}
	check("Print", fmt.Sprint(h, h.Shown, h.Key))
	check("an error", fmt.Errorf("reading %s and %v: %w", h.Shown, h.Key, errors.New("broken")).Error())
	check("String", h.Shown.String()+h.Key.String()+h.Shown.GoString()+h.Key.GoString())

	encoded, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	check("JSON", string(encoded))
	if want := `{"Shown":"[hidden]","Key":"[hidden]"}`; string(encoded) != want {
		t.Errorf("JSON is %s, not %s", encoded, want)
	}
	asXML, err := xml.Marshal(h.Shown)
	if err != nil {
		t.Fatal(err)
	}
	check("XML", string(asXML))

	var log bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(handler).Info("m", "a", h.Shown, "b", h.Key, "c", h, "d", &h, slog.Group("g", "e", h.list))
	}
	check("a log", log.String())
	if !strings.Contains(log.String(), "a=[hidden]") {
		t.Errorf("the log does not say that a value is hidden: %s", log.String())
	}
}

func TestASecretIsRevealedWhenAskedFor(t *testing.T) {
	if got := secret.NewText(canary).Reveal(); got != canary {
		t.Errorf("text revealed as %q", got)
	}
	source := []byte(canary)
	kept := secret.NewBytes(source)
	source[0] = 'X'
	if got := string(kept.Reveal()); got != canary {
		t.Errorf("bytes revealed as %q", got)
	}
	var read secret.Text
	if err := read.UnmarshalText([]byte(canary)); err != nil || read.Reveal() != canary {
		t.Errorf("read as %q, %v", read.Reveal(), err)
	}
}

func TestTheZeroSecretIsEmpty(t *testing.T) {
	var text secret.Text
	var key secret.Bytes
	if !text.IsZero() || text.Reveal() != "" || !key.IsZero() || key.Reveal() != nil {
		t.Error("the zero value holds something")
	}
	if !secret.NewText("").IsZero() || !secret.NewBytes(nil).IsZero() || secret.NewText("x").IsZero() || secret.NewBytes([]byte{0}).IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestSecretsAreEqualByValue(t *testing.T) {
	if !secret.NewText("a").Equal(secret.NewText("a")) || secret.NewText("a").Equal(secret.NewText("b")) || secret.NewText("a").Equal(secret.Text{}) {
		t.Error("texts compare wrongly")
	}
	if !secret.NewBytes([]byte("a")).Equal(secret.NewBytes([]byte("a"))) || secret.NewBytes([]byte("a")).Equal(secret.NewBytes([]byte("ab"))) {
		t.Error("byte strings compare wrongly")
	}
}
