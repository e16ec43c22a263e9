package ledger_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"rackgateway/pkg/ledger"
	"rackgateway/pkg/secret"
)

// memory is a tree as package tlog keeps it, to compare with.
type memory []tlog.Hash

func (m memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, m[i])
	}
	return out, nil
}

func TestTheEdgeGrowsAsTheTreeOfThePackageThatVerifiesIt(t *testing.T) {
	var m memory
	var e ledger.Edge
	tiles := 0
	for n := int64(0); n < 1100; n++ {
		data := fmt.Appendf(nil, "leaf %d", n)
		hashes, err := tlog.StoredHashes(n, data, m)
		if err != nil {
			t.Fatal(err)
		}
		m = append(m, hashes...)
		tiles += e.Add(tlog.RecordHash(data))
		want, err := tlog.TreeHash(n+1, m)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Root(); got != want {
			t.Fatalf("with %d leaves the root is %v, want %v", n+1, got, want)
		}
	}
	if tiles != 4 {
		t.Errorf("%d tiles became whole, want 4", tiles)
	}
	if empty, err := tlog.TreeHash(0, m); err != nil || new(ledger.Edge).Root() != empty {
		t.Errorf("the empty tree has root %v, want %v (%v)", new(ledger.Edge).Root(), empty, err)
	}
}

func newLogKey(t testing.TB, name string) (secret.Text, string) {
	t.Helper()
	private, public, err := ledger.NewKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

func TestForgedCheckpointsAreRefusedWithAReason(t *testing.T) {
	private, public := newLogKey(t, "gateway.example.com/acme/staging")
	other, otherPublic := newLogKey(t, "gateway.example.com/acme/staging")
	sign := func(text string, keys ...secret.Text) string {
		var signers []note.Signer
		for _, key := range keys {
			s, err := note.NewSigner(key.Reveal())
			if err != nil {
				t.Fatal(err)
			}
			signers = append(signers, s)
		}
		signed, err := note.Sign(&note.Note{Text: text}, signers...)
		if err != nil {
			t.Fatal(err)
		}
		return string(signed)
	}
	const root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
	good := sign("gateway.example.com/acme/staging\n7\n"+root+"\n", private)
	if c, err := ledger.ParseCheckpoint(good, ledger.Keyring{public}); err != nil || c.N != 7 || c.Origin != "gateway.example.com/acme/staging" {
		t.Fatalf("a good one is refused: %v", err)
	}
	if c, err := ledger.ParseCheckpoint(sign("gateway.example.com/acme/staging\n7\n"+root+"\n", other, private), ledger.Keyring{public, otherPublic}); err != nil || len(c.Signers) != 2 {
		t.Fatalf("one with two signatures is refused: %v", err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"another key":          {sign("gateway.example.com/acme/staging\n7\n"+root+"\n", other), "signed by none of the keys"},
		"edited":               {strings.Replace(good, "\n7\n", "\n8\n", 1), "does not verify"},
		"another log":          {sign("gateway.example.com/acme/production\n7\n"+root+"\n", private), "signed for"},
		"nothing":              {"", "is not a checkpoint"},
		"no signature":         {"gateway.example.com/acme/staging\n7\n" + root + "\n", "is not a checkpoint"},
		"size with a zero":     {sign("gateway.example.com/acme/staging\n07\n"+root+"\n", private), "second line"},
		"negative size":        {sign("gateway.example.com/acme/staging\n-7\n"+root+"\n", private), "second line"},
		"short root":           {sign("gateway.example.com/acme/staging\n7\nCsUY\n", private), "third line"},
		"root spelled loosely": {sign("gateway.example.com/acme/staging\n7\n"+strings.Replace(root, "q2I=", "q2J=", 1)+"\n", private), "third line"},
		"a fourth line":        {sign("gateway.example.com/acme/staging\n7\n"+root+"\nmore\n", private), "three lines"},
		"empty with a root":    {sign("gateway.example.com/acme/staging\n0\n"+root+"\n", private), "without leaves"},
		"far too long":         {strings.Repeat("x", 20_000), "bytes"},
	} {
		if _, err := ledger.ParseCheckpoint(c.text, ledger.Keyring{public}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it refused with %q", name, err, c.want)
		}
	}
	if err := (ledger.Keyring{"nonsense"}).Check(); err == nil || !strings.Contains(err.Error(), "admin audit key") {
		t.Errorf("a key that is none: %v", err)
	}
}

func FuzzCheckpoint(f *testing.F) {
	_, public, err := ledger.NewKey("a/b/c")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a/b/c\n7\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— a/b/c AAAA\n")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := ledger.ParseCheckpoint(text, ledger.Keyring{public}); err == nil {
			t.Errorf("%q passes as a checkpoint of size %d, though nobody signed it", text, c.N)
		}
	})
}

func FuzzTilePath(f *testing.F) {
	for _, path := range []string{"tile/0/000", "tile/1/x001/234", "tile/entries/x001/x234/067.p/12", "tile/8/000", "tile/0/1", "tile/0/x000/001"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if again, ok := ledger.ParseTilePath(path); ok && again != path {
			t.Errorf("%q is read as %q", path, again)
		}
	})
}

func TestTilePathsAreThoseOfTheSpecification(t *testing.T) {
	for path, good := range map[string]bool{
		"tile/0/000": true, "tile/0/255.p/1": true, "tile/3/x001/x234/067": true, "tile/entries/x001/x234/067.p/255": true,
		"tile/0/x000/001": false, "tile/0/000.p/256": false, "tile/0/000.p/0": false, "tile/64/000": false, "tile/0/00": false,
		"tile/0/001/x000": false, "tile/00/000": false, "tile/entries": false, "checkpoint": false, "tile/0/000.p/01": false,
	} {
		if _, ok := ledger.ParseTilePath(path); ok != good {
			t.Errorf("%s: %v", path, ok)
		}
	}
}
