// Settings: what administrators may change while the gateway runs, and how each is written.

package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Settings are the values in force.
type Settings struct {
	AllowDestructive bool
	DeployApprovals  bool
	JoinAsViewer     bool

	SessionIdle     time.Duration
	CLITokenIdle    time.Duration
	CLITokenLife    time.Duration
	APITokenLongest time.Duration
	ReauthEvery     time.Duration

	InFlightPerPrincipal int
	SocketsPerPrincipal  int
	RefusalsPerMinute    int
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

	store func(*Settings, int64)
}

// SettingDefs returns the definition of every setting.
func SettingDefs() []SettingDef {
	return []SettingDef{
		boolean("allow_destructive", false, "Lets deletions of apps and terminations of instances through. Off refuses them for everybody.",
			func(s *Settings, v bool) { s.AllowDestructive = v }),
		boolean("deploy_approvals", false, "Makes pipelines wait for a person's approval before they build, promote or run commands.",
			func(s *Settings, v bool) { s.DeployApprovals = v }),
		boolean("join_as_viewer", false, "Lets whoever signs in with an address of the domain in as a viewer. Off lets in only people who were added.",
			func(s *Settings, v bool) { s.JoinAsViewer = v }),
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
	d := SettingDef{Key: key, Type: SettingBool, Max: 1, Description: description,
		store: func(s *Settings, v int64) { store(s, v != 0) }}
	if byDefault {
		d.Default = 1
	}
	return d
}

func duration(key string, byDefault, least, most int64, unit time.Duration, description string, store func(*Settings, time.Duration)) SettingDef {
	d := SettingDef{Key: key, Type: SettingInt, Unit: "minutes", Default: byDefault, Min: least, Max: most, Description: description,
		store: func(s *Settings, v int64) { store(s, time.Duration(v)*unit) }}
	if unit == day {
		d.Unit = "days"
	}
	return d
}

func count(key string, byDefault, least, most int64, description string, store func(*Settings, int)) SettingDef {
	return SettingDef{Key: key, Type: SettingInt, Default: byDefault, Min: least, Max: most, Description: description,
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
