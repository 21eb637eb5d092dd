//! The step of maintenance that merges in the background: one merge after the other, of one organisation after the
//! other, at a rate, as long as nothing else needs the machine more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use storage_format::manifest::{Manifest, SegmentEntry, SegmentKind};
use storage_format::{FlushNumber, ManifestVersion, Millis, OrgId, Window};

use super::by_hand::windows;
use super::walk::Walker;
use super::{Aim, Claim, Compactor, next_merge};
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::maintain::{Maintenance, Pace, Progress, Stop};
use crate::metrics;
use crate::org::Org;
use crate::planted::{self, PlantedBug};

/// First pause of a window whose merge failed; it doubles up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// Merges objects of all organisations in the background.
pub(crate) struct CompactionStep {
    compactor: Arc<Compactor>,
    walker: Walker,
    bytes_per_second: u64,
    interval: Duration,
    /// Duration for which a window that is over must be left alone before it is merged into few segments.
    settle: Duration,
    memory: Mutex<Memory>,
}

/// For an organisation of which nothing is worth a merge: how long that holds.
#[derive(Debug, Clone, Copy)]
struct Settled {
    version: ManifestVersion,
    month: Window,
    /// Monotonic time at which a window may have been left alone for long enough.
    until: Option<Duration>,
}

/// What is known from earlier calls.
#[derive(Debug, Default)]
struct Memory {
    /// The organisation whose objects were merged last.
    last: Option<OrgId>,
    settled: HashMap<OrgId, Settled>,
    /// For windows that are over and have too many objects of a kind: the last flush in them, and since when it is.
    quiet: HashMap<(OrgId, Window, SegmentKind), (FlushNumber, Duration)>,
    /// For windows whose last merges failed: how many of them, and until when it is not tried again.
    failures: HashMap<(OrgId, Window), (u32, Duration)>,
}

/// What may be merged of an organisation.
enum Found {
    Merge(Claim, Vec<SegmentEntry>),
    /// Nothing now, and nothing before this time unless the manifest changes.
    Nothing(Option<Duration>),
    /// Nothing now; somebody else is at it, or it failed.
    Later,
}

/// The next merge: whose, the right to make it, and of what.
type Chosen = (Arc<Org>, Claim, Vec<SegmentEntry>);

