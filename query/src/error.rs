//! What can go wrong with a query, as its caller may read it.
//!
//! A caller never learns a path of the host, the name of an object in the store or anything of another organisation:
//! texts of the SQL layer pass (they speak of the caller's own statement), texts of the storage layer do not. Those
//! are logged here, once, and the caller gets a sentence that says what to do.

use std::time::Duration;

use datafusion::common::DataFusionError;
use engine::{EngineError, EngineErrorKind};

use crate::turns::TurnRefused;

/// Advice of the SQL layer to whoever builds it, with the name of a feature between these two. Callers cannot follow it.
const BUILD_HINT: (&str, &str) = (" Hint: Please try with `", "` DataFusion feature enabled");

/// The longest text of the SQL layer that is passed on: such texts can repeat the statement.
const DETAIL_CHARS_MAX: usize = 2_000;

/// Which limit a query ran into.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitKind {
    /// It needed more memory (or spill space) than one query may have.
    #[error("it needs more memory than a query may use ({bytes_max} bytes)")]
    Memory {
        /// What one query may use.
        bytes_max: usize,
    },
    /// It ran for too long.
    #[error("it ran for longer than a query may ({time_max:?})")]
    Time {
        /// How long one query may run.
        time_max: Duration,
    },
    /// Its answer has too many rows.
    #[error("its answer has more rows than a query may return ({rows_max})")]
    Rows {
        /// How many rows one answer may have.
        rows_max: u64,
    },
    /// Its turn did not come.
    #[error("{0}")]
    Queries(TurnRefused),
}

/// Why a query has no (complete) answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The statement is of a kind, or of a size, that is not run here.
    #[error("not allowed: {0}")]
    Refused(String),
    /// The statement is wrong: syntax, names, types, or arithmetic that cannot be done.
    #[error("{0}")]
    Invalid(String),
    /// It ran into a limit. What was returned until then is not the whole answer.
    #[error("the query was stopped: {0}")]
    Limit(LimitKind),
    /// The store or the engine could not answer. The detail is in the server's log.
    #[error("the readings could not be read; try again, and if it happens again tell the operator of this server")]
    Engine,
    /// What is stored is damaged, and stays so until somebody restores it. The detail is in the server's log.
    #[error("some of the readings are damaged on the server; tell its operator, because trying again does not help")]
    Damaged,
    /// A defect of the program. The detail is in the server's log.
    #[error("the query failed by a defect of this server; tell its operator")]
    Defect,
}

/// An error of the engine or its store, as one of DataFusion.
pub(crate) fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Gives DataFusion's errors the shape that a caller may see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorMapper {
    pub(crate) memory_bytes_max: usize,
}

impl ErrorMapper {
    pub(crate) fn map(self, error: DataFusionError) -> QueryError {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => {
                QueryError::Limit(LimitKind::Memory { bytes_max: self.memory_bytes_max })
            }
            DataFusionError::SQL(..)
            | DataFusionError::Plan(_)
            | DataFusionError::NotImplemented(_)
            | DataFusionError::SchemaError(..)
            | DataFusionError::Configuration(_)
            | DataFusionError::Diagnostic(..) => QueryError::Invalid(detail(&error)),
            // Casts, overflows, divisions by zero and the like: about the statement's values. What the storage layer
            // says comes as another variant, below.
            DataFusionError::ArrowError(arrow, _)
                if is_about_values(arrow) || is_about_a_pattern(&arrow.to_string()) =>
            {
                QueryError::Invalid(detail(&error))
            }
            DataFusionError::Execution(_) => QueryError::Invalid(detail(&error)),
            DataFusionError::External(inner) => match inner.downcast_ref::<LimitKind>() {
                Some(kind) => QueryError::Limit(kind.clone()),
                None if is_about_a_pattern(&inner.to_string()) => QueryError::Invalid(detail(&error)),
                None => inner.downcast_ref().map_or_else(|| unavailable(&error), of_engine),
            },
            DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) | DataFusionError::ParquetError(_) => {
                unavailable(&error)
            }
            DataFusionError::ArrowError(arrow, _) if is_about_storage(arrow) => unavailable(&error),
            _ => defect(&error),
        }
    }
}

fn is_about_storage(error: &arrow::error::ArrowError) -> bool {
    use arrow::error::ArrowError;
    matches!(error, ArrowError::ParquetError(_) | ArrowError::ExternalError(_) | ArrowError::IoError(..))
}

