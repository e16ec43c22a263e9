package convoxclient_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/racktest/convoxclient"
	"rackgateway/pkg/racktest/wire"
)

const (
	password = "rack-password"
	patience = 30 * time.Second
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// newRack is a rack with a CLI that has it as RACK_URL, and a working directory of its own.
func newRack(t *testing.T) (*racktest.Rack, *racktest.Server, *convoxclient.CLI) {
	t.Helper()
	rack, server, err := racktest.Serve(racktest.Options{Password: password})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rack.Close)
	return rack, server, &convoxclient.CLI{RackURL: server.RackURL(), Dir: t.TempDir(), Pace: convoxclient.TestPace()}
}

// listener takes raw requests down and answers each with a fixed answer.
type listener struct {
	net.Listener
	requests chan string
}

func listen(t *testing.T, answer string) *listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{ln, make(chan string, 10)}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 64<<10)
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			l.requests <- string(buf[:n])
			io.WriteString(c, answer)
			c.Close()
		}
	}()
	return l
}

const emptyList = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n[]\n"

func TestARequestIsTheCLIsByteForByte(t *testing.T) {
	for _, c := range []struct {
		name string
		cli  func(host string) *convoxclient.CLI
		args []string
		want []string
	}{
		{
			"direct", func(host string) *convoxclient.CLI {
				return &convoxclient.CLI{RackURL: "http://convox:tok%2Fen+with=odd+chars%3F&@" + host + "/any/prefix"}
			},
			[]string{"apps"},
			[]string{"GET /any/prefix/apps? HTTP/1.1\r\nHost: HOST\r\nUser-Agent: convox.go/dev\r\nAccept: */*\r\nAuthorization: Basic " +
				base64.StdEncoding.EncodeToString([]byte("convox:tok%2Fen+with=odd+chars%3F&")) +
				"\r\nContent-Type: application/octet-stream\r\nVersion: dev\r\nAccept-Encoding: gzip\r\n\r\n"},
		},
		{
			"a form, with an actor", func(host string) *convoxclient.CLI {
				return &convoxclient.CLI{RackURL: "http://convox:x@" + host, Actor: "ana@example.com"}
			},
			[]string{"registries", "add", "s", "u&", "p w"},
			[]string{"POST /registries? HTTP/1.1\r\nHost: HOST\r\nUser-Agent: convox.go/dev\r\nContent-Length: 34\r\nAccept: */*\r\nAuthorization: Basic Y29udm94Ong=\r\n" +
				"Content-Type: application/x-www-form-urlencoded\r\nVersion: dev\r\nX-Convox-Actor: ana@example.com\r\nAccept-Encoding: gzip\r\n\r\npassword=p+w&server=s&username=u%26"},
		},
		{
			"console: the list of racks has an empty session and no rack", func(host string) *convoxclient.CLI {
				return &convoxclient.CLI{Host: host, Password: "t k", Settings: convoxclient.NewSettings(), AllowHTTP: true}
			},
			[]string{"racks"},
			[]string{"GET /racks? HTTP/1.1\r\nHost: HOST\r\nUser-Agent: convox.go/dev\r\nAccept: */*\r\nAuthorization: Basic " +
				base64.StdEncoding.EncodeToString([]byte("convox:t+k")) + "\r\nContent-Type: application/octet-stream\r\nSession: \r\nVersion: dev\r\nAccept-Encoding: gzip\r\n\r\n"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := listen(t, emptyList)
			c.cli(l.Addr().String()).Run(within(t), "", c.args...)
			for _, want := range c.want {
				want = strings.ReplaceAll(want, "HOST", l.Addr().String())
				want = strings.ReplaceAll(want, "Content-Length: 34", fmt.Sprintf("Content-Length: %d", len(want)-strings.Index(want, "\r\n\r\n")-4))
				if got := <-l.requests; got != want {
					t.Errorf("sent\n%s\nwant\n%s", got, want)
				}
			}
		})
	}
}

