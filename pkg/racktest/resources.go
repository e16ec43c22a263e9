// Resources: the databases of apps with their dumps and consoles, and the webhooks that are resources of the rack.

package racktest

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"rackgateway/pkg/racktest/wire"
)

type resource struct {
	name, kind, url, host string
	port                  int
	data                  *blob
}

func (r *Rack) newResource(a *app, m manifestResource) *resource {
	res := &resource{name: m.name, kind: m.kind}
	res.host = fmt.Sprintf("resource-%s.%s-%s.svc.cluster.local", m.name, r.opts.Name, a.name)
	password := r.letters(20, hexLetters)
	scheme := m.kind
	switch m.kind {
	case "postgres", "postgis":
		scheme, res.port = "postgres", 5432
		res.url = fmt.Sprintf("%s://app:%s@%s:%d/app", scheme, password, res.host, res.port)
		res.data = bytesBlob([]byte("--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE users (id integer, email text);\nINSERT INTO users VALUES (1, 'ada@example.com');\n"))
	case "mysql", "mariadb":
		scheme, res.port = "mysql", 3306
		res.url = fmt.Sprintf("%s://app:%s@%s:%d/app", scheme, password, res.host, res.port)
		res.data = bytesBlob([]byte("-- MySQL dump\nCREATE TABLE users (id int, email text);\n"))
	case "redis":
		res.port = 6379
		res.url = fmt.Sprintf("%s://:%s@%s:%d/0", scheme, password, res.host, res.port)
	default:
		res.port = 11211
		res.url = fmt.Sprintf("%s://%s:%d", scheme, res.host, res.port)
	}
	return res
}

func (res *resource) shape() wire.Resource {
	return wire.Resource{Name: res.name, Status: "running", Type: res.kind, URL: res.url}
}

// findResource finds a resource of an app that has a release.
func (r *Rack) findResource(c *call) (*resource, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		return nil, err
	}
	if a.release == "" {
		return nil, fmt.Errorf("no release for app: %s", a.name)
	}
	name := c.variable("name")
	if res := a.resources[name]; res != nil && a.manifest.resource(name) != nil {
		return res, nil
	}
	return nil, fmt.Errorf("no such resource: %s", name)
}

func (r *Rack) resourceList(c *call) error {
	out := []wire.Resource{}
	r.mu.Lock()
	if a := r.apps[c.variable("app")]; a != nil {
		for _, name := range slices.Sorted(maps.Keys(a.resources)) {
			if a.manifest.resource(name) != nil {
				out = append(out, a.resources[name].shape())
			}
		}
	}
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) resourceGet(c *call) error {
	res, err := r.findResource(c)
	if err != nil {
		return err
	}
	return c.json(res.shape())
}

func (r *Rack) resourceExport(c *call) error {
	res, err := r.findResource(c)
	if err != nil {
		return err
	}
	r.mu.Lock()
	data := res.data
	r.mu.Unlock()
	if data == nil {
		return badRequest("export not available for resources of type: %s", res.kind)
	}
	return c.copy(data.open())
}

func (r *Rack) resourceImport(c *call) error {
	res, err := r.findResource(c)
	if err != nil {
		return err
	}
	r.mu.Lock()
	can := res.data != nil
	r.mu.Unlock()
	if !can {
		return badRequest("import not available for resources of type: %s", res.kind)
	}
	data, err := readBlob(c)
	if err != nil {
		return err
	}
	r.mu.Lock()
	res.data = data
	r.mu.Unlock()
	return c.ok()
}

// ResourceData returns what a resource's export would, for tests.
func (r *Rack) ResourceData(app, name string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, err := r.appLocked(app)
	if err != nil {
		return nil, err
	}
	if res := a.resources[name]; res != nil && res.data != nil {
		return res.data.bytes(), nil
	}
	return nil, fmt.Errorf("no such resource: %s", name)
}

