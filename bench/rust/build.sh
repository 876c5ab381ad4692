#!/bin/sh
# Builds bench/rust/bin/rustpeer from the crates that Cargo.lock names; minutes, the first time.
set -eu
cd "$(dirname "$0")"
command -v cargo >/dev/null || { echo "bench/rust/build.sh: no cargo in PATH" >&2; exit 3; }
[ ! -x bin/rustpeer ] || [ bin/rustpeer -ot Cargo.lock ] || [ bin/rustpeer -ot src/main.rs ] || exit 0
nice cargo build --release --locked
mkdir -p bin
cp target/release/rustpeer bin/
