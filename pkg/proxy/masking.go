package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
)

// Most answers that are masked are short, and most reads are masked: so the memory that it takes, for the answer as
// it came and as it leaves, is lent from one request to the next.

// maskingBuffers are an answer as it came and as it leaves.
type maskingBuffers struct {
	raw, masked []byte
	pool        *maskingPool
	reader      bytes.Reader // of masked
}

// keptMasking is the most memory that a lent buffer may have and be kept: what is longer is rare.
const keptMasking = 16 << 10

type maskingPool struct{ pool sync.Pool }

func (p *maskingPool) lend() *maskingBuffers {
	if b, ok := p.pool.Get().(*maskingBuffers); ok {
		return b
	}
	return &maskingBuffers{pool: p, raw: make([]byte, 0, 4<<10), masked: make([]byte, 0, 4<<10)}
}

func (p *maskingPool) giveBack(b *maskingBuffers) {
	if cap(b.raw) > keptMasking || cap(b.masked) > keptMasking {
		return
	}
	p.pool.Put(b)
}

// fill reads an answer of up to heldBack bytes. When it is whole, rest has nothing left to read; otherwise rest goes
// on after what is in raw.
func (b *maskingBuffers) fill(resp *http.Response) (rest io.ReadCloser, whole bool, err error) {
	b.raw = b.raw[:0]
	if resp.ContentLength > heldBack {
		return resp.Body, false, nil
	}
	if n := int(resp.ContentLength); n >= cap(b.raw) {
		b.raw = make([]byte, 0, n+1) // one more, to see the end
	}
	for len(b.raw) <= heldBack {
		if len(b.raw) == cap(b.raw) {
			b.raw = append(b.raw, 0)[:len(b.raw)]
		}
		n, err := resp.Body.Read(b.raw[len(b.raw):cap(b.raw)])
		b.raw = b.raw[:len(b.raw)+n]
		if errors.Is(err, io.EOF) {
			return resp.Body, true, nil
		}
		if err != nil {
			return resp.Body, false, err
		}
	}
	return resp.Body, false, nil
}

// body is the masked answer. Closing it gives the buffers back.
func (b *maskingBuffers) body() io.ReadCloser {
	b.reader.Reset(b.masked)
	return &maskedBody{lent: b}
}

// A maskedBody is read and closed by one goroutine, and not read any more once it is closed.
type maskedBody struct{ lent *maskingBuffers }

func (m *maskedBody) Read(p []byte) (int, error) {
	if m.lent == nil {
		return 0, http.ErrBodyReadAfterClose
	}
	return m.lent.reader.Read(p)
}

func (m *maskedBody) Close() error {
	if b := m.lent; b != nil {
		m.lent = nil
		b.reader.Reset(nil)
		b.pool.giveBack(b)
	}
	return nil
}
