// The CLI: one command line at a time, with the CLI's flags, output and exit codes.

package convoxclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Pace is how long the CLI waits between its polls.
type Pace struct {
	// App is the first wait and the interval of polls for an app; it must be running twice in a row.
	App time.Duration
	// Process is the interval of polls for a process that is starting, Build for a build.
	Process, Build time.Duration
	// States is the interval at which the processes are listed during a promotion, Reopen the pause before its
	// log socket is opened again.
	States, Reopen time.Duration
}

// CLIPace is the stock CLI's.
func CLIPace() Pace {
	return Pace{App: 5 * time.Second, Process: time.Second, Build: time.Second, States: 3 * time.Second, Reopen: time.Second}
}

// TestPace makes the same requests in the same order in a fraction of the time.
func TestPace() Pace {
	return Pace{App: 50 * time.Millisecond, Process: 10 * time.Millisecond, Build: 20 * time.Millisecond, States: 30 * time.Millisecond, Reopen: 10 * time.Millisecond}
}

// CLI is an installed CLI: an environment and a settings directory. The zero value with RackURL or with Settings works.
// Commands may run concurrently.
type CLI struct {
	// RackURL is RACK_URL: direct mode. Otherwise the console of Settings is used.
	RackURL string
	// Host, Password and Rack are CONVOX_HOST, CONVOX_PASSWORD and CONVOX_RACK, Actor is CONVOX_ACTOR.
	Host, Password, Rack, Actor string
	// Settings are needed for login, racks and switch.
	Settings *Settings
	// AllowHTTP is X_DEV_ALLOW_HTTP, without the line that the CLI prints about it.
	AllowHTTP bool
	// Dir is the working directory: local paths are relative to it, and its name is the app's unless -a says otherwise.
	Dir string
	// Pace defaults to CLIPace.
	Pace Pace
	// PingEvery defaults to the CLI's 5 s.
	PingEvery time.Duration
	// Browser opens the link of a session challenge. Nil leaves it to somebody who reads the output.
	Browser func(ctx context.Context, link string) error
	// Edit stands for the editor of env edit: it is given the environment as text, and returns what it becomes.
	Edit func(env string) string
	// Now is the clock of "5 minutes ago"; nil means time.Now.
	Now func() time.Time
	// RawOutput leaves markup and colours in what a rack streams; the CLI strips them when its output is no
	// terminal, which changes binary data.
	RawOutput bool
}

// Streams are a command's standard streams; nil ones are empty.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Result is a command's output and exit code.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a command line with a text as standard input.
func (cli *CLI) Run(ctx context.Context, stdin string, args ...string) Result {
	var out, errs lockedBuffer
	code := cli.Command(ctx, Streams{In: strings.NewReader(stdin), Out: &out, Err: &errs}, args...)
	return Result{Stdout: out.String(), Stderr: errs.String(), Code: code}
}

// lockedBuffer is a buffer that a command's goroutines may share.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// exitError ends a command with a code and no message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// Command runs a command line and returns its exit code.
func (cli *CLI) Command(ctx context.Context, streams Streams, args ...string) int {
	if streams.In == nil {
		streams.In = strings.NewReader("")
	}
	if streams.Out == nil {
		streams.Out = io.Discard
	}
	if streams.Err == nil {
		streams.Err = io.Discard
	}
	err := cli.command(ctx, streams, args)
	var code exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintf(streams.Err, "ERROR: %s\n", err)
	return 1
}

func (cli *CLI) command(ctx context.Context, streams Streams, args []string) error {
	words, def := lookup(args)
	if def == nil {
		return fmt.Errorf("unknown command: %s", strings.Join(args, " "))
	}
	run := &invocation{ctx: ctx, cli: cli, in: streams.In, out: streams.Out, errs: streams.Err, flags: map[string]string{}}
	if err := run.parse(def, args[words:]); err != nil {
		return err
	}
	switch n := len(run.args); {
	case def.min == def.max && n != def.min:
		return fmt.Errorf("%d %s required", def.min, plural("arg", def.min))
	case n < def.min:
		return fmt.Errorf("at least %d %s required", def.min, plural("arg", def.min))
	case def.max >= 0 && n > def.max:
		return fmt.Errorf("no more than %d %s expected", def.max, plural("arg", def.max))
	}
	if !def.local {
		c, name, err := cli.current(ctx, run.out, run.flags["rack"])
		if err != nil {
			return err
		}
		defer c.Close()
		run.c, run.rack = c, name
	}
	return def.run(run)
}

