package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// child is a program that the demo runs beside itself. It is started by startChild and ended by stop; both belong to
// the goroutine that runs the demo.
type child struct {
	name string
	log  string // path of the file that takes what it prints
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read after done
}

// startChild starts a program with exactly this environment and logs what it prints. With firstLine, it waits for the
// first line on the program's standard output, at most until ctx ends, and returns it.
func startChild(ctx context.Context, logs, name, program string, args, environ []string, firstLine bool) (*child, string, error) {
	c := &child{name: name, log: filepath.Join(logs, name+".log"), done: make(chan struct{})}
	file, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, "", err
	}
	// Not exec.CommandContext: the demo ends its children one after the other, by stop.
	c.cmd = exec.Command(program, args...) //nolint:noctx // our own programs, ended by stop
	c.cmd.Env = environ
	c.cmd.Stdout, c.cmd.Stderr = file, file
	c.cmd.SysProcAttr = childAttributes()
	var output io.ReadCloser
	if firstLine {
		c.cmd.Stdout = nil
		if output, err = c.cmd.StdoutPipe(); err != nil {
			file.Close()
			return nil, "", err
		}
	}
	if err := c.cmd.Start(); err != nil {
		file.Close()
		return nil, "", fmt.Errorf("starting %s: %w", name, err)
	}
	line := make(chan string, 1)
	go func() {
		defer close(c.done)
		if firstLine {
			reader := bufio.NewReader(output)
			text, _ := reader.ReadString('\n') // an end of the program shows below
			line <- strings.TrimSpace(text)
			_, _ = io.Copy(file, io.MultiReader(strings.NewReader(text), reader)) // a full disk stops no demo
		}
		c.err = c.cmd.Wait()
		file.Close()
	}()
	if !firstLine {
		return c, "", nil
	}
	select {
	case text := <-line:
		if text != "" {
			return c, text, nil
		}
		<-c.done
		return nil, "", c.ended()
	case <-ctx.Done():
		c.stop(time.Second)
		return nil, "", context.Cause(ctx)
	}
}

// ended says how the program ended by itself, with the last lines of its log, and where to read on.
func (c *child) ended() error {
	how := "without an error"
	if exit := new(exec.ExitError); errors.As(c.err, &exit) {
		how = "with " + exit.String()
	}
	return fmt.Errorf("the %s ended by itself, %s; the end of %s is:\n%s", c.name, how, c.log, tail(c.log, 12))
}

// stop asks the program to end and waits; after the time given it is killed.
func (c *child) stop(patience time.Duration) {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// tail returns the last lines of a file, indented.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "  (" + err.Error() + ")"
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "  " + strings.Join(all, "\n  ")
}
