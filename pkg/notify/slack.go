package notify

// Slack: installation by OAuth, messages, people by their address. (https://docs.slack.dev)

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/slack-go/slack"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/secret"
)

// SlackConfig is the gateway's app at Slack.
type SlackConfig struct {
	ClientID      string
	ClientSecret  secret.Text
	SigningSecret secret.Text
	BaseURL       *url.URL // of the Web API, https://slack.com/api
	AuthorizeURL  *url.URL // where people allow the app, https://slack.com/oauth/v2/authorize
}

// Configured reports whether Slack can be connected.
func (c *SlackConfig) Configured() bool { return c.ClientID != "" }

// slackScopes are what the app asks for: writing, the list of channels, and who has which address.
var slackScopes = []string{"chat:write", "chat:write.public", "channels:read", "users:read", "users:read.email"}

// slackDetail is what is kept of an installation in the clear.
type slackDetail struct {
	TeamID   string   `json:"team_id"`
	TeamName string   `json:"team_name"`
	AppID    string   `json:"app_id"`
	Bot      string   `json:"bot"`
	Scopes   []string `json:"scopes"`
}

// identity binds a sealed token to its place, so that rows cannot be swapped.
func (d *slackDetail) identity() string { return "slack " + d.TeamID }

// SlackState is how the connection to Slack is.
type SlackState struct {
	Configured  bool
	Connected   bool
	TeamName    string
	InstalledAt time.Time
	InstalledBy string
}

type integrationRow struct {
	Detail      []byte    `db:"detail"`
	Sealed      []byte    `db:"sealed"`
	InstalledAt time.Time `db:"installed_at"`
	InstalledBy string    `db:"installed_by"`
}

const selectIntegration = `
select detail, sealed, installed_at, installed_by from rgw.integrations where name = 'slack'`

// errNotConnected says that Slack is not connected.
var errNotConnected = &directory.Error{Kind: directory.Conflict, Code: "slack-not-connected", Message: "Slack is not connected: connect it first, in the console under Integrations"}

func (s *Service) slackRow(ctx context.Context, db sqlx.QueryerContext) (*integrationRow, *slackDetail, error) {
	var r integrationRow
	if err := sqlx.GetContext(ctx, db, &r, selectIntegration); err != nil {
		if errors.Is(err, sql.ErrNoRows) {
			return nil, nil, errNotConnected
		}
		return nil, nil, wrap("read the connection to Slack", err)
	}
	var d slackDetail
	if err := json.Unmarshal(r.Detail, &d); err != nil {
		return nil, nil, wrap("read the connection to Slack", err)
	}
	return &r, &d, nil
}

// slackState tells how the connection is.
func (s *Service) slackState(ctx context.Context) (SlackState, error) {
	state := SlackState{Configured: s.Slack.Configured()}
	r, d, err := s.slackRow(ctx, s.DB)
	switch {
	case errors.Is(err, errNotConnected):
		return state, nil
	case err != nil:
		return state, err
	}
	state.Connected, state.TeamName, state.InstalledAt, state.InstalledBy = true, d.TeamName, r.InstalledAt, r.InstalledBy
	return state, nil
}

// slackSender sends messages. It is safe for concurrent use.
type slackSender struct {
	service *Service

	mu     sync.Mutex
	people map[string]slackPerson // by workspace and address
}

// slackPerson is who has an address in the workspace.
type slackPerson struct {
	id    string
	until time.Time // known for so long
}

// How long it is remembered who has an address, and of how many: Slack lets itself be asked fifty times a minute.
const (
	slackPersonLife = time.Hour
	slackPeopleMost = 10_000
)

// person returns the id of who has an address in the workspace; remembered says that Slack was not asked just now.
func (b *slackSender) person(ctx context.Context, client *slack.Client, team, address string) (id string, remembered bool, err error) {
	now, key := b.service.Now(), team+" "+address
	b.mu.Lock()
	known := b.people[key]
	b.mu.Unlock()
	if now.Before(known.until) {
		return known.id, true, nil
	}
	user, err := client.GetUserByEmailContext(ctx, address)
	if err != nil {
		f := slackFailure(err, false)
		if f.final {
			f.message = "nobody in the Slack workspace has the address: " + f.message
		}
		return "", false, f
	}
	if user.Deleted || user.IsBot {
		return "", false, &failure{message: "whoever has the address in the Slack workspace is deactivated there, or no person", final: true}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.people == nil || len(b.people) >= slackPeopleMost {
		b.people = make(map[string]slackPerson)
	}
	b.people[key] = slackPerson{user.ID, now.Add(slackPersonLife)}
	return user.ID, false, nil
}

// forget has it asked anew who has an address.
func (b *slackSender) forget(team, address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.people, team+" "+address)
}

