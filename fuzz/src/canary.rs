//! A decoder with a deliberate defect. Every run of the targets first checks that this defect is reported.

/// Trusts a length field behind a magic that only a coverage-guided fuzzer finds.
pub fn canary(data: &[u8]) -> bool {
    let Some(rest) = data.strip_prefix(b"ICEF") else { return false };
    let Some((&length, body)) = rest.split_first() else { return false };
    assert!(usize::from(length) <= body.len(), "the canary: {length} bytes claimed, {} present", body.len());
    true
}
