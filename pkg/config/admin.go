package config

import (
	"net/url"
	"slices"
	"time"

	"rackgateway/pkg/secret"
)

// Admin is the configuration of admin. Its commands use Log, Database, Audit and Settings; serving takes all of it.
type Admin struct {
	Log      Log
	Database AdminDatabase
	Audit    AdminAudit
	Server   Server
	Rack     RackName
	Upstream AdminUpstream
	SignIn   SignIn
	Secrets  AdminSecrets
	Factors  AdminFactors
	Access   Access
	Ledger   Ledger
	Notices  Notices
	Settings Settings

	Telemetry Telemetry
}

// serving are the groups that only `admin serve` uses.
var serving = []string{"Server", "Rack", "Upstream", "SignIn", "Secrets", "Factors", "Access", "Ledger", "Notices", "Telemetry"}

// AdminDatabase is admin's connections to PostgreSQL.
type AdminDatabase struct {
	Database

	OwnerURL secret.Text `env:"ADMIN_DATABASE_URL" doc:"The same database as the role that owns the schema, for migrations; by default DATABASE_URL." example:"postgres://gateway_owner:PASSWORD@db.example.com:5432/gateway?sslmode=verify-full"`
	Migrate  bool        `env:"MIGRATE" envDefault:"on" doc:"Whether serve brings the schema up to date when it starts, which it can do only when ADMIN_DATABASE_URL is set." example:"off"`

	// OwnerGiven says that ADMIN_DATABASE_URL is set, rather than OwnerURL being a copy of URL.
	OwnerGiven bool
}

// AdminAudit is how admin records.
type AdminAudit struct {
	MACKey         secret.Text   `env:"AUDIT_MAC_KEY" aka:"AUDIT_HMAC_SECRET" need:"yes" doc:"Key that events are authenticated with until they are in the ledger; the text itself is the key. At least 32 random bytes, as hex, base64 or other text. The same for proxy and admin, and unknown to the database." example:"$(openssl rand -hex 32)"`
	MACKeyPrevious secret.Text   `env:"AUDIT_MAC_KEY_PREVIOUS" doc:"The key before, so that events made with it still verify." example:"$(cat key-before)"`
	MaxWait        time.Duration `env:"AUDIT_MAX_WAIT" envDefault:"10s" min:"100ms" max:"5m" doc:"How long one request may wait for the database, look-ups and records together, before it is answered with 503." example:"10s"`
}

// Ledger is what the record is signed with, where it is copied to, and how long it is kept.
type Ledger struct {
	SigningKey         secret.Text `env:"AUDIT_SIGNING_KEY" doc:"Private key that the ledger's checkpoints are signed with, as admin audit key new prints it. Not set means that admin makes one and keeps it in the database, sealed with APP_SECRET_KEY." example:"PRIVATE+KEY+gateway.example.com/acme/staging+0a1b2c3d+AZ..."`
	SigningKeyPrevious secret.Text `env:"AUDIT_SIGNING_KEY_PREVIOUS" doc:"The signing key before, needed once, to sign the last checkpoint of its time too." example:"$(cat signing-key-before)"`
	AnchorBucket       string      `env:"AUDIT_ANCHOR_BUCKET" doc:"S3 bucket with Object Lock that the ledger is copied to. Credentials and region come from AWS_* and the machine's role, as for every AWS tool; AWS_ENDPOINT_URL_S3 names another S3 server." example:"acme-gateway-audit"`
	AnchorChain        string      `env:"AUDIT_ANCHOR_CHAIN_ID" doc:"What the keys of all objects in the bucket begin with; by default the domain, organization and alias." example:"gateway.example.com/acme/staging"`
	AnchorMinutes      int         `env:"AUDIT_ANCHOR_INTERVAL_MINUTES" envDefault:"60" min:"1" max:"1440" doc:"Minutes between two copies of the ledger to the bucket; ten thousand new events make one at once. The signed checkpoint alone is put there every minute." example:"60"`
	AnchorRetention    int         `env:"AUDIT_ANCHOR_RETENTION_DAYS" envDefault:"400" min:"1" max:"36500" doc:"Days for which the bucket keeps an object from being deleted, from when it was put there." example:"400"`
	AnchorMode         string      `env:"AUDIT_ANCHOR_MODE" envDefault:"COMPLIANCE" doc:"Object Lock mode: COMPLIANCE, which nobody can shorten, or GOVERNANCE." example:"COMPLIANCE"`
	AnchorKMSKey       string      `env:"AUDIT_ANCHOR_KMS_KEY_ID" doc:"KMS key that objects are encrypted with at rest; not set leaves it to the bucket." example:"arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"`
	AnchorPathStyle    bool        `env:"AUDIT_ANCHOR_PATH_STYLE" envDefault:"false" doc:"Whether the bucket is named in the path of addresses and not in the host, as some other S3 servers need it." example:"true"`
	RetentionDays      int         `env:"LOG_RETENTION_DAYS" envDefault:"0" min:"0" max:"36500" doc:"Days after which whole months of events are dropped from the database, once they are in the bucket and not on hold; at least 30. 0 keeps them all." example:"400"`
	PushURL            string      `env:"AUDIT_PUSH_URL" doc:"HTTPS address of a SIEM that events are pushed to in the order of the ledger, as JSON Lines." example:"https://siem.example.com/ingest/rack-gateway"`
	PushSecret         secret.Text `env:"AUDIT_PUSH_SECRET" doc:"Key that each push is signed with (HMAC-SHA256, header Gateway-Signature). At least 32 random bytes." example:"$(openssl rand -hex 32)"`
	PushToken          secret.Text `env:"AUDIT_PUSH_TOKEN" doc:"Sent with each push as Authorization: Bearer, where the SIEM asks for one." example:"TOKEN"`
	PushCAFile         string      `env:"AUDIT_PUSH_CA_FILE" doc:"PEM file with the authorities to verify the SIEM's certificate by, in place of the system's." example:"/etc/gateway/siem-ca.pem"`
}

