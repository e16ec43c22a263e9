// Builds: they unpack what was uploaded, log, and make a release.

package racktest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"rackgateway/pkg/racktest/wire"
)

type build struct {
	wire.Build
	log       *logBuffer
	importing bool
}

func errNoBuild(id string) error {
	return fmt.Errorf("builds.convox.com %q not found", strings.ToLower(id))
}

// build finds a build; the rack does not mind the case of an id.
func (a *app) build(id string) *build { return a.builds[strings.ToUpper(id)] }

// findBuild finds a build of an app, by a path's variables. The caller holds r.mu.
func (r *Rack) findBuild(c *call) (*app, *build, error) {
	id := c.variable("id")
	if a := r.apps[c.variable("app")]; a != nil {
		if b := a.build(id); b != nil {
			return a, b, nil
		}
	}
	return nil, nil, errNoBuild(id)
}

// newBuild enters a build. The caller holds r.mu.
func (r *Rack) newBuild(a *app) *build {
	b := &build{Build: wire.Build{ID: "B" + r.letters(10, upperLetters), App: a.name, Status: "created", Started: r.now()}, log: newLogBuffer()}
	for _, other := range a.builds {
		if !b.Started.After(other.Started) {
			b.Started = other.Started.Add(time.Microsecond)
		}
	}
	a.builds[b.ID] = b
	return b
}

func (r *Rack) buildCreate(c *call) error {
	source := c.value("url")
	o := c.options()
	var in struct{ description, gitSha, manifest string }
	in.description, _ = o.form("description")
	in.gitSha, _ = o.form("git-sha")
	in.manifest, _ = o.form("manifest")
	external := boolean(o.form("external"))
	args, _ := o.form("build-args")

	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	b := r.newBuild(a)
	b.Description, b.GitSha = in.description, in.gitSha
	if external != nil && *external {
		out := b.Build
		r.mu.Unlock()
		// The answer, and only this one, holds the rack's own password: docker logs in with it.
		out.Repository = fmt.Sprintf("https://convox:%s@api.%s/%s", r.opts.Password, r.domain(), a.name)
		return c.json(out)
	}
	command := "build -method tgz -cache true"
	if args != "" {
		for arg := range strings.SplitSeq(args, ",") {
			command += " -build-args " + arg
		}
	}
	pod := r.startProcess(a, processInput{service: "build", command: command, kind: buildProcess, env: map[string]string{
		"BUILD_APP": a.name, "BUILD_ID": b.ID, "BUILD_URL": source, "BUILD_GIT_SHA": b.GitSha, "BUILD_RACK": r.opts.Name,
		"CONVOX_ACTOR": c.user,
	}})
	b.Process, b.Status = pod.ID, "running"
	r.spawn(func(ctx context.Context) { r.runBuild(ctx, a, b, pod, source, cmp.Or(in.manifest, "convox.yml")) })
	out := b.Build
	r.mu.Unlock()
	return c.json(out)
}

// runBuild is the life of a build's pod.
func (r *Rack) runBuild(ctx context.Context, a *app, b *build, pod *process, source, manifestFile string) {
	say := func(format string, args ...any) {
		l := logLine{time: r.now(), service: "build", pid: pod.ID, text: fmt.Sprintf(format, args...)}
		b.log.add(l)
		pod.log.add(l)
	}
	step := r.opts.BuildTime / 4
	yml, err := r.buildSource(source, manifestFile)
	say("Running build: %s", b.ID)
	pause(ctx, step)
	var m manifest
	if err == nil {
		m, err = parseManifest(yml)
	}
	if err == nil && len(m.services) == 0 {
		err = errors.New("no services found in " + manifestFile)
	}
	if err == nil {
		for _, s := range m.services {
			say("Building: .")
			say("Running: docker build -t %s:%s.%s .", a.name, s.name, b.ID)
			pause(ctx, step/time.Duration(len(m.services)))
			say("Successfully built %s", b.ID)
			say("Running: docker push registry.%s/%s:%s.%s", r.domain(), a.name, s.name, b.ID)
			pause(ctx, step/time.Duration(len(m.services)))
		}
	}
	pause(ctx, step)

	r.mu.Lock()
	defer r.mu.Unlock()
	b.Ended = r.now()
	b.Logs = fmt.Sprintf("object://%s/build/%s/logs", a.name, b.ID)
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil {
		b.Manifest = yml
		var rel *release
		if rel, err = r.makeRelease(a, releaseInput{build: &b.ID, description: &b.Description}); err == nil {
			b.Release, b.Status = rel.ID, "complete"
		}
	}
	if err != nil {
		say("ERROR: %s", err)
		b.Status, b.Reason = "failed", err.Error()
	}
	r.note("build:create", map[string]string{"app": a.name, "id": b.ID})
	r.stopProcess(a, pod)
	b.log.end()
}

