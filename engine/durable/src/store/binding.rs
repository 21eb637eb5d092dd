//! Binds a data directory and its remote store to each other: both hold the same random id.
//!
//! Without that, a wrong address would look like an empty store, and organisations would begin anew in it while their
//! readings lie elsewhere. The directory has a file, `store.bound`: `<id> <address>`; the store has an object,
//! `data-directory`: `<id>`.
//!
//! Crash consistency: the file is made first, then the object, with create-if-absent. A crash in between leaves a file
//! whose object is not there yet: the next start makes it. An object that is missing later is not made again, so the
//! file tells whether it was ever seen, by its last word.

use std::io;
use std::path::{Path as FilePath, PathBuf};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStore};

use super::retry::{PutError, PutOutcome, put_create, read_object};
use crate::files::replace_file;
use crate::{Files, Random};

/// The file in the data directory.
const FILE: &str = "store.bound";
/// The object in the store; outside of `orgs/`.
const OBJECT: &str = "data-directory";

/// Why a data directory and a store do not go together.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// The directory's objects are in another store, or in none but its own.
    #[error("the data directory belongs to {bound}, the configuration says {configured}")]
    Elsewhere {
        /// The address that the directory knows.
        bound: String,
        /// The address that is configured.
        configured: String,
    },
    /// The store is another data directory's.
    #[error("{url} belongs to another data directory ({found})")]
    Strange {
        /// The store's address.
        url: String,
        /// The id that it holds.
        found: String,
    },
    /// The store has been emptied, or another one is at its address.
    #[error("{url} does not know this data directory any more: its object {OBJECT} is missing")]
    Lost {
        /// The store's address.
        url: String,
    },
    /// The store does not respond. It may do so later.
    #[error("{url} cannot be read: {source}")]
    Unavailable {
        /// The store's address.
        url: String,
        /// What it said.
        source: Error,
    },
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

struct Bound {
    id: String,
    url: String,
    seen: bool,
}

