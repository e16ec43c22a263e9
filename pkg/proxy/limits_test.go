package proxy

import (
	"net/netip"
	"testing"
	"time"
)

func TestFloodgateSlowsDownOneSourceAndNotOthers(t *testing.T) {
	g := newFloodgate()
	now := time.Unix(1_800_000_000, 0)
	flooder, other := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	recorded := 0
	for range failureBurst {
		if !g.open(flooder, [32]byte{1}, now) {
			t.Fatal("closed before the burst was used up")
		}
		if g.failed(flooder, now) {
			recorded++
		}
	}
	if g.open(flooder, [32]byte{1}, now) {
		t.Error("open after the burst")
	}
	if !g.open(other, [32]byte{1}, now) {
		t.Error("closed for another address")
	}
	g.remember([32]byte{2})
	if !g.open(flooder, [32]byte{2}, now) {
		t.Error("closed for a token that was good, from the same address")
	}
	if !g.open(flooder, [32]byte{1}, now.Add(time.Second)) {
		t.Error("still closed a second later")
	}
	if recorded != failureRecords {
		t.Errorf("%d failures were recorded one by one, want %d", recorded, failureRecords)
	}
	total, by := g.take(now)
	if total != failureBurst-failureRecords || by[flooder] != total {
		t.Errorf("counted %d (%v), want %d", total, by, failureBurst-failureRecords)
	}
	if total, _ := g.take(now); total != 0 {
		t.Errorf("counted %d twice", total)
	}
}

func TestFloodgateTakesAnIPv6NetworkForOneSource(t *testing.T) {
	g := newFloodgate()
	now := time.Unix(1_800_000_000, 0)
	for i := range failureBurst {
		g.failed(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)}), now)
	}
	if g.open(netip.MustParseAddr("2001:db8::ffff"), [32]byte{}, now) {
		t.Error("open for another address of the same network")
	}
}

func TestARepeatedReadIsAPollForAWhile(t *testing.T) {
	var p presence
	now := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		path  string
		after time.Duration
		want  bool
	}{
		{"/apps/web", 0, false}, {"/apps/web", 5 * time.Second, true}, {"/apps/web/processes", 5 * time.Second, false},
		{"/apps/web", 15 * time.Second, true}, {"/apps/web", 31 * time.Second, false},
	} {
		if got := p.repeats(c.path, now.Add(c.after)); got != c.want {
			t.Errorf("%s after %s: repeats %v, want %v", c.path, c.after, got, c.want)
		}
	}
}

func TestWhatSomebodyApprovesReadsAsItIs(t *testing.T) {
	for given, shown := range map[string]string{
		"echo \u202egnihton\u202c ; rm -rf /data": "echo  gnihton  ; rm -rf /data", // would read from right to left
		"ls\u200b\u2066 -l\x1b[8m\r\nrm x":        "ls   -l [8m  rm x",
		"grüße 100% 東京":                           "grüße 100% 東京",
	} {
		if got := printableText(given); got != shown {
			t.Errorf("%q is shown as %q, want %q", given, got, shown)
		}
	}
}
