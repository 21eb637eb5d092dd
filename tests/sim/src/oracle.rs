//! What is true: every frame that the engine took, under the LSN that its record must have, and what follows from
//! that for each organisation.
//!
//! Organisations take turns in the queue before the appender, and the engine tells whose frame it put into the log
//! next; of one organisation that must be the frame that has waited longest, nobody has two turns while another waits,
//! and no LSN may be left out. A start tells at which LSN the log goes on: every record before it has survived, no
//! other has. That makes the truth exact: what an organisation holds is first-wins over its surviving records in their
//! order, and nothing that was acknowledged or visible may be missing from them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use engine::Ordered;
use kit::{FirstWins, Reading};
use storage_format::{FrameSequence, GatewayId, Millis, OrgId, SpoolId, Window};

/// A process may write one record without a frame: the mark of its end.
const MARKS: u64 = 1;

/// A frame that the engine took, by the order in which it did.
pub(crate) type Ticket = u64;

/// A frame that the engine took.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    /// Organisation.
    pub(crate) org: OrgId,
    /// From whom.
    pub(crate) gateway: GatewayId,
    /// Of which spool.
    pub(crate) spool: SpoolId,
    /// Which number there.
    pub(crate) sequence: FrameSequence,
    /// When it arrived.
    pub(crate) received: Millis,
    /// What is in it.
    pub(crate) readings: Arc<Vec<Reading>>,
}

#[derive(Debug)]
struct Record {
    taken: Taken,
    acknowledged: bool,
}

/// What an organisation has in the queue.
#[derive(Debug, Default)]
struct Line {
    frames: VecDeque<(Ticket, Taken)>,
    /// The next LSN when it began to wait, or its last one when it had its turn since.
    since: u64,
    /// Its last LSN.
    served: u64,
}

/// Figures of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OracleCounts {
    /// Frames that the engine took.
    pub taken: u64,
    /// Frames acknowledged.
    pub acknowledged: u64,
    /// Readings in them.
    pub acknowledged_readings: u64,
    /// Frames taken that a crash took away again, none of them acknowledged.
    pub lost_unacknowledged: u64,
    /// Frames that were durable when the server died, and not acknowledged.
    pub kept_unacknowledged: u64,
}

impl OracleCounts {
    /// Adds another run's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.taken += other.taken;
        self.acknowledged += other.acknowledged;
        self.acknowledged_readings += other.acknowledged_readings;
        self.lost_unacknowledged += other.lost_unacknowledged;
        self.kept_unacknowledged += other.kept_unacknowledged;
    }
}

/// The truth.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    log: BTreeMap<u64, Record>,
    /// The next LSN.
    next: u64,
    /// Taken, and not in the log, by organisation.
    lines: BTreeMap<OrgId, Line>,
    /// Where in the log frames are that are not acknowledged.
    places: BTreeMap<Ticket, u64>,
    /// Said to be durable since the last step.
    acks: Vec<Ticket>,
    applied: u64,
    holdings: BTreeMap<OrgId, FirstWins>,
    counts: OracleCounts,
}

impl Oracle {
    /// Figures so far.
    #[must_use]
    pub(crate) fn counts(&self) -> OracleCounts {
        self.counts
    }

    /// A server has started and says that its log goes on here.
    ///
    /// # Errors
    /// What must not be. What is lost is let go all the same: after a lie of the disk a run goes on without it.
    pub(crate) fn started(&mut self, next_lsn: u64, clean: bool) -> Result<(), String> {
        let made = self.next + MARKS;
        if next_lsn > made {
            return Err(format!("the log goes on at LSN {next_lsn}, and only LSNs before {made} were ever made"));
        }
        // A log that was closed ends with the mark of it.
        if clean && let Some(Record { taken, .. }) = self.log.remove(&(next_lsn - 1)) {
            let (sequence, spool) = (taken.sequence, taken.spool);
            return Err(format!("LOST: the mark of a clean close has the place of frame {sequence} of spool {spool}"));
        }
        let lost = self.log.split_off(&next_lsn);
        let missed = lost.iter().find_map(|(lsn, Record { taken, acknowledged })| {
            if *acknowledged {
                Some(format!(
                    "LOST: LSN {lsn} was acknowledged (org {}, gateway {}, spool {}, frame {}), the log ends before LSN {next_lsn}",
                    taken.org, taken.gateway, taken.spool, taken.sequence
                ))
            } else if *lsn <= self.applied {
                Some(format!("LOST: LSN {lsn} was visible to readers, the log ends before LSN {next_lsn}"))
            } else {
                None
            }
        });
        if missed.is_some() {
            self.holdings.clear();
            self.applied = 0;
        }
        let queued: usize = std::mem::take(&mut self.lines).values().map(|line| line.frames.len()).sum();
        self.counts.lost_unacknowledged += (lost.len() + queued) as u64;
        self.counts.kept_unacknowledged +=
            self.log.values().rev().take_while(|record| !record.acknowledged).count() as u64;
        self.next = next_lsn;
        self.places.clear();
        self.acks.clear();
        self.apply_up_to(next_lsn - 1);
        missed.map_or(Ok(()), Err)
    }

    /// The engine has taken a frame.
    pub(crate) fn take(&mut self, taken: Taken) -> Ticket {
        let ticket = self.counts.taken;
        self.counts.taken += 1;
        let line = self.lines.entry(taken.org).or_default();
        if line.frames.is_empty() {
            line.since = self.next;
        }
        line.frames.push_back((ticket, taken));
        ticket
    }

