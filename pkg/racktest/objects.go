// Objects: the rack's blob store, where sources and build logs lie.

package racktest

import (
	"io"
	"path"
	"slices"
	"strings"

	"rackgateway/pkg/racktest/wire"
)

// objectKey cleans a key and refuses one that climbs.
func objectKey(key string) (string, error) {
	clean := strings.TrimPrefix(path.Clean("/"+key), "/")
	if strings.TrimSpace(clean) == "" || slices.Contains(strings.Split(key, "/"), "..") {
		return "", badRequest("invalid object key")
	}
	return clean, nil
}

// anyApp is an app name that makes racks on AWS take the first part of a key for the app.
const anyApp = "x-undefined-app-x"

// object finds an object by a path's variables.
func (r *Rack) object(c *call) (*app, string, *blob, error) {
	key, err := objectKey(c.variable("key"))
	if err != nil {
		return nil, "", nil, err
	}
	name := c.variable("app")
	if name == anyApp {
		name, key, _ = strings.Cut(key, "/")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.apps[name]; a != nil {
		return a, key, a.objects[key], nil
	}
	return nil, key, nil, nil
}

func (r *Rack) objectDelete(c *call) error {
	a, key, b, err := r.object(c)
	switch {
	case err != nil:
		return err
	case b == nil:
		return notFound("object not found: %s", key)
	}
	r.mu.Lock()
	delete(a.objects, key)
	r.mu.Unlock()
	return c.ok()
}

// objectExists answers 200 whether there is one or not: what it says is in the body, which HEAD has none of.
func (r *Rack) objectExists(c *call) error {
	_, _, b, err := r.object(c)
	if err != nil {
		return err
	}
	return c.json(b != nil)
}

func (r *Rack) objectFetch(c *call) error {
	_, key, b, err := r.object(c)
	switch {
	case err != nil:
		return err
	case b == nil:
		return notFound("object not found: %s", key)
	}
	return c.copy(b.open())
}

func (r *Rack) objectList(c *call) error {
	prefix := c.value("prefix")
	if slices.Contains(strings.Split(prefix, "/"), "..") {
		return badRequest("invalid prefix")
	}
	out := []string{}
	r.mu.Lock()
	if a := r.apps[c.variable("app")]; a != nil {
		for key := range a.objects {
			if strings.HasPrefix(key, prefix) {
				out = append(out, key)
			}
		}
	}
	r.mu.Unlock()
	slices.Sort(out)
	return c.json(out)
}

func (r *Rack) objectStore(c *call) error {
	key := c.variable("key")
	if key == "" {
		r.mu.Lock()
		key = "tmp/" + r.letters(30, hexLetters)
		r.mu.Unlock()
	}
	key, err := objectKey(key)
	if err != nil {
		return err
	}
	c.options()
	app := c.variable("app")
	data, err := readBlob(c)
	if err != nil {
		return err
	}
	r.mu.Lock()
	a, err := r.appLocked(app)
	if err == nil {
		a.objects[key] = data
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return c.json(wire.Object{Url: "object://" + app + "/" + key})
}

// PutObject stores an object without a request.
func (r *Rack) PutObject(app, key string, from io.Reader) error {
	data, err := readBlob(from)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a, err := r.appLocked(app)
	if err != nil {
		return err
	}
	a.objects[key] = data
	return nil
}

// Object opens a stored object; ok is false when there is none.
func (r *Rack) Object(app, key string) (content io.Reader, size int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.apps[app]; a != nil && a.objects[key] != nil {
		return a.objects[key].open(), a.objects[key].size, true
	}
	return nil, 0, false
}
