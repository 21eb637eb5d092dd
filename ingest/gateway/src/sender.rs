//! Sends readings as a gateway: packs them into frames, remembers where each frame began, tells what became of them.
//!
//! Owns the packing and the report; the wire, the resending and the reconnecting are the client library's.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ingest::RefusalCode;
use ingest::client::{Client, ClientConfig, ClientError, Identity, Progress, RefusedFrame, Summary};
use storage_format::{ChannelCode, FrameBuildError, FrameBuilder, FrameSequence, LoggerId, Millis};
use tokio::sync::watch;

use problem::{Context, Problem, Result, chain};

/// Readings in a frame, unless told otherwise: one frame is one sync at low load, and a few tens of KiB.
pub const FRAME_READINGS: usize = 4_096;

/// Where a frame's first reading came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The line of a file, or the number in a simulation, from 1.
    pub line: u64,
    /// Its time.
    pub time: Millis,
}

/// What became of everything.
#[derive(Debug)]
pub struct Outcome {
    /// Readings that are durable.
    pub acknowledged_readings: u64,
    /// Frames that are durable.
    pub acknowledged_frames: u64,
    /// Readings that were refused.
    pub refused_readings: u64,
    /// Frames that were refused, and where they began.
    pub refused: Vec<(RefusedFrame, Option<Origin>)>,
    /// Readings without an answer: they may be durable or not.
    pub unanswered_readings: u64,
    /// How often a connection was made after the first.
    pub reconnects: u64,
    /// From the first reading to the last answer.
    pub elapsed: Duration,
    /// What ended it early.
    pub error: Option<ClientError>,
}

/// A gateway at work.
#[derive(Debug)]
pub struct Sender {
    config: ClientConfig,
    client: Option<Client>,
    failed: Option<ClientError>,
    builder: FrameBuilder,
    frame_readings: usize,
    begins: Option<Origin>,
    origins: HashMap<FrameSequence, Origin>,
    taken: u64,
    started: Option<Instant>,
}

impl Sender {
    /// A gateway with the identity in this directory, for this server; it connects with its first frame.
    ///
    /// # Errors
    /// When the identity cannot be used.
    pub fn new(identity: &Path, server: &str, patience: Duration, frame_readings: usize) -> Result<Self> {
        let loaded = Identity::load(identity)
            .map_err(|error| Problem::new("the gateway's identity cannot be used").detail(chain(&error)))
            .map_err(|problem| problem.help("`icecore gateway enroll … --out DIR` makes one; --identity names DIR"))?;
        let config = ClientConfig { patience, ..ClientConfig::new(server, loaded) };
        Ok(Self {
            config,
            client: None,
            failed: None,
            builder: FrameBuilder::new(),
            frame_readings,
            begins: None,
            origins: HashMap::new(),
            taken: 0,
            started: None,
        })
    }

    /// Takes one reading; waits while too much is on its way. `line` tells where it came from.
    ///
    /// # Errors
    /// When it can be part of no frame, or when the client has ended; [`Sender::finish`] tells the rest.
    pub async fn push(
        &mut self,
        line: u64,
        logger: LoggerId,
        time: Millis,
        samples: &[(ChannelCode, f64)],
    ) -> Result<()> {
        if self.builder.len() >= self.frame_readings {
            self.send().await?;
        }
        match self.builder.push(logger, time, samples) {
            // The same logger and time again: what comes second is for the server to judge, in a frame of its own.
            Err(FrameBuildError::AlreadyThere | FrameBuildError::Full) if !self.builder.is_empty() => {
                self.send().await?;
                self.builder.push(logger, time, samples).context(|| format!("line {line} cannot be sent"))?;
            }
            pushed => pushed.context(|| format!("line {line} cannot be sent"))?,
        }
        self.begins.get_or_insert(Origin { line, time });
        self.taken += 1;
        Ok(())
    }

    /// How it goes, once there was a first frame.
    #[must_use]
    pub fn progress(&self) -> Option<watch::Receiver<Progress>> {
        self.client.as_ref().map(Client::progress)
    }

    /// Connects, unless there is a connection already; otherwise the first frame does.
    ///
    /// # Errors
    /// When the client has ended; [`Sender::finish`] tells the rest.
    pub async fn connect(&mut self) -> Result<()> {
        let done = self.client().await.map(drop);
        self.keep(done)
    }

    async fn send(&mut self) -> Result<()> {
        let done = self.try_send().await;
        self.keep(done)
    }

    /// Remembers what ended the client.
    fn keep(&mut self, done: std::result::Result<(), ClientError>) -> Result<()> {
        done.map_err(|error| {
            let problem = explain(&error);
            self.failed.get_or_insert(error);
            problem
        })
    }

