package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// appKey is another key that is strong enough.
const appKey = "e04c7a915d3b8f62a1907e4dc6b5389f2d71e8a04c96b3f5d8e1027a6c49b8d3"

// goodAdmin is the least that admin needs to serve.
func goodAdmin(more ...string) []string {
	return append([]string{
		"DOMAIN=gateway.acme.com",
		"DATABASE_URL=postgres://gateway:canary-db@db.acme.com/gateway",
		"AUDIT_MAC_KEY=" + goodKey,
		"APP_SECRET_KEY=" + appKey,
		"PROXY_URL=http://proxy:8080",
		"GOOGLE_CLIENT_ID=client",
		"GOOGLE_CLIENT_SECRET=canary-client",
		"GOOGLE_ALLOWED_DOMAIN=Acme.com",
	}, more...)
}

func TestTheLeastToServeHasItsDefaults(t *testing.T) {
	cfg, report, err := LoadAdminServe(goodAdmin())
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Warnings) != 0 {
		t.Errorf("warnings: %q", report.Warnings)
	}
	s := cfg.SignIn
	if s.Issuer != GoogleIssuer || s.AllowedDomain != "acme.com" || s.ClientID != "client" || s.ClientSecret.Reveal() != "canary-client" || len(s.AdminUsers) != 0 {
		t.Errorf("sign-in is %+v", s)
	}
	if cfg.Server.AdminURL.String() != "https://gateway.acme.com" || cfg.Upstream.ProxyURL.String() != "http://proxy:8080" ||
		!cfg.Database.Migrate || cfg.Database.OwnerGiven || cfg.Secrets.AppKey.Reveal() != appKey {
		t.Errorf("the configuration is %+v", cfg)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, *cfg); strings.Contains(text, "canary") || strings.Contains(text, appKey) {
			t.Errorf("a secret shows with %s", verb)
		}
	}
}

func TestTheFirstPeopleAreListed(t *testing.T) {
	cfg, _, err := LoadAdminServe(goodAdmin(
		"ADMIN_USERS= Ana@Acme.com, ben@acme.com,ana@acme.com,", "VIEWER_USERS=vic@acme.com", "ADMIN_DATABASE_URL=postgres://o@db/gateway", "MIGRATE=off"))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(cfg.SignIn.AdminUsers, cfg.SignIn.ViewerUsers); got != "[ana@acme.com ben@acme.com] [vic@acme.com]" {
		t.Errorf("they are %s", got)
	}
	if cfg.Database.Migrate || !cfg.Database.OwnerGiven {
		t.Errorf("the database is %+v", cfg.Database)
	}
}

func TestEveryMistakeInSigningInIsExplained(t *testing.T) {
	for _, test := range []struct{ set, name, what string }{
		{"GOOGLE_OAUTH_BASE_URL=login.acme.com", "GOOGLE_OAUTH_BASE_URL", "is not an address that begins with https://"},
		{"GOOGLE_OAUTH_BASE_URL=http://login.acme.com", "GOOGLE_OAUTH_BASE_URL", "is http:"},
		{"GOOGLE_OAUTH_BASE_URL=https://login.acme.com/?a=b", "GOOGLE_OAUTH_BASE_URL", "has a user, a query"},
		{"GOOGLE_OAUTH_BASE_URL=https://u:p@login.acme.com/", "GOOGLE_OAUTH_BASE_URL", "has a user, a query"},
		{"GOOGLE_OAUTH_BASE_URL=http://localhost:5556/dex", "", ""},
		{"GOOGLE_OAUTH_BASE_URL=https://login.acme.com/realms/one/", "", ""},
		{"GOOGLE_ALLOWED_DOMAIN=@acme.com", "GOOGLE_ALLOWED_DOMAIN", "is not a domain"},
		{"GOOGLE_ALLOWED_DOMAIN=*", "GOOGLE_ALLOWED_DOMAIN", "is not a domain"},
		{"ADMIN_USERS=ana", "ADMIN_USERS", `has "ana", which is not an e-mail address`},
		{"OPERATIONS_USERS=Ana <ana@acme.com>", "OPERATIONS_USERS", "which is not an e-mail address"},
		{"APP_SECRET_KEY=short", "APP_SECRET_KEY", "is too"},
		{"APP_SECRET_KEY=" + goodKey, "APP_SECRET_KEY", "is the same as AUDIT_MAC_KEY"},
		{"APP_SECRET_KEY_PREVIOUS=changeme", "APP_SECRET_KEY_PREVIOUS", "as examples do"},
		{"PROXY_CA_FILE=/nonexistent/ca.pem", "PROXY_CA_FILE", "cannot be read"},
		{"RGW_SETTING_SESSION_IDLE_MINUTES=4", "RGW_SETTING_SESSION_IDLE_MINUTES", "is not a whole number from 5 to 720"},
		{"MIGRATE=later", "MIGRATE", "is neither true nor false"},
	} {
		_, _, err := LoadAdminServe(goodAdmin(test.set))
		var mistakes *MistakesError
		switch {
		case test.name == "" && err != nil:
			t.Errorf("%s: %v", test.set, err)
		case test.name == "":
		case !errors.As(err, &mistakes) || len(mistakes.Mistakes) != 1 || mistakes.Mistakes[0].Name != test.name || !strings.Contains(mistakes.Mistakes[0].What, test.what):
			t.Errorf("%s: %v, want %s %s", test.set, err, test.name, test.what)
		}
	}
}

// A command uses neither the issuer nor the domain: what is wrong with them does not stop it.
func TestACommandIsNotStoppedByWhatOnlyServingUses(t *testing.T) {
	cfg, _, err := LoadAdmin([]string{
		"DATABASE_URL=postgres://gateway@db.acme.com/gateway", "AUDIT_MAC_KEY=" + goodKey,
		"DOMAIN=https://x", "GOOGLE_ALLOWED_DOMAIN=*", "ADMIN_USERS=ana", "APP_SECRET_KEY=short", "PROXY_URL=ftp://x", "PORT=x",
	})
	if err != nil || cfg.Database.URL.IsZero() {
		t.Errorf("%v", err)
	}
	_, _, err = LoadAdmin([]string{"DOMAIN=https://x", "RGW_SETTING_REAUTH_DAYS=x"})
	var mistakes *MistakesError
	if !errors.As(err, &mistakes) {
		t.Fatal(err)
	}
	var names []string
	for _, m := range mistakes.Mistakes {
		names = append(names, m.Name)
	}
	if want := []string{"DATABASE_URL", "AUDIT_MAC_KEY", "RGW_SETTING_REAUTH_DAYS"}; !slices.Equal(names, want) {
		t.Errorf("the mistakes are about %q, want %q", names, want)
	}
}
