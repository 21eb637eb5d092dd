//! One stream: a half that reads frames and submits them to the sink, and a half that sends responses.
//!
//! The reading half does not read while the sink is full, or while the memory budget of all frames is used up, so that
//! QUIC's flow control blocks the client. The stream's memory is its receive window and one frame, of which all but
//! about one datagram is reserved in the `budget`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{Chunk, ReadError, RecvStream, SendStream};
use storage_format::{Frame, FrameSequence, Millis, SpoolId};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::admission::{LiveConnection, Standing};
use super::budget::{Reservation, Stage};
use super::endpoint::Shared;
use super::responses::Responses;
use crate::error::{CloseCode, RefusalCode};
use crate::metrics;
use crate::ports::{AckSink, FrameStream, SinkError};
use crate::protocol::{FrameRefusal, ServerEvent, ServerSession, check_frame, decoded_bytes};

/// Bytes that are read from the stream at a time.
const READ_BYTES_MAX: usize = 64 << 10;

/// Reason for ending a stream before its client does.
enum Abort {
    /// The client is gone, or has reset the stream.
    Lost,
    /// The server closes the stream with this code and this detail for the log.
    Close(CloseCode, String),
}

pub(super) async fn serve(
    shared: Arc<Shared>,
    live: Arc<LiveConnection>,
    connected_at: Millis,
    mut send: SendStream,
    mut receive: RecvStream,
) {
    let open = metrics::OpenStream::new();
    let responses = Arc::new(Responses::default());
    let mut reader = StreamReader {
        acks: Arc::clone(&responses) as Arc<dyn AckSink>,
        responses: &responses,
        shared: &shared,
        live: &live,
        connected_at,
        frames: None,
        refuse_all: None,
        receiving: None,
        blocked: Duration::ZERO,
        draining: shared.draining.subscribe(),
    };
    let read = async {
        match reader.run(&mut receive).await {
            // The client has sent everything, or the server drains: only responses are left to send.
            Ok(()) => {
                responses.end_input();
                std::future::pending().await
            }
            Err(abort) => abort,
        }
    };
    let writing = AtomicBool::new(false);
    let ended = tokio::select! {
        abort = read => Err(abort),
        written = write_responses(&responses, &mut send, shared.limits.answer_timeout, &writing) => written,
    };
    drop(open);
    let code = match ended {
        // When the server drains, the client may have more to send.
        Ok(()) => CloseCode::ShuttingDown,
        Err(Abort::Lost) => return,
        Err(Abort::Close(code, why)) => {
            metrics::stream_cut(match code {
                CloseCode::TooSlow => "slow",
                CloseCode::ProtocolViolation => "protocol",
                _ => "unavailable",
            });
            debug!(%code, %why, "stream closed by the server");
            code
        }
    };
    // Each of these fails only when that half has ended already. Responses in flight may still arrive, unless the
    // client violated the protocol: then the stream is reset, because the client must learn the reason even when it has
    // nothing more to send.
    // A message that was cut off is never followed by the orderly end.
    let is_reset = code == CloseCode::ProtocolViolation || writing.load(Ordering::Relaxed);
    let _ = receive.stop(code.var_int());
    let _ = if is_reset { send.reset(code.var_int()) } else { send.finish() };
    if *shared.draining.borrow() {
        // Closing the connection drops responses that were not sent yet, so a shutdown waits for this stream until the
        // client has received them.
        let _ = timeout(shared.limits.answer_timeout, send.stopped()).await;
    }
}

/// The reading half of a stream.
struct StreamReader<'a> {
    acks: Arc<dyn AckSink>,
    responses: &'a Responses,
    shared: &'a Shared,
    live: &'a LiveConnection,
    connected_at: Millis,
    frames: Option<Box<dyn FrameStream>>,
    /// Code that every further frame is refused with, once a frame was refused because of its sender. So a spool's
    /// durable number never exceeds that of a frame whose refusal was lost.
    refuse_all: Option<RefusalCode>,
    /// Memory of the incomplete frame.
    receiving: Option<Reservation>,
    /// Time that this stream waited for memory inside messages, which does not count as the client's time.
    blocked: Duration,
    draining: watch::Receiver<bool>,
}

