// Budgets: an app's monthly cap. A rack in memory spends nothing, so a cap is never reached by itself.

package racktest

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"rackgateway/pkg/racktest/wire"
)

func (r *Rack) budgetGet(c *call) error {
	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := wire.BudgetAnswer{Config: a.budget, State: a.budgetState}
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) budgetSet(c *call) error {
	by := c.ackBy()
	o := c.options()
	limit, hasLimit := o.form("monthly-cap-usd")
	alert := o.number(o.form("alert-threshold-percent"))
	action, hasAction := o.form("at-cap-action")
	adjust, hasAdjust := o.form("pricing-adjustment")
	if o.err != nil {
		return o.err
	}
	if (hasLimit || hasAction || hasAdjust) && !c.can("a") {
		return fail(http.StatusForbidden, "AppBudgetSet: admin role required to set budget cap")
	}
	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err == nil {
		next := wire.Budget{AlertThresholdPercent: 80, AtCapAction: "alert-only", PricingAdjustment: 1}
		if a.budget != nil {
			next = *a.budget
		}
		if err = changeBudget(&next, limit, hasLimit, alert, action, hasAction, adjust, hasAdjust); err == nil {
			next.LastCapMutationBy = by
			a.budget = &next
			if a.budgetState == nil {
				now := r.now()
				a.budgetState = &wire.BudgetState{MonthStart: time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC), CurrentMonthSpendAsOf: now}
			}
		}
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return c.ok()
}

func changeBudget(b *wire.Budget, limit string, hasLimit bool, alert *int, action string, hasAction bool, adjust string, hasAdjust bool) error {
	number := func(name, s string) (float64, error) {
		v, err := strconv.ParseFloat(s, 64)
		switch {
		case err != nil:
			return 0, badRequest("%s must be a number: %v", name, err)
		case math.IsNaN(v) || math.IsInf(v, 0):
			return 0, badRequest("%s must be a finite number", name)
		}
		return v, nil
	}
	var err error
	if hasLimit {
		if b.MonthlyCapUSD, err = number("monthly-cap-usd", limit); err != nil {
			return err
		}
	}
	if hasAdjust {
		if b.PricingAdjustment, err = number("pricing-adjustment", adjust); err != nil {
			return err
		}
	}
	if alert != nil {
		b.AlertThresholdPercent = float64(*alert)
	}
	if hasAction {
		b.AtCapAction = action
	}
	switch {
	case b.MonthlyCapUSD <= 0:
		return badRequest("monthly-cap-usd must be > 0")
	case b.AlertThresholdPercent < 1 || b.AlertThresholdPercent > 100:
		return badRequest("alert-threshold-percent must be between 1 and 100")
	case b.PricingAdjustment < 0.1 || b.PricingAdjustment > 1.5:
		return badRequest("pricing-adjustment must be between 0.1 and 1.5")
	}
	switch b.AtCapAction {
	case "alert-only", "block-new-deploys", "auto-shutdown":
		return nil
	}
	return badRequest(`at-cap-action must be "alert-only", "block-new-deploys", or "auto-shutdown"`)
}

func (r *Rack) budgetClear(c *call) error {
	if !c.can("a") {
		return fail(http.StatusForbidden, "AppBudgetClear: admin role required to remove budget config")
	}
	c.ackBy()
	return r.changeApp(c, func(a *app) { a.budget, a.budgetState = nil, nil })
}

func (r *Rack) budgetReset(c *call) error {
	by := c.ackBy()
	if c.value("force_clear_cooldown") == "true" && !c.can("a") {
		return fail(http.StatusForbidden, "AppBudgetReset --force-clear-cooldown requires Admin role; current role is 'w'. Contact rack admin or use Admin token.")
	}
	return r.changeApp(c, func(a *app) {
		if a.budgetState != nil {
			next := *a.budgetState // answers under way hold the old one
			next.CircuitBreakerTripped, next.CircuitBreakerAckBy, next.CircuitBreakerAckAt = false, by, r.now()
			a.budgetState, a.bannerUp = &next, true
		}
	})
}

// changeApp finds the app of a path and changes it under the lock.
func (r *Rack) changeApp(c *call, change func(*app)) error {
	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err == nil {
		change(a)
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return c.ok()
}

func (r *Rack) budgetShutdownState(c *call) error {
	if _, err := r.app(c.variable("app")); err != nil {
		return err
	}
	return c.json(nil) // no shutdown is armed
}

func (r *Rack) budgetSimulate(c *call) error {
	name := c.variable("app")
	r.mu.Lock()
	a, err := r.appLocked(name)
	if err == nil && a.budget == nil {
		err = badRequest("no budget configured for app %s", name)
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := wire.BudgetSimulation{
		App: name, AtCapAction: a.budget.AtCapAction, NotifyBeforeMinutes: 30, ShutdownGracePeriod: "5m", ShutdownOrder: "largest-cost",
		RecoveryMode: "auto-on-reset", Eligibility: []wire.ShutdownEligibility{}, WouldShutDownServices: []string{}, SimulatedAt: r.now(),
	}
	for _, s := range a.sortedServices() {
		out.Eligibility = append(out.Eligibility, wire.ShutdownEligibility{Service: s.name, Eligible: true, Replicas: s.count})
		out.WouldShutDownServices = append(out.WouldShutDownServices, s.name)
	}
	out.WouldShutDownCount = len(out.WouldShutDownServices)
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) budgetDismissRecovery(c *call) error {
	c.ackBy()
	name := c.variable("app")
	r.mu.Lock()
	a, err := r.appLocked(name)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := wire.DismissRecovery{App: name, Status: "no-banner"}
	if a.bannerUp {
		a.bannerUp, out.Status = false, "dismissed"
	}
	r.mu.Unlock()
	return c.json(out)
}
