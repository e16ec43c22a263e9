package notify

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/seal"
)

// Config is what notices work with. Fields without a remark must be given.
type Config struct {
	DB       *sqlx.DB // as the role of admin
	Key      audit.Key
	Keys     seal.Keys
	Follower *ledger.Follower
	// Console is the address of the gateway's pages, such as https://gateway.example.com.
	Console *url.URL
	// Gateway is what notices call it: ORGANIZATION/ALIAS.
	Gateway string

	Postmark PostmarkConfig // without a token, no mail is sent
	LogMail  bool           // mails that cannot be sent are logged, in development
	Slack    SlackConfig    // without a client id, Slack cannot be connected

	// Healthy says what keeps this process from its database; empty while nothing does. It may be nil.
	Healthy func() string

	// ClientAddress is where a request comes from, as far as that can be trusted. It may be nil.
	ClientAddress func(*http.Request) netip.Addr

	// Limits are for tests to change; each is a usable default when zero.
	Limits Limits

	Log *slog.Logger     // nil discards
	Now func() time.Time // nil for the system's clock
}

// Limits say how many notices go out at once and when many become one.
type Limits struct {
	Alike      int           // notices of one topic that one receiver gets in a window, before the others wait for a digest; 5
	AlikeSlack int           // the same for a channel; 15
	Altogether int           // of all topics; 40
	Window     time.Duration // 10 minutes
	Late       time.Duration // waited for so long, several become one; an hour
	LateMany   int           // how many are several; 5
	Lease      time.Duration // how long one attempt may take before it is given up for lost; 2 minutes
	GiveUp     time.Duration // after which a notice is dead; 3 days
	Keep       time.Duration // how long what has ended is kept; 30 days
	Backoff    time.Duration // pause after the first failure, doubled by each further one; 5 seconds
	BackoffMax time.Duration // 15 minutes
	Mails      int           // mails under way at once; 8
	Messages   int           // Slack messages under way at once; 4
	SlackPace  time.Duration // between two messages to one channel, as Slack asks; a second
	Poll       time.Duration // how often it is looked for work without having been woken; 2 seconds
	Quiet      time.Duration // events older than that are told in a digest; 24 hours
	Forget     time.Duration // events older than that are not told; 7 days
	Back       time.Duration // how far back the first start begins; an hour
	Stored     time.Duration // how often the place in the ledger is kept when there is nothing to tell; 5 seconds
}

func (l *Limits) fill() {
	l.Alike = cmp.Or(l.Alike, 5)
	l.AlikeSlack = cmp.Or(l.AlikeSlack, 15)
	l.Altogether = cmp.Or(l.Altogether, 40)
	l.Window = cmp.Or(l.Window, 10*time.Minute)
	l.Late = cmp.Or(l.Late, time.Hour)
	l.LateMany = cmp.Or(l.LateMany, 5)
	l.Lease = cmp.Or(l.Lease, 2*time.Minute)
	l.GiveUp = cmp.Or(l.GiveUp, 72*time.Hour)
	l.Keep = cmp.Or(l.Keep, 30*24*time.Hour)
	l.Backoff = cmp.Or(l.Backoff, 5*time.Second)
	l.BackoffMax = cmp.Or(l.BackoffMax, 15*time.Minute)
	l.Mails = cmp.Or(l.Mails, 8)
	l.Messages = cmp.Or(l.Messages, 4)
	l.SlackPace = cmp.Or(l.SlackPace, time.Second)
	l.Poll = cmp.Or(l.Poll, 2*time.Second)
	l.Quiet = cmp.Or(l.Quiet, 24*time.Hour)
	l.Forget = cmp.Or(l.Forget, 7*24*time.Hour)
	l.Back = cmp.Or(l.Back, time.Hour)
	l.Stored = cmp.Or(l.Stored, 5*time.Second)
}

// Service follows the ledger and delivers. Its methods are safe for concurrent use. It must be made by New.
type Service struct {
	Config

	mail    sender // nil when mail is not configured
	slack   *slackSender
	box     *seal.Box
	buttons *seal.Signer
	states  *seal.Signer
	wake    map[string]chan struct{} // by medium

	refusing sync.Mutex
	refused  map[string]hookRefusals // by service; refusing guards it

	sent, failed [2]atomic.Int64 // by this process: mail, Slack

	// press has what is done when a button is pressed, by its name.
	press map[string]PressFunc

	// step is called before each step after which a crash would matter, with its name; tests make it fail there.
	step func(name string) error
}

