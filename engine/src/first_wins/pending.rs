//! The key that is being settled: what is known of it so far.

use std::collections::HashSet;

use super::run::{Batch, Key};
use crate::planted::{self, PlantedBug};

/// A conflict that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conflict {
    pub(super) key: Key,
    /// The number of the channel among the merge's channels.
    pub(super) channel: usize,
    pub(super) kept: f64,
    pub(super) refused: f64,
    pub(super) gateway: u64,
    pub(super) received: i64,
}

/// A sample of a row whose key was there already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) key: Key,
    /// The number of the channel among the merge's channels.
    pub(super) channel: usize,
    pub(super) value: f64,
    pub(super) flush: u64,
    pub(super) gateway: u64,
    pub(super) received: i64,
}

/// Where a row is: source of the output under way, row in it.
pub(super) type Place = (usize, usize);

/// The key that is being settled. Values are NaN where there is none.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) key: Key,
    /// What stands, channel by channel.
    pub(super) known: Vec<f64>,
    /// What is to be written: in a merge of rows what stands, else only what the last run adds.
    pub(super) added: Vec<f64>,
    /// The row whose provenance counts; the row itself is what is written, as long as `altered` is not set.
    pub(super) origin: Option<Place>,
    pub(super) altered: bool,
    /// Has a run before the last one this key?
    pub(super) in_earlier: bool,
    /// Rows of the last run so far.
    rows_of_last: usize,
    conflicts: Vec<Conflict>,
    /// Rows that are united with the first one, and what became of their samples.
    pub(super) later: Vec<Place>,
    fills: Vec<Sample>,
    dropped: Vec<Sample>,
    /// What `conflicts` holds, to find it again: a logger whose clock stands still can make millions for one key.
    told: HashSet<(usize, u64, u64)>,
}

/// What one row of the last run did.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Effect {
    /// Did it bring anything that is written?
    pub(super) adds: bool,
    pub(super) duplicates: u64,
    pub(super) filled: u64,
}

impl Pending {
    pub(super) fn new(key: Key, channels: usize) -> Self {
        Self {
            key,
            known: vec![f64::NAN; channels],
            added: vec![f64::NAN; channels],
            origin: None,
            altered: false,
            in_earlier: false,
            rows_of_last: 0,
            conflicts: Vec::new(),
            later: Vec::new(),
            fills: Vec::new(),
            dropped: Vec::new(),
            told: HashSet::new(),
        }
    }

    /// A row that is merged into the result.
    pub(super) fn absorb(&mut self, batch: &Batch, row: usize) {
        let first = self.origin.is_none();
        for channel in 0..self.known.len() {
            let value = batch.value(channel, row);
            let wins = self.known[channel].is_nan() || planted::has(PlantedBug::LastWins);
            if wins && !value.is_nan() {
                self.known[channel] = value;
                self.added[channel] = value;
                self.altered |= !first;
            }
        }
    }

    /// A row whose key an earlier row has, merged into the result, with an account of each of its samples.
    pub(super) fn unite(&mut self, batch: &Batch, row: usize) -> Effect {
        let ((gateway, received), flush, key) = (batch.provenance(row), batch.flush(row), self.key);
        let mut effect = Effect::default();
        for channel in 0..self.known.len() {
            let value = batch.value(channel, row);
            if value.is_nan() {
                continue;
            }
            let (kept, sample) = (self.known[channel], Sample { key, channel, value, flush, gateway, received });
            if kept.is_nan() {
                self.known[channel] = value;
                self.added[channel] = value;
                self.altered = true;
                self.fills.push(sample);
                effect.filled += 1;
                continue;
            }
            self.dropped.push(sample);
            if is_same(kept, value) || !self.told.insert((channel, gateway, identity(value))) {
                effect.duplicates += 1;
            } else {
                self.conflicts.push(Conflict { key, channel, kept, refused: value, gateway, received });
            }
        }
        effect
    }

    /// A row that was there before the last run.
    pub(super) fn absorb_earlier(&mut self, batch: &Batch, row: usize) {
        self.in_earlier = true;
        for (channel, known) in self.known.iter_mut().enumerate() {
            if known.is_nan() {
                *known = batch.value(channel, row);
            }
        }
    }

    /// A row of the last run.
    pub(super) fn absorb_last(&mut self, batch: &Batch, row: usize) -> Effect {
        let (gateway, received) = batch.provenance(row);
        let mut effect = Effect::default();
        let was_there = self.in_earlier || self.rows_of_last > 0;
        for channel in 0..self.known.len() {
            let value = batch.value(channel, row);
            if value.is_nan() {
                continue;
            }
            let kept = self.known[channel];
            if kept.is_nan() || planted::has(PlantedBug::LastWins) {
                self.known[channel] = value;
                self.added[channel] = value;
                effect.adds = true;
                effect.filled += u64::from(was_there);
            } else if is_same(kept, value) || !self.told.insert((channel, gateway, identity(value))) {
                effect.duplicates += 1;
            } else {
                let key = self.key;
                self.conflicts.push(Conflict { key, channel, kept, refused: value, gateway, received });
            }
        }
        self.rows_of_last += 1;
        // A row that was there already is never written as it came: some of its values may not be new.
        self.altered |= was_there && effect.adds;
        effect
    }

    /// What became of samples of later rows: those that filled a channel, by channel, and those that went.
    pub(super) fn take_united(&mut self) -> (Vec<Sample>, Vec<Sample>) {
        let mut fills = std::mem::take(&mut self.fills);
        fills.sort_by_key(|fill| fill.channel);
        (fills, std::mem::take(&mut self.dropped))
    }

    /// The conflicts, in the order of (channel, arrival).
    pub(super) fn take_conflicts(&mut self) -> Vec<Conflict> {
        let mut conflicts = std::mem::take(&mut self.conflicts);
        conflicts.sort_by_key(|conflict| conflict.channel);
        conflicts
    }
}

/// Bits by which a value is found again: the same ones for the same value.
fn identity(value: f64) -> u64 {
    // Adding zero makes zero of minus zero, and changes nothing else.
    (value + 0.0).to_bits()
}

/// Is it the same value? Zero and minus zero are: no sensor tells them apart.
fn is_same(a: f64, b: f64) -> bool {
    a == b
}