func TestASocketBeginsWithAPreflight(t *testing.T) {
	rack, server, cli := newRack(t)
	if r := cli.Run(within(t), "", "exec", "web", "echo", "hi", "-a", "demo"); r.Code != 0 || r.Stdout != "hi\n" {
		t.Fatalf("%+v", r)
	}
	if r := cli.Run(within(t), "", "instances", "ssh", "none"); r.Stdout != "ERROR: instance not found\n" || r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	requests := rack.Requests()
	var got []string
	for _, e := range requests {
		got = append(got, e.Method+" "+e.Path+" "+e.Header.Get("Upgrade"))
	}
	want := []string{"GET /machines ", "GET /apps/demo/processes/web/exec websocket", "GET /system ", "GET /racks ", "GET /instances/none/shell websocket"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("requests\n%q, want\n%q", got, want)
	}
	h := requests[1].Header
	for name, want := range map[string]string{
		"Origin": server.URL(), "Command": "echo hi", "Tty": "false", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-Websocket-Version": "13",
		"User-Agent": "convox.go/dev", "Version": "dev", "Accept": "", "Content-Type": "", "Sec-Websocket-Extensions": "", "Sec-Websocket-Protocol": "",
	} {
		if h.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, h.Get(name), want)
		}
	}
	if requests[1].Query != "" {
		t.Errorf("a socket has the query %q", requests[1].Query)
	}
}

func TestErrorsAreShownAsTheCLIShowsThem(t *testing.T) {
	for _, c := range []struct{ status, body, want string }{
		{"403 Forbidden", "plain refusal\n", "plain refusal"},
		{"403 Forbidden", `{"error":"json refusal"}`, "json refusal"},
		{"403 Forbidden", `{"Error":"x"}`, "x"},
		{"403 Forbidden", `{"message":"other"}`, `{"message":"other"}`},
		{"403 Forbidden", `{"error":{"message":"n"}}`, `{"error":{"message":"n"}}`},
		{"403 Forbidden", "", "response status 403"},
		{"502 Bad Gateway", "100% done, see /a%20b", "100%!d(MISSING)one, see /a%!b(MISSING)"},
		{"200 OK", "surprise", "invalid character 's' looking for beginning of value"},
	} {
		l := listen(t, fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", c.status, len(c.body), c.body))
		cli := &convoxclient.CLI{RackURL: "http://x:y@" + l.Addr().String()}
		want := c.want
		if r := cli.Run(within(t), "", "apps"); r.Code != 1 || r.Stderr != "ERROR: "+want+"\n" {
			t.Errorf("%s %q: %+v, want %q", c.status, c.body, r, want)
		}
	}
	cli := &convoxclient.CLI{RackURL: "http://x:y@127.0.0.1:1"}
	if r := cli.Run(within(t), "", "apps"); r.Code != 1 || !strings.Contains(r.Stderr, `ERROR: Get "http://x:***@127.0.0.1:1/apps?": dial tcp`) && !strings.Contains(r.Stderr, `ERROR: Get "http://127.0.0.1:1/apps?": dial tcp`) {
		t.Errorf("a rack that is down: %+v", r)
	}
	l := listen(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope")
	cli = &convoxclient.CLI{RackURL: "http://x:y@" + l.Addr().String()}
	if r := cli.Run(within(t), "", "exec", "web", "true"); r.Code != 1 || r.Stderr != "ERROR: websocket: bad handshake\n" {
		t.Errorf("a refused socket: %+v", r)
	}
}

// socketServer upgrades every socket and hands it to serve; everything else is 404.
func socketServer(t *testing.T, serve func(*wire.Conn)) *convoxclient.CLI {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			w.WriteHeader(404)
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+wire.AcceptKey(r.Header.Get("Sec-Websocket-Key"))+"\r\n\r\n")
		serve(wire.NewConn(conn, rw.Reader, false))
	}))
	t.Cleanup(server.Close)
	return &convoxclient.CLI{RackURL: strings.Replace(server.URL, "http://", "http://x:y@", 1), PingEvery: 5 * time.Millisecond}
}

