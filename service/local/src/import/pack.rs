//! Packs readings into frames, by columns: gathers some ten thousand, puts them in the order of a frame, and encodes runs.
//!
//! Invariant: frames and their numbers depend on the rows that are pushed, and on nothing else. So an import that was
//! interrupted, and begins anew with the same rows, makes the same frames again, and passes over those that are durable.
//! Whoever changes what frames come of the same rows, changes [`PACKING`].

use std::collections::HashMap;

use problem::{Problem, Result};
use storage_format::{ChannelCode, Frame, FrameColumns, FrameSequence, LoggerId, LoggerRun, SpoolId};

/// The version of this packing: an import is not continued with another one.
pub(crate) const PACKING: u32 = 1;

/// Rows that are put in order together. More make longer runs of a logger's rows where a file is sorted by time.
const GATHERED_ROWS: usize = 65_536;
/// Readings in a frame: enough for its costs to be small, few enough for several to be on their way.
const FRAME_READINGS: usize = 16_384;

/// A frame, ready to be submitted.
#[derive(Debug)]
pub(super) struct Packed {
    /// Valid: it was decoded from its own bytes.
    pub(super) frame: Frame,
    /// Bytes of the files that were read when it was made.
    pub(super) position: u64,
}

/// Rows on their way into frames. NaN in a column means "not measured".
#[derive(Debug)]
pub(super) struct Packer {
    channels: Vec<ChannelCode>,
    frame_readings: usize,
    loggers: Vec<LoggerId>,
    times: Vec<i64>,
    columns: Vec<Vec<f64>>,
    /// The rows are in the order of a frame already.
    is_sorted: bool,
    spool: SpoolId,
    next: u64,
}

impl Packer {
    /// A packer of rows with these channels, in ascending order, whose first frame gets this number.
    pub(super) fn new(channels: Vec<ChannelCode>, spool: SpoolId, next: u64) -> Self {
        debug_assert!(channels.is_sorted_by(|a, b| a < b), "{channels:?}");
        let frame_readings = FrameColumns::readings_max(channels.len()).min(FRAME_READINGS);
        let columns = channels.iter().map(|_| Vec::with_capacity(GATHERED_ROWS)).collect();
        Self {
            channels,
            frame_readings,
            loggers: Vec::with_capacity(GATHERED_ROWS),
            times: Vec::with_capacity(GATHERED_ROWS),
            columns,
            is_sorted: true,
            spool,
            next,
        }
    }

    /// The number of the next frame.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Number of further rows that are gathered before frames are made of them.
    pub(super) fn room(&self) -> usize {
        GATHERED_ROWS - self.times.len()
    }

    /// Adds a row, with a value or NaN for each channel.
    #[inline]
    pub(super) fn push(&mut self, logger: LoggerId, time: i64, values: &[f64]) {
        if let (Some(last), Some(before)) = (self.loggers.last(), self.times.last()) {
            self.is_sorted &= (*last, *before) < (logger, time);
        }
        self.loggers.push(logger);
        self.times.push(time);
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.push(*value);
        }
    }

    /// Makes frames of what is gathered. Rows with the same logger and time go into one frame after the other, in their
    /// order: the first value wins.
    pub(super) fn pack(&mut self, position: u64, out: &mut Vec<Packed>) -> Result<()> {
        let mut rows = Rows {
            loggers: std::mem::take(&mut self.loggers),
            times: std::mem::take(&mut self.times),
            columns: std::mem::take(&mut self.columns),
        };
        let is_sorted = std::mem::replace(&mut self.is_sorted, true);
        if is_sorted {
            self.encode(&rows, position, out)?;
        } else {
            for order in rows.by_rank(rows.order()) {
                self.encode(&rows.taken(&order), position, out)?;
            }
        }
        rows.clear();
        Rows { loggers: self.loggers, times: self.times, columns: self.columns } = rows;
        Ok(())
    }

    /// Encodes rows in the order of a frame, as many frames as it takes.
    fn encode(&mut self, rows: &Rows, position: u64, out: &mut Vec<Packed>) -> Result<()> {
        let mut runs: Vec<LoggerRun> = Vec::new();
        let mut begin = 0;
        while begin < rows.times.len() {
            let end = (begin + self.frame_readings).min(rows.times.len());
            runs.clear();
            for (at, logger) in (0_u32..).zip(&rows.loggers[begin..end]) {
                match runs.last_mut() {
                    Some(run) if run.logger == *logger => run.len += 1,
                    _ => runs.push(LoggerRun { logger: *logger, start: at, len: 1 }),
                }
            }
            let columns: Vec<(ChannelCode, &[f64])> =
                self.channels.iter().zip(&rows.columns).map(|(code, column)| (*code, &column[begin..end])).collect();
            let frame = FrameColumns { runs: &runs, times: &rows.times[begin..end], columns: &columns };
            let bytes = frame.encode(self.spool, FrameSequence::new(self.next));
            let frame = Frame::decode(bytes).map_err(|error| {
                Problem::new("readings cannot be packed into a frame").detail(error).help("please report this")
            })?;
            self.next += 1;
            out.push(Packed { frame, position });
            begin = end;
        }
        Ok(())
    }
}

