package adminapi

import (
	"context"

	"rackgateway/pkg/directory"
)

func userOf(u directory.User) User {
	return User{
		Id: u.ID, Email: u.Email, Name: u.Name, Bindings: bindingsOf(u.Bindings),
		LockedAt: u.LockedAt, LockedReason: some(u.LockedReason), RemovedAt: u.RemovedAt, SignedInAt: u.SignedInAt,
		CreatedAt: u.CreatedAt, CreatedBy: u.CreatedBy,
	}
}

// ListUsers lists people.
func (a operations) ListUsers(ctx context.Context, in ListUsersRequestObject) (ListUsersResponseObject, error) {
	page, err := a.Reader.ListUsers(ctx, directory.UserFilter{
		Search: text(in.Params.Search), Role: text(in.Params.Role), Locked: in.Params.Locked, Removed: in.Params.Removed != nil && *in.Params.Removed,
		Limit: limitOf(in.Params.Limit), After: text(in.Params.Cursor),
	})
	if err != nil {
		return nil, err
	}
	out := ListUsers200JSONResponse{Items: make([]User, len(page.Items)), Next: next(page.Next)}
	for i, user := range page.Items {
		out.Items[i] = userOf(user)
	}
	return out, nil
}

// AddUser adds a person.
func (a operations) AddUser(ctx context.Context, in AddUserRequestObject) (AddUserResponseObject, error) {
	users, err := a.Writer.AddUsers(ctx, exchangeIn(ctx).actor(), []directory.NewUser{{
		Email: in.Body.Email, Name: text(in.Body.Name), Bindings: bindingsFrom(in.Body.Bindings),
	}})
	if err != nil {
		return nil, err
	}
	return AddUser201JSONResponse(userOf(users[0])), nil
}

// GetUser answers with one person, one who was removed too.
func (a operations) GetUser(ctx context.Context, in GetUserRequestObject) (GetUserResponseObject, error) {
	user, err := a.Reader.User(ctx, in.UserId.String())
	if err != nil {
		return nil, err
	}
	return GetUser200JSONResponse(userOf(user)), nil
}

// RemoveUser removes a person.
func (a operations) RemoveUser(ctx context.Context, in RemoveUserRequestObject) (RemoveUserResponseObject, error) {
	if _, err := a.Writer.Remove(ctx, exchangeIn(ctx).actor(), in.UserId.String()); err != nil {
		return nil, err
	}
	return RemoveUser204Response{}, nil
}

// LockUser locks a person.
func (a operations) LockUser(ctx context.Context, in LockUserRequestObject) (LockUserResponseObject, error) {
	user, err := a.Writer.Lock(ctx, exchangeIn(ctx).actor(), in.UserId.String(), in.Body.Reason)
	if err != nil {
		return nil, err
	}
	return LockUser200JSONResponse(userOf(user)), nil
}

// UnlockUser unlocks a person.
func (a operations) UnlockUser(ctx context.Context, in UnlockUserRequestObject) (UnlockUserResponseObject, error) {
	user, err := a.Writer.Unlock(ctx, exchangeIn(ctx).actor(), in.UserId.String())
	if err != nil {
		return nil, err
	}
	return UnlockUser200JSONResponse(userOf(user)), nil
}

// SetUserBindings makes a person's roles exactly those given.
func (a operations) SetUserBindings(ctx context.Context, in SetUserBindingsRequestObject) (SetUserBindingsResponseObject, error) {
	user, err := a.Writer.SetRoles(ctx, exchangeIn(ctx).actor(), in.UserId.String(), bindingsFrom(&in.Body.Bindings))
	if err != nil {
		return nil, err
	}
	return SetUserBindings200JSONResponse(userOf(user)), nil
}
