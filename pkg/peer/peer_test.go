package peer_test

import (
	"net/http"
	"net/netip"
	"testing"

	"rackgateway/pkg/peer"
)

func TestTheAddressIsWhatNoClientCanChoose(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for name, c := range map[string]struct {
		remote    string
		trusted   []netip.Prefix
		forwarded []string
		want      string
	}{
		"the connection's":                     {"203.0.113.9:4711", nil, nil, "203.0.113.9"},
		"a header is not believed":             {"203.0.113.9:4711", trusted, []string{"198.51.100.1"}, "203.0.113.9"},
		"nor without trusted proxies":          {"10.0.0.1:4711", nil, []string{"198.51.100.1"}, "10.0.0.1"},
		"what the balancer appended":           {"10.0.0.1:4711", trusted, []string{"198.51.100.1"}, "198.51.100.1"},
		"not what stood there before":          {"10.0.0.1:4711", trusted, []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"},
		"through two balancers":                {"10.0.0.1:4711", trusted, []string{"198.51.100.1, 10.9.9.9"}, "198.51.100.1"},
		"over several lines":                   {"10.0.0.1:4711", trusted, []string{"1.1.1.1", "198.51.100.1", "10.9.9.9"}, "198.51.100.1"},
		"garbage stops the reading":            {"10.0.0.1:4711", trusted, []string{"198.51.100.1, garbage, 10.9.9.9"}, "10.9.9.9"},
		"IPv4 in IPv6":                         {"[::ffff:203.0.113.9]:4711", nil, nil, "203.0.113.9"},
		"a balancer of IPv6":                   {"[fd00::1]:4711", trusted, []string{"2001:db8::5"}, "2001:db8::5"},
		"all of them trusted: the first":       {"10.0.0.1:4711", trusted, []string{"10.1.1.1, 10.2.2.2"}, "10.1.1.1"},
		"an empty header is no address at all": {"10.0.0.1:4711", trusted, []string{""}, "10.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.forwarded}}
			if got := peer.Address(r, c.trusted); got.String() != c.want {
				t.Errorf("address is %s, want %s", got, c.want)
			}
		})
	}
}
