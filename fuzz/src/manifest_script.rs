//! Scripts of commits, some of which break a rule. Either a commit applies and every invariant of a state holds, or it
//! is rejected and nothing changes. A reader with a base and the deltas after it must arrive at the same state.

use std::collections::BTreeSet;

use storage_format::encryption::SecretKey;
use storage_format::manifest::{
    ApplyError, Manifest, ManifestBase, ManifestDelta, ManifestObject, SegmentEntry, SegmentKind, SpoolPosition,
    Totals, decode_manifest, encode_manifest,
};
use storage_format::{
    ChannelCode, FlushNumber, FrameSequence, GatewayId, LoggerId, Lsn, ManifestVersion, Millis, SegmentId, SpoolId,
    Window, WriterEpoch,
};

use crate::Script;
use crate::manifest::{ORG_KEY, check_state, org};

/// Most commits of a script. Longer scripts find nothing new and take more time.
const COMMITS_MAX: usize = 64;

/// Runs a script of commits.
pub fn manifest_script(data: &[u8]) -> bool {
    let mut script = Script::new(data);
    let key = SecretKey::from_bytes(ORG_KEY);
    let mut state = Manifest::empty();
    let mut live: BTreeSet<SegmentId> = BTreeSet::new();
    let mut objects = Vec::new();
    for _ in 0..COMMITS_MAX {
        if script.is_empty() {
            break;
        }
        let delta = commit(&mut script, &state, &live);
        let before = state.clone();
        let applied = state.apply(&delta);
        check_result(&applied, &delta, &before, &live);
        if applied.is_err() {
            assert_eq!(state, before, "a rejected commit changes nothing");
            continue;
        }
        check_state(&state);
        for id in &delta.removed {
            live.remove(id);
        }
        live.extend(delta.added.iter().map(|entry| entry.id));
        let listed: BTreeSet<_> = state.objects().map(|entry| entry.id).collect();
        assert_eq!(listed, live);
        assert_eq!(Some(state.totals()), before.totals().checked_add(delta.totals));
        let found = (state.version(), state.epoch(), state.lsn_covered(), state.flush());
        assert_eq!(found, (delta.version, delta.epoch, delta.lsn_covered, delta.flush));
        // Every applied commit can be encoded and decoded, both alone and with the state after it.
        let base = ManifestObject::Base(Box::new(ManifestBase { delta: delta.clone(), state: state.clone() }));
        for object in [ManifestObject::Delta(delta), base] {
            let bytes = encode_manifest(org(), &object, &key, 1, [1; 12]).expect("small");
            assert_eq!(decode_manifest(org(), state.version(), &bytes, &key), Ok(object));
            objects.push(bytes);
        }
    }
    // Start from the first base, and from one in the middle.
    let pairs = objects.len() / 2;
    for start in [0, pairs / 2] {
        read_back(&objects, start, &state, &key);
    }
    pairs > 0
}

/// Reads a base and the deltas after it. `objects` has pairs of a delta and a base, from version 1 on.
fn read_back(objects: &[Vec<u8>], start: usize, state: &Manifest, key: &SecretKey) {
    let mut read: Option<Manifest> = None;
    for (index, pair) in objects.chunks_exact(2).enumerate().skip(start) {
        let version = ManifestVersion::new(index as u64 + 1);
        let bytes = if index == start { &pair[1] } else { &pair[0] };
        match (decode_manifest(org(), version, bytes, key).expect("an object that was decoded before"), read.as_mut()) {
            (ManifestObject::Base(base), None) => read = Some(base.state),
            (ManifestObject::Delta(delta), Some(state)) => {
                state.apply(&delta).expect("a commit that was applied before")
            }
            _ => panic!("the first is a base, the others are deltas"),
        }
    }
    assert!(read.is_none_or(|read| read == *state), "a base and its deltas lead to the same state");
}

/// Checks the result against the rules of the format page that can be evaluated here.
fn check_result(
    applied: &Result<(), ApplyError>,
    delta: &ManifestDelta,
    before: &Manifest,
    live: &BTreeSet<SegmentId>,
) {
    let added: BTreeSet<_> = delta.added.iter().map(|entry| entry.id).collect();
    let removed: BTreeSet<_> = delta.removed.iter().copied().collect();
    let follows = before.version().next() == Some(delta.version)
        && delta.epoch >= before.epoch()
        && delta.lsn_covered >= before.lsn_covered()
        && delta.flush >= before.flush()
        && before.totals().checked_add(delta.totals).is_some()
        && removed.len() == delta.removed.len()
        && removed.is_subset(live)
        && added.len() == delta.added.len()
        && added.is_disjoint(live);
    assert!(follows || applied.is_err(), "{delta:?} breaks a rule, but was applied");
    let is_plain = delta.added.is_empty() && delta.spools.is_empty() && delta.epoch > WriterEpoch::ZERO;
    assert!(!(follows && is_plain) || applied.is_ok(), "{delta:?} is valid, but was rejected: {applied:?}");
}

