package adminapi

import (
	"net/netip"
	"testing"
	"time"
)

// TestACrowdOfSourcesIsNoWayAroundTheFloodgate fills the places, after which nobody new has one.
func TestACrowdOfSourcesIsNoWayAroundTheFloodgate(t *testing.T) {
	g, now := newFloodgate(), time.Now()
	address := netip.MustParseAddr("198.18.0.0")
	for range floodSources + failureBurst {
		g.failed(address, now)
		address = address.Next()
	}
	if g.open(address, [32]byte{1}, now) {
		t.Error("who comes after the crowd may guess without end")
	}
	if len(g.sources) > floodSources+1 {
		t.Errorf("%d sources are kept", len(g.sources))
	}
	g.remember([32]byte{2})
	if !g.open(address, [32]byte{2}, now) {
		t.Error("whose token was good lately does not pass")
	}
}
