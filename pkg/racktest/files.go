// The files of a process: a small tree that tar archives go into and come out of.

package racktest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// fileTree maps clean absolute paths to files and directories. Safe for concurrent use.
type fileTree struct {
	mu    sync.Mutex
	nodes map[string]*node
}

type node struct {
	dir      bool
	mode     int64
	modified time.Time
	data     *blob
}

func newFileTree(p *process, now time.Time) *fileTree {
	t := &fileTree{nodes: map[string]*node{"/": {dir: true, mode: 0o755, modified: now}}}
	t.mkdir("/tmp", now)
	t.put("/etc/hostname", bytesBlob([]byte(p.ID+"\n")), 0o644, now)
	t.put("/app/README.md", bytesBlob([]byte("# "+p.App+"\n")), 0o644, now)
	t.put("/app/public/index.html", bytesBlob([]byte("<h1>"+p.App+"</h1>\n")), 0o644, now)
	return t
}

func (t *fileTree) mkdir(name string, now time.Time) {
	for name = path.Clean("/" + name); t.nodes[name] == nil; name = path.Dir(name) {
		t.nodes[name] = &node{dir: true, mode: 0o755, modified: now}
	}
}

func (t *fileTree) put(name string, data *blob, mode int64, now time.Time) {
	name = path.Clean("/" + name)
	t.mkdir(path.Dir(name), now)
	t.nodes[name] = &node{mode: mode, modified: now, data: data}
}

// read returns a file's content.
func (t *fileTree) read(name string) (*blob, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[path.Clean("/"+name)]
	switch {
	case n == nil:
		return nil, fmt.Errorf("%s: No such file or directory", name)
	case n.dir:
		return nil, fmt.Errorf("%s: Is a directory", name)
	}
	return n.data, nil
}

// list returns the names in a directory, or the name of a file.
func (t *fileTree) list(name string) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clean := path.Clean("/" + name)
	n := t.nodes[clean]
	if n == nil {
		return nil, fmt.Errorf("%s: No such file or directory", name)
	}
	if !n.dir {
		return []string{name}, nil
	}
	var out []string
	for p := range t.nodes {
		if p != "/" && path.Dir(p) == clean {
			out = append(out, path.Base(p))
		}
	}
	slices.Sort(out)
	return out, nil
}

// archive writes a file, or a directory with everything below it, as tar does: paths without the leading slash.
func (t *fileTree) archive(w io.Writer, name string) error {
	clean := path.Clean("/" + name)
	t.mu.Lock()
	nodes := map[string]*node{}
	for p, n := range t.nodes {
		if p == clean || strings.HasPrefix(p, strings.TrimSuffix(clean, "/")+"/") {
			nodes[p] = n
		}
	}
	t.mu.Unlock()
	if len(nodes) == 0 {
		// tar says so on its standard error, which the rack drops: the answer is empty.
		return nil
	}
	tw := tar.NewWriter(w)
	for _, p := range slices.Sorted(maps.Keys(nodes)) {
		n := nodes[p]
		h := &tar.Header{Name: strings.TrimPrefix(p, "/"), Mode: n.mode, ModTime: n.modified.Truncate(time.Second), Typeflag: tar.TypeReg}
		if n.dir {
			if p == "/" {
				continue
			}
			h.Name, h.Typeflag = h.Name+"/", tar.TypeDir
		} else {
			h.Size = n.data.size
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if !n.dir {
			if _, err := io.Copy(tw, n.data.open()); err != nil {
				return err
			}
		}
	}
	return tw.Close()
}

// extract unpacks an archive at the root, dropping the first strip components of each path.
func (t *fileTree) extract(r io.Reader, strip int, now time.Time) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			// Whatever pads the archive's end is taken, too.
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		parts := strings.Split(name, "/")
		if len(parts) <= strip {
			continue
		}
		name = "/" + strings.Join(parts[strip:], "/")
		switch h.Typeflag {
		case tar.TypeDir:
			t.mu.Lock()
			t.mkdir(name, now)
			t.mu.Unlock()
		case tar.TypeReg:
			data, err := readBlob(tr)
			if err != nil {
				return err
			}
			t.mu.Lock()
			t.put(name, data, h.Mode, h.ModTime)
			t.mu.Unlock()
		}
	}
}

func (t *fileTree) remove(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clean := path.Clean("/" + name)
	if n := t.nodes[clean]; n != nil && !n.dir {
		delete(t.nodes, clean)
	}
}

// File returns the content of a file in a process.
func (r *Rack) File(app, pid, name string) ([]byte, error) {
	r.mu.Lock()
	var p *process
	if a := r.apps[app]; a != nil {
		p = a.processes[pid]
	}
	r.mu.Unlock()
	if p == nil {
		return nil, errNoPod(pid)
	}
	b, err := p.files.read(name)
	if err != nil {
		return nil, err
	}
	return b.bytes(), nil
}

func (r *Rack) lockedProcess(c *call) (*process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, p, err := r.findProcess(c)
	return p, err
}

func (r *Rack) filesDelete(c *call) error {
	files := strings.Split(c.value("files"), ",")
	p, err := r.lockedProcess(c)
	if err != nil {
		return err
	}
	for _, f := range files {
		p.files.remove(f)
	}
	return c.ok()
}

func (r *Rack) filesDownload(c *call) error {
	file := c.value("file")
	p, err := r.lockedProcess(c)
	if err != nil {
		// The rack learns it from a command whose failure it does not look at: an empty answer.
		return nil //nolint:nilerr // that is what it does
	}
	return p.files.archive(c.w, file)
}

func (r *Rack) filesUpload(c *call) error {
	o := c.options()
	strip := 0
	if extra, ok := o.query("tar-extra"); ok {
		for flag := range strings.SplitSeq(extra, ",") {
			switch n, found := strings.CutPrefix(flag, "--strip-components="); {
			case found:
				if _, err := fmt.Sscanf(n, "%d", &strip); err != nil {
					return fmt.Errorf("unsupported tar flag: %s", flag)
				}
			case flag == "--no-same-owner", flag == "--no-same-permissions":
			default:
				return fmt.Errorf("unsupported tar flag: %s", flag)
			}
		}
	}
	p, err := r.lockedProcess(c)
	if err != nil {
		return err
	}
	if err := p.files.extract(c, strip, r.now()); err != nil {
		return errors.New("command terminated with exit code 2")
	}
	return c.ok()
}
