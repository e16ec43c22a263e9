// Package access decides who may do what. It is pure: no I/O, no clock, no state. Its one decision point is
// Decide; what it decides by are permissions and roles (permission.go, role.go), the table of operations
// (rules.go) and settings (settings.go).
//
// This file holds the permissions.
package access

import (
	"fmt"
	"iter"
	"strings"
)

// Permission is the right to do one kind of thing, as scope:resource:action. The scope convox is the rack,
// and gateway the gateway itself.
type Permission string

// Every permission there is.
const (
	PermAppBudget         Permission = "convox:app:budget"
	PermAppCancel         Permission = "convox:app:cancel"
	PermAppCreate         Permission = "convox:app:create"
	PermAppDelete         Permission = "convox:app:delete"
	PermAppList           Permission = "convox:app:list"
	PermAppRead           Permission = "convox:app:read"
	PermAppRestart        Permission = "convox:app:restart"
	PermAppUpdate         Permission = "convox:app:update"
	PermBuildCreate       Permission = "convox:build:create"
	PermBuildExport       Permission = "convox:build:export"
	PermBuildList         Permission = "convox:build:list"
	PermBuildRead         Permission = "convox:build:read"
	PermBuildUpdate       Permission = "convox:build:update"
	PermCertificateApply  Permission = "convox:certificate:apply"
	PermCertificateList   Permission = "convox:certificate:list"
	PermCertificateManage Permission = "convox:certificate:manage"
	PermConfigRead        Permission = "convox:config:read"
	PermConfigSet         Permission = "convox:config:set"
	PermEnvRead           Permission = "convox:env:read"
	PermEnvSet            Permission = "convox:env:set"
	PermFileRead          Permission = "convox:file:read"
	PermFileWrite         Permission = "convox:file:write"
	PermInstanceKeyroll   Permission = "convox:instance:keyroll"
	PermInstanceList      Permission = "convox:instance:list"
	PermInstanceShell     Permission = "convox:instance:shell"
	PermInstanceTerminate Permission = "convox:instance:terminate"
	PermLogRead           Permission = "convox:log:read"
	PermNetworkProxy      Permission = "convox:network:proxy"
	PermObjectAdmin       Permission = "convox:object:admin"
	PermObjectCreate      Permission = "convox:object:create"
	PermProcessBuild      Permission = "convox:process:build"
	PermProcessExec       Permission = "convox:process:exec"
	PermProcessList       Permission = "convox:process:list"
	PermProcessPrivileged Permission = "convox:process:privileged"
	PermProcessRead       Permission = "convox:process:read"
	PermProcessStart      Permission = "convox:process:start"
	PermProcessTerminate  Permission = "convox:process:terminate"
	PermRackLog           Permission = "convox:rack:log"
	PermRackProcess       Permission = "convox:rack:process"
	PermRackRead          Permission = "convox:rack:read"
	PermRackUpdate        Permission = "convox:rack:update"
	PermRegistryList      Permission = "convox:registry:list"
	PermRegistryManage    Permission = "convox:registry:manage"
	PermReleaseCreate     Permission = "convox:release:create"
	PermReleaseList       Permission = "convox:release:list"
	PermReleasePromote    Permission = "convox:release:promote"
	PermReleaseRead       Permission = "convox:release:read"
	PermResourceConsole   Permission = "convox:resource:console"
	PermResourceExport    Permission = "convox:resource:export"
	PermResourceImport    Permission = "convox:resource:import"
	PermResourceList      Permission = "convox:resource:list"
	PermResourceRead      Permission = "convox:resource:read"
	PermSecretRead        Permission = "convox:secret:read"
	PermSecretSet         Permission = "convox:secret:set"
	PermApprovalDecide    Permission = "gateway:approval:decide"
	PermApprovalRead      Permission = "gateway:approval:read"
	PermApprovalRequest   Permission = "gateway:approval:request"
	PermAuditExport       Permission = "gateway:audit:export"
	PermAuditRead         Permission = "gateway:audit:read"
	PermFactorReset       Permission = "gateway:factor:reset"
	PermIntegrationManage Permission = "gateway:integration:manage"
	PermRecordingRead     Permission = "gateway:recording:read"
	PermRoleManage        Permission = "gateway:role:manage"
	PermRoleRead          Permission = "gateway:role:read"
	PermSessionManage     Permission = "gateway:session:manage"
	PermSettingManage     Permission = "gateway:setting:manage"
	PermSettingRead       Permission = "gateway:setting:read"
	PermTokenManage       Permission = "gateway:token:manage"
	PermTokenRead         Permission = "gateway:token:read"
	PermUserManage        Permission = "gateway:user:manage"
	PermUserRead          Permission = "gateway:user:read"
)

