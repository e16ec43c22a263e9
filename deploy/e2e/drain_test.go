package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"rackgateway/pkg/racktest"
	"rackgateway/pkg/racktest/convoxclient"
	"rackgateway/pkg/testenv"
)

// TestAProxyThatIsStoppedEndsItsSessionsWithAMessage stops a proxy under open sessions of every kind.
func TestAProxyThatIsStoppedEndsItsSessionsWithAMessage(t *testing.T) {
	const said = "the gateway is being restarted: run the command again"
	for _, k := range kinds() {
		for _, m := range []mode{gateway, console} {
			t.Run(k.name+"/"+string(m), func(t *testing.T) {
				t.Parallel()
				s := newSide(t, k, m, sideOptions{config: map[string]string{"DRAIN_TIMEOUT": "500ms"}})
				exec := s.start("exec", "web", "sh -c 'echo ready; sleep 1000'")
				exec.await("ready")
				logs := s.start("logs")
				logs.await("listening")
				if code := s.env.Proxies[0].Stop(); code != 0 {
					t.Errorf("the proxy exited with %d", code)
				}
				if got := exec.wait(); got.Code != 1 || !strings.Contains(got.Stdout, "ERROR: "+said) {
					t.Errorf("exec: exit %d, and it said %q", got.Code, got.Stdout)
				}
				if got := logs.wait(); got.Code != 0 || !strings.Contains(got.Stdout, "ERROR: "+said) {
					t.Errorf("logs: exit %d, and it said %q", got.Code, got.Stdout)
				}
				account(t, s.env)
				ended := s.env.Events(testenv.Filter{Action: "process.exec", Phase: "finished"})
				if len(ended) != 1 || ended[0].Text("exit_code") != "1" || ended[0].Text("error") != said {
					t.Errorf("the session's end is recorded as %+v", ended)
				}
			})
		}
	}
}

// TestAProxyThatIsStoppedFinishesWhatRuns stops a proxy while the rack is working for several requests.
func TestAProxyThatIsStoppedFinishesWhatRuns(t *testing.T) {
	t.Parallel()
	s := newSide(t, kind{"own", installOwn}, gateway, sideOptions{config: map[string]string{"DRAIN_TIMEOUT": "60s"}})
	release := s.release()
	promote := "/apps/demo/releases/" + release + "/promote"
	working := s.rack.Inject(racktest.Fault{Method: http.MethodPost, Path: promote, Hang: true})
	promoted := make(chan error, 1)
	go func() {
		promoted <- s.client().Post(s.ctx, promote, url.Values{"force": {"false"}}, nil)
	}()
	uploaded := make(chan error, 1)
	slow := newTap(racktest.RandomBytes(8*megabyte, 2), 4*megabyte)
	go func() {
		uploaded <- s.client().Upload(s.ctx, http.MethodPost, "/apps/demo/objects/tmp/slow.tgz", nil, slow, 8*megabyte, nil)
	}()
	for _, path := range []string{promote, "/apps/demo/objects/tmp/slow.tgz"} {
		if _, err := s.rack.AwaitRequest(s.ctx, func(r racktest.Request) bool { return r.Path == path }); err != nil {
			t.Fatal(err)
		}
	}
	proxy := s.env.Proxies[0]
	proxy.Terminate()
	// It takes no more connections while both requests are still under way.
	for end := time.Now().Add(patience); ; {
		client, err := convoxclient.New(s.url)
		if err != nil {
			t.Fatal(err)
		}
		err = client.Get(s.ctx, "/machines", nil, nil)
		client.Close()
		if err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the proxy goes on taking requests")
		}
	}
	slow.open()
	working.Release()
	if err := <-promoted; err != nil {
		t.Errorf("the promotion ended with %v", err)
	}
	if err := <-uploaded; err != nil {
		t.Errorf("the upload ended with %v", err)
	}
	if code := proxy.Wait(s.ctx); code != 0 {
		t.Errorf("the proxy exited with %d", code)
	}
	account(t, s.env)
	for _, action := range []string{"release.promote", "object.store-temporary"} {
		if got := s.env.Events(testenv.Filter{Action: action, Phase: "finished"}); len(got) != 1 || got[0].Status != http.StatusOK {
			t.Errorf("%s is recorded as %+v", action, got)
		}
	}
}

