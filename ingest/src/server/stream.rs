//! One stream: a half that reads frames and hands them to the sink, and a half that sends answers back.
//!
//! The reading half takes nothing from the stream while the sink is full, or while the memory that all frames share is
//! taken: QUIC's flow control then holds the client back. What is in memory for this stream is one frame, of which all
//! but a datagram's worth is accounted for (`budget`), and its window.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{Chunk, ReadError, RecvStream, SendStream};
use storage_format::{Frame, FrameSequence, Millis, SpoolId};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::admission::{Live, Standing};
use super::answers::Answers;
use super::budget::{Held, Stage};
use super::endpoint::Shared;
use crate::error::{CloseCode, RefusalCode};
use crate::metrics;
use crate::ports::{AckSink, FrameStream, SinkError};
use crate::protocol::{FrameRefusal, ServerEvent, ServerSession, check_frame, decoded_bytes};

/// What is taken from the stream at a time.
const READ_BYTES_MAX: usize = 64 << 10;

/// Why a stream ends before its client ends it.
enum Cut {
    /// The client is gone, or took the stream back: there is nobody to tell.
    Gone,
    /// Close it with this code.
    Close(CloseCode, String),
}

pub(super) async fn serve(
    shared: Arc<Shared>,
    live: Arc<Live>,
    connected_at: Millis,
    mut send: SendStream,
    mut receive: RecvStream,
) {
    metrics::stream_opened();
    let answers = Arc::new(Answers::default());
    let mut reading = Reading {
        acks: Arc::clone(&answers) as Arc<dyn AckSink>,
        answers: &answers,
        shared: &shared,
        live: &live,
        connected_at,
        frames: None,
        refuses: None,
        receiving: None,
        held_back: Duration::ZERO,
        draining: shared.draining.subscribe(),
    };
    let read = async {
        match reading.run(&mut receive).await {
            // The client has said all it wanted to: what is left is to answer.
            Ok(()) => {
                answers.no_more();
                std::future::pending().await
            }
            Err(cut) => cut,
        }
    };
    let writing = AtomicBool::new(false);
    let ended = tokio::select! {
        cut = read => Err(cut),
        written = write_answers(&answers, &mut send, shared.limits.answer_timeout, &writing) => written,
    };
    metrics::stream_closed();
    let code = match ended {
        // When the server drains, the client may have more to say.
        Ok(()) => CloseCode::ShuttingDown,
        Err(Cut::Gone) => return,
        Err(Cut::Close(code, why)) => {
            metrics::stream_cut(match code {
                CloseCode::TooSlow => "slow",
                CloseCode::ProtocolViolation => "protocol",
                _ => "unavailable",
            });
            debug!(%code, %why, "stream cut");
            code
        }
    };
    // Each of these fails only when that half has ended already. Answers that are on their way are left to arrive,
    // unless the client breaks the protocol: then it must learn why even when it has nothing more to send. A message that
    // was cut off is never followed by the orderly end.
    let is_reset = code == CloseCode::ProtocolViolation || writing.load(Ordering::Relaxed);
    let _ = receive.stop(code.var_int());
    let _ = if is_reset { send.reset(code.var_int()) } else { send.finish() };
    if *shared.draining.borrow() {
        // Closing the connection drops what has not left yet: a shutdown waits for this stream until the client has it.
        let _ = timeout(shared.limits.answer_timeout, send.stopped()).await;
    }
}

struct Reading<'a> {
    acks: Arc<dyn AckSink>,
    answers: &'a Answers,
    shared: &'a Shared,
    live: &'a Live,
    connected_at: Millis,
    frames: Option<Box<dyn FrameStream>>,
    /// Once a frame was refused for who sends it, every later frame of the stream is refused, too: so a spool's durable
    /// number never passes over a frame whose refusal got lost.
    refuses: Option<RefusalCode>,
    /// The memory of the frame that is being collected.
    receiving: Option<Held>,
    /// How long this stream waited for memory in the midst of a message, which does not count as the client's time.
    held_back: Duration,
    draining: watch::Receiver<bool>,
}

