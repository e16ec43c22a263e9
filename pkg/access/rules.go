// The table of what each operation takes: one line per operation, in the order of the rack's own routes. An
// operation without a line is refused for everybody.

package access

// Level says how fresh a second factor an operation takes.
type Level uint8

const (
	LevelNone   Level = iota
	LevelStepUp       // a factor within the window of Settings
	LevelAlways       // a factor for this very operation, spent by it
)

func (l Level) String() string {
	switch l {
	case LevelStepUp:
		return "step-up"
	case LevelAlways:
		return "always"
	default:
		return "none"
	}
}

// AppFrom says how the app that an operation touches is found, and so which grants count.
type AppFrom uint8

const (
	AppNone   AppFrom = iota // no app: only grants over all apps count
	AppVar                   // the {app} of the path
	AppFilter                // GET /apps: any grant counts, and the answer is filtered by AppInScope
	AppSystem                // GET /system: any grant counts
	AppFact                  // Facts.HostApp
)

// FactNeed says what must be known before an operation is decided.
type FactNeed uint8

const (
	FactNone    FactNeed = iota
	FactProcess          // the process: whether it exists, its service, and whether the principal started it
	FactStarter          // whether the principal started the process
	FactHost             // whether the host is of a resource, and of which app's
)

// Kinds of events, as the audit log spells them.
const (
	EventAction    = "action"    // a person's doing
	EventPoll      = "poll"      // what the CLI does on its own while it waits
	EventPreflight = "preflight" // what the CLI does on its own before something else
)

// Rule says what one operation takes.
type Rule struct {
	Op         string
	Action     string // the audit log's name for it: "process.exec"
	Permission Permission
	Also       []Also // what else it takes
	Level      Level
	AppFrom    AppFrom
	Facts      FactNeed
	Kind       string // EventAction, EventPoll or EventPreflight

	Destructive bool   // refused for everybody while destructive actions are off
	Refused     string // refused for everybody, and why; empty when not
	NoChallenge bool   // its body cannot be sent twice, so it is refused rather than challenged for a factor
	Anybody     bool   // any good credential may; no permission is asked for
	Only        Caller // who alone may, whatever their rights

	Factorless bool // it needs no factor, not even of somebody who has none yet: giving and adding one begin here
	OwnFactors bool // it changes the caller's own factors: the first is added without one, all else takes one, whatever is set
	OfSetting  bool // it changes the setting of Request.Setting, and takes what that one's SettingDef.Level says
	// Lasting marks what gives access that outlasts a factor's window. One approval counts for everything that carries a
	// CLI token, a thief's requests too: such a token gives a factor for this very operation.
	Lasting bool

	// BuildLogs marks the one kind of logs that a pipeline's log:read covers.
	BuildLogs bool
	// OwnIsFree marks that it takes no factor for a process that the principal started.
	OwnIsFree bool
}

// Caller says which credentials an operation can be asked for with.
type Caller uint8

// The callers.
const (
	AnyCaller   Caller = iota
	OnlyPerson         // a person, by browser or command line: it is about what a pipeline does not have
	OnlySession        // a person who is signed in by the browser
)

func (c Caller) String() string {
	switch c {
	case OnlyPerson:
		return "person"
	case OnlySession:
		return "session"
	default:
		return "any"
	}
}

// Also is a further permission that an operation takes.
type Also struct {
	Permission Permission
	When       Condition
	Level      Level  // the least level then
	Why        string // what it is needed for, to follow "because"
}

// Condition says which requests need a further permission.
type Condition uint8

const (
	Always         Condition = iota
	WhenPrivileged           // Variant.Privileged
	WhenEnv                  // Variant.CarriesEnv
	WhenBuild                // the process, or the service in the path, is a build's
)

func (c Condition) holds(r *Request, f *Facts) bool {
	switch c {
	case WhenPrivileged:
		return r.Variant.Privileged
	case WhenEnv:
		return r.Variant.CarriesEnv
	case WhenBuild:
		return r.Service == BuildService || r.Rule.Facts == FactProcess && f.ProcessService == BuildService
	default:
		return true
	}
}

