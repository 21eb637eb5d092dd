//! The end of a segment: the plaintext tail, the encrypted modules, and the key-values of the footer.
//!
//! parquet-rs trusts the plaintext lengths in a file: a flipped bit in one would cause a huge allocation or a panic.
//! Therefore all plaintext is checked here first. The decrypted bytes are authenticated.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use parquet::DecodeResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder};

use crate::encryption::{NONCE_BYTES, SecretKey, TAG_BYTES};
use crate::manifest::{SegmentEntry, SegmentKind};
use crate::segment::{SEGMENT_KEY_METADATA_BYTES, SegmentKeyMetadata, SegmentSpec, decryption_properties};
use crate::{FileKind, FlushNumber, FormatError, FormatErrorKind, Lsn, OrgId};

/// Format of a segment without the column `flush`, and of conflicts: an object states the lowest version that describes
/// it.
const FORMAT: &str = "1";
/// Format of readings with the column `flush`.
const FORMAT_WITH_FLUSH: &str = "2";
/// Format of fills.
const FORMAT_OF_FILLS: &str = "3";
const MAGIC: &[u8; 4] = b"PARE";
const LENGTH_BYTES: usize = 4;
const MODULE_BYTES_MIN: usize = NONCE_BYTES + TAG_BYTES;
/// Size of the end of the file: the length of the rest of the tail, and the magic.
const END_BYTES: u64 = 8;
/// Largest tail. A footer has about 300 bytes per column chunk, so this allows tens of thousands of row groups.
const TAIL_BYTES_MAX: u64 = 256 << 20;

fn error(kind: FormatErrorKind, offset: u64, detail: impl Into<String>) -> FormatError {
    FormatError::new(FileKind::Segment, kind, offset, detail)
}

/// Checks that encrypted modules fill these bytes exactly. `offset` is their offset in the file, for the error.
///
/// Column chunks, pages, and column and offset indexes are such ranges. Every range of a segment must be checked
/// before it is passed to parquet-rs.
///
/// # Errors
/// [`FormatErrorKind::Damaged`].
pub fn check_modules(bytes: &[u8], offset: u64) -> Result<(), FormatError> {
    let mut at = 0;
    while at < bytes.len() {
        let wrong = || {
            let detail = "the length of an encrypted module does not match: damaged or truncated";
            error(FormatErrorKind::Damaged, offset + at as u64, detail)
        };
        let length = bytes[at..].first_chunk().map(|raw| u32::from_le_bytes(*raw) as usize).ok_or_else(wrong)?;
        if length < MODULE_BYTES_MIN || length > bytes.len() - at - LENGTH_BYTES {
            return Err(wrong());
        }
        at += LENGTH_BYTES + length;
    }
    Ok(())
}

/// Returns the size of the tail, from its start to the end of the file, as stated by the file's last eight bytes.
///
/// # Errors
/// [`FormatError`] when the bytes are not the end of a segment.
pub fn tail_bytes(file_bytes: u64, last: &[u8]) -> Result<u64, FormatError> {
    let Some(end) = last.last_chunk::<8>().filter(|_| file_bytes > END_BYTES) else {
        return Err(error(
            FormatErrorKind::Truncated,
            file_bytes,
            format!("{file_bytes} bytes are too few for a segment"),
        ));
    };
    let at = file_bytes - END_BYTES;
    if &end[4..] != MAGIC {
        return Err(error(FormatErrorKind::Damaged, at + 4, "not a segment: the last four bytes are not PARE"));
    }
    let length = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    if length > at || length > TAIL_BYTES_MAX {
        return Err(error(
            FormatErrorKind::Damaged,
            at,
            format!("the footer's length of {length} bytes is impossible"),
        ));
    }
    Ok(length + END_BYTES)
}

/// Tail of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentTail {
    /// Offset of the tail in the file.
    pub start: u64,
    /// Identity that the segment states, and its wrapped data key.
    pub key_metadata: SegmentKeyMetadata,
}

/// Reads the tail. `last` must be at least the last [`tail_bytes`] of the file.
///
/// # Errors
/// [`FormatError`] with the offset in the file.
pub fn read_tail(file_bytes: u64, last: &[u8]) -> Result<SegmentTail, FormatError> {
    let length = tail_bytes(file_bytes, last)?;
    let start = file_bytes - length;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let Some(from) = last.len().checked_sub(length) else {
        return Err(error(FormatErrorKind::Truncated, start, "the tail is incomplete"));
    };
    let tail = &last[from..last.len() - 8];
    let (key_metadata, crypto_bytes) = crypto_metadata(tail).ok_or_else(|| {
        error(FormatErrorKind::Damaged, start, "the description of the encryption is not that of a segment")
    })?;
    let key_metadata = SegmentKeyMetadata::decode(key_metadata).map_err(|inner| {
        // The metadata ends one byte before the description of the encryption does.
        let at = start + (crypto_bytes - 1 - SEGMENT_KEY_METADATA_BYTES) as u64 + inner.offset;
        error(inner.kind, at, inner.detail)
    })?;
    let footer = &tail[crypto_bytes..];
    let at = start + crypto_bytes as u64;
    let complete =
        footer.first_chunk().is_some_and(|raw| u32::from_le_bytes(*raw) as usize == footer.len() - LENGTH_BYTES);
    if !complete {
        return Err(error(FormatErrorKind::Damaged, at, "the footer's length does not match"));
    }
    check_modules(footer, at)?;
    Ok(SegmentTail { start, key_metadata })
}

