//! Tests of the commits that a manifest accepts and of those that it rejects.

use super::*;
use crate::FrameSequence;
use crate::manifest::codec::tests::{delta, entry, later_delta};
use crate::manifest::{SpoolPosition, Totals};

fn state(versions: u64) -> Manifest {
    let mut state = Manifest::empty();
    for version in 1..=versions {
        state.apply(&delta(version)).expect("a valid commit");
    }
    state
}

#[test]
fn commits_add_up() {
    let state = state(3);
    assert_eq!((state.version().get(), state.flush().get(), state.lsn_covered().get()), (3, 3, 30));
    assert_eq!((state.segments().len(), state.conflicts().len()), (3, 3));
    assert_eq!(state.totals(), Totals { readings: 30, duplicates: 9, conflicts: 30, filled: 3, dropped: 0 });
    let flushes: Vec<u64> = state.segments().iter().map(|entry| entry.flush_first.get()).collect();
    assert_eq!(flushes, [1, 2, 3]);
    assert_eq!(state.check(), Ok(()));
    assert_eq!(state.channels().len(), 2);
}

#[test]
fn removed_segments_are_no_longer_live() {
    let mut state = state(3);
    let mut delta = delta(4);
    delta.added.clear();
    delta.removed = vec![state.segments()[1].id, state.conflicts()[0].id];
    state.apply(&delta).expect("a valid commit");
    assert_eq!((state.segments().len(), state.conflicts().len()), (2, 2));
}

#[test]
fn first_commit_needs_an_epoch() {
    let mut first = delta(1);
    first.epoch = WriterEpoch::ZERO;
    let refused = ApplyError::Epoch { current: WriterEpoch::new(1), found: WriterEpoch::ZERO };
    assert_eq!(Manifest::empty().apply(&first), Err(refused));
}

#[test]
fn rejected_commits_change_nothing() {
    let before = state(3);
    type Mutation = fn(&mut ManifestDelta);
    let mutations: [(&str, Mutation); 18] = [
        ("a gap", |d| d.version = ManifestVersion::new(5)),
        ("the same version", |d| d.version = ManifestVersion::new(3)),
        ("an old epoch", |d| d.epoch = WriterEpoch::new(1)),
        ("an old covered LSN", |d| d.lsn_covered = Lsn::new(29)),
        ("an old flush", |d| d.flush = FlushNumber::new(2)),
        ("a future flush", |d| d.flush = FlushNumber::new(3)),
        ("totals overflow", |d| d.totals.readings = u64::MAX),
        ("removed but not live", |d| d.removed = vec![SegmentId::new(99).expect("not zero")]),
        ("removed twice", |d| d.removed = vec![SegmentId::new(1).expect("not zero"); 2]),
        ("already live", |d| d.added[0].id = SegmentId::new(1).expect("not zero")),
        ("added twice", |d| d.added[1].id = d.added[0].id),
        ("a reused name", |d| {
            d.removed = vec![SegmentId::new(1).expect("not zero")];
            d.added[0].id = SegmentId::new(1).expect("not zero");
        }),
        ("no rows", |d| d.added[0].rows = 0),
        ("outside its window", |d| d.added[0].time_max = d.added[0].window.range().end()),
        ("channels out of order", |d| d.added[0].channels.reverse()),
        ("a spool twice", |d| d.spools.push(d.spools[0])),
        ("a spool backwards", |d| d.spools[0].sequence = FrameSequence::new(299)),
        ("a spool's record not covered", |d| d.spools[0].lsn = Lsn::new(41)),
    ];
    for (what, mutate) in mutations {
        let mut state = before.clone();
        let mut delta = delta(4);
        assert_eq!(state.clone().apply(&delta), Ok(()));
        mutate(&mut delta);
        assert!(state.apply(&delta).is_err(), "{what}");
        assert_eq!(state, before, "{what}: nothing changed");
    }
}

#[test]
fn least_recently_used_spools_are_forgotten() {
    let mut state = state(1);
    let gateway = GatewayId::new(5).expect("not zero");
    let spool = |id: u64, lsn: u64| SpoolPosition {
        gateway,
        spool: SpoolId::new(id).expect("not zero"),
        sequence: FrameSequence::new(1),
        lsn: Lsn::new(lsn),
    };
    let mut second = delta(2);
    second.added = vec![entry(77, SegmentKind::Readings, 2)];
    // Spool 6 has LSN 10 and is displaced by 16 more recent ones; the other gateway's spool stays.
    second.spools = (100..116).map(|id| spool(id, 20 - (id % 2))).collect();
    second.spools.push(SpoolPosition { gateway: GatewayId::new(4).expect("not zero"), ..spool(6, 1) });
    state.apply(&second).expect("a valid commit");
    assert_eq!(state.spools().count(), 17);
    assert_eq!(state.spool_sequence(gateway, SpoolId::new(6).expect("not zero")), FrameSequence::ZERO);
    assert_eq!(state.spool_sequence(gateway, SpoolId::new(100).expect("not zero")), FrameSequence::new(1));
    assert_eq!(state.check(), Ok(()));
}

#[test]
fn rollups_and_fills_are_live_beside_their_segments() {
    let mut state = state(2);
    state.apply(&later_delta(3)).expect("a valid commit");
    assert_eq!((state.segments().len(), state.fills().len(), state.rollups().len()), (3, 1, 2));
    assert_eq!(state.objects().count(), 9);
    assert_eq!(state.totals().dropped, 7);
    assert_eq!(state.check(), Ok(()));
    let of = state.segments()[2].id;
    let removal = |removed: Vec<SegmentId>| ManifestDelta { added: vec![], removed, ..delta(4) };
    let alone = removal(vec![of]);
    assert!(state.clone().apply(&alone).is_err(), "a segment does not go without its rollups");
    let whole = removal([of].into_iter().chain(state.rollups().iter().map(|entry| entry.id)).collect());
    state.apply(&whole).expect("with them it does");
    assert_eq!((state.segments().len(), state.fills().len(), state.rollups().len()), (2, 1, 0));
}

#[test]
fn rollups_of_the_wrong_segment_are_rejected() {
    type Mutation = fn(&mut ManifestDelta);
    let mutations: [(&str, Mutation); 5] = [
        ("of nothing", |d| d.added[3].of = None),
        ("of a segment that is not live", |d| d.added[3].of = SegmentId::new(99).ok()),
        ("of a conflicts object", |d| d.added[3].of = Some(d.added[1].id)),
        ("two of one kind", |d| d.added[4].kind = SegmentKind::RollupHourly),
        ("readings of a segment", |d| d.added[0].of = SegmentId::new(1).ok()),
    ];
    for (what, mutate) in mutations {
        let mut delta = later_delta(3);
        mutate(&mut delta);
        let mut state = state(2);
        assert!(state.apply(&delta).is_err(), "{what}");
        assert_eq!(state, self::state(2), "{what}: nothing changed");
    }
}
