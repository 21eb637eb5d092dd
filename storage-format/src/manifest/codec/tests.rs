//! Tests of manifest objects: round trips, damage, wrong names, wrong keys, golden files.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::manifest::{SegmentEntry, SegmentKind, SpoolPosition, Totals};
use crate::{
    ChannelCode, FlushNumber, FrameSequence, GatewayId, LoggerId, Lsn, Millis, SegmentId, SpoolId, Window, WriterEpoch,
};

pub(crate) fn key() -> SecretKey {
    SecretKey::from_bytes([7; 32])
}

pub(crate) fn org() -> OrgId {
    OrgId::new(0xA1).expect("not zero")
}

fn window() -> Window {
    "2024050100-2024060100".parse().expect("a window")
}

pub(crate) fn entry(id: u128, kind: SegmentKind, flush: u64) -> SegmentEntry {
    let start = window().range().start();
    SegmentEntry {
        id: SegmentId::new(id).expect("not zero"),
        kind,
        of: None,
        window: window(),
        flush_first: FlushNumber::new(flush),
        flush_last: FlushNumber::new(flush),
        rows: 10,
        bytes: 1000,
        time_min: start,
        time_max: start.saturating_add(5_000),
        logger_min: LoggerId::new(1).expect("not zero"),
        logger_max: LoggerId::new(9).expect("not zero"),
        channels: vec![ChannelCode::new(1).expect("a code"), ChannelCode::new(2).expect("a code")],
        shares_keys: false,
        key_version: 1,
        lsn_min: Lsn::new(1),
        lsn_max: Lsn::new(flush * 10),
        digest: [9; 32],
    }
}

pub(crate) fn delta(version: u64) -> ManifestDelta {
    ManifestDelta {
        version: ManifestVersion::new(version),
        epoch: WriterEpoch::new(2),
        nonce: [3; 16],
        created: "2024-05-02T00:00:00Z".parse().expect("a time"),
        lsn_covered: Lsn::new(version * 10),
        flush: FlushNumber::new(version),
        added: vec![
            entry(u128::from(version), SegmentKind::Readings, version),
            entry(u128::from(version) << 64, SegmentKind::Conflicts, version),
        ],
        removed: vec![],
        spools: vec![SpoolPosition {
            gateway: GatewayId::new(5).expect("not zero"),
            spool: SpoolId::new(6).expect("not zero"),
            sequence: FrameSequence::new(version * 100),
            lsn: Lsn::new(version * 10),
        }],
        totals: Totals { readings: 10, duplicates: 3, conflicts: 10, filled: 1, dropped: 0 },
    }
}

/// A commit of a kind that only format version 2 has: a merge with fills and rollups, or nearly so.
pub(crate) fn later_delta(version: u64) -> ManifestDelta {
    let mut delta = delta(version);
    let of = Some(delta.added[0].id);
    let more = [(3, SegmentKind::Fills, None), (4, SegmentKind::RollupHourly, of), (5, SegmentKind::RollupDaily, of)];
    for (id, kind, of) in more {
        delta.added.push(SegmentEntry { of, ..entry((u128::from(version) << 64) + id, kind, version) });
    }
    delta.totals.dropped = 7;
    delta
}

fn state(versions: u64) -> Manifest {
    let mut state = Manifest::empty();
    for version in 1..=versions {
        state.apply(&delta(version)).expect("a valid commit");
    }
    state
}

fn base(version: u64) -> ManifestObject {
    ManifestObject::Base(Box::new(ManifestBase { delta: delta(version), state: state(version) }))
}

/// The same with a last commit that only format version 2 has.
fn later_base(version: u64) -> ManifestObject {
    let (mut state, delta) = (state(version - 1), later_delta(version));
    state.apply(&delta).expect("a valid commit");
    ManifestObject::Base(Box::new(ManifestBase { delta, state }))
}

fn encode(object: &ManifestObject) -> Vec<u8> {
    encode_manifest(org(), object, &key(), 1, [1; 12]).expect("small")
}