func TestTheExitCodeIsFoundWhereTheCLIFindsIt(t *testing.T) {
	say := func(texts ...string) func(*wire.Conn) {
		return func(c *wire.Conn) {
			for _, s := range texts {
				c.WriteFrame(true, wire.OpText, []byte(s))
			}
			c.WriteEOF()
		}
	}
	marker := wire.ExitMarker
	for _, c := range []struct {
		name   string
		serve  func(*wire.Conn)
		stdout string
		code   int
	}{
		{"in its own frame", say("out\n", marker+"7\n"), "out\n", 7},
		{"behind output in one frame", say("out\n" + marker + "7\n"), "out\n", 7},
		{"split over two frames it is output", say(marker[:10], marker[10:]+"7\n"), marker + "7\n", 0},
		{"beyond the first 1024 bytes of a frame", say(strings.Repeat("x", 1020) + marker + "7\n"), strings.Repeat("x", 1020) + marker + "7\n", 0},
		{"none", say("out\n"), "out\n", 0},
		{"a dropped connection is an ordinary end", func(c *wire.Conn) { c.WriteText([]byte("out\n")) }, "out\n", 0},
		{"so is a close frame", func(c *wire.Conn) { c.WriteText([]byte("out\n")); c.WriteFrame(true, wire.OpClose, []byte{3, 0xf0}) }, "out\n", 0},
		{"output goes on after a code", say("a", marker+"3\n", "b"), "ab", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r := socketServer(t, c.serve).Run(within(t), "", "exec", "web", "x", "-a", "demo"); r.Stdout != c.stdout || r.Code != c.code || r.Stderr != "" {
				t.Errorf("%.80q %d %q, want %.80q %d", r.Stdout, r.Code, r.Stderr, c.stdout, c.code)
			}
		})
	}
	if r := socketServer(t, say(marker+"7\nmore")).Run(within(t), "", "exec", "web", "x", "-a", "demo"); r.Code != 1 || r.Stderr != "ERROR: unable to read exit code\n" {
		t.Errorf("something behind the code in its message: %+v", r)
	}
	if r := socketServer(t, say("refused\n", marker+"1\n")).Run(within(t), "", "logs", "-a", "demo"); r.Code != 0 || r.Stdout != "refused\n"+marker+"1\n" {
		t.Errorf("a marker on a log socket: %+v", r)
	}
}

func TestStandardInputTravelsInChunksAndEndsWithAnEmptyBinaryFrame(t *testing.T) {
	var sizes []int
	var pings int
	var got []byte
	cli := socketServer(t, func(c *wire.Conn) {
		for pings == 0 || !bytes.HasSuffix(got, []byte("end")) {
			f, err := c.ReadFrame(1 << 20)
			if err != nil {
				return
			}
			switch f.Op {
			case wire.OpPing:
				pings++
				if len(f.Payload) != 0 || !f.Masked {
					sizes = append(sizes, -1)
				}
			case wire.OpText:
				sizes = append(sizes, len(f.Payload))
				got = append(got, f.Payload...)
			case wire.OpBinary:
				sizes = append(sizes, 0)
			}
		}
		c.WriteText([]byte(wire.ExitMarker + "0\n"))
		c.WriteEOF()
	})
	in := strings.Repeat("\xff", 2500) + "end"
	if r := cli.Run(within(t), in, "exec", "web", "cat", "-a", "demo"); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	if string(got) != in {
		t.Errorf("%d bytes came, of %d", len(got), len(in))
	}
	if fmt.Sprint(sizes[:3]) != "[1024 1024 455]" {
		t.Errorf("in pieces of %v", sizes)
	}
	if pings == 0 {
		t.Error("no ping came")
	}
}

