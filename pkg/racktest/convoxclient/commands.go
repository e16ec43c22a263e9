// The commands that read and change apps, in the words of the stock CLI.

package convoxclient

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"rackgateway/pkg/racktest/wire"
)

// definitions is the list of commands.
func definitions() map[string]definition {
	return map[string]definition{
		"login":                  {run: cmdLogin, flags: "token:t", max: 1, local: true},
		"racks":                  {run: cmdRacks, local: true},
		"switch":                 {run: cmdSwitch, max: 1, local: true},
		"version":                {run: cmdVersion, flags: "rack:r", local: true},
		"api get":                {run: cmdAPI, min: 1, max: 1},
		"rack":                   {run: cmdRack},
		"rack ps":                {run: cmdRackPs, flags: "all:a!"},
		"rack logs":              {run: cmdRackLogs, flags: logFlags},
		"rack params":            {run: cmdRackParams},
		"rack params set":        {run: cmdRackParamsSet, flags: "force:f!", min: 1, max: -1},
		"rack releases":          {run: cmdRackReleases},
		"rack resources":         {run: cmdRackResources},
		"rack resources info":    {run: cmdRackResourceInfo, min: 1, max: 1},
		"rack resources types":   {run: cmdRackResourceTypes},
		"rack resources create":  {run: cmdRackResourceCreate, flags: "name:n", min: 1, max: -1},
		"rack resources delete":  {run: cmdRackResourceDelete, min: 1, max: 1},
		"rack access":            {run: cmdRackAccess, flags: "role duration-in-hours"},
		"rack access key rotate": {run: cmdRackRotate},

		"apps":             {run: cmdApps},
		"apps info":        {run: cmdAppInfo, max: 1},
		"apps create":      {run: cmdAppCreate, flags: "generation:g timeout", max: 1},
		"apps delete":      {run: cmdAppDelete, min: 1, max: 1},
		"apps cancel":      {run: cmdAppCancel, max: 1},
		"apps lock":        {run: func(run *invocation) error { return run.lock("Locking", "true") }, max: 1},
		"apps unlock":      {run: func(run *invocation) error { return run.lock("Unlocking", "false") }, max: 1},
		"apps params":      {run: cmdAppParams, max: 1},
		"apps params set":  {run: cmdAppParamsSet, min: 1, max: -1},
		"ps":               {run: cmdPs, flags: "release service:s"},
		"ps info":          {run: cmdPsInfo, min: 1, max: 1},
		"ps stop":          {run: cmdPsStop, min: 1, max: 1},
		"exec":             {run: cmdExec, min: 2, max: -1},
		"run":              {run: cmdRun, flags: "cpu cpu-limit gpu gpu-vendor memory memory-limit release use-service-volume! node-labels system-critical! detach:d! timeout:t entrypoint:e!", min: 2, max: -1},
		"logs":             {run: cmdLogs, flags: logFlags + " no-follow! service:s"},
		"services":         {run: cmdServices},
		"scale":            {run: cmdScale, flags: "count cpu gpu gpu-vendor memory min max", max: 1},
		"restart":          {run: cmdRestart},
		"services restart": {run: cmdServiceRestart, min: 1, max: 1},
		"balancers":        {run: cmdBalancers},
		"configs":          {run: cmdConfigs},
		"config get":       {run: cmdConfigGet, min: 1, max: 1},
		"config set":       {run: cmdConfigSet, flags: "file:f value restart!", min: 1, max: 1},

		"cost":                     {run: cmdCost},
		"budget show":              {run: cmdBudgetShow, min: 1, max: 1},
		"budget set":               {run: cmdBudgetSet, flags: "monthly-cap alert-at at-cap-action pricing-adjustment", min: 1, max: 1},
		"budget cap raise":         {run: cmdBudgetRaise, flags: "monthly-cap", min: 1, max: 1},
		"budget reset":             {run: cmdBudgetReset, flags: "force:f! force-clear-cooldown!", min: 1, max: 1},
		"budget clear":             {run: cmdBudgetClear, min: 1, max: 1},
		"budget simulate-shutdown": {run: cmdBudgetSimulate, min: 1, max: 1},
		"budget dismiss-recovery":  {run: cmdBudgetDismiss, min: 1, max: 1},

		"apps export":     {run: cmdAppExport, flags: "file:f", max: 1},
		"apps import":     {run: cmdAppImport, flags: "file:f", max: 1},
		"proxy":           {run: cmdProxy, min: 1, max: -1},
		"resources proxy": {run: cmdResourceProxy, flags: "port:p", min: 1, max: 1},

		"env mask":             {run: cmdEnvMask},
		"env mask set":         {run: cmdEnvMaskSet, min: 1, max: -1},
		"env mask unset":       {run: cmdEnvMaskUnset, min: 1, max: -1},
		"env edit":             {run: cmdEnvEdit, flags: "promote:p! release"},
		"releases create-from": {run: cmdCreateFrom, flags: "build-from env-from"},
		"ssl":                  {run: cmdSSL},
		"ssl update":           {run: cmdSSLUpdate, min: 2, max: 2},
		"services update":      {run: cmdServiceUpdate, flags: "count cpu memory min max", min: 1, max: 1},
		"test":                 {run: cmdTest, flags: "description:d release timeout:t", max: 1},

		"env":       {run: cmdEnv, flags: "release reveal!"},
		"env get":   {run: cmdEnvGet, flags: "release", min: 1, max: 1},
		"env set":   {run: cmdEnvSet, flags: "id! replace! promote:p! release", max: -1},
		"env unset": {run: cmdEnvUnset, flags: "id! promote:p! release", min: 1, max: -1},

		"releases":          {run: cmdReleases, flags: "limit:l"},
		"releases info":     {run: cmdReleaseInfo, flags: "reveal!", min: 1, max: 1},
		"releases manifest": {run: cmdReleaseManifest, min: 1, max: 1},
		"releases promote":  {run: cmdPromote, flags: "force!", max: 1},
		"releases rollback": {run: cmdRollback, flags: "id! force!", min: 1, max: 1},

		"build":         {run: cmdBuild, flags: buildFlags, max: 1},
		"deploy":        {run: cmdDeploy, flags: buildFlags + " force!", max: 1},
		"builds":        {run: cmdBuilds, flags: "limit:l"},
		"builds info":   {run: cmdBuildInfo, min: 1, max: 1},
		"builds logs":   {run: cmdBuildLogs, min: 1, max: 1},
		"builds export": {run: cmdBuildExport, flags: "file:f", min: 1, max: 1},
		"builds import": {run: cmdBuildImport, flags: "file:f id!"},

		"cp": {run: cmdCp, flags: "tar-extra", min: 2, max: 2},

		"resources":         {run: cmdResources},
		"resources info":    {run: cmdResourceInfo, min: 1, max: 1},
		"resources url":     {run: cmdResourceURL, min: 1, max: 1},
		"resources export":  {run: cmdResourceExport, flags: "file:f", min: 1, max: 1},
		"resources import":  {run: cmdResourceImport, flags: "file:f", min: 1, max: 1},
		"resources console": {run: cmdResourceConsole, min: 1, max: 1},

		"registries":          {run: cmdRegistries},
		"registries add":      {run: cmdRegistryAdd, min: 3, max: 3},
		"registries remove":   {run: cmdRegistryRemove, min: 1, max: 1},
		"certs":               {run: cmdCerts, flags: "generated!"},
		"certs generate":      {run: cmdCertGenerate, flags: "id! issuer duration", min: 1, max: -1},
		"certs import":        {run: cmdCertImport, flags: "id! chain", min: 2, max: 2},
		"certs delete":        {run: cmdCertDelete, min: 1, max: 1},
		"certs renew":         {run: cmdCertRenew},
		"instances":           {run: cmdInstances},
		"instances terminate": {run: cmdInstanceTerminate, min: 1, max: 1},
		"instances ssh":       {run: cmdInstanceSSH, flags: "key", min: 1, max: -1},
	}
}

