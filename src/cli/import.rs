//! `icecore import`: years of readings from files, on the machine of the server.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use local::{Command, ImportRequest};
use problem::{Context, Problem, Result};

use super::local::LocalArgs;
use super::send::form::{self, FormArgs};
use super::send::{files::Files, preview};
use super::table::text_table;
use super::{DataDirArgs, block_on, output, usage};
use crate::advice::Advise as _;

/// Import files of readings: CSV, also as loggers export it, and Parquet.
///
/// Through the running server, or with the directory opened by the command itself. Every reading takes the way of one that
/// a gateway sent: the same checks, the first value wins, what came second is a duplicate or a conflict. Success means
/// that all of them are on the disk and seen by queries. A mistake in a file is told with its line: what stands before it
/// is stored, nothing of that file from it on. A reading whose time is not accepted is left out and reported; the others
/// are stored.
///
/// An import has an id of its own, which its readings bear in the column `gateway`. Interrupted, the same command again
/// goes on where it was; importing anything again is always safe.
#[derive(Debug, Args)]
#[command(after_long_help = help(), args_conflicts_with_subcommands = true)]
pub(super) struct ImportArgs {
    #[command(subcommand)]
    command: Option<ImportCommand>,
    /// Whose readings they are
    #[arg(long, value_name = "ORG")]
    org: Option<String>,
    /// The data directory
    #[arg(long, value_name = "DIR", env = "ICECORE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The configuration, instead of config.toml in the data directory; a running server has its own
    #[arg(long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show the first readings of files of CSV as they would be imported, and what would be left out; store nothing
    #[arg(long)]
    preview: bool,
    /// Write rows of CSV with mistakes to this new file, and go on with the rest [default: end at the first mistake]
    #[arg(long, value_name = "FILE", conflicts_with = "preview")]
    skip_bad_rows: Option<PathBuf>,
    /// The files
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    // Last, because its heading is that of all options after it.
    #[command(flatten)]
    form: FormArgs,
}

#[derive(Debug, Subcommand)]
enum ImportCommand {
    /// List imports: their ids, files, who ran them, how they ended
    List {
        /// Only those of this organisation
        #[arg(long, value_name = "ORG")]
        org: Option<String>,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
}

fn help() -> String {
    format!(
        "A file of Parquet has the columns of the table readings, in any order: logger (UINT64, or text of 16 hex digits), \
         time (TIMESTAMP with time zone, in milliseconds or microseconds) and channels (DOUBLE). The columns gateway and \
         received of an export are passed over: those of an import are its own.\n\n{}",
        form::help()
    )
}

/// The server reads files by itself, and has another working directory.
fn absolute(path: &Path) -> Result<PathBuf> {
    if path.as_os_str() == "-" {
        return Err(Problem::new("an import reads files, not stdin")
            .help("`icecore gateway send` reads stdin; or write it to a file first"));
    }
    std::path::absolute(path).context(|| format!("cannot find {}", path.display()))
}

pub(super) fn run(args: &ImportArgs) -> Result<()> {
    if let Some(ImportCommand::List { org, data_dir }) = &args.command {
        return list(org.as_deref(), data_dir);
    }
    if args.files.is_empty() {
        usage("no file is named: icecore import --org ORG FILE...");
    }
    let form = args.form.form(args.skip_bad_rows.is_some())?;
    // Whatever is wrong with the options is told before anybody else is asked.
    let options = form.options()?;
    if args.preview {
        return preview::run(&Files::new(&args.files)?, &options);
    }
    let (Some(org), Some(data_dir)) = (&args.org, &args.data_dir) else {
        usage("--org ORG and --data-dir DIR are needed");
    };
    let local = LocalArgs::new(data_dir.clone(), args.config.clone());
    let request = ImportRequest {
        org: org.clone(),
        files: args.files.iter().map(|path| absolute(path)).collect::<Result<_>>()?,
        form,
        skip_bad_rows: args.skip_bad_rows.as_deref().map(absolute).transpose()?,
    };
    block_on(local.run(Command::Import(request))).map(drop)
}

fn list(org: Option<&str>, data_dir: &DataDirArgs) -> Result<()> {
    block_on(async {
        let control = data_dir.open().open_control().await.advise()?;
        let only = match org {
            Some(name) => Some(control.org(name).await.advise()?.id),
            None => None,
        };
        let imports = control.imports(only).await.advise()?;
        if imports.is_empty() {
            return output::line("nothing was imported");
        }
        let rows = imports.iter().map(|import| {
            let state = match import.is_done {
                None => "interrupted or under way",
                Some(true) => "done",
                Some(false) => "with mistakes",
            };
            vec![
                import.id.to_string(),
                import.started.to_string(),
                import.started_by.clone(),
                state.to_owned(),
                import.readings.map_or_else(String::new, |readings| readings.to_string()),
                import.files.join("\n"),
            ]
        });
        output::line(text_table(&["id", "started", "by", "state", "readings", "files"], rows))
    })
}
