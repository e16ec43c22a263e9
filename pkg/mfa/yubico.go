package mfa

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" // #nosec G505 -- version 2 of the protocol signs with HMAC-SHA1
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"rackgateway/pkg/directory"
	"rackgateway/pkg/secret"
)

// Yubico asks a validation server about one-time passwords of YubiKeys, by version 2 of Yubico's validation protocol.
// Requests and answers are signed with the key that belongs to the client id, and an answer counts only when it is
// signed, about this very password, and in reply to this very question.
type Yubico struct {
	URL      *url.URL // of the verify call
	ClientID string
	Key      secret.Bytes
	Client   *http.Client // nil for one with a limit of five seconds
}

// errNotValid says that the server, or the form of it, tells that a password is not good. Any other error is of the
// server, or of the way to it, and no fault of whoever touched the key.
var errNotValid = errors.New("the one-time password is not valid")

// otpForm is the form of a one-time password: up to 16 letters that name the key, and 32 that are encrypted, in the
// alphabet that all keyboards have in the same places.
var otpForm = regexp.MustCompile(`^[cbdefghijklnrtuv]{44}$`)

// verify returns the public identity of the key that made the password, when the server vouches for it.
func (y *Yubico) verify(ctx context.Context, otp string) (identity string, err error) {
	if y == nil {
		return "", errNotValid
	}
	otp = strings.ToLower(strings.TrimSpace(otp))
	if !otpForm.MatchString(otp) {
		return "", errNotValid
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails, by its documentation
	nonce := hex.EncodeToString(random[:])
	ask := map[string]string{"id": y.ClientID, "nonce": nonce, "otp": otp, "timestamp": "1"}
	query := url.Values{}
	for name, value := range ask {
		query.Set(name, value)
	}
	query.Set("h", y.sign(ask))
	address := *y.URL
	address.RawQuery = query.Encode()

	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return "", err
	}
	client := y.Client
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("ask the validation server: %w", errors.Unwrap(err)) // its text holds the address, and so the password
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 16<<10))
	if err != nil {
		return "", fmt.Errorf("read the validation server's answer: %w", err)
	}
	answer := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		if _, twice := answer[name]; twice {
			return "", errors.New("the validation server's answer says something twice")
		}
		answer[name] = value
	}
	signature := answer["h"]
	delete(answer, "h")
	switch {
	case !hmac.Equal([]byte(signature), []byte(y.sign(answer))):
		return "", errors.New("the validation server's answer is not signed with our key")
	case answer["status"] == "BAD_OTP", answer["status"] == "REPLAYED_OTP":
		return "", errNotValid
	case answer["status"] != "OK":
		return "", fmt.Errorf("the validation server says %.40q", answer["status"])
	case answer["nonce"] != nonce || answer["otp"] != otp:
		return "", errors.New("the validation server's answer is to another question")
	}
	return otp[:12], nil
}

// yubicoSilent is the answer when nobody can say whether a password is good; nil when that was said. It counts against
// nobody.
func yubicoSilent(err error) *directory.Error {
	if err == nil || errors.Is(err, errNotValid) {
		return nil
	}
	return refused("yubico-unavailable", "the validation server for YubiKeys cannot be asked at present: try again in a minute, or give another factor; and tell an administrator if it goes on")
}

// sign is the signature of parameters: HMAC-SHA1 over them in alphabetical order.
func (y *Yubico) sign(params map[string]string) string {
	pairs := make([]string, 0, len(params))
	for _, name := range slices.Sorted(maps.Keys(params)) {
		pairs = append(pairs, name+"="+params[name])
	}
	mac := hmac.New(sha1.New, y.Key.Reveal())
	_, _ = io.WriteString(mac, strings.Join(pairs, "&"))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
