//! The kernel: which row is next, and what it means.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::output::Output;
use super::pending::Pending;
use super::run::{Key, Run};
use super::{Layout, MERGE_BATCH_ROWS, MergeCounts, MergeError, MergeMode, MergePoll};

/// Merges runs. Push what [`poll`](Self::poll) asks for; more is welcome.
#[derive(Debug)]
pub struct MergeKernel {
    layout: Layout,
    mode: MergeMode,
    batch_rows: usize,
    runs: Vec<Run>,
    pending: Option<Pending>,
    output: Output,
    counts: MergeCounts,
}

/// What one step came to.
enum Step {
    Need(usize),
    On,
    /// The output should leave before more is added.
    Full,
    End,
}

impl MergeKernel {
    /// A merge of so many runs, numbered in order of precedence, whose batches all have this schema: `logger`, `time`,
    /// then in any order channels (`Float64`) and columns that go with the first row of a key. See [`super::unify`].
    ///
    /// # Errors
    /// [`MergeError::Schema`].
    pub fn new(schema: SchemaRef, run_count: usize, mode: MergeMode) -> Result<Self, MergeError> {
        let layout = Layout::new(schema, run_count)?;
        if mode != MergeMode::Rows && layout.provenance.is_none() {
            let detail = "gateway and received are missing".to_owned();
            return Err(MergeError::Schema { run: run_count, detail });
        }
        Ok(Self {
            output: Output::new(layout.channels.len()),
            layout,
            mode,
            batch_rows: MERGE_BATCH_ROWS,
            runs: (0..run_count).map(|_| Run::default()).collect(),
            pending: None,
            counts: MergeCounts::default(),
        })
    }

