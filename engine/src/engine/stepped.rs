//! An engine without threads: whoever holds it calls the steps, one at a time, in any order. This is how a simulation
//! has every interleaving in its hand; the steps are those that the threads call.

use std::io;
use std::sync::Arc;

use durable::Spawn;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::lock::DirectoryLock;
use super::open::Opened;
use super::{Engine, EngineParts};
use crate::append::{AppendProgress, AppendStep, Ordered};
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::wal::WalPrepareStep;

/// What a step of the appender did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Nothing waits.
    Idle,
    /// So many frames are durable, visible and acknowledged.
    Frames(usize),
    /// The WAL has no room.
    Waiting,
    /// The log is closed; there is nothing more to call.
    Closed,
}

/// An engine and its steps.
pub struct Stepped {
    engine: Arc<Engine>,
    append: AppendStep,
    prepare: WalPrepareStep,
    _lock: Arc<DirectoryLock>,
}

impl std::fmt::Debug for Stepped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stepped").field(&self.engine).finish()
    }
}

impl Stepped {
    /// As [`Engine::open`], but nothing runs by itself, and limits may be smaller than an operator may set them: the
    /// caller's frames must fit them.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open(config: EngineConfig, parts: EngineParts, spawn: Arc<dyn Spawn>) -> Result<Self, EngineError> {
        let Opened { core, mut append, prepare, lock } = Opened::open(config, parts, Arc::clone(&spawn), spawn).await?;
        append.take_order();
        let engine = Arc::new(Engine { core, threads: tokio::sync::Mutex::new(None) });
        Ok(Self { engine, append, prepare, _lock: lock })
    }

    /// The engine. Its `close` finds no threads and does nothing: use [`Stepped::begin_close`].
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The appender's step: one group.
    ///
    /// # Errors
    /// When the WAL cannot go on; the engine has stopped then.
    pub fn append(&mut self) -> Result<Appended, EngineError> {
        let core = &self.engine.core;
        let (appended, ended) = match self.append.run_once() {
            Ok(AppendProgress::Idle) => (Ok(Appended::Idle), false),
            Ok(AppendProgress::Appended { frames }) => (Ok(Appended::Frames(frames)), false),
            Ok(AppendProgress::Waiting(_)) => (Ok(Appended::Waiting), false),
            Ok(AppendProgress::Closed) => (Ok(Appended::Closed), true),
            Err(error) => {
                core.fail(&error);
                (Err(error), true)
            }
        };
        if ended {
            core.appender_ended.send_replace(true);
        }
        appended
    }

    /// Frames that [`Stepped::append`] has put into the log since the last call, in its order: organisations take turns,
    /// so it is not the order in which they came.
    pub fn take_order(&mut self) -> Vec<Ordered> {
        self.append.take_order()
    }

    /// The preparer's step: the next WAL file. Answers whether it made one.
    ///
    /// # Errors
    /// Of the file layer; it costs nothing.
    pub fn prepare(&self) -> io::Result<bool> {
        self.prepare.run_once()
    }

    /// The loop of maintenance: flushes, garbage collection, and whatever else the engine does in the background. It ends
    /// when `stop` says so, or with the engine.
    #[must_use]
    pub fn maintenance(&self, stop: watch::Receiver<bool>) -> BoxFuture<'static, ()> {
        let core = Arc::clone(&self.engine.core);
        async move {
            if let Err(error) = core.maintain(&stop).await {
                core.fail(&error);
            }
            core.flush_ended.send_replace(true);
        }
        .boxed()
    }

    /// Stops accepting. What is in the queue is still appended by [`Stepped::append`], which ends with
    /// [`Appended::Closed`].
    pub fn begin_close(&self) {
        self.engine.core.closing.store(true, std::sync::atomic::Ordering::Release);
        self.engine.core.queue.close();
    }
}
