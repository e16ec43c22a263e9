package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"rackgateway/pkg/config"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/doctor"
)

type doctorCmd struct {
	JSON      bool `help:"As JSON."`
	Elsewhere bool `help:"This machine is none of the gateway's: that it can reach the rack is a fault then."`
}

func (doctorCmd) Help() string {
	return `Goes through the production checklist, line by line: pass, fail, or cannot tell, with what was seen and what to do. It needs the environment of admin serve, and changes nothing but a canary object of its own in the bucket. The exit code is 1 when a line fails.

The console and GET /api/v1/doctor show the same list.`
}

// errUnwell is the answer when a line fails.
var errUnwell = errors.New("not everything is as it should be: see the lines that fail")

// doctorView is the list as --json shows it, and as the API does.
type doctorView struct {
	ExaminedAt time.Time     `json:"examined_at"`
	Passed     int           `json:"passed"`
	Failed     int           `json:"failed"`
	CannotTell int           `json:"cannot_tell"`
	Lines      []doctor.Line `json:"lines"`
}

func (c *doctorCmd) Run(ctx context.Context, p *process) (err error) {
	cfg, report, err := config.LoadAdminServe(p.environ)
	slips := report.Warnings
	var mistakes *config.MistakesError
	if errors.As(err, &mistakes) {
		for _, m := range mistakes.Mistakes {
			if m.Name == databaseVariable { // nothing can be said without
				return &config.MistakesError{Program: mistakes.Program, Mistakes: []config.Mistake{m}}
			}
			slips = append(slips, m.Name+" "+m.What)
		}
	}
	db, err := p.open(ctx, cfg.Database.URL, cfg.Database.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	toProxy, err := transportTrusting(cfg.Upstream.ProxyCAFile)
	if err != nil {
		return fmt.Errorf("PROXY_CA_FILE: %w", err)
	}
	defer toProxy.CloseIdleConnections()
	d := &doctor.Doctor{
		Config: cfg, Slips: slips, DB: db, ToProxy: toProxy, Elsewhere: c.Elsewhere, Now: p.now,
		Setting: settingOf(directory.NewReader(db, directory.ReaderOptions{Defaults: cfg.Settings.Defaults, Now: p.now})),
	}
	view := doctorView{ExaminedAt: p.now().UTC().Truncate(time.Second), Lines: d.Examine(ctx)}
	view.Passed, view.Failed, view.CannotTell = doctor.Count(view.Lines)
	if c.JSON {
		err = writeJSON(p.stdout, view)
	} else {
		err = view.print(p.stdout)
	}
	if err == nil && view.Failed > 0 {
		err = errUnwell
	}
	return err
}

// settingOf is how the checklist reads settings.
func settingOf(reader *directory.Reader) func(context.Context, string) (json.RawMessage, error) {
	return func(ctx context.Context, key string) (json.RawMessage, error) {
		setting, err := reader.Setting(ctx, "", key)
		return setting.Value, err
	}
}

// print writes the list for people.
func (v *doctorView) print(w io.Writer) error {
	var b strings.Builder
	words := map[doctor.Status]string{doctor.Pass: "pass", doctor.Fail: "FAIL", doctor.Unknown: "cannot tell"}
	group := ""
	for _, line := range v.Lines {
		if line.Group != group {
			if group != "" {
				b.WriteByte('\n')
			}
			group = line.Group
			fmt.Fprintln(&b, group)
		}
		fmt.Fprintf(&b, "  %-12s %s\n", words[line.Status], line.Title)
		fmt.Fprintf(&b, "  %-12s   %s\n", "", visible(line.Detail))
		if line.Remedy != "" {
			fmt.Fprintf(&b, "  %-12s   What to do: %s\n", "", line.Remedy)
		}
	}
	fmt.Fprintf(&b, "\n%d pass, %d fail, %d cannot be told from here.\n", v.Passed, v.Failed, v.CannotTell)
	_, err := io.WriteString(w, b.String())
	return err
}
