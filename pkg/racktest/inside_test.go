package racktest

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestRandomBytesDoNotDependOnHowTheyAreRead(t *testing.T) {
	whole, err := io.ReadAll(RandomBytes(1003, 7))
	if err != nil || len(whole) != 1003 {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	if err := iotest.TestReader(RandomBytes(1003, 7), whole); err != nil {
		t.Error(err)
	}
	// SplitMix64 with seed 0: the first two words that its authors publish.
	got, _ := io.ReadAll(RandomBytes(16, 0))
	if hex.EncodeToString(got) != "afcd1d7b39a820e2f465b9a16a9e786e" {
		t.Errorf("seed 0 gives %x", got)
	}
}

func TestManifests(t *testing.T) {
	for _, c := range []struct{ name, yml, want string }{
		{"the seed's", SeedManifest, "web:3000 bin/web 1-1 [API_KEY DATABASE_URL LOG_LEVEL=info]; database=postgres cache=redis"},
		{"scale in short", "services:\n  a:\n    scale: 3\n", "a:0  3-3 []; "},
		{"a range", "services:\n  a:\n    scale:\n      count: 1-5\n", "a:0  1-5 []; "},
		{"a scheme before the port", "services:\n  a:\n    port: http:8080\n", "a:8080  1-1 []; "},
		{"comments and quotes", "# top\nservices:\n\n  a: # first\n    command: \"run # it\"\n  b:\n    command: x # y\n", "a:0 run # it 1-1 []; b:0 x 1-1 []; "},
		{"a list at its key's indent", "services:\n  a:\n    environment:\n    - A=1\n    - B\n    port: 80\n", "a:80  1-1 [A=1 B]; "},
		{"nothing", "", ""},
		{"a bad port", "services:\n  a:\n    port: many\n", "yaml: line 3: invalid port: many"},
		{"a tab", "services:\n\ta:\n", "yaml: line 2: found character that cannot start any token"},
		{"no colon", "services\n", "yaml: line 1: could not find expected ':'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := parseManifest(c.yml)
			var b strings.Builder
			for _, s := range m.services {
				fmt.Fprintf(&b, "%s:%d %s %d-%d %v; ", s.name, s.port, s.command, s.min, s.max, s.environment)
			}
			for i, r := range m.resources {
				if i > 0 {
					b.WriteByte(' ')
				}
				fmt.Fprintf(&b, "%s=%s", r.name, r.kind)
			}
			got := b.String()
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("read as %q, want %q", got, c.want)
			}
		})
	}
}

func FuzzManifest(f *testing.F) {
	f.Add(SeedManifest)
	f.Add("services:\n  a:\n  - b\n- c\nresources:\n  type: x\n    type: y\n")
	f.Fuzz(func(t *testing.T, yml string) {
		m, err := parseManifest(yml)
		if err != nil {
			return
		}
		for _, s := range m.services {
			if s.name == "" && !strings.Contains(yml, ":") {
				t.Errorf("a service out of nothing: %q", yml)
			}
		}
	})
}

