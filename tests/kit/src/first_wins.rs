//! The model of first-wins: what an organisation must hold after a sequence of frames. One map, one sample at a time,
//! without any of the engine's code, so that the two cannot share a mistake.

use std::collections::{BTreeMap, BTreeSet};

use storage_format::{ChannelCode, GatewayId, LoggerId, Millis};

use crate::reading::{Reading, Sent};

/// The key of a reading.
pub type Key = (LoggerId, Millis);

/// What one key holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The first value of each channel.
    pub values: BTreeMap<ChannelCode, f64>,
    /// The gateway that sent the first frame with this key.
    pub gateway: GatewayId,
    /// The time at which that frame was received, in whole seconds.
    pub received: Millis,
}

/// A value that was refused, because the channel had another value already.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    /// The logger of the reading.
    pub logger: LoggerId,
    /// The time of the reading.
    pub time: Millis,
    /// The channel.
    pub channel: ChannelCode,
    /// The value that was there.
    pub kept: f64,
    /// The value that was refused.
    pub refused: f64,
    /// The gateway that sent the refused value.
    pub gateway: GatewayId,
    /// The time at which the refused value was received, in whole seconds.
    pub received: Millis,
}

/// What makes two conflicts the same one: everything but the time of receipt. Values are compared bit by bit.
pub type ConflictKey = (LoggerId, Millis, ChannelCode, u64, u64, GatewayId);

impl Conflict {
    /// Returns what makes it the same as another.
    #[must_use]
    pub fn key(&self) -> ConflictKey {
        (self.logger, self.time, self.channel, self.kept.to_bits(), self.refused.to_bits(), self.gateway)
    }

    /// Returns the keys of these conflicts, each once.
    #[must_use]
    pub fn keys<'a>(conflicts: impl IntoIterator<Item = &'a Self>) -> BTreeSet<ConflictKey> {
        conflicts.into_iter().map(Self::key).collect()
    }
}

/// What one organisation must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FirstWins {
    /// Its readings.
    pub rows: BTreeMap<Key, Row>,
    /// Every refused value, in the order of arrival. One that is sent again is here again.
    pub conflicts: Vec<Conflict>,
    /// Samples that came again with the same value.
    pub duplicates: u64,
    /// Samples that filled an empty channel of a reading that was there.
    pub filled: u64,
    /// Readings that were dropped.
    pub dropped: u64,
    /// Conflicts that went with them.
    pub dropped_conflicts: u64,
}

impl FirstWins {
    /// Applies a frame.
    pub fn apply(&mut self, sent: &Sent) {
        self.apply_readings(sent.gateway, sent.received, &sent.readings);
    }

    /// Applies the readings of one frame, of which no two have the same key.
    pub fn apply_readings(&mut self, gateway: GatewayId, received: Millis, readings: &[Reading]) {
        let received = received.whole_seconds();
        for Reading { logger, time, samples } in readings {
            let known = self.rows.contains_key(&(*logger, *time));
            let row = self.rows.entry((*logger, *time));
            let row = row.or_insert_with(|| Row { values: BTreeMap::new(), gateway, received });
            for &(channel, value) in samples {
                match row.values.get(&channel) {
                    None => {
                        row.values.insert(channel, value);
                        self.filled += u64::from(known);
                    }
                    Some(kept) if kept.to_bits() == value.to_bits() => self.duplicates += 1,
                    Some(&kept) => self.conflicts.push(Conflict {
                        logger: *logger,
                        time: *time,
                        channel,
                        kept,
                        refused: value,
                        gateway,
                        received,
                    }),
                }
            }
        }
    }

    /// Returns the last reading of each logger: its row with the newest time.
    #[must_use]
    pub fn last(&self) -> BTreeMap<Key, Row> {
        let mut last: BTreeMap<LoggerId, (Key, Row)> = BTreeMap::new();
        for (key, row) in &self.rows {
            // By ascending key, so that the newest time comes last.
            last.insert(key.0, (*key, row.clone()));
        }
        last.into_values().collect()
    }

    /// Drops the readings of these times, and the conflicts about them. What comes later for the same times is new.
    pub fn drop_times(&mut self, is_gone: impl Fn(Millis) -> bool) {
        let (rows, conflicts) = (self.rows.len(), self.conflicts.len());
        self.rows.retain(|(_, time), _| !is_gone(*time));
        self.conflicts.retain(|conflict| !is_gone(conflict.time));
        self.dropped += (rows - self.rows.len()) as u64;
        self.dropped_conflicts += (conflicts - self.conflicts.len()) as u64;
    }

