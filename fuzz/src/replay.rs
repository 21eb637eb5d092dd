//! Runs fuzz bodies without a fuzzer: over kept inputs, over golden files, over mutations of both. Used by the tests
//! of both packages of fuzz targets.
//!
//! A file of `corpora/<target>/` is good to its target's body, unless its name begins with `bad-`.

use std::fs;
use std::path::{Path, PathBuf};

/// One target.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) body: fn(&[u8]) -> bool,
    /// What the names of its golden files hold, if it has any.
    pub(crate) golden: Option<&'static str>,
}

/// The directory that holds `corpora`, `server` and this package.
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

/// Every seed of a target: its name and its bytes.
pub(crate) fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let mut paths = files(&fuzz_dir().join("corpora").join(target.name), "");
    if let Some(part) = target.golden {
        paths.extend(files(&fuzz_dir().join("../storage-format/fixtures/v1"), part));
    }
    paths.into_iter().map(|path| (name(&path), fs::read(&path).expect("a seed can be read"))).collect()
}

/// Good seeds are good, bad ones are not, and there is a good one for every target.
pub(crate) fn check_seeds(targets: &[Target]) {
    for target in targets {
        let (mut good, mut wrong) = (0, Vec::new());
        for (name, seed) in seeds(target) {
            let is_good = (target.body)(&seed);
            good += usize::from(is_good);
            if is_good == name.starts_with("bad-") {
                wrong.push(name);
            }
        }
        assert!(wrong.is_empty(), "seeds of {} that are not what their names say: {wrong:?}", target.name);
        assert!(good > 0, "{} has no good seed: nothing behind the first checks is reached", target.name);
    }
}

/// Every target of the fuzzer is one of these.
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

/// A change of a seed: bytes at places (as parts of 2^32 of its length), and perhaps an end.
pub(crate) type Mutation = (Vec<(u32, u8)>, Option<u32>);

fn place(part: u32, length: usize) -> usize {
    let place = (u64::from(part) * length as u64) >> 32;
    usize::try_from(place).unwrap_or(0)
}

/// Runs every seed of a target, changed so.
pub(crate) fn run_mutated(target: &Target, (bytes, cut): &Mutation) {
    for (_, mut seed) in seeds(target) {
        if seed.is_empty() {
            continue;
        }
        for (part, value) in bytes {
            let at = place(*part, seed.len());
            seed[at] ^= value;
        }
        if let Some(part) = cut {
            seed.truncate(place(*part, seed.len()));
        }
        (target.body)(&seed);
    }
}