/// Generates a commit that follows `state`, sometimes with one error.
fn commit(script: &mut Script<'_>, state: &Manifest, live: &BTreeSet<SegmentId>) -> ManifestDelta {
    let flush = FlushNumber::new(step(script, state.flush().get()));
    let lsn_covered = Lsn::new(step(script, state.lsn_covered().get()));
    let version = state.version().next().map_or(0, ManifestVersion::get);
    let mut delta = ManifestDelta {
        version: ManifestVersion::new(version),
        epoch: WriterEpoch::new(state.epoch().get().max(1)),
        nonce: [script.u8(); 16],
        created: Millis::EPOCH,
        lsn_covered,
        flush,
        added: Vec::new(),
        removed: Vec::new(),
        spools: Vec::new(),
        totals: Totals { readings: u64::from(script.u8()), duplicates: u64::from(script.u8()), ..Totals::default() },
    };
    for _ in 0..script.below(4) {
        let entry = entry(script, flush);
        delta.added.push(entry);
    }
    for _ in 0..script.below(3) {
        let nth = usize::from(script.u8());
        let id = live.iter().nth(nth % live.len().max(1)).copied();
        delta.removed.push(id.unwrap_or(SegmentId::MIN));
    }
    for _ in 0..script.below(5) {
        delta.spools.push(SpoolPosition {
            gateway: GatewayId::new(1 + u64::from(script.below(2))).expect("not zero"),
            spool: SpoolId::new(1 + u64::from(script.below(40))).expect("not zero"),
            sequence: FrameSequence::new(u64::from(script.u8())),
            lsn: Lsn::new(lsn_covered.get().saturating_sub(u64::from(script.below(8)))),
        });
    }
    if script.one_in(4) {
        add_error(script, &mut delta);
    }
    delta
}

fn step(script: &mut Script<'_>, from: u64) -> u64 {
    from.saturating_add(u64::from(script.below(4)))
}

fn entry(script: &mut Script<'_>, flush: FlushNumber) -> SegmentEntry {
    let windows = ["2024050100-2024060100", "2024060100-2024070100", "2024050112-2024050113"];
    let window: Window = windows[usize::from(script.below(3))].parse().expect("a window");
    let kinds = [SegmentKind::Conflicts, SegmentKind::Fills, SegmentKind::RollupHourly, SegmentKind::RollupDaily];
    let kind = if script.one_in(3) { kinds[usize::from(script.below(4))] } else { SegmentKind::Readings };
    let of = if kind.is_rollup() { SegmentId::new(1 + u128::from(script.u16() % 512)).ok() } else { None };
    let first = 1 + u64::from(script.u8());
    let mut entry = SegmentEntry {
        id: SegmentId::new(1 + u128::from(script.u16() % 512)).expect("not zero"),
        kind,
        of,
        window,
        flush_first: flush,
        flush_last: flush,
        rows: 1 + u64::from(script.u8()),
        bytes: u64::from(script.u32()),
        time_min: window.range().start(),
        time_max: window.range().start().saturating_add(i64::from(script.u16())),
        logger_min: LoggerId::new(first).expect("not zero"),
        logger_max: LoggerId::new(first + u64::from(script.u8())).expect("not zero"),
        channels: (1..=1 + u16::from(script.below(4))).filter_map(ChannelCode::new).collect(),
        shares_keys: script.one_in(2),
        key_version: 1 + u32::from(script.below(3)),
        lsn_min: Lsn::new(1),
        lsn_max: Lsn::new(1 + u64::from(script.u8())),
        digest: [script.u8(); 32],
    };
    match script.below(24) {
        1 => entry.rows = 0,
        2 => entry.flush_first = FlushNumber::new(script.u64()),
        3 => entry.flush_last = FlushNumber::new(script.u64()),
        4 => entry.time_min = Millis::new(script.i64()).unwrap_or(Millis::EPOCH),
        5 => entry.time_max = Millis::new(script.i64()).unwrap_or(Millis::MAX),
        6 => entry.logger_min = LoggerId::MAX,
        7 => entry.lsn_min = Lsn::new(script.u64()),
        8 => entry.key_version = 0,
        9 => entry.channels.reverse(),
        10 => entry.channels.clear(),
        11 => entry.channels.push(ChannelCode::new(script.u16() | 1).expect("odd")),
        12 => entry.digest.rotate_left(1),
        _ => {}
    }
    entry
}

/// Changes one field, in most cases so that the commit becomes invalid.
fn add_error(script: &mut Script<'_>, delta: &mut ManifestDelta) {
    match script.below(8) {
        0 => delta.version = ManifestVersion::new(script.u64()),
        1 => delta.epoch = WriterEpoch::new(script.u64()),
        2 => delta.lsn_covered = Lsn::new(script.u64()),
        3 => delta.flush = FlushNumber::new(script.u64()),
        4 => delta.totals = Totals { filled: script.u64(), conflicts: script.u64(), ..delta.totals },
        5 => delta.removed.push(SegmentId::new(script.u128() | 1).expect("odd")),
        6 => delta.added.extend(delta.added.first().cloned()),
        _ => delta.spools.extend(delta.spools.first().copied()),
    }
}
