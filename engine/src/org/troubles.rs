//! Organisations in trouble: an object that only they need is damaged or missing, so that nothing of theirs can be
//! flushed. Their frames are refused, and everybody else goes on.
//!
//! Invariants: who is in trouble takes no frames, so that what has to be kept for it does not grow; the carried files of
//! an organisation hold its records from the first that no manifest covers up to their last LSN, without a gap.
//!
//! Nothing of it is stored but the carried files: a start finds it out again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use storage_format::{Lsn, Millis, OrgId};
use tokio::sync::Notify;

use crate::carried::CarriedFile;
use crate::error::{EngineError, EngineErrorKind};

/// What is known of one organisation's trouble.
#[derive(Debug, Clone)]
pub(crate) struct InTrouble {
    /// Time at which it was found, by the clock of day.
    pub(crate) since: Millis,
    /// The last error that says what is damaged, or else the last try's; `None` while it was not tried yet to apply what an
    /// earlier process has carried on.
    pub(crate) error: Option<EngineError>,
    /// Files with its records that are not in the log any more, oldest first.
    pub(crate) carried: Vec<CarriedFile>,
    /// Whether memory holds all of its readings. An organisation that is not loaded cannot be read in any case.
    pub(crate) readable: bool,
}

impl InTrouble {
    /// The last LSN that the carried files hold.
    pub(crate) fn carried_up_to(&self) -> Lsn {
        self.carried.iter().map(|file| file.last).max().unwrap_or_default()
    }

    /// What is said to whoever wants to read or write the organisation.
    pub(crate) fn answer(&self, org: OrgId) -> EngineError {
        match &self.error {
            Some(error) if error.is_of_one_org() => EngineError::new(
                EngineErrorKind::Corrupt,
                "an organisation's stored data is damaged or missing: it takes no readings, and some of its readings cannot be read",
                "Restore the object; within a minute everything acknowledged is seen again. `icecore doctor` lists what is wrong.",
            )
            .at(org)
            .because(error.clone()),
            Some(error) => EngineError::new(
                error.kind(),
                "an organisation's readings cannot be flushed: it takes no readings, and some of its readings cannot be read",
                "Nothing acknowledged is lost, and it is tried again.",
            )
            .at(org)
            .because(error.clone()),
            None => EngineError::new(
                EngineErrorKind::Retry,
                "readings that were carried on while an object was damaged or missing are not applied again yet",
                "Try again in a moment.",
            )
            .at(org),
        }
    }
}

/// All organisations in trouble.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// Asked for every frame: mostly there is none.
    count: AtomicUsize,
    known: Mutex<BTreeMap<OrgId, InTrouble>>,
    /// Told when buffers of an organisation in trouble are in the way.
    wanted: Notify,
}

impl Troubles {
    fn known(&self) -> MutexGuard<'_, BTreeMap<OrgId, InTrouble>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of them.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Returns whether the organisation is in trouble.
    pub(crate) fn has(&self, org: OrgId) -> bool {
        self.len() > 0 && self.known().contains_key(&org)
    }

    /// The organisation's trouble, if it has one.
    pub(crate) fn get(&self, org: OrgId) -> Option<InTrouble> {
        if self.len() == 0 { None } else { self.known().get(&org).cloned() }
    }

    /// All of them, by their ids.
    pub(crate) fn all(&self) -> Vec<(OrgId, InTrouble)> {
        if self.len() == 0 {
            return Vec::new();
        }
        self.known().iter().map(|(org, trouble)| (*org, trouble.clone())).collect()
    }

    /// The organisation is in trouble from now on, if it was not, and this is its last error. `readable` says whether
    /// memory holds all of its readings.
    pub(crate) fn begin(&self, org: OrgId, error: &EngineError, readable: bool, now: Millis) {
        let mut known = self.known();
        let trouble =
            known.entry(org).or_insert_with(|| InTrouble { since: now, error: None, carried: Vec::new(), readable });
        // Carried files that are found at a start are none yet.
        if !trouble.error.as_ref().is_some_and(EngineError::is_of_one_org) {
            tracing::error!(%org, since = %trouble.since, %error,
                "an organisation is in trouble: its frames are refused and wait in their gateways, what is acknowledged is kept, and the others go on; once the object is restored it goes on by itself");
        }
        trouble.error = Some(error.clone());
        trouble.readable &= readable;
        self.count.store(known.len(), Ordering::Release);
    }

    /// A try to mend the organisation has ended with this error, which does not say what is damaged: it is known if nothing
    /// better is.
    pub(crate) fn tried(&self, org: OrgId, error: &EngineError) {
        let mut known = self.known();
        let Some(trouble) = known.get_mut(&org) else { return };
        if !trouble.error.as_ref().is_some_and(EngineError::is_of_one_org) {
            trouble.error = Some(error.clone());
        }
    }

