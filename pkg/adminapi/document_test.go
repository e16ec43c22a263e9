package adminapi_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"rackgateway/pkg/access"
	"rackgateway/pkg/adminapi"
)

func TestWhatIsMadeFromTheDocumentIsNotStale(t *testing.T) {
	for _, made := range []struct{ config, file string }{{"generate.yaml", "server.gen.go"}, {"client/generate.yaml", "client/client.gen.go"}} {
		config, err := os.ReadFile(made.config)
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "made.go")
		other := filepath.Join(t.TempDir(), "generate.yaml")
		if err := os.WriteFile(other, bytes.Replace(config, []byte("output: "+made.file), []byte("output: "+out), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../tools.mod", "oapi-codegen", "-config", other, "openapi.yaml")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		want, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(made.file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what openapi.yaml makes: run go generate ./pkg/adminapi", made.file)
		}
	}
}

func TestEveryRuleOfTheAPIHasItsOperation(t *testing.T) {
	w := newWorld(t)
	ops := make(map[string]bool)
	for _, op := range w.api.Operations() {
		if ops[op.ID] {
			t.Errorf("%s is there twice", op.ID)
		}
		ops[op.ID] = true
	}
	for _, rule := range access.Rules() {
		if unicode.IsLower(rune(rule.Op[0])) && !ops[rule.Op] && rule.Op != "rack" {
			t.Errorf("the rule %s has no operation", rule.Op)
		}
	}
}

func TestADocumentThatSaysOtherwiseThanTheRulesIsRefused(t *testing.T) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []struct{ from, to string }{
		{"x-permission: gateway:user:read", "x-permission: any"},
		{"x-permission: gateway:user:manage", "x-permission: none"},
		{"x-mfa: always", "x-mfa: none"},
		{"x-caller: session", "x-caller: person"},
		{"operationId: listUsers", "operationId: listOthers"},
		{"maxLength: 254", "longest: 254"},
		{"#/components/schemas/NewUser", "#/components/schemas/NoUser"},
		{"summary: People", "summary:"},
	} {
		if !strings.Contains(string(text), change.from) {
			t.Errorf("the document does not say %s", change.from)
		}
		if err := adminapi.ReadDocument([]byte(strings.Replace(string(text), change.from, change.to, 1))); err == nil {
			t.Errorf("%s in place of %s is taken", change.to, change.from)
		}
	}
	if err := adminapi.ReadDocument(text); err != nil {
		t.Error(err)
	}
}

func TestTheDocumentAndItsPageAreServed(t *testing.T) {
	w := newWorld(t)
	got := w.want(http.StatusOK, "", "", "GET", "/openapi.json", nil)
	var document struct {
		OpenAPI string `json:"openapi"`
	}
	if err := json.Unmarshal([]byte(got.body), &document); err != nil || document.OpenAPI != "3.1.0" {
		t.Errorf("%v: %.200s", err, got.body)
	}
	if strings.Contains(got.body, "x-go-type") || !strings.Contains(got.body, `"x-permission": "gateway:user:manage"`) {
		t.Error("the document tells what is the generator's, or not what is the reader's")
	}
	page := w.want(http.StatusOK, "", "", "GET", "/docs", nil)
	for _, op := range w.api.Operations() {
		if !strings.Contains(page.body, `id="`+op.ID+`"`) {
			t.Errorf("the page does not show %s", op.ID)
		}
	}
	for _, foreign := range []string{"<script", "http://", "src=", "@import"} {
		if strings.Contains(page.body, foreign) {
			t.Errorf("the page has %s", foreign)
		}
	}
}
