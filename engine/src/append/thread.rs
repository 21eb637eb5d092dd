//! The threads that call the steps. They decide nothing.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;

use super::step::{AppendProgress, AppendStep};
use crate::error::{EngineError, EngineErrorKind};
use crate::wal::{WalDirectory, WalPrepareStep};

/// The pause after each mebibyte of a file that is made ahead: in it, blocks have the disk to themselves. Over a file of
/// 64 MiB the pauses are a quarter of a second; should the log grow by a whole file within that, the appender makes the
/// next one itself.
const BREATH: Duration = Duration::from_millis(4);

/// Runs the appender until the queue is closed or the WAL fails; then `ended` is told which.
pub(crate) fn spawn_appender(
    mut step: AppendStep,
    ended: impl FnOnce(Result<(), EngineError>) + Send + 'static,
) -> Result<JoinHandle<()>, EngineError> {
    step.start_disk_thread()?;
    spawn("icecore-append", move || {
        let result = loop {
            match step.run_once() {
                Ok(AppendProgress::Appended { .. }) => {}
                Ok(AppendProgress::Idle) => step.wait_for_work(),
                Ok(AppendProgress::Waiting(at_most)) => step.wait_for_retry(at_most),
                Ok(AppendProgress::Closed) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(step);
        ended(result);
    })
}

/// Makes WAL files ready ahead until the directory is dropped: hold the answered guard's other end open no longer than
/// the engine lives.
pub(crate) fn spawn_wal_preparer(
    step: WalPrepareStep,
    directory: &Arc<WalDirectory>,
) -> Result<(JoinHandle<()>, StopPreparer), EngineError> {
    let wanted = directory.wanted_prepared();
    let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
    let thread = spawn("icecore-wal-prepare", move || {
        // Cut short by the end of the engine.
        let breathe = || stopped.recv_timeout(BREATH) == Err(RecvTimeoutError::Timeout);
        loop {
            match step.run_gently(&breathe) {
                Ok(_) => {}
                // The appender makes the file itself when it needs it, and tells if it cannot.
                Err(error) => tracing::debug!(%error, "the next WAL file could not be made ahead"),
            }
            crossbeam_channel::select! {
                recv(wanted) -> _ => {}
                recv(stopped) -> _ => break,
            }
        }
    })?;
    Ok((thread, StopPreparer { _stop: stop }))
}

/// Ends the preparing thread when dropped.
#[derive(Debug)]
pub(crate) struct StopPreparer {
    _stop: crossbeam_channel::Sender<()>,
}

pub(super) fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, EngineError> {
    Builder::new().name(name.into()).spawn(body).map_err(|error| {
        EngineError::new(EngineErrorKind::Failed, "a thread could not be started", "Raise the limit of threads.")
            .at(name)
            .because(error)
    })
}
