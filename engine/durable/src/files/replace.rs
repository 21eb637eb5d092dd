//! Replacing a file's content as one step: the one place where this sequence is written.
//!
//! Crash consistency: the new content is complete and durable under a temporary name before it gets the file's name, so
//! that the file holds its old content or its new one at every point, after a kill as after a power cut. A crash leaves
//! the temporary file at most, which the next replacement of the same file removes.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::Files;

/// The end of a temporary file's name.
const TEMPORARY: &str = ".tmp";

/// Makes `bytes` the content of the file at `path`, whether there is one already or not, readable by its owner only.
///
/// Guarantees:
/// - At every point the file holds its old content (or is missing, as before), or its new content: never a part, and
///   never nothing.
/// - When this returns `Ok`, the new content is on stable storage and survives a power cut.
/// - After an error, either content may be there. If only the last step failed, the sync of the directory, readers see
///   the new content, and a power cut may bring the old one back.
///
/// The content is first written to `<path>.tmp`; a file of this name that an earlier crash left is removed. So only one
/// caller at a time may replace a given file, and its directory must exist and be durable.
///
/// # Errors
/// The file layer's. The temporary file is removed then, if that is possible.
pub fn replace_file(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let temporary = temporary_of(path)?;
    match files.remove(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let renamed = write(files, &temporary, bytes).and_then(|()| {
        // Opened before the rename, because after it only the sync itself may fail.
        let opened = files.open_dir(dir)?;
        files.rename(&temporary, path)?;
        Ok(opened)
    });
    match renamed {
        Ok(opened) => opened.sync(),
        Err(error) => {
            // The first error is the one that counts; what stays is removed by the next replacement.
            let _remains = files.remove(&temporary);
            Err(error)
        }
    }
}

fn write(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = files.create_new(path)?;
    file.write_at(bytes, 0)?;
    file.sync_all()
}

fn temporary_of(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?.to_owned();
    name.push(TEMPORARY);
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FaultyFiles, Loss, RealFiles};

    const OLD: &[u8] = b"old content";
    /// Over several sectors, so that a power cut can tear it.
    const NEW: &[u8] = &[b'n'; 3000];

    fn path() -> PathBuf {
        PathBuf::from("/data/keys/server.key")
    }

    fn with_directory() -> FaultyFiles {
        let files = FaultyFiles::new();
        files.create_dir_all(Path::new("/data/keys")).expect("a directory");
        files
    }

    fn content(files: &FaultyFiles) -> Option<Vec<u8>> {
        match files.open(&path()) {
            Ok(file) => Some(file.read_all().expect("reads")),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound);
                None
            }
        }
    }

    /// Replaces a file with this old content, is stopped after each number of operations, and looks after each loss.
    fn crash_everywhere(old: Option<&[u8]>) {
        let mut crash_after = 0;
        loop {
            let mut finished = true;
            let losses = [Loss::Process, Loss::Unsynced].into_iter().chain((0..20).map(Loss::Some));
            for loss in losses {
                let files = with_directory();
                if let Some(old) = old {
                    replace_file(&files, &path(), old).expect("no fault yet");
                }
                files.crash_after(crash_after);
                let replaced = replace_file(&files, &path(), NEW);
                finished &= !files.is_crashed();
                files.restart(loss);
                let found = content(&files);
                let place = format!("stopped after {crash_after} operations, {loss:?}");
                match replaced {
                    Ok(()) => assert_eq!(found.as_deref(), Some(NEW), "{place}: what was returned for survives"),
                    Err(_) => assert!(
                        found.as_deref() == old || found.as_deref() == Some(NEW),
                        "{place}: {} bytes are neither old nor new",
                        found.map_or(0, |found| found.len())
                    ),
                }
                // Whatever was left, the next replacement works and leaves nothing behind.
                replace_file(&files, &path(), NEW).expect("the next one");
                files.restart(Loss::Unsynced);
                assert_eq!(content(&files).as_deref(), Some(NEW), "{place}");
                assert_eq!(files.list(Path::new("/data/keys")).expect("lists"), ["server.key"], "{place}");
            }
            if finished {
                assert!(crash_after > 3, "write, sync, rename and sync are at least four operations");
                return;
            }
            crash_after += 1;
        }
    }

    #[test]
    fn a_crash_at_any_operation_leaves_the_old_content_or_the_new() {
        crash_everywhere(Some(OLD));
    }

    #[test]
    fn a_crash_at_any_operation_leaves_no_file_or_the_new_content() {
        crash_everywhere(None);
    }

    #[test]
    fn a_failed_write_or_sync_is_an_error_and_leaves_the_old_content() {
        for fail in [FaultyFiles::fail_syncs as fn(&FaultyFiles, u32), FaultyFiles::fail_writes] {
            let files = with_directory();
            replace_file(&files, &path(), OLD).expect("no fault yet");
            fail(&files, 1);
            replace_file(&files, &path(), NEW).expect_err("it failed");
            assert_eq!(content(&files).as_deref(), Some(OLD));
            assert_eq!(files.list(Path::new("/data/keys")).expect("lists"), ["server.key"], "no temporary file stays");
        }
    }

    #[test]
    fn a_failed_sync_of_the_directory_is_an_error() {
        let files = with_directory();
        replace_file(&files, &path(), OLD).expect("no fault yet");
        // The first sync is the file's.
        files.fail_sync_after(1);
        replace_file(&files, &path(), NEW).expect_err("nobody knows whether it survives");
    }

    #[test]
    fn on_the_machine_only_the_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        std::fs::write(&path, OLD).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("a mode");
        replace_file(&RealFiles, &path, NEW).expect("replaces");
        assert_eq!(std::fs::read(&path).expect("reads"), NEW);
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        replace_file(&RealFiles, Path::new("/"), NEW).expect_err("no file");
    }
}
