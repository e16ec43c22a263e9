package adminapi

import (
	"context"

	"rackgateway/pkg/access"
	"rackgateway/pkg/directory"
)

func roleOf(r directory.Role) Role {
	permissions := r.Permissions
	if permissions == nil {
		permissions = []string{}
	}
	return Role{
		Name: r.Name, BuiltIn: r.BuiltIn, Description: r.Description, Permissions: permissions, TokensOnly: r.TokensOnly,
		People: r.Users, Tokens: r.Tokens,
	}
}

// ListRoles lists all roles.
func (a operations) ListRoles(ctx context.Context, _ ListRolesRequestObject) (ListRolesResponseObject, error) {
	roles, err := a.Reader.ListRoles(ctx)
	if err != nil {
		return nil, err
	}
	out := ListRoles200JSONResponse{Items: make([]Role, len(roles))}
	for i, role := range roles {
		out.Items[i] = roleOf(role)
	}
	return out, nil
}

// CreateRole makes a custom role.
func (a operations) CreateRole(ctx context.Context, in CreateRoleRequestObject) (CreateRoleResponseObject, error) {
	role, err := a.Writer.CreateRole(ctx, exchangeIn(ctx).actor(), directory.NewRole{
		Name: in.Body.Name, Description: text(in.Body.Description), Permissions: in.Body.Permissions,
	})
	if err != nil {
		return nil, err
	}
	return CreateRole201JSONResponse(roleOf(role)), nil
}

// GetRole answers with one role.
func (a operations) GetRole(ctx context.Context, in GetRoleRequestObject) (GetRoleResponseObject, error) {
	role, err := a.Reader.Role(ctx, in.RoleName)
	if err != nil {
		return nil, err
	}
	return GetRole200JSONResponse(roleOf(role)), nil
}

// EditRole changes a custom role.
func (a operations) EditRole(ctx context.Context, in EditRoleRequestObject) (EditRoleResponseObject, error) {
	role, err := a.Writer.EditRole(ctx, exchangeIn(ctx).actor(), in.RoleName, directory.RoleEdit{
		Description: in.Body.Description, Permissions: &in.Body.Permissions,
	})
	if err != nil {
		return nil, err
	}
	return EditRole200JSONResponse(roleOf(role)), nil
}

// DeleteRole deletes a custom role.
func (a operations) DeleteRole(ctx context.Context, in DeleteRoleRequestObject) (DeleteRoleResponseObject, error) {
	if err := a.Writer.DeleteRole(ctx, exchangeIn(ctx).actor(), in.RoleName); err != nil {
		return nil, err
	}
	return DeleteRole204Response{}, nil
}

// ListPermissions lists every permission there is.
func (a operations) ListPermissions(context.Context, ListPermissionsRequestObject) (ListPermissionsResponseObject, error) {
	out := ListPermissions200JSONResponse{Items: []string{}}
	for _, permission := range access.Permissions() {
		out.Items = append(out.Items, string(permission))
	}
	return out, nil
}
