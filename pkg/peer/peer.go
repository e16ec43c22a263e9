// Package peer finds where a request comes from.
package peer

import (
	"net/http"
	"net/netip"
	"strings"
)

// ClientHeader is how admin tells the proxy where the person is for whom it asks. The proxy believes it from admin alone,
// and it never reaches the rack.
const ClientHeader = "Rgw-Client-Address"

// Address is the address a request came from: that of the connection, or, when the connection is
// from a listed trusted proxy, the nearest address in X-Forwarded-For that no trusted proxy has. A client
// cannot choose it: what it writes into the header stands further left than what a trusted proxy appends.
func Address(r *http.Request, trusted []netip.Prefix) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	address := peer.Addr().Unmap().WithZone("")
	if len(trusted) == 0 || !Within(address, trusted) {
		return address
	}
	lines := r.Header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		for hops := lines[i]; hops != ""; {
			hop := hops
			if comma := strings.LastIndexByte(hops, ','); comma >= 0 {
				hop, hops = hops[comma+1:], hops[:comma]
			} else {
				hops = ""
			}
			next, err := netip.ParseAddr(strings.TrimSpace(hop))
			if err != nil {
				// Whatever stands here, a trusted proxy passed it on; nothing left of it can be believed.
				return address
			}
			address = next.Unmap().WithZone("")
			if !Within(address, trusted) {
				return address
			}
		}
	}
	return address
}

// Within tells whether the address is in one of the networks.
func Within(address netip.Addr, networks []netip.Prefix) bool {
	for _, network := range networks {
		if network.Contains(address) {
			return true
		}
	}
	return false
}
