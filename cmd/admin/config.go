package main

import (
	"fmt"
	"runtime/debug"
	"strings"

	"rackgateway/pkg/config"
)

type configCmd struct{ output }

// variableView is a variable as --json shows one; null when it has no value.
type variableView struct {
	Name   string  `json:"name"`
	Value  *string `json:"value"`
	Source string  `json:"source"`
}

func (configCmd) Help() string {
	return `Secrets are hidden. Mistakes are listed all at once, and make the exit code 2.`
}

func (c *configCmd) Run(p *process) error {
	_, report, err := config.LoadAdmin(p.environ)
	if report != nil {
		var text strings.Builder
		if _, err := report.WriteTo(&text); err != nil {
			return err
		}
		views := make([]variableView, len(report.Rows))
		for i, row := range report.Rows {
			views[i] = variableView{Name: row.Name, Source: row.Source}
			if row.Value != "" {
				views[i].Value = &row.Value
			}
		}
		if err := c.say(p, views, "%s", text.String()); err != nil {
			return err
		}
		for _, warning := range report.Warnings {
			fmt.Fprintf(p.stderr, "admin: warning: %s\n", warning)
		}
	}
	return err
}

type versionCmd struct{ output }

// version is set by the linker.
var version = "development"

func (c *versionCmd) Run(p *process) error {
	info, _ := debug.ReadBuildInfo()
	goVersion := "unknown"
	if info != nil {
		goVersion = info.GoVersion
	}
	return c.say(p, map[string]string{"version": version, "go": goVersion}, "admin %s (%s)\n", version, goVersion)
}
