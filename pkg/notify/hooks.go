package notify

// What other services send to the gateway: bounces by Postmark, pressed buttons and events by Slack. Nobody is signed
// in there: Postmark shows a password, Slack signs, and what does neither is refused before it is read.

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/jmoiron/sqlx"
	"github.com/slack-go/slack"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/secret"
)

// HooksPath is below which other services reach the gateway.
const HooksPath = "/api/v1/hooks"

// mostHook bounds what a service may send.
const mostHook = 256 << 10

// Hooks returns the handler of what other services send. Without a password, Postmark's is not there, and without a
// signing secret, neither are Slack's.
func (s *Service) Hooks(postmarkPassword secret.Text) http.Handler {
	router := mux.NewRouter().UseEncodedPath().SkipClean(true)
	if !postmarkPassword.IsZero() {
		router.Path(HooksPath + "/postmark").Methods(http.MethodPost).HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.fromPostmark(w, r, postmarkPassword) })
	}
	if !s.Slack.SigningSecret.IsZero() {
		router.Path(HooksPath + "/slack/interactions").Methods(http.MethodPost).HandlerFunc(s.bySlack(s.slackInteraction))
		router.Path(HooksPath + "/slack/events").Methods(http.MethodPost).HandlerFunc(s.bySlack(s.slackEvent))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, mostHook)
		router.ServeHTTP(w, r)
	})
}

// recordHook records a call that was refused, or what a call brought about.
func (s *Service) recordHook(ctx context.Context, e *audit.Event) error {
	return audit.Change(ctx, s.DB, s.Key, e, func(*sqlx.Tx) error { return nil })
}

// hookRefusals is how many refusals of one service's calls were not recorded one by one.
type hookRefusals struct {
	recorded time.Time
	since    int64
}

// refuseHook refuses a call of whoever is not who they say. The first is recorded; what follows within a minute is counted,
// and recorded with the next one: nobody who guesses fills the record.
func (s *Service) refuseHook(w http.ResponseWriter, r *http.Request, service string, status int, why string) {
	s.refusing.Lock()
	now, of := s.Now(), s.refused[service]
	of.since++
	count, record := of.since, now.Sub(of.recorded) >= time.Minute
	if record {
		of = hookRefusals{recorded: now}
	}
	s.refused[service] = of
	s.refusing.Unlock()
	if record {
		e := audit.NewEvent(now)
		e.Phase, e.Decision, e.ActorKind, e.Action, e.Resource = audit.PhaseRefused, audit.DecisionDeny, audit.ActorNobody, "hook.refused", service
		e.Status, e.Detail.Code, e.Detail.Error, e.Detail.Count = int32(status), "bad-hook", why, count // #nosec G115 -- three digits
		if s.ClientAddress != nil {
			e.Address = s.ClientAddress(r)
		}
		if err := s.recordHook(r.Context(), e); err != nil {
			s.Log.WarnContext(r.Context(), "a refused call of another service could not be recorded", "service", service, "error", err)
		}
	}
	http.Error(w, why, status)
}

