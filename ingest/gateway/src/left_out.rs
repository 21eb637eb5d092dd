//! The rows that are not sent or imported: counted by reason, the first ones listed, and all of them written to a file if
//! one is wanted.
//!
//! Crash consistency: the file has another name until it is complete. What an interrupted command leaves is not in the
//! way of the same command again, and is replaced by it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use problem::{Context, Problem, Result};

use crate::readings_csv::Reason;
use crate::sender::counted;

/// Rows that are listed one by one on the terminal.
const LISTED: usize = 20;

/// Rows that are not taken.
#[derive(Debug, Default)]
pub struct LeftOut {
    file: Option<RowsFile>,
    counts: BTreeMap<Reason, u64>,
    listed: Vec<String>,
}

/// A file of rows that is being written.
#[derive(Debug)]
struct RowsFile {
    out: BufWriter<File>,
    /// Name until the end. Locked, so that no other command writes it.
    part: PathBuf,
    path: PathBuf,
}

impl RowsFile {
    fn new(path: &Path) -> io::Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&part)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another command is writing it"),
            TryLockError::Error(error) => error,
        })?;
        // After the lock: whoever had it may have ended meanwhile, and given the file its name.
        if path.symlink_metadata().is_ok() {
            let _gone = std::fs::remove_file(&part);
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        file.set_len(0)?;
        let mut out = BufWriter::new(file);
        out.write_all(b"file,line,reason,row\n")?;
        Ok(Self { out, part, path: path.to_owned() })
    }

    fn end(&mut self) -> io::Result<()> {
        self.out.flush()?;
        std::fs::rename(&self.part, &self.path)
    }
}

/// A cell of CSV.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

impl LeftOut {
    /// None yet. They are written to this file, which must be new: a file of readings named by mistake is not lost.
    ///
    /// # Errors
    /// When the file is there already, or cannot be written.
    pub fn new(path: Option<&Path>) -> Result<Self> {
        let mut left_out = Self::default();
        if let Some(path) = path {
            let what = || format!("cannot write the rows that are left out to {}", path.display());
            left_out.file = Some(RowsFile::new(path).context(what)?);
        }
        Ok(left_out)
    }

    /// Adds a row: its file and line, what is wrong with it, and its text.
    ///
    /// # Errors
    /// When the file of such rows cannot be written.
    pub fn add(&mut self, file: &str, line: u64, reason: Reason, what: &str, row: &str) -> Result<()> {
        *self.counts.entry(reason).or_default() += 1;
        if self.listed.len() < LISTED {
            self.listed.push(format!("{file}: {what}"));
        }
        if let Some(RowsFile { out, part, .. }) = &mut self.file {
            let written = writeln!(out, "{},{line},{},{}", quoted(file), quoted(what), quoted(row));
            written.context(|| format!("cannot write to {}", part.display()))?;
        }
        Ok(())
    }

    fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The numbers by reason, for the summary; empty when no row was left out.
    #[must_use]
    pub fn summary(&self) -> String {
        if self.counts.is_empty() {
            return String::new();
        }
        let counts = self.counts.iter().map(|(reason, count)| format!("{count} {}", reason.text()));
        format!(", {} left out ({})", counted(self.count(), "row"), counts.collect::<Vec<_>>().join(", "))
    }

    /// Ends the file of rows that were left out, and fails if there is any. `left_out` says what happened to them.
    ///
    /// # Errors
    /// When rows were left out: the first ones are listed.
    pub fn check(mut self, left_out: &str) -> Result<()> {
        if let Some(file) = &mut self.file {
            file.end().context(|| format!("cannot write {}", file.path.display()))?;
        }
        let count = self.count();
        if count == 0 {
            return Ok(());
        }
        let mut lines = self.listed;
        if count > lines.len() as u64 {
            lines.push(format!("and {} more", counted(count - lines.len() as u64, "row")));
        }
        let mut helps = Vec::new();
        if let Some(RowsFile { path, .. }) = &self.file {
            helps.push(format!("{} has each of them with its file, line and reason", path.display()));
        }
        if self.counts.contains_key(&Reason::OutOfRange) {
            helps.push(
                "a time that the server does not accept comes from a clock that was not set: correct it if the true time is \
                 known; otherwise that reading cannot be stored"
                    .to_owned(),
            );
        }
        helps.push("sending a file again is safe: what is there already is kept once".into());
        Err(Problem::new(format!("{} {left_out}", counted(count, "row")))
            .detail(lines.join("\n"))
            .help(helps.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interrupted_command_leaves_is_replaced_and_what_is_complete_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("bad.csv");
        let begun = || {
            let mut left_out = LeftOut::new(Some(&path))?;
            left_out.add("a.csv", 2, Reason::Value, "no number", "x")?;
            Ok(left_out)
        };
        let first: LeftOut = begun().expect("begun");
        let refused: Problem = begun().expect_err("it is being written");
        assert!(refused.to_string().contains("another command"), "{refused}");
        drop(first);
        assert!(!path.exists());
        begun().expect("begun again").check("left out").expect_err("a row was left out");
        let text = std::fs::read_to_string(&path).expect("complete");
        assert_eq!(text.lines().count(), 2, "{text}");
        let refused: Problem = begun().expect_err("it is there");
        assert!(refused.to_string().contains("exists"), "{refused}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing half written is left");
    }
}
