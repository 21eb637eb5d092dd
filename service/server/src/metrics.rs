//! The metrics of HTTP: their names, units and meanings, in one place. No label identifies an organisation.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use query::{TurnKind, Turns};

const REQUESTS: &str = "icecore_http_requests_total";
const REQUEST_SECONDS: &str = "icecore_http_request_seconds";
const WAIT_SECONDS: &str = "icecore_http_request_wait_seconds";
const REQUESTS_WAITING: &str = "icecore_http_requests_waiting";
const REQUESTS_RUNNING: &str = "icecore_http_requests_running";
const READY: &str = "icecore_ready";

/// Tells a recorder what the names mean.
pub(crate) fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Requests, by route and status");
    describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "Time from a request to the beginning of its response, by route"
    );
    describe_histogram!(WAIT_SECONDS, Unit::Seconds, "Time that a request waited for its turn to run, by kind");
    describe_gauge!(REQUESTS_WAITING, Unit::Count, "Requests that wait for their turn to run");
    describe_gauge!(REQUESTS_RUNNING, Unit::Count, "Requests that have their turn to run");
    describe_gauge!(
        READY,
        Unit::Count,
        "1 while everything acknowledged can be queried and frames are taken, otherwise 0"
    );
}

/// Counts a request whose response begins. How long it takes to read depends on the reader.
pub(crate) fn responded(route: &'static str, status: u16, took: Duration) {
    counter!(REQUESTS, "route" => route, "status" => status.to_string()).increment(1);
    histogram!(REQUEST_SECONDS, "route" => route).record(took.as_secs_f64());
}

/// Records how long a request waited for its turn, whether it came or not.
pub(crate) fn waited(kind: TurnKind, time: Duration) {
    let kind = match kind {
        TurnKind::Query => "query",
        TurnKind::Export => "export",
    };
    histogram!(WAIT_SECONDS, "kind" => kind).record(time.as_secs_f64());
}

/// Sets the gauges of what is so now. Called for each scrape, so that none reads what was true a while ago.
pub(crate) fn now(turns: &Turns, is_ready: bool) {
    for (name, count) in [(REQUESTS_WAITING, turns.waiting()), (REQUESTS_RUNNING, turns.running())] {
        gauge!(name).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }
    gauge!(READY).set(f64::from(u8::from(is_ready)));
}
