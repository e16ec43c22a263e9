package faults

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"rackgateway/pkg/testenv"
)

// What a process is given in production, by the guides' sizes.
const (
	memoryLimit = 256 << 20
	cpuShare    = 0.25 // of the proxy
)

// Both programs run as they do in their containers, as far as the machine lets a test make it so: as nobody in
// particular, without a capability, on a root that cannot be written to, with 256 MB and a quarter of a CPU. Under load
// they serve, and need less than they are given.
func TestBothProgramsLiveWithinTheirMeans(t *testing.T) {
	t.Parallel()
	script, confined := confinement(t)
	env := start(t, testenv.Options{Proxies: -1, Under: []string{"unshare", "--mount", "sh", "-ec", script}, Config: map[string]string{"ADMIN_CIDRS": "127.0.0.0/8,::1/128"}})
	if !confined {
		env = start(t, testenv.Options{Proxies: -1, Config: map[string]string{"ADMIN_CIDRS": "127.0.0.0/8,::1/128"}})
	}
	// The environment's own folder is root's alone, and who runs the programs now is not root.
	must(t, filepath.WalkDir(filepath.Dir(env.Bin()), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 || strings.Contains(path, "postgres") {
			return nil //nolint:nilerr // other tests make and remove files meanwhile
		}
		if info, err := entry.Info(); err == nil {
			_ = os.Chmod(path, info.Mode().Perm()|0o444|(info.Mode().Perm()&0o100)>>3|(info.Mode().Perm()&0o100)>>6)
		}
		return nil
	}))
	proxy := env.AddProxy()
	admin := env.AddAdmin()
	proxy.WaitReady(t.Context())
	admin.WaitReady(t.Context())
	if confined {
		for _, server := range []*testenv.Server{&proxy.Server, &admin.Server} {
			if status := status(t, server.PID()); !regexp.MustCompile(`(?m)^Uid:\s+65532\s+65532`).MatchString(status) || !regexp.MustCompile(`(?m)^Cap(Eff|Bnd):\s+0+$`).MatchString(status) {
				t.Errorf("%s is somebody else:\n%s", server.Name, status)
			}
			mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", server.PID()))
			must(t, err)
			if !regexp.MustCompile(`(?m)^\S+ \S+ \S+ \S+ / ro\b`).Match(mounts) {
				t.Errorf("%s can write to its root", server.Name)
			}
		}
	}

	books := newBooks(env)
	l := books.put(t, loadOptions{callers: 64, addresses: []func() string{at(proxy)}, tokens: []string{env.Token("admin")}, fresh: true})
	var people sync.WaitGroup
	for range 8 {
		people.Go(func() {
			for range 25 {
				if got := admin.Do("admin", http.MethodGet, "/api/v1/audit/events?limit=500", nil); got.Status != http.StatusOK {
					t.Errorf("admin answered %d", got.Status)
				}
			}
		})
	}
	l.goesOn(t, 2000)
	people.Wait()
	l.liftUnharmed(t, "a load within the limits")
	for _, server := range []*testenv.Server{&proxy.Server, &admin.Server} {
		peak := peakMemory(t, server.PID())
		t.Logf("%s needed %d MB at most", server.Name, peak>>20)
		if peak > memoryLimit {
			t.Errorf("%s needed %d MB", server.Name, peak>>20)
		}
	}
	books.close(t, allowance{})
}

// confinement makes what confines a process, and the script that puts one there: it runs "$0", the program. It reports
// false where the machine does not let a test do so; then the programs run free, and what they need is measured.
func confinement(t *testing.T) (script string, confined bool) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Log("not root: the programs run as they are, and what they need is measured")
		return "", false
	}
	var join strings.Builder
	name := "rgw-test-" + strconv.Itoa(os.Getpid())
	for _, group := range []struct {
		folder   string
		settings map[string]string
	}{
		{"/sys/fs/cgroup/memory/" + name, map[string]string{"memory.limit_in_bytes": strconv.Itoa(memoryLimit)}},
		{"/sys/fs/cgroup/cpu/" + name, map[string]string{"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": strconv.Itoa(cpuShare * 2 * 100000)}}, // of both together
		{"/sys/fs/cgroup/" + name, map[string]string{"memory.max": strconv.Itoa(2 * memoryLimit), "cpu.max": fmt.Sprintf("%d 100000", int(cpuShare*2*100000))}},
	} {
		_, first := os.Stat(filepath.Join(filepath.Dir(group.folder), "cgroup.procs")) // or it is no control group
		if first != nil || os.Mkdir(group.folder, 0o755) != nil {                      // #nosec G301 -- a control group
			continue
		}
		t.Cleanup(func() { _ = os.Remove(group.folder) })
		set := true
		for file, value := range group.settings {
			if err := os.WriteFile(filepath.Join(group.folder, file), []byte(value), 0o600); err != nil {
				set = false
			}
		}
		if set {
			fmt.Fprintf(&join, "echo $$ > %s/cgroup.procs; ", group.folder)
			t.Logf("limited by %s", group.folder)
		}
	}
	return join.String() + `mount -o remount,bind,ro /; exec setpriv --reuid=65532 --regid=65532 --clear-groups --bounding-set=-all --no-new-privs "$0" "$@"`, true
}

func status(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	return string(text)
}

// peakMemory is the most that a process had resident, in bytes.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	match := regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB`).FindStringSubmatch(status(t, pid))
	if match == nil {
		t.Fatal("the machine does not tell how much memory a process had")
	}
	kb, err := strconv.Atoi(match[1])
	must(t, err)
	return kb << 10
}
