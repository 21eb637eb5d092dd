//! When frames are due, fixed before the run and independent of every answer: an open loop. A connection's frames are
//! evenly spaced, as those of real gateways are, and each connection begins at a random point of its period, so that
//! all together arrive nearly as a Poisson process does.
//!
//! A thread of its own wakes the connections, because timers of the runtime are a millisecond coarse.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Sleeps are not shorter than this: what falls due meanwhile is woken together, so that a high rate does not cost a
/// system call for each frame.
const NAP_MIN: Duration = Duration::from_micros(100);
/// A sleep ends late by about so much; where frames are rare, this much before the time the thread spins instead.
const SLEEP_LATE: Duration = Duration::from_micros(120);
/// From this time between two frames of all connections on, spinning costs next to nothing.
const RARE: Duration = Duration::from_millis(5);
/// How often it is looked whether all is over.
const LOOK: Duration = Duration::from_millis(100);

/// One connection's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    phase: Duration,
    period: Duration,
}

impl Schedule {
    /// One schedule for each of so many connections: together so many frames a second.
    ///
    /// Phases are random within their own slot of the period, drawn from a seed: neither all at once, nor in step.
    #[must_use]
    pub(super) fn spread(connections: u32, frames_per_second: f64) -> Vec<Self> {
        let between = Duration::from_secs_f64((1.0 / frames_per_second).min(1e9));
        let period = between.saturating_mul(connections);
        let mut dice = fastdice(u64::from(connections));
        (0..connections).map(|_| Self { phase: period.mul_f64(dice()), period }).collect()
    }

    /// When frame `number`, from 0, is due, after the start.
    #[must_use]
    pub(super) fn at(&self, number: u64) -> Duration {
        // Nanoseconds in 128 bits: no rounding adds up, and nothing overflows.
        let nanos = self.phase.as_nanos() + self.period.as_nanos() * u128::from(number);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Evenly in 0..1 (SplitMix64), the same for the same seed.
fn fastdice(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let high = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Who is woken when a frame of a schedule is due.
#[derive(Debug, Clone)]
pub(super) struct Sleeper {
    /// When.
    pub schedule: Schedule,
    /// Who.
    pub bell: Arc<Notify>,
}

/// Wakes everybody at their times until `over`. Blocks.
pub(super) fn wake(mut sleepers: Vec<Sleeper>, start: Instant, over: &AtomicBool) {
    let Some(period) = sleepers.first().map(|sleeper| sleeper.schedule.period) else { return };
    // All have the same period, so their order is the same in every one.
    sleepers.sort_by_key(|sleeper| sleeper.schedule.phase);
    let rare = period >= RARE.saturating_mul(u32::try_from(sleepers.len()).unwrap_or(u32::MAX));
    for number in 0.. {
        for sleeper in &sleepers {
            let due = start + sleeper.schedule.at(number);
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                if !rare {
                    std::thread::sleep(left.clamp(NAP_MIN, LOOK));
                } else if left > SLEEP_LATE {
                    std::thread::sleep((left - SLEEP_LATE).min(LOOK));
                } else {
                    std::hint::spin_loop();
                }
            }
            sleeper.bell.notify_one();
        }
        if over.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_evenly_spaced_and_connections_are_not_in_step() {
        let schedules = Schedule::spread(50, 1_000.0);
        let period = Duration::from_millis(50);
        for schedule in &schedules {
            assert!(schedule.at(0) < period);
            assert_eq!(schedule.at(1) - schedule.at(0), period);
            assert_eq!(schedule.at(1_000_000) - schedule.at(0), period * 1_000_000);
        }
        let distinct: std::collections::HashSet<_> = schedules.iter().map(|schedule| schedule.phase).collect();
        assert_eq!(distinct.len(), 50);
        let early = schedules.iter().filter(|schedule| schedule.phase < period / 2).count();
        assert!((10..=40).contains(&early), "{early} of 50 in the first half");
        assert_eq!(schedules, Schedule::spread(50, 1_000.0), "the same in every run");
    }

    #[test]
    fn as_many_fall_due_as_the_rate_says() {
        let second = Duration::from_secs(10);
        let due: u64 = Schedule::spread(7, 333.0)
            .iter()
            .map(|schedule| (0..).take_while(|number| schedule.at(*number) < second).count() as u64)
            .sum();
        assert!((3_320..=3_340).contains(&due), "{due}");
    }

    #[test]
    fn nobody_is_woken_early_and_everybody_is_woken() {
        let sleepers: Vec<_> = Schedule::spread(3, 300.0)
            .into_iter()
            .map(|schedule| Sleeper { schedule, bell: Arc::new(Notify::new()) })
            .collect();
        let (start, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let waking = {
            let (sleepers, over) = (sleepers.clone(), Arc::clone(&over));
            std::thread::spawn(move || wake(sleepers, start, &over))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for number in 0..3 {
            for sleeper in &sleepers {
                runtime.block_on(sleeper.bell.notified());
                assert!(start.elapsed() >= sleeper.schedule.at(number).min(sleeper.schedule.at(0)));
            }
        }
        over.store(true, Ordering::Relaxed);
        waking.join().expect("it ends");
    }
}
