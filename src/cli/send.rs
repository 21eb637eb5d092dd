//! `icecore gateway send`: readings from a CSV file, as a gateway.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, stderr, stdin};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ingest::client::Progress;
use storage_format::channels;
use tokio::task::JoinHandle;

use super::{block_on, not_there, output, parse_duration};
use gateway::readings_csv::ReadingsCsv;
use gateway::sender::{FRAME_READINGS, Sender};
use problem::{Context, Problem, Result};

/// Send a CSV file of readings.
///
/// Ends with success only if every reading was acknowledged, that is, is on the server's disk. A mistake in the file is
/// told with line and column: what stands before that line is sent and acknowledged, nothing from it on. Sending a file
/// again is always safe: what is there already is kept once.
#[derive(Debug, Args)]
#[command(after_long_help = form())]
pub(super) struct SendArgs {
    #[command(flatten)]
    gateway: GatewaySide,
    /// The file, or - for stdin
    file: PathBuf,
}

/// The form of the file, with the channels of the registry.
fn form() -> String {
    let channels: Vec<_> = channels().iter().map(|channel| channel.name).collect();
    format!(
        "The file: CSV with commas, and a header that names the columns, in lower case and in any order:\n  \
         time    RFC 3339 with a zone, such as 2024-05-01T12:00:00Z or 2024-05-01T14:00:00+02:00\n  \
         logger  its EUI-64, 16 hex digits\n\
         and one or more channels: {}.\n\
         An empty cell means \"not measured\".\n\n\
         Acknowledged means on stable storage. A value that came second, for a logger, time and channel that have \
         another one already, is acknowledged too, and listed by `icecore conflicts`.",
        channels.join(", ")
    )
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
    /// How long to go on trying while nothing is acknowledged
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    patience: Duration,
    /// Readings in a frame at most
    #[arg(long, value_name = "N", default_value_t = FRAME_READINGS as u64,
          value_parser = clap::value_parser!(u64).range(1..=65_536))]
    frame_readings: u64,
}

impl GatewaySide {
    pub(super) fn sender(&self) -> Result<Sender> {
        if !self.identity.is_dir() {
            return Err(not_there("identity", &self.identity).help("`icecore gateway enroll … --out DIR` makes one"));
        }
        let frame_readings = usize::try_from(self.frame_readings).unwrap_or(FRAME_READINGS);
        Sender::new(&self.identity, &self.server, self.patience, frame_readings)
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
    let name = args.file.display().to_string();
    let (source, bytes): (Box<dyn BufRead>, u64) = if args.file.as_os_str() == "-" {
        (Box::new(stdin().lock()), 0)
    } else {
        if args.file.is_dir() {
            return Err(Problem::new(format!("{name} is a directory, not a CSV file")));
        }
        let file = File::open(&args.file).context(|| format!("cannot read {name}"))?;
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        (Box::new(BufReader::with_capacity(256 << 10, file)), bytes)
    };
    let sender = args.gateway.sender()?;
    block_on(send(sender, source, bytes, &name))
}

async fn send(mut sender: Sender, source: Box<dyn BufRead>, bytes: u64, name: &str) -> Result<()> {
    let wrong = |error| Problem::new(format!("{name} has a mistake")).detail(format!("{name}: {error}"));
    let mut csv = ReadingsCsv::new(source)
        .map_err(|error| wrong(error).help("nothing was sent; correct the header and send the file again"))?;
    let mut watcher = Watcher::new(bytes);
    let mut mistake = None;
    loop {
        let done = match csv.next_reading() {
            Ok(Some(reading)) => match watcher.connect(&mut sender).await {
                Ok(()) => sender.push(reading.line, reading.logger, reading.time, reading.samples).await,
                failed => failed,
            },
            Ok(None) => break,
            Err(error) => {
                mistake = Some(error);
                break;
            }
        };
        if done.is_err() {
            // Told by the outcome, with what became of the rest.
            break;
        }
        watcher.look(csv.bytes_read());
    }
    let outcome = sender.finish().await;
    watcher.end();
    output::line(format_args!("{name}: {}", outcome.summary()))?;
    outcome.check("line")?;
    match mistake {
        None => Ok(()),
        Some(error) => {
            let before = match outcome.acknowledged_readings {
                0 => "nothing was sent".to_owned(),
                1 => "the 1 reading before it was sent and acknowledged, nothing from that line on".to_owned(),
                count => {
                    format!("the {count} readings before it were sent and acknowledged, nothing from that line on")
                }
            };
            let help =
                format!("{before}. Correct the line and send the whole file again: what is there already is kept once");
            Err(wrong(error).help(help))
        }
    }
}

/// Shows how it goes: a bar on a terminal, otherwise only trouble.
pub(super) struct Watcher {
    bar: ProgressBar,
    looks: u64,
    watching: Option<JoinHandle<()>>,
}

/// Readings between two looks at how far the file is read.
const LOOK_EVERY: u64 = 1_024;
/// A first connection that takes longer is told.
const TOLD_AFTER: Duration = Duration::from_secs(3);

impl Watcher {
    pub(super) fn new(length: u64) -> Self {
        let bar = if stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} % {elapsed} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, looks: 0, watching: None }
    }

    /// Connects, and says so when that takes long.
    pub(super) async fn connect(&mut self, sender: &mut Sender) -> Result<()> {
        if self.watching.is_some() {
            return Ok(());
        }
        {
            let mut connect = pin!(sender.connect());
            tokio::select! {
                done = &mut connect => done?,
                () = tokio::time::sleep(TOLD_AFTER) => {
                    self.bar.suspend(|| output::note("no connection yet; trying again"));
                    connect.await?;
                }
            }
        }
        self.watching = sender.progress().map(|progress| tokio::spawn(watch(self.bar.clone(), progress)));
        Ok(())
    }

    pub(super) fn look(&mut self, position: u64) {
        self.looks += 1;
        if self.looks.is_multiple_of(LOOK_EVERY) {
            self.bar.set_position(position);
        }
    }

    pub(super) fn end(&self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
        self.bar.finish_and_clear();
    }
}

/// Tells acknowledgements on the bar, trouble once for each kind, and the first refusal: a long sending need not go on to
/// its end to be known to be in vain.
async fn watch(bar: ProgressBar, mut progress: tokio::sync::watch::Receiver<Progress>) {
    let (mut told, mut refusal_told) = (None, false);
    while progress.changed().await.is_ok() {
        let now = progress.borrow_and_update().clone();
        if now.trouble.is_some() && now.trouble != told {
            let trouble = now.trouble.as_deref().unwrap_or_default();
            bar.suspend(|| output::note(format_args!("no connection: {trouble}; trying again")));
            told = now.trouble;
        }
        if now.refused_readings > 0 && !refusal_told {
            let readings = output::grouped(now.refused_readings);
            bar.suspend(|| {
                output::note(format_args!(
                    "warning: the server refuses readings, {readings} so far; going on with the rest, and telling why at \
                     the end"
                ));
            });
            refusal_told = true;
        }
        bar.set_message(format!("{} acknowledged", output::grouped(now.acknowledged_readings)));
    }
}

#[cfg(test)]
mod tests {
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
    fn the_help_has_every_channel() {
        assert!(channels().iter().all(|channel| form().contains(channel.name)));
    }
}