// ready reports whether there is a connection.
func (b *slackSender) ready(ctx context.Context) (connected bool, err error) {
	err = b.service.DB.GetContext(ctx, &connected, selectSlackConnected)
	return connected, wrap("whether Slack is connected", err)
}

func (s *Service) slackHTTP() *http.Client {
	return &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (s *Service) slackBase() string { return strings.TrimSuffix(s.Slack.BaseURL.String(), "/") + "/" }

// slackClient is Slack as the installed bot.
func (s *Service) slackClient(ctx context.Context) (*slack.Client, error) {
	client, _, err := s.slackBot(ctx)
	return client, err
}

// slackBot is Slack as the installed bot, and the workspace.
func (s *Service) slackBot(ctx context.Context) (client *slack.Client, team string, err error) {
	r, d, err := s.slackRow(ctx, s.DB)
	if err != nil {
		return nil, "", err
	}
	token, err := s.box.Open(r.Sealed, d.identity())
	if err != nil {
		return nil, "", &directory.Error{Kind: directory.Conflict, Code: "slack-sealed", Message: "the token of Slack cannot be opened with APP_SECRET_KEY: connect Slack again, or give the key before as APP_SECRET_KEY_PREVIOUS"}
	}
	return slack.New(string(token), slack.OptionHTTPClient(s.slackHTTP()), slack.OptionAPIURL(s.slackBase())), d.TeamID, nil
}

func (b *slackSender) find(context.Context, *message) (string, error) { return "", nil }

func (b *slackSender) send(ctx context.Context, m *message) (string, error) {
	s := b.service
	client, team, err := s.slackBot(ctx)
	if err != nil {
		var answer *directory.Error
		if errors.As(err, &answer) {
			return "", &failure{message: answer.Message, medium: true, after: patienceForPeople}
		}
		return "", &failure{message: "the connection to Slack could not be read", medium: true, cause: err}
	}
	channel, remembered := m.Recipient, false
	address, personal := strings.CutPrefix(channel, "@")
	if personal {
		if channel, remembered, err = b.person(ctx, client, team, address); err != nil {
			return "", err
		}
	}
	blocks, text := s.slackMessage(m.Content)
	options := []slack.MsgOption{
		slack.MsgOptionBlocks(blocks...), slack.MsgOptionText(text, false), slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl(),
		// Slack takes a message with the same id once. The library does not know the field.
		slack.UnsafeMsgOptionEndpoint(s.slackBase()+"chat.postMessage", func(values url.Values) { values.Set("client_msg_id", m.ID.String()) }),
	}
	if m.Thread != "" {
		options = append(options, slack.MsgOptionTS(m.Thread))
	}
	_, at, err := client.PostMessageContext(ctx, channel, options...)
	if err != nil {
		f := slackFailure(err, true)
		if remembered && f.final { // perhaps somebody else has the address by now
			b.forget(team, address)
			f.final = false
		}
		return "", f
	}
	return at, nil
}

// slackFailure says what an error of Slack means (https://docs.slack.dev/reference/methods/chat.postMessage#errors).
func slackFailure(err error, sends bool) *failure {
	var limited *slack.RateLimitedError
	var status slack.StatusCodeError
	var statusPointer *slack.StatusCodeError
	var answer slack.SlackErrorResponse
	switch {
	case errors.As(err, &limited):
		return &failure{message: "Slack asks to be asked less often", medium: true, after: min(max(limited.RetryAfter, time.Second), time.Hour), cause: err}
	case errors.As(err, &status), errors.As(err, &statusPointer):
		if statusPointer != nil {
			status = *statusPointer
		}
		return &failure{message: fmt.Sprintf("Slack has trouble of its own: status %d", status.Code), medium: true, unsure: sends && status.Code >= 500, cause: err}
	case errors.As(err, &answer):
		code := short(answer.Err)
		switch answer.Err {
		case "ratelimited", "rate_limited", "message_limit_exceeded":
			return &failure{message: "Slack asks to be asked less often: " + code, medium: true, after: time.Minute, cause: err}
		case "invalid_auth", "account_inactive", "token_revoked", "token_expired", "not_authed", "missing_scope", "org_login_required", "no_permission", "access_denied", "ekm_access_denied", "team_access_not_granted":
			return &failure{message: "Slack does not take the gateway's token: connect Slack again (" + code + ")", medium: true, after: patienceForPeople, cause: err}
		case "internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org", "slack_connect_file_upload_sharing_blocked":
			return &failure{message: "Slack has trouble of its own: " + code, medium: true, unsure: sends, cause: err}
		case "duplicate_message_not_found", "duplicate_channel_not_found", "duplicate_message":
			return &failure{message: "Slack has had it already: " + code, final: true, cause: err}
		}
		return &failure{message: "Slack does not take the message: " + code, final: true, cause: err}
	}
	return &failure{message: "Slack cannot be reached", medium: true, unsure: sends && !neverSent(err), cause: err}
}

// slackText escapes a text as Slack asks for it, so that no name becomes a link, a mention or a channel.
func slackText(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// slackPlain is also without what mrkdwn makes of stars, underscores and the like: between such words stands a
// character of no width.
func slackPlain(s string) string {
	s = slackText(s)
	return strings.NewReplacer("*", "\u2217", "_", "_\u200b", "~", "\u223c", "`", "\u02cb").Replace(s)
}

func cutRunes(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// buttonSeen is on the test message: pressing it shows that the way back works too.
const buttonSeen = "seen"

// slackMessage is a notice as blocks, and as the text that notifications show.
func (s *Service) slackMessage(c *Content) (blocks []slack.Block, text string) {
	v := viewOf(c, s.Console, s.Gateway)
	text = slackText(cutRunes(v.Headline, 300))
	// Verbatim: Slack makes nothing of what looks like an address, a channel or a person.
	section := func(markdown string) {
		blocks = append(blocks, slack.NewSectionBlock(slack.NewTextBlockObject(slack.MarkdownType, cutRunes(markdown, 2900), false, true), nil, nil))
	}
	section("*" + slackPlain(cutRunes(v.Headline, 300)) + "*")
	if v.Lead != "" {
		section(slackPlain(v.Lead))
	}
	var fields []*slack.TextBlockObject
	for _, f := range v.Details {
		if len(fields) < 10 { // as many as a section takes
			fields = append(fields, slack.NewTextBlockObject(slack.MarkdownType, "*"+f.Name+"*\n"+cutRunes(slackPlain(f.Value), 1500), false, true))
		}
	}
	if len(fields) > 0 {
		blocks = append(blocks, slack.NewSectionBlock(nil, fields, nil))
	}
	for _, part := range v.Parts {
		var b strings.Builder
		b.WriteString("*" + slackPlain(part.Title) + "*\n")
		for _, item := range part.Items {
			b.WriteString(item.When + "  <" + item.Link + "|" + cutRunes(slackPlain(item.Text), 200) + ">\n")
		}
		b.WriteString(part.More)
		section(b.String())
	}
	if v.Advice != "" {
		section("_" + slackPlain(v.Advice) + "_")
	}
	if c.Topic == topicTest {
		button := slack.NewButtonBlockElement(buttonSeen, s.SignButton(buttonSeen, "test", s.Now().Add(24*time.Hour)), slack.NewTextBlockObject(slack.PlainTextType, "I see it", false, false))
		blocks = append(blocks, slack.NewActionBlock("test", button))
	}
	blocks = append(blocks, slack.NewContextBlock("", slack.NewTextBlockObject(slack.MarkdownType, "<"+v.Link+"|"+v.LinkText+">  ·  "+slackPlain(s.Gateway), false, true)))
	return blocks, text
}

// installLife is how long somebody may take to allow the app at Slack.
const installLife = 10 * time.Minute

// installState is what comes back from Slack with the code: who began, until when. It is signed, and good for that person.
type installState struct {
	Who   string `json:"who"`
	Until int64  `json:"until"`
	Nonce string `json:"nonce"`
}

// SlackRedirect is where Slack sends people back to.
func (s *Service) SlackRedirect() string {
	return s.Console.JoinPath("/console/integrations/slack").String()
}

// errSlackConfig says that there is no app to connect with.
var errSlackConfig = &directory.Error{Kind: directory.Conflict, Code: "slack-not-configured", Message: "Slack is not configured: set SLACK_CLIENT_ID, SLACK_CLIENT_SECRET and SLACK_SIGNING_SECRET"}

// BeginSlack returns where to send somebody, so that they allow the app in their workspace.
func (s *Service) BeginSlack(by directory.Actor) (string, error) {
	if !s.Slack.Configured() {
		return "", errSlackConfig
	}
	text, err := json.Marshal(installState{Who: by.ID, Until: s.Now().Add(installLife).Unix(), Nonce: rand.Text()})
	if err != nil {
		return "", wrap("begin to connect Slack", err)
	}
	state := base64.RawURLEncoding.EncodeToString(text) + "." + base64.RawURLEncoding.EncodeToString(s.states.Sign(text))
	address := *s.Slack.AuthorizeURL
	address.RawQuery = url.Values{
		"client_id": {s.Slack.ClientID}, "scope": {strings.Join(slackScopes, ",")}, "state": {state}, "redirect_uri": {s.SlackRedirect()},
	}.Encode()
	return address.String(), nil
}

const (
	useState = `insert into rgw.signin_states (hash, expires_at) values ($1, $2) on conflict do nothing`

	upsertIntegration = `
insert into rgw.integrations (name, detail, sealed, installed_at, installed_by) values ('slack', $1, $2, $3, $4)
on conflict on constraint integrations_pkey do update set detail = excluded.detail, sealed = excluded.sealed,
  installed_at = excluded.installed_at, installed_by = excluded.installed_by`

	mediumAnew = `
update rgw.notice_media set failures = 0, paused_until = '-infinity', trouble = '', failed_at = null, succeeded_at = null where medium = $1`
)

func badState(why string) error {
	return &directory.Error{Kind: directory.Refused, Code: "bad-state", Message: why + ": begin to connect Slack again, in the console under Integrations"}
}

// FinishSlack takes what Slack sent somebody back with, and connects.
func (s *Service) FinishSlack(ctx context.Context, by directory.Actor, code, state string) (_ SlackState, err error) {
	e := by.Event(s.Now(), "integration.connect", "slack")
	e.Decision = audit.DecisionAllow
	defer func() { err = s.recordRefusal(ctx, e, err) }()
	if !s.Slack.Configured() {
		return SlackState{}, errSlackConfig
	}
	text, signature, _ := strings.Cut(state, ".")
	plain, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return SlackState{}, badState("what came back from Slack is not what the gateway sent")
	}
	signed, err := base64.RawURLEncoding.DecodeString(signature)
	var begun installState
	if err != nil || !s.states.Verify(plain, signed) || json.Unmarshal(plain, &begun) != nil {
		return SlackState{}, badState("what came back from Slack is not what the gateway sent")
	}
	until := time.Unix(begun.Until, 0)
	switch {
	case begun.Who != by.ID:
		return SlackState{}, badState("somebody else began this")
	case s.Now().After(until):
		return SlackState{}, badState("it took too long")
	}
	hash := sha256.Sum256([]byte("slack " + state))
	result, err := s.DB.ExecContext(ctx, useState, hash[:], until)
	if err != nil {
		return SlackState{}, wrap("note that a sign-in at Slack was used", err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return SlackState{}, errors.Join(err, badState("it was used already"))
	}
	answer, err := slack.GetOAuthV2ResponseContext(ctx, s.slackHTTP(), s.Slack.ClientID, s.Slack.ClientSecret.Reveal(), code, s.SlackRedirect(), slack.OAuthOptionAPIURL(s.slackBase()))
	if err != nil {
		return SlackState{}, &directory.Error{Kind: directory.Conflict, Code: "slack-refused", Message: "Slack did not connect: " + slackFailure(err, false).message}
	}
	detail := slackDetail{TeamID: answer.Team.ID, TeamName: short(answer.Team.Name), AppID: answer.AppID, Bot: answer.BotUserID, Scopes: strings.Split(answer.Scope, ",")}
	for _, scope := range slackScopes {
		if !slices.Contains(detail.Scopes, scope) {
			return SlackState{}, &directory.Error{Kind: directory.Conflict, Code: "slack-scopes", Message: "the Slack app lacks the scope " + scope + ": add it to the app at Slack, and connect again"}
		}
	}
	if answer.AccessToken == "" || detail.TeamID == "" {
		return SlackState{}, &directory.Error{Kind: directory.Conflict, Code: "slack-refused", Message: "Slack answered without a token: check the app's settings at Slack"}
	}
	kept, err := json.Marshal(detail)
	if err != nil {
		return SlackState{}, wrap("keep the connection to Slack", err)
	}
	e.Detail.Params.Add("team", detail.TeamName+" ("+short(detail.TeamID)+")")
	e.Detail.Params.Add("scopes", strings.Join(detail.Scopes, " "))
	err = audit.Change(ctx, s.DB, s.Key, e, func(tx *sqlx.Tx) error {
		sealed := s.box.Seal([]byte(answer.AccessToken), detail.identity())
		if _, err := tx.ExecContext(ctx, upsertIntegration, string(kept), sealed, s.Now(), by.Label); err != nil {
			return wrap("keep the connection to Slack", err)
		}
		_, err := tx.ExecContext(ctx, mediumAnew, mediumSlack)
		return wrap("begin Slack anew", err)
	})
	if err != nil {
		return SlackState{}, err
	}
	return s.slackState(ctx)
}

const (
	deleteIntegration = `delete from rgw.integrations where name = 'slack'`
	endSlackNotices   = `update rgw.notices set state = 'dead', ended_at = now(), attempt_id = null, trouble = 'Slack was disconnected' where medium = 'slack' and state in ('waiting', 'held')`
)

// RemoveSlack ends the connection: the token is revoked at Slack, as far as Slack can be reached, and forgotten.
func (s *Service) RemoveSlack(ctx context.Context, by directory.Actor) (err error) {
	e := by.Event(s.Now(), "integration.disconnect", "slack")
	defer func() { err = s.recordRefusal(ctx, e, err) }()
	client, err := s.slackClient(ctx)
	var told string
	switch {
	case errors.Is(err, errNotConnected):
		return err
	case err != nil:
		told = "not revoked: " + err.Error()
	default:
		revoked := "yes"
		if err := client.UninstallAppContext(ctx, s.Slack.ClientID, s.Slack.ClientSecret.Reveal()); err != nil {
			revoked = "no: " + slackFailure(err, false).message
		}
		told = revoked
	}
	return s.forgetSlack(ctx, e, told)
}

func (s *Service) forgetSlack(ctx context.Context, e *audit.Event, revoked string) error {
	e.Decision = audit.DecisionAllow
	if revoked != "" {
		e.Detail.Params.Add("revoked", short(revoked))
	}
	return audit.Change(ctx, s.DB, s.Key, e, func(tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(ctx, deleteIntegration); err != nil {
			return wrap("forget the connection to Slack", err)
		}
		_, err := tx.ExecContext(ctx, endSlackNotices)
		return wrap("end what was to go to Slack", err)
	})
}

// Channel is a Slack channel that messages can go to.
type Channel struct {
	ID, Name string
	Private  bool
}

// Channels lists the channels of the connected workspace, by name.
func (s *Service) Channels(ctx context.Context) ([]Channel, error) {
	client, err := s.slackClient(ctx)
	if err != nil {
		return nil, err
	}
	var list []Channel
	cursor := ""
	for range 20 { // pages of 200
		page, next, err := client.GetConversationsContext(ctx, &slack.GetConversationsParameters{Cursor: cursor, ExcludeArchived: true, Limit: 200, Types: []string{"public_channel"}})
		if err != nil {
			return nil, &directory.Error{Kind: directory.Conflict, Code: "slack-refused", Message: slackFailure(err, false).message}
		}
		for i := range page {
			list = append(list, Channel{ID: page[i].ID, Name: page[i].Name, Private: page[i].IsPrivate})
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	slices.SortFunc(list, func(a, b Channel) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// Rule says which events a channel is told of.
type Rule struct {
	ID          uuid.UUID `db:"rule_id"`
	ChannelID   string    `db:"channel_id"`
	ChannelName string    `db:"channel_name"`
	Patterns    patterns  `db:"patterns"`
	CreatedAt   time.Time `db:"created_at"`
	CreatedBy   string    `db:"created_by"`
}
