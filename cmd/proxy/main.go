// Command proxy stands between the convox command line and the rack: it authenticates, authorises, records,
// and forwards. It is configured by environment variables alone; `proxy config` shows them.
//
// Exit codes: 0 it was asked to stop and did; 1 it cannot run, or is not healthy; 2 the command line or the
// configuration is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"rackgateway/pkg/config"
	"rackgateway/pkg/daemon"
)

// version is stamped by the build.
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const usage = `proxy stands in front of one Convox rack: it authenticates, authorises, records, and forwards.

Usage:
  proxy            run until SIGTERM
  proxy config     print the configuration in force, secrets hidden, and where each value came from
  proxy health     ask the proxy on this machine whether it is ready, for container health checks
  proxy version    print the version

It is configured by environment variables; each secret may also come from a file named by NAME_FILE.
`

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("proxy", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	command := flags.Arg(0)
	if flags.NArg() > 1 {
		fmt.Fprintf(stderr, "proxy: %q takes no arguments\n\n%s", command, usage)
		return 2
	}
	switch command {
	case "version":
		fmt.Fprintln(stdout, version)
		return 0
	case "help":
		fmt.Fprint(stdout, usage)
		return 0
	case "", "serve", "config", "health":
	default:
		fmt.Fprintf(stderr, "proxy: there is no command %q\n\n%s", command, usage)
		return 2
	}

	cfg, report, err := config.LoadProxy(environ)
	switch command {
	case "config":
		if _, werr := report.WriteTo(stdout); werr != nil {
			return 1
		}
	case "health":
		// Other mistakes are for the process that runs to report.
		if herr := daemon.AskHealth(ctx, cfg.Server.Port, cfg.Server.TLSCertFile != ""); herr != nil {
			fmt.Fprintln(stderr, "proxy:", herr)
			return 1
		}
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "proxy:", err)
		return 2
	}
	if command == "config" {
		return 0
	}
	log := daemon.NewLogger(stderr, cfg.Log)
	for _, warning := range report.Warnings {
		log.Warn(warning)
	}
	defer giveHeadroom()()
	if err := serve(ctx, cfg, log); err != nil {
		log.Error("the proxy cannot run", "error", err)
		return 1
	}
	return 0
}