/// Returns the key metadata inside Parquet's `FileCryptoMetaData` (Thrift compact), and the length of the latter. Only
/// the form that segments have is accepted: AES_GCM_V1, an 8-byte unique AAD, no prefix.
fn crypto_metadata(tail: &[u8]) -> Option<(&[u8], usize)> {
    // Field 1: the union of algorithms; its field 1: AES_GCM_V1; its field 2: aad_file_unique, 8 bytes.
    let rest = tail.strip_prefix(&[0x1C, 0x1C, 0x28, 8])?.get(8..)?;
    // Optionally its field 3: supply_aad_prefix, false.
    let rest = rest.strip_prefix(&[0x12]).unwrap_or(rest);
    // Both structs end; field 2: key_metadata, 120 bytes.
    let rest = rest.strip_prefix(&[0, 0, 0x18, 120])?;
    let (key_metadata, rest) = rest.split_at_checked(SEGMENT_KEY_METADATA_BYTES)?;
    let rest = rest.strip_prefix(&[0])?;
    Some((key_metadata, tail.len() - rest.len()))
}

/// Content of the footer's key-values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFooter {
    /// Properties of the object.
    pub spec: SegmentSpec,
    /// Number of rows.
    pub rows: u64,
    /// Digest of the rows.
    pub digest: [u8; 32],
}

impl SegmentFooter {
    pub(crate) fn key_values(&self) -> Vec<KeyValue> {
        let spec = &self.spec;
        [
            ("icecore.format", format_of(spec).to_owned()),
            ("icecore.kind", spec.kind.name().to_owned()),
            ("icecore.org", spec.org.to_string()),
            ("icecore.window", spec.window.to_string()),
            ("icecore.segment", spec.id.to_string()),
            ("icecore.flush_first", spec.flush_first.to_string()),
            ("icecore.flush_last", spec.flush_last.to_string()),
            ("icecore.lsn_min", spec.lsn_min.to_string()),
            ("icecore.lsn_max", spec.lsn_max.to_string()),
            ("icecore.rows", self.rows.to_string()),
            ("icecore.digest", hex::encode(self.digest)),
        ]
        .into_iter()
        .map(|(key, value)| KeyValue::new(key.to_owned(), value))
        .collect()
    }

    /// Reads the key-values of an opened footer. The version of the organisation's key is not among them; it comes from
    /// the key metadata.
    ///
    /// # Errors
    /// [`FormatError`] when one is missing or invalid.
    pub fn read(metadata: &ParquetMetaData, key_version: u32) -> Result<Self, FormatError> {
        let pairs = metadata.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
        let text = |key: &str| {
            let found = pairs.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_deref());
            found.ok_or_else(|| error(FormatErrorKind::Invalid, 0, format!("the footer has no {key}")))
        };
        let format = text("icecore.format")?;
        if ![FORMAT, FORMAT_WITH_FLUSH, FORMAT_OF_FILLS].contains(&format) {
            let detail = format!("segment format {format:?}, this program reads {FORMAT} to {FORMAT_OF_FILLS}");
            return Err(error(FormatErrorKind::UnknownVersion, 0, detail));
        }
        let kind = text("icecore.kind")?;
        let kind = (1..).map_while(SegmentKind::from_code).find(|k| k.name() == kind);
        let kind = kind.ok_or_else(|| invalid("icecore.kind"))?;
        let mut digest = [0; 32];
        hex::decode_to_slice(text("icecore.digest")?, &mut digest).map_err(|_| invalid("icecore.digest"))?;
        let number = |key: &str| parse::<u64>(key, text(key)?);
        Ok(Self {
            spec: SegmentSpec {
                kind,
                org: parse("icecore.org", text("icecore.org")?)?,
                window: parse("icecore.window", text("icecore.window")?)?,
                id: parse("icecore.segment", text("icecore.segment")?)?,
                flush_first: FlushNumber::new(number("icecore.flush_first")?),
                flush_last: FlushNumber::new(number("icecore.flush_last")?),
                lsn_min: Lsn::new(number("icecore.lsn_min")?),
                lsn_max: Lsn::new(number("icecore.lsn_max")?),
                key_version,
            },
            rows: number("icecore.rows")?,
            digest,
        })
    }

    /// Checks that the footer is the one of the object that `entry` in the manifest of `org` describes.
    ///
    /// # Errors
    /// [`FormatErrorKind::Invalid`] when it is another object.
    pub fn check(&self, org: OrgId, entry: &SegmentEntry) -> Result<(), FormatError> {
        let found = (self.spec.kind, self.spec.org, self.spec.window, self.spec.id, self.rows, self.digest);
        if found == (entry.kind, org, entry.window, entry.id, entry.rows, entry.digest) {
            Ok(())
        } else {
            Err(error(FormatErrorKind::Invalid, 0, "the footer does not match the manifest's entry"))
        }
    }
}

