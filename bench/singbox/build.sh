#!/bin/sh
# Builds sing-box, which bench/egress.py compares with, into bench/singbox/bin. Pinned in go.mod; fetches modules and takes minutes.
set -eu
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "bench/singbox/build.sh: no Go in PATH" >&2; exit 3; }
[ ! -x bin/sing-box ] || [ bin/sing-box -ot go.mod ] || exit 0
export CGO_ENABLED=0 GOWORK=off
mkdir -p bin
nice go build -p "${GO_P:-1}" -trimpath -tags with_gvisor,with_tailscale,with_quic -ldflags '-s -w -checklinkname=0' \
    -o bin/sing-box github.com/sagernet/sing-box/cmd/sing-box
touch bin/sing-box
