// Whole apps in one file, and ports of this machine that lead into the rack.

package convoxclient

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"rackgateway/pkg/racktest/wire"
)

// An exported app is a gzipped tar of app.json, env, build.tgz, and a dump of each resource.
const (
	exportedApp       = "app.json"
	exportedEnv       = "env"
	exportedBuild     = "build.tgz"
	exportedResources = "resources"
)

func cmdAppExport(run *invocation) error {
	w, end, err := run.output()
	if err != nil {
		return err
	}
	return errors.Join(run.exportApp(run.argApp(), w), end())
}

func (run *invocation) exportApp(app string, w io.Writer) error {
	dir, err := os.MkdirTemp("", "convoxclient-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what is left is in the temporary folder
	run.start("Exporting app %s", app)
	a, err := run.appGet(app)
	if err != nil {
		return err
	}
	for name, value := range a.Parameters {
		if value == "****" { // masked: it must not come back as a value
			delete(a.Parameters, name)
		}
	}
	data, err := json.Marshal(a)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, exportedApp), data, 0o600)
	}
	if err != nil {
		return err
	}
	run.done() //nolint:errcheck // never fails
	if a.Release != "" {
		if err := run.exportRelease(app, dir); err != nil {
			return err
		}
	}
	var resources []wire.Resource
	if err := run.get("/apps/"+app+"/resources", &resources); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, exportedResources), 0o700); err != nil {
		return err
	}
	for _, r := range resources {
		run.start("Exporting resource %s", r.Name)
		if err := run.downloadFile("/apps/"+app+"/resources/"+r.Name+"/data", filepath.Join(dir, exportedResources, r.Name+".tgz")); err != nil {
			return err
		}
		run.done() //nolint:errcheck // never fails
	}
	run.start("Packaging export")
	gz := gzip.NewWriter(w)
	if err := errors.Join(archive(gz, dir, func(rel string) string { return rel }), gz.Close()); err != nil {
		return err
	}
	return run.done()
}

// exportRelease saves the current release's environment and build.
func (run *invocation) exportRelease(app, dir string) error {
	run.start("Exporting env")
	a, err := run.appGet(app) // once more, as the CLI does
	if err != nil {
		return err
	}
	var rel wire.Release
	if err := run.get("/apps/"+app+"/releases/"+a.Release, &rel); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, exportedEnv), []byte(rel.Env), 0o600); err != nil {
		return err
	}
	run.done() //nolint:errcheck // never fails
	if rel.Build == "" {
		return nil
	}
	run.start("Exporting build %s", rel.Build)
	if err := run.downloadFile("/apps/"+app+"/builds/"+rel.Build+".tgz", filepath.Join(dir, exportedBuild)); err != nil {
		return err
	}
	return run.done()
}

func (run *invocation) downloadFile(path, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(run.c.Download(run.ctx, path, nil, f), f.Close())
}

func cmdAppImport(run *invocation) error {
	r, end, err := run.input()
	if err != nil {
		return err
	}
	defer end()
	dir, err := os.MkdirTemp("", "convoxclient-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what is left is in the temporary folder
	if err := unzip(r, dir); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, exportedApp))
	if err != nil {
		return err
	}
	var a wire.App
	if err := json.Unmarshal(data, &a); err != nil {
		return err
	}
	return run.importApp(run.argApp(), a, dir)
}

func (run *invocation) importApp(app string, a wire.App, dir string) error {
	run.start("Creating app %s", app)
	if err := run.post("/apps", url.Values{"name": {app}, "generation": {a.Generation}}, nil); err != nil {
		return err
	}
	if err := run.awaitApp(app); err != nil {
		return err
	}
	run.done() //nolint:errcheck // never fails
	release, err := run.importRelease(app, dir)
	if err != nil {
		return err
	}
	if release != "" {
		run.start("Promoting %s", release)
		if err := run.post("/apps/"+app+"/releases/"+release+"/promote", nil, nil); err != nil {
			return err
		}
		if err := run.awaitApp(app); err != nil {
			return err
		}
		run.done() //nolint:errcheck // never fails
	}
	dumps, err := filepath.Glob(filepath.Join(dir, exportedResources, "*"))
	if err != nil {
		return err
	}
	slices.Sort(dumps)
	for _, name := range dumps {
		resource := strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))
		run.start("Importing resource %s", resource)
		if err := run.uploadFile(http.MethodPut, "/apps/"+app+"/resources/"+resource+"/data", name, nil); err != nil {
			return err
		}
		run.done() //nolint:errcheck // never fails
	}
	return run.importParameters(app, a.Parameters)
}

