//! One connection's conversation: welcome, open, then frames up and answers down at the same time.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream, WriteError};
use tokio::time::{sleep, timeout};

use super::accepted::AcceptedTimes;
use super::config::ClientConfig;
use super::error::{ClientError, Trouble};
use super::session::Shared;
use crate::protocol::{ClientEvent, ClientSession, Message, Welcome, WelcomeSession, frame_head};
use storage_format::FrameSequence;

/// What is taken from a stream at a time.
const READ_BYTES_MAX: usize = 16 << 10;
/// Frames given to QUIC at a time.
const FRAMES_AT_ONCE: usize = 32;
/// How long answers are waited for after the server has said that it reads no more.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How often it is looked whether the patience has ended.
const PATIENCE_TICK: Duration = Duration::from_millis(250);

/// Ends well when everything is answered and nothing more will come.
pub(super) async fn converse(
    shared: &Shared,
    config: &ClientConfig,
    connection: &Connection,
    was_connected: &mut bool,
) -> Result<(), Trouble> {
    let silent = |_| Trouble::Passing("the server does not answer in time".into());
    let welcome = timeout(config.open_timeout, welcome(connection)).await.map_err(silent)??;
    let accepted_times = AcceptedTimes::of(&welcome);
    let (mut send, mut receive) = connection.open_bi().await?;
    let spool = shared.state().spool.id();
    send.write_all(&Message::Open { spool }.to_bytes()).await?;
    let mut answers = Answers { session: ClientSession::new(), chunk: Bytes::new() };
    let opened = timeout(config.open_timeout, answers.next(&mut receive, || FrameSequence::ZERO));
    let durable = match opened.await.map_err(silent)?? {
        Some(ClientEvent::Opened { durable }) => durable,
        // The session tells nothing else before `opened`.
        _ => return Err(Trouble::Passing("the server ended the stream".into())),
    };
    let some_done = shared.state().spool.resume(durable, &welcome);
    if some_done {
        shared.answered();
        // Frames before the first that waits are done; past a gap the answers will tell.
        let first_waiting = shared.state().spool.waiting().next();
        let done = first_waiting.map_or(durable, |first| durable.min(FrameSequence::new(first.get() - 1)));
        if let Some(told) = &config.answers {
            told.answered(done);
        }
    }
    shared.connected(std::mem::replace(was_connected, true), accepted_times);
    // The server may say that it reads no more, and why, and still answer what it has taken.
    let why_stopped = OnceLock::new();
    let stopped = send.stopped();
    let stopped = async {
        if let Ok(Some(code)) = stopped.await {
            why_stopped.get_or_init(|| code);
            sleep(LAST_ANSWERS).await;
        } else {
            // Finished, or lost: the other halves tell.
            std::future::pending().await
        }
    };
    let ended = tokio::select! {
        biased;
        () = stopped => Err(Trouble::Passing("the server stopped the stream".into())),
        sent = send_frames(shared, &mut send) => sent,
        ended = take_answers(shared, config, &mut answers, &mut receive) => ended,
        ended = lose_patience(shared, config.patience) => ended,
    };
    match (ended, why_stopped.get()) {
        (Err(Trouble::Passing(_)), Some(code)) => Err(WriteError::Stopped(*code).into()),
        (ended, _) => ended,
    }
}

async fn welcome(connection: &Connection) -> Result<Welcome, Trouble> {
    let mut receive = connection.accept_uni().await?;
    let mut session = WelcomeSession::new();
    while let Some(chunk) = receive.read_chunk(READ_BYTES_MAX, true).await? {
        if let Some(welcome) = session.receive(&mut &chunk.bytes[..])? {
            return Ok(welcome);
        }
    }
    Err(Trouble::Passing("the server ended its welcome".into()))
}

struct Answers {
    session: ClientSession,
    chunk: Bytes,
}

impl Answers {
    async fn next(
        &mut self,
        receive: &mut RecvStream,
        sent: impl Fn() -> FrameSequence,
    ) -> Result<Option<ClientEvent>, Trouble> {
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

async fn send_frames(shared: &Shared, send: &mut SendStream) -> Result<(), Trouble> {
    let mut chunks = Vec::with_capacity(2 * FRAMES_AT_ONCE);
    loop {
        chunks.clear();
        let done = {
            let mut state = shared.state();
            while chunks.len() < 2 * FRAMES_AT_ONCE
                && let Some((sequence, frame)) = state.spool.next_to_send()
            {
                chunks.push(Bytes::copy_from_slice(&frame_head(sequence, frame.len())));
                chunks.push(frame);
            }
            state.closing && state.spool.is_empty()
        };
        if done {
            // It fails only when the server has stopped the stream: then there is nothing to finish.
            let _ = send.finish();
            return Ok(());
        }
        if chunks.is_empty() {
            shared.work.notified().await;
            continue;
        }
        match send.write_all_chunks(&mut chunks).await {
            Ok(()) => {}
            // What it has taken it may still answer, which the other half is listening for.
            Err(WriteError::Stopped(_)) => std::future::pending().await,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn take_answers(
    shared: &Shared,
    config: &ClientConfig,
    answers: &mut Answers,
    receive: &mut RecvStream,
) -> Result<(), Trouble> {
    loop {
        // Asked after each piece of the stream is there: an answer is for what was sent before.
        let event = answers.next(receive, || shared.state().spool.sent_up_to()).await?;
        match (&event, &config.answers) {
            (Some(ClientEvent::Acknowledged { up_to }), Some(told)) => told.answered(*up_to),
            (Some(ClientEvent::Refused { sequence, code, .. }), Some(told)) => told.refused(*sequence, *code),
            _ => {}
        }
        {
            let mut state = shared.state();
            match event {
                None => return Err(Trouble::Passing("the server ended the stream".into())),
                Some(ClientEvent::Acknowledged { up_to }) => state.spool.acknowledge(up_to),
                Some(ClientEvent::Refused { sequence, code, detail }) => state.spool.refuse(sequence, code, detail),
                // The session tells it once, which was before.
                Some(ClientEvent::Opened { .. }) => {}
            }
        }
        shared.answered();
    }
}

async fn lose_patience(shared: &Shared, patience: Duration) -> Result<(), Trouble> {
    loop {
        sleep(PATIENCE_TICK).await;
        let state = shared.state();
        if !state.spool.is_empty() && state.progress_at.elapsed() >= patience {
            let last = String::from("the server is there, and acknowledges nothing");
            return Err(Trouble::Permanent(ClientError::GaveUp { patience, last }));
        }
    }
}
