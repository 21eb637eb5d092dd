//! Rows of a write buffer in the order of (logger, time, arrival), without a sort of rows where arrival has that order
//! already.
//!
//! A gateway's frame holds for each of its loggers a run: readings one after the other, times ascending. Runs are
//! brought together logger by logger, by counting; and since a logger's readings mostly arrive in the order of their
//! times, that is mostly all. Only a logger whose runs overlap in time has its rows sorted.
//!
//! Numbers of rows, frames, runs and loggers are `u32`, which halves a run: a buffer has fewer rows than that (`limits`
//! asserts it) and no more of the others than rows. Each comes from a length or an index, so that `as usize` gives it
//! back whole.
//!
//! Memory: 16 bytes a run and 24 a logger; while they are put in order twice that, and some 80 bytes a logger more. In
//! the worst case a run is one row, and every row of another logger.

use std::collections::HashMap;

use crate::sync::Column;

/// Rows one after the other in the buffer, of one logger and one frame, times ascending.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RowRun {
    pub(super) row: u32,
    pub(super) len: u32,
    pub(super) frame: u32,
    /// An index into the loggers of [`SortedRuns`].
    logger: u32,
}

impl RowRun {
    /// So many of its rows, after the first `skipped`.
    pub(super) fn part(&self, skipped: usize, rows: usize) -> Self {
        let short = |number: usize| u32::try_from(number).expect("a part of a run");
        Self { row: self.row + short(skipped), len: short(rows), ..*self }
    }
}

/// Takes rows in the order of their arrival.
#[derive(Debug, Clone, Default)]
pub(super) struct Runs {
    runs: Vec<RowRun>,
    rows: usize,
    numbers: HashMap<u64, u32>,
    loggers: Vec<Logger>,
}

#[derive(Debug, Clone, Copy)]
struct Logger {
    id: u64,
    runs: u32,
    /// Who came after it the last time: gateways send their loggers in the same order again and again.
    next: u32,
    /// Time of its last row.
    last: i64,
    min: i64,
    max: i64,
    /// Was ever a row earlier than the one that arrived before it?
    tangled: bool,
}

/// Runs whose rows, one after the other, are in the order of (logger, time, arrival).
#[derive(Debug)]
pub(super) struct SortedRuns {
    runs: Vec<RowRun>,
    loggers: Vec<LoggerTimes>,
    rows: usize,
}

/// A logger, and between which times, both inside, its rows are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoggerTimes {
    pub(crate) logger: u64,
    pub(crate) min: i64,
    pub(crate) max: i64,
}

/// The number that the next logger gets after so many.
fn logger_number(loggers: usize) -> u32 {
    u32::try_from(loggers)
        .expect("there are no more loggers than rows, and fewer rows than u32 counts, as limits assert")
}

impl Runs {
    /// Adds a row; `row` grows.
    #[inline]
    pub(super) fn push(&mut self, row: u32, frame: u32, id: u64, time: i64) {
        self.rows += 1;
        if let Some(run) = self.runs.last_mut() {
            let logger = &mut self.loggers[run.logger as usize];
            if logger.id == id && run.frame == frame && run.row + run.len == row && logger.last < time {
                run.len += 1;
                logger.last = time;
                logger.max = time.max(logger.max);
                return;
            }
        }
        let number = self.number(id);
        let logger = &mut self.loggers[number as usize];
        logger.runs += 1;
        logger.tangled |= time < logger.last;
        logger.last = time;
        logger.min = time.min(logger.min);
        logger.max = time.max(logger.max);
        self.runs.push(RowRun { row, len: 1, frame, logger: number });
    }

    fn number(&mut self, id: u64) -> u32 {
        let before = self.runs.last().map(|last| last.logger);
        let guess = before.map_or(0, |before| self.loggers[before as usize].next);
        if self.loggers.get(guess as usize).is_some_and(|logger| logger.id == id) {
            return guess;
        }
        let new = logger_number(self.loggers.len());
        let number = *self.numbers.entry(id).or_insert(new);
        if number == new {
            self.loggers.push(Logger {
                id,
                runs: 0,
                next: 0,
                last: i64::MIN,
                min: i64::MAX,
                max: i64::MIN,
                tangled: false,
            });
        }
        if let Some(before) = before {
            self.loggers[before as usize].next = number;
        }
        number
    }