func plural(noun string, n int) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

// invocation is one command under way.
type invocation struct {
	ctx       context.Context //nolint:containedctx // it lives as long as the command
	cli       *CLI
	c         *Client
	rack      string
	args      []string
	flags     map[string]string
	in        io.Reader
	out, errs io.Writer
}

// definition is a command.
type definition struct {
	run      func(*invocation) error
	flags    string // names, space separated: name, name:s for a short form, name! for one without a value
	min, max int    // positional arguments; max -1 is any number
	local    bool   // needs no rack
}

// parse splits flags from arguments; flags may come anywhere before --.
func (run *invocation) parse(def *definition, args []string) error {
	type flag struct {
		name    string
		boolean bool
	}
	known := map[string]flag{"app": {"app", false}, "-a": {"app", false}, "rack": {"rack", false}, "-r": {"rack", false}, "wait": {"wait", true}, "-w": {"wait", true}}
	if def.local {
		delete(known, "rack")
		delete(known, "-r")
	}
	for f := range strings.FieldsSeq(def.flags) {
		f, isBool := strings.CutSuffix(f, "!")
		name, short, _ := strings.Cut(f, ":")
		known[name] = flag{name, isBool}
		if short != "" {
			known["-"+short] = flag{name, isBool}
		}
	}
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			run.args = append(run.args, args[i+1:]...)
			return nil
		}
		var f flag
		var value string
		var ok, has bool
		switch {
		case strings.HasPrefix(a, "--"):
			a, value, has = strings.Cut(a[2:], "=")
			f, ok = known[a]
			a = "--" + a
		case len(a) > 1 && a[0] == '-':
			f, ok = known[a[:2]]
			value, has = a[2:], len(a) > 2
		default:
			run.args = append(run.args, a)
			continue
		}
		switch {
		case !ok:
			return fmt.Errorf("unknown flag: %s", a)
		case has:
		case f.boolean:
			value = "true"
		case i+1 >= len(args):
			return fmt.Errorf("flag needs an argument: %s", a)
		default:
			i++
			value = args[i]
		}
		run.flags[f.name] = value
	}
	return nil
}

func (run *invocation) arg(i int) string {
	if i < len(run.args) {
		return run.args[i]
	}
	return ""
}

func (run *invocation) is(flag string) bool { return run.flags[flag] == "true" }

// app is the app that a command is about.
func (run *invocation) app() string {
	if a := run.flags["app"]; a != "" {
		return a
	}
	return filepath.Base(run.cli.dir())
}

// argApp is app for commands that also take it as an argument.
func (run *invocation) argApp() string {
	if a := run.arg(0); a != "" {
		return a
	}
	return run.app()
}

func (cli *CLI) dir() string {
	if cli.Dir != "" {
		return cli.Dir
	}
	return "."
}

// path is a local path of the command line.
func (cli *CLI) path(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	return filepath.Abs(filepath.Join(cli.dir(), name))
}

func (cli *CLI) pace() Pace {
	if cli.Pace == (Pace{}) {
		return CLIPace()
	}
	return cli.Pace
}

func (cli *CLI) now() time.Time {
	if cli.Now != nil {
		return cli.Now()
	}
	return time.Now()
}

func (run *invocation) printf(format string, args ...any) {
	fmt.Fprintf(run.out, format, args...)
}

// start announces a step; done ends its line.
func (run *invocation) start(format string, args ...any) { run.printf(format+"... ", args...) }

func (run *invocation) done(ids ...string) error {
	run.printf("OK")
	if len(ids) > 0 {
		run.printf(", %s", strings.Join(ids, " "))
	}
	run.printf("\n")
	return nil
}

// toStderr sends progress to standard error and returns what wrote to standard output.
func (run *invocation) toStderr() io.Writer {
	out := run.out
	run.out = run.errs
	return out
}

