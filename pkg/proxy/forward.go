package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/rack"
	"rackgateway/pkg/upstream"
)

// baseHeaders are the request headers that go to the rack on every route; with the options of the route
// they are all that does. An allow-list: nothing that a client adds can name an actor, stand in for a
// form field, or change what was authorised.
var baseHeaders = []string{"Accept", "Accept-Encoding", "Content-Type", "User-Agent", "Version"}

// socketHeaders complete a WebSocket handshake. Origin is left out: the rack compares it with a host
// name that is not ours. Extensions are left out: they would change what frames mean.
var socketHeaders = []string{"Connection", "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Protocol"}

// keepForRack takes off what the rack must not see of a client's headers, and says who is asking.
func (x *exchange) keepForRack(h http.Header) {
	for name := range h {
		if !slices.Contains(baseHeaders, name) && !x.match.Route.HasHeader(name) && !(x.socket && slices.Contains(socketHeaders, name)) {
			delete(h, name)
		}
	}
	if x.rewritesAnswer() {
		h["Accept-Encoding"] = identityEncoding
	}
	h["Convox-Actor"] = []string{headerText(rackActor(x.principal))}
	x.p.password.use(h)
}

// rackActor is whom the rack's own events name: a person by their address; a pipeline in a way that no address
// looks like, whatever its token is called.
func rackActor(p *access.Principal) string {
	if p.Kind == access.KindAPIToken {
		return "token:" + p.TokenName + " (" + p.UserLabel + ")"
	}
	return p.UserLabel
}

var identityEncoding = []string{"identity"}

// headerText makes a label fit for a header: a token's name may hold anything printable.
func headerText(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
}

// urlForRack is where the request goes: the path that was authorised, and the query as it came.
func (x *exchange) urlForRack() *url.URL {
	return x.p.rackURL(x.match.Path, x.r.URL.RawQuery, x.r.URL.ForceQuery)
}

func (p *Proxy) rackURL(escapedPath, rawQuery string, forceQuery bool) *url.URL {
	escaped := strings.TrimSuffix(p.RackURL.EscapedPath(), "/") + escapedPath
	plain, err := url.PathUnescape(escaped)
	if err != nil { // rack.Match made it
		plain = escaped
	}
	return &url.URL{
		Scheme: p.RackURL.Scheme, Host: p.RackURL.Host,
		Path: plain, RawPath: escaped, RawQuery: rawQuery, ForceQuery: forceQuery,
	}
}

// forward carries a request that is not a socket to the rack and its answer back.
func (x *exchange) forward() *refusal {
	if x.match.Route.Body == rack.FormBody && !x.hasForm {
		return refuse(http.StatusInternalServerError, "internal", "the gateway did not read the options of this request, and so did not pass it on: tell an administrator")
	}
	if refused := x.p.password.ready(x); refused != nil {
		return refused
	}
	if x.match.Route.LongRead {
		stop, refused := x.endWithAccess()
		if refused != nil {
			return refused
		}
		defer stop()
	}
	var body *watchedBody
	told := false // the refusal was sent, and what the client still sends was taken
	reverse := httputil.ReverseProxy{
		Transport:  asking{x, x.r.Context()},
		BufferPool: &x.p.buffers,
		ErrorLog:   silent,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL = x.urlForRack()
			pr.Out.Host = x.p.RackURL.Host
			x.keepForRack(pr.Out.Header)
			if x.hasForm {
				pr.Out.Body = io.NopCloser(bytes.NewReader(x.form))
				pr.Out.ContentLength = int64(len(x.form))
				pr.Out.TransferEncoding = nil
			}
			if x.upload != nil && pr.Out.Body != nil {
				x.upload.ReadCloser, pr.Out.Body = pr.Out.Body, x.upload
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			var err error
			body, err = x.answered(resp)
			return err
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			told = true
			x.refuse(x.notAnswered(err))
		},
	}
	if x.match.Route.Body == rack.StreamBody {
		x.upload = &countedBody{}
		x.fullDuplex()
		defer func() {
			if !told {
				x.linger()
			}
		}()
	}
	defer func() {
		if body != nil {
			x.afterBody(body)
		}
	}()
	reverse.ServeHTTP(x.w, x.r)
	return nil
}

