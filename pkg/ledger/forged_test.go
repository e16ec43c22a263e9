package ledger_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"rackgateway/pkg/ledger"
	"rackgateway/pkg/secret"
)

// folder is a log in memory, whose objects have one version each.
type folder map[string][]byte

// Name implements ledger.Source.
func (folder) Name() string { return "copy" }

// List implements ledger.Source.
func (s folder) List(_ context.Context, prefix string, f func(ledger.Object) error) error {
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if strings.HasPrefix(key, prefix) {
			if err := f(ledger.Object{Key: key, Size: int64(len(s[key])), At: time.Unix(1_790_000_000, 0), Latest: true}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Get implements ledger.Source.
func (s folder) Get(_ context.Context, key, _ string) ([]byte, error) {
	data, ok := s[key]
	if !ok {
		return nil, ledger.ErrNoObject
	}
	return data, nil
}

// aLog makes a log of so many events as an anchor lays it out, without a database: its objects, and what they are trusted
// by. The proof is one of an event in it.
func aLog(t testing.TB, events int) (folder, ledger.Keyring, *ledger.Proof) {
	t.Helper()
	private, public := newLogKey(t, origin)
	signer, err := note.NewSigner(private.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	var stored memory
	var hashes, bundle []byte
	out := folder{}
	var proved []byte
	for n := range events {
		e := event(n)
		e.OccurredAt = time.Date(2026, 11, 23, 12, 0, 0, n*1000, time.UTC)
		text := e.AppendCanonical(nil)
		if n == events/2 {
			proved = text
		}
		more, err := tlog.StoredHashes(int64(n), text, stored)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		hash := tlog.RecordHash(text)
		hashes = append(hashes, hash[:]...)
		bundle = append(append(bundle, byte(len(text)>>8), byte(len(text))), text...)
		if width := n%256 + 1; width == 256 || n == events-1 {
			name := fmt.Sprintf("%03d", n/256)
			if width < 256 {
				name += fmt.Sprintf(".p/%d", width)
			}
			out["tile/0/"+name], out["tile/entries/"+name] = hashes, bundle
			hashes, bundle = nil, nil
		}
	}
	var upper []byte
	for i := range events / 256 {
		root, err := stored.ReadHashes([]int64{tlog.StoredHashIndex(8, int64(i))})
		if err != nil {
			t.Fatal(err)
		}
		upper = append(upper, root[0][:]...)
	}
	if upper != nil {
		out[fmt.Sprintf("tile/1/000.p/%d", events/256)] = upper
	}
	root, err := tlog.TreeHash(int64(events), stored)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, events, root)}, signer)
	if err != nil {
		t.Fatal(err)
	}
	out["checkpoint"] = signed
	out[fmt.Sprintf("checkpoints/2026/11/23/T150000Z-%d", events)] = signed
	path, err := tlog.ProveRecord(int64(events), int64(events/2), stored)
	if err != nil {
		t.Fatal(err)
	}
	p := &ledger.Proof{Format: "rack-gateway-proof/v1", Index: int64(events / 2), Event: string(proved), Checkpoint: string(signed)}
	for _, hash := range path {
		p.Path = append(p.Path, hash.String())
	}
	return out, ledger.Keyring{public}, p
}

func verifyFolder(t testing.TB, s folder, keys ledger.Keyring) *ledger.Report {
	t.Helper()
	report, err := ledger.VerifySource(t.Context(), s, ledger.SourceOptions{VerifyOptions: ledger.VerifyOptions{Keys: keys}})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// Any change of any object of a log is found, and told in a sentence.
func FuzzObjects(f *testing.F) {
	log, keys, _ := aLog(f, 600)
	if report := verifyFolder(f, log, keys); !report.Sound() || report.Events != 600 {
		f.Fatalf("it should verify: %s", report)
	}
	names := slices.Sorted(maps.Keys(log))
	for i := range names {
		f.Add(uint8(i), uint16(40), uint16(1), []byte{'x'})
		f.Add(uint8(i), uint16(0), uint16(65535), []byte{})
		f.Add(uint8(i), uint16(65535), uint16(0), []byte("more"))
		f.Add(uint8(i), uint16(0), uint16(2), []byte{0, 0})
	}
	f.Add(uint8(0), uint16(0), uint16(65535), log["checkpoint"][:60])
	f.Fuzz(func(t *testing.T, which uint8, at, cut uint16, put []byte) {
		name := names[int(which)%len(names)]
		data := log[name]
		from := min(int(at), len(data))
		to := min(from+int(cut), len(data))
		changed := slices.Concat(data[:from], put, data[to:])
		if bytes.Equal(changed, data) {
			return
		}
		forged := maps.Clone(log)
		forged[name] = changed
		report := verifyFolder(t, forged, keys)
		if report.Sound() && !sameCheckpoint(name, changed, data) {
			t.Errorf("%s was changed at %d, and the log verifies", name, from)
		}
		for _, finding := range report.Findings {
			if finding.Kind == "" || finding.Message == "" {
				t.Errorf("%+v", finding)
			}
		}
		// What its objects' names say is not trusted either.
		forged = maps.Clone(log)
		delete(forged, name)
		forged["tile/"+string(put)], forged["checkpoints/"+string(put)] = data, data
		verifyFolder(t, forged, keys)
	})
}

// sameCheckpoint tells whether a checkpoint was changed in what nobody's signature is over: notes may bear more signatures
// than are known.
func sameCheckpoint(name string, changed, data []byte) bool {
	if !strings.HasPrefix(name, "checkpoint") {
		return false
	}
	text := func(note []byte) string { body, _, _ := strings.Cut(string(note), "\n\n"); return body }
	return text(changed) == text(data)
}

// A proof holds for the event, the place and the checkpoint that it was made for, and for no other.
func FuzzProof(f *testing.F) {
	_, keys, proof := aLog(f, 300)
	if _, err := proof.Check(keys); err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(proof)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, text := range []string{"", "{}", "null", `[]`, `{"format":"rack-gateway-proof/v1","leaf_index":-1}`, string(good) + string(good),
		strings.Replace(string(good), `"leaf_index":150`, `"leaf_index":151`, 1), strings.Replace(string(good), `"path":[`, `"path":["",`, 1)} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ledger.ParseProof(text)
		if err != nil {
			return
		}
		c, err := p.Check(keys)
		if err != nil {
			return
		}
		if p.Index != proof.Index || p.Event != proof.Event || c.N != 300 {
			t.Errorf("leaf %d of %d passes with the event %q", p.Index, c.N, p.Event)
		}
	})
}

