// Apps: creation and deletion, status, parameters, files of configuration, diagnosis, metrics and cost.

package racktest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"rackgateway/pkg/racktest/wire"
)

// app is an application. Its fields are guarded by Rack.mu; its logs guard themselves.
type app struct {
	name, status, release string
	locked                bool
	parameters            map[string]string
	manifest              manifest // of the current release
	builds                map[string]*build
	releases              map[string]*release
	processes             map[string]*process
	services              map[string]*service
	resources             map[string]*resource
	objects               map[string]*blob
	configs               map[string]string
	balancers             []wire.Balancer
	budget                *wire.Budget
	budgetState           *wire.BudgetState
	bannerUp              bool // a recovery banner that has not been dismissed
	log                   *logBuffer

	rollout  int // counts promotions, so that an overtaken one knows
	previous string
}

// systemApp is the rack's own namespace. It is in no list, but it can be named wherever an app can: one can look
// at its processes, and run commands in them.
const systemApp = "system"

// appParameters are the parameters that an app of this rack has, with their defaults.
func appParameters() map[string]string {
	return map[string]string{"BuildArch": "", "BuildCpu": "500", "BuildLabels": "", "BuildMem": "1024"}
}

func newApp(name string) *app {
	return &app{
		name:       name,
		status:     "running",
		parameters: map[string]string{},
		builds:     map[string]*build{},
		releases:   map[string]*release{},
		processes:  map[string]*process{},
		services:   map[string]*service{},
		resources:  map[string]*resource{},
		objects:    map[string]*blob{},
		configs:    map[string]string{},
		log:        newLogBuffer(),
	}
}

func errNoApp(name string) error { return notFound("app not found: %s", name) }

// app finds an app. What it returns may be read and changed under r.mu only.
func (r *Rack) app(name string) (*app, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.appLocked(name)
}

func (r *Rack) appLocked(name string) (*app, error) {
	if a := r.apps[name]; a != nil {
		return a, nil
	}
	return nil, errNoApp(name)
}

// shape is the app as the API shows it.
func (a *app) shape() wire.App {
	params := map[string]string{}
	for k, v := range appParameters() {
		if set, ok := a.parameters[k]; ok {
			v = set
		}
		if v != "" {
			params[k] = v
		}
	}
	return wire.App{
		Generation: "3", Locked: a.locked, Name: a.name, Release: a.release, Router: "nginx", Status: a.status,
		Budget: a.budget, Parameters: params,
	}
}

func (r *Rack) appList(c *call) error {
	r.mu.Lock()
	out := make([]wire.App, 0, len(r.apps))
	for _, a := range r.apps {
		if a.name != systemApp {
			out = append(out, a.shape())
		}
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b wire.App) int { return strings.Compare(a.Name, b.Name) })
	return c.json(out)
}

