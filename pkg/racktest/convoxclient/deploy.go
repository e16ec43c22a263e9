// Environments, releases, builds, files and everything else with a payload.

package convoxclient

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"rackgateway/pkg/racktest/wire"
)

// --- environments

func parseEnv(s string) map[string]string {
	env := map[string]string{}
	for line := range strings.SplitSeq(s, "\n") {
		if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\r"), "="); ok && strings.TrimSpace(k) != "" {
			env[strings.TrimSpace(k)] = v
		}
	}
	return env
}

func formatEnv(env map[string]string) string {
	lines := make([]string, 0, len(env))
	for k, v := range env {
		lines = append(lines, k+"="+v)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// latestRelease asks for the list, and then for the release itself.
func (run *invocation) latestRelease(app string) (wire.Release, error) {
	var list []wire.Release
	var rel wire.Release
	if err := run.c.Get(run.ctx, "/apps/"+app+"/releases", url.Values{"limit": {"1"}}, &list); err != nil || len(list) == 0 {
		return rel, err
	}
	return rel, run.get("/apps/"+app+"/releases/"+list[0].ID, &rel)
}

func (run *invocation) release(id string) (wire.Release, error) {
	var rel wire.Release
	return rel, run.get(run.appPath("/releases/%s", id), &rel)
}

func (run *invocation) env() (map[string]string, error) {
	var rel wire.Release
	var err error
	if id := run.flags["release"]; id != "" {
		rel, err = run.release(id)
	} else {
		rel, err = run.latestRelease(run.app())
	}
	return parseEnv(rel.Env), err
}

func cmdEnv(run *invocation) error {
	env, err := run.env()
	if err != nil {
		return err
	}
	run.printf("%s\n", formatEnv(env))
	return nil
}

func cmdEnvGet(run *invocation) error {
	env, err := run.env()
	if err != nil {
		return err
	}
	v, ok := env[run.arg(0)]
	if !ok {
		return fmt.Errorf("env not found: %s", run.arg(0))
	}
	run.printf("%s\n", v)
	return nil
}

func cmdEnvSet(run *invocation) error {
	env := map[string]string{}
	if !run.is("replace") {
		var err error
		if env, err = run.env(); err != nil {
			return err
		}
	}
	args := slices.Clone(run.args)
	lines := bufio.NewScanner(run.in)
	for lines.Scan() {
		args = append(args, lines.Text())
	}
	var keys []string
	for _, a := range args {
		if k, v, ok := strings.Cut(a, "="); ok {
			keys = append(keys, k)
			env[k] = v
		}
	}
	return run.setEnv("Setting", keys, env)
}

func cmdEnvUnset(run *invocation) error {
	env, err := run.env()
	if err != nil {
		return err
	}
	for _, k := range run.args {
		delete(env, k)
	}
	return run.setEnv("Unsetting", slices.Clone(run.args), env)
}

// setEnv writes the whole environment back as a new release.
func (run *invocation) setEnv(doing string, keys []string, env map[string]string) error {
	ids := io.Discard
	if run.is("id") {
		ids = run.toStderr()
	}
	slices.Sort(keys)
	run.start("%s %s", doing, strings.Join(keys, ", "))
	if _, err := run.system(); err != nil {
		return err
	}
	form := url.Values{"env": {formatEnv(env)}}
	if id := run.flags["release"]; id != "" {
		form.Set("parent-release", id)
	}
	var rel wire.Release
	if err := run.post(run.appPath("/releases"), form, &rel); err != nil {
		return err
	}
	run.done() //nolint:errcheck // never fails
	run.printf("Release: %s\n", rel.ID)
	if run.is("promote") {
		if err := run.promote(rel.ID, false); err != nil {
			return err
		}
	}
	io.WriteString(ids, rel.ID) //nolint:errcheck // output of a test
	return nil
}

// --- releases

func cmdReleases(run *invocation) error {
	a, err := run.appGet(run.app())
	if err != nil {
		return err
	}
	var list []wire.Release
	if err := run.c.Get(run.ctx, run.appPath("/releases"), run.limit(), &list); err != nil {
		return err
	}
	var rows [][]string
	for _, r := range list {
		status := ""
		if r.ID == a.Release {
			status = "active"
		}
		rows = append(rows, []string{r.ID, status, r.Build, run.ago(r.Created), r.Description})
	}
	return run.table([]string{"ID", "STATUS", "BUILD", "CREATED", "DESCRIPTION"}, rows...)
}

func (run *invocation) limit() url.Values {
	q := url.Values{}
	if v := run.flags["limit"]; v != "" {
		q.Set("limit", v)
	}
	return q
}

func cmdReleaseInfo(run *invocation) error {
	r, err := run.release(run.arg(0))
	if err != nil {
		return err
	}
	return run.info([2]string{"Id", r.ID}, [2]string{"Build", r.Build}, [2]string{"Created", r.Created.Format(time.RFC3339)},
		[2]string{"Description", r.Description}, [2]string{"Env", r.Env})
}

func cmdReleaseManifest(run *invocation) error {
	r, err := run.release(run.arg(0))
	if err != nil {
		return err
	}
	if r.Build == "" {
		return fmt.Errorf("no build for release: %s", run.arg(0))
	}
	b, err := run.build(r.Build)
	if err != nil {
		return err
	}
	run.printf("%s\n", strings.TrimSpace(b.Manifest))
	return nil
}

func cmdPromote(run *invocation) error {
	id := run.arg(0)
	if id == "" {
		var list []wire.Release
		if err := run.c.Get(run.ctx, run.appPath("/releases"), url.Values{"limit": {"1"}}, &list); err != nil {
			return err
		}
		if len(list) == 0 {
			return errors.New("no releases to promote")
		}
		id = list[0].ID
	}
	return run.promote(id, run.is("force"))
}

func (run *invocation) promote(id string, force bool) error {
	if id == "" {
		return errors.New("no release to promote")
	}
	app := run.app()
	a, err := run.appGet(app)
	if err != nil {
		return err
	}
	if !force && a.Status != "running" {
		run.start("Waiting for app to be ready")
		if err := run.awaitApp(app); err != nil {
			return err
		}
		run.done() //nolint:errcheck // never fails
	}
	run.start("Promoting %s", id)
	run.printf("\n")
	if err := run.post(run.appPath("/releases/%s/promote", id), url.Values{"force": {strconv.FormatBool(force)}}, nil); err != nil {
		return err
	}
	return run.promoted(id)
}

// promoted waits for a promotion, and looks whether it held.
func (run *invocation) promoted(id string) error {
	if err := run.awaitAppWithLogs(run.app()); err != nil {
		return err
	}
	a, err := run.appGet(run.app())
	if err != nil {
		return err
	}
	if a.Release != id {
		return errors.New("rollback")
	}
	return run.done()
}

func cmdRollback(run *invocation) error {
	ids := io.Discard
	if run.is("id") {
		ids = run.toStderr()
	}
	run.start("Rolling back to %s", run.arg(0))
	old, err := run.release(run.arg(0))
	if err != nil {
		return err
	}
	var rel wire.Release
	if err := run.post(run.appPath("/releases"), url.Values{"build": {old.Build}, "env": {old.Env}}, &rel); err != nil {
		return err
	}
	run.done(rel.ID) //nolint:errcheck // never fails
	run.start("Promoting %s", rel.ID)
	if err := run.post(run.appPath("/releases/%s/promote", rel.ID), url.Values{"force": {strconv.FormatBool(run.is("force"))}}, nil); err != nil {
		return err
	}
	run.printf("\n")
	if err := run.promoted(rel.ID); err != nil {
		return err
	}
	io.WriteString(ids, rel.ID) //nolint:errcheck // output of a test
	return nil
}

// --- builds

func cmdBuild(run *invocation) error {
	ids := io.Discard
	if run.is("id") {
		ids = run.toStderr()
	}
	b, err := run.buildDir()
	if err != nil {
		return err
	}
	run.printf("Build:   %s\n", b.ID)
	run.printf("Release: %s\n", b.Release)
	io.WriteString(ids, b.Release) //nolint:errcheck // output of a test
	return nil
}

func cmdDeploy(run *invocation) error {
	ids := io.Discard
	if run.is("id") {
		ids = run.toStderr()
	}
	b, err := run.buildDir()
	if err != nil {
		return err
	}
	if err := run.promote(b.Release, run.is("force")); err != nil {
		return err
	}
	io.WriteString(ids, b.Release) //nolint:errcheck // output of a test
	return nil
}

func (run *invocation) build(id string) (wire.Build, error) {
	var b wire.Build
	return b, run.get(run.appPath("/builds/%s", id), &b)
}

// buildDir packs, uploads and builds a directory.
func (run *invocation) buildDir() (b wire.Build, err error) {
	form := url.Values{}
	for _, f := range []string{"build-args", "description", "development", "external", "manifest", "no-cache", "wildcard-domain"} {
		if v := run.flags[f]; v != "" {
			form.Set(f, v)
		}
	}
	dir, err := run.cli.path(run.arg(0))
	if err != nil {
		return b, err
	}
	run.start("Packaging source")
	source, size, err := tarball(dir)
	if err != nil {
		return b, err
	}
	defer source.Close()
	run.done() //nolint:errcheck // never fails
	if _, err := run.system(); err != nil {
		return b, err
	}
	run.start("Uploading source")
	var object wire.Object
	if err := run.c.Upload(run.ctx, http.MethodPost, run.appPath("/objects/%s", temporaryKey()), nil, source, size, &object); err != nil {
		return b, err
	}
	run.done() //nolint:errcheck // never fails
	run.start("Starting build")
	form.Set("url", object.Url)
	if err := run.post(run.appPath("/builds"), form, &b); err != nil {
		return b, err
	}
	run.done() //nolint:errcheck // never fails

	seen := &countingWriter{w: run}
	if err := run.c.Logs(run.ctx, run.appPath("/builds/%s/logs", b.ID), nil, seen); err != nil {
		return b, err
	}
	id := b.ID
	defer func() { run.finishLogs(id, seen.n) }()
	for {
		run.pause(run.cli.pace().Build)
		if b, err = run.build(id); err != nil {
			return b, err
		}
		switch b.Status {
		case "created", "running":
		case "complete":
			return b, nil
		case "failed":
			return b, errors.New("build failed")
		default:
			return b, fmt.Errorf("unexpected build status: %s", b.Status)
		}
	}
}

// finishLogs reads the whole log once more, and shows what the first socket may have missed.
func (run *invocation) finishLogs(id string, seen int) {
	b, err := run.build(id)
	if err != nil || b.Status == "running" || b.Status == "created" {
		return
	}
	var all bytes.Buffer
	if err := run.c.Logs(run.ctx, run.appPath("/builds/%s/logs", id), nil, &all); err == nil && all.Len() > seen {
		run.Write(all.Bytes()[seen:]) //nolint:errcheck // output of a test
	}
}

type countingWriter struct {
	w io.Writer
	n int
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += n
	return n, err
}

// tarball packs a directory into a gzipped tar in a file that has no name.
func tarball(dir string) (*os.File, int64, error) {
	f, err := os.CreateTemp("", "convoxclient-*")
	if err != nil {
		return nil, 0, err
	}
	os.Remove(f.Name()) //nolint:errcheck // it goes with the process otherwise
	gz := gzip.NewWriter(f)
	err = errors.Join(archive(gz, dir, func(rel string) string { return rel }), gz.Close())
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	info, statErr := f.Stat()
	if err := errors.Join(err, statErr); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// archive writes a file or a directory as a tar; name says what a path below it is called.
func archive(w io.Writer, root string, name func(rel string) string) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		h.Name = name(filepath.ToSlash(rel))
		h.Uname, h.Gname = "", ""
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		_, err = io.Copy(tw, f)
		return errors.Join(err, f.Close())
	})
	return errors.Join(err, tw.Close())
}