const (
	logFlags   = "filter max-log-requests since allow-previous! tail"
	buildFlags = "build-args description:d development! external! manifest:m no-cache! wildcard-domain! id!"
)

func (run *invocation) get(path string, out any) error { return run.c.Get(run.ctx, path, nil, out) }

func (run *invocation) post(path string, form url.Values, out any) error {
	return run.c.Post(run.ctx, path, form, out)
}

func (run *invocation) put(path string, form url.Values) error {
	return run.c.Put(run.ctx, path, form, nil)
}

func (run *invocation) delete(path string) error { return run.c.Delete(run.ctx, path) }

// appPath is a path below the command's app.
func (run *invocation) appPath(format string, args ...any) string {
	return "/apps/" + run.app() + fmt.Sprintf(format, args...)
}

func (run *invocation) system() (wire.System, error) {
	var s wire.System
	return s, run.get("/system", &s)
}

// --- people and racks

func cmdLogin(run *invocation) error {
	host := run.arg(0)
	if host == "" {
		host = "console.convox.com"
	}
	settings := run.cli.Settings
	password := run.flags["token"]
	if password == "" {
		password = settings.GetKey("auth", host)
	}
	run.start("Authenticating with %s", host)
	c, err := New(fmt.Sprintf("%s://convox:%s@%s", run.cli.scheme(), url.QueryEscape(password), host))
	if err != nil {
		return err
	}
	defer c.Close()
	res, err := c.Stream(run.ctx, Call{Method: http.MethodGet, Path: "/auth"})
	if err != nil {
		if strings.Contains(err.Error(), "cli token is expired") {
			return err
		}
		return errors.New("invalid login")
	}
	defer res.Body.Close()
	var who struct{ ID string }
	if err := json.NewDecoder(res.Body).Decode(&who); err != nil {
		who.ID = "" // any body will do
	}
	settings.SetKey("auth", host, password)
	settings.Set("console", host)
	if who.ID != "" {
		settings.Set("id", who.ID)
	}
	settings.Set("rack", "")
	return run.done()
}

