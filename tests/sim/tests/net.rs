//! The net that everything else is built in: some seeds on every run of the tests, and the proof that it catches.
//!
//! `make sim SEEDS=N` runs more; `SIM_SEEDS` sets how many run here.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Figures, PlantedBug, run_seed, shrink};

/// Seeds of an ordinary test run: the same ones, so that a red run is about the change and not about luck. Fresh ones
/// are what `make sim` is for.
const SEEDS: u64 = 400;
/// So many seeds find any planted defect.
const SEEDS_TO_FIND: u64 = 300;

/// Runs something for each number, on two threads.
fn for_each(numbers: std::ops::Range<u64>, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(numbers.start);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_read_is_wrong() {
    let seeds = std::env::var("SIM_SEEDS").ok().map_or(SEEDS, |text| text.parse().expect("SIM_SEEDS is a number"));
    let figures = Mutex::new(Figures::default());
    for_each(0..seeds, |seed| {
        let outcome = run_seed(seed, None);
        if !outcome.violations.is_empty() {
            let (plan, smaller) = shrink(&sim::Plan::draw(seed), None);
            panic!(
                "seed {seed}: {:#?}\nagain: make sim SEED={seed}\nthe smallest run that fails, too:\n{plan}\n{}",
                outcome.violations,
                smaller.trace.join("\n")
            );
        }
        figures.lock().expect("no run panicked").add(&outcome.figures);
    });
    let figures = figures.into_inner().expect("no run panicked");
    println!("{figures}");
    assert!(figures.oracle.acknowledged_readings > seeds * 100, "the runs send something");
    assert!(figures.looks.merged > seeds, "segments are merged");
    assert!(figures.looks.dropped > seeds, "readings are dropped");
    assert!(figures.looks.rollups > seeds, "rollups are made and compared");
    let missed: Vec<_> = figures.kinds().iter().filter(|(_, count)| *count == 0).map(|(kind, _)| *kind).collect();
    assert!(missed.is_empty() || seeds < SEEDS, "kinds of fault that were never reached: {missed:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for_each(1000..1024, |seed| {
        let (first, again) = (run_seed(seed, None), run_seed(seed, None));
        assert_eq!(first.trace, again.trace, "seed {seed}");
        assert_eq!(first.trace_hash, again.trace_hash, "seed {seed}");
        assert_eq!(first.figures, again.figures, "seed {seed}");
        let other = run_seed(seed + 1_000_000, None);
        assert_ne!(first.trace_hash, other.trace_hash, "another seed, another trace");
    });
}

#[test]
fn every_planted_defect_is_found() {
    for_each(0..PlantedBug::ALL.len() as u64, |number| {
        let bug = PlantedBug::ALL[usize::try_from(number).expect("small")];
        let found = (0..SEEDS_TO_FIND).find(|seed| !run_seed(*seed, Some(bug)).violations.is_empty());
        let seed = found.unwrap_or_else(|| panic!("{bug:?} is not found by {SEEDS_TO_FIND} seeds"));
        println!("{bug:?}: found by seed {seed}");
    });
}
