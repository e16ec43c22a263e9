// Package compose holds what docker-compose.yml runs besides our own images: the front's configuration and the
// database's first logins. Its tests hold docker-compose.yml, the Dockerfiles, .env.example and `make pin` to what
// they promise, on a machine without a container engine.
package compose