// TestAProxyThatIsStoppedWithoutADatabaseGivesUp stops a proxy that has records left to write and cannot.
func TestAProxyThatIsStoppedWithoutADatabaseGivesUp(t *testing.T) {
	t.Parallel()
	opts := withoutDatabase("10m")
	opts.config["DRAIN_TIMEOUT"] = "200ms"
	s := newSide(t, kind{"own", installOwn}, gateway, opts)
	s.must("apps")
	s.database.stop()
	if got := s.run("apps"); got.Code != 1 {
		t.Errorf("exit %d: %s%s", got.Code, got.Stdout, got.Stderr)
	}
	proxy := s.env.Proxies[0]
	proxy.Terminate()
	proxy.Wait(t.Context())
	if !strings.Contains(proxy.Log(), "not every record could be written before the end") {
		t.Errorf("it logged:\n%s", proxy.Log())
	}
}

// tap lets so many bytes through, and the rest when it is opened.
type tap struct {
	from   interface{ Read(p []byte) (int, error) }
	first  int
	opened chan struct{}
}

func newTap(from interface{ Read(p []byte) (int, error) }, first int) *tap {
	return &tap{from: from, first: first, opened: make(chan struct{})}
}

func (t *tap) open() { close(t.opened) }

func (t *tap) Read(p []byte) (int, error) {
	if t.first <= 0 {
		<-t.opened
		return t.from.Read(p)
	}
	n, err := t.from.Read(p[:min(len(p), t.first)])
	t.first -= n
	return n, err
}

// TestADeployGoesOnWhileProxiesAreReplaced replaces both proxies, one after the other, during one deploy.
func TestADeployGoesOnWhileProxiesAreReplaced(t *testing.T) {
	t.Parallel()
	for _, k := range kinds() {
		if k.name == "stock" && !full {
			continue
		}
		s := newSide(t, k, gateway, sideOptions{rack: racktest.Options{PromoteTime: 3 * time.Second}, config: map[string]string{"DRAIN_TIMEOUT": "1s"}})
		s.env.AddProxy().WaitReady(t.Context())
		front := newFront(t, s.env.Proxies)
		s.install(installation{rackURL: strings.Replace(s.url, s.host(), front.address, 1)})
		deploy := s.start("deploy")
		deploy.await("Promoting")
		for _, proxy := range s.env.Proxies {
			proxy.Restart()
		}
		if got := deploy.wait(); got.Code != 0 || got.Stderr != "" || !strings.HasSuffix(got.Stdout, "OK\n") {
			t.Errorf("%s: the deploy ended with %d\n%s%s", k.name, got.Code, got.Stdout, got.Stderr)
		}
		account(t, s.env)
	}
}

// TestARackPasswordIsReplacedWithoutAFailedRequest gives a proxy the rack's next password before the rack has it.
func TestARackPasswordIsReplacedWithoutAFailedRequest(t *testing.T) {
	t.Parallel()
	s := newSide(t, kind{"own", installOwn}, gateway, sideOptions{config: map[string]string{"DRAIN_TIMEOUT": "200ms"}})
	next := s.env.AddProxyWith(map[string]string{"RACK_TOKEN": "the-password-before-this-one", "RACK_TOKEN_NEXT": s.env.RackPassword()})
	next.WaitReady(t.Context())
	s.install(installation{rackURL: next.RackURL("admin")})
	s.must("apps")
	s.must("env", "set", "A=1")
	if got := s.must("exec", "web", "echo hello"); got.Stdout != "hello\n" {
		t.Errorf("the session said %q", got.Stdout)
	}
}