impl CompactionStep {
    pub(crate) fn new(compactor: Arc<Compactor>, config: &EngineConfig) -> Self {
        Self {
            walker: Walker::new(&compactor, config.compaction_interval),
            compactor,
            bytes_per_second: config.compaction_rate_bytes_max,
            interval: config.compaction_interval,
            settle: config.compaction_settle,
            memory: Mutex::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next merge: of the organisation after the last one that has any.
    fn choose(&self) -> Option<Chosen> {
        let clock = &self.compactor.clock;
        let (now, monotonic) = (clock.now(), clock.monotonic());
        let month = Window::month_of(now);
        let mut orgs = self.compactor.orgs.in_order();
        let mut memory = self.memory();
        let first = memory.last.map_or(0, |last| orgs.partition_point(|org| org.id() <= last));
        orgs.rotate_left(first);
        for org in orgs {
            let manifest = Arc::clone(&org.state().manifest);
            let holds = |settled: &Settled| {
                settled.version == manifest.version()
                    && settled.month == month
                    && settled.until.is_none_or(|until| until > monotonic)
            };
            if memory.settled.get(&org.id()).is_some_and(holds) {
                continue;
            }
            match self.choose_of(org.id(), &manifest, &mut memory, (now, monotonic)) {
                Found::Merge(claim, inputs) => {
                    memory.last = Some(org.id());
                    let inputs = if planted::has(PlantedBug::MergeAcross) && manifest.segments().len() > 1 {
                        across(manifest.segments())
                    } else {
                        inputs
                    };
                    return Some((org, claim, inputs));
                }
                Found::Nothing(until) => {
                    memory.settled.insert(org.id(), Settled { version: manifest.version(), month, until });
                }
                Found::Later => {}
            }
        }
        None
    }

    fn choose_of(
        &self,
        org: OrgId,
        manifest: &Manifest,
        memory: &mut Memory,
        (now, monotonic): (Millis, Duration),
    ) -> Found {
        let (mut until, mut later) = (None, false);
        for of_window in windows(manifest) {
            let window = of_window[0].window;
            if memory.failures.get(&(org, window)).is_some_and(|(_, until)| *until > monotonic) {
                later = true;
                continue;
            }
            let settles = self.settles(org, of_window, memory, (now, monotonic));
            let waits = settles.is_some_and(|at| at > monotonic);
            let aim = match settles {
                Some(at) if at <= monotonic => Aim::Few,
                Some(at) => {
                    until = Some(until.map_or(at, |until: Duration| until.min(at)));
                    Aim::Even
                }
                None => Aim::Even,
            };
            let inputs = match waits {
                // It is merged soon, and rollups with it.
                true => next_merge(of_window, aim, self.compactor.limits),
                false => self.compactor.next_work(manifest, of_window, aim, now),
            };
            let Some(inputs) = inputs else { continue };
            match self.compactor.claims.claim(org, window) {
                Some(claim) => return Found::Merge(claim, inputs.to_vec()),
                None => later = true,
            }
        }
        if later { Found::Later } else { Found::Nothing(until) }
    }

    /// Returns the time from which this window may be merged into few segments; `None` if it need not be, or lasts.
    fn settles(
        &self,
        org: OrgId,
        of_window: &[SegmentEntry],
        memory: &mut Memory,
        (now, monotonic): (Millis, Duration),
    ) -> Option<Duration> {
        let (window, kind) = (of_window[0].window, of_window[0].kind);
        let wanted = window.range().end() <= now && next_merge(of_window, Aim::Few, self.compactor.limits).is_some();
        if !wanted {
            memory.quiet.remove(&(org, window, kind));
            return None;
        }
        let last = of_window.iter().map(|entry| entry.flush_last).max().unwrap_or_default();
        let known = memory.quiet.entry((org, window, kind)).or_insert((last, monotonic));
        if known.0 != last {
            *known = (last, monotonic);
        }
        Some(known.1.saturating_add(self.settle))
    }

    fn failed(&self, org: &Org, window: Window, error: &EngineError) {
        org.suspect();
        metrics::compaction_failed(error);
        let now = self.compactor.clock.monotonic();
        let failures = {
            let mut memory = self.memory();
            let (failures, until) = memory.failures.entry((org.id(), window)).or_default();
            *failures = failures.saturating_add(1);
            let doubled = RETRY_MIN.saturating_mul(1 << (*failures - 1).min(16));
            *until = now.saturating_add(doubled.min(RETRY_MAX));
            *failures
        };
        let org = org.id();
        if failures == 1 {
            tracing::warn!(%org, %window, %error, "a window is not merged now; nothing is lost, and it is tried again");
        } else {
            tracing::debug!(%org, %window, failures, %error, "a merge of a window failed again");
        }
    }
}

/// For [`PlantedBug::MergeAcross`]: two segments with another one between them.
fn across(segments: &[SegmentEntry]) -> Vec<SegmentEntry> {
    let apart = segments.windows(3).find(|three| three[0].window == three[2].window && three[2].shares_keys);
    apart.map_or_else(|| segments[..2].to_vec(), |three| vec![three[0].clone(), three[2].clone()])
}

#[async_trait]
impl Maintenance for CompactionStep {
    fn pace(&self) -> Pace {
        Pace { idle: Duration::ZERO, interval: self.interval }
    }

    /// Merges what is worth it, one merge after the other, as long as nothing else needs the machine more.
    async fn run_once(&self, stop: &Stop) -> Result<Progress, EngineError> {
        let traffic = self.compactor.traffic(stop.clone());
        self.walker.go_on(&traffic).await?;
        let mut progress = Progress::Idle;
        while !traffic.is_stopped() && !traffic.is_heavy() {
            let Some((org, claim, inputs)) = self.choose() else { break };
            progress = Progress::Worked;
            let window = inputs[0].window;
            let merged = self.compactor.merge(&org, inputs, &traffic, self.bytes_per_second).await;
            drop(claim);
            match merged {
                Ok(Some(_)) => {
                    self.memory().failures.remove(&(org.id(), window));
                }
                Ok(None) => break,
                Err(error) if error.ends_the_engine() => return Err(error),
                Err(error) => self.failed(&org, window, &error),
            }
        }
        Ok(progress)
    }
}
