//! What the answers should be, computed one sample at a time from what was sent, in order.

use std::collections::BTreeMap;

use storage_format::{ChannelCode, LoggerId, Millis, channels};

/// One reading as it is sent.
pub(crate) type Reading = (LoggerId, Millis, Vec<(ChannelCode, f64)>);

struct Row {
    values: BTreeMap<ChannelCode, f64>,
    gateway: u64,
    received: Millis,
}

type ConflictKey = (LoggerId, Millis, &'static str, u64, u64);

/// All readings of one organisation, by first-wins.
#[derive(Default)]
pub(crate) struct Model {
    rows: BTreeMap<(LoggerId, Millis), Row>,
    /// By (logger, time, channel, bits of the refused value, gateway): the kept value, and when it was received first.
    conflicts: BTreeMap<ConflictKey, (f64, Millis)>,
    samples: u64,
}

impl Model {
    /// What one frame does.
    pub(crate) fn add(&mut self, gateway: u64, received: Millis, readings: &[Reading]) {
        let received = received.whole_seconds();
        let mut readings = readings.to_vec();
        readings.sort_by_key(|(logger, time, _)| (*logger, *time));
        for (logger, time, samples) in readings {
            let row =
                self.rows.entry((logger, time)).or_insert_with(|| Row { values: BTreeMap::new(), gateway, received });
            for (code, value) in samples {
                self.samples += 1;
                let kept = *row.values.entry(code).or_insert(value);
                if kept.to_bits() != value.to_bits() {
                    let name = code.channel().expect("in the registry").name;
                    let key = (logger, time, name, value.to_bits(), gateway);
                    let conflict = self.conflicts.entry(key).or_insert((kept, received));
                    conflict.1 = conflict.1.min(received);
                }
            }
        }
    }

    /// The rows of `SELECT * FROM readings ORDER BY logger, time`, as lines.
    pub(crate) fn readings(&self) -> Vec<String> {
        self.rows_where(|_, _, _| true)
    }

    /// The rows whose key and values pass.
    pub(crate) fn rows_where(
        &self,
        pass: impl Fn(LoggerId, Millis, &BTreeMap<ChannelCode, f64>) -> bool,
    ) -> Vec<String> {
        let rows = self.rows.iter().filter(|((logger, time), row)| pass(*logger, *time, &row.values));
        rows.map(|((logger, time), row)| {
            let mut line = vec![logger.get().to_string(), shown(*time)];
            line.extend(channels().iter().map(|channel| row.values.get(&channel.code).map_or(String::new(), float)));
            line.extend([row.gateway.to_string(), shown(row.received)]);
            line.join("|")
        })
        .collect()
    }

    /// The rows of `SELECT * FROM conflicts ORDER BY logger, time, channel, refused, gateway`, as lines, sorted as text.
    pub(crate) fn conflicts(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .conflicts
            .iter()
            .map(|((logger, time, name, refused, gateway), (kept, received))| {
                let refused = f64::from_bits(*refused);
                format!(
                    "{}|{}|{name}|{}|{}|{gateway}|{}",
                    logger.get(),
                    shown(*time),
                    float(kept),
                    float(&refused),
                    shown(*received)
                )
            })
            .collect();
        lines.sort();
        lines
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Samples that were sent and are no reading's value: duplicates and conflicts together.
    pub(crate) fn refused(&self) -> u64 {
        let kept: usize = self.rows.values().map(|row| row.values.len()).sum();
        self.samples - kept as u64
    }

    /// Every key.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (LoggerId, Millis)> + '_ {
        self.rows.keys().copied()
    }
}

/// As Arrow shows it.
fn shown(time: Millis) -> String {
    let text = time.to_string();
    text.strip_suffix(".000Z").map_or_else(|| text.clone(), |whole| format!("{whole}Z"))
}

fn float(value: &f64) -> String {
    format!("{value:?}")
}
