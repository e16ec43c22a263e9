// Package faults breaks things under load and counts what came of it: real proxy processes, a real PostgreSQL and the
// in-memory rack, many clients, and one fault after the other. Afterwards three sets are compared by name, because
// each request carries a key that no other has: the answers that clients saw, the requests that the rack saw, and
// the events in the log.
//
//   - What the rack was asked to change is recorded, and was before it was asked.
//   - What a client was answered is recorded, with the status that it saw.
//   - No event is there twice; the events of each writer are numbered without gaps and carry valid MACs.
//   - A write reaches the rack once at most.
//
// `make test` runs the short form. `make faults` (FAULTS=long) runs each fault again and again, at random moments; FAULTS_SEED
// repeats a run's choices, as far as the machine's own timing lets it. No test asserts a time that a slow machine would miss:
// figures are printed, and bounds are seconds.
package faults
