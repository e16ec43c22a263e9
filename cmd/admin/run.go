package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"rackgateway/pkg/config"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/postgres"
)

// Exit codes, which scripts may rely on.
const (
	exitDone        = 0
	exitFailed      = 1 // refused, or not done for another reason
	exitUsage       = 2 // the command line or the configuration is not right
	exitUnreachable = 3 // the database cannot be reached
)

// commandLine is the table of contents: every command there is.
type commandLine struct {
	Serve   serveCmd    `cmd:"" help:"Serve sign-in and the API, until SIGTERM."`
	Migrate migrateCmd  `cmd:"" help:"Bring the database's schema and rights up to date."`
	User    userCmds    `cmd:"" help:"People: add, list, lock, unlock, remove, and their roles."`
	Role    roleCmds    `cmd:"" help:"Roles: built-in ones and your own."`
	Token   tokenCmds   `cmd:"" help:"Tokens of command lines and pipelines."`
	Session sessionCmds `cmd:"" help:"Browser sessions: list and end them."`
	Factor  factorCmds  `cmd:"" help:"Second factors of people: list, reset, add."`
	Setting settingCmds `cmd:"" help:"Settings: what may be changed while the gateway runs."`
	Notice  noticeCmds  `cmd:"" help:"Notices: mail and Slack, what went out, what was given up, and who is told of what."`
	Audit   auditCmds   `cmd:"" help:"The record of what was asked, decided and done."`
	Doctor  doctorCmd   `cmd:"" help:"Go through the production checklist: what passes, what fails, and what to do."`
	Config  configCmd   `cmd:"" help:"Show the configuration in force, and where each value came from."`
	Health  healthCmd   `cmd:"" help:"Ask admin on this machine whether it is ready, for container health checks."`
	Rekey   rekeyCmd    `cmd:"" help:"Seal anew, with APP_SECRET_KEY, what was sealed with the key before."`
	Version versionCmd  `cmd:"" help:"Show which version this is."`
}

const description = `Administration of a Rack Gateway: who may use the rack, what each may do, and the record of what was done.

The database is named by DATABASE_URL, and AUDIT_MAC_KEY (the proxy's own) is needed by every command that changes something, because each change is recorded. "admin config" shows what is in force.

Exit codes: 0 done; 1 refused or failed; 2 the command or the configuration is not right; 3 the database cannot be reached.`

// process is one run of the program and all that it touches.
type process struct {
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time
	operator       string // who runs it, as the audit log will say
}

// run is the program but for the process around it: it returns the exit code.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &process{environ: environ, stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now, operator: operator()}
	return p.run(ctx, args)
}

func (p *process) run(ctx context.Context, args []string) int {
	var cli commandLine
	helped := false
	parser, err := kong.New(&cli,
		kong.Name("admin"),
		kong.Description(description),
		kong.Writers(p.stdout, p.stderr),
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ShortUsageOnError(),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(p),
	)
	if err != nil {
		return p.fail(err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if helped {
		return exitDone
	}
	if err != nil {
		var parse *kong.ParseError
		command := "admin"
		if errors.As(err, &parse) && parse.Context != nil {
			if path := parse.Context.Command(); path != "" {
				command += " " + withoutArguments(path)
			}
		}
		fmt.Fprintf(p.stderr, "admin: %s\nSee: %s --help\n", err, command)
		return exitUsage
	}
	switch withoutArguments(parsed.Command()) {
	case "serve", "migrate", "audit list", "audit verify", "audit export", "audit anchor", "audit copy", "audit recover": // which may take long
	default:
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		parsed.BindTo(limited, (*context.Context)(nil))
	}
	return p.fail(parsed.Run())
}

// withoutArguments is a command's path without the places of its arguments.
func withoutArguments(path string) string {
	var words []string
	for word := range strings.FieldsSeq(path) {
		if !strings.HasPrefix(word, "<") {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

// usageError is a mistake in the command line that the grammar alone does not find.
type usageError string

func (e usageError) Error() string { return string(e) }

// fail tells the person what went wrong, if anything did, and chooses the exit code.
func (p *process) fail(err error) int {
	if err == nil {
		return exitDone
	}
	message, code := err.Error(), exitFailed
	var usage usageError
	var mistakes *config.MistakesError
	var answer *directory.Error
	switch {
	case errors.As(err, &usage):
		code = exitUsage
	case errors.As(err, &mistakes):
		code = exitUsage
		if slices.ContainsFunc(mistakes.Mistakes, func(m config.Mistake) bool { return m.Name == keyVariable }) {
			message += "\n\nThis command is recorded, as every change is and every look at the record. " + keyVariable +
				" is what records are authenticated with: give admin the one that the proxy has."
		}
	case errors.As(err, &answer):
		message = answer.Message
		if answer.Kind == directory.Invalid {
			code = exitUsage
		}
	case errors.Is(err, directory.ErrBusy):
	case errors.Is(err, context.DeadlineExceeded):
		message, code = "the database did not answer in time; look before you repeat a change: "+err.Error(), exitUnreachable
	case errors.Is(err, errUnreachable), postgres.IsUnavailable(err):
		message, code = "the database cannot be reached: check that it runs, and DATABASE_URL: "+err.Error(), exitUnreachable
	case errors.Is(err, context.Canceled):
		message = "interrupted; look before you repeat a change"
	case postgres.SQLState(err) == "42P01" || postgres.SQLState(err) == "3F000": // undefined_table, invalid_schema_name
		message = "the database has not been prepared for this version: run admin migrate first (" + err.Error() + ")"
	case postgres.SQLState(err) == "42501": // insufficient_privilege
		message = "the database role of DATABASE_URL lacks a right that this needs: use a member of rgw_admin, or the schema's owner (" + err.Error() + ")"
	}
	fmt.Fprintf(p.stderr, "admin: %s\n", message)
	return code
}

// operator names whoever runs the command line, as far as the machine can tell.
func operator() string {
	name := "uid " + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown host"
	}
	return "command line (" + name + "@" + host + ")"
}
