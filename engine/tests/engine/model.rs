//! A naive model of first-wins: one map, one sample at a time.

use std::collections::BTreeMap;

use storage_format::{ChannelCode, FrameBuilder, FrameSequence, GatewayId, LoggerId, Millis, SpoolId};

/// What one (logger, time) holds: values by channel, and who sent the first of them when.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) values: BTreeMap<ChannelCode, f64>,
    pub(crate) gateway: GatewayId,
    pub(crate) received: Millis,
}

/// A value that was refused because another was there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conflict {
    pub(crate) logger: LoggerId,
    pub(crate) time: Millis,
    pub(crate) channel: ChannelCode,
    pub(crate) kept: f64,
    pub(crate) refused: f64,
    pub(crate) gateway: GatewayId,
    pub(crate) received: Millis,
}

/// What one organisation should hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) rows: BTreeMap<(LoggerId, Millis), Row>,
    pub(crate) conflicts: Vec<Conflict>,
    pub(crate) duplicates: u64,
    pub(crate) filled: u64,
}

/// A reading, as a test writes it down.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) logger: u64,
    pub(crate) time: i64,
    pub(crate) samples: Vec<(u16, f64)>,
}

/// A frame before it is encoded. Readings under one key twice: the builder refuses the second, and so does this.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) gateway: GatewayId,
    pub(crate) received: Millis,
    pub(crate) readings: Vec<Reading>,
}

pub(crate) fn logger(id: u64) -> LoggerId {
    LoggerId::new(id).expect("not zero")
}

pub(crate) fn millis(ms: i64) -> Millis {
    Millis::new(ms).expect("in range")
}

pub(crate) fn gateway(id: u64) -> GatewayId {
    GatewayId::new(id).expect("not zero")
}

pub(crate) fn spool(id: u64) -> SpoolId {
    SpoolId::new(id).expect("not zero")
}

pub(crate) fn channel(code: u16) -> ChannelCode {
    ChannelCode::new(code).expect("not zero")
}

impl Sent {
    /// The frame's bytes; readings that a frame cannot hold are taken out of `self` too.
    pub(crate) fn encode(&mut self, spool: SpoolId, sequence: u64) -> bytes::Bytes {
        let mut builder = FrameBuilder::new();
        self.readings.retain(|reading| {
            let samples: Vec<(ChannelCode, f64)> =
                reading.samples.iter().map(|(code, value)| (channel(*code), *value)).collect();
            builder.push(logger(reading.logger), millis(reading.time), &samples).is_ok()
        });
        builder.encode(spool, FrameSequence::new(sequence))
    }
}

impl Model {
    /// Applies a frame: within it readings are unique.
    pub(crate) fn apply(&mut self, sent: &Sent) {
        for reading in &sent.readings {
            let key = (logger(reading.logger), millis(reading.time));
            let received = sent.received.whole_seconds();
            let known = self.rows.contains_key(&key);
            let row = self.rows.entry(key).or_insert_with(|| Row {
                values: BTreeMap::new(),
                gateway: sent.gateway,
                received,
            });
            for (code, value) in &reading.samples {
                let code = channel(*code);
                match row.values.get(&code) {
                    None => {
                        row.values.insert(code, *value);
                        self.filled += u64::from(known);
                    }
                    Some(kept) if kept.to_bits() == value.to_bits() => self.duplicates += 1,
                    Some(kept) => self.conflicts.push(Conflict {
                        logger: key.0,
                        time: key.1,
                        channel: code,
                        kept: *kept,
                        refused: *value,
                        gateway: sent.gateway,
                        received,
                    }),
                }
            }
        }
    }
}
