//! People and programs beside the fleet: they read and compare with the truth, ask for flushes, fill the disk and set
//! the clock wrong.

use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use kit::Conflict;
use kit::rig::{self, Rows, Unread};
use storage_format::OrgId;

use crate::exec::Group;
use crate::gateway::orgs;
use crate::keeper;
use crate::world::World;

fn failed(error: impl Display) -> Unread {
    Unread::Failed(error.to_string())
}

/// Starts all of them.
pub(crate) fn spawn(world: &Rc<World>, engine: &Arc<Engine>) {
    world.door.spawn(Group::Server, read(Rc::clone(world), Arc::clone(engine)));
    if world.plan.retention_pause_max > 0 {
        world.door.spawn(Group::Server, keeper::keep(Rc::clone(world), Arc::clone(engine)));
    }
    if world.plan.flush_pause_max > 0 {
        world.door.spawn(Group::Server, flush(Rc::clone(world), Arc::clone(engine)));
    }
}

async fn read(world: Rc<World>, engine: Arc<Engine>) {
    let all = orgs(&world.plan.fleet);
    // First everything: this is the look after a recovery.
    for org in &all {
        look(&world, &engine, *org).await;
    }
    loop {
        // A look takes many steps, whether it comes to an end or finds something unreadable: the more there were, the
        // rarer they get. Else looks that fail for as long as a fault lasts would use up the steps of the run.
        let looks = world.looks();
        let pause = (world.below(world.plan.read_pause_max) + 1) * (1 + (looks.looks + looks.unreadable) / 8);
        world.time.sleep(Duration::from_millis(pause)).await;
        let org = all[usize::try_from(world.below(all.len() as u64)).unwrap_or(0)];
        look(&world, &engine, org).await;
    }
}

async fn look(world: &World, engine: &Engine, org: OrgId) {
    match check(world, engine, org).await {
        Ok(rows) => world.looked(rows),
        Err(Unread::Failed(why)) => world.unreadable(org, &why),
        Err(Unread::Wrong(what)) => world.violate(what),
    }
}

async fn flush(world: Rc<World>, engine: Arc<Engine>) {
    let all = orgs(&world.plan.fleet);
    loop {
        world.time.sleep(Duration::from_millis(world.below(world.plan.flush_pause_max) + 1)).await;
        let org = (world.below(2) == 0).then(|| all[usize::try_from(world.below(all.len() as u64)).unwrap_or(0)]);
        match engine.flush(org).await {
            Ok(report) => world.trace(format_args!("asked flush: {} readings", report.readings)),
            Err(error) => world.trace(format_args!("asked flush: {error}")),
        }
    }
}

/// A look: at the last readings, at rollups, or at all.
async fn check(world: &World, engine: &Engine, org: OrgId) -> Result<u64, Unread> {
    match world.below(6) {
        0 | 1 => check_last(world, engine, org).await,
        2 => check_rollups(world, engine, org).await,
        _ => {
            // Some read what they have taken only after a while, in which segments are replaced and others collected.
            let slow = if world.below(3) == 0 { world.below(5_000) } else { 0 };
            check_rows_after(world, engine, org, Duration::from_millis(slow)).await
        }
    }
}

/// Compares all rollups of now with the rows of their segments, which other looks compare with the truth; answers how
/// many there were.
///
/// # Errors
/// [`Unread`].
async fn check_rollups(world: &World, engine: &Engine, org: OrgId) -> Result<u64, Unread> {
    let snapshot = match engine.snapshot(org).await {
        Ok(snapshot) => snapshot,
        // What that means, the look at all readings says.
        Err(error) if error.kind() == engine::EngineErrorKind::Invalid => return Ok(0),
        Err(error) => return Err(failed(error)),
    };
    let rollups = rig::check_rollups(engine, org, &snapshot.manifest).await?;
    world.count(|looks| looks.rollups += rollups);
    Ok(rollups)
}

/// Compares the last readings of now with the truth of now; answers how many there were.
///
/// # Errors
/// [`Unread`].
async fn check_last(world: &World, engine: &Engine, org: OrgId) -> Result<u64, Unread> {
    let snapshot = match engine.snapshot(org).await {
        Ok(snapshot) => snapshot,
        // What that means, the look at all readings says.
        Err(error) if error.kind() == engine::EngineErrorKind::Invalid => return Ok(0),
        Err(error) => return Err(failed(error)),
    };
    // In the same breath, as below.
    let truth = at_once(world, org);
    let truth = keeper::truth(world, engine, org, &snapshot.manifest, truth).await?.0.last();
    let found = rig::last_readings(engine, &snapshot).await?;
    compare("LAST READINGS", org, &found, &truth)?;
    Ok(found.len() as u64)
}

/// Compares a snapshot of now with the truth of now; answers how many readings there were.
///
/// # Errors
/// [`Unread`].
pub(crate) async fn check_rows(world: &World, engine: &Engine, org: OrgId) -> Result<u64, Unread> {
    check_rows_after(world, engine, org, Duration::ZERO).await
}

