// Command sbom says what binaries are made of: every module that is linked into them, with its version, its checksum
// and its licence, as a CycloneDX document (a software bill of materials) or as a table for people.
//
//	sbom -version v1.2.3 bin/proxy bin/admin  CycloneDX 1.5, as JSON
//	sbom -licences bin/proxy bin/admin        a table of modules and their licences
//
// It reads what Go itself wrote into the binaries, so that it cannot say anything else than what is in them. Licences
// are read from the modules' own files, in the module cache of the machine. One that it does not know, or that asks
// more of users than to be named, is an error.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("sbom", flag.ContinueOnError)
	version := flags.String("version", "", "version of the programs, as the linker was told")
	licences := flags.Bool("licences", false, "print a table of modules and their licences")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("name the binaries")
	}
	bill, err := read(ctx, flags.Args())
	if err != nil {
		return err
	}
	bill.version = *version
	if *licences {
		return bill.table(out)
	}
	return bill.cycloneDX(out)
}

// module is one that is linked in.
type module struct {
	path, version, sum string
	licence            string // SPDX
	used               []string
}

// bill is what binaries are made of.
type bill struct {
	version   string // of ours
	goVersion string
	programs  map[string]string // name → SHA-256
	modules   []*module
}

// read looks into the binaries.
func read(ctx context.Context, binaries []string) (*bill, error) {
	b := &bill{programs: make(map[string]string)}
	found := make(map[string]*module)
	for _, path := range binaries {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		content, err := os.ReadFile(path) // #nosec G304 -- named by whoever runs this
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		digest := sha256.Sum256(content)
		name := filepath.Base(path)
		b.programs[name], b.goVersion = hex.EncodeToString(digest[:]), info.GoVersion
		for _, dep := range info.Deps {
			if dep.Replace != nil {
				dep = dep.Replace
			}
			m := found[dep.Path]
			if m == nil {
				m = &module{path: dep.Path, version: dep.Version, sum: dep.Sum}
				found[dep.Path] = m
				b.modules = append(b.modules, m)
			}
			if m.version != dep.Version {
				return nil, fmt.Errorf("%s is there as %s and as %s: build all programs at once", dep.Path, m.version, dep.Version)
			}
			m.used = append(m.used, name)
		}
	}
	slices.SortFunc(b.modules, func(x, y *module) int { return cmp.Compare(x.path, y.path) })
	cache, err := moduleCache(ctx)
	if err != nil {
		return nil, err
	}
	var unknown []error
	for _, m := range b.modules {
		if m.licence, err = licenceOf(filepath.Join(cache, escape(m.path)+"@"+escape(m.version))); err != nil {
			unknown = append(unknown, fmt.Errorf("%s %s: %w", m.path, m.version, err))
		}
	}
	return b, errors.Join(unknown...)
}

func moduleCache(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMODCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("where modules are: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// escape is how the module cache writes capital letters (golang.org/x/mod/module).
func escape(path string) string {
	var b strings.Builder
	for _, r := range path {
		if unicode.IsUpper(r) {
			b.WriteByte('!')
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// licenceOf reads a module's licence and names it. Those named here ask for nothing but to be named and kept.
func licenceOf(folder string) (string, error) {
	files, err := os.ReadDir(folder)
	if err != nil {
		return "", fmt.Errorf("look for its licence: %w", err)
	}
	for _, file := range files {
		name := strings.ToUpper(file.Name())
		if file.IsDir() || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, file.Name())) // #nosec G304 -- in the module cache
		if err != nil {
			return "", fmt.Errorf("read its licence: %w", err)
		}
		flat := strings.Join(strings.Fields(strings.ToLower(string(text))), " ")
		has := func(part string) bool { return strings.Contains(flat, part) }
		switch {
		case has("gnu general public license"), has("gnu affero"), has("gnu lesser"):
			return "", errors.New("its licence asks for more than to be named")
		case has("mozilla public license"):
			return "MPL-2.0", nil
		case has("apache license") && has("version 2.0"):
			return "Apache-2.0", nil
		case has("redistribution and use in source and binary forms") && has("neither the name"):
			return "BSD-3-Clause", nil
		case has("redistribution and use in source and binary forms"):
			return "BSD-2-Clause", nil
		case has("permission to use, copy, modify, and/or distribute") || has("permission to use, copy, modify, and distribute this software for any purpose with or without fee"):
			return "ISC", nil
		case has("permission is hereby granted, free of charge"):
			return "MIT", nil
		}
	}
	return "", errors.New("it has no licence that is known")
}

// table is for people.
func (b *bill) table(out io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "| module | version | licence | in |\n|---|---|---|---|\n")
	for _, m := range b.modules {
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", m.path, m.version, m.licence, strings.Join(m.used, ", "))
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// What follows is as much of CycloneDX 1.5 as is said here.
type (
	document struct {
		Format     string      `json:"bomFormat"`
		Spec       string      `json:"specVersion"`
		Version    int         `json:"version"`
		Metadata   metadata    `json:"metadata"`
		Components []component `json:"components"`
	}
	metadata struct {
		Component component `json:"component"`
	}
	component struct {
		Type     string     `json:"type"`
		Name     string     `json:"name"`
		Version  string     `json:"version,omitempty"`
		PURL     string     `json:"purl,omitempty"`
		Hashes   []hash     `json:"hashes,omitempty"`
		Licenses []licence  `json:"licenses,omitempty"`
		Parts    []property `json:"properties,omitempty"`
	}
	hash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	licence struct {
		License struct {
			ID string `json:"id"`
		} `json:"license"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
)

func licensed(id string) []licence {
	var l licence
	l.License.ID = id
	return []licence{l}
}

// cycloneDX is the same for the same binaries: it holds neither a time nor a random number.
func (b *bill) cycloneDX(out io.Writer) error {
	d := document{Format: "CycloneDX", Spec: "1.5", Version: 1}
	d.Metadata.Component = component{Type: "application", Name: "rack-gateway", Version: b.version, Licenses: licensed("Apache-2.0")}
	for _, name := range slices.Sorted(keys(b.programs)) {
		d.Components = append(d.Components, component{Type: "application", Name: name, Version: b.version, Hashes: []hash{{"SHA-256", b.programs[name]}}})
	}
	d.Components = append(d.Components, component{Type: "library", Name: "std", Version: strings.TrimPrefix(b.goVersion, "go"), PURL: "pkg:golang/std@" + strings.TrimPrefix(b.goVersion, "go"), Licenses: licensed("BSD-3-Clause")})
	for _, m := range b.modules {
		c := component{Type: "library", Name: m.path, Version: m.version, PURL: "pkg:golang/" + m.path + "@" + m.version, Licenses: licensed(m.licence)}
		if sum, ok := strings.CutPrefix(m.sum, "h1:"); ok { // a SHA-256 over the module's files (golang.org/x/mod/sumdb/dirhash)
			if raw, err := base64.StdEncoding.DecodeString(sum); err == nil {
				c.Parts = append(c.Parts, property{"go:h1", hex.EncodeToString(raw)})
			}
		}
		c.Parts = append(c.Parts, property{"used-by", strings.Join(m.used, " ")})
		d.Components = append(d.Components, c)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(d)
}

func keys(m map[string]string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