// TestEveryCommand runs each against a rack, and looks for a part of its output.
func TestEveryCommand(t *testing.T) {
	rack, _, cli := newRack(t)
	ctx := within(t)
	write := func(name, content string) {
		t.Helper()
		name = filepath.Join(cli.Dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("src/convox.yml", "services:\n  web:\n    build: .\n    port: 3000\nresources:\n  database:\n    type: postgres\n")
	write("src/Dockerfile", "FROM scratch\n")
	write("broken/convox.yml", "services:\n  web:\n    build: .\n")
	write("broken/Dockerfile", "FROM scratch\nRUN false\n")
	write("data/a.txt", "alpha")
	write("data/sub/b.txt", "beta")
	write("key", "an ssh key")
	pub, key := keyPair(t)
	write("pub.pem", pub)
	write("key.pem", key)
	build := func() string {
		r := cli.Run(ctx, "", "builds", "-a", "demo", "-l", "1")
		return strings.Fields(strings.Split(r.Stdout, "\n")[1])[0]
	}
	release := func(line int) string {
		r := cli.Run(ctx, "", "releases", "-a", "demo")
		return strings.Fields(strings.Split(r.Stdout, "\n")[line])[0]
	}

	for _, c := range []struct {
		args  string
		stdin string
		code  int
		out   string // a part of standard output
		errs  string // a part of standard error
	}{
		{"apps", "", 0, "APP   STATUS   RELEASE\ndemo  running  R", ""},
		{"apps info -a demo", "", 0, "Generation  3\nLocked      false\n", ""},
		{"apps info nope", "", 1, "", "ERROR: app not found: nope\n"},
		{"apps params -a demo", "", 0, "BuildCpu  500\nBuildMem  1024\n", ""},
		{"apps params set BuildMem=2048 -a demo", "", 0, "OK\n", ""},
		{"apps params set Nope=1 -a demo", "", 1, "", "invalid parameters: Nope"},
		{"apps create other", "", 0, "Creating other... OK\n", ""},
		{"apps create other", "", 1, "Creating other... ", "ERROR: app already exists: other\n"},
		{"apps create system", "", 1, "", "ERROR: app name is reserved\n"},
		{"apps lock other", "", 0, "Locking other... OK\n", ""},
		{"apps delete other", "", 1, "", "ERROR: app is locked: other\n"},
		{"apps unlock other", "", 0, "Unlocking other... OK\n", ""},
		{"apps delete other", "", 0, "Deleting other... OK\n", ""},
		{"apps cancel demo", "", 1, "", "ERROR: app is not updating\n"},
		{"ps -a demo", "", 0, "ID                    SERVICE  STATUS   RELEASE", ""},
		{"ps -a nope", "", 0, "ID  SERVICE  STATUS  RELEASE  STARTED  COMMAND\n", `ns=cli_budget at=fetch-error err="app not found: nope"`},
		{"ps -s none -a demo", "", 0, "ID  SERVICE  STATUS  RELEASE  STARTED  COMMAND\n", ""},
		{"ps info PID -a demo", "", 0, "Service   web\n", ""},
		{"ps info nope -a demo", "", 1, "", "ERROR: pods \"nope\" not found\n"},
		{"exec web echo hello -a demo", "", 0, "hello\n", ""},
		{"exec PID cat -a demo", "typed", 0, "typed", ""},
		{"exec web nosuch -a demo", "", 127, "sh: nosuch: command not found\n", ""},
		{"exec web env -a demo", "", 0, racktest.SeedAPIKey, ""},
		{"exec nope true -a demo", "", 0, "ERROR: pods \"nope\" not found\n", ""},
		{"run web echo ran -a demo", "", 0, "ran\n", ""},
		{"run web false -a demo", "", 1, "", ""},
		{"run web echo d -d -a demo", "", 0, "Running detached process... OK, web-", ""},
		{"logs --no-follow --since 100h -a demo", "", 0, "service/web/", ""},
		{"logs --no-follow -s web --filter listening --since 100h -a demo", "", 0, "listening\n", ""},
		{"services -a demo", "", 0, "web      web.demo.demo.convox.example  80:3000 443:3000  1\n", ""},
		{"scale -a demo", "", 0, "web      1        ", ""},
		{"scale web --count 2 -a demo", "", 0, "Scaling web... \n", ""},
		{"scale web --max 4 -a demo", "", 1, "", "range scaling"},
		{"restart -a demo", "", 0, "Restarting web... OK\n", ""},
		{"services restart nope -a demo", "", 1, "", "ERROR: no such service: nope\n"},
		{"balancers -a demo", "", 0, "public    web      demo.elb.example.com\n", ""},
		{"configs -a demo", "", 0, "settings\n", ""},
		{"config get settings -a demo", "", 0, racktest.SeedConfigValue, ""},
		{"config get nope -a demo", "", 1, "", "ERROR: app config not found: nope\n"},
		{"config set c -a demo", "", 1, "", "ERROR: --file or --value flag is required\n"},
		{"config set c --value beaten -a demo", "from stdin", 0, "OK\n", ""},
		{"config get c -a demo", "", 0, "from stdin\n", ""},
		{"env -a demo", "", 0, "DATABASE_URL=" + racktest.SeedDatabaseURL, ""},
		{"env get API_KEY -a demo", "", 0, racktest.SeedAPIKey + "\n", ""},
		{"env get NOPE -a demo", "", 1, "", "ERROR: env not found: NOPE\n"},
		{"env set A=1 B=2 -a demo", "", 0, "Setting A, B... OK\nRelease: R", ""},
		{"env set -a demo --id", "C=3\n", 0, "R", "Setting C... OK"},
		{"env get C -a demo", "", 0, "3\n", ""},
		{"env unset A -a demo --promote", "", 0, "Unsetting A... OK\n", ""},
		{"env get A -a demo", "", 1, "", "env not found"},
		{"releases -a demo", "", 0, "env remove:A", ""},
		{"releases info RELEASE -a demo", "", 0, "B=2\n", ""},
		{"releases manifest RELEASE -a demo", "", 0, "services:\n", ""},
		{"releases promote RELEASE -a demo", "", 0, "OK\n", ""},
		{"releases promote rnope -a demo", "", 1, "", `ERROR: releases.convox.com "rnope" not found`},
		{"releases rollback OLDER -a demo", "", 0, "Rolling back to R", ""},
		{"releases promote OLDER -a demo", "", 1, "", "ERROR: can not promote an older release, try rollback\n"},
		{"build src -a demo -d first", "", 0, "Packaging source... OK\nUploading source... OK\nStarting build... OK\nRunning build: B", ""},
		{"build broken -a demo", "", 1, "ERROR: the command '/bin/sh -c false' returned a non-zero code: 1\n", "ERROR: build failed\n"},
		{"deploy src -a demo --id", "", 0, "R", "OK\n"},
		{"builds -a demo", "", 0, "failed", ""},
		{"builds info BUILD -a demo", "", 0, "Status       complete\n", ""},
		{"builds logs BUILD -a demo", "", 0, "Successfully built BUILD\n", ""},
		{"builds export BUILD -a demo -f build.tgz", "", 0, "Exporting build... OK\n", ""},
		{"builds import -a demo -f build.tgz", "", 0, "Importing build... OK, R", ""},
		{"builds import -a demo", "not a tgz", 1, "", "ERROR: "},
		{"cp data PID:/tmp/data -a demo", "", 0, "", ""},
		{"cp data/a.txt PID:/tmp/one.txt -a demo", "", 0, "", ""},
		{"cp data PID:relative -a demo", "", 1, "", "ERROR: must specify absolute paths for processes\n"},
		{"exec PID cat /tmp/data/sub/b.txt /tmp/one.txt -a demo", "", 0, "betaalpha", ""},
		{"cp PID:/tmp/data down -a demo", "", 0, "", ""},
		{"cp PID:/tmp/one.txt down.txt -a demo", "", 0, "", ""},
		{"resources -a demo", "", 0, "database  postgres  postgres://app:", ""},
		{"resources info database -a demo", "", 0, "Type  postgres\n", ""},
		{"resources url database -a demo", "", 0, "postgres://app:", ""},
		{"resources info nope -a demo", "", 1, "", "ERROR: no such resource: nope\n"},
		{"resources export database -a demo", "", 0, "PostgreSQL database dump", "Exporting resource data... OK\n"},
		{"resources import database -a demo", "a new dump", 0, "Importing resource data... OK\n", ""},
		{"resources export database -a demo", "", 0, "a new dump", "Exporting resource data... OK\n"},
		{"resources console database -a demo", "SELECT 1;\n\\q\n", 0, "(1 row)", ""},
		{"rack", "", 0, "Provider  aws\n", ""},
		{"rack ps", "", 0, "system  api", ""},
		{"rack ps --all", "", 0, "demo    web", ""},
		{"rack params", "", 0, "docker_hub_password  " + racktest.SeedDockerPassword + "\n", ""},
		{"rack params set a=b", "", 1, "", "ERROR: direct rack doesn't support update"},
		{"rack releases", "", 1, "", "ERROR: release history is unavailable\n"},
		{"rack resources", "", 0, "audit  webhook  running\n", ""},
		{"rack resources types", "", 0, "webhook\n", ""},
		{"rack resources create webhook Url=https://x.example -n hook", "", 0, "Creating resource... OK, hook\n", ""},
		{"rack resources info hook", "", 0, "Options  Url=https://x.example\n", ""},
		{"rack resources delete hook", "", 0, "Deleting resource... OK\n", ""},
		{"rack access --role read --duration-in-hours 1", "", 0, "RACK_URL=https://jwt:ey", ""},
		{"rack access key rotate", "", 0, "OK\n", ""},
		{"registries", "", 0, "registry.example.com  deploy\n", ""},
		{"registries add r.example u p", "", 0, "Adding registry... OK\n", ""},
		{"registries remove r.example", "", 0, "Removing registry... OK\n", ""},
		{"registries remove r.example", "", 1, "", "ERROR: no such registry: r.example\n"},
		{"certs", "", 0, "cert-seed1  demo.example.com", ""},
		{"certs generate x.example.com", "", 0, "Generating certificate... OK, cert-", ""},
		{"certs generate x.example.com y.example.com", "", 1, "", "ERROR: must specify only one domain\n"},
		{"certs import pub.pem key.pem --id", "", 0, "cert-", "Importing certificate... OK"},
		{"certs delete cert-seed1", "", 0, "Deleting certificate cert-seed1... OK\n", ""},
		{"certs renew -a demo", "", 0, "OK\n", ""},
		{"instances", "", 0, "ip-10-1-0-11.ec2.internal", ""},
		{"instances ssh ip-10-1-0-11.ec2.internal echo there --key key", "", 0, "there\n", ""},
		{"instances terminate ip-10-1-0-11.ec2.internal", "", 0, "OK\n", ""},
		{"version", "", 0, "server: 3.24.6\n", ""},
		{"api get /apps", "", 0, `"name": "demo"`, ""},
		{"api get /nope", "", 1, "", "ERROR: response status 404\n"},
		{"ps stop PID -a demo", "", 0, "OK\n", ""},
		{"nonsense", "", 1, "", "unknown command"},
		{"apps --nonsense", "", 1, "", "ERROR: unknown flag: --nonsense\n"},
		{"apps delete", "", 1, "", "ERROR: 1 arg required\n"},
		{"switch", "", 0, "direct\n", ""},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := c.args
			if strings.Contains(args, "PID") {
				pid, err := rack.AwaitProcess(ctx, "demo", "web")
				if err != nil {
					t.Fatal(err)
				}
				args = strings.ReplaceAll(args, "PID", pid)
			}
			want := c.out
			if strings.Contains(args+want, "BUILD") {
				id := build()
				args, want = strings.ReplaceAll(args, "BUILD", id), strings.ReplaceAll(want, "BUILD", id)
			}
			if strings.Contains(args, "OLDER") {
				args = strings.ReplaceAll(args, "OLDER", release(3))
			}
			if strings.Contains(args, "RELEASE") {
				args = strings.ReplaceAll(args, "RELEASE", release(1))
			}
			r := cli.Run(ctx, c.stdin, strings.Fields(args)...)
			if r.Code != c.code || !strings.Contains(r.Stdout, want) || !strings.Contains(r.Stderr, c.errs) {
				t.Errorf("exit %d\nstdout: %s\nstderr: %s\nwant exit %d, %q and %q", r.Code, r.Stdout, r.Stderr, c.code, want, c.errs)
			}
			if c.code == 0 && c.errs == "" && r.Stderr != "" {
				t.Errorf("stderr: %s", r.Stderr)
			}
		})
	}
	for name, want := range map[string]string{"down/a.txt": "alpha", "down/sub/b.txt": "beta", "down.txt": "alpha"} {
		if got, err := os.ReadFile(filepath.Join(cli.Dir, name)); err != nil || string(got) != want {
			t.Errorf("%s came back as %q, %v", name, got, err)
		}
	}
}

