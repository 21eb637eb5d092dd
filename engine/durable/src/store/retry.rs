//! Writing an object at most once over a store that may fail before, during or after.
//!
//! Crash consistency: an object is made with create-if-absent, so it is there whole or not at all. A put that was
//! answered with an error may have been applied: the name is read back and compared byte for byte (what is written
//! holds a fresh nonce or key, so equal bytes are ours). Only what is known not to be there is put again, and only a
//! few times: remote stores have their own patience and pauses inside one call (`remote.rs`).

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

use super::local_durable::LocalDurableError;
use super::remote::is_tried_enough;

/// How often one put is tried.
const ATTEMPTS_MAX: u32 = 3;

/// What came of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// Our bytes are there.
    Created,
    /// Another object is there, and stays.
    Exists(Bytes),
}

/// Why it is not known that our bytes are there.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Nothing was written. It may be tried again.
    #[error("the object store refused to write {path}: {source}")]
    DidNotHappen {
        /// The object's name.
        path: String,
        /// The store's last error.
        source: Error,
    },
    /// The object may be written, now or a moment later. Read it back before anything is decided.
    #[error("the object store may or may not have written {path}: {source}")]
    MayHaveHappened {
        /// The object's name.
        path: String,
        /// The store's last error.
        source: Error,
    },
    /// A sync failed: what is on the disk is unknown, and trying again would hide it. The process must end.
    #[error("a sync failed while {path} was written: {source}")]
    Fatal {
        /// The object's name.
        path: String,
        /// The store's error.
        source: Error,
    },
}

/// Returns whether a sync failed. After that, no response of this store to a write can be trusted until a restart.
#[must_use]
pub fn is_fatal(error: &Error) -> bool {
    let Error::Generic { source, .. } = error else { return false };
    source.downcast_ref::<LocalDurableError>().is_some_and(LocalDurableError::is_fatal)
}

/// Returns whether a put that ended with this error has certainly changed nothing.
fn did_not_happen(error: &Error) -> bool {
    match error {
        Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::InvalidPath { .. }
        | Error::UnknownConfigurationKey { .. } => true,
        Error::Generic { source, .. } => {
            source.downcast_ref::<LocalDurableError>().is_some_and(LocalDurableError::did_not_happen)
        }
        _ => false,
    }
}

/// Returns whether the same call would always end with this error.
fn is_permanent(error: &Error) -> bool {
    did_not_happen(error) && !matches!(error, Error::Generic { .. })
}

/// Makes an object unless one of this name is there. Knows its own bytes again when an earlier try was applied and
/// answered with an error.
///
/// # Errors
/// [`PutError`].
pub async fn put_create(store: &dyn ObjectStore, path: &Path, bytes: &Bytes) -> Result<PutOutcome, PutError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let options = PutOptions::from(PutMode::Create);
        let error = match store.put_opts(path, PutPayload::from_bytes(bytes.clone()), options).await {
            Ok(_) => return Ok(PutOutcome::Created),
            Err(error) => error,
        };
        let name = || path.to_string();
        if is_fatal(&error) {
            return Err(PutError::Fatal { path: name(), source: error });
        }
        let certain = did_not_happen(&error);
        if !certain {
            match read_object(store, path).await {
                Ok(Some(found)) if found == *bytes => return Ok(PutOutcome::Created),
                Ok(Some(found)) => return Ok(PutOutcome::Exists(found)),
                Ok(None) => {}
                // The put's own error says more than the failed look.
                Err(_) => return Err(PutError::MayHaveHappened { path: name(), source: error }),
            }
        }
        if attempt == ATTEMPTS_MAX || is_permanent(&error) || is_tried_enough(&error) {
            // Not there now; but what was under way may still arrive.
            return Err(if certain {
                PutError::DidNotHappen { path: name(), source: error }
            } else {
                PutError::MayHaveHappened { path: name(), source: error }
            });
        }
    }
}

/// The object's bytes; `None` when there is none.
///
/// # Errors
/// The store's, but for [`Error::NotFound`].
pub async fn read_object(store: &dyn ObjectStore, path: &Path) -> Result<Option<Bytes>, Error> {
    match store.get(path).await {
        Ok(found) => found.bytes().await.map(Some),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
