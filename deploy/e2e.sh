#!/usr/bin/env bash
# Runs the end-to-end scenarios: the real proxy and admin, a real PostgreSQL, the in-memory rack. They always run
# through the tests' own client, which speaks the CLI's protocol; with a stock convox CLI they run through that too. Those
# of the web console run in Chromium.
#
#   deploy/e2e.sh PATH-OF-CONVOX-OR-EMPTY [go test flags]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin
convox=${1:-}
[ $# -eq 0 ] || shift

if [ -n "$convox" ]; then
  found=$(command -v -- "$convox") || { echo "CONVOX=$convox: no such program" >&2; exit 1; }
  CONVOX=$(cd "$(dirname "$found")" && pwd)/$(basename "$found")
  export CONVOX
  echo "Scenarios run through the tests' own client and through $CONVOX"
else
  unset CONVOX
  echo "No convox CLI on the PATH or in CONVOX: scenarios run through the tests' own client only"
fi
# Without it, and with -short among the flags, only the scenarios marked quick run.
export E2E=full
# The ledger's bucket is verified by a program of somebody else's, built from its source.
go test -tags independent -count=1 -timeout 20m -run IndependentProgram ./pkg/ledger
# The scenarios of the CLI once more, with everybody asked for second factors that they gave just now.
case " $* " in
  *" -short "*) ;;
  *) E2E_FACTORS=fresh go test -count=1 -timeout 45m "$@" ./deploy/e2e ;;
esac
exec go test -tags browser -count=1 -timeout 45m "$@" ./deploy/e2e/...