func cmdRacks(run *invocation) error {
	list, err := run.cli.racks(run.ctx, run.out)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, r := range list {
		if r.Provider == "" {
			r.Provider = "unknown"
		}
		rows = append(rows, []string{rackName(r), r.Provider, r.Status})
	}
	return run.table([]string{"NAME", "PROVIDER", "STATUS"}, rows...)
}

func cmdSwitch(run *invocation) error {
	if run.arg(0) == "" {
		c, name, err := run.cli.current(run.ctx, run.out, "")
		if err != nil {
			return err
		}
		c.Close()
		run.printf("%s\n", name)
		return nil
	}
	name, err := run.cli.matchRack(run.ctx, run.out, run.arg(0))
	if err != nil {
		return err
	}
	run.cli.Settings.Set("current", fmt.Sprintf(`{"name":%q,"type":"console"}`, name))
	run.printf("Switched to %s\n", name)
	return nil
}

func cmdVersion(run *invocation) error {
	run.printf("client: dev\n")
	c, _, err := run.cli.current(run.ctx, run.out, run.flags["rack"])
	if err != nil { // whatever it is: the CLI says that there is no rack
		run.printf("server: none\n")
		return nil
	}
	defer c.Close()
	run.c = c
	s, err := run.system()
	if err != nil {
		return err
	}
	run.printf("server: %s\n", s.Version)
	return nil
}

func cmdAPI(run *invocation) error {
	var v any
	if err := run.get(run.arg(0), &v); err != nil {
		return err
	}
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	run.printf("%s\n", data)
	return nil
}

func cmdRack(run *invocation) error {
	s, err := run.system()
	if err != nil {
		return err
	}
	pairs := [][2]string{{"Name", s.Name}, {"Provider", s.Provider}}
	if s.Region != "" {
		pairs = append(pairs, [2]string{"Region", s.Region})
	}
	if s.Domain != "" {
		pairs = append(pairs, [2]string{"Router", s.Domain})
	}
	if s.RouterInternal != "" {
		pairs = append(pairs, [2]string{"RouterInternal", s.RouterInternal})
	}
	return run.info(append(pairs, [2]string{"Status", s.Status}, [2]string{"Version", s.Version})...)
}

func cmdRackPs(run *invocation) error {
	q := url.Values{}
	if run.is("all") {
		q.Set("all", "true")
	}
	var list []wire.Process
	if err := run.c.Get(run.ctx, "/system/processes", q, &list); err != nil {
		return err
	}
	var rows [][]string
	for _, p := range list {
		rows = append(rows, []string{p.ID, p.App, p.Name, p.Status, p.Release, run.ago(p.Started), p.Command})
	}
	return run.table([]string{"ID", "APP", "SERVICE", "STATUS", "RELEASE", "STARTED", "COMMAND"}, rows...)
}

func cmdRackLogs(run *invocation) error {
	h := run.logHeaders()
	h["Prefix"] = "true"
	return run.c.Logs(run.ctx, "/system/logs", h, run)
}

func cmdRackParams(run *invocation) error {
	params, err := run.rackParams()
	if err != nil {
		return err
	}
	return run.infoMap(params)
}

// rackParams are the rack's parameters: the console's, if it has them, else the rack's own.
func (run *invocation) rackParams() (map[string]string, error) {
	if run.c.Console {
		r, err := run.consoleRack()
		if err != nil || r.Parameters != nil {
			return r.Parameters, err
		}
	}
	s, err := run.system()
	return s.Parameters, err
}

func (run *invocation) consoleRack() (wire.ConsoleRack, error) {
	var r wire.ConsoleRack
	return r, run.get("/racks/"+run.rack, &r)
}

func (run *invocation) infoMap(m map[string]string) error {
	var pairs [][2]string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, [2]string{k, m[k]})
	}
	return run.info(pairs...)
}

// cmdRackParamsSet changes parameters at the console when it keeps the rack's state, else at the rack. The CLI
// looks at the present ones first.
func cmdRackParamsSet(run *invocation) error {
	run.start("Updating parameters")
	if _, err := run.rackParams(); err != nil {
		return err
	}
	params, err := pairs(run.args)
	if err != nil {
		return err
	}
	if run.c.Console {
		r, err := run.consoleRack()
		if err != nil {
			return err
		}
		if r.State != nil {
			if r, err = run.consoleRack(); err != nil {
				return err
			}
			data, err := json.Marshal(params)
			if err != nil {
				return err
			}
			if err := run.put("/racks/"+run.rack, url.Values{"params": {string(data)}, "version": {r.Version}, "force": {"false"}}); err != nil {
				return err
			}
			return run.done()
		}
		if _, err := run.system(); err != nil {
			return err
		}
	}
	if err := run.put("/system", url.Values{"parameters": {encodeMap(params)}}); err != nil {
		return err
	}
	return run.done()
}

func cmdRackReleases(run *invocation) error {
	var list []wire.Release
	if err := run.get("/system/releases", &list); err != nil {
		return err
	}
	var rows [][]string
	for _, r := range list {
		rows = append(rows, []string{r.ID, run.ago(r.Created)})
	}
	return run.table([]string{"VERSION", "UPDATED"}, rows...)
}

