package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"rackgateway/pkg/access"
	"rackgateway/pkg/rack"
)

const opProcessRun = rack.Op("ProcessRun")

const (
	factTimeout = 5 * time.Second
	factLife    = 5 * time.Second
	factBytes   = 8 << 20 // of one answer of the rack that facts are read from
)

// gatherFacts finds out at the rack what the decision needs to know, for the routes marked so. It fails
// closed: a fact that cannot be had in time refuses the request.
func (x *exchange) gatherFacts() *refusal {
	if !access.HasRight(x.principal, x.wanted()) {
		return nil // somebody without the right is told so without the rack being asked
	}
	switch x.rule.Facts {
	case access.FactNone:
		return nil
	case access.FactProcess:
		if refused := x.processFacts(); refused != nil || !onlyOwnProcesses(x.principal) {
			return refused
		}
		return x.starterFacts()
	case access.FactStarter:
		return x.starterFacts()
	case access.FactHost:
		return x.hostFacts()
	default:
		return refuse(http.StatusInternalServerError, "internal", "the gateway has a rule it does not understand: tell an administrator")
	}
}

// processFacts finds out which service a process belongs to.
func (x *exchange) processFacts() *refusal {
	pid := x.match.Var("pid")
	ctx, cancel := context.WithTimeout(x.patience, factTimeout)
	defer cancel()
	service, err := x.p.facts.get(ctx, "process\x00"+x.app+"\x00"+pid, x.p.Now, func() (string, error) {
		return x.p.serviceOf(ctx, x.app, pid)
	})
	switch {
	case errors.Is(err, errUnknownFact):
	case err != nil:
		return x.noFacts("which service the process belongs to", err)
	default:
		x.known.ProcessKnown, x.known.ProcessService = true, service
	}
	return nil
}

// starterFacts finds out whether the same principal started the process.
func (x *exchange) starterFacts() *refusal {
	tokenID, ownerID, found, err := x.p.Credentials.StartedBy(x.patience, x.app, x.match.Var("pid"))
	if err != nil {
		return unavailable("could not look up who started the process in time", err)
	}
	x.known.StartedBySelf = found && startedBy(x.principal, tokenID, ownerID)
	return nil
}

// serviceOf asks the rack for the service of a process; {pid} may be the name of a service itself.
func (p *Proxy) serviceOf(ctx context.Context, app, pid string) (string, error) {
	var process struct {
		Name string `json:"name"`
		App  string `json:"app"`
	}
	err := p.ask(ctx, "/apps/"+url.PathEscape(app)+"/processes/"+url.PathEscape(pid), &process)
	if err == nil {
		if process.Name == "" || (process.App != "" && process.App != app) {
			return "", errUnknownFact
		}
		return process.Name, nil
	}
	if !errors.Is(err, errUnknownFact) {
		return "", err
	}
	var processes []struct {
		Name string `json:"name"`
	}
	if err := p.ask(ctx, "/apps/"+url.PathEscape(app)+"/processes", &processes); err != nil {
		return "", err
	}
	for _, process := range processes {
		if process.Name == pid {
			return pid, nil
		}
	}
	return "", errUnknownFact
}

// onlyOwnProcesses reports whether any right of the principal is over the processes it started alone.
func onlyOwnProcesses(p *access.Principal) bool {
	for _, grant := range p.Grants {
		if grant.OwnProcessesOnly {
			return true
		}
	}
	return false
}

// startedBy reports whether a principal is the one that started a process: a pipeline by its token, a
// person by any of theirs.
func startedBy(p *access.Principal, tokenID, ownerID string) bool {
	if p.Kind == access.KindAPIToken {
		return p.TokenID == tokenID
	}
	return p.UserID == ownerID
}

// hostFacts finds out which app the host of a raw tunnel belongs to: hosts of resources are all that can
// be reached.
func (x *exchange) hostFacts() *refusal {
	host, port := x.match.Var("host"), x.match.Var("port")
	ctx, cancel := context.WithTimeout(x.patience, factTimeout)
	defer cancel()
	app, err := x.p.facts.get(ctx, "host\x00"+host+"\x00"+port, x.p.Now, func() (string, error) {
		return x.p.ownerOfHost(ctx, host, port)
	})
	switch {
	case errors.Is(err, errUnknownFact):
	case err != nil:
		return x.noFacts("whose resource the host is", err)
	default:
		x.known.HostKnown, x.known.HostApp = true, app
		x.app, x.event.App = app, app
	}
	return nil
}

