//! State of a manifest at one version.

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::{SegmentEntry, SpoolPosition, Totals};
use crate::{
    ChannelCode, FlushNumber, FrameSequence, GatewayId, Lsn, ManifestVersion, SpoolId, TimeRange, Window, WriterEpoch,
};

/// Progress of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpoolState {
    /// Highest sequence number that is stored in segments.
    pub sequence: FrameSequence,
    /// Last WAL record that came from the spool.
    pub lsn: Lsn,
}

/// Manifest of an organisation at one version.
///
/// Invariants, which [`Manifest::apply`] keeps and decoding checks: segments, conflicts, fills and rollups are each in
/// ascending order of (window, first flush, id); ids are unique; a rollup's segment is live, in the same window, and has
/// one rollup of a kind at most; no flush number exceeds `flush`; every spool's LSN is covered; a gateway
/// has at most [`SPOOLS_PER_GATEWAY_MAX`](crate::manifest::SPOOLS_PER_GATEWAY_MAX) spools.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    pub(super) version: ManifestVersion,
    pub(super) epoch: WriterEpoch,
    pub(super) lsn_covered: Lsn,
    pub(super) flush: FlushNumber,
    pub(super) segments: Vec<SegmentEntry>,
    pub(super) conflicts: Vec<SegmentEntry>,
    pub(super) fills: Vec<SegmentEntry>,
    pub(super) rollups: Vec<SegmentEntry>,
    pub(super) spools: BTreeMap<(GatewayId, SpoolId), SpoolState>,
    pub(super) totals: Totals,
}

impl Manifest {
    /// Returns the state before the first commit: version 0 and no segments.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Returns the version of the last commit applied.
    #[must_use]
    pub const fn version(&self) -> ManifestVersion {
        self.version
    }

    /// Returns the epoch of the last writer.
    #[must_use]
    pub const fn epoch(&self) -> WriterEpoch {
        self.epoch
    }

    /// Returns the LSN up to and including which every WAL record of the organisation is stored in segments.
    #[must_use]
    pub const fn lsn_covered(&self) -> Lsn {
        self.lsn_covered
    }

    /// Returns the number of the last flush.
    #[must_use]
    pub const fn flush(&self) -> FlushNumber {
        self.flush
    }

    /// Returns the live segments, by (window, first flush, id): within a window, in order of precedence.
    #[must_use]
    pub fn segments(&self) -> &[SegmentEntry] {
        &self.segments
    }

    /// Returns the live conflicts objects, by (window, first flush, id).
    #[must_use]
    pub fn conflicts(&self) -> &[SegmentEntry] {
        &self.conflicts
    }

    /// Returns the live fills objects, by (window, first flush, id).
    #[must_use]
    pub fn fills(&self) -> &[SegmentEntry] {
        &self.fills
    }

    /// Returns the live rollups, hourly and daily, by (window, first flush, id).
    #[must_use]
    pub fn rollups(&self) -> &[SegmentEntry] {
        &self.rollups
    }

    /// Returns all live objects: segments, conflicts objects, fills objects, rollups.
    pub fn objects(&self) -> impl Iterator<Item = &SegmentEntry> {
        self.lists().into_iter().flatten()
    }

    /// The lists of live objects, in the order in which a base has them.
    pub(super) fn lists(&self) -> [&Vec<SegmentEntry>; 4] {
        [&self.segments, &self.conflicts, &self.fills, &self.rollups]
    }

    /// Returns the live segments of a window, in order of precedence.
    pub fn segments_in(&self, window: Window) -> impl Iterator<Item = &SegmentEntry> {
        self.segments.iter().filter(move |entry| entry.window == window)
    }

    /// Returns the live segments that may have a row in this time range, by (window, first flush, id).
    pub fn segments_overlapping(&self, range: TimeRange) -> impl Iterator<Item = &SegmentEntry> {
        self.segments.iter().filter(move |entry| entry.overlaps_time(range))
    }

    /// Returns the progress of each spool in segments, by gateway and spool.
    pub fn spools(&self) -> impl Iterator<Item = SpoolPosition> + '_ {
        self.spools.iter().map(|(&(gateway, spool), state)| SpoolPosition {
            gateway,
            spool,
            sequence: state.sequence,
            lsn: state.lsn,
        })
    }

    /// Returns the highest sequence number of this spool in segments; zero for an unknown spool.
    #[must_use]
    pub fn spool_sequence(&self, gateway: GatewayId, spool: SpoolId) -> FrameSequence {
        self.spools.get(&(gateway, spool)).map_or(FrameSequence::ZERO, |state| state.sequence)
    }

    /// Returns the totals.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Returns every channel of which a live segment has a value, ascending.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelCode> {
        let all: BTreeSet<ChannelCode> =
            self.segments.iter().flat_map(|entry| entry.channels.iter().copied()).collect();
        all.into_iter().collect()
    }
}
