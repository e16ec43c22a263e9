// The rack itself: its description, tokens, parameters, capacity and events.

package racktest

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"rackgateway/pkg/racktest/wire"
)

// Event is something that happened on the rack, or that a build pod told it.
type Event struct {
	Time   time.Time
	Action string
	Data   map[string]string
	Status string
	Error  string
}

// note records an event. The caller holds r.mu.
func (r *Rack) note(action string, data map[string]string) {
	r.events = append(r.events, Event{Time: r.now(), Action: action, Data: data, Status: "success"})
	r.systemLog.add(logLine{time: r.now(), service: "system/k8s/api", text: "event=" + action})
	if n := len(r.events); n > 2000 {
		r.events = append(r.events[:0:0], r.events[n-1000:]...)
	}
}

// Events returns what has happened, the newest thousand at least.
func (r *Rack) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// domain is where the rack's apps are reached.
func (r *Rack) domain() string { return r.opts.Name + ".convox.example" }

func (r *Rack) systemGet(c *call) error {
	r.mu.Lock()
	out := wire.System{
		Count: len(r.instances), Domain: "router." + r.domain(), Name: r.opts.Name, Parameters: maps.Clone(r.parameters),
		Provider: r.opts.Provider, RackDomain: "api." + r.domain(), Region: r.opts.Region, Status: r.status, Version: r.version,
	}
	r.mu.Unlock()
	return c.json(out)
}

// systemUpdate is refused by racks of version 3.
func (r *Rack) systemUpdate(c *call) error {
	o := c.options()
	o.number(o.form("count"))
	params := o.values(o.form("parameters"))
	version, newVersion := o.form("version")
	if o.err != nil {
		return o.err
	}
	if !r.opts.AllowSystemUpdate {
		return notImplemented("direct rack doesn't support update, make sure you are not using RACK_URL environment variable")
	}
	r.mu.Lock()
	maps.Copy(r.parameters, params)
	if newVersion {
		r.version = version
	}
	r.status = "updating"
	r.spawn(func(ctx context.Context) {
		pause(ctx, r.opts.PromoteTime)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.status = "running"
	})
	r.mu.Unlock()
	return c.ok()
}

func (r *Rack) systemMetrics(c *call) error {
	if _, err := c.metricRange(); err != nil {
		return err
	}
	at := r.now().Truncate(time.Minute)
	value := func(v float64) []wire.MetricValue {
		return []wire.MetricValue{{Average: v, Count: 1, Maximum: v, Minimum: v, Sum: v, Time: at}}
	}
	return c.json([]wire.Metric{{Name: "cluster:cpu:utilization", Values: value(0.12)}, {Name: "cluster:mem:utilization", Values: value(0.34)}})
}

func (r *Rack) systemJWTRotate(c *call) error {
	if !c.can("a") {
		return fail(http.StatusForbidden, "admin role required")
	}
	key := newJWTKey()
	r.mu.Lock()
	r.jwtKey = key
	r.mu.Unlock()
	return c.ok()
}

func (r *Rack) systemJWTToken(c *call) error {
	hours, err := strconv.Atoi(c.value("durationInHour"))
	switch {
	case err != nil:
		return badRequest("invalid duration")
	case hours < 1 || hours > maxTokenHours:
		return badRequest("duration must be between 1 and %d hours", maxTokenHours)
	}
	var user, role string
	switch c.value("role") {
	case "read":
		user, role = "system-read", roleRead
	case "write":
		user, role = "system-write", roleReadWrite
	case "admin":
		if !c.can("a") {
			return fail(http.StatusForbidden, "admin role required to mint admin tokens")
		}
		user, role = "system-admin", roleAdmin
	default:
		return badRequest("invalid role: must be read, write, or admin")
	}
	return c.json(wire.Token{Token: r.Mint(user, role, time.Duration(hours)*time.Hour)})
}

func (r *Rack) systemProcesses(c *call) error {
	o := c.options()
	all := boolean(o.query("all"))
	r.mu.Lock()
	out := []wire.Process{}
	for name, a := range r.apps {
		if name == systemApp || all != nil && *all {
			for _, p := range a.sortedProcesses() {
				out = append(out, p.Process)
			}
		}
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b wire.Process) int {
		return strings.Compare(a.App+"-"+a.Name+"-"+a.ID, b.App+"-"+b.Name+"-"+b.ID)
	})
	return c.json(out)
}

func (r *Rack) systemReleases(*call) error { return notImplemented("release history is unavailable") }

func (r *Rack) karpenterCleanup(c *call) error { return c.ok() }

func (r *Rack) capacityGet(c *call) error {
	r.mu.Lock()
	var out wire.Capacity
	for _, in := range r.instances {
		out.ClusterCPU += int64(in.CPUCapacity * 1000)
		out.ClusterMemory += int64(in.MemoryCapacity)
	}
	for name, a := range r.apps {
		if name == systemApp {
			continue
		}
		out.ProcessCount += int64(len(a.processes))
		for _, s := range a.services {
			out.ProcessCPU += int64(s.count * s.cpu)
			out.ProcessMemory += int64(s.count * s.memory)
		}
	}
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) eventSend(c *call) error {
	action := c.value("action")
	o := c.options()
	e := Event{Action: action, Data: o.values(o.form("data"))}
	e.Error, _ = o.form("error")
	e.Status, _ = o.form("status")
	if o.err != nil {
		return o.err
	}
	r.mu.Lock()
	e.Time = r.now()
	r.events = append(r.events, e)
	r.mu.Unlock()
	return c.ok()
}
