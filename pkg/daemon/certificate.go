package daemon

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Certificate is a certificate and its key in two files, which are read again when they have changed: whoever renews
// them has nobody to tell. While what is new cannot be used (half of it is written yet, or the key does not belong to the
// certificate) the one before serves on. Its methods may be called from any goroutine.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu      sync.Mutex // held while files are read, which handshakes wait for
	looked  time.Time
	seen    [2]stamp // of what is served, or was last found to be no good
	current *tls.Certificate
}

// stamp is what tells that a file has changed. A link that leads elsewhere, as in mounted secrets, has another stamp too.
type stamp struct {
	at   time.Time
	size int64
	file fs.FileInfo
}

func (s stamp) same(other stamp) bool {
	return s.at.Equal(other.at) && s.size == other.size && os.SameFile(s.file, other.file)
}

// lookEvery is how often the files are looked at, when there are handshakes.
const lookEvery = time.Second

// NewCertificate reads the files, which must be good.
func NewCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log, now: time.Now}
	seen, err := c.stamps()
	if err != nil {
		return nil, err
	}
	current, err := c.read()
	if err != nil {
		return nil, err
	}
	c.seen, c.current, c.looked = seen, current, c.now()
	return c, nil
}

// Get is tls.Config's GetCertificate.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.looked) >= lookEvery {
		c.looked = now
		c.refresh()
	}
	return c.current, nil
}

// refresh reads the files again when they have changed. What it found to be no good it does not read again.
func (c *Certificate) refresh() {
	seen, err := c.stamps()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) { // between the removal of the old one and the arrival of the new
			return
		}
		c.log.Warn("the certificate's files cannot be looked at; the one that was read before is served on", "error", err)
		return
	}
	if seen[0].same(c.seen[0]) && seen[1].same(c.seen[1]) {
		return
	}
	c.seen = seen
	next, err := c.read()
	if err != nil {
		c.log.Warn("the certificate's files have changed and cannot be used; the one before is served on", "error", err)
		return
	}
	c.current = next
	c.log.Info("the certificate's files have changed: the new one is served from now on", "ends", next.Leaf.NotAfter)
}

func (c *Certificate) stamps() (seen [2]stamp, err error) {
	for i, path := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return seen, fmt.Errorf("looking at a certificate's file: %w", err)
		}
		seen[i] = stamp{at: info.ModTime(), size: info.Size(), file: info}
	}
	return seen, nil
}

func (c *Certificate) read() (*tls.Certificate, error) {
	certificate, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	return &certificate, nil
}
