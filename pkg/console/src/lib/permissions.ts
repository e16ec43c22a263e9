// Permissions as people read them: what each lets somebody do, grouped by what it is about.

export interface PermissionGroup {
  name: string;
  title: string;
  permissions: string[];
}

const titles: Record<string, string> = {
  "convox:app": "Apps",
  "convox:build": "Builds",
  "convox:certificate": "Certificates",
  "convox:config": "Config files",
  "convox:env": "Environment",
  "convox:file": "Files in processes",
  "convox:instance": "Instances",
  "convox:log": "Logs",
  "convox:network": "Network",
  "convox:object": "Uploads",
  "convox:process": "Processes",
  "convox:rack": "The rack",
  "convox:registry": "Registries",
  "convox:release": "Releases",
  "convox:resource": "Resources",
  "convox:secret": "Secrets",
  "gateway:approval": "Deploy approvals",
  "gateway:audit": "Audit record",
  "gateway:factor": "Second factors",
  "gateway:integration": "Integrations",
  "gateway:recording": "Recordings",
  "gateway:role": "Roles",
  "gateway:session": "Sessions",
  "gateway:setting": "Settings",
  "gateway:token": "API tokens",
  "gateway:user": "People",
};

/** Those that deserve a second thought: they reach secrets, machines, or other people's rights. */
const grave = new Set([
  "convox:secret:read", "convox:secret:set", "convox:rack:update", "convox:instance:shell", "convox:instance:keyroll", "convox:instance:terminate",
  "convox:process:privileged", "convox:process:build", "convox:app:delete", "convox:resource:export", "convox:resource:console", "convox:network:proxy", "convox:object:admin",
  "gateway:user:manage", "gateway:role:manage", "gateway:token:manage", "gateway:setting:manage", "gateway:factor:reset", "gateway:audit:export",
]);

export function isGrave(permission: string): boolean {
  return grave.has(permission);
}

export function group(permissions: readonly string[]): PermissionGroup[] {
  const groups = new Map<string, PermissionGroup>();
  for (const permission of permissions) {
    const name = permission.split(":").slice(0, 2).join(":");
    const into = groups.get(name) ?? { name, title: titles[name] ?? name, permissions: [] };
    into.permissions.push(permission);
    groups.set(name, into);
  }
  return [...groups.values()];
}

/** action is the last part: what one may do. */
export function action(permission: string): string {
  return permission.slice(permission.lastIndexOf(":") + 1);
}

export interface SetDiff {
  added: string[];
  removed: string[];
}

export function diffSets(before: Iterable<string>, after: Iterable<string>): SetDiff {
  const old = new Set(before);
  const now = new Set(after);
  return { added: [...now].filter((p) => !old.has(p)).sort(), removed: [...old].filter((p) => !now.has(p)).sort() };
}
