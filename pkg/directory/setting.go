package directory

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"rackgateway/pkg/access"
	"rackgateway/pkg/credential"
)

// Setting is one setting with the value in force, for the gateway or for an app.
type Setting struct {
	access.SettingDef
	App    string // "" for the gateway
	Value  json.RawMessage
	Source SettingSource
	// Inherited says that an app has no value of its own: the gateway's is in force, and Source is where that is from.
	Inherited bool
	UpdatedAt *time.Time // when the database's own value was set, for this app or for the gateway
	UpdatedBy string
	// Ignored is a value in the database that cannot be used, with the reason; what is in force comes from
	// elsewhere. It can only have been put there around the gateway, or by another version.
	Ignored string
	// Apps are the values that apps have of their own, by their names, of a setting of the gateway.
	Apps []Setting
}

// SettingSource says where a setting's value comes from.
type SettingSource string

// The sources, each counting over the next. An app's own value, from wherever, counts over the gateway's.
const (
	FromDatabase    SettingSource = "database"
	FromEnvironment SettingSource = "environment"
	FromDefault     SettingSource = "default"
)

type settingRow struct {
	Key       string          `db:"key"`
	App       string          `db:"app"`
	Value     json.RawMessage `db:"value"`
	UpdatedAt time.Time       `db:"updated_at"`
	UpdatedBy string          `db:"updated_by"`
}

const listSettings = `
select s.key, s.app, s.value, s.updated_at, s.updated_by from rgw.settings s order by s.app, s.key`

// ListSettings returns every setting there is, in the order in which the program defines them; for an app, those that
// it can have values of its own for.
func (r *Reader) ListSettings(ctx context.Context, app string) ([]Setting, error) {
	var settings []Setting
	err := r.view(ctx, func(tx *readTx) (err error) {
		settings, err = tx.settings(ctx, app)
		return err
	})
	return settings, err
}

// Setting returns one setting, for an app or, where that is empty, for the gateway.
func (r *Reader) Setting(ctx context.Context, app, key string) (Setting, error) {
	var setting Setting
	err := r.view(ctx, func(tx *readTx) (err error) {
		setting, err = tx.setting(ctx, app, key)
		return err
	})
	return setting, err
}

func (tx *readTx) settings(ctx context.Context, app string) ([]Setting, error) {
	if app != "" {
		if err := checkSettingApp(app); err != nil {
			return nil, err
		}
	}
	var rows []settingRow
	if err := tx.sel(ctx, &rows, listSettings); err != nil {
		return nil, wrap("reading settings", err)
	}
	var settings []Setting
	for _, def := range access.SettingDefs() {
		if app == "" {
			setting := resolve(def, "", rows, tx.defaults)
			setting.Apps = ownValues(def, rows, tx.defaults)
			settings = append(settings, setting)
		} else if def.PerApp {
			settings = append(settings, resolve(def, app, rows, tx.defaults))
		}
	}
	return settings, nil
}

// resolve finds the value in force: an app's own, from the database or the environment, or else the gateway's, from
// the database, the environment, or the program.
func resolve(def access.SettingDef, app string, rows []settingRow, defaults []access.SettingValue) Setting {
	setting := Setting{SettingDef: def, App: app, Value: def.DefaultJSON(), Source: FromDefault}
	if app != "" {
		of := resolve(def, "", rows, defaults)
		setting.Value, setting.Source, setting.Inherited = of.Value, of.Source, true
	}
	for _, d := range defaults {
		if d.App == app && d.Key == def.Key {
			setting.Value, setting.Source, setting.Inherited = d.Value, FromEnvironment, false
		}
	}
	for i := range rows {
		row := &rows[i]
		if row.App != app || row.Key != def.Key {
			continue
		}
		setting.UpdatedAt, setting.UpdatedBy = &row.UpdatedAt, row.UpdatedBy
		if err := def.Validate(row.Value); err != nil {
			setting.Ignored = err.Error()
		} else {
			setting.Value, setting.Source, setting.Inherited = row.Value, FromDatabase, false
		}
	}
	return setting
}

// ownValues are the values that apps have of their own.
func ownValues(def access.SettingDef, rows []settingRow, defaults []access.SettingValue) []Setting {
	if !def.PerApp {
		return nil
	}
	var apps []string
	for _, d := range defaults {
		if d.Key == def.Key && d.App != "" {
			apps = append(apps, d.App)
		}
	}
	for _, row := range rows {
		if row.Key == def.Key && row.App != "" && access.CheckAppName(row.App) == nil {
			apps = append(apps, row.App)
		}
	}
	slices.Sort(apps)
	var own []Setting
	for _, app := range slices.Compact(apps) {
		own = append(own, resolve(def, app, rows, defaults))
	}
	return own
}

func (tx *readTx) setting(ctx context.Context, app, key string) (Setting, error) {
	if _, err := settingDef(app, key); err != nil {
		return Setting{}, err
	}
	settings, err := tx.settings(ctx, app)
	if err != nil {
		return Setting{}, err
	}
	return settings[slices.IndexFunc(settings, func(s Setting) bool { return s.Key == key })], nil
}

