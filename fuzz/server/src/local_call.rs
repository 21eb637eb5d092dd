//! Requests as they come through the local socket of a data directory.

use local::decode_call;

/// Decodes a request. What is one is written and read again as the same; what is none is refused with a reason.
pub fn local_call(data: &[u8]) -> bool {
    match decode_call(data) {
        Ok(call) => {
            let bytes = serde_json::to_vec(&call).expect("a request has nothing that JSON does not have");
            assert_eq!(decode_call(&bytes).as_ref(), Ok(&call), "{}", String::from_utf8_lossy(&bytes));
            true
        }
        Err(problem) => {
            assert!(!problem.what().is_empty());
            false
        }
    }
}
