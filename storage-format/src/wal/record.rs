//! WAL records: a frame with its LSN, gateway and receive time, or the record of a clean close.

use bytes::Bytes;

use super::file_header::WalFileKind;
use crate::checksum::crc32c;
use crate::coding::Cursor;
use crate::limits::FRAME_BYTES_MAX;
use crate::{FileKind, FormatError, FormatErrorKind, GatewayId, Lsn, Millis, OrgId};

use FormatErrorKind::{Damaged, Invalid, TooLarge};

/// Kind of a frame record. Kinds are append-only numbers; zero is padding.
const KIND_FRAME: u8 = 1;
/// Kind of the record of a clean close.
const KIND_CLOSED: u8 = 2;

/// Size of a record's head: kind, three reserved bytes, checksum, LSN.
const HEAD_BYTES: usize = 16;
/// Size of a frame record's head, which adds organisation, gateway, receive time and length of the frame.
const FRAME_HEAD_BYTES: usize = HEAD_BYTES + 28;

/// WAL record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRecord {
    /// Number of the record: one more than that of the record before it, over all files.
    pub lsn: Lsn,
    /// Content of the record.
    pub kind: WalRecordKind,
}

/// Content of a WAL record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalRecordKind {
    /// A frame that was accepted.
    Frame {
        /// Organisation that owns the readings.
        org: OrgId,
        /// Gateway that sent the frame.
        gateway: GatewayId,
        /// Time of arrival.
        received: Millis,
        /// The frame as it was received; not decoded here.
        frame: Bytes,
    },
    /// The log was closed: nothing follows in this file.
    Closed,
}

/// Returns the size of the record of a frame of `frame_bytes`.
pub(super) const fn frame_record_bytes(frame_bytes: usize) -> usize {
    FRAME_HEAD_BYTES + frame_bytes
}

pub(super) fn put_frame(out: &mut Vec<u8>, lsn: Lsn, org: OrgId, gateway: GatewayId, received: Millis, frame: &[u8]) {
    let start = out.len();
    put_head(out, KIND_FRAME, lsn);
    out.extend_from_slice(&org.get().to_le_bytes());
    out.extend_from_slice(&gateway.get().to_le_bytes());
    out.extend_from_slice(&received.get().to_le_bytes());
    out.extend_from_slice(&u32::try_from(frame.len()).expect("a frame is at most 1 MiB").to_le_bytes());
    put_checksum(&mut out[start..]);
    out.extend_from_slice(frame);
}

pub(super) fn put_closed(out: &mut Vec<u8>, lsn: Lsn) {
    let start = out.len();
    put_head(out, KIND_CLOSED, lsn);
    put_checksum(&mut out[start..]);
}

fn put_head(out: &mut Vec<u8>, kind: u8, lsn: Lsn) {
    out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&lsn.get().to_le_bytes());
}

/// Fills in the checksum, which covers the record's head with the checksum field as zeros. The frame has its own.
fn put_checksum(head: &mut [u8]) {
    let checksum = crc32c(head);
    head[4..8].copy_from_slice(&checksum.to_le_bytes());
}

fn checksum_matches(head: &[u8]) -> bool {
    let mut copy = [0; FRAME_HEAD_BYTES];
    let copy = &mut copy[..head.len()];
    copy.copy_from_slice(head);
    copy[4..8].fill(0);
    crc32c(copy).to_le_bytes() == head[4..8]
}

/// Decodes all records of a decrypted block, the first of which has this LSN; the others follow as the file's kind says.
/// Errors carry `offset`, the block's offset in the file.
pub(super) fn decode_all(
    plaintext: &Bytes,
    file: WalFileKind,
    lsn: Lsn,
    offset: u64,
) -> Result<Vec<WalRecord>, FormatError> {
    let error = |kind, detail: String| FormatError::new(FileKind::Wal, kind, offset, detail);
    let at = |e: FormatError| FormatError { offset, detail: format!("record: {}", e.detail), ..e };
    let mut records = Vec::new();
    let mut expected = lsn;
    let mut cursor = Cursor::new(FileKind::Wal, plaintext);
    while cursor.remaining() > 0 {
        let rest = &plaintext[cursor.position()..];
        if rest[0] == 0 {
            if rest.iter().any(|&byte| byte != 0) {
                return Err(error(Invalid, "the padding is not zero".into()));
            }
            break;
        }
        let head_bytes = match rest[0] {
            KIND_FRAME => FRAME_HEAD_BYTES,
            KIND_CLOSED => HEAD_BYTES,
            kind => return Err(error(Invalid, format!("unknown record kind {kind}"))),
        };
        let head = cursor.take(head_bytes).map_err(at)?;
        if !checksum_matches(head) {
            return Err(error(Damaged, "a record's checksum does not match".into()));
        }
        let mut head = Cursor::new(FileKind::Wal, head);
        let kind = head.u8().map_err(at)?;
        if head.take(3).map_err(at)? != [0; 3] {
            return Err(error(Invalid, "reserved bytes are not zero".into()));
        }
        head.take(4).map_err(at)?;
        let lsn = Lsn::new(head.u64().map_err(at)?);
        let follows = match file {
            WalFileKind::Carried if !records.is_empty() => lsn >= expected,
            WalFileKind::Log | WalFileKind::Carried => lsn == expected,
        };
        if !follows {
            return Err(error(Invalid, format!("LSN {lsn} where {expected} was expected")));
        }
        if kind == KIND_CLOSED && file == WalFileKind::Carried {
            return Err(error(Invalid, "a record of a clean close among carried records".into()));
        }
        let kind = if kind == KIND_CLOSED {
            WalRecordKind::Closed
        } else {
            let org = OrgId::new(head.u64().map_err(at)?).map_err(|e| error(Invalid, e.to_string()))?;
            let gateway = GatewayId::new(head.u64().map_err(at)?).map_err(|e| error(Invalid, e.to_string()))?;
            let received = Millis::new(head.i64().map_err(at)?).map_err(|e| error(Invalid, e.to_string()))?;
            let len = head.u32().map_err(at)? as usize;
            if len > FRAME_BYTES_MAX {
                return Err(error(TooLarge, format!("a frame of {len} bytes, the limit is {FRAME_BYTES_MAX}")));
            }
            let start = cursor.position();
            cursor.take(len).map_err(at)?;
            WalRecordKind::Frame { org, gateway, received, frame: plaintext.slice(start..start + len) }
        };
        if matches!(records.last(), Some(WalRecord { kind: WalRecordKind::Closed, .. })) {
            return Err(error(Invalid, "a record follows the record of a clean close".into()));
        }
        records.push(WalRecord { lsn, kind });
        expected = lsn.next().ok_or_else(|| error(Invalid, "the LSN is the last possible one".into()))?;
    }
    if records.is_empty() {
        return Err(error(Invalid, "the block has no records".into()));
    }
    Ok(records)
}
