//! The rows that are not sent or imported: counted by reason, the first ones listed, and all of them written to a file if one is
//! wanted.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use problem::{Context, Problem, Result};

use crate::readings_csv::Reason;
use crate::sender::counted;

/// Rows that are listed one by one on the terminal.
const LISTED: usize = 20;

/// Rows that are not taken.
#[derive(Debug, Default)]
pub struct LeftOut {
    file: Option<(BufWriter<File>, PathBuf)>,
    counts: BTreeMap<Reason, u64>,
    listed: Vec<String>,
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
            let file = OpenOptions::new().write(true).create_new(true).open(path).context(what)?;
            let mut file = BufWriter::new(file);
            file.write_all(b"file,line,reason,row\n").context(what)?;
            left_out.file = Some((file, path.to_owned()));
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
        if let Some((out, path)) = &mut self.file {
            let written = writeln!(out, "{},{line},{},{}", quoted(file), quoted(what), quoted(row));
            written.context(|| format!("cannot write to {}", path.display()))?;
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
        if let Some((out, path)) = &mut self.file {
            out.flush().context(|| format!("cannot write to {}", path.display()))?;
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
        if let Some((_, path)) = &self.file {
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
