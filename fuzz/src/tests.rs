//! The fuzz bodies on the stable toolchain: over the kept inputs, over the golden files, and over mutations of both.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

type Body = fn(&[u8]) -> bool;

/// Every target, and what the names of its golden files hold.
const TARGETS: &[(&str, Body, &str)] = &[
    ("frame", crate::frame, "frame"),
    ("wal_scan", crate::wal_scan, ".wal"),
    ("manifest", crate::manifest, "manifest"),
    ("segment_tail", crate::segment_tail, ".parquet"),
    ("object_key", crate::object_key, "object-key"),
];

fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries
        .filter(|path| path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)))
        .collect();
    files.sort();
    files
}

fn seeds(target: &str, part: &str) -> Vec<Vec<u8>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut paths = files(&root.join("corpora").join(target), "");
    paths.extend(files(&root.join("../storage-format/fixtures/v1"), part));
    paths.into_iter().map(|path| fs::read(path).expect("a seed can be read")).collect()
}

#[test]
fn seeds_pass_through_every_target() {
    for (target, body, part) in TARGETS {
        let seeds = seeds(target, part);
        assert!(!seeds.is_empty(), "{target} has no seed, neither of its own nor a golden file");
        for seed in seeds {
            assert!(body(&seed), "a seed of {target} is not good: nothing behind the first checks is reached");
        }
    }
}

#[test]
fn every_target_of_the_fuzzer_is_replayed_here() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    let mut names: Vec<_> =
        files(&root, "").iter().map(|p| p.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    names.sort();
    let mut replayed: Vec<_> = TARGETS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    replayed.sort();
    assert_eq!(names, replayed);
}

#[test]
#[should_panic(expected = "the canary")]
fn a_broken_promise_is_reported() {
    let canary: Body = |data| {
        assert!(data.first() != Some(&b'I'), "the canary");
        true
    };
    assert!(seeds("frame", "frame").iter().all(|seed| canary(seed)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn mutated_seeds_pass_through_every_target(
        at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        cutting in any::<bool>(),
    ) {
        for (target, body, part) in TARGETS {
            for mut seed in seeds(target, part) {
                if seed.is_empty() {
                    continue;
                }
                for (index, value) in &at {
                    let index = index.index(seed.len());
                    seed[index] ^= value;
                }
                if cutting {
                    seed.truncate(cut.index(seed.len()));
                }
                body(&seed);
            }
        }
    }

    #[test]
    fn any_bytes_pass_through_every_target(data in prop::collection::vec(any::<u8>(), 0..512)) {
        for (_, body, _) in TARGETS {
            body(&data);
        }
    }
}
