package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"rackgateway/pkg/directory"
)

type userCmds struct {
	Add    userAddCmd    `cmd:"" help:"Add a user."`
	List   userListCmd   `cmd:"" help:"List users."`
	Lock   userLockCmd   `cmd:"" help:"Take everything from a user at once, until unlocked: sessions and tokens stop."`
	Unlock userUnlockCmd `cmd:"" help:"Give a locked user back what they had."`
	Remove userRemoveCmd `cmd:"" help:"Remove a user for good; the record keeps the name."`
	Role   userRoleCmd   `cmd:"" help:"Show or change what a user may do."`
}

// userView is a user as --json shows one.
type userView struct {
	ID           string        `json:"id"`
	Email        string        `json:"email"`
	Name         string        `json:"name"`
	State        string        `json:"state"`
	Roles        []bindingView `json:"roles"`
	LockedAt     *time.Time    `json:"locked_at,omitempty"`
	LockedReason string        `json:"locked_reason,omitempty"`
	RemovedAt    *time.Time    `json:"removed_at,omitempty"`
	SignedInAt   *time.Time    `json:"signed_in_at,omitempty"`
	CreatedAt    time.Time     `json:"created_at"`
	CreatedBy    string        `json:"created_by"`
}

type bindingView struct {
	Role string `json:"role"`
	App  string `json:"app"`
}

func viewBindings(bindings []directory.Binding) []bindingView {
	views := make([]bindingView, len(bindings))
	for i, b := range bindings {
		views[i] = bindingView{Role: b.Role, App: b.App}
	}
	return views
}

func viewUser(u directory.User) userView {
	return userView{
		ID: u.ID.String(), Email: u.Email, Name: u.Name, State: userState(u), Roles: viewBindings(u.Bindings),
		LockedAt: u.LockedAt, LockedReason: u.LockedReason, RemovedAt: u.RemovedAt, SignedInAt: u.SignedInAt,
		CreatedAt: u.CreatedAt, CreatedBy: u.CreatedBy,
	}
}

func userState(u directory.User) string {
	switch {
	case u.RemovedAt != nil:
		return "removed"
	case u.LockedAt != nil:
		return "locked"
	}
	return "active"
}

func bindingTexts(bindings []directory.Binding) string {
	texts := make([]string, len(bindings))
	for i, b := range bindings {
		texts[i] = b.String()
	}
	return strings.Join(texts, ", ")
}

// parseBindings reads what --role and the like were given: each ROLE or ROLE@APP.
func parseBindings(texts []string) ([]directory.Binding, error) {
	var bindings []directory.Binding
	for _, text := range texts {
		b, err := directory.ParseBinding(text)
		if err != nil {
			return nil, err
		}
		bindings = append(bindings, b)
	}
	return bindings, nil
}

type userAddCmd struct {
	output
	Email []string `arg:"" help:"E-mail address, by which the identity provider knows the person; several are added together or not at all."`
	Name  string   `help:"Display name." placeholder:"NAME"`
	Role  []string `sep:"none" help:"Role to give, over all apps or over those that a pattern matches; may be repeated." placeholder:"ROLE[@APP]"`
}

func (userAddCmd) Help() string {
	return `Examples:
  admin user add ana@example.com --name "Ana Álvarez" --role admin
  admin user add dan@example.com --role deployer@web --role viewer`
}

func (c *userAddCmd) Run(ctx context.Context, p *process) error {
	if c.Name != "" && len(c.Email) > 1 {
		return usageError("--name names one person: add them one at a time")
	}
	bindings, err := parseBindings(c.Role)
	if err != nil {
		return err
	}
	people := make([]directory.NewUser, len(c.Email))
	for i, email := range c.Email {
		people[i] = directory.NewUser{Email: email, Name: c.Name, Bindings: bindings}
	}
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		added, err := w.AddUsers(ctx, by, people)
		if err != nil {
			return err
		}
		views := make([]userView, len(added))
		var text strings.Builder
		for i, u := range added {
			views[i] = viewUser(u)
			fmt.Fprintf(&text, "Added %s: %s.\n", u.Email, orNothing(bindingTexts(u.Bindings)))
		}
		return c.say(p, views, "%s", text.String())
	})
}

func orNothing(roles string) string {
	if roles == "" {
		return "may do nothing yet (give a role with user role)"
	}
	return roles
}

type userListCmd struct {
	Search  string `help:"Words of the address or name, or how they begin." placeholder:"TEXT"`
	Role    string `help:"Only those who have this role." placeholder:"ROLE"`
	Locked  bool   `help:"Only those who are locked."`
	Removed bool   `help:"Those who were removed, too."`
	output
}

