//! Retention beside everything else: what is asked for, the record of it, and what it means for the truth.
//!
//! The record stands for the control database: whatever is in it stays. It fails now and then, and takes its time, so that
//! the process dies before, in between and after. What a recorded drop came to is not believed: the version that it names
//! is read from the store. Readings that go without a record, or earlier than was asked for, are violations.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use engine::{
    DropLog, DropOutcome, DropPlan, Engine, EngineError, EngineErrorKind, FaultyFiles, ManifestError, OpenDrop,
};
use kit::FirstWins;
use kit::rig::Unread;
use storage_format::manifest::{Manifest, SegmentKind};
use storage_format::{FlushNumber, ManifestVersion, Millis, OrgId, SegmentId, Window};

use crate::draw::Draw;
use crate::exec::Time;
use crate::gateway::orgs;
use crate::world::World;

/// Time for which readings are kept, in months: with some of these a window that has readings ends just after the cutoff.
const KEEPS: [u32; 4] = [24, 30, 45, 60];

/// A drop that was recorded.
#[derive(Debug, Clone)]
struct Recorded {
    org: OrgId,
    version: ManifestVersion,
    /// Records up to here were in segments when it was decided.
    lsn_covered: u64,
    windows: Vec<(Window, FlushNumber)>,
    ids: BTreeSet<SegmentId>,
    /// Rows of the conflicts objects that went.
    conflicts: u64,
    /// Outcome as the engine tells it.
    told: Option<DropOutcome>,
    /// Outcome as the store has it.
    happened: Option<bool>,
}

/// All recorded drops.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    recorded: Vec<Recorded>,
    violations: Vec<String>,
}

pub(crate) type SharedDrops = Arc<Mutex<Drops>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The record, as one process sees it.
struct Record {
    drops: SharedDrops,
    engine: Arc<Engine>,
    files: FaultyFiles,
    time: Arc<Time>,
    draw: Mutex<Draw>,
    /// Parts per thousand of calls that fail.
    fails: u32,
    cutoff: Millis,
}

impl Record {
    /// Takes its time, and fails now and then. A process that is dead records nothing.
    async fn work(&self) -> Result<(), EngineError> {
        let (pause, fails) = {
            let mut draw = locked(&self.draw);
            (draw.spread(10, 50_000), draw.chance(self.fails))
        };
        self.time.sleep(Duration::from_micros(pause)).await;
        if self.files.is_crashed() {
            return std::future::pending().await;
        }
        if fails {
            return Err(EngineError::new(EngineErrorKind::Retry, "the record takes nothing", "Try again"));
        }
        Ok(())
    }
}

#[async_trait]
impl DropLog for Record {
    async fn begin(&self, plan: &DropPlan) -> Result<i64, EngineError> {
        self.work().await?;
        // The turn is held: this is the manifest that was decided by.
        let manifest = self.engine.snapshot(plan.org).await?.manifest;
        let id = {
            let mut drops = locked(&self.drops);
            for gone in plan.windows.iter().filter(|gone| gone.window.range().end() > self.cutoff) {
                let what = format!("DROPPED EARLY: window {} of org {}, cutoff {}", gone.window, plan.org, self.cutoff);
                drops.violations.push(what);
            }
            let objects = || plan.windows.iter().flat_map(|gone| &gone.objects);
            drops.recorded.push(Recorded {
                org: plan.org,
                version: plan.version,
                lsn_covered: manifest.lsn_covered().get(),
                windows: plan.windows.iter().map(|gone| (gone.window, gone.flush_last)).collect(),
                ids: objects().map(|entry| entry.id).collect(),
                conflicts: objects().filter(|entry| entry.kind == SegmentKind::Conflicts).map(|entry| entry.rows).sum(),
                told: None,
                happened: None,
            });
            drops.recorded.len() as i64 - 1
        };
        // What is recorded is so, also if the process does not hear of it any more.
        self.work().await.map(|()| id)
    }

    async fn end(&self, id: i64, outcome: DropOutcome) -> Result<(), EngineError> {
        self.work().await?;
        if let Ok(id) = usize::try_from(id) {
            locked(&self.drops).recorded[id].told = Some(outcome);
        }
        self.work().await
    }

    async fn open(&self, org: OrgId) -> Result<Vec<OpenDrop>, EngineError> {
        self.work().await?;
        let drops = locked(&self.drops);
        let open = (0..).zip(&drops.recorded).filter(|(_, drop)| drop.org == org && drop.told.is_none());
        Ok(open.map(|(id, drop)| OpenDrop { id, version: drop.version, windows: drop.windows.clone() }).collect())
    }
}

fn record(world: &World, engine: &Arc<Engine>, fails: u32, cutoff: Millis) -> Record {
    Record {
        drops: Arc::clone(&world.drops),
        engine: Arc::clone(engine),
        files: world.files.clone(),
        time: Arc::clone(&world.time),
        draw: Mutex::new(Draw::from_seed(world.below(u64::MAX))),
        fails,
        cutoff,
    }
}