func cmdBuilds(run *invocation) error {
	var list []wire.Build
	if err := run.c.Get(run.ctx, run.appPath("/builds"), run.limit(), &list); err != nil {
		return err
	}
	var rows [][]string
	for _, b := range list {
		rows = append(rows, []string{b.ID, b.Status, b.Release, run.ago(b.Started), elapsed(b.Started, b.Ended), b.Description})
	}
	return run.table([]string{"ID", "STATUS", "RELEASE", "STARTED", "ELAPSED", "DESCRIPTION"}, rows...)
}

func cmdBuildInfo(run *invocation) error {
	b, err := run.build(run.arg(0))
	if err != nil {
		return err
	}
	return run.info([2]string{"Id", b.ID}, [2]string{"Status", b.Status}, [2]string{"Release", b.Release}, [2]string{"Description", b.Description},
		[2]string{"Started", run.ago(b.Started)}, [2]string{"Elapsed", elapsed(b.Started, b.Ended)})
}

func cmdBuildLogs(run *invocation) error {
	return run.c.Logs(run.ctx, run.appPath("/builds/%s/logs", run.arg(0)), nil, run)
}

// output is where a download goes: the flag --file, or standard output, with progress on standard error.
func (run *invocation) output() (io.Writer, func() error, error) {
	name := run.flags["file"]
	if name == "" {
		return run.toStderr(), func() error { return nil }, nil
	}
	name, err := run.cli.path(name)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

// input is where an upload comes from: the flag --file, or standard input.
func (run *invocation) input() (io.Reader, func() error, error) {
	name := run.flags["file"]
	if name == "" {
		return run.in, func() error { return nil }, nil
	}
	name, err := run.cli.path(name)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

func cmdBuildExport(run *invocation) error {
	w, end, err := run.output()
	if err != nil {
		return err
	}
	run.start("Exporting build")
	if err := errors.Join(run.c.Download(run.ctx, run.appPath("/builds/%s.tgz", run.arg(0)), nil, w), end()); err != nil {
		return err
	}
	return run.done()
}

func cmdBuildImport(run *invocation) error {
	ids := io.Discard
	if run.is("id") {
		ids = run.toStderr()
	}
	r, end, err := run.input()
	if err != nil {
		return err
	}
	defer end()
	if _, err := run.system(); err != nil {
		return err
	}
	run.start("Importing build")
	var b wire.Build
	if err := run.c.Upload(run.ctx, http.MethodPost, run.appPath("/builds/import"), nil, r, -1, &b); err != nil {
		return err
	}
	run.done(b.Release)            //nolint:errcheck // never fails
	io.WriteString(ids, b.Release) //nolint:errcheck // output of a test
	return nil
}

// --- files

// cmdCp copies between this machine and a process; one side has the form pid:/absolute/path.
func cmdCp(run *invocation) error {
	from, to := run.arg(0), run.arg(1)
	var archived *os.File
	defer func() {
		if archived != nil {
			archived.Close()
		}
	}()
	pid, name, remote := strings.Cut(from, ":")
	spool := func(fill func(io.Writer) error) error {
		f, err := os.CreateTemp("", "convoxclient-*")
		if err != nil {
			return err
		}
		os.Remove(f.Name()) //nolint:errcheck // it goes with the process otherwise
		archived = f
		if err := fill(f); err != nil {
			return err
		}
		_, err = f.Seek(0, io.SeekStart)
		return err
	}
	var base string // what the names in the archive begin with
	if remote {
		if !strings.HasPrefix(name, "/") {
			return errors.New("must specify absolute paths for processes")
		}
		base = name
		err := spool(func(w io.Writer) error {
			return run.c.Download(run.ctx, run.appPath("/processes/%s/files", pid), url.Values{"file": {name}}, w)
		})
		if err != nil {
			return err
		}
	} else {
		local, err := run.cli.path(from)
		if err != nil {
			return err
		}
		base = "/base"
		if err := spool(func(w io.Writer) error {
			return archive(w, local, func(rel string) string { return path.Join(base, rel) })
		}); err != nil {
			return err
		}
	}

	pid, name, remote = strings.Cut(to, ":")
	if !remote {
		local, err := run.cli.path(to)
		if err != nil {
			return err
		}
		return unpack(archived, base, local)
	}
	if !strings.HasPrefix(name, "/") {
		return errors.New("must specify absolute paths for processes")
	}
	source := archived
	if err := spool(func(w io.Writer) error { return rebase(source, w, base, name) }); err != nil {
		return err
	}
	source.Close()
	info, err := archived.Stat()
	if err != nil {
		return err
	}
	q := url.Values{}
	if v := run.flags["tar-extra"]; v != "" {
		q.Set("tar-extra", v)
	}
	return run.c.Upload(run.ctx, http.MethodPost, run.appPath("/processes/%s/files", pid), q, archived, info.Size(), nil)
}

// each visits a tar's entries that lie at or below base, with the rest of their name.
func each(r io.Reader, base string, visit func(h *tar.Header, rel string, content io.Reader) error) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean("/" + h.Name)
		rel, ok := strings.CutPrefix(name, path.Clean(base))
		if !ok || rel != "" && base != "/" && rel[0] != '/' {
			if h.Typeflag == tar.TypeDir {
				continue
			}
			return fmt.Errorf("illegal file path in archive: %s", h.Name)
		}
		if err := visit(h, rel, tr); err != nil {
			return err
		}
	}
}

