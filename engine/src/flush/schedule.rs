//! Which organisations to flush now, and why: a pure function over what is known of their buffers.
//!
//! Ten thousand small organisations must not become ten thousand tiny objects every minute: a buffer waits for hours, and
//! a small one for [`SMALL_WAITS`] times as long, carried by WAL and memory, unless one of these runs short. Memory: the largest go first, since each frees
//! most. WAL: the oldest go first, since only they let files go. What failed waits for its time.

use std::collections::HashSet;
use std::time::Duration;

use storage_format::{Lsn, Millis, OrgId};

/// Bytes of a buffer under which it is small: some thousand readings, which make an object of a few kilobytes. What it
/// costs then to flush it is requests.
const SMALL_BYTES: u64 = 256 << 10;

/// Small buffers wait so many times as long as others. With the defaults that is half a day, and the readings of that time
/// of ten thousand organisations of three loggers take a quarter of the write buffers' memory, and seconds of a start.
const SMALL_WAITS: i64 = 3;

/// Why something is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FlushReason {
    /// Somebody asked.
    Asked,
    /// The buffer was as big as a buffer gets.
    Size,
    /// Its oldest reading waited long enough.
    Age,
    /// All buffers together take too much memory.
    Memory,
    /// The WAL is too long.
    Wal,
}

impl FlushReason {
    /// A word for logs and metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Size => "size",
            Self::Age => "age",
            Self::Memory => "memory",
            Self::Wal => "wal",
        }
    }
}

/// What is known of one organisation with something in its buffers.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) org: OrgId,
    /// Is a frozen buffer waiting?
    pub(crate) has_frozen: bool,
    /// Bytes of all its buffers.
    pub(crate) bytes: u64,
    /// When the oldest of its readings arrived.
    pub(crate) oldest_received: Millis,
    /// Its first LSN.
    pub(crate) first_lsn: Lsn,
    /// After a failure: not before this monotonic time.
    pub(crate) not_before: Option<Duration>,
}

/// The state of the engine around them.
#[derive(Debug, Clone)]
pub(crate) struct Pressure {
    pub(crate) now: Millis,
    pub(crate) monotonic: Duration,
    /// Bytes of all buffers.
    pub(crate) memory_used: u64,
    /// From here on memory presses.
    pub(crate) memory_high: u64,
    /// The WAL presses: records before this LSN should go.
    pub(crate) wal_cut: Option<Lsn>,
    /// See the setting of this name.
    pub(crate) flush_age: Duration,
}

impl Pressure {
    /// Returns whether write buffers take too much memory.
    pub(crate) fn memory_is_high(&self) -> bool {
        self.memory_used >= self.memory_high
    }
}

#[derive(Default)]
struct Chosen {
    flushes: Vec<(OrgId, FlushReason)>,
    orgs: HashSet<OrgId>,
    bytes: u64,
}

impl Chosen {
    fn add(&mut self, candidate: &Candidate, reason: FlushReason) {
        if self.orgs.insert(candidate.org) {
            self.flushes.push((candidate.org, reason));
            self.bytes += candidate.bytes;
        }
    }
}