// endWithAccess has a download end when the access that allowed it does: it may go on for as long as a session.
func (x *exchange) endWithAccess() (stop func(), refused *refusal) {
	ctx, cancel := context.WithCancelCause(x.r.Context())
	control := http.NewResponseController(x.w)
	detach, current := x.entry.Attach(func(reason string) {
		cancel(&accessEndedError{reason})
		_ = control.SetWriteDeadline(time.Now().Add(lingerGrace)) // a client that does not read is not waited for
	})
	if !current {
		cancel(nil)
		return nil, refuse(http.StatusUnauthorized, "access-changed", "your access was changed while this request waited: run the command again")
	}
	x.r = x.r.WithContext(ctx)
	return func() { detach(); cancel(nil) }, nil
}

// An accessEndedError is why a download was ended before its time.
type accessEndedError struct{ reason string } // a sentence for the person

func (e *accessEndedError) Error() string { return e.reason }

// accessEnded returns why the request was ended before its time, "" when it was not.
func (x *exchange) accessEnded() string {
	var ended *accessEndedError
	if errors.As(context.Cause(x.r.Context()), &ended) {
		return ended.reason
	}
	return ""
}

// asking asks the rack, without passing on its early hints (1xx): they would leave before the record. When the rack's
// password was changed in this very moment, it asks once more, with the next one.
type asking struct {
	x     *exchange
	plain context.Context // of the request, without the trace that ReverseProxy adds
}

func (t asking) RoundTrip(r *http.Request) (*http.Response, error) {
	x := t.x
	resp, err := x.p.Transport.RoundTrip(r.WithContext(t.plain))
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	whole := x.hasForm || r.Body == nil || r.Body == http.NoBody // and so can be sent again
	if !whole || !x.p.password.replaced(t.plain, x.p, r.Header) {
		return resp, nil
	}
	_ = resp.Body.Close()                       // what a refusal says is of no use
	if refused := x.confirm(); refused != nil { // rights may have changed while it was found out
		return nil, refused
	}
	again := r.Clone(t.plain)
	x.p.password.use(again.Header)
	if x.hasForm {
		again.Body = io.NopCloser(bytes.NewReader(x.form))
	}
	return x.p.Transport.RoundTrip(again)
}

// answered runs when the rack's status and headers are known and nothing has gone to the client. What it
// returns as an error is sent in place of the answer.
func (x *exchange) answered(resp *http.Response) (*watchedBody, error) {
	h := resp.Header
	delete(h, "Set-Cookie")
	delete(h, "Content-Security-Policy") // ours stand in the answer already, and the rack's would be added
	delete(h, "X-Content-Type-Options")
	if resp.StatusCode == http.StatusUnauthorized {
		x.p.password.refused(x.p)
		return nil, refuse(http.StatusBadGateway, "rack-password", "the rack refused the gateway's password: tell an administrator, who must give the gateway the rack's present one")
	}
	h["Gateway-Request-Id"] = []string{x.id.String()}
	if x.bodyLeft() {
		h["Connection"] = closing
	}

	if x.rewritesAnswer() && resp.StatusCode < 300 && resp.StatusCode != http.StatusNoContent && x.r.Method != http.MethodHead {
		if err := x.rewriteAnswer(resp); err != nil {
			return nil, err
		}
	}
	if x.match.Route.Op == opProcessRun && resp.StatusCode < 300 {
		if err := x.noteProcess(resp); err != nil {
			return nil, err
		}
	}
	if x.match.Route.LongRead {
		// Its started event is durable; the outcome is known when the body has ended.
		body := watch(resp.Body)
		body.status = resp.StatusCode
		resp.Body = body
		return body, nil
	}

	length, err := holdBack(resp, x.r.Method)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCutAnswer, err)
	}
	x.resumePatience()
	if err := x.finish(resp.StatusCode, "", length); err != nil {
		if x.recorded {
			return nil, unknownOutcome(err)
		}
		return nil, unavailable("could not record this request in time", err)
	}
	if resp.Body == http.NoBody || x.r.Method == http.MethodHead {
		return nil, nil
	}
	body := watch(resp.Body)
	resp.Body = body
	return body, nil
}

// errCutAnswer says that the rack's answer broke off while it was being held back.
var errCutAnswer = errors.New("the rack's answer broke off")