// Notices are how people are told what concerns them.
type Notices struct {
	PostmarkToken   secret.Text `env:"POSTMARK_API_TOKEN" doc:"Token of a server at Postmark, through which mail is sent. Not set means that none is: what would have gone out shows as waiting, and with DEV_MODE is logged." example:"01234567-89ab-cdef-0123-456789abcdef"`
	PostmarkFrom    string      `env:"POSTMARK_FROM" doc:"Address that mail comes from; Postmark has to know it as a sender." example:"Rack Gateway <gateway@example.com>"`
	PostmarkStream  string      `env:"POSTMARK_STREAM" envDefault:"outbound" doc:"Postmark's message stream." example:"outbound"`
	PostmarkBase    string      `env:"POSTMARK_API_BASE" envDefault:"https://api.postmarkapp.com" doc:"Address of Postmark's API." example:"https://api.postmarkapp.com"`
	PostmarkWebhook secret.Text `env:"POSTMARK_WEBHOOK_SECRET" doc:"Password in the address that Postmark tells bounces and spam complaints to: https://postmark:SECRET@DOMAIN/api/v1/hooks/postmark. Not set means that it is told to nobody. At least 32 random bytes." example:"$(openssl rand -hex 32)"`
	SlackID         string      `env:"SLACK_CLIENT_ID" doc:"Client id of the gateway's app at Slack, with which an administrator connects a workspace in the console. Its redirect address there is ADMIN_URL and /console/integrations/slack." example:"1234567890.1234567890"`
	SlackSecret     secret.Text `env:"SLACK_CLIENT_SECRET" doc:"The app's client secret." example:"SECRET"`
	SlackSigning    secret.Text `env:"SLACK_SIGNING_SECRET" doc:"What Slack signs its requests to ADMIN_URL and /api/v1/hooks/slack/interactions and /api/v1/hooks/slack/events with." example:"SECRET"`
	SlackBase       string      `env:"SLACK_API_BASE" envDefault:"https://slack.com/api" doc:"Address of Slack's Web API; the address where people allow the app is /oauth/v2/authorize of the same host." example:"https://slack-gov.com/api"`
}

// Origin names the ledger: DOMAIN/ORGANIZATION/ALIAS.
func (a *Admin) Origin() string {
	return a.Server.Domain + "/" + a.Rack.Organization + "/" + a.Rack.Alias
}

// AdminUpstream is how admin reaches the proxy, to show what the rack says.
type AdminUpstream struct {
	ProxyURL    *url.URL `env:"PROXY_URL" need:"yes" doc:"Address of the proxy as admin reaches it, best within the private network. ADMIN_CIDRS of the proxy has to name admin's own address." example:"http://proxy:8080"`
	ProxyCAFile string   `env:"PROXY_CA_FILE" doc:"PEM file with the authorities to verify the proxy's certificate by, in place of the system's." example:"/etc/gateway/proxy-ca.pem"`
}

// SignIn is who vouches for people, and who the first ones are.
type SignIn struct {
	Issuer        string      `env:"GOOGLE_OAUTH_BASE_URL" envDefault:"https://accounts.google.com" doc:"The OpenID issuer that people sign in with, exactly as it names itself; Google by default, or any other." example:"https://login.example.com/dex"`
	ClientID      string      `env:"GOOGLE_CLIENT_ID" need:"yes" doc:"The gateway's client id at the issuer." example:"1234567890-abc.apps.googleusercontent.com"`
	ClientSecret  secret.Text `env:"GOOGLE_CLIENT_SECRET" need:"yes" doc:"The gateway's client secret at the issuer. Its redirect address there is ADMIN_URL and /login/callback." example:"SECRET"`
	AllowedDomain string      `env:"GOOGLE_ALLOWED_DOMAIN" need:"yes" doc:"The domain of the people who may sign in: Google's hosted domain, or, of other issuers, what follows the @ in the verified address." example:"example.com"`
	AdminUsers    Addresses   `env:"ADMIN_USERS" doc:"Addresses of the first admins, by commas. The four lists make people once, when the gateway first starts with any of them; nobody who is there, or was removed, is ever changed by them." example:"ana@example.com,ben@example.com"`
	DeployerUsers Addresses   `env:"DEPLOYER_USERS" doc:"Addresses of the first deployers." example:"dan@example.com"`
	OpsUsers      Addresses   `env:"OPERATIONS_USERS" doc:"Addresses of the first operators (role ops)." example:"olga@example.com"`
	ViewerUsers   Addresses   `env:"VIEWER_USERS" doc:"Addresses of the first viewers." example:"vic@example.com"`
}

