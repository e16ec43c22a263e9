package adminapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"rackgateway/pkg/adminapi"
	"rackgateway/pkg/adminapi/client"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
)

// The scenarios are driven by the client that oapi-codegen makes of the document, and every answer is held to it.

// checked is a transport that holds every answer to the document.
type checked struct {
	w      *world
	router *mux.Router
	ops    map[string]adminapi.Operation
}

func newChecked(w *world) *checked {
	c := &checked{w: w, router: mux.NewRouter(), ops: make(map[string]adminapi.Operation)}
	for _, op := range w.api.Operations() {
		c.router.NewRoute().Name(op.ID).Methods(op.Method).Path("/api/v1" + op.Path)
		c.ops[op.ID] = op
	}
	return c
}

// RoundTrip sends the request on.
func (c *checked) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.w.server.Client().Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	var match mux.RouteMatch
	if !c.router.Match(r, &match) {
		c.w.t.Errorf("%s %s is not in the document", r.Method, r.URL.Path)
	} else if err := c.ops[match.Route.GetName()].CheckResponse(resp.StatusCode, resp.Header.Get("Content-Type"), string(body)); err != nil {
		c.w.t.Errorf("%s: the answer is not as the document says: %v\n%s", match.Route.GetName(), err, body)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// client is the generated client, as somebody.
func (w *world) client(who string) *client.ClientWithResponses {
	w.t.Helper()
	c, err := client.NewClientWithResponses(w.server.URL+"/api/v1",
		client.WithHTTPClient(&http.Client{Transport: newChecked(w)}),
		client.WithRequestEditorFn(func(_ context.Context, r *http.Request) error { w.authenticate(r, who); return nil }))
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// status holds an answer to a status.
func status(t testing.TB, want int, got interface{ StatusCode() int }, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if got.StatusCode() != want {
		t.Fatalf("status %d, want %d: %+v", got.StatusCode(), want, got)
	}
}

func ptr[T any](v T) *T { return &v }

func TestAPersonComesAndGoes(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	c, ctx := w.client("admin"), t.Context()

	added, err := c.AddUserWithResponse(ctx, nil, client.NewUser{Email: "Ana@Example.com", Name: ptr("Ana"), Bindings: &[]client.Binding{{Role: "deployer", App: "web-*"}}})
	status(t, http.StatusCreated, added, err)
	ana := added.JSON201
	if ana.Email != "ana@example.com" || ana.CreatedBy != "admin@example.com" || len(ana.Bindings) != 1 || ana.Bindings[0].App != "web-*" {
		t.Errorf("%+v", ana)
	}
	again, err := c.AddUserWithResponse(ctx, nil, client.NewUser{Email: "ana@example.com"})
	status(t, http.StatusConflict, again, err)
	if again.ApplicationproblemJSONDefault == nil || again.ApplicationproblemJSONDefault.Code != "user-exists" {
		t.Errorf("%s", again.Body)
	}
	list, err := c.ListUsersWithResponse(ctx, &client.ListUsersParams{Search: ptr("ANA")})
	status(t, http.StatusOK, list, err)
	if len(list.JSON200.Items) != 1 || list.JSON200.Items[0].Id != ana.Id || list.JSON200.Next != nil {
		t.Errorf("%+v", list.JSON200)
	}
	bound, err := c.SetUserBindingsWithResponse(ctx, ana.Id, nil, client.Bindings{Bindings: []client.Binding{{Role: "viewer", App: "*"}}})
	status(t, http.StatusOK, bound, err)
	locked, err := c.LockUserWithResponse(ctx, ana.Id, nil, client.Reason{Reason: "left the team"})
	status(t, http.StatusOK, locked, err)
	if locked.JSON200.LockedAt == nil || *locked.JSON200.LockedReason != "left the team" {
		t.Errorf("%+v", locked.JSON200)
	}
	unlocked, err := c.UnlockUserWithResponse(ctx, ana.Id, nil)
	status(t, http.StatusOK, unlocked, err)
	removed, err := c.RemoveUserWithResponse(ctx, ana.Id, nil)
	status(t, http.StatusNoContent, removed, err)
	gone, err := c.GetUserWithResponse(ctx, ana.Id)
	status(t, http.StatusOK, gone, err)
	if gone.JSON200.RemovedAt == nil || gone.JSON200.Email != "ana@example.com" {
		t.Errorf("%+v", gone.JSON200)
	}
}

func TestTheLastAdminStays(t *testing.T) {
	w := newWorld(t)
	admin := w.person("admin", "admin")
	c, ctx := w.client("admin"), t.Context()
	before := w.state()
	removed, err := c.RemoveUserWithResponse(ctx, admin.ID, nil)
	status(t, http.StatusForbidden, removed, err)
	locked, err := c.LockUserWithResponse(ctx, admin.ID, nil, client.Reason{Reason: "tired"})
	status(t, http.StatusForbidden, locked, err)
	demoted, err := c.SetUserBindingsWithResponse(ctx, admin.ID, nil, client.Bindings{Bindings: []client.Binding{{Role: "admin", App: "web"}}})
	status(t, http.StatusForbidden, demoted, err)
	for _, body := range [][]byte{removed.Body, locked.Body, demoted.Body} {
		if !bytes.Contains(body, []byte(`"last-admin"`)) {
			t.Errorf("%s", body)
		}
	}
	if w.state() != before {
		t.Error("something changed")
	}
}

func TestEveryChangeByTheAPILeavesOneSignedEventThatSaysHowItWasAllowed(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.session("admin")
	w.apiToken("robot", "admin", "admin", "admin")
	c, ctx := w.client("robot"), t.Context()
	var request string
	events := w.since(func() {
		added, err := c.AddUserWithResponse(ctx, nil, client.NewUser{Email: "ana@example.com"})
		status(t, http.StatusCreated, added, err)
		request = added.HTTPResponse.Header.Get("Gateway-Request-Id")
	})
	if len(events) != 1 {
		t.Fatalf("it left %v", events)
	}
	e := events[0]
	for _, want := range []string{
		`"auth":"bearer"`, `"client":"api"`, `"method":"POST"`, `"path":"/api/v1/users"`, `"op":"addUser"`, `"permission":"gateway:user:manage"`,
		`"rule":"role:admin app:*"`, `"mfa":"token"`, `"mfa_level":"step-up"`, `"owner":"admin@example.com"`, `"token_name":"robot"`,
	} {
		if !strings.Contains(e.Detail, want) {
			t.Errorf("the event lacks %s: %s", want, e.Detail)
		}
	}
	if e.String() != "finished user.add ana@example.com" || e.Actor != "robot" || e.Decision != "allow" || !e.Signed || e.Request != request {
		t.Errorf("%+v, of request %s", e, request)
	}
}

func TestRolesAreMadeGivenAndTakenBack(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	ana := w.person("ana")
	c, ctx := w.client("admin"), t.Context()
	made, err := c.CreateRoleWithResponse(ctx, nil, client.NewRole{Name: "reader", Permissions: []string{"convox:app:list", "convox:secret:read"}})
	status(t, http.StatusCreated, made, err)
	bound, err := c.SetUserBindingsWithResponse(ctx, ana.ID, nil, client.Bindings{Bindings: []client.Binding{{Role: "reader", App: "*"}}})
	status(t, http.StatusOK, bound, err)
	used, err := c.DeleteRoleWithResponse(ctx, "reader", nil)
	status(t, http.StatusConflict, used, err)
	edited, err := c.EditRoleWithResponse(ctx, "reader", nil, client.RoleEdit{Description: ptr("Reads."), Permissions: []string{"convox:app:list"}})
	status(t, http.StatusOK, edited, err)
	if r := edited.JSON200; r.Description != "Reads." || r.People != 1 || len(r.Permissions) != 1 || r.BuiltIn {
		t.Errorf("%+v", r)
	}
	unbound, err := c.SetUserBindingsWithResponse(ctx, ana.ID, nil, client.Bindings{Bindings: []client.Binding{}})
	status(t, http.StatusOK, unbound, err)
	deleted, err := c.DeleteRoleWithResponse(ctx, "reader", nil)
	status(t, http.StatusNoContent, deleted, err)
	builtIn, err := c.EditRoleWithResponse(ctx, "admin", nil, client.RoleEdit{Permissions: []string{"convox:app:list"}})
	status(t, http.StatusForbidden, builtIn, err)
	unknown, err := c.CreateRoleWithResponse(ctx, nil, client.NewRole{Name: "typo", Permissions: []string{"convox:app:lsit"}})
	status(t, http.StatusBadRequest, unknown, err)
	if !strings.Contains(unknown.ApplicationproblemJSONDefault.Detail, "convox:app:list") {
		t.Errorf("%s", unknown.Body)
	}
	all, err := c.ListRolesWithResponse(ctx)
	status(t, http.StatusOK, all, err)
	permissions, err := c.ListPermissionsWithResponse(ctx)
	status(t, http.StatusOK, permissions, err)
	if len(all.JSON200.Items) != 5 || !all.JSON200.Items[0].BuiltIn || len(permissions.JSON200.Items) < 60 {
		t.Errorf("%d roles, %d permissions", len(all.JSON200.Items), len(permissions.JSON200.Items))
	}
}

func TestAnAPITokenIsMadeUsedRotatedAndRevoked(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	c, ctx := w.client("admin"), t.Context()
	made, err := c.CreateTokenWithResponse(ctx, nil, client.NewToken{
		Name: "ci", Bindings: &[]client.Binding{{Role: "admin", App: "*"}}, SourceCidrs: &[]string{"127.0.0.0/8", "::1/128"}, ExpiresInDays: ptr(30),
	})
	status(t, http.StatusCreated, made, err)
	token := made.JSON201.Token
	if token.State != "active" || token.Owner.Email != "admin@example.com" || token.Creator == nil || len(token.SourceCidrs) != 2 ||
		token.ExpiresAt.Sub(w.clock()).Round(24*time.Hour) != 30*24*time.Hour || !strings.HasPrefix(made.JSON201.Secret, token.Prefix) {
		t.Errorf("%+v", token)
	}
	w.learn("ci", made.JSON201.Secret)
	me, err := w.client("ci").GetMeWithResponse(ctx)
	status(t, http.StatusOK, me, err)
	if me.JSON200.Kind != "api" || me.JSON200.Label != "ci" || me.JSON200.Rack != "acme/staging" || !slices.Contains(me.JSON200.Permissions, "gateway:user:manage") {
		t.Errorf("%+v", me.JSON200)
	}

	rotated, err := c.RotateTokenWithResponse(ctx, token.Id, nil, client.Rotation{KeepOldHours: 1})
	status(t, http.StatusOK, rotated, err)
	w.learn("ci-new", rotated.JSON200.Secret)
	if rotated.JSON200.Token.OldSecretUntil == nil || rotated.JSON200.Token.Prefix == token.Prefix {
		t.Errorf("%+v", rotated.JSON200.Token)
	}
	for _, who := range []string{"ci", "ci-new"} {
		me, err := w.client(who).GetMeWithResponse(ctx)
		status(t, http.StatusOK, me, err)
	}
	rights, err := c.SetTokenRightsWithResponse(ctx, token.Id, nil, client.TokenRights{Permissions: &[]string{"gateway:audit:read"}, SourceCidrs: &[]string{}})
	status(t, http.StatusOK, rights, err)
	if len(rights.JSON200.SourceCidrs) != 0 || len(rights.JSON200.Bindings) != 0 || !slices.Equal(rights.JSON200.Permissions, []string{"gateway:audit:read"}) {
		t.Errorf("%+v", rights.JSON200)
	}
	w.until(func() bool { return w.do("ci-new", "GET", "/users", nil).status == http.StatusForbidden })
	listed, err := c.ListTokensWithResponse(ctx, &client.ListTokensParams{Kind: ptr(client.TokenKindApi), Search: ptr("c")})
	status(t, http.StatusOK, listed, err)
	if len(listed.JSON200.Items) != 1 || listed.JSON200.Items[0].Id != token.Id {
		t.Errorf("%+v", listed.JSON200)
	}
	revoked, err := c.RevokeTokenWithResponse(ctx, token.Id, nil)
	status(t, http.StatusNoContent, revoked, err)
	w.until(func() bool { return w.do("ci-new", "GET", "/me", nil).status == http.StatusUnauthorized })
	shown, err := c.GetTokenWithResponse(ctx, token.Id)
	status(t, http.StatusOK, shown, err)
	if shown.JSON200.State != "revoked" || *shown.JSON200.RevokedReason != "revoked by admin@example.com" {
		t.Errorf("%+v", shown.JSON200)
	}
}

func TestATokenIsNeverWiderThanWhoMakesIt(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	must[directory.Role](t)(w.writer.CreateRole(t.Context(), console, directory.NewRole{Name: "token-maker", Permissions: []string{"gateway:token:manage", "convox:app:list"}}))
	w.person("maker", "token-maker")
	c, ctx := w.client("maker"), t.Context()
	wide, err := c.CreateTokenWithResponse(ctx, nil, client.NewToken{Name: "wide", Bindings: &[]client.Binding{{Role: "viewer", App: "*"}}})
	status(t, http.StatusForbidden, wide, err)
	if wide.ApplicationproblemJSONDefault.Code != "wider-than-yours" {
		t.Errorf("%s", wide.Body)
	}
	narrow, err := c.CreateTokenWithResponse(ctx, nil, client.NewToken{Name: "narrow", Permissions: &[]string{"convox:app:list"}})
	status(t, http.StatusCreated, narrow, err)
	grown, err := c.SetTokenRightsWithResponse(ctx, narrow.JSON201.Token.Id, nil, client.TokenRights{Permissions: &[]string{"convox:secret:read"}})
	status(t, http.StatusForbidden, grown, err)

	// Rotating hands out what the token may do, so it takes having that.
	w.apiToken("strong", "admin", "admin", "admin")
	taken, err := c.RotateTokenWithResponse(ctx, w.ids["strong"], nil, client.Rotation{})
	status(t, http.StatusForbidden, taken, err)
}

func TestAPersonsOwnDevicesAndSessions(t *testing.T) {
	w := newWorld(t)
	w.person("ana", "viewer")
	w.person("ben", "admin")
	w.session("ana")
	w.session("ben")
	c, ctx := w.client("ana's session"), t.Context()
	made, err := c.CreateMyDeviceWithResponse(ctx, nil, client.NewDevice{Name: "workstation", Headless: ptr(true)})
	status(t, http.StatusCreated, made, err)
	w.learn("workstation", made.JSON201.Secret)
	me, err := w.client("workstation").GetMeWithResponse(ctx)
	status(t, http.StatusOK, me, err)
	if me.JSON200.Kind != "cli" || me.JSON200.Email == nil || *me.JSON200.Email != "ana@example.com" || !made.JSON201.Token.Headless {
		t.Errorf("%+v", me.JSON200)
	}
	devices, err := c.ListMyDevicesWithResponse(ctx, nil)
	status(t, http.StatusOK, devices, err)
	if len(devices.JSON200.Items) != 2 {
		t.Errorf("%+v", devices.JSON200)
	}
	// Those of others are as good as not there, for an admin too.
	for _, id := range []uuid.UUID{w.ids["ben"], uuid.New()} {
		other, err := c.RevokeMyDeviceWithResponse(ctx, id, nil)
		status(t, http.StatusNotFound, other, err)
	}
	theirs, err := w.client("ben's session").RevokeMyDeviceWithResponse(ctx, made.JSON201.Token.Id, nil)
	status(t, http.StatusNotFound, theirs, err)
	revoked, err := c.RevokeMyDeviceWithResponse(ctx, made.JSON201.Token.Id, nil)
	status(t, http.StatusNoContent, revoked, err)
	w.until(func() bool { return w.do("workstation", "GET", "/me", nil).status == http.StatusUnauthorized })

	sessions, err := c.ListMySessionsWithResponse(ctx, nil)
	status(t, http.StatusOK, sessions, err)
	if len(sessions.JSON200.Items) != 1 || !sessions.JSON200.Items[0].Current || sessions.JSON200.Items[0].UserAgent != "browser" {
		t.Errorf("%+v", sessions.JSON200)
	}
	other, err := c.RevokeMySessionWithResponse(ctx, w.ids["ben's session"], nil)
	status(t, http.StatusNotFound, other, err)
	all, err := w.client("ben").ListSessionsWithResponse(ctx, &client.ListSessionsParams{User: ptr("ana@example.com")})
	status(t, http.StatusOK, all, err)
	if len(all.JSON200.Items) != 1 || all.JSON200.Items[0].Current {
		t.Errorf("%+v", all.JSON200)
	}
	ended, err := w.client("ben").RevokeSessionWithResponse(ctx, all.JSON200.Items[0].Id, nil)
	status(t, http.StatusNoContent, ended, err)
	w.until(func() bool { return w.do("ana's session", "GET", "/me", nil).status == http.StatusUnauthorized })
	own, err := w.client("ben's session").RevokeMySessionWithResponse(ctx, w.ids["ben's session"], nil)
	status(t, http.StatusNoContent, own, err)
	w.until(func() bool { return w.do("ben's session", "GET", "/me", nil).status == http.StatusUnauthorized })
}

func TestAnAppsSettingsAreItsOwnAndThoseOfWhoeverManagesIt(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.person("scoped", "admin@web-*")
	c, ctx := w.client("scoped"), t.Context()
	on := client.SettingValue{Value: json.RawMessage("true")}
	set, err := c.SetAppSettingWithResponse(ctx, "web-1", "deploy_approvals", nil, on)
	status(t, http.StatusOK, set, err)
	if s := set.JSON200; string(s.Value) != "true" || s.Source != client.SettingSourceDatabase || *s.App != "web-1" || *s.Inherited {
		t.Errorf("%s", set.Body)
	}
	other, err := c.SetAppSettingWithResponse(ctx, "api", "deploy_approvals", nil, on)
	status(t, http.StatusForbidden, other, err)
	whole, err := c.SetSettingWithResponse(ctx, "deploy_approvals", nil, on)
	status(t, http.StatusForbidden, whole, err)
	not, err := c.SetAppSettingWithResponse(ctx, "web-1", "reauth_days", nil, client.SettingValue{Value: json.RawMessage("5")})
	status(t, http.StatusBadRequest, not, err)

	listed, err := c.ListAppSettingsWithResponse(ctx, "web-2")
	status(t, http.StatusOK, listed, err)
	for _, s := range listed.JSON200.Items {
		if !s.PerApp || !*s.Inherited || *s.App != "web-2" {
			t.Errorf("%+v", s)
		}
	}
	all, err := w.client("admin").ListSettingsWithResponse(ctx)
	status(t, http.StatusOK, all, err)
	for _, s := range all.JSON200.Items {
		switch {
		case !s.PerApp:
			if s.Apps != nil {
				t.Errorf("%+v", s)
			}
		case (len(*s.Apps) == 1) != (s.Key == "deploy_approvals"):
			t.Errorf("%+v", s)
		}
	}
	unset, err := c.UnsetAppSettingWithResponse(ctx, "web-1", "deploy_approvals", nil)
	status(t, http.StatusOK, unset, err)
	if !*unset.JSON200.Inherited {
		t.Errorf("%s", unset.Body)
	}
	history, err := c.GetAppSettingHistoryWithResponse(ctx, "web-1", "deploy_approvals", nil)
	status(t, http.StatusOK, history, err)
	if events := history.JSON200.Items; len(events) != 2 || events[0].Action != "setting.unset" || events[1].App != "web-1" {
		t.Errorf("%s", history.Body)
	}
	refused, err := w.client("admin").ListEventsWithResponse(ctx, &client.ListEventsParams{App: ptr("api"), Action: ptr("setting.set")})
	status(t, http.StatusOK, refused, err)
	if events := refused.JSON200.Items; len(events) != 1 || events[0].ActorLabel != "scoped@example.com" || events[0].Phase != "refused" {
		t.Errorf("%s", refused.Body)
	}
}

func TestOneEventIsFoundByItsID(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	w.exec(`update rgw.users set name = 'Mallory' where email = 'admin@example.com'`)
	c, ctx := w.client("admin"), t.Context()
	listed, err := c.ListEventsWithResponse(ctx, &client.ListEventsParams{Limit: ptr(500)})
	status(t, http.StatusOK, listed, err)
	outside := 0
	for _, want := range listed.JSON200.Items {
		got, err := c.GetEventWithResponse(ctx, want.Id)
		status(t, http.StatusOK, got, err)
		if e := got.JSON200; e.Id != want.Id || e.Action != want.Action || string(e.Detail) != string(want.Detail) || !e.OccurredAt.Equal(want.OccurredAt) {
			t.Errorf("%+v is answered with %s", want, got.Body)
		}
		if want.ActorKind == "database" {
			outside++
		}
	}
	if outside == 0 {
		t.Error("no event that the database made by itself was looked for")
	}
	for _, id := range []uuid.UUID{uuid.New(), audit.NewID(time.Now()), {}} {
		none, err := c.GetEventWithResponse(ctx, id)
		status(t, http.StatusNotFound, none, err)
	}
	read, err := c.ListEventsWithResponse(ctx, &client.ListEventsParams{Action: ptr("audit.read"), Limit: ptr(500)})
	status(t, http.StatusOK, read, err)
	if n := len(read.JSON200.Items); n < len(listed.JSON200.Items)+3 {
		t.Errorf("only %d readings are in the record", n)
	}
}

func TestSettingsSayWhereTheyComeFromAndWhoChangedThem(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	c, ctx := w.client("admin"), t.Context()
	for _, value := range []string{"true", "false"} {
		set, err := c.SetSettingWithResponse(ctx, "allow_destructive", nil, client.SettingValue{Value: json.RawMessage(value)})
		status(t, http.StatusOK, set, err)
		if s := set.JSON200; string(s.Value) != value || s.Source != client.SettingSourceDatabase || *s.UpdatedBy != "admin@example.com" {
			t.Errorf("%+v", s)
		}
	}
	wrong, err := c.SetSettingWithResponse(ctx, "session_idle_minutes", nil, client.SettingValue{Value: json.RawMessage("4")})
	status(t, http.StatusBadRequest, wrong, err)
	unset, err := c.UnsetSettingWithResponse(ctx, "allow_destructive", nil)
	status(t, http.StatusOK, unset, err)
	if unset.JSON200.Source != client.SettingSourceDefault {
		t.Errorf("%+v", unset.JSON200)
	}
	history, err := c.GetSettingHistoryWithResponse(ctx, "allow_destructive", &client.GetSettingHistoryParams{Limit: ptr(2)})
	status(t, http.StatusOK, history, err)
	if len(history.JSON200.Items) != 2 || history.JSON200.Items[0].Action != "setting.unset" || history.JSON200.Next == nil ||
		!strings.Contains(string(history.JSON200.Items[1].Detail), `"new":"false"`) {
		t.Errorf("%s", history.Body)
	}
	rest, err := c.GetSettingHistoryWithResponse(ctx, "allow_destructive", &client.GetSettingHistoryParams{Cursor: history.JSON200.Next})
	status(t, http.StatusOK, rest, err)
	if len(rest.JSON200.Items) != 1 || rest.JSON200.Next != nil {
		t.Errorf("%s", rest.Body)
	}
	all, err := c.ListSettingsWithResponse(ctx)
	status(t, http.StatusOK, all, err)
	if len(all.JSON200.Items) < 8 {
		t.Errorf("%s", all.Body)
	}
}

func TestReadingTheRecordIsInTheRecord(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	c, ctx := w.client("admin"), t.Context()
	var page *client.ListEventsResponse
	events := w.since(func() {
		var err error
		page, err = c.ListEventsWithResponse(ctx, &client.ListEventsParams{Action: ptr("user.add"), Since: ptr(w.clock().Add(-time.Hour))})
		status(t, http.StatusOK, page, err)
	})
	if len(events) != 1 || events[0].Action != "audit.read" || !strings.Contains(events[0].Detail, `"action":"user.add"`) {
		t.Errorf("it left %+v", events)
	}
	if len(page.JSON200.Items) != 1 || page.JSON200.Items[0].Resource != "admin@example.com" || page.JSON200.Items[0].ActorKind != "system" {
		t.Errorf("%s", page.Body)
	}
	for range 5 {
		more, err := c.ListEventsWithResponse(ctx, &client.ListEventsParams{Limit: ptr(1), Kind: ptr(client.ListEventsParamsKindAll)})
		status(t, http.StatusOK, more, err)
		if len(more.JSON200.Items) != 1 || more.JSON200.Next == nil {
			t.Errorf("%s", more.Body)
		}
	}
}

func TestListsArePagedWithoutGapsOrRepetitions(t *testing.T) {
	w := newWorld(t)
	w.person("admin", "admin")
	for i := range 25 {
		w.person("person-" + string(rune('a'+i)))
	}
	c, ctx := w.client("admin"), t.Context()
	var people, tokens []string
	for cursor := (*string)(nil); ; {
		page, err := c.ListUsersWithResponse(ctx, &client.ListUsersParams{Limit: ptr(7), Cursor: cursor})
		status(t, http.StatusOK, page, err)
		for _, u := range page.JSON200.Items {
			people = append(people, u.Email)
		}
		if cursor = page.JSON200.Next; cursor == nil {
			break
		}
	}
	for cursor := (*string)(nil); ; {
		page, err := c.ListTokensWithResponse(ctx, &client.ListTokensParams{Limit: ptr(7), Cursor: cursor})
		status(t, http.StatusOK, page, err)
		for _, token := range page.JSON200.Items {
			tokens = append(tokens, token.Owner.Email)
		}
		if cursor = page.JSON200.Next; cursor == nil {
			break
		}
	}
	slices.Sort(tokens)
	if len(people) != 26 || !slices.IsSorted(people) || !slices.Equal(people, tokens) {
		t.Errorf("%d people, %d tokens:\n%v\n%v", len(people), len(tokens), people, tokens)
	}
}

func TestHealthSaysWhatIsInTheWay(t *testing.T) {
	w := newWorld(t, func(c *adminapi.Config) {
		c.Ready = map[string]adminapi.CheckFunc{"issuer": func(context.Context) (bool, string) { return false, "the issuer cannot be reached" }}
	})
	c, ctx := w.client(""), t.Context()
	alive, err := c.GetHealthWithResponse(ctx)
	status(t, http.StatusOK, alive, err)
	ready, err := c.GetReadyWithResponse(ctx)
	status(t, http.StatusServiceUnavailable, ready, err)
	checks := ready.JSON503.Checks
	for _, name := range []string{"database", "migrations", "listener", "draining"} {
		if !checks[name].Ok {
			t.Errorf("%s: %+v", name, checks[name])
		}
	}
	if checks["issuer"].Ok || *checks["issuer"].Detail == "" {
		t.Errorf("%+v", checks["issuer"])
	}
	w.api.StopBeingReady()
	w.until(func() bool {
		ready, err := c.GetReadyWithResponse(ctx)
		status(t, http.StatusServiceUnavailable, ready, err)
		return !ready.JSON503.Checks["draining"].Ok
	})
}
