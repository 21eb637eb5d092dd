//! What keeps the engine from taking or flushing readings now: facts that whoever finds them reports here, for HTTP,
//! metrics and the log.
//!
//! A condition begins and ends; while it lasts it keeps its last error. Reading one is an atomic load. The log has each
//! once when it begins, with advice, and once when it is over. Conditions under load come and go many times a second:
//! for the log, one is over when it has not come back for [`QUIET`].

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use durable::Clock;
use storage_format::Millis;

/// Time that a condition must be gone before the log reports its end.
const QUIET: Duration = Duration::from_secs(10);

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Condition {
    /// The WAL has reached `wal_bytes_max`: no frames are taken.
    WalFull,
    /// The next WAL file cannot be made: no frames are acknowledged.
    WalWithoutFile,
    /// Write buffers take all the memory that they may: frames of some organisations, or of all, are not taken.
    WriteBuffersFull,
    /// The last object or commit could not be written.
    StoreUnavailable,
}

impl Condition {
    /// All of them.
    pub(crate) const ALL: [Self; 4] =
        [Self::WalFull, Self::WalWithoutFile, Self::WriteBuffersFull, Self::StoreUnavailable];

    /// What is wrong, for people.
    const fn what(self) -> &'static str {
        match self {
            Self::WalFull => "the WAL has reached wal_bytes_max: no frames are taken until a flush shortens it",
            Self::WalWithoutFile => "no new WAL file can be made: nothing is acknowledged until one can",
            Self::WriteBuffersFull => {
                "the write buffers have reached buffer_bytes_max: frames wait until a flush frees memory"
            }
            Self::StoreUnavailable => "the object store does not take objects: flushes fail and are tried again",
        }
    }

    /// What to do about it, if whoever found it knows nothing better.
    const fn advice(self) -> &'static str {
        match self {
            Self::WalFull => {
                "See whether an organisation cannot flush, and why. If all can, flushes are too slow: more cores, a faster \
                 store, or a larger engine.wal_bytes_max."
            }
            Self::WalWithoutFile => "Look at the disk of the data directory.",
            Self::WriteBuffersFull => {
                "See whether flushes fail, and why. If they do not, they are too slow: more cores, a faster store, or a \
                 larger engine.buffer_bytes_max."
            }
            Self::StoreUnavailable => {
                "Look at the object store's reach, space and rights. Readings stay in the WAL and in memory until it is back."
            }
        }
    }

    /// The log's line when it is over.
    const fn over(self) -> &'static str {
        match self {
            Self::WalFull => "the WAL has room again; frames are taken",
            Self::WalWithoutFile => "WAL files can be made again; frames are acknowledged",
            Self::WriteBuffersFull => "the write buffers have room again; frames are taken",
            Self::StoreUnavailable => "the object store takes objects again",
        }
    }
}

/// A condition that holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong: a sentence without a full stop.
    pub what: &'static str,
    /// Since when.
    pub since: Millis,
    /// The last error, if it comes from one.
    pub error: Option<String>,
    /// What to do about it.
    pub advice: &'static str,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, since {}", self.what, self.since)?;
        if let Some(error) = &self.error {
            write!(f, ": {error}")?;
        }
        write!(f, ". {}", self.advice)
    }
}

/// What the log knows of a condition.
#[derive(Debug, Default)]
struct Logged {
    /// Since when it is in the log as begun, in monotonic time.
    begun: Option<Duration>,
    /// Since when it is gone, if it is.
    gone: Option<Duration>,
}

#[derive(Debug, Default)]
struct Fact {
    now: ArcSwapOption<Trouble>,
    logged: Mutex<Logged>,
}

/// The conditions of one engine.
#[derive(Debug)]
pub(crate) struct Health {
    clock: Arc<dyn Clock>,
    facts: [Fact; Condition::ALL.len()],
}

