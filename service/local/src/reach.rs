//! The command's end: it reaches the server of a data directory, or has the directory for itself.
//!
//! Between a server's start and its socket, and between the end of the socket and that of the server, there is neither a
//! server to ask nor a free directory: that is waited for, for a bounded time.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;

use axum::body::Body;
use axum::http::{Request, header};
use bytes::{Buf, BytesMut};
use control::data_dir::{DataDir, DirLock};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use problem::{Context, Problem, Result};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::advice::Advise as _;
use crate::command::Call;
use crate::door::COMMANDS_PATH;
use crate::event::{Event, problem};
use crate::limits::{EVENT_BYTES_MAX, REACH_PAUSE, REACH_TIMEOUT, TOLD_AFTER};
use crate::socket;

/// Way to the engine of a data directory.
#[derive(Debug)]
pub enum Reached {
    /// Through a server that runs the command; its events come through this.
    Server(Box<Connection>),
    /// No server runs: the directory is this process's for as long as it has the lock.
    Free(DirLock),
}

/// A command that runs in a server.
#[derive(Debug)]
pub struct Connection {
    body: Incoming,
    /// What came and is no whole line yet.
    received: BytesMut,
    /// Bytes of it that have no line break.
    searched: usize,
    /// Carries the bytes; it ends with the connection.
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The server sees that nobody listens any more, and gives the command up.
        self.driver.abort();
    }
}

/// Reason for which no server took a command.
enum Absent {
    /// Perhaps one is there a moment later.
    Yet(Problem),
    /// Permanent: it will be so the next time, too.
    Refused(Problem),
}

async fn try_server(data: &DataDir, call: &Call) -> std::result::Result<Box<Connection>, Absent> {
    match socket::connect(data).await {
        Ok(stream) => {
            let body = serde_json::to_vec(call).map_err(|error| {
                Absent::Refused(
                    Problem::new("the command cannot be handed to the running server")
                        .detail(error)
                        .help("give files and directories names that are UTF-8; or stop the server, and run it again"),
                )
            })?;
            // A server that stops cuts off whom it has not let in yet.
            Connection::open(stream, body).await.map(Box::new).map_err(Absent::Yet)
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(Absent::Refused(
            Problem::new(format!("the server on {} runs as another user", data.path().display()))
                .detail(error)
                .help("run the command as that user, for example with `sudo -u`"),
        )),
        Err(error) => Err(Absent::Yet(Problem::new("it has no local socket").detail(error))),
    }
}

/// Hands a command to the server that runs on this directory, if one can be reached at once.
///
/// # Errors
/// When this is no data directory, or the server is another user's.
pub async fn ask(data: &DataDir, call: &Call) -> Result<Option<Box<Connection>>> {
    data.check().advise()?;
    match try_server(data, call).await {
        Ok(connection) => Ok(Some(connection)),
        Err(Absent::Yet(_)) => Ok(None),
        Err(Absent::Refused(problem)) => Err(problem),
    }
}

/// Hands a command to the server that runs on this directory, or takes the directory for this process. `told` hears once
/// that this takes its time.
///
/// # Errors
/// When neither works out in half a minute, or the server is another user's.
pub async fn reach(data: &DataDir, call: &Call, told: impl Fn(&str)) -> Result<Reached> {
    data.check().advise()?;
    let begun = Instant::now();
    let mut is_told = false;
    loop {
        let refused = match try_server(data, call).await {
            Ok(connection) => return Ok(Reached::Server(connection)),
            Err(Absent::Refused(problem)) => return Err(problem),
            Err(Absent::Yet(problem)) => problem,
        };
        let taken = match data.lock() {
            Ok(lock) => return Ok(Reached::Free(lock)),
            Err(error) if error.kind() == control::ErrorKind::Taken => error,
            Err(error) => return Err(error).advise(),
        };
        if begun.elapsed() >= REACH_TIMEOUT {
            let holder = taken.detail().unwrap_or_default();
            return Err(Problem::new(format!("{} is in use, and its user cannot be reached", data.path().display()))
                .detail(format!("{holder}\n{refused}"))
                .help(
                    "another command may have it: run this one again when that has ended. If it is a server, its log \
                     says why it has no local socket, or how far it is with its start",
                ));
        }
        if !is_told && begun.elapsed() >= TOLD_AFTER {
            is_told = true;
            told("waiting for a server that starts or stops, or for another command");
        }
        sleep(REACH_PAUSE).await;
    }
}

impl Connection {
    async fn open(stream: UnixStream, body: Vec<u8>) -> Result<Self> {
        let what = || "the server does not take the command".to_owned();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context(what)?;
        let driver = tokio::spawn(async move {
            // Whoever reads the response sees the same error.
            let _ = connection.await;
        });
        let request = Request::post(COMMANDS_PATH)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .context(what)?;
        let sent = tokio::select! {
            sent = sender.send_request(request) => sent.context(what),
            () = sleep_until(Instant::now() + REACH_TIMEOUT) => Err(Problem::new(what()).detail("it does not answer")),
        };
        match sent {
            Ok(response) => Ok(Self { body: response.into_body(), received: BytesMut::new(), searched: 0, driver }),
            Err(error) => {
                driver.abort();
                Err(error)
            }
        }
    }

    /// The next event; `None` after the last one.
    ///
    /// # Errors
    /// What the command ended with, or that the server went away before it did.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        let cut_off = || {
            Problem::new("the server ended before this command did")
                .help("start it again (`icecore serve`), and run the command again: it finishes what is left")
        };
        loop {
            if let Some(end) = self.received[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.received.split_to(self.searched + end);
                self.received.advance(1);
                self.searched = 0;
                let event = serde_json::from_slice(&line).map_err(|error| {
                    Problem::new("the running server answers in a way that this command does not understand")
                        .detail(error)
                        .help("the command and the running server must be of the same version of icecore")
                })?;
                return match event {
                    Event::Done => Ok(None),
                    Event::Failed { what, detail, help } => Err(problem(what, detail, help)),
                    event => Ok(Some(event)),
                };
            }
            self.searched = self.received.len();
            if self.searched > EVENT_BYTES_MAX {
                return Err(Problem::new(format!("the server's answer is longer than {EVENT_BYTES_MAX} bytes")));
            }
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            match frame {
                None => return Err(cut_off()),
                Some(Err(error)) => return Err(cut_off().detail(problem::chain(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
