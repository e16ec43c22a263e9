package notify

// Mail, through Postmark's JSON API (https://postmarkapp.com/developer/api/email-api).

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"rackgateway/pkg/secret"
)

// PostmarkConfig says how mail goes out.
type PostmarkConfig struct {
	Token   secret.Text // of the server; empty when mail is not configured
	From    string      // an address that Postmark knows as a sender
	Stream  string      // message stream, such as outbound
	BaseURL *url.URL    // https://api.postmarkapp.com
	Domain  string      // of Message-IDs
	Console *url.URL
	Gateway string
}

// postmark sends mails. It is safe for concurrent use.
type postmark struct {
	PostmarkConfig
	client *http.Client
}

func newPostmark(config PostmarkConfig) *postmark {
	return &postmark{PostmarkConfig: config, client: &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 8, IdleConnTimeout: 60 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
			ResponseHeaderTimeout: 25 * time.Second,
		},
		// The token goes where it was configured to go, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

type postmarkHeader struct {
	Name  string `json:"Name"`
	Value string `json:"Value"`
}

type postmarkMail struct {
	From          string            `json:"From"`
	To            string            `json:"To"`
	Subject       string            `json:"Subject"`
	TextBody      string            `json:"TextBody"`
	HTMLBody      string            `json:"HtmlBody"`
	MessageStream string            `json:"MessageStream"`
	Tag           string            `json:"Tag"`
	TrackOpens    bool              `json:"TrackOpens"`
	TrackLinks    string            `json:"TrackLinks"`
	Metadata      map[string]string `json:"Metadata"`
	Headers       []postmarkHeader  `json:"Headers"`
}

// postmarkAnswer is what every endpoint answers with.
type postmarkAnswer struct {
	ErrorCode int    `json:"ErrorCode"`
	Message   string `json:"Message"`
	MessageID string `json:"MessageID"`
}

func (p *postmark) send(ctx context.Context, m *message) (string, error) {
	mail, err := renderMail(m.Content, p.Console, p.Gateway)
	if err != nil {
		return "", &failure{message: "it could not be written", final: true, cause: err}
	}
	body, err := json.Marshal(postmarkMail{
		From: p.From, To: m.Recipient, Subject: mail.Subject, TextBody: mail.Text, HTMLBody: mail.HTML, MessageStream: p.Stream,
		Tag: m.Content.Topic, TrackLinks: "None", Metadata: map[string]string{"notice": m.ID.String()},
		Headers: []postmarkHeader{
			// The same mail twice has the same id, by which mail programs show it once.
			{"Message-ID", "<" + m.ID.String() + "@" + p.Domain + ">"}, {"X-PM-KeepID", "true"},
			{"Auto-Submitted", "auto-generated"}, {"X-Auto-Response-Suppress", "All"},
		},
	})
	if err != nil {
		return "", &failure{message: "it could not be written", final: true, cause: err}
	}
	var answer postmarkAnswer
	if err := p.call(ctx, http.MethodPost, "/email", body, &answer); err != nil {
		return "", err
	}
	if answer.MessageID == "" {
		return "", &failure{message: "Postmark answered with something else than its API does", medium: true, unsure: true}
	}
	return answer.MessageID, nil
}

// find asks Postmark for a mail by the notice's id, which it carries as metadata.
func (p *postmark) find(ctx context.Context, m *message) (string, error) {
	query := url.Values{"count": {"1"}, "offset": {"0"}, "metadata_notice": {m.ID.String()}, "messagestream": {p.Stream}}
	var answer struct {
		postmarkAnswer
		Messages []struct {
			MessageID string `json:"MessageID"`
		} `json:"Messages"`
	}
	if err := p.call(ctx, http.MethodGet, "/messages/outbound?"+query.Encode(), nil, &answer); err != nil {
		var f *failure
		if errors.As(err, &f) && !f.medium {
			return "", nil // it cannot be asked: better twice than never
		}
		return "", err
	}
	if len(answer.Messages) == 0 {
		return "", nil
	}
	return answer.Messages[0].MessageID, nil
}

// Error codes of Postmark's API (https://postmarkapp.com/developer/api/overview#error-codes).
const (
	postmarkBadToken      = 10
	postmarkNotSender     = 400
	postmarkNotConfirmed  = 401
	postmarkNoCredits     = 405
	postmarkInactive      = 406
	postmarkPending       = 412
	postmarkNotAllowed    = 413
	postmarkNoStream      = 1235
	postmarkWrongStream   = 1226
	postmarkInvalidServer = 1
)

// patienceForPeople is the pause after an error that only a person can mend.
const patienceForPeople = 5 * time.Minute

func (p *postmark) call(ctx context.Context, method, path string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(p.BaseURL.String(), "/")+path, bytes.NewReader(body))
	if err != nil {
		return &failure{message: "POSTMARK_API_BASE cannot be used", medium: true, cause: err}
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("X-Postmark-Server-Token", p.Token.Reveal())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return &failure{message: "Postmark cannot be reached", medium: true, unsure: method == http.MethodPost && !neverSent(err), cause: err}
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return &failure{message: "Postmark's answer broke off", medium: true, unsure: method == http.MethodPost, cause: err}
	}
	var known postmarkAnswer
	decoded := json.Unmarshal(text, &known)
	said := func(what string) string {
		if known.Message != "" { // which might repeat what it was sent
			return fmt.Sprintf("%s: %s (code %d)", what, short(strings.ReplaceAll(known.Message, p.Token.Reveal(), "[token]")), known.ErrorCode)
		}
		return fmt.Sprintf("%s: status %d", what, resp.StatusCode)
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		if decoded == nil && known.ErrorCode == 0 {
			decoded = json.Unmarshal(text, answer)
		}
		if decoded != nil || known.ErrorCode != 0 {
			return &failure{message: said("Postmark answered with something else than its API does"), medium: true, unsure: method == http.MethodPost, cause: decoded}
		}
		return nil
	case resp.StatusCode == http.StatusTooManyRequests:
		return &failure{message: said("Postmark asks to be asked less often"), medium: true, after: retryAfter(resp.Header, time.Now())}
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return &failure{message: said("Postmark does not take POSTMARK_API_TOKEN"), medium: true, after: patienceForPeople}
	case resp.StatusCode >= 500:
		return &failure{message: said("Postmark has trouble of its own"), medium: true, unsure: method == http.MethodPost, after: retryAfter(resp.Header, time.Now())}
	case resp.StatusCode == http.StatusUnprocessableEntity:
		switch known.ErrorCode {
		case postmarkInactive:
			return &failure{message: said("the address is not written to any more: mail to it came back, or was marked as spam"), final: true}
		case postmarkBadToken, postmarkNotSender, postmarkNotConfirmed, postmarkNoCredits, postmarkPending, postmarkNotAllowed, postmarkNoStream, postmarkWrongStream, postmarkInvalidServer:
			return &failure{message: said("Postmark does not send for this account"), medium: true, after: patienceForPeople}
		}
		return &failure{message: said("Postmark does not take this mail"), final: true}
	}
	return &failure{message: said("Postmark does not take this mail"), final: true}
}

// neverSent reports whether a request failed before any of it could have arrived.
func neverSent(err error) bool {
	var dial *net.OpError
	return errors.As(err, &dial) && dial.Op == "dial"
}

// retryAfter reads Retry-After in seconds or as a date (RFC 9110 section 10.2.3); zero when there is none. It is never
// more than an hour.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	pause := time.Duration(0)
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		pause = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		pause = at.Sub(now)
	}
	return min(max(pause, 0), time.Hour)
}

// mailLog has mails in the log, where there is nothing to send them by, in development.
type mailLog struct{ log *slog.Logger }

func (l mailLog) send(ctx context.Context, m *message) (string, error) {
	mail, err := renderMail(m.Content, &url.URL{}, "")
	if err != nil {
		return "", &failure{message: "it could not be written", final: true, cause: err}
	}
	l.log.InfoContext(ctx, "a mail, which is not sent in development", "to", m.Recipient, "subject", mail.Subject, "text", mail.Text)
	return "log", nil
}

func (mailLog) find(context.Context, *message) (string, error) { return "", nil }
