//! `icecore gateway send`: readings from files, as a gateway.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{block_on, not_there, output, parse_duration};
use gateway::left_out::LeftOut;
use gateway::readings_csv::{CsvError, CsvOptions, ReadingsCsv, Reason};
use gateway::sender::{FRAME_READINGS, Origin, Outcome, Pushed, Sender, counted};
use problem::{Problem, Result};

pub(super) mod files;
pub(super) mod form;
pub(super) mod preview;
mod watcher;

use files::Files;
use form::FormArgs;
pub(super) use watcher::Watcher;

/// Send files of readings: CSV, also as loggers export it.
///
/// Ends with success only if every reading was acknowledged, that is, is on the server's disk. A mistake in a file is
/// told with line and column: what stands before that line is sent and acknowledged, nothing from it on, unless
/// --skip-bad-rows sends the rest. A reading whose time the server does not accept is left out and reported; the others
/// are sent. Sending a file again is always safe: what is there already is kept once.
#[derive(Debug, Args)]
#[command(after_long_help = form::help())]
pub(super) struct SendArgs {
    /// The gateway's identity, as `gateway enroll` made it
    #[arg(long, value_name = "DIR", required_unless_present = "preview")]
    identity: Option<PathBuf>,
    /// The server's ingest address, such as ice.example.org:4433
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_server, required_unless_present = "preview")]
    server: Option<String>,
    #[command(flatten)]
    pace: Pace,
    /// Show the first readings as they would be sent, and what would be left out; send nothing
    #[arg(long)]
    preview: bool,
    /// Write rows with mistakes to this new file, and go on with the rest [default: end at the first mistake]. The file
    /// has no limit: if all rows are wrong, it holds all of them, each with its place and what is wrong
    #[arg(long, value_name = "FILE", conflicts_with = "preview")]
    skip_bad_rows: Option<PathBuf>,
    /// The files, or - for stdin
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    // Last, because its heading is that of all options after it.
    #[command(flatten)]
    form: FormArgs,
}

/// How to send.
#[derive(Debug, Args)]
pub(super) struct Pace {
    /// How long to go on trying while nothing is acknowledged
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    patience: Duration,
    /// Readings in a frame at most
    #[arg(long, value_name = "N", default_value_t = FRAME_READINGS as u64,
          value_parser = clap::value_parser!(u64).range(1..=65_536))]
    frame_readings: u64,
}

/// Who sends, and where to.
#[derive(Debug, Args)]
pub(super) struct GatewaySide {
    /// The gateway's identity, as `gateway enroll` made it
    #[arg(long, value_name = "DIR")]
    identity: PathBuf,
    /// The server's ingest address, such as ice.example.org:4433
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_server)]
    server: String,
    #[command(flatten)]
    pace: Pace,
}

impl GatewaySide {
    pub(super) fn sender(&self) -> Result<Sender> {
        self.pace.sender(&self.identity, &self.server)
    }
}

impl Pace {
    fn sender(&self, identity: &std::path::Path, server: &str) -> Result<Sender> {
        if !identity.is_dir() {
            return Err(not_there("identity", identity).help("`icecore gateway enroll … --out DIR` makes one"));
        }
        let frame_readings = usize::try_from(self.frame_readings).unwrap_or(FRAME_READINGS);
        Sender::new(identity, server, self.patience, frame_readings)
    }
}

