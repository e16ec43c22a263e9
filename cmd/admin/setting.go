package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"rackgateway/pkg/audit"
	"rackgateway/pkg/directory"
)

type settingCmds struct {
	List  settingListCmd  `cmd:"" help:"List every setting with the value in force and where it comes from."`
	Get   settingGetCmd   `cmd:"" help:"Print the value of one setting, alone."`
	Set   settingSetCmd   `cmd:"" help:"Give a setting a value, at once and everywhere."`
	Unset settingUnsetCmd `cmd:"" help:"Go back to the environment's value, or to the default."`

	History settingHistoryCmd `cmd:"" help:"Who changed a setting, when, from what to what."`
}

// appFlag names the app that a setting is about.
type appFlag struct {
	App string `help:"For this app alone, over what holds for the gateway." placeholder:"APP"`
}

// settingView is a setting as --json shows one.
type settingView struct {
	Key         string          `json:"key"`
	App         string          `json:"app,omitempty"`
	Value       json.RawMessage `json:"value"`
	Source      string          `json:"source"`
	Default     json.RawMessage `json:"default"`
	Unit        string          `json:"unit,omitempty"`
	Description string          `json:"description"`
	UpdatedAt   *time.Time      `json:"updated_at,omitempty"`
	UpdatedBy   string          `json:"updated_by,omitempty"`
	Ignored     string          `json:"ignored,omitempty"`
	PerApp      bool            `json:"per_app"`
	Inherited   bool            `json:"inherited,omitempty"` // by an app, from the gateway
	Apps        []settingView   `json:"apps,omitempty"`      // those with values of their own
}

func viewSetting(s directory.Setting) settingView {
	view := settingView{
		Key: s.Key, App: s.App, Value: s.Value, Source: string(s.Source), Default: s.DefaultJSON(), Unit: s.Unit, Description: s.Description,
		UpdatedAt: s.UpdatedAt, UpdatedBy: s.UpdatedBy, Ignored: s.Ignored,
		PerApp: s.PerApp, Inherited: s.Inherited,
	}
	for _, own := range s.Apps {
		view.Apps = append(view.Apps, viewSetting(own))
	}
	return view
}

type settingListCmd struct {
	appFlag
	output
}

func (c *settingListCmd) Run(ctx context.Context, p *process) error {
	return p.reading(ctx, func(r *directory.Reader) error {
		settings, err := r.ListSettings(ctx, c.App)
		if err != nil {
			return err
		}
		if c.JSON {
			views := make([]settingView, len(settings))
			for i, s := range settings {
				views[i] = viewSetting(s)
			}
			return writeJSON(p.stdout, views)
		}
		t := newTable("SETTING", "VALUE", "FROM", "CHANGED", "WHAT IT DOES")
		for _, s := range settings {
			p.addSetting(t, s, s.Key, s.Description)
			for _, own := range s.Apps {
				p.addSetting(t, own, "  of "+own.App, "")
			}
		}
		return t.write(p.stdout)
	})
}

func (p *process) addSetting(t *table, s directory.Setting, name, description string) {
	changed := when(s.UpdatedAt, p.now())
	if s.UpdatedBy != "" {
		changed += " by " + s.UpdatedBy
	}
	t.add(name, string(s.Value), sourceText(s), changed, description)
	if s.Ignored != "" {
		fmt.Fprintf(p.stderr, "admin: warning: the database's value of %s is ignored: %s\n", settingText(s), s.Ignored)
	}
}

// sourceText says where a value comes from.
func sourceText(s directory.Setting) string {
	if s.Inherited {
		return "gateway's " + string(s.Source)
	}
	return string(s.Source)
}

// settingText is how a sentence calls a setting.
func settingText(s directory.Setting) string {
	if s.App != "" {
		return s.Key + " of " + s.App
	}
	return s.Key
}

type settingGetCmd struct {
	appFlag
	Key string `arg:"" help:"The setting."`
	output
}

func (c *settingGetCmd) Run(ctx context.Context, p *process) error {
	return p.reading(ctx, func(r *directory.Reader) error {
		s, err := r.Setting(ctx, c.App, c.Key)
		if err != nil {
			return err
		}
		return c.say(p, viewSetting(s), "%s\n", s.Value)
	})
}

