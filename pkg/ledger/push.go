package ledger

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/secret"
)

// PushConfig says where events are pushed to. Fields without a remark must be given.
type PushConfig struct {
	DB       *sqlx.DB // as the role of admin
	Follower *Follower
	URL      string
	Secret   secret.Text  // signs each push
	Token    secret.Text  // sent as a Bearer credential; may be empty
	Client   *http.Client // its Timeout bounds one push; follows no redirect
	Key      audit.Key
	Log      *slog.Logger
	Now      func() time.Time
	Alerted  func(*Alert) // told of each alert; may be nil

	Shortest time.Duration // pause after a failure, at first; default 1 s, and up to a minute
}

// Pusher pushes events to an HTTPS endpoint, such as a SIEM's: JSON Lines in the order of the ledger, each push signed,
// each event at least once. A push counts when its answer is 2xx; until then it is repeated, and nothing goes past
// it. Any number may run: one works.
//
// The signature is that of the header Gateway-Signature: t=UNIX SECONDS, v1=HEX, where HEX is the HMAC-SHA256, under the
// shared secret, of the seconds, a dot, and the body.
type Pusher struct {
	PushConfig

	failing time.Time // since when; zero while it works
	alerted bool
}

// NewPusher returns a pusher, which works once Run runs.
func NewPusher(config PushConfig) *Pusher {
	config.Shortest = cmp.Or(config.Shortest, time.Second)
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	client := *config.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	config.Client = &client
	return &Pusher{PushConfig: config}
}

const (
	tryPushLock   = `select pg_try_advisory_lock(7220417055)`
	longestPause  = time.Minute
	mostPushBytes = 1 << 20
)

// Run pushes until ctx ends, whenever it holds the lock.
func (p *Pusher) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := p.term(ctx); err != nil && ctx.Err() == nil {
			p.Log.WarnContext(ctx, "pushing events was interrupted; it goes on", "error", err)
		}
		select {
		case <-time.After(p.Shortest):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// term is one time of holding the lock.
func (p *Pusher) term(ctx context.Context) error {
	conn, err := p.DB.Connx(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer discard(conn)
	var mine bool
	if err := conn.GetContext(ctx, &mine, tryPushLock); err != nil || !mine {
		return err
	}
	next := int64(0)
	if cursor, err := CursorOf(ctx, conn, PushCursor); err != nil {
		return err
	} else if cursor != nil {
		next = cursor.Next
	}
	pause := p.Shortest
	for {
		waiting, done := context.WithTimeout(ctx, anchorPoll)
		entries, err := p.Follower.Next(waiting, next)
		done()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && waiting.Err() == nil {
			return err
		}
		if err := conn.PingContext(ctx); err != nil { // the lock is gone with it
			return err
		}
		if len(entries) == 0 {
			continue
		}
		body, last := lines(entries)
		if err := p.push(ctx, body, entries[0].Index, last); err != nil {
			p.failed(ctx, conn, next, err)
			select {
			case <-time.After(pause/2 + rand.N(pause)): //nolint:gosec // so that not all come at once
			case <-ctx.Done():
				return ctx.Err()
			}
			pause = min(2*pause, longestPause)
			continue
		}
		pause, next = p.Shortest, last+1
		p.failing, p.alerted = time.Time{}, false
		if _, err := conn.ExecContext(ctx, moveCursor, PushCursor, next, ""); err != nil {
			return fmt.Errorf("note how far events were pushed: %w", err)
		}
	}
}

// lines makes the body of a push, and tells the last leaf in it.
func lines(entries []*Entry) (body []byte, last int64) {
	for _, e := range entries {
		last = e.Index
		if e.Gone { // retention dropped it before it was pushed
			continue
		}
		body = append(body, `{"leaf_index":`...)
		body = strconv.AppendInt(body, e.Index, 10)
		body = append(body, `,"event":`...)
		body = e.Event.AppendCanonical(body)
		body = append(body, "}\n"...)
		if len(body) >= mostPushBytes {
			break
		}
	}
	return body, last
}

// push sends one body, and returns nil when it was taken.
func (p *Pusher) push(ctx context.Context, body []byte, first, last int64) (err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	at := strconv.FormatInt(p.Now().Unix(), 10)
	h := request.Header
	h.Set("Content-Type", "application/jsonl")
	h.Set("User-Agent", "rack-gateway")
	h.Set("Gateway-Signature", "t="+at+", v1="+hex.EncodeToString(pushMAC(p.Secret, at, body)))
	h.Set("Gateway-First-Leaf", strconv.FormatInt(first, 10))
	h.Set("Gateway-Last-Leaf", strconv.FormatInt(last, 10))
	h.Set("Idempotency-Key", fmt.Sprintf("leaves-%d-%d", first, last))
	if !p.Token.IsZero() {
		h.Set("Authorization", "Bearer "+p.Token.Reveal())
	}
	answer, err := p.Client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		line, _, _ := strings.Cut(string(text), "\n")
		return fmt.Errorf("it answered %s: %s", answer.Status, strconv.Quote(shorten(line)))
	}
	return nil
}

func pushMAC(key secret.Text, at string, body []byte) []byte {
	mac := hmac.New(sha256.New, []byte(key.Reveal()))
	_, _ = io.WriteString(mac, at+".")
	_, _ = mac.Write(body)
	return mac.Sum(nil)
}

// VerifyPush tells whether a push was signed with the secret, for whoever receives one.
func VerifyPush(key secret.Text, signature string, body []byte) bool {
	at, mac, ok := strings.Cut(strings.TrimPrefix(signature, "t="), ", v1=")
	if !ok {
		return false
	}
	given, err := hex.DecodeString(mac)
	return err == nil && hmac.Equal(given, pushMAC(key, at, body))
}

// failed tells that the endpoint does not take events.
func (p *Pusher) failed(ctx context.Context, db *sqlx.Conn, next int64, cause error) {
	if ctx.Err() != nil {
		return
	}
	now := p.Now()
	if p.failing.IsZero() {
		p.failing = now
		p.Log.WarnContext(ctx, "events could not be pushed; it is tried again", "first_leaf", next, "error", cause)
	}
	trouble := "events could not be pushed: " + cause.Error()
	if _, err := db.ExecContext(ctx, noteTrouble, PushCursor, next, trouble); err != nil {
		p.Log.WarnContext(ctx, "the trouble of pushing could not be noted", "error", err)
	}
	if p.alerted || now.Sub(p.failing) < failurePatience {
		return
	}
	alert := &Alert{Code: AlertPush, Leaf: next, Count: 1, Message: "for ten minutes and more, " + trouble}
	if err := audit.Change(ctx, p.DB, p.Key, alert.event(now), func(*sqlx.Tx) error { return nil }); err == nil {
		p.alerted = true
		if p.Alerted != nil {
			p.Alerted(alert)
		}
	}
}

// noteTrouble leaves when the cursor last moved as it is.
const noteTrouble = `
insert into rgw.ledger_cursors (name, leaf_index, trouble) values ($1, $2, $3)
on conflict (name) do update set trouble = excluded.trouble`
