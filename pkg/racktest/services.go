// Services: scaling, restarts, and what overrides their autoscaling.

package racktest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"rackgateway/pkg/racktest/wire"
)

type service struct {
	name, command    string
	port             int
	internal         bool
	count, min, max  int
	cpu, memory, gpu int
	gpuVendor        string
	certificate      string
	scaleOverride    bool
	triggers         map[string]float64 // enabled at run time; nil when not
}

func (a *app) sortedServices() []*service {
	all := slices.Collect(maps.Values(a.services))
	slices.SortFunc(all, func(x, y *service) int { return strings.Compare(x.name, y.name) })
	return all
}

func (r *Rack) serviceShape(a *app, s *service) wire.Service {
	lo, hi, override, triggers := s.min, s.max, s.scaleOverride, s.triggers != nil
	out := wire.Service{
		Count: s.count, CPU: s.cpu, GPU: s.gpu, GPUVendor: s.gpuVendor, Memory: s.memory, Name: s.name,
		Ports: []wire.ServicePort{}, Min: &lo, Max: &hi, ScaleOverrideActive: &override, TriggersOverrideActive: &triggers,
	}
	if s.port > 0 {
		if s.internal {
			out.Domain = fmt.Sprintf("%s.%s.%s.local", s.name, a.name, r.opts.Name)
			out.Ports = append(out.Ports, wire.ServicePort{Container: s.port})
		} else {
			out.Domain = fmt.Sprintf("%s.%s.%s", s.name, a.name, r.domain())
			out.Ports = append(out.Ports,
				wire.ServicePort{Balancer: 80, Container: s.port},
				wire.ServicePort{Balancer: 443, Container: s.port, Certificate: s.certificate})
		}
	}
	if hi > lo || triggers {
		out.Autoscale = &wire.Autoscale{Enabled: true}
		for kind, threshold := range s.triggers {
			n := int(threshold)
			switch kind {
			case "cpu":
				out.Autoscale.CPUThreshold = &n
			case "memory":
				out.Autoscale.MemThreshold = &n
			case "gpuUtilization":
				out.Autoscale.GPUThreshold = &n
			case "queueDepth":
				out.Autoscale.QueueThreshold = &n
			}
		}
	}
	return out
}

func (r *Rack) serviceList(c *call) error {
	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := []wire.Service{}
	for _, s := range a.sortedServices() {
		out = append(out, r.serviceShape(a, s))
	}
	r.mu.Unlock()
	return c.json(out)
}

// findService finds a service of an app that has a release. The caller holds r.mu.
func (r *Rack) findService(c *call, variable string) (*app, *service, error) {
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		return nil, nil, err
	}
	name := c.variable(variable)
	if a.release == "" {
		return nil, nil, fmt.Errorf("no release for app: %s", a.name)
	}
	if s := a.services[name]; s != nil {
		return a, s, nil
	}
	return nil, nil, fmt.Errorf("no such service: %s", name)
}

func (r *Rack) serviceMetrics(c *call) error {
	for _, v := range []string{"app", "service"} {
		if !appName.MatchString(c.variable(v)) {
			return badRequest("metrics: invalid name %q", c.variable(v))
		}
	}
	if _, err := c.metricRange(); err != nil {
		return err
	}
	return c.json(gpuMetrics())
}

func (r *Rack) serviceRestart(c *call) error {
	r.mu.Lock()
	a, s, err := r.findService(c, "name")
	if err != nil {
		r.mu.Unlock()
		return err
	}
	old := a.serviceProcesses(s.name)
	for range s.count {
		r.startProcess(a, processInput{service: s.name, command: s.command, release: a.releases[a.release], kind: serviceProcess})
	}
	r.spawn(func(ctx context.Context) {
		pause(ctx, r.opts.StartTime)
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, p := range old {
			r.stopProcess(a, p)
		}
	})
	r.mu.Unlock()
	return c.ok()
}

