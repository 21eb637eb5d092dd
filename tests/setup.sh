#!/usr/bin/env bash
# What the tests need beyond a Rust toolchain and a C compiler: DuckDB, as a Parquet reader that is not ours.
# It goes into a virtual environment in the user's cache, once; `tests/e2e` finds it by the same path.
set -euo pipefail

venv="${XDG_CACHE_HOME:-$HOME/.cache}/icecore/test-venv"
if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import duckdb' 2>/dev/null; then
    exit 0
fi

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
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
