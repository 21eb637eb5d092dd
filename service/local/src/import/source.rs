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
    /// The file has a mistake, which is at the same place whenever the file is read.
    Mistake(Problem),
    /// Something else failed: the next time it may fail elsewhere, or not at all.
    Failure(Problem),
    /// Nobody takes frames any more: the command has ended.
    Gone,
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Failure(problem)
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
        if packer.room() == 0 { self.pack(position) } else { Ok(()) }
    }

    /// Makes frames of the rows so far.
    fn pack(&mut self, position: u64) -> Result<(), Stop> {
        let Some(packer) = &mut self.packer else { return Ok(()) };
        packer.pack(self.bytes_before + position, &mut self.packed)?;
        self.next = packer.next();
        for packed in self.packed.drain(..) {
            self.counts.readings += packed.frame.len() as u64;
            self.frames.blocking_send(packed).map_err(|_| Stop::Gone)?;
        }
        Ok(())
    }

    /// Ends a file of this size, whose rows ended like this.
    ///
    /// After a failure the rows since the last frame are dropped: a frame of them would bear the number of the frame that
    /// a later command makes of more rows, and those would be passed over as durable.
    pub(super) fn end(&mut self, ended: Result<(), Stop>, position: u64, bytes: u64) -> Result<(), Stop> {
        if matches!(ended, Ok(()) | Err(Stop::Mistake(_))) {
            self.pack(position)?;
        }
        self.packer = None;
        self.bytes_before += bytes;
        ended
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
        Ok(self.left_out.add(file, row, reason, what, text)?)
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
pub(super) fn mistake(name: &str, what: impl std::fmt::Display, help: &str) -> Stop {
    let problem = Problem::new(format!("{name} has a mistake"))
        .detail(format!("{name}: {what}"))
        .help(format!("what stands before that place is stored, nothing of this file from there on. {help}"));
    Stop::Mistake(problem)
}

/// A place of a file that cannot be read.
pub(super) fn unreadable(name: &str, what: impl std::fmt::Display, help: &str) -> Stop {
    let problem = Problem::new(format!("{name} cannot be read"))
        .detail(format!("{name}: {what}"))
        .help(format!("perhaps a part of what stands before that place is stored, nothing from there on. {help}"));
    Stop::Failure(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of readings in the frames that are made of three rows and this end.
    fn frames(ended: Result<(), Stop>) -> (Vec<usize>, u64) {
        let (sender, mut packed) = mpsc::channel(4);
        let accepted = Accepted { min: Millis::MIN, max: Millis::MAX };
        let spool = SpoolId::new(1).expect("not zero");
        let mut sink = Sink::new(sender, spool, accepted, LeftOut::default());
        sink.begin(vec![storage_format::channels()[0].code]);
        for time in 0..3 {
            sink.push(LoggerId::new(7).expect("not zero"), time, &[4.5], 0).expect("pushed");
        }
        let is_ok = ended.is_ok();
        assert_eq!(sink.end(ended, 0, 0).is_ok(), is_ok);
        let (counts, _) = sink.finish();
        let mut lengths = Vec::new();
        while let Ok(packed) = packed.try_recv() {
            lengths.push(packed.frame.len());
        }
        (lengths, counts.readings)
    }

    #[test]
    fn a_frame_is_cut_short_only_where_it_would_be_again() {
        assert_eq!(frames(Ok(())), (vec![3], 3));
        assert_eq!(frames(Err(mistake("a.csv", "line 5", ""))), (vec![3], 3));
        assert_eq!(frames(Err(unreadable("a.csv", "line 5", ""))), (vec![], 0));
        assert_eq!(frames(Err(Stop::Gone)), (vec![], 0));
    }
}