// Checkpoints that differ from a signed one in anything that is signed are refused.
func FuzzSignedCheckpoint(f *testing.F) {
	log, keys, _ := aLog(f, 3)
	good := log["checkpoint"]
	f.Add(uint16(0), uint16(0), []byte(""))
	f.Add(uint16(len(origin)+1), uint16(1), []byte("4"))
	f.Add(uint16(len(good)-10), uint16(2), []byte("=="))
	f.Fuzz(func(t *testing.T, at, cut uint16, put []byte) {
		from := min(int(at), len(good))
		to := min(from+int(cut), len(good))
		changed := slices.Concat(good[:from], put, good[to:])
		c, err := ledger.ParseCheckpoint(string(changed), keys)
		switch {
		case err == nil && (c.N != 3 || c.Origin != origin || !sameCheckpoint("checkpoint", changed, good)):
			t.Errorf("%q passes", changed)
		case err != nil && bytes.Equal(changed, good):
			t.Errorf("it is refused as it was signed: %v", err)
		}
	})
}

// A bundle is taken apart into what it was made of, and into nothing else.
func FuzzBundle(f *testing.F) {
	log, _, _ := aLog(f, 3)
	f.Add(log["tile/entries/000.p/3"])
	f.Add([]byte{0})
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, bundle []byte) {
		events, err := ledger.SplitBundle(bundle)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range events {
			again = append(append(again, byte(len(e)>>8), byte(len(e))), e...)
		}
		if !bytes.Equal(again, bundle) {
			t.Errorf("%q is read as %q", bundle, events)
		}
	})
}

// A key that nobody can have made is told to be none.
func FuzzKey(f *testing.F) {
	private, public := newLogKey(f, origin)
	f.Add(public)
	f.Add(private.Reveal())
	f.Add(origin + "+00000000+AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		err := ledger.Keyring{text}.Check()
		if err == nil && strings.Contains(text, "PRIVATE") && strings.HasPrefix(text, "PRIVATE+KEY+") {
			t.Errorf("a private key passes as a public one")
		}
		if _, err := ledger.PublicOf(secret.NewText(text)); err != nil && strings.Contains(err.Error(), text) && len(text) > 20 {
			t.Errorf("the reason tells the key: %v", err)
		}
	})
}
