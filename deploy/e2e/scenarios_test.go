package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
)

// scenarios are all of them.
func scenarios() []scenario {
	return slices.Concat(looking(), processes(), releasing(), changing(), carrying(), theRack())
}

// looking changes nothing.
func looking() []scenario {
	return []scenario{
		{name: "looking at apps", quick: true, run: func(s *side) {
			s.run("apps")
			s.run("apps", "info")
			s.run("apps", "info", "-a", "nothere")
			s.run("apps", "params")
			s.run("ps")
			s.run("ps", "info", s.pid("web"))
			s.run("ps", "info", "nothere")
			s.run("services")
			s.run("scale")
			s.run("balancers")
			s.run("builds")
			s.run("releases")
			s.run("env")
			s.run("env", "get", "API_KEY")
			s.run("env", "get", "NOTHERE")
			s.run("configs")
			s.run("config", "get", "settings")
			s.run("config", "get", "nothere")
			s.run("resources")
			s.run("resources", "info", "database")
			s.run("resources", "url", "database")
			s.run("resources", "url", "nothere")
		}},
		{name: "looking at releases and builds", quick: true, run: func(s *side) {
			release, build := s.release(), s.build()
			s.run("releases", "info", release)
			s.run("releases", "info", strings.ToLower(release))
			s.run("releases", "info", "RNOTHERE")
			s.run("releases", "manifest", release)
			s.run("releases", "--limit", "1")
			s.run("builds", "info", build)
			s.run("builds", "info", "BNOTHERE")
			s.run("builds", "logs", build)
			s.run("builds", "--limit", "1")
		}},
		{name: "looking at the rack", quick: true, run: func(s *side) {
			s.run("rack")
			s.run("rack", "ps")
			s.run("rack", "ps", "-a")
			s.run("rack", "params")
			s.run("rack", "releases")
			s.run("rack", "resources")
			s.run("rack", "resources", "info", "audit")
			s.run("rack", "resources", "types")
			s.run("instances")
			s.run("registries")
			s.run("certs")
			s.run("certs", "--generated")
			s.run("version")
			s.run("api", "get", "/apps")
			s.run("api", "get", "/system/capacity")
			s.run("ssl")
			s.run("cost")
			s.run("budget", "show", "demo")
			s.run("env", "mask")
		}},
		{name: "looking at what the stock client alone shows", only: "stock", quick: true, run: func(s *side) {
			s.run("rack", "resources", "url", "audit")
			s.run("rack", "resources", "options", "webhook")
			s.run("letsencrypt", "dns", "route53", "list")
			s.run("deploy-debug")
		}},
	}
}