impl StreamReader<'_> {
    /// Reads until the client ends the stream, or the server drains.
    async fn run(&mut self, receive: &mut RecvStream) -> Result<(), Abort> {
        let started = Instant::now();
        let limits = &self.shared.limits;
        let mut session =
            ServerSession::new(Duration::ZERO, limits.frame_bytes_max, limits.open_timeout, limits.message_timeout);
        loop {
            let deadline = session.deadline().map(|after| started + after + self.blocked);
            let Some(chunk) = self.read(receive, deadline, session.time_allowed()).await? else {
                if *self.draining.borrow() {
                    return Ok(());
                }
                return session.end().map_err(|error| Abort::Close(CloseCode::ProtocolViolation, error.to_string()));
            };
            let mut input = &chunk.bytes[..];
            while let Some(event) = session
                .receive(started.elapsed().saturating_sub(self.blocked), &mut input)
                .map_err(|error| Abort::Close(CloseCode::ProtocolViolation, error.to_string()))?
            {
                if !self.handle(event, session.spool()).await? {
                    return Ok(());
                }
            }
            drop(chunk);
            if let Some(bytes) = session.incomplete_frame_bytes()
                && self.receiving.is_none()
            {
                let since = Instant::now();
                self.receiving = self.reserve(Stage::Receiving, bytes).await;
                self.blocked += since.elapsed();
                if self.receiving.is_none() {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for memory. Returns `None` when the server drains.
    async fn reserve(&mut self, stage: Stage, bytes: usize) -> Option<Reservation> {
        if let Some(reservation) = self.live.share.try_reserve(stage, bytes) {
            return Some(reservation);
        }
        metrics::memory_waited(stage.name());
        tokio::select! {
            biased;
            _ = self.draining.wait_for(|draining| *draining) => None,
            reservation = self.live.share.reserve(stage, bytes) => reservation,
        }
    }

    /// Reads the next chunk. Returns `None` when the client has ended the stream, or the server drains.
    async fn read(
        &mut self,
        receive: &mut RecvStream,
        deadline: Option<Instant>,
        allowed: Duration,
    ) -> Result<Option<Chunk>, Abort> {
        let read = async {
            let chunk = receive.read_chunk(READ_BYTES_MAX, true);
            match deadline {
                Some(deadline) => timeout_at(deadline, chunk).await.map_err(|_| {
                    Abort::Close(CloseCode::TooSlow, format!("a message was not complete within {allowed:?}"))
                })?,
                None => chunk.await,
            }
            .map_err(|error: ReadError| {
                debug!(%error, "stream lost");
                Abort::Lost
            })
        };
        tokio::select! {
            biased;
            _ = self.draining.wait_for(|draining| *draining) => Ok(None),
            chunk = read => chunk,
        }
    }

    /// Handles an event. Returns false when the server drains and no further event may be read.
    async fn handle(&mut self, event: ServerEvent, spool: Option<SpoolId>) -> Result<bool, Abort> {
        let (sequence, refusal) = match event {
            ServerEvent::Open { spool } => {
                self.open(spool);
                return Ok(true);
            }
            ServerEvent::TooLarge { sequence, bytes } => (sequence, self.too_large(bytes)),
            ServerEvent::Frame { sequence, frame } => {
                let receiving = self.receiving.take();
                let Some(decoded) = self.reserve(Stage::Decoded, decoded_bytes(&frame)).await else { return Ok(false) };
                drop(receiving);
                match self.check(sequence, frame, spool)? {
                    Ok(frame) => return self.submit(sequence, frame, decoded).await,
                    Err(refusal) => (sequence, refusal),
                }
            }
        };
        self.responses.refuse(sequence, refusal).await;
        Ok(true)
    }

    fn open(&mut self, spool: SpoolId) {
        let durable = match self.live.standing() {
            Standing::Good(identity) => {
                self.frames = Some(self.shared.sink.stream(identity, Arc::clone(&self.acks)));
                self.shared.sink.durable_sequence(identity, spool)
            }
            Standing::Refused(code) => {
                self.refuse_all = Some(code);
                FrameSequence::ZERO
            }
        };
        self.responses.opened(durable);
    }

    fn too_large(&self, bytes: u32) -> FrameRefusal {
        let accepted = self.shared.limits.frame_bytes_max;
        FrameRefusal { code: RefusalCode::TooLarge, detail: format!("{bytes} bytes, where {accepted} are accepted") }
    }

    fn check(
        &mut self,
        sequence: FrameSequence,
        bytes: Bytes,
        spool: Option<SpoolId>,
    ) -> Result<Result<Frame, FrameRefusal>, Abort> {
        if let Standing::Refused(code) = self.live.standing() {
            self.refuse_all = Some(code);
        }
        match self.responses.failure() {
            Some(Some(code)) => self.refuse_all = Some(code),
            Some(None) => return Err(unavailable("the sink failed a frame")),
            None => {}
        }
        if let Some(code) = self.refuse_all {
            return Ok(Err(FrameRefusal { code, detail: code.to_string() }));
        }
        let Some(spool) = spool else { return Err(before_open()) };
        // Not before the time in the welcome, because a frame that fits the welcome must not be refused for its times.
        let now = (self.shared.now)().max(self.connected_at);
        Ok(check_frame(bytes, spool, sequence, &self.shared.times, now))
    }

    /// Submits a frame to the sink, and waits while the sink is full. Returns false when the server drains. The
    /// reservation ends with the submission, because the sink accounts for the frames that it has accepted.
    async fn submit(&mut self, sequence: FrameSequence, frame: Frame, _decoded: Reservation) -> Result<bool, Abort> {
        let Some(frames) = &self.frames else { return Err(before_open()) };
        let (readings, bytes) = (frame.len(), frame.bytes().len());
        let before = self.responses.submitted();
        self.responses.set_submitted(sequence);
        let received = (self.shared.now)().whole_seconds();
        let mut submitted = frames.try_submit(received, frame);
        if let Err(SinkError::Full(frame)) = submitted {
            let since = Instant::now();
            let submission = frames.submit(received, frame);
            submitted = tokio::select! {
                biased;
                _ = self.draining.wait_for(|draining| *draining) => {
                    self.responses.restore_submitted(before);
                    return Ok(false);
                }
                submitted = submission => submitted,
            };
            metrics::blocked_by_sink(since.elapsed());
        }
        if let Err(error) = submitted {
            self.responses.restore_submitted(before);
            return Err(match error {
                SinkError::Closed => Abort::Close(CloseCode::ShuttingDown, String::from("the sink is closed")),
                SinkError::Full(_) | SinkError::Unavailable => unavailable("the sink is unavailable"),
                SinkError::InTrouble => unavailable(
                    "a part of the organisation's stored data is damaged or missing: keep the frames and send them \
                     again; the operator of the server must restore it",
                ),
            });
        }
        self.shared.counters.accepted(readings, bytes);
        Ok(true)
    }
}

/// Returns an error that cannot happen, because the session returns no frame before `open`, and `open` sets `frames` or
/// `refuse_all`.
fn before_open() -> Abort {
    Abort::Close(CloseCode::ProtocolViolation, String::from("a frame before open"))
}

fn unavailable(why: &str) -> Abort {
    Abort::Close(CloseCode::Unavailable, String::from(why))
}

/// Sends responses until every submitted frame has one and no further frame will arrive. `writing` is set while a message
/// may have been sent in part.
async fn write_responses(
    responses: &Responses,
    send: &mut SendStream,
    answer_timeout: Duration,
    writing: &AtomicBool,
) -> Result<(), Abort> {
    let mut sent = 0;
    let mut out = BytesMut::new();
    loop {
        let encoded = responses.encode_pending(&mut sent, &mut out);
        if !out.is_empty() {
            writing.store(true, Ordering::Relaxed);
            match timeout(answer_timeout, send.write_all(&out)).await {
                Ok(Ok(())) => {
                    writing.store(false, Ordering::Relaxed);
                    out.clear();
                }
                Ok(Err(error)) => {
                    debug!(%error, "stream lost");
                    return Err(Abort::Lost);
                }
                Err(_) => {
                    return Err(Abort::Close(
                        CloseCode::TooSlow,
                        String::from("the client does not read its responses"),
                    ));
                }
            }
        }
        match encoded {
            Ok(true) => return Ok(()),
            Ok(false) => responses.changed().await,
            Err(code) => return Err(Abort::Close(code, String::from("the sink failed a frame"))),
        }
    }
}