/// What to flush, most urgent first.
pub(crate) fn plan(candidates: &[Candidate], pressure: &Pressure) -> Vec<(OrgId, FlushReason)> {
    let ready: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| candidate.not_before.is_none_or(|time| time <= pressure.monotonic))
        .collect();
    let mut chosen = Chosen::default();

    if let Some(cut) = pressure.wal_cut {
        let mut oldest: Vec<_> = ready.iter().filter(|candidate| candidate.first_lsn < cut).collect();
        oldest.sort_by_key(|candidate| candidate.first_lsn);
        for candidate in oldest {
            chosen.add(candidate, FlushReason::Wal);
        }
    }
    for candidate in ready.iter().filter(|candidate| candidate.has_frozen) {
        chosen.add(candidate, FlushReason::Size);
    }
    if pressure.memory_is_high() {
        // Down to two thirds of the mark, so that it is not passed again at once.
        let surplus = pressure.memory_used - pressure.memory_high / 3 * 2;
        let mut largest = ready.clone();
        largest.sort_by_key(|candidate| std::cmp::Reverse(candidate.bytes));
        for candidate in largest {
            if chosen.bytes >= surplus {
                break;
            }
            chosen.add(candidate, FlushReason::Memory);
        }
    }
    let age_ms = i64::try_from(pressure.flush_age.as_millis()).unwrap_or(i64::MAX);
    let is_old = |candidate: &&&Candidate| {
        let waits = if candidate.bytes < SMALL_BYTES { SMALL_WAITS } else { 1 };
        candidate.oldest_received.saturating_add(age_ms.saturating_mul(waits)) <= pressure.now
    };
    let mut old: Vec<_> = ready.iter().filter(is_old).collect();
    old.sort_by_key(|candidate| candidate.oldest_received);
    for candidate in old {
        chosen.add(candidate, FlushReason::Age);
    }
    chosen.flushes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(org: u64, bytes: u64, received_s: i64, first_lsn: u64) -> Candidate {
        Candidate {
            org: OrgId::new(org).expect("not zero"),
            has_frozen: false,
            bytes,
            oldest_received: Millis::new(received_s * 1000).expect("in range"),
            first_lsn: Lsn::new(first_lsn),
            not_before: None,
        }
    }

    fn calm() -> Pressure {
        Pressure {
            now: Millis::new(1_000_000).expect("in range"),
            monotonic: Duration::from_secs(100),
            memory_used: 0,
            memory_high: 900,
            wal_cut: None,
            flush_age: Duration::from_secs(100),
        }
    }

    fn planned(candidates: &[Candidate], pressure: &Pressure) -> Vec<(u64, FlushReason)> {
        plan(candidates, pressure).into_iter().map(|(org, reason)| (org.get(), reason)).collect()
    }

    #[test]
    fn young_small_buffers_wait() {
        assert_eq!(
            planned(&[candidate(1, 10, 950, 1), candidate(2, SMALL_BYTES, 901, 2), candidate(3, 20, 701, 3)], &calm()),
            []
        );
    }

    #[test]
    fn old_ones_go_oldest_first_and_frozen_ones_before() {
        let mut frozen = candidate(3, 5, 999, 9);
        frozen.has_frozen = true;
        let all = [candidate(1, SMALL_BYTES, 900, 1), candidate(2, 20, 700, 2), frozen];
        assert_eq!(planned(&all, &calm()), [(3, FlushReason::Size), (2, FlushReason::Age), (1, FlushReason::Age)]);
    }

    #[test]
    fn memory_takes_the_largest_until_there_is_enough() {
        let all = [candidate(1, 100, 999, 1), candidate(2, 500, 999, 2), candidate(3, 350, 999, 3)];
        let pressure = Pressure { memory_used: 950, ..calm() };
        assert_eq!(planned(&all, &pressure), [(2, FlushReason::Memory)]);
        // What is frozen and on its way counts.
        let mut with_frozen = all.clone();
        with_frozen[2].has_frozen = true;
        assert_eq!(planned(&with_frozen, &pressure), [(3, FlushReason::Size)]);
    }

    #[test]
    fn the_wal_takes_the_oldest_below_the_cut() {
        let all = [candidate(1, 100, 999, 30), candidate(2, 500, 999, 10), candidate(3, 350, 999, 20)];
        let pressure = Pressure { wal_cut: Some(Lsn::new(30)), ..calm() };
        assert_eq!(planned(&all, &pressure), [(2, FlushReason::Wal), (3, FlushReason::Wal)]);
    }

    #[test]
    fn what_failed_waits_for_its_time() {
        let mut failed = candidate(1, 10, 0, 1);
        failed.not_before = Some(Duration::from_secs(101));
        assert_eq!(planned(std::slice::from_ref(&failed), &calm()), []);
        failed.not_before = Some(Duration::from_secs(100));
        assert_eq!(planned(&[failed], &calm()), [(1, FlushReason::Age)]);
    }
}
