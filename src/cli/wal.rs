//! `icecore wal inspect`: look into WAL files.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use storage_format::encryption::{SecretKey, unwrap_key};
use storage_format::wal::{WalBlock, WalEnd, WalRecordKind, scan_wal};
use storage_format::{FormatError, FormatErrorKind, FrameHeader};

use super::offline::{OfflineArgs, master_key};
use super::output;
use problem::{Context, Problem, Result};

/// Look into WAL files: what was accepted and is not yet in segments.
#[derive(Debug, Args)]
pub(super) struct WalArgs {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Debug, Subcommand)]
enum WalCommand {
    /// List a file's blocks, how it ends, and where it is damaged
    Inspect {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// List every record, too
        #[arg(long)]
        records: bool,
        #[command(flatten)]
        data_dir: OfflineArgs,
    },
}

pub(super) fn run(args: &WalArgs) -> Result<()> {
    let WalCommand::Inspect { files, records, data_dir } = &args.command;
    let mut first_problem = None;
    for file in files {
        let key = master_key(&data_dir.find(file)?)?;
        if let Err(problem) = inspect(file, &key, *records) {
            // All files are looked at; the first mistake decides how the command ends, the others are told here.
            match first_problem {
                None => first_problem = Some(problem),
                Some(_) => output::error(&problem),
            }
        }
    }
    first_problem.map_or(Ok(()), Err)
}

fn inspect(path: &Path, key: &SecretKey, list_records: bool) -> Result<()> {
    let damaged = |error: FormatError| {
        Problem::new(format!("{} is damaged", path.display()))
            .detail(format!("{}: {error}", path.display()))
            .help("what stands before that byte is whole. A server does not start over it by itself")
    };
    let bytes = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
    let unwrap = |wrapped: &_, aad: &[u8]| unwrap_key(key, wrapped, aad);
    let mut scan = scan_wal(&bytes, &unwrap)
        .map_err(|error| if is_foreign(&bytes, &error) { foreign(path, &error) } else { damaged(error) })?;
    let header = *scan.header();
    output::line(format_args!(
        "{}: WAL file {}, made {}, {} bytes, first LSN {}",
        path.display(),
        header.id,
        header.created,
        header.file_bytes,
        header.first_lsn
    ))?;
    let (mut blocks, mut records, mut readings) = (0_u64, 0_u64, 0_u64);
    for block in scan.by_ref() {
        let block = block.map_err(damaged)?;
        blocks += 1;
        records += block.records.len() as u64;
        readings += print_block(&block, list_records)?;
    }
    let end = match scan.end() {
        Some(WalEnd::Closed) => "closed cleanly".to_owned(),
        Some(WalEnd::Open { offset }) => format!("open at byte {offset}: nothing was written from there on"),
        Some(WalEnd::TornTail { offset, bytes }) => {
            format!("torn at byte {offset}: {bytes} bytes of a write that never ended, which the next start cuts off")
        }
        None => "unknown end".to_owned(),
    };
    output::line(format_args!("  {blocks} blocks, {records} records, {readings} readings; {end}"))
}

/// Was this file made by another data directory, by another version, or by no icecore at all? Its blocks are not read
/// then, so that nothing can be told about damage. A header that begins as one and breaks its checksum is damaged.
fn is_foreign(bytes: &[u8], error: &FormatError) -> bool {
    matches!(error.kind, FormatErrorKind::WrongKey | FormatErrorKind::UnknownVersion) || !bytes.starts_with(b"ICEW")
}

fn foreign(path: &Path, error: &FormatError) -> Problem {
    Problem::new(format!("{} does not open as a WAL file of this data directory", path.display()))
        .detail(format!("{}: {error}", path.display()))
        .help("name the data directory that it came from: --data-dir DIR; nothing says that it is damaged")
}

/// Prints a block, tells how many readings are in it.
fn print_block(block: &WalBlock, list_records: bool) -> Result<u64> {
    let (first, last) = (block.records.first(), block.records.last());
    let lsns = first.zip(last).map_or_else(String::new, |(first, last)| format!("{}..{}", first.lsn, last.lsn));
    output::line(format_args!("  byte {}: block of {} bytes, LSN {lsns}", block.offset, block.bytes))?;
    let mut readings = 0;
    for record in &block.records {
        let text = match &record.kind {
            WalRecordKind::Closed => "closed".to_owned(),
            WalRecordKind::Frame { org, gateway, received, frame } => match FrameHeader::peek(frame) {
                Ok(header) => {
                    readings += u64::from(header.readings);
                    format!(
                        "org {org} gateway {gateway} received {received} spool {} frame {}: {} readings, {} loggers",
                        header.spool, header.sequence, header.readings, header.loggers
                    )
                }
                Err(error) => format!("org {org} gateway {gateway} received {received}: {error}"),
            },
        };
        if list_records {
            output::line(format_args!("    LSN {}: {text}", record.lsn))?;
        }
    }
    Ok(readings)
}
