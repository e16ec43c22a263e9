// The route table: every request that a rack's API takes, in the order in which the rack itself looks, and
// after it what shares the rack's host name. The source is the rack's own pkg/api/routes.go and
// controllers.go (convox 3.24).
//
// Where a rack serves in one row what the gateway judges in two, the narrower one comes first.

package rack

import "strings"

// Options that several routes share.
const (
	logHeaders    = "Filter Follow Maxlogrequests Prefix Since Previous Tail"
	metricsQuery  = "end metrics start period"
	budgetForm    = "monthly-cap-usd alert-threshold-percent at-cap-action pricing-adjustment ack_by"
	buildForm     = "url build-args description development external manifest no-cache wildcard-domain git-sha"
	buildEndForm  = "ended entrypoint logs manifest release started status"
	diagnoseQuery = "checks services age all lines events previous"
	execHeaders   = "Command Entrypoint Height Tty Width Disable-Stdin"
	promoteForm   = "development force idle min max timeout"
	runHeaders    = "Command Cpu Cpu-Limit Environment Gpu Gpu-Vendor Height Image Memory Memory-Limit Release " +
		"Volumes Use-Service-Volume Width Privileged Node-Labels System-Critical"
	scaleForm = "count cpu gpu gpu-vendor memory min max"
	shellHead = "Command Private-Key Height Width"
)

