package signin_test

import (
	"net/url"
	"strings"
	"testing"

	"rackgateway/pkg/signin"
)

// Whatever is asked for, a browser that is sent there stays with us, on a page that does nothing by itself.
func FuzzReturnPath(f *testing.F) {
	for _, seed := range []string{"/console/a?b=c#d", "/login/u2f?token=x", "//evil.com", "/\\evil.com", "/console/%2e%2e/", "https://evil.com/console/", "/console/\t//x", "/console/%00"} {
		f.Add(seed)
	}
	base, err := url.Parse("https://gateway.example.com/login/callback")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, asked string) {
		got := signin.ReturnPath(asked)
		if got != asked && got != "/console/" {
			t.Fatalf("%q became %q", asked, got)
		}
		// As a browser reads it: tabs and line ends are dropped, and \ is /.
		read := strings.NewReplacer("\t", "", "\n", "", "\r", "", "\\", "/").Replace(got)
		to, err := base.Parse(read)
		if err != nil || to.Scheme != "https" || to.Host != "gateway.example.com" || to.User != nil {
			t.Fatalf("%q leads to %v, %v", got, to, err)
		}
		path, err := url.PathUnescape(to.EscapedPath())
		if err != nil || !strings.HasPrefix(path, "/console/") && path != "/login/u2f" || strings.Contains(path, "/../") {
			t.Fatalf("%q leads to the path %q", got, path)
		}
	})
}
