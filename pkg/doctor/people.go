package doctor

import (
	"context"
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

func examineDestructive(ctx context.Context, d *Doctor, _ *sight) finding {
	if d.Setting == nil {
		return unknown("settings are not at hand here")
	}
	value, err := d.Setting(ctx, "allow_destructive")
	switch {
	case err != nil:
		return cannotAsk(err)
	case string(value) != "false":
		return fail("the setting allow_destructive is %s", value)
	}
	return pass("the setting allow_destructive is off")
}

// cannotAsk is the finding where the database does not say.
func cannotAsk(err error) finding { return unknown("the database did not say: %v", err) }
