package compose_test

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// dockerfile is a Dockerfile, as far as its tests look at it.
type dockerfile struct {
	stages      []stage // those that build, in order
	runSteps    []step  // of the stage that becomes the image
	arguments   []string
	runImage    string
	user        string
	entrypoint  []string
	healthcheck []string // the command; nil when there is none to ask
}

type step struct{ instruction, rest string }

// stage is one that builds something for those after it.
type stage struct {
	name  string
	steps []step
}

// parseDockerfile reads a Dockerfile whose last stage is the image. It knows the instructions that ours use and fails on any other.
func parseDockerfile(t *testing.T, name string) dockerfile {
	t.Helper()
	var file dockerfile
	text := regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(read(t, name), "")
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		instruction, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		switch instruction {
		case "FROM":
			file.runImage = rest
			_, name, _ := strings.Cut(rest, " AS ")
			file.stages = append(file.stages, stage{name: name})
			continue
		case "ARG":
			argument, _, _ := strings.Cut(rest, "=")
			file.arguments = append(file.arguments, argument)
		case "USER":
			file.user = rest
		case "ENTRYPOINT":
			file.entrypoint = parseWords(t, rest)
		case "HEALTHCHECK":
			if _, command, ok := strings.Cut(rest, "CMD "); ok {
				file.healthcheck = parseWords(t, command)
			} else if rest != "NONE" {
				t.Fatalf("%s: health check %q", name, rest)
			}
		case "WORKDIR", "RUN", "COPY", "LABEL", "ENV", "EXPOSE", "CMD":
		default:
			t.Fatalf("%s: instruction %s is not known to this test", name, instruction)
		}
		if last := len(file.stages) - 1; last >= 0 {
			file.stages[last].steps = append(file.stages[last].steps, step{instruction, rest})
		}
	}
	last := len(file.stages) - 1
	if last < 1 {
		t.Fatalf("%s has %d stages, want 2 or more", name, last+1)
	}
	file.runSteps, file.stages = file.stages[last].steps, file.stages[:last]
	for _, s := range file.stages {
		if s.name == "" {
			t.Fatalf("%s: a stage that builds has no name", name)
		}
	}
	return file
}

// parseWords reads the JSON form of a command, the only one that works without a shell.
func parseWords(t *testing.T, text string) []string {
	t.Helper()
	var words []string
	if err := json.Unmarshal([]byte(text), &words); err != nil {
		t.Fatalf("%q is not in the form that works without a shell: %v", text, err)
	}
	return words
}

func TestImagesRunWithoutRootAndWithoutAShell(t *testing.T) {
	for _, name := range []string{"Dockerfile.proxy", "Dockerfile.admin"} {
		file := parseDockerfile(t, name)
		if file.user != "65532:65532" {
			t.Errorf("%s: user %q is not the number of distroless's nonroot", name, file.user)
		}
		if file.runImage != "${RUN_IMAGE}" {
			t.Errorf("%s: the image it runs on is no argument: %s", name, file.runImage)
		}
		if !regexp.MustCompile(`(?m)^ARG RUN_IMAGE=\S+/distroless/static-debian\d+:nonroot(@sha256:[0-9a-f]{64})?$`).MatchString(read(t, name)) {
			t.Errorf("%s: its base image is not distroless static, or has no tag", name)
		}
		if !regexp.MustCompile(`(?m)^ARG BUILD_IMAGE=golang:\d+\.\d+-\w+(@sha256:[0-9a-f]{64})?$`).MatchString(read(t, name)) {
			t.Errorf("%s: the image it is built on is not Go's, or has no tag", name)
		}
		for _, step := range file.runSteps {
			if step.instruction == "RUN" {
				t.Errorf("%s: runs %q in an image that has no shell", name, step.rest)
			}
		}
	}
}

func TestImagesAreBuiltWithTheGoOfTheModule(t *testing.T) {
	want := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	for _, name := range []string{"Dockerfile.proxy", "Dockerfile.admin"} {
		got := regexp.MustCompile(`(?m)^ARG BUILD_IMAGE=golang:(\d+\.\d+)`).FindStringSubmatch(read(t, name))
		if got == nil || got[1] != want {
			t.Errorf("%s is built with Go %v, go.mod asks for %s", name, got, want)
		}
	}
}

