package signin

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page and its style
	"encoding/base64"
	"html/template"
	"net/http"
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// styleSource is the one style that the pages may use.
var styleSource = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}()

// pageData is what a page says.
type pageData struct {
	Title   string
	Message string
	Code    string // of a refusal
	Request string // likewise
	Again   string // where to try again
	Start   string // where the form goes; "" for none
	Return  string // where to go after signing in
	Style   template.CSS
}

// login is the page with the one button.
func (h *Handler) login(w http.ResponseWriter, r *http.Request) {
	data := pageData{Title: "Sign in", Message: "Sign in with your account of " + h.Domain + ".", Start: startPath, Return: returnPath(r.URL.Query().Get("return"))}
	if _, out := r.URL.Query()["signed-out"]; out {
		data.Title, data.Message = "You are signed out", "This browser's session has ended. Sign in with your account of "+h.Domain+" to begin another."
	}
	status, origin := http.StatusOK, ""
	if issuer := h.issuer.Load(); issuer != nil {
		origin = issuer.origin()
	} else {
		status = http.StatusServiceUnavailable
		data.Message = h.noIssuer().message + ". Everything else goes on: command lines and pipelines are served."
		data.Start, data.Again, data.Code = "", loginPath, "issuer-unreachable"
		w.Header().Set("Retry-After", "5")
	}
	harden(w.Header(), origin)
	h.show(w, r, status, data)
}

func (h *Handler) show(w http.ResponseWriter, r *http.Request, status int, data pageData) {
	data.Style = template.CSS(pageStyle) //nolint:gosec // it is a file of this package
	var text bytes.Buffer
	if err := pageTemplate.Execute(&text, data); err != nil {
		h.Log.ErrorContext(r.Context(), "a page could not be made", "error", err)
		http.Error(w, "the gateway made a mistake of its own", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes()) // a browser that hung up is not told
}

// harden makes a page of ours useless to other sites. Browsers hold the redirect after a form to form-action too, so the
// issuer's origin has to be named.
func harden(header http.Header, issuerOrigin string) {
	forms := "'self'"
	if issuerOrigin != "" {
		forms += " " + issuerOrigin
	}
	header.Set("Content-Security-Policy", "default-src 'none'; style-src "+styleSource+"; form-action "+forms+"; frame-ancestors 'none'; base-uri 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer") // the address of a callback holds a code
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
}
