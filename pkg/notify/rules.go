package notify

// Which events a channel is told of: rules that administrators make.

import (
	"context"
	"database/sql/driver"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
)

// patterns are a list, as the database keeps it.
type patterns []string

// Scan implements sql.Scanner.
func (p *patterns) Scan(value any) error { return (*pq.StringArray)(p).Scan(value) }

// Value implements driver.Valuer.
func (p patterns) Value() (driver.Value, error) { return pq.StringArray(p).Value() }

// Rules lists the rules of channels, the oldest first.
func (s *Service) Rules(ctx context.Context) ([]Rule, error) {
	var list []Rule
	return list, wrap("read the rules of channels", s.DB.SelectContext(ctx, &list, selectRules))
}

var channelForm = regexp.MustCompile(`^[CGD][A-Z0-9]{5,30}$`)

var errChannel = &directory.Error{Kind: directory.Invalid, Code: "bad-channel", Message: "a channel is given by its id at Slack, such as C0123ABCD: it stands at the end of the channel's details"}

const insertRule = `
insert into rgw.notice_rules (rule_id, channel_id, channel_name, patterns, created_at, created_by) values ($1, $2, $3, $4, $5, $6)`

// mostRules bounds how many rules there are: each is held against every event.
const mostRules = 100

// AddRule has a channel told of the events that match any of the patterns.
func (s *Service) AddRule(ctx context.Context, by directory.Actor, channelID, channelName string, wanted []string) (_ Rule, err error) {
	e := by.Event(s.Now(), "notice.add_rule", short(channelID))
	e.Decision = audit.DecisionAllow
	defer func() { err = s.recordRefusal(ctx, e, err) }()
	if !channelForm.MatchString(channelID) {
		return Rule{}, errChannel
	}
	if len(wanted) == 0 || len(wanted) > 50 {
		return Rule{}, &directory.Error{Kind: directory.Invalid, Code: "bad-pattern", Message: "give 1 to 50 patterns"}
	}
	rule := Rule{ID: uuid.New(), ChannelID: channelID, ChannelName: cutRunes(short(strings.TrimPrefix(channelName, "#")), 80), CreatedAt: s.Now(), CreatedBy: by.Label}
	for _, text := range wanted {
		pattern, ok := checkPattern(text)
		if !ok {
			return Rule{}, &directory.Error{Kind: directory.Invalid, Code: "bad-pattern", Message: short(text) + " is not a pattern: write an action such as app.delete, all of a kind such as user.*, refused, alert, or *"}
		}
		if !slices.Contains(rule.Patterns, pattern) {
			rule.Patterns = append(rule.Patterns, pattern)
		}
	}
	e.Detail.Params.Add("id", rule.ID.String())
	e.Detail.Params.Add("name", rule.ChannelName)
	e.Detail.Params.Add("patterns", strings.Join(rule.Patterns, " "))
	err = audit.Change(ctx, s.DB, s.Key, e, func(tx *sqlx.Tx) error {
		var many int
		if err := tx.GetContext(ctx, &many, `select count(*) from rgw.notice_rules`); err != nil {
			return wrap("count rules", err)
		}
		if many >= mostRules {
			return &directory.Error{Kind: directory.Conflict, Code: "too-many-rules", Message: "there are 100 rules already: give one more patterns instead"}
		}
		_, err := tx.ExecContext(ctx, insertRule, rule.ID, rule.ChannelID, rule.ChannelName, rule.Patterns, rule.CreatedAt, rule.CreatedBy)
		return wrap("keep a rule", err)
	})
	return rule, err
}

const deleteRule = `delete from rgw.notice_rules where rule_id = $1 returning channel_id, channel_name, patterns`

// RemoveRule ends a rule.
func (s *Service) RemoveRule(ctx context.Context, by directory.Actor, id uuid.UUID) (err error) {
	e := by.Event(s.Now(), "notice.remove_rule", "")
	e.Decision = audit.DecisionAllow
	defer func() { err = s.recordRefusal(ctx, e, err) }()
	e.Detail.Params.Add("id", id.String())
	return audit.Change(ctx, s.DB, s.Key, e, func(tx *sqlx.Tx) error {
		var gone []Rule
		if err := tx.SelectContext(ctx, &gone, deleteRule, id); err != nil {
			return wrap("delete a rule", err)
		}
		if len(gone) == 0 {
			return &directory.Error{Kind: directory.NotFound, Code: "no-such-rule", Message: "there is no rule " + id.String() + ": list the rules to see which there are"}
		}
		e.Resource = gone[0].ChannelID
		e.Detail.Params.Add("name", gone[0].ChannelName)
		e.Detail.Params.Add("patterns", strings.Join(gone[0].Patterns, " "))
		return nil
	})
}
