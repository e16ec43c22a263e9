// Package e2e runs the commands of the convox CLI end to end: against a rack directly, and through the gateway in
// each way that the CLI can be pointed at one, and compares what a person sees, what the rack saw and what was
// recorded.
//
// Everything is real but the rack, which is the in-memory one: the programs as they are shipped, PostgreSQL, TLS.
// Each side of a comparison has a rack, a database and a working directory of its own, made from the same seed, so
// that identifiers are the same on all sides.
//
// With E2E_FACTORS=fresh everybody is asked for second factors, and has given them just now; otherwise nobody is asked, but
// in the tests that are about them.
//
// Every scenario runs through the tests' own client, which speaks the CLI's protocol, and through the stock CLI when
// CONVOX names one or one is on the PATH. `make test` runs the scenarios marked quick; `make e2e` runs all.
package e2e
