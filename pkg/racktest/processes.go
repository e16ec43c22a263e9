// Processes: those of services, those that clients run, and the pods of builds.

package racktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"rackgateway/pkg/racktest/wire"
)

type processKind int

const (
	serviceProcess processKind = iota // kept running by its service
	oneOffProcess                     // started by a client
	buildProcess
)

type process struct {
	wire.Process
	kind  processKind
	env   map[string]string
	files *fileTree
	log   *logBuffer
	ctx   context.Context // ends when the process does
	stop  context.CancelFunc
}

// insideURL is how processes reach the rack's API, password included.
func (r *Rack) insideURL() string {
	return fmt.Sprintf("https://convox:%s@api.%s.svc.cluster.local:5443", r.opts.Password, r.opts.Name)
}

func errNoPod(pid string) error { return fmt.Errorf("pods %q not found", pid) }

func (a *app) sortedProcesses() []*process {
	all := slices.Collect(maps.Values(a.processes))
	slices.SortFunc(all, func(x, y *process) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.ID, y.ID))
	})
	return all
}

// serviceProcesses are the processes that a service keeps running, or all services for "".
func (a *app) serviceProcesses(service string) []*process {
	var out []*process
	for _, p := range a.sortedProcesses() {
		if p.kind == serviceProcess && (service == "" || p.Name == service) {
			out = append(out, p)
		}
	}
	return out
}

type processInput struct {
	service, command, image string
	release                 *release
	kind                    processKind
	env                     map[string]string // on top of the release's
	cpu, memory, gpu        *int
	run                     bool // the command is run, and the process ends with it
	running                 bool // it has been running since its release was made
}

// startProcess enters a process that is pending for a while and then runs. The caller holds r.mu.
func (r *Rack) startProcess(a *app, in processInput) *process {
	p := &process{kind: in.kind, log: newLogBuffer(), env: map[string]string{}}
	switch in.kind {
	case serviceProcess:
		p.ID = in.service + "-" + r.letters(10, hexLetters) + "-" + r.letters(5, podLetters)
	default:
		p.ID = in.service + "-" + r.letters(5, podLetters)
	}
	p.App, p.Name, p.Service, p.Command = a.name, in.service, in.service, in.command
	p.Host, p.Instance = fmt.Sprintf("10.1.%d.%d", r.random.IntN(4), 2+r.random.IntN(250)), r.anyInstance()
	p.Image, p.Started, p.Status = in.image, r.now(), "pending"
	if in.release != nil {
		p.Release = in.release.ID
		maps.Copy(p.env, parseEnv(in.release.Env))
		p.Image = cmp.Or(p.Image, fmt.Sprintf("registry.%s/%s:%s.%s", r.domain(), a.name, in.service, in.release.Build))
		p.env["BUILD"], p.env["RELEASE"] = in.release.Build, in.release.ID
		for _, res := range a.resources {
			if name := strings.ToUpper(res.name) + "_URL"; p.env[name] == "" {
				p.env[name] = res.url
			}
		}
	}
	if s := a.services[in.service]; s != nil && s.port > 0 {
		p.Ports = []string{fmt.Sprint(s.port)}
		p.env["PORT"] = p.Ports[0]
	}
	// Every process of an app can read the rack's own password. Yes: a real rack does so unless a feature gate
	// turns it off.
	p.env["RACK_URL"] = r.insideURL()
	for name, value := range map[string]string{"APP": a.name, "RACK": r.opts.Name, "SERVICE": in.service, "HOSTNAME": p.ID, "HOME": "/root", "PATH": "/usr/local/bin:/usr/bin:/bin"} {
		p.env[name] = value
	}
	maps.Copy(p.env, in.env)
	if in.gpu != nil {
		p.GPU = *in.gpu
	}
	p.files = newFileTree(p, r.now())
	p.ctx, p.stop = context.WithCancel(r.ctx)
	a.processes[p.ID] = p
	if in.running {
		p.Status, p.CPU, p.Memory, p.Started = "running", 3, 24, in.release.Created
	}

	r.spawn(func(context.Context) {
		if !in.running {
			if !pause(p.ctx, r.opts.StartTime) {
				return
			}
			r.mu.Lock()
			if p.Status != "pending" {
				r.mu.Unlock()
				return
			}
			p.Status, p.CPU, p.Memory = "running", 3, 24
			r.announce()
			r.mu.Unlock()
		}
		if p.kind == serviceProcess {
			r.logProcess(a, p, "listening")
			if r.opts.LogEvery > 0 {
				r.logTicks(p.ctx, a, p, r.opts.LogEvery)
			}
		}
		if in.run {
			r.runToEnd(a, p, in.command)
		}
	})
	return p
}

// runToEnd runs the command of a one-off process with its output in the logs.
func (r *Rack) runToEnd(a *app, p *process, command string) {
	out := &lineWriter{line: func(s string) { r.logProcess(a, p, s) }}
	code := r.shell(p, false, strings.NewReader(""), out).run(p.ctx, command)
	out.flush()
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.Status == "running" {
		p.Status = "complete"
		if code != 0 {
			p.Status = "failed"
		}
		r.announce()
	}
	p.log.end()
}

// lineWriter hands out lines.
type lineWriter struct {
	line func(string)
	rest string
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest += string(b)
	for {
		l, rest, ok := strings.Cut(w.rest, "\n")
		if !ok {
			return len(b), nil
		}
		w.line(l)
		w.rest = rest
	}
}

