// Command admin is the gateway's administration: the database's schema, people, roles, tokens, settings, and the
// record of what was done.
//
// Exit codes: 0 done; 1 refused, or not done for another reason; 2 the command or the configuration is not right;
// 3 the database cannot be reached.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