func keyPair(t *testing.T) (pub, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "imported.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return encode("CERTIFICATE", der), encode("EC PRIVATE KEY", raw)
}

func TestAPromotionMayBeCancelled(t *testing.T) {
	rack, server, err := racktest.Serve(racktest.Options{Password: password, PromoteTime: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rack.Close)
	cli := &convoxclient.CLI{RackURL: server.RackURL(), Pace: convoxclient.TestPace()}
	ctx := within(t)
	promoting := make(chan convoxclient.Result, 1)
	go func() { promoting <- cli.Run(ctx, "", "env", "set", "A=1", "-p", "-a", "demo") }()
	if err := rack.AwaitApp(ctx, "demo", "updating"); err != nil {
		t.Fatal(err)
	}
	if r := cli.Run(ctx, "", "apps", "cancel", "demo"); r.Code != 0 || !strings.HasSuffix(r.Stdout, "Rewriting last active release...\nOK\n") {
		t.Errorf("%+v", r)
	}
	if r := <-promoting; r.Code != 1 || !strings.Contains(r.Stderr, "rollback") {
		t.Errorf("the promotion that was cancelled ended with %+v", r)
	}
}

func TestALargeUploadIsStreamedAndComesBackTheSame(t *testing.T) {
	const size = 200 << 20
	rack, server, _ := newRack(t)
	c, err := convoxclient.New(server.RackURL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var object wire.Object
	if err := c.Upload(within(t), http.MethodPost, "/apps/demo/objects/tmp/big", nil, racktest.RandomBytes(size, 9), size, &object); err != nil {
		t.Fatal(err)
	}
	if object.Url != "object://demo/tmp/big" {
		t.Errorf("stored at %q", object.Url)
	}
	sum := sha256.New()
	if err := c.Download(within(t), "/apps/demo/objects/tmp/big", nil, sum); err != nil {
		t.Fatal(err)
	}
	want := sha256.New()
	io.Copy(want, racktest.RandomBytes(size, 9))
	if !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
		t.Error("it came back changed")
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > size/4 {
		t.Errorf("%d MB were allocated to move 200 MB twice", grown>>20)
	}
	requests := rack.Requests()
	if e := requests[0]; e.Header.Get("Content-Length") != fmt.Sprint(size) && e.BodyBytes != size {
		t.Errorf("uploaded as %+v", e)
	}
}

// fakeConsole is a console that asks for a session, before the rack that it stands for.
type fakeConsole struct {
	rack       http.Handler
	token      string // the value of token in the challenge
	challenges int
	posted     []byte
	challenge  string
	refuse     string
	path       string // what to challenge
}

func (f *fakeConsole) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/session/1" && r.Method == http.MethodGet:
		w.Header().Set("Challenge", "ch-1")
		io.WriteString(w, "opaque")
	case r.URL.Path == "/session/1":
		f.posted, _ = io.ReadAll(r.Body)
		f.challenge = r.Header.Get("Challenge")
		if f.refuse != "" {
			http.Error(w, f.refuse, 403)
			return
		}
		io.WriteString(w, `{"id":"sess-1"}`)
	case r.URL.Path == f.path && r.Header.Get("Session") != "sess-1":
		f.challenges++
		io.Copy(io.Discard, r.Body)
		w.Header().Set("WWW-Authenticate", `Session path="/session/1" token="`+f.token+`"`)
		w.WriteHeader(401)
	case r.URL.Path == "/racks":
		io.WriteString(w, `[{"name":"staging","organization":{"name":"acme"},"provider":"aws","status":"running"},{"name":"production","organization":{"name":"acme"},"provider":"","status":"updating"}]`)
	case r.URL.Path == "/auth":
		io.WriteString(w, `{"id":"user-1"}`)
	case r.Header.Get("Rack") == "":
		w.WriteHeader(404)
	default:
		r.SetBasicAuth("convox", password)
		f.rack.ServeHTTP(w, r)
	}
}

