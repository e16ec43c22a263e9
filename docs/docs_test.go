// Package docs_test holds the documentation to what there is: links lead somewhere, commands exist, variables are
// read, and messages are quoted as they are said.
package docs_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"rackgateway/pkg/access"
	"rackgateway/pkg/config"
)

// pages are all pages that people read, from the top folder.
func pages(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"../*.md", "*.md", "../deploy/*.md", "../deploy/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			texts[path] = string(text)
		}
	}
	if len(texts) < 8 {
		t.Fatalf("only %d pages were found", len(texts))
	}
	return texts
}

func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]*)(#[^)]*)?\)`)
	texts := pages(t)
	for page, text := range texts {
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target := page
			if match[1] != "" {
				target = strings.TrimPrefix(filepath.Join(filepath.Dir(page), match[1]), "../docs/")
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s leads nowhere", page, match[0])
			}
			if match[2] != "" && !hasHeading(texts[target], match[2][1:]) {
				t.Errorf("%s: %s names no heading", page, match[0])
			}
		}
	}
}

// hasHeading reports whether a heading of the page has the anchor, as forges make them.
func hasHeading(page, anchor string) bool {
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		made := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		if strings.ReplaceAll(made, " ", "-") == anchor {
			return true
		}
	}
	return false
}

func TestEveryMakeTargetThatIsNamedExists(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for page, text := range pages(t) {
		for _, match := range regexp.MustCompile("(?m)(?:^|`)make ([a-z][a-z0-9-]*)").FindAllStringSubmatch(text, -1) {
			checked++
			if !bytes.Contains(makefile, []byte("\n"+match[1]+":")) {
				t.Errorf("%s: there is no make %s", page, match[1])
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d targets were found to check", checked)
	}
}

// code is what a page shows as code: between backticks, and in indented or fenced lines.
func code(text string) []string {
	fence := regexp.MustCompile("(?ms)^```.*?\n(.*?)^```")
	var found []string
	for _, match := range fence.FindAllStringSubmatch(text, -1) {
		found = append(found, strings.Split(match[1], "\n")...)
	}
	for _, match := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		found = append(found, match[1])
	}
	return found
}

func TestEveryAdminCommandThatIsNamedExists(t *testing.T) {
	admin := filepath.Join(t.TempDir(), "admin")
	if output, err := exec.Command("go", "build", "-o", admin, "rackgateway/cmd/admin").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	command := regexp.MustCompile(`(?:^|[ /(])admin ((?:[a-z]+ ?)+)(.*)`)
	flag := regexp.MustCompile(`--[a-z-]+`)
	helped := map[string]string{}
	checked := 0
	for page, text := range pages(t) {
		for _, line := range code(text) {
			line, _, _ = strings.Cut(line, "  #")
			match := command.FindStringSubmatch(line)
			if match == nil {
				continue
			}
			words := strings.Fields(match[1])
			words = words[:min(len(words), 2)]
			help := ""
			for len(words) > 0 && help == "" { // the last word may be an argument
				name := strings.Join(words, " ")
				if _, known := helped[name]; !known {
					output, err := exec.Command(admin, append(words[:len(words):len(words)], "--help")...).CombinedOutput()
					if err != nil {
						output = nil
					}
					helped[name] = string(output)
				}
				help = helped[name]
				words = words[:len(words)-1]
			}
			if help == "" {
				t.Errorf("%s: there is no command in %q", page, line)
				continue
			}
			checked++
			for _, option := range flag.FindAllString(match[2], -1) {
				if !strings.Contains(help, option) {
					t.Errorf("%s: %q: there is no %s", page, line, option)
				}
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d commands were found to check", checked)
	}
}

// settingVariable gives a setting its default, for the gateway or for an app.
var settingVariable = func() *regexp.Regexp {
	var keys []string
	for _, def := range access.SettingDefs() {
		keys = append(keys, strings.ToUpper(def.Key))
	}
	return regexp.MustCompile(`^RGW_(APP_[A-Z0-9_]+_)?SETTING_(` + strings.Join(keys, "|") + `)$`)
}()

func TestEveryVariableThatIsNamedIsRead(t *testing.T) {
	known := map[string]bool{
		// Of the convox CLI and of make, and what pages show of other programs.
		"RACK_URL": true, "CONVOX_HOST": true, "CONVOX_PASSWORD": true, "CONVOX_RACK": true, "CONVOX": true, "DEMO_LEVEL": true,
		// What the demo writes into demo.env.
		"GATEWAY_URL": true, "GATEWAY_CA": true, "CONSOLE_URL": true, "OIDC_URL": true, "ADMIN_API_TOKEN": true, "RACK_URL_ADMIN": true,
		"COMPOSE_FILE": true, "FRONT_TRUSTED": true, "TS_AUTHKEY": true,
		"E2E_FACTORS": true, "FUZZTIME": true, "PKGS": true, "RACE": true, "RUN": true, "SHORT": true,
	}
	_, proxy, _ := config.LoadProxy(nil)
	_, admin, _ := config.LoadAdmin(nil)
	for _, report := range []*config.Report{proxy, admin} {
		for _, row := range report.Rows {
			known[row.Name] = true
			known[row.Name+"_FILE"] = true
		}
	}
	for page, text := range pages(t) {
		if filepath.Base(page) == "configuration.md" {
			continue // made from the code
		}
		for _, shown := range code(text) {
			for _, name := range regexp.MustCompile(`\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b`).FindAllString(shown, -1) {
				if !known[name] && !settingVariable.MatchString(name) {
					t.Errorf("%s: %s is read by nothing", page, name)
				}
			}
		}
	}
}

func TestEveryPermissionThatIsNamedExists(t *testing.T) {
	checked := 0
	for page, text := range pages(t) {
		for _, name := range regexp.MustCompile(`\b(?:convox|gateway):[a-z]+:[a-z]+\b`).FindAllString(text, -1) {
			checked++
			if _, err := access.ParsePermission(name); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
	if checked < 5 {
		t.Errorf("only %d permissions were found to check", checked)
	}
}

func TestMessagesAreQuotedAsTheyAreSaid(t *testing.T) {
	said := spoken(t, "../pkg/proxy", "../pkg/access", "../pkg/credential")
	_, table, found := strings.Cut(pages(t)["cli.md"], "| message | why | what to do |\n|---|---|---|\n")
	if !found {
		t.Fatal("cli.md has no table of messages")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	quoted := 0
	for line := range strings.Lines(table) {
		cell := strings.Split(line, "|")[1]
		for _, match := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
			quoted++
			for _, part := range regexp.MustCompile(`[…;:,]`).Split(match[1], -1) {
				part = strings.TrimSpace(part)
				if len(part) >= 6 && !composed(said, part) {
					t.Errorf("nothing says %q, of %q", part, match[1])
				}
			}
		}
	}
	if quoted < 20 {
		t.Errorf("only %d messages were found", quoted)
	}
}

// The page for whoever runs it quotes the programs themselves.
func TestMessagesToOperatorsAreQuotedAsTheyAreSaid(t *testing.T) {
	said := spoken(t, "../pkg/config", "../pkg/daemon", "../pkg/postgres", "../pkg/proxy", "../cmd/admin", "../cmd/proxy")
	quoted := 0
	for line := range strings.Lines(pages(t)["troubleshooting.md"]) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		for _, match := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			quoted++
			for _, part := range regexp.MustCompile(`[…;:,]`).Split(match[1], -1) {
				part = strings.TrimSpace(part)
				if len(part) >= 6 && !composed(said, part) {
					t.Errorf("nothing says %q, of %q", part, match[1])
				}
			}
		}
	}
	if quoted < 10 {
		t.Errorf("only %d messages were found", quoted)
	}
}

// composed reports whether a text is said as it stands, or put together from two that are.
func composed(said, text string) bool {
	for i := range text {
		if strings.Contains(said, text[:i]) && strings.Contains(said, text[i:]) {
			return true
		}
	}
	return false
}

// spoken is every string of the packages' code, one a line.
func spoken(t *testing.T, folders ...string) string {
	t.Helper()
	var texts strings.Builder
	for _, folder := range folders {
		files, err := filepath.Glob(filepath.Join(folder, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(node ast.Node) bool {
				if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					if text, err := strconv.Unquote(literal.Value); err == nil {
						fmt.Fprintln(&texts, text)
					}
				}
				return true
			})
		}
	}
	return texts.String()
}

func TestEveryMetricThatIsNamedExists(t *testing.T) {
	said := strings.Split(spoken(t, "../pkg/proxy", "../cmd/admin"), "\n")
	checked := 0
	for page, text := range pages(t) {
		for _, name := range regexp.MustCompile(`\brgw_[a-z_]+\b`).FindAllString(text, -1) {
			if regexp.MustCompile(`^rgw_(?:owner|(?:proxy|admin)(?:_login)?)$`).MatchString(name) {
				continue // a role of the database
			}
			checked++
			if !slices.Contains(said, name) {
				t.Errorf("%s: there is no metric %s", page, name)
			}
		}
	}
	if checked < 5 {
		t.Errorf("only %d metrics were found to check", checked)
	}
}

// machine is what tells where a file was written: homes, and folders of build machines.
var machine = regexp.MustCompile(`/(?:home|Users|root|tmp)/[a-z]`)

func TestPagesNameNoMachine(t *testing.T) {
	for page, text := range pages(t) {
		for _, match := range machine.FindAllString(text, -1) {
			t.Errorf("%s: %s is of one machine", page, match)
		}
	}
}

func TestEveryFolderThatIsNamedExists(t *testing.T) {
	checked := 0
	for page, text := range pages(t) {
		for _, path := range regexp.MustCompile("`((?:cmd|pkg|sql|deploy|docs)(?:/[a-z0-9_.-]+)*)`").FindAllStringSubmatch(text, -1) {
			checked++
			if _, err := os.Stat(filepath.Join("..", path[1])); err != nil {
				t.Errorf("%s: there is no %s", page, path[1])
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d folders were found to check", checked)
	}
}
