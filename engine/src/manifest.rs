//! Organisations' manifests in the store: made, loaded whole, and changed by commits that cannot both win.

mod invariants;
mod log;
mod org_keys;
mod store;

use durable::{PutError, is_fatal};
use object_store::Error;
use storage_format::manifest::ApplyError;
use storage_format::{FormatError, FormatErrorKind, ManifestVersion, ObjectKey, OrgId};

use crate::error::{EngineError, EngineErrorKind};
use crate::keys::KeyError;

pub use invariants::InvariantError;
pub(crate) use log::base_of;
pub use org_keys::OrgKeys;
pub use store::{BASE_EVERY, CommitError, ManifestChange, ManifestStore};

/// Why a manifest, or a key, can not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// There is no such organisation.
    #[error("organisation {0} does not exist")]
    NotFound(OrgId),
    /// An object that must be there is not: a hole in the log, or a lost key.
    #[error("{name} is missing")]
    Missing {
        /// Its name.
        name: ObjectKey,
    },
    /// A name in the manifest's place that is no manifest object's.
    #[error("{name:?} is in a place where only icecore's objects are")]
    Stranger {
        /// The name.
        name: String,
    },
    /// An object is damaged, or not what its name says, or does not open with the key.
    #[error("{name}: {source}")]
    Object {
        /// Its name.
        name: ObjectKey,
        /// What is wrong, with the offset.
        source: FormatError,
    },
    /// A commit that does not fit the one before.
    #[error("{name}: {source}")]
    Apply {
        /// Its name.
        name: ObjectKey,
        /// What does not fit.
        source: ApplyError,
    },
    /// The store failed to read or list.
    #[error("{name}: {source}")]
    Store {
        /// The name or prefix.
        name: String,
        /// The store's error.
        source: Error,
    },
    /// The store failed to write.
    #[error(transparent)]
    Put(PutError),
    /// The key provider failed.
    #[error(transparent)]
    Key(KeyError),
}

impl ManifestError {
    pub(crate) fn store(name: impl ToString, source: Error) -> Self {
        Self::Store { name: name.to_string(), source }
    }
}

/// What the operating system says of one file, while others can be read: no right to it (EACCES), a bad sector (EIO),
/// another kind of file (ENOTDIR, EISDIR), a loop of links (ELOOP), a damaged file system (EUCLEAN). No network says these.
const ERRORS_OF_ONE_FILE: [i32; 6] = [13, 5, 20, 21, 40, 117];

/// Whether a store of files cannot read one of them.
fn is_of_one_file(error: &Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.raw_os_error().is_some_and(|code| ERRORS_OF_ONE_FILE.contains(&code));
        }
        cause = error.source();
    }
    false
}

/// The advice for damaged objects.
pub(crate) const RESTORE: &str = "Restore the object from a backup; nothing was changed";

pub(crate) fn put_error(error: PutError) -> EngineError {
    let (kind, advice) = match &error {
        PutError::Fatal { .. } => (EngineErrorKind::Failed, "Look at the disk, then start again"),
        PutError::DidNotHappen { .. } | PutError::MayHaveHappened { .. } => {
            (EngineErrorKind::Retry, "Look at the object store's space and reach; it is tried again")
        }
    };
    EngineError::new(kind, "an object could not be written", advice).because(error)
}

impl From<ManifestError> for EngineError {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::NotFound(org) => Self::new(
                EngineErrorKind::Invalid,
                "there is no such organisation",
                "List them with `icecore org list`",
            )
            .at(org),
            ManifestError::Put(inner) => put_error(inner),
            ManifestError::Store { ref source, .. } if is_fatal(source) => {
                Self::new(EngineErrorKind::Failed, "the object store has stopped", "Look at the disk, then start again")
                    .because(error)
            }
            ManifestError::Store { ref source, .. } if is_of_one_file(source) => Self::new(
                EngineErrorKind::Corrupt,
                "an object is there and cannot be read",
                "Give the process the right to read it, or restore it from a backup; nothing was changed",
            )
            .because(error),
            ManifestError::Store { .. } => Self::new(
                EngineErrorKind::Retry,
                "the object store could not be read",
                "Look at its reach and try again",
            )
            .because(error),
            ManifestError::Key(_) => {
                Self::new(EngineErrorKind::Retry, "a key could not be had", "Look at the key provider and try again")
                    .because(error)
            }
            ManifestError::Object { ref source, .. } if source.kind == FormatErrorKind::WrongKey => Self::new(
                EngineErrorKind::Corrupt,
                "an object does not open with the key that is there",
                "Is it the right master key for this data?",
            )
            .because(error),
            ManifestError::Missing { .. }
            | ManifestError::Stranger { .. }
            | ManifestError::Object { .. }
            | ManifestError::Apply { .. } => {
                Self::new(EngineErrorKind::Corrupt, "a manifest can not be read", RESTORE).because(error)
            }
        }
    }
}

impl From<CommitError> for EngineError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Manifest(inner) => inner.into(),
            CommitError::Put(inner) => put_error(inner),
            CommitError::Fenced { .. } => Self::new(
                EngineErrorKind::Fenced,
                "another process writes this organisation's manifest",
                "End this process; only one may serve an organisation",
            )
            .because(error),
            CommitError::Conflict { .. } => {
                Self::new(EngineErrorKind::Retry, "another commit was first", "Load the manifest again, then try again")
                    .because(error)
            }
            CommitError::Invariant(_) => Self::new(
                EngineErrorKind::Failed,
                "a commit would break the manifest's rules",
                "This is a defect of icecore; nothing was changed. Please report it",
            )
            .because(error),
        }
    }
}

/// Names for people: which commit of which organisation.
pub(crate) const fn commit_name(org: OrgId, version: ManifestVersion) -> ObjectKey {
    ObjectKey::Manifest { org, version }
}

#[cfg(test)]
pub(crate) mod tests;
