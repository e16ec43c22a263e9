package doctor

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jmoiron/sqlx"
)

func peopleChecks() []check {
	return []check{
		{
			id: "two-admins", group: "People", title: "There are two administrators at least, who can sign in",
			remedy:  "add another: admin user add EMAIL --role admin",
			examine: examineAdmins,
		},
		{
			id: "idle-admins", group: "People", title: "Nobody keeps an administrator's rights without using them",
			remedy:  "take the role away from who does not need it: admin user roles EMAIL --help",
			examine: examineIdleAdmins,
		},
		{
			id: "mfa-required", group: "People", title: "Everybody is asked for a second factor",
			remedy:  "switch it on again: admin setting set mfa_required true",
			examine: examineMFARequired,
		},
		{
			id: "admin-factors", group: "People", title: "Every administrator has a second factor, and a way back when it is lost",
			remedy:  "have them sign in and add one, and backup codes or a second one, at ADMIN_URL and /login/u2f",
			examine: examineAdminFactors,
		},
		{
			id: "factor-fresh", group: "People", title: "A second factor counts for an hour at most",
			remedy:  "shorten it: admin setting set step_up_minutes 10",
			examine: examineStepUp,
		},
		{
			id: "destructive-off", group: "People", title: "Deletions of apps and instances are refused",
			remedy:  "switch them off again when what they were needed for is done: admin setting set allow_destructive false",
			examine: examineDestructive,
		},
	}
}

const selectAdmins = `
select u.email, coalesce(u.signed_in_at < now() - interval '90 days', u.created_at < now() - interval '90 days') as idle
from rgw.users u
where u.removed_at is null and u.locked_at is null
  and exists (select from rgw.bindings b where b.user_id = u.id and b.role = 'admin' and b.app_pattern = '*')
order by u.email`

type adminRow struct {
	Email string `db:"email"`
	Idle  bool   `db:"idle"`
}

func (d *Doctor) admins(ctx context.Context) ([]adminRow, error) {
	var rows []adminRow
	return rows, sqlx.SelectContext(ctx, d.DB, &rows, selectAdmins)
}

func examineAdmins(ctx context.Context, d *Doctor, _ *sight) finding {
	rows, err := d.admins(ctx)
	switch {
	case err != nil:
		return cannotAsk(err)
	case len(rows) < 2:
		return fail("there is %d: when they leave, or lose what they sign in with, nobody can change anything", len(rows))
	}
	return pass("there are %d", len(rows))
}

func examineIdleAdmins(ctx context.Context, d *Doctor, _ *sight) finding {
	rows, err := d.admins(ctx)
	if err != nil {
		return cannotAsk(err)
	}
	var idle []string
	for _, row := range rows {
		if row.Idle {
			idle = append(idle, row.Email)
		}
	}
	if len(idle) > 0 {
		return fail("not signed in for 90 days: %s", strings.Join(idle, ", "))
	}
	return pass("each of them has signed in within 90 days, or is new")
}

// setting is the value in force of one setting; trouble is the finding where it cannot be had, and else nil.
func (d *Doctor) setting(ctx context.Context, key string) (value string, trouble *finding) {
	if d.Setting == nil {
		f := unknown("settings are not at hand here")
		return "", &f
	}
	text, err := d.Setting(ctx, key)
	if err != nil {
		f := cannotAsk(err)
		return "", &f
	}
	return string(text), nil
}

func examineMFARequired(ctx context.Context, d *Doctor, _ *sight) finding {
	value, trouble := d.setting(ctx, "mfa_required")
	switch {
	case trouble != nil:
		return *trouble
	case value != "true":
		return fail("the setting mfa_required is %s: whoever gets into somebody's account at the identity provider is in, and may do all that they may", value)
	}
	return pass("the setting mfa_required is on")
}

