package proxy

import (
	"net/netip"
	"testing"
	"time"
)

func TestAFloodFromMoreAddressesThanAreToldApartIsSlowedDownToo(t *testing.T) {
	g := newFloodgate()
	now := time.Unix(1_800_000_000, 0)
	address := netip.MustParseAddr("10.0.0.0")
	for range floodSources {
		g.failed(address, now)
		address = address.Next()
	}
	for range 2 * failuresPerMin {
		g.failed(address, now)
	}
	if g.open(address, now) {
		t.Error("an address that did not fit any more may fail without limit")
	}
	if !g.open(netip.MustParseAddr("10.0.0.1"), now) {
		t.Error("an address that failed once is shut out by others")
	}
}