func (w *lineWriter) flush() {
	if w.rest != "" {
		w.line(w.rest)
	}
}

// stopProcess ends a process: it is gone from the lists, and sessions in it end. The caller holds r.mu.
func (r *Rack) stopProcess(a *app, p *process) {
	p.Status = "stopped"
	r.announce()
	p.stop()
	p.log.end()
	delete(a.processes, p.ID)
}

// findProcess finds a process by a path's variables. The caller holds r.mu.
func (r *Rack) findProcess(c *call) (*app, *process, error) {
	pid := c.variable("pid")
	if a := r.apps[c.variable("app")]; a != nil {
		if p := a.processes[pid]; p != nil {
			return a, p, nil
		}
	}
	return nil, nil, errNoPod(pid)
}

func (r *Rack) processList(c *call) error {
	o := c.options()
	release, byRelease := o.query("release")
	service, byService := o.query("service")
	// An unknown app has no processes rather than being an error.
	out := []wire.Process{}
	r.mu.Lock()
	if a := r.apps[c.variable("app")]; a != nil {
		for _, p := range a.sortedProcesses() {
			if byRelease && p.Release != release || byService && p.Name != service {
				continue
			}
			out = append(out, p.Process)
		}
	}
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) processGet(c *call) error {
	r.mu.Lock()
	_, p, err := r.findProcess(c)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := p.Process
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) processStop(c *call) error {
	r.mu.Lock()
	a, p, err := r.findProcess(c)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	kind, service := p.kind, a.services[p.Name]
	r.stopProcess(a, p)
	if kind == serviceProcess && service != nil && len(a.serviceProcesses(p.Name)) < service.count {
		// The service keeps its count.
		r.startProcess(a, processInput{service: p.Name, command: p.Command, release: a.releases[a.release], kind: serviceProcess})
	}
	r.mu.Unlock()
	return c.ok()
}

// processRun starts a process from header options. The API honours more of them than the CLI can set: an image,
// volumes and privileges among them.
func (r *Rack) processRun(c *call) error {
	if _, err := r.app(c.variable("app")); err != nil {
		return err
	}
	o := c.options()
	in := processInput{service: c.variable("service"), kind: oneOffProcess, run: true}
	in.command, _ = o.header("Command")
	in.image, _ = o.header("Image")
	in.env = o.values(o.header("Environment"))
	in.cpu, in.memory, in.gpu = o.number(o.header("Cpu")), o.number(o.header("Memory")), o.number(o.header("Gpu"))
	for _, name := range []string{"Cpu-Limit", "Memory-Limit", "Height", "Width"} {
		o.number(o.header(name))
	}
	o.values(o.header("Volumes"))
	if o.err != nil {
		return o.err
	}
	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	id := a.release
	if v, ok := o.header("Release"); ok {
		id = v
	}
	if id != "" {
		if in.release = a.find(id); in.release == nil {
			r.mu.Unlock()
			return errNoRelease(id)
		}
	}
	p := r.startProcess(a, in)
	r.logProcess(a, p, "Running: "+in.command)
	out := p.Process
	r.mu.Unlock()
	return c.json(out)
}

// processExec runs a command in a process; {pid} may be a service's name. The command is the form or query
// field before the header. An error comes after an exit code of 0, as the rack sends it.
func (r *Rack) processExec(c *call) error {
	a, err := r.app(c.variable("app"))
	if err != nil {
		return err
	}
	if err := c.needWrite("process exec"); err != nil {
		return err
	}
	command := c.value("command")
	o := c.options()
	tty := true
	if b := boolean(o.header("Tty")); b != nil {
		tty = *b
	}
	stdin := true
	if b := boolean(o.header("Disable-Stdin")); b != nil && *b {
		stdin = false
	}
	o.number(o.header("Height"))
	o.number(o.header("Width"))
	if o.err != nil {
		return o.err
	}

	pid := c.variable("pid")
	r.mu.Lock()
	p := a.processes[pid]
	for _, candidate := range a.sortedProcesses() {
		if candidate.Name == pid && candidate.Status == "running" {
			p = candidate
			break
		}
	}
	r.mu.Unlock()
	if p == nil {
		return errors.Join(c.ws.exit(0), errNoPod(pid))
	}
	code := r.session(c, p, command, tty, stdin)
	return c.ws.exit(code)
}

// session runs a command with the socket as its terminal until it ends, the process ends, or the peer goes away.
func (r *Rack) session(c *call, p *process, command string, tty, stdin bool) int {
	ctx, cancel := context.WithCancel(c.ws.ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()

	if !stdin {
		return r.shell(p, tty, strings.NewReader(""), c.ws).run(ctx, command)
	}
	c.ws.listen(ctx)
	code := r.shell(p, tty, c.ws, c.ws).run(ctx, command)
	if p.ctx.Err() != nil && c.ws.ctx.Err() == nil {
		return 137 // killed
	}
	return code
}

// shell makes a shell in a process.
func (r *Rack) shell(p *process, tty bool, in io.Reader, out io.Writer) *shell {
	s := &shell{env: maps.Clone(p.env), files: p.files, in: in, out: out, tty: tty, now: r.now, cwd: "/app"}
	if tty {
		t := newTerminal(in, out)
		s.terminal, s.in, s.out = t, t, t
	}
	return s
}
