//! The Python that has DuckDB: an engine of other make, to read what ours wrote and to answer what ours answers.

use std::path::PathBuf;

/// Returns the interpreter that `tests/setup.sh` installed.
///
/// # Panics
/// When it is not there; the message says how to install it.
#[must_use]
pub fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let python = cache.expect("a cache folder").join("icecore/test-venv/bin/python");
    assert!(python.exists(), "{} is missing: run `make test`, or `bash tests/setup.sh` once", python.display());
    python
}