fn format_of(spec: &SegmentSpec) -> &'static str {
    match spec.kind {
        SegmentKind::Fills => FORMAT_OF_FILLS,
        _ if spec.has_flush_column() => FORMAT_WITH_FLUSH,
        _ => FORMAT,
    }
}

fn invalid(key: &str) -> FormatError {
    error(FormatErrorKind::Invalid, 0, format!("the footer's {key} is invalid"))
}

fn parse<T: FromStr>(key: &str, text: &str) -> Result<T, FormatError> {
    text.parse().map_err(|_| invalid(key))
}

/// Next step of a [`MetadataDecoder`].
#[derive(Debug)]
pub enum MetadataPoll {
    /// The decoder needs these bytes of the file.
    Need(Range<u64>),
    /// The metadata is complete, including the page index.
    Done(Arc<ParquetMetaData>),
}

/// Decoder of a segment's metadata (footer and page index) from bytes that the caller fetches.
#[derive(Debug)]
pub struct MetadataDecoder {
    decoder: ParquetMetaDataPushDecoder,
    tail: Range<u64>,
    tail_pushed: bool,
    file_bytes: u64,
}

impl MetadataDecoder {
    /// Creates a decoder for a file whose tail has been read.
    ///
    /// # Errors
    /// [`FormatError`] when parquet-rs rejects the key or the length of the file.
    pub fn new(file_bytes: u64, tail: &SegmentTail, data_key: &SecretKey) -> Result<Self, FormatError> {
        let properties = decryption_properties(data_key).map_err(|e| parquet_error(tail.start, &e))?;
        let decoder = ParquetMetaDataPushDecoder::try_new(file_bytes)
            .map_err(|e| parquet_error(tail.start, &e))?
            .with_page_index_policy(PageIndexPolicy::Required)
            .with_file_decryption_properties(Some(properties));
        Ok(Self { decoder, tail: tail.start..file_bytes, tail_pushed: false, file_bytes })
    }

    /// Advances as far as the bytes pushed so far allow, and returns the next step.
    ///
    /// # Errors
    /// [`FormatErrorKind::Damaged`] when a module does not open: it is damaged, or the key is wrong.
    pub fn poll(&mut self) -> Result<MetadataPoll, FormatError> {
        match self.decoder.try_decode() {
            Ok(DecodeResult::NeedsData(ranges)) => {
                let Some(range) = ranges.into_iter().next() else {
                    return Err(error(
                        FormatErrorKind::Damaged,
                        self.tail.start,
                        "parquet-rs needs more bytes, but names no range",
                    ));
                };
                if !self.tail_pushed {
                    // parquet-rs requests the end first, then the tail. This range covers both.
                    return Ok(MetadataPoll::Need(self.tail.clone()));
                }
                if range.end > self.tail.start {
                    let detail = "the page index is not where the footer states: bytes are missing";
                    return Err(error(FormatErrorKind::Damaged, self.tail.start, detail));
                }
                Ok(MetadataPoll::Need(range))
            }
            Ok(DecodeResult::Data(metadata)) => Ok(MetadataPoll::Done(Arc::new(metadata))),
            Ok(DecodeResult::Finished) => {
                Err(error(FormatErrorKind::Invalid, 0, "the decoder was polled after its end"))
            }
            Err(e) => Err(parquet_error(self.tail.start, &e)),
        }
    }

    /// Adds the bytes of a requested range.
    ///
    /// # Errors
    /// [`FormatErrorKind::Damaged`] when they cannot be the bytes that were written.
    pub fn push(&mut self, range: Range<u64>, bytes: Bytes) -> Result<(), FormatError> {
        if bytes.len() as u64 != range.end.saturating_sub(range.start) || range.end > self.file_bytes {
            return Err(error(FormatErrorKind::Truncated, range.start, "the object is shorter than expected"));
        }
        if range.start < self.tail.start {
            check_modules(&bytes, range.start)?;
        } else {
            // Check again, because these may not be the bytes that the tail was read from.
            read_tail(self.file_bytes, &bytes)?;
            self.tail_pushed = true;
        }
        self.decoder.push_range(range.clone(), bytes).map_err(|e| parquet_error(range.start, &e))
    }
}

/// Converts an error of parquet-rs. All plaintext was checked before, so it is damage inside a module, or a wrong key.
fn parquet_error(offset: u64, inner: &ParquetError) -> FormatError {
    error(FormatErrorKind::Damaged, offset, inner.to_string())
}
