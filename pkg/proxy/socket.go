package proxy

import (
	"context"
	"crypto/sha1" // #nosec G505 -- RFC 6455 section 4.2.2 asks for SHA-1 to accept a handshake; nothing is protected by it
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// carrySocket connects to the rack, switches protocols on both sides, and carries bytes until the session
// is over. Its started event is durable already.
func (x *exchange) carrySocket() *refusal {
	if refused := x.p.password.ready(x); refused != nil {
		return refused
	}
	// Registered before the last look at the rights, so that no change in between is missed.
	t := x.tunnel
	if t == nil {
		t = &tunnel{speaks: x.speech(), exitCode: -1}
		x.p.tunnels.add(t)
		x.tunnel = t
	}
	detach, current := x.entry.Attach(t.end)
	defer detach()
	if refused := x.confirm(); refused != nil {
		return refused
	}
	if !current {
		return refuse(http.StatusUnauthorized, "access-changed", "your access was changed while this request waited: run the command again")
	}

	x.asked, x.askedAt = true, time.Now()
	resp, err := x.upgradeAtRack()
	if err != nil {
		return x.notAnswered(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return x.notUpgraded(resp)
	}
	defer func() { _ = resp.Body.Close() }() // again, when all went well
	far, ok := resp.Body.(upgraded)
	if !ok {
		return refuse(http.StatusBadGateway, "rack-failed", "the connection to the rack cannot carry a session: tell an administrator")
	}
	client, early := x.client, x.early // of a socket that waited for its second factor
	if client == nil {
		if client, early, err = hijack(x.w); err != nil {
			return refuse(http.StatusInternalServerError, "internal", "the gateway could not take over the connection: try again").because(err)
		}
		_ = client.SetWriteDeadline(time.Now().Add(30 * time.Second))
		_, err = client.Write(acceptance(resp.Header.Get("Sec-Websocket-Accept"), resp.Header.Get("Sec-Websocket-Protocol")))
		_ = client.SetWriteDeadline(time.Time{})
	}
	defer func() { _ = client.Close() }() // likewise
	x.p.Metrics.OpenSockets.Inc()
	defer x.p.Metrics.OpenSockets.Dec()

	t.wire(client, early, far)
	if err != nil {
		t.end("the client hung up")
	}
	// What the session does not need is let go: it may last for hours.
	x.form, x.match.Segments = nil, nil
	x.cancel()
	t.run()

	x.renewPatience()
	x.recordSocket(t)
	return nil
}

// recordSocket makes the outcome of a session durable.
func (x *exchange) recordSocket(t *tunnel) {
	in, out := t.in.Load(), t.out.Load()
	x.event.Detail.BytesIn = &in
	if t.exitCode >= 0 {
		x.event.Detail.ExitCode = &t.exitCode
	}
	if err := x.finish(http.StatusSwitchingProtocols, t.cause, &out); err != nil {
		x.p.Log.Warn("the end of a session could not be recorded in time", "request", x.id, "error", err)
	}
}

// upgradeAtRack asks the rack for the socket.
func (x *exchange) upgradeAtRack() (*http.Response, error) {
	// The handshake is bounded: the CLI gives it 45 seconds.
	ctx, cancel := context.WithTimeout(x.r.Context(), 40*time.Second)
	defer cancel()
	req := x.upgradeRequest(ctx)
	resp, err := x.p.Transport.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || !x.p.password.replaced(ctx, x.p, req.Header) {
		return resp, err
	}
	_ = resp.Body.Close() // the rack's password was changed in this very moment: the next one is shown
	if refused := x.confirm(); refused != nil {
		return nil, refused
	}
	return x.p.Transport.RoundTrip(x.upgradeRequest(ctx))
}

// upgradeRequest is the request for the socket as the rack gets it.
func (x *exchange) upgradeRequest(ctx context.Context) *http.Request {
	req := (&http.Request{
		Method: http.MethodGet, URL: x.urlForRack(), Host: x.p.RackURL.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: x.r.Header.Clone(),
	}).WithContext(ctx)
	x.keepForRack(req.Header)
	req.Header["Connection"] = []string{"Upgrade"}
	return req
}

// notUpgraded passes on a rack's refusal to open a socket.
func (x *exchange) notUpgraded(resp *http.Response) *refusal {
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusUnauthorized {
		x.p.password.refused(x.p)
		return refuse(http.StatusBadGateway, "rack-password", "the rack refused the gateway's password: tell an administrator, who must give the gateway the rack's present one")
	}
	return refuse(http.StatusBadGateway, "rack-refused-socket", "the rack refused to open this session (status %d): check the names in the command", resp.StatusCode)
}

// acceptance is the 101 for the client, with nothing that is not part of the handshake.
func acceptance(accept, protocol string) []byte {
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
	if accept != "" {
		head += "Sec-WebSocket-Accept: " + accept + "\r\n"
	}
	if protocol != "" {
		head += "Sec-WebSocket-Protocol: " + protocol + "\r\n"
	}
	return []byte(head + "\r\n")
}

// webSocketKey is the key of a handshake that the gateway can accept by itself, "" of any other.
func webSocketKey(r *http.Request) string {
	key := r.Header.Get("Sec-Websocket-Key")
	nonce, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(nonce) != 16 || r.Header.Get("Sec-Websocket-Version") != "13" {
		return ""
	}
	return key
}

// webSocketAccept is how a handshake with the key is accepted (RFC 6455 section 4.2.2).
func webSocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // #nosec G401 -- as above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// hijack takes the connection over from net/http, with what the client sent right behind its request.
func hijack(w http.ResponseWriter) (net.Conn, []byte, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early := make([]byte, buffered.Reader.Buffered())
	if _, err := io.ReadFull(buffered.Reader, early); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, early, nil
}

// speech is what the gateway may write into this socket.
func (x *exchange) speech() speech {
	switch x.match.Route.Op {
	case "ProcessExec", "InstanceShell":
		return speaksExitCode
	case "Proxy":
		return speaksNothing
	default:
		return speaksText
	}
}

// refuseSocket tells a person why a socket is refused. The CLI shows nothing of an HTTP refusal of a socket
// but "bad handshake", so it is accepted, and the reason is said inside, as a rack does it. It reports false when
// that cannot be done, and the refusal is to be sent as an HTTP answer: to browsers, and in a flood, too.
func (x *exchange) refuseSocket(r *refusal) bool {
	if x.endHeld(r) {
		return true
	}
	if r.Code == "cross-site" || r.Code == "too-many-failures" {
		return false
	}
	if x.match.Route == nil { // refused before it was known what was asked for
		match, err := x.p.routes.Match(x.r.Method, true, x.path)
		if err != nil {
			return false
		}
		x.match = match
	}
	key := webSocketKey(x.r)
	if key == "" {
		return false
	}
	speaks := x.speech()
	if speaks == speaksNothing {
		return false
	}
	client, _, err := hijack(x.w) // what it sent meanwhile is nobody's
	if err != nil {
		return errors.Is(err, http.ErrHijacked)
	}
	code := -1
	if speaks == speaksExitCode {
		code = 1
	}
	answer := acceptance(webSocketAccept(key), "")
	message := r.Message
	if r.Status >= 500 {
		message += " (request " + x.id.String() + ")"
	}
	answer = appendEnding(answer, "ERROR: "+printable(message)+"\n", code)
	_ = client.SetDeadline(time.Now().Add(lingerGrace))
	if _, err := client.Write(answer); err == nil {
		if half, ok := client.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		_, _ = io.Copy(io.Discard, client) // until the client hangs up, or the deadline
	}
	_ = client.Close()
	return true
}
