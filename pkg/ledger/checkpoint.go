package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is a signed tree head (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin string
	tlog.Tree

	// Note is the text with its signatures.
	Note string
	// Signers are the verifier keys, as spelled by signed notes, whose signatures it bears and that were asked about.
	Signers []string
}

// maxCheckpoint is the most bytes that a checkpoint has (golang.org/x/mod/sumdb/note bounds notes to 1 MB; ours have
// three lines and a few signatures).
const maxCheckpoint = 16 << 10

// checkpointBody is the signed text of a checkpoint.
func checkpointBody(origin string, tree tlog.Tree) string {
	return origin + "\n" + strconv.FormatInt(tree.N, 10) + "\n" + base64.StdEncoding.EncodeToString(tree.Hash[:]) + "\n"
}

// signCheckpoint signs a tree head with each of the signers.
func signCheckpoint(origin string, tree tlog.Tree, signers ...note.Signer) (*Checkpoint, error) {
	text, err := note.Sign(&note.Note{Text: checkpointBody(origin, tree)}, signers...)
	if err != nil {
		return nil, fmt.Errorf("sign the checkpoint of size %d: %w", tree.N, err)
	}
	return &Checkpoint{Origin: origin, Tree: tree, Note: string(text)}, nil
}

// parseBody reads the three lines. More lines are refused: this log writes none, and nobody else writes its
// checkpoints.
func parseBody(text string) (origin string, tree tlog.Tree, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] == "" {
		return "", tlog.Tree{}, errors.New("it is not three lines: origin, size and root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return "", tlog.Tree{}, errors.New("its second line is not a size")
	}
	hash, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(hash) != tlog.HashSize || base64.StdEncoding.EncodeToString(hash) != lines[2] {
		return "", tlog.Tree{}, errors.New("its third line is not a hash in base64")
	}
	tree.N = size
	copy(tree.Hash[:], hash)
	if size == 0 && tree.Hash != emptyRoot {
		return "", tlog.Tree{}, errors.New("it gives a tree without leaves another hash than that of nothing")
	}
	return lines[0], tree, nil
}

// The ways a checkpoint can be wrong.
var (
	errCheckpointForm = errors.New("is not a checkpoint")
	errCheckpointKey  = errors.New("is signed by none of the keys")
	errCheckpointSig  = errors.New("bears a signature that does not verify")
)

// ParseCheckpoint reads a checkpoint and checks that at least one of the keys has signed it, that no signature in the
// name of one of them is false, and that its origin is the key's name.
func ParseCheckpoint(text string, keys Keyring) (*Checkpoint, error) {
	if len(text) > maxCheckpoint {
		return nil, fmt.Errorf("it %w: it has %d bytes", errCheckpointForm, len(text))
	}
	verifiers, err := keys.verifiers()
	if err != nil {
		return nil, err
	}
	opened, err := note.Open([]byte(text), verifiers)
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	switch {
	case errors.As(err, &unverified):
		var names []string
		for _, sig := range unverified.Note.UnverifiedSigs {
			names = append(names, fmt.Sprintf("%s+%08x", sig.Name, sig.Hash))
		}
		return nil, fmt.Errorf("it %w that are trusted, but by %s", errCheckpointKey, strings.Join(names, ", "))
	case errors.As(err, &invalid):
		return nil, fmt.Errorf("it %w: that of %s", errCheckpointSig, invalid.Name)
	case err != nil:
		return nil, fmt.Errorf("it %w: %w", errCheckpointForm, err)
	}
	origin, tree, err := parseBody(opened.Text)
	if err != nil {
		return nil, fmt.Errorf("it %w: %w", errCheckpointForm, err)
	}
	c := &Checkpoint{Origin: origin, Tree: tree, Note: text}
	for _, sig := range opened.Sigs {
		if sig.Name != origin {
			return nil, fmt.Errorf("it %w: it is of the log %s, and signed for %s", errCheckpointForm, strconv.Quote(origin), strconv.Quote(sig.Name))
		}
		c.Signers = append(c.Signers, keys.named(sig.Name, sig.Hash))
	}
	return c, nil
}

// Keyring is a set of public keys in the form of signed notes: NAME+HASH+BASE64.
type Keyring []string

func (k Keyring) verifiers() (note.Verifiers, error) {
	var list []note.Verifier
	seen := make(map[string]bool)
	for _, text := range k {
		if seen[strings.TrimSpace(text)] {
			continue
		}
		seen[strings.TrimSpace(text)] = true
		v, err := note.NewVerifier(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("public key %s: it must be NAME+HASH+BASE64, as admin audit key shows it", strconv.Quote(text))
		}
		list = append(list, v)
	}
	return note.VerifierList(list...), nil
}

// Check tells what is wrong with a key, if anything is.
func (k Keyring) Check() error {
	if len(k) == 0 {
		return errors.New("no public key was given")
	}
	_, err := k.verifiers()
	return err
}

func (k Keyring) named(name string, hash uint32) string {
	for _, text := range k {
		if v, err := note.NewVerifier(strings.TrimSpace(text)); err == nil && v.Name() == name && v.KeyHash() == hash {
			return strings.TrimSpace(text)
		}
	}
	return ""
}
