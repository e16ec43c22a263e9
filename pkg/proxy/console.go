package proxy

import (
	"net/http"
	"net/netip"

	"rackgateway/pkg/credential"
	"rackgateway/pkg/peer"
)

// What the console shows of the rack, admin asks for here, as the person who looks at it: with that person's browser
// session as the Bearer, and the person's address in a header. Both are taken from admin alone. A session that was
// stolen out of a browser is then of no use against the proxy, and nobody else chooses an address.

// isAdmin reports whether admin itself sent the request, and not somebody by way of a load balancer that happens to
// stand in one of admin's networks.
func (x *exchange) isAdmin() bool { return x.p.askedByAdmin(x.r, x.address) }

// askedByAdmin is isAdmin for a request that comes from the address, by what its connection and trusted proxies say.
func (p *Proxy) askedByAdmin(r *http.Request, address netip.Addr) bool {
	if len(p.AdminNetworks) == 0 || !peer.Within(address, p.AdminNetworks) {
		return false
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	if peer.Within(from.Addr().Unmap().WithZone(""), p.TrustedProxies) {
		return true // whom it passed on is admin: the address is of the header then
	}
	return r.Header["X-Forwarded-For"] == nil && r.Header["Forwarded"] == nil
}

// lookBehindAdmin takes from admin for whom it asks. It comes before everything that goes by the address.
func (x *exchange) lookBehindAdmin() *refusal {
	given := x.r.Header[peer.ClientHeader]
	if !x.isAdmin() {
		return nil
	}
	x.fromAdmin = true
	x.event.Detail.Client = "api"
	if len(given) == 0 {
		return nil // admin's own questions
	}
	address, err := netip.ParseAddr(given[0])
	if err != nil || len(given) > 1 {
		return refuse(http.StatusBadRequest, "bad-client-address", "the console did not say properly where you are: tell an administrator")
	}
	x.address = address.Unmap().WithZone("")
	x.event.Address = x.address
	return nil
}

// takeSession lets browser sessions through from admin alone.
func (x *exchange) takeSession(token credential.Token, how string) *refusal {
	if token.Kind() != credential.Session {
		return nil
	}
	if !x.fromAdmin || how != "bearer" {
		return refuse(http.StatusUnauthorized, "session-elsewhere", "%s or not valid: a browser's session counts in the console alone; make a token there for the command line", cliShows)
	}
	x.session = true
	x.event.Detail.Auth, x.event.Detail.Client = "session", "console"
	return nil
}

// noSession refuses a session that is no good: there is no command line that could do something about it.
func (x *exchange) noSession(bad *credential.RefusedError) *refusal {
	return refuse(http.StatusUnauthorized, bad.Code, "%s", bad.Message)
}

// consoleAddress is where people sign in.
func (p *Proxy) consoleAddress() string {
	if p.AdminURL != nil {
		return p.AdminURL.String()
	}
	return "https://" + p.Domain
}
