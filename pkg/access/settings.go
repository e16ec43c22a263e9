// Settings: what administrators may change while the gateway runs, and how each is written.

package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Settings are the values in force: for the gateway, and, by For, for an app that has values of its own. Copies are
// independent of each other.
type Settings struct {
	AllowDestructive bool
	DeployApprovals  bool
	JoinAsViewer     bool
	MFARequired      bool

	StepUp     time.Duration // how long a factor given counts
	FactorLock time.Duration // how long too many wrong ones lock

	SessionIdle     time.Duration
	CLITokenIdle    time.Duration
	CLITokenLife    time.Duration
	APITokenLongest time.Duration
	ReauthEvery     time.Duration

	InFlightPerPrincipal int
	SocketsPerPrincipal  int
	RefusalsPerMinute    int

	apps *appSettings // nil while no app has any
}

// appSettings are the values that apps have of their own. They are never changed, but replaced.
type appSettings struct {
	byApp map[string][]appValue // in the order of their keys
}

type appValue struct {
	def   SettingDef
	value int64
}

// DefaultSettings returns what holds when nothing was changed.
func DefaultSettings() Settings {
	var s Settings
	for _, d := range SettingDefs() {
		d.store(&s, d.Default)
	}
	return s
}

// SettingType is the JSON type of a setting's value.
type SettingType string

const (
	SettingBool SettingType = "bool" // true or false
	SettingInt  SettingType = "int"  // a whole number
)

// SettingDef describes one setting.
type SettingDef struct {
	Key         string
	Type        SettingType
	Unit        string // of an int: "minutes", "days", or "" for a count
	Default     int64  // of a bool, 0 or 1
	Min, Max    int64  // of an int, inclusive
	Description string
	PerApp      bool  // an app may have a value of its own
	Level       Level // that changing it takes

	store func(*Settings, int64)
}

// SettingValue is a value that something outside the database gives to a setting, in place of the built-in default.
type SettingValue struct {
	App   string // that has it; "" for the gateway
	Key   string
	Value json.RawMessage
}

// SettingDefs returns the definition of every setting.
func SettingDefs() []SettingDef {
	return []SettingDef{
		perApp(boolean("allow_destructive", false, "Lets deletions of apps and terminations of instances through. Off refuses them for everybody.",
			func(s *Settings, v bool) { s.AllowDestructive = v })),
		perApp(boolean("deploy_approvals", false, "Refuses pipelines builds, promotions and commands that no person approved.",
			func(s *Settings, v bool) { s.DeployApprovals = v })),
		boolean("join_as_viewer", false, "Lets whoever signs in with an address of the domain in as a viewer. Off lets in only people who were added.",
			func(s *Settings, v bool) { s.JoinAsViewer = v }),
		always(boolean("mfa_required", true, "Asks everybody for a second factor: when signing in, and for what takes one. Off asks nobody, but for changes of one's own factors.",
			func(s *Settings, v bool) { s.MFARequired = v })),
		always(duration("step_up_minutes", 10, 1, 12*60, time.Minute, "How long a second factor counts for what takes a fresh one.",
			func(s *Settings, v time.Duration) { s.StepUp = v })),
		always(duration("factor_lock_minutes", 15, 1, 24*60, time.Minute, "How long a session checks no second factor after five wrong ones in five minutes.",
			func(s *Settings, v time.Duration) { s.FactorLock = v })),
		duration("session_idle_minutes", 30, 5, 12*60, time.Minute, "How long an unused browser session lasts.",
			func(s *Settings, v time.Duration) { s.SessionIdle = v }),
		duration("cli_token_idle_days", 30, 1, 365, day, "How long an unused CLI token lasts.",
			func(s *Settings, v time.Duration) { s.CLITokenIdle = v }),
		duration("cli_token_days", 90, 1, 365, day, "How long a CLI token lasts at most.",
			func(s *Settings, v time.Duration) { s.CLITokenLife = v }),
		duration("api_token_days", 90, 1, 3650, day, "How long an API token may last at most, and lasts when nothing else is said.",
			func(s *Settings, v time.Duration) { s.APITokenLongest = v }),
		duration("reauth_days", 7, 1, 365, day, "How long CLI tokens work after their owner last signed in.",
			func(s *Settings, v time.Duration) { s.ReauthEvery = v }),
		count("in_flight_per_principal", 64, 1, 10_000, "How many requests of one principal may be in flight at once.",
			func(s *Settings, v int) { s.InFlightPerPrincipal = v }),
		count("sockets_per_principal", 100, 1, 10_000, "How many sockets one principal may have open at once.",
			func(s *Settings, v int) { s.SocketsPerPrincipal = v }),
		count("refusals_per_minute", 60, 1, 10_000, "How many refusals of one principal are recorded one by one in a minute; further ones are recorded as a count.",
			func(s *Settings, v int) { s.RefusalsPerMinute = v }),
	}
}

const day = 24 * time.Hour

func boolean(key string, byDefault bool, description string, store func(*Settings, bool)) SettingDef {
	d := SettingDef{Key: key, Type: SettingBool, Max: 1, Description: description, Level: LevelStepUp,
		store: func(s *Settings, v int64) { store(s, v != 0) }}
	if byDefault {
		d.Default = 1
	}
	return d
}

func perApp(d SettingDef) SettingDef {
	d.PerApp = true
	return d
}

// always marks a setting that second factors hang on: whoever has an API token, or a session that gave a factor a while
// ago, could otherwise switch off what keeps them from the rest.
func always(d SettingDef) SettingDef {
	d.Level = LevelAlways
	return d
}

