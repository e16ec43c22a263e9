package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/config"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/mfa"
	"rackgateway/pkg/seal"
	"rackgateway/pkg/secret"
)

// newFactors makes what knows second factors. Without keys it can list and reset them.
func newFactors(cfg *config.Admin, writer *directory.Writer, reader *directory.Reader, keys *seal.Keys, log *slog.Logger, now func() time.Time) (*mfa.Service, error) {
	c := mfa.Config{Writer: writer, Reader: reader, Keys: keys, Log: log, Now: now}
	c.Origin = cfg.Server.AdminURL
	if cfg.Rack.Alias != "" {
		c.Issuer = cfg.Rack.Organization + "/" + cfg.Rack.Alias
	}
	if cfg.Factors.YubicoClientID != "" {
		key, err := base64.StdEncoding.DecodeString(cfg.Factors.YubicoKey.Reveal())
		if err != nil { // the configuration was checked
			return nil, fmt.Errorf("YUBICO_SECRET_KEY: %w", err)
		}
		c.Yubico = &mfa.Yubico{URL: cfg.Factors.YubicoURL, ClientID: cfg.Factors.YubicoClientID, Key: secret.NewBytes(key)}
	}
	return mfa.New(c)
}

type factorCmds struct {
	List  factorListCmd  `cmd:"" help:"What somebody has of second factors."`
	Reset factorResetCmd `cmd:"" help:"Take all second factors away from somebody, who then adds new ones."`
	Add   factorAddCmd   `cmd:"" help:"Give somebody an authenticator app, and print its secret."`
}

// factorView is a factor as --json shows one.
type factorView struct {
	ID        string     `json:"id"`
	Kind      string     `json:"kind"`
	Name      string     `json:"name"`
	CreatedAt time.Time  `json:"created_at"`
	UsedAt    *time.Time `json:"used_at,omitempty"`
}

type overviewView struct {
	Email       string       `json:"email"`
	Factors     []factorView `json:"factors"`
	BackupCodes int          `json:"backup_codes_left"`
	LockedUntil *time.Time   `json:"locked_until,omitempty"`
}

type factorListCmd struct {
	Email string `arg:"" help:"Address, or id."`
	JSON  bool   `help:"As JSON."`
}

func (c *factorListCmd) Run(ctx context.Context, p *process) error {
	cfg, err := p.configuration(keyVariable)
	if err != nil {
		return err
	}
	db, err := p.open(ctx, cfg.Database.URL, cfg.Database.Database)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	service, err := newFactors(cfg, nil, directory.NewReader(db, directory.ReaderOptions{Defaults: cfg.Settings.Defaults, Now: p.now}), nil, nil, p.now)
	if err != nil {
		return err
	}
	overview, err := service.List(ctx, c.Email)
	if err != nil {
		return err
	}
	return p.showFactors(overview, c.JSON)
}

func (p *process) showFactors(o mfa.Overview, asJSON bool) error {
	view := overviewView{Email: o.Email, Factors: []factorView{}, BackupCodes: o.BackupCodes, LockedUntil: o.LockedUntil}
	for _, f := range o.Factors {
		view.Factors = append(view.Factors, factorView{ID: f.ID.String(), Kind: string(f.Kind), Name: f.Name, CreatedAt: f.CreatedAt, UsedAt: f.UsedAt})
	}
	if asJSON {
		return writeJSON(p.stdout, view)
	}
	if len(view.Factors) == 0 {
		fmt.Fprintf(p.stdout, "%s has no second factor.\n", o.Email)
		return nil
	}
	for _, f := range view.Factors {
		used := "never used"
		if f.UsedAt != nil {
			used = "last used " + f.UsedAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(p.stdout, "%s  %s  %s  (%s)\n", f.ID, f.Kind, f.Name, used)
	}
	fmt.Fprintf(p.stdout, "Backup codes left: %d.\n", o.BackupCodes)
	if o.LockedUntil != nil {
		fmt.Fprintf(p.stdout, "A session checks no factors until %s.\n", o.LockedUntil.UTC().Format(time.RFC3339))
	}
	return nil
}

type factorResetCmd struct {
	Email string `arg:"" help:"Address, or id."`
	JSON  bool   `help:"As JSON."`
}

func (factorResetCmd) Help() string {
	return `For somebody who has lost what they had, when no administrator can do it in the console. Backup codes, trusted browsers, locks and what was approved go too. It is recorded.`
}

func (c *factorResetCmd) Run(ctx context.Context, p *process) error {
	cfg, err := p.configuration()
	if err != nil {
		return err
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		service, err := p.factorService(cfg, db, key, nil)
		if err != nil {
			return err
		}
		overview, err := service.Reset(ctx, by, c.Email)
		if err != nil {
			return err
		}
		if c.JSON {
			return p.showFactors(overview, true)
		}
		fmt.Fprintf(p.stdout, "%s has no second factor any more, and adds one at the next sign-in.\n", c.Email)
		return nil
	})
}

func (p *process) factorService(cfg *config.Admin, db *sqlx.DB, key audit.Key, keys *seal.Keys) (*mfa.Service, error) {
	return newFactors(cfg,
		directory.NewWriter(db, key, directory.WriterOptions{Defaults: cfg.Settings.Defaults, Now: p.now}),
		directory.NewReader(db, directory.ReaderOptions{Defaults: cfg.Settings.Defaults, Now: p.now}), keys, nil, p.now)
}

type factorAddCmd struct {
	Email string `arg:"" help:"Address, or id."`
	Name  string `default:"Authenticator app" help:"What the factor is called." placeholder:"NAME"`
	JSON  bool   `help:"As JSON, with the secret by itself."`
}

func (factorAddCmd) Help() string {
	return `Prints the address (otpauth:) that an authenticator app takes, once. It is for a trial, and for somebody who has to be let in again; otherwise people add their own, at /login/u2f. It needs APP_SECRET_KEY, and is recorded.`
}

func (c *factorAddCmd) Run(ctx context.Context, p *process) error {
	cfg, _, err := config.LoadAdminServe(p.environ)
	if err := onlyAbout(err, keyVariable, databaseVariable, "APP_SECRET_KEY", "APP_SECRET_KEY_PREVIOUS"); err != nil {
		return err
	}
	keys, err := seal.NewKeys(cfg.Secrets.AppKey, cfg.Secrets.AppKeyPrevious)
	if err != nil {
		return err
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		service, err := p.factorService(cfg, db, key, &keys)
		if err != nil {
			return err
		}
		e, err := service.AddTOTP(ctx, by, c.Email, c.Name)
		if err != nil {
			return err
		}
		if c.JSON {
			return writeJSON(p.stdout, struct {
				ID     string `json:"id"`
				Secret string `json:"secret"`
				URI    string `json:"uri"`
			}{e.ID.String(), e.Secret.Reveal(), e.URI.Reveal()})
		}
		fmt.Fprintln(p.stdout, e.URI.Reveal())
		return nil
	})
}

// onlyAbout leaves of the mistakes in a configuration those about the variables that a command needs.
func onlyAbout(err error, names ...string) error {
	var mistakes *config.MistakesError
	if !errors.As(err, &mistakes) {
		return err
	}
	var left []config.Mistake
	for _, m := range mistakes.Mistakes {
		for _, name := range names {
			if m.Name == name {
				left = append(left, m)
			}
		}
	}
	if len(left) == 0 {
		return nil
	}
	return &config.MistakesError{Program: mistakes.Program, Mistakes: left}
}
