//! Who runs and who waits, as a table without tasks or clocks. Whoever has the table decides how to wake a waiter.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use storage_format::OrgId;

use super::{Limits, TurnKind, TurnRefused};

/// What is in use, of one organisation or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Used {
    requests: usize,
    running: usize,
    exports: usize,
}

impl Used {
    fn has_room(self, limits: Limits, kind: TurnKind) -> bool {
        self.running < limits.running && (kind == TurnKind::Query || self.exports < limits.exports)
    }

    fn begin(&mut self, kind: TurnKind) {
        self.running += 1;
        self.exports += usize::from(kind == TurnKind::Export);
    }

    fn end(&mut self, kind: TurnKind) {
        self.running -= 1;
        self.exports -= usize::from(kind == TurnKind::Export);
    }
}

/// The limit that a kind of turn runs into.
fn running_max(limits: Limits, kind: TurnKind) -> usize {
    match kind {
        TurnKind::Query => limits.running,
        TurnKind::Export => limits.exports,
    }
}

/// One value for each kind.
#[derive(Debug, Default)]
struct ByKind<T>([T; 2]);

impl<T> ByKind<T> {
    fn of(&self, kind: TurnKind) -> &T {
        &self.0[kind as usize]
    }

    fn of_mut(&mut self, kind: TurnKind) -> &mut T {
        &mut self.0[kind as usize]
    }
}

#[derive(Debug)]
struct Waiter<W> {
    id: u64,
    wake: W,
}

#[derive(Debug)]
struct Org<W> {
    used: Used,
    /// In the order in which they asked.
    waiting: ByKind<VecDeque<Waiter<W>>>,
}

/// What became of a request for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Granted,
    /// It waits under this number.
    Waits(u64),
}

/// The table. `W` wakes a waiter.
#[derive(Debug)]
pub(super) struct Table<W> {
    all_max: Limits,
    org_max: Limits,
    all: Used,
    /// Those with a request, a turn or both; a turn can outlast its request.
    orgs: HashMap<OrgId, Org<W>>,
    /// Organisations with waiters of a kind, each once; the first has gone without such a turn for longest.
    rounds: ByKind<VecDeque<OrgId>>,
    /// The kind that goes first where waiters of both could run: not that of the last one.
    first: TurnKind,
    waiting: usize,
    next_id: u64,
}

impl<W> Table<W> {
    pub(super) fn new(all_max: Limits, org_max: Limits) -> Self {
        Self {
            all_max,
            org_max,
            all: Used::default(),
            orgs: HashMap::new(),
            rounds: ByKind::default(),
            first: TurnKind::Query,
            waiting: 0,
            next_id: 0,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn running(&self) -> usize {
        self.all.running
    }

    /// Counts a request in.
    pub(super) fn enter(&mut self, org: OrgId) -> Result<(), TurnRefused> {
        let own = self.orgs.get(&org).map_or(0, |org| org.used.requests);
        if own >= self.org_max.requests {
            return Err(TurnRefused::OrgRequests { requests_max: self.org_max.requests });
        }
        if self.all.requests >= self.all_max.requests {
            return Err(TurnRefused::Requests { requests_max: self.all_max.requests });
        }
        self.all.requests += 1;
        let new = || Org { used: Used::default(), waiting: ByKind([VecDeque::new(), VecDeque::new()]) };
        self.orgs.entry(org).or_insert_with(new).used.requests += 1;
        Ok(())
    }

    /// Counts a request out. It has stopped waiting.
    pub(super) fn leave(&mut self, org: OrgId) {
        if let Entry::Occupied(mut entry) = self.orgs.entry(org) {
            self.all.requests -= 1;
            entry.get_mut().used.requests -= 1;
            remove_unused(entry);
        }
    }

    /// Asks for a turn, for a request that has entered.
    pub(super) fn ask(&mut self, org_id: OrgId, kind: TurnKind, wake: W) -> Asked {
        let id = self.next_id;
        self.next_id += 1;
        let org = self.orgs.get_mut(&org_id).expect("its request has entered and not left");
        // Nobody is passed by this: nobody waits who could run.
        if self.all.has_room(self.all_max, kind) && org.used.has_room(self.org_max, kind) {
            self.all.begin(kind);
            org.used.begin(kind);
            return Asked::Granted;
        }
        let queue = org.waiting.of_mut(kind);
        if queue.is_empty() {
            self.rounds.of_mut(kind).push_back(org_id);
        }
        queue.push_back(Waiter { id, wake });
        self.waiting += 1;
        Asked::Waits(id)
    }

    /// Ends a wait: with what was in the way, or `None` if the turn had been granted.
    pub(super) fn give_up(&mut self, org_id: OrgId, kind: TurnKind, id: u64) -> Option<TurnRefused> {
        let org = self.orgs.get_mut(&org_id)?;
        let queue = org.waiting.of_mut(kind);
        queue.remove(queue.iter().position(|waiter| waiter.id == id)?);
        self.waiting -= 1;
        if queue.is_empty() {
            self.rounds.of_mut(kind).retain(|other| *other != org_id);
        }
        let own = !org.used.has_room(self.org_max, kind);
        Some(match own {
            true => TurnRefused::OrgTurns { running_max: running_max(self.org_max, kind) },
            false => TurnRefused::Turns { running_max: running_max(self.all_max, kind) },
        })
    }

    /// Ends a turn. Those who have a turn by this are to be woken.
    pub(super) fn release(&mut self, org: OrgId, kind: TurnKind) -> Vec<W> {
        self.all.end(kind);
        if let Entry::Occupied(mut entry) = self.orgs.entry(org) {
            entry.get_mut().used.end(kind);
            remove_unused(entry);
        }
        // An export that ends can make room for another organisation's export and for a query of its own.
        std::iter::from_fn(|| self.grant()).collect()
    }

    /// Gives a turn to a waiter that can have one, organisation by organisation, and kind by kind.
    fn grant(&mut self) -> Option<W> {
        let kinds = [self.first, self.first.other()];
        let (kind, position) = kinds.into_iter().find_map(|kind| {
            let has_room = |id| self.orgs.get(id).is_some_and(|org| org.used.has_room(self.org_max, kind));
            let round = self.all.has_room(self.all_max, kind).then(|| self.rounds.of(kind))?;
            Some((kind, round.iter().position(has_room)?))
        })?;
        let round = self.rounds.of_mut(kind);
        let org_id = round.remove(position)?;
        let org = self.orgs.get_mut(&org_id)?;
        let queue = org.waiting.of_mut(kind);
        let waiter = queue.pop_front()?;
        if !queue.is_empty() {
            round.push_back(org_id);
        }
        self.waiting -= 1;
        self.all.begin(kind);
        org.used.begin(kind);
        self.first = kind.other();
        Some(waiter.wake)
    }
}

/// Forgets an organisation without requests and turns.
fn remove_unused<W>(entry: std::collections::hash_map::OccupiedEntry<'_, OrgId, Org<W>>) {
    if entry.get().used == Used::default() {
        entry.remove();
    }
}

#[cfg(test)]
impl<W> Table<W> {
    /// Number of organisations that something is kept of.
    pub(super) fn orgs(&self) -> usize {
        self.orgs.len()
    }
}
