package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/config"
	"rackgateway/pkg/daemon"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/notify"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
)

type noticeCmds struct {
	Status   noticeStatusCmd   `cmd:"" help:"Show how mail and Slack do, and what waits for them."`
	List     noticeListCmd     `cmd:"" help:"List notices, the newest first."`
	Retry    noticeRetryCmd    `cmd:"" help:"Try again what was given up."`
	Test     noticeTestCmd     `cmd:"" help:"Send a notice that says nothing but that it arrives."`
	Topics   noticeTopicsCmd   `cmd:"" help:"List what there is to be told of, or what somebody is told of."`
	Choose   noticeChooseCmd   `cmd:"" help:"Change what somebody is told of."`
	Rules    noticeRulesCmd    `cmd:"" help:"List which events Slack channels are told of."`
	Rule     noticeRuleCmd     `cmd:"" help:"Tell a Slack channel of events."`
	Norule   noticeNoRuleCmd   `cmd:"" name:"unrule" help:"End a rule of a channel."`
	Channels noticeChannelsCmd `cmd:"" help:"List the public channels of the connected Slack workspace."`
	Mail     noticeMailCmd     `cmd:"" help:"Show whether mail reaches somebody, and what they were told last."`
	Unslack  noticeUnslackCmd  `cmd:"" help:"Disconnect Slack."`
}

// notices runs fn with what notices are kept by. Sending is left to the admin that serves.
func (p *process) notices(ctx context.Context, fn func(*notify.Service, directory.Actor) error) error {
	cfg, _, err := config.LoadAdmin(p.environ)
	if err != nil {
		return err
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		var keys seal.Keys
		// Only what was sealed needs it, and says so: under a key that nobody knows it cannot be opened.
		appKey := cfg.Secrets.AppKey
		if appKey.IsZero() {
			appKey = secret.NewText(rand.Text() + rand.Text())
		}
		if keys, err = seal.NewKeys(appKey, cfg.Secrets.AppKeyPrevious); err != nil {
			return err
		}
		return fn(notify.New(noticesConfig(cfg, db, key, keys, daemon.NewLogger(p.stderr, cfg.Log), p.now, func(*notify.Config) {})), by)
	})
}

// mediumView is how a medium does, as --json shows it.
type mediumView struct {
	Medium      string     `json:"medium"`
	State       string     `json:"state"` // works, fails, logged only, not connected or not configured
	From        string     `json:"from,omitempty"`
	Team        string     `json:"team,omitempty"`
	Waiting     int64      `json:"waiting"`
	Held        int64      `json:"held"`
	Dead        int64      `json:"dead"`
	SentToday   int64      `json:"sent_today"`
	Oldest      *time.Time `json:"oldest,omitempty"` // of what waits
	Failures    int        `json:"failures"`
	Trouble     string     `json:"trouble,omitempty"`
	FailedAt    *time.Time `json:"failed_at,omitempty"`
	SucceededAt *time.Time `json:"succeeded_at,omitempty"`
	PausedUntil *time.Time `json:"paused_until,omitempty"`
}

func viewOfMedium(m notify.MediumState) mediumView {
	v := mediumView{
		Medium: m.Medium, State: "works", From: m.From, Waiting: m.Waiting, Held: m.Held, Dead: m.Dead, SentToday: m.SentToday, Oldest: m.Oldest,
		Failures: m.Failures, Trouble: m.Trouble, FailedAt: m.FailedAt, SucceededAt: m.SucceededAt, PausedUntil: m.PausedUntil,
	}
	if m.Slack != nil {
		v.Team = m.Slack.TeamName
	}
	switch {
	case m.LogOnly:
		v.State = "logged only"
	case !m.Configured && m.Slack != nil && m.Slack.Configured:
		v.State = "not connected"
	case !m.Configured:
		v.State = "not configured"
	case m.Failures > 0:
		v.State = "fails"
	}
	return v
}

type noticeStatusCmd struct {
	JSON bool `help:"As JSON."`
}

