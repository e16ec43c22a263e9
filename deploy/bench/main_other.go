//go:build !linux

// Command bench measures what the gateway costs. It reads memory and CPU from /proc, and so runs on Linux only.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: the figures are read from /proc, so run this on Linux")
	os.Exit(1)
}
