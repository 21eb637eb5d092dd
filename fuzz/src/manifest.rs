//! Manifest objects: as they are in the store, and with bodies that only a holder of the key could have sealed.

use storage_format::encryption::{SecretKey, seal};
use storage_format::manifest::{
    MANIFEST_HEADER_BYTES, Manifest, ManifestHeader, ManifestObject, SegmentEntry, SegmentKind, decode_manifest,
    encode_manifest,
};
use storage_format::{FlushNumber, ManifestVersion, ObjectKey, OrgId};

use crate::Script;

/// Organisation key of the golden manifests.
pub(crate) const ORG_KEY: [u8; 32] = [7; 32];
/// Organisation of the golden manifests.
pub(crate) const ORG: u64 = 0xA1;
const KEY_VERSION: u32 = 1;
const SEAL_NONCE: [u8; 12] = [1; 12];
/// Bit of the first byte of an input that chooses the latest format version.
const LATEST: u8 = 8;
/// Offset from which the checksum covers everything.
const CHECKED_FROM: usize = 12;

pub(crate) fn org() -> OrgId {
    OrgId::new(ORG).expect("not zero")
}

/// Decodes a manifest object, which must give a state or an error.
pub fn manifest(data: &[u8]) -> bool {
    let key = SecretKey::from_bytes(ORG_KEY);
    // Use the name that the header states, because any other fails at the first comparison.
    let Ok(header) = ManifestHeader::decode(data) else { return false };
    decode_manifest(header.org, header.version, data, &key).is_ok()
}

/// Seals the bytes as a manifest's body and decodes it. A body that decodes keeps every invariant of a state, and one of
/// the latest version is re-encoded to the same bytes.
pub fn manifest_body(data: &[u8]) -> bool {
    let mut script = Script::new(data);
    let choice = script.u8();
    let (is_base, version) = (choice & 1 == 1, 1 + u64::from(choice >> 1 & 3));
    let format = if choice & LATEST == 0 { 1 } else { 2 };
    let sealed = seal_body(format, is_base, version, script.rest());
    let key = SecretKey::from_bytes(ORG_KEY);
    let object = match decode_manifest(org(), ManifestVersion::new(version), &sealed, &key) {
        Ok(object) => object,
        Err(error) => {
            assert!(error.offset <= sealed.len() as u64, "{error}");
            return false;
        }
    };
    assert_eq!(matches!(object, ManifestObject::Base(_)), is_base);
    let again =
        encode_manifest(org(), &object, &key, KEY_VERSION, SEAL_NONCE).expect("within the size limit, as before");
    assert!(format < 2 || again == sealed, "a manifest of the latest version has one form");
    if let ManifestObject::Base(base) = &object {
        check_state(&base.state);
    }
    // Apply the commit to the empty manifest, and to the state of the base.
    let mut states = vec![Manifest::empty()];
    if let ManifestObject::Base(base) = &object {
        states.push(base.state.clone());
    }
    for mut state in states {
        let before = state.clone();
        match state.apply(object.delta()) {
            Ok(()) => check_state(&state),
            Err(_) => assert_eq!(state, before, "a rejected commit changes nothing"),
        }
    }
    true
}