// Of each administrator: how many factors are good, and how many backup codes are left.
const selectAdminFactors = `
select u.email,
  (select count(*) from rgw.factors f where f.user_id = u.id and f.removed_at is null) as factors,
  (select count(*) from rgw.backup_codes c where c.user_id = u.id and c.used_at is null and c.replaced_at is null) as codes
from rgw.users u
where u.removed_at is null and u.locked_at is null
  and exists (select from rgw.bindings b where b.user_id = u.id and b.role = 'admin' and b.app_pattern = '*')
order by u.email`

type adminFactorsRow struct {
	Email   string `db:"email"`
	Factors int    `db:"factors"`
	Codes   int    `db:"codes"`
}

func examineAdminFactors(ctx context.Context, d *Doctor, _ *sight) finding {
	var rows []adminFactorsRow
	if err := sqlx.SelectContext(ctx, d.DB, &rows, selectAdminFactors); err != nil {
		return cannotAsk(err)
	}
	var without, oneOnly []string
	for _, row := range rows {
		switch {
		case row.Factors == 0:
			without = append(without, row.Email)
		case row.Factors == 1 && row.Codes == 0:
			oneOnly = append(oneOnly, row.Email)
		}
	}
	switch {
	case len(rows) == 0:
		return fail("there is no administrator")
	case len(without) == len(rows):
		return fail("no administrator has one: whoever gets into the account of %s at the identity provider can add their own", strings.Join(without, ", "))
	case len(without) > 0:
		return fail("whoever gets into their account at the identity provider can add one of their own: %s", strings.Join(without, ", "))
	case len(oneOnly) > 0:
		return fail("have one, and nothing when it is lost: %s", strings.Join(oneOnly, ", "))
	}
	return pass("each of the %d has", len(rows))
}

// longestFresh is for how many minutes a second factor should count at most.
const longestFresh = 60

func examineStepUp(ctx context.Context, d *Doctor, _ *sight) finding {
	value, trouble := d.setting(ctx, "step_up_minutes")
	if trouble != nil {
		return *trouble
	}
	minutes, err := strconv.Atoi(value)
	if err != nil {
		return unknown("the setting step_up_minutes is %s", value)
	}
	if minutes > longestFresh {
		return fail("the setting step_up_minutes is %d: a terminal left open may change things for as long", minutes)
	}
	return pass("the setting step_up_minutes is %d", minutes)
}

const selectDestructiveApps = `
select s.app, s.value = 'true'::jsonb as lets from rgw.settings s where s.key = 'allow_destructive' and s.app <> '' order by s.app`

type destructiveRow struct {
	App  string `db:"app"`
	Lets bool   `db:"lets"`
}

func examineDestructive(ctx context.Context, d *Doctor, _ *sight) finding {
	value, trouble := d.setting(ctx, "allow_destructive")
	switch {
	case trouble != nil:
		return *trouble
	case value != "false":
		return fail("the setting allow_destructive is %s", value)
	}
	var rows []destructiveRow
	if err := sqlx.SelectContext(ctx, d.DB, &rows, selectDestructiveApps); err != nil {
		return cannotAsk(err)
	}
	lets := make(map[string]bool)
	for _, own := range d.Config.Settings.Defaults {
		if own.App != "" && own.Key == "allow_destructive" {
			lets[own.App] = string(own.Value) == "true"
		}
	}
	for _, row := range rows {
		lets[row.App] = row.Lets
	}
	maps.DeleteFunc(lets, func(_ string, on bool) bool { return !on })
	if len(lets) > 0 {
		apps := slices.Sorted(maps.Keys(lets))
		return fail("the setting allow_destructive is on for %s", strings.Join(apps, ", ")).
			to("switch it off again when what it was needed for is done: admin setting set allow_destructive false --app " + apps[0])
	}
	return pass("the setting allow_destructive is off, for each app too")
}

// cannotAsk is the finding where the database does not say.
func cannotAsk(err error) finding { return unknown("the database did not say: %v", err) }