// ownerOfHost looks for a resource at host and port: the app it belongs to, or "" for one of the rack.
func (p *Proxy) ownerOfHost(ctx context.Context, host, port string) (string, error) {
	type resource struct {
		URL string `json:"url"`
	}
	at := func(resources []resource) bool {
		for _, r := range resources {
			if u, err := url.Parse(r.URL); err == nil && strings.EqualFold(u.Hostname(), host) && portOf(u) == port {
				return true
			}
		}
		return false
	}
	var apps []struct {
		Name string `json:"name"`
	}
	if err := p.ask(ctx, "/apps", &apps); err != nil {
		return "", err
	}
	for _, app := range apps {
		var resources []resource
		if err := p.ask(ctx, "/apps/"+url.PathEscape(app.Name)+"/resources", &resources); err != nil && !errors.Is(err, errUnknownFact) {
			return "", err
		}
		if at(resources) {
			return app.Name, nil
		}
	}
	var resources []resource
	if err := p.ask(ctx, "/resources", &resources); err != nil && !errors.Is(err, errUnknownFact) {
		return "", err
	}
	if at(resources) {
		return "", nil
	}
	return "", errUnknownFact
}

// portOf is the port of a resource's URL, by its scheme when it does not say.
func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	switch u.Scheme {
	case "postgres", "postgresql", "postgis":
		return "5432"
	case "mysql", "mariadb":
		return "3306"
	case "redis", "rediss":
		return "6379"
	case "memcached":
		return "11211"
	case "http":
		return "80"
	case "https":
		return "443"
	}
	return ""
}

func (x *exchange) noFacts(what string, err error) *refusal {
	return refuse(http.StatusBadGateway, "facts-unavailable", "to decide about this the gateway must know %s, and the rack did not say in time: try again", what).because(err)
}

// errUnknownFact says that the rack was asked and does not know the thing.
var errUnknownFact = errors.New("the rack does not know it")

// ownUserAgent is who asks when the gateway asks for itself.
var ownUserAgent = []string{"rack-gateway"}

// ask reads one JSON answer of the rack, for the gateway's own use.
func (p *Proxy) ask(ctx context.Context, escapedPath string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.rackURL(escapedPath, "", false).String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header["User-Agent"] = ownUserAgent
	req.Header.Set("Convox-Actor", "rack-gateway")
	p.password.use(req.Header)
	resp, err := p.Transport.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized && p.password.replaced(ctx, p, req.Header) {
		_ = resp.Body.Close()
		p.password.use(req.Header)
		resp, err = p.Transport.RoundTrip(req)
	}
	if err != nil {
		return fmt.Errorf("asking the rack for %s: %w", escapedPath, err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusUnauthorized:
		p.password.refused(p)
		return errRackPassword
	case resp.StatusCode >= 400 && resp.StatusCode < 500:
		return errUnknownFact
	case resp.StatusCode == http.StatusInternalServerError:
		// A rack answers 500 for what its cluster does not know.
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		if bytes.Contains(text, []byte("not found")) || bytes.Contains(text, []byte("no such")) {
			return errUnknownFact
		}
		return fmt.Errorf("the rack answered %s for %s", resp.Status, escapedPath)
	default:
		return fmt.Errorf("the rack answered %s for %s", resp.Status, escapedPath)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, factBytes)).Decode(into); err != nil {
		return fmt.Errorf("reading the rack's answer for %s: %w", escapedPath, err)
	}
	return nil
}

// A factCache keeps facts for a few seconds: a command asks for the same one several times.
type factCache struct {
	mu    sync.Mutex // never held across I/O
	facts map[string]fact
}

type fact struct {
	value string
	err   error
	at    time.Time
}

const maxFacts = 4096

func (c *factCache) get(ctx context.Context, key string, now func() time.Time, find func() (string, error)) (string, error) {
	c.mu.Lock()
	f, ok := c.facts[key]
	c.mu.Unlock()
	if ok && now().Sub(f.at) < factLife {
		return f.value, f.err
	}
	value, err := find()
	if err != nil && !errors.Is(err, errUnknownFact) {
		return "", err
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", err // what is not there yet may be there in a moment
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.facts == nil || len(c.facts) >= maxFacts {
		c.facts = make(map[string]fact)
	}
	c.facts[key] = fact{value: value, at: now()}
	return value, nil
}

// noteProcess notes who started a process before the answer that names it leaves, so that the command
// that started it may end it.
func (x *exchange) noteProcess(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, factBytes+1))
	_ = resp.Body.Close()
	if err != nil {
		return fmt.Errorf("%w: %w", errCutAnswer, err)
	}
	var process struct {
		ID string `json:"id"`
	}
	if len(body) > factBytes || json.Unmarshal(body, &process) != nil || process.ID == "" {
		return refuse(http.StatusBadGateway, "rack-garbled", "the rack's answer did not say which process it started: look for it with convox ps and stop it")
	}
	x.renewPatience()
	if err := x.p.Credentials.NoteStarted(x.patience, x.app, process.ID, x.principal); err != nil {
		return refuse(http.StatusInternalServerError, "outcome-unknown", "the process was started, but the gateway could not note that it is yours: look for it with convox ps").because(err)
	}
	setBody(resp, body)
	return nil
}
