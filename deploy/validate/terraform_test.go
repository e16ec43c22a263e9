package validate

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// module is one folder of Terraform's, as HashiCorp's own parser reads it.
type module struct {
	folder    string
	blocks    map[string]*hclsyntax.Block // "resource aws_kms_key this"
	variables map[string]bool             // by name: whether it must be given
}

func parseModules(t *testing.T) map[string]*module {
	t.Helper()
	found := map[string]*module{}
	top := root + "/deploy/terraform"
	err := filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".tf" {
			return err
		}
		folder, err := filepath.Rel(top, filepath.Dir(path))
		if err != nil {
			return err
		}
		m := found[folder]
		if m == nil {
			m = &module{folder: folder, blocks: map[string]*hclsyntax.Block{}, variables: map[string]bool{}}
			found[folder] = m
		}
		file, diagnostics := hclparse.NewParser().ParseHCLFile(path)
		if diagnostics.HasErrors() {
			t.Fatal(diagnostics)
		}
		for _, block := range file.Body.(*hclsyntax.Body).Blocks {
			name := strings.Join(append([]string{block.Type}, block.Labels...), " ")
			if block.Type == "provider" || block.Type == "terraform" { // of which there may be several
				name += " " + block.Range().String()
			}
			if m.blocks[name] != nil {
				t.Errorf("%s: %s is there twice", folder, name)
			}
			m.blocks[name] = block
			if block.Type == "variable" {
				_, given := block.Body.Attributes["default"]
				m.variables[block.Labels[0]] = !given
				if _, typed := block.Body.Attributes["type"]; !typed {
					t.Errorf("%s: the variable %s has no type", folder, block.Labels[0])
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(found)); !slices.Equal(names, []string{"example", "modules/anchors", "modules/database", "modules/key"}) {
		t.Fatalf("the modules are %v", names)
	}
	return found
}

// references are all that a body refers to, such as "aws_kms_key.this".
func references(body *hclsyntax.Body) [][]string {
	var found [][]string
	_ = hclsyntax.VisitAll(body, func(node hclsyntax.Node) hcl.Diagnostics {
		expression, ok := node.(*hclsyntax.ScopeTraversalExpr)
		if !ok {
			return nil
		}
		var path []string
		for _, step := range expression.Traversal {
			switch step := step.(type) {
			case hcl.TraverseRoot:
				path = append(path, step.Name)
			case hcl.TraverseAttr:
				path = append(path, step.Name)
			}
		}
		found = append(found, path)
		return nil
	})
	return found
}

func TestEverythingThatModulesReferToIsThere(t *testing.T) {
	modules := parseModules(t)
	for _, m := range modules {
		used := map[string]bool{}
		for name, block := range m.blocks {
			for _, path := range references(block.Body) {
				first := path[0]
				second := ""
				if len(path) > 1 {
					second = path[1]
				}
				ok := true
				switch first {
				case "var":
					_, ok = m.variables[second]
					used[second] = true
				case "local":
					locals := m.blocks["locals"]
					ok = locals != nil && locals.Body.Attributes[second] != nil
				case "data":
					ok = len(path) > 2 && m.blocks["data "+second+" "+path[2]] != nil
				case "module":
					called := m.blocks["module "+second]
					ok = called != nil && len(path) > 2 && modules[sourceOf(t, m, called)].blocks["output "+path[2]] != nil
				case "each", "count", "self", "path":
				case "aws": // a provider, in a call of a module or as `provider = aws.replica`
				default:
					if strings.HasPrefix(first, "aws_") {
						ok = m.blocks["resource "+first+" "+second] != nil
					} else if !bound(block.Body, first) && !slices.Contains([]string{"string", "number", "bool", "list", "map", "set", "any"}, first) {
						ok = false
					}
				}
				if !ok {
					t.Errorf("%s: %s refers to %s, which is not there", m.folder, name, strings.Join(path, "."))
				}
			}
		}
		for variable := range m.variables {
			if !used[variable] {
				t.Errorf("%s: the variable %s is used by nothing", m.folder, variable)
			}
		}
	}
}

// bound reports whether a `for` within the body gives the name.
func bound(body *hclsyntax.Body, name string) bool {
	found := false
	_ = hclsyntax.VisitAll(body, func(node hclsyntax.Node) hcl.Diagnostics {
		if loop, ok := node.(*hclsyntax.ForExpr); ok {
			found = found || loop.KeyVar == name || loop.ValVar == name
		}
		return nil
	})
	return found
}

// sourceOf is the folder of a module that is called.
func sourceOf(t *testing.T, from *module, call *hclsyntax.Block) string {
	t.Helper()
	return filepath.Join(from.folder, text(t, call.Body, "source"))
}

// text is the value of an attribute that is plain text.
func text(t *testing.T, body *hclsyntax.Body, name string) string {
	t.Helper()
	attribute := body.Attributes[name]
	if attribute == nil {
		return ""
	}
	value, diagnostics := attribute.Expr.Value(nil)
	if diagnostics.HasErrors() || value.Type().FriendlyName() != "string" {
		return ""
	}
	return value.AsString()
}

func TestTheExampleGivesEachModuleWhatItNeeds(t *testing.T) {
	modules := parseModules(t)
	example := modules["example"]
	calls := 0
	for name, block := range example.blocks {
		if block.Type != "module" {
			continue
		}
		calls++
		called := modules[sourceOf(t, example, block)]
		if called == nil {
			t.Fatalf("%s calls a module that is not there", name)
		}
		for variable, needed := range called.variables {
			if needed && block.Body.Attributes[variable] == nil {
				t.Errorf("%s does not give %s", name, variable)
			}
		}
		for given := range block.Body.Attributes {
			if _, known := called.variables[given]; !known && given != "source" && given != "providers" {
				t.Errorf("%s gives %s, which the module does not take", name, given)
			}
		}
	}
	if calls != 4 {
		t.Errorf("the example calls %d modules", calls)
	}
}

// within finds the attribute at the end of a path of blocks.
func within(block *hclsyntax.Block, path ...string) *hclsyntax.Body {
	body := block.Body
	for _, name := range path {
		var next *hclsyntax.Body
		for _, inner := range body.Blocks {
			if inner.Type == name {
				next = inner.Body
			}
		}
		if next == nil {
			return &hclsyntax.Body{}
		}
		body = next
	}
	return body
}

func truth(body *hclsyntax.Body, name string) bool {
	attribute := body.Attributes[name]
	if attribute == nil {
		return false
	}
	value, diagnostics := attribute.Expr.Value(nil)
	return !diagnostics.HasErrors() && value.Type().FriendlyName() == "bool" && value.True()
}

func TestTheBucketCannotBeUndone(t *testing.T) {
	m := parseModules(t)["modules/anchors"]
	for _, bucket := range []string{"anchors", "replica"} {
		if !truth(m.blocks["resource aws_s3_bucket "+bucket].Body, "object_lock_enabled") || truth(m.blocks["resource aws_s3_bucket "+bucket].Body, "force_destroy") ||
			!truth(within(m.blocks["resource aws_s3_bucket "+bucket], "lifecycle"), "prevent_destroy") {
			t.Errorf("%s has no lock, or can be destroyed", bucket)
		}
		if got := text(t, within(m.blocks["resource aws_s3_bucket_object_lock_configuration "+bucket], "rule", "default_retention"), "mode"); got != "COMPLIANCE" {
			t.Errorf("%s is locked in mode %q", bucket, got)
		}
		if got := text(t, within(m.blocks["resource aws_s3_bucket_versioning "+bucket], "versioning_configuration"), "status"); got != "Enabled" {
			t.Errorf("versions of %s are %q", bucket, got)
		}
		for _, name := range []string{"block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"} {
			if !truth(m.blocks["resource aws_s3_bucket_public_access_block "+bucket].Body, name) {
				t.Errorf("%s: %s is not set", bucket, name)
			}
		}
	}
	if got := text(t, within(m.blocks["resource aws_s3_bucket_server_side_encryption_configuration anchors"], "rule", "apply_server_side_encryption_by_default"), "sse_algorithm"); got != "aws:kms" {
		t.Errorf("it is encrypted by %q", got)
	}
	refused := map[string]bool{}
	for _, statement := range m.blocks["data aws_iam_policy_document bucket"].Body.Blocks {
		if text(t, statement.Body, "effect") == "Deny" {
			refused[text(t, statement.Body, "sid")] = true
			if len(statement.Body.Blocks) < 2 {
				t.Errorf("%s is refused to everybody without a condition", text(t, statement.Body, "sid"))
			}
		}
	}
	for _, sid := range []string{"RefuseWithoutTLS", "RefuseUnlocked", "RefuseShortLocks", "RefuseOtherEncryption", "RefuseToDelete", "RefuseToLoosen"} {
		if !refused[sid] {
			t.Errorf("the bucket's policy has no %s", sid)
		}
	}
	for _, who := range []string{"writer", "verifier"} {
		for _, statement := range m.blocks["data aws_iam_policy_document "+who].Body.Blocks {
			value, diagnostics := statement.Body.Attributes["actions"].Expr.Value(nil)
			if diagnostics.HasErrors() {
				t.Fatal(diagnostics)
			}
			for _, action := range value.AsValueSlice() {
				name := action.AsString()
				if strings.Contains(name, "*") || strings.Contains(name, "Bypass") {
					t.Errorf("the %s may %s", who, name)
				}
				if strings.Contains(name, "Delete") && (who != "writer" || text(t, statement.Body, "sid") != "TryToDeleteTheCanary") {
					t.Errorf("the %s may %s", who, name)
				}
				if who == "verifier" && strings.Contains(name, "Put") {
					t.Errorf("the verifier may %s", name)
				}
			}
		}
	}
}

func TestTheDatabaseIsKept(t *testing.T) {
	m := parseModules(t)["modules/database"]
	db := m.blocks["resource aws_db_instance this"]
	for _, name := range []string{"storage_encrypted", "deletion_protection", "manage_master_user_password", "copy_tags_to_snapshot"} {
		if !truth(db.Body, name) {
			t.Errorf("%s is not set", name)
		}
	}
	for _, name := range []string{"publicly_accessible", "skip_final_snapshot", "delete_automated_backups"} {
		if db.Body.Attributes[name] == nil || truth(db.Body, name) {
			t.Errorf("%s is not off", name)
		}
	}
	forced := false
	for _, block := range m.blocks["resource aws_db_parameter_group this"].Body.Blocks {
		forced = forced || text(t, block.Body, "name") == "rds.force_ssl" && text(t, block.Body, "value") == "1"
	}
	if !forced {
		t.Error("connections without TLS are taken")
	}
	if !truth(parseModules(t)["modules/key"].blocks["resource aws_kms_key this"].Body, "enable_key_rotation") {
		t.Error("the key is never changed")
	}
}

// The modules tell admin what it reads.
func TestTheAnchorsEnvironmentIsTheGateways(t *testing.T) {
	m := parseModules(t)["modules/anchors"]
	value := m.blocks["output environment"].Body.Attributes["value"].Expr.(*hclsyntax.ObjectConsExpr)
	known := variablesOf(t)
	for _, item := range value.Items {
		name := hcl.ExprAsKeyword(item.KeyExpr)
		if !known[name] {
			t.Errorf("the module gives %s, which admin does not read", name)
		}
	}
}
