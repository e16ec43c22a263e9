package config

import (
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"rackgateway/pkg/secret"
)

// Proxy is the configuration of the proxy.
type Proxy struct {
	Server   Server
	Log      Log
	Database Database
	Rack     Rack
	Audit    ProxyAudit
	Access   Access
	Console  Console
	Settings Settings

	Telemetry Telemetry
}

// Server is how a process is reached.
type Server struct {
	Domain            string         `env:"DOMAIN" need:"yes" doc:"Host name, and port where it is not 443, by which people reach the gateway." example:"gateway.example.com"`
	Port              int            `env:"PORT" envDefault:"8080" min:"0" max:"65535" doc:"TCP port to listen on; 0 takes a free one and logs which." example:"8080"`
	ListenLocal       bool           `env:"LISTEN_LOCAL" envDefault:"false" doc:"Whether only programs on this machine can connect: it listens on 127.0.0.1 alone, for a front beside it." example:"true"`
	AdminURL          *url.URL       `env:"ADMIN_URL" doc:"Address of the console, for redirects and in messages; by default the domain. The identity provider sends people back to it." example:"https://gateway.example.com"`
	TrustedProxyCIDRs []netip.Prefix `env:"TRUSTED_PROXY_CIDRS" doc:"Networks of the load balancers in front, whose X-Forwarded-For is believed. Without it, a client's address is the connection's." example:"10.0.0.0/16,fd00::/8"`
	TLSCertFile       string         `env:"TLS_CERT_FILE" doc:"PEM file with the certificate chain to serve TLS with; needs TLS_KEY_FILE. Without both, TLS ends in front of the process." example:"/etc/gateway/tls.crt"`
	TLSKeyFile        string         `env:"TLS_KEY_FILE" doc:"PEM file with the private key of TLS_CERT_FILE." example:"/etc/gateway/tls.key"`
	MetricsAddr       string         `env:"METRICS_ADDR" doc:"Host and port to serve Prometheus metrics on, apart from clients; not set means no metrics." example:"127.0.0.1:9090"`
	DrainTimeout      time.Duration  `env:"DRAIN_TIMEOUT" envDefault:"30s" min:"0s" max:"1h" doc:"How long open sockets may go on after SIGTERM before they are ended with a message." example:"30s"`
	DevMode           bool           `env:"DEV_MODE" envDefault:"false" doc:"Allows what only a trial on one machine may do, such as a rack without TLS or a database without fsync. Refused unless the domain is localhost." example:"true"`
}

// Log is what a process logs.
type Log struct {
	Level  slog.Level `env:"LOG_LEVEL" envDefault:"info" doc:"Least level that is logged: debug, info, warn or error." example:"info"`
	Format string     `env:"LOG_FORMAT" envDefault:"json" doc:"Form of the log: json or text." example:"json"`
}

// Database is the connection to PostgreSQL.
type Database struct {
	URL             secret.Text   `env:"DATABASE_URL" aka:"RGW_DATABASE_URL,GATEWAY_DATABASE_URL" need:"yes" doc:"The gateway's PostgreSQL database, as the role of this process. PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD, PGSSLMODE, PGSSLROOTCERT, PGSSLCERT and PGSSLKEY are read when it is not set." example:"postgres://gateway:PASSWORD@db.example.com:5432/gateway?sslmode=verify-full"`
	MaxOpenConns    int           `env:"DB_MAX_OPEN_CONNS" envDefault:"25" min:"4" max:"1000" doc:"Most connections that the process keeps to the database, besides the one that listens for changes." example:"25"`
	MaxIdleConns    int           `env:"DB_MAX_IDLE_CONNS" envDefault:"25" min:"1" max:"1000" doc:"Most connections that stay open without work." example:"25"`
	ConnMaxLifetime time.Duration `env:"DB_CONN_MAX_LIFETIME" envDefault:"30m" min:"0s" max:"24h" doc:"Age at which a connection is replaced; 0s means never." example:"30m"`
	ConnMaxIdleTime time.Duration `env:"DB_CONN_MAX_IDLE_TIME" envDefault:"5m" min:"0s" max:"24h" doc:"Time without work after which a connection is closed; 0s means never." example:"5m"`
}

