package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// domain is what follows the @ in everybody's address.
const domain = "demo.localhost"

// people are those whom the demo adds: one of each role and a second administrator, because one is too few, a pipeline, and
// a script that administers the gateway.
var people = []person{
	{key: "ADMIN", email: "ana.admin@demo.localhost", name: "Ana Admin", roles: []string{"admin"}, what: "everything"},
	{key: "ADMIN2", email: "abe.admin@demo.localhost", name: "Abe Admin", roles: []string{"admin"}, what: "everything, when Ana is away"},
	{key: "DEPLOYER", email: "dan.deployer@demo.localhost", name: "Dan Deployer", roles: []string{"deployer", "reads-secrets"}, what: "builds, releases, env, and what ops may"},
	{key: "OPS", email: "olga.ops@demo.localhost", name: "Olga Ops", roles: []string{"ops"}, what: "restart, run, exec, and what a viewer may"},
	{key: "VIEWER", email: "vic.viewer@demo.localhost", name: "Vic Viewer", roles: []string{"viewer"}, what: "sees apps, processes, builds, logs"},
	{key: "CI", pipeline: "demo-pipeline", owner: "ana.admin@demo.localhost", roles: []string{"cicd"}, what: "an API token: builds and promotes"},
	{key: "API", pipeline: "demo-admin-api", owner: "ana.admin@demo.localhost", roles: []string{"admin"}, administers: true},
}

// person is somebody with a token: one of the people, or a pipeline that one of them owns.
type person struct {
	key   string // RACK_URL_KEY in demo.env
	email string
	name  string
	roles []string
	what  string // what they may, in a few words

	pipeline    string // name of the API token, for a pipeline
	owner       string
	administers bool // the token is for the admin API, rather than for the rack
}

// label is by which the record knows them.
func (p person) label() string {
	if p.pipeline != "" {
		return p.pipeline
	}
	return p.email
}

// admin runs bin/admin with an environment of its own.
type admin struct {
	program string
	environ []string
}

// run runs one command and returns what it prints. The error is what it says.
func (a admin) run(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, a.program, args...)
	command.Env = a.environ
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("admin %s: %w\n%s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// seed adds the people who are missing. Those who are there are left as they are: somebody may have changed them.
func seed(ctx context.Context, a admin) error {
	roles, err := names(ctx, a, "name", "role", "list", "--json")
	if err != nil {
		return err
	}
	if !roles["reads-secrets"] {
		if _, err := a.run(ctx, "role", "create", "reads-secrets", "--description", "Sees secret values in clear.", "--permission", "convox:secret:read"); err != nil {
			return err
		}
	}
	there, err := names(ctx, a, "email", "user", "list", "--removed", "--json")
	if err != nil {
		return err
	}
	for _, person := range people {
		if person.email == "" || there[person.email] {
			continue
		}
		args := []string{"user", "add", person.email, "--name", person.name}
		for _, role := range person.roles {
			args = append(args, "--role", role)
		}
		if _, err := a.run(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// names runs a command that lists objects as JSON, and returns the values of one field.
func names(ctx context.Context, a admin, field string, args ...string) (map[string]bool, error) {
	output, err := a.run(ctx, args...)
	if err != nil {
		return nil, err
	}
	var rows []map[string]any
	if err := json.Unmarshal([]byte(output), &rows); err != nil {
		return nil, fmt.Errorf("admin %s: %w", strings.Join(args, " "), err)
	}
	found := map[string]bool{}
	for _, row := range rows {
		name, ok := row[field].(string)
		if !ok {
			return nil, fmt.Errorf("admin %s: a row without %s", strings.Join(args, " "), field)
		}
		found[name] = true
	}
	return found, nil
}

// newToken makes a token for somebody.
func newToken(ctx context.Context, a admin, person person) (string, error) {
	args := []string{"token", "create", "--user", person.email, "--name", "the demo's terminal"}
	if person.pipeline != "" {
		// The name of an API token is unique, and an earlier one may be revoked or have expired.
		name := person.pipeline
		taken, err := names(ctx, a, "name", "token", "list", "--json")
		if err != nil {
			return "", err
		}
		for n := 2; taken[name]; n++ {
			name = fmt.Sprintf("%s-%d", person.pipeline, n)
		}
		args = []string{"token", "create", "--api", "--name", name, "--owner", person.owner}
		for _, role := range person.roles {
			args = append(args, "--role", role)
		}
	}
	token, err := a.run(ctx, args...)
	if err == nil && (token == "" || strings.ContainsAny(token, " \n'")) {
		err = errors.New("admin token create printed something else than a token")
	}
	return token, err
}
