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

// SettingDefaults gives the JSON value of a setting that the environment, or another place outside the database,
// sets. It counts in place of the built-in default, and the database counts over it.
type SettingDefaults func(key string) (value json.RawMessage, ok bool)

// Setting is one setting with the value in force.
type Setting struct {
	access.SettingDef
	Value     json.RawMessage
	Source    SettingSource
	UpdatedAt *time.Time // when the database's value was set
	UpdatedBy string
	// Ignored is a value in the database that cannot be used, with the reason; what is in force comes from
	// elsewhere. It can only have been put there around the gateway, or by another version.
	Ignored string
}

// SettingSource says where a setting's value comes from.
type SettingSource string

// The sources, each counting over the next.
const (
	FromDatabase    SettingSource = "database"
	FromEnvironment SettingSource = "environment"
	FromDefault     SettingSource = "default"
)

type settingRow struct {
	Key       string          `db:"key"`
	Value     json.RawMessage `db:"value"`
	UpdatedAt time.Time       `db:"updated_at"`
	UpdatedBy string          `db:"updated_by"`
}

const listSettings = `
select s.key, s.value, s.updated_at, s.updated_by from rgw.settings s where s.app = ''`

// ListSettings returns every setting there is, in the order in which the program defines them.
func (r *Reader) ListSettings(ctx context.Context) ([]Setting, error) {
	var settings []Setting
	err := r.view(ctx, func(tx *readTx) (err error) {
		settings, err = tx.settings(ctx)
		return err
	})
	return settings, err
}

// Setting returns one setting.
func (r *Reader) Setting(ctx context.Context, key string) (Setting, error) {
	var setting Setting
	err := r.view(ctx, func(tx *readTx) (err error) {
		setting, err = tx.setting(ctx, key)
		return err
	})
	return setting, err
}

func (tx *readTx) settings(ctx context.Context) ([]Setting, error) {
	var rows []settingRow
	if err := tx.sel(ctx, &rows, listSettings); err != nil {
		return nil, wrap("reading settings", err)
	}
	var settings []Setting
	for _, def := range access.SettingDefs() {
		setting := Setting{SettingDef: def, Value: def.DefaultJSON(), Source: FromDefault}
		if tx.defaults != nil {
			if value, ok := tx.defaults(def.Key); ok {
				setting.Value, setting.Source = value, FromEnvironment
			}
		}
		if i := slices.IndexFunc(rows, func(row settingRow) bool { return row.Key == def.Key }); i >= 0 {
			setting.UpdatedAt, setting.UpdatedBy = &rows[i].UpdatedAt, rows[i].UpdatedBy
			if err := def.Validate(rows[i].Value); err != nil {
				setting.Ignored = err.Error()
			} else {
				setting.Value, setting.Source = rows[i].Value, FromDatabase
			}
		}
		settings = append(settings, setting)
	}
	return settings, nil
}

func (tx *readTx) setting(ctx context.Context, key string) (Setting, error) {
	if err := checkSettingKey(key); err != nil {
		return Setting{}, err
	}
	settings, err := tx.settings(ctx)
	if err != nil {
		return Setting{}, err
	}
	return settings[slices.IndexFunc(settings, func(s Setting) bool { return s.Key == key })], nil
}

func checkSettingKey(key string) error {
	_, err := access.SettingDefFor(key)
	if errors.Is(err, access.ErrNoSetting) {
		return notFound("no-such-setting", "there is no setting %s: list the settings to see which there are", clean(key))
	}
	return err
}

const upsertSetting = `
insert into rgw.settings (key, app, value, updated_at, updated_by) values ($1, '', $2, $3, $4)
on conflict on constraint settings_pkey do update set value = excluded.value, updated_at = excluded.updated_at, updated_by = excluded.updated_by`

// SetSetting gives a setting a value, as JSON, for everybody and at once.
func (w *Writer) SetSetting(ctx context.Context, by Actor, key string, value json.RawMessage) (Setting, error) {
	def, err := access.SettingDefFor(key)
	if err != nil {
		return Setting{}, checkSettingKey(key)
	}
	value = json.RawMessage(strings.TrimSpace(string(value)))
	if err := def.Validate(value); err != nil {
		return Setting{}, invalid("bad-setting", "%s", err)
	}
	return w.changeSetting(ctx, by, "setting.set", key, func(tx *writeTx, old Setting) error {
		if old.Source == FromDatabase && string(old.Value) == string(value) {
			return conflict("no-change", "%s is %s already", key, value)
		}
		if _, err := tx.exec(ctx, upsertSetting, key, string(value), tx.now, tx.by.Label); err != nil {
			return wrap("keeping a setting", err)
		}
		return nil
	})
}

const deleteSetting = `
delete from rgw.settings where key = $1 and app = ''`

// UnsetSetting takes the database's value of a setting away, so that the environment's or the default counts.
func (w *Writer) UnsetSetting(ctx context.Context, by Actor, key string) (Setting, error) {
	if err := checkSettingKey(key); err != nil {
		return Setting{}, err
	}
	return w.changeSetting(ctx, by, "setting.unset", key, func(tx *writeTx, old Setting) error {
		if old.UpdatedAt == nil {
			return conflict("no-change", "%s has no value of its own: what is in force is the %s's, %s", key, old.Source, old.Value)
		}
		if _, err := tx.exec(ctx, deleteSetting, key); err != nil {
			return wrap("taking a setting away", err)
		}
		return nil
	})
}

func (w *Writer) changeSetting(ctx context.Context, by Actor, action, key string, fn func(*writeTx, Setting) error) (Setting, error) {
	var setting Setting
	err := w.change(ctx, by, attempt{action: action, resource: key}, func(tx *writeTx) error {
		old, err := tx.setting(ctx, key)
		if err != nil {
			return err
		}
		if err := fn(tx, old); err != nil {
			return err
		}
		if setting, err = tx.setting(ctx, key); err != nil {
			return err
		}
		tx.record(change{
			action: action, resource: key,
			params: []string{
				"old", string(old.Value), "old_source", string(old.Source),
				"new", string(setting.Value), "new_source", string(setting.Source),
			},
		})
		return nil
	})
	if err != nil {
		return Setting{}, err
	}
	return setting, nil
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
