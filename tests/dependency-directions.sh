#!/usr/bin/env bash
# Who may know whom: an arrow down only. Each line names a crate and what its normal dependencies must never hold.
set -euo pipefail
cd "$(dirname "$0")/.."
# Who builds with features unified over the workspace sees all of it in the tree of each crate.
unset CARGO_RESOLVER_FEATURE_UNIFICATION CARGO_UNSTABLE_FEATURE_UNIFICATION

broken=0
tree() { cargo tree --locked --quiet --edges normal --prefix none --format '{lib}' "$@" | sort -u; }

never() { # what, forbidden crate names…, with the arguments of cargo tree before `--`
    local args=()
    while [ "$1" != -- ]; do args+=("$1"); shift; done
    shift
    local have
    have=$(tree "${args[@]}")
    [ -n "$have" ] || { echo "no dependency tree for ${args[*]}" >&2; exit 1; }
    for name in "$@"; do
        if grep -qx "$name" <<<"$have"; then
            echo "broken: ${args[*]} must not depend on $name" >&2
            cargo tree --locked --quiet --edges normal "${args[@]}" --invert "${name//_/-}" | head -20 >&2 || true
            broken=1
        fi
    done
    echo "ok: ${args[*]} knows none of: $*"
}

never -p storage-format -- tokio object_store datafusion engine ingest query icecore
never -p durable -- arrow parquet datafusion sqlx quinn axum engine query ingest control server icecore
never -p engine -- quinn datafusion axum sqlx ingest query control server icecore
# Object stores speak TLS by themselves; the engine must not.
never -p engine --depth 1 -- rustls
never -p ingest -- arrow parquet object_store datafusion engine query sqlx axum icecore
never -p ingest --no-default-features --features client -- arrow parquet metrics object_store datafusion engine query icecore
never -p gateway -- arrow parquet object_store datafusion engine query sqlx axum clap control server icecore
never -p query -- quinn axum sqlx ingest control server icecore
never -p problem -- tokio storage_format
never -p client -- arrow datafusion engine query sqlx axum quinn clap control server icecore
# It replaces files with durable's function; the object store of that crate is not its business.
never -p control -- engine datafusion query axum quinn clap ingest server problem icecore
never -p export -- tokio axum sqlx datafusion engine query icecore
never -p server -- quinn clap ingest gateway local icecore
# Commands on this machine: the engine and the control data, without queries and without the doors to the network.
never -p local -- datafusion clap query server export icecore
never -p control --depth 1 -- object_store
# SQL is behind control: the server itself must not name it.
never -p server --depth 1 -- sqlx
never -p load -- engine datafusion query axum clap server icecore
# Fuzz targets of the formats and the wire are built in minutes; what needs all of the server is in fuzz/server.
never -p fuzz -- datafusion object_store engine query sqlx axum icecore
# The simulation is the engine and the protocol, without sockets of its own, SQL or control data.
never -p sim -- datafusion query sqlx axum icecore
never -p icecore -- fuzz fuzz_server sim
# What tests share is for tests: no crate of the product has it among its normal dependencies.
for crate in storage-format engine ingest query icecore; do never -p "$crate" -- kit; done

# The check itself must be able to fail: the root does know DataFusion, and the simulation the kit. Each tree is read to
# its end: `grep -q` on a pipe stops at the first hit, and what writes into it then fails.
knows() { grep -qx "$2" <<<"$(tree -p "$1")" || { echo "broken: the check does not see that $1 depends on $2" >&2; broken=1; }; }
knows icecore datafusion
knows sim kit
exit "$broken"
