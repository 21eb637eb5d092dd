//! All commands: what they are called on the wire, what they work with, and the one place that runs them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use control::{Caller, Control};
use engine::{Clock, Engine};
use problem::{Problem, Result};
use serde::{Deserialize, Serialize};
use storage_format::Millis;

use crate::compact::{self, CompactRequest};
use crate::event::Events;
use crate::import::{self, ImportRequest};
use crate::limits::CALL_BYTES_MAX;
use crate::manifest::{self, ManifestRequest};
use crate::retention::{self, RetentionRequest};

/// A command with its request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// `icecore compact`.
    Compact(CompactRequest),
    /// `icecore import`.
    Import(ImportRequest),
    /// `icecore manifest show`.
    ManifestShow(ManifestRequest),
    /// `icecore retention run`.
    RetentionRun(RetentionRequest),
}

/// What a command's process asks of the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// What the user is called, for the audit log; the number is known from the socket.
    pub user: String,
    /// What to do.
    pub command: Command,
}

/// Reads a request as it came through the socket.
///
/// # Errors
/// When it is none: the text says why.
pub fn decode_call(bytes: &[u8]) -> Result<Call> {
    if bytes.len() > CALL_BYTES_MAX {
        return Err(Problem::new(format!("the request is longer than {CALL_BYTES_MAX} bytes")).help("name fewer files"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        Problem::new("the server does not understand this command")
            .detail(error)
            .help("the command and the running server must be of the same version of icecore")
    })
}

/// The times that readings may have, as the configuration says it for gateways and imports alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptedTimes {
    /// The earliest time.
    pub min: Millis,
    /// Lead over the clock that a time may have.
    pub ahead_max: Duration,
}

impl AcceptedTimes {
    /// The latest time that a reading may have now.
    #[must_use]
    pub fn max(&self, now: Millis) -> Millis {
        now.saturating_add(i64::try_from(self.ahead_max.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A data directory at work.
#[derive(Clone)]
pub struct Resources {
    /// Readings.
    pub engine: Arc<Engine>,
    /// Organisations, and the audit log.
    pub control: Control,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The times that readings may have.
    pub times: AcceptedTimes,
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resources")
    }
}

impl Resources {
    /// What a command of this caller works with.
    #[must_use]
    pub fn for_caller(&self, caller: Caller) -> CommandContext {
        let Self { engine, control, clock, times } = self.clone();
        CommandContext { engine, control, caller, clock, times }
    }
}

/// What a command works with.
#[derive(Clone)]
pub struct CommandContext {
    /// Readings.
    pub engine: Arc<Engine>,
    /// Organisations, and the audit log.
    pub control: Control,
    /// Actor that runs the command.
    pub caller: Caller,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The times that readings may have.
    pub times: AcceptedTimes,
}

impl fmt::Debug for CommandContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandContext").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl CommandContext {
    /// The time now.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.clock.now()
    }
}

/// Runs a command. Dropped before its end, the command is given up: it leaves what a crash would leave.
///
/// # Errors
/// Why the command failed, for the person who called it.
pub async fn run(context: &CommandContext, command: Command, events: &Events) -> Result<()> {
    match command {
        Command::Compact(request) => compact::run(context, &request, events).await,
        Command::Import(request) => import::run(context, &request, events).await,
        Command::ManifestShow(request) => manifest::run(context, &request, events).await,
        Command::RetentionRun(request) => retention::run(context, &request, events).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let call = Call {
            user: "ann".to_owned(),
            command: Command::ManifestShow(ManifestRequest { org: "clinic".to_owned() }),
        };
        let text = serde_json::to_string(&call).expect("JSON");
        assert_eq!(text, r#"{"user":"ann","command":{"manifest_show":{"org":"clinic"}}}"#);
        assert_eq!(decode_call(text.as_bytes()), Ok(call));
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_reason() {
        for (bytes, reason) in [
            (&b""[..], "EOF"),
            (b"\xff", "expected value"),
            (br#"{"user":"ann","command":{"melt":{}}}"#, "unknown variant `melt`"),
            (br#"{"user":"ann","command":{"manifest_show":{"org":"x","as":"y"}}}"#, "unknown field `as`"),
            (br#"{"user":"ann","command":{"manifest_show":{}}}"#, "missing field `org`"),
        ] {
            let error = decode_call(bytes).expect_err("refused").to_string();
            assert!(error.contains(reason), "{error}");
        }
        let error = decode_call(&vec![b' '; CALL_BYTES_MAX + 1]).expect_err("refused");
        assert!(error.what().contains("longer than"), "{error}");
    }
}