// known lists every permission, sorted; a permission's place is its bit in a PermissionSet.
var known = [...]Permission{
	PermAppBudget, PermAppCancel, PermAppCreate, PermAppDelete, PermAppList, PermAppRead, PermAppRestart, PermAppUpdate,
	PermBuildCreate, PermBuildExport, PermBuildList, PermBuildRead, PermBuildUpdate,
	PermCertificateApply, PermCertificateList, PermCertificateManage,
	PermConfigRead, PermConfigSet, PermEnvRead, PermEnvSet, PermFileRead, PermFileWrite,
	PermInstanceKeyroll, PermInstanceList, PermInstanceShell, PermInstanceTerminate,
	PermLogRead, PermNetworkProxy, PermObjectAdmin, PermObjectCreate,
	PermProcessBuild, PermProcessExec, PermProcessList, PermProcessPrivileged, PermProcessRead, PermProcessStart, PermProcessTerminate,
	PermRackLog, PermRackProcess, PermRackRead, PermRackUpdate, PermRegistryList, PermRegistryManage,
	PermReleaseCreate, PermReleaseList, PermReleasePromote, PermReleaseRead,
	PermResourceConsole, PermResourceExport, PermResourceImport, PermResourceList, PermResourceRead,
	PermSecretRead, PermSecretSet,
	PermApprovalDecide, PermApprovalRead, PermApprovalRequest, PermAuditExport, PermAuditRead, PermFactorReset,
	PermIntegrationManage, PermRecordingRead, PermRoleManage, PermRoleRead, PermSessionManage,
	PermSettingManage, PermSettingRead, PermTokenManage, PermTokenRead, PermUserManage, PermUserRead,
}

// bits gives each permission its place in known.
var bits = func() map[Permission]uint {
	m := make(map[Permission]uint, len(known))
	for i, p := range known {
		m[p] = uint(i)
	}
	return m
}()

// Permissions returns every permission, sorted.
func Permissions() []Permission { return append([]Permission(nil), known[:]...) }

// ParsePermission returns the permission of that name. An unknown name is an error that names the nearest one.
func ParsePermission(name string) (Permission, error) {
	if _, ok := bits[Permission(name)]; ok {
		return Permission(name), nil
	}
	nearest, least := known[0], 1<<30
	for _, p := range known {
		if d := min(distance(name, string(p)), 7+distance(name, p.short())); d < least {
			nearest, least = p, d
		}
	}
	return "", fmt.Errorf("there is no permission %.64q; the nearest is %s", name, nearest)
}

// short is the permission without the scope convox, as documentation writes it.
func (p Permission) short() string { return strings.TrimPrefix(string(p), "convox:") }

// distance is the number of single-byte edits between two short texts (Levenshtein).
func distance(a, b string) int {
	a = a[:min(len(a), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// PermissionSet is a set of permissions. The zero value is empty. It is comparable and immutable.
type PermissionSet struct{ words [2]uint64 }

const _ = uint(128 - len(known)) // there is a bit for each

// NewPermissionSet returns the set of the given permissions. Those that do not exist are left out.
func NewPermissionSet(permissions ...Permission) PermissionSet {
	var s PermissionSet
	for _, p := range permissions {
		if bit, ok := bits[p]; ok {
			s.words[bit/64] |= 1 << (bit % 64)
		}
	}
	return s
}

// AllPermissions returns the set of every permission.
func AllPermissions() PermissionSet { return NewPermissionSet(known[:]...) }

// Has reports whether the set holds the permission.
func (s PermissionSet) Has(p Permission) bool {
	bit, ok := bits[p]
	return ok && s.words[bit/64]&(1<<(bit%64)) != 0
}

// Union returns what either set holds.
func (s PermissionSet) Union(t PermissionSet) PermissionSet {
	return PermissionSet{[2]uint64{s.words[0] | t.words[0], s.words[1] | t.words[1]}}
}

// Minus returns what s holds and t does not.
func (s PermissionSet) Minus(t PermissionSet) PermissionSet {
	return PermissionSet{[2]uint64{s.words[0] &^ t.words[0], s.words[1] &^ t.words[1]}}
}

// Empty reports whether the set holds nothing.
func (s PermissionSet) Empty() bool { return s == PermissionSet{} }

// All yields the permissions of the set, sorted.
func (s PermissionSet) All() iter.Seq[Permission] {
	return func(yield func(Permission) bool) {
		for i, p := range known {
			if s.words[i/64]&(1<<(i%64)) != 0 && !yield(p) {
				return
			}
		}
	}
}