// settingDef is the definition of a setting that there is, for an app or for the gateway.
func settingDef(app, key string) (access.SettingDef, error) {
	def, err := access.SettingDefFor(key)
	switch {
	case errors.Is(err, access.ErrNoSetting):
		return def, notFound("no-such-setting", "there is no setting %s: list the settings to see which there are", clean(key))
	case err != nil || app == "":
		return def, err
	case !def.PerApp:
		return def, invalid("not-per-app", "%s holds for the whole gateway, and an app cannot have a value of its own: leave out the app", key)
	}
	return def, checkSettingApp(app)
}

func checkSettingApp(app string) error {
	if access.CheckAppName(app) != nil {
		return invalid("bad-app", "%s cannot be the name of an app: it is of small letters, digits and dashes, at most 63", clean(app))
	}
	return nil
}

const upsertSetting = `
insert into rgw.settings (key, app, value, updated_at, updated_by) values ($1, $2, $3, $4, $5)
on conflict on constraint settings_pkey do update set value = excluded.value, updated_at = excluded.updated_at, updated_by = excluded.updated_by`

// SetSetting gives a setting a value, as JSON, for everybody and at once: for an app or, where that is empty, for the
// gateway, which also holds for all apps that have no value of their own.
func (w *Writer) SetSetting(ctx context.Context, by Actor, app, key string, value json.RawMessage) (Setting, error) {
	def, err := settingDef(app, key)
	if err != nil {
		return Setting{}, err
	}
	value = json.RawMessage(strings.TrimSpace(string(value)))
	if err := def.Validate(value); err != nil {
		return Setting{}, invalid("bad-setting", "%s", err)
	}
	return w.changeSetting(ctx, by, "setting.set", app, key, func(tx *writeTx, old Setting) error {
		if old.Source == FromDatabase && !old.Inherited && string(old.Value) == string(value) {
			return conflict("no-change", "%s is %s already", settingName(app, key), value)
		}
		if _, err := tx.exec(ctx, upsertSetting, key, app, string(value), tx.now, tx.by.Label); err != nil {
			return wrap("keeping a setting", err)
		}
		return nil
	})
}

const deleteSetting = `
delete from rgw.settings where key = $1 and app = $2`

// UnsetSetting takes the database's value of a setting away, so that the environment's, the gateway's (of an app's
// setting) or the default counts.
func (w *Writer) UnsetSetting(ctx context.Context, by Actor, app, key string) (Setting, error) {
	if _, err := settingDef(app, key); err != nil {
		return Setting{}, err
	}
	return w.changeSetting(ctx, by, "setting.unset", app, key, func(tx *writeTx, old Setting) error {
		if old.UpdatedAt == nil {
			return conflict("no-change", "%s has no value of its own: what is in force is the %s's, %s", settingName(app, key), old.Source, old.Value)
		}
		if _, err := tx.exec(ctx, deleteSetting, key, app); err != nil {
			return wrap("taking a setting away", err)
		}
		return nil
	})
}

func (w *Writer) changeSetting(ctx context.Context, by Actor, action, app, key string, fn func(*writeTx, Setting) error) (Setting, error) {
	var setting Setting
	err := w.change(ctx, by, attempt{action: action, resource: key, app: app}, func(tx *writeTx) error {
		old, err := tx.setting(ctx, app, key)
		if err != nil {
			return err
		}
		if err := fn(tx, old); err != nil {
			return err
		}
		if setting, err = tx.setting(ctx, app, key); err != nil {
			return err
		}
		tx.record(change{
			action: action, resource: key, app: app,
			params: []string{
				"old", string(old.Value), "old_source", old.sourceText(),
				"new", string(setting.Value), "new_source", setting.sourceText(),
			},
		})
		return nil
	})
	if err != nil {
		return Setting{}, err
	}
	return setting, nil
}

// sourceText is where a value comes from, as events say it.
func (s Setting) sourceText() string {
	if s.Inherited {
		return "gateway's " + string(s.Source)
	}
	return string(s.Source)
}

// settingName is how a message calls a setting.
func settingName(app, key string) string {
	if app == "" {
		return key
	}
	return key + " of " + app
}

// tokenLife is how long a new token lives, and how long it may lie unused (0: for ever).
func (tx *readTx) tokenLife(ctx context.Context, kind credential.Kind, want time.Duration) (life, idle time.Duration, err error) {
	settings, err := tx.inForce(ctx)
	if err != nil {
		return 0, 0, err
	}
	longest, key := settings.APITokenLongest, "api_token_days"
	if kind == credential.CLI {
		longest, key, idle = settings.CLITokenLife, "cli_token_days", settings.CLITokenIdle
	}
	switch {
	case want == 0:
		return longest, idle, nil
	case want > longest:
		return 0, 0, refused("too-long", "such a token lives for %s at most: ask for less, or raise the setting %s", days(longest), key)
	}
	return want, idle, nil
}

func days(d time.Duration) string {
	if d >= 24*time.Hour && d%(24*time.Hour) == 0 {
		return count(int(d/(24*time.Hour)), "day")
	}
	return d.String()
}