// Media.
const (
	mediumMail  = "mail"
	mediumSlack = "slack"
)

// SealPurpose is what the tokens of integrations are sealed for. It must never change.
const SealPurpose = "integration token"

// New returns a service, which works while Run runs.
func New(config Config) *Service {
	config.Limits.fill()
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	s := &Service{
		Config: config, box: config.Keys.Box(SealPurpose), buttons: config.Keys.Signer("slack button"), states: config.Keys.Signer("slack install"),
		wake: map[string]chan struct{}{mediumMail: make(chan struct{}, 1), mediumSlack: make(chan struct{}, 1)},
		step: func(string) error { return nil }, refused: make(map[string]hookRefusals),
	}
	s.slack = &slackSender{service: s}
	s.press = map[string]PressFunc{buttonSeen: s.pressedSeen}
	switch {
	case !config.Postmark.Token.IsZero():
		s.mail = newPostmark(config.Postmark)
	case config.LogMail:
		s.mail = mailLog{config.Log}
	}
	return s
}

// Run follows, delivers and tidies until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"following the ledger", s.follow},
		{"mail", func(ctx context.Context) error { return s.deliver(ctx, mediumMail, s.Limits.Mails) }},
		{"Slack", func(ctx context.Context) error { return s.deliver(ctx, mediumSlack, s.Limits.Messages) }},
		{"tidying", s.tidy},
		{"watching", s.watch},
	} {
		running.Go(func() {
			if err := part.run(ctx); err != nil && ctx.Err() == nil {
				s.Log.ErrorContext(ctx, "a part of notices has stopped", "part", part.name, "error", err)
			}
		})
	}
	running.Wait()
	return ctx.Err()
}

// Wake tells that there may be something to deliver.
func (s *Service) Wake() {
	for _, c := range s.wake {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Stats is what one medium did in this process.
type Stats struct {
	Medium       string
	Sent, Failed int64
}

// Stats tells what this process sent, and how often that failed, for metrics.
func (s *Service) Stats() [2]Stats {
	return [2]Stats{{mediumMail, s.sent[0].Load(), s.failed[0].Load()}, {mediumSlack, s.sent[1].Load(), s.failed[1].Load()}}
}

// tidyEvery is how often what no request brings about is done.
const tidyEvery = time.Minute

const (
	giveUp = `
update rgw.notices set state = 'dead', ended_at = now(), attempt_id = null,
  trouble = case when trouble = '' then 'it could not be sent in time' else trouble end
where number in (select number from rgw.notices where state in ('waiting', 'held') and made_at < now() - $1 * interval '1 second'
  and (attempt_id is null or next_at < now()) limit 1000)`

	forgetEnded = `
delete from rgw.notices where number in (select number from rgw.notices where ended_at < now() - $1 * interval '1 second' limit 5000)`

	forgetRefusals = `
delete from rgw.notice_refusals where since < now() - interval '1 day'`

	forgetMarks = `
delete from rgw.notice_marks where noted_at < now() - interval '60 days'`
)

// tidy gives up what could not be sent for days, deletes what ended long ago, and looks at the clock.
func (s *Service) tidy(ctx context.Context) error {
	minutely := time.NewTicker(tidyEvery)
	defer minutely.Stop()
	for {
		if err := s.tidyOnce(ctx); err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "notices could not be tidied; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-minutely.C:
		}
	}
}

func (s *Service) tidyOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Second)
	defer cancel()
	_, err := s.DB.ExecContext(ctx, giveUp, s.Limits.GiveUp.Seconds())
	_, ended := s.DB.ExecContext(ctx, forgetEnded, s.Limits.Keep.Seconds())
	_, refusals := s.DB.ExecContext(ctx, forgetRefusals)
	_, marks := s.DB.ExecContext(ctx, forgetMarks)
	return errors.Join(err, ended, refusals, marks, s.noteExpiries(ctx))
}
