package directory_test

import (
	"encoding/json"
	"strings"
	"testing"

	"rackgateway/pkg/access"
	"rackgateway/pkg/directory"
)

func TestASettingComesFromTheDatabaseThenTheEnvironmentThenTheDefault(t *testing.T) {
	w := newWorld(t)
	environment := map[string]string{"session_idle_minutes": "20"}
	reader := w.ReaderWithDefaults(func(key string) (json.RawMessage, bool) {
		value, ok := environment[key]
		return json.RawMessage(value), ok
	})
	want := func(value string, source directory.SettingSource) {
		t.Helper()
		s := must[directory.Setting](t)(reader.Setting(t.Context(), "session_idle_minutes"))
		if string(s.Value) != value || s.Source != source {
			t.Errorf("it is %s from the %s, want %s from the %s", s.Value, s.Source, value, source)
		}
	}
	want("20", directory.FromEnvironment)
	must[directory.Setting](t)(w.SetSetting(t.Context(), console, "session_idle_minutes", []byte(" 5 ")))
	want("5", directory.FromDatabase)
	must[directory.Setting](t)(w.UnsetSetting(t.Context(), console, "session_idle_minutes"))
	want("20", directory.FromEnvironment)
	delete(environment, "session_idle_minutes")
	want("30", directory.FromDefault)
}

func TestSettingsAreHeldToTheirTypes(t *testing.T) {
	w := newWorld(t)
	for _, bad := range []struct{ key, value string }{
		{"allow_destructive", "1"}, {"allow_destructive", `"true"`}, {"allow_destructive", ""}, {"allow_destructive", "null"},
		{"session_idle_minutes", "0"}, {"session_idle_minutes", "1e99"}, {"session_idle_minutes", "1.5"}, {"session_idle_minutes", "true"}, {"session_idle_minutes", "5 5"},
	} {
		_, err := w.SetSetting(t.Context(), console, bad.key, []byte(bad.value))
		wantCode(t, err, "bad-setting")
	}
	_, err := w.SetSetting(t.Context(), console, "nosuch", []byte("true"))
	wantCode(t, err, "no-such-setting")
	_, err = w.UnsetSetting(t.Context(), console, "nosuch")
	wantCode(t, err, "no-such-setting")
	_, err = w.Setting(t.Context(), "nosuch")
	wantCode(t, err, "no-such-setting")
	_, err = w.UnsetSetting(t.Context(), console, "allow_destructive")
	wantCode(t, err, "no-change")
	must[directory.Setting](t)(w.SetSetting(t.Context(), console, "allow_destructive", []byte("true")))
	_, err = w.SetSetting(t.Context(), console, "allow_destructive", []byte("true"))
	wantCode(t, err, "no-change")
}

func TestTheHistoryOfASettingIsInItsEvents(t *testing.T) {
	w := newWorld(t)
	got := w.since(t, func() {
		must[directory.Setting](t)(w.SetSetting(t.Context(), console, "session_idle_minutes", []byte("5")))
		must[directory.Setting](t)(w.SetSetting(t.Context(), console, "session_idle_minutes", []byte("7")))
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
	settings := must[[]directory.Setting](t)(w.ListSettings(t.Context()))
	if len(settings) != len(access.SettingDefs()) {
		t.Errorf("%d settings are listed", len(settings))
	}
	s := must[directory.Setting](t)(w.Setting(t.Context(), "session_idle_minutes"))
	if s.Source != directory.FromDefault || string(s.Value) != "30" || s.Ignored == "" || s.UpdatedBy != "somebody" {
		t.Errorf("%+v", s)
	}
	must[directory.Setting](t)(w.UnsetSetting(t.Context(), console, "session_idle_minutes"))
}
