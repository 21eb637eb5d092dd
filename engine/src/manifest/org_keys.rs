//! Organisations' keys: made once, kept in the store wrapped by the master key, cached unwrapped in memory.
//!
//! Crash consistency: the key's object is made before anything is sealed with it. A key without a manifest is what a
//! crash while an organisation was made leaves behind: making the organisation again finds and uses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use durable::{PutOutcome, Random, object_path, put_create, read_object};
use object_store::ObjectStore;
use storage_format::encryption::{SecretKey, org_key_aad};
use storage_format::{ObjectKey, OrgId, OrgKeyObject};

use crate::keys::{KeyError, KeyProvider};
use crate::manifest::ManifestError;

/// Unwrapped keys kept in memory; past so many the cache starts again.
const CACHED_MAX: usize = 65_536;

/// The key version that new objects use. Turning keys over will make it a property of the organisation.
const CURRENT: u32 = 1;

/// The keys of all organisations of one store.
#[derive(Debug)]
pub struct OrgKeys {
    store: Arc<dyn ObjectStore>,
    provider: Arc<dyn KeyProvider>,
    random: Arc<dyn Random>,
    cached: Mutex<HashMap<(OrgId, u32), SecretKey>>,
}

impl OrgKeys {
    /// The keys in this store, wrapped by this provider.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, provider: Arc<dyn KeyProvider>, random: Arc<dyn Random>) -> Self {
        Self { store, provider, random, cached: Mutex::default() }
    }

    /// The organisation's key of this version.
    ///
    /// # Errors
    /// [`ManifestError::Missing`] when there is none, [`ManifestError::Object`] when it does not open.
    pub async fn get(&self, org: OrgId, version: u32) -> Result<SecretKey, ManifestError> {
        if let Some(key) = self.lock().get(&(org, version)) {
            return Ok(key.clone());
        }
        let name = ObjectKey::OrgKey { org, version };
        let found = read_object(self.store.as_ref(), &object_path(&name)).await;
        let bytes = found.map_err(|source| ManifestError::store(name, source))?;
        let bytes = bytes.ok_or(ManifestError::Missing { name })?;
        self.open(org, version, &bytes)
    }

    /// The key that new objects of the organisation are sealed with, and its version.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn current(&self, org: OrgId) -> Result<(SecretKey, u32), ManifestError> {
        Ok((self.get(org, CURRENT).await?, CURRENT))
    }

    /// Makes the organisation's first key, or finds the one that is there.
    ///
    /// # Errors
    /// [`ManifestError`] when the store or the provider fails.
    pub(crate) async fn create(&self, org: OrgId) -> Result<(SecretKey, u32), ManifestError> {
        let name = ObjectKey::OrgKey { org, version: CURRENT };
        let mut raw = [0; 32];
        self.random.fill(&mut raw);
        let key = SecretKey::from_bytes(raw);
        let wrapped = self.provider.wrap(&key, &org_key_aad(org, CURRENT)).map_err(ManifestError::Key)?;
        let object = OrgKeyObject { org, version: CURRENT, wrapped };
        let bytes = Bytes::copy_from_slice(&object.encode());
        match put_create(self.store.as_ref(), &object_path(&name), &bytes).await.map_err(ManifestError::Put)? {
            PutOutcome::Created => {
                self.keep(org, CURRENT, &key);
                Ok((key, CURRENT))
            }
            PutOutcome::Exists(bytes) => Ok((self.open(org, CURRENT, &bytes)?, CURRENT)),
        }
    }

    fn open(&self, org: OrgId, version: u32, bytes: &[u8]) -> Result<SecretKey, ManifestError> {
        let name = ObjectKey::OrgKey { org, version };
        let object =
            OrgKeyObject::decode(org, version, bytes).map_err(|source| ManifestError::Object { name, source })?;
        let key = self.provider.unwrap(&object.wrapped, &org_key_aad(org, version)).map_err(|e| match e {
            KeyError::Unwrap(source) => ManifestError::Object { name, source },
            other => ManifestError::Key(other),
        })?;
        self.keep(org, version, &key);
        Ok(key)
    }

    fn keep(&self, org: OrgId, version: u32, key: &SecretKey) {
        let mut cached = self.lock();
        if cached.len() >= CACHED_MAX {
            cached.clear();
        }
        cached.insert((org, version), key.clone());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(OrgId, u32), SecretKey>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