func duration(key string, byDefault, least, most int64, unit time.Duration, description string, store func(*Settings, time.Duration)) SettingDef {
	d := SettingDef{Key: key, Type: SettingInt, Unit: "minutes", Default: byDefault, Min: least, Max: most, Description: description, Level: LevelStepUp,
		store: func(s *Settings, v int64) { store(s, time.Duration(v)*unit) }}
	if unit == day {
		d.Unit = "days"
	}
	return d
}

func count(key string, byDefault, least, most int64, description string, store func(*Settings, int)) SettingDef {
	return SettingDef{Key: key, Type: SettingInt, Default: byDefault, Min: least, Max: most, Description: description, Level: LevelStepUp,
		store: func(s *Settings, v int64) { store(s, int(v)) }}
}

// ErrNoSetting says that no setting has the key.
var ErrNoSetting = errors.New("there is no such setting")

// SettingDefFor returns the definition of a setting, or ErrNoSetting.
func SettingDefFor(key string) (SettingDef, error) {
	for _, d := range SettingDefs() {
		if d.Key == key {
			return d, nil
		}
	}
	return SettingDef{}, fmt.Errorf("setting %.64q: %w", key, ErrNoSetting)
}

// settingLevel is what changing a setting takes: of a key that is none, the most.
func settingLevel(key string) Level {
	d, err := SettingDefFor(key)
	if err != nil {
		return LevelAlways
	}
	return d.Level
}

// Set puts a setting's JSON value into force in s. A value of the wrong type or out of range is an error that
// says what is right, and leaves s as it was.
func (s *Settings) Set(key string, value json.RawMessage) error {
	d, err := SettingDefFor(key)
	if err != nil {
		return err
	}
	v, err := d.parse(value)
	if err != nil {
		return err
	}
	d.store(s, v)
	return nil
}

// ErrNotPerApp says that a setting has one value for the whole gateway.
var ErrNotPerApp = errors.New("it holds for the whole gateway, and an app cannot have a value of its own")

// ErrNoAppName says that a text cannot be the name of an app.
var ErrNoAppName = errors.New("an app's name is of small letters, digits and dashes, at most 63")

// CheckAppName reports whether an app can have settings under the name.
func CheckAppName(app string) error {
	if len(app) == 0 || len(app) > 63 || app[0] == '-' || strings.Trim(app, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("%.64q: %w", app, ErrNoAppName)
	}
	return nil
}

// SetFor puts a setting's JSON value into force in s for one app alone, over whatever holds for the gateway. Errors
// are as of Set.
func (s *Settings) SetFor(app, key string, value json.RawMessage) error {
	if err := CheckAppName(app); err != nil {
		return err
	}
	d, err := SettingDefFor(key)
	if err != nil {
		return err
	}
	if !d.PerApp {
		return fmt.Errorf("setting %s: %w", key, ErrNotPerApp)
	}
	v, err := d.parse(value)
	if err != nil {
		return err
	}
	next := &appSettings{byApp: make(map[string][]appValue)}
	if s.apps != nil {
		maps.Copy(next.byApp, s.apps.byApp)
	}
	values := slices.Clone(next.byApp[app])
	i, found := slices.BinarySearchFunc(values, key, func(v appValue, key string) int { return strings.Compare(v.def.Key, key) })
	if found {
		values[i].value = v
	} else {
		values = slices.Insert(values, i, appValue{d, v})
	}
	next.byApp[app] = values
	s.apps = next
	return nil
}

// For returns the settings as they hold for an app: its own values, and the gateway's where it has none.
func (s Settings) For(app string) Settings {
	if s.apps == nil {
		return s
	}
	for _, v := range s.apps.byApp[app] {
		v.def.store(&s, v.value)
	}
	return s
}

// Equal reports whether the same is in force everywhere.
func (s Settings) Equal(other Settings) bool {
	mine, theirs := s.apps, other.apps
	s.apps, other.apps = nil, nil
	if s != other {
		return false
	}
	if mine == nil || theirs == nil {
		return mine == theirs
	}
	return maps.EqualFunc(mine.byApp, theirs.byApp, func(a, b []appValue) bool {
		return slices.EqualFunc(a, b, func(a, b appValue) bool { return a.def.Key == b.def.Key && a.value == b.value })
	})
}

// Validate checks a JSON value without putting it into force.
func (d SettingDef) Validate(value json.RawMessage) error {
	_, err := d.parse(value)
	return err
}

// DefaultJSON returns the default as JSON.
func (d SettingDef) DefaultJSON() json.RawMessage {
	if d.Type == SettingBool {
		return json.RawMessage(fmt.Sprintf("%t", d.Default != 0))
	}
	return json.RawMessage(fmt.Sprintf("%d", d.Default))
}

func (d SettingDef) parse(value json.RawMessage) (int64, error) {
	if d.Type == SettingBool {
		switch string(value) {
		case "true":
			return 1, nil
		case "false":
			return 0, nil
		}
		return 0, fmt.Errorf("setting %s takes true or false", d.Key)
	}
	var v int64
	if err := json.Unmarshal(value, &v); err != nil || string(value) == "null" || v < d.Min || v > d.Max {
		unit := ""
		if d.Unit != "" {
			unit = " of " + d.Unit
		}
		return 0, fmt.Errorf("setting %s takes a whole number%s from %d to %d", d.Key, unit, d.Min, d.Max)
	}
	return v, nil
}