    /// A start has found carried files of the organisation.
    pub(crate) fn found(&self, org: OrgId, carried: Vec<CarriedFile>, now: Millis) {
        let mut known = self.known();
        known.insert(org, InTrouble { since: now, error: None, carried, readable: false });
        self.count.store(known.len(), Ordering::Release);
    }

    /// Records of the organisation are in this file, and will not be in memory for a while.
    pub(crate) fn carried(&self, org: OrgId, file: CarriedFile) {
        if let Some(trouble) = self.known().get_mut(&org) {
            trouble.carried.push(file);
            trouble.readable = false;
        }
    }

    /// Segments hold what is in this file.
    pub(crate) fn let_go(&self, org: OrgId, file: &CarriedFile) {
        if let Some(trouble) = self.known().get_mut(&org) {
            trouble.carried.retain(|carried| carried != file);
        }
    }

    /// The trouble is over.
    pub(crate) fn end(&self, org: OrgId) {
        let mut known = self.known();
        let ended = known.remove(&org);
        self.count.store(known.len(), Ordering::Release);
        drop(known);
        if let Some(trouble) = ended {
            if trouble.error.is_some() {
                tracing::info!(%org, since = %trouble.since, "an organisation that was in trouble is well again");
            } else {
                tracing::info!(%org, "readings that an earlier process had carried on are in segments");
            }
        }
    }

    /// Buffers of organisations in trouble are in the way: of the log, or of memory.
    pub(crate) fn want_room(&self) {
        self.wanted.notify_one();
    }

    /// Waits until they are.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(id: u64) -> OrgId {
        OrgId::new(id).expect("not zero")
    }

    fn file(first: u64, last: u64) -> CarriedFile {
        CarriedFile { org: org(1), first: Lsn::new(first), last: Lsn::new(last), bytes: 1 }
    }

    #[test]
    fn a_trouble_keeps_its_beginning_and_its_last_error() {
        let troubles = Troubles::default();
        assert!(!troubles.has(org(1)));
        let error = |what: &'static str| EngineError::new(EngineErrorKind::Corrupt, what, "");
        troubles.begin(org(1), &error("one"), true, Millis::EPOCH);
        troubles.begin(org(1), &error("two"), true, Millis::EPOCH.saturating_add(5));
        let trouble = troubles.get(org(1)).expect("it is in trouble");
        assert_eq!((trouble.since, trouble.readable, trouble.carried_up_to()), (Millis::EPOCH, true, Lsn::ZERO));
        assert!(trouble.answer(org(1)).to_string().contains("two"));
        assert_eq!((troubles.len(), troubles.has(org(2))), (1, false));
        troubles.carried(org(1), file(3, 9));
        troubles.carried(org(1), file(12, 14));
        troubles.let_go(org(1), &file(3, 9));
        let trouble = troubles.get(org(1)).expect("it is in trouble");
        assert_eq!((trouble.readable, trouble.carried_up_to()), (false, Lsn::new(14)));
        troubles.end(org(1));
        assert_eq!((troubles.len(), troubles.all().len()), (0, 0));
    }

    #[test]
    fn what_a_start_finds_is_unreadable_and_has_no_error_yet() {
        let troubles = Troubles::default();
        troubles.found(org(1), vec![file(3, 9)], Millis::EPOCH);
        let trouble = troubles.get(org(1)).expect("it is in trouble");
        assert_eq!((trouble.readable, trouble.answer(org(1)).kind()), (false, EngineErrorKind::Retry));
    }

    #[test]
    fn an_error_of_a_try_does_not_hide_what_is_damaged() {
        let troubles = Troubles::default();
        let error = |kind, what: &'static str| EngineError::new(kind, what, "");
        troubles.tried(org(1), &error(EngineErrorKind::Retry, "none"));
        assert!(!troubles.has(org(1)));
        troubles.found(org(1), vec![file(3, 9)], Millis::EPOCH);
        let told = || troubles.get(org(1)).expect("it is in trouble").answer(org(1));
        for what in ["no answer", "no space"] {
            troubles.tried(org(1), &error(EngineErrorKind::Retry, what));
            assert!(told().kind() == EngineErrorKind::Retry && told().to_string().contains(what));
        }
        troubles.begin(org(1), &error(EngineErrorKind::Corrupt, "damage"), false, Millis::EPOCH);
        troubles.tried(org(1), &error(EngineErrorKind::Retry, "no answer"));
        assert!(told().kind() == EngineErrorKind::Corrupt && told().to_string().contains("damage"));
    }
}