func (c *noticeStatusCmd) Run(ctx context.Context, p *process) error {
	return p.notices(ctx, func(s *notify.Service, _ directory.Actor) error {
		media, err := s.Media(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			views := make([]mediumView, len(media))
			for i, m := range media {
				views[i] = viewOfMedium(m)
			}
			return writeJSON(p.stdout, views)
		}
		t := newTable("MEDIUM", "STATE", "WAITING", "HELD", "GIVEN UP", "SENT IN A DAY", "LAST SUCCESS", "LAST FAILURE")
		for _, m := range media {
			trouble := when(m.FailedAt, p.now())
			if m.Trouble != "" {
				trouble += ": " + m.Trouble
			}
			t.add(m.Medium, viewOfMedium(m).State, fmt.Sprint(m.Waiting), fmt.Sprint(m.Held), fmt.Sprint(m.Dead), fmt.Sprint(m.SentToday), when(m.SucceededAt, p.now()), trouble)
		}
		return t.write(p.stdout)
	})
}

// noticeView is a notice as --json shows one.
type noticeView struct {
	ID        uuid.UUID `json:"id"`
	Topic     string    `json:"topic"`
	Medium    string    `json:"medium"`
	Recipient string    `json:"recipient"`
	Headline  string    `json:"headline"`
	State     string    `json:"state"`
	Attempts  int       `json:"attempts"`
	Trouble   string    `json:"trouble,omitempty"`
	At        time.Time `json:"at"`
}

func viewsOfNotices(list []notify.Notice) []noticeView {
	views := make([]noticeView, len(list))
	for i, n := range list {
		views[i] = noticeView{n.ID, n.Topic, n.Medium, n.Recipient, n.Headline, n.State, n.Attempts, n.Trouble, n.At}
	}
	return views
}

func (p *process) showNotices(list []notify.Notice) error {
	t := newTable("WHEN", "STATE", "MEDIUM", "TO", "WHAT", "TRIES", "TROUBLE", "ID")
	for _, n := range list {
		t.add(n.At.UTC().Format("2006-01-02 15:04:05Z"), n.State, n.Medium, n.Recipient, n.Headline, fmt.Sprint(n.Attempts), n.Trouble, n.ID.String())
	}
	return t.write(p.stdout)
}

type noticeListCmd struct {
	State  string `help:"In this state: waiting, held, sent, dead or gathered." enum:",waiting,held,sent,dead,gathered" default:"" placeholder:"STATE"`
	Medium string `help:"By mail, or slack." enum:",mail,slack" default:"" placeholder:"MEDIUM"`
	Limit  int    `help:"How many at most." default:"100" placeholder:"N"`
	JSON   bool   `help:"As JSON."`
}

func (c *noticeListCmd) Run(ctx context.Context, p *process) error {
	if c.Limit < 1 || c.Limit > 1000 {
		return usageError("--limit takes a number from 1 to 1000")
	}
	return p.notices(ctx, func(s *notify.Service, _ directory.Actor) error {
		list, err := s.List(ctx, notify.Filter{State: c.State, Medium: c.Medium, Limit: c.Limit})
		if err != nil {
			return err
		}
		if c.JSON {
			return writeJSON(p.stdout, viewsOfNotices(list))
		}
		if len(list) == 0 {
			fmt.Fprintln(p.stderr, "No notices match.")
			return nil
		}
		return p.showNotices(list)
	})
}

type noticeRetryCmd struct {
	ID     string `arg:"" optional:"" help:"The notice; see notice list --state dead."`
	All    bool   `help:"All that were given up."`
	Medium string `help:"With --all: only by mail, or slack." enum:",mail,slack" default:"" placeholder:"MEDIUM"`
	output
}

func (c *noticeRetryCmd) Run(ctx context.Context, p *process) error {
	if (c.ID == "") != c.All {
		return usageError("give the id of a notice, or --all")
	}
	var id uuid.UUID
	if c.ID != "" {
		var err error
		if id, err = uuid.Parse(c.ID); err != nil {
			return usageError("a notice is named by its id, such as 0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f")
		}
	}
	return p.notices(ctx, func(s *notify.Service, by directory.Actor) error {
		many, err := s.Retry(ctx, by, id, c.Medium)
		if err != nil {
			return err
		}
		return c.say(p, map[string]int{"retried": many}, "Tried again: %d.\n", many)
	})
}

type noticeTestCmd struct {
	To    string `arg:"" help:"Address of a user; with --slack, a channel's id, or @ and an address."`
	Slack bool   `help:"In Slack, not by mail."`
	output
}

