//! WAL files: as a crash or a disk may leave them, and with records that only a holder of the key could have sealed.

use std::cell::RefCell;

use storage_format::encryption::{SecretKey, TAG_BYTES, seal, unwrap_key};
use storage_format::wal::{
    WalBlockBuilder, WalEnd, WalFileHeader, WalFileKey, WalFileKind, WalRecord, WalRecordKind, scan_wal,
};

use crate::Script;

/// Master key of the golden WAL files.
const MASTER_KEY: [u8; 32] = [0x11; 32];
const GOLDEN: &[u8] = include_bytes!("../../storage-format/fixtures/v1/closed.wal");
const HEADER_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;
const BLOCK_HEADER_BYTES: usize = 56;
/// Size of a record's head: kind, reserved, checksum, LSN. A frame's record has 28 bytes more.
const RECORD_HEAD_BYTES: usize = 16;
const FRAME_HEAD_BYTES: usize = RECORD_HEAD_BYTES + 28;

/// Scans a WAL file: records are in order without gaps, blocks do not overlap, and the end follows the last block.
pub fn wal_scan(data: &[u8]) -> bool {
    scan(data).is_some_and(|records| !records.is_empty())
}

/// Returns the records of a file that is valid to its end.
fn scan(file: &[u8]) -> Option<Vec<WalRecord>> {
    let master = SecretKey::from_bytes(MASTER_KEY);
    let mut scan = scan_wal(file, &|wrapped, aad| unwrap_key(&master, wrapped, aad)).ok()?;
    let kind = scan.header().kind;
    let mut next = scan.header().first_lsn;
    let mut last_end = 0;
    let mut records = Vec::new();
    for block in scan.by_ref() {
        let block = match block {
            Ok(block) => block,
            Err(error) => {
                assert!(error.offset <= file.len() as u64, "{error}");
                return None;
            }
        };
        assert!(block.offset >= last_end, "blocks do not overlap");
        last_end = block.offset + block.bytes;
        assert!(last_end <= file.len() as u64 && !block.records.is_empty());
        for record in block.records {
            match kind {
                WalFileKind::Log => assert_eq!(record.lsn, next, "LSNs have no gaps"),
                WalFileKind::Carried => assert!(record.lsn >= next, "LSNs ascend"),
            }
            next = record.lsn.next().expect("not at the end of u64");
            records.push(record);
        }
    }
    assert!(scan.next().is_none(), "nothing comes after the end");
    match scan.end().expect("a scan without an error has an end") {
        WalEnd::Open { offset } | WalEnd::TornTail { offset, .. } => assert!(offset >= last_end),
        WalEnd::Closed => assert!(last_end > 0, "a closed file has a closing block"),
    }
    Some(records)
}

/// Seals the bytes as a block's plaintext and scans it. Records that decode are re-encoded to the same bytes.
pub fn wal_records(data: &[u8]) -> bool {
    let mut script = Script::new(data);
    let correct_checksums = script.u8() & 1 == 1;
    let room = GOLDEN.len() - HEADER_BYTES - BLOCK_HEADER_BYTES;
    let mut plaintext = script.take(room).to_vec();
    plaintext
        .resize((BLOCK_HEADER_BYTES + plaintext.len().max(1)).next_multiple_of(SECTOR_BYTES) - BLOCK_HEADER_BYTES, 0);
    if correct_checksums {
        set_checksums(&mut plaintext);
    }
    let (header, key) = golden();
    let mut file = GOLDEN[..HEADER_BYTES].to_vec();
    put_block(&mut file, &key, header.first_lsn.get(), plaintext);
    let written = file.len();
    file.resize(GOLDEN.len(), 0);
    let Some(records) = scan(&file) else { return false };
    let mut builder = WalBlockBuilder::new();
    for record in records {
        match record.kind {
            WalRecordKind::Frame { org, gateway, received, frame } => {
                builder.push_frame(record.lsn, org, gateway, received, &frame);
            }
            WalRecordKind::Closed => builder.push_closed(record.lsn),
        }
    }
    let again = builder.seal(&WalFileKey::new(&key), HEADER_BYTES as u64);
    // The zeros after the last record may fill more sectors than our encoder writes.
    let block_bytes = again.len();
    assert!(block_bytes <= written - HEADER_BYTES);
    if block_bytes == written - HEADER_BYTES {
        assert_eq!(again, &file[HEADER_BYTES..written], "a block has one form");
    }
    true
}

fn golden() -> (WalFileHeader, SecretKey) {
    let master = SecretKey::from_bytes(MASTER_KEY);
    let key = RefCell::new(None);
    let scan = scan_wal(GOLDEN, &|wrapped, aad| {
        let unwrapped = unwrap_key(&master, wrapped, aad)?;
        key.replace(Some(unwrapped.clone()));
        Ok(unwrapped)
    });
    let header = *scan.expect("the golden file").header();
    (header, key.take().expect("it was unwrapped"))
}

/// Corrects the checksums of the records up to the first that cannot be parsed.
fn set_checksums(plaintext: &mut [u8]) {
    let mut at = 0;
    while let Some(&kind) = plaintext.get(at) {
        let head_bytes = match kind {
            1 => FRAME_HEAD_BYTES,
            2 => RECORD_HEAD_BYTES,
            _ => return,
        };
        let Some(head) = plaintext.get_mut(at..at + head_bytes) else { return };
        head[4..8].fill(0);
        let checksum = crc32c::crc32c(head);
        head[4..8].copy_from_slice(&checksum.to_le_bytes());
        at += head_bytes;
        if kind == 1 {
            let length = plaintext[at - 4..at].first_chunk().map_or(0, |raw| u32::from_le_bytes(*raw));
            at = at.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        }
    }
}

/// Appends a block sealed as `docs/wal.md` describes.
fn put_block(file: &mut Vec<u8>, key: &SecretKey, first_lsn: u64, plaintext: Vec<u8>) {
    let offset = file.len() as u64;
    let length = u32::try_from(BLOCK_HEADER_BYTES + plaintext.len()).expect("small");
    let mut header = [0; BLOCK_HEADER_BYTES];
    header[4..8].copy_from_slice(b"ICEB");
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header[16..24].copy_from_slice(&first_lsn.to_le_bytes());
    header[24..32].copy_from_slice(&offset.to_le_bytes());
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&offset.to_le_bytes());
    let sealed = seal(key, nonce, &header[4..32], plaintext);
    let (body, tag) = sealed.split_at(sealed.len() - TAG_BYTES);
    header[32..36].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    header[40..].copy_from_slice(tag);
    let checksum = crc32c::crc32c(&header[4..]);
    header[..4].copy_from_slice(&checksum.to_le_bytes());
    file.extend_from_slice(&header);
    file.extend_from_slice(body);
}

/// Returns the plaintext of the golden file's first block, which is the seed of [`wal_records`].
#[cfg(test)]
pub(crate) fn golden_records() -> Vec<u8> {
    use storage_format::FileKind;
    use storage_format::encryption::open;

    let (_, key) = golden();
    let block = &GOLDEN[HEADER_BYTES..];
    let length = block[8..12].first_chunk().map_or(0, |raw| u32::from_le_bytes(*raw));
    let body = &block[BLOCK_HEADER_BYTES..usize::try_from(length).expect("small")];
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&block[24..32]);
    let sealed = [body, &block[40..BLOCK_HEADER_BYTES]].concat();
    let mut plaintext = open(FileKind::Wal, &key, nonce, &block[4..32], sealed).expect("the golden file");
    while plaintext.last() == Some(&0) {
        plaintext.pop();
    }
    [&[0], &plaintext[..]].concat()
}