    /// Puts them in order. `times` is the column that the rows' times are in.
    pub(super) fn sort(self, times: &Column) -> SortedRuns {
        let Self { runs, rows, mut loggers, numbers } = self;
        drop(numbers);
        let mut order: Vec<u32> = (0..).take(loggers.len()).collect();
        order.sort_unstable_by_key(|&number| loggers[number as usize].id);
        let times_of = |&number: &u32| {
            let Logger { id, min, max, .. } = loggers[number as usize];
            LoggerTimes { logger: id, min, max }
        };
        let sorted_loggers = order.iter().map(times_of).collect();
        // From here on a logger's `next` is its place among the sorted ones, and `runs` where its next run goes.
        let mut start = 0;
        for (place, &number) in (0..).zip(&order) {
            let logger = &mut loggers[number as usize];
            logger.next = place;
            start += std::mem::replace(&mut logger.runs, start);
        }
        let mut sorted = vec![RowRun::default(); runs.len()];
        for run in runs {
            let logger = &mut loggers[run.logger as usize];
            sorted[logger.runs as usize] = RowRun { logger: logger.next, ..run };
            logger.runs += 1;
        }
        if loggers.iter().any(|logger| logger.tangled) {
            let mut tangled = vec![false; loggers.len()];
            loggers.iter().for_each(|logger| tangled[logger.next as usize] = logger.tangled);
            sorted = untangle(&sorted, &tangled, times);
        }
        SortedRuns { runs: sorted, loggers: sorted_loggers, rows }
    }
}

fn first_time(times: &Column, run: &RowRun) -> i64 {
    times.get(run.row as usize).cast_signed()
}

fn last_time(times: &Column, run: &RowRun) -> i64 {
    times.get((run.row + run.len - 1) as usize).cast_signed()
}

/// The same rows, with those of each tangled logger sorted one by one.
fn untangle(runs: &[RowRun], tangled: &[bool], times: &Column) -> Vec<RowRun> {
    let mut out: Vec<RowRun> = Vec::with_capacity(runs.len());
    let mut rows: Vec<(i64, RowRun)> = Vec::new();
    for group in runs.chunk_by(|a, b| a.logger == b.logger) {
        if !group.first().is_some_and(|run| tangled[run.logger as usize]) {
            out.extend_from_slice(group);
            continue;
        }
        rows.clear();
        for run in group {
            let each = (run.row..run.row + run.len).map(|row| RowRun { row, len: 1, ..*run });
            rows.extend(each.map(|row| (first_time(times, &row), row)));
        }
        // Stable: of one time the first to arrive stays first.
        rows.sort_by_key(|(time, _)| *time);
        for (_, row) in &rows {
            match out.last_mut() {
                Some(last)
                    if last.logger == row.logger && last.frame == row.frame && last.row + last.len == row.row =>
                {
                    last.len += 1;
                }
                _ => out.push(*row),
            }
        }
    }
    out
}

impl SortedRuns {
    /// The same in so many parts, or fewer, none of which has a logger in common with another.
    pub(super) fn split(&self, parts: usize) -> Vec<Self> {
        let each = self.rows.div_ceil(parts.max(1)).max(1);
        let mut split: Vec<Self> = Vec::with_capacity(parts);
        for group in self.runs.chunk_by(|a, b| a.logger == b.logger) {
            let part = match split.last_mut() {
                Some(part) if part.rows < each => part,
                _ => {
                    split.push(Self { runs: Vec::new(), loggers: Vec::new(), rows: 0 });
                    let Some(part) = split.last_mut() else { continue };
                    part
                }
            };
            let logger = logger_number(part.loggers.len());
            part.loggers.extend(group.first().map(|run| self.loggers[run.logger as usize]));
            part.runs.extend(group.iter().map(|run| RowRun { logger, ..*run }));
            part.rows += group.iter().map(|run| run.len as usize).sum::<usize>();
        }
        split
    }

    /// What it occupies in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<RowRun>() + self.loggers.capacity() * size_of::<LoggerTimes>()
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The runs.
    pub(super) fn runs(&self) -> &[RowRun] {
        &self.runs
    }

    /// The run's logger.
    pub(super) fn logger(&self, run: &RowRun) -> u64 {
        self.loggers[run.logger as usize].logger
    }

    /// The loggers, ascending.
    pub(super) fn loggers(&self) -> &[LoggerTimes] {
        &self.loggers
    }

    /// Is there a row of this key? `from` is the run to begin with, and the one at which a later key may begin.
    pub(super) fn seek(&self, times: &Column, (logger, time): (u64, i64), from: &mut usize) -> bool {
        *from += self.runs[*from..].partition_point(|run| (self.logger(run), last_time(times, run)) < (logger, time));
        let Some(run) = self.runs.get(*from).filter(|run| self.logger(run) == logger) else { return false };
        let mut range = run.row as usize..(run.row + run.len) as usize;
        while range.len() > 1 {
            let middle = usize::midpoint(range.start, range.end);
            if times.get(middle).cast_signed() <= time { range.start = middle } else { range.end = middle }
        }
        times.get(range.start).cast_signed() == time
    }
}
