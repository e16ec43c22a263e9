// Package wire is what a Convox rack (3.24) and its command-line client say to each other: the JSON shapes
// of the rack's answers, and the framing of its websockets. It holds no behaviour of either side, so
// that the in-memory rack and the tests' client, which share it, stay honest about everything else.
package wire