fn decode(version: u64, bytes: &[u8]) -> Result<ManifestObject, FormatError> {
    decode_manifest(org(), ManifestVersion::new(version), bytes, &key())
}

/// Seals a body that no encoder would write.
fn encode_body(version: u64, is_base: bool, body: Vec<u8>) -> Vec<u8> {
    let header = ManifestHeader {
        format: header::FORMAT_VERSION,
        base: is_base,
        key_version: 1,
        body_bytes: u32::try_from(body.len()).expect("small"),
        org: org(),
        version: ManifestVersion::new(version),
        epoch: WriterEpoch::new(2),
        nonce: [3; 16],
        seal_nonce: [1; 12],
    };
    let mut bytes = header.encode();
    let sealed = seal(&key(), [1; 12], &aad(org(), header.version, &bytes), body);
    bytes.extend_from_slice(&sealed);
    header::set_checksum(&mut bytes);
    bytes
}

#[test]
fn round_trips() {
    for object in [ManifestObject::Delta(later_delta(2)), base(3), base(1), later_base(2)] {
        let version = object.delta().version.get();
        let bytes = encode(&object);
        let header = ManifestHeader::decode(&bytes).expect("a header");
        assert_eq!((header.org, header.version, header.nonce), (org(), object.delta().version, [3; 16]));
        assert_eq!(decode(version, &bytes).expect("it opens"), object);
    }
}

#[test]
fn wrong_names_and_keys_differ_from_damage() {
    let bytes = encode(&base(3));
    assert_eq!(decode(4, &bytes).expect_err("another version").kind, FormatErrorKind::Invalid);
    let other = OrgId::new(0xA2).expect("not zero");
    let error = decode_manifest(other, ManifestVersion::new(3), &bytes, &key()).expect_err("another org");
    assert_eq!((error.kind, error.offset), (FormatErrorKind::Invalid, 24));
    let key = SecretKey::from_bytes([8; 32]);
    let error = decode_manifest(org(), ManifestVersion::new(3), &bytes, &key).expect_err("another key");
    assert_eq!(error.kind, FormatErrorKind::WrongKey);
    // The tag detects a changed header even if the checksum was corrected.
    let mut forged = bytes;
    forged[40] ^= 1;
    header::set_checksum(&mut forged);
    assert_eq!(decode(3, &forged).expect_err("forged").kind, FormatErrorKind::WrongKey);
}

#[test]
fn invalid_bodies_are_rejected() {
    let valid = body::encode(&base(2));
    assert!(decode(2, &encode_body(2, true, valid.clone())).is_ok());
    let mut longer = valid.clone();
    longer.push(0);
    assert!(decode(2, &encode_body(2, true, longer)).is_err(), "extra bytes");
    assert!(decode(2, &encode_body(2, false, valid.clone())).is_err(), "a base labelled as a delta");
    assert!(decode(2, &encode_body(2, true, body::encode(&ManifestObject::Delta(delta(2))))).is_err(), "no state");
    assert!(decode(2, &encode_body(2, false, vec![])).is_err(), "an empty body");

    let mut twice = state(2);
    twice.segments.push(twice.segments[1].clone());
    let object = ManifestObject::Base(Box::new(ManifestBase { delta: delta(2), state: twice }));
    assert!(decode(2, &encode(&object)).is_err(), "a duplicate segment");
    let mut unsorted = state(2);
    unsorted.segments.swap(0, 1);
    let object = ManifestObject::Base(Box::new(ManifestBase { delta: delta(2), state: unsorted }));
    assert!(decode(2, &encode(&object)).is_err(), "out of order");
}

#[test]
fn counts_beyond_the_body_are_rejected() {
    let mut body = body::encode(&ManifestObject::Delta(delta(2)));
    // The count of entries follows created, covered LSN, flush and five totals.
    body[64..68].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = decode(2, &encode_body(2, false, body)).expect_err("four thousand million entries");
    assert_eq!((error.kind, error.offset), (FormatErrorKind::Truncated, 80 + 68));
}