/// Seals a body as `docs/manifest.md` describes it, even if no encoder would write it.
fn seal_body(format: u16, is_base: bool, version: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"icemanif".to_vec();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&format.to_le_bytes());
    bytes.extend_from_slice(&[if is_base { 2 } else { 1 }, 0]);
    bytes.extend_from_slice(&KEY_VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).expect("the input is small").to_le_bytes());
    bytes.extend_from_slice(&ORG.to_le_bytes());
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&2_u64.to_le_bytes());
    bytes.extend_from_slice(&[3; 16]);
    bytes.extend_from_slice(&SEAL_NONCE);
    bytes.extend_from_slice(&[0; 4]);
    assert_eq!(bytes.len(), MANIFEST_HEADER_BYTES);
    let name = ObjectKey::Manifest { org: org(), version: ManifestVersion::new(version) };
    let mut aad = name.to_string().into_bytes();
    aad.extend_from_slice(&bytes[CHECKED_FROM..]);
    let sealed = seal(&SecretKey::from_bytes(ORG_KEY), SEAL_NONCE, &aad, body.to_vec());
    bytes.extend_from_slice(&sealed);
    let checksum = crc32c::crc32c(&bytes[CHECKED_FROM..]);
    bytes[8..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Checks the invariants of a state: an independent implementation of the rules in `docs/manifest.md`.
pub(crate) fn check_state(state: &Manifest) {
    let mut ids = Vec::new();
    let lists: [(&[SegmentEntry], &[SegmentKind]); 4] = [
        (state.segments(), &[SegmentKind::Readings]),
        (state.conflicts(), &[SegmentKind::Conflicts]),
        (state.fills(), &[SegmentKind::Fills]),
        (state.rollups(), &[SegmentKind::RollupHourly, SegmentKind::RollupDaily]),
    ];
    for (entries, kinds) in lists {
        let key = |entry: &SegmentEntry| (entry.window, entry.flush_first, entry.id);
        assert!(entries.is_sorted_by(|a, b| key(a) < key(b)), "entries are in order");
        for entry in entries {
            assert!(kinds.contains(&entry.kind));
            let of = state.segments().iter().filter(|segment| Some(segment.id) == entry.of).count();
            assert_eq!(of, usize::from(kinds.len() == 2), "rollups, and only they, are of a live segment");
            let twins = entries.iter().filter(|other| other.of == entry.of && other.kind == entry.kind).count();
            assert!(entry.of.is_none() || twins == 1, "one rollup of a kind");
            check_entry(entry, state.flush());
            ids.push(entry.id);
        }
    }
    let entries = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), entries, "ids are unique");
    let mut spools: Vec<_> = state.spools().collect();
    assert!(spools.is_sorted_by(|a, b| (a.gateway, a.spool) < (b.gateway, b.spool)));
    assert!(spools.iter().all(|spool| spool.lsn <= state.lsn_covered()), "a spool's last record is covered");
    assert!(spools.iter().all(|spool| state.spool_sequence(spool.gateway, spool.spool) == spool.sequence));
    spools.dedup_by_key(|spool| spool.gateway);
    for gateway in spools.into_iter().map(|spool| spool.gateway) {
        let count = state.spools().filter(|spool| spool.gateway == gateway).count();
        assert!(count <= 16, "{count} spools of one gateway");
    }
}

fn check_entry(entry: &SegmentEntry, flush: FlushNumber) {
    let range = entry.window.range();
    let rules = [
        entry.rows > 0,
        entry.key_version > 0,
        FlushNumber::ZERO < entry.flush_first && entry.flush_first <= entry.flush_last && entry.flush_last <= flush,
        range.start() <= entry.time_min && entry.time_min <= entry.time_max && entry.time_max < range.end(),
        entry.logger_min <= entry.logger_max,
        entry.lsn_min <= entry.lsn_max,
        !entry.channels.is_empty() && entry.channels.is_sorted_by(|a, b| a < b),
    ];
    assert_eq!(rules, [true; 7], "{entry:?}");
}

/// Returns the plaintext of a golden manifest, which is a seed of [`manifest_body`].
#[cfg(test)]
pub(crate) fn golden_body(sealed: &[u8]) -> Vec<u8> {
    use storage_format::FileKind;
    use storage_format::encryption::open;

    let header = ManifestHeader::decode(sealed).expect("a golden file");
    let name = ObjectKey::Manifest { org: header.org, version: header.version };
    let mut aad = name.to_string().into_bytes();
    aad.extend_from_slice(&sealed[CHECKED_FROM..MANIFEST_HEADER_BYTES]);
    let (key, body) = (SecretKey::from_bytes(ORG_KEY), sealed[MANIFEST_HEADER_BYTES..].to_vec());
    let body = open(FileKind::Manifest, &key, header.seal_nonce, &aad, body).expect("a golden file");
    let latest = if header.format == 1 { 0 } else { LATEST };
    let choice = latest | u8::from(header.base) | u8::try_from(header.version.get() - 1).expect("small") << 1;
    [&[choice], &body[..]].concat()
}
