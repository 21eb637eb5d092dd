//! Encodes readings that are in columns already, sorted by logger and time: no look at single readings, no map.
//!
//! The bytes are those that a [`FrameBuilder`](super::FrameBuilder) writes for the same readings. What is handed in is not
//! trusted: a frame that would break a rule of the format does not decode, and whoever submits it decodes it first.

use bytes::Bytes;

use super::{LoggerRun, encoder};
use crate::limits::{FRAME_BYTES_MAX, FRAME_CELLS_MAX, FRAME_READINGS_MAX};
use crate::{ChannelCode, FrameSequence, SpoolId};

/// Readings of some loggers in columns.
#[derive(Debug, Clone, Copy)]
pub struct FrameColumns<'a> {
    /// The loggers, by strictly ascending ids; their ranges follow each other without gaps.
    pub runs: &'a [LoggerRun],
    /// Times in milliseconds since 1970, strictly ascending within a run.
    pub times: &'a [i64],
    /// Columns by strictly ascending code, each as long as `times`, NaN where not measured. A column that is all NaN is left
    /// out; no row may be.
    pub columns: &'a [(ChannelCode, &'a [f64])],
}

impl FrameColumns<'_> {
    /// The number of readings of this many channels that fit into a frame, whatever they are.
    #[must_use]
    pub const fn readings_max(channels: usize) -> usize {
        // What a builder counts with, for readings that are each of another logger.
        let channels = if channels == 0 { 1 } else { channels };
        let reading = 19 + 3 * channels + 8 + 8 * channels + channels.div_ceil(8);
        let by_bytes = (FRAME_BYTES_MAX - 1_024) / reading;
        let by_cells = FRAME_CELLS_MAX / channels;
        let least = if by_bytes < by_cells { by_bytes } else { by_cells };
        if least < FRAME_READINGS_MAX { least } else { FRAME_READINGS_MAX }
    }

    /// Encodes the frame.
    #[must_use]
    pub fn encode(&self, spool: SpoolId, sequence: FrameSequence) -> Bytes {
        let used: Vec<(ChannelCode, &[f64])> =
            self.columns.iter().filter(|(_, column)| column.iter().any(|value| !value.is_nan())).copied().collect();
        let mut out =
            encoder::begin(spool, sequence, self.times.len(), self.runs.len(), used.iter().map(|(code, _)| *code));
        let (mut present, mut mantissas) = (Vec::new(), Vec::new());
        for run in self.runs {
            encoder::put_run_head(&mut out, run.logger, run.len as usize);
            encoder::put_times(&mut out, self.times[run.range()].iter().copied());
            for (_, column) in &used {
                encoder::put_values(&mut out, &column[run.range()], &mut present, &mut mantissas);
            }
        }
        encoder::finish(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Frame, FrameBuilder, LoggerId, Millis};

    #[test]
    fn as_many_readings_as_fit_do_fit() {
        for channels in 1..=16_usize {
            let rows = FrameColumns::readings_max(channels);
            let runs: Vec<_> = (0_u32..)
                .take(rows)
                .map(|row| LoggerRun {
                    logger: LoggerId::new(u64::from(row) + 1).expect("not zero"),
                    start: row,
                    len: 1,
                })
                .collect();
            // Far apart, and with digits that no scaling keeps.
            let times: Vec<_> =
                (0..rows as i64).map(|row| row * 86_400_000 * 365).map(|t| t % 100_000_000_000_000).collect();
            let column: Vec<_> = (0..rows).map(|row| (row as f64 + 0.1).sqrt() * 1e-7).collect();
            let columns: Vec<_> =
                crate::channels().iter().take(channels).map(|c| (c.code, column.as_slice())).collect();
            let frame = FrameColumns { runs: &runs, times: &times, columns: &columns };
            let bytes = frame.encode(SpoolId::new(1).expect("not zero"), FrameSequence::new(1));
            assert_eq!(Frame::decode(bytes).expect("valid").len(), rows);
        }
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_a_builder(
            readings in proptest::collection::btree_map(
                (1_u64..5, -1_000_i64..1_000_000),
                (proptest::option::of(-1e3_f64..1e3), proptest::option::of(0_u32..10_000)),
                1..200,
            ),
        ) {
            let [first, second] = [crate::channels()[0].code, crate::channels()[1].code];
            let mut builder = FrameBuilder::new();
            let (mut runs, mut times, mut a, mut b) = (Vec::<LoggerRun>::new(), Vec::new(), Vec::new(), Vec::new());
            for (start, ((logger, time), (one, two))) in (0_u32..).zip(readings) {
                let two = two.map(|two| f64::from(two) / 100.0);
                let (logger, two) = (LoggerId::new(logger).expect("not zero"), if one.is_none() { two.or(Some(1.0)) } else { two });
                let samples: Vec<_> = [(first, one), (second, two)].into_iter().filter_map(|(c, v)| Some((c, v?))).collect();
                builder.push(logger, Millis::new(time).expect("a time"), &samples).expect("it fits");
                match runs.last_mut() {
                    Some(run) if run.logger == logger => run.len += 1,
                    _ => runs.push(LoggerRun { logger, start, len: 1 }),
                }
                times.push(time);
                a.push(one.unwrap_or(f64::NAN));
                b.push(two.unwrap_or(f64::NAN));
            }
            let (spool, sequence) = (SpoolId::new(7).expect("not zero"), FrameSequence::new(3));
            let columns = [(first, a.as_slice()), (second, b.as_slice())];
            let bytes = FrameColumns { runs: &runs, times: &times, columns: &columns }.encode(spool, sequence);
            prop_assert_eq!(&bytes, &builder.encode(spool, sequence));
            prop_assert!(Frame::decode(bytes).is_ok());
        }
    }
}
