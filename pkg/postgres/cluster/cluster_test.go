package cluster_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rackgateway/pkg/postgres/cluster"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("CLUSTER_TEST_DIR"); dir != "" { // the process that TestItEndsWithItsProcess kills
		c, err := cluster.Start(context.Background(), cluster.Options{Dir: dir, NoFSync: true})
		if err != nil {
			panic(err)
		}
		fmt.Println(c.URL(cluster.Superuser, "postgres"))
		select {}
	}
	os.Exit(m.Run())
}

func start(t *testing.T, opts cluster.Options) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// answers tells whether the address is served.
func answers(url string) error {
	db, err := sql.Open("postgres", url+"&connect_timeout=2")
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Ping()
}

func TestItKeepsItsDataWhereItWasToldTo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pg")
	if err := os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755); err != nil { // so that another user gets there
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	c := start(t, cluster.Options{Dir: dir, NoFSync: true})
	if err := c.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time it is there already
		if err := c.CreateDatabase(t.Context(), "kept", ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, url := range []string{c.URL(cluster.Owner, "kept"), c.SocketURL(cluster.Owner, "kept")} {
		if err := answers(url); err != nil {
			t.Error(err)
		}
	}
	wrong := strings.Replace(c.URL(cluster.Owner, "kept"), ":", ":wrong", 2)
	if err := answers(wrong); err == nil {
		t.Error("it takes any password")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	again := start(t, cluster.Options{Dir: dir, NoFSync: true})
	if err := again.Setup(t.Context()); err != nil {
		t.Error(err)
	}
	if err := answers(again.URL(cluster.Owner, "kept")); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

func TestItComesBackOnItsPort(t *testing.T) {
	c := start(t, cluster.Options{NoFSync: true})
	url, dir := c.URL(cluster.Superuser, "postgres"), c.Dir()
	for _, way := range []struct {
		name string
		end  func() error
	}{{"stopped", c.Stop}, {"killed", c.Kill}} {
		if err := way.end(); err != nil {
			t.Fatal(err)
		}
		<-c.Done()
		if err := answers(url); err == nil {
			t.Errorf("%s, and it answers", way.name)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := answers(url); err != nil {
			t.Errorf("%s and started: %v", way.name, err)
		}
		if err := c.Start(t.Context()); err == nil {
			t.Error("it is started twice")
		}
	}
	used, err := c.CPUTime()
	if err != nil || used <= 0 {
		t.Errorf("it used %s (%v)", used, err)
	}
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := answers(url); err == nil {
		t.Error("paused, and it answers")
	}
	if err := c.Close(); err != nil { // also while it is paused
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder is left: %v", err)
	}
}

func TestItSaysWhyItDoesNotStart(t *testing.T) {
	c := start(t, cluster.Options{NoFSync: true})
	_, err := cluster.Start(t.Context(), cluster.Options{Port: c.Port(), NoFSync: true})
	if err == nil || !strings.Contains(err.Error(), "Address already in use") {
		t.Errorf("on a port that is taken: %v", err)
	}
	_, err = cluster.Start(t.Context(), cluster.Options{Extra: []string{"no_such_setting=1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("with a setting that does not exist: %v", err)
	}
}

// No server outlives a process that was killed, and the next one tidies up after it.
func TestItEndsWithItsProcess(t *testing.T) {
	if _, err := cluster.Binaries(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "rgw-postgres-test-") //nolint:usetesting // another user must get there
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "CLUSTER_TEST_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var url string
	if _, err := fmt.Fscan(out, &url); err != nil {
		t.Fatal(err)
	}
	if err := answers(url); err != nil {
		t.Error(err)
	}
	left, err := os.MkdirTemp("", fmt.Sprintf("rgw-postgres-%d-", cmd.Process.Pid)) //nolint:usetesting // where it looks
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for end := time.Now().Add(30 * time.Second); answers(url) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the server lives on")
		}
	}
	start(t, cluster.Options{NoFSync: true})
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the killed process left is still there: %v", err)
	}
}
