#!/bin/sh
# The manual pages: no warning of groff's. Skipped without man.
command -v man >/dev/null && command -v groff >/dev/null || exit 77
bad=0
for page in "$1"/*; do
    said=$(LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>&1 >/dev/null) || bad=1
    [ -z "$said" ] || { echo "$page: $said"; bad=1; }
done
exit $bad