// notAnswered is the refusal for a request to which the rack gave no answer that can be passed on.
func (x *exchange) notAnswered(err error) *refusal {
	x.resumePatience()
	var refused *refusal
	if errors.As(err, &refused) {
		return refused
	}
	next := "try again, and tell an administrator if it goes on"
	var failed *upstream.Error
	known := errors.As(err, &failed)
	if x.recorded && !(known && !failed.Sent) {
		next = "it may have been done: check before you repeat it"
	}
	switch {
	case x.accessEnded() != "":
		return refuse(http.StatusUnauthorized, "access-changed", "%s", x.accessEnded())
	case x.r.Context().Err() != nil && x.upload != nil && x.upload.failed.Load():
		return refuse(statusHungUp, "body-cut", "the client hung up before it had sent all, so that the body of this request broke off: %s", next).because(err)
	case x.r.Context().Err() != nil:
		return refuse(statusHungUp, "client-hung-up", "the client hung up before the rack answered: %s", next).because(err)
	case x.upload != nil && x.upload.failed.Load():
		return refuse(http.StatusBadRequest, "body-cut", "the body of this request broke off or was not well formed: %s", next).because(err)
	case errors.Is(err, context.DeadlineExceeded), known && failed.Timeout():
		return refuse(http.StatusGatewayTimeout, "rack-timeout", "the rack could not be reached in time: %s", next).because(err)
	default:
		return refuse(http.StatusBadGateway, "rack-failed", "the rack could not be reached or did not answer properly: %s", next).because(err)
	}
}

// statusHungUp is what is recorded when there was nobody left to answer (nginx's code for it).
const statusHungUp = 499

// afterBody runs when the body has been passed on, or has broken off.
func (x *exchange) afterBody(b *watchedBody) {
	if x.match.Route.LongRead {
		n := b.n
		x.renewPatience()
		phase, trouble := audit.PhaseFinished, ""
		if !b.ended {
			phase, trouble = audit.PhaseCut, orElse(x.accessEnded(), b.why())
		}
		if err := x.record(x.outcome(phase, b.status, trouble, &n)); err != nil {
			x.p.Log.Warn("the end of a download could not be recorded in time", "request", x.id, "error", err)
		}
		return
	}
	if b.ended {
		return
	}
	n := b.n
	e := x.newEvent(audit.PhaseCut)
	e.Detail.Error = b.why()
	e.Detail.BytesOut = &n
	e.Detail.Duration = since(x.started, e.OccurredAt)
	if _, err := x.p.Audit.Enqueue(e); err != nil {
		x.p.Log.Warn("a cut answer could not be recorded", "request", x.id, "error", err)
	}
}

// fullDuplex lets an answer go out while the client is still sending: without it, net/http reads on first.
func (x *exchange) fullDuplex() {
	if x.r.ContentLength != 0 {
		_ = http.NewResponseController(x.w).EnableFullDuplex() // HTTP/1 always can
	}
}

const (
	lingerBytes = 1 << 30
	lingerTime  = 5 * time.Second
)

// closing is the Connection header of an answer that is the last on its connection.
var closing = []string{"close"}

// bodyLeft reports whether the client may not have sent its whole body yet. What comes of it after the answer must
// never be taken for another request, so that the answer has to end the connection.
func (x *exchange) bodyLeft() bool {
	switch {
	case x.r.ContentLength == 0 || x.r.Body == nil:
		return false
	case x.upload != nil:
		return !x.upload.ended.Load()
	default:
		return x.form == nil
	}
}

// linger takes what a client is still sending when it has been answered already, for a while: closing the
// connection at once would reset it, and the client might never see the answer.
func (x *exchange) linger() {
	if !x.bodyLeft() {
		return
	}
	control := http.NewResponseController(x.w)
	if control.Flush() != nil || control.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, x.r.Body, lingerBytes); errors.Is(err, io.EOF) {
		_ = control.SetReadDeadline(time.Time{})
		return
	}
	// A client that is gone, too slow or too long. net/http would wait for the rest of the body without end.
	_ = control.SetReadDeadline(time.Unix(1, 0))
}

// A countedBody counts what a client uploads.
type countedBody struct {
	io.ReadCloser
	n      atomic.Int64 // read by the transport's goroutine, asked for by the request's
	failed atomic.Bool  // the client broke off, or sent what is no body
	ended  atomic.Bool  // all of it has come
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	switch {
	case err == io.EOF:
		b.ended.Store(true)
	case err != nil:
		b.failed.Store(true)
	}
	return n, err
}

// A watchedBody notes whether an answer was passed on whole.
type watchedBody struct {
	io.ReadCloser
	n      int64
	ended  bool
	failed error
	status int // the rack's, for the outcome of a long read
}

func watch(body io.ReadCloser) *watchedBody {
	return &watchedBody{ReadCloser: body}
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	switch {
	case err == io.EOF:
		b.ended = true
	case err != nil:
		b.failed = err
	}
	return n, err
}

func (b *watchedBody) why() string {
	if b.failed != nil {
		return "the rack's answer broke off"
	}
	return "the client hung up"
}

// heldBack is how much of an answer without a length is held back, so that its length can be recorded.
const heldBack = 64 << 10

