package main

import (
	"fmt"
	"runtime/debug"

	"rackgateway/pkg/config"
)

type configCmd struct{}

func (configCmd) Help() string {
	return `Secrets are hidden. Mistakes are listed all at once, and make the exit code 2.`
}

func (c *configCmd) Run(p *process) error {
	_, report, err := config.LoadAdmin(p.environ)
	if report != nil {
		if _, err := report.WriteTo(p.stdout); err != nil {
			return err
		}
		for _, warning := range report.Warnings {
			fmt.Fprintf(p.stderr, "admin: warning: %s\n", warning)
		}
	}
	return err
}

type versionCmd struct{}

// version is set by the linker.
var version = "development"

func (c *versionCmd) Run(p *process) error {
	info, _ := debug.ReadBuildInfo()
	goVersion := "unknown"
	if info != nil {
		goVersion = info.GoVersion
	}
	_, err := fmt.Fprintf(p.stdout, "admin %s (%s)\n", version, goVersion)
	return err
}