/// The same, but what was taken is read so much later.
async fn check_rows_after(world: &World, engine: &Engine, org: OrgId, slow: Duration) -> Result<u64, Unread> {
    let snapshot = match engine.snapshot(org).await {
        Ok(snapshot) => snapshot,
        // Nobody has sent anything for it yet.
        Err(error) if error.kind() == engine::EngineErrorKind::Invalid => {
            return if world.oracle().holdings(org).rows.is_empty() { Ok(0) } else { Err(failed(error)) };
        }
        Err(error) => return Err(failed(error)),
    };
    // In the same breath, so that both are of one instant.
    let truth = at_once(world, org);
    let (truth, _) = keeper::truth(world, engine, org, &snapshot.manifest, truth).await?;
    world.time.sleep(slow).await;
    let found = rig::rows(engine, &snapshot).await?;
    compare("READINGS", org, &found, &truth.rows)?;
    Ok(found.len() as u64)
}

/// What is visible now, and up to which LSN.
fn at_once(world: &World, org: OrgId) -> (u64, kit::FirstWins) {
    let oracle = world.oracle();
    (oracle.applied(), oracle.holdings(org))
}

fn compare(what: &str, org: OrgId, found: &Rows, truth: &Rows) -> Result<(), Unread> {
    if found == truth {
        return Ok(());
    }
    let missing = truth.iter().find(|(key, row)| found.get(key) != Some(row));
    let strange = found.iter().find(|(key, _)| !truth.contains_key(key));
    let told = match (missing, strange) {
        (Some((key, row)), _) => format!("{key:?} is {:?}, and should be {row:?}", found.get(key)),
        (None, Some((key, row))) => format!("{key:?} is {row:?}, which nobody has sent"),
        (None, None) => "they differ".to_owned(),
    };
    Err(Unread::Wrong(format!("WRONG {what} of org {org}: {} found, {} true; {told}", found.len(), truth.len())))
}

/// Flushes everything and compares all there is with the truth: readings, counts, conflicts, objects.
///
/// # Errors
/// [`Unread`]; nothing goes wrong any more at this time, so all of them are violations.
pub(crate) async fn check_everything(world: &World, engine: &Engine) -> Result<(), Unread> {
    world.trace(format_args!("everything is flushed, to be compared"));
    let mut tries = 0;
    while let Err(error) = engine.flush(None).await {
        tries += 1;
        if tries == 20 {
            return Err(failed(error));
        }
        world.time.sleep(Duration::from_secs(3)).await;
    }
    let status = engine.status();
    if status.lsn_first_unflushed.get() != status.lsn_applied.get() + 1 {
        let what = format!("everything is flushed, and the WAL is kept from LSN {}", status.lsn_first_unflushed);
        return Err(Unread::Wrong(what));
    }
    let files = world.wal_files();
    if files > 2 {
        return Err(Unread::Wrong(format!("everything is flushed, and there are {files} WAL files")));
    }
    for org in orgs(&world.plan.fleet) {
        world.trace(format_args!("org {org} is compared"));
        let rows = check_rows(world, engine, org).await?;
        check_last(world, engine, org).await?;
        world.looked(rows);
        let Ok(snapshot) = engine.snapshot(org).await else { continue };
        let truth = at_once(world, org);
        let (truth, dropped_conflicts) = keeper::truth(world, engine, org, &snapshot.manifest, truth).await?;
        let totals = snapshot.manifest.totals();
        let conflicts = rig::conflicts(engine, &snapshot).await?;
        let (listed, true_keys) = (Conflict::keys(&conflicts), truth.conflict_keys());
        let checks = [
            ("readings", totals.readings, truth.rows.len() as u64 + truth.dropped),
            ("dropped readings", totals.dropped, truth.dropped),
            ("filled samples", totals.filled, truth.filled),
            ("repeated samples", totals.duplicates + totals.conflicts, truth.repeated()),
            ("kept conflicts", totals.conflicts, conflicts.len() as u64 + dropped_conflicts),
            ("rows in buffers", snapshot.buffered_rows() as u64, 0),
        ];
        for (what, found, true_count) in checks {
            if found != true_count {
                return Err(Unread::Wrong(format!("WRONG COUNT of org {org}: {found} {what}, true are {true_count}")));
            }
        }
        if listed != true_keys {
            let strange: Vec<_> = listed.symmetric_difference(&true_keys).take(3).collect();
            return Err(Unread::Wrong(format!("WRONG CONFLICTS of org {org}: {strange:?}")));
        }
        world.trace(format_args!("the objects of org {org} are compared"));
        world.objects(org, &snapshot).await?;
        check_rollups(world, engine, org).await?;
    }
    Ok(())
}

/// Waits until the store has no object that no manifest names.
///
/// # Errors
/// [`Unread`], as [`check_everything`].
pub(crate) async fn no_orphans(world: &World, engine: &Engine) -> Result<(), Unread> {
    for org in orgs(&world.plan.fleet) {
        loop {
            let snapshot = match engine.snapshot(org).await {
                Ok(snapshot) => snapshot,
                // One that nobody ever sent for has none.
                Err(error) if error.kind() == engine::EngineErrorKind::Invalid => break,
                Err(error) => return Err(failed(error)),
            };
            if world.objects(org, &snapshot).await? == 0 {
                break;
            }
            world.time.sleep(Duration::from_secs(1)).await;
        }
    }
    Ok(())
}
