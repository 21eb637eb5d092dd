//! One commit of a manifest: what is added and removed, and what is from then on covered.

use crate::{
    ChannelCode, FlushNumber, FrameSequence, GatewayId, LoggerId, Lsn, ManifestVersion, Millis, ObjectKey, OrgId,
    SegmentId, SpoolId, TimeRange, Window, WriterEpoch,
};

/// What a segment's rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    /// Readings.
    Readings,
    /// Conflicts: values that were refused because another was there first.
    Conflicts,
}

impl SegmentKind {
    /// The number in bytes. Zero is never valid.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Readings => 1,
            Self::Conflicts => 2,
        }
    }

    /// The kind of this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Readings),
            2 => Some(Self::Conflicts),
            _ => None,
        }
    }

    /// The name in footers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Readings => "readings",
            Self::Conflicts => "conflicts",
        }
    }
}

/// One live segment (or conflicts object), and what is known of it without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Which.
    pub id: SegmentId,
    /// What its rows are.
    pub kind: SegmentKind,
    /// The window that it does not cross.
    pub window: Window,
    /// The first flush whose rows are in it: the precedence. An earlier number wins, channel by channel.
    pub flush_first: FlushNumber,
    /// The last flush whose rows are in it.
    pub flush_last: FlushNumber,
    /// How many rows; at least one.
    pub rows: u64,
    /// How many bytes the object has.
    pub bytes: u64,
    /// The earliest time in it.
    pub time_min: Millis,
    /// The latest time in it.
    pub time_max: Millis,
    /// The smallest logger id in it.
    pub logger_min: LoggerId,
    /// The greatest logger id in it.
    pub logger_max: LoggerId,
    /// The channels that have a value in it, ascending.
    pub channels: Vec<ChannelCode>,
    /// Does it fill channels of readings whose first part is in an earlier segment?
    pub shares_keys: bool,
    /// The version of the organisation's key that wraps its data key.
    pub key_version: u32,
    /// The first WAL record whose readings are in it.
    pub lsn_min: Lsn,
    /// The last WAL record whose readings are in it.
    pub lsn_max: Lsn,
    /// SHA-256 over its rows in canonical form (`docs/segment.md`).
    pub digest: [u8; 32],
}

impl SegmentEntry {
    /// The name of the object.
    #[must_use]
    pub const fn object_key(&self, org: OrgId) -> ObjectKey {
        match self.kind {
            SegmentKind::Readings => ObjectKey::Segment { org, window: self.window, id: self.id },
            SegmentKind::Conflicts => ObjectKey::Conflicts { org, window: self.window, id: self.id },
        }
    }

    /// May it have a row in this range of time?
    #[must_use]
    pub fn overlaps_time(&self, range: TimeRange) -> bool {
        self.time_min < range.end() && range.start() <= self.time_max
    }

    /// May it have a row of a logger from `first` to and with `last`?
    #[must_use]
    pub fn overlaps_loggers(&self, first: LoggerId, last: LoggerId) -> bool {
        self.logger_min <= last && first <= self.logger_max
    }

    /// May a row of it have the same (logger, time) as a row of the other?
    #[must_use]
    pub fn may_share_keys_with(&self, other: &Self) -> bool {
        self.overlaps_loggers(other.logger_min, other.logger_max)
            && self.time_min <= other.time_max
            && other.time_min <= self.time_max
    }
}

/// How far one spool of one gateway is durable in segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolPosition {
    /// Whose.
    pub gateway: GatewayId,
    /// Which of its spools.
    pub spool: SpoolId,
    /// The highest sequence number.
    pub sequence: FrameSequence,
    /// The last WAL record that came from this spool.
    pub lsn: Lsn,
}

/// Counts that only grow. In a delta: what the commit adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Totals {
    /// Readings kept: distinct (logger, time).
    pub readings: u64,
    /// Samples that were there already with the same value, and were dropped.
    pub duplicates: u64,
    /// Samples that had another value than the first one, and are kept as conflicts.
    pub conflicts: u64,
    /// Samples that filled an empty channel of a reading that was there already.
    pub filled: u64,
}

impl Totals {
    /// The sum; `None` past the end of `u64`.
    #[must_use]
    pub fn checked_add(self, more: Self) -> Option<Self> {
        Some(Self {
            readings: self.readings.checked_add(more.readings)?,
            duplicates: self.duplicates.checked_add(more.duplicates)?,
            conflicts: self.conflicts.checked_add(more.conflicts)?,
            filled: self.filled.checked_add(more.filled)?,
        })
    }
}

/// One commit. Everything that belongs together is in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestDelta {
    /// The version that it makes: one more than the one before.
    pub version: ManifestVersion,
    /// The writer's epoch: never less than the one before.
    pub epoch: WriterEpoch,
    /// Drawn at random for this commit: by it a writer knows its own put again.
    pub nonce: [u8; 16],
    /// When, by the writer's clock.
    pub created: Millis,
    /// Every WAL record of this organisation up to and including this one is in segments from now on.
    pub lsn_covered: Lsn,
    /// The number of the last flush.
    pub flush: FlushNumber,
    /// Segments and conflicts objects that are live from now on.
    pub added: Vec<SegmentEntry>,
    /// Segments and conflicts objects that are not live any more.
    pub removed: Vec<SegmentId>,
    /// Spools that got further.
    pub spools: Vec<SpoolPosition>,
    /// What is added to the totals.
    pub totals: Totals,
}
