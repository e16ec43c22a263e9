package testenv

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"rackgateway/pkg/postgres/cluster"
)

// Suite is what environments share: the binaries, one PostgreSQL, and a migrated database with people in it, of
// which each environment gets a copy. It makes each of them when the first environment needs it. The zero value is
// ready for use; its methods may be called from any goroutine. Close ends it.
type Suite struct {
	// Bin is a folder that holds proxy and admin; they are built from the source when it is empty.
	Bin string
	// BuildFlags are more arguments of go build, such as "-race".
	BuildFlags []string
	// PostgresSettings are more settings of the shared PostgreSQL, such as "log_statement=all".
	PostgresSettings []string

	mu     sync.Mutex
	bin    string // where the binaries are
	dir    string // temporary, removed by Close
	mac    string // AUDIT_MAC_KEY of every environment
	app    string // APP_SECRET_KEY, likewise
	ca     *authority
	server *cluster.Cluster
	seeds  map[*cluster.Cluster]map[string]string // tokens by name, by the server that has the seeded database
	made   int                                    // databases
	port   int                                    // the last that was given out
}

const (
	seedDatabase = "seed"
	startTimeout = 2 * time.Minute
)

// Close ends the suite's PostgreSQL and removes its files. Environments must have ended.
func (s *Suite) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.server != nil {
		err = s.server.Close()
		s.server = nil
	}
	if s.dir != "" {
		err = errors.Join(err, os.RemoveAll(s.dir))
		s.dir = ""
	}
	return err
}

// prepare makes what is missing, and returns the server and the database that an environment shall use, and the
// tokens of those who are in it.
func (s *Suite) prepare(ctx context.Context, opts Options) (server *cluster.Cluster, database string, tokens map[string]string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Waiting for other environments that are being prepared does not count.
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.begin(ctx); err != nil {
		return nil, "", nil, err
	}
	server = s.server
	if opts.OwnPostgres || server == nil {
		own := cluster.Options{Extra: s.PostgresSettings}
		if opts.OwnPostgres {
			own = cluster.Options{Extra: opts.PostgresSettings, Dir: opts.PostgresDir}
		}
		server, err = cluster.Start(ctx, own)
		if err != nil {
			return nil, "", nil, err
		}
		if !opts.OwnPostgres {
			s.server = server
		}
	}
	defer func() {
		if err != nil && opts.OwnPostgres {
			err = errors.Join(err, server.Close())
		}
	}()
	tokens, seeded := s.seeds[server]
	if !seeded {
		if tokens, err = s.seed(ctx, server); err != nil {
			return nil, "", nil, err
		}
		if !opts.OwnPostgres {
			s.seeds[server] = tokens
		}
	}
	s.made++
	database = fmt.Sprintf("env%d", s.made)
	return server, database, tokens, server.CreateDatabase(ctx, database, seedDatabase)
}

// begin makes the folder, the keys and the binaries.
func (s *Suite) begin(ctx context.Context) error {
	if s.dir != "" {
		return nil
	}
	dir, err := os.MkdirTemp("", "rgw-env-")
	if err != nil {
		return err
	}
	var keys [64]byte
	if _, err = rand.Read(keys[:]); err == nil {
		s.mac, s.app = hex.EncodeToString(keys[:32]), hex.EncodeToString(keys[32:])
		s.ca, err = newAuthority(dir)
	}
	s.bin = s.Bin
	if err == nil && s.bin == "" {
		s.bin, err = filepath.Join(dir, "bin"), s.build(ctx, filepath.Join(dir, "bin"))
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	s.dir, s.seeds = dir, make(map[*cluster.Cluster]map[string]string)
	return nil
}

// Ports are given out in turn, from a place that differs from program to program. Linux gives those from 32768 on
// to outgoing connections.
const (
	firstPort = 20000
	lastPort  = 32000
)

// nextPort is the next port that nobody listens on.
func (s *Suite) nextPort() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.port == 0 {
		s.port = firstPort + os.Getpid()*37%(lastPort-firstPort)
	}
	var err error
	for range lastPort - firstPort {
		if s.port++; s.port > lastPort {
			s.port = firstPort
		}
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf(":%d", s.port)); err == nil {
			return s.port, l.Close()
		}
	}
	return 0, fmt.Errorf("no port is free: %w", err)
}