// buildSource finds the manifest in the archive that a build's url names.
func (r *Rack) buildSource(source, manifestFile string) (string, error) {
	rest, ok := strings.CutPrefix(source, "object://")
	if !ok {
		return "", fmt.Errorf("unknown source: %s", source)
	}
	from, key, _ := strings.Cut(rest, "/")
	r.mu.Lock()
	var object *blob
	// Any app's objects can be built from: the rack does not look whose they are.
	if owner := r.apps[from]; owner != nil {
		object = owner.objects[key]
	}
	r.mu.Unlock()
	if object == nil {
		return "", fmt.Errorf("object not found: %s", key)
	}
	var yml []byte
	var failing string
	err := eachFile(object.open(), func(name string, r io.Reader) error {
		var err error
		switch name {
		case manifestFile:
			yml, err = io.ReadAll(r)
		case "Dockerfile":
			var text []byte
			text, err = io.ReadAll(r)
			if m := failingStep.FindSubmatch(text); m != nil {
				failing = string(m[1])
			}
		}
		return err
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("unpacking the source: %w", err)
	case yml == nil:
		return "", fmt.Errorf("open %s: no such file or directory", manifestFile)
	case failing != "":
		return "", fmt.Errorf("the command '/bin/sh -c %s' returned a non-zero code: 1", failing)
	}
	return string(yml), nil
}

// failingStep is how a source makes its build fail.
var failingStep = regexp.MustCompile(`(?m)^RUN\s+(false|exit\s+[1-9]\d*)\s*$`)

// eachFile visits the regular files of a gzipped tar archive.
func eachFile(r io.Reader, visit func(name string, r io.Reader) error) error {
	gz, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	tr := tar.NewReader(gz)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := visit(path.Clean(h.Name), tr); err != nil {
			return err
		}
	}
}

func (r *Rack) buildGet(c *call) error {
	r.mu.Lock()
	_, b, err := r.findBuild(c)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := b.Build
	r.mu.Unlock()
	return c.json(out)
}

func (r *Rack) buildList(c *call) error {
	limit, err := c.limit()
	if err != nil {
		return err
	}
	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	out := []wire.Build{}
	for _, b := range a.builds {
		out = append(out, b.Build)
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b wire.Build) int { return b.Started.Compare(a.Started) })
	return c.json(out[:min(limit, len(out))])
}

func (r *Rack) buildLogs(c *call) error {
	lo, err := c.logOptions()
	if err != nil {
		return err
	}
	r.mu.Lock()
	_, b, err := r.findBuild(c)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	// Build logs are shown from the beginning and without prefixes unless those are asked for.
	_, asked := c.r.Header["Prefix"]
	lo.since, lo.follow, lo.prefix = 0, true, lo.prefix && asked
	return c.stream(b.log, lo, nil)
}

