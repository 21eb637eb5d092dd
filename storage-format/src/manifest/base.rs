//! The manifest's state after some version.

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::{SegmentEntry, SpoolPosition, Totals};
use crate::{
    ChannelCode, FlushNumber, FrameSequence, GatewayId, Lsn, ManifestVersion, SpoolId, TimeRange, Window, WriterEpoch,
};

/// How far a spool got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpoolState {
    /// The highest sequence number that is in segments.
    pub sequence: FrameSequence,
    /// The last WAL record that came from it.
    pub lsn: Lsn,
}

/// An organisation's manifest at one version.
///
/// Invariants, which [`Manifest::apply`] keeps and decoding checks: segments and conflicts are
/// in ascending order of (window, first flush, id); ids are unique; no flush number is past `flush`; every spool's LSN
/// is covered; a gateway has at most [`SPOOLS_PER_GATEWAY_MAX`](crate::manifest::SPOOLS_PER_GATEWAY_MAX) spools.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    pub(super) version: ManifestVersion,
    pub(super) epoch: WriterEpoch,
    pub(super) lsn_covered: Lsn,
    pub(super) flush: FlushNumber,
    pub(super) segments: Vec<SegmentEntry>,
    pub(super) conflicts: Vec<SegmentEntry>,
    pub(super) spools: BTreeMap<(GatewayId, SpoolId), SpoolState>,
    pub(super) totals: Totals,
}

impl Manifest {
    /// The state before the first commit: version 0, nothing in it.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The last commit that is in it.
    #[must_use]
    pub const fn version(&self) -> ManifestVersion {
        self.version
    }

    /// The epoch of the last writer.
    #[must_use]
    pub const fn epoch(&self) -> WriterEpoch {
        self.epoch
    }

    /// Every WAL record of the organisation up to and including this one is in segments.
    #[must_use]
    pub const fn lsn_covered(&self) -> Lsn {
        self.lsn_covered
    }

    /// The number of the last flush.
    #[must_use]
    pub const fn flush(&self) -> FlushNumber {
        self.flush
    }

    /// The live segments, by (window, first flush, id): within a window in order of precedence.
    #[must_use]
    pub fn segments(&self) -> &[SegmentEntry] {
        &self.segments
    }

    /// The live conflicts objects, by (window, first flush, id).
    #[must_use]
    pub fn conflicts(&self) -> &[SegmentEntry] {
        &self.conflicts
    }

    /// The live segments of a window, in order of precedence.
    pub fn segments_in(&self, window: Window) -> impl Iterator<Item = &SegmentEntry> {
        self.segments.iter().filter(move |entry| entry.window == window)
    }

    /// The live segments that may have a row in this range of time, by (window, first flush, id).
    pub fn segments_overlapping(&self, range: TimeRange) -> impl Iterator<Item = &SegmentEntry> {
        self.segments.iter().filter(move |entry| entry.overlaps_time(range))
    }

    /// How far each spool is in segments, by gateway and spool.
    pub fn spools(&self) -> impl Iterator<Item = SpoolPosition> + '_ {
        self.spools.iter().map(|(&(gateway, spool), state)| SpoolPosition {
            gateway,
            spool,
            sequence: state.sequence,
            lsn: state.lsn,
        })
    }

    /// How far this spool is in segments; zero for one that is not known.
    #[must_use]
    pub fn spool_sequence(&self, gateway: GatewayId, spool: SpoolId) -> FrameSequence {
        self.spools.get(&(gateway, spool)).map_or(FrameSequence::ZERO, |state| state.sequence)
    }

    /// The counts.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Every channel that a live segment has a value of, ascending.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelCode> {
        let all: BTreeSet<ChannelCode> =
            self.segments.iter().flat_map(|entry| entry.channels.iter().copied()).collect();
        all.into_iter().collect()
    }
}
