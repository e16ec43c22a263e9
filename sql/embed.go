// Package sql is the schema: the migrations in order, and the roles with their rights. Package postgres
// applies them.
package sql

import "embed"

// Migrations holds migrations/NNNN_name.sql, in goose's format.
//
//go:embed migrations/*.sql
var Migrations embed.FS

// Roles makes the database roles and sets their rights. It runs after the migrations, every time.
//
//go:embed roles.sql
var Roles string
