//go:build linux

package faults

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"rackgateway/pkg/testenv"
)

// smallDisk mounts a file system of so many bytes for the test, where this process may.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // the server runs as somebody else
	disk := filepath.Join(dir, "disk")
	must(t, os.Mkdir(disk, 0o755))
	if err := syscall.Mount("small", disk, "tmpfs", 0, "size="+size+",mode=755"); err != nil {
		t.Fatalf("a small file system cannot be mounted: run the test as root on a machine of your own, or in a container with CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Errorf("unmounting the small file system: %v", err)
		}
	})
	return disk
}

// fill writes to a file until the disk is full.
func fill(t *testing.T, path string) (size int64) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer func() { _ = f.Close() }()
	block := make([]byte, 1<<20)
	for len(block) > 0 {
		n, err := f.Write(block)
		size += int64(n)
		switch {
		case err == nil:
		case errors.Is(err, syscall.ENOSPC):
			block = block[:len(block)/2] // down to the last byte
		default:
			t.Fatal(err)
		}
	}
	return size
}

// PostgreSQL without room to write takes no record, so that nothing is served: clients are told why, the rack is left
// alone, and when there is room again everything goes on by itself, with what could be recorded only now.
func TestTheDiskOfTheDatabaseIsFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "500m")
	env := start(t, testenv.Options{
		Proxies: 1, OwnPostgres: true, PostgresDir: filepath.Join(disk, "cluster"),
		PostgresSettings: []string{"max_wal_size=64MB", "min_wal_size=32MB"},
		Config:           map[string]string{"AUDIT_MAX_WAIT": "1s"},
	})
	random, books := chance(t), newBooks(env)
	proxy, filler := env.Proxies[0], filepath.Join(disk, "filler")
	for range pick(1, 10) {
		l := books.put(t, loadOptions{callers: 12, addresses: []func() string{at(proxy)}, tokens: []string{env.Token("admin")}, every: 5 * time.Millisecond})
		l.goesOn(t, 50)
		size := fill(t, filler)
		refusals(t, l, "writes to a full disk", 24, http.StatusServiceUnavailable)
		moment(t.Context(), random, 0, time.Second)
		resp, err := env.Client().Get(proxy.URL + "/api/v1/health/ready")
		must(t, err)
		said, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("with a full disk the proxy's readiness is %d: %s", resp.StatusCode, said)
		}
		must(t, os.Remove(filler))
		// It gives up when its write-ahead log has no room, and is started again by whoever looks after it.
		starts, from := 0, l.served.Load()
		eventually(t, "requests were served again", func() bool {
			select {
			case <-env.Postgres.Done():
				starts++
				must(t, env.Postgres.Start(t.Context()))
			default:
			}
			return l.served.Load() >= from+100
		})
		proxy.WaitReady(t.Context())
		others := l.lift()
		for _, e := range others {
			if e.err != nil || e.code != unrecorded && (e.code != "outcome-unknown" || !e.shape.write) {
				t.Errorf("with a full disk %s %s came to %s", e.key, e.shape.name, e.told())
			}
		}
		t.Logf("disk full (%d MB of filler; PostgreSQL gave up %d times): %d requests served, %d refused; it recovered by itself", size>>20, starts, l.served.Load(), len(others))
	}
	books.close(t, allowance{})
}
