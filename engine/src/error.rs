//! The engine's error: what happened, where, and what to do about it.
//!
//! One type for every public call. Its kind is for programs (may I try again?), its text is for people.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use durable::{LocalDurableError, TaskLost};

/// What a caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineErrorKind {
    /// Nothing is lost; the same call may succeed later.
    Retry,
    /// A configured limit or the disk's space is used up.
    Full,
    /// Another process writes this data now: this one must end.
    Fenced,
    /// Stored bytes are damaged: an operator must look.
    Corrupt,
    /// The engine is closed or closing.
    Closed,
    /// The engine has stopped after an error that it cannot go on from.
    Failed,
    /// The request itself is wrong, or names something that is not there.
    Invalid,
}

impl EngineErrorKind {
    /// A short word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Full => "full",
            Self::Fenced => "fenced",
            Self::Corrupt => "corrupt",
            Self::Closed => "closed",
            Self::Failed => "failed",
            Self::Invalid => "invalid",
        }
    }
}

/// An error of the engine. Cheap to clone: an error that many wait for reaches all of them.
#[derive(Clone)]
pub struct EngineError(Arc<Inner>);

struct Inner {
    kind: EngineErrorKind,
    what: Cow<'static, str>,
    place: Option<String>,
    advice: Cow<'static, str>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl EngineError {
    /// An error of this kind: what happened, and what to do about it.
    #[must_use]
    pub fn new(
        kind: EngineErrorKind,
        what: impl Into<Cow<'static, str>>,
        advice: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Arc::new(Inner { kind, what: what.into(), place: None, advice: advice.into(), cause: None }))
    }

    fn change(self, change: impl FnOnce(&mut Inner)) -> Self {
        // Only called on an error just made, which nobody else holds; a shared one stays as it is.
        let mut inner = self.0;
        if let Some(inner) = Arc::get_mut(&mut inner) {
            change(inner);
        }
        Self(inner)
    }

    /// Tells where: a file and offset, an object's key, an organisation.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        self.change(|inner| inner.place = Some(place.to_string()))
    }

    /// Tells what it came from.
    #[must_use]
    pub fn because(self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.change(|inner| inner.cause = Some(cause.into()))
    }

    /// What a caller can do.
    #[must_use]
    pub fn kind(&self) -> EngineErrorKind {
        self.0.kind
    }

    /// Must the engine end? After a store's failed sync, and for a writer that another has taken over from; anything
    /// else is tried again.
    pub(crate) fn ends_the_engine(&self) -> bool {
        let mut cause = self.source();
        while let Some(error) = cause {
            if error.downcast_ref().is_some_and(LocalDurableError::is_fatal) {
                return true;
            }
            cause = error.source();
        }
        self.kind() == EngineErrorKind::Fenced
    }

    /// Returns whether it concerns one organisation's stored data and stays until somebody restores that: an object is
    /// damaged or missing, while the store as a whole responds.
    pub(crate) fn is_of_one_org(&self) -> bool {
        matches!(self.kind(), EngineErrorKind::Corrupt | EngineErrorKind::Invalid) && !self.ends_the_engine()
    }

    /// Does it come from the object store: a response that it gave, or that it did not give?
    pub(crate) fn is_of_the_store(&self) -> bool {
        let mut cause = self.source();
        while let Some(error) = cause {
            if error.is::<object_store::Error>() {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// What happened, without place, cause and advice.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// Where, if that is known.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        self.0.place.as_deref()
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> &str {
        &self.0.advice
    }
}

impl From<TaskLost> for EngineError {
    fn from(lost: TaskLost) -> Self {
        Self::new(
            EngineErrorKind::Failed,
            lost.to_string(),
            "This is a defect of icecore; nothing is lost. Please report it.",
        )
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(place) = &self.0.place {
            write!(f, " ({place})")?;
        }
        let mut cause: Option<&dyn Error> = self.0.cause.as_deref().map(|cause| cause as &dyn Error);
        let mut last = String::new();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors repeat their source's text.
            if !last.contains(&text) {
                write!(f, ": {text}")?;
                last = text;
            }
            cause = error.source();
        }
        if !self.0.advice.is_empty() {
            write!(f, ". {}", self.0.advice)?;
        }
        Ok(())
    }
}

impl fmt::Debug for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EngineError[{}]({self})", self.0.kind.as_str())
    }
}

impl Error for EngineError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_where_why_and_what_to_do() {
        let error =
            EngineError::new(EngineErrorKind::Corrupt, "a WAL file is damaged", "Look with `icecore wal inspect`.")
                .at("wal/1.wal at byte 4096")
                .because(std::io::Error::other("checksum"));
        assert_eq!(
            error.to_string(),
            "a WAL file is damaged (wal/1.wal at byte 4096): checksum. Look with `icecore wal inspect`."
        );
        assert_eq!(error.clone().kind(), EngineErrorKind::Corrupt);
    }
}
