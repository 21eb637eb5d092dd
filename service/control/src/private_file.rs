//! Files that only their owner may read: keys and certificates. Written whole or not at all, and on the disk when the
//! call returns.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

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
    let what = || format!("cannot write {}", path.display());
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = Path::new(&temporary);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary).context(what)?;
    // A file left over by a crash may have other permissions than those asked for.
    file.set_permissions(Permissions::from_mode(0o600)).context(what)?;
    file.write_all(text.as_bytes()).context(what)?;
    file.sync_all().context(what)?;
    std::fs::rename(temporary, path).context(what)?;
    sync_parent(path)
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
        sync_parent(path)?;
    }
    Ok(())
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let what = || format!("cannot sync the directory {}", parent.display());
    File::open(parent).context(what)?.sync_all().context(what)
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
}
