//! The commands: what they are called, what they take, how they end. One file per command.
//!
//! Exit codes: 0 for success, 1 for a failure (told on stderr: what happened, the detail, what to do), 2 for wrong usage.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use engine::{Clock, SystemClock};
use storage_format::Millis;

use control::Caller;
use control::data_dir::DataDir;
use problem::{Context, Problem, Result};

mod api;
mod audit;
mod bench;
mod compact;
mod config;
mod conflicts;
mod demo;
pub(crate) mod demo_tools;
mod doctor;
mod export;
mod gateway;
mod import;
mod init;
mod local;
mod logger_ids;
mod manifest;
mod offline;
mod org;
mod output;
mod query;
mod retention;
mod segment;
mod send;
mod serve;
mod simulate;
mod table;
mod token;
mod wal;

/// Data engine for fleets of temperature and humidity loggers.
///
/// Gateways send readings over QUIC; each is on stable storage before it is acknowledged, kept once and unchanged as
/// encrypted Parquet, and found again through SQL and CSV. `icecore demo` shows all of it in one command.
#[derive(Debug, Parser)]
#[command(name = "icecore", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 success, 1 failure (the reason is on stderr), 2 wrong usage.

Environment: ICECORE_DATA_DIR (--data-dir), ICECORE_TOKEN (--token), ICECORE_SERVER (--server of query, export and
conflicts), ICECORE_MASTER_KEY (the master key, instead of its file), ICECORE_<SECTION>__<KEY> (any setting of
config.toml: ICECORE_ENGINE__FLUSH_AGE=1h).

Start here: icecore demo";

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a data directory: keys, internal CA, control database, configuration
    Init(init::InitArgs),
    /// Run the server on a data directory
    Serve(serve::ServeArgs),
    /// Make and list organisations (works beside a running server)
    Org(org::OrgArgs),
    /// Make, list and revoke tokens (works beside a running server)
    Token(token::TokenArgs),
    /// Enroll, list and revoke gateways; send readings as one
    Gateway(gateway::GatewayArgs),
    /// Import files of readings, CSV and Parquet, on the server's machine (works beside a running server)
    Import(Box<import::ImportArgs>),
    /// Merge segments until nothing is left to do (works beside a running server)
    Compact(compact::CompactArgs),
    /// Show who changed what (works beside a running server)
    Audit(audit::AuditArgs),
    /// Ask a question in SQL
    Query(query::QueryArgs),
    /// Write readings to a CSV file
    Export(export::ExportArgs),
    /// List values that came second and were refused
    Conflicts(conflicts::ConflictsArgs),
    /// Look into a segment, or print its key for other Parquet readers
    Segment(segment::SegmentArgs),
    /// Look into WAL files
    Wal(wal::WalArgs),
    /// Show an organisation's manifest: its segments, totals, what is covered
    Manifest(manifest::ManifestArgs),
    /// Show and set how long readings are kept; drop what was kept long enough
    Retention(retention::RetentionArgs),
    /// Look whether all that is stored is there and whole (works beside a running server)
    Doctor(doctor::DoctorArgs),
    /// Show or check the configuration
    Config(config::ConfigArgs),
    /// Measure a server under load, or the disk alone
    Bench(bench::BenchArgs),
    /// Everything in one command: a server, a simulated fleet, queries, a conflict, an export
    Demo(demo::DemoArgs),
}

/// Where the data directory is.
#[derive(Debug, Args)]
struct DataDirArgs {
    /// The data directory
    #[arg(long, value_name = "DIR", env = "ICECORE_DATA_DIR")]
    data_dir: PathBuf,
}

impl DataDirArgs {
    fn open(&self) -> DataDir {
        DataDir::new(&self.data_dir)
    }
}

/// Parses the command line, runs the command, and tells how it ended.
#[must_use]
pub fn main() -> ExitCode {
    // clap ends wrong usage with code 2 by itself.
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Init(args) => init::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Org(args) => org::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Gateway(args) => gateway::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Compact(args) => compact::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Conflicts(args) => conflicts::run(&args),
        Command::Segment(args) => segment::run(&args),
        Command::Wal(args) => wal::run(&args),
        Command::Manifest(args) => manifest::run(&args),
        Command::Retention(args) => retention::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Demo(args) => demo::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            output::error(&problem);
            ExitCode::FAILURE
        }
    }
}

/// Runs what has to wait for something.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context(|| "cannot start the runtime".to_owned())?;
    runtime.block_on(work)
}

/// The wall clock.
fn now() -> Millis {
    SystemClock::new().now()
}

/// Who runs this command: the number that the operating system knows, and the name that the environment says.
fn caller() -> Caller {
    let name = std::env::var("USER").unwrap_or_else(|_| "operator".to_owned());
    Caller::command(rustix::process::getuid().as_raw(), name)
}

/// A duration argument.
fn parse_duration(text: &str) -> std::result::Result<std::time::Duration, String> {
    crate::config::parse_duration(text).ok_or_else(|| "expected a number with a unit, such as 30s, 5m or 4h".to_owned())
}

/// Ends as clap does for wrong usage, for what it cannot see by itself.
fn usage(what: &str) -> ! {
    Cli::command().error(ErrorKind::MissingRequiredArgument, what).exit()
}

/// A name as a file can have it.
fn not_there(what: &str, path: &std::path::Path) -> Problem {
    Problem::new(format!("there is no {what} {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn whoever_opens_the_store_can_name_its_configuration() {
        for command in [
            "compact --all",
            "doctor",
            "import --org o a.csv",
            "manifest show --org o",
            "retention run --org o --dry-run",
        ] {
            let line = format!("icecore {command} --data-dir d --config other.toml");
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
