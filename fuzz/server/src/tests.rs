//! Runs the fuzz bodies on the stable toolchain: on the seeds, and on mutations of them.

use proptest::prelude::*;

use crate::replay::{Mutation, Target, check_names, check_seeds, run_mutated, seeds};

/// SQL target, mutated separately and less often, because each statement takes milliseconds.
const SQL: Target = Target { name: "sql", body: crate::sql, golden: None };

/// WAL replay target, mutated separately, because each script takes as long as a run of the simulation.
const WAL_REPLAY: Target = Target { name: "wal_replay", body: crate::wal_replay, golden: None };

const TARGETS: &[Target] = &[
    Target { name: "csv", body: crate::csv, golden: None },
    Target { name: "config", body: crate::config, golden: None },
    Target { name: "local_call", body: crate::local_call, golden: None },
    Target { name: "units", body: crate::units, golden: None },
];

#[test]
fn seeds_have_the_results_of_their_names() {
    check_seeds(TARGETS);
    check_seeds(&[SQL, WAL_REPLAY]);
}

#[test]
fn all_fuzz_targets_are_replayed() {
    let mut all: Vec<Target> = TARGETS.iter().map(|target| Target { ..*target }).collect();
    all.extend([SQL, WAL_REPLAY]);
    check_names(&all);
}

#[test]
fn seeds_are_few_and_small() {
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
    fn mutated_seeds_violate_no_property(mutation in mutations()) {
        for target in TARGETS {
            run_mutated(target, &mutation);
        }
    }

    #[test]
    fn random_texts_violate_no_property(text in any::<String>()) {
        for target in TARGETS.iter().chain([&SQL]) {
            (target.body)(text.as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn mutated_statements_violate_no_property(mutation in mutations()) {
        run_mutated(&SQL, &mutation);
    }

    #[test]
    fn mutated_scripts_violate_no_property(mutation in mutations()) {
        run_mutated(&WAL_REPLAY, &mutation);
    }
}
