//! The protocol on one connection: welcome, open, then frames to the server and responses from it at the same time.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream, WriteError};
use tokio::time::{sleep, timeout};

use super::config::ClientConfig;
use super::error::{ClientError, ConnectionFailure};
use super::session::ClientInner;
use crate::protocol::{ClientEvent, ClientSession, Message, Welcome, WelcomeSession, frame_head};
use storage_format::FrameSequence;

/// Bytes that are read from a stream at a time.
const READ_BYTES_MAX: usize = 16 << 10;
/// Frames that are passed to QUIC at a time.
const BATCH_FRAMES: usize = 32;
/// Time to wait for responses after the server has stopped reading.
const LAST_RESPONSES_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of the checks whether the patience has ended.
const PATIENCE_INTERVAL: Duration = Duration::from_millis(250);

/// Runs a connection. It ends without an error when every frame has a response and no more frames will follow.
pub(super) async fn run(
    shared: &ClientInner,
    config: &ClientConfig,
    connection: &Connection,
    was_connected: &mut bool,
) -> Result<(), ConnectionFailure> {
    let timed_out = |_| ConnectionFailure::Temporary("the server does not respond in time".into());
    let welcome = timeout(config.open_timeout, receive_welcome(connection)).await.map_err(timed_out)??;
    let (mut send, mut receive) = connection.open_bi().await?;
    let spool = shared.state().spool.id();
    send.write_all(&Message::Open { spool }.to_bytes()).await?;
    let mut responses = ResponseReader { session: ClientSession::new(), chunk: Bytes::new() };
    let opened = timeout(config.open_timeout, responses.next(&mut receive, || FrameSequence::ZERO));
    let durable = match opened.await.map_err(timed_out)?? {
        Some(ClientEvent::Opened { durable }) => durable,
        // The session returns no other event before `opened`.
        _ => return Err(ConnectionFailure::Temporary("the server ended the stream".into())),
    };
    let some_removed = shared.state().spool.resume(durable, &welcome);
    if some_removed {
        shared.responses_received();
        // Frames before the first that still waits are acknowledged; responses will follow for those after it.
        let first_waiting = shared.state().spool.waiting().next();
        let acknowledged = first_waiting.map_or(durable, |first| durable.min(FrameSequence::new(first.get() - 1)));
        if let Some(observer) = &config.observer {
            observer.acknowledged(acknowledged);
        }
    }
    shared.connected(std::mem::replace(was_connected, true));
    // The server may stop reading with a code, and still respond to the frames that it has accepted.
    let stop_code = OnceLock::new();
    let stopped = send.stopped();
    let stopped = async {
        if let Ok(Some(code)) = stopped.await {
            stop_code.get_or_init(|| code);
            sleep(LAST_RESPONSES_TIMEOUT).await;
        } else {
            // The stream is finished or lost, which the other branches notice.
            std::future::pending().await
        }
    };
    let ended = tokio::select! {
        biased;
        () = stopped => Err(ConnectionFailure::Temporary("the server stopped the stream".into())),
        sent = send_frames(shared, &mut send) => sent,
        ended = receive_responses(shared, config, &mut responses, &mut receive) => ended,
        ended = watch_patience(shared, config.patience) => ended,
    };
    match (ended, stop_code.get()) {
        (Err(ConnectionFailure::Temporary(_)), Some(code)) => Err(WriteError::Stopped(*code).into()),
        (ended, _) => ended,
    }
}

async fn receive_welcome(connection: &Connection) -> Result<Welcome, ConnectionFailure> {
    let mut receive = connection.accept_uni().await?;
    let mut session = WelcomeSession::new();
    while let Some(chunk) = receive.read_chunk(READ_BYTES_MAX, true).await? {
        if let Some(welcome) = session.receive(&mut &chunk.bytes[..])? {
            return Ok(welcome);
        }
    }
    Err(ConnectionFailure::Temporary("the server ended its stream before the welcome was complete".into()))
}

/// Reads responses from a stream.
struct ResponseReader {
    session: ClientSession,
    chunk: Bytes,
}

impl ResponseReader {
    /// Returns the next response; `None` when the server has ended the stream.
    async fn next(
        &mut self,
        receive: &mut RecvStream,
        sent: impl Fn() -> FrameSequence,
    ) -> Result<Option<ClientEvent>, ConnectionFailure> {
        loop {
            let mut input = &self.chunk[..];
            let event = self.session.receive(sent(), &mut input)?;
            self.chunk = self.chunk.split_off(self.chunk.len() - input.len());
            if event.is_some() {
                return Ok(event);
            }
            match receive.read_chunk(READ_BYTES_MAX, true).await? {
                Some(chunk) => self.chunk = chunk.bytes,
                None => return Ok(None),
            }
        }
    }
}

/// Sends the frames of the spool until all have a response and no more will follow.
async fn send_frames(shared: &ClientInner, send: &mut SendStream) -> Result<(), ConnectionFailure> {
    let mut chunks = Vec::with_capacity(2 * BATCH_FRAMES);
    loop {
        chunks.clear();
        let done = {
            let mut state = shared.state();
            while chunks.len() < 2 * BATCH_FRAMES
                && let Some((sequence, frame)) = state.spool.next_to_send()
            {
                chunks.push(Bytes::copy_from_slice(&frame_head(sequence, frame.len())));
                chunks.push(frame);
            }
            state.closing && state.spool.is_empty()
        };
        if done {
            // It fails only when the server has stopped the stream, which then needs no end.
            let _ = send.finish();
            return Ok(());
        }
        if chunks.is_empty() {
            shared.work.notified().await;
            continue;
        }
        match send.write_all_chunks(&mut chunks).await {
            Ok(()) => {}
            // The server may still respond to the frames that it has accepted; the other half waits for these
            // responses.
            Err(WriteError::Stopped(_)) => std::future::pending().await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives responses until the server ends the stream.
async fn receive_responses(
    shared: &ClientInner,
    config: &ClientConfig,
    responses: &mut ResponseReader,
    receive: &mut RecvStream,
) -> Result<(), ConnectionFailure> {
    loop {
        // `sent_up_to` is read after each chunk has arrived, because a response is for a frame that was sent before.
        let event = responses.next(receive, || shared.state().spool.sent_up_to()).await?;
        match (&event, &config.observer) {
            (Some(ClientEvent::Acknowledged { up_to }), Some(observer)) => observer.acknowledged(*up_to),
            (Some(ClientEvent::Refused { sequence, code, .. }), Some(observer)) => observer.refused(*sequence, *code),
            _ => {}
        }
        {
            let mut state = shared.state();
            match event {
                None => return Err(ConnectionFailure::Temporary("the server ended the stream".into())),
                Some(ClientEvent::Acknowledged { up_to }) => state.spool.acknowledge(up_to),
                Some(ClientEvent::Refused { sequence, code, detail }) => state.spool.refuse(sequence, code, detail),
                // Cannot happen, because the session returns it only once.
                Some(ClientEvent::Opened { .. }) => {}
            }
        }
        shared.responses_received();
    }
}

/// Ends when frames have waited without any response for the whole patience.
async fn watch_patience(shared: &ClientInner, patience: Duration) -> Result<(), ConnectionFailure> {
    loop {
        sleep(PATIENCE_INTERVAL).await;
        let state = shared.state();
        if !state.spool.is_empty() && state.progress_at.elapsed() >= patience {
            let last = String::from("the server is connected and sends no responses");
            return Err(ConnectionFailure::Permanent(ClientError::GaveUp { patience, last }));
        }
    }
}
