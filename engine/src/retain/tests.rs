//! What goes and what stays, as a function of a manifest and a cutoff.

use proptest::prelude::*;
use storage_format::manifest::ManifestDelta;
use storage_format::{ChannelCode, LoggerId, Lsn, TimeRange, WriterEpoch};

use super::*;

const DAY: i64 = 86_400_000;

fn millis(ms: i64) -> Millis {
    Millis::new(ms).expect("a time")
}

fn window(day: i64, days: i64) -> Window {
    Window::new(TimeRange::new(millis(day * DAY), millis((day + days) * DAY)).expect("a range")).expect("a window")
}

fn entry(id: u128, kind: SegmentKind, window: Window, flush: u64, rows: u64) -> SegmentEntry {
    let logger = LoggerId::new(1).expect("not zero");
    SegmentEntry {
        id: SegmentId::new(id).expect("not zero"),
        kind,
        of: None,
        window,
        flush_first: FlushNumber::new(flush),
        flush_last: FlushNumber::new(flush),
        rows,
        bytes: 100,
        time_min: window.range().start(),
        time_max: window.range().start(),
        logger_min: logger,
        logger_max: logger,
        lsn_min: Lsn::ZERO,
        lsn_max: Lsn::ZERO,
        digest: [0; 32],
        channels: vec![ChannelCode::new(1).expect("not zero")],
        shares_keys: false,
        key_version: 1,
    }
}

fn manifest(entries: Vec<SegmentEntry>) -> Manifest {
    let flush = entries.iter().map(|entry| entry.flush_last).max().unwrap_or_default();
    let mut manifest = Manifest::empty();
    let delta = ManifestDelta {
        version: ManifestVersion::new(1),
        epoch: WriterEpoch::new(1),
        nonce: [0; 16],
        created: Millis::EPOCH,
        lsn_covered: Lsn::ZERO,
        flush,
        added: entries,
        removed: Vec::new(),
        spools: Vec::new(),
        totals: Totals::default(),
    };
    manifest.apply(&delta).expect("a valid commit");
    manifest
}

fn chosen(manifest: &Manifest, cutoff: i64, objects_max: usize) -> Vec<DroppedWindow> {
    choose(manifest, millis(cutoff), objects_max, &HashSet::new())
}

/// Three windows of ten days: readings, a rollup, conflicts and fills in the first, readings in the others.
fn three() -> Manifest {
    let first = window(0, 10);
    let rollup = SegmentEntry {
        of: Some(SegmentId::new(1).expect("not zero")),
        ..entry(4, SegmentKind::RollupDaily, first, 1, 3)
    };
    manifest(vec![
        entry(1, SegmentKind::Readings, first, 1, 30),
        entry(2, SegmentKind::Readings, first, 5, 12),
        entry(3, SegmentKind::Conflicts, first, 5, 2),
        rollup,
        entry(5, SegmentKind::Fills, first, 5, 1),
        entry(6, SegmentKind::Readings, window(10, 10), 2, 7),
        entry(7, SegmentKind::Readings, window(20, 10), 3, 9),
    ])
}

#[test]
fn only_windows_that_ended_by_the_cutoff_go() {
    let manifest = three();
    let of = |cutoff| chosen(&manifest, cutoff, usize::MAX).iter().map(|gone| gone.window).collect::<Vec<_>>();
    assert_eq!(of(10 * DAY - 1), []);
    assert_eq!(of(10 * DAY), [window(0, 10)], "the end is not inside");
    assert_eq!(of(20 * DAY - 1), [window(0, 10)]);
    assert_eq!(of(30 * DAY), [window(0, 10), window(10, 10), window(20, 10)]);
}

#[test]
fn a_window_goes_with_everything_that_is_of_it() {
    let gone = chosen(&three(), 10 * DAY, usize::MAX).pop().expect("one window");
    let mut ids: Vec<u128> = gone.objects.iter().map(|entry| entry.id.get()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    assert_eq!((gone.readings, gone.flush_last), (42, FlushNumber::new(5)));
    assert_eq!(gone.segments().count(), 2);
}

#[test]
fn one_commit_takes_whole_windows_up_to_its_limit() {
    let manifest = three();
    let of = |objects_max| chosen(&manifest, 30 * DAY, objects_max).len();
    assert_eq!((of(0), of(5), of(6), of(7)), (1, 1, 2, 3));
    let left_out = HashSet::from([window(0, 10)]);
    let rest = choose(&manifest, millis(30 * DAY), 1, &left_out);
    assert_eq!(rest.iter().map(|gone| gone.window).collect::<Vec<_>>(), [window(10, 10)]);
}

#[test]
fn a_drop_that_was_cut_short_is_known_by_what_is_left() {
    let open = OpenDrop {
        id: 1,
        version: ManifestVersion::new(2),
        windows: vec![(window(0, 10), FlushNumber::new(5)), (window(10, 10), FlushNumber::new(2))],
    };
    assert!(!open.happened(&three()));
    assert!(open.happened(&manifest(vec![entry(7, SegmentKind::Readings, window(20, 10), 3, 9)])));
    // What came later is not what was to go.
    let late = entry(8, SegmentKind::Readings, window(0, 10), 6, 1);
    assert!(open.happened(&manifest(vec![late])));
    // A merge of the old with the late has the old flushes.
    let merged =
        SegmentEntry { flush_first: FlushNumber::new(2), ..entry(9, SegmentKind::Readings, window(0, 10), 6, 50) };
    assert!(!open.happened(&manifest(vec![merged])));
}

proptest! {
    /// Nothing with a time after the cutoff goes, and of nothing a part.
    #[test]
    fn what_goes_is_old_and_whole(
        entries in prop::collection::vec((0..6_i64, 1..20_u64, 1..4_u64), 0..20),
        cutoff in 0..80_i64,
        objects_max in 0..10_usize,
    ) {
        let entries: Vec<SegmentEntry> = (1..).zip(entries)
            .map(|(id, (place, flush, rows))| entry(id, SegmentKind::Readings, window(place * 10, 10), flush, rows))
            .collect();
        let manifest = manifest(entries.clone());
        let gone = chosen(&manifest, cutoff * DAY, objects_max);
        for window in &gone {
            prop_assert!(window.window.range().end() <= millis(cutoff * DAY));
            prop_assert_eq!(window.objects.len(), entries.iter().filter(|entry| entry.window == window.window).count());
        }
        prop_assert!(gone.is_sorted_by_key(|gone| gone.window));
        let old = entries.iter().any(|entry| entry.window.range().end() <= millis(cutoff * DAY));
        prop_assert_eq!(old, !gone.is_empty());
    }
}
