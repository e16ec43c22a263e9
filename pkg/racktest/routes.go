// The rack's routes, in the order in which the real rack registers them: the first match wins.

package racktest

import (
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"
)

// Route is one entry of the route table. Method is an HTTP method, SOCKET (GET with the header Upgrade:
// websocket, exactly in lower case) or ANY. Path is a gorilla/mux pattern, matched on the decoded path.
type Route struct {
	Method, Path string
}

// String is the route as the journal and faults name it.
func (r Route) String() string { return r.Method + " " + r.Path }

type boundRoute struct {
	Route
	handle handler
}

// Routes lists the routes behind authentication, in matching order. GET /check and GET /auth come first
// and are not in the list: the one needs no credential, the other no role.
func Routes() []Route {
	var rack *Rack // the methods are only named here, not called
	bound := rack.bound()
	out := make([]Route, len(bound))
	for i, b := range bound {
		out[i] = b.Route
	}
	return slices.Clip(out)
}

func (r *Rack) bound() []boundRoute {
	return []boundRoute{
		{Route{"POST", "/apps/{name}/cancel"}, r.appCancel},
		{Route{"POST", "/apps"}, r.appCreate},
		{Route{"DELETE", "/apps/{name}"}, r.appDelete},
		{Route{"GET", "/apps/{app}/diagnose"}, r.appDiagnose},
		{Route{"GET", "/apps/{name}"}, r.appGet},
		{Route{"GET", "/apps"}, r.appList},
		{Route{"SOCKET", "/apps/{name}/logs"}, r.appLogs},
		{Route{"GET", "/apps/{app}/manifest/services/{service}"}, r.appManifestService},
		{Route{"GET", "/apps/{name}/metrics"}, r.appMetrics},
		{Route{"GET", "/apps/{app}/metrics-by-service"}, r.metricsByService},
		{Route{"PUT", "/apps/{name}"}, r.appUpdate},
		{Route{"GET", "/apps/{app}/budget"}, r.budgetGet},
		{Route{"POST", "/apps/{app}/budget"}, r.budgetSet},
		{Route{"DELETE", "/apps/{app}/budget"}, r.budgetClear},
		{Route{"POST", "/apps/{app}/budget/reset"}, r.budgetReset},
		{Route{"GET", "/apps/{app}/budget/shutdown-state"}, r.budgetShutdownState},
		{Route{"POST", "/apps/{app}/budget/simulate-shutdown"}, r.budgetSimulate},
		{Route{"POST", "/apps/{app}/budget/dismiss-recovery"}, r.budgetDismissRecovery},
		{Route{"GET", "/apps/{app}/cost"}, r.appCost},
		{Route{"GET", "/apps/{app}/balancers"}, r.balancerList},
		{Route{"POST", "/apps/{app}/builds"}, r.buildCreate},
		{Route{"GET", "/apps/{app}/builds/{id}.tgz"}, r.buildExport},
		{Route{"GET", "/apps/{app}/builds/{id}"}, r.buildGet},
		{Route{"POST", "/apps/{app}/builds/import"}, r.buildImport},
		{Route{"POST", "/apps/{app}/builds/{id}/image"}, r.buildImportImage},
		{Route{"GET", "/apps/{app}/builds"}, r.buildList},
		{Route{"SOCKET", "/apps/{app}/builds/{id}/logs"}, r.buildLogs},
		{Route{"PUT", "/apps/{app}/builds/{id}"}, r.buildUpdate},
		{Route{"GET", "/apps/{app}/configs"}, r.configList},
		{Route{"GET", "/apps/{app}/configs/{name}"}, r.configGet},
		{Route{"PUT", "/apps/{app}/configs/{name}"}, r.configSet},
		{Route{"GET", "/system/capacity"}, r.capacityGet},
		{Route{"PUT", "/apps/{app}/ssl/{service}/{port}"}, r.certificateApply},
		{Route{"POST", "/certificates"}, r.certificateCreate},
		{Route{"DELETE", "/certificates/{id}"}, r.certificateDelete},
		{Route{"POST", "/certificates/{id}/renew"}, r.certificateRenew},
		{Route{"POST", "/certificates/generate"}, r.certificateGenerate},
		{Route{"GET", "/certificates"}, r.certificateList},
		{Route{"GET", "/letsencrypt/config"}, r.letsEncryptGet},
		{Route{"PUT", "/letsencrypt/config"}, r.letsEncryptApply},
		{Route{"POST", "/events"}, r.eventSend},
		{Route{"DELETE", "/apps/{app}/processes/{pid}/files"}, r.filesDelete},
		{Route{"GET", "/apps/{app}/processes/{pid}/files"}, r.filesDownload},
		{Route{"POST", "/apps/{app}/processes/{pid}/files"}, r.filesUpload},
		{Route{"POST", "/instances/keyroll"}, r.instanceKeyroll},
		{Route{"GET", "/instances"}, r.instanceList},
		{Route{"SOCKET", "/instances/{id}/shell"}, r.instanceShell},
		{Route{"DELETE", "/instances/{id}"}, r.instanceTerminate},
		{Route{"DELETE", "/apps/{app}/objects/{key:.*}"}, r.objectDelete},
		{Route{"HEAD", "/apps/{app}/objects/{key:.*}"}, r.objectExists},
		{Route{"GET", "/apps/{app}/objects/{key:.*}"}, r.objectFetch},
		{Route{"GET", "/apps/{app}/objects"}, r.objectList},
		{Route{"POST", "/apps/{app}/objects/{key:.*}"}, r.objectStore},
		{Route{"SOCKET", "/apps/{app}/processes/{pid}/exec"}, r.processExec},
		{Route{"GET", "/apps/{app}/processes/{pid}"}, r.processGet},
		{Route{"GET", "/apps/{app}/processes"}, r.processList},
		{Route{"SOCKET", "/apps/{app}/processes/{pid}/logs"}, r.processLogs},
		{Route{"POST", "/apps/{app}/services/{service}/processes"}, r.processRun},
		{Route{"SOCKET", "/apps/{app}/services/{service}/logs"}, r.serviceLogs},
		{Route{"DELETE", "/apps/{app}/processes/{pid}"}, r.processStop},
		{Route{"SOCKET", "/proxy/{host}/{port}"}, r.proxy},
		{Route{"POST", "/registries"}, r.registryAdd},
		{Route{"GET", "/registries"}, r.registryList},
		{Route{"ANY", "/v2/{path:.*}"}, r.registryProxy},
		{Route{"DELETE", "/registries/{server:.*}"}, r.registryRemove},
		{Route{"POST", "/apps/{app}/releases"}, r.releaseCreate},
		{Route{"GET", "/apps/{app}/releases/{id}"}, r.releaseGet},
		{Route{"GET", "/apps/{app}/releases"}, r.releaseList},
		{Route{"POST", "/apps/{app}/releases/{id}/promote"}, r.releasePromote},
		{Route{"SOCKET", "/apps/{app}/resources/{name}/console"}, r.resourceConsole},
		{Route{"GET", "/apps/{app}/resources/{name}/data"}, r.resourceExport},
		{Route{"GET", "/apps/{app}/resources/{name}"}, r.resourceGet},
		{Route{"PUT", "/apps/{app}/resources/{name}/data"}, r.resourceImport},
		{Route{"GET", "/apps/{app}/resources"}, r.resourceList},
		{Route{"GET", "/apps/{app}/services"}, r.serviceList},
		{Route{"GET", "/apps/{app}/services/{service}/metrics"}, r.serviceMetrics},
		{Route{"POST", "/apps/{app}/services/{name}/restart"}, r.serviceRestart},
		{Route{"POST", "/apps/{app}/services/{service}/scale-override"}, r.serviceScaleOverride},
		{Route{"POST", "/apps/{app}/services/{service}/triggers/disable"}, r.serviceTriggersDisable},
		{Route{"POST", "/apps/{app}/services/{service}/triggers/enable"}, r.serviceTriggersEnable},
		{Route{"POST", "/apps/{app}/services/{service}/triggers/threshold"}, r.serviceTriggersThreshold},
		{Route{"PUT", "/apps/{app}/services/{name}"}, r.serviceUpdate},
		{Route{"GET", "/system"}, r.systemGet},
		{Route{"SOCKET", "/system/logs"}, r.systemLogs},
		{Route{"GET", "/system/metrics"}, r.systemMetrics},
		{Route{"PUT", "/system/jwt/rotate"}, r.systemJWTRotate},
		{Route{"POST", "/system/jwt/token"}, r.systemJWTToken},
		{Route{"GET", "/system/processes"}, r.systemProcesses},
		{Route{"GET", "/system/releases"}, r.systemReleases},
		{Route{"POST", "/resources"}, r.rackResourceCreate},
		{Route{"DELETE", "/resources/{name}"}, r.rackResourceDelete},
		{Route{"GET", "/resources/{name}"}, r.rackResourceGet},
		{Route{"POST", "/resources/{name}/links"}, r.rackResourceLink},
		{Route{"GET", "/resources"}, r.rackResourceList},
		{Route{"OPTIONS", "/resources"}, r.rackResourceTypes},
		{Route{"DELETE", "/resources/{name}/links/{app}"}, r.rackResourceLink},
		{Route{"PUT", "/resources/{name}"}, r.rackResourceUpdate},
		{Route{"PUT", "/system"}, r.systemUpdate},
		{Route{"POST", "/system/karpenter/cleanup"}, r.karpenterCleanup},
		{Route{"ANY", "/custom/http/proxy/{path:.*}"}, r.proxyHTTP},
	}
}

