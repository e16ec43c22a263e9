package adminapi

import (
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"rackgateway/pkg/access"
	"rackgateway/pkg/peer"
)

// What the console shows of the rack comes from the proxy, asked as the person who looks: there, and nowhere else, it
// is decided and recorded. So admin needs no rack password.

// rackPrefix is where the rack appears in the API, and proxyPrefix where the proxy has it.
const (
	rackPrefix  = BasePath + "/rack"
	proxyPrefix = BasePath + "/rack-proxy"
)

// NewRack returns what passes requests on to the proxy at an address. The transport may be nil for the default one.
func NewRack(proxy *url.URL, transport http.RoundTripper, log *slog.Logger) http.Handler {
	return &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // logs are followed as they come
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Rewrite: func(pr *httputil.ProxyRequest) {
			x := exchangeIn(pr.In.Context())
			// The path goes on as it came, escapes and all: what it means is the proxy's to say.
			escaped := proxyPrefix + strings.TrimPrefix(pr.In.URL.EscapedPath(), rackPrefix)
			pr.Out.URL.Scheme, pr.Out.URL.Host, pr.Out.Host = proxy.Scheme, proxy.Host, proxy.Host
			pr.Out.URL.Path, pr.Out.URL.RawPath = proxyPrefix+strings.TrimPrefix(pr.In.URL.Path, rackPrefix), escaped
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery
			h := pr.Out.Header
			for name := range h {
				if strings.HasPrefix(name, "Sec-Fetch-") || strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "Rgw-") {
					h.Del(name)
				}
			}
			for _, name := range []string{"Cookie", "Origin", "Referer", "X-Csrf-Token", "Forwarded", "Rack"} {
				h.Del(name)
			}
			h.Set("Authorization", "Bearer "+x.token.Reveal())
			if x.address.IsValid() {
				h.Set(peer.ClientHeader, x.address.String())
			}
		},
		ModifyResponse: func(r *http.Response) error {
			x := exchangeIn(r.Request.Context())
			r.Header.Del("Set-Cookie")
			for name := range x.w.Header() { // ours are in the answer already
				r.Header.Del(name)
			}
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				panic(http.ErrAbortHandler) // whoever asked is gone
			}
			exchangeIn(r.Context()).answer((&problem{Status: http.StatusBadGateway, Code: "proxy-unreachable",
				Detail: "the gateway's proxy cannot be reached, so that nothing can be said of the rack: tell an administrator if it goes on"}).because(err))
		},
	}
}

// passOn lets through whoever is who they say they are.
func (a *API) passOn(_ http.ResponseWriter, r *http.Request) {
	x := a.exchangeOf(r)
	rule, _ := access.RuleFor("rack")
	if refused := x.authorise(r.Context(), rule); refused != nil {
		x.answer(refused)
		return
	}
	if a.Rack == nil {
		x.answer(&problem{Status: http.StatusNotFound, Code: "no-proxy", Detail: "this gateway's admin was not told where the proxy is: set PROXY_URL"})
		return
	}
	// How long a body may take is for the proxy to say.
	_ = http.NewResponseController(x.w).SetReadDeadline(time.Time{})
	a.Rack.ServeHTTP(x.w, r)
}