fn read(files: &dyn Files, path: &FilePath) -> io::Result<Option<Bound>> {
    let bytes = match files.open(path) {
        Ok(file) => file.read_all()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let wrong = || io::Error::other("it is not what was written: ID ADDRESS begun|bound");
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let words: Vec<_> = text.split_whitespace().collect();
    match words[..] {
        [id, url, state @ ("begun" | "bound")] => {
            Ok(Some(Bound { id: id.to_owned(), url: url.to_owned(), seen: state == "bound" }))
        }
        _ => Err(wrong()),
    }
}

/// Checks that a data directory does not belong to a remote store, before its own is used.
///
/// # Errors
/// [`BindingError`].
pub fn check_unbound(files: &dyn Files, data_dir: &FilePath) -> Result<(), BindingError> {
    let path = data_dir.join(FILE);
    match read(files, &path).map_err(|source| BindingError::File { path, source })? {
        None => Ok(()),
        Some(bound) => {
            Err(BindingError::Elsewhere { bound: bound.url, configured: "the data directory itself".to_owned() })
        }
    }
}

/// Checks that a data directory belongs to this address, or to none yet, without asking the store.
///
/// # Errors
/// [`BindingError`].
pub fn check_address(files: &dyn Files, data_dir: &FilePath, url: &str) -> Result<(), BindingError> {
    let path = data_dir.join(FILE);
    match read(files, &path).map_err(|source| BindingError::File { path, source })? {
        Some(bound) if bound.url != url => {
            Err(BindingError::Elsewhere { bound: bound.url, configured: url.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Binds a data directory and a store to each other, or checks that they are. Only for the holder of the directory's
/// lock.
///
/// # Errors
/// [`BindingError`]; after [`BindingError::Unavailable`] it may be tried again.
pub async fn bind(
    store: &dyn ObjectStore,
    url: &str,
    files: &dyn Files,
    data_dir: &FilePath,
    random: &dyn Random,
) -> Result<(), BindingError> {
    check_address(files, data_dir, url)?;
    let path = data_dir.join(FILE);
    let file_error = |source| BindingError::File { path: path.clone(), source };
    let write = |id: &str, state| replace_file(files, &path, format!("{id} {url} {state}\n").as_bytes());
    let bound = match read(files, &path).map_err(file_error)? {
        Some(bound) => bound,
        None => {
            let id = format!("{:016x}{:016x}", random.nonzero_u64(), random.nonzero_u64());
            write(&id, "begun").map_err(file_error)?;
            Bound { id, url: url.to_owned(), seen: false }
        }
    };
    let (object, id) = (Path::from(OBJECT), Bytes::from(bound.id.clone()));
    let unavailable = |source| BindingError::Unavailable { url: url.to_owned(), source };
    let found = if bound.seen {
        let found = read_object(store, &object).await.map_err(unavailable)?;
        found.ok_or_else(|| BindingError::Lost { url: url.to_owned() })?
    } else {
        match put_create(store, &object, &id).await {
            Ok(PutOutcome::Created) => id.clone(),
            Ok(PutOutcome::Exists(found)) => found,
            Err(
                PutError::DidNotHappen { source, .. }
                | PutError::MayHaveHappened { source, .. }
                | PutError::Fatal { source, .. },
            ) => return Err(unavailable(source)),
        }
    };
    if found != id {
        let found = String::from_utf8_lossy(&found).chars().take(32).collect();
        if !bound.seen {
            // It was never this directory's.
            files.remove(&path).map_err(file_error)?;
        }
        return Err(BindingError::Strange { url: url.to_owned(), found });
    }
    if !bound.seen {
        write(&bound.id, "bound").map_err(file_error)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;

    use super::super::{Fault, FaultStore, Operation};
    use super::*;
    use crate::SystemRandom;
    use crate::files::{FaultyFiles, Loss};

    fn dir() -> PathBuf {
        PathBuf::from("data")
    }

    fn files() -> FaultyFiles {
        let files = FaultyFiles::new();
        files.create_dir_all(&dir()).expect("made");
        files
    }

    fn bound(store: &dyn ObjectStore, url: &str, files: &FaultyFiles) -> Result<(), BindingError> {
        bind(store, url, files, &dir(), &SystemRandom).now_or_never().expect("there is nothing to wait for")
    }

    #[test]
    fn a_directory_stays_with_its_store_and_a_store_with_its_directory() {
        let (files, store) = (files(), InMemory::new());
        check_unbound(&files, &dir()).expect("not yet");
        bound(&store, "s3://one", &files).expect("bound");
        bound(&store, "s3://one", &files).expect("still");
        assert!(matches!(check_unbound(&files, &dir()), Err(BindingError::Elsewhere { .. })));
        let other = InMemory::new();
        assert!(matches!(bound(&other, "s3://two", &files), Err(BindingError::Elsewhere { .. })));
        assert!(matches!(bound(&other, "s3://one", &files), Err(BindingError::Lost { .. })), "an empty one");
        // Another directory; it is free to take another store after that.
        let second = self::files();
        assert!(matches!(bound(&store, "s3://one", &second), Err(BindingError::Strange { .. })));
        bound(&other, "s3://two", &second).expect("bound");
        // To another place go all objects but this one; with it, the store would be that of another directory.
        let (copied, moved, third) = (InMemory::new(), InMemory::new(), self::files());
        bound(&InMemory::new(), "s3://three", &third).expect("bound");
        copied.put(&Path::from(OBJECT), "the old id".into()).now_or_never().expect("at once").expect("put");
        third.remove(&dir().join(FILE)).expect("removed");
        assert!(matches!(bound(&copied, "s3://four", &third), Err(BindingError::Strange { .. })));
        bound(&moved, "s3://four", &third).expect("bound anew");
        // A copy of the directory is the directory.
        store.delete(&Path::from(OBJECT)).now_or_never().expect("at once").expect("deleted");
        assert!(matches!(bound(&store, "s3://one", &files), Err(BindingError::Lost { .. })));
    }

    #[test]
    fn a_crash_at_any_time_leaves_what_the_next_start_goes_on_with() {
        for loss in [Loss::Process, Loss::Unsynced, Loss::Some(7)] {
            for crash_after in 0.. {
                let (files, store) = (files(), InMemory::new());
                files.crash_after(crash_after);
                let done = bound(&store, "s3://one", &files).is_ok();
                let finished = !files.is_crashed();
                files.restart(loss);
                bound(&store, "s3://one", &files).unwrap_or_else(|error| panic!("{crash_after} {loss:?}: {error}"));
                if finished {
                    assert!(done && crash_after > 8, "{crash_after}");
                    break;
                }
            }
        }
    }

    #[test]
    fn a_store_that_is_away_is_asked_again() {
        let (files, store) = (files(), FaultStore::new(Arc::new(InMemory::new())));
        for _ in 0..3 {
            store.fail_next(Operation::Put, OBJECT, Fault::Before, 0);
        }
        assert!(matches!(bound(&store, "s3://one", &files), Err(BindingError::Unavailable { .. })));
        bound(&store, "s3://one", &files).expect("it is back");
        store.fail_next(Operation::Get, OBJECT, Fault::Before, 0);
        assert!(matches!(bound(&store, "s3://one", &files), Err(BindingError::Unavailable { .. })));
        bound(&store, "s3://one", &files).expect("it is back");
    }
}