func (r *Rack) appGet(c *call) error {
	r.mu.Lock()
	a, err := r.appLocked(c.variable("name"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := a.shape()
	r.mu.Unlock()
	return c.json(out)
}

// appName is what Kubernetes accepts as part of a namespace's name.
var appName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

func (r *Rack) appCreate(c *call) error {
	name := c.value("name")
	o := c.options()
	o.form("generation")
	o.number(o.form("timeout"))
	if o.err != nil {
		return o.err
	}
	r.mu.Lock()
	a, err := r.createApp(name)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	r.setStatus(a, "updating")
	r.spawn(func(ctx context.Context) {
		pause(ctx, r.opts.StartTime)
		r.mu.Lock()
		defer r.mu.Unlock()
		if a.rollout == 0 {
			r.setStatus(a, "running")
		}
	})
	out := a.shape()
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) createApp(name string) (*app, error) {
	switch {
	case name == "rack" || name == systemApp:
		return nil, badRequest("app name is reserved")
	case !appName.MatchString(name) || len(name) > 63:
		return nil, fmt.Errorf("Namespace %q is invalid: metadata.name: Invalid value: %q", r.opts.Name+"-"+name, r.opts.Name+"-"+name) //nolint:staticcheck // Kubernetes says it so
	case r.apps[name] != nil:
		return nil, conflict("app already exists: %s", name)
	}
	a := newApp(name)
	r.apps[name] = a
	return a, nil
}

func (r *Rack) appDelete(c *call) error {
	name := c.variable("name")
	r.mu.Lock()
	a, err := r.appLocked(name)
	if err == nil && a.locked {
		err = conflict("app is locked: %s", name)
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	r.setStatus(a, "deleting")
	a.rollout++
	for _, p := range a.processes {
		r.stopProcess(a, p)
	}
	r.spawn(func(ctx context.Context) {
		pause(ctx, r.opts.StartTime)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.apps[name] == a {
			delete(r.apps, name)
		}
		for _, b := range a.builds {
			b.log.end()
		}
		a.log.end()
	})
	r.mu.Unlock()
	return c.ok()
}

func (r *Rack) appUpdate(c *call) error {
	o := c.options()
	lock := boolean(o.form("lock"))
	params := o.values(o.form("parameters"))
	if o.err != nil {
		return o.err
	}
	r.mu.Lock()
	a, err := r.appLocked(c.variable("name"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	known := appParameters()
	var unknown []string
	for k := range params {
		if _, ok := known[k]; !ok {
			unknown = append(unknown, k)
		}
	}
	if len(unknown) > 0 {
		r.mu.Unlock()
		slices.Sort(unknown)
		return badRequest("invalid parameters: %s", strings.Join(unknown, ", "))
	}
	if lock != nil {
		a.locked = *lock
	}
	for k, v := range params {
		a.parameters[k] = v
	}
	if a.release != "" {
		r.promote(a, a.releases[a.release])
	}
	r.mu.Unlock()
	return c.ok()
}

func (r *Rack) appCancel(c *call) error {
	r.mu.Lock()
	a, err := r.appLocked(c.variable("name"))
	if err == nil && a.status != "updating" {
		err = fail(http.StatusForbidden, "app is not updating")
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	r.rollback(a)
	r.mu.Unlock()
	return c.ok()
}

func (r *Rack) appManifestService(c *call) error {
	app, name := c.variable("app"), c.variable("service")
	r.mu.Lock()
	a, err := r.appLocked(app)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	if a.release == "" {
		r.mu.Unlock()
		return fmt.Errorf("no release for app: %s", app)
	}
	s := a.manifest.service(name)
	r.mu.Unlock()
	if s == nil {
		return fmt.Errorf("service %s not found in manifest for app %s", name, app)
	}
	out := wire.ManifestService{Name: s.name, Environment: s.environment}
	if s.min != 0 || s.max != 0 {
		out.Scale = &wire.ManifestScale{Min: &s.min, Max: &s.max}
	}
	return c.json(out)
}

// appMetrics answers as the real rack does on Kubernetes (provider/k8s: AppMetrics), once the options are good: with 501
// and this word.
func (r *Rack) appMetrics(c *call) error {
	if _, err := c.metricRange(); err != nil {
		return err
	}
	return notImplemented("unimplemented")
}

// metricRange reads and bounds the options of the metric routes; it returns how many steps they span.
func (c *call) metricRange() (int, error) {
	o := c.options()
	end, period := c.rack.now(), 30
	if t := o.moment(o.query("end")); t != nil {
		end = *t
	}
	start := end.Add(-30 * time.Minute)
	if t := o.moment(o.query("start")); t != nil {
		start = *t
	}
	if n := o.number(o.query("period")); n != nil && *n > 0 {
		period = *n
	}
	switch span := end.Sub(start); {
	case o.err != nil:
		return 0, o.err
	case span <= 0:
		return 0, badRequest("metrics: end must be after start")
	case span > 24*time.Hour:
		return 0, badRequest("metrics: end-start must be at most 24h (got %s)", span)
	case period < 5:
		return 0, badRequest("metrics: period must be at least 5s (got %ds)", period)
	default:
		return int(span / (time.Duration(period) * time.Second)), nil
	}
}

// gpuMetrics are the series that a service has; a rack without GPUs answers them empty.
func gpuMetrics() []wire.Metric {
	var out []wire.Metric
	for _, name := range []string{"gpu-util", "gpu-mem-used", "gpu-mem-total", "gpu-tensor-active", "gpu-sm-active", "gpu-dram-active", "gpu-fp16-active", "gpu-power-w"} {
		out = append(out, wire.Metric{Name: name, Values: []wire.MetricValue{}})
	}
	return out
}

func (r *Rack) metricsByService(c *call) error {
	if _, err := c.metricRange(); err != nil {
		return err
	}
	out := []wire.ServiceMetrics{}
	for name := range strings.SplitSeq(c.r.URL.Query().Get("services"), ",") {
		if name = strings.TrimSpace(name); name != "" {
			out = append(out, wire.ServiceMetrics{Name: name, Metrics: gpuMetrics()})
		}
	}
	return c.json(out)
}

func (r *Rack) appDiagnose(c *call) error {
	o := c.options()
	lines := 200
	if n := o.number(o.query("lines")); n != nil {
		lines = *n
	}
	services, only := o.query("services")
	if o.err != nil {
		return o.err
	}
	app := c.variable("app")
	r.mu.Lock()
	a, err := r.appLocked(app)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	now := r.now()
	out := wire.Diagnosis{
		Namespace: r.opts.Name + "-" + app, Rack: r.opts.Name, App: app, Timestamp: now,
		Overview: &wire.DiagnosisOverview{Services: []wire.DiagnosisService{}}, Summary: &wire.DiagnosisSummary{},
	}
	ready := map[string]int{}
	for _, p := range a.sortedProcesses() {
		if only && !slices.Contains(strings.Split(services, ","), p.Name) {
			continue
		}
		pod := wire.DiagnosisPod{Name: p.ID, Service: p.Name, Phase: "Running", Ready: "1/1", AgeSeconds: int(now.Sub(p.Started).Seconds()), Classification: "healthy"}
		out.Summary.Total++
		if p.Status == "running" {
			ready[p.Name]++
			out.Summary.Healthy++
		} else {
			pod.Phase, pod.Ready, pod.Classification = "Pending", "0/1", "not-ready"
			out.Summary.NotReady++
		}
		pod.Logs = p.log.last(lines)
		out.Pods = append(out.Pods, pod)
	}
	for _, s := range a.sortedServices() {
		status := "running"
		if ready[s.name] < s.count {
			status = "deploying"
		}
		out.Overview.Services = append(out.Overview.Services, wire.DiagnosisService{
			Name: s.name, DesiredReplicas: s.count, ReadyReplicas: ready[s.name], UpdatedReplicas: ready[s.name], Status: status,
		})
	}
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) appCost(c *call) error {
	app := c.variable("app")
	r.mu.Lock()
	a, err := r.appLocked(app)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	now := r.now()
	out := wire.Cost{
		App: app, MonthStart: time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC), AsOf: now,
		Breakdown: []wire.CostLine{}, PricingSource: "on-demand-static-table", PricingTableVersion: "2026-05-01", PricingAdjustment: 1,
	}
	for _, s := range a.sortedServices() {
		out.Breakdown = append(out.Breakdown, wire.CostLine{Service: s.name})
	}
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) balancerList(c *call) error {
	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := append([]wire.Balancer{}, a.balancers...)
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) configList(c *call) error {
	// The rack lists a namespace that may not exist, so an unknown app has no configs rather than an error.
	out := []wire.AppConfig{}
	r.mu.Lock()
	if a := r.apps[c.variable("app")]; a != nil {
		for name, value := range a.configs {
			out = append(out, wire.AppConfig{Name: name, Value: value})
		}
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b wire.AppConfig) int { return strings.Compare(a.Name, b.Name) })
	return c.json(out)
}

func (r *Rack) configGet(c *call) error {
	name := c.variable("name")
	r.mu.Lock()
	var value string
	var ok bool
	if a := r.apps[c.variable("app")]; a != nil {
		value, ok = a.configs[name]
	}
	r.mu.Unlock()
	if !ok {
		return notFound("app config not found: %s", name)
	}
	return c.json(wire.AppConfig{Name: name, Value: value})
}

func (r *Rack) configSet(c *call) error {
	data, err := base64.StdEncoding.DecodeString(c.value("value"))
	if err != nil {
		return badRequest("failed to parse base 64 value: %s", err)
	}
	r.mu.Lock()
	a := r.apps[c.variable("app")]
	if a != nil {
		a.configs[c.variable("name")] = string(data)
	}
	r.mu.Unlock()
	if a == nil {
		return errors.New("failed to set config: namespaces \"" + r.opts.Name + "-" + c.variable("app") + "\" not found")
	}
	return c.ok()
}
