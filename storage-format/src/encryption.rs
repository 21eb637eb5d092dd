//! The key hierarchy: a master key wraps organisation keys and WAL data keys, an organisation key wraps segment data
//! keys; data keys seal bytes. AES-256-GCM throughout. `docs/encryption.md` holds the bytes.
//!
//! Nonces come from the caller, who answers for their never repeating under one key: random for wrapping, a counter or
//! an offset for data under a key of its own.

mod aad;
mod key;
mod wrap;

pub use aad::{data_key_aad, org_key_aad};
pub(crate) use key::SealingKey;
pub use key::{KEY_BYTES, NONCE_BYTES, SecretKey, TAG_BYTES, open, seal};
pub use wrap::{WRAPPED_KEY_BYTES, WrappedKey, unwrap_key, wrap_key};

#[cfg(test)]
mod tests;
