//! The loop of maintenance: every kind of work in the background, as steps that are called again and again.
//!
//! A kind of work implements [`Maintenance`] and is named once, where the engine opens. The steps are called beside each
//! other, so that a slow one holds up no other, and each one call after the other. The loop decides nothing: what is due,
//! a step finds out itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use durable::Clock;
use tokio::sync::watch;

use crate::error::EngineError;

/// Becomes `true` when maintenance should end; an error of it means that the engine was dropped.
pub(crate) type Stop = watch::Receiver<bool>;

/// What a call of a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Something was done or tried.
    Worked,
    /// Nothing was due.
    Idle,
}

/// Interval at which a step is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Shortest pause after a call that found nothing to do, however often the step is woken.
    pub(crate) idle: Duration,
    /// Longest pause between two calls.
    pub(crate) interval: Duration,
}

/// A kind of work in the background.
#[async_trait]
pub(crate) trait Maintenance: Send + Sync {
    /// Interval at which to call the step.
    fn pace(&self) -> Pace;

    /// Ready when there may be work before the interval is over.
    async fn woken(&self) {
        std::future::pending().await
    }

    /// Does what is due: one bounded piece of work, or as much as is due before `stop` says so.
    ///
    /// # Errors
    /// Only what must end the engine. Anything else is handled by the step, and tried again.
    async fn run_once(&self, stop: &Stop) -> Result<Progress, EngineError>;
}

/// Calls all steps, each at its pace, until told to stop.
///
/// # Errors
/// The first that a step ends with; the others are given up.
pub(crate) async fn maintain(
    steps: &[Arc<dyn Maintenance>],
    clock: &dyn Clock,
    stop: &Stop,
) -> Result<(), EngineError> {
    let loops = steps.iter().map(|step| repeat(&**step, clock, stop.clone()));
    futures::future::try_join_all(loops).await.map(drop)
}

async fn repeat(step: &dyn Maintenance, clock: &dyn Clock, mut stop: Stop) -> Result<(), EngineError> {
    loop {
        let progress = step.run_once(&stop).await?;
        let Pace { idle, interval } = step.pace();
        if progress == Progress::Idle && !idle.is_zero() {
            clock.sleep(idle).await;
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            () = step.woken() => {}
            () = clock.sleep(interval) => {}
        }
    }
}

/// How long to wait after so many failures in a row: doubles from `min` to `max`.
pub(crate) fn back_off(failures: u32, min: Duration, max: Duration) -> Duration {
    let doubled = min.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(max)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use durable::SystemClock;
    use tokio::sync::Notify;

    use super::*;
    use crate::error::EngineErrorKind;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn back_off_doubles_up_to_its_limit() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(60));
        let waits: Vec<u64> = (1..9).map(|failures| back_off(failures, min, max).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(back_off(u32::MAX, min, max), max);
    }

    /// Counts its calls; the n-th is the last if it is told so.
    struct Counts {
        calls: AtomicUsize,
        wake: Notify,
        pace: Pace,
        progress: Progress,
        fails_at: usize,
    }

    impl Counts {
        fn new(idle: Duration, interval: Duration, progress: Progress) -> Arc<Self> {
            let pace = Pace { idle, interval };
            Arc::new(Self { calls: AtomicUsize::new(0), wake: Notify::new(), pace, progress, fails_at: usize::MAX })
        }

        fn calls(&self) -> usize {
            self.calls.load(Ordering::Relaxed)
        }
    }

    #[async_trait]
    impl Maintenance for Counts {
        fn pace(&self) -> Pace {
            self.pace
        }

        async fn woken(&self) {
            self.wake.notified().await;
        }

        async fn run_once(&self, _: &Stop) -> Result<Progress, EngineError> {
            let call = 1 + self.calls.fetch_add(1, Ordering::Relaxed);
            if call == self.fails_at {
                return Err(EngineError::new(EngineErrorKind::Failed, "the last call", ""));
            }
            Ok(self.progress)
        }
    }

    /// Never comes to an end.
    struct Stuck;

    #[async_trait]
    impl Maintenance for Stuck {
        fn pace(&self) -> Pace {
            Pace { idle: Duration::ZERO, interval: LONG }
        }

        async fn run_once(&self, _: &Stop) -> Result<Progress, EngineError> {
            std::future::pending().await
        }
    }

    /// Runs the loop beside `test`; answers how the loop ended, which it must.
    async fn beside_loop(
        steps: Vec<Arc<dyn Maintenance>>,
        test: impl AsyncFnOnce(&watch::Sender<bool>),
    ) -> Result<(), EngineError> {
        let (stop, stopped) = watch::channel(false);
        let clock = SystemClock::new();
        let run = async {
            let (ended, ()) = futures::future::join(maintain(&steps, &clock, &stopped), test(&stop)).await;
            ended
        };
        tokio::time::timeout(Duration::from_secs(30), run).await.expect("it ends")
    }

    async fn until(holds: impl Fn() -> bool) {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn steps_are_called_until_told_to_stop() {
        let step = Counts::new(Duration::ZERO, Duration::from_millis(1), Progress::Worked);
        let counts = Arc::clone(&step);
        beside_loop(vec![step], async |stop| {
            until(|| counts.calls() > 3).await;
            stop.send_replace(true);
        })
        .await
        .expect("no error");
    }

    #[tokio::test]
    async fn a_step_is_called_before_its_time_when_it_is_woken() {
        let step = Counts::new(Duration::ZERO, LONG, Progress::Worked);
        let counts = Arc::clone(&step);
        beside_loop(vec![step], async |stop| {
            for call in 1..5 {
                until(|| counts.calls() == call).await;
                counts.wake.notify_one();
            }
            until(|| counts.calls() == 5).await;
            stop.send_replace(true);
        })
        .await
        .expect("no error");
    }

    #[tokio::test]
    async fn an_idle_step_is_not_called_again_at_once() {
        let step = Counts::new(Duration::from_millis(300), LONG, Progress::Idle);
        let counts = Arc::clone(&step);
        beside_loop(vec![step], async |stop| {
            for _ in 0..20 {
                counts.wake.notify_one();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(counts.calls(), 1, "woken often, and it pauses");
            until(|| counts.calls() == 2).await;
            stop.send_replace(true);
        })
        .await
        .expect("no error");
    }

    #[tokio::test]
    async fn an_error_ends_the_loop_though_another_step_is_stuck() {
        let mut step = Counts::new(Duration::ZERO, Duration::from_millis(1), Progress::Worked);
        Arc::get_mut(&mut step).expect("nobody else has it").fails_at = 3;
        let counts = Arc::clone(&step);
        beside_loop(vec![Arc::new(Stuck), step], async |_| {}).await.expect_err("the step's error");
        assert_eq!(counts.calls(), 3);
    }
}
