#!/usr/bin/env bash
# What `make lint` checks, in the order of what is cheapest to learn. Every check runs, and the exit status is
# that of the worst, so that one run shows everything there is to mend.
#
# The functions are called by name, through check, which shellcheck does not see.
# shellcheck disable=SC2317
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PATH=$PWD/bin/tools:$PATH:/usr/local/go/bin
failed=0

check() {
  local name=$1
  shift
  if "$@"; then printf 'ok      %s\n' "$name"; else printf 'FAILED  %s\n' "$name"; failed=1; fi
}

formatted() {
  local files
  files=$(gofmt -l cmd deploy pkg sql)
  [ -z "$files" ] || { printf 'not formatted by gofmt:\n%s\n' "$files"; return 1; }
}

scripts() {
  git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run | xargs -0 -r shellcheck
}

# The console's types, and the few rules that find mistakes.
console() {
  (cd pkg/console && npm run --silent check && npm run --silent lint)
}

# The module of its own whose tools read the chart, the manifests and the rules.
validation() {
  (
    cd deploy/validate || exit
    go mod tidy -diff && go vet ./... && golangci-lint run
  )
}

# Paths of somebody's machine, and words that say a thing is not finished, have no place in what is committed.
# Tests and this file may name the words.
finished() {
  ! git grep -nIE '\b(TODO|FIXME|XXX)\b' -- . ':!deploy/lint.sh' ':!LICENSE'
}

# govulncheck needs its database, which not every network reaches. That is said, and is no failure; a
# vulnerability that it finds is one.
vulnerabilities() {
  local out
  out=$(timeout 300 govulncheck ./... 2>&1 </dev/null)
  case $? in
    0) return 0 ;;
    *)
      if grep -qE 'fetching vulnerabilities|no such host|connection refused|context deadline|i/o timeout|403 Forbidden|404 Not Found' <<<"$out"; then
        printf 'govulncheck: its database cannot be reached from here, so known vulnerabilities were NOT checked\n'
        return 0
      fi
      printf '%s\n' "$out"
      return 1
      ;;
  esac
}

check gofmt formatted
check 'go.mod is tidy' go mod tidy -diff
check 'go vet' go vet ./...
check golangci-lint golangci-lint run
check 'deploy/validate' validation
check 'the console' console
check shellcheck scripts
check 'nothing left to do' finished
check govulncheck vulnerabilities
exit $failed
