//! What the answers should be, as text, computed from the model of what was sent.

use std::collections::BTreeMap;

use kit::{Conflict, ConflictKey, FirstWins, Sent};
use storage_format::{ChannelCode, LoggerId, Millis, channels};

/// All readings of one organisation, by first-wins.
#[derive(Default)]
pub(crate) struct Model(FirstWins);

impl Model {
    /// Applies a frame.
    pub(crate) fn add(&mut self, sent: &Sent) {
        self.0.apply(sent);
    }

    /// All readings, by logger and time.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&kit::Key, &kit::Row)> {
        self.0.rows.iter()
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
        let rows = self.0.rows.iter().filter(|((logger, time), row)| pass(*logger, *time, &row.values));
        rows.map(|((logger, time), row)| {
            let mut line = vec![logger.get().to_string(), shown(*time)];
            line.extend(channels().iter().map(|channel| row.values.get(&channel.code).map_or(String::new(), float)));
            line.extend([row.gateway.get().to_string(), shown(row.received)]);
            line.join("|")
        })
        .collect()
    }

    /// The rows of `SELECT * FROM conflicts ORDER BY logger, time, channel, refused, gateway`, as lines, sorted as text.
    pub(crate) fn conflicts(&self) -> Vec<String> {
        // Each conflict once, as it was received first.
        let mut first: BTreeMap<ConflictKey, &Conflict> = BTreeMap::new();
        for conflict in &self.0.conflicts {
            let known = first.entry(conflict.key()).or_insert(conflict);
            if conflict.received < known.received {
                *known = conflict;
            }
        }
        let mut lines: Vec<String> = first
            .values()
            .map(|conflict| {
                format!(
                    "{}|{}|{}|{}|{}|{}|{}",
                    conflict.logger.get(),
                    shown(conflict.time),
                    conflict.channel.channel().expect("in the registry").name,
                    float(&conflict.kept),
                    float(&conflict.refused),
                    conflict.gateway.get(),
                    shown(conflict.received)
                )
            })
            .collect();
        lines.sort();
        lines
    }

    pub(crate) fn len(&self) -> usize {
        self.0.rows.len()
    }

    /// Samples that were sent and are no reading's value: duplicates and conflicts together.
    pub(crate) fn refused(&self) -> u64 {
        self.0.repeated()
    }

    /// Every key.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (LoggerId, Millis)> + '_ {
        self.0.rows.keys().copied()
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
