package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/ledger"
)

// Legal holds: what keeps retention from dropping events.

type auditHoldCmds struct {
	List  auditHoldListCmd  `cmd:"" default:"withargs" help:"List legal holds, the newest first."`
	Place auditHoldPlaceCmd `cmd:"" help:"Keep retention from dropping the events of a time."`
	Lift  auditHoldLiftCmd  `cmd:"" help:"End a legal hold."`
}

// day is a date on the command line.
type day struct{ time.Time }

// UnmarshalText reads 2026-11-23.
func (d *day) UnmarshalText(text []byte) (err error) {
	if d.Time, err = time.Parse(time.DateOnly, string(text)); err != nil {
		return errors.New("a day looks like 2026-11-23")
	}
	return nil
}

type auditHoldListCmd struct {
	output

	All bool `help:"Those that were lifted, too."`
}

func (c *auditHoldListCmd) Run(ctx context.Context, p *process) error {
	cfg, err := p.configuration(keyVariable)
	if err != nil {
		return err
	}
	db, err := p.open(ctx, cfg.Database.URL, cfg.Database.Database)
	if err != nil {
		return err
	}
	holds, err := ledger.Holds(ctx, db)
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	shown := []ledger.Hold{}
	t := newTable("ID", "FROM", "TO", "PLACED BY", "PLACED", "LIFTED", "REASON")
	for _, h := range holds {
		if h.LiftedAt != nil && !c.All {
			continue
		}
		shown = append(shown, h)
		t.add(h.ID.String(), h.Since.Format(time.DateOnly), h.Until.Format(time.DateOnly), h.PlacedBy, h.PlacedAt.UTC().Format(time.DateOnly), whenLifted(h), h.Reason)
	}
	switch {
	case c.JSON:
		return writeJSON(p.stdout, shown)
	case len(shown) == 0:
		fmt.Fprintln(p.stderr, "There are no legal holds.")
		return nil
	}
	return t.write(p.stdout)
}

func whenLifted(h ledger.Hold) string {
	if h.LiftedAt == nil {
		return "in force"
	}
	return h.LiftedAt.UTC().Format(time.DateOnly)
}

type auditHoldPlaceCmd struct {
	output

	Since  day    `required:"" help:"The first day that is held (UTC)." placeholder:"DAY"`
	Until  day    `required:"" help:"The last day that is held." placeholder:"DAY"`
	Reason string `required:"" help:"Why, for whoever comes to lift it." placeholder:"TEXT"`
}

func (auditHoldPlaceCmd) Help() string {
	return `Retention drops whole months: none is dropped of which a hold covers a day. Copies in the bucket are kept for AUDIT_ANCHOR_RETENTION_DAYS whatever is held; an S3 legal hold or a longer retention keeps them for longer.

Example:
  admin audit hold place --since 2026-01-01 --until 2026-03-31 --reason "case 17"`
}

func (c *auditHoldPlaceCmd) Run(ctx context.Context, p *process) error {
	if strings.TrimSpace(c.Reason) == "" {
		return usageError("--reason is empty: say why, for whoever comes to lift the hold")
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		h, err := ledger.PlaceHold(ctx, db, key, p.allowed(by, "hold.place"), c.Since.Time, c.Until.Time, c.Reason)
		if errors.Is(err, ledger.ErrBadHold) {
			return errors.Join(usageError(err.Error()), p.refused(ctx, db, key, by, "hold.place", "", "bad-hold", err))
		}
		if err != nil {
			return err
		}
		return c.say(p, h, "%s\nThe events from %s to %s are kept until the hold is lifted: admin audit hold lift %s\n",
			h.ID, c.Since.Format(time.DateOnly), c.Until.Format(time.DateOnly), h.ID)
	})
}

type auditHoldLiftCmd struct {
	output

	ID string `arg:"" help:"The hold's id, as audit hold list shows it."`
}

func (c *auditHoldLiftCmd) Run(ctx context.Context, p *process) error {
	id, err := uuid.Parse(c.ID)
	if err != nil {
		return usageError("a hold is named by its id: audit hold list shows them")
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		err := ledger.LiftHold(ctx, db, key, p.allowed(by, "hold.lift"), id)
		if errors.Is(err, ledger.ErrNoHold) {
			return errors.Join(fmt.Errorf("there is no hold %s in force: admin audit hold list shows those that are", id), p.refused(ctx, db, key, by, "hold.lift", id.String(), "no-such-hold", err))
		}
		if err != nil {
			return err
		}
		return c.say(p, map[string]string{"id": id.String()}, "The hold %s is lifted: retention goes by age alone again.\n", id)
	})
}

// allowed is the event of a change that the command line makes.
func (p *process) allowed(by directory.Actor, action string) *audit.Event {
	e := by.Event(p.now(), action, "")
	e.Decision = audit.DecisionAllow
	return e
}

// refused records that a change was refused.
func (p *process) refused(ctx context.Context, db *sqlx.DB, key audit.Key, by directory.Actor, action, resource, code string, because error) error {
	e := by.Event(p.now(), action, resource)
	e.Phase, e.Decision, e.Detail.Code, e.Detail.Error = audit.PhaseRefused, audit.DecisionDeny, code, because.Error()
	return audit.Change(ctx, db, key, e, func(*sqlx.Tx) error { return nil })
}
