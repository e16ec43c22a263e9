package adminapi

import (
	"context"
	"sync"
	"time"

	"rackgateway/pkg/postgres"
)

// CheckFunc says whether something works, and in a sentence what is the matter when it does not.
type CheckFunc func(ctx context.Context) (ok bool, detail string)

// readiness remembers for a moment what the checks said, because anybody may ask.
type readiness struct {
	mu   sync.Mutex // held while the checks run, which is bounded; only checks of health wait for it
	at   time.Time
	last map[string]Check
}

// readyFor is how long an answer is given again.
const readyFor = time.Second

// GetHealth answers that the process answers.
func (a operations) GetHealth(context.Context, GetHealthRequestObject) (GetHealthResponseObject, error) {
	return GetHealth200JSONResponse{Status: "OK", Checks: map[string]Check{"process": {Ok: true}}}, nil
}

// GetReady answers whether the process can do its work.
func (a operations) GetReady(ctx context.Context, _ GetReadyRequestObject) (GetReadyResponseObject, error) {
	checks := a.checks(ctx)
	for name, check := range checks {
		if _, note := a.Notes[name]; !check.Ok && !note {
			return GetReady503JSONResponse{Status: "Service Unavailable", Checks: checks}, nil
		}
	}
	return GetReady200JSONResponse{Status: "OK", Checks: checks}, nil
}

func (a *API) checks(ctx context.Context) map[string]Check {
	a.ready.mu.Lock()
	defer a.ready.mu.Unlock()
	if a.Now().Sub(a.ready.at) < readyFor {
		return a.ready.last
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	checks := make(map[string]Check)
	note := func(name string, ok bool, detail string) {
		check := Check{Ok: ok}
		if detail != "" {
			check.Detail = &detail
		}
		checks[name] = check
	}
	trouble := func(bad bool, detail string) string {
		if bad {
			return detail
		}
		return ""
	}
	draining := a.draining.Load()
	note("draining", !draining, trouble(draining, "this process is being stopped"))

	behind, err := a.behind(ctx)
	note("database", err == nil, trouble(err != nil, "PostgreSQL cannot be reached"))
	if err == nil {
		note("migrations", !behind, trouble(behind, "the database lacks steps of this version: run admin migrate"))
	}
	age := a.Credentials.ProofAge()
	deaf := age > a.Credentials.MaxStaleness()
	note("listener", !deaf, trouble(deaf, "changes of access are not heard in time: is PostgreSQL reachable without a pooler in between?"))
	for _, more := range []map[string]CheckFunc{a.Ready, a.Notes} {
		for name, check := range more {
			ok, detail := check(ctx)
			note(name, ok, detail)
		}
	}
	a.ready.at, a.ready.last = a.Now(), checks
	return checks
}

// behind reports whether the database lacks steps that this program knows.
func (a *API) behind(ctx context.Context) (bool, error) {
	steps, err := postgres.MigrationStatus(ctx, a.DB)
	if err != nil {
		return false, err
	}
	for _, step := range steps {
		if step.AppliedAt == nil {
			return true, nil
		}
	}
	return false, nil
}
