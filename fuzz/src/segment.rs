//! Segments: tails of any bytes, and complete segments with parts changed, removed, moved or taken from another one.
//!
//! With authenticated encryption, a changed byte must either cause an error or have no effect. These targets search for
//! the third case: rows that were never written.

use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use bytes::Bytes;
use parquet::DecodeResult;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::push_decoder::ParquetPushDecoderBuilder;
use parquet::file::metadata::ParquetMetaData;
use storage_format::encryption::SecretKey;
use storage_format::manifest::SegmentEntry;
use storage_format::segment::{MetadataDecoder, MetadataPoll, RowDigest, SegmentFooter, check_modules, read_tail};
use storage_format::{LoggerId, Lsn};

use crate::Script;
use crate::manifest::{ORG_KEY, org};

const READINGS: &[u8] = include_bytes!("../../storage-format/fixtures/v1/segment.parquet");
const CONFLICTS: &[u8] = include_bytes!("../../storage-format/fixtures/v1/conflicts.parquet");
/// Most edits of a script. More edits find nothing new.
const EDITS_MAX: usize = 32;

/// Decodes a segment's tail, which must give key metadata or an error whose offset is inside the file.
pub fn segment_tail(data: &[u8]) -> bool {
    let length = data.len() as u64;
    match read_tail(length, data) {
        Ok(tail) => {
            assert!(tail.start < length);
            true
        }
        Err(error) => {
            assert!(error.offset <= length, "{error}");
            false
        }
    }
}

/// Reads a complete segment: the bytes themselves if they end with its magic, otherwise a valid segment after a script
/// of edits. The result must be an error or the rows that were written.
pub fn segment(data: &[u8]) -> bool {
    static GOLDEN: LazyLock<Golden> = LazyLock::new(Golden::open);
    let bytes = if data.ends_with(b"PARE") { data.to_vec() } else { edited(&mut Script::new(data)) };
    match read(&Bytes::from(bytes), &GOLDEN.entry) {
        Ok(batches) => {
            let rows = concat_batches(GOLDEN.rows.schema_ref(), &batches).expect("one schema");
            assert_eq!(rows, GOLDEN.rows, "wrong rows were read without an error");
            assert_eq!(digest(&GOLDEN.entry, &batches), GOLDEN.entry.digest);
            true
        }
        Err(_) => false,
    }
}

/// The golden segment and its manifest entry.
struct Golden {
    entry: SegmentEntry,
    rows: RecordBatch,
}

impl Golden {
    fn open() -> Self {
        let bytes = Bytes::from_static(READINGS);
        let tail = read_tail(bytes.len() as u64, &bytes).expect("the golden file");
        let key = tail.key_metadata.unwrap(&SecretKey::from_bytes(ORG_KEY)).expect("the golden file's key");
        let metadata = metadata(&bytes, &key).expect("the golden file's metadata");
        let footer = SegmentFooter::read(&metadata, tail.key_metadata.key_version).expect("a footer");
        let spec = footer.spec;
        let start = spec.window.range().start();
        let entry = SegmentEntry {
            id: spec.id,
            kind: spec.kind,
            of: None,
            window: spec.window,
            flush_first: spec.flush_first,
            flush_last: spec.flush_last,
            rows: footer.rows,
            bytes: bytes.len() as u64,
            // Reading a segment does not use the fields below, except the key version and the digest.
            time_min: start,
            time_max: start,
            logger_min: LoggerId::MIN,
            logger_max: LoggerId::MAX,
            channels: Vec::new(),
            shares_keys: false,
            key_version: spec.key_version,
            lsn_min: Lsn::ZERO,
            lsn_max: Lsn::ZERO,
            digest: footer.digest,
        };
        let batches = read(&bytes, &entry).expect("the golden file opens");
        let rows = concat_batches(batches[0].schema_ref(), &batches).expect("one schema");
        Self { entry, rows }
    }
}

fn digest(entry: &SegmentEntry, batches: &[RecordBatch]) -> [u8; 32] {
    let mut digest = RowDigest::new(entry.kind);
    batches.iter().for_each(|batch| digest.update(batch));
    digest.finish()
}

/// Returns the bytes of a range, if they exist.
fn range(bytes: &Bytes, range: &std::ops::Range<u64>) -> Result<Bytes, String> {
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    let (start, end) = (at(range.start), at(range.end));
    if start <= end && end <= bytes.len() {
        Ok(bytes.slice(start..end))
    } else {
        Err("the file is too short".to_owned())
    }
}

