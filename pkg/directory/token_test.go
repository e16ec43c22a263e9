package directory_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
)

const day = 24 * time.Hour

func TestATokenIsKeptAsAHashOnly(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com", "admin")
	token, secret, err := w.CreateToken(t.Context(), console, directory.NewToken{Kind: credential.CLI, Name: "Ana's laptop", Owner: "ANA@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if len(token.Secrets) != 1 || token.Secrets[0].Prefix != secret.Prefix() || token.Secrets[0].LastFour != secret.LastFour() {
		t.Errorf("shown as %+v", token.Secrets)
	}
	var hash []byte
	if err := w.db.GetContext(t.Context(), &hash, `select hash from rgw.token_secrets`); err != nil {
		t.Fatal(err)
	}
	if want := secret.Hash(); !bytes.Equal(hash, want[:]) {
		t.Error("the hash is another one")
	}
	for _, query := range []string{
		`select json_agg(x)::text from rgw.tokens x`, `select json_agg(x)::text from rgw.token_secrets x`, `select json_agg(x)::text from rgw.audit_events x`,
	} {
		var all string
		if err := w.db.GetContext(t.Context(), &all, query); err != nil {
			t.Fatal(err)
		}
		middle := secret.Reveal()[credential.TokenPrefixLength:][:credential.TokenSecretLength]
		if strings.Contains(all, middle[:12]) {
			t.Errorf("%s shows the secret", query)
		}
	}
}

func TestLivesOfTokensFollowTheSettings(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com", "admin")
	create := func(kind credential.Kind, life time.Duration) (directory.Token, error) {
		want := directory.NewToken{Kind: kind, Name: fmt.Sprintf("t%d", w.now.UnixNano()), Owner: "ana@example.com", Life: life}
		if kind == credential.API {
			want.Bindings = bindings(t, "cicd")
		}
		w.now = w.now.Add(time.Second)
		token, _, err := w.CreateToken(t.Context(), console, want)
		return token, err
	}
	for _, c := range []struct {
		kind            credential.Kind
		ask, life, idle time.Duration
	}{
		{credential.CLI, 0, 90 * day, 30 * day}, {credential.CLI, 7 * day, 7 * day, 30 * day}, {credential.CLI, 90 * day, 90 * day, 30 * day},
		{credential.API, 0, 90 * day, 0}, {credential.API, time.Hour, time.Hour, 0},
	} {
		token, err := create(c.kind, c.ask)
		if err != nil || !token.ExpiresAt.Equal(w.now.Add(c.life)) || token.IdleLimit != c.idle {
			t.Errorf("%s asked for %s: %s, idle %s, %v", c.kind, c.ask, token.ExpiresAt.Sub(w.now), token.IdleLimit, err)
		}
	}
	for _, kind := range []credential.Kind{credential.CLI, credential.API} {
		_, err := create(kind, 90*day+time.Second)
		wantCode(t, err, "too-long")
		_, err = create(kind, -1)
		wantCode(t, err, "bad-expiry")
	}
	must[directory.Setting](t)(w.SetSetting(t.Context(), console, "", "api_token_days", []byte("400")))
	if token, err := create(credential.API, 0); err != nil || !token.ExpiresAt.Equal(w.now.Add(400*day)) {
		t.Errorf("%v, %v", token.ExpiresAt, err)
	}
}

func TestWhatATokenMayHave(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com", "admin")
	w.add(t, "loc@example.com")
	must[directory.User](t)(w.Lock(t.Context(), console, "loc@example.com", "x"))
	cli := directory.NewToken{Kind: credential.CLI, Name: "x", Owner: "ana@example.com"}
	api := directory.NewToken{Kind: credential.API, Name: "x", Owner: "ana@example.com", Bindings: bindings(t, "cicd")}
	alter := func(base directory.NewToken, f func(*directory.NewToken)) directory.NewToken { f(&base); return base }
	for _, c := range []struct {
		token directory.NewToken
		code  string
	}{
		{alter(cli, func(n *directory.NewToken) { n.Kind = "session" }), "bad-token-kind"},
		{alter(cli, func(n *directory.NewToken) { n.Name = " " }), "bad-name"},
		{alter(cli, func(n *directory.NewToken) { n.Owner = "" }), "owner-missing"},
		{alter(cli, func(n *directory.NewToken) { n.Owner = "nobody@example.com" }), "no-such-user"},
		{alter(cli, func(n *directory.NewToken) { n.Owner = "loc@example.com" }), "owner-locked"},
		{alter(cli, func(n *directory.NewToken) { n.Bindings = api.Bindings }), "cli-token-has-no-rights"},
		{alter(cli, func(n *directory.NewToken) { n.Sources = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }), "cli-token-has-no-rights"},
		{alter(api, func(n *directory.NewToken) { n.Headless = true }), "bad-headless"},
		{alter(api, func(n *directory.NewToken) { n.Bindings = nil }), "no-rights"},
		{alter(api, func(n *directory.NewToken) { n.Permissions = []string{"convox:app:list"} }), "roles-and-permissions"},
		{alter(api, func(n *directory.NewToken) { n.Bindings = []directory.Binding{{Role: "nosuch"}} }), "no-such-role"},
		{alter(api, func(n *directory.NewToken) { n.Bindings, n.Permissions = nil, []string{"convox:app:lost"} }), "bad-permission"},
		{alter(api, func(n *directory.NewToken) { n.Sources = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/8")} }), "bad-network"},
		{alter(api, func(n *directory.NewToken) { n.Sources = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")} }), "bad-network"},
		{alter(api, func(n *directory.NewToken) { n.Sources = []netip.Prefix{{}} }), "bad-network"},
	} {
		_, secret, err := w.CreateToken(t.Context(), console, c.token)
		wantCode(t, err, c.code)
		if secret.Kind() != "" {
			t.Errorf("%s: a secret came with the refusal", c.code)
		}
	}
	api.Sources = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("10.0.0.0/8")}
	token, _, err := w.CreateToken(t.Context(), console, api)
	if err != nil || !slices.Equal(token.Sources, api.Sources[:2]) {
		t.Errorf("networks %v, %v", token.Sources, err)
	}
	_, _, err = w.CreateToken(t.Context(), console, api)
	wantCode(t, err, "token-exists")
	must[directory.Token](t)(w.Revoke(t.Context(), console, "x", "again"))
	if _, _, err = w.CreateToken(t.Context(), console, api); err != nil {
		t.Errorf("the name of a revoked token is not free: %v", err)
	}
}

func TestARotationKeepsTheOldSecretUntilItsDeadline(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com", "admin")
	first, _, err := w.CreateToken(t.Context(), console, directory.NewToken{Kind: credential.API, Name: "ci", Owner: "ana@example.com", Bindings: bindings(t, "cicd")})
	if err != nil {
		t.Fatal(err)
	}
	rotate := func(r directory.Rotation) (directory.Token, credential.Token, error) {
		w.now = w.now.Add(time.Minute)
		return w.Rotate(t.Context(), console, "ci", r)
	}
	token, second, err := rotate(directory.Rotation{KeepOld: day})
	if err != nil || token.ID != first.ID || !token.ExpiresAt.Equal(first.ExpiresAt) || len(token.Secrets) != 2 {
		t.Fatalf("%+v, %v", token, err)
	}
	if token.Secrets[0].Prefix != second.Prefix() || token.Secrets[0].ValidUntil != nil || !token.Secrets[1].ValidUntil.Equal(w.now.Add(day)) {
		t.Errorf("secrets %+v", token.Secrets)
	}
	firstDeadline := *token.Secrets[1].ValidUntil

	token, _, err = rotate(directory.Rotation{KeepOld: 7 * day, Life: 30 * day})
	if err != nil || len(token.Secrets) != 3 || !token.ExpiresAt.Equal(w.now.Add(30*day)) {
		t.Fatalf("%+v, %v", token, err)
	}
	if !token.Secrets[2].ValidUntil.Equal(firstDeadline) {
		t.Error("a later rotation lengthened the life of a secret that had a deadline")
	}

	token, _, err = rotate(directory.Rotation{})
	if err != nil || len(token.Secrets) != 1 {
		t.Errorf("after a rotation that keeps nothing: %+v, %v", token.Secrets, err)
	}
	for _, r := range []directory.Rotation{{KeepOld: -1}, {KeepOld: 31 * day}} {
		_, _, err = rotate(r)
		wantCode(t, err, "bad-deadline")
	}
	_, _, err = rotate(directory.Rotation{Life: 91 * day})
	wantCode(t, err, "too-long")
	w.now = w.now.Add(31 * day)
	_, _, err = rotate(directory.Rotation{Life: day})
	wantCode(t, err, "token-expired")
	_, _, err = w.Rotate(t.Context(), console, "nosuch", directory.Rotation{})
	wantCode(t, err, "no-such-token")
}

func TestTokensAreFoundByIDPrefixAndName(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com", "admin")
	w.add(t, "dan@example.com", "viewer")
	create := func(owner string) (directory.Token, credential.Token) {
		token, secret, err := w.CreateToken(t.Context(), console, directory.NewToken{Kind: credential.CLI, Name: "laptop", Owner: owner})
		if err != nil {
			t.Fatal(err)
		}
		return token, secret
	}
	ana, secret := create("ana@example.com")
	for _, ref := range []string{"laptop", ana.ID.String(), secret.Prefix()} {
		if found, err := w.Token(t.Context(), ref); err != nil || found.ID != ana.ID {
			t.Errorf("by %q: %v", ref, err)
		}
	}
	dan, _ := create("dan@example.com")
	_, err := w.Token(t.Context(), "laptop")
	wantCode(t, err, "token-ambiguous")
	must[directory.Token](t)(w.Revoke(t.Context(), console, ana.ID.String(), "lost"))
	if found, err := w.Token(t.Context(), "laptop"); err != nil || found.ID != dan.ID {
		t.Errorf("the living one of two is not found: %v", err)
	}
	_, err = w.Revoke(t.Context(), console, ana.ID.String(), "again")
	wantCode(t, err, "token-revoked")
	_, err = w.Revoke(t.Context(), console, "laptop", "")
	wantCode(t, err, "reason-missing")
	for _, ref := range []string{"", "nosuch", "\x00", "\xff", strings.Repeat("x", 10_000)} {
		_, err = w.Token(t.Context(), ref)
		wantCode(t, err, "no-such-token")
	}
}

func TestTokensAreListedNewestFirstByPages(t *testing.T) {
	w := newWorld(t)
	ana := w.add(t, "ana@example.com", "admin")
	w.add(t, "dan@example.com", "viewer")
	for i := range 12 {
		owner, kind := "ana@example.com", credential.CLI
		want := directory.NewToken{Name: fmt.Sprintf("token-%02d", i)}
		if i%3 == 0 {
			owner = "dan@example.com"
		}
		if i%4 == 0 {
			kind, want.Bindings = credential.API, bindings(t, "cicd@web", "viewer")
		}
		want.Owner, want.Kind = owner, kind
		if i%2 == 0 { // some of one moment
			w.now = w.now.Add(time.Second)
		}
		if _, _, err := w.CreateToken(t.Context(), console, want); err != nil {
			t.Fatal(err)
		}
	}
	must[directory.Token](t)(w.Revoke(t.Context(), console, "token-05", "x"))
	list := func(f directory.TokenFilter) []directory.Token {
		var all []directory.Token
		for {
			page := must[directory.Page[directory.Token]](t)(w.ListTokens(t.Context(), f))
			all = append(all, page.Items...)
			if f.After = page.Next; page.Next == "" {
				return all
			}
		}
	}
	all := list(directory.TokenFilter{Limit: 5})
	if len(all) != 11 || !slices.IsSortedFunc(all, func(a, b directory.Token) int { return b.CreatedAt.Compare(a.CreatedAt) }) {
		t.Errorf("listed %d", len(all))
	}
	seen := map[string]bool{}
	for _, token := range all {
		seen[token.Name] = true
		if (token.Kind == credential.API) != (len(token.Bindings) == 2) || len(token.Secrets) != 1 {
			t.Errorf("%s is listed as %+v", token.Name, token)
		}
	}
	if len(seen) != 11 || seen["token-05"] {
		t.Errorf("listed %v", seen)
	}
	if n := len(list(directory.TokenFilter{Ended: true, Limit: 1})); n != 12 {
		t.Errorf("with the revoked, %d", n)
	}
	if n := len(list(directory.TokenFilter{Owner: ana.ID.String()})); n != 7 {
		t.Errorf("of ana, %d", n)
	}
	if n := len(list(directory.TokenFilter{Kind: credential.API})); n != 3 {
		t.Errorf("API tokens, %d", n)
	}
	if n := len(list(directory.TokenFilter{Search: "TOKEN-0"})); n != 9 {
		t.Errorf("by name, %d", n)
	}
	if n := len(list(directory.TokenFilter{Search: all[0].Secrets[0].Prefix})); n != 1 {
		t.Errorf("by prefix, %d", n)
	}
	if n := len(list(directory.TokenFilter{Search: all[0].Secrets[0].Prefix + "and the rest of a secret"})); n != 1 {
		t.Errorf("by a whole token, %d", n)
	}
	if n := len(list(directory.TokenFilter{Search: "rgw_", Limit: 3})); n != 11 {
		t.Errorf("by what all begin with, %d", n)
	}
	for _, none := range []string{"ken-0", "%", "'", "rgw_cli_%", "token' | 'x", strings.Repeat("ü", 500)} {
		if n := len(list(directory.TokenFilter{Search: none})); n != 0 {
			t.Errorf("%q finds %d", none, n)
		}
	}
	w.now = w.now.Add(91 * day)
	if n := len(list(directory.TokenFilter{})); n != 0 {
		t.Errorf("%d are listed after they expired", n)
	}
	_, err := w.ListTokens(t.Context(), directory.TokenFilter{After: "x"})
	wantCode(t, err, "bad-cursor")
	_, err = w.ListTokens(t.Context(), directory.TokenFilter{Owner: "nobody@example.com"})
	wantCode(t, err, "no-such-user")
}

func TestAPITokensCanBeGivenOtherRightsAndCLITokensCannot(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com", "admin")
	for kind, name := range map[credential.Kind]string{credential.API: "ci", credential.CLI: "laptop"} {
		want := directory.NewToken{Kind: kind, Name: name, Owner: "ana@example.com"}
		if kind == credential.API {
			want.Bindings = bindings(t, "cicd@web")
		}
		if _, _, err := w.CreateToken(t.Context(), console, want); err != nil {
			t.Fatal(err)
		}
	}
	token := must[directory.Token](t)(w.SetTokenRights(t.Context(), console, "ci", directory.TokenRights{Permissions: []string{"convox:app:list"}}))
	if len(token.Bindings) != 0 || !slices.Equal(token.Permissions, []string{"convox:app:list"}) {
		t.Errorf("%+v", token)
	}
	token = must[directory.Token](t)(w.SetTokenRights(t.Context(), console, "ci", directory.TokenRights{Bindings: bindings(t, "viewer", "cicd@api")}))
	if len(token.Bindings) != 2 || token.Permissions != nil {
		t.Errorf("%+v", token)
	}
	_, err := w.SetTokenRights(t.Context(), console, "ci", directory.TokenRights{Bindings: bindings(t, "cicd@api", "viewer")})
	wantCode(t, err, "no-change")
	_, err = w.SetTokenRights(t.Context(), console, "ci", directory.TokenRights{})
	wantCode(t, err, "no-rights")
	_, err = w.SetTokenRights(t.Context(), console, "laptop", directory.TokenRights{Bindings: bindings(t, "viewer")})
	wantCode(t, err, "cli-token-has-no-rights")
}

func TestACLITokenWhoseOwnerHasNotSignedInForLongIsShownAsDue(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com", "admin")
	for kind, name := range map[credential.Kind]string{credential.API: "ci", credential.CLI: "laptop"} {
		want := directory.NewToken{Kind: kind, Name: name, Owner: "ana@example.com"}
		if kind == credential.API {
			want.Bindings = bindings(t, "cicd")
		}
		if _, _, err := w.CreateToken(t.Context(), console, want); err != nil {
			t.Fatal(err)
		}
	}
	states := func(laptop string) {
		t.Helper()
		for name, want := range map[string]string{"laptop": laptop, "ci": "active"} {
			token := must[directory.Token](t)(w.Token(t.Context(), name))
			if got := token.State(w.now); got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
			if (token.SignInDue != nil) != (name == "laptop") {
				t.Errorf("a sign-in is due for %s at %v", name, token.SignInDue)
			}
		}
	}
	states("active")
	w.now = w.now.Add(7*day - time.Second)
	states("active")
	w.now = w.now.Add(time.Second)
	states("sign-in due")
	must[directory.Session](t)(w.BeginSession(t.Context(), console, directory.NewSession{Email: "ana@example.com", Hash: sha256.Sum256([]byte("x")), UserAgent: "browser"}))
	states("active")
	must[directory.Setting](t)(w.SetSetting(t.Context(), console, "", "reauth_days", []byte("1")))
	w.now = w.now.Add(day)
	states("sign-in due")
}
