// Who is asking: HTTP Basic with the rack's password, or user name jwt with a token that the rack signed.

package racktest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"
)

const (
	roleRead      = "r"
	roleReadWrite = "rw"
	roleAdmin     = "rwa"
)

// maxTokenHours is the longest life of a minted token: a year.
const maxTokenHours = 8760

// claims are what a token says. ExpiresAt is in Unix seconds.
type claims struct {
	ExpiresAt int64  `json:"expiresAt"`
	Role      string `json:"role"`
	User      string `json:"user"`
}

func newJWTKey() []byte {
	var b [16]byte
	rand.Read(b[:])
	return []byte(hex.EncodeToString(b[:]))
}

// SetPassword changes the rack's password, at once. Processes and builds that were made before keep showing the one before,
// as those of a real rack do.
func (r *Rack) SetPassword(password string) { r.renewed.Store(&password) }

func (r *Rack) password() string {
	if renewed := r.renewed.Load(); renewed != nil {
		return *renewed
	}
	return r.opts.Password
}

// authenticate fills in the caller's role and name, or says why not.
func (c *call) authenticate() error {
	user, password, _ := c.r.BasicAuth()
	if user == "jwt" {
		cl, err := c.rack.verify(password)
		if err != nil {
			return fail(http.StatusUnauthorized, "invalid authentication: %s", err)
		}
		c.role, c.user = cl.Role, cl.User
		return nil
	}
	if want := c.rack.password(); want != "" && subtle.ConstantTimeCompare([]byte(want), []byte(password)) != 1 {
		c.w.Header().Set("WWW-Authenticate", `Basic realm="convox"`)
		return fail(http.StatusUnauthorized, "invalid authentication")
	}
	c.role = roleAdmin
	c.user = "rack-password"
	for _, h := range []string{"Convox-Actor", "X-Convox-Actor"} {
		if actor := cleanActor(c.r.Header.Get(h)); actor != "" {
			c.user = actor
			break
		}
	}
	return nil
}

// authorize asks for r on GET, and so on every socket, and for w on everything else, HEAD and OPTIONS included.
// The refusal is a 401.
func (c *call) authorize() error {
	need := "w"
	if c.r.Method == http.MethodGet {
		need = "r"
	}
	if !c.can(need) {
		return fail(http.StatusUnauthorized, "you are unauthorized to access this")
	}
	return nil
}

// cleanActor strips control characters from an actor and cuts it at 256 runes.
func cleanActor(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s))
	if r := []rune(s); len(r) > 256 {
		s = string(r[:256])
	}
	return s
}

// Mint signs a token with a role: r, rw or rwa. A negative life makes an expired one.
func (r *Rack) Mint(user, role string, life time.Duration) string {
	r.mu.Lock()
	key := r.jwtKey
	r.mu.Unlock()
	payload, _ := json.Marshal(claims{ExpiresAt: r.now().Add(life).Unix(), Role: role, User: user}) //nolint:errchkjson // plain strings
	signed := b64([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + b64(payload)
	return signed + "." + b64(sign(key, signed))
}

func (r *Rack) verify(token string) (claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}, errors.New("token contains an invalid number of segments")
	}
	var head struct {
		Alg string `json:"alg"`
	}
	if data, err := base64.RawURLEncoding.DecodeString(parts[0]); err != nil || json.Unmarshal(data, &head) != nil {
		return claims{}, errors.New("token is malformed")
	}
	if head.Alg != "HS256" {
		return claims{}, errors.New("unexpected signing method: " + head.Alg)
	}
	mac, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return claims{}, errors.New("token is malformed")
	}
	r.mu.Lock()
	key := r.jwtKey
	r.mu.Unlock()
	if !hmac.Equal(mac, sign(key, parts[0]+"."+parts[1])) {
		return claims{}, errors.New("signature is invalid")
	}
	var cl struct {
		ExpiresAt *float64 `json:"expiresAt"`
		Role      *string  `json:"role"`
		User      *string  `json:"user"`
	}
	if data, err := base64.RawURLEncoding.DecodeString(parts[1]); err != nil || json.Unmarshal(data, &cl) != nil {
		return claims{}, errors.New("token is malformed")
	}
	switch {
	case cl.User == nil:
		return claims{}, errors.New("invalid token: user claim missing or wrong type")
	case cl.Role == nil:
		return claims{}, errors.New("invalid token: role claim missing or wrong type")
	case cl.ExpiresAt == nil:
		return claims{}, errors.New("invalid token: expiresAt claim missing or wrong type")
	case time.Unix(int64(*cl.ExpiresAt), 0).Before(r.now()):
		return claims{}, errors.New("token is expired")
	}
	return claims{ExpiresAt: int64(*cl.ExpiresAt), Role: *cl.Role, User: *cl.User}, nil
}

func sign(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}

func b64(p []byte) string { return base64.RawURLEncoding.EncodeToString(p) }
