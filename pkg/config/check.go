package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"

	"rackgateway/pkg/secret"
)

var (
	hostForm  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	nameForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	tokenForm = regexp.MustCompile(`^[!-~]+$`)
)

// server checks how the proxy is reached, and fills in what depends on the domain.
func (l *loader) server(s *Server) {
	if s.Domain != "" {
		l.domain(s)
	}
	if s.DevMode && s.Hostname() != "localhost" && s.Domain != "" {
		l.mistake("DEV_MODE", "is on, and DOMAIN is not localhost: what it allows is not safe where others can reach it")
	}
	if s.AdminURL == nil && s.Domain != "" && l.mistakes["DOMAIN"] == "" {
		s.AdminURL = &url.URL{Scheme: "https", Host: s.Domain}
		l.derive("ADMIN_URL", s.AdminURL.String(), "default, from DOMAIN")
	}
	if s.MetricsAddr != "" {
		if _, port, err := net.SplitHostPort(s.MetricsAddr); err != nil {
			l.mistake("METRICS_ADDR", "is not HOST:PORT or :PORT")
		} else if n, err := strconv.ParseUint(port, 10, 16); err != nil {
			l.mistake("METRICS_ADDR", "has a port that is not a number from 0 to 65535")
		} else if n != 0 && int(n) == s.Port {
			l.mistake("METRICS_ADDR", "has the port of PORT: metrics are served apart from clients")
		}
	}
	switch {
	case s.TLSCertFile == "" && s.TLSKeyFile == "":
	case s.TLSCertFile == "":
		l.mistake("TLS_CERT_FILE", "is not set, and TLS_KEY_FILE is; TLS needs both")
	case s.TLSKeyFile == "":
		l.mistake("TLS_KEY_FILE", "is not set, and TLS_CERT_FILE is; TLS needs both")
	default:
		if _, err := tls.LoadX509KeyPair(s.TLSCertFile, s.TLSKeyFile); err != nil {
			l.mistake("TLS_CERT_FILE", fmt.Sprintf("and TLS_KEY_FILE cannot be used: %v", err))
		}
	}
}

func (l *loader) domain(s *Server) {
	s.Domain = strings.ToLower(s.Domain)
	if strings.Contains(s.Domain, "://") || strings.ContainsAny(s.Domain, "/@?#") {
		l.mistake("DOMAIN", "is an address; write the host name alone, with a port where it is not 443")
		return
	}
	host := s.Hostname()
	if _, port, split := strings.Cut(s.Domain, ":"); split && !strings.HasPrefix(s.Domain, "[") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			l.mistake("DOMAIN", "has a port that is not a number from 1 to 65535")
			return
		}
	}
	if !hostForm.MatchString(host) || len(host) > 253 {
		l.mistake("DOMAIN", "is not a host name")
	} else if _, err := netip.ParseAddr(host); err == nil {
		l.mistake("DOMAIN", "is a network address; people, certificates and passkeys need a host name")
	}
}

// Hostname is the domain without its port.
func (s *Server) Hostname() string {
	host, _, _ := strings.Cut(s.Domain, ":")
	return host
}

// ListenAddress is the host and port to listen on. Without a host, it is every address of the machine.
func (s *Server) ListenAddress() string {
	host := ""
	if s.ListenLocal {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(s.Port))
}

func (l *loader) log(c *Log) {
	if c.Format != "json" && c.Format != "text" {
		l.mistake("LOG_FORMAT", "is neither json nor text")
	}
}

func (l *loader) database(c *Database) {
	l.databaseURL("DATABASE_URL", c.URL)
	if l.mistakes["DB_MAX_OPEN_CONNS"] == "" && c.MaxIdleConns > c.MaxOpenConns {
		if l.values["DB_MAX_IDLE_CONNS"] != "" {
			l.mistake("DB_MAX_IDLE_CONNS", fmt.Sprintf("is more than DB_MAX_OPEN_CONNS (%d)", c.MaxOpenConns))
		}
		c.MaxIdleConns = c.MaxOpenConns
		l.derive("DB_MAX_IDLE_CONNS", strconv.Itoa(c.MaxIdleConns), "default, from DB_MAX_OPEN_CONNS")
	}
}

func (l *loader) databaseURL(name string, value secret.Text) {
	text := value.Reveal()
	if text == "" {
		return
	}
	u, err := url.Parse(text)
	switch { // none of these may quote the value, which holds a password
	case err != nil:
		l.mistake(name, "cannot be read as a URL; in the password, characters such as # / ? @ and spaces are written percent-encoded")
	case u.Scheme != "postgres" && u.Scheme != "postgresql":
		l.mistake(name, "does not begin with postgres://")
	case u.Host == "" && u.Query().Get("host") == "":
		l.mistake(name, "names no host")
	case strings.Trim(u.Path, "/") == "" && u.Query().Get("dbname") == "":
		l.mistake(name, "names no database")
	}
}