proptest! {
    #[test]
    fn flipped_bits_are_detected(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = encode(&base(2));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode(2, &bytes).is_err());
    }

    #[test]
    fn truncation_is_detected(at in any::<prop::sample::Index>()) {
        let bytes = encode(&base(2));
        prop_assert!(decode(2, &bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(decode(2, &bytes).is_err());
    }

    #[test]
    fn arbitrary_bodies_never_panic(is_base: bool, bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode(2, &encode_body(2, is_base, bytes));
    }

    #[test]
    fn mutated_bodies_are_rejected_or_round_trip(at in any::<prop::sample::Index>(), to: u8) {
        let mut body = body::encode(&later_base(2));
        let at = at.index(body.len());
        body[at] = to;
        if let Ok(object) = decode(2, &encode_body(2, true, body.clone())) {
            prop_assert_eq!(body::encode(&object), body);
        }
    }

    #[test]
    fn any_delta_round_trips(
        version in 1..=u64::MAX, numbers in prop::array::uniform9(any::<u64>()), ids in prop::collection::vec(1..=u128::MAX, 0..5),
        ms in Millis::MIN.get()..=Millis::MAX.get(), codes in prop::collection::btree_set(1..=u16::MAX, 0..5), shares: bool,
    ) {
        let mut delta = delta(2);
        delta.version = ManifestVersion::new(version);
        delta.epoch = WriterEpoch::new(numbers[0].max(1));
        delta.lsn_covered = Lsn::new(numbers[1]);
        delta.flush = FlushNumber::new(numbers[2]);
        delta.totals = Totals {
            readings: numbers[3], duplicates: numbers[4], conflicts: numbers[5], filled: numbers[6], dropped: numbers[8],
        };
        delta.removed = ids.iter().map(|&id| SegmentId::new(id).expect("not zero")).collect();
        delta.created = Millis::new(ms).expect("in range");
        let entry = &mut delta.added[0];
        entry.window = Window::month_of(delta.created);
        entry.shares_keys = shares;
        entry.channels = codes.into_iter().map(|code| ChannelCode::new(code).expect("not zero")).collect();
        entry.rows = numbers[7];
        let object = ManifestObject::Delta(delta);
        prop_assert_eq!(decode(version, &encode(&object)).expect("it opens"), object);
    }
}

fn fixture(version: &str, name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(version).join(name)
}

/// Checks that files of format version 1 still open.
#[test]
fn golden_files_of_version_1_still_open() {
    for (name, object) in [("manifest-delta.bin", ManifestObject::Delta(delta(2))), ("manifest-base.bin", base(3))] {
        let bytes = std::fs::read(fixture("v1", name)).expect("the fixture exists");
        assert_eq!(ManifestHeader::decode(&bytes).expect("a header").format, 1);
        assert_eq!(decode(object.delta().version.get(), &bytes).expect("it opens"), object, "{name}");
    }
}

/// Checks that files of the latest version open, and are written as they were. `UPDATE_FIXTURES=1 cargo test` creates
/// missing files.
#[test]
fn golden_files_are_written_as_before() {
    let delta = ManifestObject::Delta(later_delta(2));
    for (name, object) in [("manifest-delta.bin", delta), ("manifest-base.bin", later_base(3))] {
        let path = fixture("v2", name);
        if std::env::var_os("UPDATE_FIXTURES").is_some() && !path.exists() {
            std::fs::write(&path, encode(&object)).expect("the fixture is written");
        }
        let bytes = std::fs::read(&path).expect("the fixture exists");
        assert_eq!(ManifestHeader::decode(&bytes).expect("a header").format, 2);
        assert_eq!(decode(object.delta().version.get(), &bytes).expect("it opens"), object, "{name}");
        assert_eq!(encode(&object), bytes, "{name}");
    }
}
