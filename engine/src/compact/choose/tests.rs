//! What is chosen: in examples, and in random lives of a window.

use proptest::prelude::*;
use storage_format::manifest::SegmentKind;
use storage_format::{ChannelCode, LoggerId, Lsn, SegmentId};

use super::*;

const KIB: u64 = 1 << 10;
const LIMITS: MergeLimits = MergeLimits { inputs_max: 16, bytes_max: 1 << 40, rows_max: 1 << 40, small_inputs_min: 12 };

/// A segment of one logger and one time, which all have in common.
fn segment(id: u128, flush: u64, bytes: u64, shares_keys: bool) -> SegmentEntry {
    let window: storage_format::Window = "2024050100-2024060100".parse().expect("a window");
    let time = window.range().start();
    SegmentEntry {
        id: SegmentId::new(id).expect("not zero"),
        kind: SegmentKind::Readings,
        of: None,
        window,
        flush_first: FlushNumber::new(flush),
        flush_last: FlushNumber::new(flush),
        rows: 10,
        bytes,
        time_min: time,
        time_max: time,
        logger_min: LoggerId::MIN,
        logger_max: LoggerId::MIN,
        channels: vec![ChannelCode::new(1).expect("a code")],
        shares_keys,
        key_version: 1,
        lsn_min: Lsn::new(flush),
        lsn_max: Lsn::new(flush),
        digest: [1; 32],
    }
}

/// Segments of these sizes, each of its own flush; those of negative sizes share keys with earlier ones.
fn segments(kib: &[i64]) -> Vec<SegmentEntry> {
    let segment =
        |(flush, kib): (u64, &i64)| segment(u128::from(flush), flush, kib.unsigned_abs() * KIB, kib.is_negative());
    (1..).zip(kib).map(segment).collect()
}

/// The flushes of what is chosen.
fn chosen(segments: &[SegmentEntry], aim: Aim, limits: MergeLimits) -> Vec<u64> {
    let chosen = next_merge(segments, aim, limits).unwrap_or_default();
    chosen.iter().map(|entry| entry.flush_first.get()).collect()
}

