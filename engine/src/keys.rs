//! Who holds the keys: the master key's holder wraps organisation keys, organisation keys wrap segments' data keys.
//!
//! Invariant: an organisation's key is in the store, wrapped, before anything sealed with it is.
//! Does not own where the master key comes from, nor organisations' keys (`manifest`).

use std::fmt::Debug;
use std::sync::Arc;

use durable::Random;
use storage_format::FormatError;
use storage_format::encryption::{NONCE_BYTES, SecretKey, WrappedKey, unwrap_key, wrap_key};

/// Why a key provider did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key was not wrapped by this provider for this purpose, or is damaged.
    #[error(transparent)]
    Unwrap(#[from] FormatError),
    /// The provider could not be reached; trying again may help.
    #[error("the key provider cannot be reached: {0}")]
    Unavailable(String),
}

/// The master key's holder: a file or the environment by default, a key management service some day. Called a few
/// times per organisation and WAL file, never per record; it may take its time.
pub trait KeyProvider: Send + Sync + Debug {
    /// Wraps a key for the purpose that the additional data names.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`].
    fn wrap(&self, key: &SecretKey, aad: &[u8]) -> Result<WrappedKey, KeyError>;

    /// Unwraps a key for the purpose that it was wrapped for.
    ///
    /// # Errors
    /// [`KeyError`].
    fn unwrap(&self, wrapped: &WrappedKey, aad: &[u8]) -> Result<SecretKey, KeyError>;
}

/// A master key in this process's memory.
#[derive(Debug)]
pub struct MasterKey {
    key: SecretKey,
    random: Arc<dyn Random>,
}

impl MasterKey {
    /// The holder of this key, which draws nonces from `random`.
    #[must_use]
    pub fn new(key: SecretKey, random: impl Random + 'static) -> Self {
        Self { key, random: Arc::new(random) }
    }
}

impl KeyProvider for MasterKey {
    fn wrap(&self, key: &SecretKey, aad: &[u8]) -> Result<WrappedKey, KeyError> {
        let mut nonce = [0; NONCE_BYTES];
        self.random.fill(&mut nonce);
        Ok(wrap_key(&self.key, key, nonce, aad))
    }

    fn unwrap(&self, wrapped: &WrappedKey, aad: &[u8]) -> Result<SecretKey, KeyError> {
        Ok(unwrap_key(&self.key, wrapped, aad)?)
    }
}
