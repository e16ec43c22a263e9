//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// profiles writes profiles of the proxy under each load beside the results: of its CPU time, and of what it allocates. The loads are further rounds, since
// profiling costs something itself.
func (b *bench) profiles() {
	seconds := pick(b, 8, 3)
	for _, load := range []struct {
		name   string
		tokens []string
		job    Job
	}{
		{"clear-reads-32", []string{b.env.Token("admin")}, b.reading(nil, 32)},
		{"reads-32", b.readers, b.reading(nil, 32)}, {"reads-256", b.readers, b.reading(nil, 256)},
		{"writes-32", b.writers, b.writing(nil, 32)}, {"writes-256", b.writers, b.writing(nil, 256)},
	} {
		load.job.Measure = time.Duration(seconds) * time.Second
		done := make(chan error, 2)
		for of, suffix := range map[string]string{"profile": ".pprof", "allocs": "-allocs.pprof"} {
			path := filepath.Join(filepath.Dir(b.out), load.name+suffix)
			fmt.Fprintf(b.stderr, "             %s\n", path)
			go func() { done <- b.saveProfile(path, of, seconds) }()
		}
		b.loadOn(gatewaySubject(b.env, load.tokens), load.job)
		b.must(errors.Join(<-done, <-done))
	}
}

func (b *bench) saveProfile(path, of string, seconds int) (err error) {
	ctx, cancel := context.WithTimeout(b.Context(), time.Duration(seconds+30)*time.Second)
	defer cancel()
	url := fmt.Sprintf("%s/debug/pprof/%s?seconds=%d", b.env.Proxies[0].Metrics, of, seconds)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profile: status %d", resp.StatusCode)
	}
	f, err := os.Create(path) // #nosec G304 -- where we were told to write
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// nginxConfig has nginx pass everything on: on the first port as it comes, on the second when a subrequest says so.
const nginxConfig = `
worker_processes auto;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
daemon off;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  keepalive_requests 100000000;
  upstream rack { server %[2]s; keepalive 512; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:%[3]d;
    location / { proxy_pass http://rack; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
  server {
    listen 127.0.0.1:%[4]d;
    location / { auth_request /ask; proxy_pass http://rack; proxy_http_version 1.1; proxy_set_header Connection ""; }
    location = /ask { internal; proxy_pass http://rack/auth; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass_request_body off; proxy_set_header Content-Length ""; }
  }
}
`

// nginx measures nginx too, where it is installed: without and with a subrequest that asks whether a request is
// allowed. It records nothing. The rows are for orientation.
func (b *bench) nginx() {
	program, err := exec.LookPath("nginx")
	if err != nil || b.short {
		return
	}
	dir, err := os.MkdirTemp("", "rgw-nginx-")
	b.must(err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	plain, asking := freePort(b), freePort(b)
	config := filepath.Join(dir, "nginx.conf")
	b.must(os.WriteFile(config, fmt.Appendf(nil, "user root;"+nginxConfig, dir, b.upstream.addr, plain, asking), 0o600))
	if os.Geteuid() != 0 {
		b.must(os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, b.upstream.addr, plain, asking), 0o600))
	}
	ctx, cancel := context.WithCancel(b.Context())
	cmd := exec.CommandContext(ctx, program, "-c", config, "-p", dir) // #nosec G204 -- found on the PATH
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Stderr = b.stderr
	b.must(cmd.Start())
	b.Cleanup(func() { cancel(); _ = cmd.Wait() })
	for _, port := range []int{plain, asking} {
		waitListening(b, port)
	}
	subjects := []subject{
		b.bareSubject(),
		{name: "nginx proxy_pass", addrs: []string{fmt.Sprintf("127.0.0.1:%d", plain)}},
		{name: "nginx + auth_request", addrs: []string{fmt.Sprintf("127.0.0.1:%d", asking)}},
	}
	for _, connections := range []int{32, 256} {
		f := b.rounds(3, b.reading(nil, connections), subjects...)
		for _, s := range subjects[1:] {
			r := ratios(f[s.name].rate, f["bare"].rate)
			b.report.tell(fmt.Sprintf("%s, reads at %d, against bare", s.name, connections), r.median(), "×", r.spread())
		}
	}
}

func freePort(b *bench) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	b.must(err)
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func waitListening(b *bench, port int) {
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-ctx.Done():
			b.Fatalf("nginx does not listen: %v", err)
		case <-every.C:
		}
	}
}
