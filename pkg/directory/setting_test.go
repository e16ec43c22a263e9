package directory_test

import (
	"strings"
	"testing"

	"rackgateway/pkg/access"
	"rackgateway/pkg/directory"
)

func TestASettingComesFromTheDatabaseThenTheEnvironmentThenTheDefault(t *testing.T) {
	w := newWorld(t)
	reader := w.ReaderWithDefaults(access.SettingValue{Key: "session_idle_minutes", Value: []byte("20")})
	want := func(value string, source directory.SettingSource) {
		t.Helper()
		s := must[directory.Setting](t)(reader.Setting(t.Context(), "", "session_idle_minutes"))
		if string(s.Value) != value || s.Source != source {
			t.Errorf("it is %s from the %s, want %s from the %s", s.Value, s.Source, value, source)
		}
	}
	want("20", directory.FromEnvironment)
	must[directory.Setting](t)(w.SetSetting(t.Context(), console, "", "session_idle_minutes", []byte(" 5 ")))
	want("5", directory.FromDatabase)
	must[directory.Setting](t)(w.UnsetSetting(t.Context(), console, "", "session_idle_minutes"))
	want("20", directory.FromEnvironment)
	reader = w.Reader
	want("30", directory.FromDefault)
}

func TestAnAppsOwnValueCountsOverTheGateways(t *testing.T) {
	w := newWorld(t)
	reader := w.ReaderWithDefaults(
		access.SettingValue{Key: "deploy_approvals", Value: []byte("true")},
		access.SettingValue{App: "api", Key: "deploy_approvals", Value: []byte("false")},
	)
	want := func(app, value string, source directory.SettingSource, inherited bool) {
		t.Helper()
		s := must[directory.Setting](t)(reader.Setting(t.Context(), app, "deploy_approvals"))
		if string(s.Value) != value || s.Source != source || s.Inherited != inherited || s.App != app {
			t.Errorf("of %q it is %s from the %s (inherited %t), want %s from the %s (%t)", app, s.Value, s.Source, s.Inherited, value, source, inherited)
		}
	}
	want("", "true", directory.FromEnvironment, false)
	want("web", "true", directory.FromEnvironment, true)
	want("api", "false", directory.FromEnvironment, false)

	must[directory.Setting](t)(w.SetSetting(t.Context(), console, "", "deploy_approvals", []byte("false")))
	want("web", "false", directory.FromDatabase, true)
	got := w.since(t, func() {
		must[directory.Setting](t)(w.SetSetting(t.Context(), console, "web", "deploy_approvals", []byte("true")))
		must[directory.Setting](t)(w.SetSetting(t.Context(), console, "api", "deploy_approvals", []byte("true")))
	})
	want("", "false", directory.FromDatabase, false)
	want("web", "true", directory.FromDatabase, false)
	want("api", "true", directory.FromDatabase, false)
	if len(got) != 2 || got[0].App != "web" || !strings.Contains(got[0].Detail, `"old":"false","old_source":"gateway's database"`) {
		t.Errorf("recorded %+v", got)
	}
	all := must[[]directory.Setting](t)(reader.ListSettings(t.Context(), ""))
	for _, s := range all {
		if own := len(s.Apps); (own != 0) != (s.Key == "deploy_approvals") || own != 0 && (own != 2 || s.Apps[0].App != "api" || s.Apps[1].App != "web") {
			t.Errorf("%s: values of apps are %+v", s.Key, s.Apps)
		}
	}
	for _, s := range must[[]directory.Setting](t)(reader.ListSettings(t.Context(), "web")) {
		if !s.PerApp {
			t.Errorf("%s is listed for an app", s.Key)
		}
	}

	must[directory.Setting](t)(w.UnsetSetting(t.Context(), console, "api", "deploy_approvals"))
	want("api", "false", directory.FromEnvironment, false)
	_, err := w.UnsetSetting(t.Context(), console, "api", "deploy_approvals")
	wantCode(t, err, "no-change")
	_, err = w.SetSetting(t.Context(), console, "web", "deploy_approvals", []byte("true"))
	wantCode(t, err, "no-change")
	_, err = w.SetSetting(t.Context(), console, "web", "session_idle_minutes", []byte("5"))
	wantCode(t, err, "not-per-app")
	for _, bad := range []string{"Web", "my_web", "-web", "*", strings.Repeat("a", 64), "we b", "web\n"} {
		_, err = w.SetSetting(t.Context(), console, bad, "deploy_approvals", []byte("true"))
		wantCode(t, err, "bad-app")
	}
}

func TestSettingsAreHeldToTheirTypes(t *testing.T) {
	w := newWorld(t)
	for _, bad := range []struct{ key, value string }{
		{"allow_destructive", "1"}, {"allow_destructive", `"true"`}, {"allow_destructive", ""}, {"allow_destructive", "null"},
		{"session_idle_minutes", "0"}, {"session_idle_minutes", "1e99"}, {"session_idle_minutes", "1.5"}, {"session_idle_minutes", "true"}, {"session_idle_minutes", "5 5"},
	} {
		_, err := w.SetSetting(t.Context(), console, "", bad.key, []byte(bad.value))
		wantCode(t, err, "bad-setting")
	}
	_, err := w.SetSetting(t.Context(), console, "", "nosuch", []byte("true"))
	wantCode(t, err, "no-such-setting")
	_, err = w.UnsetSetting(t.Context(), console, "", "nosuch")
	wantCode(t, err, "no-such-setting")
	_, err = w.Setting(t.Context(), "", "nosuch")
	wantCode(t, err, "no-such-setting")
	_, err = w.UnsetSetting(t.Context(), console, "", "allow_destructive")
	wantCode(t, err, "no-change")
	must[directory.Setting](t)(w.SetSetting(t.Context(), console, "", "allow_destructive", []byte("true")))
	_, err = w.SetSetting(t.Context(), console, "", "allow_destructive", []byte("true"))
	wantCode(t, err, "no-change")
}

func TestTheHistoryOfASettingIsInItsEvents(t *testing.T) {
	w := newWorld(t)
	got := w.since(t, func() {
		must[directory.Setting](t)(w.SetSetting(t.Context(), console, "", "session_idle_minutes", []byte("5")))
		must[directory.Setting](t)(w.SetSetting(t.Context(), console, "", "session_idle_minutes", []byte("7")))
	})
	if len(got) != 2 || !strings.Contains(got[1].Detail, `"new":"7","new_source":"database","old":"5","old_source":"database"`) {
		t.Errorf("recorded %+v", got)
	}
}

func TestAValueThatCannotBeUsedIsShownAndIgnored(t *testing.T) {
	w := newWorld(t)
	if _, err := w.db.ExecContext(t.Context(), `insert into rgw.settings (key, value, updated_by) values ('session_idle_minutes', '"soon"', 'somebody')`); err != nil {
		t.Fatal(err)
	}
	settings := must[[]directory.Setting](t)(w.ListSettings(t.Context(), ""))
	if len(settings) != len(access.SettingDefs()) {
		t.Errorf("%d settings are listed", len(settings))
	}
	s := must[directory.Setting](t)(w.Setting(t.Context(), "", "session_idle_minutes"))
	if s.Source != directory.FromDefault || string(s.Value) != "30" || s.Ignored == "" || s.UpdatedBy != "somebody" {
		t.Errorf("%+v", s)
	}
	must[directory.Setting](t)(w.UnsetSetting(t.Context(), console, "", "session_idle_minutes"))
}
