//! What is chosen: in examples, and in random lives of a window.

use proptest::prelude::*;
use storage_format::manifest::SegmentKind;
use storage_format::{ChannelCode, LoggerId, Lsn, SegmentId};

use super::*;

const KIB: u64 = 1 << 10;
const LIMITS: MergeLimits = MergeLimits { inputs_max: 16, bytes_max: 1 << 40, rows_max: 1 << 40 };

fn during() -> Millis {
    "2024-05-31T23:59:59.999Z".parse().expect("a time")
}

fn after() -> Millis {
    "2024-06-01T00:00:00Z".parse().expect("a time")
}

/// A segment of May, or of April if its flush number is past 1,000.
fn segment(id: u128, flush: u64, bytes: u64, shares_keys: bool) -> SegmentEntry {
    let window = if flush > 1000 { "2024040100-2024050100" } else { "2024050100-2024060100" };
    let window: storage_format::Window = window.parse().expect("a window");
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
fn chosen(segments: &[SegmentEntry], now: Millis, limits: MergeLimits) -> Vec<u64> {
    let chosen = next_merge(segments, now, limits).unwrap_or_default();
    chosen.iter().map(|entry| entry.flush_first.get()).collect()
}

#[test]
fn while_a_window_lasts_segments_of_one_size_are_merged() {
    let check = |kib: &[i64], expected: &[u64]| {
        assert_eq!(chosen(&segments(kib), during(), LIMITS), expected, "{kib:?}");
    };
    check(&[], &[]);
    check(&[900, 900, 900], &[]);
    check(&[900, 900, 900, 900], &[1, 2, 3, 4]);
    // The largest would be rewritten for little.
    check(&[9000, 900, 900, 900], &[]);
    check(&[9000, 900, 900, 900, 900], &[2, 3, 4, 5]);
    check(&[9000, 900, 9000, 900], &[1, 2, 3, 4]);
    // Small ones first, and all of them.
    check(&[9000, 9000, 9000, 9000, 1, 2, 3, 4, 5], &[5, 6, 7, 8, 9]);
    // Not across one that fills older readings.
    check(&[900, 900, 900, -1, 900, 900, 900], &[]);
    check(&[900, 900, 900, -1, 900, 900, 900, 900], &[5, 6, 7, 8]);
    check(&[-900, -900, -900, -900], &[]);
}

#[test]
fn a_window_that_is_over_is_left_with_three() {
    let check = |kib: &[i64], expected: &[u64]| {
        assert_eq!(chosen(&segments(kib), after(), LIMITS), expected, "{kib:?}");
    };
    check(&[900, 900, 900], &[]);
    check(&[5000, 900, 700, 9000], &[2, 3]);
    // Late readings: the large ones make room, once.
    check(&[5000, 5000, 5000, 100], &[1, 2]);
    check(&[9000, 5000, 100, 100], &[3, 4]);
    check(&[9000, -5000, 100, 100], &[]);
    assert_eq!(chosen(&segments(&[900; 4]), after(), MergeLimits { bytes_max: 1000 * KIB, ..LIMITS }), [0_u64; 0]);
    // Each has ten rows.
    assert_eq!(chosen(&segments(&[900; 9]), after(), MergeLimits { rows_max: 45, ..LIMITS }).len(), 4);
    assert_eq!(chosen(&segments(&[900; 9]), after(), MergeLimits { inputs_max: 5, ..LIMITS }).len(), 5);
}

#[test]
fn segments_of_one_flush_stay_together_and_windows_apart() {
    let mut all: Vec<SegmentEntry> =
        (0..6_u64).map(|id| segment(u128::from(id) + 1, 1 + id / 2, 900 * KIB, false)).collect();
    assert_eq!(chosen(&all, during(), MergeLimits { inputs_max: 5, ..LIMITS }), [1, 1, 2, 2]);
    all[1].shares_keys = true;
    assert_eq!(chosen(&all, during(), LIMITS), [2, 2, 3, 3]);
    assert_eq!(chosen(&all, during(), MergeLimits { inputs_max: 3, ..LIMITS }), [0_u64; 0]);
    // Three here and three there are not six.
    let apart: Vec<_> = [1001, 1002, 1003, 1, 2, 3].map(|flush| segment(flush.into(), flush, KIB, false)).into();
    assert_eq!(chosen(&apart, during(), LIMITS), [0_u64; 0]);
}

/// What the manifest has after these are merged.
fn merge(segments: &mut Vec<SegmentEntry>, inputs: &[SegmentEntry], id: u128) {
    let is_input = |entry: &SegmentEntry| inputs.iter().any(|input| input.id == entry.id);
    segments.retain(|entry| !is_input(entry));
    segments.push(SegmentEntry {
        id: SegmentId::new(id).expect("not zero"),
        flush_first: inputs.iter().map(|entry| entry.flush_first).min().expect("two at least"),
        flush_last: inputs.iter().map(|entry| entry.flush_last).max().expect("two at least"),
        bytes: inputs.iter().map(|entry| entry.bytes).sum(),
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
    fn settle(&mut self, now: Millis) -> Result<(), TestCaseError> {
        let most = self.segments.len();
        for merges in 0.. {
            prop_assert!(merges <= most, "it does not end");
            let Some(inputs) = next_merge(&self.segments, now, self.limits).map(<[_]>::to_vec) else { break };
            prop_assert_eq!(next_merge(&self.segments, now, self.limits), Some(&inputs[..]), "decided twice");
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
        prop_assert!(inputs.iter().all(|entry| entry.window == inputs[0].window && !entry.shares_keys));
        let first = inputs.iter().map(|entry| entry.flush_first).min().expect("two at least");
        let last = inputs.iter().map(|entry| entry.flush_last).max().expect("two at least");
        for other in self.segments.iter().filter(|other| inputs.iter().all(|input| input.id != other.id)) {
            prop_assert!(other.flush_last < first || last < other.flush_first, "it stands between two inputs");
        }
        Ok(())
    }

    /// How many live segments each part between those that share keys has.
    fn stretches(&self) -> Vec<usize> {
        self.segments.split(|entry| entry.shares_keys).map(<[_]>::len).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_life_of_a_window_ends_with_few_segments_and_little_rewriting(
        flushes in prop::collection::vec((prop::collection::vec(1_u64..3_000_000, 1..4), prop::bool::weighted(0.03)), 1..120),
        late in prop::collection::vec(1_u64..300_000, 0..10),
        inputs_max in 12..25_usize,
        at_once in 1..10_usize,
    ) {
        let mut life = Life { segments: Vec::new(), ids: 0, rewritten: 0, limits: MergeLimits { inputs_max, ..LIMITS } };
        let count = flushes.iter().map(|(sizes, _)| sizes.len() as u64).sum::<u64>();
        let total: u64 = flushes.iter().flat_map(|(sizes, _)| sizes).sum();
        for (flush, (sizes, shares_keys)) in (1..).zip(&flushes) {
            life.flush(flush, sizes, *shares_keys);
            // The chooser need not keep up with the flushes.
            if flush % at_once as u64 == 0 {
                life.settle(during())?;
            }
        }
        life.settle(during())?;
        // See the module: what is not the largest doubles, and whatever is rewritten beside it is no more than that.
        let doublings = (total / BYTES_LEAST).max(1).ilog2() + 1;
        prop_assert!(life.rewritten <= 2 * (total * u64::from(doublings) + BYTES_LEAST * count), "{} of {total}", life.rewritten);
        // Sizes fall by half from three to three, at the least.
        let few = 3 * (u64::from(doublings) + 2);
        prop_assert!(life.stretches().into_iter().all(|left| left as u64 <= few), "{:?}", life.stretches());

        let before = life.rewritten;
        life.settle(after())?;
        let most = (count.div_ceil(inputs_max as u64 - 1) + 2) * total;
        prop_assert!(life.rewritten - before <= most);
        for (flush, bytes) in (flushes.len() as u64 + 1..).zip(late) {
            life.flush(flush, &[bytes], false);
            life.settle(after())?;
        }
        prop_assert!(life.stretches().into_iter().all(|left| left <= OVER_MAX), "{:?}", life.stretches());
        prop_assert!(life.segments.iter().map(|entry| entry.bytes).sum::<u64>() >= total, "bytes are lost");
    }

    #[test]
    fn limits_hold_whatever_they_are(
        sizes in prop::collection::vec(1_u64..1_000_000, 1..60),
        inputs_max in 2..20_usize,
        bytes_max in 1_u64..4_000_000,
        is_over: bool,
    ) {
        let limits = MergeLimits { inputs_max, bytes_max, ..LIMITS };
        let mut life = Life { segments: Vec::new(), ids: 0, rewritten: 0, limits };
        for (flush, bytes) in (1..).zip(&sizes) {
            life.flush(flush, &[*bytes], false);
        }
        life.settle(if is_over { after() } else { during() })?;
        if is_over && life.segments.len() > OVER_MAX {
            let fits = |pair: &[SegmentEntry]| pair[0].bytes + pair[1].bytes <= bytes_max;
            prop_assert!(!life.segments.windows(2).any(fits), "two neighbours could still be merged");
        }
    }
}
