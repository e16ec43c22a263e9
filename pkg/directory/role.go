package directory

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lib/pq"

	"rackgateway/pkg/access"
)

// Role is a named list of permissions.
type Role struct {
	Name        string
	Description string
	BuiltIn     bool     // the program defines it; nobody may edit it
	TokensOnly  bool     // it may be given to API tokens only
	Permissions []string // sorted
	Unknown     []string // permissions that a custom role lists and this program does not know: they give nothing
	Users       int      // how many people have it, those removed not counted
	Tokens      int      // how many API tokens have it, those that ended not counted
	CreatedAt   time.Time
	CreatedBy   string
}

type roleRow struct {
	Name        string         `db:"name"`
	BuiltIn     bool           `db:"built_in"`
	Description string         `db:"description"`
	Permissions pq.StringArray `db:"permissions"`
	CreatedAt   time.Time      `db:"created_at"`
	CreatedBy   string         `db:"created_by"`
	Users       int            `db:"users"`
	Tokens      int            `db:"tokens"`
}

func (r roleRow) role() Role {
	role := Role{
		Name: r.Name, Description: r.Description, BuiltIn: r.BuiltIn,
		Users: r.Users, Tokens: r.Tokens, CreatedAt: r.CreatedAt, CreatedBy: r.CreatedBy,
	}
	if r.BuiltIn {
		if builtIn, ok := builtInRole(r.Name); ok {
			role.Description, role.TokensOnly = builtIn.Description, builtIn.TokensOnly
			role.Permissions = permissionNames(builtIn.Permissions)
		}
		return role
	}
	for _, name := range r.Permissions {
		if _, err := access.ParsePermission(name); err != nil {
			role.Unknown = append(role.Unknown, name)
		} else {
			role.Permissions = append(role.Permissions, name)
		}
	}
	slices.Sort(role.Permissions)
	return role
}

const listRoles = `
select r.name, r.built_in, r.description, r.permissions, r.created_at, r.created_by,
  (select count(distinct b.user_id) from rgw.bindings b join rgw.users u on u.id = b.user_id and u.removed_at is null
    where b.role = r.name) as users,
  (select count(distinct b.token_id) from rgw.bindings b join rgw.tokens t on t.id = b.token_id and t.revoked_at is null and t.expires_at > $2
    where b.role = r.name) as tokens
from rgw.roles r
where $1 = '' or r.name = $1
order by r.built_in desc, r.name collate "C"`

// ListRoles returns all roles, the built-in ones first and in the order in which they grow.
func (r *Reader) ListRoles(ctx context.Context) ([]Role, error) {
	var roles []Role
	err := r.view(ctx, func(tx *readTx) error {
		var rows []roleRow
		if err := tx.sel(ctx, &rows, listRoles, "", tx.now); err != nil {
			return wrap("listing roles", err)
		}
		for _, row := range rows {
			roles = append(roles, row.role())
		}
		order := map[string]int{}
		for i, builtIn := range access.BuiltinRoles() {
			order[builtIn.Name] = i - len(access.BuiltinRoles())
		}
		slices.SortStableFunc(roles, func(a, b Role) int { return order[a.Name] - order[b.Name] })
		return nil
	})
	return roles, err
}

// Role finds one role by name.
func (r *Reader) Role(ctx context.Context, name string) (Role, error) {
	var role Role
	err := r.view(ctx, func(tx *readTx) (err error) {
		role, err = tx.role(ctx, name)
		return err
	})
	return role, err
}

func (tx *readTx) role(ctx context.Context, name string) (Role, error) {
	if err := checkRoleName(name); err != nil {
		return Role{}, err
	}
	var row roleRow
	if found, err := tx.get(ctx, &row, listRoles, name, tx.now); err != nil {
		return Role{}, wrap("finding a role", err)
	} else if !found {
		return Role{}, notFound("no-such-role", "there is no role %s: list the roles to see which there are", name)
	}
	return row.role(), nil
}

// NewRole is a custom role, to be made or to be put in the place of the one with its name.
type NewRole struct {
	Name        string
	Description string
	Permissions []string // scope:resource:action, without wildcards
}

const insertRole = `
insert into rgw.roles (name, built_in, description, permissions, created_at, created_by) values ($1, false, $2, $3, $4, $5)`

// CreateRole makes a custom role.
func (w *Writer) CreateRole(ctx context.Context, by Actor, role NewRole) (Role, error) {
	description, permissions, err := checkRole(role)
	if err != nil {
		return Role{}, err
	}
	var made Role
	err = w.change(ctx, by, attempt{action: "role.create", resource: role.Name}, func(tx *writeTx) error {
		if _, err := tx.role(ctx, role.Name); err == nil {
			return conflict("role-exists", "there is a role %s already: edit it, or choose another name", role.Name)
		} else if CodeOf(err) != "no-such-role" {
			return err
		}
		if err := tx.mayGive(ctx, grantOf(permissions)); err != nil {
			return err
		}
		if _, err := tx.exec(ctx, insertRole, role.Name, description, pq.Array(permissions), tx.now, tx.by.Label); err != nil {
			return wrap("making a role", err)
		}
		tx.record(change{
			action: "role.create", resource: role.Name,
			params: []string{"description", description, "permissions", strings.Join(permissions, " ")},
		})
		made, err = tx.role(ctx, role.Name)
		return err
	})
	if err != nil {
		return Role{}, err
	}
	return made, nil
}

const updateRole = `
update rgw.roles set description = $2, permissions = $3 where name = $1 and not built_in`

// RoleEdit says what of a custom role shall change; what is nil stays.
type RoleEdit struct {
	Description *string
	Permissions *[]string // exactly these
	Add, Remove []string  // beside, or instead of, Permissions
}

