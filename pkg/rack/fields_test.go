package rack

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

const formed = "application/x-www-form-urlencoded"

func headersOf(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h[pairs[i]] = append(h[pairs[i]], pairs[i+1])
	}
	return h
}

func TestFormsAreReadAsARackReadsThem(t *testing.T) {
	for _, c := range []struct {
		name   string
		header http.Header
		body   string
		want   string // the form, encoded; or a part of the reason
		bad    bool
	}{
		{"a form", headersOf("Content-Type", formed), "a=1&b=x+y%21", "a=1&b=x+y%21", false},
		{"a form with a charset", headersOf("Content-Type", formed+"; charset=utf-8"), "a=1", "a=1", false},
		{"nothing, as the CLI says nothing", headersOf("Content-Type", "application/octet-stream"), "", "", false},
		{"nothing at all", http.Header{}, "", "", false},
		{"bytes", headersOf("Content-Type", "application/octet-stream"), "a=1", "must be a form", true},
		{"no type", http.Header{}, "a=1", "must be a form", true},
		{"JSON", headersOf("Content-Type", "application/json"), `{"a":1}`, "must be a form", true},
		{"multipart", headersOf("Content-Type", "multipart/form-data; boundary=x"), "--x--", "must be a form", true},
		{"a form in capitals, which a DELETE does not read", headersOf("Content-Type", "Application/X-WWW-Form-URLencoded"), "a=1", "must be a form", true},
		{"a type that does not parse", headersOf("Content-Type", formed+"; ="), "a=1", "must be a form", true},
		{"two types", headersOf("Content-Type", formed, "Content-Type", "text/plain"), "a=1", "several", true},
		{"a compressed form", headersOf("Content-Type", formed, "Content-Encoding", "gzip"), "a=1", "compressed", true},
		{"a semicolon", headersOf("Content-Type", formed), "a=1;b=2", "well formed", true},
		{"a bad escape", headersOf("Content-Type", formed), "a=%zz", "well formed", true},
		{"too much", headersOf("Content-Type", formed), "a=" + strings.Repeat("x", MaxForm), "larger", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			form, err := ParseForm(c.header, []byte(c.body))
			var bad *FieldError
			switch {
			case errors.As(err, &bad) != c.bad || (err != nil) != c.bad:
				t.Fatalf("error %v", err)
			case c.bad && !strings.Contains(bad.Reason, c.want):
				t.Fatalf("reason %q does not say %q", bad.Reason, c.want)
			case !c.bad && form.Encode() != c.want:
				t.Fatalf("form %v", form)
			}
		})
	}
}

func TestARequestSaysEachThingOnce(t *testing.T) {
	table := table(t)
	for _, c := range []struct {
		name   string
		op     Op
		query  string
		header http.Header
		form   url.Values
		field  string // that the refusal names; "" when it is taken
		bad    bool
	}{
		{"a form", "ReleaseCreate", "", nil, url.Values{"env": {"A=1"}}, "", false},
		{"a field twice in the form", "ReleaseCreate", "", nil, url.Values{"env": {"A=1", "B=2"}}, "env", true},
		{"a field in form and query", "ReleaseCreate", "env=A", nil, url.Values{"env": {"A=1"}}, "env", true},
		{"a form field in the query", "ReleaseCreate", "env=A", nil, nil, "env", true},
		{"a list's option in the query", "CertificateList", "generated=true", nil, nil, "", false},
		{"an option of no rack in the query", "AppGet", "x=1&x=2", nil, nil, "", false},
		{"a query parameter twice", "BuildList", "limit=1&limit=2", nil, nil, "limit", true},
		{"a query that does not parse", "BuildList", "limit=%zz", nil, nil, "", true},
		{"a query with a semicolon", "BuildList", "limit=1;a=2", nil, nil, "", true},
		{"exec's command as a header", "ProcessExec", "", headersOf("Command", "ls"), nil, "", false},
		{"exec's command in the query", "ProcessExec", "command=ls", nil, nil, "", false},
		{"exec's command in both", "ProcessExec", "command=ls", headersOf("Command", "id"), nil, "command", true},
		{"an empty command in the query, and a header", "ProcessExec", "command=", headersOf("Command", "id"), nil, "command", true},
		{"exec's command twice", "ProcessExec", "", headersOf("Command", "ls", "Command", "id"), nil, "Command", true},
		{"an unknown query on a socket", "AppLogs", "follow=true", nil, nil, "follow", true},
		{"two volumes", "ProcessRun", "", headersOf("Volumes", "a", "Volumes", "b"), nil, "Volumes", true},
		{"the CLI's Version header beside a version field", "SystemUpdate", "", headersOf("Version", "dev"), url.Values{"version": {"3.24"}}, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := table.Route(c.op).Read(c.query, c.header, c.form)
			var bad *FieldError
			if errors.As(err, &bad) != c.bad || (err != nil) != c.bad {
				t.Fatalf("error %v", err)
			}
			if c.bad && (bad.Field != c.field || strings.ContainsRune(bad.Reason, '%')) {
				t.Fatalf("the refusal names %q: %s", bad.Field, bad.Reason)
			}
		})
	}
	_, err := table.Route("AppLogs").Read(url.QueryEscape("100%\n"+strings.Repeat("x", 90))+"=1", nil, nil)
	if err == nil || strings.ContainsAny(err.Error(), "%\n") || len(err.Error()) > 200 {
		t.Errorf("a name that cannot be shown is shown: %v", err)
	}
}