func cmdRackResources(run *invocation) error {
	var list []wire.Resource
	if _, err := run.system(); err != nil {
		return err
	}
	if err := run.get("/resources", &list); err != nil {
		return err
	}
	var rows [][]string
	for _, r := range list {
		rows = append(rows, []string{r.Name, r.Type, r.Status})
	}
	return run.table([]string{"NAME", "TYPE", "STATUS"}, rows...)
}

func cmdRackResourceInfo(run *invocation) error {
	var r wire.Resource
	if _, err := run.system(); err != nil {
		return err
	}
	if err := run.get("/resources/"+run.arg(0), &r); err != nil {
		return err
	}
	var options []string
	for _, k := range slices.Sorted(maps.Keys(r.Parameters)) {
		options = append(options, k+"="+r.Parameters[k])
	}
	pairs := [][2]string{{"Name", r.Name}, {"Type", r.Type}, {"Status", r.Status}, {"Options", strings.Join(options, "\n")}}
	if r.URL != "" {
		pairs = append(pairs, [2]string{"URL", r.URL})
	}
	return run.info(pairs...)
}

func cmdRackResourceTypes(run *invocation) error {
	var list []wire.ResourceType
	if _, err := run.system(); err != nil {
		return err
	}
	if err := run.c.Do(run.ctx, Call{Method: http.MethodOptions, Path: "/resources"}, &list); err != nil {
		return err
	}
	var rows [][]string
	for _, t := range list {
		rows = append(rows, []string{t.Name})
	}
	return run.table([]string{"TYPE"}, rows...)
}

func cmdRackResourceCreate(run *invocation) error {
	params, err := pairs(run.args[1:])
	if err != nil {
		return err
	}
	form := url.Values{"kind": {run.arg(0)}, "parameters": {encodeMap(params)}}
	if n := run.flags["name"]; n != "" {
		form.Set("name", n)
	}
	run.start("Creating resource")
	if _, err := run.system(); err != nil {
		return err
	}
	var r wire.Resource
	if err := run.post("/resources", form, &r); err != nil {
		return err
	}
	if _, err := run.system(); err != nil {
		return err
	}
	run.pause(run.cli.pace().App)
	err = run.wait(run.cli.pace().App, func() (bool, error) {
		var now wire.Resource
		err := run.get("/resources/"+r.Name, &now)
		return now.Status == "running", err
	})
	if err != nil {
		return err
	}
	return run.done(r.Name)
}

