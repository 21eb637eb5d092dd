//! `icecore export`: readings into a CSV file.
//!
//! Crash consistency: the file is written under a temporary name beside its own and renamed when all of it is there and
//! on the disk; a file of the given name is always whole.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::api::{self, Api, ServerArgs};
use super::output;
use crate::error::{Context, Result};

/// Write readings to a CSV file, sorted by logger and time, without any limit of rows.
///
/// Columns: time (RFC 3339, UTC), logger (16 hex digits), then one per channel that the organisation has used; an empty
/// cell means "not measured". `icecore gateway send` reads the same form.
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
    /// Only this logger (16 hex digits); can be given several times
    #[arg(long, value_name = "EUI64")]
    logger: Vec<String>,
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

pub(super) fn run(args: &ExportArgs) -> Result<()> {
    let api = Api::new(&args.server)?;
    let ExportFormat::Csv = args.format;
    let parameters = json!({"from": args.from, "to": args.to, "logger": args.logger, "format": "csv"});
    write(&api, &parameters, &args.output)
}

/// Writes an export to a file, or to stdout for `-`.
pub(super) fn write(api: &Api, parameters: &serde_json::Value, path: &Path) -> Result<()> {
    if path.as_os_str() == "-" {
        return api::print(api.export(parameters)?);
    }
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let written = write_part(api, parameters, &part)
        .and_then(|lines| {
            std::fs::rename(&part, path).context(|| format!("cannot write {}", path.display()))?;
            Ok(lines)
        })
        .inspect_err(|_| {
            // It may not have been made; a part that stays behind harms nobody.
            let _ = std::fs::remove_file(&part);
        });
    // The first line is the header.
    let readings = written?.saturating_sub(1);
    output::note(format_args!("{} readings in {}", output::grouped(readings), path.display()));
    Ok(())
}

fn write_part(api: &Api, parameters: &serde_json::Value, part: &Path) -> Result<u64> {
    let what = || format!("cannot write {}", part.display());
    let file = File::create(part).context(what)?;
    let mut file = BufWriter::with_capacity(256 << 10, file);
    let response = api.export(parameters)?;
    // Hidden by itself where stderr is no terminal.
    let progress = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {decimal_bytes} {decimal_bytes_per_sec} {elapsed}");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    progress.enable_steady_tick(Duration::from_millis(200));
    let mut lines = 0_u64;
    api::copy(response, |bytes| {
        progress.inc(bytes.len() as u64);
        lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        file.write_all(bytes).context(what)?;
        Ok(true)
    })?;
    progress.finish_and_clear();
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error).context(what)?;
    file.sync_all().context(what)?;
    Ok(lines)
}
