package console

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

var built = fstest.MapFS{
	"not-built.html":               {Data: []byte("<h1>not built</h1>")},
	"app/index.html":               {Data: []byte(`<script type="module" src="/console/assets/index-abc.js"></script>` + strings.Repeat(" ", 500))},
	"app/assets/index-abc.js":      {Data: []byte(strings.Repeat("console.log(1);\n", 100))},
	"app/assets/geist-abc.woff2":   {Data: []byte("wOF2" + strings.Repeat("\x00", 500))},
	"app/.vite/manifest.json":      {Data: []byte("{}")},
	"app/assets/deep/other-abc.js": {Data: []byte("1")},
}

func get(t *testing.T, c *Console, method, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	reader := resp.Body.(io.Reader)
	if resp.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(reader)
		if err != nil {
			t.Fatal(err)
		}
		reader = unpacked
	}
	text, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func loaded(t *testing.T, files fstest.MapFS) *Console {
	t.Helper()
	c, err := load(files, true)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEveryAddressOfTheConsoleShowsItsPageAndIsAskedForAnew(t *testing.T) {
	c := loaded(t, built)
	for _, path := range []string{"/console/", "/console/apps/web/releases/R1", "/console/users?q=x", "/console/index.html", "/console/.vite/manifest.json", "/console/a/../b"} {
		resp := get(t, c, "GET", path)
		if resp.StatusCode != http.StatusOK || !strings.Contains(body(t, resp), "index-abc.js") || resp.Header.Get("Cache-Control") != "no-cache" || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: %d %v", path, resp.StatusCode, resp.Header)
		}
	}
	first := get(t, c, "GET", "/console/")
	if again := get(t, c, "GET", "/console/", "If-None-Match", first.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
		t.Errorf("unchanged: %d", again.StatusCode)
	}
}

func TestAssetsAreKeptForEverAndThoseOfAnotherReleaseAreNot(t *testing.T) {
	c := loaded(t, built)
	for name, kind := range map[string]string{"index-abc.js": "text/javascript; charset=utf-8", "geist-abc.woff2": "font/woff2", "deep/other-abc.js": "text/javascript; charset=utf-8"} {
		resp := get(t, c, "GET", "/console/assets/"+name)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != kind || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", name, resp.StatusCode, resp.Header)
		}
	}
	resp := get(t, c, "GET", "/console/assets/index-old.js")
	if resp.StatusCode != http.StatusNotFound || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("of another release: %d %v", resp.StatusCode, resp.Header)
	}
}

func TestWhatShrinksIsSentPackedToThoseWhoTakeIt(t *testing.T) {
	c := loaded(t, built)
	for accept, packed := range map[string]bool{"gzip, deflate, br": true, "gzip;q=0": false, "": false, "br": false, "GZIP": true} {
		resp := get(t, c, "GET", "/console/assets/index-abc.js", "Accept-Encoding", accept)
		if got := resp.Header.Get("Content-Encoding") == "gzip"; got != packed || !strings.HasPrefix(body(t, resp), "console.log(1);") || resp.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: %v", accept, resp.Header)
		}
	}
	if resp := get(t, c, "GET", "/console/assets/geist-abc.woff2", "Accept-Encoding", "gzip"); resp.Header.Get("Content-Encoding") != "" {
		t.Error("a font is packed twice")
	}
	if resp := get(t, c, "HEAD", "/console/assets/index-abc.js"); body(t, resp) != "" || resp.Header.Get("Content-Length") != "1600" {
		t.Errorf("HEAD: %v", resp.Header)
	}
}

func TestThePolicyAllowsNothingInlineAndNoOtherHost(t *testing.T) {
	for name, files := range map[string]fstest.MapFS{"built": built, "not built": {"not-built.html": built["not-built.html"]}} {
		c := loaded(t, files)
		if c.Built() != (name == "built") {
			t.Errorf("%s: Built is %v", name, c.Built())
		}
		resp := get(t, c, "GET", "/console/")
		policy := resp.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: %s is not in %q", name, want, policy)
			}
		}
		for _, bad := range []string{"unsafe", "*", "http:", "https:"} {
			if strings.Contains(policy, bad) {
				t.Errorf("%s: %s is in %q", name, bad, policy)
			}
		}
		for header, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Strict-Transport-Security": "max-age=31536000; includeSubDomains"} {
			if resp.Header.Get(header) != want {
				t.Errorf("%s: %s is %q", name, header, resp.Header.Get(header))
			}
		}
	}
	if resp := get(t, loaded(t, built), "POST", "/console/"); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", resp.StatusCode)
	}
}

func TestWhatIsEmbeddedCanBeServed(t *testing.T) {
	c, err := New(false)
	if err != nil {
		t.Fatal(err)
	}
	page := body(t, get(t, c, "GET", "/console/"))
	if !c.Built() {
		if !strings.Contains(page, "npm ci") {
			t.Error("the page does not say how to build the console")
		}
		return
	}
	if regexp.MustCompile(`<script(?:[^>]*)>[^<]`).MatchString(page) || strings.Contains(page, "<style") {
		t.Errorf("something is inline: %s", page)
	}
	named := regexp.MustCompile(`(?:src|href)="(/[^"]+)"`).FindAllStringSubmatch(page, -1)
	if len(named) < 3 {
		t.Fatalf("the page names %d files", len(named))
	}
	for _, match := range named {
		if resp := get(t, c, "GET", match[1]); resp.StatusCode != http.StatusOK || !regexp.MustCompile(`-[A-Za-z0-9_-]{8}\.\w+$`).MatchString(match[1]) {
			t.Errorf("%s: %d", match[1], resp.StatusCode)
		}
	}
}
