// Package deployment is what a proxy tells admin about itself for the production checklist (package doctor). The two
// processes share nothing else but the database.
package deployment

import "time"

// Path is where admin asks a proxy. To everybody outside of ADMIN_CIDRS there is nothing there.
const Path = "/api/v1/health/deployment"

// StartedAction is the action of the event by which a proxy says that it runs, or goes on with another password of the
// rack; PasswordParameter, in it, tells one password from another, so that it can be said how old the present one is.
const (
	StartedAction     = "gateway.proxy_started"
	PasswordParameter = "rack_password"
)

// Proxy is how one proxy is set up.
type Proxy struct {
	Version string    `json:"version"`
	Time    time.Time `json:"time"`

	Rack struct {
		URL             string     `json:"url"` // scheme and host
		Reachable       bool       `json:"reachable"`
		Trouble         string     `json:"trouble,omitempty"`
		Verified        string     `json:"verified,omitempty"` // "authority", "pin", "authority and pin"; empty when it is not
		CertificateEnds *time.Time `json:"certificate_ends,omitempty"`
		// Parameters says whether the rack told its parameters, and EnvDisabled whether, by them, it keeps its own
		// password out of the environment of every app's processes.
		Parameters  bool `json:"parameters"`
		EnvDisabled bool `json:"env_disabled"`
	} `json:"rack"`

	Metrics struct {
		Served    bool       `json:"served"`
		ScrapedAt *time.Time `json:"scraped_at,omitempty"`
	} `json:"metrics"`
}
