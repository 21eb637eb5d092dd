//! `icecore segment`: look into a segment, or print its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::DataType;
use bytes::Bytes;
use clap::{Args, Subcommand};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use storage_format::encryption::SecretKey;
use storage_format::rollup::{RollupFooter, RollupGrain};
use storage_format::segment::{MetadataDecoder, MetadataPoll, SegmentFooter, SegmentTail, read_tail};
use storage_format::{FormatError, LoggerId, Millis};

use super::offline::{OfflineArgs, manifests};
use super::table::text_table;
use super::{block_on, output};
use problem::{Context, Problem, Result};

/// Look into a segment, a conflicts object or a rollup, or print its key for other Parquet readers.
#[derive(Debug, Args)]
pub(super) struct SegmentArgs {
    #[command(subcommand)]
    command: SegmentCommand,
}

#[derive(Debug, Subcommand)]
enum SegmentCommand {
    /// Show a segment's window, rows, row groups and statistics
    Inspect {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        data_dir: OfflineArgs,
    },
    /// Print the key of one segment, in base64 as the last word
    ///
    /// With DuckDB: PRAGMA add_parquet_key('k', '<key>'); SELECT * FROM read_parquet('<file>', encryption_config =
    /// {footer_key: 'k'}). Whoever has the key can read this segment, and no other.
    Key {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        data_dir: OfflineArgs,
    },
}

pub(super) fn run(args: &SegmentArgs) -> Result<()> {
    match &args.command {
        SegmentCommand::Inspect { file, data_dir } => inspect(&Opened::open(file, data_dir)?),
        SegmentCommand::Key { file, data_dir } => {
            let opened = Opened::open(file, data_dir)?;
            output::note("whoever has this key can read this segment");
            output::line(base64(opened.key.expose()))
        }
    }
}

/// A segment and its key.
struct Opened<'a> {
    path: &'a Path,
    bytes: Bytes,
    tail: SegmentTail,
    key: SecretKey,
}

const WRONG_DATA_DIR: &str = "is it the data directory that the file came from? --data-dir DIR names another";

fn damaged(path: &Path, error: &FormatError) -> Problem {
    Problem::new(format!("{} does not open", path.display())).detail(format!("{}: {error}", path.display()))
}

impl<'a> Opened<'a> {
    fn open(path: &'a Path, data_dir: &OfflineArgs) -> Result<Self> {
        let data = data_dir.find(path)?;
        let bytes = Bytes::from(std::fs::read(path).context(|| format!("cannot read {}", path.display()))?);
        let tail = read_tail(bytes.len() as u64, &bytes).map_err(|error| damaged(path, &error))?;
        let whose = tail.key_metadata;
        let key = block_on(async {
            let manifests = manifests(&data, &data.config())?;
            let org_key = manifests.keys().get(whose.org, whose.key_version).await;
            org_key
                .context(|| format!("the key of organisation {} cannot be read", whose.org))
                .map_err(|problem| problem.help(WRONG_DATA_DIR))
        })?;
        let key = whose.unwrap(&key).map_err(|error| damaged(path, &error).help(WRONG_DATA_DIR))?;
        Ok(Self { path, bytes, tail, key })
    }

    fn metadata(&self) -> std::result::Result<Arc<ParquetMetaData>, FormatError> {
        let mut decoder = MetadataDecoder::new(self.bytes.len() as u64, &self.tail, &self.key)?;
        loop {
            match decoder.poll()? {
                MetadataPoll::Done(metadata) => return Ok(metadata),
                MetadataPoll::Need(range) => {
                    let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(self.bytes.len());
                    let end = usize::try_from(range.end).unwrap_or(usize::MAX).clamp(start, self.bytes.len());
                    decoder.push(range, self.bytes.slice(start..end))?;
                }
            }
        }
    }
}

