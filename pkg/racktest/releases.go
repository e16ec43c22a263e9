// Releases and their promotion.

package racktest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"rackgateway/pkg/racktest/wire"
)

// release is a wire.Release with its manifest read.
type release struct {
	wire.Release
	parsed manifest
}

func errNoRelease(id string) error {
	return fmt.Errorf("releases.convox.com %q not found", strings.ToLower(id))
}

// find finds a release; the rack does not mind the case of an id.
func (a *app) find(id string) *release { return a.releases[strings.ToUpper(id)] }

// latest is the newest release, or nil.
func (a *app) latest() *release {
	if all := a.sortedReleases(); len(all) > 0 {
		return all[0]
	}
	return nil
}

func (a *app) sortedReleases() []*release {
	all := make([]*release, 0, len(a.releases))
	for _, r := range a.releases {
		all = append(all, r)
	}
	slices.SortFunc(all, func(x, y *release) int { return y.Created.Compare(x.Created) })
	return all
}

// stamp is a time that is later than every earlier one, so that newest first is well defined. The caller holds r.mu.
func (r *Rack) stamp(a *app) time.Time {
	t := r.now()
	if last := a.latest(); last != nil && !t.After(last.Created) {
		t = last.Created.Add(time.Microsecond)
	}
	return t
}

// releaseInput is what a release is made of; nil means inherited.
type releaseInput struct{ build, description, env, parent *string }

// makeRelease forks the parent (or the newest release) and changes what is given. The caller holds r.mu.
func (r *Rack) makeRelease(a *app, in releaseInput) (*release, error) {
	rel := &release{Release: wire.Release{ID: "R" + r.letters(10, upperLetters), App: a.name, Created: r.stamp(a)}}
	parent := a.latest()
	if in.parent != nil && *in.parent != "" {
		if parent = a.find(*in.parent); parent == nil {
			return nil, errNoRelease(*in.parent)
		}
	}
	if parent != nil {
		rel.Build, rel.Env = parent.Build, parent.Env
	}
	if in.build != nil {
		rel.Build = *in.build
	}
	if rel.Build != "" {
		b := a.build(rel.Build)
		if b == nil {
			return nil, errNoBuild(rel.Build)
		}
		rel.Build, rel.Description, rel.Manifest = b.ID, b.Description, b.Manifest
	}
	if in.env != nil {
		if diff := envDiff(rel.Env, *in.env); diff != "" {
			rel.Description = "env " + diff
		}
		rel.Env = *in.env
	}
	if in.description != nil {
		rel.Description = *in.description
	}
	parsed, err := parseManifest(rel.Manifest)
	if err != nil {
		return nil, err
	}
	rel.parsed = parsed
	a.releases[rel.ID] = rel
	r.note("release:create", map[string]string{"app": a.name, "id": rel.ID})
	return rel, nil
}

func (r *Rack) releaseCreate(c *call) error {
	o := c.options()
	in := releaseInput{
		build: text(o.form("build")), description: text(o.form("description")),
		env: text(o.form("env")), parent: text(o.form("parent-release")),
	}
	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	rel, err := r.makeRelease(a, in)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := rel.Release
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) releaseGet(c *call) error {
	id := c.variable("id")
	r.mu.Lock()
	var rel *release
	if a := r.apps[c.variable("app")]; a != nil {
		rel = a.find(id)
	}
	r.mu.Unlock()
	if rel == nil {
		return errNoRelease(id)
	}
	return c.json(rel.Release) // releases never change
}

func (r *Rack) releaseList(c *call) error {
	limit, err := c.limit()
	if err != nil {
		return err
	}
	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := []wire.Release{}
	for _, rel := range a.sortedReleases() {
		out = append(out, rel.Release)
	}
	r.mu.Unlock()
	return c.json(out[:min(limit, len(out))])
}

// limit is the option of the release and build lists; the default is 10.
func (c *call) limit() (int, error) {
	o := c.options()
	limit := 10
	if n := o.number(o.query("limit")); n != nil {
		limit = max(0, *n)
	}
	return limit, o.err
}

