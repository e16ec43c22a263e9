// The commands that run in a process: enough of a shell to exec into, to test with, and to look around in.

package racktest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// shell runs commands with one input and one output.
type shell struct {
	env      map[string]string
	files    *fileTree
	in       io.Reader
	out      io.Writer
	tty      bool
	terminal *terminal // nil without tty
	cwd      string
	now      func() time.Time

	last   int  // exit code of the last command
	exited bool // by the builtin exit
}

// Exit codes as shells have them.
const (
	exitUsage       = 2
	exitNotFound    = 127
	exitInterrupted = 130
)

// run runs a command line without a shell around it, as exec does: words and quotes, and nothing else.
func (s *shell) run(ctx context.Context, command string) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.terminal != nil {
		s.terminal.onInterrupt(cancel)
	}
	tokens, err := lex(command, false)
	if err != nil {
		fmt.Fprintf(s.out, "sh: %s\n", err)
		return exitUsage
	}
	var argv []string
	for _, t := range tokens {
		argv = append(argv, t.literal())
	}
	if len(argv) == 0 {
		return 0
	}
	code := s.exec(ctx, argv)
	if ctx.Err() != nil && code == 0 {
		return exitInterrupted
	}
	return code
}

// exec runs one command.
func (s *shell) exec(ctx context.Context, argv []string) int {
	name, args := path.Base(argv[0]), argv[1:]
	switch name {
	case "sh", "bash", "ash":
		return s.startShell(ctx, args)
	case "env":
		if len(args) > 0 {
			return s.exec(ctx, args)
		}
		return s.say(formatEnv(s.env) + "\n")
	}
	fn, ok := commands()[name]
	if !ok {
		s.say(fmt.Sprintf("sh: %s: command not found\n", argv[0]))
		return exitNotFound
	}
	return fn(ctx, s, args)
}

func (s *shell) say(text string) int {
	if _, err := io.WriteString(s.out, text); err != nil {
		return 1
	}
	return 0
}

func (s *shell) complain(name string, err error) int {
	s.say(fmt.Sprintf("%s: %s\n", name, err))
	return 1
}

func (s *shell) abs(name string) string {
	if strings.HasPrefix(name, "/") {
		return path.Clean(name)
	}
	return path.Join(s.cwd, name)
}

type command func(ctx context.Context, s *shell, args []string) int

func commands() map[string]command {
	return map[string]command{
		"true":      func(context.Context, *shell, []string) int { return 0 },
		"false":     func(context.Context, *shell, []string) int { return 1 },
		"pwd":       func(_ context.Context, s *shell, _ []string) int { return s.say(s.cwd + "\n") },
		"hostname":  func(_ context.Context, s *shell, _ []string) int { return s.say(s.env["HOSTNAME"] + "\n") },
		"whoami":    func(_ context.Context, s *shell, _ []string) int { return s.say("root\n") },
		"date":      func(_ context.Context, s *shell, _ []string) int { return s.say(s.now().Format(time.UnixDate) + "\n") },
		"echo":      cmdEcho,
		"printenv":  cmdPrintenv,
		"cat":       cmdCat,
		"ls":        cmdLs,
		"rm":        cmdRm,
		"sleep":     cmdSleep,
		"exit":      cmdExit,
		"yes":       cmdYes,
		"random":    cmdRandom,
		"wc":        cmdWc,
		"sha256sum": cmdSum,
	}
}

func cmdEcho(_ context.Context, s *shell, args []string) int {
	end := "\n"
	if len(args) > 0 && args[0] == "-n" {
		args, end = args[1:], ""
	}
	return s.say(strings.Join(args, " ") + end)
}

func cmdPrintenv(_ context.Context, s *shell, args []string) int {
	if len(args) == 0 {
		return s.say(formatEnv(s.env) + "\n")
	}
	v, ok := s.env[args[0]]
	if !ok {
		return 1
	}
	return s.say(v + "\n")
}

func cmdCat(ctx context.Context, s *shell, args []string) int {
	if len(args) == 0 {
		args = []string{"-"}
	}
	for _, name := range args {
		in := s.in
		if name != "-" {
			b, err := s.files.read(s.abs(name))
			if err != nil {
				return s.complain("cat", err)
			}
			in = b.open()
		}
		if _, err := io.Copy(writerOnly{s.out}, in); err != nil {
			if ctx.Err() != nil || errors.Is(err, errInterrupted) {
				return exitInterrupted
			}
			return 1
		}
	}
	return 0
}

// writerOnly hides everything but Write, so that each read becomes one message.
type writerOnly struct{ io.Writer }

