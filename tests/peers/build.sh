#!/bin/sh
# Builds the official parts that the end to end tests run against, into tests/peers/bin:
#   tailscaled, tailscale, derper   Tailscale's own programs, as go.mod pins them
#   testctl, tsnetpeer              ours, on Tailscale's testcontrol and tsnet
#   quicpeer                        ours, on quic-go, pinned in quic/go.mod
#   headscale                       the control server of self-hosters, pinned in headscale/go.mod
# Does nothing when sources, pins and compiler are those of the last build.
# Static (no cgo), so that each runs in any namespace; one package at a time (GO_P=n for more),
# since linking and compiling these in parallel wants gigabytes.
set -eu
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "tests/peers/build.sh: no Go (golang.org/dl) in PATH" >&2; exit 3; }
export CGO_ENABLED=0 GOWORK=off

names="tailscaled tailscale derper testctl tsnetpeer quicpeer headscale"
want=$( { go version; cat build.sh go.mod go.sum headscale/go.mod headscale/go.sum quic/go.mod quic/go.sum quic/*.go testctl/*.go tsnetpeer/*.go; } |
    sha256sum | cut -d' ' -f1)
fresh=yes
for n in $names; do [ -x "bin/$n" ] || fresh=no; done
if [ "$fresh" = yes ] && [ "$(cat bin/.stamp 2>/dev/null)" = "$want" ]; then exit 0; fi

mkdir -p bin
bin=$PWD/bin
build() { # build OUTPUT ARGS...: into a temporary name first, so that a running program is never overwritten
    out=$1; shift
    echo "building $out"
    nice go build -p "${GO_P:-1}" -trimpath -ldflags '-s -w' -o "$bin/.new.$out" "$@"
    mv -f "$bin/.new.$out" "$bin/$out"
}
build tailscaled tailscale.com/cmd/tailscaled
build testctl ./testctl
build tailscale tailscale.com/cmd/tailscale
build tsnetpeer ./tsnetpeer
build derper tailscale.com/cmd/derper
cd quic
build quicpeer .
cd ../headscale
build headscale github.com/juanfont/headscale/cmd/headscale
cd ..
echo "$want" > bin/.stamp
