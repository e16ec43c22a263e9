package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"rackgateway/pkg/credential"
	"rackgateway/pkg/directory"
)

type tokenCmds struct {
	Create tokenCreateCmd `cmd:"" help:"Make a token, and print it, alone, on standard output."`
	List   tokenListCmd   `cmd:"" help:"List tokens."`
	Revoke tokenRevokeCmd `cmd:"" help:"End a token for good, with the sessions it has open."`
	Rotate tokenRotateCmd `cmd:"" help:"Give a token a new secret, and print it, alone, on standard output."`
	Rights tokenRightsCmd `cmd:"" help:"Change what an API token may do."`
}

// span is a length of time on the command line: a number with s, m, h, d (24 hours) or w (7 days).
type span time.Duration

// UnmarshalText reads 90d, 24h, 30m and the like.
func (s *span) UnmarshalText(text []byte) error {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	if len(text) > 1 {
		const longest = 100 * 366 * 24 * time.Hour
		n, err := strconv.ParseInt(string(text[:len(text)-1]), 10, 64)
		unit, ok := units[text[len(text)-1]]
		if err == nil && ok && n >= 0 && time.Duration(n) <= longest/unit {
			*s = span(time.Duration(n) * unit)
			return nil
		}
	}
	return errors.New("a length of time is a number with s, m, h, d or w, such as 90d or 24h")
}

// tokenView is a token as --json shows one.
type tokenView struct {
	ID            string        `json:"id"`
	Kind          string        `json:"kind"`
	Name          string        `json:"name"`
	State         string        `json:"state"`
	Owner         string        `json:"owner"`
	Creator       string        `json:"creator,omitempty"`
	Roles         []bindingView `json:"roles,omitempty"`
	Permissions   []string      `json:"permissions,omitempty"`
	Networks      []string      `json:"networks,omitempty"`
	Headless      bool          `json:"headless,omitempty"`
	ExpiresAt     time.Time     `json:"expires_at"`
	IdleSeconds   int64         `json:"idle_seconds,omitempty"`
	RevokedAt     *time.Time    `json:"revoked_at,omitempty"`
	RevokedReason string        `json:"revoked_reason,omitempty"`
	CreatedAt     time.Time     `json:"created_at"`
	CreatedBy     string        `json:"created_by"`
	UsedAt        *time.Time    `json:"used_at,omitempty"`
	UsedFrom      string        `json:"used_from,omitempty"`
	SignInDue     *time.Time    `json:"sign_in_due,omitempty"` // when the owner has to have signed in again
	Secrets       []secretView  `json:"secrets"`
}

type secretView struct {
	Prefix     string     `json:"prefix"`
	LastFour   string     `json:"last_four"`
	ValidUntil *time.Time `json:"valid_until,omitempty"`
}

func viewToken(t directory.Token, now time.Time) tokenView {
	v := tokenView{
		ID: t.ID.String(), Kind: string(t.Kind), Name: t.Name, State: t.State(now), Owner: t.Owner, Creator: t.Creator,
		Permissions: t.Permissions, Headless: t.Headless, ExpiresAt: t.ExpiresAt, IdleSeconds: int64(t.IdleLimit / time.Second),
		RevokedAt: t.RevokedAt, RevokedReason: t.RevokedReason, CreatedAt: t.CreatedAt, CreatedBy: t.CreatedBy, UsedAt: t.UsedAt,
		Roles: viewBindings(t.Bindings), Secrets: []secretView{}, SignInDue: t.SignInDue,
	}
	for _, network := range t.Sources {
		v.Networks = append(v.Networks, network.String())
	}
	if t.UsedFrom.IsValid() {
		v.UsedFrom = t.UsedFrom.String()
	}
	for _, s := range t.Secrets {
		v.Secrets = append(v.Secrets, secretView(s))
	}
	return v
}

// rightsText says what a token may do, for people.
func rightsText(t directory.Token) string {
	switch {
	case t.Kind == credential.CLI:
		return "what the owner may"
	case len(t.Permissions) > 0:
		return strings.Join(t.Permissions, ", ")
	}
	return bindingTexts(t.Bindings)
}