// postgresVariables makes DATABASE_URL out of libpq's variables when it is not given by any name of its own.
func (l *loader) postgresVariables() {
	for _, name := range []string{"DATABASE_URL", "RGW_DATABASE_URL", "GATEWAY_DATABASE_URL"} {
		if l.environ[name] != "" || l.environ[name+"_FILE"] != "" {
			return
		}
	}
	host, database := l.environ["PGHOST"], l.environ["PGDATABASE"]
	if host == "" && database == "" {
		return
	}
	u := url.URL{Scheme: "postgres"}
	query := url.Values{}
	if host == "" {
		host = "localhost"
	}
	if strings.HasPrefix(host, "/") { // the directory of a socket
		query.Set("host", host)
	} else {
		u.Host = host
		if strings.Contains(host, ":") {
			u.Host = "[" + host + "]"
		}
	}
	if port := l.environ["PGPORT"]; port != "" {
		if u.Host != "" {
			u.Host += ":" + port
		} else {
			query.Set("port", port)
		}
	}
	user := l.environ["PGUSER"]
	if password := l.environ["PGPASSWORD"]; password != "" {
		u.User = url.UserPassword(user, password)
	} else if user != "" {
		u.User = url.User(user)
	}
	if database == "" {
		database = user
	}
	u.Path = "/" + database
	for name, key := range map[string]string{"PGSSLMODE": "sslmode", "PGSSLROOTCERT": "sslrootcert", "PGSSLCERT": "sslcert", "PGSSLKEY": "sslkey"} {
		if value := l.environ[name]; value != "" {
			query.Set(key, value)
		}
	}
	u.RawQuery = query.Encode()
	l.environ["DATABASE_URL"] = u.String()
	l.sources["DATABASE_URL"] = "environment, as PGHOST and others"
}

// rack checks where the rack is and how it is known to be the right one.
func (l *loader) rack(r *Rack, dev bool) {
	if r.Host != nil && r.Host.Scheme == "http" && !dev && !isLoopback(r.Host.Hostname()) {
		l.mistake("RACK_HOST", "is http:, by which the rack's password would travel in the clear; only a rack on this machine may be reached so")
	}
	l.certificates("RACK_CA_FILE", r.CAFile)
	for name, token := range map[string]secret.Text{"RACK_TOKEN": r.Token, "RACK_TOKEN_NEXT": r.TokenNext} {
		if text := token.Reveal(); text != "" && !tokenForm.MatchString(text) {
			l.mistake(name, "has spaces, control characters or characters beyond ASCII")
		}
	}
	if !tokenForm.MatchString(r.Username) || strings.Contains(r.Username, ":") {
		l.mistake("RACK_USERNAME", "has a colon, spaces, control characters or characters beyond ASCII")
	}
	l.rackName(&r.RackName)
}

func (l *loader) rackName(r *RackName) {
	if r.Alias == "" {
		r.Alias = "rack"
		source := "default"
		if r.Name != "" {
			r.Alias, source = r.Name, "RACK"
		}
		l.derive("RACK_ALIAS", r.Alias, source)
	}
	for name, value := range map[string]string{"RACK_ORGANIZATION": r.Organization, "RACK_ALIAS": r.Alias, "RACK": r.Name} {
		if l.values[name] != "" && !nameForm.MatchString(value) {
			l.mistake(name, "is not a name of at most 63 letters, digits, dots, dashes and underscores that begins with a letter or digit")
		}
	}
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// certificates checks a file of certificates, if one is named.
func (l *loader) certificates(name, file string) {
	if file == "" {
		return
	}
	if err := readable(file); err != nil {
		l.mistake(name, err.Error())
	}
}

// access checks how fresh knowledge has to be.
func (l *loader) access(a *Access) {
	if a.SocketGrace < a.MaxStaleness && l.mistakes["ACCESS_MAX_STALENESS"] == "" {
		l.mistake("ACCESS_SOCKET_GRACE", "is less than ACCESS_MAX_STALENESS ("+a.MaxStaleness.String()+"), so that sockets would end before anything is stale")
	}
}

// signIn checks who vouches for people.
func (l *loader) signIn(s *SignIn, dev bool) {
	u, err := url.Parse(s.Issuer)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		l.mistake("GOOGLE_OAUTH_BASE_URL", "is not an address that begins with https://")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		l.mistake("GOOGLE_OAUTH_BASE_URL", "has a user, a query or a fragment, which an issuer has not")
	case u.Scheme == "http" && !dev && !isLoopback(u.Hostname()):
		l.mistake("GOOGLE_OAUTH_BASE_URL", "is http:, so that anybody on the way could sign in as anybody; only an issuer on this machine may be reached so")
	}
	s.AllowedDomain = strings.ToLower(s.AllowedDomain)
	if s.AllowedDomain != "" && (!hostForm.MatchString(s.AllowedDomain) || len(s.AllowedDomain) > 253) {
		l.mistake("GOOGLE_ALLOWED_DOMAIN", "is not a domain: write what follows the @ in people's addresses")
	}
}

