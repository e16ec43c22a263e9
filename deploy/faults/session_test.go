package faults

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"rackgateway/pkg/racktest/convoxclient"
)

// session is an open exec, as the CLI has it: what is sent comes back, since it runs cat.
type session struct {
	key    string
	client *convoxclient.Client
	socket *convoxclient.Socket
	said   *hearing
	ended  chan struct{}
	code   int       // after ended
	at     time.Time // likewise
}

// hearing is what a session's terminal shows.
type hearing struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed and replaced when there is more
}

func (h *hearing) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.more)
	h.more = make(chan struct{})
	return h.text.Write(p)
}

func (h *hearing) now() (string, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String(), h.more
}

// openSession opens an exec through an address such as http://localhost:8080, and waits until it runs.
func (b *books) openSession(ctx context.Context, address, token, pid, key string) (*session, error) {
	client, err := convoxclient.New(strings.Replace(address, "://", "://convox:"+token+"@", 1))
	if err != nil {
		return nil, err
	}
	s := &session{key: key, client: client, said: &hearing{more: make(chan struct{})}, ended: make(chan struct{})}
	b.note(&entry{key: key, shape: execs, err: errNoAnswer}) // what it saw is checked by whoever opened it
	s.socket, err = client.Socket(ctx, "/apps/demo/processes/"+pid+"/exec", map[string]string{
		"Command": fmt.Sprintf("sh -c 'echo %s runs; cat'", key), "Tty": "false",
	})
	if err != nil {
		client.Close()
		return nil, err
	}
	go func() {
		defer close(s.ended)
		s.code, _ = s.socket.CopyExit(s.said) // any end is an end to the CLI
		s.at = time.Now()
	}()
	if err := s.await(ctx, key+" runs\n"); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// await waits until the session has said a text.
func (s *session) await(ctx context.Context, text string) error {
	for {
		said, more := s.said.now()
		if strings.Contains(said, text) {
			return nil
		}
		select {
		case <-more:
		case <-s.ended:
			if said, _ := s.said.now(); !strings.Contains(said, text) {
				return fmt.Errorf("the session ended with code %d before it said %q; it said %q", s.code, text, said)
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("the session did not say %q: %w; it said %q", text, ctx.Err(), said)
		}
	}
}

// echo sends a line and waits until it comes back.
func (s *session) echo(ctx context.Context, line string) error {
	line += "\n"
	if err := s.socket.WriteText([]byte(line)); err != nil {
		return err
	}
	return s.await(ctx, line)
}

// over waits until the session has ended, and returns all that it said, with its exit code.
func (s *session) over(ctx context.Context) (string, int, error) {
	select {
	case <-s.ended:
	case <-ctx.Done():
		said, _ := s.said.now()
		return said, 0, fmt.Errorf("the session did not end: %w", ctx.Err())
	}
	said, _ := s.said.now()
	return said, s.code, nil
}

// finish ends the session as a person does, and makes sure that it ends well.
func (s *session) finish(t *testing.T) {
	t.Helper()
	defer s.close()
	if err := s.socket.WriteEOF(); err != nil {
		t.Errorf("ending a session: %v", err)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if said, code, err := s.over(ctx); err != nil || code != 0 {
		t.Errorf("the session ended with code %d, %v; it said %q", code, err, said)
	}
}

// endedBy makes sure that the gateway ended the session with a message and the exit code 1, as soon as it has.
func (s *session) endedBy(ctx context.Context, message string) error {
	said, code, err := s.over(ctx)
	if err == nil && (code != 1 || !strings.Contains(said, "ERROR: ") || !strings.Contains(said, message)) {
		err = fmt.Errorf("the session ended with code %d and said %q", code, said)
	}
	return err
}

// close drops the connection.
func (s *session) close() {
	_ = s.socket.Close()
	<-s.ended
	s.client.Close()
}
