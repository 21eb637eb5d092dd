//! The fuzz bodies on the stable toolchain: over the kept inputs, and over mutations of them.

use proptest::prelude::*;

use crate::replay::{Mutation, Target, check_names, check_seeds, run_mutated, seeds};

/// Statements cost milliseconds each: they are mutated apart, and less.
const SQL: Target = Target { name: "sql", body: crate::sql, golden: None };

/// Scripts take as long as a run of the simulation does.
const WAL_REPLAY: Target = Target { name: "wal_replay", body: crate::wal_replay, golden: None };

const TARGETS: &[Target] = &[
    Target { name: "csv", body: crate::csv, golden: None },
    Target { name: "config", body: crate::config, golden: None },
    Target { name: "units", body: crate::units, golden: None },
];

#[test]
fn seeds_are_what_their_names_say() {
    check_seeds(TARGETS);
    check_seeds(&[SQL, WAL_REPLAY]);
}

#[test]
fn every_target_of_the_fuzzer_is_replayed_here() {
    let mut all: Vec<Target> = TARGETS.iter().map(|target| Target { ..*target }).collect();
    all.extend([SQL, WAL_REPLAY]);
    check_names(&all);
}

#[test]
fn there_are_few_seeds_and_they_are_small() {
    let sizes: Vec<usize> =
        TARGETS.iter().chain([&SQL, &WAL_REPLAY]).flat_map(seeds).map(|(_, seed)| seed.len()).collect();
    assert!(sizes.len() < 200 && sizes.iter().sum::<usize>() < 64 << 10, "{} seeds", sizes.len());
}

fn mutations() -> impl Strategy<Value = Mutation> {
    (prop::collection::vec(any::<(u32, u8)>(), 1..4), any::<Option<u32>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn mutated_seeds_pass_through_every_target(mutation in mutations()) {
        for target in TARGETS {
            run_mutated(target, &mutation);
        }
    }

    #[test]
    fn any_text_passes_through_every_target(text in any::<String>()) {
        for target in TARGETS.iter().chain([&SQL]) {
            (target.body)(text.as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn mutated_statements_pass(mutation in mutations()) {
        run_mutated(&SQL, &mutation);
    }

    #[test]
    fn mutated_scripts_pass(mutation in mutations()) {
        run_mutated(&WAL_REPLAY, &mutation);
    }
}