func (r *Rack) buildUpdate(c *call) error {
	o := c.options()
	ended, started := o.moment(o.form("ended")), o.moment(o.form("started"))
	if o.err != nil {
		return o.err
	}
	r.mu.Lock()
	_, b, err := r.findBuild(c)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	if ended != nil {
		b.Ended = *ended
	}
	if started != nil {
		b.Started = *started
	}
	for name, field := range map[string]*string{
		"entrypoint": &b.Entrypoint, "logs": &b.Logs, "manifest": &b.Manifest, "release": &b.Release, "status": &b.Status,
	} {
		if v, ok := o.form(name); ok {
			*field = v
		}
	}
	if b.Status == "complete" || b.Status == "failed" {
		b.log.end()
	}
	out := b.Build
	r.mu.Unlock()
	return c.json(out)
}

// buildExport streams build.json and an image per service as a gzipped tar of unknown length.
func (r *Rack) buildExport(c *call) error {
	r.mu.Lock()
	a, b, err := r.findBuild(c)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	rel := a.releases[b.Release]
	out := b.Build
	r.mu.Unlock()
	if rel == nil {
		return errNoRelease(out.Release)
	}
	if len(rel.parsed.services) == 0 {
		return badRequest("no services found to export")
	}
	doc, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	gz := gzip.NewWriter(c)
	tw := tar.NewWriter(gz)
	write := func(name string, size int64, from io.Reader) error {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: size}); err != nil {
			return err
		}
		_, err := io.Copy(tw, from)
		return err
	}
	if err := write("build.json", int64(len(doc)), bytes.NewReader(doc)); err != nil {
		return err
	}
	const imageSize = 256 << 10
	for i, s := range rel.parsed.services {
		if err := write(s.name+"."+out.ID+".tar", imageSize, RandomBytes(imageSize, uint64(i))); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return gz.Close()
}

func (r *Rack) buildImport(c *call) error {
	var source wire.Build
	err := eachFile(c, func(name string, r io.Reader) error {
		if name != "build.json" {
			_, err := io.Copy(io.Discard, r)
			return err
		}
		return json.NewDecoder(r).Decode(&source)
	})
	if err != nil {
		return err
	}
	io.Copy(io.Discard, c) //nolint:errcheck // what follows the archive does not matter
	r.mu.Lock()
	a, err := r.appLocked(c.variable("app"))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	b := r.newBuild(a)
	b.Description, b.Manifest, b.GitSha, b.Entrypoint = source.Description, source.Manifest, source.GitSha, source.Entrypoint
	b.Status, b.Ended = "complete", b.Started
	b.log.end()
	rel, err := r.makeRelease(a, releaseInput{build: &b.ID, description: &b.Description})
	if err != nil {
		r.mu.Unlock()
		return err
	}
	b.Release = rel.ID
	out := b.Build
	r.mu.Unlock()
	return c.json(out)
}

// imageReference is what the rack accepts as the name of an image.
var imageReference = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$`)

func (r *Rack) buildImportImage(c *call) error {
	image := c.value("image")
	switch {
	case image == "":
		return fail(http.StatusUnprocessableEntity, "image param required")
	case !imageReference.MatchString(image) || strings.Contains(image, "//"):
		return fail(http.StatusUnprocessableEntity, "invalid image ref: must start with a letter or digit, contain only A-Z a-z 0-9 . _ : / @ + -, and not include // @- :- or /-")
	}
	r.mu.Lock()
	_, b, err := r.findBuild(c)
	if err == nil {
		switch {
		case b.importing:
			err = conflict("build %s is already importing; wait for completion before retrying", b.ID)
		case strings.TrimSpace(b.Manifest) == "":
			err = fail(http.StatusUnprocessableEntity, "build %s has no manifest; populate via BuildUpdate before BuildImportImage", b.ID)
		}
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	b.Status, b.importing = "running", true
	r.spawn(func(ctx context.Context) {
		b.log.add(logLine{time: r.now(), service: "build", text: "Importing " + image})
		pause(ctx, r.opts.BuildTime)
		r.mu.Lock()
		defer r.mu.Unlock()
		b.Status, b.importing, b.Ended = "complete", false, r.now()
		b.log.end()
	})
	r.mu.Unlock()
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}