func (c *noticeTestCmd) Run(ctx context.Context, p *process) error {
	return p.notices(ctx, func(s *notify.Service, by directory.Actor) error {
		medium := "mail"
		if c.Slack {
			medium = "slack"
		}
		n, err := s.Test(ctx, by, medium, c.To)
		if err != nil {
			return err
		}
		return c.say(p, map[string]string{"id": n.ID.String()}, "It goes out as soon as an admin serves: %s.\n", n.ID)
	})
}

type noticeTopicsCmd struct {
	Email string `arg:"" optional:"" help:"Whose."`
	JSON  bool   `help:"As JSON."`
}

func (c *noticeTopicsCmd) Run(ctx context.Context, p *process) error {
	if c.Email == "" {
		if c.JSON {
			type view struct {
				Topic       string `json:"topic"`
				Audience    string `json:"audience"`
				Description string `json:"description"`
			}
			views := []view{}
			for _, topic := range notify.Topics() {
				views = append(views, view{topic.Name, string(topic.Audience), topic.Description})
			}
			return writeJSON(p.stdout, views)
		}
		t := newTable("TOPIC", "FOR", "WHAT")
		for _, topic := range notify.Topics() {
			t.add(topic.Name, string(topic.Audience), topic.Description)
		}
		return t.write(p.stdout)
	}
	return p.notices(ctx, func(s *notify.Service, _ directory.Actor) error {
		list, err := s.Choices(ctx, c.Email)
		if err != nil {
			return err
		}
		return p.showChoices(list, c.JSON)
	})
}

func (p *process) showChoices(list []notify.Choice, asJSON bool) error {
	if asJSON {
		type view struct {
			Topic string `json:"topic"`
			Mail  bool   `json:"mail"`
			Slack bool   `json:"slack"`
		}
		views := make([]view, len(list))
		for i, c := range list {
			views[i] = view{c.Name, c.Mail, c.Slack}
		}
		return writeJSON(p.stdout, views)
	}
	yes := map[bool]string{true: "yes", false: "no"}
	t := newTable("TOPIC", "MAIL", "SLACK", "WHAT")
	for _, c := range list {
		t.add(c.Name, yes[c.Mail], yes[c.Slack], c.Description)
	}
	return t.write(p.stdout)
}

type noticeChooseCmd struct {
	Email string `arg:"" help:"Whose."`
	Topic string `arg:"" help:"The topic."`
	Mail  string `help:"By mail: yes or no." enum:",yes,no" default:"" placeholder:"YES"`
	Slack string `help:"In Slack: yes or no." enum:",yes,no" default:"" placeholder:"YES"`
	output
}

func (c *noticeChooseCmd) Run(ctx context.Context, p *process) error {
	wish := notify.Wish{Topic: c.Topic}
	for _, o := range []struct {
		text string
		to   **bool
	}{{c.Mail, &wish.Mail}, {c.Slack, &wish.Slack}} {
		if o.text != "" {
			yes := o.text == "yes"
			*o.to = &yes
		}
	}
	if wish.Mail == nil && wish.Slack == nil {
		return usageError("give --mail or --slack, with yes or no")
	}
	return p.notices(ctx, func(s *notify.Service, by directory.Actor) error {
		list, err := s.Choose(ctx, by, c.Email, []notify.Wish{wish})
		if err != nil {
			return err
		}
		return p.showChoices(list, c.JSON)
	})
}

// ruleView is a channel's rule for programs.
type ruleView struct {
	ID       string   `json:"id"`
	Channel  string   `json:"channel"`
	Name     string   `json:"name,omitempty"`
	Patterns []string `json:"patterns"`
	By       string   `json:"created_by"`
}

func viewOfRule(r notify.Rule) ruleView {
	return ruleView{r.ID.String(), r.ChannelID, r.ChannelName, r.Patterns, r.CreatedBy}
}

type noticeRulesCmd struct{ output }

func (c *noticeRulesCmd) Run(ctx context.Context, p *process) error {
	return p.notices(ctx, func(s *notify.Service, _ directory.Actor) error {
		rules, err := s.Rules(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			views := make([]ruleView, len(rules))
			for i, r := range rules {
				views[i] = viewOfRule(r)
			}
			return writeJSON(p.stdout, views)
		}
		if len(rules) == 0 {
			fmt.Fprintln(p.stderr, "No channel is told of anything: see admin notice rule --help")
			return nil
		}
		t := newTable("CHANNEL", "NAME", "PATTERNS", "BY", "ID")
		for _, r := range rules {
			t.add(r.ChannelID, r.ChannelName, strings.Join(r.Patterns, " "), r.CreatedBy, r.ID.String())
		}
		return t.write(p.stdout)
	})
}