impl Health {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, facts: Default::default() }
    }

    fn fact(&self, condition: Condition) -> &Fact {
        &self.facts[condition as usize]
    }

    /// The condition, if it holds now.
    pub(crate) fn get(&self, condition: Condition) -> Option<Trouble> {
        self.fact(condition).now.load().as_deref().cloned()
    }

    /// Does the condition hold now?
    pub(crate) fn holds(&self, condition: Condition) -> bool {
        self.fact(condition).now.load().is_some()
    }

    /// The condition holds from now on, if it did not. Returns whether the log says so.
    pub(crate) fn begin(&self, condition: Condition) -> bool {
        // Asked for every frame that is not taken.
        !self.holds(condition) && self.set(condition, None, condition.advice())
    }

    /// The condition holds from now on, and this is its last error. Returns whether the log says so.
    pub(crate) fn begin_with(&self, condition: Condition, error: &dyn fmt::Display) -> bool {
        self.set(condition, Some(error.to_string()), condition.advice())
    }

    /// As [`Health::begin_with`], with better advice.
    pub(crate) fn begin_advised(&self, condition: Condition, error: &dyn fmt::Display, advice: &'static str) -> bool {
        self.set(condition, Some(error.to_string()), advice)
    }

    fn set(&self, condition: Condition, error: Option<String>, advice: &'static str) -> bool {
        let fact = self.fact(condition);
        let mut logged = fact.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let since = fact.now.load().as_ref().map_or_else(|| self.clock.now(), |known| known.since);
        let trouble = Trouble { what: condition.what(), since, error, advice };
        logged.gone = None;
        let new = logged.begun.is_none();
        if new {
            logged.begun = Some(self.clock.monotonic());
            let error = trouble.error.as_deref().unwrap_or("none");
            tracing::warn!(error, advice, "{}", trouble.what);
        }
        fact.now.store(Some(Arc::new(trouble)));
        new
    }

    /// The condition does not hold any more.
    pub(crate) fn end(&self, condition: Condition) {
        if self.holds(condition) {
            let fact = self.fact(condition);
            let mut logged = fact.logged.lock().unwrap_or_else(PoisonError::into_inner);
            fact.now.store(None);
            logged.gone = Some(self.clock.monotonic());
        }
    }

    /// Logs the end of what has not come back for a while; to be called from time to time. Returns what it logged.
    pub(crate) fn log_what_is_over(&self) -> Vec<Condition> {
        let now = self.clock.monotonic();
        let is_over = |condition: &Condition| {
            let mut logged = self.fact(*condition).logged.lock().unwrap_or_else(PoisonError::into_inner);
            let over = logged.gone.is_some_and(|gone| now.saturating_sub(gone) >= QUIET);
            if let Some(begun) = logged.begun.filter(|_| over) {
                let lasted = logged.gone.unwrap_or(now).saturating_sub(begun);
                tracing::info!(?lasted, "{}", condition.over());
                *logged = Logged::default();
            }
            over
        };
        Condition::ALL.into_iter().filter(is_over).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Seconds(AtomicU64);

    impl Clock for Seconds {
        fn now(&self) -> Millis {
            Millis::EPOCH.saturating_add(1000 * self.0.load(Ordering::Relaxed).cast_signed())
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }
    }

    fn health() -> (Arc<Seconds>, Health) {
        let clock = Arc::new(Seconds::default());
        (Arc::clone(&clock), Health::new(clock))
    }

    #[test]
    fn a_condition_keeps_its_beginning_and_its_last_error() {
        let (clock, health) = health();
        health.begin_with(Condition::StoreUnavailable, &"first");
        clock.0.store(5, Ordering::Relaxed);
        health.begin_with(Condition::StoreUnavailable, &"second");
        let trouble = health.get(Condition::StoreUnavailable).expect("it holds");
        assert_eq!((trouble.since, trouble.error.as_deref()), (Millis::EPOCH, Some("second")));
        assert!(trouble.to_string().contains(": second. Look at"), "{trouble}");
        assert!(Condition::ALL.iter().filter(|condition| health.holds(**condition)).count() == 1, "no other one");
        health.end(Condition::StoreUnavailable);
        assert_eq!(health.get(Condition::StoreUnavailable), None);
        health.begin(Condition::StoreUnavailable);
        let again = health.get(Condition::StoreUnavailable).expect("it holds");
        assert_eq!((again.since.get(), again.error), (5000, None));
    }

    #[test]
    fn the_log_has_it_once_when_it_begins_and_once_when_it_is_over() {
        let (clock, health) = health();
        let full = Condition::WalFull;
        assert!(health.begin(full));
        assert!(!health.begin(full), "it has begun");
        // It comes and goes.
        for second in 1..60 {
            clock.0.store(second, Ordering::Relaxed);
            health.end(full);
            assert!(!health.begin(full), "the log has it");
            assert_eq!(health.log_what_is_over(), []);
        }
        health.end(full);
        clock.0.store(59 + 9, Ordering::Relaxed);
        health.end(full);
        assert_eq!(health.log_what_is_over(), [], "not yet");
        clock.0.store(59 + 10, Ordering::Relaxed);
        assert_eq!(health.log_what_is_over(), [full]);
        assert_eq!(health.log_what_is_over(), [], "once");
        assert!(health.begin(full), "a new one");
    }
}