// processes runs commands and reads logs.
func processes() []scenario {
	return []scenario{
		{name: "exec", quick: true, run: func(s *side) {
			pid := s.pid("web")
			s.run("exec", pid, "echo", "hello")
			s.run("exec", "web", "sh -c 'echo by the name of its service'")
			s.run("exec", pid, "false")
			s.run("exec", pid, "sh -c 'exit 3'")
			s.run("exec", pid, "nothere")
			s.run("exec", pid, "sh -c 'echo said; echo more; exit 42'")
			s.feed("a line\nanother, without an end", "exec", pid, "cat")
			s.feed("counted", "exec", pid, "wc")
			s.run("exec", pid, "printenv API_KEY")
			s.run("exec", pid, "echo 'quotes \"inside\"'   blanks\\ kept")
		}},
		{name: "exec with bytes that are no text, and many of them", quick: true, run: func(s *side) {
			pid := s.pid("web")
			bytes := string(noText(64 << 10))
			s.sum(bytes, "exec", pid, "sha256sum")
			s.sum(bytes, "exec", pid, "cat")
			s.sum("", "exec", pid, "yes 2000")
			s.sum("", "exec", pid, "random 3000000 5 30000")
			s.sum("", "exec", pid, "random 100000 6 1")
		}},
		{name: "exec that another command ends", run: func(s *side) {
			pid := s.pid("web")
			session := s.start("exec", pid, "sh -c 'echo ready; sleep 1000'")
			session.await("ready")
			s.run("ps", "stop", pid)
			session.wait()
			s.run("ps", "stop", pid)
			s.tell("another is running", s.pid("web") != pid)
		}},
		{name: "a session with questions and answers", run: func(s *side) {
			session := s.start("exec", "web", "sh")
			for i := range 5 {
				fmt.Fprintf(session.stdin, "echo answer $HOME %d\n", i)
				session.await(fmt.Sprintf("answer /root %d", i))
			}
			fmt.Fprintln(session.stdin, "exit 7")
			session.stdin.Close()
			session.wait()
		}},
		{name: "run", quick: true, run: func(s *side) {
			s.run("run", "web", "echo hello")
			s.run("run", "web", "sh -c 'exit 3'")
			s.feed("through\n", "run", "web", "cat")
			s.run("run", "web", "nothere")
			s.run("run", "nothere", "echo hello")
			s.run("ps")
		}},
		{name: "run detached, and with options", run: func(s *side) {
			s.run("run", "web", "--detach", "sleep 1000")
			s.run("run", "web", "--cpu", "256", "--memory", "128", "--release", s.release(), "echo sized")
			s.run("run", "web", "--release", "RNOTHERE", "echo none")
			s.run("ps")
		}},
		{name: "logs", quick: true, run: func(s *side) {
			// The lines are there before they are asked for.
			s.pid("web")
			follow := s.start("logs")
			follow.await("listening")
			s.must("run", "web", "--detach", "printenv LOG_LEVEL")
			follow.await(" info\n")
			follow.kill()
			s.run("logs", "--no-follow")
			s.run("logs", "--no-follow", "--filter", "listening")
			s.run("logs", "--no-follow", "--since", "10m", "--tail", "1")
			s.run("logs", "--no-follow", "-s", "web")
			s.run("logs", "--no-follow", "-a", "nothere")
		}},
		{name: "stopping, restarting, scaling", run: func(s *side) {
			s.run("ps", "stop", s.pid("web"))
			s.run("ps", "stop", "nothere")
			s.run("restart")
			s.run("services", "restart", "web")
			s.run("services", "restart", "nothere")
			s.run("scale", "web", "--count", "2", "--cpu", "300", "--memory", "400")
			s.run("scale", "nothere", "--count", "2")
			s.run("scale")
		}},
	}
}

// releasing builds and promotes.
func releasing() []scenario {
	return []scenario{
		{name: "env", quick: true, run: func(s *side) {
			s.run("env", "set", "NEW=value with = and blanks", "API_KEY="+settingSecret)
			s.run("env")
			s.feed("FROM_INPUT=1\nALSO=2\n", "env", "set")
			s.run("env", "get", "FROM_INPUT")
			s.run("env", "unset", "NEW", "NOTHERE")
			s.run("env", "set", "PERCENT=100% of %s", "UMLAUT=grün")
			s.run("env", "get", "UMLAUT")
			s.run("env", "set", "--release", s.release(), "FORK=1", "--id")
			s.run("env", "set", "--replace", "ONLY=1")
			s.run("env")
			s.run("releases")
			s.tell("the environment in force", s.rack.Env("demo", ""))
		}},
		{name: "env edited and masked", run: func(s *side) {
			s.run("env", "edit")
			s.run("env", "get", "LOG_LEVEL")
			s.run("env", "mask", "set", "API_KEY")
			s.run("env", "mask")
			s.run("env", "mask", "set", "DATABASE_URL")
			s.run("env", "mask")
			s.run("env", "mask", "unset", "API_KEY")
			s.run("env", "mask")
			s.run("env")
		}},
		{name: "promote and roll back", run: func(s *side) {
			first := s.release()
			second := s.made(s.must("env", "set", "LOG_LEVEL=debug"))
			s.run("releases", "promote", second)
			s.run("releases", "promote", first)
			s.run("releases", "promote", "RNOTHERE")
			s.run("releases", "rollback", first)
			s.run("releases")
			s.run("ps")
			s.tell("the environment in force", s.rack.Env("demo", ""))
		}},
		{name: "env set and promote", run: func(s *side) {
			s.run("env", "set", "LOG_LEVEL=debug", "--promote")
			s.run("env", "unset", "LOG_LEVEL", "--promote")
			s.run("releases")
		}},
		{name: "a release of the build of one and the environment of another", run: func(s *side) {
			first := s.release()
			second := s.made(s.must("env", "set", "LOG_LEVEL=debug"))
			s.run("releases", "create-from", "--build-from", first, "--env-from", second)
			s.run("releases", "create-from", "--build-from", "RNOTHERE", "--env-from", second)
			s.run("releases")
		}},
		{name: "build", quick: true, run: func(s *side) {
			s.run("build", "--description", "by hand", "--id")
			s.run("builds")
			s.run("builds", "logs", s.build())
			s.write("Dockerfile", "FROM scratch\nRUN false\n")
			s.run("build")
			s.run("builds")
			s.run("build", "--manifest", "nothere.yml")
		}},
		{name: "deploy", run: func(s *side) {
			s.run("deploy", "--description", "by hand")
			s.run("releases")
			s.run("ps")
		}},
		{name: "a build that fails ends a deploy", run: func(s *side) {
			s.write("Dockerfile", "FROM scratch\nRUN false\n")
			s.run("deploy")
			s.run("releases")
		}},
		{name: "builds exported and imported", run: func(s *side) {
			s.run("builds", "export", s.build(), "--file", "build.tgz")
			s.tellArchive("build.tgz")
			s.run("builds", "import", "--file", "build.tgz", "--id")
			s.run("builds")
			s.run("builds", "export", "BNOTHERE", "--file", "none.tgz")
		}},
		{name: "tests", run: func(s *side) {
			manifest := strings.Replace(racktest.SeedManifest, "    command: bin/web\n", "    command: bin/web\n    test: echo tested\n", 1)
			s.write("convox.yml", manifest)
			s.run("test")
			s.write("convox.yml", strings.Replace(manifest, "echo tested", "sh -c 'exit 4'", 1))
			s.run("test")
			s.run("ps")
		}},
	}
}