// holdBack finds out the length of a short answer. The length is nil when it is not known.
func holdBack(resp *http.Response, method string) (*int64, error) {
	if resp.ContentLength >= 0 || method == http.MethodHead {
		n := max(resp.ContentLength, 0)
		return &n, nil
	}
	if len(resp.Trailer) > 0 {
		return nil, nil
	}
	start, err := io.ReadAll(io.LimitReader(resp.Body, heldBack))
	if err != nil {
		return nil, err
	}
	if len(start) == heldBack {
		resp.Body = &rejoined{io.MultiReader(bytes.NewReader(start), resp.Body), resp.Body}
		return nil, nil
	}
	if err := resp.Body.Close(); err != nil {
		return nil, err
	}
	setBody(resp, start)
	n := int64(len(start))
	return &n, nil
}

func setBody(resp *http.Response, body []byte) {
	setBodyReader(resp, io.NopCloser(bytes.NewReader(body)), len(body))
}

func setBodyReader(resp *http.Response, body io.ReadCloser, length int) {
	resp.Body = body
	resp.ContentLength = int64(length)
	resp.TransferEncoding = nil
	resp.Header["Content-Length"] = []string{strconv.Itoa(length)}
}

type rejoined struct {
	io.Reader
	io.Closer
}

// rewritesAnswer reports whether the answer is changed for this principal: secrets masked, apps out of
// scope left out.
func (x *exchange) rewritesAnswer() bool {
	op := x.match.Route.Op
	return (rack.NeedsMask(op) && !x.seesSecrets()) || (x.rule.AppFrom == access.AppFilter && !access.AllApps(x.principal, x.rule.Permission))
}

func (x *exchange) seesSecrets() bool {
	if x.app == "" {
		return access.AllApps(x.principal, access.PermSecretRead)
	}
	return access.AppInScope(x.principal, access.PermSecretRead, x.app)
}

// rewriteAnswer masks. It fails closed: what cannot be parsed is not passed on.
func (x *exchange) rewriteAnswer(resp *http.Response) error {
	garbled := func(err error) *refusal {
		return refuse(http.StatusBadGateway, "rack-garbled", "the rack's answer could not be read, and so its secrets could not be masked: try again, and tell an administrator if it goes on").because(err)
	}
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return garbled(fmt.Errorf("content encoding %q was not asked for", coding))
	}
	options := rack.MaskOptions{ClearSecrets: x.seesSecrets()}
	if x.rule.AppFrom == access.AppFilter {
		options.Apps = func(app string) bool { return access.AppInScope(x.principal, x.rule.Permission, app) }
		// Secrets are clear per app; the list is masked unless all are.
	}
	lent := x.p.masking.lend()
	rest, whole, err := lent.fill(resp)
	if err != nil {
		x.p.masking.giveBack(lent)
		return fmt.Errorf("%w: %w", errCutAnswer, err)
	}
	if whole {
		_ = rest.Close()
		lent.masked, err = rack.MaskBytes(x.match.Route.Op, lent.masked[:0], lent.raw, options)
		if err != nil {
			x.p.masking.giveBack(lent)
			return garbled(err)
		}
		setBodyReader(resp, lent.body(), len(lent.masked))
		return nil
	}
	// A long answer is masked as it passes; its first part is held back, so that garbage is found out
	// before anything goes to the client, and what is found later cuts the answer off.
	masked, into := io.Pipe()
	go func() {
		err := rack.MaskJSON(x.match.Route.Op, into, io.MultiReader(bytes.NewReader(lent.raw), rest), options)
		x.p.masking.giveBack(lent)
		_ = rest.Close()
		_ = into.CloseWithError(err)
	}()
	var start bytes.Buffer
	_, err = io.CopyN(&start, masked, heldBack)
	switch {
	case err == nil:
		resp.Body = &rejoined{io.MultiReader(&start, masked), masked}
		resp.ContentLength = -1
		resp.Header.Del("Content-Length")
	case errors.Is(err, io.EOF):
		setBody(resp, start.Bytes())
	default:
		_ = masked.CloseWithError(err)
		return garbled(err)
	}
	return nil
}

// bufferPool lends the buffers that bodies are copied through.
type bufferPool struct{ pool sync.Pool }

const copyBuffer = 32 << 10

func (b *bufferPool) Get() []byte {
	if v, ok := b.pool.Get().(*[]byte); ok {
		return *v
	}
	return make([]byte, copyBuffer)
}

func (b *bufferPool) Put(buf []byte) { b.pool.Put(&buf) }

// silent takes ReverseProxy's own log lines, which say what our records and metrics say already.
var silent = log.New(io.Discard, "", 0)
