// Command demo is what `make demo` runs: a Rack Gateway on one machine, with everything around it.
//
//	demo run     in the foreground; Ctrl-C stops it
//	demo up      in the background; returns when it is ready
//	demo down    stops what up (or run) started, and waits until it has stopped
//	demo clean   stops it and forgets its data, tokens and certificates
//
// It starts a private PostgreSQL from the machine's own programs, an in-memory rack over TLS (or uses a real one, when
// RACK_HOST and RACK_TOKEN are set), prepares the database, adds one person of each role with a CLI token and a
// pipeline with an API token, and starts the proxy and admin over TLS as localhost, with an OpenID provider that
// believes everybody. Nothing of it can be reached from another machine. Everything it keeps lies in .demo: the
// database, the certificates, the tokens, the logs, demo.env, which tells scripts where everything is, and admin.env, the
// environment of admin serve, for commands that need it, such as admin doctor.
//
// DEMO_LEVEL says at which of the security levels of deploy/README.md it runs: standard, private or maximum.
//
// The programs that it runs are beside it in bin, as `make build` puts them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
)

func main() {
	// Children are tied to the thread that starts them (childAttributes); this one lasts as long as the program.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends everything at once
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// place is where the demo's files are.
type place struct {
	bin    string // folder of the programs
	folder string // .demo, absolute
}

func (p place) file(name ...string) string {
	return filepath.Join(append([]string{p.folder}, name...)...)
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("say what to do: run, up, down or clean")
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	here := place{bin: filepath.Dir(program)}
	if here.folder, err = filepath.Abs(".demo"); err != nil {
		return err
	}
	switch args[0] {
	case "run":
		return runForeground(ctx, here, out)
	case "up":
		return up(ctx, here, program, out)
	case "down":
		return down(ctx, here, out)
	case "clean":
		return clean(ctx, here, out)
	default:
		return fmt.Errorf("%s is nothing that it does: say run, up, down or clean", args[0])
	}
}