// importRelease makes releases of the build and of the environment that there are, and returns the last one.
func (run *invocation) importRelease(app, dir string) (release string, err error) {
	if name := filepath.Join(dir, exportedBuild); exists(name) {
		run.start("Importing build")
		var b wire.Build
		if err := run.uploadFile(http.MethodPost, "/apps/"+app+"/builds/import", name, &b); err != nil {
			return "", err
		}
		run.done(b.Release) //nolint:errcheck // never fails
		release = b.Release
	}
	if name := filepath.Join(dir, exportedEnv); exists(name) {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		run.start("Importing env")
		var rel wire.Release
		if err := run.post("/apps/"+app+"/releases", url.Values{"env": {string(data)}}, &rel); err != nil {
			return "", err
		}
		run.done(rel.ID) //nolint:errcheck // never fails
		release = rel.ID
	}
	return release, nil
}

// importParameters sets an app's parameters where they differ.
func (run *invocation) importParameters(app string, want map[string]string) error {
	if len(want) == 0 {
		return nil
	}
	now, err := run.appGet(app)
	if err != nil {
		return err
	}
	differ := false
	for name, value := range want {
		differ = differ || now.Parameters[name] != value
	}
	if !differ {
		return nil
	}
	run.start("Updating parameters")
	if err := run.put("/apps/"+app, url.Values{"parameters": {encodeMap(want)}}); err != nil {
		return err
	}
	if err := run.awaitApp(app); err != nil {
		return err
	}
	return run.done()
}

func (run *invocation) uploadFile(method, path, name string, out any) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return run.c.Upload(run.ctx, method, path, nil, f, -1, out)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// unzip writes the files of a gzipped tar archive below a folder.
func unzip(r io.Reader, dir string) error {
	gz, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		target := filepath.Join(dir, filepath.FromSlash(filepath.Clean("/"+h.Name)))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(target, 0o700)
		case tar.TypeReg:
			err = writeFrom(target, tr)
		}
		if err != nil {
			return err
		}
	}
}

func writeFrom(name string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// --- ports

// cmdProxy carries connections to ports of this machine into the rack until it is killed: PORT:HOST:PORT or HOST:PORT.
func cmdProxy(run *invocation) error {
	var all sync.WaitGroup
	defer all.Wait()
	for _, arg := range run.args {
		parts := strings.SplitN(arg, ":", 3)
		if len(parts) < 2 {
			return fmt.Errorf("invalid argument: %s", arg)
		}
		remote, err := strconv.Atoi(parts[len(parts)-1])
		if err != nil {
			return err
		}
		local := remote
		if len(parts) == 3 {
			if local, err = strconv.Atoi(parts[0]); err != nil {
				return err
			}
		}
		all.Go(func() { run.listen(local, parts[len(parts)-2], remote) })
	}
	return nil
}

// cmdResourceProxy is cmdProxy to a resource's own host and port.
func cmdResourceProxy(run *invocation) error {
	r, err := run.resource()
	if err != nil {
		return err
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return err
	}
	remote, err := strconv.Atoi(u.Port())
	if err != nil {
		return fmt.Errorf("unknown port for url: %s", r.URL)
	}
	local := remote
	if p := run.flags["port"]; p != "" {
		if local, err = strconv.Atoi(p); err != nil {
			return err
		}
	}
	run.listen(local, u.Hostname(), remote)
	return nil
}

// listen takes connections until the command ends. Its failures are told, and end nothing else.
func (run *invocation) listen(local int, host string, port int) {
	run.printf("proxying localhost:%d to %s:%d\n", local, host, port)
	l, err := (&net.ListenConfig{}).Listen(run.ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", local))
	if err != nil {
		fmt.Fprintf(run.errs, "ERROR: %s\n", err)
		return
	}
	defer context.AfterFunc(run.ctx, func() { l.Close() })()
	var open sync.WaitGroup
	defer open.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		run.printf("connect: %d\n", local)
		open.Go(func() {
			if err := run.tunnel(conn, host, port); err != nil {
				fmt.Fprintf(run.errs, "ERROR: %s\n", err)
			}
		})
	}
}

// tunnel carries one connection.
func (run *invocation) tunnel(conn net.Conn, host string, port int) error {
	defer conn.Close()
	defer context.AfterFunc(run.ctx, func() { conn.Close() })()
	s, err := run.c.Socket(run.ctx, fmt.Sprintf("/proxy/%s/%d", host, port), nil)
	if err != nil {
		return err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.Send(conn) //nolint:errcheck // the other direction tells how it ends
	}()
	err = s.Copy(conn)
	s.Close() //nolint:errcheck // never fails
	conn.Close()
	<-sent
	return err
}
