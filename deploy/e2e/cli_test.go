package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/racktest/convoxclient"
)

// A cli is a CLI that is installed for one person on one side of a comparison: it keeps its settings from command to
// command. A context that ends kills the command, as a closed terminal does.
type cli interface {
	command(ctx context.Context, in io.Reader, out, errs io.Writer, args ...string) (code int)
}

// A kind is one of the CLIs that scenarios run through.
type kind struct {
	name    string
	install func(t *testing.T, on installation) cli
}

// installation is what a CLI is installed with.
type installation struct {
	rackURL string // RACK_URL; "" for console mode
	host    string // CONVOX_HOST, with CONVOX_PASSWORD and CONVOX_RACK: console mode without a login
	token   string
	rack    string
	home    string // for its settings
	dir     string // the working directory
	actor   string // CONVOX_ACTOR
}

// kinds are the CLIs there are on this machine.
func kinds() []kind {
	out := []kind{{"own", installOwn}}
	if stock != "" {
		out = append(out, kind{"stock", installStock})
	}
	return out
}

// ownPace keeps the order of the CLI's requests, and leaves log lines the time to arrive before a wait is over.
func ownPace() convoxclient.Pace {
	return convoxclient.Pace{
		App: 200 * time.Millisecond, Process: 20 * time.Millisecond, Build: 20 * time.Millisecond,
		States: 50 * time.Millisecond, Reopen: 10 * time.Millisecond,
	}
}

type ownCLI struct{ convoxclient.CLI }

func installOwn(_ *testing.T, on installation) cli {
	return &ownCLI{convoxclient.CLI{
		RackURL: on.rackURL, Host: on.host, Password: on.token, Rack: on.rack, Actor: on.actor,
		Settings: convoxclient.NewSettings(), Dir: on.dir, Pace: ownPace(),
		Edit: func(env string) string { return strings.Replace(env, "LOG_LEVEL=info", "LOG_LEVEL=debug", 1) },
	}}
}

func (c *ownCLI) command(ctx context.Context, in io.Reader, out, errs io.Writer, args ...string) int {
	return c.Command(ctx, convoxclient.Streams{In: in, Out: out, Err: errs}, args...)
}

type stockCLI struct {
	t   *testing.T
	dir string
	env []string
}

func installStock(t *testing.T, on installation) cli {
	// The editor of `env edit` changes one value.
	writeFile(t, on.home+"/editor", "#!/bin/sh\nsed -i s/LOG_LEVEL=info/LOG_LEVEL=debug/ \"$1\"\n")
	if err := os.Chmod(on.home+"/editor", 0o700); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=/usr/bin:/bin", "TZ=UTC", "TEST=true", "USER=tester", "EDITOR=" + on.home + "/editor", "HOME=" + on.home, "CONVOX_CONFIG=" + on.home + "/settings"}
	for name, value := range map[string]string{
		"RACK_URL": on.rackURL, "CONVOX_HOST": on.host, "CONVOX_PASSWORD": on.token, "CONVOX_RACK": on.rack, "CONVOX_ACTOR": on.actor,
	} {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	return &stockCLI{t: t, dir: on.dir, env: env}
}

func (c *stockCLI) command(ctx context.Context, in io.Reader, out, errs io.Writer, args ...string) int {
	cmd := exec.CommandContext(ctx, stock, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.dir, c.env, out, errs
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintf(errs, "%s could not be run: %v\n", stock, err)
		return -2
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		io.Copy(stdin, in)
		stdin.Close()
	}()
	err = cmd.Wait()
	if closer, ok := in.(io.Closer); ok {
		closer.Close() // an input that does not end by itself
	}
	<-fed
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintf(errs, "waiting for %s: %v\n", stock, err)
	}
	return cmd.ProcessState.ExitCode()
}
