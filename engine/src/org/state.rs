//! An organisation's state as a value, and the ways in which it changes.
//!
//! Each change touches its part alone and is made from the state that it replaces, so that the writer's and the flush's
//! may come in any order. Generic, so that `engine/tests/loom` proves them without manifests and buffers.

use std::sync::Arc;

/// What an organisation's readings are at one instant: segments, then frozen buffers (oldest first), then the active
/// one. Every acknowledged reading is in exactly one of them, as long as the state is whole.
#[derive(Debug)]
pub(crate) struct State<M, B> {
    pub(crate) manifest: Arc<M>,
    pub(crate) frozen: Vec<Arc<B>>,
    pub(crate) active: Arc<B>,
    /// Whether all acknowledged readings are in it: of an organisation in trouble some can be in carried files.
    pub(crate) whole: bool,
}

impl<M, B> State<M, B> {
    /// All buffers, oldest first.
    pub(crate) fn buffers(&self) -> impl DoubleEndedIterator<Item = &Arc<B>> {
        self.frozen.iter().chain(std::iter::once(&self.active))
    }

    /// The writer goes on with `active`; what it has written to so far is frozen.
    pub(crate) fn froze(&self, active: &Arc<B>) -> Self {
        Self {
            manifest: Arc::clone(&self.manifest),
            frozen: self.buffers().cloned().collect(),
            active: Arc::clone(active),
            whole: self.whole,
        }
    }

    /// The manifest is this one from now on.
    pub(crate) fn reloaded(&self, manifest: &Arc<M>) -> Self {
        Self {
            manifest: Arc::clone(manifest),
            frozen: self.frozen.clone(),
            active: Arc::clone(&self.active),
            whole: self.whole,
        }
    }

    /// The manifest is this one from now on, and has the rows of `buffer`, a frozen one.
    pub(crate) fn flushed(&self, manifest: &Arc<M>, buffer: &Arc<B>) -> Self {
        Self {
            manifest: Arc::clone(manifest),
            frozen: self.frozen.iter().filter(|frozen| !Arc::ptr_eq(frozen, buffer)).cloned().collect(),
            active: Arc::clone(&self.active),
            whole: self.whole,
        }
    }

    /// Frozen buffers leave, whose records are in carried files: the state is not whole any more.
    pub(crate) fn carried(&self, buffers: &[Arc<B>]) -> Self {
        let stays = |frozen: &&Arc<B>| !buffers.iter().any(|buffer| Arc::ptr_eq(frozen, buffer));
        Self {
            manifest: Arc::clone(&self.manifest),
            frozen: self.frozen.iter().filter(stays).cloned().collect(),
            active: Arc::clone(&self.active),
            whole: false,
        }
    }

    /// All acknowledged readings are in the state again.
    pub(crate) fn mended(&self) -> Self {
        Self {
            manifest: Arc::clone(&self.manifest),
            frozen: self.frozen.clone(),
            active: Arc::clone(&self.active),
            whole: true,
        }
    }
}