// resourceConsole is a client of the resource: it reads lines and answers each, until its input ends or says so.
// It sends no exit code.
func (r *Rack) resourceConsole(c *call) error {
	if err := c.needWrite("resource console"); err != nil {
		return err
	}
	o := c.options()
	o.number(o.header("Height"))
	o.number(o.header("Width"))
	if o.err != nil {
		return o.err
	}
	res, err := r.findResource(c)
	if err != nil {
		return err
	}
	prompt, quit := "", []string{"exit", "quit"}
	switch res.kind {
	case "postgres", "postgis":
		prompt, quit = "app=> ", append(quit, `\q`)
	case "mysql", "mariadb":
		prompt, quit = "mysql> ", append(quit, `\q`)
	case "redis":
		prompt = "> "
	case "memcached":
	default:
		return badRequest("console not available for resources of type: %s", res.kind)
	}
	c.ws.listen(c.ws.ctx)
	say := func(s string) bool {
		_, err := io.WriteString(c.ws, s)
		return err == nil
	}
	in := bufio.NewScanner(c.ws)
	for say(prompt) && in.Scan() {
		line := strings.TrimSpace(in.Text())
		if slices.Contains(quit, line) {
			return nil
		}
		if !say(res.reply(line) + "\r\n") {
			return nil
		}
	}
	return nil
}

// reply is what a resource makes of a line.
func (res *resource) reply(line string) string {
	switch upper := strings.ToUpper(strings.TrimSuffix(line, ";")); {
	case line == "":
		return ""
	case res.kind == "redis" && upper == "PING":
		return "PONG"
	case upper == "SELECT 1":
		return " ?column? \r\n----------\r\n        1\r\n(1 row)"
	default:
		return "you said: " + line
	}
}

type webhook struct{ name, url string }

func (h *webhook) shape() wire.Resource {
	return wire.Resource{Name: h.name, Parameters: map[string]string{"Url": h.url}, Status: "running", Type: "webhook"}
}

func (r *Rack) rackResourceCreate(c *call) error {
	kind := c.value("kind")
	o := c.options()
	name := text(o.form("name"))
	params := o.values(o.form("parameters"))
	if o.err != nil {
		return o.err
	}
	if kind != "webhook" {
		return badRequest("rack resource type unknown: %s", kind)
	}
	target, ok := params["Url"]
	if !ok {
		return badRequest("parameter required: Url")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	h := &webhook{url: target}
	if name != nil && *name != "" {
		h.name = *name
	} else {
		h.name = "webhook-" + fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%s-%d", target, r.random.Int64())))[:6]
	}
	if r.hooks[h.name] != nil {
		return conflict("webhook already exists: %s", h.name)
	}
	r.hooks[h.name] = h
	return c.json(h.shape())
}

func (r *Rack) rackResourceDelete(c *call) error {
	name := c.variable("name")
	r.mu.Lock()
	h := r.hooks[name]
	delete(r.hooks, name)
	r.mu.Unlock()
	if h == nil {
		return notFound("no such resource: %s", name)
	}
	return c.ok()
}

func (r *Rack) rackResourceGet(c *call) error {
	name := c.variable("name")
	r.mu.Lock()
	h := r.hooks[name]
	r.mu.Unlock()
	if h == nil {
		return notFound("no such resource: %s", name)
	}
	return c.json(h.shape())
}

func (r *Rack) rackResourceList(c *call) error {
	out := []wire.Resource{}
	r.mu.Lock()
	for _, name := range slices.Sorted(maps.Keys(r.hooks)) {
		out = append(out, r.hooks[name].shape())
	}
	r.mu.Unlock()
	return c.json(out)
}

// rackResourceTypes answers OPTIONS, which is a real call here and no CORS.
func (r *Rack) rackResourceTypes(c *call) error {
	return c.json([]wire.ResourceType{{Name: "webhook", Parameters: []wire.ResourceParameter{
		{Default: "", Description: "url to which to post rack events", Name: "Url"},
	}}})
}

func (r *Rack) rackResourceLink(*call) error { return badRequest("unavailable on v3 racks") }

func (r *Rack) rackResourceUpdate(*call) error { return badRequest("unavailable on v3 racks") }