// changing creates, configures and removes.
func changing() []scenario {
	return []scenario{
		{name: "an app's life", opts: sideOptions{allowDestructive: true}, run: func(s *side) {
			s.run("apps", "create", "other")
			s.run("apps", "create", "other")
			s.run("apps", "create", "Not_A_Name")
			s.run("apps")
			s.run("apps", "lock", "other")
			s.run("apps", "delete", "other")
			s.run("apps", "unlock", "other")
			s.run("apps", "delete", "other")
			s.run("apps", "delete", "other")
			s.run("apps")
		}},
		{name: "an app's parameters", run: func(s *side) {
			s.run("apps", "params", "set", "BuildCpu=700", "BuildMem=2048")
			s.run("apps", "params", "set", "NotThere=1")
			s.run("apps", "params", "set", "without a sign")
			s.run("apps", "params")
		}},
		{name: "an app's update cancelled", opts: sideOptions{rack: racktest.Options{PromoteTime: time.Hour}}, run: func(s *side) {
			s.run("apps", "cancel")
			second := s.made(s.must("env", "set", "LOG_LEVEL=debug"))
			if err := s.client().Post(s.ctx, "/apps/demo/releases/"+second+"/promote", url.Values{"force": {"false"}}, nil); err != nil {
				s.t.Fatal(err)
			}
			s.run("apps", "info")
			s.run("apps", "cancel")
			s.run("releases")
		}},
		{name: "apps exported and imported", run: func(s *side) {
			s.run("apps", "export", "--file", "none.tgz") // a cache cannot be exported
			s.write("convox.yml", strings.NewReplacer("  cache:\n    type: redis\n", "", "      - cache\n", "").Replace(racktest.SeedManifest))
			s.must("deploy")
			s.run("apps", "export", "--file", "app.tgz")
			s.tellArchive("app.tgz")
			s.run("apps", "import", "copy", "--file", "app.tgz")
			s.run("apps")
			s.run("env", "-a", "copy")
			s.run("apps", "params", "-a", "copy")
		}},
		{name: "configs", quick: true, run: func(s *side) {
			s.feed(settingSecret+"\n", "config", "set", "settings", "--value", "what the input says counts")
			s.run("config", "get", "settings")
			s.write("big.json", strings.Repeat("{\"key\": \"value\"}\n", 3000))
			s.run("config", "set", "big", "--file", "big.json")
			s.sum("", "config", "get", "big")
			s.run("configs")
		}},
		{name: "certificates and registries", quick: true, run: func(s *side) {
			s.run("certs", "generate", "a.example.com", "--id")
			s.run("certs", "generate", "a.example.com", "b.example.com")
			s.run("certs")
			s.run("certs", "delete", "cert-seed1")
			s.run("certs", "delete", "nothere")
			s.run("certs", "renew")
			s.run("registries", "add", "quay.example.com", "robot", registrySecret)
			s.run("registries")
			s.run("registries", "remove", "quay.example.com")
			s.run("registries", "remove", "nothere.example.com")
			s.run("registries")
		}},
		{name: "certificates of services", run: func(s *side) {
			s.run("ssl")
			s.run("ssl", "update", "web:443", "cert-seed1")
			s.run("ssl", "update", "web:443", "nothere")
			s.run("ssl", "update", "nothere:443", "cert-seed1")
			s.run("ssl")
		}},
		{name: "budgets", run: func(s *side) {
			s.run("budget", "set", "demo", "--monthly-cap", "100", "--alert-at", "70", "--at-cap-action", "block-new-deploys")
			s.run("budget", "show", "demo")
			s.run("budget", "cap", "raise", "demo", "--monthly-cap", "200")
			s.run("budget", "simulate-shutdown", "demo")
			s.run("budget", "dismiss-recovery", "demo")
			s.run("budget", "reset", "demo", "--force")
			s.run("ps")
			s.run("budget", "clear", "demo")
			s.run("budget", "show", "demo")
			s.run("budget", "show", "nothere")
		}},
		{name: "a service updated", run: func(s *side) {
			s.run("services", "update", "web", "--count", "2", "--cpu", "300")
			s.run("services", "update", "nothere", "--count", "2")
			s.run("services")
			s.run("ps")
		}},
		{name: "triggers", only: "stock", run: func(s *side) {
			s.run("services", "triggers", "enable", "web", "--min", "1", "--max", "3", "--cpu", "60")
			s.run("services")
			s.run("services", "triggers", "threshold-set", "web", "cpu", "70")
			s.run("services", "triggers", "disable", "web")
			s.run("services")
		}},
	}
}

