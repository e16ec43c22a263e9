package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
)

const (
	first  = "5b1d0e7c93a84f26b7c4d98e0f13a65279c8e4b1d6f02a3b8c5d7e9f10a2b3c4"
	second = "e04c7a915d3b8f62a1907e4dc6b5389f2d71e8a04c96b3f5d8e1027a6c49b8d3"
)

func keys(t testing.TB, current, previous string) seal.Keys {
	t.Helper()
	k, err := seal.NewKeys(secret.NewText(current), secret.NewText(previous))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestWhatIsSealedOpensForItsIdentityAndPurposeAlone(t *testing.T) {
	k := keys(t, first, "")
	box := k.Box("totp secret")
	plain := []byte("JBSWY3DPEHPK3PXP")
	sealed := box.Seal(plain, "factor 7")
	if len(sealed) != len(plain)+seal.Overhead || bytes.Contains(sealed, plain) {
		t.Errorf("sealed is %x", sealed)
	}
	if again := box.Seal(plain, "factor 7"); bytes.Equal(again, sealed) {
		t.Error("the same is sealed twice in the same way, which shows that it is the same")
	}
	if got, err := box.Open(sealed, "factor 7"); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("opens as %q, %v", got, err)
	}
	for what, open := range map[string]func() ([]byte, error){
		"for another row":     func() ([]byte, error) { return box.Open(sealed, "factor 8") },
		"for another purpose": func() ([]byte, error) { return k.Box("signing key").Open(sealed, "factor 7") },
		"with another key":    func() ([]byte, error) { return keys(t, second, "").Box("totp secret").Open(sealed, "factor 7") },
		"nothing":             func() ([]byte, error) { return box.Open(nil, "factor 7") },
	} {
		if got, err := open(); !errors.Is(err, seal.ErrSealed) || got != nil {
			t.Errorf("%s: opens as %q, %v", what, got, err)
		}
	}
	for i := range sealed { // each bit counts, the version and the key's id too
		for bit := range 8 {
			changed := bytes.Clone(sealed)
			changed[i] ^= 1 << bit
			if _, err := box.Open(changed, "factor 7"); !errors.Is(err, seal.ErrSealed) {
				t.Fatalf("opens with bit %d of byte %d changed", bit, i)
			}
		}
		if _, err := box.Open(sealed[:i], "factor 7"); !errors.Is(err, seal.ErrSealed) {
			t.Fatalf("opens cut to %d bytes", i)
		}
	}
}

func TestAKeyIsRotatedWithoutAnInterruption(t *testing.T) {
	before := keys(t, first, "").Box("a purpose")
	during := keys(t, second, first).Box("a purpose")
	after := keys(t, second, "").Box("a purpose")
	old := before.Seal([]byte("text"), "row")
	if got, err := during.Open(old, "row"); err != nil || string(got) != "text" {
		t.Errorf("during the rotation it opens as %q, %v", got, err)
	}
	again, changed, err := during.Reseal(old, "row")
	if err != nil || !changed {
		t.Fatalf("resealed: %t, %v", changed, err)
	}
	if got, err := after.Open(again, "row"); err != nil || string(got) != "text" {
		t.Errorf("after the rotation it opens as %q, %v", got, err)
	}
	if _, err := after.Open(old, "row"); !errors.Is(err, seal.ErrSealed) {
		t.Errorf("the old key still counts: %v", err)
	}
	if same, changed, err := during.Reseal(again, "row"); err != nil || changed || !bytes.Equal(same, again) {
		t.Errorf("a second time it is changed: %t, %v", changed, err)
	}
	if _, _, err := during.Reseal(again, "another row"); !errors.Is(err, seal.ErrSealed) {
		t.Errorf("resealed for another row: %v", err)
	}
}

func TestASignatureHoldsForItsDataAndPurposeAlone(t *testing.T) {
	k := keys(t, first, "")
	signature := k.Signer("csrf").Sign([]byte("session"))
	for what, test := range map[string]struct {
		signer *seal.Signer
		data   string
		good   bool
	}{
		"as it was made":         {k.Signer("csrf"), "session", true},
		"during a rotation":      {keys(t, second, first).Signer("csrf"), "session", true},
		"after a rotation":       {keys(t, second, "").Signer("csrf"), "session", false},
		"of another session":     {k.Signer("csrf"), "another", false},
		"for another purpose":    {k.Signer("cursor"), "session", false},
		"by an empty key before": {keys(t, second, "").Signer("csrf"), "", false},
	} {
		if got := test.signer.Verify([]byte(test.data), signature); got != test.good {
			t.Errorf("%s: good is %t", what, got)
		}
	}
	if k.Signer("csrf").Verify([]byte("session"), nil) || k.Signer("csrf").Verify([]byte("session"), signature[:16]) {
		t.Error("a part of a signature is good")
	}
}

func TestKeysAreLongEnoughAndCannotBePrinted(t *testing.T) {
	for _, bad := range [][2]string{{"", ""}, {"short", ""}, {first, "short"}} {
		if _, err := seal.NewKeys(secret.NewText(bad[0]), secret.NewText(bad[1])); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	k := keys(t, first, second)
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%#v %+v", k, k), fmt.Sprintf("%+v", k.Signer("x"))} {
		if strings.Contains(text, first[:8]) || strings.Contains(text, second[:8]) {
			t.Errorf("prints as %s", text)
		}
	}
}

func FuzzOpen(f *testing.F) {
	box := keys(f, first, second).Box("fuzz")
	f.Add(box.Seal([]byte("text"), "row"), "row")
	f.Add([]byte{1}, "")
	f.Fuzz(func(t *testing.T, sealed []byte, identity string) {
		plain, err := box.Open(sealed, identity)
		if err != nil {
			return
		}
		// Only what was sealed opens: the seeds, and nobody forges another within a test's time.
		if string(plain) != "text" || identity != "row" {
			t.Errorf("%x opens as %q", sealed, plain)
		}
	})
}