// Routes returns a fresh copy of the table.
func Routes() []Route {
	// Short names for the columns: what is read, and what is answered.
	h, q, f := headers, query, form
	text, json, download := AnswerText, AnswerJSON, AnswerDownload

	return []Route{
		route("POST", "/apps/{app}/cancel", "AppCancel", text),
		route("POST", "/apps", "AppCreate", json, f("name generation timeout")),
		route("DELETE", "/apps/{app}", "AppDelete", text),
		route("GET", "/apps/{app}/diagnose", "AppDiagnose", json, q(diagnoseQuery)),
		route("GET", "/apps/{app}", "AppGet", json),
		route("GET", "/apps", "AppList", json),
		socket("/apps/{app}/logs", "AppLogs", h(logHeaders)),
		route("GET", "/apps/{app}/manifest/services/{service}", "AppManifestService", json),
		route("GET", "/apps/{app}/metrics", "AppMetrics", json, q(metricsQuery)),
		route("GET", "/apps/{app}/metrics-by-service", "MetricsByService", json, q("services "+metricsQuery)),
		route("PUT", "/apps/{app}", "AppUpdate", text, f("lock parameters")),
		route("GET", "/apps/{app}/budget", "AppBudgetGet", json),
		route("POST", "/apps/{app}/budget", "AppBudgetSet", text, f(budgetForm)),
		route("DELETE", "/apps/{app}/budget", "AppBudgetClear", text, f("ack_by")),
		route("POST", "/apps/{app}/budget/reset", "AppBudgetReset", text, f("force_clear_cooldown reset_period ack_by")),
		route("GET", "/apps/{app}/budget/shutdown-state", "AppBudgetShutdownStateGet", json),
		route("POST", "/apps/{app}/budget/simulate-shutdown", "AppBudgetSimulate", json, f("ack_by")),
		route("POST", "/apps/{app}/budget/dismiss-recovery", "AppBudgetDismissRecovery", json, f("ack_by")),
		route("GET", "/apps/{app}/cost", "AppCost", json),
		route("GET", "/apps/{app}/balancers", "BalancerList", json),
		route("POST", "/apps/{app}/builds", "BuildCreate", json, f(buildForm)),
		route("GET", "/apps/{app}/builds/{id}.tgz", "BuildExport", download),
		route("GET", "/apps/{app}/builds/{id}", "BuildGet", json),
		route("POST", "/apps/{app}/builds/import", "BuildImport", json, upload),
		route("POST", "/apps/{app}/builds/{id}/image", "BuildImportImage", text, f("image src-creds-user src-creds-pass")),
		route("GET", "/apps/{app}/builds", "BuildList", json, q("limit")),
		socket("/apps/{app}/builds/{id}/logs", "BuildLogs", h(logHeaders)),
		route("PUT", "/apps/{app}/builds/{id}", "BuildUpdate", json, f(buildEndForm)),
		route("GET", "/apps/{app}/configs", "AppConfigList", json),
		route("GET", "/apps/{app}/configs/cli-env-mask", "AppConfigEnvMask", json),
		route("GET", "/apps/{app}/configs/{name}", "AppConfigGet", json),
		route("PUT", "/apps/{app}/configs/{name}", "AppConfigSet", text, f("value")),
		route("GET", "/system/capacity", "CapacityGet", json),
		route("PUT", "/apps/{app}/ssl/{service}/{port}", "CertificateApply", text, f("id")),
		route("POST", "/certificates", "CertificateCreate", json, f("pub key chain")),
		route("DELETE", "/certificates/{id}", "CertificateDelete", text),
		route("POST", "/certificates/{app}/renew", "CertificateRenew", text),
		route("POST", "/certificates/generate", "CertificateGenerate", json, f("domains issuer duration")),
		route("GET", "/certificates", "CertificateList", json, f("generated")),
		route("GET", "/letsencrypt/config", "LetsEncryptConfigGet", json),
		route("PUT", "/letsencrypt/config", "LetsEncryptConfigApply", text, document),
		route("POST", "/events", "EventSend", text, f("action data error status"), shut),
		route("DELETE", "/apps/{app}/processes/{pid}/files", "FilesDelete", text, q("files")),
		route("GET", "/apps/{app}/processes/{pid}/files", "FilesDownload", download, q("file")),
		route("POST", "/apps/{app}/processes/{pid}/files", "FilesUpload", text, upload, q("tar-extra")),
		route("POST", "/instances/keyroll", "InstanceKeyroll", json),
		route("GET", "/instances", "InstanceList", json),
		socket("/instances/{id}/shell", "InstanceShell", h(shellHead)),
		route("DELETE", "/instances/{id}", "InstanceTerminate", text),
		route("DELETE", "/apps/{app}/objects/{key...}", "ObjectDelete", text),
		route("HEAD", "/apps/{app}/objects/{key...}", "ObjectExists", text),
		route("GET", "/apps/{app}/objects/{key...}", "ObjectFetch", download),
		route("GET", "/apps/{app}/objects", "ObjectList", json, q("prefix")),
		route("POST", "/apps/{app}/objects/tmp/{key}", "ObjectStoreTemporary", json, upload),
		route("POST", "/apps/{app}/objects/{key...}", "ObjectStore", json, upload, h("Public")),
		socket("/apps/{app}/processes/{pid}/exec", "ProcessExec", h(execHeaders), q("command")),
		route("GET", "/apps/{app}/processes/{pid}", "ProcessGet", json),
		route("GET", "/apps/{app}/processes", "ProcessList", json, q("release service")),
		socket("/apps/{app}/processes/{pid}/logs", "ProcessLogs", h(logHeaders)),
		route("POST", "/apps/{app}/services/{service}/processes", "ProcessRun", json, h(runHeaders)),
		socket("/apps/{app}/services/{service}/logs", "ServiceLogs", h(logHeaders)),
		route("DELETE", "/apps/{app}/processes/{pid}", "ProcessStop", text),
		socket("/proxy/{host}/{port}", "Proxy"),
		route("POST", "/registries", "RegistryAdd", json, f("server username password")),
		route("GET", "/registries", "RegistryList", json),
		route(AnyMethod, "/v2/{path...}", "RegistryProxy", download, upload, shut),
		route("DELETE", "/registries/{server...}", "RegistryRemove", text),
		route("POST", "/apps/{app}/releases", "ReleaseCreate", json, f("build description env parent-release")),
		route("GET", "/apps/{app}/releases/{id}", "ReleaseGet", json),
		route("GET", "/apps/{app}/releases", "ReleaseList", json, q("limit")),
		route("POST", "/apps/{app}/releases/{id}/promote", "ReleasePromote", text, f(promoteForm)),
		socket("/apps/{app}/resources/{name}/console", "ResourceConsole", h("Height Width")),
		route("GET", "/apps/{app}/resources/{name}/data", "ResourceExport", download),
		route("GET", "/apps/{app}/resources/{name}", "ResourceGet", json),
		route("PUT", "/apps/{app}/resources/{name}/data", "ResourceImport", text, upload),
		route("GET", "/apps/{app}/resources", "ResourceList", json),
		route("GET", "/apps/{app}/services", "ServiceList", json),
		route("GET", "/apps/{app}/services/{service}/metrics", "ServiceMetrics", json, q(metricsQuery)),
		route("POST", "/apps/{app}/services/{service}/restart", "ServiceRestart", text),
		route("POST", "/apps/{app}/services/{service}/scale-override", "ServiceScaleOverrideSet", text, f("active ack_by")),
		route("POST", "/apps/{app}/services/{service}/triggers/disable", "ServiceTriggersDisable", text, f("ack_by")),
		route("POST", "/apps/{app}/services/{service}/triggers/enable", "ServiceTriggersEnable", text, f("opts ack_by")),
		route("POST", "/apps/{app}/services/{service}/triggers/threshold", "ServiceTriggersThresholdSet", text, f("type threshold ack_by")),
		route("PUT", "/apps/{app}/services/{service}", "ServiceUpdate", text, f(scaleForm)),
		route("GET", "/system", "SystemGet", json),
		socket("/system/logs", "SystemLogs", h(logHeaders)),
		route("GET", "/system/metrics", "SystemMetrics", json, q(metricsQuery)),
		route("PUT", "/system/jwt/rotate", "SystemJwtSignKeyRotate", text),
		route("POST", "/system/jwt/token", "SystemJwtToken", json, f("role durationInHour"), shut),
		route("GET", "/system/processes", "SystemProcesses", json, q("all")),
		route("GET", "/system/releases", "SystemReleases", json),
		route("POST", "/resources", "SystemResourceCreate", json, f("kind name parameters")),
		route("DELETE", "/resources/{name}", "SystemResourceDelete", text),
		route("GET", "/resources/{name}", "SystemResourceGet", json),
		route("POST", "/resources/{name}/links", "SystemResourceLink", json, f("app")),
		route("GET", "/resources", "SystemResourceList", json),
		route("OPTIONS", "/resources", "SystemResourceTypes", json),
		route("DELETE", "/resources/{name}/links/{link}", "SystemResourceUnlink", json),
		route("PUT", "/resources/{name}", "SystemResourceUpdate", json, f("parameters")),
		route("PUT", "/system", "SystemUpdate", text, f("count force parameters type version")),
		route("POST", "/system/karpenter/cleanup", "KarpenterCleanup", text),
		route(AnyMethod, "/custom/http/proxy/{path...}", "ProxyHttpService", download, upload, shut),

		// Not the rack's API server, but on its host name: the Kubernetes API under the rack's own password.
		route(AnyMethod, "/kubernetes/{path...}", "KubernetesProxy", download, upload, shut),
	}
}

// column fills in a column of a row.
type column func(*Route)

func route(method, pattern string, op Op, answer Answer, columns ...column) Route {
	r := Route{Op: op, Method: method, Pattern: pattern, Answer: answer}
	for _, c := range columns {
		c(&r)
	}
	r.LongRead = method == "GET" && answer == AnswerDownload
	return r
}

func socket(pattern string, op Op, columns ...column) Route {
	r := route("GET", pattern, op, AnswerSocket, columns...)
	r.Socket = true
	return r
}

func headers(names string) column {
	return func(r *Route) { r.Headers = strings.Fields(names) }
}

func query(names string) column {
	return func(r *Route) { r.Query = strings.Fields(names) }
}

func form(names string) column {
	return func(r *Route) { r.Form, r.Body = strings.Fields(names), FormBody }
}

func upload(r *Route)   { r.Body = StreamBody }
func document(r *Route) { r.Body = JSONBody }
func shut(r *Route)     { r.Shut = true }
