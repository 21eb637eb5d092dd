//! The key hierarchy: a master key wraps organisation keys and WAL data keys, an organisation key wraps segment data
//! keys, and data keys seal bytes. All of them use AES-256-GCM. `docs/encryption.md` describes the bytes.
//!
//! The caller supplies the nonces and must ensure that none repeats under one key: a random nonce for wrapping, a
//! counter or an offset for data under a key of its own.

mod aad;
mod key;
mod wrap;

pub use aad::{data_key_aad, org_key_aad};
pub(crate) use key::SealingKey;
pub use key::{KEY_BYTES, NONCE_BYTES, SecretKey, TAG_BYTES, open, seal};
pub use wrap::{WRAPPED_KEY_BYTES, WrappedKey, unwrap_key, wrap_key};

#[cfg(test)]
mod tests;
