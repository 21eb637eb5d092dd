//! Connections of HTTP: accepted up to a bound, and closed when their peer neither sends a header nor takes an answer.
//!
//! File descriptors are shared with ingest and the engine, so peers of HTTP must never be able to use them up. The bound
//! is taken before a connection is accepted: past it they wait in the kernel's backlog.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};

use crate::HttpConfig;

/// Serves until `stopped` says so, and then until the answers under way have come to an end. Dropped before, it cuts
/// them off.
pub async fn serve(mut listener: TcpListener, router: Router, config: HttpConfig, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    let each = stopped.clone();
    loop {
        // Those that have ended; there are never more than places.
        while connections.try_join_next().is_some() {}
        let (place, stream) = tokio::select! {
            () = stop(&mut stopped) => break,
            accepted = accept(&mut listener, &places) => match accepted {
                Some(accepted) => accepted,
                None => break,
            },
        };
        connections.spawn(connection(stream, place, router.clone(), config.clone(), each.clone()));
    }
    // From here on new connections are refused instead of left waiting.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Returns when the server is to stop.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    // A sender that is gone means stop as well. What is returned is a lock, so it is let go at once.
    let _ = stopped.wait_for(|stop| *stop).await.is_ok();
}

/// A place, and then a connection for it. `None` would mean that the semaphore is closed, which it never is.
async fn accept(listener: &mut TcpListener, places: &Arc<Semaphore>) -> Option<(OwnedSemaphorePermit, TcpStream)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    // axum's: it waits and tries again when the process is out of file descriptors.
    let (stream, _) = Listener::accept(listener).await;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY is not set");
    }
    Some((place, stream))
}

async fn connection(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    router: Router,
    config: HttpConfig,
    mut stopped: watch::Receiver<bool>,
) {
    let stream = TokioIo::new(Unstalled::new(stream, config.stall_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .serve_connection(stream, TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
    drop(place);
}

/// A connection whose writes fail once the peer has taken nothing for too long. Without it a peer that stops reading
/// keeps its connection for ever: the answer's own time says nothing to what waits in the socket.
struct Unstalled {
    stream: TcpStream,
    stall_max: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Unstalled {
    fn new(stream: TcpStream, stall_max: Duration) -> Self {
        Self { stream, stall_max, waiting: None }
    }

    fn watched(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let stall_max = self.stall_max;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(stall_max)));
        waiting.as_mut().poll(context).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl AsyncRead for Unstalled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Unstalled {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
