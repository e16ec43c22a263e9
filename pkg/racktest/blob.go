// Uploads and dumps. Small ones stay in memory; large ones go to a file that is unlinked at once, so that a
// rack can take hundreds of megabytes without holding them, and leaves nothing behind.

package racktest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// blobInMemory is the size up to which a blob is kept in memory.
const blobInMemory = 1 << 20

// blob is an immutable sequence of bytes. A file behind it is closed when the last reference is collected.
type blob struct {
	size int64
	open func() io.Reader
}

func bytesBlob(p []byte) *blob {
	return &blob{size: int64(len(p)), open: func() io.Reader { return bytes.NewReader(p) }}
}

// readBlob takes r to its end.
func readBlob(r io.Reader) (*blob, error) {
	var head bytes.Buffer
	n, err := io.CopyN(&head, r, blobInMemory)
	if errors.Is(err, io.EOF) {
		return bytesBlob(head.Bytes()), nil
	}
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "racktest-*")
	if err != nil {
		return nil, fmt.Errorf("storing a large body: %w", err)
	}
	os.Remove(f.Name()) //nolint:errcheck // it is deleted with the process otherwise
	if _, err := f.Write(head.Bytes()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	m, err := io.Copy(f, r)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	size := n + m
	return &blob{size: size, open: func() io.Reader { return io.NewSectionReader(f, 0, size) }}, nil
}

// bytes is the whole blob in memory.
func (b *blob) bytes() []byte {
	p, _ := io.ReadAll(b.open())
	return p
}

// RandomBytes is a reader of size bytes that are the same for the same seed, on every machine.
func RandomBytes(size int64, seed uint64) io.Reader {
	return &randomReader{left: size, state: seed}
}

// randomReader is SplitMix64 in little-endian words: fast, and easy to write again in another language.
type randomReader struct {
	left  int64
	state uint64
	word  [8]byte
	have  int
}

func (r *randomReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n := copy(p, r.word[8-r.have:])
	r.have -= n
	for ; len(p)-n >= 8; n += 8 {
		binary.LittleEndian.PutUint64(p[n:], r.next())
	}
	if n < len(p) {
		binary.LittleEndian.PutUint64(r.word[:], r.next())
		k := copy(p[n:], r.word[:])
		r.have = 8 - k
		n += k
	}
	r.left -= int64(n)
	return n, nil
}

func (r *randomReader) next() uint64 {
	r.state += 0x9e3779b97f4a7c15
	z := r.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