// rebase writes an archive anew with another beginning of its names.
func rebase(r io.Reader, w io.Writer, from, to string) error {
	tw := tar.NewWriter(w)
	err := each(r, from, func(h *tar.Header, rel string, content io.Reader) error {
		h.Name = path.Join(to, rel)
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(tw, content)
		return err
	})
	return errors.Join(err, tw.Close())
}

// unpack writes an archive's files below a local path.
func unpack(r io.Reader, base, local string) error {
	return each(r, base, func(h *tar.Header, rel string, content io.Reader) error {
		target := filepath.Join(local, filepath.FromSlash(rel))
		switch h.Typeflag {
		case tar.TypeDir:
			return os.MkdirAll(target, h.FileInfo().Mode().Perm())
		case tar.TypeReg:
			if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
				return err
			}
			f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, h.FileInfo().Mode().Perm())
			if err != nil {
				return err
			}
			_, err = io.Copy(f, content)
			return errors.Join(err, f.Close())
		}
		return nil
	})
}

// --- resources

func cmdResources(run *invocation) error {
	var list []wire.Resource
	if err := run.get(run.appPath("/resources"), &list); err != nil {
		return err
	}
	var rows [][]string
	for _, r := range list {
		rows = append(rows, []string{r.Name, r.Type, r.URL})
	}
	return run.table([]string{"NAME", "TYPE", "URL"}, rows...)
}

