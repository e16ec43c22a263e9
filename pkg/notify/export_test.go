package notify

import (
	"context"
	"net/url"
)

// FailAt has a function called before each step after which a crash would matter; an error ends it there.
func (s *Service) FailAt(f func(step string) error) { s.step = f }

// RenderMail is how a notice reads as a mail.
func RenderMail(c *Content, console *url.URL, gateway string) (subject, text, html string, err error) {
	m, err := renderMail(c, console, gateway)
	if err != nil {
		return "", "", "", err
	}
	return m.Subject, m.Text, m.HTML, nil
}

// ContentOf is what a notice about an event says.
var ContentOf = contentOf

// For table tests.
var (
	Matches      = matches
	CheckPattern = checkPattern
	DeviceOf     = deviceOf
	NetworkOf    = networkOf
	RetryAfter   = retryAfter
	Short        = short
)

// SlackMessage is how a notice reads in Slack.
var SlackMessage = (*Service).slackMessage

// NoteExpiries records events for tokens that expire.
var NoteExpiries = (*Service).noteExpiries

// Gather makes digests where they are due.
var Gather = (*Service).gather

// Tidy does once what is done every minute.
var Tidy = (*Service).tidyOnce

// Watcher looks whether there was trouble.
type Watcher = watcher

// Look looks once.
func (w *Watcher) Look(ctx context.Context, s *Service) error { return w.look(ctx, s) }

// BounceOf is what Postmark tells of an address.
func BounceOf(text []byte) (address, state, reason string, err error) {
	told, err := bounceOf(text)
	return told.address, told.state, told.reason, err
}

// OpenButton is what a button carries.
func OpenButton(s *Service, name, value string) (subject string, good bool) {
	b, good := s.openButton(name, value)
	return b.Subject, good
}

// Longest bounds each text of a notice, in bytes, but for an ellipsis.
const Longest = longest