func console(t *testing.T, f *fakeConsole) (*convoxclient.CLI, string) {
	t.Helper()
	rack := racktest.New(racktest.Options{Password: password})
	t.Cleanup(rack.Close)
	f.rack = rack
	server := httptest.NewTLSServer(f)
	t.Cleanup(server.Close)
	t.Cleanup(rack.Close)
	return &convoxclient.CLI{Settings: convoxclient.NewSettings(), Dir: t.TempDir(), Pace: convoxclient.TestPace()}, server.Listener.Addr().String()
}

func TestLoginRacksSwitchAndACommand(t *testing.T) {
	cli, host := console(t, &fakeConsole{})
	for _, c := range []struct {
		args, out, errs string
		code            int
	}{
		{"apps", "", "ERROR: no current rack, use `convox racks` to list and `convox switch <name>` to select\n", 1},
		{"login " + host + " -t tok-1", "Authenticating with " + host + "... OK\n", "", 0},
		{"racks", "NAME             PROVIDER  STATUS\nacme/production  unknown   updating\nacme/staging     aws       running\n", "", 0},
		{"switch nope", "", "ERROR: could not find rack: nope\n", 1},
		{"switch acme", "", "ERROR: ambiguous rack name: acme\n", 1},
		{"switch staging", "Switched to acme/staging\n", "", 0},
		{"switch", "acme/staging\n", "", 0},
		{"exec web echo hi -a demo", "hi\n", "", 0},
		{"exec web echo hi -a demo -r production", "hi\n", "", 0},
		{"exec web echo hi -a demo -r nope", "", "ERROR: could not find rack: nope\n", 1},
	} {
		r := cli.Run(within(t), "", strings.Fields(c.args)...)
		if r.Stdout != c.out || r.Stderr != c.errs || r.Code != c.code {
			t.Errorf("%s: %+v, want %q %q %d", c.args, r, c.out, c.errs, c.code)
		}
	}
	for name, want := range map[string]string{"console": host, "id": "user-1", "current": `{"name":"acme/staging","type":"console"}`} {
		if got := cli.Settings.Get(name); got != want {
			t.Errorf("setting %s is %q, want %q", name, got, want)
		}
	}
	if got := cli.Settings.GetKey("auth", host); got != "tok-1" {
		t.Errorf("the token is kept as %q", got)
	}
	cli.Settings = convoxclient.NewSettings()
	cli.Host, cli.Password, cli.Rack = host, "tok-1", "acme/staging"
	if r := cli.Run(within(t), "", "apps"); r.Code != 0 || !strings.Contains(r.Stdout, "demo") {
		t.Errorf("with variables only: %+v", r)
	}
}

