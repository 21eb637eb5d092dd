//! Files in the WAL's format that are written as a whole, beside the log: records that were carried on or set aside.

use durable::{Clock, Random};
use storage_format::encryption::SecretKey;
use storage_format::limits::{WAL_BLOCK_BYTES_MAX, WAL_FILE_HEADER_BYTES};
use storage_format::wal::{WalBlockBuilder, WalFileHeader, WalFileKey, WalFileKind};
use storage_format::{GatewayId, Lsn, Millis, OrgId, WalFileId};

use crate::keys::{KeyError, KeyProvider};

/// A frame's record, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameOfLog {
    pub(crate) lsn: Lsn,
    pub(crate) org: OrgId,
    pub(crate) gateway: GatewayId,
    pub(crate) received: Millis,
    /// The frame's bytes as they were received.
    pub(crate) frame: bytes::Bytes,
}

/// Collects records and seals them, each once, under a key of the file's own.
#[derive(Debug)]
pub(crate) struct WholeFile {
    kind: WalFileKind,
    first_lsn: Option<Lsn>,
    key: SecretKey,
    sealing: WalFileKey,
    block: WalBlockBuilder,
    /// Sealed blocks, to follow the header.
    body: Vec<u8>,
}

impl WholeFile {
    pub(crate) fn new(kind: WalFileKind, random: &dyn Random) -> Self {
        let mut key = [0; 32];
        random.fill(&mut key);
        let key = SecretKey::from_bytes(key);
        let sealing = WalFileKey::new(&key);
        Self { kind, first_lsn: None, key, sealing, block: WalBlockBuilder::new(), body: Vec::new() }
    }

    /// Adds a record. LSNs ascend.
    pub(crate) fn push(&mut self, record: &FrameOfLog) {
        let FrameOfLog { lsn, org, gateway, received, frame } = record;
        if !self.block.has_room(frame.len(), WAL_BLOCK_BYTES_MAX) {
            self.seal();
        }
        self.first_lsn.get_or_insert(*lsn);
        self.block.push_frame(*lsn, *org, *gateway, *received, frame);
    }

    fn seal(&mut self) {
        if !self.block.is_empty() {
            let offset = WAL_FILE_HEADER_BYTES + self.body.len();
            self.body.extend_from_slice(self.block.seal(&self.sealing, offset as u64));
        }
    }

    /// Returns the file's bytes. Its id is its first LSN.
    ///
    /// # Errors
    /// When the key provider does not wrap the file's key.
    ///
    /// # Panics
    /// Without a record.
    pub(crate) fn finish(mut self, keys: &dyn KeyProvider, clock: &dyn Clock) -> Result<Vec<u8>, KeyError> {
        self.seal();
        let first_lsn = self.first_lsn.expect("a file has records");
        let id = WalFileId::new(first_lsn.get()).expect("no record has LSN zero");
        let (kind, created) = (self.kind, clock.now());
        let file_bytes = (WAL_FILE_HEADER_BYTES + self.body.len()) as u64;
        let aad = WalFileHeader::key_aad(kind, id, first_lsn, file_bytes, created);
        let key = keys.wrap(&self.key, &aad)?;
        let mut bytes = WalFileHeader { kind, id, first_lsn, file_bytes, created, key }.encode().to_vec();
        bytes.append(&mut self.body);
        Ok(bytes)
    }
}
