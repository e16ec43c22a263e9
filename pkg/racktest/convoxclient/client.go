// Package convoxclient speaks to a rack, or to a gateway, as the stock convox CLI (3.24) does, byte for byte where
// bytes matter: REST with a trailing question mark, its headers, preflights before sockets, stdin in chunks,
// exit codes, tar archives, the console's rack header and session hook. Tests run the same commands through
// it against a rack directly and through a gateway, and compare.
//
// Client is the protocol. CLI is the commands on top of it, with the CLI's settings, output and exit codes.
// Nothing here is shared with the rack but the wire shapes and the framing.
package convoxclient

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Client talks to one endpoint. It is safe for concurrent use once it is set up.
type Client struct {
	// Endpoint is the address with credentials, as in RACK_URL. A path is a prefix of every request's.
	Endpoint *url.URL
	// Console adds the headers of console mode: Session always, Rack when it is not empty.
	Console bool
	Rack    string
	// Actor is what the variable CONVOX_ACTOR makes the CLI send.
	Actor string
	// Session and SaveSession keep the console session; Challenge is asked when a session is wanted. See
	// CLI for the usual ones. A nil Challenge leaves a 401 as the error it is.
	Session   func() string
	Challenge func(ctx context.Context, c *Client, res *http.Response) (session string, handled bool, err error)
	// PingEvery is how often sockets ping; zero means the CLI's 5 s.
	PingEvery time.Duration

	http *http.Client
}

// New makes a client for an endpoint such as https://convox:TOKEN@host/prefix.
func New(endpoint string) (*Client, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	return &Client{Endpoint: u, http: newHTTPClient()}, nil
}

// newHTTPClient has the CLI's own transport: HTTP/1.1 only, any certificate, no proxy, no deadline of its own.
func newHTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 10 * time.Second}).DialContext,
		MaxIdleConns:          100,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: true},
	}}
}

// Close drops idle connections, as the end of a CLI process does.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call is one REST request. Form and Body exclude each other.
type Call struct {
	Method, Path string
	Query        url.Values
	Form         url.Values
	Header       map[string]string
	Body         io.Reader
	// Size is the length of Body: -1 sends it chunked, as the CLI does with files. Bytes and strings readers
	// know their length.
	Size int64
	// Again returns Body once more from its beginning, for what the CLI holds in memory. It may be nil.
	Again func() (io.ReadCloser, error)
}

// headers are on every request, sockets included.
func (c *Client) headers() http.Header {
	h := http.Header{}
	if c.Actor != "" {
		h.Set("X-Convox-Actor", c.Actor)
	}
	h.Set("User-Agent", "convox.go/dev")
	h.Set("Version", "dev")
	if c.Endpoint.User != nil {
		// The user info as it is written in the URL, percent escapes and all.
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.Endpoint.User.String())))
	}
	if c.Rack != "" {
		h.Set("Rack", c.Rack)
	}
	if c.Console {
		session := ""
		if c.Session != nil {
			session = c.Session()
		}
		h.Set("Session", session) // sent even when it is empty
	}
	return h
}

func (c *Client) request(ctx context.Context, call Call) (*http.Request, error) {
	body, kind := call.Body, "application/octet-stream"
	if len(call.Form) > 0 {
		body, kind = strings.NewReader(call.Form.Encode()), "application/x-www-form-urlencoded"
	}
	// The path goes out as it is; the question mark is always there.
	target := fmt.Sprintf("%s://%s%s%s?%s", c.Endpoint.Scheme, c.Endpoint.Host, c.Endpoint.Path, call.Path, call.Query.Encode())
	req, err := http.NewRequestWithContext(ctx, call.Method, target, body)
	if err != nil {
		return nil, err
	}
	if body != nil && req.ContentLength == 0 && call.Size != 0 {
		req.ContentLength = call.Size
	}
	if call.Again != nil {
		req.GetBody = call.Again
	}
	req.Header.Set("Accept", "*/*")
	req.Header.Set("Content-Type", kind)
	for k, v := range c.headers() {
		req.Header[k] = v
	}
	for k, v := range call.Header {
		req.Header.Set(k, v)
	}
	return req, nil
}