// GoogleIssuer is the issuer whose people are known by the claim hd, rather than by their address.
const GoogleIssuer = "https://accounts.google.com"

// AdminSecrets are the keys that admin alone has.
type AdminSecrets struct {
	AppKey         secret.Text `env:"APP_SECRET_KEY" need:"yes" doc:"Key that cookies and secrets at rest are sealed with; the text itself is the key. At least 32 random bytes, as hex, base64 or other text. The proxy does not have it." example:"$(openssl rand -hex 32)"`
	AppKeyPrevious secret.Text `env:"APP_SECRET_KEY_PREVIOUS" doc:"The key before, so that what it sealed still opens, until admin rekey has sealed it anew." example:"$(cat key-before)"`
}

// AdminFactors are what second factors need beside the database.
type AdminFactors struct {
	YubicoURL      *url.URL    `env:"YUBICO_API_URL" envDefault:"https://api.yubico.com/wsapi/2.0/verify" doc:"Validation server for one-time passwords of YubiKeys, by version 2 of Yubico's protocol. It is asked only when YUBICO_CLIENT_ID is set." example:"https://yubi.example.com/wsapi/2.0/verify"`
	YubicoClientID string      `env:"YUBICO_CLIENT_ID" doc:"The gateway's client id at the validation server. Without it, YubiKeys are used as security keys, which is better, and their one-time passwords are not taken." example:"12345"`
	YubicoKey      secret.Text `env:"YUBICO_SECRET_KEY" doc:"The client's secret key, as the validation server gave it, in base64. Questions and answers are signed with it." example:"SECRET"`
}

// LoadAdmin reads admin's configuration for a command, from the given environment, in the form of os.Environ. What
// only serving uses is read as far as it can be, and no mistake. The error is a *MistakesError that names every mistake;
// the configuration, as far as it could be read, and the report are usable with it too: a command that needs less
// than a service does can go on.
func LoadAdmin(environ []string) (*Admin, *Report, error) {
	l, cfg := loadAdmin(environ)
	for _, v := range l.variables {
		if slices.Contains(serving, v.Group) {
			delete(l.mistakes, v.Name)
		}
	}
	return finish(l, cfg)
}

// LoadAdminServe is LoadAdmin for `admin serve`, which needs all of it.
func LoadAdminServe(environ []string) (*Admin, *Report, error) {
	l, cfg := loadAdmin(environ)
	return finish(l, cfg)
}

func loadAdmin(environ []string) (*loader, *Admin) {
	cfg := new(Admin)
	l := newLoader("admin", environ)
	l.read(cfg)
	l.log(&cfg.Log)
	l.database(&cfg.Database.Database)
	l.databaseURL("ADMIN_DATABASE_URL", cfg.Database.OwnerURL)
	cfg.Database.OwnerGiven = !cfg.Database.OwnerURL.IsZero()
	if !cfg.Database.OwnerGiven {
		cfg.Database.OwnerURL = cfg.Database.URL
	}
	l.key("AUDIT_MAC_KEY", cfg.Audit.MACKey)
	l.key("AUDIT_MAC_KEY_PREVIOUS", cfg.Audit.MACKeyPrevious)
	l.server(&cfg.Server)
	l.rackName(&cfg.Rack)
	l.certificates("PROXY_CA_FILE", cfg.Upstream.ProxyCAFile)
	l.signIn(&cfg.SignIn, cfg.Server.DevMode)
	l.key("APP_SECRET_KEY", cfg.Secrets.AppKey)
	l.key("APP_SECRET_KEY_PREVIOUS", cfg.Secrets.AppKeyPrevious)
	if cfg.Secrets.AppKey.Equal(cfg.Audit.MACKey) && !cfg.Secrets.AppKey.IsZero() {
		l.mistake("APP_SECRET_KEY", "is the same as AUDIT_MAC_KEY, which the proxy has too: make one of its own")
	}
	l.factors(&cfg.Factors)
	l.access(&cfg.Access)
	l.ledger(&cfg.Ledger)
	l.notices(&cfg.Notices)
	if cfg.Ledger.AnchorChain == "" && cfg.Ledger.AnchorBucket != "" {
		cfg.Ledger.AnchorChain = cfg.Origin()
		l.derive("AUDIT_ANCHOR_CHAIN_ID", cfg.Ledger.AnchorChain, "default, from DOMAIN, RACK_ORGANIZATION and RACK_ALIAS")
	}
	l.telemetry(&cfg.Telemetry)
	l.settings(&cfg.Settings)
	return l, cfg
}
