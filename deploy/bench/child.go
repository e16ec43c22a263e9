//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// child is this program once more, in a role of its own. It ends when its standard input does, and so with us,
// however we end.
type child struct {
	name  string
	addr  string // where it listens; "" for the load generator
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

// startChild runs this program in a role.
func startChild(role string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{name: role, cmd: exec.Command(self, append([]string{role}, args...)...)} // #nosec G204 -- ourselves
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReaderSize(stdout, 64<<10)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	if role != roleLoad {
		line, err := c.out.ReadString('\n')
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s did not say where it listens: %w", role, err), c.stop())
		}
		c.addr = strings.TrimSpace(line)
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop ends the child and waits for it.
func (c *child) stop() error {
	_ = c.stdin.Close()
	kill := time.AfterFunc(10*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return nil
}

// run has the load generator do a job. An answer that is not 2xx is an error: whoever is measured must do the work.
func (c *child) run(job Job) (Result, error) {
	var result Result
	line, err := json.Marshal(job)
	if err != nil {
		return result, err
	}
	if _, err := c.stdin.Write(append(line, '\n')); err != nil {
		return result, fmt.Errorf("load generator: %w", err)
	}
	if line, err = c.out.ReadBytes('\n'); err != nil {
		return result, fmt.Errorf("load generator: %w", err)
	}
	if err := json.Unmarshal(line, &result); err != nil {
		return result, fmt.Errorf("load generator: %w", err)
	}
	if result.Error != "" {
		return result, fmt.Errorf("load on %s %s at %s: %s", job.Method, job.Path, strings.Join(job.Addrs, ", "), result.Error)
	}
	if result.Bad > 0 {
		return result, fmt.Errorf("load on %s %s at %s: %d of %d answers were not 2xx; the first: %s",
			job.Method, job.Path, strings.Join(job.Addrs, ", "), result.Bad, result.Total, result.FirstBad)
	}
	return result, nil
}
