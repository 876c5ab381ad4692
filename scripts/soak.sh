#!/bin/sh
# The soak test for a day (or for as many hours as the argument says), with the build named by TN_BUILD, else build/: without
# sanitizers, so that memory means something. Prints the case's line at the end; the exit status is the test's.
set -eu
cd "$(dirname "$0")/.."
hours=${1:-24}
export TN_BUILD="${TN_BUILD:-build}" TN_SOAK_SECONDS=$((hours * 3600))
exec tests/e2e/test_soak.py