// fromPostmark takes bounces and complaints (https://postmarkapp.com/developer/webhooks/bounce-webhook). Postmark
// authenticates by a password in the webhook's address.
func (s *Service) fromPostmark(w http.ResponseWriter, r *http.Request, password secret.Text) {
	_, given, _ := r.BasicAuth()
	if subtle.ConstantTimeCompare([]byte(given), []byte(password.Reveal())) != 1 {
		w.Header().Set("WWW-Authenticate", `Basic realm="postmark"`)
		s.refuseHook(w, r, "postmark", http.StatusUnauthorized, "the password in the webhook's address is not POSTMARK_WEBHOOK_SECRET")
		return
	}
	text, err := io.ReadAll(r.Body)
	var told bounce
	if err == nil {
		told, err = bounceOf(text)
	}
	if err != nil {
		http.Error(w, "what was sent is not JSON of at most 256 KB", http.StatusBadRequest)
		return
	}
	if told.state != "" {
		err = s.noteAddress(r.Context(), told.address, told.state, told.reason)
	}
	if err != nil { // Postmark sends it again
		s.Log.WarnContext(r.Context(), "what Postmark told could not be kept", "error", err)
		http.Error(w, "it could not be kept: send it again", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// bounce is what Postmark tells of an address.
type bounce struct {
	address string // case-folded
	state   string // bounced, complained or fine; empty when there is nothing to keep
	reason  string
}

// bounceOf reads what Postmark tells.
func bounceOf(text []byte) (bounce, error) {
	var in struct {
		RecordType  string `json:"RecordType"`
		Type        string `json:"Type"`
		Email       string `json:"Email"`
		Recipient   string `json:"Recipient"`
		Description string `json:"Description"`
		Details     string `json:"Details"`
		// Whether Postmark still sends there.
		Inactive         bool   `json:"Inactive"`
		SuppressSending  bool   `json:"SuppressSending"`
		SuppressionCause string `json:"SuppressionReason"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return bounce{}, err
	}
	told := bounce{address: strings.ToLower(cmp.Or(in.Email, in.Recipient)), reason: short(strings.TrimSpace(in.Description + " " + in.Details))}
	switch in.RecordType {
	case "Bounce":
		// A soft bounce says that it did not work this time; Postmark goes on trying.
		if in.Inactive || in.Type == "HardBounce" || in.Type == "BadEmailAddress" || in.Type == "ManuallyDeactivated" {
			told.state = "bounced"
		}
	case "SpamComplaint":
		told.state = "complained"
	case "SubscriptionChange":
		switch {
		case !in.SuppressSending:
			told.state = "fine"
		case in.SuppressionCause == "SpamComplaint":
			told.state = "complained"
		default:
			told.state = "bounced"
		}
		told.reason = short(in.SuppressionCause)
	}
	if len(told.address) < 3 || len(told.address) > 254 || told.address != short(told.address) {
		return bounce{}, nil // no address of anybody's
	}
	return told, nil
}

const (
	upsertAddress = `
insert into rgw.notice_addresses as a (address, state, reason)
select $1, $2, $3 where exists (select from rgw.users where email = $1)
on conflict on constraint notice_addresses_pkey do update set state = excluded.state, reason = excluded.reason, since = now()
where (a.state, a.reason) is distinct from (excluded.state, excluded.reason)`

	deleteAddress = `delete from rgw.notice_addresses where address = $1`
)

// errNothingNew says that the same was told before, or is about somebody who is no user: others may send through the same
// account at Postmark.
var errNothingNew = errors.New("it is known already")

func (s *Service) noteAddress(ctx context.Context, address, state, reason string) error {
	e := s.event("mail."+state, short(address))
	e.Detail.Error = reason
	statement, args := upsertAddress, []any{address, state, reason}
	if state == "fine" {
		statement, args = deleteAddress, []any{address}
	}
	err := audit.Change(ctx, s.DB, s.Key, e, func(tx *sqlx.Tx) error {
		result, err := tx.ExecContext(ctx, statement, args...)
		if err != nil {
			return wrap("note how an address does", err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, errNothingNew)
		}
		return nil
	})
	if errors.Is(err, errNothingNew) {
		return nil
	}
	return err
}

// bySlack lets through what Slack signed within the last five minutes
// (https://docs.slack.dev/authentication/verifying-requests-from-slack).
func (s *Service) bySlack(next func(http.ResponseWriter, *http.Request, []byte)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		verifier, err := slack.NewSecretsVerifier(r.Header, s.Slack.SigningSecret.Reveal())
		if err != nil {
			s.refuseHook(w, r, "slack", http.StatusUnauthorized, "the request is not signed by Slack, or too old")
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "the request is too large", http.StatusRequestEntityTooLarge)
			return
		}
		if _, err := verifier.Write(body); err != nil || verifier.Ensure() != nil {
			s.refuseHook(w, r, "slack", http.StatusUnauthorized, "the request is not signed by Slack, or too old")
			return
		}
		next(w, r, body)
	}
}

// Press is a button that somebody pressed in Slack. The request was signed by Slack, and the button by the gateway.
type Press struct {
	Subject   string // what the button was about
	SlackUser string // id at Slack of who pressed
	Email     string // their address at Slack; empty when it cannot be had
	Channel   string
	Message   string // timestamp of the message that the button is on
}

// PressFunc does what a button stands for, and returns what the person is shown. Whether they may is for it to decide:
// that they pressed shows only who they are at Slack.
type PressFunc func(ctx context.Context, press Press) (answer string, err error)

// OnPress has a function called when buttons of a name are pressed. It must be called before Run.
func (s *Service) OnPress(name string, f PressFunc) { s.press[name] = f }

// button is what a button carries.
type button struct {
	Name    string `json:"n"`
	Subject string `json:"s"`
	Until   int64  `json:"u"`
}

// SignButton returns the value of a button, which nobody else can make, for one subject and until a moment.
func (s *Service) SignButton(name, subject string, until time.Time) string {
	text, err := json.Marshal(button{name, subject, until.Unix()})
	if err != nil { // strings and a number
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(text) + "." + base64.RawURLEncoding.EncodeToString(s.buttons.Sign(text))
}

// openButton returns what a button carries, when it is one of the gateway's that is still good.
func (s *Service) openButton(name, value string) (button, bool) {
	text, signature, _ := strings.Cut(value, ".")
	plain, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return button{}, false
	}
	signed, err := base64.RawURLEncoding.DecodeString(signature)
	var b button
	if err != nil || !s.buttons.Verify(plain, signed) || json.Unmarshal(plain, &b) != nil {
		return button{}, false
	}
	return b, b.Name == name && s.Now().Unix() < b.Until
}

// slackInteraction takes a pressed button.
func (s *Service) slackInteraction(w http.ResponseWriter, r *http.Request, body []byte) {
	form, err := url.ParseQuery(string(body))
	var in slack.InteractionCallback
	if err == nil {
		err = json.Unmarshal([]byte(form.Get("payload")), &in)
	}
	if err != nil {
		http.Error(w, "what was sent is not an interaction", http.StatusBadRequest)
		return
	}
	_, d, err := s.slackRow(r.Context(), s.DB)
	if err != nil || in.Team.ID != d.TeamID || in.Type != slack.InteractionTypeBlockActions || len(in.ActionCallback.BlockActions) != 1 {
		w.WriteHeader(http.StatusOK) // not ours, and nothing to tell
		return
	}
	action := in.ActionCallback.BlockActions[0]
	press := Press{SlackUser: in.User.ID, Channel: in.Channel.ID, Message: in.Message.Timestamp}
	e := s.event("slack.press", short(action.ActionID))
	e.Detail.Params.Add("slack_user", short(in.User.ID))
	b, good := s.openButton(action.ActionID, action.Value)
	f := s.press[action.ActionID]
	if !good || f == nil {
		e.Phase, e.Decision = audit.PhaseRefused, audit.DecisionDeny
		e.Detail.Code, e.Detail.Error = "bad-button", "the button is not one of this gateway's, or its time is over"
		if err := s.recordHook(r.Context(), e); err != nil {
			http.Error(w, "it could not be recorded", http.StatusServiceUnavailable)
			return
		}
		s.whisper(w, "This button does not work any more. Open the console.")
		return
	}
	press.Subject = b.Subject
	client, err := s.slackClient(r.Context())
	if err == nil {
		if user, err := client.GetUserInfoContext(r.Context(), in.User.ID); err == nil && !user.Deleted && user.IsEmailConfirmed {
			press.Email = strings.ToLower(user.Profile.Email)
		}
	}
	e.Decision = audit.DecisionAllow
	e.Detail.Params.Add("subject", short(b.Subject))
	e.Detail.Params.Add("address", short(press.Email))
	if err := s.recordHook(r.Context(), e); err != nil { // what cannot be recorded is not done
		http.Error(w, "it could not be recorded", http.StatusServiceUnavailable)
		return
	}
	answer, err := f(r.Context(), press)
	if err != nil {
		s.Log.WarnContext(r.Context(), "a pressed button could not be followed", "button", b.Name, "error", err)
		answer = "That did not work. Open the console, and try it there."
	}
	s.whisper(w, answer)
}

// whisper answers so that only who pressed reads it.
func (s *Service) whisper(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"response_type": "ephemeral", "replace_original": false, "text": slackText(text)})
}

// pressedSeen answers the button of the test message.
func (s *Service) pressedSeen(ctx context.Context, press Press) (string, error) {
	client, err := s.slackClient(ctx)
	if err != nil {
		return "", err
	}
	who := "Somebody"
	if press.SlackUser != "" {
		who = "<@" + press.SlackUser + ">"
	}
	_, _, err = client.PostMessageContext(ctx, press.Channel, slack.MsgOptionTS(press.Message), slack.MsgOptionText(who+" sees it: messages arrive, and buttons find their way back.", false))
	if err != nil {
		return "", slackFailure(err, true)
	}
	return "Thank you.", nil
}

// slackEvent takes what Slack tells by itself: that the app was removed there.
func (s *Service) slackEvent(w http.ResponseWriter, r *http.Request, body []byte) {
	var in struct {
		Type      string `json:"type"`
		Challenge string `json:"challenge"`
		TeamID    string `json:"team_id"`
		EventTime int64  `json:"event_time"` // when it was, in seconds
		Event     struct {
			Type string `json:"type"`
		} `json:"event"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		http.Error(w, "what was sent is not an event", http.StatusBadRequest)
		return
	}
	if in.Type == "url_verification" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, short(in.Challenge))
		return
	}
	row, d, err := s.slackRow(r.Context(), s.DB)
	switch {
	case errors.Is(err, errNotConnected), err == nil && in.TeamID != d.TeamID:
		err = nil
	case err == nil && in.EventTime < row.InstalledAt.Unix():
		// It is about a connection before this one: Slack tells some things late, and again when nobody answered.
	case err == nil && (in.Event.Type == "app_uninstalled" || in.Event.Type == "tokens_revoked"):
		e := s.event("integration.disconnect", "slack")
		e.Detail.Error = "Slack says that the app was removed there"
		err = s.forgetSlack(r.Context(), e, "")
	}
	if err != nil {
		http.Error(w, "it could not be kept: send it again", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}