type tokenCreateCmd struct {
	output
	User       string   `help:"CLI token: the person whose it is, and whose rights it has." placeholder:"EMAIL"`
	API        bool     `name:"api" help:"API token: for a pipeline, with rights of its own."`
	Owner      string   `help:"API token: the person who answers for it; it stops when they are locked or removed." placeholder:"EMAIL"`
	Name       string   `required:"" help:"Device or pipeline, as people will recognise it." placeholder:"NAME"`
	Role       []string `sep:"none" help:"API token: role, over all apps or over those that a pattern matches; may be repeated." placeholder:"ROLE[@APP]"`
	Permission []string `sep:"none" help:"API token: permission by name, in place of roles; may be repeated." placeholder:"PERMISSION"`
	CIDR       []string `name:"cidr" sep:"none" help:"API token: network that it may be used from; may be repeated." placeholder:"CIDR"`
	Expires    span     `help:"How long it lives, such as 30d. What the settings allow is the default, and the most." placeholder:"TIME"`
	Headless   bool     `help:"CLI token: the device has no browser."`
}

func (tokenCreateCmd) Help() string {
	return `The token is printed this once: what is kept is its hash.

Examples:
  admin token create --user ana@example.com --name "Ana's laptop"
  admin token create --api --name ci --owner ana@example.com --role cicd@web --expires 90d
  admin token create --api --name backup --owner ana@example.com --permission convox:resource:export --cidr 203.0.113.0/24`
}

func (c *tokenCreateCmd) Run(ctx context.Context, p *process) error {
	want := directory.NewToken{Name: c.Name, Life: time.Duration(c.Expires), Permissions: c.Permission, Headless: c.Headless}
	switch {
	case c.API && c.User != "":
		return usageError("an API token has --owner; --user is for CLI tokens")
	case c.API && c.Owner == "":
		return usageError("an API token needs --owner EMAIL: somebody who answers for it")
	case !c.API && c.Owner != "":
		return usageError("--owner is for API tokens (--api); a CLI token has --user")
	case !c.API && c.User == "":
		return usageError("say whose token it is: --user EMAIL for a person's CLI token, or --api --owner EMAIL for a pipeline's")
	case c.API:
		want.Kind, want.Owner = credential.API, c.Owner
	default:
		want.Kind, want.Owner = credential.CLI, c.User
	}
	var err error
	if want.Bindings, err = parseBindings(c.Role); err != nil {
		return err
	}
	for _, text := range c.CIDR {
		network, err := parseNetwork(text)
		if err != nil {
			return err
		}
		want.Sources = append(want.Sources, network)
	}
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		token, secret, err := w.CreateToken(ctx, by, want)
		if err != nil {
			return err
		}
		return p.handOver(token, secret, c.output)
	})
}

// parseNetwork reads a network, or an address as the network of itself.
func parseNetwork(text string) (netip.Prefix, error) {
	if network, err := netip.ParsePrefix(text); err == nil {
		return network, nil
	}
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		return netip.Prefix{}, usageError(fmt.Sprintf("%q is not a network: write it as 203.0.113.0/24 or 2001:db8::/32", text))
	}
	return netip.PrefixFrom(address, address.BitLen()), nil
}

// issuedView is a token with its text, as --json shows it this once.
type issuedView struct {
	Token  tokenView `json:"token"`
	Secret string    `json:"secret"`
}

// handOver prints the token itself on standard output, alone so that a script can take it, and what to know of it
// on standard error.
func (p *process) handOver(token directory.Token, secret credential.Token, as output) error {
	if err := as.say(p, issuedView{viewToken(token, p.now()), secret.Reveal()}, "%s\n", secret.Reveal()); err != nil {
		return fmt.Errorf("the token was made and could not be printed; rotate it (admin token rotate %s): %w", token.ID, err)
	}
	if as.JSON {
		return nil
	}
	fmt.Fprintf(p.stderr, "Token %s of %s, id %s, may do: %s.\n", visible(token.Name), token.Owner, token.ID, rightsText(token))
	fmt.Fprintf(p.stderr, "It expires %s", when(&token.ExpiresAt, p.now()))
	if token.IdleLimit > 0 {
		fmt.Fprintf(p.stderr, ", or when unused for %d days", token.IdleLimit/(24*time.Hour))
	}
	fmt.Fprintln(p.stderr, ". It cannot be shown again.")
	for _, s := range token.Secrets {
		if s.ValidUntil != nil {
			fmt.Fprintf(p.stderr, "The secret that ends in %s is good until %s.\n", s.LastFour, when(s.ValidUntil, p.now()))
		}
	}
	if token.Kind == credential.CLI {
		fmt.Fprintln(p.stderr, "Use it so: convox login GATEWAY -t TOKEN")
	} else {
		fmt.Fprintln(p.stderr, "Use it so: RACK_URL=https://convox:TOKEN@GATEWAY")
	}
	return nil
}