// Rack is the rack behind the gateway.
type Rack struct {
	Host      *url.URL    `env:"RACK_HOST" need:"yes" doc:"Address of the rack's API; https unless it says otherwise." example:"https://api.rack.example.com"`
	Token     secret.Text `env:"RACK_TOKEN" need:"yes" doc:"The rack's password, which only the proxy holds." example:"PASSWORD"`
	TokenNext secret.Text `env:"RACK_TOKEN_NEXT" doc:"The rack's next password, used once the rack refuses RACK_TOKEN, so that it can be changed without an interruption." example:"PASSWORD"`
	Username  string      `env:"RACK_USERNAME" envDefault:"convox" doc:"User name that goes with the rack's password." example:"convox"`
	RackName
	CAFile  string `env:"RACK_CA_FILE" doc:"PEM file with the authorities to verify the rack's certificate by, in place of the system's." example:"/etc/gateway/rack-ca.pem"`
	TLSPins []Pin  `env:"RACK_TLS_PIN" doc:"SHA-256 of the public key (SubjectPublicKeyInfo) of the rack's certificate, in base64 or hex; several by commas. With a pin, that key is what counts and not the authority; with RACK_CA_FILE too, both." example:"sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="`
}

// RackName is how the rack is called, as ORGANIZATION/ALIAS.
type RackName struct {
	Organization string `env:"RACK_ORGANIZATION" envDefault:"gateway" doc:"First half of the name by which the CLI knows the rack, ORGANIZATION/ALIAS." example:"acme"`
	Alias        string `env:"RACK_ALIAS" doc:"Second half of that name; by default the value of RACK, or rack." example:"staging"`
	Name         string `env:"RACK" doc:"The rack's own name, when RACK_ALIAS should be the same." example:"staging"`
}

// ProxyAudit is how the proxy records.
type ProxyAudit struct {
	MACKey  secret.Text   `env:"AUDIT_MAC_KEY" aka:"AUDIT_HMAC_SECRET" need:"yes" doc:"Key that events are authenticated with until they are in the ledger; the text itself is the key. At least 32 random bytes, as hex, base64 or other text. The same for proxy and admin, and unknown to the database." example:"$(openssl rand -hex 32)"`
	MaxWait time.Duration `env:"AUDIT_MAX_WAIT" envDefault:"10s" min:"100ms" max:"5m" doc:"How long one request may wait for the database, look-ups and records together, before it is answered with 503." example:"10s"`
}

// Access is how fresh the knowledge of who may do what has to be.
type Access struct {
	MaxStaleness time.Duration `env:"ACCESS_MAX_STALENESS" envDefault:"10s" min:"1s" max:"10m" doc:"How long what was read of a person or token is believed without proof that announcements of changes arrive." example:"10s"`
	SocketGrace  time.Duration `env:"ACCESS_SOCKET_GRACE" envDefault:"60s" min:"1s" max:"1h" doc:"How long open sockets go on without such proof before they are ended; not less than ACCESS_MAX_STALENESS." example:"60s"`
}

// Console is what the proxy grants to admin.
type Console struct {
	AdminCIDRs []netip.Prefix `env:"ADMIN_CIDRS" doc:"Networks that admin asks from, for people at the console: from there alone are browser sessions accepted, and the person's address that admin gives. Must hold no load balancer that TRUSTED_PROXY_CIDRS does not name. Not set means that the console cannot show the rack." example:"10.0.3.0/24"`
}

// Telemetry is where a process tells what it does, besides its metrics and its log.
type Telemetry struct {
	TracesURL     *url.URL    `env:"OTEL_EXPORTER_OTLP_ENDPOINT" doc:"OpenTelemetry collector that traces of requests are sent to, by OTLP over HTTP; not set means no traces." example:"http://collector:4318"`
	TracesHeaders secret.Text `env:"OTEL_EXPORTER_OTLP_HEADERS" doc:"Headers sent along to the collector, as NAME=VALUE, several by commas." example:"api-key=KEY"`
	TracesRatio   float64     `env:"OTEL_TRACES_SAMPLER_ARG" envDefault:"1" doc:"Share of traces that are sent, from 0 to 1, of those that begin here; those that a caller began are the caller's to choose." example:"0.1"`
	SentryDSN     secret.Text `env:"SENTRY_DSN" doc:"Sentry project that errors of the log are sent to; not set means none." example:"https://KEY@o1.ingest.sentry.io/2"`
}

// Headers takes TracesHeaders apart.
func (t *Telemetry) Headers() http.Header {
	header := http.Header{}
	for pair := range strings.SplitSeq(t.TracesHeaders.Reveal(), ",") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
		}
	}
	return header
}

// LoadProxy reads the proxy's configuration from the given environment, in the form of os.Environ. The
// error is a *MistakesError that names every mistake; the report is usable with an error too.
func LoadProxy(environ []string) (*Proxy, *Report, error) {
	cfg := new(Proxy)
	l := newLoader("proxy", environ)
	l.read(cfg)
	l.server(&cfg.Server)
	l.log(&cfg.Log)
	l.database(&cfg.Database)
	l.rack(&cfg.Rack, cfg.Server.DevMode)
	l.key("AUDIT_MAC_KEY", cfg.Audit.MACKey)
	l.access(&cfg.Access)
	l.telemetry(&cfg.Telemetry)
	l.settings(&cfg.Settings)
	return finish(l, cfg)
}
