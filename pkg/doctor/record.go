package doctor

import (
	"context"
	"time"
)

func recordChecks() []check {
	return []check{
		{
			id: "record-kept", group: "Record", title: "The record is being written",
			remedy:  "see the proxy's log, and whether PostgreSQL's disk is full",
			examine: examineRecord,
		},
		{
			id: "record-placed", group: "Record", title: "Events get their places in the ledger",
			remedy:  "see admin's log for what keeps its sequencer; one admin must run",
			examine: examinePlaced,
		},
		{
			id: "ledger-alerts", group: "Record", title: "The ledger has raised no alert",
			remedy:  "read them: admin audit list --action ledger.alert --all; docs/runbooks.md says what each means",
			examine: examineAlerts,
		},
		{
			id: "changed-outside", group: "Record", title: "Nobody has changed who may do what by SQL, around the gateway",
			remedy:  "find out who did, and whether it should stay: admin audit list --action gateway.changed_outside --all",
			examine: examineOutside,
		},
		{
			id: "anchored", group: "Record", title: "The ledger is copied to a bucket that cannot be undone",
			remedy:  "make the bucket (deploy/terraform has it), and set AUDIT_ANCHOR_BUCKET with AUDIT_ANCHOR_MODE=COMPLIANCE",
			examine: examineAnchored,
		},
		{
			id: "retention", group: "Record", title: "It is settled how long events are kept",
			remedy:  "set LOG_RETENTION_DAYS, and AUDIT_ANCHOR_RETENTION_DAYS to no less",
			examine: examineRetention,
		},
	}
}

const selectNewest = `
select max(occurred_at) from rgw.audit_events where occurred_at > now() - interval '1 day'`

func examineRecord(ctx context.Context, d *Doctor, _ *sight) finding {
	var newest *time.Time
	if err := d.DB.GetContext(ctx, &newest, selectNewest); err != nil {
		return cannotAsk(err)
	}
	if newest == nil {
		return fail("there is no event of the last day")
	}
	return pass("the newest event is of %s", newest.UTC().Format(time.RFC3339))
}

// placePatience is how long an event may be without its place.
const placePatience = 2 * time.Minute

// countWaiting counts the events of the last day that have been without a place for too long, as far as it matters how
// many.
const countWaiting = `
select count(*) from (
  select from rgw.audit_events e
  where e.occurred_at > now() - interval '1 day' and e.occurred_at < now() - make_interval(secs => $1)
    and not exists (select from rgw.ledger_leaves l where l.occurred_at = e.occurred_at and l.event_id = e.event_id)
  limit 1000) waiting`

func examinePlaced(ctx context.Context, d *Doctor, _ *sight) finding {
	var n int
	if err := d.DB.GetContext(ctx, &n, countWaiting, placePatience.Seconds()); err != nil {
		return cannotAsk(err)
	}
	if n > 0 {
		return fail("%d events or more of the last day have none after %s", n, placePatience)
	}
	return pass("none of the last day has waited for longer than %s", placePatience)
}

const selectAlerts = `
select coalesce(string_agg(distinct detail->>'code', ', '), '') from rgw.audit_events
where action = 'ledger.alert' and occurred_at > now() - interval '7 days'`

func examineAlerts(ctx context.Context, d *Doctor, _ *sight) finding {
	var codes string
	if err := d.DB.GetContext(ctx, &codes, selectAlerts); err != nil {
		return cannotAsk(err)
	}
	if codes != "" {
		return fail("within the last seven days: %s", codes)
	}
	return pass("not within the last seven days")
}

const countOutside = `
select count(*) from rgw.audit_events where action = 'gateway.changed_outside' and occurred_at > now() - interval '30 days'`

func examineOutside(ctx context.Context, d *Doctor, _ *sight) finding {
	var n int
	if err := d.DB.GetContext(ctx, &n, countOutside); err != nil {
		return cannotAsk(err)
	}
	if n > 0 {
		return fail("it happened %d times in the last 30 days", n)
	}
	return pass("not in the last 30 days")
}

const selectAnchor = `select max(anchored_at) from rgw.ledger_anchors where whole`

func examineAnchored(ctx context.Context, d *Doctor, _ *sight) finding {
	cfg := d.Config.Ledger
	switch {
	case cfg.AnchorBucket == "":
		return fail("AUDIT_ANCHOR_BUCKET is not set: whoever has the database and the signing key can make another past")
	case cfg.AnchorMode != "COMPLIANCE":
		return fail("AUDIT_ANCHOR_MODE is %s, which those with the right to it can undo", cfg.AnchorMode)
	}
	var newest *time.Time
	if err := d.DB.GetContext(ctx, &newest, selectAnchor); err != nil {
		return cannotAsk(err)
	}
	oldest := 3 * time.Duration(cfg.AnchorMinutes) * time.Minute
	switch {
	case newest == nil:
		return fail("nothing has been copied yet").to("see admin's log: the bucket, its address and its rights")
	case d.Now().Sub(*newest) > oldest:
		return fail("it was last copied at %s", newest.UTC().Format(time.RFC3339)).to("see admin's log: the bucket, its address and its rights")
	}
	return pass("it was last copied at %s", newest.UTC().Format(time.RFC3339))
}

func examineRetention(_ context.Context, d *Doctor, _ *sight) finding {
	cfg := d.Config.Ledger
	switch {
	case cfg.RetentionDays == 0:
		return fail("LOG_RETENTION_DAYS is not set: everything is kept for ever, addresses of people included")
	case cfg.AnchorRetention < cfg.RetentionDays:
		return fail("the bucket keeps what is copied there for %d days, and the database for %d", cfg.AnchorRetention, cfg.RetentionDays)
	}
	return pass("%d days in the database, %d in the bucket", cfg.RetentionDays, cfg.AnchorRetention)
}