func TestTheSessionHook(t *testing.T) {
	for _, c := range []struct {
		name, token, path string
		args              []string
		asks              bool
	}{
		{"on the list of racks", "true", "/racks", []string{"apps"}, true},
		{"in the middle of a command", "true", "/apps/demo/releases", []string{"env", "set", "A=1", "-a", "demo"}, true},
		{"without a token", "false", "/racks", []string{"apps"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fakeConsole{token: c.token, path: c.path}
			cli, host := console(t, f)
			cli.Host, cli.Password, cli.Rack = host, "tok", "acme/staging"
			cli.Browser = func(ctx context.Context, link string) error {
				u, err := url.Parse(link)
				if err != nil {
					return err
				}
				token, err := base64.StdEncoding.DecodeString(u.Query().Get("token"))
				if err != nil || string(token) != "opaque" || u.Path != "/login/u2f" || u.Host != host {
					return errors.New("the link is " + link)
				}
				req, err := http.NewRequestWithContext(ctx, "GET", u.Query().Get("callback_url")+"/?data="+url.QueryEscape(base64.StdEncoding.EncodeToString([]byte("proof"))), nil)
				if err != nil {
					return err
				}
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					return err
				}
				defer res.Body.Close()
				if body, _ := io.ReadAll(res.Body); string(body) != "you may now close the window" {
					return fmt.Errorf("the callback says %q", body)
				}
				return nil
			}
			r := cli.Run(within(t), "", c.args...)
			if r.Code != 0 || r.Stderr != "" {
				t.Fatalf("%+v", r)
			}
			if asked := strings.Contains(r.Stdout, "Waiting for security token...\nOpen this link in your browser to complete the authentication:\nhttps://"+host+"/login/u2f?callback_url="); asked != c.asks {
				t.Errorf("stdout: %s", r.Stdout)
			}
			if want := map[bool]string{true: "proof", false: ""}[c.asks]; string(f.posted) != want || (f.challenge == "ch-1") != c.asks {
				t.Errorf("posted %q with challenge %q", f.posted, f.challenge)
			}
			if f.challenges != 1 {
				t.Errorf("challenged %d times", f.challenges)
			}
			if got := cli.Settings.GetKey("session", host); got != "sess-1" {
				t.Errorf("the session is kept as %q", got)
			}
			if r := cli.Run(within(t), "", c.args...); r.Code != 0 || f.challenges != 1 {
				t.Errorf("the next command is challenged again: %+v", r)
			}
		})
	}

	f := &fakeConsole{token: "false", path: "/racks", refuse: "sign in first"}
	cli, host := console(t, f)
	cli.Host, cli.Password, cli.Rack = host, "tok", "acme/staging"
	if r := cli.Run(within(t), "", "racks"); r.Code != 1 || r.Stderr != "ERROR: sign in first\n" {
		t.Errorf("a refused session: %+v", r)
	}
}

