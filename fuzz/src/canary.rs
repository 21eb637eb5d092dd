//! A decoder that breaks its promise on purpose: whoever runs the targets sees first that this one is reported.

/// Believes a length that it was told, behind a magic that only a fuzzer guided by coverage finds.
pub fn canary(data: &[u8]) -> bool {
    let Some(rest) = data.strip_prefix(b"ICEF") else { return false };
    let Some((&length, body)) = rest.split_first() else { return false };
    assert!(usize::from(length) <= body.len(), "the canary: {length} bytes claimed, {} there", body.len());
    true
}
