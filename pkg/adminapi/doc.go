// Package adminapi is the JSON API of admin: people, roles, tokens, sessions, settings and the record, for the
// console and for scripts alike.
//
// The contract comes first: openapi.yaml says what every operation is called, takes, answers and needs. From it
// come the router, the models and one typed method an operation (server.gen.go), the clients (client/), the
// checks that every request is held to (schema.go, conform.go), and the pages at /api/v1/openapi.json and
// /api/v1/docs. What is written by hand is what the operations do, and the way that each request takes:
//
//	accept → identify → authorise (access.Decide) → conform → once → the operation
//
// There is one place where it is decided whether a request may go on (authorise.go), for every operation, and
// none goes around it: the router is given no route without one. Changes are made by pkg/directory, which records each in
// its own transaction. What is refused here is recorded before the answer leaves.
package adminapi

//go:generate go tool -modfile=../../tools.mod oapi-codegen -config generate.yaml openapi.yaml
//go:generate go tool -modfile=../../tools.mod oapi-codegen -config client/generate.yaml openapi.yaml