// routes builds the router. SkipClean leaves // and .. alone; matching is on the decoded path, so that
// /apps/demo%2Freleases is the release list, as it is on a real rack.
func (r *Rack) routes() *mux.Router {
	router := mux.NewRouter().SkipClean(true)
	router.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
	})
	router.HandleFunc("/check", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok")) }) //nolint:errcheck // the client is gone, then
	router.Handle("/auth", r.http(Route{"GET", "/auth"}, (*call).ok, false)).Methods(http.MethodGet)
	for _, b := range r.bound() {
		switch b.Method {
		case "SOCKET":
			router.Handle(b.Path, r.socket(b.Route, b.handle)).Methods(http.MethodGet).Headers("Upgrade", "websocket")
		case "ANY":
			router.Handle(b.Path, r.http(b.Route, b.handle, true))
		default:
			router.Handle(b.Path, r.http(b.Route, b.handle, true)).Methods(b.Method)
		}
	}
	return router
}

// http serves a route that answers over plain HTTP.
func (r *Rack) http(route Route, fn handler, needRole bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		named(w, route)
		w.Header().Set("Request-Id", requestID())
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Frame-Options", "DENY")
		c := &call{rack: r, w: w, r: req}
		if err := c.run(fn, needRole); err != nil {
			c.writeError(err)
		}
	})
}

func (c *call) run(fn handler, needRole bool) error {
	if err := c.authenticate(); err != nil {
		return err
	}
	if needRole {
		if err := c.authorize(); err != nil {
			return err
		}
	}
	return fn(c)
}

// named tells the journal which route a request turned out to be.
func named(w http.ResponseWriter, route Route) {
	if rec, ok := w.(*recorder); ok {
		rec.route = route.String()
	}
}

// isSocket says whether a request asks for a websocket in the one spelling that the rack matches.
func isSocket(req *http.Request) bool {
	for _, v := range req.Header["Upgrade"] {
		if v == "websocket" {
			return true
		}
	}
	return false
}

func containsToken(header []string, token string) bool {
	for _, h := range header {
		for part := range strings.SplitSeq(h, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}
