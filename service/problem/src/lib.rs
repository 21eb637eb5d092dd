//! An error as a person reads it: what happened, the detail, what to do about it.
//!
//! The crates below have errors that programs can match on. Where an error ends before a person, on the terminal or in
//! the log, these three texts are all that is needed.

use std::fmt;

/// An error for a person to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    what: String,
    detail: Option<String>,
    help: Option<String>,
}

impl Problem {
    /// What happened, in one line without a full stop.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), detail: None, help: None }
    }

    /// Adds the detail: usually the error from below.
    #[must_use]
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What happened.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What happened, the detail, what to do: for who takes it to another process.
    #[must_use]
    pub fn into_parts(self) -> (String, Option<String>, Option<String>) {
        (self.what, self.detail, self.help)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(detail) = &self.detail {
            write!(f, "\n  {}", detail.replace('\n', "\n  "))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {}", help.replace('\n', "\n        "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// Results of the thin layers.
pub type Result<T> = std::result::Result<T, Problem>;

/// Turns an error from below into a [`Problem`] with that error as its detail.
pub trait Context<T> {
    /// Says what was being done when the error came.
    ///
    /// # Errors
    /// The same error, told to a person.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::error::Error> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Problem::new(what()).detail(chain(&error)))
    }
}

/// An error with all its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_three_parts() {
        let problem = Problem::new("cannot open it").detail("no such file").help("make it");
        assert_eq!(problem.to_string(), "cannot open it\n  no such file\n  help: make it");
        assert_eq!(Problem::new("only this").to_string(), "only this");
    }
}
