package signin

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// flow is a sign-in under way. It is kept by the browser alone, in a sealed cookie, so that a sign-in which one browser
// began cannot be ended in another.
type flow struct {
	State    string `json:"s"` // comes back with the browser
	Nonce    string `json:"n"` // comes back in the token
	Verifier string `json:"v"` // PKCE (RFC 7636): shows that the code is used by whoever asked for it
	Return   string `json:"r"` // where to go afterwards: a path of ours
	Began    int64  `json:"b"` // seconds since 1970
}

const (
	// flowCookie has the prefix that makes browsers take it from this host alone, over TLS alone (RFC 6265bis).
	flowCookie = "__Host-rgw-signin"
	flowLife   = 10 * time.Minute
	flowSeal   = "cookie"
)

func newFlow(back string, now time.Time) *flow {
	return &flow{State: random(), Nonce: random(), Verifier: oauth2.GenerateVerifier(), Return: back, Began: now.Unix()}
}

// random is 256 bits that nobody can guess.
func random() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (f *flow) ends() time.Time { return time.Unix(f.Began, 0).Add(flowLife) }

func (f *flow) hash() [sha256.Size]byte { return sha256.Sum256([]byte(f.State)) }

func (h *Handler) setFlow(w http.ResponseWriter, f *flow) error {
	text, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("keep a sign-in: %w", err)
	}
	setCookie(w, flowCookie, base64.RawURLEncoding.EncodeToString(h.flows.Seal(text, flowSeal)), int(flowLife/time.Second))
	return nil
}

func (h *Handler) clearFlow(w http.ResponseWriter) { setCookie(w, flowCookie, "", -1) }

// setCookie sets a cookie that scripts cannot read and that other sites' requests do not carry, but for a person who
// follows a link.
func setCookie(w http.ResponseWriter, name, value string, seconds int) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: seconds, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// flow reads the sign-in that this browser began.
func (h *Handler) flow(r *http.Request) (*flow, *refusal) {
	notStarted := refuse(http.StatusBadRequest, "not-started",
		"this browser has not begun to sign in, or did so more than ten minutes ago or in another window: begin again")
	cookies := r.CookiesNamed(flowCookie)
	if len(cookies) != 1 {
		return nil, notStarted
	}
	sealed, err := base64.RawURLEncoding.DecodeString(cookies[0].Value)
	if err != nil {
		return nil, notStarted
	}
	text, err := h.flows.Open(sealed, flowSeal)
	if err != nil {
		return nil, notStarted
	}
	var f flow
	if err := json.Unmarshal(text, &f); err != nil || f.State == "" || f.Nonce == "" || f.Verifier == "" {
		return nil, notStarted
	}
	if now := h.Now(); !now.Before(f.ends()) || now.Before(time.Unix(f.Began, 0).Add(-skew)) {
		return nil, notStarted
	}
	return &f, nil
}

// matches compares what came back with what was sent.
func (f *flow) matches(query url.Values) *refusal {
	if len(query["state"]) != 1 || subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(f.State)) != 1 {
		return refuse(http.StatusBadRequest, "wrong-state", "this is not the sign-in that this browser began last: begin again, in one window")
	}
	return nil
}

// returnPath is where somebody goes after signing in: a page of ours, whatever was asked for.
func returnPath(asked string) string {
	for _, c := range asked {
		if c <= ' ' || c == '\\' || c >= 0x7f {
			return consolePath
		}
	}
	u, err := url.Parse(asked)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || u.Opaque != "" || len(asked) > 1024 {
		return consolePath
	}
	path := u.EscapedPath()
	ours := strings.HasPrefix(path, consolePath) || path == "/login/u2f"
	if !ours || strings.Contains(path, "//") || strings.Contains(u.Path, "..") || strings.ContainsAny(u.Path, "\\\r\n") {
		return consolePath
	}
	return asked
}
