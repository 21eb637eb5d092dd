//! Times at which frames are due, fixed before the run and independent of all responses: an open loop. A connection's
//! frames are evenly spaced, as those of real gateways are, and each connection starts at a random point of its period,
//! so that all frames together arrive almost as a Poisson process.
//!
//! A separate thread wakes the connections, because the runtime's timers have a resolution of a millisecond.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Shortest sleep. Frames that become due during it are woken together, so that a high rate does not need a system call
/// for each frame.
const SLEEP_MIN: Duration = Duration::from_micros(100);
/// Typical delay of the end of a sleep. Where frames are rare, the thread spins for this time instead.
const SLEEP_DELAY: Duration = Duration::from_micros(120);
/// Time between two frames of all connections from which frames are rare, so that spinning costs almost nothing.
const RARE_INTERVAL: Duration = Duration::from_millis(5);
/// Interval of the checks whether the run is over.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// Schedule of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    phase: Duration,
    period: Duration,
}

impl Schedule {
    /// Creates a schedule for each connection, with `frames_per_second` for all together.
    ///
    /// Phases are random within the period, from a seed, so that connections are neither simultaneous nor in step.
    #[must_use]
    pub(super) fn spread(connections: u32, frames_per_second: f64) -> Vec<Self> {
        let interval = Duration::from_secs_f64((1.0 / frames_per_second).min(1e9));
        let period = interval.saturating_mul(connections);
        let mut random = random_fractions(u64::from(connections));
        (0..connections).map(|_| Self { phase: period.mul_f64(random()), period }).collect()
    }

    /// Returns when frame `number`, counted from 0, is due after the start.
    #[must_use]
    pub(super) fn due(&self, number: u64) -> Duration {
        // Nanoseconds in 128 bits, so that no rounding errors add up and nothing overflows.
        let nanos = self.phase.as_nanos() + self.period.as_nanos() * u128::from(number);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Returns a generator of uniform numbers in 0..1 (SplitMix64) with this seed.
fn random_fractions(seed: u64) -> impl FnMut() -> f64 {
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

/// Notification of a connection when a frame of its schedule is due.
#[derive(Debug, Clone)]
pub(super) struct Wakeup {
    /// Times of the notifications.
    pub schedule: Schedule,
    /// Notified at each of these times.
    pub frame_due: Arc<Notify>,
}

/// Sends notifications at their times until `over` is set. Blocks.
pub(super) fn send_wakeups(mut wakeups: Vec<Wakeup>, start: Instant, over: &AtomicBool) {
    let Some(period) = wakeups.first().map(|wakeup| wakeup.schedule.period) else { return };
    // All have the same period, so their order is the same in every period.
    wakeups.sort_by_key(|wakeup| wakeup.schedule.phase);
    let rare = period >= RARE_INTERVAL.saturating_mul(u32::try_from(wakeups.len()).unwrap_or(u32::MAX));
    for number in 0.. {
        for wakeup in &wakeups {
            let due = start + wakeup.schedule.due(number);
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                if !rare {
                    std::thread::sleep(left.clamp(SLEEP_MIN, STOP_INTERVAL));
                } else if left > SLEEP_DELAY {
                    std::thread::sleep((left - SLEEP_DELAY).min(STOP_INTERVAL));
                } else {
                    std::hint::spin_loop();
                }
            }
            wakeup.frame_due.notify_one();
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
            assert!(schedule.due(0) < period);
            assert_eq!(schedule.due(1) - schedule.due(0), period);
            assert_eq!(schedule.due(1_000_000) - schedule.due(0), period * 1_000_000);
        }
        let distinct: std::collections::HashSet<_> = schedules.iter().map(|schedule| schedule.phase).collect();
        assert_eq!(distinct.len(), 50);
        let early = schedules.iter().filter(|schedule| schedule.phase < period / 2).count();
        assert!((10..=40).contains(&early), "{early} of 50 in the first half");
        assert_eq!(schedules, Schedule::spread(50, 1_000.0), "every run has the same schedules");
    }

    #[test]
    fn the_number_of_due_frames_matches_the_rate() {
        let time = Duration::from_secs(10);
        let due: u64 = Schedule::spread(7, 333.0)
            .iter()
            .map(|schedule| (0..).take_while(|number| schedule.due(*number) < time).count() as u64)
            .sum();
        assert!((3_320..=3_340).contains(&due), "{due}");
    }

    #[test]
    fn every_connection_is_woken_and_none_is_woken_early() {
        let wakeups: Vec<_> = Schedule::spread(3, 300.0)
            .into_iter()
            .map(|schedule| Wakeup { schedule, frame_due: Arc::new(Notify::new()) })
            .collect();
        let (start, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (wakeups, over) = (wakeups.clone(), Arc::clone(&over));
            std::thread::spawn(move || send_wakeups(wakeups, start, &over))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for number in 0..3 {
            for wakeup in &wakeups {
                runtime.block_on(wakeup.frame_due.notified());
                assert!(start.elapsed() >= wakeup.schedule.due(number).min(wakeup.schedule.due(0)));
            }
        }
        over.store(true, Ordering::Relaxed);
        thread.join().expect("it ends");
    }
}
