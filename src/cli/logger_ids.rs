//! The option that states the base of loggers' ids, which several commands have.

use clap::ValueEnum;
use storage_format::IdBase;

/// What a logger's id means that has decimal digits only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LoggerIds {
    /// 16 hex digits, as loggers and exports print it
    Hex,
    /// A decimal number, as SQL prints the column logger
    Decimal,
}

/// The way out for an id that is refused.
pub(super) const HELP: &str = "a logger is written as 16 hex digits, also as 00-12-4B-00-00-00-00-01 or with 0x before \
                               them; --logger-ids hex or --logger-ids decimal says what digits alone mean";

/// The base that the option states.
pub(super) fn base(option: Option<LoggerIds>) -> IdBase {
    match option {
        None => IdBase::Unstated,
        Some(LoggerIds::Hex) => IdBase::Hex,
        Some(LoggerIds::Decimal) => IdBase::Decimal,
    }
}