    /// Returns the number of samples that came again, with the same value or another. The engine may count a refused
    /// value that is sent again as a duplicate or as a conflict, depending on whether a flush came between; this sum does
    /// not depend on it.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.duplicates + self.conflicts.len() as u64 + self.dropped_conflicts
    }

    /// Returns the keys of all conflicts, each once.
    #[must_use]
    pub fn conflict_keys(&self) -> BTreeSet<ConflictKey> {
        Conflict::keys(&self.conflicts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{channel, gateway, logger, millis};

    fn sent<const N: usize>(from: u64, received_ms: i64, readings: [Reading; N]) -> Sent {
        Sent { gateway: gateway(from), received: millis(received_ms), readings: readings.to_vec() }
    }

    /// Every rule once, with the outcome written down by hand.
    #[test]
    fn the_first_value_of_each_channel_wins() {
        let mut model = FirstWins::default();
        let reading = Reading::new;
        model.apply(&sent(1, 5_999, [reading(1, 100, &[(1, 4.0)]), reading(1, 200, &[(1, 4.5)])]));
        let second =
            [reading(1, 100, &[(1, 4.0), (2, 50.0)]), reading(1, 200, &[(1, 9.0)]), reading(2, 100, &[(2, 60.0)])];
        model.apply(&sent(2, 7_000, second));
        model.apply(&sent(2, 8_000, [reading(1, 200, &[(1, 9.0)])]));

        let row = |from: u64, received: i64, values: &[(u16, f64)]| Row {
            values: values.iter().map(|(code, value)| (channel(*code), *value)).collect(),
            gateway: gateway(from),
            received: millis(received),
        };
        let expected = [
            ((logger(1), millis(100)), row(1, 5_000, &[(1, 4.0), (2, 50.0)])),
            ((logger(1), millis(200)), row(1, 5_000, &[(1, 4.5)])),
            ((logger(2), millis(100)), row(2, 7_000, &[(2, 60.0)])),
        ];
        assert_eq!(model.rows, BTreeMap::from(expected));
        let refused = |received: i64| Conflict {
            logger: logger(1),
            time: millis(200),
            channel: channel(1),
            kept: 4.5,
            refused: 9.0,
            gateway: gateway(2),
            received: millis(received),
        };
        assert_eq!(model.conflicts, [refused(7_000), refused(8_000)]);
        assert_eq!(model.conflict_keys(), BTreeSet::from([refused(0).key()]), "one conflict, sent twice");
        assert_eq!((model.duplicates, model.filled, model.repeated()), (1, 1, 3));
    }

    /// After a drop the same key is new, with whatever values it has then.
    #[test]
    fn what_is_dropped_is_forgotten() {
        let mut model = FirstWins::default();
        for value in [1.0, 2.0] {
            model.apply(&sent(1, 0, [Reading::new(1, 100, &[(1, value)]), Reading::new(1, 200, &[(1, value)])]));
        }
        model.drop_times(|time| time < millis(200));
        assert_eq!((model.rows.len(), model.conflicts.len(), model.repeated()), (1, 1, 2));
        assert_eq!((model.dropped, model.dropped_conflicts), (1, 1));
        model.apply(&sent(1, 0, [Reading::new(1, 100, &[(1, 2.0)])]));
        assert_eq!((model.rows.len(), model.repeated()), (2, 2));
        assert_eq!(model.rows[&(logger(1), millis(100))].values[&channel(1)].to_bits(), 2.0_f64.to_bits());
    }

    /// Zero and minus zero are equal as numbers, and are two values.
    #[test]
    fn values_are_compared_bit_by_bit() {
        let mut model = FirstWins::default();
        model.apply(&sent(1, 0, [Reading::new(1, 0, &[(1, 0.0)])]));
        model.apply(&sent(1, 0, [Reading::new(1, 0, &[(1, -0.0)])]));
        assert_eq!((model.duplicates, model.conflicts.len()), (0, 1));
    }

    /// What a frame cannot hold, the model is not given either.
    #[test]
    fn a_frame_has_a_key_once() {
        let mut twice = sent(1, 0, [Reading::new(1, 0, &[(1, 1.0)]), Reading::new(1, 0, &[(1, 2.0)])]);
        let frame = storage_format::Frame::decode(twice.encode(crate::ids::spool(1), 1)).expect("a frame");
        assert_eq!((frame.len(), twice.readings.len()), (1, 1));
        assert_eq!(twice.readings[0].samples, [(channel(1), 1.0)]);
    }
}
