package directory_test

import (
	"slices"
	"testing"
	"time"

	"rackgateway/pkg/access"
	"rackgateway/pkg/directory"
)

func TestBuiltInRolesAreTheProgramsAndCannotBeChanged(t *testing.T) {
	w := newWorld(t)
	roles := must[[]directory.Role](t)(w.ListRoles(t.Context()))
	var names []string
	for _, r := range roles {
		names = append(names, r.Name)
		if !r.BuiltIn || len(r.Permissions) == 0 || r.Description == "" || r.TokensOnly != (r.Name == "cicd") {
			t.Errorf("%+v", r)
		}
	}
	if !slices.Equal(names, []string{"viewer", "ops", "deployer", "admin", "cicd"}) {
		t.Errorf("listed %v", names)
	}
	if all := must[directory.Role](t)(w.Role(t.Context(), "admin")); len(all.Permissions) != len(access.Permissions()) {
		t.Errorf("admin has %d of %d permissions", len(all.Permissions), len(access.Permissions()))
	}
	for _, name := range names {
		_, err := w.EditRole(t.Context(), console, name, directory.RoleEdit{Add: []string{"convox:secret:read"}})
		wantCode(t, err, "built-in-role")
		wantCode(t, w.DeleteRole(t.Context(), console, name), "built-in-role")
		_, err = w.CreateRole(t.Context(), console, directory.NewRole{Name: name, Permissions: []string{"convox:app:list"}})
		wantCode(t, err, "role-exists")
	}
}

func TestCustomRolesAreListsOfKnownPermissions(t *testing.T) {
	w := newWorld(t)
	create := func(name string, permissions ...string) (directory.Role, error) {
		return w.CreateRole(t.Context(), console, directory.NewRole{Name: name, Permissions: permissions})
	}
	for _, name := range []string{"", "Seer", "9lives", "-x", "a b", "sé", string(make([]byte, 64))} {
		_, err := create(name, "convox:app:list")
		wantCode(t, err, "bad-role-name")
	}
	for _, permission := range []string{"", "convox:app:*", "convox:secret:reed", "*", "convox:app:list\x00", "\xff"} {
		_, err := create("seer", permission)
		wantCode(t, err, "bad-permission")
	}
	_, err := create("seer")
	wantCode(t, err, "no-permissions")
	role, err := create("seer", "convox:secret:read", "convox:app:list", "convox:secret:read")
	if err != nil || !slices.Equal(role.Permissions, []string{"convox:app:list", "convox:secret:read"}) || role.BuiltIn {
		t.Errorf("made %+v, %v", role, err)
	}
	role, err = w.EditRole(t.Context(), console, "seer", directory.RoleEdit{Add: []string{"convox:env:read"}, Remove: []string{"convox:app:list"}})
	if err != nil || !slices.Equal(role.Permissions, []string{"convox:env:read", "convox:secret:read"}) {
		t.Errorf("edited to %+v, %v", role, err)
	}
	_, err = w.EditRole(t.Context(), console, "seer", directory.RoleEdit{Remove: []string{"convox:app:list"}})
	wantCode(t, err, "not-in-role")
	_, err = w.EditRole(t.Context(), console, "seer", directory.RoleEdit{Permissions: &[]string{}})
	wantCode(t, err, "no-permissions")
	_, err = w.EditRole(t.Context(), console, "seer", directory.RoleEdit{Add: []string{"convox:env:read"}})
	wantCode(t, err, "no-change")
	_, err = w.EditRole(t.Context(), console, "nosuch", directory.RoleEdit{Add: []string{"convox:env:read"}})
	wantCode(t, err, "no-such-role")
	description := "Sees what others do not."
	if role, err = w.EditRole(t.Context(), console, "seer", directory.RoleEdit{Description: &description}); err != nil || role.Description != description {
		t.Errorf("described as %+v, %v", role, err)
	}
}

func TestARoleInUseStaysUntilItIsTakenFromEverybody(t *testing.T) {
	w := newWorld(t)
	w.add(t, "ana@example.com", "admin")
	must[directory.Role](t)(w.CreateRole(t.Context(), console, directory.NewRole{Name: "seer", Permissions: []string{"convox:secret:read"}}))
	w.add(t, "dan@example.com", "seer@web", "seer@api")
	make := func(name string, life time.Duration) directory.Token {
		token, _, err := w.CreateToken(t.Context(), console, directory.NewToken{
			Kind: "api", Name: name, Owner: "ana@example.com", Bindings: bindings(t, "seer"), Life: life,
		})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	revoked := make("revoked", 0)
	make("expired", time.Hour)
	role := must[directory.Role](t)(w.Role(t.Context(), "seer"))
	if role.Users != 1 || role.Tokens != 2 {
		t.Errorf("held by %d users and %d tokens", role.Users, role.Tokens)
	}
	wantCode(t, w.DeleteRole(t.Context(), console, "seer"), "role-in-use")
	must[directory.User](t)(w.SetRoles(t.Context(), console, "dan@example.com", nil))
	wantCode(t, w.DeleteRole(t.Context(), console, "seer"), "role-in-use")
	must[directory.Token](t)(w.Revoke(t.Context(), console, revoked.ID.String(), "done"))
	wantCode(t, w.DeleteRole(t.Context(), console, "seer"), "role-in-use")
	w.now = w.now.Add(2 * time.Hour)
	if err := w.DeleteRole(t.Context(), console, "seer"); err != nil {
		t.Error(err)
	}
	_, err := w.Role(t.Context(), "seer")
	wantCode(t, err, "no-such-role")
}

func TestPermissionsThatThisVersionDoesNotKnowAreShownAsSuch(t *testing.T) {
	w := newWorld(t)
	if _, err := w.db.ExecContext(t.Context(), `
insert into rgw.roles (name, permissions, created_by) values ('newer', '{convox:app:list,convox:time:travel}', 'another version')`); err != nil {
		t.Fatal(err)
	}
	role := must[directory.Role](t)(w.Role(t.Context(), "newer"))
	if !slices.Equal(role.Permissions, []string{"convox:app:list"}) || !slices.Equal(role.Unknown, []string{"convox:time:travel"}) {
		t.Errorf("%+v", role)
	}
}
