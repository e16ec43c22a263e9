package config

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"rackgateway/pkg/access"
)

// settingPrefix begins the names of variables that give settings their defaults: RGW_SETTING_REAUTH_DAYS=14.
const settingPrefix = "RGW_SETTING_"

// Settings are the defaults that the environment gives to settings, in place of the built-in ones. The database
// counts over them.
type Settings struct {
	values map[string]json.RawMessage
}

// Default returns the JSON value that the environment gives to a setting. Packages directory and credential take
// the method as their SettingDefaults.
func (s *Settings) Default(key string) (value json.RawMessage, ok bool) {
	value, ok = s.values[key]
	return value, ok
}

// settings reads the variables RGW_SETTING_KEY, which no struct lists. One for a setting that this version does not
// have is no mistake: it is warned of, as other variables are.
func (l *loader) settings(s *Settings) {
	s.values = make(map[string]json.RawMessage)
	for _, def := range access.SettingDefs() {
		v := Variable{
			Name: settingVariable(def.Key), Group: "Settings", Default: string(def.DefaultJSON()),
			Doc: def.Description, Example: string(def.DefaultJSON()),
		}
		text, given := l.environ[v.Name]
		if !given {
			continue
		}
		text = strings.TrimSpace(text)
		l.variables = append(l.variables, v)
		l.values[v.Name], l.sources[v.Name] = text, "environment"
		value := settingJSON(def, text)
		switch {
		case def.Validate(value) == nil:
			s.values[def.Key] = value
		case def.Type == access.SettingBool:
			l.mistake(v.Name, "is neither true nor false")
		default:
			l.mistake(v.Name, fmt.Sprintf("is not a whole number from %d to %d", def.Min, def.Max))
		}
	}
}

func settingVariable(key string) string { return settingPrefix + strings.ToUpper(key) }

// settingJSON reads a value as other variables are read: yes, on and 1 are true too.
func settingJSON(def access.SettingDef, text string) json.RawMessage {
	if def.Type == access.SettingBool {
		if value, err := parseBool(text); err == nil {
			return json.RawMessage(strconv.FormatBool(value.(bool)))
		}
	}
	return json.RawMessage(text)
}
