//! Files that only their owner may read: keys and certificates. Written whole or not at all, and on the disk when the
//! call returns.
//!
//! Crash consistency: a crash leaves the old file or the new one, and at most a temporary file beside it, which the next
//! replacement of the same file or [`remove_temporary`] removes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use durable::{Files, RealFiles, replace_file};

use crate::error::{Context, Error, ErrorKind, Result, Subject};

/// Writes a file with mode 0600 that must not be there yet.
///
/// # Errors
/// When it exists, or cannot be written.
pub fn create(path: &Path, text: &str) -> Result<()> {
    if path.exists() {
        let message = format!("{} exists already", path.display());
        return Err(Error::new(ErrorKind::Taken, Subject::File(path.to_owned()), message)
            .with_detail("it is never overwritten"));
    }
    replace(path, text)
}

/// Writes a file with mode 0600, in place of one that may be there.
///
/// # Errors
/// When it cannot be written.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    replace_file(&RealFiles, path, text.as_bytes()).context(|| format!("cannot write {}", path.display()))
}

/// Removes the temporary files that a crash left in a directory of private files. Nobody may be writing there.
///
/// # Errors
/// When the directory cannot be read, or a file not be removed.
pub fn remove_temporary(dir: &Path) -> Result<()> {
    let what = || format!("cannot remove temporary files from {}", dir.display());
    for entry in std::fs::read_dir(dir).context(what)? {
        let path = entry.context(what)?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            std::fs::remove_file(path).context(what)?;
        }
    }
    Ok(())
}

/// Makes a directory with mode 0700, if it is not there yet.
///
/// # Errors
/// When it cannot be made.
pub fn create_dir(path: &Path) -> Result<()> {
    let what = || format!("cannot make the directory {}", path.display());
    if !path.is_dir() {
        std::fs::create_dir_all(path).context(what)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).context(what)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        RealFiles.sync_dir(parent).context(|| format!("cannot sync the directory {}", parent.display()))?;
    }
    Ok(())
}

/// Reads a file that holds a secret; refuses one that others may read.
///
/// # Errors
/// When it is missing, readable by others, or no text.
pub fn read_secret(path: &Path) -> Result<String> {
    let what = || format!("cannot read {}", path.display());
    let mode = std::fs::metadata(path).context(what)?.permissions().mode();
    if mode & 0o077 != 0 {
        let message = format!("{} can be read by others", path.display());
        return Err(Error::new(ErrorKind::Forbidden, Subject::File(path.to_owned()), message)
            .with_detail(format!("its mode is {:04o}", mode & 0o7777)));
    }
    std::fs::read_to_string(path).context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_from_the_first_byte() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("secret");
        create(&path, "one").expect("written");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(create(&path, "two").is_err(), "never overwritten");
        assert_eq!(read_secret(&path).expect("read"), "one");
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("changed");
        assert!(read_secret(&path).is_err(), "readable by the group");
        replace(&path, "three").expect("written");
        assert_eq!(read_secret(&path).expect("private again"), "three");
    }

    #[test]
    fn temporary_files_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["server.pem", "server.pem.tmp", "ca.key.pem.4711.tmp", "tmp"] {
            std::fs::write(dir.path().join(name), "x").expect("written");
        }
        remove_temporary(dir.path()).expect("removed");
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect();
        left.sort();
        assert_eq!(left, ["server.pem", "tmp"]);
        assert!(remove_temporary(&dir.path().join("missing")).is_err());
    }
}
