//! Writing segments and conflicts objects: encoded in memory, then put under a fresh name.

use durable::{PutOutcome, object_path, put_create};
use storage_format::encryption::{NONCE_BYTES, SecretKey};
use storage_format::manifest::{SegmentEntry, SegmentKind};
use storage_format::segment::{EncodedSegment, SegmentEncoder, SegmentError, SegmentSpec};
use storage_format::{ChannelCode, FlushNumber, Lsn, OrgId, Window};

use super::Segments;
use super::rollup::fresh_id;
use crate::error::{EngineError, EngineErrorKind};
use crate::manifest::put_error;

/// What a new object is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSegment {
    /// What its rows are.
    pub kind: SegmentKind,
    /// Organisation.
    pub org: OrgId,
    /// The window that no row may be outside of.
    pub window: Window,
    /// The first flush whose rows are in it.
    pub flush_first: FlushNumber,
    /// The last flush whose rows are in it. Readings of several flushes have the column `flush`.
    pub flush_last: FlushNumber,
    /// The first WAL record whose readings are in it.
    pub lsn_min: Lsn,
    /// The last WAL record whose readings are in it.
    pub lsn_max: Lsn,
    /// For readings: its value columns, known and ascending.
    pub channels: Vec<ChannelCode>,
}

impl Segments {
    /// Starts an object under a fresh random id, with a fresh data key. Feed it sorted batches, finish it, then
    /// [`put`](Self::put) it.
    ///
    /// # Errors
    /// [`EngineError`] when the organisation's key can not be had.
    pub async fn encoder(&self, new: &NewSegment) -> Result<SegmentEncoder, EngineError> {
        let (org_key, key_version) = self.keys.current(new.org).await?;
        let (mut key, mut nonce) = ([0; 32], [0; NONCE_BYTES]);
        self.random.fill(&mut key);
        self.random.fill(&mut nonce);
        let id = fresh_id(&*self.random);
        let spec = SegmentSpec {
            kind: new.kind,
            org: new.org,
            window: new.window,
            id,
            flush_first: new.flush_first,
            flush_last: new.flush_last,
            lsn_min: new.lsn_min,
            lsn_max: new.lsn_max,
            key_version,
        };
        let key = SecretKey::from_bytes(key);
        SegmentEncoder::new(spec, &new.channels, &org_key, &key, nonce, self.row_group_rows).map_err(encode_error)
    }

    /// Puts a finished object in its place, durably. Nothing points to it until a commit does.
    ///
    /// # Errors
    /// [`EngineError`] when the store does not take it, of kind [`EngineErrorKind::Failed`] when it must not be tried
    /// again.
    pub async fn put(&self, org: OrgId, segment: EncodedSegment) -> Result<SegmentEntry, EngineError> {
        let name = segment.entry.object_key(org);
        match put_create(self.store.as_ref(), &object_path(&name), &segment.bytes).await.map_err(put_error)? {
            PutOutcome::Created => Ok(segment.entry),
            PutOutcome::Exists(_) => Err(EngineError::new(
                EngineErrorKind::Retry,
                "a segment's random id is taken",
                "Try again: the next id is another one",
            )
            .at(name)),
        }
    }
}

/// What an encoder refuses is a defect of whoever fed it.
pub(crate) fn encode_error(error: SegmentError) -> EngineError {
    EngineError::new(
        EngineErrorKind::Failed,
        "a segment could not be made",
        "This is a defect of icecore; nothing was changed. Please report it",
    )
    .because(error)
}
