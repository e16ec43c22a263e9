// Package config reads the configuration of a process: environment variables into one typed struct for
// each process, checked as a whole.
//
// All mistakes are reported at once, each by the name of its variable with what is wrong and an example. A
// secret may come from the file that NAME_FILE names. Where each value came from is remembered, for
// `proxy config` and `admin config`. The tags of the structs are the only description of the
// variables: the loader, the report and docs/configuration.md are made from them.
//
// Tags: env is the name; aka lists other names it may come by; envDefault is the default; need:"yes" marks
// a variable without which the process does not start; min and max bound numbers and durations, both
// inclusive; doc and example are for people. A field of a type of package secret may come from a file and is never
// shown.
package config
