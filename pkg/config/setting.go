package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"rackgateway/pkg/access"
)

// settingPrefix begins the names of variables that give settings their defaults: RGW_SETTING_REAUTH_DAYS=14. With
// appPrefix begin those of one app, in capitals and with its dashes as underscores: RGW_APP_MY_WEB_SETTING_KEY is of
// the app my-web. Names of apps have no underscores, so that there is one reading.
const (
	settingPrefix = "RGW_SETTING_"
	appPrefix     = "RGW_APP_"
	settingInfix  = "_SETTING_"
)

// Settings are the defaults that the environment gives to settings, in place of the built-in ones. The database
// counts over them.
type Settings struct {
	// Defaults are what packages directory and credential take.
	Defaults []access.SettingValue
}

// settings reads the variables RGW_SETTING_KEY and RGW_APP_APP_SETTING_KEY, which no struct lists. One for a setting
// that this version does not have is no mistake: it is warned of, as other variables are.
func (l *loader) settings(s *Settings) {
	for _, name := range slices.Sorted(maps.Keys(l.environ)) {
		app, key, ok := settingOf(name)
		if !ok {
			continue
		}
		def, err := access.SettingDefFor(key)
		if err != nil {
			continue
		}
		text := strings.TrimSpace(l.environ[name])
		l.variables = append(l.variables, Variable{
			Name: name, Group: "Settings", Default: string(def.DefaultJSON()), Doc: def.Description, Example: string(def.DefaultJSON()),
		})
		l.values[name], l.sources[name] = text, "environment"
		value := settingJSON(def, text)
		switch {
		case app != "" && !def.PerApp:
			l.mistake(name, "is about one app, and the setting holds for the whole gateway: write "+settingVariable(key))
		case app != "" && access.CheckAppName(app) != nil:
			l.mistake(name, "names no app that there can be")
		case def.Validate(value) == nil:
			s.Defaults = append(s.Defaults, access.SettingValue{App: app, Key: key, Value: value})
		case def.Type == access.SettingBool:
			l.mistake(name, "is neither true nor false")
		default:
			l.mistake(name, fmt.Sprintf("is not a whole number from %d to %d", def.Min, def.Max))
		}
	}
}

// settingOf reads the name of a variable: the setting that it is about, and the app, "" for the gateway.
func settingOf(name string) (app, key string, ok bool) {
	if key, ok := strings.CutPrefix(name, settingPrefix); ok {
		return "", strings.ToLower(key), true
	}
	rest, ok := strings.CutPrefix(name, appPrefix)
	at := strings.LastIndex(rest, settingInfix)
	if !ok || at <= 0 {
		return "", "", false
	}
	return strings.ReplaceAll(strings.ToLower(rest[:at]), "_", "-"), strings.ToLower(rest[at+len(settingInfix):]), true
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
