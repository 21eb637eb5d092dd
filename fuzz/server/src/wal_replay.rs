//! The life of a WAL as a script: the bytes choose what the simulation else draws from its seed (who sends what, how
//! small the limits are, what fails, when the process dies and what a power cut leaves), and the truth beside it says
//! what every replay must bring back.

/// Nothing acknowledged is lost and nothing read is wrong, whatever the script. Good is a script in which something was
/// acknowledged.
pub fn wal_replay(data: &[u8]) -> bool {
    let outcome = sim::run_bytes(data);
    assert!(outcome.violations.is_empty(), "{:#?}\n{}", outcome.violations, outcome.trace.join("\n"));
    outcome.figures.oracle.acknowledged_readings > 0
}
