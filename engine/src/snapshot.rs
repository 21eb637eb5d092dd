//! What an organisation's readings are at one instant: a manifest version and the write buffers beside it.
//!
//! Taken by one load of the organisation's state, then the lengths of its buffers: every reading acknowledged before
//! is in it exactly once, and what is in it is a prefix of what was acknowledged. It holds the memory of its buffers
//! while it lives.

use std::sync::Arc;

use storage_format::manifest::Manifest;
use storage_format::{ChannelCode, OrgId};

use crate::buffer::{BufferView, WriteBuffer};
use crate::org::Org;

/// One organisation's readings at one instant.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Organisation.
    pub org: OrgId,
    /// The segments.
    pub manifest: Arc<Manifest>,
    /// The write buffers, oldest first, without empty ones. Segments take precedence over all of them, an earlier one
    /// over a later one, within one the first to arrive.
    pub buffers: Vec<BufferView>,
}

impl Snapshot {
    /// Looks at the organisation now; `None` while some of its readings are in carried files.
    pub(crate) fn take(org: &Org) -> Option<Self> {
        let state = org.state();
        if !state.whole {
            return None;
        }
        let buffers = state.buffers().map(WriteBuffer::view).filter(|view| !view.is_empty()).collect();
        Some(Self { org: org.id(), manifest: Arc::clone(&state.manifest), buffers })
    }

    /// Every channel that the organisation has used, by ascending code.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelCode> {
        let mut channels: Vec<ChannelCode> = self.manifest.channels().into_iter().collect();
        channels.extend(self.buffers.iter().flat_map(BufferView::channels));
        channels.sort_unstable();
        channels.dedup();
        channels
    }

    /// Rows in the write buffers, repeated ones too.
    #[must_use]
    pub fn buffered_rows(&self) -> usize {
        self.buffers.iter().map(BufferView::rows).sum()
    }
}