fn metadata(bytes: &Bytes, key: &SecretKey) -> Result<Arc<ParquetMetaData>, String> {
    let length = bytes.len() as u64;
    let tail = read_tail(length, bytes).map_err(|error| error.to_string())?;
    let mut decoder = MetadataDecoder::new(length, &tail, key).map_err(|error| error.to_string())?;
    loop {
        match decoder.poll().map_err(|error| error.to_string())? {
            MetadataPoll::Need(wanted) => {
                let part = range(bytes, &wanted)?;
                decoder.push(wanted, part).map_err(|error| error.to_string())?;
            }
            MetadataPoll::Done(metadata) => return Ok(metadata),
        }
    }
}

/// Reads a complete segment as the engine does: tail, key, metadata, footer, then rows, with every range checked before
/// it is passed to parquet-rs. Unlike the engine, it does not reject a length that differs from the manifest's, so that
/// damage must be detected without that check.
fn read(bytes: &Bytes, entry: &SegmentEntry) -> Result<Vec<RecordBatch>, String> {
    let tail = read_tail(bytes.len() as u64, bytes).map_err(|error| error.to_string())?;
    let key = tail.key_metadata.unwrap_for(org(), entry, &SecretKey::from_bytes(ORG_KEY));
    let metadata = metadata(bytes, &key.map_err(|error| error.to_string())?)?;
    let footer = SegmentFooter::read(&metadata, entry.key_version).and_then(|footer| footer.check(org(), entry));
    footer.map_err(|error| error.to_string())?;
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = ArrowReaderMetadata::try_new(metadata, options).map_err(|error| error.to_string())?;
    let builder = ParquetPushDecoderBuilder::new_with_metadata(metadata).with_batch_size(64);
    let mut decoder = builder.build().map_err(|error| error.to_string())?;
    let mut batches = Vec::new();
    loop {
        match decoder.try_decode().map_err(|error| error.to_string())? {
            DecodeResult::Data(batch) => batches.push(batch),
            DecodeResult::Finished => return Ok(batches),
            DecodeResult::NeedsData(ranges) => {
                let mut parts = Vec::new();
                for wanted in &ranges {
                    let part = range(bytes, wanted)?;
                    check_modules(&part, wanted.start).map_err(|error| error.to_string())?;
                    parts.push(part);
                }
                decoder.push_ranges(ranges, parts).map_err(|error| error.to_string())?;
            }
        }
    }
}

/// Applies a script of edits to the golden segment.
fn edited(script: &mut Script<'_>) -> Vec<u8> {
    let mut bytes = READINGS.to_vec();
    for _ in 0..EDITS_MAX {
        if script.is_empty() || bytes.is_empty() {
            break;
        }
        edit(script, &mut bytes);
    }
    bytes
}

fn edit(script: &mut Script<'_>, bytes: &mut Vec<u8>) {
    let kind = script.below(9);
    let at = usize::from(script.u16()) % bytes.len();
    let length = usize::from(script.u16()) % 1024;
    let end = (at + length).min(bytes.len());
    match kind {
        0 => bytes[at] ^= script.u8(),
        1 => bytes[at..end].fill(0),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        4 => swap_modules(bytes, at, length),
        5 => {
            // Overwrite with a part of another object of the same organisation, under the same key.
            let from = usize::from(script.u16()) % CONFLICTS.len();
            let length = length.min(CONFLICTS.len() - from).min(bytes.len() - at);
            bytes[at..at + length].copy_from_slice(&CONFLICTS[from..from + length]);
        }
        6 => {
            // Copy a part to another position in the file.
            let to = usize::from(script.u16()) % bytes.len();
            let length = (end - at).min(bytes.len() - to);
            bytes.copy_within(at..at + length, to);
        }
        7 => {
            let number = script.take(4);
            let end = (at + number.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        _ => {
            // Restore the original from this position on.
            bytes.truncate(at);
            bytes.extend_from_slice(&READINGS[at.min(READINGS.len())..]);
        }
    }
}

/// Swaps two modules with their lengths: each is complete and authentic, but in the position of the other.
fn swap_modules(bytes: &mut Vec<u8>, first: usize, second: usize) {
    let mut starts = Vec::new();
    // Start after the magic; pages follow each other without gaps.
    let mut at = 4;
    while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|raw| u32::from_le_bytes(*raw)) {
        let end = at.saturating_add(4).saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        if end > bytes.len() {
            break;
        }
        starts.push(at..end);
        at = end;
    }
    let pick = |choice: usize| starts.get(choice % starts.len().max(1)).cloned();
    let (Some(a), Some(b)) = (pick(first), pick(second)) else { return };
    let (a, b) = if a.start <= b.start { (a, b) } else { (b, a) };
    if a == b {
        return;
    }
    let swapped = [&bytes[..a.start], &bytes[b.clone()], &bytes[a.end..b.start], &bytes[a], &bytes[b.end..]].concat();
    *bytes = swapped;
}