/// Rows in columns.
#[derive(Debug)]
struct Rows {
    loggers: Vec<LoggerId>,
    times: Vec<i64>,
    columns: Vec<Vec<f64>>,
}

impl Rows {
    fn clear(&mut self) {
        self.loggers.clear();
        self.times.clear();
        self.columns.iter_mut().for_each(Vec::clear);
    }

    /// The rows by logger and time; of the same logger and time in the order in which they came.
    fn order(&self) -> Vec<u32> {
        // Loggers by number, in the order in which they come; which logger follows which is mostly the same again.
        let (mut number_of, mut names) = (HashMap::new(), Vec::<LoggerId>::new());
        let (mut follower, mut last) = (Vec::<usize>::new(), usize::MAX);
        let mut numbers = Vec::with_capacity(self.loggers.len());
        for logger in &self.loggers {
            let guess = follower.get(last).copied().unwrap_or(usize::MAX);
            let number = if names.get(guess) == Some(logger) {
                guess
            } else if names.get(last) == Some(logger) {
                last
            } else {
                let number = *number_of.entry(*logger).or_insert_with(|| {
                    names.push(*logger);
                    follower.push(usize::MAX);
                    names.len() - 1
                });
                if let Some(follower) = follower.get_mut(last) {
                    *follower = number;
                }
                number
            };
            numbers.push(number);
            last = number;
        }
        // Counting sort by logger, which keeps the order of its rows.
        let mut counts = vec![0_u32; names.len()];
        numbers.iter().for_each(|number| counts[*number] += 1);
        let mut by_name: Vec<usize> = (0..names.len()).collect();
        by_name.sort_unstable_by_key(|number| names[*number]);
        let (mut starts, mut start) = (vec![0_u32; names.len()], 0);
        for number in &by_name {
            starts[*number] = start;
            start += counts[*number];
        }
        let mut order = vec![0_u32; numbers.len()];
        let mut free = starts.clone();
        for (row, number) in (0_u32..).zip(&numbers) {
            order[free[*number] as usize] = row;
            free[*number] += 1;
        }
        for number in by_name {
            let run = &mut order[starts[number] as usize..][..counts[number] as usize];
            let time = |row: &u32| self.times[*row as usize];
            if !run.is_sorted_by_key(time) {
                run.sort_by_key(time);
            }
        }
        order
    }

    /// Splits an order into ones without repeated keys: the first has the first row of each logger and time, the second
    /// the second row of those that have one, and so on.
    fn by_rank(&self, order: Vec<u32>) -> Vec<Vec<u32>> {
        let mut ranks = vec![Vec::with_capacity(order.len())];
        let (mut before, mut rank) = (None, 0);
        for row in order {
            let key = Some((self.loggers[row as usize], self.times[row as usize]));
            rank = if key == before { rank + 1 } else { 0 };
            before = key;
            if rank == ranks.len() {
                ranks.push(Vec::new());
            }
            ranks[rank].push(row);
        }
        ranks
    }

