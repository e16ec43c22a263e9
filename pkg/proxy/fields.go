package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"rackgateway/pkg/access"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/rack"
)

// formBudget is how many bytes of forms may be in memory at once, over all requests, and formShare how many of them of
// one principal: whoever sends forms that never come leaves the rest to others.
const (
	formBudget = 32 << 20
	formShare  = formBudget / 2
)

// readFields reads what exactly is being asked: the options in query, headers and form, as the rack will
// read them. A form is read once and forwarded byte for byte; every other body is streamed untouched.
func (x *exchange) readFields() *refusal {
	route := x.match.Route
	if route == nil {
		return nil // answered by the gateway itself, which reads nothing but the path
	}
	if refused := x.checkHopByHop(); refused != nil {
		return refused
	}
	var form url.Values
	switch route.Body {
	case rack.FormBody:
		if !access.HasRight(x.principal, x.wanted()) {
			break // they are told so, and nothing is held for them meanwhile
		}
		if refused := x.readForm(); refused != nil {
			return refused
		}
		var err error
		if form, err = rack.ParseForm(x.r.Header, x.form); err != nil {
			return x.badField(err)
		}
	case rack.NoBody:
		if x.r.ContentLength != 0 && !x.socket {
			return refuse(http.StatusBadRequest, "unexpected-body", "this request takes no body: send it without one")
		}
	case rack.StreamBody, rack.JSONBody: // passed on as they come, and not read
	}
	fields, err := route.Read(x.r.URL.RawQuery, x.r.Header, form)
	if err != nil {
		return x.badField(err)
	}
	if err := fields.CheckApp(x.app); err != nil {
		return x.badField(err)
	}
	x.variant = access.Variant{
		Privileged:    fields.Privileged(),
		CarriesEnv:    fields.CarriesEnv(),
		ExternalBuild: fields.ExternalBuild(),
	}
	x.event.Detail.Params = recordable(route, fields)
	return nil
}

func (x *exchange) badField(err error) *refusal {
	var bad *rack.FieldError
	if errors.As(err, &bad) {
		return refuse(http.StatusBadRequest, "bad-option", "%s", bad.Reason)
	}
	return refuse(http.StatusBadRequest, "bad-option", "the options of this request could not be read").because(err)
}

// checkHopByHop refuses a request whose Connection header names an option: such a header is for the next hop
// alone (RFC 9110 section 7.6.1) and would be taken off on the way, so that what is recorded is not what is done.
func (x *exchange) checkHopByHop() *refusal {
	for _, list := range x.r.Header["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if x.match.Route.HasHeader(name) || slices.Contains(baseHeaders, name) {
				return refuse(http.StatusBadRequest, "hop-by-hop-option", "the Connection header names %s, which is an option of this request: send it without", printable(name))
			}
		}
	}
	return nil
}

// formTime is how long a client may take to send a form: while it does, others wait for their share of the budget.
const formTime = 30 * time.Second

// readForm reads the body of a form route whole, within the budget that all forms share.
func (x *exchange) readForm() *refusal {
	x.hasForm = true
	size := x.r.ContentLength
	switch {
	case size == 0:
		return nil
	case size > rack.MaxForm:
		return formTooLarge()
	case size < 0:
		size = rack.MaxForm // chunked: it may be as large as it likes, up to the limit
	}
	if x.here.forms.Add(size) > formShare {
		x.here.forms.Add(-size)
		refused := refuse(http.StatusTooManyRequests, "too-many-forms", "you are sending too many large forms at once: wait for some to end")
		refused.retryAfter = 2
		return refused
	}
	if err := x.p.forms.Acquire(x.patience, size); err != nil {
		x.here.forms.Add(-size)
		busy := refuse(http.StatusServiceUnavailable, "forms-busy", "too many large forms are under way: try again in a few seconds")
		busy.retryAfter = 2
		return busy.because(err)
	}
	x.formed = size
	control := http.NewResponseController(x.w)
	_ = control.SetReadDeadline(time.Now().Add(formTime)) // HTTP/1 always can
	body, err := io.ReadAll(io.LimitReader(x.r.Body, rack.MaxForm+1))
	_ = control.SetReadDeadline(time.Time{})
	x.renewPatience() // the client took its time, not the record
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(http.StatusRequestTimeout, "body-slow", "the form did not come within half a minute: send it again over a better connection").because(err)
	case err != nil:
		return refuse(http.StatusBadRequest, "body-cut", "the body of this request broke off: send it again").because(err)
	case len(body) > rack.MaxForm:
		return formTooLarge()
	}
	x.form = body
	n := int64(len(body))
	x.p.forms.Release(size - n) // of a form that did not say how long it is, the most was held
	x.here.forms.Add(n - size)
	x.formed = n
	x.event.Detail.BytesIn = &n
	return nil
}

