package ledger

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"golang.org/x/mod/sumdb/tlog"

	"rackgateway/pkg/audit"
)

// Proof shows that an event is in the ledger. It is checked with a public key alone.
type Proof struct {
	Format     string   `json:"format"` // proofFormat
	Index      int64    `json:"leaf_index"`
	Event      string   `json:"event"`      // its canonical bytes, as text
	Path       []string `json:"path"`       // hashes from the leaf's sibling to the top (RFC 6962 section 2.1.1), in base64
	Checkpoint string   `json:"checkpoint"` // signed note
}

const proofFormat = "rack-gateway-proof/v1"

// maxProof is the most bytes that a proof has.
const maxProof = 256 << 10

// idRange is how far an event's time may be from that of its id.
const idRange = 2 * time.Second

// ErrNoLeaf says that an event has no place in the ledger yet.
var ErrNoLeaf = errors.New("the event has no place in the ledger yet: it gets one within a second when admin runs")

const selectEventLeaf = `
select l.leaf_index from rgw.ledger_leaves l join rgw.audit_events e on e.occurred_at = l.occurred_at and e.event_id = l.event_id
where e.event_id = $1 and e.occurred_at >= $2 and e.occurred_at < $3`

const selectEventLeafAnywhere = `select leaf_index from rgw.ledger_leaves where event_id = $1`

// Find returns the leaf of an event by its id alone; ErrNoLeaf when it has none.
func Find(ctx context.Context, db sqlx.QueryerContext, id uuid.UUID) (index int64, err error) {
	// An id tells the millisecond of its event (RFC 9562 section 5.7), unless it is one that the database made.
	if at := audit.TimeOf(id); !at.IsZero() {
		err := sqlx.GetContext(ctx, db, &index, selectEventLeaf, id, at.Add(-idRange), at.Add(idRange))
		if !errors.Is(err, sql.ErrNoRows) {
			return index, err
		}
	}
	switch err := sqlx.GetContext(ctx, db, &index, selectEventLeafAnywhere, id); {
	case errors.Is(err, sql.ErrNoRows):
		return 0, ErrNoLeaf
	case err != nil:
		return 0, fmt.Errorf("find the leaf of event %s: %w", id, err)
	}
	return index, nil
}

// Prove makes the proof of a leaf against the newest checkpoint.
func Prove(ctx context.Context, db sqlx.QueryerContext, keys Keyring, index int64) (*Proof, error) {
	c, _, err := Head(ctx, db, keys)
	if err != nil {
		return nil, err
	}
	if c == nil || index >= c.N || index < 0 {
		return nil, ErrNoLeaf
	}
	var event []byte
	gone := false
	err = Entries(ctx, db, index, index+1, func(e *Entry) error {
		gone = e.Gone
		event = e.Event.AppendCanonical(nil)
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case event == nil:
		return nil, fmt.Errorf("leaf %d is missing: it was deleted from the database; see admin audit verify", index)
	case gone:
		return nil, fmt.Errorf("the event of leaf %d is not in the database any more: its copy is in the bucket", index)
	}
	path, err := pathOf(c.Tree, index, dbTiles{ctx, db})
	if err != nil {
		return nil, err
	}
	p := &Proof{Format: proofFormat, Index: index, Event: string(event), Path: path, Checkpoint: c.Note}
	if _, err := p.Check(keys); err != nil {
		return nil, fmt.Errorf("leaf %d cannot be proved: %w; see admin audit verify", index, err)
	}
	return p, nil
}

// pathOf is the inclusion path of a leaf, as proofs spell it.
func pathOf(tree tlog.Tree, index int64, source TileSource) ([]string, error) {
	proof, err := tlog.ProveRecord(tree.N, index, hashReader(tree, source))
	if err != nil {
		return nil, fmt.Errorf("prove leaf %d: %w", index, err)
	}
	path := make([]string, len(proof))
	for i := range proof {
		path[i] = base64.StdEncoding.EncodeToString(proof[i][:])
	}
	return path, nil
}

// Check checks the proof with public keys alone, and returns the checkpoint that it leads to.
func (p *Proof) Check(keys Keyring) (*Checkpoint, error) {
	if p.Format != proofFormat {
		return nil, fmt.Errorf("it is not a proof of this form: its format is %q, and should be %q", shorten(p.Format), proofFormat)
	}
	c, err := ParseCheckpoint(p.Checkpoint, keys)
	if err != nil {
		return nil, fmt.Errorf("its checkpoint: %w", err)
	}
	if p.Index < 0 || p.Index >= c.N {
		return nil, fmt.Errorf("its leaf %d is not below its checkpoint, which has %d", p.Index, c.N)
	}
	if len(p.Path) > 64 {
		return nil, fmt.Errorf("its path has %d hashes, more than any tree is high", len(p.Path))
	}
	path := make(tlog.RecordProof, len(p.Path))
	for i, text := range p.Path {
		hash, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || len(hash) != tlog.HashSize {
			return nil, fmt.Errorf("hash %d of its path is not one", i)
		}
		copy(path[i][:], hash)
	}
	if err := tlog.CheckRecord(path, c.N, c.Hash, p.Index, tlog.RecordHash([]byte(p.Event))); err != nil {
		return nil, errors.New("its event is not in the tree that the checkpoint signs: the event, the path or the place was changed")
	}
	return c, nil
}

// ParseProof reads a proof. It is not checked yet.
func ParseProof(data []byte) (*Proof, error) {
	if len(data) > maxProof {
		return nil, fmt.Errorf("it has %d bytes, more than any proof", len(data))
	}
	var p Proof
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return nil, fmt.Errorf("it is not a proof: %w", err)
	}
	if decoder.More() {
		return nil, errors.New("it is not a proof: something follows it")
	}
	return &p, nil
}

// shorten keeps what somebody sent within a sentence.
func shorten(text string) string {
	if len(text) > 60 {
		return text[:60] + "…"
	}
	return text
}

// Consistency proves that the tree of one size extends that of a smaller one, for a client that kept a checkpoint.
func Consistency(ctx context.Context, db sqlx.QueryerContext, tree tlog.Tree, from int64) ([]string, error) {
	if from < 1 || from > tree.N {
		return nil, fmt.Errorf("the smaller tree has %d leaves, and must have 1 to %d", from, tree.N)
	}
	proof, err := tlog.ProveTree(tree.N, from, hashReader(tree, dbTiles{ctx, db}))
	if err != nil {
		return nil, fmt.Errorf("prove that %d leaves extend %d: %w", tree.N, from, err)
	}
	path := make([]string, len(proof))
	for i := range proof {
		path[i] = base64.StdEncoding.EncodeToString(proof[i][:])
	}
	return path, nil
}
