//! Tests of wrapping and sealing.

use super::*;
use crate::{FileKind, FormatErrorKind, OrgId, SegmentId, Window};

fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes([byte; KEY_BYTES])
}

#[test]
fn a_key_unwraps_for_its_purpose_only() {
    let org = OrgId::new(7).expect("not zero");
    let aad = org_key_aad(org, 1);
    let wrapped = wrap_key(&key(1), &key(2), [3; NONCE_BYTES], &aad);
    assert_eq!(unwrap_key(&key(1), &wrapped, &aad).expect("unwraps").expose(), key(2).expose());
    for (wrapping, aad) in [(key(2), aad.clone()), (key(1), org_key_aad(org, 2)), (key(1), Vec::new())] {
        let error = unwrap_key(&wrapping, &wrapped, &aad).expect_err("must not unwrap");
        assert_eq!(error.kind, FormatErrorKind::WrongKey);
    }
    for bit in 0..WRAPPED_KEY_BYTES * 8 {
        let mut bytes = *wrapped.as_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(unwrap_key(&key(1), &WrappedKey::from_bytes(bytes), &aad).is_err(), "bit {bit}");
    }
}

#[test]
fn sealed_bytes_open_only_with_the_same_inputs() {
    let sealed = seal(&key(1), [2; NONCE_BYTES], b"for this", b"content".to_vec());
    assert_eq!(sealed.len(), 7 + TAG_BYTES);
    let opened = open(FileKind::Manifest, &key(1), [2; NONCE_BYTES], b"for this", sealed.clone());
    assert_eq!(opened.as_deref(), Ok(&b"content"[..]));
    for (k, nonce, aad) in [(2, 2, "for this"), (1, 3, "for this"), (1, 2, "for that")] {
        let error = open(FileKind::Manifest, &key(k), [nonce; NONCE_BYTES], aad.as_bytes(), sealed.clone());
        assert_eq!(error.expect_err("must not open").kind, FormatErrorKind::Damaged);
    }
    let short = open(FileKind::Manifest, &key(1), [2; NONCE_BYTES], b"", vec![0; TAG_BYTES - 1]);
    assert_eq!(short.expect_err("too short").kind, FormatErrorKind::Truncated);
}

#[test]
fn additional_data_differs_by_purpose() {
    let org = OrgId::new(7).expect("not zero");
    let window: Window = "2016020100-2016030100".parse().expect("a window");
    let segment = SegmentId::new(9).expect("not zero");
    let all = [
        org_key_aad(org, 1),
        org_key_aad(OrgId::new(8).expect("not zero"), 1),
        data_key_aad(org, window, segment),
        data_key_aad(org, "2016020100-2016040100".parse().expect("a window"), segment),
        data_key_aad(org, window, SegmentId::new(10).expect("not zero")),
    ];
    for (i, first) in all.iter().enumerate() {
        for second in &all[i + 1..] {
            assert_ne!(first, second);
        }
    }
}

#[test]
fn debug_shows_no_key() {
    assert_eq!(format!("{:?}", key(0xAB)), "SecretKey(redacted)");
}