func formTooLarge() *refusal {
	return refuse(http.StatusRequestEntityTooLarge, "form-too-large", "the form is larger than the 10 MB that a rack reads: send less at once")
}

// resourceOf is the thing a path names within its app: what stands for the last part of the pattern.
func resourceOf(m *rack.Match) string {
	_, name, _ := strings.Cut(m.Route.Pattern[max(strings.LastIndexByte(m.Route.Pattern, '{'), 0):], "{")
	name, _, _ = strings.Cut(name, "}")
	name = strings.TrimSuffix(name, "...")
	if name == "app" {
		return ""
	}
	return m.Var(name)
}

// clearFields are the options that are recorded as they are. All others are recorded by their length.
var clearFields = map[string]bool{
	// of lists, logs and metrics
	"limit": true, "release": true, "service": true, "services": true, "start": true, "end": true, "period": true, "metrics": true,
	"checks": true, "age": true, "all": true, "lines": true, "events": true, "previous": true, "prefix": true, "generated": true,
	"Follow": true, "Maxlogrequests": true, "Prefix": true, "Since": true, "Previous": true, "Tail": true,
	// of processes
	"Entrypoint": true, "Height": true, "Width": true, "Tty": true, "Disable-Stdin": true, "Cpu": true, "Cpu-Limit": true,
	"Gpu": true, "Gpu-Vendor": true, "Memory": true, "Memory-Limit": true, "Release": true, "Use-Service-Volume": true,
	"Image": true, "Volumes": true, "Privileged": true, "Node-Labels": true, "System-Critical": true, "file": true, "files": true, "tar-extra": true,
	// of builds and releases
	"build": true, "description": true, "development": true, "external": true, "manifest": true, "no-cache": true, "wildcard-domain": true,
	"git-sha": true, "parent-release": true, "force": true, "idle": true, "min": true, "max": true, "timeout": true,
	"status": true, "started": true, "ended": true, "entrypoint": true, "url": true, "image": true,
	// of apps, services and budgets
	"name": true, "generation": true, "lock": true, "count": true, "cpu": true, "gpu": true, "gpu-vendor": true, "memory": true,
	"monthly-cap-usd": true, "alert-threshold-percent": true, "at-cap-action": true, "pricing-adjustment": true, "ack_by": true,
	"force_clear_cooldown": true, "reset_period": true,
	// of certificates, registries, rack resources and the rack
	"id": true, "domains": true, "issuer": true, "duration": true, "server": true, "username": true, "kind": true, "app": true,
	"type": true, "version": true, "role": true, "durationInHour": true, "Public": true,
}

// commandFields hold commands, which are recorded with what looks like a secret masked.
var commandFields = map[string]bool{"Command": true, "command": true}

// wholeCommand is the length in bytes up to which a command is sure to be recorded whole.
const wholeCommand = 2000

// addressFields may hold a user name and password.
var addressFields = map[string]bool{"url": true, "image": true}

// recordable is what of the options may stand in the record.
func recordable(route *rack.Route, fields rack.Fields) audit.Params {
	var params audit.Params
	for _, names := range [][]string{route.Headers, route.Query, route.Form} {
		for _, name := range names {
			value, ok := fields.Lookup(name)
			switch {
			case !ok:
			case commandFields[name]:
				params.Add(name, audit.RedactCommand(value))
				if len(value) > wholeCommand {
					// What is cut from the record can be recognised all the same.
					sum := sha256.Sum256([]byte(value))
					params.Add(name+"-Sha256", hex.EncodeToString(sum[:]))
				}
			case addressFields[name]:
				params.Add(name, audit.RedactCommand(value))
			case name == "manifest" && route.Op == "BuildUpdate":
				params.AddRedacted(name, len(value)) // the whole of it, with defaults of the environment
			case clearFields[name]:
				params.Add(name, value)
			default:
				params.AddRedacted(name, len(value))
			}
		}
	}
	return params
}
