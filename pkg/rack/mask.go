// Masks of secrets in a rack's answers, for whoever may not see them; and the filter of the list of apps.
//
// Masked here are fields that no command of the CLI reads in order to write them back, so that a mask can never
// become a value: credentials in the URLs of resources and build repositories, passwords of registries,
// parameters and outputs of apps, resources and the rack, values of configs, private keys. The order of members,
// the spelling of numbers and strings, and a rack's indentation stay as they were.

package rack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Masked stands in an answer for a value that was taken out. The CLI knows it: an app's export leaves out
// parameters that have it.
const Masked = "****"

// maskedUser stands for a URL's user name and password. The URL still parses, so that the CLI finds host and port.
const maskedUser = "***:***"

// MaxMasked is the longest answer that MaskJSON takes, in bytes.
const MaxMasked = 64 << 20

// MaskOptions say what the asking principal may see.
type MaskOptions struct {
	// ClearSecrets leaves secrets as they are.
	ClearSecrets bool

	// Apps, when not nil, says which apps are seen in the list of apps (AppList). It has no effect on
	// other answers.
	Apps func(name string) bool
}

// NeedsMask reports whether answers to the operation may hold secrets that MaskJSON takes out. It must then run
// for every principal that may not see secrets; and for AppList, for every principal that does not see all apps.
func NeedsMask(op Op) bool { return maskOf(op) != nil }

// mask says what becomes of a member's value.
type mask uint8

const (
	keep      mask = iota
	maskAll        // every value below, but null, "" and member names
	maskParam      // maskAll, but for the parameters of an app that say how it is built, and never hold a secret
	maskURL        // userinfo, query values and fragment of a URL
	maskHook       // maskURL, and the path of an http URL, which is the secret of many a webhook
	maskRepo       // maskURL, for what may also be an image name without a scheme
)

// fields are the members that an operation's answers are masked in, at any depth. They are few, and
// compared without regard to case, as the CLI reads them.
type fields []field

type field struct {
	name string
	mask mask
}

func (fs fields) mask(name []byte) mask {
	for _, f := range fs {
		if strings.EqualFold(f.name, string(name)) {
			return f.mask
		}
	}
	return keep
}

// maskOf returns what to mask in answers to the operation, or nil.
func maskOf(op Op) fields {
	switch op {
	case "AppList", "AppGet", "AppCreate":
		return fields{{"parameters", maskParam}}
	case "AppBudgetSimulate":
		return fields{{"webhook-url", maskHook}}
	case "AppConfigList", "AppConfigGet":
		return fields{{"value", maskAll}}
	case "BuildCreate", "BuildGet", "BuildImport", "BuildList", "BuildUpdate":
		return fields{{"repository", maskRepo}}
	case "InstanceKeyroll":
		return fields{{"private-key", maskAll}}
	case "RegistryAdd", "RegistryList":
		return fields{{"password", maskAll}}
	case "ResourceGet", "ResourceList":
		return fields{{"url", maskURL}, {"parameters", maskAll}}
	case "SystemGet":
		return fields{{"parameters", maskAll}, {"outputs", maskAll}}
	case "SystemResourceCreate", "SystemResourceGet", "SystemResourceLink", "SystemResourceList",
		"SystemResourceUnlink", "SystemResourceUpdate":
		return fields{{"url", maskHook}, {"parameters", maskAll}}
	}
	return nil
}

// MaskJSON copies an answer of the operation from r to w without what the options leave out. It holds a
// short answer whole, and otherwise one value at a time, and of the list of apps one app.
//
// It fails closed: an answer that is not one JSON document, that names a member twice, or that is longer than
// MaxMasked is an error. What was written by then holds no secret, but is cut, and must not pass for an answer.
func MaskJSON(op Op, w io.Writer, r io.Reader, opts MaskOptions) error {
	return maskJSON(op, w, r, opts, MaxMasked)
}

func maskJSON(op Op, w io.Writer, r io.Reader, opts MaskOptions, most int64) error {
	start := bytes.NewBuffer(make([]byte, 0, 4<<10))
	_, err := start.ReadFrom(io.LimitReader(r, min(plainLongest, most)+1))
	m, apps := maskerOf(op, opts)
	if err == nil && int64(start.Len()) <= min(plainLongest, most) {
		if masked, ok := m.maskPlain(make([]byte, 0, start.Len()+start.Len()/8), start.Bytes(), apps); ok {
			_, err := w.Write(masked)
			return err
		}
	}
	if err == nil {
		err = m.maskLong(w, io.MultiReader(start, r), apps, most)
	}
	if err != nil {
		return fmt.Errorf("masking the rack's answer to %s: %w", op, hideText(err))
	}
	return nil
}

