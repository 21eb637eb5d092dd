//! Replay of fuzz bodies without a fuzzer: on seeds, on golden files, and on mutations of both. The tests of both
//! packages of fuzz targets use it.
//!
//! A file of `corpora/<target>/` is a valid input of the target, unless its name starts with `bad-`.

use std::fs;
use std::path::{Path, PathBuf};

/// Fuzz target.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) body: fn(&[u8]) -> bool,
    /// Part of the names of its golden files, if it has any.
    pub(crate) golden: Option<&'static str>,
}

/// Returns the directory that contains `corpora`, `server` and this package.
pub(crate) fn fuzz_dir() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    if own.join("corpora").is_dir() { own } else { own.join("..") }
}

fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries
        .filter(|path| path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)))
        .collect();
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Returns the name and the bytes of every seed of a target.
pub(crate) fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let mut paths = files(&fuzz_dir().join("corpora").join(target.name), "");
    if let Some(part) = target.golden {
        for version in ["v1", "v2"] {
            paths.extend(files(&fuzz_dir().join("../storage-format/fixtures").join(version), part));
        }
    }
    paths.into_iter().map(|path| (name(&path), fs::read(&path).expect("a seed can be read"))).collect()
}

/// Checks that valid seeds are accepted, that `bad-` seeds are rejected, and that every target has a valid seed.
pub(crate) fn check_seeds(targets: &[Target]) {
    for target in targets {
        let (mut valid, mut wrong) = (0, Vec::new());
        for (name, seed) in seeds(target) {
            let is_valid = (target.body)(&seed);
            valid += usize::from(is_valid);
            if is_valid == name.starts_with("bad-") {
                wrong.push(name);
            }
        }
        assert!(wrong.is_empty(), "seeds of {} whose names state the wrong result: {wrong:?}", target.name);
        assert!(valid > 0, "{} has no valid seed, so no input gets past the first checks", target.name);
    }
}

/// Checks that the files in `fuzz_targets`, the `[[bin]]` entries and `targets` are the same targets.
pub(crate) fn check_names(targets: &[Target]) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    let mut names: Vec<_> = files(&dir, "").iter().map(|path| name(path)).collect();
    names.sort();
    let mut replayed: Vec<_> = targets.iter().map(|target| target.name.to_owned()).collect();
    replayed.sort();
    assert_eq!(names, replayed);
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest = fs::read_to_string(manifest).expect("the package's manifest");
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in Cargo.toml");
    }
}

/// Mutation of a seed: bytes to XOR at positions (as fractions of the length, in units of 2^-32), and optionally a new
/// length.
pub(crate) type Mutation = (Vec<(u32, u8)>, Option<u32>);

fn position(part: u32, length: usize) -> usize {
    let position = (u64::from(part) * length as u64) >> 32;
    usize::try_from(position).unwrap_or(0)
}

/// Runs a target on all of its seeds, each with this mutation applied.
pub(crate) fn run_mutated(target: &Target, (bytes, cut): &Mutation) {
    for (_, mut seed) in seeds(target) {
        if seed.is_empty() {
            continue;
        }
        for (part, value) in bytes {
            let at = position(*part, seed.len());
            seed[at] ^= value;
        }
        if let Some(part) = cut {
            seed.truncate(position(*part, seed.len()));
        }
        (target.body)(&seed);
    }
}
