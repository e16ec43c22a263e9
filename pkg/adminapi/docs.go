package adminapi

import (
	"bytes"
	"context"
	_ "embed" // the template
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// The page is made once, from the document, of plain HTML: nothing is fetched from elsewhere, and nothing runs.

//go:embed docs.html
var docsTemplate string

//go:embed docs.css
var docsStyle string

// docsPolicy lets the page have its style sheet, and nothing else.
const docsPolicy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

func renderDocs(d *document) ([]byte, error) {
	funcs := template.FuncMap{
		"rows":      rows,
		"kindOf":    kindOf,
		"paragraph": func(s string) []string { return strings.Split(strings.TrimSpace(s), "\n\n") },
		"indented":  func(s string) bool { return strings.HasPrefix(s, "    ") },
		"unindent":  func(s string) string { return strings.ReplaceAll("\n"+s, "\n    ", "\n")[1:] },
		"inline":    inline,
		"breakable": breakable,
		"named":     func(name string) bool { return d.schemas[name] != nil },
		"statuses":  func(m map[string]response) []string { return slices.Sorted(maps.Keys(m)) },
		"base":      func() string { return BasePath },
		"codes":     func() []code { return codes },
	}
	page, err := template.New("docs").Funcs(funcs).Parse(docsTemplate)
	if err != nil {
		return nil, fmt.Errorf("the API's page: %w", err)
	}
	type section struct {
		Tag        tag
		Operations []*operation
	}
	var sections []section
	for _, t := range d.tags {
		s := section{Tag: t}
		for _, op := range d.operations {
			if op.Tag == t.Name {
				s.Operations = append(s.Operations, op)
			}
		}
		sections = append(sections, s)
	}
	type named struct {
		Name   string
		Schema *schema
	}
	var schemas []named
	for _, name := range slices.Sorted(maps.Keys(d.schemas)) {
		schemas = append(schemas, named{name, d.schemas[name]})
	}
	var out bytes.Buffer
	err = page.Execute(&out, map[string]any{
		"Info": d.info, "Style": template.CSS(docsStyle), // #nosec G203 -- our own file
		"Sections": sections, "Schemas": schemas,
	})
	if err != nil {
		return nil, fmt.Errorf("the API's page: %w", err)
	}
	return out.Bytes(), nil
}

// span is a part of a text.
type span struct {
	Code bool
	Text string
}

// inline finds what stands between backticks.
func inline(text string) []span {
	var spans []span
	for i, part := range strings.Split(text, "`") {
		if part != "" {
			spans = append(spans, span{Code: i%2 == 1, Text: part})
		}
	}
	return spans
}

// breakable lets a path go on in the next line where one of its segments ends.
func breakable(path string) template.HTML {
	return template.HTML(strings.ReplaceAll(template.HTMLEscapeString(path), "/", "<wbr>/")) //nolint:gosec // escaped, in this line
}

// row is one member of an object, as the page lists it.
type row struct {
	Name     string
	Kind     string
	Link     string
	Required bool
	Text     string
}

func rows(s *schema) []row {
	s = s.follow()
	var list []row
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		r := row{Name: name, Required: slices.Contains(s.Required, name), Text: p.Description}
		r.Kind, r.Link = kindOf(p), linkOf(p)
		list = append(list, r)
	}
	return list
}

func linkOf(s *schema) string {
	if s.Items != nil {
		return linkOf(s.Items)
	}
	if s.target != nil {
		return s.target.name
	}
	return ""
}

// kindOf says what a value is, in a few words.
func kindOf(s *schema) string {
	if s == nil {
		return ""
	}
	if s.target != nil {
		return s.target.name
	}
	var limits []string
	switch {
	case len(s.Enum) > 0:
		limits = append(limits, strings.Join(s.Enum, " | "))
	case s.Pattern != "":
		limits = append(limits, s.Pattern)
	case s.Format != "":
		limits = append(limits, s.Format)
	}
	if s.MaxLength != nil {
		limits = append(limits, "up to "+strconv.Itoa(*s.MaxLength)+" characters")
	}
	if s.Minimum != nil && s.Maximum != nil {
		limits = append(limits, fmt.Sprintf("%g to %g", *s.Minimum, *s.Maximum))
	}
	kind := s.Type
	if len(s.OneOf) > 0 {
		var kinds []string
		for _, choice := range s.OneOf {
			kinds = append(kinds, kindOf(choice))
		}
		kind = strings.Join(kinds, " or ")
	}
	if s.Items != nil {
		kind = "list of " + kindOf(s.Items)
	}
	if len(limits) > 0 {
		kind += " (" + strings.Join(limits, "; ") + ")"
	}
	return kind
}

// GetDocs answers with the page.
func (a operations) GetDocs(context.Context, GetDocsRequestObject) (GetDocsResponseObject, error) {
	return page(a.docs), nil
}

// page is the HTML of the document.
type page []byte

// VisitGetDocsResponse writes the page.
func (p page) VisitGetDocsResponse(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", docsPolicy)
	_, err := w.Write(p) // #nosec G705 -- made of our own document, by html/template
	return err
}

// GetDocument answers with the document.
func (a operations) GetDocument(context.Context, GetDocumentRequestObject) (GetDocumentResponseObject, error) {
	return openAPI(a.document.json), nil
}

// openAPI is the document as JSON.
type openAPI []byte

// VisitGetDocumentResponse writes the document.
func (d openAPI) VisitGetDocumentResponse(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(d) // #nosec G705 -- our own document, and JSON
	return err
}
