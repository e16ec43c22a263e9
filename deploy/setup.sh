#!/usr/bin/env bash
# Finds what the Makefile's targets need, and installs it where that can be done without asking: by apt-get,
# as root, on Debian and its relatives. Anywhere else it says in one line what is missing and stops.
#
#   deploy/setup.sh go          the Go toolchain that go.mod asks for
#   deploy/setup.sh compiler    a C compiler, for the race detector
#   deploy/setup.sh postgres    PostgreSQL's server programs; no system cluster is made or started
#   deploy/setup.sh node        Node.js and npm, for clients in TypeScript
#   deploy/setup.sh chromium    a browser, for the console's end-to-end tests, and fonts for what people may be called
#   deploy/setup.sh shellcheck  the checker for these scripts
#   deploy/setup.sh lint        golangci-lint and govulncheck, built into bin/tools at pinned versions
#
# Names may be combined. Everything that is already there is left alone, so a second run costs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

# Pinned: `make lint` says the same on every machine until this line changes.
golangci_lint_version=v2.15.0
govulncheck_version=v1.9.0

missing() {
  printf 'missing: %s\n' "$1" >&2
  exit 1
}

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

# apt installs the packages named, quietly unless it fails. Package lists are fetched only when the
# packages are not known yet, or when the known versions are gone from the mirror.
apt() {
  local log
  log=$(mktemp)
  printf 'installing %s\n' "$*" >&2
  if ! DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >"$log" 2>&1 </dev/null; then
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
      cat "$log" >&2
      rm -f "$log"
      missing "apt-get could not install $*; its output is above"
    fi
  fi
  rm -f "$log"
}

setup_go() {
  # `go version` runs under the toolchain that go.mod asks for, or says why it cannot.
  go version >/dev/null 2>&1 && return
  local wanted
  wanted=$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' go.mod)
  if command -v go >/dev/null 2>&1; then
    missing "Go $wanted or newer; this machine has an older one: $(GOTOOLCHAIN=local go version 2>&1 | head -1). See https://go.dev/dl"
  fi
  [ -x /usr/local/go/bin/go ] && missing "/usr/local/go/bin on the PATH"
  missing "Go $wanted or newer: see https://go.dev/dl"
}

setup_compiler() {
  command -v "${CC:-gcc}" >/dev/null 2>&1 && return
  can_apt || missing 'a C compiler (gcc), for the race detector; or run with RACE= to test without it'
  apt gcc libc6-dev
}

setup_node() {
  command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 && return
  can_apt || missing 'Node.js 18 or newer, with npm: see https://nodejs.org'
  apt nodejs npm
}

setup_chromium() {
  local name
  for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
    [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 && return
  done
  can_apt || missing 'Chromium, for the console (Debian: apt-get install chromium), or its path in CHROMIUM'
  apt chromium fonts-noto-core fonts-noto-color-emoji
}

# postgres_bin prints a folder that holds PostgreSQL's server programs.
postgres_bin() {
  local dir
  for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
    [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && { printf '%s\n' "$dir"; return 0; }
  done
  if command -v initdb >/dev/null 2>&1 && command -v postgres >/dev/null 2>&1; then
    dirname "$(command -v initdb)"
    return 0
  fi
  return 1
}

setup_postgres() {
  postgres_bin >/dev/null && return
  can_apt || missing "PostgreSQL 14 or newer with its server programs (Debian: apt-get install postgresql; macOS: brew install postgresql@17)"
  # The package would make and start a cluster for the whole machine. We run private ones only, so that is
  # turned off for the time of the installation; the setting does not stay.
  local conf=/etc/postgresql-common/createcluster.d/rackgateway-setup.conf
  mkdir -p "${conf%/*}"
  echo 'create_main_cluster = false' >"$conf"
  trap 'rm -f '"$conf" EXIT
  apt postgresql
  rm -f "$conf"
  trap - EXIT
  postgres_bin >/dev/null || missing 'PostgreSQL server programs, though the package is installed: initdb and postgres are in none of the usual folders'
}

setup_shellcheck() {
  command -v shellcheck >/dev/null 2>&1 && return
  can_apt || missing 'shellcheck (Debian: apt-get install shellcheck)'
  apt shellcheck
}

# tool builds MODULE@VERSION into bin/tools/NAME once per version and Go release.
tool() {
  local name=$1 module=$2 version=$3 dir=$PWD/bin/tools
  local stamp
  stamp="$dir/.$name-$version-$(go env GOVERSION)"
  [ -x "$dir/$name" ] && [ -e "$stamp" ] && return
  printf 'building %s %s (once; a minute or two)\n' "$name" "$version" >&2
  mkdir -p "$dir"
  rm -f "$dir/.$name-"*
  GOBIN=$dir GOFLAGS="" go install -trimpath "$module@$version" 2>"$dir/$name.log" || {
    cat "$dir/$name.log" >&2
    missing "$name $version could not be built; its output is above"
  }
  rm -f "$dir/$name.log"
  touch "$stamp"
}

setup_lint() {
  setup_go
  tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint "$golangci_lint_version"
  tool govulncheck golang.org/x/vuln/cmd/govulncheck "$govulncheck_version"
}

[ $# -gt 0 ] || missing 'an argument: one or more of go, compiler, postgres, node, chromium, shellcheck, lint'
for what in "$@"; do
  case $what in
    go | compiler | postgres | node | chromium | shellcheck | lint) "setup_$what" ;;
    *) missing "a thing called $what is not known here: one or more of go, compiler, postgres, node, chromium, shellcheck, lint" ;;
  esac
done