    async fn client(&mut self) -> std::result::Result<&mut Client, ClientError> {
        self.started.get_or_insert_with(Instant::now);
        Ok(match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::connect(self.config.clone()).await?),
        })
    }

    async fn try_send(&mut self) -> std::result::Result<(), ClientError> {
        if self.builder.is_empty() {
            return Ok(());
        }
        self.client().await?;
        let Some(client) = &mut self.client else { return Ok(()) };
        let sequence = client.send(&mut self.builder).await?;
        if let Some(origin) = self.begins.take() {
            self.origins.insert(sequence, origin);
        }
        Ok(())
    }

    /// Sends what is left and waits until all is answered.
    pub async fn finish(mut self) -> Outcome {
        if self.failed.is_none() {
            // The error is kept, and told below.
            let _ = self.send().await;
        }
        let nothing = Outcome {
            acknowledged_readings: 0,
            acknowledged_frames: 0,
            refused_readings: 0,
            refused: Vec::new(),
            unanswered_readings: self.taken,
            reconnects: 0,
            elapsed: Duration::ZERO,
            error: self.failed.clone(),
        };
        let Some(client) = self.client.take() else { return nothing };
        let (summary, error): (Summary, _) = match client.finish().await {
            Ok(summary) => (summary, self.failed),
            Err(failure) => (failure.summary, Some(failure.error)),
        };
        let answered = summary.acknowledged_readings + summary.refused_readings;
        let origins = &self.origins;
        let refused = summary.refused.into_iter().map(|frame| {
            let origin = origins.get(&frame.sequence).copied();
            (frame, origin)
        });
        Outcome {
            acknowledged_readings: summary.acknowledged_readings,
            acknowledged_frames: summary.acknowledged_frames,
            refused_readings: summary.refused_readings,
            refused: refused.collect(),
            unanswered_readings: self.taken.saturating_sub(answered),
            reconnects: summary.reconnects,
            elapsed: self.started.map_or(Duration::ZERO, |started| started.elapsed()),
            error,
        }
    }
}

/// What a client's end means, and what to do.
fn explain(error: &ClientError) -> Problem {
    let problem = Problem::new("the readings could not be sent").detail(error);
    match error {
        ClientError::CertificateRefused(_) => problem
            .help("enroll the gateway at this server; `icecore gateway list` there shows who is, and revocations"),
        ClientError::ServerNotTrusted(_) => {
            problem.help("is --server the right one? The identity's ca.pem and server-name tell which server it trusts")
        }
        ClientError::GaveUp { .. } => problem.help(
            "is the server running, and is --server its ingest address (UDP)? Sending again is always safe: what is \
             there already is kept once",
        ),
        _ => problem,
    }
}

/// A number of things, by the word for one of them.
fn counted(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// What to do about a refusal. Readings that come from no file cannot be corrected in one.
fn refusal_help(code: RefusalCode, from_file: bool) -> &'static str {
    match code {
        RefusalCode::OrgSuspended => {
            "nothing is wrong with the readings: ask the server's operator, who lifts the suspension with \
             `icecore org resume`, and send again, which is safe"
        }
        RefusalCode::CertificateRevoked => {
            "nothing is wrong with the readings: enroll the gateway again (`icecore gateway enroll`), and send again, \
             which is safe"
        }
        RefusalCode::NotKept => "the server's log says why; sending again is safe",
        RefusalCode::TooLarge => "--frame-readings makes frames smaller; sending again is safe",
        _ if from_file => "a frame is refused as a whole: correct what is named and send the file again, which is safe",
        RefusalCode::TimeOutOfRange => {
            "a frame is refused as a whole: --start and --days have to stay within the times that the server accepts"
        }
        _ => "are this program and the server of the same version?",
    }
}

impl Outcome {
    /// One line that says it all.
    #[must_use]
    pub fn summary(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        let mut text = format!(
            "{} acknowledged, {} refused, {}, {seconds:.2} s",
            counted(self.acknowledged_readings, "reading"),
            self.refused_readings,
            counted(self.acknowledged_frames, "frame")
        );
        if seconds > 0.0 && self.acknowledged_readings > 0 {
            // Readings are far below 2^53.
            #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = self.acknowledged_readings as f64 / seconds;
            text.push_str(&format!(", {rate:.0} readings/s"));
        }
        if self.unanswered_readings > 0 {
            text.push_str(&format!(", {} without an answer", self.unanswered_readings));
        }
        if self.reconnects > 0 {
            text.push_str(&format!(", {}", counted(self.reconnects, "reconnect")));
        }
        text
    }

    /// Fails unless every reading was acknowledged. `unit` is what readings are numbered by, such as `line`.
    ///
    /// # Errors
    /// What ended the sending, or which frames were refused and why.
    pub fn check(&self, unit: &str) -> Result<()> {
        /// As many refusals are listed; their number is told in any case.
        const LISTED: usize = 20;
        if let Some(error) = &self.error {
            return Err(explain(error));
        }
        if self.refused_readings == 0 && self.unanswered_readings == 0 {
            return Ok(());
        }
        let mut lines: Vec<String> = Vec::new();
        for (frame, origin) in self.refused.iter().take(LISTED) {
            let place = origin
                .map_or_else(String::new, |origin| format!(" beginning at {unit} {} ({})", origin.line, origin.time));
            // Some reasons have nothing to add to their code, and say it again.
            let said = frame.code.to_string();
            let reason = match frame.detail.as_str() {
                "" => said,
                detail if detail == said => said,
                detail => format!("{said}: {detail}"),
            };
            lines.push(format!(
                "{reason}; the frame of {}{place} was refused whole",
                counted(frame.readings, "reading")
            ));
        }
        if self.refused.len() > LISTED {
            lines.push(format!("and {} more", counted((self.refused.len() - LISTED) as u64, "frame")));
        }
        let they = if self.refused_readings == 1 { "it is" } else { "they are" };
        let what = format!("the server refused {}; {they} not stored", counted(self.refused_readings, "reading"));
        let mut helps: Vec<&str> = Vec::new();
        for (frame, _) in &self.refused {
            let help = refusal_help(frame.code, unit == "line");
            if !helps.contains(&help) {
                helps.push(help);
            }
        }
        Err(Problem::new(what).detail(lines.join("\n")).help(helps.join("\n")))
    }
}
