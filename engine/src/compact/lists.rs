//! Conflicts and fills objects as streams: merged in their order, and looked up in it.

use std::sync::Arc;

use arrow::array::{AsArray as _, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, not};
use arrow::datatypes::{SchemaRef, TimestampMillisecondType, UInt64Type};
use futures::StreamExt as _;
use storage_format::manifest::{SegmentEntry, SegmentKind};
use storage_format::segment::{conflicts_schema, fills_schema};
use storage_format::{Channel, OrgId};

use super::merge::merge_error;
use crate::error::EngineError;
use crate::segments::{SegmentFilter, SegmentStream, Segments};

/// Rows of a merged batch, about.
const BATCH_ROWS: usize = 2048;

/// What rows are sorted by: logger, time and, for fills, the channel.
type Key = (u64, i64, u16);

/// Returns the columns of objects of this kind, which has lists.
pub(super) fn schema_of(kind: SegmentKind) -> SchemaRef {
    if kind == SegmentKind::Fills { fills_schema() } else { conflicts_schema() }
}

/// One object's rows from the cursor on.
struct Run {
    stream: SegmentStream,
    batch: RecordBatch,
    keys: Vec<Key>,
    at: usize,
}

impl Run {
    /// Reads the next batch once the current one is used up; answers whether there is a row.
    async fn fill(&mut self, by_channel: bool) -> Result<bool, EngineError> {
        while self.at == self.keys.len() {
            let Some(batch) = self.stream.next().await else { return Ok(false) };
            self.batch = batch?;
            self.keys = keys(&self.batch, by_channel);
            self.at = 0;
        }
        Ok(true)
    }
}

fn keys(batch: &RecordBatch, by_channel: bool) -> Vec<Key> {
    let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
    let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
    let names = batch.column(2).as_string::<i32>();
    let code = |row: usize| Channel::by_name(names.value(row)).map_or(0, |channel| channel.code.get());
    (0..batch.num_rows()).map(|row| (loggers[row], times[row], if by_channel { code(row) } else { 0 })).collect()
}

/// Objects of one kind, merged by key; of equal keys the earlier object's rows come first.
pub(super) struct Lists {
    schema: SchemaRef,
    by_channel: bool,
    runs: Vec<Run>,
}

impl Lists {
    /// Opens objects of one kind, in order of precedence.
    pub(super) async fn open(
        segments: &Segments,
        org: OrgId,
        entries: &[SegmentEntry],
        kind: SegmentKind,
    ) -> Result<Self, EngineError> {
        let schema = schema_of(kind);
        let mut runs = Vec::with_capacity(entries.len());
        for entry in entries {
            let stream = segments.read(org, entry, &SegmentFilter::default(), Some(schema.clone())).await?;
            runs.push(Run { stream, batch: RecordBatch::new_empty(schema.clone()), keys: Vec::new(), at: 0 });
        }
        Ok(Self { schema, by_channel: kind == SegmentKind::Fills, runs })
    }

    /// Reads on where rows are used up; answers the run with the smallest key.
    async fn first(&mut self) -> Result<Option<usize>, EngineError> {
        let mut index = 0;
        while index < self.runs.len() {
            if self.runs[index].fill(self.by_channel).await? {
                index += 1;
            } else {
                self.runs.remove(index);
            }
        }
        Ok((0..self.runs.len()).min_by_key(|index| self.head(*index)))
    }

    fn head(&self, run: usize) -> Key {
        self.runs[run].keys[self.runs[run].at]
    }

    /// The next rows; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>, EngineError> {
        let (mut pieces, mut rows) = (Vec::new(), 0);
        while rows < BATCH_ROWS {
            let Some(first) = self.first().await? else { break };
            // An earlier object's rows go before equal ones of a later object.
            let before = (0..first).map(|other| self.head(other)).min();
            let after = (first + 1..self.runs.len()).map(|other| self.head(other)).min();
            let run = &mut self.runs[first];
            let end = run.keys[run.at..]
                .iter()
                .take(BATCH_ROWS - rows)
                .take_while(|key| before.is_none_or(|bound| **key < bound) && after.is_none_or(|bound| **key <= bound))
                .count();
            let taken = end.max(1);
            pieces.push(run.batch.slice(run.at, taken));
            run.at += taken;
            rows += taken;
        }
        match pieces.len() {
            0 => Ok(None),
            _ => concat_batches(&self.schema, &pieces).map(Some).map_err(|error| merge_error(error.into())),
        }
    }
}

/// What fills objects list already, looked up in ascending order.
pub(super) struct Listed {
    lists: Lists,
    keys: Vec<Key>,
    at: usize,
}

impl Listed {
    /// Opens these fills objects.
    pub(super) async fn open(
        segments: &Arc<Segments>,
        org: OrgId,
        fills: &[SegmentEntry],
    ) -> Result<Self, EngineError> {
        let lists = Lists::open(segments, org, fills, SegmentKind::Fills).await?;
        Ok(Self { lists, keys: Vec::new(), at: 0 })
    }

    /// Parts fills that are new from those that are listed. Calls must come in ascending order of (logger, time, channel).
    pub(super) async fn part(&mut self, fills: &RecordBatch) -> Result<(RecordBatch, RecordBatch), EngineError> {
        let mut listed = Vec::with_capacity(fills.num_rows());
        for key in keys(fills, true) {
            listed.push(self.holds(key).await?);
        }
        let listed = BooleanArray::from(listed);
        let select = |mask: &BooleanArray| filter_record_batch(fills, mask).map_err(|error| merge_error(error.into()));
        let new = select(&not(&listed).map_err(|error| merge_error(error.into()))?)?;
        Ok((new, select(&listed)?))
    }

    async fn holds(&mut self, key: Key) -> Result<bool, EngineError> {
        loop {
            if self.at == self.keys.len() {
                let Some(batch) = self.lists.next().await? else { return Ok(false) };
                self.keys = keys(&batch, true);
                self.at = 0;
            }
            match self.keys[self.at] {
                listed if listed < key => self.at += 1,
                listed => return Ok(listed == key),
            }
        }
    }
}