// aroundByPassword is why most of what is refused for everybody is.
const aroundByPassword = "it hands out, or goes around by, the rack's own password, and what is done with that has no name and no record"

// Rules returns a fresh copy of the table.
func Rules() []Rule {
	const (
		none, S, A = LevelNone, LevelStepUp, LevelAlways

		app = AppVar
		no  = AppNone
	)
	r := row

	return []Rule{
		r("AppCancel", "app.cancel", PermAppCancel, S, app),
		r("AppCreate", "app.create", PermAppCreate, S, no),
		r("AppDelete", "app.delete", PermAppDelete, A, app, destructive),
		r("AppDiagnose", "app.diagnose", PermLogRead, none, app),
		r("AppGet", "app.get", PermAppRead, none, app, poll),
		r("AppList", "app.list", PermAppList, none, AppFilter),
		r("AppLogs", "app.logs", PermLogRead, none, app),
		r("AppManifestService", "app.manifest-service", PermReleaseRead, none, app, showsEnv),
		r("AppMetrics", "app.metrics", PermAppRead, none, app),
		r("MetricsByService", "app.metrics-by-service", PermAppRead, none, app),
		r("AppUpdate", "app.update", PermAppUpdate, S, app),
		r("AppBudgetGet", "budget.get", PermAppRead, none, app),
		r("AppBudgetSet", "budget.set", PermAppBudget, S, app),
		r("AppBudgetClear", "budget.clear", PermAppBudget, S, app),
		r("AppBudgetReset", "budget.reset", PermAppBudget, S, app),
		r("AppBudgetShutdownStateGet", "budget.shutdown-state", PermAppRead, none, app),
		r("AppBudgetSimulate", "budget.simulate", PermAppBudget, S, app),
		r("AppBudgetDismissRecovery", "budget.dismiss", PermAppBudget, S, app),
		r("AppCost", "app.cost", PermAppRead, none, app),
		r("BalancerList", "balancer.list", PermAppRead, none, app),
		r("BuildCreate", "build.create", PermBuildCreate, S, app),
		r("BuildExport", "build.export", PermBuildExport, S, app),
		r("BuildGet", "build.get", PermBuildRead, none, app, poll),
		r("BuildImport", "build.import", PermBuildCreate, S, app, noChallenge),
		r("BuildImportImage", "build.import-image", PermBuildCreate, S, app),
		r("BuildList", "build.list", PermBuildList, none, app),
		r("BuildLogs", "build.logs", PermLogRead, none, app, buildLogs),
		r("BuildUpdate", "build.update", PermBuildUpdate, S, app),
		r("AppConfigList", "config.list", PermConfigRead, none, app),
		r("AppConfigEnvMask", "config.env-mask", PermAppRead, none, app, poll),
		r("AppConfigGet", "config.get", PermConfigRead, none, app),
		r("AppConfigSet", "config.set", PermConfigSet, S, app),
		r("CapacityGet", "rack.capacity", PermRackRead, none, no),
		r("CertificateApply", "certificate.apply", PermCertificateApply, S, app),
		r("CertificateCreate", "certificate.create", PermCertificateManage, S, no),
		r("CertificateDelete", "certificate.delete", PermCertificateManage, S, no),
		r("CertificateRenew", "certificate.renew", PermCertificateApply, S, app),
		r("CertificateGenerate", "certificate.generate", PermCertificateApply, S, no),
		r("CertificateList", "certificate.list", PermCertificateList, none, no),
		r("LetsEncryptConfigGet", "letsencrypt.get", PermRackUpdate, A, no),
		r("LetsEncryptConfigApply", "letsencrypt.apply", PermRackUpdate, A, no),
		r("EventSend", "event.send", PermRackUpdate, A, no, refused(aroundByPassword)),
		r("FilesDelete", "file.delete", PermFileWrite, S, app, ofProcess, notOfBuild),
		r("FilesDownload", "file.download", PermFileRead, S, app, ofProcess, notOfBuild),
		r("FilesUpload", "file.upload", PermFileWrite, S, app, ofProcess, notOfBuild),
		r("InstanceKeyroll", "instance.keyroll", PermInstanceKeyroll, A, no, showsKey),
		r("InstanceList", "instance.list", PermInstanceList, none, no),
		r("InstanceShell", "instance.shell", PermInstanceShell, A, no),
		r("InstanceTerminate", "instance.terminate", PermInstanceTerminate, A, no, destructive),
		r("ObjectDelete", "object.delete", PermObjectAdmin, none, app),
		r("ObjectExists", "object.exists", PermObjectAdmin, none, app),
		r("ObjectFetch", "object.fetch", PermObjectAdmin, none, app),
		r("ObjectList", "object.list", PermObjectAdmin, none, app),
		r("ObjectStoreTemporary", "object.store-temporary", PermObjectCreate, none, app),
		r("ObjectStore", "object.store", PermObjectAdmin, none, app),
		r("ProcessExec", "process.exec", PermProcessExec, S, app, ofProcess, notOfBuild),
		r("ProcessGet", "process.get", PermProcessRead, none, app, poll),
		r("ProcessList", "process.list", PermProcessList, none, app, poll),
		r("ProcessLogs", "process.logs", PermLogRead, none, app, ofProcess, notOfBuild),
		r("ProcessRun", "process.start", PermProcessStart, S, app, notPrivileged, notOfBuild),
		r("ServiceLogs", "service.logs", PermLogRead, none, app, notOfBuild),
		r("ProcessStop", "process.terminate", PermProcessTerminate, S, app, byStarter),
		r("Proxy", "network.proxy", PermNetworkProxy, S, AppFact),
		r("RegistryAdd", "registry.add", PermRegistryManage, S, no),
		r("RegistryList", "registry.list", PermRegistryList, none, no),
		r("RegistryProxy", "registry.proxy", PermRackUpdate, A, no, refused(aroundByPassword)),
		r("RegistryRemove", "registry.remove", PermRegistryManage, S, no),
		r("ReleaseCreate", "release.create", PermReleaseCreate, S, app, setsEnv, showsEnv),
		r("ReleaseGet", "release.get", PermReleaseRead, none, app, showsEnv),
		r("ReleaseList", "release.list", PermReleaseList, none, app, showsEnv),
		r("ReleasePromote", "release.promote", PermReleasePromote, S, app),
		r("ResourceConsole", "resource.console", PermResourceConsole, S, app),
		r("ResourceExport", "resource.export", PermResourceExport, A, app),
		r("ResourceGet", "resource.get", PermResourceRead, none, app),
		r("ResourceImport", "resource.import", PermResourceImport, A, app, noChallenge),
		r("ResourceList", "resource.list", PermResourceList, none, app),
		r("ServiceList", "service.list", PermAppRead, none, app),
		r("ServiceMetrics", "service.metrics", PermAppRead, none, app),
		r("ServiceRestart", "service.restart", PermAppRestart, S, app),
		r("ServiceScaleOverrideSet", "service.scale-override", PermAppUpdate, S, app),
		r("ServiceTriggersDisable", "service.triggers-disable", PermAppUpdate, S, app),
		r("ServiceTriggersEnable", "service.triggers-enable", PermAppUpdate, S, app),
		r("ServiceTriggersThresholdSet", "service.triggers-threshold", PermAppUpdate, S, app),
		r("ServiceUpdate", "service.update", PermAppUpdate, S, app),
		r("SystemGet", "rack.get", PermRackRead, none, AppSystem),
		r("SystemLogs", "rack.logs", PermRackLog, none, no),
		r("SystemMetrics", "rack.metrics", PermRackRead, none, no),
		r("SystemJwtSignKeyRotate", "rack.key-rotate", PermRackUpdate, A, no),
		r("SystemJwtToken", "rack.token", PermRackUpdate, A, no, refused(aroundByPassword)),
		r("SystemProcesses", "rack.processes", PermRackProcess, none, no),
		r("SystemReleases", "rack.releases", PermRackRead, none, no),
		r("SystemResourceCreate", "rack-resource.create", PermRackUpdate, A, no),
		r("SystemResourceDelete", "rack-resource.delete", PermRackUpdate, A, no),
		r("SystemResourceGet", "rack-resource.get", PermRackRead, none, no),
		r("SystemResourceLink", "rack-resource.link", PermRackUpdate, A, no),
		r("SystemResourceList", "rack-resource.list", PermRackRead, none, no),
		r("SystemResourceTypes", "rack-resource.types", PermRackRead, none, no),
		r("SystemResourceUnlink", "rack-resource.unlink", PermRackUpdate, A, no),
		r("SystemResourceUpdate", "rack-resource.update", PermRackUpdate, A, no),
		r("SystemUpdate", "rack.update", PermRackUpdate, A, no),
		r("KarpenterCleanup", "rack.karpenter-cleanup", PermRackUpdate, A, no),
		r("ProxyHttpService", "network.http-proxy", PermNetworkProxy, A, no, refused(aroundByPassword)),
		r("KubernetesProxy", "kubernetes.proxy", PermRackUpdate, A, no, refused(aroundByPassword)),

		// What the gateway answers itself, as its own console.
		r("Auth", "gateway.auth", "", none, no, anybody, factorless),
		r("Racks", "gateway.racks", "", none, no, anybody, preflight),
		r("RackGet", "gateway.rack", "", none, no, anybody),
		r("Machines", "gateway.machines", "", none, no, anybody, preflight, factorless),
		r("SessionChallenge", "step-up.ask", "", none, no, anybody, preflight, factorless),
		r("SessionExchange", "step-up.exchange", "", none, no, anybody, factorless),

		// The admin API. Operations are named as in its document, which says the same of each; a test compares them.
		r("getMe", "me.get", "", none, no, anybody, factorless),
		r("listMyDevices", "token.list", "", none, no, anybody, only(OnlyPerson)),
		r("createMyDevice", "token.create", "", S, no, anybody, only(OnlySession)),
		r("revokeMyDevice", "token.revoke", "", none, no, anybody, only(OnlyPerson)),
		r("listMySessions", "session.list", "", none, no, anybody, only(OnlyPerson)),
		r("revokeMySession", "session.revoke", "", none, no, anybody, only(OnlyPerson)),
		r("getOverview", "overview.get", "", none, no, anybody),
		r("watch", "overview.watch", "", none, no, anybody),
		r("listMyFactors", "factor.list", "", none, no, anybody, only(OnlyPerson), factorless),
		r("beginEnrolment", "factor.enrol", "", S, no, anybody, only(OnlySession), ownFactors),
		r("finishEnrolment", "factor.add", "", S, no, anybody, only(OnlySession), ownFactors),
		r("renameMyFactor", "factor.rename", "", S, no, anybody, only(OnlySession), ownFactors),
		r("removeMyFactor", "factor.remove", "", S, no, anybody, only(OnlySession), ownFactors),
		r("makeBackupCodes", "factor.backup_codes", "", S, no, anybody, only(OnlySession), ownFactors),
		r("listMyTrustedDevices", "trusted-device.list", "", none, no, anybody, only(OnlyPerson), factorless),
		r("distrustMyDevice", "trusted-device.remove", "", none, no, anybody, only(OnlyPerson), factorless),
		r("listMyStepUps", "step-up.list", "", none, no, anybody, only(OnlyPerson), factorless),
		r("openStepUp", "step-up.open", "", none, no, anybody, only(OnlySession), factorless),
		r("getStepUp", "step-up.get", "", none, no, anybody, only(OnlySession), factorless),
		r("beginAssertion", "step-up.assert", "", none, no, anybody, only(OnlySession), factorless),
		r("approveStepUp", "step-up.approve", "", none, no, anybody, only(OnlySession), factorless),
		r("refuseStepUp", "step-up.refuse", "", none, no, anybody, only(OnlySession), factorless),
		r("setDeviceHeadless", "token.headless", "", S, no, anybody, only(OnlySession)),
		r("listUsers", "user.list", PermUserRead, none, no),
		r("addUser", "user.add", PermUserManage, S, no, lasting),
		r("getUser", "user.get", PermUserRead, none, no),
		r("removeUser", "user.remove", PermUserManage, A, no),
		r("lockUser", "user.lock", PermUserManage, S, no),
		r("unlockUser", "user.unlock", PermUserManage, S, no),
		r("setUserBindings", "user.set_roles", PermUserManage, S, no, lasting),
		r("listFactors", "factor.list", PermUserRead, none, no),
		r("resetFactors", "factor.reset", PermUserManage, A, no),
		r("unlockFactors", "factor.unlock", PermUserManage, S, no),
		r("listRoles", "role.list", PermRoleRead, none, no),
		r("createRole", "role.create", PermRoleManage, S, no),
		r("getRole", "role.get", PermRoleRead, none, no),
		r("editRole", "role.edit", PermRoleManage, S, no, lasting),
		r("deleteRole", "role.delete", PermRoleManage, S, no),
		r("listPermissions", "permission.list", PermRoleRead, none, no),
		r("listTokens", "token.list", PermTokenRead, none, no),
		r("createToken", "token.create", PermTokenManage, S, no, lasting),
		r("getToken", "token.get", PermTokenRead, none, no),
		r("revokeToken", "token.revoke", PermTokenManage, S, no),
		r("rotateToken", "token.rotate", PermTokenManage, S, no, lasting),
		r("setTokenRights", "token.set_rights", PermTokenManage, S, no, lasting),
		r("listSessions", "session.list", PermSessionManage, none, no),
		r("revokeSession", "session.revoke", PermSessionManage, S, no),
		r("listMyNotices", "notice.choices", "", none, no, anybody, only(OnlyPerson)),
		r("chooseMyNotices", "notice.choose", "", none, no, anybody, only(OnlyPerson)),
		r("listIntegrations", "integration.list", PermIntegrationManage, none, no),
		r("beginSlack", "integration.begin", PermIntegrationManage, S, no, only(OnlyPerson)),
		r("finishSlack", "integration.connect", PermIntegrationManage, S, no, only(OnlyPerson)),
		r("removeSlack", "integration.disconnect", PermIntegrationManage, S, no),
		r("listSlackChannels", "integration.channels", PermIntegrationManage, none, no),
		r("testNotice", "notice.test", PermIntegrationManage, none, no),
		r("listNoticeRules", "notice.rules", PermIntegrationManage, none, no),
		r("addNoticeRule", "notice.add_rule", PermIntegrationManage, S, no),
		r("removeNoticeRule", "notice.remove_rule", PermIntegrationManage, S, no),
		r("listNotices", "notice.list", PermIntegrationManage, none, no),
		r("retryNotices", "notice.retry", PermIntegrationManage, none, no),
		r("retryNotice", "notice.retry", PermIntegrationManage, none, no),
		r("getUserMail", "notice.mail", PermUserRead, none, no),
		r("listSettings", "setting.list", PermSettingRead, none, no),
		r("setSetting", "setting.set", PermSettingManage, S, no, ofSetting),
		r("unsetSetting", "setting.unset", PermSettingManage, S, no, ofSetting),
		r("getSettingHistory", "setting.history", PermSettingRead, none, no),
		r("listAppSettings", "setting.list", PermSettingRead, none, app),
		r("setAppSetting", "setting.set", PermSettingManage, S, app, ofSetting),
		r("unsetAppSetting", "setting.unset", PermSettingManage, S, app, ofSetting),
		r("getAppSettingHistory", "setting.history", PermSettingRead, none, app),
		r("getDoctor", "gateway.examine", PermSettingRead, none, no),
		r("listEvents", "audit.read", PermAuditRead, none, no),
		r("getEvent", "audit.read", PermAuditRead, none, no),
		r("proveEvent", "audit.prove", PermAuditRead, none, no),
		r("tailEvents", "audit.tail", PermAuditRead, none, no),
		r("exportEvents", "audit.export", PermAuditExport, none, no),
		r("getLedger", "ledger.get", PermAuditRead, none, no),
		r("getCheckpoint", "ledger.checkpoint", PermAuditRead, none, no),
		r("getConsistency", "ledger.consistency", PermAuditRead, none, no),
		r("checkProof", "audit.check", PermAuditRead, none, no),
		r("listVerifications", "ledger.verifications", PermAuditRead, none, no),
		r("startVerification", "ledger.verify", PermAuditExport, none, no),
		r("startAnchor", "ledger.anchor", PermAuditExport, none, no),
		r("listHolds", "hold.list", PermAuditRead, none, no),
		r("placeHold", "hold.place", PermSettingManage, S, no),
		r("liftHold", "hold.lift", PermSettingManage, S, no),
		// What goes on to the proxy, which decides about it as about anything else.
		r("rack", "rack.pass", "", none, no, anybody, factorless),
	}
}