/// Drops what was kept long enough, again and again.
pub(crate) async fn keep(world: Rc<World>, engine: Arc<Engine>) {
    let all = orgs(&world.plan.fleet);
    loop {
        world.time.sleep(Duration::from_millis(world.below(world.plan.retention_pause_max) + 1)).await;
        let org = all[usize::try_from(world.below(all.len() as u64)).unwrap_or(0)];
        let months = KEEPS[usize::try_from(world.below(KEEPS.len() as u64)).unwrap_or(0)];
        let cutoff = engine::Clock::now(&*world.clock).months_before(months);
        let record = record(&world, &engine, if world.is_healed() { 0 } else { 250 }, cutoff);
        match engine.drop_older(org, cutoff, &record).await {
            Ok(report) => {
                let readings: u64 = report.plans.iter().map(DropPlan::readings).sum();
                world.trace(format_args!("retention of org {org}: {readings} readings dropped"));
                world.dropped(readings);
            }
            Err(error) => world.trace(format_args!("retention of org {org}: {error}")),
        }
    }
}

/// The truth at the instant of a manifest: what was visible up to an LSN, without what drops have taken by then.
///
/// # Errors
/// [`Unread`], when the store does not tell what a drop came to.
pub(crate) async fn truth(
    world: &World,
    engine: &Engine,
    org: OrgId,
    manifest: &Manifest,
    (applied, plain): (u64, FirstWins),
) -> Result<(FirstWins, u64), Unread> {
    let early: Vec<String> = std::mem::take(&mut locked(&world.drops).violations);
    early.into_iter().for_each(|what| world.violate(what));
    let due: Vec<usize> = {
        let drops = locked(&world.drops);
        let due = drops.recorded.iter().enumerate();
        due.filter(|(_, drop)| drop.org == org && drop.version <= manifest.version()).map(|(index, _)| index).collect()
    };
    for index in &due {
        let (version, known) = {
            let drop = &locked(&world.drops).recorded[*index];
            (drop.version, drop.happened)
        };
        if known.is_none() {
            let read = engine.manifests().read(org, version).await;
            let mut drops = locked(&world.drops);
            let drop = &mut drops.recorded[*index];
            drop.happened = Some(match read {
                Ok(object) => {
                    let removed: BTreeSet<SegmentId> = object.delta().removed.iter().copied().collect();
                    !drop.ids.is_empty() && drop.ids == removed
                }
                // Collected: then a newer manifest tells.
                Err(ManifestError::Missing { .. }) => {
                    let stays = |window: &Window, last: &FlushNumber| {
                        manifest.objects().any(|entry| entry.window == *window && entry.flush_first <= *last)
                    };
                    !drop.ids.is_empty() && !drop.windows.iter().any(|(window, last)| stays(window, last))
                }
                Err(error) => return Err(Unread::Failed(error.to_string())),
            });
        }
    }
    let drops = locked(&world.drops);
    let mut happened: Vec<&Recorded> =
        due.iter().map(|index| &drops.recorded[*index]).filter(|drop| drop.happened == Some(true)).collect();
    // Of two that name one version, and the same objects, one took place: which, nobody needs to know.
    happened.sort_by_key(|drop| drop.version);
    happened.dedup_by_key(|drop| drop.version);
    if happened.is_empty() {
        return Ok((plain, 0));
    }
    let conflicts = happened.iter().map(|drop| drop.conflicts).sum();
    let steps: Vec<(u64, Vec<Window>)> = happened
        .iter()
        .map(|drop| (drop.lsn_covered, drop.windows.iter().map(|(window, _)| *window).collect()))
        .collect();
    Ok((world.oracle().holdings_after(org, applied, &steps), conflicts))
}

/// At the end, without faults: whatever was recorded has an end, and the one that it had.
///
/// # Errors
/// [`Unread`]; nothing goes wrong any more at this time, so all of them are violations.
pub(crate) async fn all_settled(world: &World, _: &Engine) -> Result<(), Unread> {
    let Some(engine) = &world.engine() else { return Ok(()) };
    for org in orgs(&world.plan.fleet) {
        if !locked(&world.drops).recorded.iter().any(|drop| drop.org == org) {
            continue;
        }
        let failed = |error: EngineError| Unread::Failed(error.to_string());
        engine.drop_older(org, Millis::MIN, &record(world, engine, 0, Millis::MIN)).await.map_err(failed)?;
        let manifest = engine.snapshot(org).await.map_err(failed)?.manifest;
        truth(world, engine, org, &manifest, (0, FirstWins::default())).await?;
        for drop in locked(&world.drops).recorded.iter().filter(|drop| drop.org == org) {
            let told = drop.told.map(|outcome| outcome == DropOutcome::Dropped);
            if told.is_none() || told != drop.happened {
                return Err(Unread::Wrong(format!(
                    "WRONG RECORD of org {org}: the drop of version {} is told as {:?}, and happened: {:?}",
                    drop.version, drop.told, drop.happened
                )));
            }
        }
    }
    Ok(())
}