func (r *Rack) serviceUpdate(c *call) error {
	o := c.options()
	count, cpu, gpu, memory := o.number(o.form("count")), o.number(o.form("cpu")), o.number(o.form("gpu")), o.number(o.form("memory"))
	low, high := o.number(o.form("min")), o.number(o.form("max"))
	vendor := text(o.form("gpu-vendor"))
	if o.err != nil {
		return o.err
	}
	r.mu.Lock()
	name := c.variable("name")
	var a *app
	var s *service
	if a = r.apps[c.variable("app")]; a != nil {
		s = a.services[name]
	}
	switch {
	case s == nil:
		r.mu.Unlock()
		return fmt.Errorf("deployments.apps %q not found", name)
	case high != nil && s.triggers == nil && s.max <= s.min:
		r.mu.Unlock()
		return fmt.Errorf("range scaling (min/max) requires an autoscale block in convox.yml; set scale.autoscale and re-deploy, or use --count for a fixed replica count")
	}
	for field, v := range map[*int]*int{&s.cpu: cpu, &s.gpu: gpu, &s.memory: memory, &s.min: low, &s.max: high, &s.count: count} {
		if v != nil {
			*field = *v
		}
	}
	if vendor != nil {
		s.gpuVendor = *vendor
	}
	if low != nil && s.count < *low {
		s.count = *low
	}
	running := a.serviceProcesses(name)
	for n := len(running); n < s.count; n++ {
		r.startProcess(a, processInput{service: name, command: s.command, release: a.releases[a.release], kind: serviceProcess})
	}
	for _, p := range running[min(max(0, s.count), len(running)):] {
		r.stopProcess(a, p)
	}
	r.mu.Unlock()
	return c.ok()
}

func (r *Rack) serviceScaleOverride(c *call) error {
	c.ackBy()
	active := strings.TrimSpace(c.bodyValue("active"))
	if active == "" {
		return badRequest("active form-param is required (\"true\" or \"false\")")
	}
	on, err := strconv.ParseBool(active)
	if err != nil {
		return badRequest("active must be \"true\" or \"false\": %v", err)
	}
	return r.changeService(c, func(s *service) error {
		s.scaleOverride = on
		return nil
	})
}

func (r *Rack) serviceTriggersEnable(c *call) error {
	var in wire.Triggers
	if err := json.Unmarshal([]byte(c.bodyValue("opts")), &in); err != nil {
		return badRequest("invalid opts payload: %s", err)
	}
	c.ackBy()
	switch {
	case in.Min < 0:
		return badRequest("min must be >= 0")
	case in.Max < 1 || in.Max < in.Min:
		return badRequest("max must be >= min")
	case len(in.Triggers) == 0:
		return badRequest("at least one trigger is required")
	}
	return r.changeService(c, func(s *service) error {
		s.min, s.max, s.triggers = in.Min, in.Max, map[string]float64{}
		for _, t := range in.Triggers {
			s.triggers[t.Type] = t.Threshold
		}
		return nil
	})
}

func (r *Rack) serviceTriggersDisable(c *call) error {
	c.ackBy()
	return r.changeService(c, func(s *service) error {
		s.triggers = nil
		return nil
	})
}

func (r *Rack) serviceTriggersThreshold(c *call) error {
	kind, value := strings.TrimSpace(c.bodyValue("type")), strings.TrimSpace(c.bodyValue("threshold"))
	if value == "" {
		return badRequest("threshold form-param is required")
	}
	threshold, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return badRequest("invalid threshold: %s", err)
	}
	c.ackBy()
	return r.changeService(c, func(s *service) error {
		if _, ok := s.triggers[kind]; !ok {
			return badRequest("no active override with trigger %q", kind)
		}
		s.triggers[kind] = threshold
		return nil
	})
}

// changeService finds the service of a path and changes it under the lock.
func (r *Rack) changeService(c *call, change func(*service) error) error {
	r.mu.Lock()
	_, s, err := r.findService(c, "service")
	if err == nil {
		err = change(s)
	} else if !strings.HasPrefix(err.Error(), "app not found") {
		err = badRequest("service %s not found in current release manifest", c.variable("service"))
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return c.ok()
}

// ackBy is who acknowledges a budget or scaling change: the caller, or a deprecated form field, which the
// answer's headers complain about (RFC 8594).
func (c *call) ackBy() string {
	given := strings.TrimSpace(c.bodyValue("ack_by"))
	if given == "" {
		return c.user
	}
	c.w.Header().Set("Deprecation", "true")
	c.w.Header().Set("Sunset", "Thu, 01 Oct 2026 00:00:00 GMT")
	c.w.Header().Set("Link", `<https://docs.convox.com/migration/ack-by-derivation>; rel="deprecation"; type="text/html"`)
	return given
}