// MaskBytes is MaskJSON for an answer that is in memory: it appends to dst what the options leave of src. The result
// shares memory with dst alone. After an error, what was appended holds no secret, and is no answer.
func MaskBytes(op Op, dst, src []byte, opts MaskOptions) ([]byte, error) {
	m, apps := maskerOf(op, opts)
	if len(src) <= plainLongest {
		if masked, ok := m.maskPlain(dst, src, apps); ok {
			return masked, nil
		}
	}
	out := bytes.NewBuffer(dst)
	if err := m.maskLong(out, bytes.NewReader(src), apps, MaxMasked); err != nil {
		return out.Bytes(), fmt.Errorf("masking the rack's answer to %s: %w", op, hideText(err))
	}
	return out.Bytes(), nil
}

// maskerOf returns what masks answers to the operation, and which apps are seen in it, nil for no matter.
func maskerOf(op Op, opts MaskOptions) (m masker, apps func(string) bool) {
	if !opts.ClearSecrets {
		m.fields = maskOf(op)
	}
	if op == "AppList" {
		apps = opts.Apps
	}
	return m, apps
}

// maskLong masks an answer of whatever form, token by token.
func (m masker) maskLong(w io.Writer, r io.Reader, apps func(string) bool, most int64) error {
	limited := &io.LimitedReader{R: r, N: most + 1}
	dec := jsontext.NewDecoder(limited)
	enc := jsontext.NewEncoder(w, jsontext.WithIndent("  "), jsontext.PreserveRawStrings(true))
	var err error
	if apps != nil {
		err = m.filter(enc, dec, apps)
	} else {
		err = m.value(enc, dec, keep)
	}
	if err == nil {
		if _, err = dec.ReadToken(); err == nil {
			err = errors.New("something follows the document")
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if limited.N <= 0 {
		err = fmt.Errorf("it is longer than %d bytes", most)
	}
	return err
}

// hideText keeps what a syntax error quotes, which may be part of a secret, out of logs.
func hideText(err error) error {
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		return fmt.Errorf("it is not well formed at byte %d", syntax.ByteOffset)
	}
	return err
}

type masker struct{ fields fields }

// filter copies the elements of a list whose name is to be seen.
func (m masker) filter(enc *jsontext.Encoder, dec *jsontext.Decoder, seen func(string) bool) error {
	switch dec.PeekKind() {
	case jsontext.KindNull:
		return m.value(enc, dec, keep)
	case jsontext.KindBeginArray:
	default:
		if _, err := dec.ReadToken(); err != nil {
			return err
		}
		return errors.New("it is not a list")
	}
	if err := copyToken(enc, dec); err != nil {
		return err
	}
	for dec.PeekKind() != jsontext.KindEndArray {
		element, err := dec.ReadValue()
		if err != nil {
			return err
		}
		name, err := nameOf(element)
		if err != nil {
			return err
		}
		if !seen(name) {
			continue
		}
		if err := m.value(enc, jsontext.NewDecoder(bytes.NewReader(element)), keep); err != nil {
			return err
		}
	}
	return copyToken(enc, dec)
}

// nameOf returns the "name" of a list's element. An element with no name, or with two that differ in case, is
// an error.
func nameOf(element jsontext.Value) (string, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(element))
	if tok, err := dec.ReadToken(); err != nil {
		return "", err
	} else if tok.Kind() != jsontext.KindBeginObject {
		return "", errors.New("an element is not an object")
	}
	name, found := "", false
	for dec.PeekKind() != jsontext.KindEndObject {
		tok, err := dec.ReadToken()
		if err != nil {
			return "", err
		}
		if !strings.EqualFold(tok.String(), "name") {
			if err := dec.SkipValue(); err != nil {
				return "", err
			}
			continue
		}
		value, err := dec.ReadToken()
		if err != nil {
			return "", err
		}
		if found || value.Kind() != jsontext.KindString {
			return "", errors.New("an element has two names, or one that is no text")
		}
		name, found = value.String(), true
	}
	if !found {
		return "", errors.New("an element has no name")
	}
	return name, nil
}