fn inspect(opened: &Opened<'_>) -> Result<()> {
    let wrong = |error| damaged(opened.path, &error);
    let metadata = opened.metadata().map_err(wrong)?;
    let footer = SegmentFooter::read(&metadata, opened.tail.key_metadata.key_version).map_err(wrong)?;
    let spec = &footer.spec;
    output::line(format_args!("kind          {}", spec.kind.name()))?;
    output::line(format_args!("organisation  {}", spec.org))?;
    output::line(format_args!("window        {}", spec.window))?;
    output::line(format_args!("segment       {}", spec.id))?;
    if let Some(grain) = RollupGrain::of_kind(spec.kind) {
        let rollup = RollupFooter::read(grain, &metadata).map_err(wrong)?;
        output::line(format_args!("made from     {}", rollup.of))?;
        if let Some(seconds) = rollup.interval_s {
            output::line(format_args!("interval      {seconds} s"))?;
        }
    }
    output::line(format_args!("rows          {}", footer.rows))?;
    output::line(format_args!("bytes         {}", opened.bytes.len()))?;
    output::line(format_args!("row groups    {}", metadata.num_row_groups()))?;
    output::line(format_args!("flushes       {} to {}", spec.flush_first, spec.flush_last))?;
    output::line(format_args!("LSNs          {} to {}", spec.lsn_min, spec.lsn_max))?;
    output::line(format_args!("key version   {}", spec.key_version))?;
    output::line(format_args!("digest        {}", hex::encode(footer.digest)))?;
    output::line(text_table(&["column", "bytes", "lowest", "highest", "not measured"], columns(&metadata)?))
}

/// A row per column, over all row groups.
fn columns(metadata: &ParquetMetaData) -> Result<Vec<Vec<String>>> {
    let schema = parquet_to_arrow_schema(metadata.file_metadata().schema_descr(), None)
        .context(|| "the segment's schema cannot be read".to_owned())?;
    let mut rows = Vec::new();
    for (index, field) in schema.fields().iter().enumerate() {
        let chunks = || metadata.row_groups().iter().map(move |group| group.column(index));
        let bytes: i64 = chunks().map(|chunk| chunk.compressed_size()).sum();
        let nulls: u64 = chunks().filter_map(|chunk| chunk.statistics()?.null_count_opt()).sum();
        let bounds = |pick: fn(&Statistics) -> Option<Bound>| chunks().filter_map(move |c| pick(c.statistics()?));
        let lowest = bounds(Bound::lowest).reduce(|a, b| if b < a { b } else { a });
        let highest = bounds(Bound::highest).reduce(|a, b| if b > a { b } else { a });
        let text =
            |bound: Option<Bound>| bound.map_or_else(String::new, |bound| bound.text(field.name(), field.data_type()));
        rows.push(vec![field.name().clone(), bytes.to_string(), text(lowest), text(highest), nulls.to_string()]);
    }
    Ok(rows)
}

/// A bound from the statistics. Unsigned numbers are stored in signed fields.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Bound {
    Signed(i64),
    Float(f64),
}

impl Bound {
    fn lowest(statistics: &Statistics) -> Option<Self> {
        match statistics {
            Statistics::Int64(values) => values.min_opt().copied().map(Self::Signed),
            Statistics::Double(values) => values.min_opt().copied().map(Self::Float),
            _ => None,
        }
    }

    fn highest(statistics: &Statistics) -> Option<Self> {
        match statistics {
            Statistics::Int64(values) => values.max_opt().copied().map(Self::Signed),
            Statistics::Double(values) => values.max_opt().copied().map(Self::Float),
            _ => None,
        }
    }

    fn text(self, column: &str, data_type: &DataType) -> String {
        match (self, data_type) {
            (Self::Float(value), _) => value.to_string(),
            (Self::Signed(value), DataType::Timestamp(..)) => {
                Millis::new(value).map_or_else(|_| value.to_string(), |time| time.to_string())
            }
            (Self::Signed(value), _) if column == "logger" => {
                LoggerId::new(value.cast_unsigned()).map_or_else(|_| value.to_string(), |logger| logger.to_string())
            }
            (Self::Signed(value), DataType::UInt64) => value.cast_unsigned().to_string(),
            (Self::Signed(value), _) => value.to_string(),
        }
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let number = u32::from_be_bytes(group);
        for digit in 0..4 {
            let index = number >> (18 - 6 * digit) & 63;
            let there = digit <= chunk.len();
            text.push(if there { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_rfc_4648() {
        let pairs =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (plain, text) in pairs {
            assert_eq!(base64(plain.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }
}
