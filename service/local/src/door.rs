//! The server's end of the local socket: who may come in, how many at once, and how a command is run and stopped.
//!
//! A command runs as a task of its own, which is aborted when the response is dropped: that happens as soon as the
//! command's process is gone.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use control::Caller;
use control::data_dir::{DataDir, DirLock};
use futures::Stream;
use futures::future::BoxFuture;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use problem::{Problem, Result};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::command::{Call, Resources, decode_call, run};
use crate::event::{Event, Events, EventsReader};
use crate::limits::{
    CALL_BYTES_MAX, CALL_TIMEOUT, COMMANDS_MAX, CONNECTIONS_MAX, READY_TIMEOUT, STOP_GRACE, TOLD_AFTER,
};
use crate::socket;

/// The path of the one endpoint. Its number changes when the shape of requests or events does.
pub(crate) const COMMANDS_PATH: &str = "/v1/commands";

/// What commands in a server work with, once it is ready.
pub type Serving = watch::Receiver<Option<Resources>>;

/// The open socket of a server.
#[derive(Debug)]
pub struct Door {
    data: DataDir,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Runs one command.
type Handler = Arc<dyn Fn(Call, Events) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// What all connections share.
#[derive(Clone)]
struct Shared {
    handler: Handler,
    /// User that may come in.
    user: u32,
    commands: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Door {
    /// Opens the socket in a data directory whose lock is held. Commands that come in wait until `serving` has something.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(data: &DataDir, _lock: &DirLock, serving: Serving) -> io::Result<Self> {
        let user = rustix::process::geteuid().as_raw();
        Self::with(data, user, Arc::new(move |call, events| Box::pin(serve(serving.clone(), call, events))))
    }

    fn with(data: &DataDir, user: u32, handler: Handler) -> io::Result<Self> {
        let listener = socket::listen(data)?;
        let (stop, stopped) = watch::channel(false);
        let shared = Shared { handler, user, commands: Arc::new(Semaphore::new(COMMANDS_MAX)), stopped };
        let task = tokio::spawn(accept(listener, shared));
        Ok(Self { data: data.clone(), stop, task })
    }

    /// Refuses further commands, and stops those that run: each says so to its caller.
    pub async fn close(self) {
        // First the name, so that whoever comes now waits for the next server.
        socket::unlink(&self.data);
        self.stop.send_replace(true);
        let mut task = self.task;
        if timeout(STOP_GRACE, &mut task).await.is_err() {
            task.abort();
        }
    }
}

async fn accept(listener: UnixListener, shared: Shared) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut stopped = shared.stopped.clone();
    let (door, closed) = (router(shared.clone()), Router::new().fallback(forbidden));
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let (place, accepted) = tokio::select! {
            () = stop(&mut stopped) => break,
            accepted = accepted => match accepted {
                Some(accepted) => accepted,
                None => break,
            },
        };
        match accepted {
            Ok((stream, _)) => {
                let router = if is_of_user(&stream, shared.user) { door.clone() } else { closed.clone() };
                connections.spawn(connection(stream, router, place, shared.stopped.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a command cannot be let in");
                tokio::time::sleep(TOLD_AFTER).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Returns when the server is to stop.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await.is_ok();
}

/// The file's mode keeps others out; what the kernel says of the peer holds for root, too, and for a changed mode.
fn is_of_user(stream: &UnixStream, user: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == user)
}

async fn connection(
    stream: UnixStream,
    router: Router,
    _place: OwnedSemaphorePermit,
    mut stopped: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CALL_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a command's connection ended early");
    }
}

fn router(shared: Shared) -> Router {
    Router::new().route(COMMANDS_PATH, post(command)).fallback(unknown).with_state(shared)
}

/// A response that is an error from its beginning.
fn refusal(status: StatusCode, problem: Problem) -> Response {
    (status, [(header::CONTENT_TYPE, "application/x-ndjson")], line(&Event::end(Err(problem)))).into_response()
}

async fn forbidden() -> Response {
    let user = rustix::process::geteuid().as_raw();
    let problem = Problem::new("the server on this data directory runs as another user")
        .detail(format!("its user has the number {user}"))
        .help("run the command as that user, for example with `sudo -u`");
    refusal(StatusCode::FORBIDDEN, problem)
}

async fn unknown() -> Response {
    let problem = Problem::new("the running server does not know this command")
        .help("the command and the running server must be of the same version of icecore");
    refusal(StatusCode::NOT_FOUND, problem)
}

async fn command(State(shared): State<Shared>, request: Request) -> Response {
    let body = timeout(CALL_TIMEOUT, to_bytes(request.into_body(), CALL_BYTES_MAX)).await;
    let call = match body {
        Ok(Ok(bytes)) => decode_call(&bytes),
        Ok(Err(error)) => Err(Problem::new("the request cannot be read").detail(error).help("name fewer files")),
        Err(_) => Err(Problem::new("the request did not come in time")),
    };
    let call = match call {
        Ok(call) => call,
        Err(problem) => return refusal(StatusCode::BAD_REQUEST, problem),
    };
    let Ok(permit) = Arc::clone(&shared.commands).try_acquire_owned() else {
        let problem = Problem::new(format!("{COMMANDS_MAX} commands are running on this server already"))
            .help("run it again when one of them has ended");
        return refusal(StatusCode::SERVICE_UNAVAILABLE, problem);
    };
    let (events, reader) = Events::channel();
    let Shared { handler, mut stopped, .. } = shared;
    let task = tokio::spawn(async move {
        let ended = tokio::select! {
            ended = handler(call, events.clone()) => ended,
            () = stop(&mut stopped) => Err(Problem::new("the server is stopping, and this command with it")
                .help("run it again: it finishes what is left")),
        };
        events.send(Event::end(ended)).await;
        drop(permit);
    });
    let body = Body::from_stream(Lines { reader, command: task.abort_handle() });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// Runs one command, once the server is ready.
async fn serve(mut serving: Serving, call: Call, events: Events) -> Result<()> {
    // The number is the kernel's: it is this process's own.
    let caller = Caller::command(rustix::process::geteuid().as_raw(), call.user);
    let context = ready(&mut serving, &events).await?.for_caller(caller);
    run(&context, call.command, &events).await
}

async fn ready(serving: &mut Serving, events: &Events) -> Result<Resources> {
    let still_starting = || {
        Problem::new("the server is still starting")
            .detail("it recovers what was acknowledged before its last end")
            .help("run the command again when /readyz says that it is ready")
    };
    if timeout(TOLD_AFTER, serving.wait_for(Option::is_some)).await.is_err() {
        events.note("the server is starting; waiting for it").await;
        timeout(READY_TIMEOUT, serving.wait_for(Option::is_some)).await.map_err(|_| still_starting())?.ok();
    }
    let resources = serving.borrow().clone();
    resources.ok_or_else(still_starting)
}

/// Events as lines of JSON.
struct Lines {
    reader: EventsReader,
    command: AbortHandle,
}

fn line(event: &Event) -> Bytes {
    // Events hold texts, numbers and JSON: nothing that JSON does not have.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

impl Stream for Lines {
    type Item = std::result::Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.reader.poll_next(context).map(|event| event.map(|event| Ok(line(&event))))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.command.abort();
    }
}

#[cfg(test)]
mod tests;