// value copies one value under a mask.
func (m masker) value(enc *jsontext.Encoder, dec *jsontext.Decoder, how mask) error {
	switch kind := dec.PeekKind(); kind {
	case jsontext.KindBeginObject:
		if err := copyToken(enc, dec); err != nil {
			return err
		}
		for dec.PeekKind() != jsontext.KindEndObject {
			tok, err := dec.ReadToken()
			if err != nil {
				return err
			}
			below := m.below(how, tok)
			if err := enc.WriteToken(tok); err != nil {
				return err
			}
			if err := m.value(enc, dec, below); err != nil {
				return err
			}
		}
		return copyToken(enc, dec)

	case jsontext.KindBeginArray:
		if err := copyToken(enc, dec); err != nil {
			return err
		}
		for dec.PeekKind() != jsontext.KindEndArray {
			if err := m.value(enc, dec, how); err != nil {
				return err
			}
		}
		return copyToken(enc, dec)

	default:
		tok, err := dec.ReadToken()
		if err != nil {
			return err
		}
		if how == keep || kind == jsontext.KindNull {
			return enc.WriteToken(tok)
		}
		text := Masked
		if kind == jsontext.KindString {
			text = how.text(tok.String())
		}
		return enc.WriteToken(jsontext.String(text))
	}
}

// below is the mask of a member's value: what its name asks for, or, where that is nothing, what holds above.
// A member named below a mask is masked wholly, for a shape that is not known is no reason to show it.
func (m masker) below(above mask, name jsontext.Token) mask {
	if above == keep && len(m.fields) == 0 {
		return keep
	}
	return m.belowName(above, []byte(name.String()))
}

func (m masker) belowName(above mask, name []byte) mask {
	switch {
	case above == maskParam && slices.Contains(buildParameters, string(name)):
		return keep
	case above != keep:
		return maskAll
	default:
		return m.fields.mask(name)
	}
}

// buildParameters are the parameters of an app that every deployer sets. The CLI reads back what it has set and
// compares, so that masking them would make it say that it failed.
var buildParameters = []string{"BuildArch", "BuildCpu", "BuildLabels", "BuildMem"}

func copyToken(enc *jsontext.Encoder, dec *jsontext.Decoder) error {
	tok, err := dec.ReadToken()
	if err != nil {
		return err
	}
	return enc.WriteToken(tok)
}

// text masks a string.
func (how mask) text(s string) string {
	switch {
	case s == "" || how == keep:
		return s
	case how == maskURL:
		return maskAddress(s, false)
	case how == maskHook:
		return maskAddress(s, true)
	case how == maskRepo && !strings.Contains(s, "://"):
		return maskImage(s)
	case how == maskRepo:
		return maskAddress(s, false)
	default:
		return Masked
	}
}

// maskAddress keeps of a URL what a client needs to find the server, and the path: scheme, host, port. What
// is neither a URL nor HOST:PORT is masked wholly.
func maskAddress(s string, hidePath bool) string {
	if !strings.Contains(s, "://") {
		host, port, err := net.SplitHostPort(s)
		if err != nil || !isHost(host) || !isNumber(port) {
			return Masked
		}
		return s
	}
	u, err := url.Parse(s)
	// A password with a slash in it ends the authority early, and its rest would stand in the path: an @ there
	// says that the text does not mean what it parses to.
	if err != nil || u.Opaque != "" || !isHost(u.Hostname()) || strings.Contains(u.Path+u.RawQuery+u.Fragment, "@") {
		return Masked
	}
	var b strings.Builder
	b.WriteString(u.Scheme + "://")
	if u.User != nil {
		b.WriteString(maskedUser + "@")
	}
	b.WriteString(u.Host)
	if path := u.EscapedPath(); hidePath && strings.HasPrefix(u.Scheme, "http") && path != "" && path != "/" {
		b.WriteString("/" + Masked)
	} else {
		b.WriteString(path)
	}
	if u.RawQuery != "" {
		query, err := url.ParseQuery(u.RawQuery)
		if err != nil {
			return Masked
		}
		for i, name := range slices.Sorted(maps.Keys(query)) {
			b.WriteByte("?&"[min(i, 1)])
			b.WriteString(url.QueryEscape(name) + "=" + Masked)
		}
	}
	return b.String()
}

// imageForm is the name of a container image: HOST/PATH, with a tag, a digest, or both.
var imageForm = regexp.MustCompile(`^[A-Za-z0-9./:_-]+(@sha256:[0-9a-f]+)?$`)

// maskImage keeps the name of a container image, and masks anything else.
func maskImage(s string) string {
	if !imageForm.MatchString(s) {
		return Masked
	}
	return s
}

// hostForm is what a host name or address is made of.
var hostForm = regexp.MustCompile(`^[A-Za-z0-9._:-]+$`)

func isHost(s string) bool { return hostForm.MatchString(s) }

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
