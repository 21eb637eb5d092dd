//! What the readers of all forms of files share: the way of rows into frames, rows that are left out, how a file ended.

use std::path::PathBuf;

use gateway::left_out::LeftOut;
use gateway::readings_csv::Reason;
use problem::Problem;
use storage_format::{ChannelCode, LoggerId, Millis, SpoolId};
use tokio::sync::mpsc;

use super::pack::{Packed, Packer};

/// What ends the reading of files early.
#[derive(Debug)]
pub(super) enum Stop {
    /// What is wrong, for the person who imports.
    Problem(Problem),
    /// Nobody takes frames any more: the command has ended.
    Gone,
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// The times that are accepted, fixed when the import begins: an import that is continued must make the same frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) min: Millis,
    pub(super) max: Millis,
}

impl Accepted {
    /// Reason for which a time is not accepted.
    pub(super) fn refusal(self, time: Millis) -> Option<String> {
        if time < self.min {
            Some(format!("{time} is before {}, the earliest time that is accepted", self.min))
        } else if time > self.max {
            Some(format!("{time} is after {}, the latest time that is accepted", self.max))
        } else {
            None
        }
    }
}

/// What the files of a command came to.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Readings that were packed into frames.
    pub(super) readings: u64,
    pub(super) rows_without_values: u64,
}

/// Sink of rows: they go into frames, which go to whoever submits them.
pub(super) struct Sink {
    frames: mpsc::Sender<Packed>,
    spool: SpoolId,
    next: u64,
    packer: Option<Packer>,
    packed: Vec<Packed>,
    pub(super) accepted: Accepted,
    pub(super) left_out: LeftOut,
    pub(super) counts: Counts,
    /// Bytes of the files that are done.
    pub(super) bytes_before: u64,
}

impl Sink {
    pub(super) fn new(frames: mpsc::Sender<Packed>, spool: SpoolId, accepted: Accepted, left_out: LeftOut) -> Self {
        Self {
            frames,
            spool,
            next: 1,
            packer: None,
            packed: Vec::new(),
            accepted,
            left_out,
            counts: Counts::default(),
            bytes_before: 0,
        }
    }

    /// Ends the way of frames; gives what was counted, and what was left out.
    pub(super) fn finish(self) -> (Counts, LeftOut) {
        (self.counts, self.left_out)
    }

    /// Begins a file with these channels, in ascending order.
    pub(super) fn begin(&mut self, channels: Vec<ChannelCode>) {
        self.packer = Some(Packer::new(channels, self.spool, self.next));
    }

    /// Takes a row, with a value or NaN for each channel; waits while too many frames are on their way.
    #[inline]
    pub(super) fn push(&mut self, logger: LoggerId, time: i64, values: &[f64], position: u64) -> Result<(), Stop> {
        let Some(packer) = &mut self.packer else { return Ok(()) };
        packer.push(logger, time, values);
        self.counts.readings += 1;
        if packer.room() == 0 { self.pack(position) } else { Ok(()) }
    }

    /// Makes frames of the rows so far.
    fn pack(&mut self, position: u64) -> Result<(), Stop> {
        let Some(packer) = &mut self.packer else { return Ok(()) };
        packer.pack(self.bytes_before + position, &mut self.packed)?;
        self.next = packer.next();
        for packed in self.packed.drain(..) {
            self.frames.blocking_send(packed).map_err(|_| Stop::Gone)?;
        }
        Ok(())
    }

    /// Ends a file of this size, or what could be read of it.
    pub(super) fn end(&mut self, position: u64, bytes: u64) -> Result<(), Stop> {
        let done = self.pack(position);
        self.packer = None;
        self.bytes_before += bytes;
        done
    }

    /// Leaves a row out and goes on.
    pub(super) fn leave_out(
        &mut self,
        file: &str,
        row: u64,
        reason: Reason,
        what: &str,
        text: &str,
    ) -> Result<(), Stop> {
        self.left_out.add(file, row, reason, what, text).map_err(Stop::Problem)
    }
}

/// A file of an import.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) is_parquet: bool,
}

impl Input {
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// A mistake in a file: what was before it is stored.
pub(super) fn mistake(name: &str, what: impl std::fmt::Display, help: &str) -> Problem {
    Problem::new(format!("{name} has a mistake"))
        .detail(format!("{name}: {what}"))
        .help(format!("what stands before that place is stored, nothing of this file from there on. {help}"))
}