// readable checks that a file holds at least one certificate.
func readable(file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot be read: %w", err)
	}
	found := false
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("names %s, which has a certificate that cannot be read: %w", file, err)
		}
		found = true
	}
	if !found {
		return fmt.Errorf("names %s, which holds no certificate in PEM", file)
	}
	return nil
}

// key checks that a key cannot be guessed.
func (l *loader) key(name string, key secret.Text) {
	if key.IsZero() {
		return
	}
	if what := weakness(key.Reveal()); what != "" {
		l.mistake(name, what)
	}
}

// publicKeys are keys that documentation, this one's or another's, shows; who copies them has no secret.
var publicKeys = []string{
	"0123456789abcdef", "deadbeef", "changeme", "change-me", "change_me", "example", "secret-key", "your-", "openssl rand",
}

// weakness says what makes a key guessable, in words that go on from its variable's name; "" when nothing does.
// It asks for 32 random bytes: as they are after decoding for hex and base64, and by a generous estimate,
// length times the logarithm of how many different characters there are, for any other text.
func weakness(key string) string {
	lower := strings.ToLower(key)
	for _, public := range publicKeys {
		if strings.Contains(lower, public) {
			return "contains " + strconv.Quote(public) + ", as examples do: make one of your own"
		}
	}
	raw, err := hex.DecodeString(key)
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if err != nil {
			raw, err = encoding.DecodeString(key)
		}
	}
	if err == nil {
		if len(raw) < 32 {
			return fmt.Sprintf("is too short: %d bytes once decoded, and 32 are needed", len(raw))
		}
		if different(raw) < 12 {
			return "is not random: it repeats a few bytes"
		}
		return ""
	}
	if bits := float64(len(key)) * math.Log2(float64(different([]byte(key)))); bits < 256 {
		return fmt.Sprintf("is too easy to guess: %d bits at best, and 256 are needed", int(bits))
	}
	return ""
}

func different(b []byte) int {
	seen := make(map[byte]bool)
	for _, c := range b {
		seen[c] = true
	}
	return len(seen)
}

