// Package console is the web console: its sources (src, built by npm ci and npm run build), and the handler that serves
// the build, which is embedded. A program that was built without it serves a page that says how to build it.
package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

// The build is in dist/app. The folder itself is always there, with the page that stands in for one.
//
//go:embed all:dist
var dist embed.FS

// BasePath is where the console is mounted.
const BasePath = "/console/"

// Console serves the console's files. It is safe for concurrent use.
type Console struct {
	page   file            // what every address of the console shows: the program in it does the rest
	assets map[string]file // by name below BasePath; each has the hash of its content in its name
	built  bool
	secure bool
}

// file is one file, ready to be sent.
type file struct {
	kind   string // media type
	etag   string
	plain  []byte
	packed []byte // gzip; nil where that is no shorter
}

// New reads what was embedded. Browsers are told to keep to TLS when they come by it (secure).
func New(secure bool) (*Console, error) {
	embedded, err := fs.Sub(dist, "dist")
	if err != nil {
		return nil, fmt.Errorf("the console's files: %w", err)
	}
	return load(embedded, secure)
}

func load(files fs.FS, secure bool) (*Console, error) {
	c := &Console{assets: make(map[string]file), secure: secure}
	page, err := fs.ReadFile(files, "app/index.html")
	if err != nil {
		if page, err = fs.ReadFile(files, "not-built.html"); err != nil {
			return nil, fmt.Errorf("the console's page: %w", err)
		}
		if c.page, err = newFile("index.html", page); err != nil {
			return nil, err
		}
		return c, nil
	}
	c.built = true
	if c.page, err = newFile("index.html", page); err != nil {
		return nil, err
	}
	err = fs.WalkDir(files, "app/assets", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		c.assets[strings.TrimPrefix(name, "app/")], err = newFile(name, text)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the console's files: %w", err)
	}
	return c, nil
}

func newFile(name string, text []byte) (file, error) {
	sum := sha256.Sum256(text)
	f := file{kind: mediaType(name), plain: text, etag: `"` + hex.EncodeToString(sum[:12]) + `"`}
	if strings.HasPrefix(f.kind, "font/") { // packed already
		return f, nil
	}
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return f, err
	}
	if _, err := w.Write(text); err != nil {
		return f, err
	}
	if err := w.Close(); err != nil {
		return f, err
	}
	if out.Len() < len(text) {
		f.packed = out.Bytes()
	}
	return f, nil
}

// mediaType does not ask the machine that it runs on, whose tables differ.
func mediaType(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".woff2":
		return "font/woff2"
	case ".png":
		return "image/png"
	}
	if kind := mime.TypeByExtension(path.Ext(name)); kind != "" {
		return kind
	}
	return "application/octet-stream"
}

// policy lets the page have its own files and ask its own host, and nothing else: no inline script or style, no other
// host, no frame around it. QR codes of second factors are data. Scripts cannot be made of text.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Built reports whether the console is there, rather than the page that says how to build it.
func (c *Console) Built() bool { return c.built }

// ServeHTTP answers below BasePath.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	if c.secure {
		h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "the console is read, and nothing else", http.StatusMethodNotAllowed)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, BasePath)
	if strings.HasPrefix(name, "assets/") {
		f, ok := c.assets[name]
		if !ok {
			// Of a release that is gone. The page must not be kept in its place.
			h.Set("Cache-Control", "no-store")
			http.Error(w, "there is no such file in this version of the console: load the page again", http.StatusNotFound)
			return
		}
		// Its name changes with its content.
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
		f.serve(w, r)
		return
	}
	h.Set("Cache-Control", "no-cache")
	if !c.built {
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	}
	c.page.serve(w, r)
}

func (f file) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Vary", "Accept-Encoding")
	body, etag := f.plain, f.etag
	if f.packed != nil && acceptsGzip(r.Header.Values("Accept-Encoding")) {
		body, etag = f.packed, strings.TrimSuffix(f.etag, `"`)+`-gz"`
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		h.Del("Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a browser that hung up is not told
	}
}

// acceptsGzip reads Accept-Encoding as far as browsers write it: names, some with ;q=0 where they are not wanted.
func acceptsGzip(lines []string) bool {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			name, rest, _ := strings.Cut(strings.TrimSpace(part), ";")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") {
				q := strings.ReplaceAll(rest, " ", "")
				return q != "q=0" && q != "q=0.0" && q != "q=0.00" && q != "q=0.000"
			}
		}
	}
	return false
}
