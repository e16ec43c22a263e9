#!/usr/bin/env bash
# Runs every fuzz target of the packages given for a while each, one after the other: two at once on a small
# machine find less. What a target finds is left in the package's testdata/fuzz, ready to be committed.
#
#   deploy/fuzz.sh 30s './...'
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin
duration=${1:-30s}
packages=${2:-./...}
ran=0 failed=0

# The package pattern may be several words.
# shellcheck disable=SC2086
for package in $(go list $packages); do
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
    printf '== %s %s for %s\n' "$package" "$target" "$duration"
    ran=$((ran + 1))
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$duration" "$package" || failed=$((failed + 1))
  done
done

[ $ran -gt 0 ] || { echo "no fuzz target in $packages" >&2; exit 1; }
printf '%d fuzz targets ran, %d failed\n' $ran $failed
[ $failed = 0 ]
