package adminapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
)

// figureCache keeps the figures for a moment: every open console asks for them whenever the record grows.
type figureCache struct {
	mu   sync.Mutex // held while they are counted, which is bounded by the request's own time
	at   time.Time
	last figures24
}

// figures24 are what the overview counts, of which each caller sees what they may.
type figures24 struct {
	Sessions int
	People   PeopleFigures
	Tokens   TokenFigures
	Record   RecordFigures
	Deploys  []Event
}

// figuresFor is how long figures are given again.
const figuresFor = 2 * time.Second

const countPeople = `
select count(*) as total,
  count(*) filter (where u.locked_at is not null) as locked,
  count(*) filter (where not exists (select from rgw.bindings b where b.user_id = u.id)) as without_role,
  count(*) filter (where u.locked_at is null and exists (select from rgw.bindings b where b.user_id = u.id and b.role = 'admin' and b.app_pattern = '*')) as admins
from rgw.users u
where u.removed_at is null`

const countTokens = `
select count(*) as active, count(*) filter (where t.expires_at < $1::timestamptz + interval '7 days') as expiring
from rgw.tokens t
join rgw.users u on u.id = t.owner_id
where t.kind = 'api' and t.revoked_at is null and t.expires_at > $1 and u.locked_at is null and u.removed_at is null`

const countSessions = `
select count(*)
from rgw.sessions s
join rgw.users u on u.id = s.user_id
left join rgw.session_uses l on l.session_id = s.id
where s.revoked_at is null and s.expires_at > $1 and u.locked_at is null and u.removed_at is null
  and coalesce(l.used_at, s.created_at) >= $2`

const countRecord = `
select least(23, greatest(0, floor(extract(epoch from $1::timestamptz - occurred_at) / 3600)))::int as ago, count(*) as events,
  count(*) filter (where phase = 'refused') as refusals, max(occurred_at) as last_at
from rgw.audit_events
where occurred_at > $1::timestamptz - interval '24 hours' and kind <> 'system'
group by 1`

// deploysShown is how many promotions the overview names, and deploysWithin how far back it looks for them.
const (
	deploysShown  = 6
	deploysWithin = 30 * 24 * time.Hour
)

// count counts what the overview shows.
func (a *API) count(ctx context.Context) (figures24, error) {
	a.figures.mu.Lock()
	defer a.figures.mu.Unlock()
	now := a.Now().UTC()
	if age := now.Sub(a.figures.at); age >= 0 && age < figuresFor {
		return a.figures.last, nil
	}
	var f figures24
	if err := a.DB.QueryRowxContext(ctx, countPeople).Scan(&f.People.Total, &f.People.Locked, &f.People.WithoutRole, &f.People.Admins); err != nil {
		return f, fmt.Errorf("count people: %w", err)
	}
	if err := a.DB.QueryRowxContext(ctx, countTokens, now).Scan(&f.Tokens.Active, &f.Tokens.Expiring); err != nil {
		return f, fmt.Errorf("count tokens: %w", err)
	}
	idle := a.Credentials.Settings().SessionIdle
	if err := a.DB.GetContext(ctx, &f.Sessions, countSessions, now, now.Add(-idle)); err != nil {
		return f, fmt.Errorf("count sessions: %w", err)
	}
	var hours []struct {
		Ago      int       `db:"ago"`
		Events   int       `db:"events"`
		Refusals int       `db:"refusals"`
		LastAt   time.Time `db:"last_at"`
	}
	if err := a.DB.SelectContext(ctx, &hours, countRecord, now); err != nil {
		return f, fmt.Errorf("count events: %w", err)
	}
	f.Record.RefusalsByHour = make([]int, 24)
	for _, h := range hours {
		f.Record.Events += h.Events
		f.Record.Refusals += h.Refusals
		f.Record.RefusalsByHour[23-h.Ago] = h.Refusals
		if last := h.LastAt.UTC(); f.Record.LastAt == nil || f.Record.LastAt.Before(last) {
			f.Record.LastAt = &last
		}
	}
	page, err := a.events(ctx, audit.Filter{Actions: []string{"release.promote"}, Phase: audit.PhaseFinished, Since: now.Add(-deploysWithin), Limit: deploysShown})
	if err != nil {
		return f, err
	}
	f.Deploys = page.Items
	a.figures.at, a.figures.last = now, f
	return f, nil
}

// GetOverview answers with what the caller may see of the figures: each by the rule of the operation that lists what it
// counts.
func (a operations) GetOverview(ctx context.Context, _ GetOverviewRequestObject) (GetOverviewResponseObject, error) {
	x := exchangeIn(ctx)
	f, err := a.count(ctx)
	if err != nil {
		return nil, err
	}
	out := GetOverview200JSONResponse{At: a.Now().UTC()}
	if x.may("listSessions") {
		out.Sessions = &f.Sessions
	}
	if x.may("listUsers") {
		out.People = &f.People
	}
	if x.may("listTokens") {
		out.Tokens = &f.Tokens
	}
	if x.may("listEvents") {
		out.Record, out.Deploys = &f.Record, &f.Deploys
	}
	if x.principal.Kind != access.KindAPIToken {
		devices, err := a.Reader.ListTokens(ctx, directory.TokenFilter{Kind: credential.CLI, Owner: x.principal.UserID, Limit: 1})
		if err != nil {
			return nil, err
		}
		connected := len(devices.Items) > 0
		out.CliConnected = &connected
	}
	return out, nil
}

// may reports whether the caller would be allowed another operation, as far as rights go. It asks who asks for all
// operations, and allows nothing by itself.
func (x *exchange) may(op string) bool {
	rule, ok := access.RuleFor(op)
	if !ok {
		return false
	}
	return access.Decide(x.principal, access.Request{Rule: rule, Source: x.address}, access.Facts{}, x.a.Credentials.Settings(), access.Factor{}).Effect == access.Allow
}