    /// Output batches of at most so many rows (and about so many conflicts).
    #[must_use]
    pub fn with_batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = rows.max(1);
        self
    }

    /// The columns of runs and output.
    #[must_use]
    pub const fn schema(&self) -> &SchemaRef {
        &self.layout.schema
    }

    /// Adds rows to a run.
    ///
    /// # Errors
    /// [`MergeError`] for other columns and unsorted rows.
    ///
    /// # Panics
    /// With a run that the merge does not have.
    pub fn push(&mut self, run: usize, batch: RecordBatch) -> Result<(), MergeError> {
        self.runs[run].push(run, batch, &self.layout)
    }

    /// Says that a run has no more rows.
    ///
    /// # Panics
    /// With a run that the merge does not have.
    pub fn finish(&mut self, run: usize) {
        self.runs[run].finish();
    }

    /// What was counted so far; of the whole after [`MergePoll::Done`].
    #[must_use]
    pub const fn counts(&self) -> MergeCounts {
        self.counts
    }

    /// What is next.
    ///
    /// # Errors
    /// [`MergeError::Arrow`].
    pub fn poll(&mut self) -> Result<MergePoll, MergeError> {
        loop {
            if self.output.rows() >= self.batch_rows || self.output.beside() >= self.batch_rows {
                return self.emit();
            }
            let step = match self.mode {
                MergeMode::Rows | MergeMode::Unite => self.step_rows(),
                MergeMode::NewOfLast => self.step_new(),
            };
            match step {
                Step::Need(run) => return Ok(MergePoll::Need(run)),
                Step::On => {}
                Step::Full => return self.emit(),
                Step::End if self.output.is_empty() => return Ok(MergePoll::Done),
                Step::End => return self.emit(),
            }
        }
    }

    fn emit(&mut self) -> Result<MergePoll, MergeError> {
        // A pending key would point into sources that leave: but rows and conflicts are added only when none is.
        debug_assert!(self.pending.is_none(), "output leaves between keys");
        let batch = self.output.take(&self.layout)?;
        Ok(MergePoll::Batch(batch))
    }

    fn step_rows(&mut self) -> Step {
        if let Some(run) = self.runs.iter().position(Run::wants) {
            return Step::Need(run);
        }
        // The smallest key, the first run that has it, and the smallest key of any other run.
        let mut first: Option<(Key, usize)> = None;
        let mut bound: Option<Key> = None;
        for (index, run) in self.runs.iter().enumerate() {
            let Some(key) = run.head() else { continue };
            match first {
                Some((smallest, _)) if key >= smallest => bound = Some(bound.map_or(key, |bound| bound.min(key))),
                _ => {
                    bound = first.map(|(smallest, _)| smallest);
                    first = Some((key, index));
                }
            }
        }
        let settled = first.is_none_or(|(key, _)| self.pending.as_ref().is_some_and(|pending| pending.key < key));
        if settled && self.settle() {
            return Step::On;
        }
        let Some((key, index)) = first else { return Step::End };
        if self.pending.is_none()
            && bound.is_none_or(|bound| key < bound)
            && let Some(step) = self.take_plain(index, bound)
        {
            return step;
        }
        let pending = self.pending.get_or_insert_with(|| Pending::new(key, self.layout.channels.len()));
        if let Some((batch, row)) = self.runs[index].current() {
            if self.mode == MergeMode::Unite && pending.origin.is_some() {
                let effect = pending.unite(batch, row);
                pending.later.push((self.output.source(batch), row));
                self.counts.duplicates += effect.duplicates;
                self.counts.filled += effect.filled;
            } else {
                pending.absorb(batch, row);
            }
            if pending.origin.is_none() {
                pending.origin = Some((self.output.source(batch), row));
            }
        }
        self.runs[index].advance(1);
        Step::On
    }

    fn step_new(&mut self) -> Step {
        let Some(last) = self.runs.len().checked_sub(1) else { return Step::End };
        if self.runs[last].wants() {
            return Step::Need(last);
        }
        let Some(key) = self.runs[last].head() else {
            // What the others still have is of no interest.
            return if self.settle() { Step::On } else { Step::End };
        };
        let mut bound: Option<Key> = None;
        let mut same = None;
        for index in 0..last {
            let run = &mut self.runs[index];
            run.skip_below(key);
            if run.wants() {
                return Step::Need(index);
            }
            let Some(head) = run.head() else { continue };
            if head == key && same.is_none() {
                same = Some(index);
            }
            bound = Some(bound.map_or(head, |bound| bound.min(head)));
        }
        if self.pending.as_ref().is_some_and(|pending| pending.key < key) {
            self.settle();
            return Step::On;
        }
        let channels = self.layout.channels.len();
        if let Some(index) = same {
            let pending = self.pending.get_or_insert_with(|| Pending::new(key, channels));
            if let Some((batch, row)) = self.runs[index].current() {
                pending.absorb_earlier(batch, row);
            }
            self.runs[index].advance(1);
            return Step::On;
        }
        if self.pending.is_none()
            && let Some(step) = self.take_plain(last, bound)
        {
            return step;
        }
        let pending = self.pending.get_or_insert_with(|| Pending::new(key, channels));
        if let Some((batch, row)) = self.runs[last].current() {
            let effect = pending.absorb_last(batch, row);
            // Only a batch that rows are taken from is held: one of duplicates alone is not.
            if effect.adds && pending.origin.is_none() {
                pending.origin = Some((self.output.source(batch), row));
            }
            self.counts.duplicates += effect.duplicates;
            self.counts.filled += effect.filled;
        }
        self.runs[last].advance(1);
        Step::On
    }

    /// Takes rows that nothing else has a say in, as they are; `None` when the row at the cursor is not such a one.
    fn take_plain(&mut self, index: usize, bound: Option<Key>) -> Option<Step> {
        let limit = self.batch_rows - self.output.rows();
        let rows = self.runs[index].plain_rows(bound, self.batch_rows);
        if rows > limit && rows >= self.batch_rows / 2 {
            // Worth a batch of its own, which leaves uncopied.
            return Some(Step::Full);
        }
        let rows = rows.min(limit);
        if rows == 0 {
            return None;
        }
        if self.mode == MergeMode::NewOfLast {
            self.counts.readings += rows as u64;
        }
        if let Some((batch, row)) = self.runs[index].current() {
            let source = self.output.source(batch);
            self.output.slice(source, row, rows);
        }
        self.runs[index].advance(rows);
        Some(Step::On)
    }

    /// Ends the pending key; tells whether there was one.
    fn settle(&mut self) -> bool {
        let Some(pending) = self.pending.take() else { return false };
        let in_earlier = pending.in_earlier;
        let (row, conflicts) = self.output.settle(pending);
        if self.mode == MergeMode::NewOfLast {
            self.counts.readings += u64::from(!in_earlier && row);
            self.counts.shares_keys |= in_earlier && row;
        }
        self.counts.conflicts += conflicts as u64;
        true
    }
}
