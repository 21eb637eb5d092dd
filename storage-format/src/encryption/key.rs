//! Secret keys, and sealing with them: AES-256-GCM (NIST SP 800-38D) as implemented by ring.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{FileKind, FormatError, FormatErrorKind};

/// Length of an AES-256 key.
pub const KEY_BYTES: usize = 32;
/// Length of a nonce: the one that GCM prefers.
pub const NONCE_BYTES: usize = 12;
/// Length of GCM's authentication tag.
pub const TAG_BYTES: usize = 16;

/// 256-bit key. Wiped from memory when dropped; never shown by `Debug`.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; KEY_BYTES]>);

impl SecretKey {
    /// Creates a key from bytes. Wipes its own copy of them; the caller must wipe any other copies.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; KEY_BYTES]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    /// Returns the bytes, for a cipher or for the file that stores the key.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

/// Key with its cipher state prepared, to seal many blocks.
pub(crate) struct SealingKey(LessSafeKey);

impl SealingKey {
    pub(crate) fn new(key: &SecretKey) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("32 bytes are an AES-256 key");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts the bytes in place and returns the tag.
    pub(crate) fn seal_in_place(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), bytes)
            .expect("far below GCM's limit of 64 GiB");
        let mut out = [0; TAG_BYTES];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Decrypts the bytes in place; `None` when key, nonce, additional data, bytes and tag do not belong together.
    pub(crate) fn open_in_place(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        tag: [u8; TAG_BYTES],
        bytes: &mut [u8],
    ) -> Option<()> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(tag), bytes, 0..).ok().map(|_| ())
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(redacted)")
    }
}

/// Seals bytes: ciphertext, then tag. The caller must ensure that no nonce is used twice with one key.
#[must_use]
pub fn seal(key: &SecretKey, nonce: [u8; NONCE_BYTES], aad: &[u8], plaintext: Vec<u8>) -> Vec<u8> {
    let mut bytes = plaintext;
    let tag = SealingKey::new(key).seal_in_place(nonce, aad, &mut bytes);
    bytes.extend_from_slice(&tag);
    bytes
}

/// Opens bytes that [`seal`] created.
///
/// # Errors
/// [`FormatErrorKind::Truncated`] when the bytes are shorter than a tag; [`FormatErrorKind::Damaged`] when the bytes,
/// the nonce, the additional data or the key are not those of the sealing (AES-GCM cannot distinguish these). The error
/// names `file` at offset 0; callers that know a better offset replace it.
pub fn open(
    file: FileKind,
    key: &SecretKey,
    nonce: [u8; NONCE_BYTES],
    aad: &[u8],
    sealed: Vec<u8>,
) -> Result<Vec<u8>, FormatError> {
    let mut bytes = sealed;
    let Some((body, tag)) = bytes.split_last_chunk_mut::<TAG_BYTES>() else {
        return Err(FormatError::new(file, FormatErrorKind::Truncated, 0, "shorter than an authentication tag"));
    };
    let tag = *tag;
    if SealingKey::new(key).open_in_place(nonce, aad, tag, body).is_none() {
        return Err(FormatError::new(
            file,
            FormatErrorKind::Damaged,
            0,
            "the authentication tag does not match: damaged, moved from elsewhere, or sealed with another key",
        ));
    }
    bytes.truncate(bytes.len() - TAG_BYTES);
    Ok(bytes)
}
