//! Sends readings as a gateway: packs them into frames, remembers where each frame began, and reports what became of
//! them.
//!
//! A frame is refused as a whole, so readings outside of the times that the server accepts are left out before one is
//! packed. If a frame is refused for its times all the same, it is repacked without the readings that are at fault.
//!
//! Owns the packing and the report; the wire, the resending and the reconnecting are the client library's.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ingest::client::{AcceptedTimes, Client, ClientConfig, ClientError, Identity, Progress, ResponseObserver, Summary};
use storage_format::{ChannelCode, FrameBuildError, FrameBuilder, FrameSequence, LoggerId, Millis};
use tokio::sync::watch;

use problem::{Context, Problem, Result, chain};

mod frames;
mod outcome;
mod repack;

use frames::{Frames, SentFrame};
pub use outcome::{LateRefusal, Outcome, counted, pace, per_second};
use repack::{Unpacked, unpack};

/// Readings in a frame, unless told otherwise: one frame is one sync at low load, and a few tens of KiB.
pub const FRAME_READINGS: usize = 4_096;

/// Readings that were refused for their times and are listed one by one; more are only counted.
const LATE_MAX: usize = 1_000;

/// Where a reading came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Which of the files, from 0.
    pub file: usize,
    /// The line of a file, or the number in a simulation, from 1.
    pub line: u64,
    /// Its time.
    pub time: Millis,
}