// EditRole changes a custom role, for everybody who has it and at once.
func (w *Writer) EditRole(ctx context.Context, by Actor, name string, edit RoleEdit) (Role, error) {
	if err := checkRoleName(name); err != nil {
		return Role{}, err
	}
	for _, list := range [][]string{edit.Add, edit.Remove} {
		if _, err := checkPermissions(list); err != nil {
			return Role{}, err
		}
	}
	var edited Role
	err := w.change(ctx, by, attempt{action: "role.edit", resource: name}, func(tx *writeTx) error {
		old, err := tx.customRole(ctx, name)
		if err != nil {
			return err
		}
		want := NewRole{Name: name, Description: old.Description, Permissions: slices.Clone(old.Permissions)}
		if edit.Description != nil {
			want.Description = *edit.Description
		}
		if edit.Permissions != nil {
			want.Permissions = slices.Clone(*edit.Permissions)
		}
		want.Permissions = append(want.Permissions, edit.Add...)
		for _, permission := range edit.Remove {
			if !slices.Contains(want.Permissions, permission) {
				return conflict("not-in-role", "role %s does not have %s: there is nothing to take", name, permission)
			}
			want.Permissions = slices.DeleteFunc(want.Permissions, func(p string) bool { return p == permission })
		}
		description, permissions, err := checkRole(want)
		if err != nil {
			return err
		}
		var given, taken []string
		for _, p := range permissions {
			if !slices.Contains(old.Permissions, p) {
				given = append(given, p)
			}
		}
		for _, p := range append(slices.Clone(old.Permissions), old.Unknown...) {
			if !slices.Contains(permissions, p) {
				taken = append(taken, p)
			}
		}
		if len(given)+len(taken) == 0 && description == old.Description {
			return conflict("no-change", "role %s is so already", name)
		}
		if err := tx.mayGive(ctx, grantOf(given)); err != nil {
			return err
		}
		if _, err := tx.exec(ctx, updateRole, name, description, pq.Array(permissions)); err != nil {
			return wrap("editing a role", err)
		}
		params := []string{"given", strings.Join(given, " "), "taken", strings.Join(taken, " ")}
		if description != old.Description {
			params = append(params, "old_description", old.Description, "new_description", description)
		}
		tx.record(change{action: "role.edit", resource: name, params: params})
		edited, err = tx.role(ctx, name)
		return err
	})
	if err != nil {
		return Role{}, err
	}
	return edited, nil
}

const deleteRole = `
delete from rgw.roles where name = $1 and not built_in`

const staleBindingsOfRole = `
delete from rgw.bindings b
where b.role = $1 and (
  b.token_id in (select t.id from rgw.tokens t where t.revoked_at is not null or t.expires_at <= $2)
  or b.user_id in (select u.id from rgw.users u where u.removed_at is not null))`

// DeleteRole deletes a custom role that nobody has.
func (w *Writer) DeleteRole(ctx context.Context, by Actor, name string) error {
	if err := checkRoleName(name); err != nil {
		return err
	}
	return w.change(ctx, by, attempt{action: "role.delete", resource: name}, func(tx *writeTx) error {
		role, err := tx.customRole(ctx, name)
		if err != nil {
			return err
		}
		if role.Users+role.Tokens > 0 {
			return conflict("role-in-use", "role %s is held by %s and %s: take it from them first",
				name, count(role.Users, "user"), count(role.Tokens, "token"))
		}
		// What an ended token could once do is in the events; its binding would only keep the role.
		if _, err := tx.exec(ctx, staleBindingsOfRole, name, tx.now); err != nil {
			return wrap("unbinding ended tokens from a role", err)
		}
		if _, err := tx.exec(ctx, deleteRole, name); err != nil {
			return wrap("deleting a role", err)
		}
		tx.record(change{
			action: "role.delete", resource: name,
			params: []string{"description", role.Description, "permissions", strings.Join(role.Permissions, " ")},
		})
		return nil
	})
}

func (tx *readTx) customRole(ctx context.Context, name string) (Role, error) {
	role, err := tx.role(ctx, name)
	if err == nil && role.BuiltIn {
		return Role{}, refused("built-in-role", "%s is a built-in role, which nobody may change: make a custom role instead", name)
	}
	return role, err
}

func checkRoleName(name string) error {
	ok := len(name) >= 1 && len(name) <= 63 && 'a' <= name[0] && name[0] <= 'z'
	for _, r := range name {
		ok = ok && (r == '-' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9')
	}
	if !ok {
		return invalid("bad-role-name", "%q is not a role's name: use small letters, digits and -, beginning with a letter", clean(name))
	}
	return nil
}

func checkRole(role NewRole) (description string, permissions []string, err error) {
	if err := checkRoleName(role.Name); err != nil {
		return "", nil, err
	}
	if description, err = checkName("description", role.Description, false); err != nil {
		return "", nil, err
	}
	if permissions, err = checkPermissions(role.Permissions); err != nil {
		return "", nil, err
	}
	if len(permissions) == 0 {
		return "", nil, invalid("no-permissions", "a role needs at least one permission: role show admin lists them all")
	}
	return description, permissions, nil
}

// checkPermissions holds each to the list that the program knows, drops repetitions and sorts.
func checkPermissions(names []string) ([]string, error) {
	var list []string
	for _, name := range names {
		if !utf8.ValidString(name) {
			return nil, invalid("bad-permission", "a permission's name is not valid UTF-8")
		}
		permission, err := access.ParsePermission(name)
		if err != nil {
			return nil, invalid("bad-permission", "%s", err)
		}
		if !slices.Contains(list, string(permission)) {
			list = append(list, string(permission))
		}
	}
	slices.Sort(list)
	return list, nil
}
