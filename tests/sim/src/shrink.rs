//! Making a failing run smaller: one part of the plan after the other is taken away, and stays away if the run still
//! fails.

use engine::{FaultRates, PlantedBug};

use crate::draw::Draw;
use crate::plan::{NetworkFaults, Plan, StoreFaults};
use crate::run::{Outcome, run};

/// One way to make a plan smaller; `false` when there is nothing to take away.
type Cut = fn(&mut Plan) -> bool;

fn set<T: PartialEq>(value: &mut T, to: T) -> bool {
    let changed = *value != to;
    *value = to;
    changed
}

fn to(value: &mut u64, smaller: fn(u64) -> u64) -> bool {
    let new = smaller(*value);
    set(value, new)
}

const CUTS: &[Cut] = &[
    |p| set(&mut p.network, NetworkFaults::default()),
    |p| set(&mut p.store_faults, StoreFaults::default()),
    |p| set(&mut p.file_faults, FaultRates::default()),
    |p| set(&mut p.disk_space, None),
    |p| set(&mut p.lies, false),
    |p| set(&mut p.damage, 0),
    |p| set(&mut p.file_faults.misdirected_write, 0),
    |p| set(&mut p.clock_jumps, 0),
    |p| set(&mut p.flush_pause_max, 0),
    |p| set(&mut p.retention_pause_max, 0),
    |p| set(&mut p.fleet.forgets, 0),
    |p| set(&mut p.fleet.orgs, 1),
    |p| set(&mut p.fleet.gateways, 1),
    |p| set(&mut p.fleet.loggers, 1),
    |p| set(&mut p.fleet.channels, 1),
    |p| set(&mut p.fleet.readings_max, 1),
    |p| set(&mut p.fleet.other_value, 0),
    |p| to(&mut p.crashes.count, |count| count / 2),
    |p| to(&mut p.crashes.count, |count| count.saturating_sub(1)),
    |p| set(&mut p.crashes.power_cuts, 0),
    |p| to(&mut p.fleet.frames, |frames| (frames / 2).max(1)),
    |p| to(&mut p.fleet.frames, |frames| (frames - 1).max(1)),
    |p| set(&mut p.config.flush_concurrency, 1),
    |p| set(&mut p.network.break_rate, 0),
    |p| set(&mut p.network.delay_max, 0),
    |p| set(&mut p.network.fragment, 0),
    |p| set(&mut p.network.twice, 0),
    |p| set(&mut p.network.arrives_late, 0),
    |p| set(&mut p.store_faults.delay_max, 0),
    |p| set(&mut p.store_faults.refuse, 0),
    |p| set(&mut p.store_faults.throttle, 0),
    |p| set(&mut p.store_faults.applied_but_error, 0),
    |p| set(&mut p.store_faults.applied_late, 0),
    |p| set(&mut p.store_faults.list_lag_max, 0),
    |p| set(&mut p.store_faults.read_rot, 0),
    |p| set(&mut p.file_faults.write_error, 0),
    |p| set(&mut p.file_faults.torn_write, 0),
    |p| set(&mut p.file_faults.sync_error, 0),
    |p| set(&mut p.file_faults.dir_sync_error, 0),
    |p| set(&mut p.file_faults.read_error, 0),
    |p| set(&mut p.file_faults.read_rot, 0),
    |p| set(&mut p.file_faults.name_error, 0),
    |p| set(&mut p.file_faults.open_error, 0),
];

/// Runs tried at most.
const TRIES_MAX: usize = 60;

/// The smallest plan found that fails as this one does, and what came of it.
#[must_use]
pub fn shrink(plan: &Plan, bug: Option<PlantedBug>) -> (Plan, Outcome) {
    let choices = Draw::from_seed(plan.seed);
    let mut smallest = plan.clone();
    let mut outcome = run(&smallest, &choices, bug, false);
    let mut tries = 0;
    let mut smaller = !outcome.violations.is_empty();
    while smaller {
        smaller = false;
        for cut in CUTS {
            let mut tried = smallest.clone();
            if tries == TRIES_MAX || !cut(&mut tried) {
                continue;
            }
            tries += 1;
            let came = run(&tried, &choices, bug, false);
            if !came.violations.is_empty() {
                (smallest, outcome, smaller) = (tried, came, true);
            }
        }
    }
    (smallest, outcome)
}