#[test]
fn as_long_as_more_may_come_segments_of_one_size_are_merged() {
    let check = |kib: &[i64], expected: &[u64]| {
        assert_eq!(chosen(&segments(kib), Aim::Even, LIMITS), expected, "{kib:?}");
    };
    check(&[], &[]);
    check(&[900, 900, 900], &[]);
    check(&[900, 900, 900, 900], &[1, 2, 3, 4]);
    // The largest would be rewritten for little.
    check(&[9000, 900, 900, 900], &[]);
    check(&[9000, 900, 900, 900, 900], &[2, 3, 4, 5]);
    check(&[9000, 900, 9000, 900], &[1, 2, 3, 4]);
    // Small ones first, and all of them.
    check(&[9000, 9000, 9000, 9000, 300, 300, 200, 400, 100], &[5, 6, 7, 8, 9]);
    check(&[900, 900, -100, 900, 900], &[1, 2, 3, 4, 5]);
    // Very small ones wait for more of them.
    check(&[9000, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[]);
    check(&[9000, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
    let sooner = MergeLimits { small_inputs_min: 2, ..LIMITS };
    assert_eq!(chosen(&segments(&[9000, 1, 1]), Aim::Even, sooner), [2, 3]);
}

#[test]
fn when_nothing_more_comes_three_are_left() {
    let check = |kib: &[i64], expected: &[u64]| {
        assert_eq!(chosen(&segments(kib), Aim::Few, LIMITS), expected, "{kib:?}");
    };
    check(&[900, 900, 900], &[]);
    check(&[5000, 900, 700, 9000], &[2, 3]);
    check(&[5000, 5000, 5000, 100], &[1, 2]);
    check(&[9000, 5000, 100, 100], &[3, 4]);
    check(&[9000, -5000, 100, 100], &[3, 4]);
    let limited = |limits| chosen(&segments(&[900; 9]), Aim::Few, limits).len();
    assert_eq!(limited(MergeLimits { bytes_max: 1000 * KIB, ..LIMITS }), 0);
    // Each has ten rows.
    assert_eq!(limited(MergeLimits { rows_max: 45, ..LIMITS }), 4);
    assert_eq!(limited(MergeLimits { inputs_max: 5, ..LIMITS }), 5);
}

#[test]
fn what_fills_older_readings_is_merged_with_them() {
    let check = |kib: &[i64], expected: &[u64]| {
        assert_eq!(chosen(&segments(kib), Aim::Few, LIMITS), expected, "{kib:?}");
    };
    check(&[900, -900], &[1, 2]);
    check(&[900, -100, 100], &[1, 2]);
    // There is nothing that it could fill.
    check(&[-900, 100, 100], &[]);
    let mut apart = segments(&[900, 900, -900]);
    apart[0].logger_min = LoggerId::new(7).expect("an id");
    apart[0].logger_max = LoggerId::new(7).expect("an id");
    assert_eq!(chosen(&apart, Aim::Few, LIMITS), [2, 3], "the first has other loggers");
    assert_eq!(chosen(&apart, Aim::Few, MergeLimits { bytes_max: 1000 * KIB, ..LIMITS }), [0_u64; 0]);
    // The first of two parts of one flush has nothing to do with it, but stands beside the second.
    apart[1].flush_first = FlushNumber::new(1);
    apart[1].flush_last = FlushNumber::new(1);
    assert_eq!(chosen(&apart, Aim::Few, LIMITS), [1, 1, 3]);
}

#[test]
fn segments_of_one_flush_stay_together() {
    let all: Vec<SegmentEntry> =
        (0..6_u64).map(|id| segment(u128::from(id) + 1, 1 + id / 2, 900 * KIB, false)).collect();
    assert_eq!(chosen(&all, Aim::Even, MergeLimits { inputs_max: 5, ..LIMITS }), [1, 1, 2, 2]);
    assert_eq!(chosen(&all, Aim::Even, MergeLimits { inputs_max: 3, ..LIMITS }), [0_u64; 0]);
}

#[test]
fn lists_are_merged_whatever_flushes_they_have_in_common() {
    for kind in [SegmentKind::Fills, SegmentKind::Conflicts] {
        // As merges of more and more segments leave them.
        let of = |flush: u64| SegmentEntry {
            kind,
            flush_first: FlushNumber::new(1),
            flush_last: FlushNumber::new(flush),
            ..segment(u128::from(flush), 1, KIB, false)
        };
        let all: Vec<SegmentEntry> = (1..=40).map(of).collect();
        for aim in [Aim::Even, Aim::Few] {
            assert_eq!(chosen(&all, aim, LIMITS).len(), LIMITS.inputs_max, "{kind:?}, {aim:?}");
        }
    }
}

/// What the manifest has after these are merged.
fn merge(segments: &mut Vec<SegmentEntry>, inputs: &[SegmentEntry], id: u128) {
    let is_input = |entry: &SegmentEntry| inputs.iter().any(|input| input.id == entry.id);
    // All have the same keys: what fills any of the older ones fills the oldest.
    let is_first = is_input(&segments[0]);
    segments.retain(|entry| !is_input(entry));
    segments.push(SegmentEntry {
        id: SegmentId::new(id).expect("not zero"),
        flush_first: inputs.iter().map(|entry| entry.flush_first).min().expect("two at least"),
        flush_last: inputs.iter().map(|entry| entry.flush_last).max().expect("two at least"),
        bytes: inputs.iter().map(|entry| entry.bytes).sum(),
        shares_keys: inputs.iter().any(|entry| entry.shares_keys) && !is_first,
        ..inputs[0].clone()
    });
    segments.sort_by_key(|entry| (entry.window, entry.flush_first, entry.id));
}

/// A random life of a window.
struct Life {
    segments: Vec<SegmentEntry>,
    ids: u128,
    limits: MergeLimits,
    rewritten: u64,
}

impl Life {
    fn flush(&mut self, flush: u64, sizes: &[u64], shares_keys: bool) {
        for bytes in sizes {
            self.ids += 1;
            // Ids are random, in no order of time.
            let id = (self.ids * 7919) % 65_521 + 1;
            self.segments.push(segment(id, flush, *bytes, shares_keys));
        }
        self.segments.sort_by_key(|entry| (entry.window, entry.flush_first, entry.id));
    }

    /// Merges until nothing is worth it.
    fn settle(&mut self, aim: Aim) -> Result<(), TestCaseError> {
        let most = self.segments.len();
        for merges in 0.. {
            prop_assert!(merges <= most, "it does not end");
            let Some(inputs) = next_merge(&self.segments, aim, self.limits).map(<[_]>::to_vec) else { break };
            prop_assert_eq!(next_merge(&self.segments, aim, self.limits), Some(&inputs[..]), "decided twice");
            self.check(&inputs)?;
            self.rewritten += inputs.iter().map(|entry| entry.bytes).sum::<u64>();
            self.ids += 1;
            merge(&mut self.segments, &inputs, 1_000_000 + self.ids);
        }
        Ok(())
    }

    fn check(&self, inputs: &[SegmentEntry]) -> Result<(), TestCaseError> {
        prop_assert!((2..=self.limits.inputs_max).contains(&inputs.len()));
        prop_assert!(inputs.iter().map(|entry| entry.bytes).sum::<u64>() <= self.limits.bytes_max);
        prop_assert!(inputs.iter().all(|entry| entry.window == inputs[0].window));
        let first = inputs.iter().map(|entry| entry.flush_first).min().expect("two at least");
        let last = inputs.iter().map(|entry| entry.flush_last).max().expect("two at least");
        for other in self.segments.iter().filter(|other| inputs.iter().all(|input| input.id != other.id)) {
            prop_assert!(other.flush_last < first || last < other.flush_first, "it stands between two inputs");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_life_of_a_window_ends_with_few_segments_and_little_rewriting(
        flushes in prop::collection::vec((prop::collection::vec(1_u64..3_000_000, 1..4), prop::bool::weighted(0.03)), 1..200),
        late in prop::collection::vec(1_u64..300_000, 0..10),
        inputs_max in 12..25_usize,
        small_inputs_min in 2..13_usize,
        at_once in 1..10_usize,
    ) {
        let limits = MergeLimits { inputs_max, small_inputs_min, ..LIMITS };
        let mut life = Life { segments: Vec::new(), ids: 0, rewritten: 0, limits };
        let count = flushes.iter().map(|(sizes, _)| sizes.len() as u64).sum::<u64>();
        let total: u64 = flushes.iter().flat_map(|(sizes, _)| sizes).sum();
        for (flush, (sizes, shares_keys)) in (1..).zip(&flushes) {
            life.flush(flush, sizes, *shares_keys);
            // The chooser need not keep up with the flushes.
            if flush % at_once as u64 == 0 {
                life.settle(Aim::Even)?;
            }
        }
        life.settle(Aim::Even)?;
        // See the module: what is not the largest doubles, and whatever is rewritten beside it is no more than that.
        let doublings = (total / BYTES_LEAST).max(1).ilog2() + 1;
        prop_assert!(life.rewritten <= 2 * (total * u64::from(doublings) + BYTES_LEAST * count), "{} of {total}", life.rewritten);
        // Sizes fall by half from three to three, at the least, but for small ones, which wait for others.
        let few = 3 * (u64::from(doublings) + 2) + 2 * small_inputs_min as u64;
        prop_assert!(life.segments.len() as u64 <= few, "{} are left", life.segments.len());

        let before = life.rewritten;
        life.settle(Aim::Few)?;
        prop_assert!(!life.segments.iter().any(|entry| entry.shares_keys && entry.id != life.segments[0].id));
        // The first merges leave room for the others, each of which takes as many as it can; and one for those that fill.
        let most = (count.div_ceil(inputs_max as u64 - 1) + 3) * total;
        prop_assert!(life.rewritten - before <= most);
        for (flush, bytes) in (flushes.len() as u64 + 1..).zip(late) {
            life.flush(flush, &[bytes], false);
            life.settle(Aim::Few)?;
        }
        prop_assert!(life.segments.len() <= OVER_MAX, "{} are left", life.segments.len());
        prop_assert!(life.segments.iter().map(|entry| entry.bytes).sum::<u64>() >= total, "bytes are lost");
    }

    #[test]
    fn limits_hold_whatever_they_are(
        sizes in prop::collection::vec((1_u64..1_000_000, prop::bool::weighted(0.1)), 1..60),
        inputs_max in 2..20_usize,
        bytes_max in 1_u64..4_000_000,
        few: bool,
    ) {
        let limits = MergeLimits { inputs_max, bytes_max, ..LIMITS };
        let mut life = Life { segments: Vec::new(), ids: 0, rewritten: 0, limits };
        for (flush, (bytes, shares_keys)) in (1..).zip(&sizes) {
            life.flush(flush, &[*bytes], *shares_keys);
        }
        life.settle(if few { Aim::Few } else { Aim::Even })?;
        if few && life.segments.len() > OVER_MAX {
            let fits = |pair: &[SegmentEntry]| pair[0].bytes + pair[1].bytes <= bytes_max;
            prop_assert!(!life.segments.windows(2).any(fits), "two neighbours could still be merged");
        }
    }
}