// carrying moves files, dumps and raw bytes.
func carrying() []scenario {
	return []scenario{
		{name: "files copied", quick: true, run: func(s *side) {
			pid := s.pid("web")
			s.write("up.bin", string(noText(300<<10)))
			s.write("folder/one.txt", "one\n")
			s.write("folder/deep/two.txt", "two\n")
			s.run("cp", "up.bin", pid+":/tmp/up.bin")
			s.run("cp", pid+":/tmp/up.bin", "down.bin")
			s.tellFile("down.bin")
			s.run("cp", "folder", pid+":/tmp/folder")
			s.run("exec", pid, "ls /tmp/folder")
			s.run("cp", pid+":/tmp/folder", "back")
			s.tellFile("back/one.txt")
			s.tellFile("back/deep/two.txt")
			s.run("cp", pid+":/nothere", "none")
			s.run("cp", "up.bin", pid+":relative")
			if _, err := s.rack.File("demo", pid, "/tmp/up.bin"); err != nil {
				s.t.Error(err)
			}
		}},
		{name: "databases exported, imported and asked", quick: true, run: func(s *side) {
			s.run("resources", "export", "database", "--file", "dump.sql")
			s.tellFile("dump.sql")
			s.run("resources", "export", "database")
			s.run("resources", "export", "cache", "--file", "none")
			s.write("new.sql", strings.Repeat("insert into users values (1);\n", 10000))
			s.run("resources", "import", "database", "--file", "new.sql")
			s.run("resources", "import", "nothere", "--file", "new.sql")
			data, err := s.rack.ResourceData("demo", "database")
			s.tell("the database", fmt.Sprintf("%x %v", sha256.Sum256(data), err))
			s.feed("select 1;\n\\q\n", "resources", "console", "database")
			s.feed("PING\nquit\n", "resources", "console", "cache")
			s.run("resources", "console", "nothere")
		}},
		{name: "ports carried to resources", quick: true, run: func(s *side) {
			host := "resource-cache.demo-demo.svc.cluster.local"
			port := freePort(s.t)
			tunnel := s.start("proxy", fmt.Sprintf("%d:%s:6379", port, host))
			tunnel.await("proxying")
			s.tell("redis", talk(s, port, "PING\r\nECHO hello\r\nQUIT\r\n"))
			tunnel.await("connect")
			tunnel.kill()
			port = freePort(s.t)
			tunnel = s.start("resources", "proxy", "cache", "--port", strconv.Itoa(port))
			tunnel.await("proxying")
			s.tell("redis", talk(s, port, "ECHO again\r\nQUIT\r\n"))
			tunnel.await("connect")
			tunnel.kill()
		}},
	}
}

