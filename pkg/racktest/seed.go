// What a rack starts with.

package racktest

import (
	"time"

	"rackgateway/pkg/racktest/wire"
)

// Secrets that New puts into a rack, so that tests can look for them where they must not be. The password of the
// resource database is random; see Rack.ResourceURL.
const (
	SeedDatabaseURL      = "postgres://u:p-4c1d9e@h.example:5432/db"
	SeedAPIKey           = "sk-live-0f6b2d7c9a"
	SeedRegistryPassword = "registry-pw-77ab31"
	SeedDockerPassword   = "docker-hub-pw-5e90c4"
	SeedConfigValue      = "{\"secret\":\"config-value-19d2\"}"
	SeedWebhookURL       = "https://hooks.example/convox/whk-8812f0"
)

// SeedManifest is the convox.yml of the apps that New makes.
const SeedManifest = `environment:
  - LOG_LEVEL=info
resources:
  database:
    type: postgres
  cache:
    type: redis
services:
  web:
    build: .
    port: 3000
    command: bin/web
    environment:
      - API_KEY
      - DATABASE_URL
      - LOG_LEVEL=info
    resources:
      - database
      - cache
    scale:
      count: 1
`

// SetParameter gives the rack a parameter, as whoever installed it would, around its API.
func (r *Rack) SetParameter(name, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parameters[name] = value
}

// seed fills a new rack.
func (r *Rack) seed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, v := range r.opts.Parameters {
		r.parameters[k] = v
	}
	system := newApp(systemApp)
	r.apps[systemApp] = system
	own := &release{Release: wire.Release{ID: r.version, App: systemApp, Created: r.now().Add(-24 * time.Hour)}}
	for _, name := range []string{"api", "atom"} {
		p := r.startProcess(system, processInput{service: name, command: name, image: "convox/convox:" + r.version, release: own, kind: serviceProcess, running: true})
		p.env["PASSWORD"] = r.opts.Password
	}
	if r.opts.Bare {
		return
	}
	if r.opts.Parameters == nil {
		r.parameters = map[string]string{
			"build_node_enabled": "false", "cidr": "10.1.0.0/16", "docker_hub_password": SeedDockerPassword, "docker_hub_username": "acme",
			"high_availability": "true", "node_type": "t3.small", "telemetry": "false",
		}
	}
	started := r.now().Add(-72 * time.Hour)
	for i, id := range []string{"ip-10-1-0-11.ec2.internal", "ip-10-1-1-12.ec2.internal"} {
		in := &instance{Instance: wire.Instance{
			CPU: 0.2, CPUCapacity: 2, CPUAllocatable: 1.93, ID: id, Memory: 900, MemoryCapacity: 1953, MemoryAllocatable: 1480,
			PrivateIP: []string{"10.1.0.11", "10.1.1.12"}[i], PublicIP: []string{"198.51.100.11", "198.51.100.12"}[i], Started: started, Status: "running",
		}}
		r.instances[id] = in
		// A shell on a machine is a session in a process that belongs to no app.
		holder := newApp("")
		in.shell = r.startProcess(holder, processInput{service: id, kind: oneOffProcess})
	}
	r.registries["registry.example.com"] = registry{"deploy", SeedRegistryPassword}
	r.hooks["audit"] = &webhook{name: "audit", url: SeedWebhookURL}
	r.certificates["cert-seed1"] = &certificate{Certificate: wire.Certificate{
		ID: "cert-seed1", Domain: "demo.example.com", Domains: []string{"demo.example.com", "www.demo.example.com"}, Expiration: r.now().Add(90 * 24 * time.Hour).Truncate(time.Second),
	}}
	r.letsEncrypt = letsEncrypt{Role: "arn:aws:iam::123456789012:role/cert-manager", Solvers: []wire.DNSSolver{}}
	r.systemLog.add(logLine{time: r.now(), service: "system/k8s/api", text: "rack " + r.opts.Name + " is running"})
	for _, name := range append([]string{"demo"}, r.opts.Apps...) {
		r.seedApp(name)
	}
}

func (r *Rack) seedApp(name string) {
	if r.apps[name] != nil {
		return
	}
	a := newApp(name)
	r.apps[name] = a
	a.configs["settings"] = SeedConfigValue
	a.balancers = []wire.Balancer{{Name: "public", Endpoint: name + ".elb.example.com", Service: "web", Ports: []wire.BalancerPort{{Protocol: "TCP", Source: 5000, Target: 3000}}}}

	b := r.newBuild(a)
	b.Started, b.Ended = r.now().Add(-61*time.Minute), r.now().Add(-60*time.Minute)
	b.Description, b.Manifest, b.Status, b.GitSha = "build 1f3c9a first", SeedManifest, "complete", "1f3c9a7d50b2e8846c1d2f09a7b3c4d5e6f70812"
	b.Logs = "object://" + name + "/build/" + b.ID + "/logs"
	for _, line := range []string{"Running build: " + b.ID, "Building: .", "Successfully built " + b.ID} {
		b.log.add(logLine{time: b.Started, service: "build", text: line})
	}
	b.log.end()
	env := formatEnv(map[string]string{"API_KEY": SeedAPIKey, "DATABASE_URL": SeedDatabaseURL, "LOG_LEVEL": "info"})
	rel, err := r.makeRelease(a, releaseInput{build: &b.ID, env: &env, description: &b.Description})
	if err != nil {
		panic("racktest: the seed does not hold: " + err.Error())
	}
	rel.Created = r.now().Add(-60 * time.Minute)
	b.Release = rel.ID

	// The seeded release has long been promoted: its process runs when New returns.
	r.apply(a, rel, true)
}

// ResourceURL is the URL of an app's resource, with its password.
func (r *Rack) ResourceURL(app, name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.apps[app]; a != nil && a.resources[name] != nil {
		return a.resources[name].url
	}
	return ""
}

// Env is the environment of a release, or of the app's current one for "".
func (r *Rack) Env(app, id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.apps[app]
	if a == nil {
		return ""
	}
	if id == "" {
		id = a.release
	}
	if rel := a.releases[id]; rel != nil {
		return rel.Env
	}
	return ""
}