func (r *Rack) releasePromote(c *call) error {
	id := c.variable("id")
	force := c.r.FormValue("force") == "true"
	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	rel := a.find(id)
	switch current := a.releases[a.release]; {
	case !force && a.status != "running":
		err = fail(http.StatusForbidden, "app is currently updating")
	case rel == nil:
		err = errNoRelease(id)
	case strings.TrimSpace(rel.Manifest) == "":
		err = badRequest("can not promote a release with an empty manifest")
	case current != nil && rel.Created.Before(current.Created):
		err = badRequest("can not promote an older release, try rollback")
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	o := c.options()
	for _, name := range []string{"min", "max", "timeout"} {
		o.number(o.form(name))
	}
	if o.err != nil {
		return o.err
	}
	r.mu.Lock()
	r.note("release:promote", map[string]string{"app": a.name, "id": id})
	r.promote(a, rel)
	r.mu.Unlock()
	return c.ok()
}

// promote makes rel the app's release: new processes start, old ones stop when they run, and the app is
// updating meanwhile. The caller holds r.mu.
func (r *Rack) promote(a *app, rel *release) {
	a.rollout++
	a.previous = a.release
	r.setStatus(a, "updating")
	r.logSystem(a, "atom/app", "Status: Running => Pending")
	old := a.serviceProcesses("")
	r.apply(a, rel, false)
	rollout := a.rollout
	r.logSystem(a, "atom/app", "Status: Pending => Updating")
	r.spawn(func(ctx context.Context) {
		early := min(r.opts.StartTime, r.opts.PromoteTime)
		pause(ctx, early)
		r.mu.Lock()
		if a.rollout == rollout {
			for _, p := range old {
				r.stopProcess(a, p)
			}
		}
		r.mu.Unlock()
		pause(ctx, r.opts.PromoteTime-early)
		r.mu.Lock()
		defer r.mu.Unlock()
		if a.rollout == rollout {
			r.setStatus(a, "running")
			r.logSystem(a, "atom/app", "Status: Updating => Running")
		}
	})
}

// apply makes the app what a release says, and starts its processes, running at once or after a while. The
// caller holds r.mu.
func (r *Rack) apply(a *app, rel *release, running bool) {
	a.release, a.manifest = rel.ID, rel.parsed
	for _, m := range rel.parsed.resources {
		if a.resources[m.name] == nil {
			a.resources[m.name] = r.newResource(a, m)
		}
	}
	for name := range a.services {
		if rel.parsed.service(name) == nil {
			delete(a.services, name)
		}
	}
	for _, m := range rel.parsed.services {
		s := a.services[m.name]
		if s == nil {
			s = &service{name: m.name, cpu: 250, memory: 512, count: m.min}
			a.services[m.name] = s
		}
		s.port, s.internal, s.command, s.min, s.max = m.port, m.internal, m.command, m.min, m.max
		s.count = max(s.count, m.min)
	}
	for _, s := range a.sortedServices() {
		for range s.count {
			r.startProcess(a, processInput{service: s.name, command: s.command, release: rel, kind: serviceProcess, running: running})
		}
	}
}

// rollback undoes a promotion that is under way. The caller holds r.mu.
func (r *Rack) rollback(a *app) {
	failed := a.release
	a.rollout++
	a.release = a.previous
	r.setStatus(a, "rollback")
	r.logSystem(a, "atom/app", "Status: Updating => Cancelled")
	for _, p := range a.serviceProcesses("") {
		if p.Release == failed {
			r.stopProcess(a, p)
		}
	}
	rel := a.releases[a.release]
	if rel == nil {
		r.setStatus(a, "running")
		return
	}
	a.manifest = rel.parsed
	for _, s := range a.sortedServices() {
		for n := len(a.serviceProcesses(s.name)); n < s.count; n++ {
			r.startProcess(a, processInput{service: s.name, command: s.command, release: rel, kind: serviceProcess})
		}
	}
	rollout := a.rollout
	r.spawn(func(ctx context.Context) {
		pause(ctx, r.opts.PromoteTime)
		r.mu.Lock()
		defer r.mu.Unlock()
		if a.rollout == rollout {
			r.setStatus(a, "running")
		}
	})
}
