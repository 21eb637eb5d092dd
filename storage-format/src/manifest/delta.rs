//! Commits of a manifest: the segments added and removed, and the LSN up to which the WAL is covered.

use crate::{
    ChannelCode, FlushNumber, FrameSequence, GatewayId, LoggerId, Lsn, ManifestVersion, Millis, ObjectKey, OrgId,
    SegmentId, SpoolId, TimeRange, Window, WriterEpoch,
};

/// Kind of rows in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    /// Rows are readings.
    Readings,
    /// Rows are conflicts: values that were rejected because another value was stored first.
    Conflicts,
    /// Rows are fills: values that filled an empty channel of an older reading, with the flush that they came with.
    Fills,
    /// Rows are aggregates of a readings segment, by logger and UTC hour.
    RollupHourly,
    /// Rows are aggregates of a readings segment, by logger and UTC day.
    RollupDaily,
}

impl SegmentKind {
    /// Returns the number used in the byte formats. Zero is never valid.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Readings => 1,
            Self::Conflicts => 2,
            Self::Fills => 3,
            Self::RollupHourly => 4,
            Self::RollupDaily => 5,
        }
    }

    /// Returns the kind with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Readings),
            2 => Some(Self::Conflicts),
            3 => Some(Self::Fills),
            4 => Some(Self::RollupHourly),
            5 => Some(Self::RollupDaily),
            _ => None,
        }
    }

    /// Returns the name used in footers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Readings => "readings",
            Self::Conflicts => "conflicts",
            Self::Fills => "fills",
            Self::RollupHourly => "rollup_hourly",
            Self::RollupDaily => "rollup_daily",
        }
    }

    /// Returns whether rows are aggregates of a readings segment.
    #[must_use]
    pub const fn is_rollup(self) -> bool {
        matches!(self, Self::RollupHourly | Self::RollupDaily)
    }

    /// Returns the name of an object of this kind.
    #[must_use]
    pub const fn object_key(self, org: OrgId, window: Window, id: SegmentId) -> ObjectKey {
        match self {
            Self::Readings => ObjectKey::Segment { org, window, id },
            Self::Conflicts => ObjectKey::Conflicts { org, window, id },
            Self::Fills => ObjectKey::Fills { org, window, id },
            Self::RollupHourly | Self::RollupDaily => ObjectKey::Rollup { org, window, id },
        }
    }
}

/// Live object, with the properties that are known without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Id of the segment.
    pub id: SegmentId,
    /// Kind of its rows.
    pub kind: SegmentKind,
    /// For rollups, the readings segment that they were made from; `None` for all others.
    pub of: Option<SegmentId>,
    /// Window that contains all of its rows.
    pub window: Window,
    /// First flush whose rows are in it. It determines the precedence: a smaller number wins, channel by channel.
    pub flush_first: FlushNumber,
    /// Last flush whose rows are in it.
    pub flush_last: FlushNumber,
    /// Number of rows, at least one.
    pub rows: u64,
    /// Size of the object.
    pub bytes: u64,
    /// Earliest time in it.
    pub time_min: Millis,
    /// Latest time in it.
    pub time_max: Millis,
    /// Smallest logger id in it.
    pub logger_min: LoggerId,
    /// Greatest logger id in it.
    pub logger_max: LoggerId,
    /// Channels that have a value in it, ascending.
    pub channels: Vec<ChannelCode>,
    /// Whether it fills channels of readings whose first part is in an earlier segment.
    pub shares_keys: bool,
    /// Version of the organisation's key that wraps its data key.
    pub key_version: u32,
    /// First WAL record whose readings are in it.
    pub lsn_min: Lsn,
    /// Last WAL record whose readings are in it.
    pub lsn_max: Lsn,
    /// SHA-256 of its rows in canonical form (`docs/segment.md`).
    pub digest: [u8; 32],
}

impl SegmentEntry {
    /// Returns the name of the object.
    #[must_use]
    pub const fn object_key(&self, org: OrgId) -> ObjectKey {
        self.kind.object_key(org, self.window, self.id)
    }

    /// Returns whether the segment may have a row in this time range.
    #[must_use]
    pub fn overlaps_time(&self, range: TimeRange) -> bool {
        self.time_min < range.end() && range.start() <= self.time_max
    }

    /// Returns whether the segment may have a row of a logger from `first` to `last` inclusive.
    #[must_use]
    pub fn overlaps_loggers(&self, first: LoggerId, last: LoggerId) -> bool {
        self.logger_min <= last && first <= self.logger_max
    }

    /// Returns whether a row may have the same (logger, time) as a row of `other`.
    #[must_use]
    pub fn may_share_keys_with(&self, other: &Self) -> bool {
        self.overlaps_loggers(other.logger_min, other.logger_max)
            && self.time_min <= other.time_max
            && other.time_min <= self.time_max
    }
}

/// Progress of one spool of one gateway in segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolPosition {
    /// Gateway that owns the spool.
    pub gateway: GatewayId,
    /// Id of the spool.
    pub spool: SpoolId,
    /// Highest sequence number that is stored in segments.
    pub sequence: FrameSequence,
    /// Last WAL record that came from this spool.
    pub lsn: Lsn,
}

/// Counts that only grow. In a delta: the increments of the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Totals {
    /// Readings stored: distinct (logger, time).
    pub readings: u64,
    /// Samples that were dropped because the same value was already stored.
    pub duplicates: u64,
    /// Samples whose value differed from the one stored first, and which are kept as conflicts.
    pub conflicts: u64,
    /// Samples that filled an empty channel of a reading that was already stored.
    pub filled: u64,
    /// Readings that retention has dropped.
    pub dropped: u64,
}

impl Totals {
    /// Returns the sum; `None` when a count overflows `u64`.
    #[must_use]
    pub fn checked_add(self, more: Self) -> Option<Self> {
        Some(Self {
            readings: self.readings.checked_add(more.readings)?,
            duplicates: self.duplicates.checked_add(more.duplicates)?,
            conflicts: self.conflicts.checked_add(more.conflicts)?,
            filled: self.filled.checked_add(more.filled)?,
            dropped: self.dropped.checked_add(more.dropped)?,
        })
    }
}

/// A commit. Changes that must become visible together are in one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestDelta {
    /// Version that the commit creates: one more than the previous one.
    pub version: ManifestVersion,
    /// Epoch of the writer, never less than the previous one.
    pub epoch: WriterEpoch,
    /// Random nonce of this commit, by which a writer recognises its own put.
    pub nonce: [u8; 16],
    /// Time of the commit, by the writer's clock.
    pub created: Millis,
    /// LSN up to and including which every WAL record of this organisation is in segments after this commit.
    pub lsn_covered: Lsn,
    /// Number of the last flush.
    pub flush: FlushNumber,
    /// Objects that become live.
    pub added: Vec<SegmentEntry>,
    /// Objects that are no longer live.
    pub removed: Vec<SegmentId>,
    /// Spools that progressed.
    pub spools: Vec<SpoolPosition>,
    /// Increments of the totals.
    pub totals: Totals,
}
