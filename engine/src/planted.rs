//! Defects on purpose, one at a time, on the thread that asks for it: the proof that the simulation would find them.
//! Outside of tests and simulations [`has`] is `false` when it is compiled, and nothing is left of it.

/// A defect that the engine must not have.
#[cfg_attr(not(any(test, feature = "fault")), allow(unreachable_pub, reason = "for simulations only"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlantedBug {
    /// Acknowledge a group before its block is written and synced.
    AcknowledgeBeforeSync,
    /// Give a WAL file its name without syncing the directory.
    ForgetDirectorySync,
    /// Let the WAL go as soon as a buffer is frozen, before the manifest commit.
    TrimBeforeCommit,
    /// Of two values for one key, keep the one that came last.
    LastWins,
    /// Flush without looking whether older segments have the key.
    SkipDedup,
    /// After a failed sync, sync again and believe it.
    RetryFailedSync,
    /// Replay records that a manifest covers.
    ForgetCovered,
    /// Take a put that was answered with an error for one that did not happen.
    TrustPutErrors,
    /// Remove objects that no manifest names yet, without a look at who may be about to.
    CollectInFlight,
    /// Take readings for new that a flush of this process has written.
    ForgetFrontier,
    /// Merge two segments that have another one between them, whatever it shares with them.
    MergeAcross,
    /// Name a merged segment in a commit before it is in the store.
    NameBeforePut,
    /// Remove replaced segments that somebody still reads.
    CollectReplaced,
    /// Let retention take the window that the cutoff is in.
    DropEarly,
    /// Drop readings first and record it afterwards.
    DropUnrecorded,
    /// Flush without bringing the last readings in memory up to date.
    ForgetLast,
    /// Apply each record of a carried file twice.
    ApplyCarriedTwice,
    /// Take the records of a carried file for applied.
    ForgetCarried,
    /// Make the rollups of a merged segment of what its first flush brought, and forget what came later.
    RollupForgetsLate,
    /// Remove manifest versions after the newest base, too.
    CollectNeededVersions,
}

#[cfg(any(test, feature = "fault"))]
impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::AcknowledgeBeforeSync,
        Self::ForgetDirectorySync,
        Self::TrimBeforeCommit,
        Self::LastWins,
        Self::SkipDedup,
        Self::RetryFailedSync,
        Self::ForgetCovered,
        Self::TrustPutErrors,
        Self::CollectInFlight,
        Self::ForgetFrontier,
        Self::MergeAcross,
        Self::NameBeforePut,
        Self::CollectReplaced,
        Self::DropEarly,
        Self::DropUnrecorded,
        Self::ForgetLast,
        Self::ApplyCarriedTwice,
        Self::ForgetCarried,
        Self::RollupForgetsLate,
        Self::CollectNeededVersions,
    ];
}

#[cfg(any(test, feature = "fault"))]
thread_local! {
    static PLANTED: std::cell::Cell<Option<PlantedBug>> = const { std::cell::Cell::new(None) };
}

/// Gives every engine that runs on this thread this defect, or none.
#[cfg(any(test, feature = "fault"))]
pub fn plant(bug: Option<PlantedBug>) {
    PLANTED.set(bug);
}

#[cfg(any(test, feature = "fault"))]
pub(crate) fn has(bug: PlantedBug) -> bool {
    PLANTED.get() == Some(bug)
}

#[cfg(not(any(test, feature = "fault")))]
pub(crate) const fn has(_: PlantedBug) -> bool {
    false
}