func cmdLs(_ context.Context, s *shell, args []string) int {
	var names []string
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			names = append(names, a)
		}
	}
	if len(names) == 0 {
		names = []string{s.cwd}
	}
	for _, name := range names {
		list, err := s.files.list(s.abs(name))
		if err != nil {
			return s.complain("ls", err)
		}
		for _, l := range list {
			s.say(l + "\n")
		}
	}
	return 0
}

func cmdRm(_ context.Context, s *shell, args []string) int {
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			s.files.remove(s.abs(a))
		}
	}
	return 0
}

func cmdSleep(ctx context.Context, s *shell, args []string) int {
	if len(args) != 1 {
		return s.complain("sleep", errors.New("missing operand"))
	}
	seconds, err := strconv.ParseFloat(args[0], 64)
	if err != nil || seconds < 0 {
		return s.complain("sleep", fmt.Errorf("invalid time interval '%s'", args[0]))
	}
	if !pause(ctx, time.Duration(seconds*float64(time.Second))) {
		return exitInterrupted
	}
	return 0
}

func cmdExit(_ context.Context, s *shell, args []string) int {
	code := s.last
	if len(args) > 0 {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			n = exitUsage
		}
		code = n & 0xff
	}
	s.exited = true
	return code
}

// cmdYes says y so many times, or for ever.
func cmdYes(ctx context.Context, s *shell, args []string) int {
	times := -1
	if len(args) > 0 {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return s.complain("yes", err)
		}
		times = n
	}
	for i := 0; i != times; i++ {
		if ctx.Err() != nil {
			return exitInterrupted
		}
		if s.say("y\n") != 0 {
			return 1
		}
	}
	return 0
}

// cmdRandom writes SIZE bytes of RandomBytes with a seed, CHUNK bytes to a message: random SIZE [SEED [CHUNK]].
func cmdRandom(ctx context.Context, s *shell, args []string) int {
	numbers := []uint64{0, 1, 4096}
	for i, a := range args {
		n, err := strconv.ParseUint(a, 10, 63)
		if err != nil || i >= len(numbers) || i == 2 && n == 0 {
			return s.complain("random", errors.New("usage: random SIZE [SEED [CHUNK]]"))
		}
		numbers[i] = n
	}
	in := RandomBytes(int64(numbers[0]), numbers[1])
	buf := make([]byte, min(numbers[2], 16<<20))
	for ctx.Err() == nil {
		n, err := io.ReadFull(in, buf)
		if n > 0 {
			if _, err := s.out.Write(buf[:n]); err != nil {
				return 1
			}
		}
		if err != nil {
			return 0
		}
	}
	return exitInterrupted
}

// inputs are the files that are named, or the standard input.
func (s *shell) inputs(args []string) (map[string]io.Reader, error) {
	out := map[string]io.Reader{}
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			continue
		}
		b, err := s.files.read(s.abs(a))
		if err != nil {
			return nil, err
		}
		out[a] = b.open()
	}
	if len(out) == 0 {
		out["-"] = s.in
	}
	return out, nil
}

// cmdWc counts bytes.
func cmdWc(_ context.Context, s *shell, args []string) int {
	in, err := s.inputs(args)
	if err != nil {
		return s.complain("wc", err)
	}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		n, err := io.Copy(io.Discard, in[name])
		if err != nil {
			return s.complain("wc", err)
		}
		s.say(fmt.Sprintf("%d\n", n))
	}
	return 0
}

func cmdSum(_ context.Context, s *shell, args []string) int {
	in, err := s.inputs(args)
	if err != nil {
		return s.complain("sha256sum", err)
	}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		h := sha256.New()
		if _, err := io.Copy(h, in[name]); err != nil {
			return s.complain("sha256sum", err)
		}
		s.say(fmt.Sprintf("%x  %s\n", h.Sum(nil), name))
	}
	return 0
}

// startShell is sh: with -c it runs a script, else it reads lines from its input.
func (s *shell) startShell(ctx context.Context, args []string) int {
	sub := &shell{env: maps.Clone(s.env), files: s.files, in: s.in, out: s.out, tty: s.tty, terminal: s.terminal, cwd: s.cwd, now: s.now}
	for i, a := range args {
		if a == "-c" {
			if i+1 >= len(args) {
				s.say("sh: -c requires an argument\n")
				return exitUsage
			}
			return sub.script(ctx, args[i+1])
		}
	}
	return sub.interactive(ctx)
}

