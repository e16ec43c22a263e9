// The built-in roles. Nobody can edit them; custom roles are plain lists of permissions.

package access

// Role is a named set of permissions.
type Role struct {
	Name        string
	Description string
	Permissions PermissionSet

	// OwnProcessesOnly limits the role to what a pipeline needs: commands in processes that it started, and
	// logs of builds; while deploy approvals are on, most of it waits for one.
	OwnProcessesOnly bool

	// TokensOnly says that the role is for API tokens, never for people.
	TokensOnly bool
}

// BuiltinRoles returns viewer, ops, deployer, admin and cicd, in this order. Of the first four, each has
// everything that the one before it has.
func BuiltinRoles() []Role {
	viewer := NewPermissionSet(
		PermAppList, PermAppRead, PermProcessList, PermProcessRead, PermInstanceList, PermBuildList, PermBuildRead,
		PermLogRead, PermRackRead, PermResourceList, PermResourceRead, PermCertificateList, PermRegistryList,
	)
	ops := viewer.Union(NewPermissionSet(
		PermAppRestart, PermAppCancel, PermProcessStart, PermProcessExec, PermProcessTerminate, PermReleaseList,
		PermEnvRead, PermFileRead, PermFileWrite, PermRackLog, PermRackProcess,
	))
	deployer := ops.Union(NewPermissionSet(
		PermAppUpdate, PermBuildCreate, PermBuildExport, PermObjectCreate, PermReleaseCreate, PermReleaseRead,
		PermReleasePromote, PermEnvSet, PermConfigRead, PermConfigSet, PermCertificateApply,
	))
	cicd := approvable.Union(NewPermissionSet(
		PermAppList, PermAppRead, PermProcessList, PermProcessRead, PermInstanceList, PermRackRead,
		PermApprovalRequest, PermApprovalRead,
	))
	return []Role{
		{Name: "viewer", Description: "Sees apps, processes, builds and logs.", Permissions: viewer},
		{Name: "ops", Description: "A viewer who also restarts, runs and stops processes.", Permissions: ops},
		{Name: "deployer", Description: "An operator who also builds, releases and configures apps.", Permissions: deployer},
		{Name: "admin", Description: "Everything, on the rack and in the gateway.", Permissions: AllPermissions()},
		{Name: "cicd", Description: "A pipeline: builds, promotes, and runs commands in processes it started. For API tokens only.",
			Permissions: cicd, OwnProcessesOnly: true, TokensOnly: true},
	}
}

// approvable is what a pipeline has only with an approval while deploy approvals are on.
var approvable = NewPermissionSet(
	PermObjectCreate, PermBuildCreate, PermBuildRead, PermLogRead, PermReleaseRead, PermReleasePromote,
	PermProcessStart, PermProcessExec, PermProcessTerminate,
)