    fn taken(&self, order: &[u32]) -> Self {
        Self {
            loggers: order.iter().map(|row| self.loggers[*row as usize]).collect(),
            times: order.iter().map(|row| self.times[*row as usize]).collect(),
            columns: self
                .columns
                .iter()
                .map(|column| order.iter().map(|row| column[*row as usize]).collect())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logger(number: u64) -> LoggerId {
        LoggerId::new(number).expect("not zero")
    }

    fn code() -> Vec<ChannelCode> {
        storage_format::channels().iter().take(2).map(|channel| channel.code).collect()
    }

    fn packed(rows: &[(u64, i64, f64, f64)]) -> Vec<Frame> {
        let mut packer = Packer::new(code(), SpoolId::new(1).expect("not zero"), 1);
        let mut out = Vec::new();
        for (id, time, a, b) in rows {
            if packer.room() == 0 {
                packer.pack(0, &mut out).expect("packed");
            }
            packer.push(logger(*id), *time, &[*a, *b]);
        }
        packer.pack(0, &mut out).expect("packed");
        out.into_iter().map(|packed| packed.frame).collect()
    }

    fn rows(frame: &Frame) -> Vec<(u64, i64, f64)> {
        let runs = frame.runs().iter();
        runs.flat_map(|run| run.range().map(|row| (run.logger.get(), frame.times()[row], frame.column(0)[row])))
            .collect()
    }

    #[test]
    fn rows_in_any_order_become_sorted_frames() {
        let frames = packed(&[(2, 5, 0.5, 1.0), (1, 9, 1.5, 2.0), (2, 3, 2.5, 3.0), (1, 1, 3.5, 4.0)]);
        assert_eq!(frames.len(), 1);
        assert_eq!(rows(&frames[0]), [(1, 1, 3.5), (1, 9, 1.5), (2, 3, 2.5), (2, 5, 0.5)]);
    }

    #[test]
    fn what_comes_second_is_in_a_later_frame() {
        let frames =
            packed(&[(1, 1, 1.0, 0.0), (1, 1, 2.0, 0.0), (1, 2, 3.0, 0.0), (1, 1, 4.0, 0.0), (1, 2, 5.0, 0.0)]);
        let all: Vec<_> = frames.iter().map(rows).collect();
        assert_eq!(all, [vec![(1, 1, 1.0), (1, 2, 3.0)], vec![(1, 1, 2.0), (1, 2, 5.0)], vec![(1, 1, 4.0)]]);
        let numbers: Vec<_> = frames.iter().map(|frame| frame.sequence().get()).collect();
        assert_eq!(numbers, [1, 2, 3]);
    }

    #[test]
    fn a_key_that_is_repeated_all_the_time_is_split_in_one_pass() {
        // A pass over the rows that are left for each frame would be two thousand million steps.
        let repeated: Vec<_> = (0..GATHERED_ROWS).map(|row| (1, i64::from(row == 0), row as f64, 0.0)).collect();
        let frames = packed(&repeated);
        assert_eq!(frames.len(), GATHERED_ROWS - 1);
        assert_eq!(rows(&frames[0]), [(1, 0, 1.0), (1, 1, 0.0)]);
        assert!((2..GATHERED_ROWS).zip(&frames[1..]).all(|(row, frame)| rows(frame) == [(1, 0, row as f64)]));
    }

    #[test]
    fn many_rows_become_many_frames_and_each_row_is_in_one() {
        let by_time: Vec<_> =
            (0..200_000_u64).map(|i| (i % 700 + 1, (i / 700) as i64 * 300_000, i as f64 / 100.0, f64::NAN)).collect();
        let mut by_logger = by_time.clone();
        by_logger.sort_by_key(|(id, time, _, _)| (*id, *time));
        for input in [&by_time, &by_logger] {
            let frames = packed(input);
            assert!(frames.iter().all(|frame| frame.channels().len() == 1), "what nothing was measured of is left out");
            let mut all: Vec<_> = frames.iter().flat_map(rows).collect();
            all.sort_by_key(|(id, time, _)| (*id, *time));
            let wanted: Vec<_> = by_logger.iter().map(|(id, time, value, _)| (*id, *time, *value)).collect();
            assert!(all == wanted, "{} rows of {}", all.len(), wanted.len());
        }
        assert_eq!(packed(&by_time).iter().map(Frame::bytes).collect::<Vec<_>>().len(), packed(&by_time).len());
        let bytes = |frames: Vec<Frame>| frames.iter().map(|frame| frame.bytes().clone()).collect::<Vec<_>>();
        assert_eq!(bytes(packed(&by_time)), bytes(packed(&by_time)), "the same rows make the same frames");
    }
}
