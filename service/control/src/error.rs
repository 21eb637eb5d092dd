//! Errors of the control data, for programs to match on: a kind, a subject, and what happened in words.
//!
//! No advice is in here. What a caller can do about an error depends on the door through which the caller came: the
//! commands have a table of advice by kind and subject, HTTP has statuses by kind.

use std::fmt;
use std::path::PathBuf;

/// What kind of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// What was named does not exist.
    NotFound,
    /// Somebody else has it: a name, a path, a lock.
    Taken,
    /// What was given breaks a rule.
    Invalid,
    /// It exists and may not be used like this.
    Forbidden,
    /// It could not be done now: the database, the disk or the operating system refused.
    Unavailable,
    /// What is stored is damaged, or was not written by this program.
    Corrupt,
}

/// What an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An organisation.
    Org,
    /// A gateway.
    Gateway,
    /// A token.
    Token,
    /// The control database as a file.
    Database,
    /// The version of the control database's tables.
    Schema,
    /// The data directory at this path.
    DataDir(PathBuf),
    /// The lock by which one server holds the data directory at this path.
    Lock(PathBuf),
    /// The master key.
    MasterKey,
    /// A certificate, or the authority that signs it.
    Certificate,
    /// Retention of readings: a policy, or a record of what was dropped.
    Retention,
    /// The private key of the server's certificate.
    ServerKey,
    /// The file at this path.
    File(PathBuf),
    /// The wall clock.
    Clock,
    /// Whatever else the machine provides: disk, memory, random numbers.
    Machine,
}

/// An error of the control data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    subject: Subject,
    message: String,
    detail: Option<String>,
}

/// Results of the control data.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind about this subject; the message says what happened, in one line without a full stop.
    #[must_use]
    pub fn new(kind: ErrorKind, subject: Subject, message: impl Into<String>) -> Self {
        Self { kind, subject, message: message.into(), detail: None }
    }

    /// Adds the detail: usually the error from below.
    #[must_use]
    pub fn with_detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// What happened.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The detail, where there is one.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The operating system gives no random numbers.
    pub(crate) fn no_random() -> Self {
        Self::new(ErrorKind::Unavailable, Subject::Machine, "the operating system gives no random numbers")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Turns an error from below into an [`Error`] that has it as the detail.
pub(crate) trait Context<T> {
    /// Says what was being done when the machine refused.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;

    /// Says what is wrong, and of which kind that is.
    fn context_as(self, kind: ErrorKind, subject: Subject, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::error::Error> Context<T> for std::result::Result<T, E> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.context_as(ErrorKind::Unavailable, Subject::Machine, message)
    }

    fn context_as(self, kind: ErrorKind, subject: Subject, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::new(kind, subject, message()).with_detail(chain(&error)))
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
