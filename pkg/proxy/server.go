package proxy

import (
	"log"
	"net/http"
	"time"
)

// NewServer is the HTTP server of the proxy: HTTP/1.1 alone, because the CLI speaks nothing else and sockets
// need it; no bound on how long a request or an answer takes, because promotes, exports and sessions take what
// they take; and bounds on what a client may do before it has said who it is.
func (p *Proxy) NewServer(errors *log.Logger) *http.Server {
	server := &http.Server{
		Handler:           p,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    256 << 10,
		ErrorLog:          errors,
		Protocols:         new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	return server
}