func (run *invocation) resource() (wire.Resource, error) {
	var r wire.Resource
	return r, run.get(run.appPath("/resources/%s", run.arg(0)), &r)
}

func cmdResourceInfo(run *invocation) error {
	r, err := run.resource()
	if err != nil {
		return err
	}
	list := [][2]string{{"Name", r.Name}, {"Type", r.Type}}
	if r.URL != "" {
		list = append(list, [2]string{"URL", r.URL})
	}
	return run.info(list...)
}

func cmdResourceURL(run *invocation) error {
	r, err := run.resource()
	if err != nil {
		return err
	}
	if r.URL == "" {
		return fmt.Errorf("no url for resource: %s", r.Name)
	}
	run.printf("%s\n", r.URL)
	return nil
}

func cmdResourceExport(run *invocation) error {
	w, end, err := run.output()
	if err != nil {
		return err
	}
	res, err := run.c.Stream(run.ctx, Call{Method: http.MethodGet, Path: run.appPath("/resources/%s/data", run.arg(0))})
	if err != nil {
		return errors.Join(err, end())
	}
	defer res.Body.Close()
	run.start("Exporting resource data")
	_, err = io.Copy(w, res.Body)
	if err := errors.Join(err, end()); err != nil {
		return err
	}
	return run.done()
}

