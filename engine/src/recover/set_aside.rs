//! Records that are whole and cannot be applied, each kept in a WAL file of its own, sealed like the others, so that
//! `icecore wal inspect` shows it.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use durable::replace_file;
use storage_format::encryption::SecretKey;
use storage_format::limits::WAL_FILE_HEADER_BYTES;
use storage_format::wal::{WalBlockBuilder, WalFileHeader, WalFileKey};
use storage_format::{GatewayId, Lsn, Millis, OrgId, WalFileId};

use super::RecoveryParts;
use crate::error::{EngineError, EngineErrorKind};

/// Where such records go.
pub(super) struct SetAside {
    dir: PathBuf,
    parts: RecoveryParts,
    /// What earlier starts kept; looked up when the first record comes.
    kept: Mutex<Option<BTreeSet<String>>>,
}

impl SetAside {
    pub(super) fn new(dir: PathBuf, parts: RecoveryParts) -> Self {
        Self { dir, parts, kept: Mutex::new(None) }
    }

    /// Keeps one record, durably; answers where. One that an earlier start kept is there already.
    pub(super) fn keep(
        &self,
        lsn: Lsn,
        org: OrgId,
        gateway: GatewayId,
        received: Millis,
        frame: &[u8],
    ) -> Result<PathBuf, EngineError> {
        let name = format!("{:020}.wal", lsn.get());
        let path = self.dir.join(&name);
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            EngineError::new(
                EngineErrorKind::Failed,
                "a WAL record that cannot be applied could not be kept aside",
                "Look at the disk and at the rights of the data directory, then start again.",
            )
            .at(path.display())
            .because(error)
        };
        let names = || -> io::Result<BTreeSet<String>> {
            let files = &self.parts.files;
            files.create_dir_all(&self.dir)?;
            let (unfinished, names): (BTreeSet<_>, BTreeSet<_>) =
                files.list(&self.dir)?.into_iter().partition(|name| name.ends_with(".tmp"));
            for name in unfinished {
                files.remove(&self.dir.join(name))?;
            }
            // An earlier start may have been killed between the name and its sync; the WAL will let the record go.
            files.sync_dir(&self.dir)?;
            Ok(names)
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            *kept = Some(names().map_err(|error| failed(error.into()))?);
        }
        if kept.as_ref().is_some_and(|kept| kept.contains(&name)) {
            return Ok(path);
        }
        let mut key = [0; 32];
        self.parts.random.fill(&mut key);
        let key = SecretKey::from_bytes(key);
        let id = WalFileId::new(lsn.get()).map_err(|error| failed(error.into()))?;
        let mut block = WalBlockBuilder::new();
        block.push_frame(lsn, org, gateway, received, frame);
        let file_bytes = (WAL_FILE_HEADER_BYTES + block.bytes_len()) as u64;
        let created = self.parts.clock.now();
        let aad = WalFileHeader::key_aad(id, lsn, file_bytes, created);
        let wrapped = self.parts.keys.wrap(&key, &aad).map_err(|error| failed(error.into()))?;
        let mut bytes = WalFileHeader { id, first_lsn: lsn, file_bytes, created, key: wrapped }.encode().to_vec();
        bytes.extend_from_slice(block.seal(&WalFileKey::new(&key), WAL_FILE_HEADER_BYTES as u64));

        replace_file(&*self.parts.files, &path, &bytes).map_err(|error| failed(error.into()))?;
        Ok(path)
    }
}
