package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// progressVariable tells a demo in the background which file descriptor takes its progress.
const progressVariable = "RGW_DEMO_PROGRESS"

// ready is the line on that descriptor that says that the demo has started.
const ready = "\x06ready"

// up starts the demo in the background, in a session of its own, shows its progress, and returns when it is ready.
func up(ctx context.Context, here place, program string, out io.Writer) error {
	if err := os.MkdirAll(here.file("logs"), 0o755); err != nil {
		return err
	}
	lock, holder, err := lockFolder(here.file("lock"))
	if errors.Is(err, errRunning) {
		fmt.Fprintf(out, "The demo is running already (process %d): see %s. `make demo-down` stops it.\n", holder, here.file("demo.env"))
		return nil
	}
	if err != nil {
		return err
	}
	lock.Close()

	progress, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer progress.Close()
	log, err := os.OpenFile(here.file("logs", "demo.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	child := exec.Command(program, "run") //nolint:noctx // this program itself, which is to outlive this process
	child.Env = append(os.Environ(), progressVariable+"=3")
	child.Stdout, child.Stderr = log, log
	child.ExtraFiles = []*os.File{writer}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = child.Start()
	writer.Close()
	if err != nil {
		return err
	}
	// Somebody who interrupts the start does not want half a demo.
	unwatch := context.AfterFunc(ctx, func() { _ = child.Process.Signal(syscall.SIGTERM) })
	defer unwatch()
	for lines := bufio.NewScanner(progress); lines.Scan(); {
		if lines.Text() == ready {
			return child.Process.Release()
		}
		fmt.Fprintln(out, lines.Text())
	}
	_ = child.Wait() // its log says more than its code
	return fmt.Errorf("it did not start; the end of %s is:\n%s", log.Name(), tail(log.Name(), 20))
}

// down stops the demo of the folder, if one runs, and waits until it has stopped.
func down(ctx context.Context, here place, out io.Writer) error {
	if _, err := os.Stat(here.folder); err != nil {
		fmt.Fprintln(out, "The demo is not running.")
		return nil
	}
	lock, holder, err := lockFolder(here.file("lock"))
	if err == nil {
		lock.Close()
		fmt.Fprintln(out, "The demo is not running.")
		return nil
	}
	if !errors.Is(err, errRunning) {
		return err
	}
	if holder <= 1 {
		return fmt.Errorf("the demo is just starting or stopping: try again")
	}
	// Whoever holds the lock is alive, so the number is that of a demo and of nothing else.
	if err := syscall.Kill(holder, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping process %d: %w", holder, err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- awaitUnlocked(here.file("lock")) }()
	timer := time.NewTimer(90 * time.Second)
	defer timer.Stop()
	select {
	case err := <-stopped:
		if err == nil {
			fmt.Fprintf(out, "Stopped. Its data and tokens are kept in %s; `make demo-clean` forgets them.\n", here.folder)
		}
		return err
	case <-timer.C:
		return fmt.Errorf("process %d has not stopped within 90 seconds; its log is %s", holder, here.file("logs", "demo.log"))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// clean stops the demo and forgets all that it keeps.
func clean(ctx context.Context, here place, out io.Writer) error {
	if err := down(ctx, here, out); err != nil {
		return err
	}
	folder, err := here.postgresFolder()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	if err := os.RemoveAll(here.folder); err != nil {
		return err
	}
	fmt.Fprintf(out, "Forgotten: %s is gone.\n", here.folder)
	return nil
}