func cmdResourceImport(run *invocation) error {
	r, end, err := run.input()
	if err != nil {
		return err
	}
	defer end()
	run.start("Importing resource data")
	if err := run.c.Upload(run.ctx, http.MethodPut, run.appPath("/resources/%s/data", run.arg(0)), nil, r, -1, nil); err != nil {
		return err
	}
	return run.done()
}

func cmdResourceConsole(run *invocation) error {
	s, err := run.c.Socket(run.ctx, run.appPath("/resources/%s/console", run.arg(0)), nil)
	if err != nil {
		return err
	}
	defer s.Close()   //nolint:errcheck // never fails
	go s.Send(run.in) //nolint:errcheck // it ends with the input, or the socket
	return s.Copy(run)
}

// --- the rack's own

func cmdRegistries(run *invocation) error {
	var list []wire.Registry
	if err := run.get("/registries", &list); err != nil {
		return err
	}
	var rows [][]string
	for _, r := range list {
		rows = append(rows, []string{r.Server, r.Username})
	}
	return run.table([]string{"SERVER", "USERNAME"}, rows...)
}

func cmdRegistryAdd(run *invocation) error {
	run.start("Adding registry")
	if err := run.post("/registries", url.Values{"server": {run.arg(0)}, "username": {run.arg(1)}, "password": {run.arg(2)}}, nil); err != nil {
		return err
	}
	return run.done()
}