// Stream sends a request and returns an answer below 400, whose body the caller closes.
func (c *Client) Stream(ctx context.Context, call Call) (*http.Response, error) {
	req, err := c.request(ctx, call)
	if err != nil {
		return nil, err
	}
	return c.send(req)
}

func (c *Client) send(req *http.Request) (*http.Response, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusUnauthorized && c.Challenge != nil {
		session, handled, err := c.Challenge(req.Context(), c, res)
		if err != nil {
			res.Body.Close()
			return nil, err
		}
		if handled {
			res.Body.Close()
			req.Header.Set("Session", session)
			if req.GetBody != nil {
				if req.Body, err = req.GetBody(); err != nil {
					return nil, err
				}
			}
			// The same request once more, as the CLI does: a form or an upload from memory is rewound by net/http,
			// what is left of a file is sent otherwise.
			return c.send(req)
		}
	}
	if res.StatusCode >= http.StatusBadRequest {
		defer res.Body.Close()
		return nil, answerError(res)
	}
	return res, nil
}

// Error is a refusal by the other side, in the words that the CLI prints.
type Error struct {
	Status int
	Text   string
}

func (e *Error) Error() string { return e.Text }

// answerError reads an error as the CLI does: a JSON string field error, else the body, else the status. The
// text is then used as a format string, which is why a percent sign comes out mangled.
func answerError(res *http.Response) error {
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	var e struct{ Error string }
	text := fmt.Sprintf("response status %d", res.StatusCode)
	if err := json.Unmarshal(data, &e); err == nil && e.Error != "" {
		text = format(e.Error)
	} else if msg := strings.TrimSpace(string(data)); msg != "" {
		text = format(msg)
	}
	return &Error{Status: res.StatusCode, Text: text}
}

func format(s string) string {
	var none []any
	return fmt.Sprintf(s, none...)
}

// Do sends a request and decodes its JSON answer into out, unless out is nil.
func (c *Client) Do(ctx context.Context, call Call, out any) error {
	res, err := c.Stream(ctx, call)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		return nil
	}
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, out)
}

// Get is Do with a GET.
func (c *Client) Get(ctx context.Context, path string, query url.Values, out any) error {
	return c.Do(ctx, Call{Method: http.MethodGet, Path: path, Query: query}, out)
}

// Post is Do with a POST of a form.
func (c *Client) Post(ctx context.Context, path string, form url.Values, out any) error {
	return c.Do(ctx, Call{Method: http.MethodPost, Path: path, Form: form}, out)
}

// Put is Do with a PUT of a form.
func (c *Client) Put(ctx context.Context, path string, form url.Values, out any) error {
	return c.Do(ctx, Call{Method: http.MethodPut, Path: path, Form: form}, out)
}

// Delete is Do with a DELETE.
func (c *Client) Delete(ctx context.Context, path string) error {
	return c.Do(ctx, Call{Method: http.MethodDelete, Path: path}, nil)
}

// Upload sends size bytes of body without holding them, or an unknown number when size is -1.
func (c *Client) Upload(ctx context.Context, method, path string, query url.Values, body io.Reader, size int64, out any) error {
	// A plain reader keeps net/http from learning the length behind our back.
	call := Call{Method: method, Path: path, Query: query, Body: struct{ io.Reader }{body}, Size: size}
	if file, ok := body.(io.ReadSeeker); ok && size >= 0 { // the CLI has it in memory
		call.Again = func() (io.ReadCloser, error) {
			_, err := file.Seek(0, io.SeekStart)
			return io.NopCloser(file), err
		}
	}
	return c.Do(ctx, call, out)
}

// Download copies an answer's body to w.
func (c *Client) Download(ctx context.Context, path string, query url.Values, w io.Writer) error {
	res, err := c.Stream(ctx, Call{Method: http.MethodGet, Path: path, Query: query})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(w, res.Body)
	return err
}

var errBadHandshake = errors.New("websocket: bad handshake")
