//! Wrapping: sealing keys with other keys.

use zeroize::Zeroizing;

use super::key::{KEY_BYTES, NONCE_BYTES, SealingKey, SecretKey, TAG_BYTES};
use crate::{FileKind, FormatError, FormatErrorKind};

/// Length of a wrapped key: nonce, ciphertext, tag.
pub const WRAPPED_KEY_BYTES: usize = NONCE_BYTES + KEY_BYTES + TAG_BYTES;

/// Key sealed with another key. It is safe to store and to display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrappedKey([u8; WRAPPED_KEY_BYTES]);

impl WrappedKey {
    /// Creates a wrapped key from stored bytes. Only [`unwrap_key`] checks whether it unwraps.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; WRAPPED_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes to store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; WRAPPED_KEY_BYTES] {
        &self.0
    }
}

/// Wraps a key. The nonce must be random; the additional data states the purpose of the key.
#[must_use]
pub fn wrap_key(wrapping: &SecretKey, key: &SecretKey, nonce: [u8; NONCE_BYTES], aad: &[u8]) -> WrappedKey {
    let mut bytes = [0; WRAPPED_KEY_BYTES];
    let (head, rest) = bytes.split_at_mut(NONCE_BYTES);
    let (body, tail) = rest.split_at_mut(KEY_BYTES);
    head.copy_from_slice(&nonce);
    body.copy_from_slice(key.expose());
    let tag = SealingKey::new(wrapping).seal_in_place(nonce, aad, body);
    tail.copy_from_slice(&tag);
    WrappedKey(bytes)
}

/// Unwraps a key.
///
/// # Errors
/// [`FormatErrorKind::WrongKey`] when the key was not wrapped with this key and additional data, or is damaged.
pub fn unwrap_key(wrapping: &SecretKey, wrapped: &WrappedKey, aad: &[u8]) -> Result<SecretKey, FormatError> {
    let (mut nonce, mut key, mut tag) = ([0; NONCE_BYTES], Zeroizing::new([0; KEY_BYTES]), [0; TAG_BYTES]);
    nonce.copy_from_slice(&wrapped.0[..NONCE_BYTES]);
    key.copy_from_slice(&wrapped.0[NONCE_BYTES..NONCE_BYTES + KEY_BYTES]);
    tag.copy_from_slice(&wrapped.0[NONCE_BYTES + KEY_BYTES..]);
    match SealingKey::new(wrapping).open_in_place(nonce, aad, tag, key.as_mut_slice()) {
        Some(()) => Ok(SecretKey::from_bytes(*key)),
        None => Err(FormatError::new(
            FileKind::Key,
            FormatErrorKind::WrongKey,
            0,
            "the key does not unwrap: wrapped with another key, for another purpose, or damaged",
        )),
    }
}