func TestScripts(t *testing.T) {
	for _, c := range []struct {
		script, in, want string
		code             int
	}{
		{"echo a; echo b", "", "a\nb\n", 0},
		{"false && echo no || echo yes", "", "yes\n", 0},
		{"true || echo no; false", "", "", 1},
		{"echo one two | wc", "", "8\n", 0},
		{"cat | cat | sha256sum", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n", 0},
		{"echo '$HOME' \"$HOME\" \\$HOME \"\\$HOME\" ${HOME}x", "", "$HOME /root $HOME $HOME /rootx\n", 0},
		{"A=1; B=2; echo $A$B; C=3 printenv C; echo $C", "", "12\n3\n\n", 0},
		{"false; echo $?", "", "1\n", 0},
		{"echo x > /tmp/f; echo y >> /tmp/f; cat < /tmp/f; rm /tmp/f; cat /tmp/f", "", "x\ny\ncat: /tmp/f: No such file or directory\n", 1},
		{"nope 2>&1; exit 5; echo no", "", "sh: nope: command not found\n", 5},
		{"cd /app/public && ls && pwd", "", "index.html\n/app/public\n", 0},
		{"sh -c 'exit 4'; echo $?", "", "4\n", 0},
		{"yes 3", "", "y\ny\ny\n", 0},
		{"exit 256", "", "", 0},
		{"echo 'unterminated", "", "sh: unterminated quoted string\n", 2},
	} {
		t.Run(c.script, func(t *testing.T) {
			files := newFileTree(&process{}, time.Now())
			var out strings.Builder
			s := &shell{env: map[string]string{"HOME": "/root"}, files: files, in: strings.NewReader(c.in), out: &out, cwd: "/app", now: time.Now}
			code := s.run(context.Background(), "sh -c "+quote(c.script))
			if code != c.code || out.String() != c.want {
				t.Errorf("%q with %d, want %q with %d", out.String(), code, c.want, c.code)
			}
		})
	}
}

func FuzzLex(f *testing.F) {
	f.Add("echo 'a' \"b$C\" \\d 2>&1 | x && y; z > f", true)
	f.Add("a;b", false)
	f.Fuzz(func(t *testing.T, text string, operators bool) {
		tokens, err := lex(text, operators)
		if err != nil {
			return
		}
		for _, tok := range tokens {
			if tok.op != "" && !operators {
				t.Errorf("%q has an operator %q in it", text, tok.op)
			}
		}
	})
}

func TestAQuotedStringIsOneWord(t *testing.T) {
	for _, s := range []string{"", "plain", "it's", `"both" 'kinds'`, "a;b|c && $D\n\\"} {
		tokens, err := lex("x "+quote(s), true)
		if err != nil || len(tokens) != 2 || tokens[1].expand(&shell{}) != s {
			t.Errorf("%q comes back as %v, %v", s, tokens, err)
		}
	}
}

func TestEnvDiffs(t *testing.T) {
	if got := envDiff("A=1\nB=2\nC=3", "B=2\nC=4\nD=5\nE="); got != "add:D add:E change:C remove:A" {
		t.Errorf("told as %q", got)
	}
	if got := formatEnv(parseEnv("B=2=3\n\nbad\n =x\nA=1\r\n")); got != "A=1\nB=2=3" {
		t.Errorf("read as %q", got)
	}
}

func TestGlobs(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"/apps", "/apps", true}, {"/apps", "/apps/x", false}, {"/apps*", "/apps/x/y", true}, {"*/releases", "/apps/x/releases", true},
		{"/apps/*/releases/*", "/apps/a/b/releases/", true}, {"/apps/*/releases", "/apps/releases", false}, {"*", "", true}, {"a*a", "a", false},
	} {
		if glob(c.pattern, c.s) != c.want {
			t.Errorf("glob(%q, %q) is %v", c.pattern, c.s, !c.want)
		}
	}
}

func TestHostsThatTheProxyRefuses(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": false, "[::1]": false, "169.254.169.254": false, "0.0.0.0": false, "fd00::1": false, "2130706433": false, "0x7f000001": false,
		"localhost": false, "LOCALHOST.": false, "metadata.google.internal": false, "": false, "10.0.0.1": true, "db.demo.local": true, "::ffff:127.0.0.1": false,
	} {
		if safeHost(host) != want {
			t.Errorf("safeHost(%q) is %v", host, !want)
		}
	}
}

func TestLogsForgetTheirOldestLinesAndNoOthers(t *testing.T) {
	b := newLogBuffer()
	for i := range maxLogLines + 1 {
		b.add(logLine{text: fmt.Sprint(i)})
	}
	lines := strings.Fields(b.last(3))
	if !slices.Equal(lines, []string{fmt.Sprint(maxLogLines - 2), fmt.Sprint(maxLogLines - 1), fmt.Sprint(maxLogLines)}) || b.first != maxLogLines/2 {
		t.Errorf("the end is %v, beginning at %d", lines, b.first)
	}
	b.end()
	b.add(logLine{text: "late"})
	if strings.Contains(b.last(1), "late") {
		t.Error("a log that has ended takes lines")
	}
}
