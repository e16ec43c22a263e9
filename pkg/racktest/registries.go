// Image registries: the credentials of private ones, and the rack's own, which docker pushes to.

package racktest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"rackgateway/pkg/racktest/wire"
)

type registry struct{ username, password string }

func (r *Rack) registryAdd(c *call) error {
	out := wire.Registry{Server: c.value("server"), Username: c.value("username"), Password: c.value("password")}
	r.mu.Lock()
	r.registries[out.Server] = registry{out.Username, out.Password}
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) registryList(c *call) error {
	out := []wire.Registry{}
	r.mu.Lock()
	for _, server := range slices.Sorted(maps.Keys(r.registries)) {
		reg := r.registries[server]
		out = append(out, wire.Registry{Server: server, Username: reg.username, Password: reg.password})
	}
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) registryRemove(c *call) error {
	server := c.variable("server")
	r.mu.Lock()
	_, ok := r.registries[server]
	delete(r.registries, server)
	r.mu.Unlock()
	if !ok {
		return notFound("no such registry: %s", server)
	}
	return c.ok()
}

// imageStore is a registry in the sense of the OCI distribution specification: blobs, manifests, and uploads
// that end with a digest. It holds what is pushed and knows nothing of its meaning.
type imageStore struct {
	mu      sync.Mutex
	blobs   map[string][]byte // by path: app/blobs/sha256:… or app/manifests/tag
	uploads map[string][]byte
	next    int
}

func newImageStore() *imageStore {
	return &imageStore{blobs: map[string][]byte{}, uploads: map[string][]byte{}}
}

// maxImagePart bounds one part of an upload, because the store is in memory.
const maxImagePart = 256 << 20

func (r *Rack) registryProxy(c *call) error {
	name := c.variable("path")
	if name == "" {
		c.w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		return nil
	}
	app, rest, _ := strings.Cut(name, "/")
	if _, err := r.app(app); err != nil {
		return fail(http.StatusForbidden, `{"errors":[{"message":%q}]}`, err)
	}
	s := r.images
	body, err := io.ReadAll(io.LimitReader(c.r.Body, maxImagePart))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	digest := func(p []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(p)) }
	store := func(key, digest string, p []byte) {
		s.blobs[key] = p
		c.w.Header().Set("Docker-Content-Digest", digest)
		c.w.Header().Set("Location", "/v2/"+key)
		c.w.WriteHeader(http.StatusCreated)
	}
	switch m := c.r.Method; {
	case m == http.MethodPost && rest == "blobs/uploads/":
		s.next++
		key := fmt.Sprintf("%s/blobs/uploads/%d", app, s.next)
		s.uploads[key] = body
		c.w.Header().Set("Location", "/v2/"+key)
		c.w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, len(body)-1)))
		c.w.WriteHeader(http.StatusAccepted)
	case m == http.MethodPatch && s.uploads[name] != nil:
		s.uploads[name] = append(s.uploads[name], body...)
		c.w.Header().Set("Location", "/v2/"+name)
		c.w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, len(s.uploads[name])-1)))
		c.w.WriteHeader(http.StatusAccepted)
	case m == http.MethodPut && s.uploads[name] != nil:
		p := append(s.uploads[name], body...)
		if want := c.r.URL.Query().Get("digest"); want != digest(p) {
			return fail(http.StatusBadRequest, `{"errors":[{"code":"DIGEST_INVALID"}]}`)
		}
		delete(s.uploads, name)
		store(app+"/blobs/"+digest(p), digest(p), p)
	case m == http.MethodPut && strings.HasPrefix(rest, "manifests/"):
		s.blobs[app+"/manifests/"+digest(body)] = body
		store(name, digest(body), body)
	case m == http.MethodGet || m == http.MethodHead:
		p, ok := s.blobs[name]
		if !ok {
			return notFound(`{"errors":[{"code":"NAME_UNKNOWN"}]}`)
		}
		c.w.Header().Set("Docker-Content-Digest", digest(p))
		_, err := c.w.Write(p)
		return err
	default:
		return fail(http.StatusMethodNotAllowed, `{"errors":[{"code":"UNSUPPORTED"}]}`)
	}
	return nil
}
