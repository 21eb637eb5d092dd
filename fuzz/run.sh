#!/usr/bin/env bash
# Runs the fuzz targets: `run.sh SECONDS [TARGET…]` runs each target for SECONDS, and all targets when none is named.
# The canary runs first and must fail; otherwise the results of the other targets mean nothing.
#
# Inputs that reach new code are kept in fuzz/corpus/<target>, from which the next run starts. Inputs that violate a
# property are kept in fuzz/artifacts/<target>. Neither is committed; seeds are, in fuzz/corpora/<target>.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-60}
shift || true
wanted=("$@")
toolchain=${FUZZ_TOOLCHAIN:-nightly}

light=(frame session wal_scan wal_records manifest manifest_body manifest_script segment_tail segment object_key names)
server=(csv units config local_call wal_replay sql)

if [ ${#wanted[@]} -eq 0 ]; then wanted=("${light[@]}" "${server[@]}"); fi
for target in "${wanted[@]}"; do
    if [[ " ${light[*]} ${server[*]} " != *" $target "* ]]; then
        echo "unknown target $target; the targets are: ${light[*]} ${server[*]}" >&2
        exit 2
    fi
done

rustup toolchain list | grep -q "^$toolchain" || rustup toolchain install "$toolchain" --profile minimal
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked

# No sanitizer, because icecore has no `unsafe` code. No `cfg(fuzzing)`, so that the fuzzed code is the shipped code.
cargo_fuzz() { # build or run, target, more arguments
    local verb=$1 target=$2
    shift 2
    cargo "+$toolchain" fuzz "$verb" --fuzz-dir . -s none --no-cfg-fuzzing --codegen-units 16 --features libfuzzer \
        --target-dir "${FUZZ_TARGET_DIR:-$PWD/target}" "$target" "$@"
}

# cargo-fuzz instruments all dependencies of a target. These targets depend on DataFusion, so that would take an hour to
# build. Therefore only the crates of this workspace are instrumented; the others are as in the release build.
build_server() { # target
    (cd server && RUSTC_WORKSPACE_WRAPPER="$PWD/../cover.sh" cargo build --release --locked --features libfuzzer \
        --bin "$1")
}

server_binary() { # target
    local dir
    dir=$(cargo metadata --locked --no-deps --format-version 1 | sed -nE 's/.*"target_directory":"([^"]*)".*/\1/p')
    echo "$dir/release/$1"
}

is_server() { [[ " ${server[*]} " == *" $1 "* ]]; }

# Prints the libFuzzer options of a target.
settings() { # target
    case $1 in
        sql) echo "-rss_limit_mb=2048 -timeout=120 -max_len=2048 -only_ascii=1 -dict=dictionaries/sql.dict" ;;
        config) echo "-rss_limit_mb=2048 -timeout=20 -max_len=4096 -dict=dictionaries/config.dict" ;;
        csv) echo "-rss_limit_mb=2048 -timeout=20 -max_len=8192 -dict=dictionaries/csv.dict" ;;
        wal_replay) echo "-rss_limit_mb=2048 -timeout=120 -max_len=2048" ;;
        local_call) echo "-rss_limit_mb=2048 -timeout=20 -max_len=4096" ;;
        units) echo "-rss_limit_mb=2048 -timeout=20 -max_len=64" ;;
        names | object_key) echo "-rss_limit_mb=512 -timeout=10 -max_len=128" ;;
        # Far more than any of these targets needs, so that a decompression bomb is reported.
        *) echo "-rss_limit_mb=512 -timeout=10 -max_len=16384" ;;
    esac
}

run() { # target, log, more arguments of libFuzzer
    local target=$1 log=$2
    shift 2
    local seeds=()
    # Some targets have no seeds besides the golden files.
    if [ -d "corpora/$target" ]; then seeds+=("corpora/$target"); fi
    case $target in
        frame | wal_scan | manifest | segment_tail | segment) seeds+=(../storage-format/fixtures/v1) ;;
    esac
    mkdir -p "corpus/$target" "artifacts/$target"
    local options
    read -ra options <<<"$(settings "$target")"
    options+=("-artifact_prefix=$PWD/artifacts/$target/" -print_final_stats=1 "$@")
    if is_server "$target"; then
        "$(server_binary "$target")" "corpus/$target" "${seeds[@]}" "${options[@]}" >"$log" 2>&1
    else
        cargo_fuzz run "$target" "corpus/$target" "${seeds[@]}" -- "${options[@]}" >"$log" 2>&1
    fi
}

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

last() { sed -nE "s/.*$1.*/\1/p" "$2" | tail -n 1; }

for target in canary "${wanted[@]}"; do
    echo "building $target" >&2
    build=(cargo_fuzz build "$target")
    if is_server "$target"; then build=(build_server "$target"); fi
    # Show cargo's progress on a terminal. In a log, show only errors.
    if [ -t 2 ]; then
        "${build[@]}" >&2
    else
        "${build[@]}" >"$logs/build" 2>&1 || { tail -n 40 "$logs/build" >&2; exit 1; }
    fi
done

rm -rf corpus/canary artifacts/canary
if run canary "$logs/canary" -runs=50000000 -max_total_time=120 || ! grep -q 'the canary: ' "$logs/canary"; then
    tail -n 20 "$logs/canary" >&2
    echo "the canary was not reported, so no violation would be: check the build and its coverage instrumentation" >&2
    exit 1
fi
echo "canary           reported as expected, after $(last 'number_of_executed_units: +([0-9]+)' "$logs/canary") executions"

passed=0 failed=0
for target in "${wanted[@]}"; do
    log=$logs/$target
    result=ok
    run "$target" "$log" "-max_total_time=$seconds" || result=FAILED
    crashes=$(grep -c 'Test unit written to' "$log" || true)
    printf '%-16s %6s s %10s executions %8s/s  cov %6s  ft %7s  corpus %5s  crashes %s  %s\n' "$target" "$seconds" \
        "$(last 'number_of_executed_units: +([0-9]+)' "$log")" "$(last 'average_exec_per_sec: +([0-9]+)' "$log")" \
        "$(last 'cov: ([0-9]+)' "$log")" "$(last 'ft: ([0-9]+)' "$log")" "$(last 'corp: ([0-9]+)' "$log")" \
        "$crashes" "$result"
    if [ "$result" = ok ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        grep -vE '^#[0-9]+' "$log" | tail -n 40 >&2
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
