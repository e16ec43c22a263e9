package adminapi

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"go.yaml.in/yaml/v3"
)

// schema is the part of JSON Schema (draft 2020-12) that the document uses. Reading a document that uses more is
// an error, so that nothing it says goes unchecked.
type schema struct {
	Ref         string             `yaml:"$ref"`
	Description string             `yaml:"description"`
	Type        string             `yaml:"type"`
	Format      string             `yaml:"format"`
	Enum        []string           `yaml:"enum"`
	Pattern     string             `yaml:"pattern"`
	MinLength   *int               `yaml:"minLength"`
	MaxLength   *int               `yaml:"maxLength"`
	Minimum     *float64           `yaml:"minimum"`
	Maximum     *float64           `yaml:"maximum"`
	Items       *schema            `yaml:"items"`
	MinItems    *int               `yaml:"minItems"`
	MaxItems    *int               `yaml:"maxItems"`
	Properties  map[string]*schema `yaml:"properties"`
	Required    []string           `yaml:"required"`
	OneOf       []*schema          `yaml:"oneOf"`

	// AdditionalProperties is false, true, or a schema; absent is true.
	AdditionalProperties yaml.Node `yaml:"additionalProperties"`
	Default              yaml.Node `yaml:"default"`
	GoType               string    `yaml:"x-go-type"` // for the generator

	name     string // in components/schemas
	target   *schema
	pattern  *regexp.Regexp
	closed   bool    // no other members than Properties
	others   *schema // what other members are
	resolved bool
}

// UnmarshalYAML refuses keywords other than these, which are all that the document needs: what a schema says is checked.
func (s *schema) UnmarshalYAML(node *yaml.Node) error {
	known := []string{"$ref", "description", "type", "format", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum",
		"items", "minItems", "maxItems", "properties", "required", "oneOf", "additionalProperties", "default", "x-go-type"}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if key := node.Content[i].Value; !slices.Contains(known, key) {
			return fmt.Errorf("line %d: schemas here cannot say %s", node.Line, key)
		}
	}
	type plain schema
	return node.Decode((*plain)(s))
}

// resolve makes the schema ready to check values.
func (s *schema) resolve(all map[string]*schema) (err error) {
	if s.resolved {
		return nil
	}
	s.resolved = true
	if s.Ref != "" {
		if s.target = all[strings.TrimPrefix(s.Ref, "#/components/schemas/")]; s.target == nil {
			return fmt.Errorf("there is no %s", s.Ref)
		}
		return s.target.resolve(all)
	}
	if s.Pattern != "" {
		if s.pattern, err = regexp.Compile(s.Pattern); err != nil {
			return err
		}
	}
	switch {
	case s.AdditionalProperties.Kind == yaml.MappingNode:
		s.others = new(schema)
		if err := s.AdditionalProperties.Decode(s.others); err != nil {
			return err
		}
	case s.AdditionalProperties.Value == "false":
		s.closed = true
	}
	parts := slices.Clone(s.OneOf)
	if s.Items != nil {
		parts = append(parts, s.Items)
	}
	if s.others != nil {
		parts = append(parts, s.others)
	}
	for _, part := range s.Properties {
		parts = append(parts, part)
	}
	for _, part := range parts {
		if err := part.resolve(all); err != nil {
			return err
		}
	}
	return nil
}

// follow is the schema itself, or the one that it refers to.
func (s *schema) follow() *schema {
	for s.target != nil {
		s = s.target
	}
	return s
}

// unfit says what of a value is not as its schema says.
type unfit struct {
	field string // path of the member, such as "bindings[2].role"; "" for the whole
	what  string // goes on from the field's name
}

func (u *unfit) Error() string { return strings.TrimSpace(u.field + " " + u.what) }

// check holds a value, as JSON is read into an any, to the schema.
func (s *schema) check(value any) error {
	if bad := s.follow().fits(value); bad != nil {
		return bad
	}
	return nil
}

func (s *schema) fits(value any) *unfit {
	if len(s.OneOf) > 0 {
		var kinds []string
		for _, choice := range s.OneOf {
			if choice.follow().fits(value) == nil {
				return nil
			}
			kinds = append(kinds, choice.follow().kind())
		}
		return &unfit{what: "must be " + strings.Join(kinds, " or ")}
	}
	switch v := value.(type) {
	case map[string]any:
		if s.Type == "object" {
			return s.fitsObject(v)
		}
	case []any:
		if s.Type == "array" {
			return s.fitsArray(v)
		}
	case string:
		if s.Type == "string" {
			return s.fitsString(v)
		}
	case float64:
		if s.Type == "integer" || s.Type == "number" {
			return s.fitsNumber(v)
		}
	case bool:
		if s.Type == "boolean" {
			return nil
		}
	}
	if s.Type == "" {
		return nil
	}
	return &unfit{what: "must be " + s.kind()}
}