func (s *shell) interactive(ctx context.Context) int {
	for {
		if s.tty {
			s.say(s.cwd + " # ")
		}
		line, err := s.readLine()
		if errors.Is(err, errInterrupted) {
			continue
		}
		if line != "" {
			// ^C ends the command, not the shell.
			each, cancel := context.WithCancel(ctx)
			if s.terminal != nil {
				s.terminal.onInterrupt(cancel)
			}
			s.last = s.script(each, line)
			cancel()
		}
		if err != nil || s.exited || ctx.Err() != nil {
			return s.last
		}
	}
}

// readLine takes no more from the input than one line, because the line's command may read on.
func (s *shell) readLine() (string, error) {
	var line []byte
	var b [1]byte
	for {
		n, err := s.in.Read(b[:])
		if n > 0 {
			if b[0] == '\n' {
				return string(line), nil
			}
			line = append(line, b[0])
		}
		if err != nil {
			return string(line), err
		}
	}
}

// script runs commands separated by newlines, ;, && and ||, with pipes and simple redirections.
func (s *shell) script(ctx context.Context, text string) int {
	tokens, err := lex(text, true)
	if err != nil {
		s.say(fmt.Sprintf("sh: %s\n", err))
		return exitUsage
	}
	skip := false
	for len(tokens) > 0 {
		end := slices.IndexFunc(tokens, func(t token) bool { return t.op == ";" || t.op == "&&" || t.op == "||" })
		part, op := tokens, ";"
		if end >= 0 {
			part, op, tokens = tokens[:end], tokens[end].op, tokens[end+1:]
		} else {
			tokens = nil
		}
		if len(part) > 0 && !skip {
			s.last = s.pipeline(ctx, part)
			if s.exited {
				return s.last
			}
			if ctx.Err() != nil {
				return exitInterrupted
			}
		}
		switch op {
		case "&&":
			skip = s.last != 0
		case "||":
			skip = s.last == 0
		default:
			skip = false
		}
	}
	return s.last
}

// pipeline runs commands at once, each reading what the one before it writes; the last one's exit code counts.
func (s *shell) pipeline(ctx context.Context, tokens []token) int {
	var parts [][]token
	for len(tokens) > 0 {
		i := slices.IndexFunc(tokens, func(t token) bool { return t.op == "|" })
		if i < 0 {
			parts = append(parts, tokens)
			break
		}
		parts = append(parts, tokens[:i])
		tokens = tokens[i+1:]
	}
	if len(parts) == 1 {
		return s.simple(ctx, parts[0])
	}
	var wg sync.WaitGroup
	in, code := s.in, 0
	for i, part := range parts {
		sub := *s
		sub.env, sub.in = maps.Clone(s.env), in
		if i == len(parts)-1 {
			code = sub.simple(ctx, part)
			if c, ok := in.(*io.PipeReader); ok {
				c.Close() //nolint:errcheck // never fails
			}
			break
		}
		r, w := io.Pipe()
		sub.out, in = w, r
		wg.Go(func() {
			sub.simple(ctx, part)
			w.Close() //nolint:errcheck // never fails
			if c, ok := sub.in.(*io.PipeReader); ok {
				c.Close() //nolint:errcheck // never fails
			}
		})
	}
	wg.Wait()
	return code
}

// simple runs one command with its assignments and redirections.
func (s *shell) simple(ctx context.Context, tokens []token) int {
	sub := *s
	var argv []string
	var sink *bytes.Buffer
	var target string
	appending := false
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		if t.op == "" {
			argv = append(argv, t.expand(s))
			continue
		}
		if t.op == "&" || i+1 >= len(tokens) {
			continue
		}
		i++
		name := s.abs(tokens[i].expand(s))
		switch t.op {
		case ">", ">>":
			sink, target, appending = &bytes.Buffer{}, name, t.op == ">>"
			sub.out = sink
		case "<":
			b, err := s.files.read(name)
			if err != nil {
				return s.complain("sh", err)
			}
			sub.in = b.open()
		}
	}
	code := s.builtin(ctx, &sub, argv)
	if sink != nil && target != "/dev/null" {
		if old, err := s.files.read(target); err == nil && appending {
			sink = bytes.NewBuffer(append(old.bytes(), sink.Bytes()...))
		}
		s.files.mu.Lock()
		s.files.put(target, bytesBlob(sink.Bytes()), 0o644, s.now())
		s.files.mu.Unlock()
	}
	return code
}