func (c *userListCmd) Run(ctx context.Context, p *process) error {
	return p.reading(ctx, func(r *directory.Reader) error {
		filter := directory.UserFilter{Search: c.Search, Role: c.Role, Removed: c.Removed, Limit: 1000}
		if c.Locked {
			filter.Locked = &c.Locked
		}
		users, err := everyPage(func(after string) (directory.Page[directory.User], error) {
			filter.After = after
			return r.ListUsers(ctx, filter)
		})
		if err != nil {
			return err
		}
		if c.JSON {
			views := make([]userView, len(users))
			for i, u := range users {
				views[i] = viewUser(u)
			}
			return writeJSON(p.stdout, views)
		}
		if len(users) == 0 {
			fmt.Fprintln(p.stderr, "No users match.")
			return nil
		}
		t := newTable("ADDRESS", "NAME", "STATE", "ROLES", "SIGNED IN", "ADDED")
		for _, u := range users {
			state := userState(u)
			if u.LockedAt != nil {
				state += ": " + u.LockedReason
			}
			t.add(u.Email, u.Name, state, bindingTexts(u.Bindings), when(u.SignedInAt, p.now()), when(&u.CreatedAt, p.now()))
		}
		return t.write(p.stdout)
	})
}

// everyPage follows the cursors of a list to its end.
func everyPage[T any](list func(after string) (directory.Page[T], error)) ([]T, error) {
	var all []T
	after := ""
	for {
		page, err := list(after)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Next == "" {
			return all, nil
		}
		after = page.Next
	}
}

type userLockCmd struct {
	output
	Email  string `arg:"" help:"The user."`
	Reason string `required:"" help:"Why; recorded, and shown to the user." placeholder:"TEXT"`
}

func (userLockCmd) Help() string {
	return `Example:
  admin user lock dan@example.com --reason "laptop stolen"`
}

func (c *userLockCmd) Run(ctx context.Context, p *process) error {
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		u, err := w.Lock(ctx, by, c.Email, c.Reason)
		if err != nil {
			return err
		}
		return c.say(p, viewUser(u), "Locked %s: sessions and tokens stop now.\n", u.Email)
	})
}

type userUnlockCmd struct {
	output
	Email string `arg:"" help:"The user."`
}

func (c *userUnlockCmd) Run(ctx context.Context, p *process) error {
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		u, err := w.Unlock(ctx, by, c.Email)
		if err != nil {
			return err
		}
		return c.say(p, viewUser(u), "Unlocked %s: %s.\n", u.Email, orNothing(bindingTexts(u.Bindings)))
	})
}

type userRemoveCmd struct {
	output
	Email string `arg:"" help:"The user."`
}

func (c *userRemoveCmd) Run(ctx context.Context, p *process) error {
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		u, err := w.Remove(ctx, by, c.Email)
		if err != nil {
			return err
		}
		return c.say(p, viewUser(u), "Removed %s: roles are taken, and the tokens that %s owned are revoked.\n", u.Email, u.Email)
	})
}

type userRoleCmd struct {
	Email  string   `arg:"" help:"The user."`
	Set    []string `sep:"none" help:"Have exactly these." placeholder:"ROLE[@APP]"`
	Add    []string `sep:"none" help:"Have these too." placeholder:"ROLE[@APP]"`
	Remove []string `sep:"none" help:"No longer have these." placeholder:"ROLE[@APP]"`
	None   bool     `help:"Have no role at all."`
	output
}

func (userRoleCmd) Help() string {
	return `Without a flag, shows what the user has.

Examples:
  admin user role dan@example.com
  admin user role dan@example.com --set deployer@web --set viewer
  admin user role dan@example.com --add ops@worker-* --remove viewer`
}

func (c *userRoleCmd) Run(ctx context.Context, p *process) error {
	set, err := parseBindings(c.Set)
	if err != nil {
		return err
	}
	add, err := parseBindings(c.Add)
	if err != nil {
		return err
	}
	remove, err := parseBindings(c.Remove)
	if err != nil {
		return err
	}
	ways := 0
	for _, used := range []bool{len(set) > 0, len(add)+len(remove) > 0, c.None} {
		if used {
			ways++
		}
	}
	switch ways {
	case 0:
		return p.reading(ctx, func(r *directory.Reader) error {
			u, err := r.User(ctx, c.Email)
			if err != nil {
				return err
			}
			return c.showRoles(p, u)
		})
	case 1:
		return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
			var u directory.User
			var err error
			if len(add)+len(remove) > 0 {
				u, err = w.EditRoles(ctx, by, c.Email, add, remove)
			} else {
				u, err = w.SetRoles(ctx, by, c.Email, set)
			}
			if err != nil {
				return err
			}
			return c.showRoles(p, u)
		})
	}
	return usageError("use --set, or --add and --remove, or --none: not several of them")
}

func (c *userRoleCmd) showRoles(p *process, u directory.User) error {
	return c.say(p, viewUser(u), "%s: %s\n", u.Email, orNothing(bindingTexts(u.Bindings)))
}