// kind is what a value has to be, in words.
func (s *schema) kind() string {
	switch s.Type {
	case "object":
		return "an object"
	case "array":
		return "a list"
	case "string":
		return "a text"
	case "integer":
		return "a whole number"
	case "boolean":
		return "true or false"
	default:
		return "a " + s.Type
	}
}

func (s *schema) fitsObject(members map[string]any) *unfit {
	for _, name := range s.Required {
		if _, ok := members[name]; !ok {
			return &unfit{name, "is missing"}
		}
	}
	for name, member := range members {
		part := s.Properties[name]
		switch {
		case part != nil:
		case s.closed:
			return &unfit{clean(name), "is not a field of this"}
		case s.others != nil:
			part = s.others
		default:
			continue
		}
		if bad := part.follow().fits(member); bad != nil {
			bad.field = join(clean(name), bad.field)
			return bad
		}
	}
	return nil
}

func (s *schema) fitsArray(items []any) *unfit {
	if s.MinItems != nil && len(items) < *s.MinItems {
		return &unfit{what: fmt.Sprintf("has %d entries, and needs at least %d", len(items), *s.MinItems)}
	}
	if s.MaxItems != nil && len(items) > *s.MaxItems {
		return &unfit{what: fmt.Sprintf("has %d entries, and may have at most %d", len(items), *s.MaxItems)}
	}
	if s.Items == nil {
		return nil
	}
	for i, item := range items {
		if bad := s.Items.follow().fits(item); bad != nil {
			bad.field = join(fmt.Sprintf("[%d]", i), bad.field)
			return bad
		}
	}
	return nil
}

// join puts a path together: "bindings", "[2]" and "role" make "bindings[2].role".
func join(outer, inner string) string {
	if inner == "" || inner[0] == '[' {
		return outer + inner
	}
	return outer + "." + inner
}

func (s *schema) fitsString(text string) *unfit {
	// PostgreSQL's texts cannot hold it, and nobody means it.
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return &unfit{what: "must be UTF-8 without NUL"}
	}
	length := utf8.RuneCountInString(text)
	switch {
	case s.MinLength != nil && length < *s.MinLength:
		return &unfit{what: fmt.Sprintf("has %d characters, and needs at least %d", length, *s.MinLength)}
	case s.MaxLength != nil && length > *s.MaxLength:
		return &unfit{what: fmt.Sprintf("has %d characters, and may have at most %d", length, *s.MaxLength)}
	case s.pattern != nil && !s.pattern.MatchString(text):
		return &unfit{what: "must be of the form " + s.Pattern}
	case len(s.Enum) > 0 && !slices.Contains(s.Enum, text):
		return &unfit{what: "must be one of " + strings.Join(s.Enum, ", ")}
	}
	switch s.Format {
	case "":
	case "uuid":
		if _, err := uuid.Parse(text); err != nil || len(text) != 36 {
			return &unfit{what: "must be an id, such as 0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f"}
		}
	case "date":
		if at, err := time.Parse(time.DateOnly, text); err != nil || at.Year() < 1 {
			return &unfit{what: "must be a date, such as 2026-11-23"}
		}
	case "date-time":
		// Beyond year 1 lies what PostgreSQL and RFC 3339 spell differently.
		if at, err := time.Parse(time.RFC3339, text); err != nil || at.UTC().Year() < 1 || at.UTC().Year() > 9999 {
			return &unfit{what: "must be a time, such as 2026-11-23T15:04:05Z"}
		}
	}
	return nil
}

func (s *schema) fitsNumber(number float64) *unfit {
	switch {
	case s.Type == "integer" && (number != math.Trunc(number) || math.Abs(number) > 1<<53):
		return &unfit{what: "must be a whole number"}
	case s.Minimum != nil && number < *s.Minimum:
		return &unfit{what: "must be at least " + strconv.FormatFloat(*s.Minimum, 'f', -1, 64)}
	case s.Maximum != nil && number > *s.Maximum:
		return &unfit{what: "must be at most " + strconv.FormatFloat(*s.Maximum, 'f', -1, 64)}
	}
	return nil
}

// errNotText says that a parameter cannot be read as what its schema asks for.
var errNotText = errors.New("cannot be read")

// checkText holds a parameter, which arrives as text, to its schema.
func (s *schema) checkText(text string) error {
	s = s.follow()
	switch s.Type {
	case "string":
		return s.check(text)
	case "boolean":
		if text == "true" || text == "false" {
			return nil
		}
	case "integer":
		if number, err := strconv.ParseInt(text, 10, 32); err == nil && strconv.FormatInt(number, 10) == text {
			return s.check(float64(number))
		}
	default:
		return errNotText
	}
	return &unfit{what: "must be " + s.kind()}
}
