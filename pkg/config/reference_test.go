package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"rackgateway/pkg/access"
)

const referenceHead = `# Configuration

<!-- Made from the structs of pkg/config by: go test ./pkg/config -run Reference -update -->

Environment variables only. Each is checked at the start, all mistakes are reported at once, and a variable that looks
like one of these and is not is warned of. A variable that is set to nothing counts as not set.

A **secret** may come from a file instead: ` + "`RACK_TOKEN_FILE=/run/secrets/rack`" + ` reads ` + "`RACK_TOKEN`" + ` from there, without the space
around it. Secrets are never printed: ` + "`proxy config`" + ` and ` + "`admin config`" + ` show what is in force, and where each value
came from.

Durations are a number and a unit, such as ` + "`500ms`, `30s`, `5m`, `1h`" + `. Networks are ADDRESS/BITS, several by commas.

Of admin, serving needs all that is marked so; its commands need the database, and those that change something the audit
key.
`

// The reference in the documentation is made of the structs, so that it cannot say anything else than they do.
func TestTheReferenceIsOfThisVersion(t *testing.T) {
	var b strings.Builder
	b.WriteString(referenceHead)
	for _, process := range []struct {
		name string
		of   reflect.Type
	}{{"proxy", reflect.TypeFor[Proxy]()}, {"admin", reflect.TypeFor[Admin]()}} {
		fmt.Fprintf(&b, "\n## %s\n", process.name)
		group := ""
		for _, v := range variables(process.of, "") {
			if v.Group != group {
				group = v.Group
				fmt.Fprintf(&b, "\n### %s: %s\n\n| variable | default | what it is |\n|---|---|---|\n", process.name, strings.ToLower(group))
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.Name, byDefault(v), description(v))
		}
	}
	b.WriteString("\n## Settings\n\nWhat administrators may change while the gateway runs (`admin setting list`, or the console). These variables give defaults\n" +
		"in place of the built-in ones, to proxy and admin alike; the database counts over them.\n\n" +
		"Those marked *per app* may have another value for one app: by `RGW_APP_<APP>_SETTING_<KEY>`, in capitals and with the\n" +
		"app's dashes as underscores (`RGW_APP_MY_WEB_SETTING_DEPLOY_APPROVALS` is of the app `my-web`), and in the database over\n" +
		"that. An app's own value, from wherever, counts over the gateway's.\n\n| variable | default | what it is |\n|---|---|---|\n")
	for _, def := range access.SettingDefs() {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", settingVariable(def.Key), def.DefaultJSON(), settingDescription(def))
	}
	golden(t, "../../docs/configuration.md", b.String())
}

func settingDescription(def access.SettingDef) string {
	text := def.Description
	if def.Type == access.SettingInt {
		text = fmt.Sprintf("%s In %s, from %d to %d.", text, cmp.Or(def.Unit, "numbers"), def.Min, def.Max)
	}
	if def.PerApp {
		text += " *Per app.*"
	}
	return text
}

func byDefault(v Variable) string {
	switch {
	case v.Needed:
		return "**needed**"
	case v.Default != "":
		return "`" + v.Default + "`"
	}
	return ""
}

func description(v Variable) string {
	parts := []string{v.Doc}
	if v.Secret {
		parts = append(parts, "Secret.")
	}
	if v.Min != "" {
		parts = append(parts, fmt.Sprintf("From %s to %s.", v.Min, v.Max))
	}
	if len(v.Aliases) > 0 {
		names := slices.Clone(v.Aliases)
		for i := range names {
			names[i] = "`" + names[i] + "`"
		}
		parts = append(parts, "Also "+strings.Join(names, ", ")+".")
	}
	if v.Example != v.Default {
		parts = append(parts, "For example `"+v.Example+"`.")
	}
	return strings.ReplaceAll(strings.Join(parts, " "), "|", "\\|")
}
