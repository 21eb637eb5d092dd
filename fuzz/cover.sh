#!/bin/sh
# A wrapper for rustc that cargo calls for crates of this workspace only (RUSTC_WORKSPACE_WRAPPER): adds the coverage
# that libFuzzer is guided by, with the flags of cargo-fuzz, and the checks that a release build leaves out.
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
    -Cdebug-assertions -Copt-level=1
