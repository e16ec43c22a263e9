// Command rack runs the in-memory rack of pkg/racktest by itself: for the demo, for tests against a separate
// process, and for people who write tools against a Convox rack.
//
//	PASSWORD=secret rack -listen 127.0.0.1:5443
//	RACK_URL=http://convox:secret@127.0.0.1:5443 convox apps
//
// The password comes from the environment, as it does on a real rack; without one the rack lets everybody do
// everything, and so listens on loopback only. Once it listens, it prints its address on standard output, and with
// -control the address of the control endpoint after it. It ends on SIGINT or SIGTERM with code 0.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"rackgateway/pkg/racktest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv("PASSWORD"), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, password string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("rack", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var (
		listen  = flags.String("listen", "127.0.0.1:0", "`address` to listen on; port 0 takes a free one")
		cert    = flags.String("tls-cert", "", "PEM `file` with the certificate chain; needs -tls-key")
		key     = flags.String("tls-key", "", "PEM `file` with the private key")
		control = flags.String("control", "", "loopback `address` of the control endpoint: faults and the journal; off when empty")
		name    = flags.String("name", "demo", "the rack's `name`")
		apps    = flags.String("apps", "", "more apps besides demo, separated by `commas`")
		envOff  = flags.Bool("system-env-disable", false, "a rack that keeps its password out of the environment of apps, by its `parameter` api_feature_gates")
		delay   = flags.Duration("build", 3*time.Second, "how `long` a build takes; a promotion takes as long")
		chatter = flags.Duration("log-every", 5*time.Second, "how `often` a running process logs a line; 0 for never")
	)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	fail := func(err error) int {
		fmt.Fprintln(stderr, "rack:", err)
		return 1
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "rack: unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	if password == "" && !isLoopback(*listen) {
		return fail(errors.New("without PASSWORD everybody may do everything: set it, or listen on loopback"))
	}
	if *control != "" && !isLoopback(*control) {
		return fail(errors.New("the control endpoint asks for no password: give -control an address of loopback"))
	}

	rack := racktest.New(racktest.Options{
		Password:    password,
		Name:        *name,
		Apps:        split(*apps),
		BuildTime:   *delay,
		PromoteTime: *delay,
		LogEvery:    *chatter,
		Control:     *control != "",
		Log:         slog.New(slog.NewTextHandler(stderr, nil)),
	})
	defer rack.Close()
	if *envOff {
		rack.SetParameter("api_feature_gates", "system-env-disable=true")
	}

	where := racktest.ServeOptions{Addr: *listen}
	if *cert != "" || *key != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			return fail(fmt.Errorf("reading the certificate: %w", err))
		}
		where.TLS, where.Certificate = true, &pair
	}
	server, err := rack.Start(where)
	if err != nil {
		return fail(err)
	}
	fmt.Fprintln(stdout, server.URL())

	if *control != "" {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *control)
		if err != nil {
			return fail(fmt.Errorf("listening for control: %w", err))
		}
		controller := &http.Server{Handler: rack.ControlHandler(), ReadHeaderTimeout: 10 * time.Second}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := controller.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				slog.New(slog.NewTextHandler(stderr, nil)).Error("control endpoint ended", "error", err)
			}
		}()
		defer func() {
			_ = controller.Close() // what it still answers is not waited for
			<-done
		}()
		fmt.Fprintf(stdout, "http://%s\n", listener.Addr())
	}
	<-ctx.Done()
	return 0
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// isLoopback reports an address that only this machine can reach.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