func cmdRegistryRemove(run *invocation) error {
	if _, err := run.system(); err != nil {
		return err
	}
	run.start("Removing registry")
	if err := run.delete("/registries/" + run.arg(0)); err != nil {
		return err
	}
	return run.done()
}

func cmdCerts(run *invocation) error {
	call := Call{Method: http.MethodGet, Path: "/certificates"}
	if run.is("generated") {
		call.Form = url.Values{"generated": {"true"}}
	}
	var list []wire.Certificate
	if err := run.c.Do(run.ctx, call, &list); err != nil {
		return err
	}
	var rows [][]string
	for _, c := range list {
		status := c.Status
		if status == "" {
			status = "Ready"
		}
		rows = append(rows, []string{c.ID, c.Domain, run.ago(c.Expiration), status})
	}
	return run.table([]string{"ID", "DOMAIN", "EXPIRES", "Status"}, rows...)
}

func (run *invocation) certificate(path string, form url.Values, doing string) error {
	ids := io.Discard
	if run.is("id") {
		ids = run.toStderr()
	}
	run.start("%s certificate", doing)
	var c wire.Certificate
	if err := run.post(path, form, &c); err != nil {
		return err
	}
	run.done(c.ID)            //nolint:errcheck // never fails
	io.WriteString(ids, c.ID) //nolint:errcheck // output of a test
	return nil
}

func cmdCertGenerate(run *invocation) error {
	form := url.Values{"domains": {strings.Join(run.args, ",")}}
	for _, f := range []string{"issuer", "duration"} {
		if v := run.flags[f]; v != "" {
			form.Set(f, v)
		}
	}
	return run.certificate("/certificates/generate", form, "Generating")
}

func cmdCertImport(run *invocation) error {
	if _, err := run.system(); err != nil {
		return err
	}
	form := url.Values{}
	for field, name := range map[string]string{"pub": run.arg(0), "key": run.arg(1), "chain": run.flags["chain"]} {
		if name == "" {
			continue
		}
		name, err := run.cli.path(name)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		form.Set(field, string(data))
	}
	return run.certificate("/certificates", form, "Importing")
}

func cmdCertDelete(run *invocation) error {
	run.start("Deleting certificate %s", run.arg(0))
	if err := run.delete("/certificates/" + run.arg(0)); err != nil {
		return err
	}
	return run.done()
}

func cmdCertRenew(run *invocation) error {
	run.start("Renewing certificate %s", run.app())
	if err := run.post("/certificates/"+run.app()+"/renew", nil, nil); err != nil {
		return err
	}
	return run.done()
}

func cmdInstances(run *invocation) error {
	var list []wire.Instance
	if err := run.get("/instances", &list); err != nil {
		return err
	}
	percent := func(used, of float64) string { return fmt.Sprintf("%0.2f%%", used/of*100) }
	var rows [][]string
	for _, i := range list {
		rows = append(rows, []string{i.ID, i.Status, run.ago(i.Started), strconv.Itoa(i.Processes), percent(i.CPU, i.CPUAllocatable), percent(i.Memory, i.MemoryAllocatable), i.PublicIP, i.PrivateIP})
	}
	return run.table([]string{"ID", "STATUS", "STARTED", "PS", "CPU", "MEM", "PUBLIC", "PRIVATE"}, rows...)
}

func cmdInstanceTerminate(run *invocation) error {
	run.start("Terminating instance")
	if err := run.delete("/instances/" + run.arg(0)); err != nil {
		return err
	}
	return run.done()
}

// cmdInstanceSSH sends the key whenever one is given; the CLI does so only where the console holds the rack's state.
func cmdInstanceSSH(run *invocation) error {
	if _, err := run.system(); err != nil {
		return err
	}
	h := map[string]string{}
	if command := strings.Join(run.args[1:], " "); command != "" {
		h["Command"] = oneLine(command)
	}
	if name := run.flags["key"]; name != "" {
		name, err := run.cli.path(name)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("invalid key file: %w", err)
		}
		h["Private-Key"] = base64.StdEncoding.EncodeToString(data)
	}
	code, err := run.c.Interact(run.ctx, "/instances/"+run.arg(0)+"/shell", h, run.in, run)
	if err != nil {
		return err
	}
	return exitError(code)
}