type noticeRuleCmd struct {
	Channel  string   `arg:"" help:"The channel's id at Slack, such as C0123ABCD."`
	Patterns []string `arg:"" help:"Patterns of actions: app.delete, user.*, refused, alert, or *."`
	Name     string   `help:"The channel's name, for lists." placeholder:"NAME"`
	output
}

func (c *noticeRuleCmd) Run(ctx context.Context, p *process) error {
	return p.notices(ctx, func(s *notify.Service, by directory.Actor) error {
		rule, err := s.AddRule(ctx, by, c.Channel, c.Name, c.Patterns)
		if err != nil {
			return err
		}
		return c.say(p, viewOfRule(rule), "%s is told of %s: %s\n", rule.ChannelID, strings.Join(rule.Patterns, " "), rule.ID)
	})
}

type noticeNoRuleCmd struct {
	ID string `arg:"" help:"The rule; see notice rules."`
	output
}

func (c *noticeNoRuleCmd) Run(ctx context.Context, p *process) error {
	id, err := uuid.Parse(c.ID)
	if err != nil {
		return usageError("a rule is named by its id, as notice rules lists it")
	}
	return p.notices(ctx, func(s *notify.Service, by directory.Actor) error {
		if err := s.RemoveRule(ctx, by, id); err != nil {
			return err
		}
		return c.say(p, map[string]string{"removed": id.String()}, "The rule is gone.\n")
	})
}

type noticeChannelsCmd struct{ output }

func (c *noticeChannelsCmd) Run(ctx context.Context, p *process) error {
	return p.notices(ctx, func(s *notify.Service, _ directory.Actor) error {
		channels, err := s.Channels(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			type view struct {
				ID   string `json:"id"`
				Name string `json:"name"`
			}
			views := make([]view, len(channels))
			for i, channel := range channels {
				views[i] = view{channel.ID, channel.Name}
			}
			return writeJSON(p.stdout, views)
		}
		t := newTable("CHANNEL", "NAME")
		for _, channel := range channels {
			t.add(channel.ID, channel.Name)
		}
		return t.write(p.stdout)
	})
}

type noticeMailCmd struct {
	Email string `arg:"" help:"Whose."`
	output
}

func (c *noticeMailCmd) Run(ctx context.Context, p *process) error {
	return p.notices(ctx, func(s *notify.Service, _ directory.Actor) error {
		user, err := directory.NewReader(s.DB, directory.ReaderOptions{Now: p.now}).User(ctx, c.Email)
		if err != nil {
			return err
		}
		mail, err := s.MailOf(ctx, user.ID, user.Email)
		if err != nil {
			return err
		}
		if c.JSON {
			type view struct {
				Email   string       `json:"email"`
				State   string       `json:"state"` // fine, bounced or complained
				Reason  string       `json:"reason,omitempty"`
				Since   *time.Time   `json:"since,omitempty"`
				Notices []noticeView `json:"notices"`
			}
			v := view{Email: mail.Email, State: mail.State, Reason: mail.Reason, Notices: viewsOfNotices(mail.Last)}
			if mail.State != notify.Fine {
				v.Since = &mail.Since
			}
			return writeJSON(p.stdout, v)
		}
		switch mail.State {
		case notify.Fine:
			fmt.Fprintf(p.stdout, "Mail to %s is not known to come back.\n", mail.Email)
		default:
			what := map[string]string{"bounced": "came back", "complained": "was marked as spam"}[mail.State]
			fmt.Fprintf(p.stdout, "Mail to %s %s, %s: %s\n", mail.Email, what, when(&mail.Since, p.now()), visible(mail.Reason))
		}
		if len(mail.Last) == 0 {
			return nil
		}
		return p.showNotices(mail.Last)
	})
}

type noticeUnslackCmd struct{ output }

func (c *noticeUnslackCmd) Run(ctx context.Context, p *process) error {
	return p.notices(ctx, func(s *notify.Service, by directory.Actor) error {
		if err := s.RemoveSlack(ctx, by); err != nil {
			return err
		}
		return c.say(p, map[string]bool{"connected": false}, "Slack is disconnected.\n")
	})
}
