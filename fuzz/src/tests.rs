//! Runs the fuzz bodies on the stable toolchain: on the seeds, on the golden files, and on mutations of both.

use std::fs;
use std::panic::catch_unwind;

use proptest::prelude::*;

use crate::replay::{Mutation, Target, check_names, check_seeds, fuzz_dir, run_mutated, seeds};

const TARGETS: &[Target] = &[
    Target { name: "frame", body: crate::frame, golden: Some("frame") },
    Target { name: "session", body: crate::session, golden: None },
    Target { name: "wal_scan", body: crate::wal_scan, golden: Some(".wal") },
    Target { name: "wal_records", body: crate::wal_records, golden: None },
    Target { name: "manifest", body: crate::manifest, golden: Some("manifest") },
    Target { name: "manifest_body", body: crate::manifest_body, golden: None },
    Target { name: "manifest_script", body: crate::manifest_script, golden: None },
    Target { name: "segment_tail", body: crate::segment_tail, golden: Some(".parquet") },
    Target { name: "segment", body: crate::segment, golden: Some("segment.parquet") },
    Target { name: "object_key", body: crate::object_key, golden: None },
    Target { name: "names", body: crate::names, golden: None },
];

/// Target that must fail.
const CANARY: Target = Target { name: "canary", body: crate::canary, golden: None };

#[test]
fn seeds_have_the_results_of_their_names() {
    check_seeds(TARGETS);
}

#[test]
fn all_fuzz_targets_are_replayed() {
    let mut all: Vec<Target> = TARGETS.iter().map(|target| Target { ..*target }).collect();
    all.push(CANARY);
    check_names(&all);
}

#[test]
fn violations_are_reported() {
    check_seeds(&[CANARY]);
    let reported = catch_unwind(|| run_mutated(&CANARY, &(vec![(u32::MAX / 2, 0)], Some(u32::MAX))));
    let message = reported.expect_err("the canary must panic");
    let message = message.downcast_ref::<String>().expect("a text");
    assert!(message.starts_with("the canary"), "{message}");
}

/// Checks that the plaintexts of the golden files are seeds, so that the targets reach sealed content. To create them
/// again for a new version of a format, remove them and run `UPDATE_FIXTURES=1 cargo test -p fuzz`.
#[test]
fn plaintexts_of_the_golden_files_are_seeds() {
    let golden =
        |name: &str| fs::read(fuzz_dir().join("../storage-format/fixtures").join(name)).expect("a golden file");
    for (seed, bytes) in [
        ("manifest_body/golden-delta", crate::manifest::golden_body(&golden("v1/manifest-delta.bin"))),
        ("manifest_body/golden-base", crate::manifest::golden_body(&golden("v1/manifest-base.bin"))),
        ("manifest_body/golden-delta-2", crate::manifest::golden_body(&golden("v2/manifest-delta.bin"))),
        ("manifest_body/golden-base-2", crate::manifest::golden_body(&golden("v2/manifest-base.bin"))),
        ("wal_records/golden-closed", crate::wal::golden_records()),
    ] {
        let path = fuzz_dir().join("corpora").join(seed);
        if std::env::var_os("UPDATE_FIXTURES").is_some() && !path.exists() {
            fs::create_dir_all(path.parent().expect("a directory")).expect("created");
            fs::write(&path, &bytes).expect("written");
        }
        assert_eq!(fs::read(&path).expect("the seed exists"), bytes, "{seed}");
    }
}

fn mutations() -> impl Strategy<Value = Mutation> {
    (prop::collection::vec(any::<(u32, u8)>(), 1..8), any::<Option<u32>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn mutated_seeds_violate_no_property(mutation in mutations()) {
        for target in TARGETS {
            run_mutated(target, &mutation);
        }
    }

    #[test]
    fn random_bytes_violate_no_property(data in prop::collection::vec(any::<u8>(), 0..512)) {
        for target in TARGETS {
            (target.body)(&data);
        }
    }
}

#[test]
fn seeds_are_few_and_small() {
    let all = TARGETS.iter().chain([&CANARY]).flat_map(seeds);
    let sizes: Vec<usize> = all.map(|(_, seed)| seed.len()).collect();
    assert!(sizes.len() < 200 && sizes.iter().sum::<usize>() < 256 << 10, "{} seeds", sizes.len());
}