// theRack changes the rack itself.
func theRack() []scenario {
	return []scenario{
		{name: "the rack's logs", quick: true, run: func(s *side) {
			follow := s.start("rack", "logs")
			follow.await("release:create")
			follow.kill()
			follow = s.start("rack", "logs", "--filter", "is running")
			follow.await("is running")
			follow.kill()
		}},
		{name: "the rack's parameters", opts: sideOptions{rack: racktest.Options{AllowSystemUpdate: true, Version: "3.24.6"}}, run: func(s *side) {
			s.run("rack", "params", "set", "node_type=t3.large")
			s.run("rack", "params")
		}},
		{name: "the rack's parameters, where it takes none", run: func(s *side) {
			s.run("rack", "params", "set", "node_type=t3.large")
			s.run("rack", "params")
		}},
		{name: "the rack's resources", run: func(s *side) {
			s.run("rack", "resources", "create", "webhook", "--name", "hook", "Url=https://hooks.example.com/a?b=c&d=%20")
			s.run("rack", "resources", "create", "webhook", "--name", "hook", "Url=https://hooks.example.com/")
			s.run("rack", "resources", "create", "nothere")
			s.run("rack", "resources")
			s.run("rack", "resources", "delete", "hook")
			s.run("rack", "resources", "delete", "nothere")
			s.run("rack", "resources")
		}},
		{name: "the rack's machines", opts: sideOptions{allowDestructive: true}, run: func(s *side) {
			s.run("instances", "terminate", "ip-10-1-1-12.ec2.internal")
			s.run("instances", "terminate", "nothere")
			s.run("instances")
		}},
		{name: "shells on the rack's machines", only: "own", run: func(s *side) {
			s.write("key", "-----BEGIN KEY-----\nnot a real one\n-----END KEY-----\n")
			s.run("instances", "ssh", "ip-10-1-0-11.ec2.internal", "echo on the machine", "--key", "key")
			s.run("instances", "ssh", "ip-10-1-0-11.ec2.internal", "sh -c 'exit 5'", "--key", "key")
			s.run("instances", "ssh", "ip-10-1-0-11.ec2.internal", "true")
			s.run("instances", "ssh", "nothere", "true", "--key", "key")
		}},
	}
}

// release is the id of the release that the app demo was seeded with, and build its build.
func (s *side) release() string { return s.column("releases", 0) }
func (s *side) build() string   { return s.column("builds", 0) }

// column is a column of the last row of a list.
func (s *side) column(list string, column int) string {
	s.t.Helper()
	got := s.quietly("", list)
	rows := strings.Split(strings.TrimSpace(got.Stdout), "\n")
	fields := strings.Fields(rows[len(rows)-1])
	if got.Code != 0 || len(rows) < 2 || len(fields) <= column {
		s.t.Fatalf("convox %s: exit %d\n%s%s", list, got.Code, got.Stdout, got.Stderr)
	}
	return fields[column]
}

// made is the release that a command says it made.
func (s *side) made(r result) string {
	s.t.Helper()
	_, id, ok := strings.Cut(r.Stdout, "Release: ")
	if !ok {
		s.t.Fatalf("no release was made:\n%s", r.Stdout)
	}
	id, _, _ = strings.Cut(id, "\n")
	return id
}

// sum runs a command and writes down how long its output was and its hash.
func (s *side) sum(in string, args ...string) {
	s.t.Helper()
	got := s.quietly(in, args...)
	s.note(step{what: "convox " + strings.Join(args, " "), stderr: got.Stderr,
		end: fmt.Sprintf("%d bytes, %x, exit %d", len(got.Stdout), sha256.Sum256([]byte(got.Stdout)), got.Code)})
}

// noText are bytes that are no UTF-8, and none that the CLI strips.
func noText(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = 0x80 | byte(i*7+i>>8)
	}
	return out
}

// freePort is a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// talk sends a text to a port and returns the whole answer. It dials until somebody listens.
func talk(s *side, port int, text string) string {
	s.t.Helper()
	var conn net.Conn
	err := os.ErrDeadlineExceeded
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); {
		conn, err = net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		s.t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		s.t.Fatalf("after %q: %v", answer, err)
	}
	return string(answer)
}