// builtin takes assignments, and the commands that change the shell itself; the rest is run by sub.
func (s *shell) builtin(ctx context.Context, sub *shell, argv []string) int {
	for len(argv) > 0 {
		k, v, ok := strings.Cut(argv[0], "=")
		if !ok || k == "" || strings.ContainsAny(k, " /-.") {
			break
		}
		if len(argv) == 1 {
			s.env[k] = v
			return 0
		}
		sub.env = maps.Clone(sub.env)
		sub.env[k] = v
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return 0
	}
	switch argv[0] {
	case "cd":
		dir := s.env["HOME"]
		if len(argv) > 1 {
			dir = argv[1]
		}
		if _, err := s.files.list(s.abs(dir)); err != nil {
			return s.complain("cd", err)
		}
		s.cwd = s.abs(dir)
		return 0
	case "export":
		for _, a := range argv[1:] {
			if k, v, ok := strings.Cut(a, "="); ok {
				s.env[k] = v
			}
		}
		return 0
	case "exit":
		code := cmdExit(ctx, s, argv[1:])
		return code
	}
	return sub.exec(ctx, argv)
}

// token is a word, or an operator.
type token struct {
	op    string
	parts []wordPart
}

// wordPart is a run of text; variables are expanded in it unless it was in single quotes.
type wordPart struct {
	text  string
	plain bool
}

func (t token) literal() string {
	if t.op != "" {
		return t.op
	}
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.text)
	}
	return b.String()
}

func (t token) expand(s *shell) string {
	var b strings.Builder
	for _, p := range t.parts {
		if p.plain {
			b.WriteString(p.text)
		} else {
			b.WriteString(s.variables(p.text))
		}
	}
	return b.String()
}

func (s *shell) variables(text string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(text, "$")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		text = after
		switch {
		case strings.HasPrefix(text, "?"):
			b.WriteString(strconv.Itoa(s.last))
			text = text[1:]
		case strings.HasPrefix(text, "{"):
			name, rest, _ := strings.Cut(text[1:], "}")
			b.WriteString(s.env[name])
			text = rest
		default:
			end := strings.IndexFunc(text, func(r rune) bool {
				return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
			})
			if end < 0 {
				end = len(text)
			}
			if end == 0 {
				b.WriteByte('$')
			}
			b.WriteString(s.env[text[:end]])
			text = text[end:]
		}
	}
}

// lex splits a command line into words and, if asked, operators.
func lex(text string, operators bool) ([]token, error) {
	special := " \t\r\n'\"\\"
	if operators {
		special += ";&|><"
	}
	var out []token
	var word []wordPart
	inWord := false
	flush := func() {
		if inWord {
			out = append(out, token{parts: word})
		}
		word, inWord = nil, false
	}
	add := func(s string, plain bool) {
		inWord = true
		word = append(word, wordPart{s, plain})
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == ' ', c == '\t', c == '\r', c == '\n' && !operators:
			flush()
		case c == '\n', c == ';' && operators:
			flush()
			out = append(out, token{op: ";"})
		case operators && strings.IndexByte("&|><", c) >= 0:
			if c == '>' && (i > 0 && text[i-1] == '2') && inWord && len(word) == 1 && word[0].text == "2" {
				// 2>&1 and 2>file: there is one output only.
				word, inWord = nil, false
				for i++; i < len(text) && !strings.ContainsRune(" \t\n;|", rune(text[i])); i++ {
				}
				i--
				continue
			}
			flush()
			op := string(c)
			if i+1 < len(text) && text[i+1] == c && c != '<' {
				op += string(c)
				i++
			}
			out = append(out, token{op: op})
		case c == '\'':
			end := strings.IndexByte(text[i+1:], '\'')
			if end < 0 {
				return nil, errors.New("unterminated quoted string")
			}
			add(text[i+1:i+1+end], true)
			i += end + 1
		case c == '"':
			var b strings.Builder
			i++
			for ; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' && i+1 < len(text) && strings.IndexByte("\"\\$`", text[i+1]) >= 0 {
					i++
					if text[i] == '$' {
						add(b.String(), false)
						b.Reset()
						add("$", true)
						continue
					}
				}
				b.WriteByte(text[i])
			}
			if i >= len(text) {
				return nil, errors.New("unterminated quoted string")
			}
			add(b.String(), false)
		case c == '\\':
			if i+1 < len(text) {
				i++
				add(string(text[i]), true)
			}
		default:
			add(string([]byte{c}), false)
			// Runs of ordinary characters become one part, so that $NAME stays together.
			for i+1 < len(text) && strings.IndexByte(special, text[i+1]) < 0 {
				i++
				word[len(word)-1].text += string([]byte{text[i]})
			}
		}
	}
	flush()
	return out, nil
}
