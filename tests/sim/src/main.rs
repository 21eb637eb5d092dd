//! `make sim` and `make soak`: many seeds, or one, with figures and a last line that says how many passed.
#![allow(clippy::print_stdout, reason = "a program for people at a terminal")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use sim::{Draw, Figures, Plan, PlantedBug};

/// Failing seeds that are made smaller and shown; more are only counted.
const SHOWN_MAX: u64 = 5;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(10);

/// Runs simulated fleets against the engine, with everything going wrong that can, and checks that nothing
/// acknowledged is ever lost or wrong.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Args {
    /// Runs this one seed and shows its trace.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Runs seeds until so many minutes have passed.
    #[arg(long, conflicts_with = "seeds")]
    minutes: Option<u64>,
    /// The first seed; fresh ones by default.
    #[arg(long)]
    from: Option<u64>,
    /// Runs at the same time; as many as there are cores by default.
    #[arg(long)]
    jobs: Option<usize>,
    /// Gives the engine a defect that must be found (a number from 0): for those who doubt the simulation.
    #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(..PlantedBug::ALL.len() as u64))]
    planted: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.seed.is_none() {
        // A panic is a violation like any other: it is told with its seed.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let bug = args.planted.map(|number| PlantedBug::ALL[number]);
    if let Some(bug) = bug {
        println!("planted: {bug:?}");
    }
    match args.seed {
        Some(seed) => one(seed, bug),
        None => many(&args, bug),
    }
}

fn one(seed: u64, bug: Option<PlantedBug>) -> ExitCode {
    let plan = Plan::draw(seed);
    println!("{plan}");
    let outcome = sim::run(&plan, &Draw::from_seed(seed), bug, true);
    println!("{}", outcome.figures);
    if outcome.violations.is_empty() {
        println!("1 passed, 0 failed");
        return ExitCode::SUCCESS;
    }
    for violation in &outcome.violations {
        println!("VIOLATION: {violation}");
    }
    show_smaller(&plan, bug);
    println!("0 passed, 1 failed");
    ExitCode::FAILURE
}

fn show_smaller(plan: &Plan, bug: Option<PlantedBug>) {
    let (plan, outcome) = sim::shrink(plan, bug);
    println!("the smallest run found that fails, too:\n{plan}");
    for line in &outcome.trace {
        println!("  {line}");
    }
}

fn many(args: &Args, bug: Option<PlantedBug>) -> ExitCode {
    let first = args.from.unwrap_or_else(|| fastrand::u64(..) >> 20);
    let last = args.minutes.map_or(first.saturating_add(args.seeds), |_| u64::MAX);
    let start = Instant::now();
    let end = args.minutes.map(|minutes| start + Duration::from_secs(minutes * 60));
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    println!("seeds from {first}, {jobs} at a time");
    let next = AtomicU64::new(first);
    let failed = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let figures = Mutex::new(Figures::default());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= last || end.is_some_and(|end| Instant::now() >= end) {
                            return;
                        }
                        let outcome = sim::run_seed(seed, bug);
                        figures.lock().unwrap_or_else(PoisonError::into_inner).add(&outcome.figures);
                        if !outcome.violations.is_empty() {
                            let before = failed.fetch_add(1, Ordering::Relaxed);
                            println!("FAILED seed {seed}: {}", outcome.violations[0]);
                            println!("  again: make sim SEED={seed}");
                            if before < SHOWN_MAX {
                                show_smaller(&Plan::draw(seed), bug);
                            }
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut told = start;
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
                if told.elapsed() >= PROGRESS {
                    told = Instant::now();
                    let figures = *figures.lock().unwrap_or_else(PoisonError::into_inner);
                    let seconds = start.elapsed().as_secs_f64();
                    println!(
                        "{seconds:>8.0} s  {} seeds, {:.1} a second, {} failed, {} of {} kinds of fault reached",
                        figures.runs,
                        figures.runs as f64 / seconds,
                        failed.load(Ordering::Relaxed),
                        figures.kinds().iter().filter(|(_, count)| *count > 0).count(),
                        figures.kinds().len(),
                    );
                }
            }
        });
        for worker in workers {
            // A panic in a worker was told where it happened; the scope tells it again.
            if worker.join().is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let figures = *figures.lock().unwrap_or_else(PoisonError::into_inner);
    let failed = failed.load(Ordering::Relaxed);
    println!("{figures}");
    println!("{:.1} seeds a second", figures.runs as f64 / start.elapsed().as_secs_f64());
    println!("{} passed, {failed} failed", figures.runs.saturating_sub(failed));
    if failed == 0 && figures.runs > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
