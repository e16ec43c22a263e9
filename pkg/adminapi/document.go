package adminapi

import (
	"bytes"
	_ "embed" // the document
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"

	"rackgateway/pkg/access"
)

// documentYAML is the contract, as people edit it.
//
//go:embed openapi.yaml
var documentYAML []byte

// BasePath is where the API is mounted; paths in the document are below it.
const BasePath = "/api/v1"

// document is the contract, ready for use. It is not changed once it was read.
type document struct {
	json       []byte // as clients get it, in the order of the file
	info       info
	tags       []tag
	operations []*operation          // in the order of the file
	byRoute    map[string]*operation // by method, a space, and the path with its variables
	schemas    map[string]*schema    // components/schemas
}

type info struct {
	Title       string `yaml:"title"`
	Version     string `yaml:"version"`
	Summary     string `yaml:"summary"`
	Description string `yaml:"description"`
}

type tag struct {
	Name        string `yaml:"name"`
	Description string `yaml:"description"`
}

// operation is one entry of the document, with its rule.
type operation struct {
	ID          string
	Method      string
	Path        string // with variables, below BasePath
	Tag         string
	Summary     string
	Description string
	Public      bool // anybody may, without a credential
	Rule        access.Rule
	Parameters  []*parameter
	Body        *schema // nil when it takes none
	Responses   map[string]response
}

// changes reports whether the operation may change something.
func (o *operation) changes() bool { return o.Method != http.MethodGet }

// streams reports whether the answer goes on for as long as somebody reads it.
func (o *operation) streams() bool {
	for kind := range o.Responses["200"].Content {
		switch kind {
		case "text/event-stream", "application/jsonl", "text/csv":
			return true
		}
	}
	return false
}

type parameter struct {
	Ref         string  `yaml:"$ref"`
	Name        string  `yaml:"name"`
	In          string  `yaml:"in"`
	Required    bool    `yaml:"required"`
	Description string  `yaml:"description"`
	Schema      *schema `yaml:"schema"`
}

type response struct {
	Ref         string `yaml:"$ref"`
	Description string `yaml:"description"`
	Content     map[string]struct {
		Schema *schema `yaml:"schema"`
	} `yaml:"content"`
}

// yamlDocument is how the file is read. Its paths are read as nodes, because their order is the reader's.
type yamlDocument struct {
	Info       info      `yaml:"info"`
	Tags       []tag     `yaml:"tags"`
	Paths      yaml.Node `yaml:"paths"`
	Components struct {
		Parameters map[string]*parameter `yaml:"parameters"`
		Responses  map[string]response   `yaml:"responses"`
		Schemas    map[string]*schema    `yaml:"schemas"`
	} `yaml:"components"`
}

type yamlOperation struct {
	OperationID string       `yaml:"operationId"`
	Tags        []string     `yaml:"tags"`
	Summary     string       `yaml:"summary"`
	Description string       `yaml:"description"`
	Permission  string       `yaml:"x-permission"`
	MFA         string       `yaml:"x-mfa"`
	Caller      string       `yaml:"x-caller"`
	Parameters  []*parameter `yaml:"parameters"`
	RequestBody *struct {
		Content map[string]struct {
			Schema *schema `yaml:"schema"`
		} `yaml:"content"`
	} `yaml:"requestBody"`
	Responses map[string]response `yaml:"responses"`
}

// readDocument reads the contract and holds it against pkg/access: an operation without a rule, or one that the two
// say different things of, is an error.
func readDocument(text []byte) (*document, error) {
	var tree yaml.Node
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("the API's document: %w", err)
	}
	var in yamlDocument
	if err := tree.Decode(&in); err != nil {
		return nil, fmt.Errorf("the API's document: %w", err)
	}
	d := &document{info: in.Info, tags: in.Tags, byRoute: make(map[string]*operation), schemas: in.Components.Schemas}
	for name, s := range d.schemas {
		s.name = name
	}
	for _, name := range slices.Sorted(maps.Keys(d.schemas)) {
		if err := d.schemas[name].resolve(d.schemas); err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
	}
	for i := 0; i+1 < len(in.Paths.Content); i += 2 {
		path, item := in.Paths.Content[i].Value, in.Paths.Content[i+1]
		var shared []*parameter
		for j := 0; j+1 < len(item.Content); j += 2 {
			key, value := item.Content[j].Value, item.Content[j+1]
			if key == "parameters" {
				if err := value.Decode(&shared); err != nil {
					return nil, fmt.Errorf("%s: %w", path, err)
				}
				continue
			}
			op, err := readOperation(strings.ToUpper(key), path, value, shared, &in)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", key, path, err)
			}
			d.operations = append(d.operations, op)
			d.byRoute[op.Method+" "+op.Path] = op
		}
	}
	var out bytes.Buffer
	encoder := jsontext.NewEncoder(&out, jsontext.WithIndent("  "))
	if err := writeJSON(encoder, tree.Content[0]); err != nil {
		return nil, fmt.Errorf("the API's document as JSON: %w", err)
	}
	d.json = out.Bytes()
	return d, nil
}