// build compiles the product's two programs.
func (s *Suite) build(ctx context.Context, into string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	args := append([]string{"build", "-o", into + string(filepath.Separator)}, s.BuildFlags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/proxy", "./cmd/admin")...) // #nosec G204 -- our own flags
	cmd.Dir = root
	if err := os.MkdirAll(into, 0o700); err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// moduleRoot is the folder of the product's go.mod, from wherever a test or program runs in the source: also from within
// a module of its own below it.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.Contains(append([]byte("\n"), text...), []byte("\nmodule rackgateway\n")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod here or above: run this within the source")
		}
		dir = parent
	}
}

// seed makes the database that environments are copies of: migrated, with people and their tokens. All of it is
// done by admin itself.
func (s *Suite) seed(ctx context.Context, server *cluster.Cluster) (map[string]string, error) {
	if err := server.Setup(ctx); err != nil {
		return nil, err
	}
	if err := server.CreateDatabase(ctx, seedDatabase, ""); err != nil {
		return nil, err
	}
	admin := func(args ...string) (string, error) {
		stdout, stderr, err := s.admin(ctx, server, seedDatabase, args...)
		if err != nil {
			return "", fmt.Errorf("admin %s: %w\n%s", strings.Join(args, " "), err, stderr)
		}
		return strings.TrimSpace(stdout), nil
	}
	if _, err := admin("migrate"); err != nil {
		return nil, err
	}
	if _, err := admin("role", "create", ReadsSecrets, "--permission", "convox:secret:read", "--description", "Sees secrets."); err != nil {
		return nil, err
	}
	tokens := make(map[string]string)
	for _, who := range People() {
		var args []string
		if who.API {
			args = []string{"token", "create", "--api", "--name", who.Name, "--owner", who.Email}
		} else {
			add := []string{"user", "add", who.Email}
			for _, role := range who.Roles {
				add = append(add, "--role", role)
			}
			if _, err := admin(add...); err != nil {
				return nil, err
			}
			args = []string{"token", "create", "--user", who.Email, "--name", who.Name + "'s laptop"}
		}
		if who.API {
			for _, role := range who.Roles {
				args = append(args, "--role", role)
			}
		}
		token, err := admin(args...)
		if err != nil {
			return nil, err
		}
		tokens[who.Name] = token
		if !who.API {
			added, err := admin("factor", "add", who.Email, "--json")
			if err != nil {
				return nil, err
			}
			var app struct {
				Secret string `json:"secret"`
			}
			if err := json.Unmarshal([]byte(added), &app); err != nil {
				return nil, fmt.Errorf("admin factor add: %w", err)
			}
			tokens[appOf(who.Name)] = app.Secret
		}
	}
	return tokens, nil
}

// admin runs the admin program on a database.
func (s *Suite) admin(ctx context.Context, server *cluster.Cluster, database string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "admin"), args...) // #nosec G204 -- our own program
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"DATABASE_URL=" + server.URL(cluster.Admin, database),
		"ADMIN_DATABASE_URL=" + server.URL(cluster.Owner, database),
		"AUDIT_MAC_KEY=" + s.mac,
		"APP_SECRET_KEY=" + s.app,
		"DOMAIN=localhost",
	}
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err = cmd.Run()
	return out.String(), complaints.String(), err
}

// missing says what a machine lacks for an environment, in a sentence, or "".
func missing() string {
	if _, err := cluster.Binaries(); err != nil {
		return err.Error()
	}
	return ""
}
