// The part of convox.yml that the rack acts on: services with ports, commands and counts, resources with types.

package racktest

import (
	"fmt"
	"strconv"
	"strings"
)

// manifest is what a release runs, in the order of the file.
type manifest struct {
	services  []manifestService
	resources []manifestResource
}

type manifestService struct {
	name        string
	port        int
	command     string
	environment []string
	min, max    int
	internal    bool
}

type manifestResource struct{ name, kind string }

// parseManifest reads the block style of YAML that convox.yml files are written in: nested maps and lists,
// plain or quoted scalars, comments. Keys it does not know are skipped.
func parseManifest(text string) (manifest, error) {
	var m manifest
	type level struct {
		indent int
		key    string
	}
	var path []level
	for number, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || strings.HasPrefix(trimmed, "#") {
			continue
		}
		if strings.HasPrefix(line, "\t") {
			return m, fmt.Errorf("yaml: line %d: found character that cannot start any token", number+1)
		}
		indent := len(line) - len(strings.TrimLeft(line, " "))
		item := strings.HasPrefix(trimmed, "- ")
		for len(path) > 0 && (path[len(path)-1].indent > indent || path[len(path)-1].indent == indent && !item) {
			path = path[:len(path)-1]
		}
		keys := make([]string, 0, len(path)+1)
		for _, l := range path {
			keys = append(keys, l.key)
		}
		if item {
			if len(keys) == 3 && keys[0] == "services" && keys[2] == "environment" {
				s := m.service(keys[1])
				s.environment = append(s.environment, scalar(trimmed[2:]))
			}
			continue
		}
		key, value, ok := strings.Cut(trimmed, ":")
		if !ok {
			return m, fmt.Errorf("yaml: line %d: could not find expected ':'", number+1)
		}
		key = scalar(key)
		if err := m.set(append(keys, key), scalar(value)); err != nil {
			return m, fmt.Errorf("yaml: line %d: %w", number+1, err)
		}
		path = append(path, level{indent, key})
	}
	for i := range m.services {
		s := &m.services[i]
		if s.max < s.min {
			s.max = s.min
		}
	}
	return m, nil
}

// set takes one key with its value in.
func (m *manifest) set(path []string, value string) error {
	switch {
	case len(path) == 2 && path[0] == "services":
		m.services = append(m.services, manifestService{name: path[1], min: 1, max: 1})
	case len(path) == 2 && path[0] == "resources":
		m.resources = append(m.resources, manifestResource{name: path[1]})
	case len(path) == 3 && path[0] == "resources" && path[2] == "type":
		m.resources[len(m.resources)-1].kind = value
	case len(path) >= 3 && path[0] == "services":
		s := m.service(path[1])
		switch strings.Join(path[2:], ".") {
		case "command":
			s.command = value
		case "internal":
			s.internal = value == "true"
		case "port":
			// http:3000 and https:3000 are allowed, too.
			_, after, found := strings.Cut(value, ":")
			if !found {
				after = value
			}
			port, err := strconv.Atoi(after)
			if err != nil {
				return fmt.Errorf("invalid port: %s", value)
			}
			s.port = port
		case "scale", "scale.count":
			if value == "" {
				return nil
			}
			low, high, ranged := strings.Cut(value, "-")
			var err error
			if s.min, err = strconv.Atoi(low); err != nil {
				return fmt.Errorf("invalid scale: %s", value)
			}
			s.max = s.min
			if ranged {
				if s.max, err = strconv.Atoi(high); err != nil {
					return fmt.Errorf("invalid scale: %s", value)
				}
			}
		}
	}
	return nil
}

func (m *manifest) service(name string) *manifestService {
	for i := range m.services {
		if m.services[i].name == name {
			return &m.services[i]
		}
	}
	return nil
}

func (m *manifest) resource(name string) *manifestResource {
	for i := range m.resources {
		if m.resources[i].name == name {
			return &m.resources[i]
		}
	}
	return nil
}

// scalar strips quotes, or a trailing comment.
func scalar(s string) string {
	s = strings.TrimSpace(s)
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	if i := strings.Index(s, " #"); i >= 0 {
		s = strings.TrimSpace(s[:i])
	}
	return s
}
