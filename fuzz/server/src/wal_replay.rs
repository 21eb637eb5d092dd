//! WAL replay as a script: the bytes make the choices that the simulation otherwise draws from its seed (which gateway
//! sends what, how small the limits are, what fails, when the process dies and what a power cut leaves). The model of
//! the simulation determines what every replay must return.

/// Runs a script, in which no acknowledged reading may be lost and no wrong reading returned. Returns whether any
/// reading was acknowledged.
pub fn wal_replay(data: &[u8]) -> bool {
    let outcome = sim::run_bytes(data);
    assert!(outcome.violations.is_empty(), "{:#?}\n{}", outcome.violations, outcome.trace.join("\n"));
    outcome.figures.oracle.acknowledged_readings > 0
}