type tokenListCmd struct {
	User   string `help:"Only those that this person owns." placeholder:"EMAIL"`
	Kind   string `help:"Only those of this kind: cli or api." enum:",cli,api" default:"" placeholder:"KIND"`
	Search string `help:"Words of the name, or how they begin; or how a token begins." placeholder:"TEXT"`
	All    bool   `help:"Those that were revoked or expired, too."`
	output
}

func (c *tokenListCmd) Run(ctx context.Context, p *process) error {
	return p.reading(ctx, func(r *directory.Reader) error {
		filter := directory.TokenFilter{Kind: credential.Kind(c.Kind), Owner: c.User, Search: c.Search, Ended: c.All, Limit: 1000}
		tokens, err := everyPage(func(after string) (directory.Page[directory.Token], error) {
			filter.After = after
			return r.ListTokens(ctx, filter)
		})
		if err != nil {
			return err
		}
		now := p.now()
		if c.JSON {
			views := make([]tokenView, len(tokens))
			for i, t := range tokens {
				views[i] = viewToken(t, now)
			}
			return writeJSON(p.stdout, views)
		}
		if len(tokens) == 0 {
			fmt.Fprintln(p.stderr, "No tokens match.")
			return nil
		}
		table := newTable("ID", "KIND", "NAME", "OWNER", "MAY DO", "STATE", "EXPIRES", "LAST USED", "TOKEN")
		for _, t := range tokens {
			used := when(t.UsedAt, now)
			if t.UsedFrom.IsValid() {
				used += " from " + t.UsedFrom.String()
			}
			shown := ""
			if len(t.Secrets) > 0 {
				shown = t.Secrets[0].Prefix + "…" + t.Secrets[0].LastFour
			}
			table.add(t.ID.String(), string(t.Kind), t.Name, t.Owner, rightsText(t), t.State(now), when(&t.ExpiresAt, now), used, shown)
		}
		return table.write(p.stdout)
	})
}

type tokenRevokeCmd struct {
	output
	Token  string `arg:"" help:"Id, name, or first characters (such as rgw_cli_AbCdEfGh)."`
	Reason string `required:"" help:"Why; recorded." placeholder:"TEXT"`
}

func (tokenRevokeCmd) Help() string {
	return `Example:
  admin token revoke ci --reason "moved to another pipeline"`
}

func (c *tokenRevokeCmd) Run(ctx context.Context, p *process) error {
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		t, err := w.Revoke(ctx, by, c.Token, c.Reason)
		if err != nil {
			return err
		}
		return c.say(p, viewToken(t, p.now()), "Revoked %s of %s, id %s.\n", visible(t.Name), t.Owner, t.ID)
	})
}

type tokenRotateCmd struct {
	output
	Token   string `arg:"" help:"Id, name, or first characters."`
	KeepOld span   `help:"How long the old secret stays good, such as 24h; at most 30d. Without it, the old one ends at once." placeholder:"TIME"`
	Expires span   `help:"New end of the token, so far from now. Without it, the end stays." placeholder:"TIME"`
}

func (tokenRotateCmd) Help() string {
	return `Example:
  admin token rotate ci --keep-old 24h --expires 90d`
}

func (c *tokenRotateCmd) Run(ctx context.Context, p *process) error {
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		token, secret, err := w.Rotate(ctx, by, c.Token, directory.Rotation{KeepOld: time.Duration(c.KeepOld), Life: time.Duration(c.Expires)})
		if err != nil {
			return err
		}
		return p.handOver(token, secret, c.output)
	})
}

type tokenRightsCmd struct {
	output
	Token      string   `arg:"" help:"Id, name, or first characters."`
	Role       []string `sep:"none" help:"Have exactly these roles." placeholder:"ROLE[@APP]"`
	Permission []string `sep:"none" help:"Have exactly these permissions, in place of roles." placeholder:"PERMISSION"`
}

func (tokenRightsCmd) Help() string {
	return `Example:
  admin token rights ci --role cicd@web --role cicd@worker-*`
}

func (c *tokenRightsCmd) Run(ctx context.Context, p *process) error {
	bindings, err := parseBindings(c.Role)
	if err != nil {
		return err
	}
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		t, err := w.SetTokenRights(ctx, by, c.Token, directory.TokenRights{Bindings: bindings, Permissions: c.Permission})
		if err != nil {
			return err
		}
		return c.say(p, viewToken(t, p.now()), "%s may do: %s.\n", visible(t.Name), rightsText(t))
	})
}
