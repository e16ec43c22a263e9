package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"rackgateway/pkg/directory"
)

type sessionCmds struct {
	List   sessionListCmd   `cmd:"" help:"List browser sessions."`
	Revoke sessionRevokeCmd `cmd:"" help:"End a browser session at once."`
}

// sessionView is a session as --json shows one.
type sessionView struct {
	ID            string     `json:"id"`
	User          string     `json:"user"`
	State         string     `json:"state"`
	CreatedAt     time.Time  `json:"created_at"`
	SeenAt        time.Time  `json:"seen_at"`
	ExpiresAt     time.Time  `json:"expires_at"`
	RevokedAt     *time.Time `json:"revoked_at,omitempty"`
	RevokedReason string     `json:"revoked_reason,omitempty"`
	Address       string     `json:"address,omitempty"`
	UserAgent     string     `json:"user_agent,omitempty"`
}

func viewSession(s directory.Session) sessionView {
	v := sessionView{
		ID: s.ID.String(), User: s.Email, State: s.State, CreatedAt: s.CreatedAt, SeenAt: s.SeenAt, ExpiresAt: s.ExpiresAt,
		RevokedAt: s.RevokedAt, RevokedReason: s.RevokedReason, UserAgent: s.UserAgent,
	}
	if s.Address.IsValid() {
		v.Address = s.Address.String()
	}
	return v
}

type sessionListCmd struct {
	User  string `help:"Of this person." placeholder:"EMAIL"`
	Ended bool   `help:"Those that have ended, too."`
	output
}

func (c *sessionListCmd) Run(ctx context.Context, p *process) error {
	return p.reading(ctx, func(r *directory.Reader) error {
		views := []sessionView{}
		t := newTable("ID", "USER", "STATE", "SIGNED IN", "LAST SEEN", "FROM", "BROWSER")
		for filter := (directory.SessionFilter{User: c.User, Ended: c.Ended, Limit: 1000}); ; {
			page, err := r.ListSessions(ctx, filter)
			if err != nil {
				return err
			}
			for _, s := range page.Items {
				v := viewSession(s)
				views = append(views, v)
				t.add(v.ID, v.User, v.State, when(&s.CreatedAt, p.now()), when(&s.SeenAt, p.now()), v.Address, v.UserAgent)
			}
			if filter.After = page.Next; filter.After == "" {
				break
			}
		}
		switch {
		case c.JSON:
			return writeJSON(p.stdout, views)
		case len(views) == 0:
			fmt.Fprintln(p.stderr, "There are no sessions.")
			return nil
		}
		return t.write(p.stdout)
	})
}

type sessionRevokeCmd struct {
	output
	ID     string `arg:"" help:"The session's id, as session list shows it."`
	Reason string `required:"" help:"Why, for the record." placeholder:"TEXT"`
}

func (c *sessionRevokeCmd) Run(ctx context.Context, p *process) error {
	id, err := uuid.Parse(c.ID)
	if err != nil {
		return usageError("a session is named by its id: session list shows them")
	}
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		s, err := w.RevokeSession(ctx, by, id, uuid.Nil, c.Reason)
		if err != nil {
			return err
		}
		return c.say(p, viewSession(s), "The session of %s has ended.\n", s.Email)
	})
}
