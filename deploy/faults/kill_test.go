package faults

import (
	"net"
	"strconv"
	"testing"
	"time"

	"rackgateway/pkg/testenv"
)

// at is where a proxy listens, for a caller.
func at(p *testenv.Proxy) func() string {
	address := net.JoinHostPort("localhost", strconv.Itoa(p.Port))
	return func() string { return address }
}

// Whatever moment a proxy is killed at, what the rack was asked to change is in the log, and what a client was
// answered is; clients go on at the other proxy.
func TestNothingIsLostWhenProxiesAreKilled(t *testing.T) {
	t.Parallel()
	env := start(t, testenv.Options{Proxies: 2})
	random, books := chance(t), newBooks(env)
	l := books.put(t, loadOptions{
		callers: 16, addresses: []func() string{at(env.Proxies[0]), at(env.Proxies[1])}, tokens: []string{env.Token("admin")}, every: 4 * time.Millisecond,
	})
	kills := pick(6, 100)
	for i := range kills {
		p := env.Proxies[i%2]
		l.goesOn(t, 20)
		moment(t.Context(), random, 0, 300*time.Millisecond)
		p.Kill()
		p.Start()
		p.WaitReady(t.Context())
	}
	l.goesOn(t, 20)
	for _, e := range l.lift() {
		if e.err == nil {
			t.Errorf("%s %s was refused: %s", e.key, e.shape.name, e.told())
		}
	}
	t.Logf("proxies killed: %d", kills)
	books.close(t, allowance{killed: true})
}
