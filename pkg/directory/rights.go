package directory

import (
	"context"
	"slices"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"rackgateway/pkg/access"
	"rackgateway/pkg/credential"
)

// mayGiveToUser refuses roles that are not there or not for people, and those that the actor has not got.
func (tx *writeTx) mayGiveToUser(ctx context.Context, bindings []Binding) error {
	for _, b := range bindings {
		if role, ok := builtInRole(b.Role); ok && role.TokensOnly {
			return refused("role-for-tokens-only", "the role %s is for API tokens only: give it to a token that this user owns", b.Role)
		}
	}
	grants, err := tx.grants(ctx, bindings)
	if err != nil {
		return err
	}
	return tx.mayGive(ctx, grants...)
}

// mayGiveToToken refuses roles that are not there, and what the actor has not got.
func (tx *writeTx) mayGiveToToken(ctx context.Context, bindings []Binding, permissions []string) error {
	grants, err := tx.grants(ctx, bindings)
	if err != nil {
		return err
	}
	if len(permissions) > 0 {
		grants = append(grants, grantOf(permissions))
	}
	return tx.mayGive(ctx, grants...)
}

// mayGive refuses what the actor has not got, so that nobody can raise themself by way of a friend, a token or
// a role. The gateway's own command line is not bounded.
func (tx *writeTx) mayGive(ctx context.Context, grants ...access.Grant) error {
	if tx.by.User == uuid.Nil && tx.by.Token == uuid.Nil {
		return nil
	}
	bounds, err := tx.bounds(ctx)
	if err != nil {
		return err
	}
	for _, wanted := range grants {
		for permission := range wanted.Permissions.All() {
			for _, held := range bounds {
				if !holds(held, permission, wanted) {
					return refused("wider-than-yours", "you do not have %s over %s, and nobody can give what they do not have: ask somebody who has it",
						permission, appsOf(wanted.App))
				}
			}
		}
	}
	return nil
}

func appsOf(pattern string) string {
	if pattern == allApps {
		return "all apps"
	}
	return "the apps " + pattern
}

// bounds are the lists of grants that the actor's rights lie within, all of them: a person's own; a token's own
// and those of its creator.
func (tx *writeTx) bounds(ctx context.Context) ([][]access.Grant, error) {
	if tx.by.Token == uuid.Nil {
		grants, err := tx.grantsOfUser(ctx, tx.by.User)
		return [][]access.Grant{grants}, err
	}
	token, err := tx.token(ctx, tx.by.Token.String())
	if err != nil {
		return nil, err
	}
	if token.Kind == credential.CLI {
		grants, err := tx.grantsOfUser(ctx, token.OwnerID)
		return [][]access.Grant{grants}, err
	}
	own, err := tx.grants(ctx, token.Bindings)
	if err != nil {
		return nil, err
	}
	if len(token.Permissions) > 0 {
		own = append(own, grantOf(token.Permissions))
	}
	bounds := [][]access.Grant{own}
	if token.CreatorID != uuid.Nil {
		ceiling, err := tx.grantsOfUser(ctx, token.CreatorID)
		if err != nil {
			return nil, err
		}
		bounds = append(bounds, ceiling)
	}
	return bounds, nil
}

// grantsOfUser is what a person may do now; nothing, when they are locked or removed.
func (tx *readTx) grantsOfUser(ctx context.Context, id uuid.UUID) ([]access.Grant, error) {
	user, err := tx.user(ctx, id.String())
	if err != nil || !user.Active() {
		return nil, err
	}
	return tx.grants(ctx, user.Bindings)
}

const permissionsOfRoles = `
select r.name, r.built_in, r.permissions from rgw.roles r where r.name = any($1)`

// grants is what bindings give. A role that is not there is an answer for the person who named it.
func (tx *readTx) grants(ctx context.Context, bindings []Binding) ([]access.Grant, error) {
	if len(bindings) == 0 {
		return nil, nil
	}
	var names []string
	for _, b := range bindings {
		names = append(names, b.Role)
	}
	var rows []struct {
		Name        string         `db:"name"`
		BuiltIn     bool           `db:"built_in"`
		Permissions pq.StringArray `db:"permissions"`
	}
	if err := tx.sel(ctx, &rows, permissionsOfRoles, pq.Array(names)); err != nil {
		return nil, wrap("reading roles", err)
	}
	roles := make(map[string]access.Grant)
	for _, row := range rows {
		grant := grantOf(row.Permissions)
		if row.BuiltIn {
			builtIn, _ := builtInRole(row.Name)
			grant.Permissions, grant.OwnProcessesOnly = builtIn.Permissions, builtIn.OwnProcessesOnly
		}
		grant.Role = row.Name
		roles[row.Name] = grant
	}
	grants := make([]access.Grant, 0, len(bindings))
	for _, b := range bindings {
		grant, ok := roles[b.Role]
		if !ok {
			return nil, notFound("no-such-role", "there is no role %s: list the roles to see which there are", b.Role)
		}
		grant.App = b.App
		grants = append(grants, grant)
	}
	return grants, nil
}

// grantOf is what permissions by name give: all apps, and what belongs to none.
func grantOf(names []string) access.Grant {
	permissions := make([]access.Permission, len(names))
	for i, name := range names {
		permissions[i] = access.Permission(name)
	}
	return access.Grant{Permissions: access.NewPermissionSet(permissions...), App: allApps}
}

// holds reports whether one of the grants held gives the permission over everything that the wanted grant is over.
func holds(held []access.Grant, permission access.Permission, wanted access.Grant) bool {
	return slices.ContainsFunc(held, func(g access.Grant) bool {
		return g.Permissions.Has(permission) && patternCovers(g.App, wanted.App) && (wanted.OwnProcessesOnly || !g.OwnProcessesOnly)
	})
}

// patternCovers reports whether every app that the narrow pattern matches is matched by the wide one: whether the
// wide one matches the narrow one's text. A * in that text is then a letter that only a * can match, which is
// exact: it stands for any text, so for one with a letter that the wide pattern does not name.
func patternCovers(wide, narrow string) bool { return access.PatternMatch(wide, narrow) }

func builtInRole(name string) (access.Role, bool) {
	for _, role := range access.BuiltinRoles() {
		if role.Name == name {
			return role, true
		}
	}
	return access.Role{}, false
}

func permissionNames(set access.PermissionSet) []string {
	var names []string
	for permission := range set.All() {
		names = append(names, string(permission))
	}
	return names
}
