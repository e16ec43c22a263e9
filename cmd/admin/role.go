package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"rackgateway/pkg/directory"
)

type roleCmds struct {
	List   roleListCmd   `cmd:"" help:"List roles."`
	Show   roleShowCmd   `cmd:"" help:"Show what a role may do."`
	Create roleCreateCmd `cmd:"" help:"Make a role of your own."`
	Edit   roleEditCmd   `cmd:"" help:"Change a role of your own, for everybody who has it, at once."`
	Delete roleDeleteCmd `cmd:"" help:"Delete a role of your own that nobody has."`
}

// roleView is a role as --json shows one.
type roleView struct {
	Name        string     `json:"name"`
	Description string     `json:"description"`
	BuiltIn     bool       `json:"built_in"`
	TokensOnly  bool       `json:"tokens_only,omitempty"`
	Permissions []string   `json:"permissions"`
	Unknown     []string   `json:"unknown_permissions,omitempty"`
	Users       int        `json:"users"`
	Tokens      int        `json:"tokens"`
	CreatedAt   *time.Time `json:"created_at,omitempty"`
	CreatedBy   string     `json:"created_by,omitempty"`
}

func viewRole(r directory.Role) roleView {
	v := roleView{
		Name: r.Name, Description: r.Description, BuiltIn: r.BuiltIn, TokensOnly: r.TokensOnly,
		Permissions: r.Permissions, Unknown: r.Unknown, Users: r.Users, Tokens: r.Tokens,
	}
	if !r.BuiltIn {
		v.CreatedAt, v.CreatedBy = &r.CreatedAt, r.CreatedBy
	}
	return v
}

type roleListCmd struct {
	output
}

func (c *roleListCmd) Run(ctx context.Context, p *process) error {
	return p.reading(ctx, func(r *directory.Reader) error {
		roles, err := r.ListRoles(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			views := make([]roleView, len(roles))
			for i, role := range roles {
				views[i] = viewRole(role)
			}
			return writeJSON(p.stdout, views)
		}
		t := newTable("ROLE", "KIND", "PERMISSIONS", "USERS", "TOKENS", "DESCRIPTION")
		for _, role := range roles {
			t.add(role.Name, roleKind(role), strconv.Itoa(len(role.Permissions)), strconv.Itoa(role.Users), strconv.Itoa(role.Tokens), role.Description)
		}
		return t.write(p.stdout)
	})
}

func roleKind(r directory.Role) string {
	if r.BuiltIn {
		return "built-in"
	}
	return "custom"
}

type roleShowCmd struct {
	Role string `arg:"" help:"The role."`
	output
}

func (c *roleShowCmd) Run(ctx context.Context, p *process) error {
	return p.reading(ctx, func(r *directory.Reader) error {
		role, err := r.Role(ctx, c.Role)
		if err != nil {
			return err
		}
		return p.showRole(role, c.output)
	})
}

func (p *process) showRole(role directory.Role, as output) error {
	var out strings.Builder
	fmt.Fprintf(&out, "%s (%s): %s\n", role.Name, roleKind(role), visible(role.Description))
	fmt.Fprintf(&out, "Held by %d users and %d tokens.\n", role.Users, role.Tokens)
	if !role.BuiltIn {
		fmt.Fprintf(&out, "Made %s by %s.\n", when(&role.CreatedAt, p.now()), visible(role.CreatedBy))
	}
	for _, permission := range role.Permissions {
		fmt.Fprintf(&out, "  %s\n", permission)
	}
	for _, permission := range role.Unknown {
		fmt.Fprintf(&out, "  %s (not known to this version: gives nothing)\n", visible(permission))
	}
	return as.say(p, viewRole(role), "%s", out.String())
}

type roleCreateCmd struct {
	output
	Role        string   `arg:"" help:"Its name: small letters, digits and -."`
	Permission  []string `required:"" sep:"none" help:"Permission to have, scope:resource:action; may be repeated." placeholder:"PERMISSION"`
	Description string   `help:"What it is for." placeholder:"TEXT"`
}

func (roleCreateCmd) Help() string {
	return `"admin role show admin" lists every permission there is.

Example:
  admin role create reads-secrets --permission convox:secret:read --description "Sees secret values"`
}

func (c *roleCreateCmd) Run(ctx context.Context, p *process) error {
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		role, err := w.CreateRole(ctx, by, directory.NewRole{Name: c.Role, Description: c.Description, Permissions: c.Permission})
		if err != nil {
			return err
		}
		return p.showRole(role, c.output)
	})
}

type roleEditCmd struct {
	output
	Role        string   `arg:"" help:"The role."`
	Permission  []string `sep:"none" help:"Have exactly these." placeholder:"PERMISSION"`
	Add         []string `sep:"none" help:"Have these too." placeholder:"PERMISSION"`
	Remove      []string `sep:"none" help:"No longer have these." placeholder:"PERMISSION"`
	Description *string  `help:"What it is for." placeholder:"TEXT"`
}

func (roleEditCmd) Help() string {
	return `Example:
  admin role edit releaser --add convox:release:promote --remove convox:env:set`
}

func (c *roleEditCmd) Run(ctx context.Context, p *process) error {
	edit := directory.RoleEdit{Description: c.Description, Add: c.Add, Remove: c.Remove}
	if len(c.Permission) > 0 {
		edit.Permissions = &c.Permission
	}
	if len(c.Permission)+len(c.Add)+len(c.Remove) == 0 && c.Description == nil {
		return usageError("say what shall change: --permission, --add, --remove or --description")
	}
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		role, err := w.EditRole(ctx, by, c.Role, edit)
		if err != nil {
			return err
		}
		return p.showRole(role, c.output)
	})
}

type roleDeleteCmd struct {
	output
	Role string `arg:"" help:"The role."`
}

func (c *roleDeleteCmd) Run(ctx context.Context, p *process) error {
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		if err := w.DeleteRole(ctx, by, c.Role); err != nil {
			return err
		}
		return c.say(p, map[string]string{"deleted": c.Role}, "Deleted the role %s.\n", c.Role)
	})
}
