// What the CLI keeps between commands, how it picks a rack, and how it answers a console that asks for a session.

package convoxclient

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"rackgateway/pkg/racktest/wire"
)

// Settings are the CLI's files: console, id, current, and the maps auth and session by host. Safe for concurrent use.
type Settings struct {
	mu     sync.Mutex
	values map[string]string
	keyed  map[string]map[string]string
}

// NewSettings are those of somebody who has never logged in.
func NewSettings() *Settings {
	return &Settings{values: map[string]string{}, keyed: map[string]map[string]string{"auth": {}, "session": {}}}
}

// Get returns a setting, "" when it is not there.
func (s *Settings) Get(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[name]
}

// Set writes a setting; an empty value deletes it.
func (s *Settings) Set(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if value == "" {
		delete(s.values, name)
		return
	}
	s.values[name] = value
}

// GetKey returns an entry of a map setting.
func (s *Settings) GetKey(name, key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keyed[name][key]
}

// SetKey writes an entry of a map setting.
func (s *Settings) SetKey(name, key, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keyed[name][key] = value
}

// authenticationError marks a failure of the session exchange: it is shown even where other failures of the rack
// list are swallowed.
type authenticationError struct{ error }

var sessionChallenge = regexp.MustCompile(`^Session path="([^"]+)" token="([^"]+)"$`)

// consoleClient is a client in console mode, for one rack or, with "", for the console itself.
func (cli *CLI) consoleClient(out io.Writer, host, rack string) (*Client, error) {
	password := cli.Password
	if password == "" {
		password = cli.Settings.GetKey("auth", host)
	}
	c, err := New(fmt.Sprintf("%s://convox:%s@%s", cli.scheme(), url.QueryEscape(password), host))
	if err != nil {
		return nil, err
	}
	c.Console, c.Rack, c.Actor, c.PingEvery = true, rack, cli.Actor, cli.PingEvery
	key := c.Endpoint.Host // without the prefix that host may have
	c.Session = func() string { return cli.Settings.GetKey("session", key) }
	c.Challenge = func(ctx context.Context, c *Client, res *http.Response) (string, bool, error) {
		return cli.authenticate(ctx, out, c, res)
	}
	return c, nil
}

func (cli *CLI) scheme() string {
	if cli.AllowHTTP {
		return "http"
	}
	return "https"
}

// authenticate gets a session as the answer's header asks.
func (cli *CLI) authenticate(ctx context.Context, out io.Writer, c *Client, res *http.Response) (string, bool, error) {
	m := sessionChallenge.FindStringSubmatch(res.Header.Get("WWW-Authenticate"))
	if m == nil {
		return "", false, nil
	}
	var body []byte
	header := map[string]string{}
	if m[2] == "true" {
		asked, err := c.Stream(ctx, Call{Method: http.MethodGet, Path: m[1]})
		if err != nil {
			return "", false, err
		}
		token, err := io.ReadAll(asked.Body)
		asked.Body.Close()
		if err != nil {
			return "", false, err
		}
		io.WriteString(out, "Waiting for security token...") //nolint:errcheck // output of a test
		if body, err = cli.browser(ctx, out, c, token); err != nil {
			return "", false, authenticationError{err}
		}
		io.WriteString(out, "Done\n") //nolint:errcheck // output of a test
		header["Challenge"] = asked.Header.Get("Challenge")
	}
	var session struct {
		ID string `json:"id"`
	}
	if err := c.Do(ctx, Call{Method: http.MethodPost, Path: m[1], Header: header, Body: bytes.NewReader(body)}, &session); err != nil {
		return "", false, authenticationError{err}
	}
	if session.ID == "" {
		return "", false, errors.New("invalid session")
	}
	cli.Settings.SetKey("session", c.Endpoint.Host, session.ID)
	return session.ID, true, nil
}

