package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// errRunning says that a demo runs in this folder.
var errRunning = errors.New("the demo is running already")

// lockFolder makes this process the one demo of its folder until it ends, and leaves its process number in the file.
// When another one is, the error is errRunning and holder is its number.
func lockFolder(path string) (file *os.File, holder int, err error) {
	file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		text, _ := io.ReadAll(file)
		file.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, 0, fmt.Errorf("locking %s: %w", path, err)
		}
		holder, _ = strconv.Atoi(strings.TrimSpace(string(text))) // 0 in the moment before it is written
		return nil, holder, errRunning
	}
	if err := file.Truncate(0); err != nil {
		file.Close()
		return nil, 0, err
	}
	if _, err := fmt.Fprintln(file, os.Getpid()); err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, 0, nil
}

// awaitUnlocked waits until no demo holds the folder any more.
func awaitUnlocked(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
