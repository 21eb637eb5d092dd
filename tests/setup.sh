#!/usr/bin/env bash
# What the tests need beyond a Rust toolchain and a C compiler: DuckDB, as a Parquet reader that is not ours, and
# VersityGW, as an S3 server. They go into the user's cache, once; the tests find them by the same paths.
set -euo pipefail

cache="${XDG_CACHE_HOME:-$HOME/.cache}/icecore"

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# An S3 server that refuses conditional writes as Amazon's does. Pinned: earlier ones overwrote.
versitygw=v1.8.0
if [ "$(cat "$cache/bin/versitygw.version" 2>/dev/null)" != "$versitygw" ] || [ ! -x "$cache/bin/versitygw" ]; then
    if ! command -v go >/dev/null; then
        echo "installing Go (for the S3 server that the tests use)"
        as_root apt-get update -qq
        as_root apt-get install -y -qq golang-go
    fi
    echo "installing VersityGW $versitygw into $cache/bin (a few minutes)"
    mkdir -p "$cache/bin"
    GOBIN="$cache/bin" go install "github.com/versity/versitygw/cmd/versitygw@$versitygw"
    echo "$versitygw" >"$cache/bin/versitygw.version"
fi

venv="$cache/test-venv"
if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import duckdb' 2>/dev/null; then
    exit 0
fi

if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    echo "installing Python with venv (for the DuckDB reader that the tests use)"
    as_root apt-get update -qq
    as_root apt-get install -y -qq python3 python3-venv
fi
echo "installing DuckDB into $venv"
rm -rf "$venv"
mkdir -p "$(dirname "$venv")"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check 'duckdb>=1.4,<3'
"$venv/bin/python" -c 'import duckdb; print("DuckDB", duckdb.__version__)'
