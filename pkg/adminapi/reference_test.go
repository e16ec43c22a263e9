package adminapi_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

const referencePath = "../../docs/api.md"

const referenceHead = `# The API

Made from ` + "`pkg/adminapi/openapi.yaml`" + ` by ` + "`go test ./pkg/adminapi -update`" + `; do not edit it. The document itself is served at
` + "`/api/v1/openapi.json`" + `, and as a page at ` + "`/api/v1/docs`" + `; there are generated clients for Go and TypeScript in
` + "`pkg/adminapi/client`" + `.

Everything the console can do, a script can do with an API token, as far as its rights allow:

` + "```" + `
curl -H "Authorization: Bearer TOKEN" https://gateway.example.com/api/v1/users
` + "```" + `

Errors are ` + "`application/problem+json`" + ` with a stable ` + "`code`" + `, a sentence in ` + "`detail`" + `, and a ` + "`request_id`" + ` by which
` + "`admin audit list`" + ` finds it. Lists are paged by ` + "`cursor`" + `. A write may carry an ` + "`Idempotency-Key`" + `: sent again within a day
with the same key and body it is done once. *Factor* is what the operation asks of a person besides the right to it. What the
rack answers is under ` + "`/api/v1/rack`" + `, and needs what the same request needs at the proxy.
`

// TestTheReferenceIsOfThisDocument holds docs/api.md to openapi.yaml.
func TestTheReferenceIsOfThisDocument(t *testing.T) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Tags  []struct{ Name, Description string }
		Paths yaml.Node
	}
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	type operation struct {
		Tags       []string
		Summary    string
		Permission string `yaml:"x-permission"`
		MFA        string `yaml:"x-mfa"`
		Caller     string `yaml:"x-caller"`
	}
	rows := map[string][]string{}
	for i := 0; i+1 < len(document.Paths.Content); i += 2 {
		path, methods := document.Paths.Content[i].Value, document.Paths.Content[i+1]
		for j := 0; j+1 < len(methods.Content); j += 2 {
			method := methods.Content[j].Value
			if method == "parameters" {
				continue
			}
			var op operation
			if err := methods.Content[j+1].Decode(&op); err != nil {
				t.Fatal(err)
			}
			who := map[string]string{"any": "anybody who is signed in", "none": "anybody"}[op.Permission]
			if who == "" {
				who = "`" + op.Permission + "`"
			}
			switch op.Caller {
			case "person":
				who += ", people only"
			case "session":
				who += ", in the browser only"
			}
			factor := map[string]string{"none": "–", "step-up": "step-up", "always": "always"}[op.MFA]
			rows[op.Tags[0]] = append(rows[op.Tags[0]], fmt.Sprintf("| `%s %s` | %s | %s | %s |\n", strings.ToUpper(method), path, op.Summary, who, factor))
		}
	}
	var page strings.Builder
	page.WriteString(referenceHead)
	for _, tag := range document.Tags {
		fmt.Fprintf(&page, "\n## %s\n\n| | | who | factor |\n|---|---|---|---|\n%s", tag.Description, strings.Join(rows[tag.Name], ""))
		delete(rows, tag.Name)
	}
	if len(rows) > 0 {
		t.Errorf("operations of tags that the document does not describe: %v", rows)
	}
	if *update {
		if err := os.WriteFile(referencePath, []byte(page.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(referencePath)
	if err != nil {
		t.Fatalf("%v (go test ./pkg/adminapi -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), page.String()); diff != "" {
		t.Errorf("docs/api.md is of another document (go test ./pkg/adminapi -update):\n%s", diff)
	}
}
