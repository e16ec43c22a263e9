package proxy

import (
	"strings"

	"rackgateway/pkg/rack"
)

// sentences say in words what an operation does, for the person who approves it: {app} and the like are the parts of
// the path, {:name} an option. An operation without one is said by its action's name.
var sentences = map[rack.Op]string{
	"AppCancel":                   "cancel the deployment of {app} that is under way",
	"AppCreate":                   "create the app {:name}",
	"AppDelete":                   "delete the app {app}",
	"AppUpdate":                   "change the parameters of {app}",
	"AppBudgetSet":                "set the budget of {app}",
	"AppBudgetClear":              "clear the budget of {app}",
	"AppBudgetReset":              "reset the budget of {app}",
	"BuildCreate":                 "build {app}",
	"BuildExport":                 "export build {id} of {app}",
	"BuildImport":                 "import a build into {app}",
	"BuildImportImage":            "import an image into build {id} of {app}",
	"BuildUpdate":                 "change build {id} of {app}",
	"AppConfigSet":                "set the config {name} of {app}",
	"CertificateApply":            "give {service} of {app} another certificate",
	"CertificateCreate":           "add a certificate",
	"CertificateDelete":           "delete the certificate {id}",
	"CertificateRenew":            "renew the certificates of {app}",
	"CertificateGenerate":         "generate a certificate for {:domains}",
	"LetsEncryptConfigGet":        "see the Let's Encrypt configuration of the rack",
	"LetsEncryptConfigApply":      "change the Let's Encrypt configuration of the rack",
	"FilesDelete":                 "delete files in process {pid} of {app}",
	"FilesDownload":               "copy files from process {pid} of {app}",
	"FilesUpload":                 "copy files into process {pid} of {app}",
	"InstanceKeyroll":             "replace the SSH key of the rack's instances",
	"InstanceShell":               "open a shell on instance {id}",
	"InstanceTerminate":           "terminate instance {id}",
	"ProcessExec":                 "run a command in process {pid} of {app}: {:Command}",
	"ProcessLogs":                 "read the logs of process {pid} of {app}",
	"ProcessRun":                  "start a process of {service} in {app}: {:Command}",
	"ProcessStop":                 "stop process {pid} of {app}",
	"Proxy":                       "connect to {host} port {port} inside the rack",
	"RegistryAdd":                 "add the registry {:server}",
	"RegistryRemove":              "remove the registry {server}",
	"ReleaseCreate":               "create a release of {app}",
	"ReleasePromote":              "promote release {id} of {app}",
	"ResourceConsole":             "open a console on the resource {name} of {app}",
	"ResourceExport":              "export the data of the resource {name} of {app}",
	"ResourceImport":              "replace the data of the resource {name} of {app}",
	"ServiceRestart":              "restart {service} of {app}",
	"ServiceScaleOverrideSet":     "override the scale of {service} of {app}",
	"ServiceUpdate":               "change the scale of {service} of {app}",
	"SystemUpdate":                "change the rack itself",
	"SystemJwtSignKeyRotate":      "replace the key that the rack signs tokens with",
	"SystemResourceCreate":        "create the rack resource {:name}",
	"SystemResourceDelete":        "delete the rack resource {name}",
	"SystemResourceLink":          "link the rack resource {name} to {:app}",
	"SystemResourceUnlink":        "unlink the rack resource {name} from {link}",
	"SystemResourceUpdate":        "change the rack resource {name}",
	"KarpenterCleanup":            "clean up after Karpenter",
	"ServiceTriggersDisable":      "disable the scaling triggers of {service} of {app}",
	"ServiceTriggersEnable":       "enable the scaling triggers of {service} of {app}",
	"ServiceTriggersThresholdSet": "set a scaling threshold of {service} of {app}",
}

// sentence is what the request asks for, in words.
func (x *exchange) sentence() string {
	if x.match.Route == nil {
		return "use the command line on this device"
	}
	text, ok := sentences[x.match.Route.Op]
	if !ok {
		text = strings.ReplaceAll(x.rule.Action, ".", " ")
		if x.app != "" {
			text += " of " + x.app
		}
		return text
	}
	var b strings.Builder
	for text != "" {
		before, rest, open := strings.Cut(text, "{")
		b.WriteString(before)
		if !open {
			break
		}
		name, after, _ := strings.Cut(rest, "}")
		b.WriteString(shorten(printableText(x.part(name)), 200))
		text = after
	}
	return strings.TrimRight(strings.TrimSpace(b.String()), ": ")
}

// part is a part of the path, or an option as it is recorded.
func (x *exchange) part(name string) string {
	option, isOption := strings.CutPrefix(name, ":")
	if !isOption {
		value := x.match.Var(name)
		if name == "id" && x.app != "" {
			value = strings.ToUpper(value)
		}
		return value
	}
	for _, p := range x.event.Detail.Params {
		if p.Name == option {
			return p.Value
		}
	}
	return ""
}

// streams reports whether the request's body is passed on as it comes.
func (x *exchange) streams() bool {
	body := x.match.Route.Body
	return body == rack.StreamBody || body == rack.JSONBody
}
