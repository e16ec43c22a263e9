package credential

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
)

func TestATokenHasTheDocumentedForm(t *testing.T) {
	for kind, form := range map[Kind]string{
		CLI: `^rgw_cli_[0-9A-Za-z]{57}$`,
		API: `^rgw_api_[0-9A-Za-z]{57}$`,
	} {
		token, err := New(kind)
		if err != nil {
			t.Fatal(err)
		}
		if text := token.Reveal(); !regexp.MustCompile(form).MatchString(text) || len(text) != TokenLength {
			t.Errorf("a token of kind %s does not match %s", kind, form)
		}
		again, err := Parse(token.Reveal())
		if err != nil || again.Hash() != token.Hash() || again.Kind() != kind {
			t.Errorf("a token of kind %s does not parse to itself: %v", kind, err)
		}
		if !strings.HasPrefix(token.Reveal(), token.Prefix()) || len(token.Prefix()) != TokenPrefixLength || !strings.HasSuffix(token.Reveal(), token.LastFour()) {
			t.Errorf("prefix %q or last four %q is not of the token", token.Prefix(), token.LastFour())
		}
	}
	if _, err := New("session"); err == nil {
		t.Error("a token of a kind that does not exist was made")
	}
}

// A token that was once given out must parse for ever: the format may not drift.
func TestATokenOfTheFirstVersionStillParses(t *testing.T) {
	const text = "rgw_api_00000000AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA19sReW"
	token, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	const hash = "474a2fe6714f241c131be04b3b83e3d273f78a4123e620ed20908d59f80a2266"
	if got := fmt.Sprintf("%x", token.Hash()); got != hash {
		t.Errorf("its hash is %s, not %s", got, hash)
	}
}

func TestEveryChangeOfOneCharacterIsNoticed(t *testing.T) {
	token, err := New(API)
	if err != nil {
		t.Fatal(err)
	}
	text := token.Reveal()
	for i := range text {
		for _, c := range []byte("0aZ_%\x00é") {
			if c == text[i] {
				continue
			}
			changed := text[:i] + string(rune(c)) + text[i+1:]
			if _, err := Parse(changed); !errors.Is(err, ErrMalformed) {
				t.Errorf("with %q at %d it still parses", c, i)
			}
		}
	}
	for _, changed := range []string{"", "rgw_", text[1:], text[:len(text)-1], text + "0", " " + text, text + "\n", strings.ToUpper(text)} {
		if _, err := Parse(changed); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d characters parse", len(changed))
		}
	}
}

func TestATokenIsNeverPrinted(t *testing.T) {
	token, err := New(CLI)
	if err != nil {
		t.Fatal(err)
	}
	hidden := token.Reveal()[TokenPrefixLength : TokenLength-TokenChecksumLength]
	holder := struct {
		Token Token
		token Token
		list  []Token
	}{token, token, []Token{token}}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb+"\n", token, &token, holder)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "token", token, "holder", holder)
	encoded, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	all := out.String() + log.String() + string(encoded)
	if strings.Contains(all, hidden) || strings.Contains(all, fmt.Sprintf("%x", hidden)) {
		t.Errorf("the secret shows in %s", all)
	}
	if want := token.Prefix() + "…"; token.String() != want || !strings.Contains(log.String(), want) {
		t.Errorf("it prints as %s, not %s", token, want)
	}
}

func TestTokensDoNotRepeat(t *testing.T) {
	seen := make(map[string]bool)
	counts := make(map[rune]int)
	const n = 2000
	for range n {
		token, err := New(CLI)
		if err != nil {
			t.Fatal(err)
		}
		if seen[token.Reveal()] {
			t.Fatal("a token came twice")
		}
		seen[token.Reveal()] = true
		for _, c := range token.Reveal()[len("rgw_cli_") : TokenLength-TokenChecksumLength] {
			counts[c]++
		}
	}
	// 102,000 characters over 62 digits: 1,645 each, with a standard deviation of 40.
	for _, c := range digits {
		if counts[c] < 1345 || counts[c] > 1945 {
			t.Errorf("%q came %d times: the digits are not drawn evenly", c, counts[c])
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, kind := range []Kind{CLI, API, Session} {
		token, err := New(kind)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(token.Reveal())
		f.Add(token.Reveal()[:40])
	}
	f.Add("rgw_api_00000000AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA19sReW")
	f.Add("rgw_cli_")
	f.Add(strings.Repeat("_", TokenLength))
	f.Fuzz(func(t *testing.T, text string) {
		token, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || token.Kind() != "" || token.Reveal() != "" || token.Prefix() != "" || token.LastFour() != "" {
				t.Fatalf("refused as %v with something left: %v", err, token)
			}
			return
		}
		// Whatever parses is exactly what New writes.
		body := text[:TokenLength-TokenChecksumLength]
		if token.Reveal() != text || string(appendChecksum([]byte(body))) != text || !strings.HasPrefix(text, "rgw_"+string(token.Kind())+"_") {
			t.Fatalf("%q parses to something else", text)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	token, err := New(CLI)
	if err != nil {
		b.Fatal(err)
	}
	text := token.Reveal()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
