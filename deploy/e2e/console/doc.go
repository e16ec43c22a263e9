// Package console drives the web console in a real browser, over the real processes: admin with the embedded build,
// a proxy, PostgreSQL, the in-memory rack, and an OpenID provider. `make e2e` runs it (build tag browser), and
// `make screenshots` has the same world photographed.
//
// What the browser does is written in pkg/console/e2e, for playwright-core; each scenario there is a test here.
package console
