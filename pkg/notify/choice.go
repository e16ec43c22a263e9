package notify

// Who wants to hear of what, and by what.

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
)

// choices are those that people made.
type choices map[choiceKey]bool

type choiceKey struct {
	user          uuid.UUID
	topic, medium string
}

// wants reports whether somebody is told of a topic by a medium: by mail unless they said no, in Slack if they said
// yes. The mail about one's own security always goes.
func (c choices) wants(user uuid.UUID, topic Topic, medium string) bool {
	if topic.Own && medium == mediumMail {
		return true
	}
	wanted, chosen := c[choiceKey{user, topic.Name, medium}]
	if !chosen {
		return medium == mediumMail
	}
	return wanted
}

func readChoices(ctx context.Context, db sqlx.QueryerContext, people map[string]*person) (choices, error) {
	if len(people) == 0 {
		return nil, nil
	}
	var ids []string
	for _, p := range people {
		ids = append(ids, p.ID.String())
	}
	var list []struct {
		User   uuid.UUID `db:"user_id"`
		Topic  string    `db:"topic"`
		Medium string    `db:"medium"`
		Wanted bool      `db:"wanted"`
	}
	if err := sqlx.SelectContext(ctx, db, &list, selectChoices, pq.Array(ids)); err != nil {
		return nil, wrap("read what people want to hear of", err)
	}
	made := make(choices)
	for _, c := range list {
		made[choiceKey{c.User, c.Topic, c.Medium}] = c.Wanted
	}
	return made, nil
}

// Choice is what somebody hears of one topic by.
type Choice struct {
	Topic
	Mail, Slack bool
}

const selectIsAdmin = `
select u.id, u.email, exists (select from rgw.bindings b where b.user_id = u.id and b.role = 'admin' and b.app_pattern = '*') as admin
from rgw.users u where u.removed_at is null and (u.id::text = $1 or u.email = lower($1))`

// Choices returns what somebody, by id or address, hears of: the topics that concern them.
func (s *Service) Choices(ctx context.Context, who string) ([]Choice, error) {
	p, made, err := s.chooser(ctx, s.DB, who)
	if err != nil {
		return nil, err
	}
	var list []Choice
	for _, t := range Topics() {
		if t.Audience == ToPerson || p.Admin {
			list = append(list, Choice{Topic: t, Mail: made.wants(p.ID, t, mediumMail), Slack: made.wants(p.ID, t, mediumSlack)})
		}
	}
	return list, nil
}

func (s *Service) chooser(ctx context.Context, db sqlx.QueryerContext, who string) (*person, choices, error) {
	var found []person
	if err := sqlx.SelectContext(ctx, db, &found, selectIsAdmin, who); err != nil {
		return nil, nil, wrap("find a person", err)
	}
	if len(found) != 1 {
		return nil, nil, &directory.Error{Kind: directory.NotFound, Code: "no-such-user", Message: "there is no user " + short(who)}
	}
	made, err := readChoices(ctx, db, map[string]*person{found[0].Email: &found[0]})
	return &found[0], made, err
}

const upsertChoice = `
insert into rgw.notice_choices (user_id, topic, medium, wanted) values ($1, $2, $3, $4)
on conflict on constraint notice_choices_pkey do update set wanted = excluded.wanted`

// Wish is a change of what somebody hears of a topic by; nil leaves it as it is.
type Wish struct {
	Topic       string
	Mail, Slack *bool
}

// Choose changes what somebody hears of.
func (s *Service) Choose(ctx context.Context, by directory.Actor, who string, wishes []Wish) (_ []Choice, err error) {
	e := by.Event(s.Now(), "notice.choose", short(who))
	e.Decision = audit.DecisionAllow
	defer func() { err = s.recordRefusal(ctx, e, err) }()
	for _, wish := range wishes {
		topic, known := topicNamed(wish.Topic)
		if !known {
			return nil, &directory.Error{Kind: directory.Invalid, Code: "no-such-topic", Message: "there is no topic " + short(wish.Topic) + ": list them to see which there are"}
		}
		if topic.Own && wish.Mail != nil && !*wish.Mail {
			return nil, &directory.Error{Kind: directory.Refused, Code: "own-security",
				Message: "mails about " + topic.Name + " are about one's own security, and cannot be turned off"}
		}
	}
	err = audit.Change(ctx, s.DB, s.Key, e, func(tx *sqlx.Tx) error {
		p, _, err := s.chooser(ctx, tx, who)
		if err != nil {
			return err
		}
		e.Resource = p.Email
		for _, wish := range wishes {
			for _, to := range []struct {
				medium string
				wanted *bool
			}{{mediumMail, wish.Mail}, {mediumSlack, wish.Slack}} {
				if to.wanted == nil {
					continue
				}
				if _, err := tx.ExecContext(ctx, upsertChoice, p.ID, wish.Topic, to.medium, *to.wanted); err != nil {
					return wrap("keep a choice", err)
				}
				e.Detail.Params.Add(wish.Topic+" by "+to.medium, fmt.Sprint(*to.wanted))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.Choices(ctx, who)
}