impl Reading<'_> {
    async fn run(&mut self, receive: &mut RecvStream) -> Result<(), Cut> {
        let started = Instant::now();
        let limits = &self.shared.limits;
        let mut session =
            ServerSession::new(Duration::ZERO, limits.frame_bytes_max, limits.open_timeout, limits.message_timeout);
        loop {
            let deadline = session.deadline().map(|after| started + after + self.held_back);
            let Some(chunk) = self.read(receive, deadline, session.time_allowed()).await? else {
                if *self.draining.borrow() {
                    return Ok(());
                }
                return session.end().map_err(|error| Cut::Close(CloseCode::ProtocolViolation, error.to_string()));
            };
            let mut input = &chunk.bytes[..];
            while let Some(event) = session
                .receive(started.elapsed().saturating_sub(self.held_back), &mut input)
                .map_err(|error| Cut::Close(CloseCode::ProtocolViolation, error.to_string()))?
            {
                if !self.handle(event, session.spool()).await? {
                    return Ok(());
                }
            }
            drop(chunk);
            if let Some(bytes) = session.collecting()
                && self.receiving.is_none()
            {
                let since = Instant::now();
                self.receiving = self.hold(Stage::Receiving, bytes).await;
                self.held_back += since.elapsed();
                if self.receiving.is_none() {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for memory. `None`: the server drains.
    async fn hold(&mut self, stage: Stage, bytes: usize) -> Option<Held> {
        if let Some(held) = self.live.share.try_hold(stage, bytes) {
            return Some(held);
        }
        metrics::memory_waited(stage.name());
        tokio::select! {
            biased;
            _ = self.draining.wait_for(|draining| *draining) => None,
            held = self.live.share.hold(stage, bytes) => held,
        }
    }

    /// `None`: the client ended the stream, or the server drains.
    async fn read(
        &mut self,
        receive: &mut RecvStream,
        deadline: Option<Instant>,
        allowed: Duration,
    ) -> Result<Option<Chunk>, Cut> {
        let read = async {
            let chunk = receive.read_chunk(READ_BYTES_MAX, true);
            match deadline {
                Some(deadline) => timeout_at(deadline, chunk).await.map_err(|_| {
                    Cut::Close(CloseCode::TooSlow, format!("a message was not complete within {allowed:?}"))
                })?,
                None => chunk.await,
            }
            .map_err(|error: ReadError| {
                debug!(%error, "stream lost");
                Cut::Gone
            })
        };
        tokio::select! {
            biased;
            _ = self.draining.wait_for(|draining| *draining) => Ok(None),
            chunk = read => chunk,
        }
    }

    /// False: the server drains, read no further.
    async fn handle(&mut self, event: ServerEvent, spool: Option<SpoolId>) -> Result<bool, Cut> {
        let (sequence, refusal) = match event {
            ServerEvent::Open { spool } => {
                self.open(spool);
                return Ok(true);
            }
            ServerEvent::TooLarge { sequence, bytes } => (sequence, self.too_large(bytes)),
            ServerEvent::Frame { sequence, frame } => {
                let receiving = self.receiving.take();
                let Some(decoded) = self.hold(Stage::Decoded, decoded_bytes(&frame)).await else { return Ok(false) };
                drop(receiving);
                match self.check(sequence, frame, spool)? {
                    Ok(frame) => return self.submit(sequence, frame, decoded).await,
                    Err(refusal) => (sequence, refusal),
                }
            }
        };
        self.answers.refuse(sequence, refusal).await;
        Ok(true)
    }

    fn open(&mut self, spool: SpoolId) {
        let durable = match self.live.standing() {
            Standing::Good(identity) => {
                self.frames = Some(self.shared.sink.stream(identity, Arc::clone(&self.acks)));
                self.shared.sink.durable_sequence(identity, spool)
            }
            Standing::Refused(code) => {
                self.refuses = Some(code);
                FrameSequence::ZERO
            }
        };
        self.answers.opened(durable);
    }

    fn too_large(&self, bytes: u32) -> FrameRefusal {
        let most = self.shared.limits.frame_bytes_max;
        FrameRefusal { code: RefusalCode::TooLarge, detail: format!("{bytes} bytes, where {most} are accepted") }
    }

    fn check(
        &mut self,
        sequence: FrameSequence,
        bytes: Bytes,
        spool: Option<SpoolId>,
    ) -> Result<Result<Frame, FrameRefusal>, Cut> {
        if let Standing::Refused(code) = self.live.standing() {
            self.refuses = Some(code);
        }
        match self.answers.failure() {
            Some(Some(code)) => self.refuses = Some(code),
            Some(None) => return Err(unavailable("the sink failed a frame")),
            None => {}
        }
        if let Some(code) = self.refuses {
            return Ok(Err(FrameRefusal { code, detail: code.to_string() }));
        }
        let Some(spool) = spool else { return Err(before_open()) };
        // The clock of the welcome at least: a client may trust that what fits the welcome is not refused for its time.
        let now = (self.shared.now)().max(self.connected_at);
        Ok(check_frame(bytes, spool, sequence, &self.shared.times, now))
    }

    /// Waits for room while the sink is full. False: the server drains. The frame's memory is the sink's to count once
    /// it has taken it.
    async fn submit(&mut self, sequence: FrameSequence, frame: Frame, _decoded: Held) -> Result<bool, Cut> {
        let Some(frames) = &self.frames else { return Err(before_open()) };
        let (readings, bytes) = (frame.len(), frame.bytes().len());
        let before = self.answers.submitted();
        self.answers.submitting(sequence);
        let received = (self.shared.now)().whole_seconds();
        let mut submitted = frames.try_submit(received, frame);
        if let Err(SinkError::Full(frame)) = submitted {
            let since = Instant::now();
            let waiting = frames.submit(received, frame);
            submitted = tokio::select! {
                biased;
                _ = self.draining.wait_for(|draining| *draining) => {
                    self.answers.not_submitted(before);
                    return Ok(false);
                }
                submitted = waiting => submitted,
            };
            metrics::held_back(since.elapsed());
        }
        if let Err(error) = submitted {
            self.answers.not_submitted(before);
            return Err(match error {
                SinkError::Closed => Cut::Close(CloseCode::ShuttingDown, String::from("the sink is closed")),
                SinkError::Full(_) | SinkError::Unavailable => unavailable("the sink is unavailable"),
            });
        }
        self.shared.counters.taken(readings, bytes);
        Ok(true)
    }
}

/// The session tells no frame before `open`, and `open` sets one of `frames` and `refuses`.
fn before_open() -> Cut {
    Cut::Close(CloseCode::ProtocolViolation, String::from("a frame before open"))
}

fn unavailable(why: &str) -> Cut {
    Cut::Close(CloseCode::Unavailable, String::from(why))
}

/// Ends when everything is answered and the client has said that nothing more comes. `writing` is set for as long as a
/// message may have been sent in part.
async fn write_answers(
    answers: &Answers,
    send: &mut SendStream,
    answer_timeout: Duration,
    writing: &AtomicBool,
) -> Result<(), Cut> {
    let mut sent = 0;
    let mut out = BytesMut::new();
    loop {
        let taken = answers.take(&mut sent, &mut out);
        if !out.is_empty() {
            writing.store(true, Ordering::Relaxed);
            match timeout(answer_timeout, send.write_all(&out)).await {
                Ok(Ok(())) => {
                    writing.store(false, Ordering::Relaxed);
                    out.clear();
                }
                Ok(Err(error)) => {
                    debug!(%error, "stream lost");
                    return Err(Cut::Gone);
                }
                Err(_) => return Err(Cut::Close(CloseCode::TooSlow, String::from("answers are not being read"))),
            }
        }
        match taken {
            Ok(true) => return Ok(()),
            Ok(false) => answers.woken().await,
            Err(code) => return Err(Cut::Close(code, String::from("the sink failed a frame"))),
        }
    }
}
