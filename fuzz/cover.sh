#!/bin/sh
# Wrapper for rustc, which cargo calls only for crates of this workspace (RUSTC_WORKSPACE_WRAPPER). It adds the coverage
# instrumentation that guides libFuzzer, with the flags of cargo-fuzz, and the checks that a release build omits.
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
    -Cdebug-assertions -Copt-level=1