/// Whether this is the text of an error about a regular expression of the statement, wrong or too large: it comes as an
/// error of another library.
fn is_about_a_pattern(text: &str) -> bool {
    let text = text.trim_start_matches("External error: ");
    text.starts_with("regex parse error") || text.starts_with("Compiled regex exceeds size limit")
}

fn is_about_values(error: &arrow::error::ArrowError) -> bool {
    use arrow::error::ArrowError;
    matches!(
        error,
        ArrowError::CastError(_)
            | ArrowError::ParseError(_)
            | ArrowError::ComputeError(_)
            | ArrowError::DivideByZero
            | ArrowError::ArithmeticOverflow(_)
            | ArrowError::InvalidArgumentError(_)
            | ArrowError::NotYetImplemented(_)
    )
}

fn detail(error: &DataFusionError) -> String {
    let mut text: String = without_build_hint(error.strip_backtrace()).chars().take(DETAIL_CHARS_MAX).collect();
    // What everybody types first.
    let hints = [
        ("to value of UInt64 type", "loggers and gateways are numbers: write logger = eui64('00124B000A6E0001')"),
        ("' not found", "the tables are readings, last_readings, conflicts and totals"),
        ("plan array literal", "there are no arrays here: write lists of values as IN (…), or as rows with VALUES"),
    ];
    for (sign, hint) in hints {
        if text.contains(sign) {
            text.push_str("; ");
            text.push_str(hint);
        }
    }
    text
}

fn without_build_hint(mut text: String) -> String {
    let (begin, end) = BUILD_HINT;
    if let Some(from) = text.find(begin)
        && let Some(length) = text[from..].find(end)
    {
        text.replace_range(from..from + length + end.len(), "");
    }
    text
}

/// Logs what the caller must not see, of the store and the engine.
pub(crate) fn unavailable(error: &dyn std::fmt::Display) -> QueryError {
    tracing::error!(%error, "query failed in the storage layer");
    QueryError::Engine
}

/// Logs what the caller must not see, of the engine. What is damaged is so the next time, too.
pub(crate) fn of_engine(error: &EngineError) -> QueryError {
    let unavailable = unavailable(error);
    if error.kind() == EngineErrorKind::Corrupt { QueryError::Damaged } else { unavailable }
}

/// Logs what the caller must not see, of a defect of the program.
pub(crate) fn defect(error: &dyn std::fmt::Display) -> QueryError {
    tracing::error!(%error, "query failed by a defect");
    QueryError::Defect
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPER: ErrorMapper = ErrorMapper { memory_bytes_max: 1 };

    #[test]
    fn the_storage_layer_keeps_its_paths() {
        let secret = "/srv/icecore/store/orgs/0123456789abcdef/segments/x.parquet";
        let store = object_store::Error::NotFound { path: secret.into(), source: secret.into() };
        let errors = [
            DataFusionError::ObjectStore(Box::new(store)),
            DataFusionError::IoError(std::io::Error::other(secret)),
            DataFusionError::Internal(secret.into()),
            DataFusionError::External(secret.into()),
            DataFusionError::ParquetError(Box::new(parquet::errors::ParquetError::General(secret.into()))),
            DataFusionError::ArrowError(Box::new(arrow::error::ArrowError::ParquetError(secret.into())), None),
            DataFusionError::Context("scan".into(), Box::new(DataFusionError::Internal(secret.into()))),
        ];
        for error in errors {
            let shown = MAPPER.map(error).to_string();
            assert!(!shown.contains("icecore/store"), "{shown}");
        }
    }

    #[test]
    fn damage_that_the_engine_finds_is_not_tried_again() {
        let of_kind = |kind| {
            let error = DataFusionError::External(Box::new(EngineError::new(kind, "a segment", "restore it")));
            MAPPER.map(DataFusionError::Context("scan".into(), Box::new(error)))
        };
        assert!(matches!(of_kind(EngineErrorKind::Corrupt), QueryError::Damaged));
        assert!(matches!(of_kind(EngineErrorKind::Retry), QueryError::Engine));
    }

    #[test]
    fn the_statement_s_errors_pass() {
        let shown = MAPPER.map(DataFusionError::Plan("no column temprature".into())).to_string();
        assert!(shown.contains("no column temprature"), "{shown}");
        let hint = "no such literal. Hint: Please try with `nested_expressions` DataFusion feature enabled";
        let shown = MAPPER.map(DataFusionError::Plan(hint.into())).to_string();
        assert!(shown.ends_with("no such literal."), "{shown}");
        let shown = MAPPER.map(DataFusionError::ResourcesExhausted("x".into()));
        assert!(matches!(shown, QueryError::Limit(LimitKind::Memory { bytes_max: 1 })), "{shown}");
    }
}