func TestABrokenConsoleShowsNoRacks(t *testing.T) {
	for status, want := range map[string]convoxclient.Result{
		"boom":                               {Stdout: "NAME  PROVIDER  STATUS\n"},
		"cli token is expired: log in again": {Stderr: "ERROR: cli token is expired: log in again\n", Code: 1},
	} {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, status, 403) }))
		cli := &convoxclient.CLI{Host: server.Listener.Addr().String(), Password: "t", Settings: convoxclient.NewSettings()}
		if got := cli.Run(within(t), "", "racks"); got != want {
			t.Errorf("%s: %+v", status, got)
		}
		server.Close()
	}
}

func TestCpArchivesLookLikeTheCLIs(t *testing.T) {
	rack, _, cli := newRack(t)
	ctx := within(t)
	pid, err := rack.AwaitProcess(ctx, "demo", "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cli.Dir, "f"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The rack keeps no uploads, so a server in its place looks at one.
	var names []string
	var length int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		length = r.ContentLength
		tr := tar.NewReader(r.Body)
		for {
			h, err := tr.Next()
			if err != nil {
				break
			}
			names = append(names, h.Name)
		}
		io.WriteString(w, "ok\n")
	}))
	defer server.Close()
	cli.RackURL = server.URL
	if r := cli.Run(ctx, "", "cp", "f", pid+":/srv/g", "-a", "demo"); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	if fmt.Sprint(names) != "[/srv/g]" || length <= 0 {
		t.Errorf("the archive holds %v, announced with length %d", names, length)
	}
}