func TestFieldsKnowWhatARequestAsksFor(t *testing.T) {
	table := table(t)
	read := func(op Op, query string, header http.Header, form url.Values) Fields {
		t.Helper()
		f, err := table.Route(op).Read(query, header, form)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, h := range PrivilegedHeaders() {
		if !read("ProcessRun", "", headersOf(h, ""), nil).Privileged() {
			t.Errorf("a run with header %s is not privileged", h)
		}
		if read("ProcessExec", "", headersOf(h, "x"), nil).Privileged() {
			t.Errorf("an exec with header %s, which it does not read, is privileged", h)
		}
	}
	if read("ProcessRun", "", headersOf("Command", "ls", "Cpu", "1"), nil).Privileged() {
		t.Error("a plain run is privileged")
	}
	if !read("ReleaseCreate", "", nil, url.Values{"env": {""}}).CarriesEnv() || read("ReleaseCreate", "", nil, url.Values{"build": {"B1"}}).CarriesEnv() {
		t.Error("a release's env is not seen")
	}
	for value, want := range map[string]bool{"true": true, "1": true, "TRUE": true, "false": false, "": false} {
		if got := read("BuildCreate", "", nil, url.Values{"external": {value}}).ExternalBuild(); got != want {
			t.Errorf("external=%s is an external build: %t", value, got)
		}
	}
	if got := read("ProcessExec", "command=ls", nil, nil).Command() + read("ProcessRun", "", headersOf("Command", "id"), nil).Command(); got != "lsid" {
		t.Errorf("commands are %q", got)
	}
	if f := read("ProcessExec", "", headersOf("Command", "id"), nil); !f.Has("Command") || f.Has("command") || f.Has("Image") || f.Get("Authorization") != "" {
		t.Error("options are found where they are not")
	}
	var none Fields
	if none.Has("x") || none.Privileged() || none.CarriesEnv() || none.ExternalBuild() || none.CheckApp("a") != nil {
		t.Error("no fields say something")
	}
}

func TestOptionsStayWithinTheApp(t *testing.T) {
	table := table(t)
	for _, c := range []struct {
		op          Op
		name, value string
		ok          bool
	}{
		{"BuildCreate", "url", "object://demo/tmp/x.tgz", true},
		{"BuildCreate", "url", "https://example.com/x.git", true},
		{"BuildCreate", "url", "", true},
		{"BuildCreate", "url", "object://other/tmp/x.tgz", false},
		{"BuildCreate", "url", "OBJECT://other/tmp/x.tgz", false},
		{"BuildCreate", "url", " object://other/tmp/x.tgz", false},
		{"BuildCreate", "url", "object://demo/../other/x", false},
		{"BuildCreate", "url", "object://demo/a%2f..%2fx", false},
		{"BuildCreate", "url", "object://demo", false},
		{"BuildCreate", "url", "object://demoother/x", false},
		{"BuildCreate", "url", "object:demo/x", false},
		{"BuildUpdate", "logs", "object://demo/logs/1", true},
		{"BuildUpdate", "logs", "object://other/logs/1", false},
		{"ReleaseCreate", "parent-release", "RABCDEFGHIJ", true},
		{"ReleaseCreate", "parent-release", "../other/R1", false},
		{"ReleaseCreate", "build", "other/B1", false},
		{"ReleaseCreate", "build", "BABC", true},
	} {
		f, err := table.Route(c.op).Read("", nil, url.Values{c.name: {c.value}})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.CheckApp("demo"); (err == nil) != c.ok {
			t.Errorf("%s with %s=%s: %v", c.op, c.name, c.value, err)
		}
	}
}

func TestHeadersThatStandInAreStripped(t *testing.T) {
	table := table(t)
	for op, want := range map[Op]string{
		"RegistryAdd":    "Password Server Username",
		"ProcessExec":    "",
		"SystemUpdate":   "Count Force Parameters Type",
		"AppConfigSet":   "Value",
		"AppBudgetReset": "Ack_by Force_clear_cooldown Reset_period",
		"FilesDownload":  "File",
	} {
		if got := strings.Join(table.Route(op).StripHeaders(), " "); got != want {
			t.Errorf("%s strips %q, want %q", op, got, want)
		}
	}
	hold := []string{"Authorization", "Content-Type", "Content-Length", "Host", "Connection", "Upgrade", "Version", "User-Agent", "Accept", "Session", "Rack"}
	for _, r := range table.Routes() {
		for _, h := range r.StripHeaders() {
			if slices.Contains(hold, h) || strings.HasPrefix(h, "Sec-") {
				t.Errorf("%s strips %s, which says something of its own", r.Op, h)
			}
		}
	}
}

// rackReads is how a rack reads one option: stdapi's Context.Value for some, its UnmarshalOptions for the others.
func rackReads(r *http.Request, kind, name string) string {
	_ = r.ParseMultipartForm(8192) // a rack does not look at the error
	if r.Method == http.MethodDelete && r.PostForm == nil || r.Method == http.MethodDelete && len(r.PostForm) == 0 {
		if strings.HasPrefix(r.Header.Get("Content-Type"), formed) {
			body, _ := io.ReadAll(r.Body)
			if vals, err := url.ParseQuery(string(body)); err == nil {
				for k, v := range vals {
					r.Form[k] = append(r.Form[k], v...)
				}
			}
		}
	}
	switch kind {
	case "header":
		if v := r.Header[name]; len(v) > 0 {
			return v[0]
		}
	case "query":
		if v := r.URL.Query()[name]; len(v) > 0 {
			return v[0]
		}
	case "param":
		if v := r.Form[name]; len(v) > 0 {
			return v[0]
		}
	case "value":
		if v := r.FormValue(name); v != "" {
			return v
		}
		return r.Header.Get(name)
	}
	return ""
}

// FuzzCarriers puts text into the query, a header and the body, and compares what is read of a request that is
// taken with what a rack reads of the request that is forwarded.
func FuzzCarriers(f *testing.F) {
	table := table(f)
	rows := table.Routes()
	for i := range rows {
		f.Add(uint8(i), "", "Command", "ls", "", formed)
	}
	row := func(op Op) uint8 {
		return uint8(slices.IndexFunc(rows, func(r Route) bool { return r.Op == op }))
	}
	f.Add(row("ReleaseCreate"), "env=x", "Env", "y", "env=z&env=a", formed)
	f.Add(row("RegistryAdd"), "password=x", "Password", "y", "server=s", formed)
	f.Add(row("ProcessExec"), "command=x", "Command", "y", "", "")
	f.Add(row("BuildCreate"), "external=true", "External", "true", "url=x;external=true", formed+"; charset=x")
	f.Add(row("AppBudgetClear"), "ack_by=q", "Ack_by", "h", "ack_by=b", formed)
	f.Add(row("AppConfigSet"), "", "Value", "h", "value=&x=%zz", formed)
	f.Add(row("FilesDelete"), "files=a", "Files", "b", "files=c", formed)
	f.Add(row("BuildCreate"), "", "X", "", "--b\r\nContent-Disposition: form-data; name=\"external\"\r\n\r\ntrue\r\n--b--", "multipart/form-data; boundary=b")

	f.Fuzz(func(t *testing.T, n uint8, query, headerName, headerValue, body, contentType string) {
		route := &rows[int(n)%len(rows)]
		if route.Method == AnyMethod || (route.Body != FormBody && body != "") || (route.Socket && body != "") {
			return
		}
		header := http.Header{}
		header.Set(headerName, headerValue)
		if contentType != "" {
			header.Set("Content-Type", contentType)
		}
		var form url.Values
		if route.Body == FormBody {
			var err error
			if form, err = ParseForm(header, []byte(body)); err != nil {
				return
			}
		}
		fields, err := route.Read(query, header, form)
		if err != nil {
			return
		}

		// Forward it.
		for _, name := range route.StripHeaders() {
			delete(header, name)
		}
		forwarded := func() *http.Request {
			return &http.Request{Method: route.Method, URL: &url.URL{Path: "/", RawQuery: query}, Header: header.Clone(),
				Body: io.NopCloser(bytes.NewReader([]byte(body)))}
		}
		check := func(kind, name string) {
			if got, want := fields.Get(name), rackReads(forwarded(), kind, name); got != want {
				t.Fatalf("%s: %s is %q here, and as a %s %q at the rack", route.Op, name, got, kind, want)
			}
		}
		for _, name := range route.Form {
			if route.Method == http.MethodGet && form.Has(name) {
				continue // a rack does not read the body of a GET
			}
			check("param", name)
			if canonical(name) != "Version" { // the rack reads it from the form alone
				check("value", name)
			}
		}
		for _, name := range route.Query {
			check("query", name)
			if name != "command" {
				check("value", name)
			} else if got, want := fields.Command(), rackReads(forwarded(), "value", name); got != want {
				t.Fatalf("the command is %q here, and %q at the rack", got, want)
			}
		}
		for _, name := range route.Headers {
			check("header", name)
		}
	})
}