func cmdRackResourceDelete(run *invocation) error {
	if _, err := run.system(); err != nil {
		return err
	}
	run.start("Deleting resource")
	if err := run.delete("/resources/" + run.arg(0)); err != nil {
		return err
	}
	if _, err := run.system(); err != nil {
		return err
	}
	run.pause(run.cli.pace().App)
	err := run.wait(run.cli.pace().App, func() (bool, error) {
		err := run.get("/resources/"+run.arg(0), nil)
		switch {
		case err == nil:
			return false, nil
		case strings.Contains(err.Error(), "no such resource"), strings.Contains(err.Error(), "does not exist"):
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return err
	}
	return run.done()
}

func cmdRackAccess(run *invocation) error {
	s, err := run.system()
	if err != nil {
		return err
	}
	var t wire.Token
	if err := run.post("/system/jwt/token", url.Values{"role": {run.flags["role"]}, "durationInHour": {run.flags["duration-in-hours"]}}, &t); err != nil {
		return err
	}
	run.printf("RACK_URL=https://jwt:%s@%s\n", t.Token, s.RackDomain)
	return nil
}

func cmdRackRotate(run *invocation) error {
	if err := run.put("/system/jwt/rotate", nil); err != nil {
		return err
	}
	return run.done()
}

// --- apps

func cmdApps(run *invocation) error {
	var list []wire.App
	if err := run.get("/apps", &list); err != nil {
		return err
	}
	var rows [][]string
	for _, a := range list {
		rows = append(rows, []string{a.Name, a.Status, a.Release})
	}
	return run.table([]string{"APP", "STATUS", "RELEASE"}, rows...)
}

func (run *invocation) appGet(name string) (wire.App, error) {
	var a wire.App
	return a, run.get("/apps/"+name, &a)
}

func cmdAppInfo(run *invocation) error {
	a, err := run.appGet(run.argApp())
	if err != nil {
		return err
	}
	pairs := [][2]string{{"Name", a.Name}, {"Status", a.Status}, {"Generation", a.Generation}, {"Locked", strconv.FormatBool(a.Locked)}, {"Release", a.Release}}
	if a.Router != "" {
		pairs = append(pairs, [2]string{"Router", a.Router})
	}
	return run.info(pairs...)
}

func cmdAppCreate(run *invocation) error {
	app := run.argApp()
	form := url.Values{"name": {app}}
	for _, f := range []string{"generation", "timeout"} {
		if v := run.flags[f]; v != "" {
			form.Set(f, v)
		}
	}
	run.start("Creating %s", app)
	if err := run.post("/apps", form, nil); err != nil {
		return err
	}
	if err := run.awaitApp(app); err != nil {
		return err
	}
	return run.done()
}

func cmdAppDelete(run *invocation) error {
	app := run.arg(0)
	run.start("Deleting %s", app)
	if err := run.delete("/apps/" + app); err != nil {
		return err
	}
	run.pause(run.cli.pace().App)
	err := run.wait(run.cli.pace().App, func() (bool, error) {
		_, err := run.appGet(app)
		switch {
		case err == nil:
			return false, nil
		case strings.Contains(err.Error(), "no such app"), strings.Contains(err.Error(), "app not found"):
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return err
	}
	return run.done()
}

func cmdAppCancel(run *invocation) error {
	app := run.argApp()
	run.printf("Cancelling deployment of %s...\n", app)
	if err := run.post("/apps/"+app+"/cancel", nil, nil); err != nil {
		return err
	}
	run.printf("Rewriting last active release...\n")
	rel, err := run.latestRelease(app)
	if err != nil {
		return fmt.Errorf("failed to fetch last active release - %w", err)
	}
	if err := run.post("/apps/"+app+"/releases", url.Values{"build": {rel.Build}, "description": {rel.Description}, "env": {rel.Env}}, nil); err != nil {
		return err
	}
	return run.done()
}

func (run *invocation) lock(doing, value string) error {
	app := run.argApp()
	run.start("%s %s", doing, app)
	if err := run.put("/apps/"+app, url.Values{"lock": {value}}); err != nil {
		return err
	}
	return run.done()
}

func cmdAppParams(run *invocation) error {
	if _, err := run.system(); err != nil {
		return err
	}
	a, err := run.appGet(run.argApp())
	if err != nil {
		return err
	}
	return run.infoMap(a.Parameters)
}

func cmdAppParamsSet(run *invocation) error {
	if _, err := run.system(); err != nil {
		return err
	}
	params, err := pairs(run.args)
	if err != nil {
		return err
	}
	run.start("Updating parameters")
	if err := run.put("/apps/"+run.app(), url.Values{"parameters": {encodeMap(params)}}); err != nil {
		return err
	}
	run.printf("\n")
	if err := run.awaitAppWithLogs(run.app()); err != nil {
		return err
	}
	a, err := run.appGet(run.app())
	if err != nil {
		return err
	}
	for k, v := range params {
		if a.Parameters[k] != v {
			return errors.New("failed to set params")
		}
	}
	return run.done()
}

// awaitApp waits until an app is running, as the CLI does after every change of one.
func (run *invocation) awaitApp(app string) error {
	run.pause(run.cli.pace().App)
	return run.wait(run.cli.pace().App, func() (bool, error) {
		a, err := run.appGet(app)
		if err == nil && a.Status == "rollback" {
			err = errors.New("rollback")
		}
		return a.Status == "running", err
	})
}

// awaitAppWithLogs also shows the app's own log lines, and what becomes of its processes.
func (run *invocation) awaitAppWithLogs(app string) error {
	ctx, cancel := context.WithCancel(run.ctx)
	out := &lockedWriter{w: run}
	var both sync.WaitGroup
	both.Go(func() {
		for ctx.Err() == nil {
			s, err := run.c.Socket(ctx, "/apps/"+app+"/logs", map[string]string{"Prefix": "true", "Since": "5s"})
			if err != nil {
				return
			}
			lines := &systemLines{w: out}
			s.Copy(lines) //nolint:errcheck // any end is an end
			s.Close()     //nolint:errcheck // never fails
			pauseContext(ctx, run.cli.pace().Reopen)
		}
	})
	both.Go(func() {
		seen := map[string]string{}
		for pauseContext(ctx, run.cli.pace().States) {
			var list []wire.Process
			if run.c.Get(ctx, "/apps/"+app+"/processes", nil, &list) != nil {
				continue
			}
			for _, p := range list {
				before, known := seen[p.ID]
				seen[p.ID] = p.Status
				if (known || p.Status != "running") && before != p.Status {
					fmt.Fprintf(out, "  %-32s  %-12s  %s\n", p.ID, p.Name, p.Status)
				}
			}
		}
	})
	err := run.awaitApp(app)
	cancel()
	both.Wait()
	return err
}

func pauseContext(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

// systemLines lets the lines through whose source is the rack itself.
type systemLines struct {
	w    io.Writer
	rest string
}

func (l *systemLines) Write(p []byte) (int, error) {
	l.rest += string(p)
	for {
		line, rest, ok := strings.Cut(l.rest, "\n")
		if !ok {
			return len(p), nil
		}
		l.rest = rest
		if parts := strings.SplitN(line, " ", 3); len(parts) == 3 && strings.HasPrefix(parts[1], "system/") {
			if _, err := io.WriteString(l.w, line+"\n"); err != nil {
				return 0, err
			}
		}
	}
}

// --- processes

func cmdPs(run *invocation) error {
	q := url.Values{}
	for _, f := range []string{"release", "service"} {
		if v := run.flags[f]; v != "" {
			q.Set(f, v)
		}
	}
	var list []wire.Process
	if err := run.c.Get(run.ctx, run.appPath("/processes"), q, &list); err != nil {
		return err
	}
	run.budget()
	var rows [][]string
	for _, p := range list {
		rows = append(rows, []string{p.ID, p.Name, p.Status, p.Release, run.ago(p.Started), p.Command})
	}
	return run.table([]string{"ID", "SERVICE", "STATUS", "RELEASE", "STARTED", "COMMAND"}, rows...)
}

// budget asks for the app's budget, as three commands do; its failure is a line on standard error.
func (run *invocation) budget() {
	var b wire.BudgetAnswer
	if err := run.get(run.appPath("/budget"), &b); err != nil {
		fmt.Fprintf(run.errs, "ns=cli_budget at=fetch-error err=%q\n", err)
	}
}

func cmdPsInfo(run *invocation) error {
	var p wire.Process
	if err := run.get(run.appPath("/processes/%s", run.arg(0)), &p); err != nil {
		return err
	}
	return run.info([2]string{"Id", p.ID}, [2]string{"App", p.App}, [2]string{"Command", p.Command}, [2]string{"Instance", p.Instance},
		[2]string{"Release", p.Release}, [2]string{"Service", p.Name}, [2]string{"Started", run.ago(p.Started)}, [2]string{"Status", p.Status})
}

func cmdPsStop(run *invocation) error {
	run.start("Stopping %s", run.arg(0))
	if err := run.delete(run.appPath("/processes/%s", run.arg(0))); err != nil {
		return err
	}
	return run.done()
}

func cmdExec(run *invocation) error {
	return run.exec(run.arg(0), strings.Join(run.args[1:], " "), nil)
}

// exec runs a command in a process with the command's own input and output.
func (run *invocation) exec(pid, command string, more map[string]string) error {
	h := map[string]string{"Command": oneLine(command), "Tty": "false"}
	maps.Copy(h, more)
	code, err := run.c.Interact(run.ctx, run.appPath("/processes/%s/exec", pid), h, run.in, run)
	if err != nil {
		return err
	}
	return exitError(code)
}

// oneLine is what becomes of newlines in a header.
func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

func cmdRun(run *invocation) error {
	command := strings.Join(run.args[1:], " ")
	h := map[string]string{}
	for flag, name := range map[string]string{
		"cpu": "Cpu", "cpu-limit": "Cpu-Limit", "gpu": "Gpu", "gpu-vendor": "Gpu-Vendor", "memory": "Memory", "memory-limit": "Memory-Limit",
		"release": "Release", "use-service-volume": "Use-Service-Volume", "node-labels": "Node-Labels", "system-critical": "System-Critical",
	} {
		if v := run.flags[flag]; v != "" {
			h[name] = v
		}
	}
	start := func() (wire.Process, error) {
		var p wire.Process
		return p, run.c.Do(run.ctx, Call{Method: http.MethodPost, Path: run.appPath("/services/%s/processes", run.arg(0)), Header: h}, &p)
	}
	if run.is("detach") {
		run.start("Running detached process")
		h["Command"] = oneLine(command)
		p, err := start()
		if err != nil {
			return err
		}
		return run.done(p.ID)
	}
	timeout := run.flags["timeout"]
	if timeout == "" {
		timeout = "3600"
	}
	h["Command"] = "sleep " + timeout
	p, err := start()
	if err != nil {
		return err
	}
	// The process is stopped whatever happens; whether that works is not looked at.
	defer run.c.Delete(context.WithoutCancel(run.ctx), run.appPath("/processes/%s", p.ID)) //nolint:errcheck // as the CLI
	if err := run.awaitProcess(p.ID); err != nil {
		return err
	}
	entrypoint := run.flags["entrypoint"]
	if entrypoint == "" {
		entrypoint = "true"
	}
	return run.exec(p.ID, command, map[string]string{"Entrypoint": entrypoint})
}

// awaitProcess waits until a process is running.
func (run *invocation) awaitProcess(pid string) error {
	return run.wait(run.cli.pace().Process, func() (bool, error) {
		var now wire.Process
		err := run.get(run.appPath("/processes/%s", pid), &now)
		return now.Status == "running", err
	})
}

// cmdTest builds, and runs the test of each service that has one in a process of the new release.
func cmdTest(run *invocation) error {
	id := run.flags["release"]
	if id == "" {
		run.flags["development"] = "true"
		b, err := run.buildDir()
		if err != nil {
			return err
		}
		id = b.Release
	}
	rel, err := run.release(id)
	if err != nil {
		return err
	}
	for _, t := range manifestTests(rel.Manifest) {
		run.printf("Running %s on %s\n", t.command, t.service)
		if err := run.test(t.service, t.command, id); err != nil {
			return err
		}
	}
	return nil
}

// test runs one service's test.
func (run *invocation) test(service, command, release string) error {
	timeout := cmp.Or(run.flags["timeout"], "3600")
	call := Call{Method: http.MethodPost, Path: run.appPath("/services/%s/processes", service), Header: map[string]string{"Command": "sleep " + timeout, "Release": release}}
	var p wire.Process
	if err := run.c.Do(run.ctx, call, &p); err != nil {
		return err
	}
	defer run.c.Delete(context.WithoutCancel(run.ctx), run.appPath("/processes/%s", p.ID)) //nolint:errcheck // as the CLI
	if err := run.awaitProcess(p.ID); err != nil {
		return err
	}
	err := run.exec(p.ID, command, map[string]string{"Entrypoint": "true"})
	var code exitError
	if errors.As(err, &code) && code != 0 {
		return errors.New(code.Error()) // a text, and the exit code is 1
	}
	if errors.As(err, &code) {
		return nil
	}
	return err
}

// manifestTest is a service's test command.
type manifestTest struct{ service, command string }

// manifestTests reads the tests out of a convox.yml, as far as ours are written.
func manifestTests(manifest string) (tests []manifestTest) {
	service, within := "", false
	for line := range strings.SplitSeq(manifest, "\n") {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		switch depth := len(line) - len(strings.TrimLeft(line, " ")); {
		case !ok:
		case depth == 0:
			within = name == "services"
		case depth == 2:
			service = name
		case depth == 4 && within && name == "test":
			tests = append(tests, manifestTest{service, strings.TrimSpace(value)})
		}
	}
	return tests
}

func (run *invocation) logHeaders() map[string]string {
	h := map[string]string{}
	for flag, name := range map[string]string{"filter": "Filter", "max-log-requests": "Maxlogrequests", "since": "Since", "allow-previous": "Previous", "tail": "Tail"} {
		if v := run.flags[flag]; v != "" {
			if flag == "since" {
				if d, err := time.ParseDuration(v); err == nil {
					v = d.String()
				}
			}
			h[name] = v
		}
	}
	return h
}

func cmdLogs(run *invocation) error {
	h := run.logHeaders()
	h["Prefix"] = "true"
	if run.is("no-follow") {
		h["Follow"] = "false"
	}
	path := run.appPath("/logs")
	if s := run.flags["service"]; s != "" {
		path = run.appPath("/services/%s/logs", s)
	}
	return run.c.Logs(run.ctx, path, h, run)
}

// --- services

func (run *invocation) services() ([]wire.Service, error) {
	var list []wire.Service
	return list, run.get(run.appPath("/services"), &list)
}

func cmdServices(run *invocation) error {
	list, err := run.services()
	if err != nil {
		return err
	}
	run.budget()
	var rows [][]string
	for _, s := range list {
		var ports []string
		for _, p := range s.Ports {
			port := strconv.Itoa(p.Container)
			if p.Balancer != 0 {
				port = fmt.Sprintf("%d:%d", p.Balancer, p.Container)
			}
			ports = append(ports, port)
		}
		scale := number(s.Min)
		if s.Max != nil && s.Min != nil && *s.Max != *s.Min {
			scale += "-" + number(s.Max)
		}
		rows = append(rows, []string{s.Name, s.Domain, strings.Join(ports, " "), scale})
	}
	return run.table([]string{"SERVICE", "DOMAIN", "PORTS", "SCALE"}, rows...)
}

func number(p *int) string {
	if p == nil {
		return "-"
	}
	return strconv.Itoa(*p)
}

func cmdScale(run *invocation) error {
	form := url.Values{}
	for _, f := range []string{"count", "cpu", "gpu", "gpu-vendor", "memory", "min", "max"} {
		if v := run.flags[f]; v != "" {
			form.Set(f, v)
		}
	}
	if len(form) > 0 {
		if run.arg(0) == "" {
			return errors.New("service name required")
		}
		if form.Has("min") || form.Has("max") {
			if _, err := run.system(); err != nil {
				return err
			}
		}
		run.start("Scaling %s", run.arg(0))
		if err := run.put(run.appPath("/services/%s", run.arg(0)), form); err != nil {
			return err
		}
		run.printf("\n")
		if err := run.awaitAppWithLogs(run.app()); err != nil {
			return err
		}
		return run.done()
	}
	list, err := run.services()
	if err != nil {
		return err
	}
	var processes []wire.Process
	if err := run.get(run.appPath("/processes"), &processes); err != nil {
		return err
	}
	run.budget()
	running := map[string]int{}
	for _, p := range processes {
		running[p.Name]++
	}
	var rows [][]string
	for _, s := range list {
		gpu := "-"
		if s.GPU > 0 {
			gpu = strconv.Itoa(s.GPU)
		}
		rows = append(rows, []string{s.Name, strconv.Itoa(s.Count), strconv.Itoa(running[s.Name]), strconv.Itoa(s.CPU), strconv.Itoa(s.Memory), gpu, number(s.Min), number(s.Max), ""})
	}
	return run.table([]string{"SERVICE", "DESIRED", "RUNNING", "CPU", "MEMORY", "GPU", "MIN", "MAX", "STATUS"}, rows...)
}

func cmdServiceUpdate(run *invocation) error {
	form := url.Values{}
	for _, f := range []string{"count", "cpu", "memory", "min", "max"} {
		if v := run.flags[f]; v != "" {
			form.Set(f, v)
		}
	}
	run.start("Updating %s", run.arg(0))
	if err := run.put(run.appPath("/services/%s", run.arg(0)), form); err != nil {
		return err
	}
	run.printf("\n")
	if err := run.awaitAppWithLogs(run.app()); err != nil {
		return err
	}
	return run.done()
}

// cmdSSL lists the certificates of the app's services.
func cmdSSL(run *invocation) error {
	if _, err := run.system(); err != nil {
		return err
	}
	list, err := run.services()
	if err != nil {
		return err
	}
	var certificates []wire.Certificate
	if err := run.get("/certificates", &certificates); err != nil {
		return err
	}
	byID := map[string]wire.Certificate{}
	for _, c := range certificates {
		byID[c.ID] = c
	}
	var rows [][]string
	for _, s := range list {
		for _, p := range s.Ports {
			if p.Certificate != "" {
				c := byID[p.Certificate]
				rows = append(rows, []string{fmt.Sprintf("%s:%d", s.Name, p.Balancer), p.Certificate, c.Domain, run.ago(c.Expiration)})
			}
		}
	}
	return run.table([]string{"ENDPOINT", "CERTIFICATE", "DOMAIN", "EXPIRES"}, rows...)
}

func cmdSSLUpdate(run *invocation) error {
	if _, err := run.appGet(run.app()); err != nil {
		return err
	}
	service, port, ok := strings.Cut(run.arg(0), ":")
	if !ok {
		return errors.New("process:port required as first argument")
	}
	run.start("Updating certificate")
	if err := run.put(run.appPath("/ssl/%s/%s", service, port), url.Values{"id": {run.arg(1)}}); err != nil {
		return err
	}
	if err := run.awaitApp(run.app()); err != nil {
		return err
	}
	return run.done()
}

func cmdRestart(run *invocation) error {
	list, err := run.services()
	if err != nil {
		return err
	}
	for _, s := range list {
		if err := run.restart(s.Name); err != nil {
			return err
		}
	}
	return nil
}

func cmdServiceRestart(run *invocation) error { return run.restart(run.arg(0)) }

func (run *invocation) restart(service string) error {
	run.start("Restarting %s", service)
	if err := run.post(run.appPath("/services/%s/restart", service), nil, nil); err != nil {
		return err
	}
	return run.done()
}

func cmdBalancers(run *invocation) error {
	var list []wire.Balancer
	if err := run.get(run.appPath("/balancers"), &list); err != nil {
		return err
	}
	var rows [][]string
	for _, b := range list {
		rows = append(rows, []string{b.Name, b.Service, b.Endpoint})
	}
	return run.table([]string{"BALANCER", "SERVICE", "ENDPOINT"}, rows...)
}

func cmdConfigs(run *invocation) error {
	var list []wire.AppConfig
	if err := run.get(run.appPath("/configs"), &list); err != nil {
		return err
	}
	var rows [][]string
	for _, a := range list {
		rows = append(rows, []string{a.Name})
	}
	return run.table([]string{"CONFIG-ID"}, rows...)
}

func cmdConfigGet(run *invocation) error {
	var a wire.AppConfig
	if err := run.get(run.appPath("/configs/%s", run.arg(0)), &a); err != nil {
		return err
	}
	run.printf("%s\n", a.Value)
	return nil
}

func cmdConfigSet(run *invocation) error {
	var data []byte
	var err error
	file, byFile := run.flags["file"]
	if _, byValue := run.flags["value"]; !byFile && !byValue {
		return errors.New("--file or --value flag is required")
	}
	if byFile {
		if file, err = run.cli.path(file); err != nil {
			return err
		}
		data, err = os.ReadFile(file)
	} else {
		data, err = io.ReadAll(run.in) // standard input, whatever --value says, since it is no terminal
	}
	if err != nil {
		return err
	}
	if err := run.put(run.appPath("/configs/%s", run.arg(0)), url.Values{"value": {base64.StdEncoding.EncodeToString(data)}}); err != nil {
		return err
	}
	if err := run.done(); err != nil {
		return err
	}
	if run.is("restart") {
		return cmdRestart(run)
	}
	return nil
}

// pairs reads Key=Value arguments.
func pairs(args []string) (map[string]string, error) {
	m := map[string]string{}
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if !ok {
			return nil, fmt.Errorf("Key=Value expected: %s", a)
		}
		m[k] = v
	}
	return m, nil
}

// encodeMap is how a map travels in a form field.
func encodeMap(m map[string]string) string {
	v := url.Values{}
	for k, s := range m {
		v.Set(k, s)
	}
	return v.Encode()
}

// temporaryKey is where the CLI puts sources.
func temporaryKey() string {
	var b [15]byte
	rand.Read(b[:])
	return fmt.Sprintf("tmp/%x.tgz", b)
}