var (
	bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	chainForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*)*$`)
)

// leastRetention is the fewest days that events are kept for in the database: a month is dropped as a whole, and what
// is younger is what people ask about.
const leastRetention = 30

// ledger checks what the record is signed with and where it goes.
func (l *loader) ledger(c *Ledger) {
	if c.AnchorBucket != "" && !bucketForm.MatchString(c.AnchorBucket) {
		l.mistake("AUDIT_ANCHOR_BUCKET", "is not the name of a bucket: write the name alone, without s3:// or a path")
	}
	if c.AnchorChain != "" && (!chainForm.MatchString(c.AnchorChain) || len(c.AnchorChain) > 500) {
		l.mistake("AUDIT_ANCHOR_CHAIN_ID", "is not made of words of letters, digits, dots, dashes and colons, with slashes between them")
	}
	if c.AnchorMode != "COMPLIANCE" && c.AnchorMode != "GOVERNANCE" {
		l.mistake("AUDIT_ANCHOR_MODE", "is neither COMPLIANCE nor GOVERNANCE")
	}
	if c.RetentionDays != 0 && c.RetentionDays < leastRetention {
		l.mistake("LOG_RETENTION_DAYS", fmt.Sprintf("is %d; it must be at least %d, or 0 to keep everything", c.RetentionDays, leastRetention))
	}
	if c.RetentionDays != 0 && c.AnchorBucket == "" {
		l.mistake("LOG_RETENTION_DAYS", "is set, and AUDIT_ANCHOR_BUCKET is not: events are dropped only once their copies are in a bucket")
	}
	for name, value := range map[string]secret.Text{"AUDIT_SIGNING_KEY": c.SigningKey, "AUDIT_SIGNING_KEY_PREVIOUS": c.SigningKeyPrevious} {
		if !value.IsZero() && !strings.HasPrefix(value.Reveal(), "PRIVATE+KEY+") {
			l.mistake(name, "is not a signing key: make one with admin audit key new")
		}
	}
	if c.PushURL != "" {
		u, err := url.Parse(c.PushURL)
		switch {
		case err != nil || u.Host == "":
			l.mistake("AUDIT_PUSH_URL", "cannot be read as an address")
		case u.User != nil:
			l.mistake("AUDIT_PUSH_URL", "carries a user name or password: give AUDIT_PUSH_TOKEN")
		case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
			l.mistake("AUDIT_PUSH_URL", "is not https")
		case c.PushSecret.IsZero():
			l.mistake("AUDIT_PUSH_SECRET", "is not set, and AUDIT_PUSH_URL is: pushes are signed with it")
		}
	}
	if !c.PushSecret.IsZero() {
		l.key("AUDIT_PUSH_SECRET", c.PushSecret)
	}
	l.certificates("AUDIT_PUSH_CA_FILE", c.PushCAFile)
}

// factors checks what second factors need: a client of a validation server has an id and a key.
func (l *loader) factors(c *AdminFactors) {
	switch {
	case c.YubicoClientID == "" && c.YubicoKey.IsZero():
		return
	case c.YubicoClientID == "":
		l.mistake("YUBICO_CLIENT_ID", "is not set, and YUBICO_SECRET_KEY is; a validation server is asked with both")
	case c.YubicoKey.IsZero():
		l.mistake("YUBICO_SECRET_KEY", "is not set, and YUBICO_CLIENT_ID is; a validation server is asked with both")
	default:
		if _, err := base64.StdEncoding.DecodeString(c.YubicoKey.Reveal()); err != nil {
			l.mistake("YUBICO_SECRET_KEY", "is not base64")
		}
		if c.YubicoURL != nil && c.YubicoURL.Scheme != "https" && c.YubicoURL.Hostname() != "localhost" && c.YubicoURL.Hostname() != "127.0.0.1" {
			l.mistake("YUBICO_API_URL", "is not https: what somebody types would be there to read")
		}
	}
}

// notices checks how people are told.
func (l *loader) notices(c *Notices) {
	if !c.PostmarkToken.IsZero() && c.PostmarkFrom == "" {
		l.mistake("POSTMARK_FROM", "is not set, and POSTMARK_API_TOKEN is: mail has to come from an address")
	}
	if c.PostmarkFrom != "" {
		if _, err := mail.ParseAddress(c.PostmarkFrom); err != nil {
			l.mistake("POSTMARK_FROM", "is not an address, such as gateway@example.com")
		}
	}
	l.key("POSTMARK_WEBHOOK_SECRET", c.PostmarkWebhook)
	for name, missing := range map[string]bool{
		"SLACK_CLIENT_ID": c.SlackID == "", "SLACK_CLIENT_SECRET": c.SlackSecret.IsZero(), "SLACK_SIGNING_SECRET": c.SlackSigning.IsZero(),
	} {
		if missing && (c.SlackID != "" || !c.SlackSecret.IsZero() || !c.SlackSigning.IsZero()) {
			l.mistake(name, "is not set, and another one of SLACK_CLIENT_ID, SLACK_CLIENT_SECRET and SLACK_SIGNING_SECRET is: Slack needs all three")
		}
	}
	for name, base := range map[string]string{"POSTMARK_API_BASE": c.PostmarkBase, "SLACK_API_BASE": c.SlackBase} {
		u, err := url.Parse(base)
		switch {
		case err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			l.mistake(name, "is not an address that begins with https://, without a user, a query or a fragment")
		case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
			l.mistake(name, "is not https, so that the token would travel in the clear")
		}
	}
}

// telemetry checks where telemetry is sent to.
func (l *loader) telemetry(t *Telemetry) {
	if t.TracesRatio < 0 || t.TracesRatio > 1 {
		l.mistake("OTEL_TRACES_SAMPLER_ARG", "is not a number from 0 to 1")
	}
	for pair := range strings.SplitSeq(t.TracesHeaders.Reveal(), ",") {
		if name, _, ok := strings.Cut(pair, "="); strings.TrimSpace(pair) != "" && (!ok || !tokenForm.MatchString(strings.TrimSpace(name))) {
			l.mistake("OTEL_EXPORTER_OTLP_HEADERS", "is not NAME=VALUE, several by commas")
		}
	}
	if t.SentryDSN.IsZero() {
		return
	}
	if u, err := url.Parse(t.SentryDSN.Reveal()); err != nil || u.User == nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		l.mistake("SENTRY_DSN", "is not https://KEY@HOST/PROJECT")
	}
}