/// What [`Sender::push`] did with a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It will be sent.
    Taken,
    /// The server accepts no readings before this time.
    TooEarly(Millis),
    /// The server accepts no readings after this time.
    TooLate(Millis),
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
    frames: Arc<Frames>,
    taken: u64,
    left_out: u64,
    /// Frames that were refused and whose good readings were sent again, and how many readings they had.
    repacked: HashSet<FrameSequence>,
    repacked_readings: u64,
    sent_again: u64,
    late: Vec<LateRefusal>,
    late_readings: u64,
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
        let frames = Arc::<Frames>::default();
        let observer = Some(Arc::clone(&frames) as Arc<dyn ResponseObserver>);
        let config = ClientConfig { patience, observer, ..ClientConfig::new(server, loaded) };
        Ok(Self {
            config,
            client: None,
            failed: None,
            builder: FrameBuilder::new(),
            frame_readings,
            begins: None,
            frames,
            taken: 0,
            left_out: 0,
            repacked: HashSet::new(),
            repacked_readings: 0,
            sent_again: 0,
            late: Vec::new(),
            late_readings: 0,
            started: None,
        })
    }

    /// Takes one reading, or leaves it out when the server does not accept its time; connects before the first, and
    /// waits while too much is on its way.
    ///
    /// # Errors
    /// When it can be part of no frame, or when the client has ended; [`Sender::finish`] tells the rest.
    pub async fn push(&mut self, origin: Origin, logger: LoggerId, samples: &[(ChannelCode, f64)]) -> Result<Pushed> {
        let time = origin.time;
        if self.client.is_none() {
            self.connect().await?;
        }
        if let Some(accepted) = self.accepted_times()
            && !accepted.surely_contains(time)
        {
            let left_out = if time < accepted.time_min() {
                Some(Pushed::TooEarly(accepted.time_min()))
            } else {
                let time_max = accepted.time_max();
                (time > time_max).then_some(Pushed::TooLate(time_max))
            };
            if let Some(left_out) = left_out {
                self.left_out += 1;
                return Ok(left_out);
            }
        }
        if self.builder.len() >= self.frame_readings {
            self.send().await?;
        }
        let cannot = || format!("line {} cannot be sent", origin.line);
        match self.builder.push(logger, time, samples) {
            // The same logger and time again: what comes second is for the server to judge, in a frame of its own.
            Err(FrameBuildError::AlreadyThere | FrameBuildError::Full) if !self.builder.is_empty() => {
                self.send().await?;
                self.builder.push(logger, time, samples).context(cannot)?;
            }
            pushed => pushed.context(cannot)?,
        }
        self.begins.get_or_insert(origin);
        self.taken += 1;
        Ok(Pushed::Taken)
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

    fn accepted_times(&self) -> Option<AcceptedTimes> {
        self.client.as_ref()?.accepted_times()
    }

    async fn try_send(&mut self) -> std::result::Result<(), ClientError> {
        self.repack().await?;
        let Some(begins) = self.begins.take() else { return Ok(()) };
        let mut builder = std::mem::take(&mut self.builder);
        self.send_frame(&mut builder, begins).await
    }

    /// Sends a builder's readings as one frame.
    async fn send_frame(&mut self, builder: &mut FrameBuilder, begins: Origin) -> std::result::Result<(), ClientError> {
        let frames = Arc::clone(&self.frames);
        let client = self.client().await?;
        // Before the frame is encoded, so that its number is the next.
        client.ready().await?;
        let used_up = || ClientError::Frame("sequence numbers are used up".into());
        let sequence = client.next_sequence().ok_or_else(used_up)?;
        let bytes = builder.encode(client.spool(), sequence);
        // Before it is sent, so that no answer comes first.
        frames.add(sequence, SentFrame { bytes: bytes.clone(), begins });
        client.send_encoded(bytes).await?;
        Ok(())
    }

    /// Sends the good readings of frames that were refused for their times again, and notes the others.
    async fn repack(&mut self) -> std::result::Result<(), ClientError> {
        for (sequence, frame) in self.frames.take_refused_for_time() {
            let unpacked = self.accepted_times().and_then(|accepted| unpack(&frame, &accepted));
            let Some((good, bad)) = unpacked else {
                self.frames.keep_origin(sequence, frame.begins);
                continue;
            };
            self.repacked.insert(sequence);
            self.repacked_readings += (good.len() + bad.len()) as u64;
            self.late_readings += bad.len() as u64;
            let listed = LATE_MAX.saturating_sub(self.late.len());
            let begins = frame.begins;
            let refusal = |reading: Unpacked| LateRefusal { logger: reading.logger, time: reading.time, begins };
            self.late.extend(bad.into_iter().take(listed).map(refusal));
            let mut builder = FrameBuilder::new();
            for reading in &good {
                // They were in one frame before, so they fit into one.
                let pushed = builder.push(reading.logger, reading.time, &reading.samples);
                pushed.map_err(|error| ClientError::Frame(error.to_string()))?;
            }
            if !builder.is_empty() {
                self.sent_again += good.len() as u64;
                self.send_frame(&mut builder, begins).await?;
            }
        }
        Ok(())
    }

    /// Waits until every frame has its answer.
    async fn all_answered(&mut self) -> std::result::Result<(), ClientError> {
        let Some(client) = &self.client else { return Ok(()) };
        let mut progress = client.progress();
        loop {
            // Fails once the client has ended.
            client.ready().await?;
            if progress.borrow_and_update().waiting_frames == 0 {
                return Ok(());
            }
            if progress.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Sends what is left, and again what has to be repacked, until all is answered.
    async fn send_rest(&mut self) -> std::result::Result<(), ClientError> {
        loop {
            self.try_send().await?;
            self.all_answered().await?;
            let sent_again = self.sent_again;
            self.repack().await?;
            if self.sent_again == sent_again {
                return Ok(());
            }
        }
    }

    /// Sends what is left and waits until all is answered.
    pub async fn finish(mut self) -> Outcome {
        if self.failed.is_none() {
            let sent = self.send_rest().await;
            // The error is kept, and told below.
            let _ = self.keep(sent);
        }
        let mut outcome = Outcome {
            acknowledged_readings: 0,
            acknowledged_frames: 0,
            refused_readings: 0,
            refused: Vec::new(),
            left_out_readings: self.left_out,
            late_readings: self.late_readings,
            late: std::mem::take(&mut self.late),
            unanswered_readings: self.taken,
            reconnects: 0,
            elapsed: Duration::ZERO,
            error: self.failed.clone(),
        };
        let Some(client) = self.client.take() else { return outcome };
        let (summary, error): (Summary, _) = match client.finish().await {
            Ok(summary) => (summary, self.failed),
            Err(failure) => (failure.summary, Some(failure.error)),
        };
        let answered = summary.acknowledged_readings + summary.refused_readings;
        let refused = summary.refused.into_iter().filter(|frame| !self.repacked.contains(&frame.sequence));
        outcome.acknowledged_readings = summary.acknowledged_readings;
        outcome.acknowledged_frames = summary.acknowledged_frames;
        outcome.refused_readings = summary.refused_readings.saturating_sub(self.repacked_readings);
        outcome.refused = refused.map(|frame| (frame.clone(), self.frames.origin(frame.sequence))).collect();
        outcome.unanswered_readings = (self.taken + self.sent_again).saturating_sub(answered);
        outcome.reconnects = summary.reconnects;
        outcome.elapsed = self.started.map_or(Duration::ZERO, |started| started.elapsed());
        outcome.error = error;
        outcome
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
