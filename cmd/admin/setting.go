package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"rackgateway/pkg/directory"
)

type settingCmds struct {
	List  settingListCmd  `cmd:"" help:"List every setting with the value in force and where it comes from."`
	Get   settingGetCmd   `cmd:"" help:"Print the value of one setting, alone."`
	Set   settingSetCmd   `cmd:"" help:"Give a setting a value, at once and everywhere."`
	Unset settingUnsetCmd `cmd:"" help:"Go back to the environment's value, or to the default."`
}

// settingView is a setting as --json shows one.
type settingView struct {
	Key         string          `json:"key"`
	Value       json.RawMessage `json:"value"`
	Source      string          `json:"source"`
	Default     json.RawMessage `json:"default"`
	Unit        string          `json:"unit,omitempty"`
	Description string          `json:"description"`
	UpdatedAt   *time.Time      `json:"updated_at,omitempty"`
	UpdatedBy   string          `json:"updated_by,omitempty"`
	Ignored     string          `json:"ignored,omitempty"`
}

func viewSetting(s directory.Setting) settingView {
	return settingView{
		Key: s.Key, Value: s.Value, Source: string(s.Source), Default: s.DefaultJSON(), Unit: s.Unit, Description: s.Description,
		UpdatedAt: s.UpdatedAt, UpdatedBy: s.UpdatedBy, Ignored: s.Ignored,
	}
}

type settingListCmd struct {
	JSON bool `help:"As JSON."`
}

func (c *settingListCmd) Run(ctx context.Context, p *process) error {
	return p.reading(ctx, func(r *directory.Reader) error {
		settings, err := r.ListSettings(ctx)
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
			changed := when(s.UpdatedAt, p.now())
			if s.UpdatedBy != "" {
				changed += " by " + s.UpdatedBy
			}
			t.add(s.Key, string(s.Value), string(s.Source), changed, s.Description)
			if s.Ignored != "" {
				fmt.Fprintf(p.stderr, "admin: warning: the database's value of %s is ignored: %s\n", s.Key, s.Ignored)
			}
		}
		return t.write(p.stdout)
	})
}

type settingGetCmd struct {
	Key  string `arg:"" help:"The setting."`
	JSON bool   `help:"With everything about it, as JSON."`
}

func (c *settingGetCmd) Run(ctx context.Context, p *process) error {
	return p.reading(ctx, func(r *directory.Reader) error {
		s, err := r.Setting(ctx, c.Key)
		if err != nil {
			return err
		}
		if c.JSON {
			return writeJSON(p.stdout, viewSetting(s))
		}
		_, err = fmt.Fprintln(p.stdout, string(s.Value))
		return err
	})
}

type settingSetCmd struct {
	Key   string `arg:"" help:"The setting."`
	Value string `arg:"" help:"Its value: true, false or a whole number."`
}

func (settingSetCmd) Help() string {
	return `Examples:
  admin setting set allow_destructive true
  admin setting set api_token_days 30`
}

func (c *settingSetCmd) Run(ctx context.Context, p *process) error {
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		s, err := w.SetSetting(ctx, by, c.Key, json.RawMessage(c.Value))
		if err != nil {
			return err
		}
		return p.showSetting(s)
	})
}

type settingUnsetCmd struct {
	Key string `arg:"" help:"The setting."`
}

func (c *settingUnsetCmd) Run(ctx context.Context, p *process) error {
	return p.writing(ctx, func(w *directory.Writer, by directory.Actor) error {
		s, err := w.UnsetSetting(ctx, by, c.Key)
		if err != nil {
			return err
		}
		return p.showSetting(s)
	})
}

func (p *process) showSetting(s directory.Setting) error {
	_, err := fmt.Fprintf(p.stdout, "%s is %s (%s).\n", s.Key, s.Value, s.Source)
	return err
}