// TestTheBuildStepsWorkByHand runs what the Dockerfiles run, in the context that .dockerignore leaves, and looks at
// what comes out. It is what `docker build` would do, without the engine and for this machine's architecture.
func TestTheBuildStepsWorkByHand(t *testing.T) {
	for name, program := range map[string]string{"Dockerfile.proxy": "proxy", "Dockerfile.admin": "admin"} {
		t.Run(name, func(t *testing.T) {
			file := parseDockerfile(t, name)
			out := t.TempDir()
			roots := make(map[string]string) // of stages, by name
			for _, stage := range file.stages {
				root := t.TempDir()
				roots[stage.name] = root
				source, built := root, false
				for _, step := range stage.steps {
					switch step.instruction {
					case "WORKDIR":
						source = filepath.Join(root, step.rest)
						if err := os.MkdirAll(source, 0o755); err != nil {
							t.Fatal(err)
						}
					case "COPY":
						words := strings.Fields(step.rest)
						to := filepath.Join(source, words[len(words)-1])
						if other, is := strings.CutPrefix(words[0], "--from="); is {
							if err := os.CopyFS(to, os.DirFS(filepath.Join(roots[other], words[1]))); err != nil {
								t.Fatal(err)
							}
							continue
						}
						for _, from := range words[:len(words)-1] {
							copyContext(t, from, to, from == words[len(words)-1] || len(words) == 2)
						}
					case "RUN":
						command := regexp.MustCompile(`--mount=\S+\s*`).ReplaceAllString(step.rest, "")
						if strings.HasPrefix(command, "go mod download") {
							continue // the modules are here already: this test was built with them
						}
						command = strings.ReplaceAll(command, "/out/", out+"/")
						run := exec.Command("sh", "-ec", command)
						run.Dir = source
						run.Env = append(os.Environ(), "TARGETOS="+runtime.GOOS, "TARGETARCH="+runtime.GOARCH, "VERSION=v0-by-hand", "GOFLAGS=-mod=readonly", "GOPROXY=off", "npm_config_prefer_offline=true")
						if output, err := run.CombinedOutput(); err != nil {
							t.Fatalf("%s: %v\n%s", command, err, output)
						}
						built = true
					}
				}
				if !built {
					t.Fatalf("the stage %s builds nothing", stage.name)
				}
			}
			if want := []string{"/" + program}; !slices.Equal(file.entrypoint, want) {
				t.Errorf("entry point %v, want %v", file.entrypoint, want)
			}
			binary := filepath.Join(out, program)
			checkStatic(t, binary)
			if output, err := exec.Command(binary, "--help").CombinedOutput(); err != nil {
				t.Errorf("%s --help: %v\n%s", program, err, output)
			}
			text, err := os.ReadFile(binary)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(text, []byte("v0-by-hand")) {
				t.Error("the binary does not carry its version: is main.version gone?")
			}
			if program == "admin" && !bytes.Contains(text, []byte("/console/assets/index-")) {
				t.Error("the binary carries no console")
			}
			if here, _ := os.Getwd(); bytes.Contains(text, []byte(filepath.Dir(filepath.Dir(here)))) {
				t.Error("the binary carries paths of the machine it was built on")
			}
			for _, step := range file.runSteps {
				if words := strings.Fields(step.rest); step.instruction == "COPY" && !strings.HasPrefix(words[0], "--from") {
					copyContext(t, words[0], filepath.Join(t.TempDir(), "copied"), true)
				}
			}
		})
	}
}

// checkStatic fails when the binary needs a dynamic loader, which the image does not have.
func checkStatic(t *testing.T, path string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return
	}
	binary, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	for _, program := range binary.Progs {
		if program.Type == elf.PT_INTERP {
			t.Error("the binary needs a dynamic loader, which the image does not have")
		}
	}
}

// copyContext copies a file or folder of the repository, less what .dockerignore keeps out, to the path given, or into
// it when it stands for a folder of several files.
func copyContext(t *testing.T, from, to string, exact bool) {
	t.Helper()
	ignore := parseIgnore(t)
	if !exact {
		to = filepath.Join(to, filepath.Base(from))
	}
	copied := 0
	err := filepath.WalkDir(filepath.Join(root, from), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(root, path)
		if err != nil || entry.IsDir() || ignore(filepath.ToSlash(inside)) {
			return err
		}
		below, err := filepath.Rel(filepath.Join(root, from), path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		copied++
		target := filepath.Join(to, below)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	if copied == 0 {
		t.Errorf("COPY %s: .dockerignore keeps all of it out", from)
	}
}

// parseIgnore returns whether .dockerignore keeps a file out. It knows the patterns that ours uses: `*`, a name of the
// top folder, `**/` before a pattern of a last element, and `!` before any of them. The last pattern that fits decides.
func parseIgnore(t *testing.T) func(path string) bool {
	t.Helper()
	var patterns []string
	for line := range strings.Lines(read(t, ".dockerignore")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			patterns = append(patterns, line)
		}
	}
	return func(path string) bool {
		ignored := false
		for _, pattern := range patterns {
			text, negated := strings.CutPrefix(pattern, "!")
			fits := false
			if last, anywhere := strings.CutPrefix(text, "**/"); anywhere {
				for element := range strings.SplitSeq(path, "/") {
					if ok, _ := filepath.Match(last, element); ok {
						fits = true
					}
				}
			} else {
				top, _, _ := strings.Cut(path, "/")
				fits, _ = filepath.Match(text, top)
			}
			if fits {
				ignored = !negated
			}
		}
		return ignored
	}
}

func TestSecretsAndDataNeverReachTheBuildContext(t *testing.T) {
	ignored := parseIgnore(t)
	for _, path := range []string{".env", ".demo/state.json", ".git/config", "bin/proxy", "dump.sql", "pkg/audit/writer_test.go", "pkg/rack/testdata/fuzz/x"} {
		if !ignored(path) {
			t.Errorf("%s would be sent to the engine", path)
		}
	}
	for _, path := range []string{"go.mod", "go.sum", "LICENSE", "cmd/proxy/main.go", "pkg/audit/writer.go", "sql/roles.sql"} {
		if ignored(path) {
			t.Errorf("%s would not be sent to the engine, and the build needs it", path)
		}
	}
}
