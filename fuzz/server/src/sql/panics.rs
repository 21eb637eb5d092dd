//! Panics of the SQL library on query threads. The server contains them, so they are not violations as long as the
//! caller gets an error. A panic in icecore's code, or on any other thread, is a violation.

use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::{Mutex, Once, PoisonError};

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Starts to collect contained panics.
pub(super) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| match contained(info) {
            Some(text) => SEEN.lock().unwrap_or_else(PoisonError::into_inner).push(text),
            None => before(info),
        }));
    });
}

/// Returns the panics that were collected since the last call.
pub(super) fn take() -> Vec<String> {
    std::mem::take(&mut SEEN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn contained(info: &PanicHookInfo<'_>) -> Option<String> {
    let file = info.location()?.file();
    let thread = std::thread::current();
    let is_query = thread.name().is_some_and(|name| name.starts_with("query"));
    let is_library = file.contains("/registry/") || file.contains("/rustc/");
    (is_query && is_library).then(|| info.to_string())
}