// browser shows a link and waits for the page behind it to call back.
func (cli *CLI) browser(ctx context.Context, out io.Writer, c *Client, token []byte) ([]byte, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // the CLI listens on every address
	if err != nil {
		return nil, fmt.Errorf("failed to listen on port: %w", err)
	}
	got := make(chan []byte)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data := r.URL.Query().Get("data")
		raw, err := base64.StdEncoding.DecodeString(data)
		switch {
		case data == "":
			http.Error(w, "data is missing", http.StatusBadRequest)
			return
		case err != nil:
			http.Error(w, "malformed data: "+err.Error(), http.StatusBadRequest)
			return
		}
		io.WriteString(w, "you may now close the window") //nolint:errcheck // the browser is gone, then
		select {
		case got <- raw:
		case <-ctx.Done():
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(ln) //nolint:errcheck // it ends with ErrServerClosed
	}()
	defer func() {
		cancel()
		srv.Close() //nolint:errcheck // it is done with
		<-served
	}()

	// The endpoint's path prefix is not part of the link.
	link := url.URL{Scheme: c.Endpoint.Scheme, Host: c.Endpoint.Host, Path: "/login/u2f"}
	q := url.Values{}
	q.Set("token", base64.StdEncoding.EncodeToString(token))
	q.Set("callback_url", fmt.Sprintf("http://localhost:%d", ln.Addr().(*net.TCPAddr).Port))
	link.RawQuery = q.Encode()
	fmt.Fprintf(out, "\nOpen this link in your browser to complete the authentication:\n%s \n", link.String())
	opened := make(chan error, 1)
	if cli.Browser != nil {
		go func() { opened <- cli.Browser(ctx, link.String()) }()
	}
	for {
		select {
		case body := <-got:
			return body, nil
		case err := <-opened:
			if err != nil {
				return nil, fmt.Errorf("the browser: %w", err)
			}
		case <-ctx.Done():
			return nil, errors.New("callback server timeout")
		}
	}
}

// racks lists what the console has. Failures are swallowed unless they are about the session or the token's expiry.
func (cli *CLI) racks(ctx context.Context, out io.Writer) ([]wire.ConsoleRack, error) {
	host := cli.console()
	if host == "" {
		return nil, nil
	}
	c, err := cli.consoleClient(out, host, "")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var list []wire.ConsoleRack
	err = c.Get(ctx, "/racks", nil, &list)
	var auth authenticationError
	switch {
	case err == nil:
	case errors.As(err, &auth), strings.Contains(err.Error(), "cli token is expired"):
		return nil, err
	default:
		return nil, nil
	}
	slices.SortFunc(list, func(a, b wire.ConsoleRack) int { return strings.Compare(rackName(a), rackName(b)) })
	return list, nil
}

func rackName(r wire.ConsoleRack) string { return r.Organization.Name + "/" + r.Name }

func (cli *CLI) console() string {
	if cli.Host != "" {
		return cli.Host
	}
	return cli.Settings.Get("console")
}

// matchRack finds a rack by its name or a part of it.
func (cli *CLI) matchRack(ctx context.Context, out io.Writer, name string) (string, error) {
	list, err := cli.racks(ctx, out)
	if err != nil {
		return "", err
	}
	var found []string
	for _, r := range list {
		switch n := rackName(r); {
		case n == name:
			return n, nil
		case strings.Contains(n, name):
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("could not find rack: %s", name)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("ambiguous rack name: %s", name)
}

// current picks the rack of a command, and makes a client for it.
func (cli *CLI) current(ctx context.Context, out io.Writer, flag string) (*Client, string, error) {
	if strings.TrimSpace(cli.RackURL) != "" {
		c, err := New(cli.RackURL)
		if err != nil {
			return nil, "", err
		}
		c.Actor, c.PingEvery = cli.Actor, cli.PingEvery
		return c, "direct", nil
	}
	name := flag
	if name == "" {
		name = cli.Rack
	}
	if name == "" {
		name = cli.Settings.Get("rack")
	}
	var err error
	if name != "" {
		name, err = cli.matchRack(ctx, out, name)
	} else {
		name, err = cli.switched(ctx, out)
	}
	if err != nil {
		return nil, "", err
	}
	c, err := cli.consoleClient(out, cli.console(), name)
	return c, name, err
}

// switched is the rack that switch has chosen, if the console still has it.
func (cli *CLI) switched(ctx context.Context, out io.Writer) (string, error) {
	var current struct{ Name, Type string }
	data := cli.Settings.Get("current")
	if data == "" {
		return "", errors.New("no current rack, use `convox racks` to list and `convox switch <name>` to select")
	}
	if err := json.Unmarshal([]byte(data), &current); err != nil {
		return "", err
	}
	list, err := cli.racks(ctx, out)
	if err != nil {
		return "", err
	}
	for _, r := range list {
		if rackName(r) == current.Name {
			return current.Name, nil
		}
	}
	return "", fmt.Errorf("no such console rack: %s", current.Name)
}