func readOperation(method, path string, node *yaml.Node, shared []*parameter, in *yamlDocument) (*operation, error) {
	var y yamlOperation
	if err := node.Decode(&y); err != nil {
		return nil, err
	}
	op := &operation{
		ID: y.OperationID, Method: method, Path: path, Summary: y.Summary, Description: y.Description,
		Public: y.Permission == "none", Responses: make(map[string]response),
	}
	if len(y.Tags) == 1 {
		op.Tag = y.Tags[0]
	}
	for _, p := range append(slices.Clone(shared), y.Parameters...) {
		if name, ok := strings.CutPrefix(p.Ref, "#/components/parameters/"); ok {
			if p = in.Components.Parameters[name]; p == nil {
				return nil, fmt.Errorf("there is no parameter %s", name)
			}
		}
		if p.Schema == nil {
			return nil, fmt.Errorf("parameter %s has no schema", p.Name)
		}
		if err := p.Schema.resolve(in.Components.Schemas); err != nil {
			return nil, fmt.Errorf("parameter %s: %w", p.Name, err)
		}
		op.Parameters = append(op.Parameters, p)
	}
	if y.RequestBody != nil {
		content, ok := y.RequestBody.Content["application/json"]
		if !ok || len(y.RequestBody.Content) != 1 || content.Schema == nil {
			return nil, fmt.Errorf("a body is application/json and nothing else")
		}
		op.Body = content.Schema
		if err := op.Body.resolve(in.Components.Schemas); err != nil {
			return nil, err
		}
	}
	for status, r := range y.Responses {
		if name, ok := strings.CutPrefix(r.Ref, "#/components/responses/"); ok {
			r = in.Components.Responses[name]
		}
		for _, content := range r.Content {
			if err := content.Schema.resolve(in.Components.Schemas); err != nil {
				return nil, fmt.Errorf("response %s: %w", status, err)
			}
		}
		op.Responses[status] = r
	}
	return op, op.bindRule(y)
}

// appVariable is the part of a path that names the app that an operation is about.
const appVariable = "appName"

// settingVariable is the part that names the setting.
const settingVariable = "settingKey"

// bindRule finds the rule that decides about an operation. The document says to its readers what the rule says
// to access.Decide, and they have to say the same.
func (o *operation) bindRule(y yamlOperation) error {
	rule, ok := access.RuleFor(o.ID)
	if o.Public {
		if ok || y.MFA != access.LevelNone.String() || y.Caller != "" {
			return fmt.Errorf("operation %s is for anybody and has a rule", o.ID)
		}
		return nil
	}
	if !ok {
		return fmt.Errorf("operation %q has no rule in pkg/access", o.ID)
	}
	permission, caller := string(rule.Permission), rule.Only.String()
	if rule.Anybody {
		permission = "any"
	}
	if rule.Only == access.AnyCaller {
		caller = ""
	}
	if y.Permission != permission || y.MFA != rule.Level.String() || y.Caller != caller {
		return fmt.Errorf("operation %s: the document says %s, %s, %q, and pkg/access says %s, %s, %q",
			o.ID, y.Permission, y.MFA, y.Caller, permission, rule.Level, caller)
	}
	if (rule.AppFrom == access.AppVar) != strings.Contains(o.Path, "{"+appVariable+"}") {
		return fmt.Errorf("operation %s: the path %s and the rule differ in whether it is about an app", o.ID, o.Path)
	}
	o.Rule = rule
	return nil
}

// writeJSON writes a YAML tree as JSON, its members in their order. The server's own notes to its generator stay
// behind.
func writeJSON(to *jsontext.Encoder, node *yaml.Node) error {
	switch node.Kind {
	case yaml.MappingNode:
		if err := to.WriteToken(jsontext.BeginObject); err != nil {
			return err
		}
		for i := 0; i+1 < len(node.Content); i += 2 {
			if strings.HasPrefix(node.Content[i].Value, "x-go-") {
				continue
			}
			if err := to.WriteToken(jsontext.String(node.Content[i].Value)); err != nil {
				return err
			}
			if err := writeJSON(to, node.Content[i+1]); err != nil {
				return err
			}
		}
		return to.WriteToken(jsontext.EndObject)
	case yaml.SequenceNode:
		if err := to.WriteToken(jsontext.BeginArray); err != nil {
			return err
		}
		for _, item := range node.Content {
			if err := writeJSON(to, item); err != nil {
				return err
			}
		}
		return to.WriteToken(jsontext.EndArray)
	case yaml.ScalarNode:
		switch node.Tag {
		case "!!null": // a comma in a text that is not in quotes
			return fmt.Errorf("line %d: a member without a value", node.Line)
		case "!!int", "!!float", "!!bool":
			return to.WriteValue(jsontext.Value(node.Value))
		}
		return to.WriteToken(jsontext.String(node.Value))
	default:
		return fmt.Errorf("line %d: a document has mappings, sequences and scalars", node.Line)
	}
}