    /// The engine says that it does not take this frame after all, which it has not put into the log.
    pub(crate) fn refused(&mut self, ticket: Ticket) {
        for line in self.lines.values_mut() {
            line.frames.retain(|(waiting, _)| *waiting != ticket);
        }
    }

    /// The engine says that this frame is durable.
    pub(crate) fn acknowledged(&mut self, ticket: Ticket) {
        self.acks.push(ticket);
    }

    /// The appender has made a step, in which it put these frames into the log.
    ///
    /// # Errors
    /// What must not be.
    pub(crate) fn stepped(&mut self, order: Vec<Ordered>) -> Result<(), String> {
        for Ordered { lsn, org, gateway, spool, sequence } in order {
            if lsn.get() != self.next {
                return Err(format!("LSN {lsn} follows, and LSN {} should", self.next));
            }
            let waited = |line: &Line| line.frames.front().map(|_| line.since);
            let passed = self.lines.get(&org).map_or(0, |line| line.served);
            if let Some((other, _)) =
                self.lines.iter().find(|(_, line)| waited(line).is_some_and(|since| since < passed))
            {
                return Err(format!("LSN {lsn} is org {org}'s, whose last turn was after org {other} began to wait"));
            }
            let line = self.lines.entry(org).or_default();
            (line.since, line.served) = (self.next, self.next);
            let is_it =
                |(_, taken): &(_, Taken)| (taken.gateway, taken.spool, taken.sequence) == (gateway, spool, sequence);
            let Some((ticket, taken)) = line.frames.pop_front().filter(is_it) else {
                return Err(format!(
                    "LSN {lsn} is frame {sequence} of spool {spool} of org {org}, and it was not its turn"
                ));
            };
            self.log.insert(self.next, Record { taken, acknowledged: false });
            self.places.insert(ticket, self.next);
            self.next += 1;
        }
        for ticket in self.acks.drain(..) {
            let record = self.places.remove(&ticket).and_then(|lsn| self.log.get_mut(&lsn));
            let Some(record) = record else {
                return Err(format!("the {ticket}th frame taken is acknowledged, and it is not in the log"));
            };
            record.acknowledged = true;
            self.counts.acknowledged += 1;
            self.counts.acknowledged_readings += record.taken.readings.len() as u64;
        }
        Ok(())
    }

    /// A group is done: what is acknowledged is visible.
    ///
    /// # Errors
    /// What must not be.
    pub(crate) fn settled(&self) -> Result<(), String> {
        match self.log.range(self.applied + 1..).find(|(_, record)| record.acknowledged) {
            Some((lsn, _)) => Err(format!("LSN {lsn} is acknowledged and not visible, which LSN {} is", self.applied)),
            None => Ok(()),
        }
    }

    /// Everything up to this LSN is visible.
    ///
    /// # Errors
    /// What must not be.
    pub(crate) fn visible(&mut self, lsn: u64) -> Result<(), String> {
        let made = self.next + MARKS;
        if lsn >= made {
            return Err(format!("LSN {lsn} is visible, and only LSNs before {made} were made"));
        }
        self.apply_up_to(lsn);
        Ok(())
    }

    fn apply_up_to(&mut self, lsn: u64) {
        if lsn <= self.applied {
            return;
        }
        for record in self.log.range(self.applied + 1..=lsn).map(|(_, record)| record) {
            let Taken { org, gateway, received, readings, .. } = &record.taken;
            self.holdings.entry(*org).or_default().apply_readings(*gateway, *received, readings);
        }
        self.applied = lsn;
    }

    /// What the organisation holds now.
    #[must_use]
    pub(crate) fn holdings(&self, org: OrgId) -> FirstWins {
        self.holdings.get(&org).cloned().unwrap_or_default()
    }

    /// Everything up to this LSN is visible.
    #[must_use]
    pub(crate) const fn applied(&self) -> u64 {
        self.applied
    }

    /// What the organisation holds after these records, of which some readings were dropped: of the records up to an LSN
    /// those of some windows, in this order.
    #[must_use]
    pub(crate) fn holdings_after(&self, org: OrgId, lsn: u64, drops: &[(u64, Vec<Window>)]) -> FirstWins {
        let mut model = FirstWins::default();
        let mut drops = drops.iter().peekable();
        let is_gone = |windows: &[Window], time| windows.iter().any(|window| window.range().contains(time));
        for (at, record) in self.log.range(..=lsn).filter(|(_, record)| record.taken.org == org) {
            while let Some((_, windows)) = drops.next_if(|(covered, _)| covered < at) {
                model.drop_times(|time| is_gone(windows, time));
            }
            let Taken { gateway, received, readings, .. } = &record.taken;
            model.apply_readings(*gateway, *received, readings);
        }
        for (_, windows) in drops {
            model.drop_times(|time| is_gone(windows, time));
        }
        model
    }

    /// Frames of a spool that are in the log.
    #[must_use]
    pub(crate) fn frames_of(&self, gateway: GatewayId, spool: SpoolId) -> BTreeSet<FrameSequence> {
        let of = |record: &Record| record.taken.gateway == gateway && record.taken.spool == spool;
        self.log.values().filter(|record| of(record)).map(|record| record.taken.sequence).collect()
    }
}
