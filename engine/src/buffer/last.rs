//! The newest reading of each logger in a view, found in one pass without putting rows in order; in two where a newest
//! time came again.
//!
//! Rows of one logger mostly come one after the other, so that a logger is looked up once for a run of them. Memory: some
//! 70 bytes a logger.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, UInt64Array};
use storage_format::ChannelCode;
use storage_format::segment::readings_schema;

use super::BufferView;
use super::view::{channel, times};

/// The newest row of a logger so far: of several with the same time the first.
#[derive(Debug, Clone, Copy)]
struct Newest {
    logger: u64,
    time: i64,
    row: u32,
    frame: u32,
    /// Whether a later row has the same time.
    again: bool,
}

impl BufferView {
    /// The newest reading of each logger, by ascending logger, as one batch of the readings schema with the view's
    /// channels. Where a logger's newest time came several times: the first value of each channel, and the provenance of
    /// the first row. A channel that was not measured at that time is null, whatever was measured before.
    #[must_use]
    pub fn last_of_loggers(&self) -> RecordBatch {
        let mut newest: Vec<Newest> = Vec::new();
        let mut places: HashMap<u64, usize> = HashMap::new();
        let mut place = 0;
        self.each_row(|row, frame, logger, time| {
            if newest.get(place).is_none_or(|known| known.logger != logger) {
                place = *places.entry(logger).or_insert(newest.len());
            }
            match newest.get_mut(place) {
                Some(known) if time < known.time => {}
                Some(known) if time == known.time => known.again = true,
                Some(known) => *known = Newest { logger, time, row, frame, again: false },
                None => newest.push(Newest { logger, time, row, frame, again: false }),
            }
        });
        newest.sort_unstable_by_key(|newest| newest.logger);
        // Once: the writer may add a channel meanwhile.
        let channels = self.channels();
        let fills = self.fills(&newest, &channels);
        self.batch_of(&newest, &channels, &fills)
    }

    /// For each channel: values that a newest row does not have itself, by the place of
    /// the row.
    fn fills(&self, newest: &[Newest], channels: &[ChannelCode]) -> Vec<HashMap<usize, f64>> {
        let mut fills = vec![HashMap::new(); channels.len()];
        if newest.iter().all(|newest| !newest.again) {
            return fills;
        }
        let columns: Vec<_> =
            channels.iter().map(|code| self.buffer().column(*code).map(|column| column.reader(self.rows()))).collect();
        self.each_row(|row, _, logger, time| {
            let Ok(place) = newest.binary_search_by_key(&logger, |newest| newest.logger) else { return };
            let Newest { time: newest, row: first, again, .. } = newest[place];
            if !again || newest != time || row == first {
                return;
            }
            for (column, fills) in columns.iter().zip(&mut fills) {
                let Some(column) = column else { continue };
                let value = |row: u32| f64::from_bits(column.get(row as usize));
                if value(first).is_nan() && !value(row).is_nan() {
                    fills.entry(place).or_insert_with(|| value(row));
                }
            }
        });
        fills
    }

    fn batch_of(&self, newest: &[Newest], channels: &[ChannelCode], fills: &[HashMap<usize, f64>]) -> RecordBatch {
        let buffer = &**self.buffer();
        let frames = buffer.extent.frames();
        let (gateways, received) = (buffer.frame_gateways.reader(frames), buffer.frame_received.reader(frames));
        let of = |take: &dyn Fn(&Newest) -> u64| newest.iter().map(take).collect::<Vec<u64>>();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(channels.len() + 4);
        columns.push(Arc::new(UInt64Array::from(of(&|n| n.logger))));
        columns.push(Arc::new(times(newest.iter().map(|n| n.time).collect())));
        for (code, fills) in channels.iter().zip(fills) {
            let Some(column) = buffer.column(*code) else {
                columns.push(Arc::new(Float64Array::new_null(newest.len())));
                continue;
            };
            // Rows are `u32`, which `sorted` says why: `as usize` loses nothing.
            let column = column.reader(self.rows());
            let mut values: Vec<f64> = newest.iter().map(|n| f64::from_bits(column.get(n.row as usize))).collect();
            for (place, value) in fills {
                values[*place] = *value;
            }
            columns.push(Arc::new(channel(values)));
        }
        columns.push(Arc::new(UInt64Array::from(of(&|n| gateways.get(n.frame as usize)))));
        columns
            .push(Arc::new(times(of(&|n| received.get(n.frame as usize)).iter().map(|t| t.cast_signed()).collect())));
        RecordBatch::try_new(readings_schema(channels), columns).expect("columns are made as the schema says")
    }
}