type settingSetCmd struct {
	appFlag
	Key   string `arg:"" help:"The setting."`
	Value string `arg:"" help:"Its value: true, false or a whole number."`
	output
}

func (settingSetCmd) Help() string {
	return `Examples:
  admin setting set allow_destructive true
  admin setting set api_token_days 30
  admin setting set deploy_approvals true --app web

An app's own value, from wherever, counts over the gateway's. "admin setting list" shows which settings apps have values
of their own for.`
}

func (c *settingSetCmd) Run(ctx context.Context, p *process) error {
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		s, err := w.SetSetting(ctx, by, c.App, c.Key, json.RawMessage(c.Value))
		if err != nil {
			return err
		}
		return p.showSetting(s, c.output)
	})
}

type settingUnsetCmd struct {
	appFlag
	Key string `arg:"" help:"The setting."`
	output
}

func (c *settingUnsetCmd) Run(ctx context.Context, p *process) error {
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		s, err := w.UnsetSetting(ctx, by, c.App, c.Key)
		if err != nil {
			return err
		}
		return p.showSetting(s, c.output)
	})
}

func (p *process) showSetting(s directory.Setting, as output) error {
	return as.say(p, viewSetting(s), "%s is %s (%s).\n", settingText(s), s.Value, sourceText(s))
}

type settingHistoryCmd struct {
	appFlag
	Key   string `arg:"" help:"The setting."`
	Limit int    `help:"How many changes at most." default:"100" placeholder:"N"`
	output
}

func (settingHistoryCmd) Help() string {
	return `Without --app the changes for the gateway and for all apps are listed, the newest first.`
}

// settingChange is a change as --json shows one.
type settingChange struct {
	Event     string          `json:"event"`
	At        time.Time       `json:"at"`
	By        string          `json:"by"`
	App       string          `json:"app,omitempty"`
	Old       json.RawMessage `json:"old"`
	OldSource string          `json:"old_source"`
	New       json.RawMessage `json:"new"`
	NewSource string          `json:"new_source"`
}

func (c *settingHistoryCmd) Run(ctx context.Context, p *process) error {
	if c.Limit < 1 || c.Limit > 1000 {
		return usageError("--limit takes a number from 1 to 1000")
	}
	cfg, err := p.configuration(keyVariable)
	if err != nil {
		return err
	}
	db, err := p.open(ctx, cfg.Database.URL, cfg.Database.Database)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	reader := directory.NewReader(db, directory.ReaderOptions{Defaults: cfg.Settings.Defaults, Now: p.now})
	if _, err := reader.Setting(ctx, c.App, c.Key); err != nil {
		return err
	}
	events, _, err := audit.List(ctx, db, audit.Filter{
		Actions: []string{"setting.set", "setting.unset"}, App: c.App, Resource: c.Key, Phase: audit.PhaseFinished, Limit: c.Limit,
	})
	if err != nil {
		return err
	}
	changes := make([]settingChange, len(events))
	t := newTable("TIME", "BY", "APP", "FROM", "TO")
	for i, e := range events {
		changes[i] = settingChange{Event: e.ID.String(), At: e.OccurredAt, By: e.ActorLabel, App: e.App}
		for _, param := range e.Detail.Params {
			switch param.Name {
			case "old":
				changes[i].Old = json.RawMessage(param.Value)
			case "old_source":
				changes[i].OldSource = param.Value
			case "new":
				changes[i].New = json.RawMessage(param.Value)
			case "new_source":
				changes[i].NewSource = param.Value
			}
		}
		of := changes[i]
		t.add(when(&of.At, p.now()), of.By, of.App, fmt.Sprintf("%s (%s)", of.Old, of.OldSource), fmt.Sprintf("%s (%s)", of.New, of.NewSource))
	}
	if c.JSON {
		return writeJSON(p.stdout, changes)
	}
	if len(events) == 0 {
		fmt.Fprintf(p.stderr, "Nobody has changed %s.\n", c.Key)
		return nil
	}
	return t.write(p.stdout)
}
