package main

import "runtime"

// headroom is how much garbage may gather beyond what Go's collector allows by itself, in bytes.
//
// The proxy keeps little and makes much: by itself the collector would run dozens of times a second over the same
// few megabytes, and over the stack of every connection, for a sixth of the CPU time. The price is as much more
// memory when the proxy is busy, and none when it is idle.
const headroom = 8 << 20

// giveHeadroom has the collector allow headroom, until the function that it returns is called. It does so by memory
// that is never touched, and so never becomes real: the collector takes it for live, and waits in proportion (GOGC).
func giveHeadroom() (end func()) {
	reserve := make([]byte, headroom)
	return func() { runtime.KeepAlive(reserve) }
}