/// A host and a port. The host is looked up later: it may not be known yet.
fn parse_server(text: &str) -> std::result::Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    // The last group of such an address would pass for a port.
    if parts.is_none() || text.parse::<Ipv6Addr>().is_ok() {
        return Err("expected a host and a port, such as localhost:4433 or [::1]:4433".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn run(args: &SendArgs) -> Result<()> {
    let options = args.form.form(args.skip_bad_rows.is_some())?.options()?;
    let files = Files::new(&args.files)?;
    // The command line has both, or asks for a preview.
    let (false, Some(identity), Some(server)) = (args.preview, &args.identity, &args.server) else {
        return preview::run(&files, &options);
    };
    let sender = args.pace.sender(identity, server)?;
    let left_out = LeftOut::new(args.skip_bad_rows.as_deref())?;
    let sending = Sending {
        watcher: Watcher::new(files.bytes),
        files,
        options,
        sender,
        left_out,
        rows_without_values: 0,
        bytes_before: 0,
    };
    block_on(sending.run())
}

/// What ends the sending before the end of the files.
enum Stop {
    /// A mistake in this file.
    Mistake(usize, CsvError),
    /// The sender has ended; its outcome says why.
    Sender,
    /// Something else.
    Problem(Problem),
}

/// The files of one call on their way.
struct Sending {
    files: Files,
    options: CsvOptions,
    sender: Sender,
    watcher: Watcher,
    left_out: LeftOut,
    rows_without_values: u64,
    /// Bytes of the files that are done.
    bytes_before: u64,
}

impl Sending {
    async fn run(mut self) -> Result<()> {
        let mut stop = None;
        for index in 0..self.files.len() {
            if let Err(why) = self.send_file(index).await {
                stop = Some(why);
                break;
            }
        }
        let Self { files, sender, watcher, left_out, rows_without_values, .. } = self;
        let outcome = sender.finish().await;
        watcher.end();
        let mut summary = outcome.summary();
        if rows_without_values > 0 {
            summary.push_str(&format!(", {} without values", counted(rows_without_values, "row")));
        }
        summary.push_str(&left_out.summary());
        output::line(format_args!("{}: {summary}", files.names()))?;
        let left_out = left_out.check("left out, and not stored");
        let sent = outcome.check_sent(true, |origin| format!("{}, line {}", files.name(origin.file), origin.line));
        let stopped = match stop {
            None | Some(Stop::Sender) => Ok(()),
            Some(Stop::Mistake(index, error)) => Err(mistake(&files.name(index), &error, &outcome)),
            Some(Stop::Problem(problem)) => Err(problem),
        };
        // Whatever went wrong is told; the last one by the caller.
        let mut problems: Vec<Problem> = [left_out, sent, stopped].into_iter().filter_map(Result::err).collect();
        let last = problems.pop();
        problems.iter().for_each(output::error);
        last.map_or(Ok(()), Err)
    }

    /// Sends one file.
    async fn send_file(&mut self, index: usize) -> std::result::Result<(), Stop> {
        self.files.check(index).map_err(Stop::Problem)?;
        let source = self.files.open(index).map_err(Stop::Problem)?;
        let mistake = |error| Stop::Mistake(index, error);
        let mut csv = ReadingsCsv::with_options(source, &self.options).map_err(mistake)?;
        let done = self.send_rows(index, &mut csv).await;
        self.rows_without_values += csv.rows_without_values();
        self.bytes_before += csv.bytes_read();
        done
    }

    async fn send_rows<R: std::io::BufRead>(
        &mut self,
        index: usize,
        csv: &mut ReadingsCsv<R>,
    ) -> std::result::Result<(), Stop> {
        loop {
            let (line, reason, what) = match csv.next_reading() {
                Ok(None) => return Ok(()),
                Ok(Some(reading)) => {
                    self.watcher.connect(&mut self.sender).await.map_err(|_| Stop::Sender)?;
                    let origin = Origin { file: index, line: reading.line, time: reading.time };
                    let pushed = self.sender.push(origin, reading.logger, reading.samples).await;
                    let (line, time) = (reading.line, reading.time);
                    self.watcher.look(self.bytes_before + csv.bytes_read());
                    let limit = match pushed.map_err(|_| Stop::Sender)? {
                        Pushed::Taken => continue,
                        Pushed::TooEarly(limit) => format!("before {limit}, the earliest time"),
                        Pushed::TooLate(limit) => format!("after {limit}, the latest time"),
                    };
                    (line, Reason::OutOfRange, format!("line {line}: {time} is {limit} that the server accepts"))
                }
                Err(error) if self.options.skip_bad_rows && error.is_of_row() => {
                    (error.line, error.reason, error.to_string())
                }
                Err(error) => return Err(Stop::Mistake(index, error)),
            };
            let name = self.files.name(index);
            self.left_out.add(&name, line, reason, &what, &csv.row_text()).map_err(Stop::Problem)?;
        }
    }
}

/// A mistake that ended the sending.
fn mistake(name: &str, error: &CsvError, outcome: &Outcome) -> Problem {
    let before = match outcome.acknowledged_readings {
        0 => "nothing was sent".to_owned(),
        1 => "the 1 reading before it was sent and acknowledged, nothing from that line on".to_owned(),
        count => format!("the {count} readings before it were sent and acknowledged, nothing from that line on"),
    };
    let what_to_do = if error.is_of_row() {
        "Correct the line and send everything again: what is there already is kept once. Or send again with \
         --skip-bad-rows FILE, which writes such rows to FILE and sends the rest"
    } else if error.reason == Reason::Header {
        "Correct the header, or say by --mapping what the columns are, and send everything again"
    } else {
        "Send everything again once the file can be read: what is there already is kept once"
    };
    Problem::new(format!("{name} has a mistake"))
        .detail(format!("{name}: {error}"))
        .help(format!("{before}. {what_to_do}"))
}

#[cfg(test)]
mod tests {
    use storage_format::channels;

    use super::*;

    #[test]
    fn a_server_has_a_port() {
        for good in ["localhost:4433", "127.0.0.1:1", "[::1]:4433", "ice.example.org:65535"] {
            assert_eq!(parse_server(good).as_deref(), Ok(good));
        }
        for bad in
            ["localhost", "localhost:", ":4433", "localhost:0", "localhost:65536", "::1", "http://localhost:8080"]
        {
            assert!(parse_server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_help_says_what_to_expect() {
        let command = SendArgs::augment_args(clap::Command::new("send"));
        let about = command.get_long_about().map(ToString::to_string).unwrap_or_default();
        assert!(about.starts_with("Send files") && about.contains("always safe"), "{about}");
    }

    #[test]
    fn the_help_has_every_channel() {
        assert!(channels().iter().all(|channel| form::help().contains(channel.name)));
    }
}
