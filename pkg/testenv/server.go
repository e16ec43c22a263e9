package testenv

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// stopPatience is how long a process may take to stop after SIGTERM: its drain, and its last records.
const stopPatience = 30 * time.Second

// Server is one of the product's processes, a proxy or an admin. It keeps its name and address over restarts.
type Server struct {
	Name    string
	URL     string // without credentials
	Port    int
	Metrics string // base URL of /metrics and /debug/pprof/

	env     *Env
	process *process
}

// Start starts the process, when it has ended or never ran. WaitReady waits until it serves.
func (s *Server) Start() {
	s.env.t.Helper()
	if err := s.process.start(); err != nil {
		s.env.t.Fatalf("%v", err)
	}
}

// WaitReady waits until the process says that it is ready.
func (s *Server) WaitReady(ctx context.Context) {
	s.env.t.Helper()
	s.waitFor(ctx, "/api/v1/health/ready")
}

// waitFor waits until a path is answered with 200.
func (s *Server) waitFor(ctx context.Context, path string) {
	s.env.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	var last error
	for {
		if last = s.answers(ctx, path); last == nil {
			return
		}
		if s.PID() == 0 {
			s.env.t.Fatalf("%s ended before it was ready:\n%s", s.Name, s.process.tail(30))
		}
		select {
		case <-ctx.Done():
			s.env.t.Fatalf("%s did not become ready: %v\n%s", s.Name, last, s.process.tail(30))
		case <-every.C:
		}
	}
}

// answers asks the process once.
func (s *Server) answers(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	if err != nil {
		return err
	}
	resp, err := s.env.client.Do(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	return err
}

// PID is the id of the process, or 0 when it does not run.
func (s *Server) PID() int { return s.process.pid() }

// Terminate asks the process to stop (SIGTERM); Wait waits until it has.
func (s *Server) Terminate() { s.signal(sigTerm) }

// Kill ends the process as a crash does (SIGKILL), and returns when it is gone.
func (s *Server) Kill() {
	s.env.t.Helper()
	s.signal(sigKill)
	s.Wait(s.env.t.Context())
}

// Pause stops the process in its tracks (SIGSTOP), connections open; Resume lets it go on.
func (s *Server) Pause() { s.signal(sigStop) }

// Resume ends a Pause.
func (s *Server) Resume() { s.signal(sigCont) }

// Wait waits until the process has ended and returns its exit code, -1 when a signal ended it.
func (s *Server) Wait(ctx context.Context) int {
	s.env.t.Helper()
	code, err := s.process.wait(ctx)
	if err != nil {
		s.env.t.Fatalf("%v", err)
	}
	return code
}

// Stop asks the process to stop, and returns its exit code when it has.
func (s *Server) Stop() int {
	s.env.t.Helper()
	s.Terminate()
	ctx, cancel := context.WithTimeout(s.env.t.Context(), stopPatience)
	defer cancel()
	return s.Wait(ctx)
}

// Restart stops the process and starts it again, on the same address.
func (s *Server) Restart() {
	s.env.t.Helper()
	if code := s.Stop(); code != 0 {
		s.env.t.Fatalf("%s stopped with code %d", s.Name, code)
	}
	s.Start()
	s.WaitReady(s.env.t.Context())
}

// Configure changes the configuration, NAME to value, from the next start on; an empty value takes a variable away.
func (s *Server) Configure(config map[string]string) {
	s.env.t.Helper()
	s.process.configure(config)
}

// Log is everything the process has logged, in all its lives.
func (s *Server) Log() string { return s.process.log() }

func (s *Server) signal(sig signal) {
	s.env.t.Helper()
	if err := s.process.signal(sig); err != nil {
		s.env.t.Fatalf("%v", err)
	}
}
