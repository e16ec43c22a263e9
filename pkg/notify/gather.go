package notify

// Many notices in one: those that were held because many alike came at once, and those that waited for so long, in an
// outage, that one by one they would be a storm.

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
)

const (
	// A cheap look before anything else: most of the time there is nothing to gather.
	anythingToGather = `
select exists (select from rgw.notices where medium = $1 and (state = 'held' and made_at < now() - $2 * interval '1 second'
  or state = 'waiting' and made_at < now() - $3 * interval '1 second' and attempt_id is null and topic not in ('digest', 'test')))`

	gatherLock = `select pg_try_advisory_xact_lock(7220417061)`

	selectCrowds = `
select recipient, max(user_id::text)::uuid as user_id from rgw.notices
where medium = $1 and state in ('held', 'waiting') and attempt_id is null and not unsure and topic not in ('digest', 'test')
group by recipient
having count(*) filter (where state = 'held' and made_at < now() - $2 * interval '1 second') > 0
  or count(*) filter (where state = 'waiting' and made_at < now() - $3 * interval '1 second') >= $4
limit 500`

	// With those that are held or late, those that merely wait go too: they are of the same crowd. Only what was never
	// tried is taken, so that nothing is told twice.
	gatherCrowd = `
update rgw.notices set state = 'gathered', digest = $3, ended_at = now()
where number in (select number from rgw.notices where medium = $1 and recipient = $2 and state in ('held', 'waiting') and attempt_id is null and not unsure
  and topic not in ('digest', 'test') order by number for update skip locked)`

	countCrowd = `
select topic, count(*) as many, min(happened_at) as since, max(happened_at) as until from rgw.notices where digest = $1 group by topic`

	sampleCrowd = `
select content from rgw.notices where digest = $1 and topic = $2 order by number desc limit $3`
)

// How much of each topic a digest shows.
const (
	digestSample = 8
	digestTopics = 12
)

// gather makes digests where they are due.
func (s *Service) gather(ctx context.Context, medium string) error {
	var due bool
	if err := s.DB.GetContext(ctx, &due, anythingToGather, medium, s.Limits.Window.Seconds(), s.Limits.Late.Seconds()); err != nil || !due {
		return wrap("look for notices to gather", err)
	}
	tx, err := s.DB.BeginTxx(ctx, nil)
	if err != nil {
		return wrap("begin", err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	var mine bool
	if err := tx.GetContext(ctx, &mine, gatherLock); err != nil || !mine {
		return wrap("wait to gather notices", err)
	}
	var crowds []struct {
		Recipient string        `db:"recipient"`
		User      uuid.NullUUID `db:"user_id"`
	}
	if err := tx.SelectContext(ctx, &crowds, selectCrowds, medium, s.Limits.Window.Seconds(), s.Limits.Late.Seconds(), s.Limits.LateMany); err != nil {
		return wrap("find notices to gather", err)
	}
	for _, crowd := range crowds {
		if err := s.gatherOne(ctx, tx, medium, crowd.Recipient, crowd.User.UUID); err != nil {
			return err
		}
	}
	if err := s.step("before gathering"); err != nil {
		return err
	}
	return wrap("commit digests", tx.Commit())
}

func (s *Service) gatherOne(ctx context.Context, tx *sqlx.Tx, medium, recipient string, user uuid.UUID) error {
	id := uuid.New()
	if _, err := tx.ExecContext(ctx, gatherCrowd, medium, recipient, id); err != nil {
		return wrap("gather notices", err)
	}
	var topics []struct {
		Topic string    `db:"topic"`
		Many  int64     `db:"many"`
		Since time.Time `db:"since"`
		Until time.Time `db:"until"`
	}
	if err := tx.SelectContext(ctx, &topics, countCrowd, id); err != nil {
		return wrap("count gathered notices", err)
	}
	if len(topics) == 0 { // another process is at them
		return nil
	}
	digest := &Digest{Since: topics[0].Since, Until: topics[0].Until}
	for _, t := range topics {
		digest.Total += t.Many
		if t.Since.Before(digest.Since) {
			digest.Since = t.Since
		}
		if t.Until.After(digest.Until) {
			digest.Until = t.Until
		}
		part := DigestTopic{Topic: t.Topic, Many: t.Many}
		var texts [][]byte
		if err := tx.SelectContext(ctx, &texts, sampleCrowd, id, t.Topic, digestSample); err != nil {
			return wrap("read gathered notices", err)
		}
		for _, text := range texts {
			var c Content
			if err := json.Unmarshal(text, &c); err != nil {
				return fmt.Errorf("read a gathered notice: %w", err)
			}
			part.Some = append(part.Some, c)
		}
		digest.Topics = append(digest.Topics, part)
	}
	slices.SortStableFunc(digest.Topics, func(x, y DigestTopic) int { return topicPlace(x.Topic) - topicPlace(y.Topic) })
	if len(digest.Topics) > digestTopics {
		for i := digestTopics; i < len(digest.Topics); i++ {
			digest.Topics[i].Some = nil // counted, and not shown
		}
	}
	var w rows
	w.add(row{id: id, leaf: -1, topic: topicDigest, medium: medium, recipient: recipient, user: user, state: "waiting",
		content: &Content{Topic: topicDigest, Leaf: -1, Request: id, At: digest.Until, Digest: digest}})
	return w.insert(ctx, tx)
}

// topicPlace orders a digest: first what is about one's own security.
func topicPlace(name string) int {
	for i, t := range Topics() {
		if t.Name == name {
			return i
		}
	}
	return 1000
}
