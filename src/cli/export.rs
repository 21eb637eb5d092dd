//! `icecore export`: readings into a CSV file.
//!
//! Crash consistency: the file is written as `FILE.part` beside its own name and renamed when all of it is there and on
//! the disk; a file of the given name is always whole. The name is fixed, so that a part left over by a crash is written
//! over by the next export; a lock keeps two exports from writing the same part.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use storage_format::LoggerId;

use super::api::{self, Api, ServerArgs};
use super::logger_ids::{self, LoggerIds};
use super::serve::stop_signal;
use super::{block_on, output};
use problem::{Context, Problem, Result};

/// Write readings to a CSV file, sorted by logger and time, without any limit of rows.
///
/// Columns: time (RFC 3339, UTC), logger (16 hex digits, after 0x if all are decimal), then one per channel that the
/// organisation has used; an empty cell means "not measured". `icecore gateway send` reads the same form. A file is written as FILE.part until it is whole,
/// and only its owner may read it.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// First time, such as 2024-05-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// First time that is not exported any more
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only this logger (16 hex digits, also in groups or after 0x); can be given several times
    #[arg(long, value_name = "EUI64")]
    logger: Vec<String>,
    /// What --logger means if it has decimal digits only [default: such an id is refused]
    #[arg(long, value_enum, value_name = "BASE")]
    logger_ids: Option<LoggerIds>,
    /// The form
    #[arg(long, value_enum, default_value_t = ExportFormat::Csv)]
    format: ExportFormat,
    /// The file to write, or - for stdout
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ExportFormat {
    /// Comma-separated values
    Csv,
}

impl ExportArgs {
    /// The loggers, each in the form that no other logger has.
    fn loggers(&self) -> Result<Vec<String>> {
        let base = logger_ids::base(self.logger_ids);
        let texts = self.logger.iter().flat_map(|texts| texts.split(','));
        let ids = texts.map(|text| LoggerId::parse_as(text.trim(), base).map(|logger| logger.to_string()));
        let problem = |error| Problem::new("--logger names no logger").detail(error).help(logger_ids::HELP);
        ids.collect::<std::result::Result<_, _>>().map_err(problem)
    }
}

pub(super) fn run(args: &ExportArgs) -> Result<()> {
    let api = args.server.api()?;
    let ExportFormat::Csv = args.format;
    let parameters = json!({"from": args.from, "to": args.to, "logger": args.loggers()?, "format": "csv"});
    if args.output.as_os_str() == "-" {
        return api::print(api.export(&parameters)?);
    }
    // This one goes last: a blocking client may not be dropped among asynchronous work.
    let api = Arc::new(api);
    let beside = Arc::clone(&api);
    let path = args.output.clone();
    block_on(async {
        // Before the part is made, so that no signal leaves it behind.
        let mut stop = stop_signal()?;
        let part = Part::create(&path)?;
        let (part_path, progress) = (part.path.clone(), progress());
        let shown = progress.clone();
        let work = tokio::task::spawn_blocking(move || part.fill(&beside, &parameters, &shown));
        tokio::select! {
            done = work => done.context(|| "the export was lost".to_owned())?,
            () = stop.wait() => {
                // It may just have got its own name: then it is whole, and stays.
                let _ = std::fs::remove_file(part_path);
                progress.finish_and_clear();
                output::error(&Problem::new(format!("stopped by a signal; {} was not written", path.display())));
                // Without waiting for the thread, which may be waiting for the server.
                std::process::exit(1)
            }
        }
    })
}

/// Writes an export to a file.
pub(super) fn write(api: &Api, parameters: &serde_json::Value, path: &Path) -> Result<()> {
    Part::create(path)?.fill(api, parameters, &progress())
}

/// Hidden by itself where stderr is no terminal.
fn progress() -> ProgressBar {
    let progress = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {decimal_bytes} {decimal_bytes_per_sec} {elapsed}");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    progress
}

/// A file that is not whole yet, locked.
struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

/// Another export can finish between opening its part and locking it; then there is a new one to make.
const CREATE_TRIES: u32 = 3;

impl Part {
    fn create(target: &Path) -> Result<Self> {
        let what = || format!("cannot write {}", target.display());
        if target.is_dir() {
            return Err(Problem::new(what()).detail("it is a directory"));
        }
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        for _ in 0..CREATE_TRIES {
            // Not cut before it is locked: another export may be writing it.
            let file =
                OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).context(what)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Problem::new(what()).detail("another export is writing it"));
                }
                Err(TryLockError::Error(error)) => return Err(Problem::new(what()).detail(error)),
            }
            let opened = file.metadata().context(what)?;
            // Of the name itself, not of what a link leads to: that would be somebody else's file.
            let is_it = std::fs::symlink_metadata(&path)
                .is_ok_and(|named| named.is_file() && (named.dev(), named.ino()) == (opened.dev(), opened.ino()));
            if is_it {
                // One left over by a crash may have other permissions than those asked for, and has bytes.
                file.set_permissions(Permissions::from_mode(0o600)).context(what)?;
                file.set_len(0).context(what)?;
                return Ok(Self { file, path, target: target.to_owned() });
            }
        }
        Err(Problem::new(what()).detail(format!("{} is in the way, and is no regular file", path.display())))
    }

    /// Writes everything and gives it its own name.
    fn fill(self, api: &Api, parameters: &serde_json::Value, progress: &ProgressBar) -> Result<()> {
        progress.enable_steady_tick(Duration::from_millis(200));
        let written = self.copy(api, parameters, progress).and_then(|lines| {
            std::fs::rename(&self.path, &self.target).context(|| format!("cannot write {}", self.target.display()))?;
            Ok(lines)
        });
        progress.finish_and_clear();
        let lines = written.inspect_err(|_| {
            // A part that stays behind is written over by the next export.
            let _ = std::fs::remove_file(&self.path);
        })?;
        // The first line is the header.
        let readings = lines.saturating_sub(1);
        let unit = if readings == 1 { "reading" } else { "readings" };
        output::note(format_args!("{} {unit} in {}", output::grouped(readings), self.target.display()));
        Ok(())
    }

    fn copy(&self, api: &Api, parameters: &serde_json::Value, progress: &ProgressBar) -> Result<u64> {
        let what = || format!("cannot write {}", self.target.display());
        let mut file = BufWriter::with_capacity(256 << 10, &self.file);
        let mut lines = 0_u64;
        api::copy(api.export(parameters)?, |bytes| {
            progress.inc(bytes.len() as u64);
            lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            file.write_all(bytes).context(what)?;
            Ok(true)
        })?;
        file.flush().context(what)?;
        self.file.sync_all().context(what)?;
        Ok(lines)
    }
}
