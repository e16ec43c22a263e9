// Budgets of apps and what they cost.

package convoxclient

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"rackgateway/pkg/racktest/wire"
)

// acknowledged is the form field by which changes of a budget say who made them. The rack knows better.
func (run *invocation) acknowledged(form url.Values) url.Values {
	if form == nil {
		form = url.Values{}
	}
	form.Set("ack_by", cmp.Or(run.cli.Actor, "cli"))
	return form
}

func cmdBudgetShow(run *invocation) error {
	var b wire.BudgetAnswer
	if err := run.get("/apps/"+run.arg(0)+"/budget", &b); err != nil {
		return err
	}
	if b.Config == nil {
		run.printf("no budget configured for %s\n", run.arg(0))
		return nil
	}
	// Whether the app was shut down; it does not matter when that cannot be told.
	run.get("/apps/"+run.arg(0)+"/budget/shutdown-state", nil) //nolint:errcheck // as above
	return run.showJSON(b)
}

func (run *invocation) showJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	run.printf("%s\n", data)
	return nil
}

// budgetStep announces a change of a budget and makes it.
func (run *invocation) budgetStep(doing, path string, form url.Values) error {
	run.start("%s for %s", doing, run.arg(0))
	if err := run.post("/apps/"+run.arg(0)+path, run.acknowledged(form), nil); err != nil {
		return err
	}
	return run.done()
}

func cmdBudgetSet(run *invocation) error {
	form := url.Values{}
	limit := run.flags["monthly-cap"]
	switch {
	case limit != "":
		if _, err := strconv.ParseFloat(limit, 64); err != nil {
			return errors.New("--monthly-cap must be a number")
		}
		form.Set("monthly-cap-usd", limit)
		form.Set("alert-threshold-percent", cmp.Or(run.flags["alert-at"], "80"))
		form.Set("at-cap-action", cmp.Or(run.flags["at-cap-action"], "alert-only"))
	case run.flags["pricing-adjustment"] == "":
		return errors.New("--monthly-cap or --pricing-adjustment is required")
	}
	if v := run.flags["pricing-adjustment"]; v != "" {
		form.Set("pricing-adjustment", v)
	}
	if limit != "" {
		run.costSoFar()
	}
	return run.budgetStep("Setting budget", "/budget", form)
}

// costSoFar is asked before a cap is set, to warn of one that is passed already.
func (run *invocation) costSoFar() {
	run.get("/apps/"+run.arg(0)+"/cost", nil) //nolint:errcheck // it only makes for a warning
}

func cmdBudgetRaise(run *invocation) error {
	limit := run.flags["monthly-cap"]
	if limit == "" {
		return errors.New("--monthly-cap-usd is required")
	}
	run.costSoFar()
	return run.budgetStep("Raising monthly cap", "/budget", url.Values{"monthly-cap-usd": {limit}})
}

func cmdBudgetReset(run *invocation) error {
	if !run.is("force") {
		return errors.New("refusing to prompt for confirmation on non-interactive stdin; pass --force to proceed")
	}
	form := url.Values{}
	if run.is("force-clear-cooldown") {
		form.Set("force_clear_cooldown", "true")
	}
	return run.budgetStep("Resetting budget", "/budget/reset", form)
}

// cmdBudgetClear sends a DELETE with a form, which is the one of its kind.
func cmdBudgetClear(run *invocation) error {
	run.start("Clearing budget for %s", run.arg(0))
	call := Call{Method: http.MethodDelete, Path: "/apps/" + run.arg(0) + "/budget", Form: run.acknowledged(nil)}
	if err := run.c.Do(run.ctx, call, nil); err != nil {
		return err
	}
	return run.done()
}

func cmdBudgetSimulate(run *invocation) error {
	var s wire.BudgetSimulation
	if err := run.post("/apps/"+run.arg(0)+"/budget/simulate-shutdown", nil, &s); err != nil {
		return err
	}
	if err := run.showJSON(s); err != nil {
		return err
	}
	run.printf("Status: SIMULATION COMPLETE. No changes made.\n")
	return nil
}

func cmdBudgetDismiss(run *invocation) error {
	var d wire.DismissRecovery
	if err := run.post("/apps/"+run.arg(0)+"/budget/dismiss-recovery", run.acknowledged(nil), &d); err != nil {
		return err
	}
	run.printf("Banner status for %s: %s.\n", run.arg(0), d.Status)
	return nil
}

func cmdCost(run *invocation) error {
	var c wire.Cost
	if err := run.get(run.appPath("/cost"), &c); err != nil {
		return err
	}
	return run.showJSON(c)
}
