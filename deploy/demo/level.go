package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// levelVariable chooses the security level that the demo runs at: `make demo DEMO_LEVEL=maximum`.
const levelVariable = "DEMO_LEVEL"

// level is what a security level sets, beyond what every demo has. The values are those of
// deploy/helm/rack-gateway/levels, and a test holds them to it.
type level struct {
	name     string
	settings []string // RGW_SETTING_…, of both processes and of admin's commands
	proxy    []string // of the proxy alone
	admin    []string // of admin alone
	pinned   bool     // the proxy knows the rack by its key
	rack     []string // more arguments of the rack in memory: what the installation checklist has one do there
}

// levels are those that a demo can be run at. The first is what it is when nobody says.
func levels() []level {
	return []level{
		{name: "standard", settings: []string{"RGW_SETTING_ALLOW_DESTRUCTIVE=false"}},
		{name: "private", settings: []string{"RGW_SETTING_ALLOW_DESTRUCTIVE=false", "RGW_SETTING_CLI_TOKEN_IDLE_DAYS=14"}},
		{
			name: "maximum",
			settings: []string{
				"RGW_SETTING_ALLOW_DESTRUCTIVE=false", "RGW_SETTING_API_TOKEN_DAYS=30", "RGW_SETTING_CLI_TOKEN_DAYS=30", "RGW_SETTING_CLI_TOKEN_IDLE_DAYS=7",
				"RGW_SETTING_DEPLOY_APPROVALS=true", "RGW_SETTING_JOIN_AS_VIEWER=false", "RGW_SETTING_MFA_REQUIRED=true", "RGW_SETTING_REAUTH_DAYS=1",
				"RGW_SETTING_SESSION_IDLE_MINUTES=15", "RGW_SETTING_STEP_UP_MINUTES=5",
			},
			proxy:  []string{"ACCESS_MAX_STALENESS=5s", "ACCESS_SOCKET_GRACE=30s"},
			admin:  []string{"AUDIT_ANCHOR_MODE=COMPLIANCE", "AUDIT_ANCHOR_RETENTION_DAYS=400", "LOG_RETENTION_DAYS=400"},
			pinned: true,
			rack:   []string{"-system-env-disable"},
		},
	}
}

// chosenLevel is the level that the environment names.
func chosenLevel() (level, error) {
	name := os.Getenv(levelVariable)
	all := levels()
	if name == "" {
		return all[0], nil
	}
	if i := slices.IndexFunc(all, func(l level) bool { return l.name == name }); i >= 0 {
		return all[i], nil
	}
	var names []string
	for _, l := range all {
		names = append(names, l.name)
	}
	return level{}, fmt.Errorf("%s=%s: there is no such level; say %s", levelVariable, name, strings.Join(names, ", "))
}
