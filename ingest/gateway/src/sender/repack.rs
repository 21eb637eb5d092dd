//! A frame that was refused for its times, taken apart: the readings that the server accepts, and those that it does not.

use ingest::client::AcceptedTimes;
use storage_format::{ChannelCode, Frame, LoggerId, Millis};

use super::frames::SentFrame;

/// One reading of a frame.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Unpacked {
    pub(super) logger: LoggerId,
    pub(super) time: Millis,
    pub(super) samples: Vec<(ChannelCode, f64)>,
}

/// The readings that are accepted, and those that are not; `None` when every reading would be accepted, so that sending
/// them again would have the same end.
pub(super) fn unpack(frame: &SentFrame, accepted: &AcceptedTimes) -> Option<(Vec<Unpacked>, Vec<Unpacked>)> {
    let frame = Frame::decode(frame.bytes.clone()).ok()?;
    let mut readings = Vec::with_capacity(frame.len());
    for run in frame.runs() {
        for row in run.range() {
            let values = frame.channels().iter().enumerate().map(|(index, code)| (*code, frame.column(index)[row]));
            let time = Millis::new(*frame.times().get(row)?).ok()?;
            readings.push(Unpacked {
                logger: run.logger,
                time,
                samples: values.filter(|(_, value)| !value.is_nan()).collect(),
            });
        }
    }
    let (good, bad): (Vec<_>, Vec<_>) =
        readings.into_iter().partition(|reading| accepted.surely_contains(reading.time));
    (!bad.is_empty()).then_some((good, bad))
}