// Write is the command's standard output for what a rack streams.
func (run *invocation) Write(p []byte) (int, error) {
	out := p
	if !run.cli.RawOutput {
		out = plain(p)
	}
	if _, err := run.out.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

var (
	markup  = regexp.MustCompile(`<(app|build|command|dir|error|fail|header|h1|h2|id|info|ok|process|rack|release|resource|service|setting|start|system|u|value|color\d|color1[0-7])>(.*?)</(app|build|command|dir|error|fail|header|h1|h2|id|info|ok|process|rack|release|resource|service|setting|start|system|u|value|color\d|color1[0-7])>`)
	colours = regexp.MustCompile("\033\\[[^m]+m")
)

// plain strips the CLI's own markup and colours, as it does when its output is no terminal.
func plain(p []byte) []byte {
	p = markup.ReplaceAllFunc(p, func(m []byte) []byte {
		parts := markup.FindSubmatch(m)
		if !bytes.Equal(parts[1], parts[3]) {
			return m
		}
		return parts[2]
	})
	return colours.ReplaceAll(p, nil)
}

// table prints rows under a header; all columns but the last are padded.
func (run *invocation) table(header []string, rows ...[]string) error {
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row[:len(header)] {
			widths[i] = max(widths[i], len(cell))
		}
	}
	widths[len(widths)-1] = 0
	for _, row := range append([][]string{header}, rows...) {
		cells := make([]string, len(header))
		for i, cell := range row[:len(header)] {
			cells[i] = fmt.Sprintf("%-*s", widths[i], cell)
		}
		run.printf("%s\n", strings.Join(cells, "  "))
	}
	return nil
}

// info prints names and values; further lines of a value are indented.
func (run *invocation) info(pairs ...[2]string) error {
	width := 0
	for _, p := range pairs {
		width = max(width, len(p[0]))
	}
	for _, p := range pairs {
		value := strings.ReplaceAll(p[1], "\n", "\n"+strings.Repeat(" ", width+2))
		run.printf("%-*s  %s\n", width, p[0], value)
	}
	return nil
}

// ago is a time as the CLI tells it.
func (run *invocation) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := run.cli.now().Sub(t)
	suffix := "ago"
	if d < 0 {
		d, suffix = -d, "from now"
	}
	const (
		day   = 24 * time.Hour
		week  = 7 * day
		month = 30 * day
		year  = 12 * month
	)
	steps := []struct {
		below time.Duration
		unit  time.Duration
		text  string
	}{
		{time.Second, 0, "now"},
		{2 * time.Second, 0, "1 second %s"}, {time.Minute, time.Second, "%d seconds %s"},
		{2 * time.Minute, 0, "1 minute %s"}, {time.Hour, time.Minute, "%d minutes %s"},
		{2 * time.Hour, 0, "1 hour %s"}, {day, time.Hour, "%d hours %s"},
		{2 * day, 0, "1 day %s"}, {week, day, "%d days %s"},
		{2 * week, 0, "1 week %s"}, {month, week, "%d weeks %s"},
		{2 * month, 0, "1 month %s"}, {year, month, "%d months %s"},
		{18 * month, 0, "1 year %s"}, {2 * year, 0, "2 years %s"}, {37 * year, year, "%d years %s"},
	}
	for _, s := range steps {
		switch {
		case d >= s.below:
		case s.text == "now":
			return "now"
		case s.unit == 0:
			return fmt.Sprintf(s.text, suffix)
		default:
			return fmt.Sprintf(s.text, d/s.unit, suffix)
		}
	}
	return "a long while " + suffix
}

// elapsed is a span as the CLI tells it.
func elapsed(start, end time.Time) string {
	if end.IsZero() {
		return ""
	}
	total := int64(end.Sub(start).Seconds())
	s := fmt.Sprintf("%ds", total%60)
	if m := total / 60; m >= 1 {
		s = fmt.Sprintf("%dm", m) + s
	}
	return s
}

// wait polls until the question is answered yes twice in a row; two errors in a row end it.
func (run *invocation) wait(every time.Duration, ask func() (bool, error)) error {
	yes, failed := 0, 0
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-run.ctx.Done():
			return run.ctx.Err()
		case <-t.C:
		}
		ok, err := ask()
		switch {
		case err != nil:
			if failed++; failed >= 2 {
				return err
			}
			yes = 0
		case ok:
			failed = 0
			if yes++; yes >= 2 {
				return nil
			}
		default:
			yes, failed = 0, 0
		}
	}
}

func (run *invocation) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-run.ctx.Done():
	}
}

// lookup finds the longest command that the arguments begin with.
func lookup(args []string) (int, *definition) {
	all := definitions()
	for n := min(4, len(args)); n > 0; n-- {
		if slices.ContainsFunc(args[:n], func(s string) bool { return strings.HasPrefix(s, "-") }) {
			continue
		}
		if def, ok := all[strings.Join(args[:n], " ")]; ok {
			return n, &def
		}
	}
	return 0, nil
}
