package config

import (
	"rackgateway/pkg/secret"
)

// Admin is the configuration of admin.
type Admin struct {
	Log      Log
	Database AdminDatabase
	Audit    AdminAudit
}

// AdminDatabase is admin's connections to PostgreSQL.
type AdminDatabase struct {
	Database

	OwnerURL secret.Text `env:"ADMIN_DATABASE_URL" doc:"The same database as the role that owns the schema, for migrations; by default DATABASE_URL." example:"postgres://gateway_owner:PASSWORD@db.example.com:5432/gateway?sslmode=verify-full"`
}

// AdminAudit is how admin records.
type AdminAudit struct {
	MACKey         secret.Text `env:"AUDIT_MAC_KEY" aka:"AUDIT_HMAC_SECRET" need:"yes" doc:"Key that events are authenticated with until they are in the ledger; the text itself is the key. At least 32 random bytes, as hex, base64 or other text. The same for proxy and admin, and unknown to the database." example:"$(openssl rand -hex 32)"`
	MACKeyPrevious secret.Text `env:"AUDIT_MAC_KEY_PREVIOUS" doc:"The key before, so that events made with it still verify." example:"$(cat key-before)"`
}

// LoadAdmin reads admin's configuration from the given environment, in the form of os.Environ. The error
// is a *MistakesError that names every mistake; the configuration, as far as it could be read, and the report are
// usable with it too: a command that needs less than a service does can go on.
func LoadAdmin(environ []string) (*Admin, *Report, error) {
	cfg := new(Admin)
	l := newLoader("admin", environ)
	l.read(cfg)
	l.log(&cfg.Log)
	l.database(&cfg.Database.Database)
	l.databaseURL("ADMIN_DATABASE_URL", cfg.Database.OwnerURL)
	if cfg.Database.OwnerURL.IsZero() {
		cfg.Database.OwnerURL = cfg.Database.URL
	}
	l.macKey("AUDIT_MAC_KEY", cfg.Audit.MACKey)
	l.macKey("AUDIT_MAC_KEY_PREVIOUS", cfg.Audit.MACKeyPrevious)
	return finish(l, cfg)
}