// ruleByOp is Rules, by operation. It never changes.
var ruleByOp = func() map[string]Rule {
	rules := Rules()
	m := make(map[string]Rule, len(rules))
	for _, r := range rules {
		m[r.Op] = r
	}
	return m
}()

// RuleFor returns the rule of an operation. Its slices are shared and must not be changed.
func RuleFor(op string) (Rule, bool) {
	r, ok := ruleByOp[op]
	return r, ok
}

// column fills in a column of a row.
type column func(*Rule)

func row(op, action string, perm Permission, level Level, from AppFrom, columns ...column) Rule {
	r := Rule{Op: op, Action: action, Permission: perm, Level: level, AppFrom: from, Kind: EventAction}
	if from == AppFact {
		r.Facts = FactHost
	}
	for _, c := range columns {
		c(&r)
	}
	return r
}

func destructive(r *Rule) { r.Destructive = true }
func noChallenge(r *Rule) { r.NoChallenge = true }
func buildLogs(r *Rule)   { r.BuildLogs = true }
func ofProcess(r *Rule)   { r.Facts = FactProcess }
func byStarter(r *Rule)   { r.Facts, r.OwnIsFree = FactStarter, true }
func poll(r *Rule)        { r.Kind = EventPoll }
func preflight(r *Rule)   { r.Kind = EventPreflight }
func anybody(r *Rule)     { r.Anybody = true }
func factorless(r *Rule)  { r.Factorless = true }
func ownFactors(r *Rule)  { r.OwnFactors = true }
func ofSetting(r *Rule)   { r.OfSetting = true }
func lasting(r *Rule)     { r.Lasting = true }

func refused(why string) column { return func(r *Rule) { r.Refused = why } }

func only(who Caller) column { return func(r *Rule) { r.Only = who } }

func also(a Also) column { return func(r *Rule) { r.Also = append(r.Also, a) } }

// showsEnv stands until the environment in the rack's answers is masked.
func showsEnv(r *Rule) {
	also(Also{Permission: PermSecretRead, Why: "the rack's answer holds the app's environment in clear"})(r)
}

func showsKey(r *Rule) {
	also(Also{Permission: PermSecretRead, Why: "the rack's answer is a private key"})(r)
}

func setsEnv(r *Rule) {
	also(Also{Permission: PermEnvSet, When: WhenEnv, Why: "the request brings an environment"})(r)
}

func notPrivileged(r *Rule) {
	also(Also{Permission: PermProcessPrivileged, When: WhenPrivileged, Level: LevelAlways,
		Why: "the request asks for another image, for disks or for more of the node than its service has"})(r)
}

func notOfBuild(r *Rule) {
	also(Also{Permission: PermProcessBuild, When: WhenBuild, Level: LevelAlways,
		Why: "a build's process holds the rack's own password"})(r)
}
