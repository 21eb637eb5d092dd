//! Frames that a connection sends: created from the simulated fleet before the run, restamped during it.
//!
//! Every connection has loggers of its own, and a pool of frames with their readings in order. At its end the pool
//! starts again, later by the time that it spans, so that no key occurs twice, and no value is repeated before all
//! others were sent. Invariant: every reading of a run lies between [`START`] and the start of the run, and the server
//! refuses none for its time.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use storage_format::{FrameBuilder, FrameSequence, FrameTemplate, Millis, SpoolId};

use gateway::simulator::{Fleet, FleetConfig};
use problem::{Context, Problem, Result};

/// Time of the first readings: years ago, so that a fleet can measure faster than time passes.
pub(super) const START: &str = "2001-01-01T00:00:00Z";
/// Interval of loggers in the field, which a run uses if it fits between [`START`] and now.
const INTERVAL_MAX: Duration = Duration::from_secs(300);
/// Shortest interval of a fleet.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Limit of the readings of all pools together: enough for some segments, with four to ten bytes of memory for each.
const POOL_READINGS_MAX: u64 = 16 << 20;
/// Lower limit of the frames in a pool.
const POOL_FRAMES_MIN: u64 = 4;
/// Rate that is planned for when the rate has no limit, in readings a second.
const RATE_MAX: f64 = 20e6;
/// Factor by which a connection may exceed its share of the rate.
const UNEVEN: f64 = 2.0;
const DAY: Duration = Duration::from_secs(86_400);
/// Seed of the fleet, so that all runs send the same readings.
const SEED: u64 = 1;

/// Requirements of a load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Demand {
    /// Number of connections, each with a share of the loggers.
    pub connections: u32,
    /// Number of loggers of all connections.
    pub loggers: u32,
    /// Readings in a frame.
    pub readings_per_frame: u32,
    /// Readings a second, all connections together; `None` means as many as possible.
    pub rate: Option<f64>,
    /// Duration, warm-up included.
    pub time: Duration,
}

/// A fleet that meets a demand.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    demand: Demand,
    fleet: FleetConfig,
    /// Frames in each connection's pool.
    frames: u64,
    /// Latest time of a reading.
    latest: Millis,
}

/// Returns the loggers of one connection: equal shares, and one more for each of the first connections.
fn share(loggers: u32, connections: u32, index: u32) -> Range<u32> {
    let (each, more) = (loggers / connections, loggers % connections);
    let begin = index * each + index.min(more);
    begin..begin + each + u32::from(index < more)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturating where too large")]
impl Plan {
    /// Chooses interval and pool so that the whole run fits between [`START`] and now.
    ///
    /// # Errors
    /// When the run cannot fit, or the numbers are inconsistent.
    pub(super) fn new(demand: Demand, now: Millis) -> Result<Self> {
        let Demand { connections, loggers, readings_per_frame, rate, time } = demand;
        if connections == 0 || readings_per_frame == 0 || loggers < connections {
            let detail = format!("{loggers} loggers on {connections} connections");
            return Err(Problem::new("every connection needs a logger of its own").detail(detail));
        }
        let start: Millis = START.parse().context(|| "cannot parse the fleet's start time".to_owned())?;
        let (each, per_frame) = (f64::from(loggers / connections), f64::from(readings_per_frame));
        let per_connection = rate.unwrap_or(RATE_MAX * UNEVEN) * time.as_secs_f64() / f64::from(connections);
        let pool_max = (POOL_READINGS_MAX as f64 / f64::from(connections) / per_frame).ceil();
        let wanted = rate.map_or(f64::INFINITY, |_| (per_connection / per_frame).ceil() + 1.0);
        let frames = (pool_max.min(wanted) as u64).max(POOL_FRAMES_MIN);

        // The readings that are sent, and one more pool, because a pool is shifted as a whole.
        let rounds = (per_connection + per_frame * (frames + 1) as f64) / each + 1.0;
        let available = u64::try_from(now.get().saturating_sub(start.get())).unwrap_or(0);
        let interval_ms = ((available as f64 / rounds) as u64).min(INTERVAL_MAX.as_millis() as u64);
        if interval_ms < INTERVAL_MIN.as_millis() as u64 {
            return Err(Problem::new("the run needs a shorter measuring interval than the fleet supports")
                .detail(format!("{rounds:.0} readings of every logger do not fit between {START} and now"))
                .help("use more --loggers, a shorter --duration, or a lower --rate"));
        }
        let interval = Duration::from_millis(interval_ms);
        let pool_rounds = (per_frame * frames as f64 / each) as u64 + 2;
        let days = interval.as_secs_f64() * pool_rounds as f64 / DAY.as_secs_f64();
        let fleet = FleetConfig { seed: SEED, loggers, interval, start, days: days as u32 + 1 };
        Ok(Self { demand, fleet, frames, latest: now })
    }

    /// Returns the time between two readings of a logger.
    #[must_use]
    pub(super) fn interval(&self) -> Duration {
        self.fleet.interval
    }

    /// Creates the pool of one connection. It takes about a quarter of a microsecond for each reading.
    ///
    /// # Errors
    /// When a frame with this number of readings is too large.
    pub(super) fn frame_source(&self, connection: u32) -> Result<FrameSource> {
        let loggers = share(self.demand.loggers, self.demand.connections, connection);
        let count = u64::from(loggers.end - loggers.start);
        let mut fleet = Fleet::part(&self.fleet, loggers)?;
        let (spool, sequence) = (SpoolId::new(1).context(|| "the spool id is zero".to_owned())?, FrameSequence::new(1));
        let per_frame = usize::try_from(self.demand.readings_per_frame).unwrap_or(usize::MAX);
        // All frames share one allocation, because separate small allocations would cost more than the bytes.
        let mut all = BytesMut::new();
        let mut ends = Vec::new();
        let mut builder = FrameBuilder::new();
        for _ in 0..self.frames {
            for reading in fleet.by_ref().take(per_frame) {
                let pushed = builder.push(reading.logger, reading.time, &reading.samples);
                let what = || format!("cannot create a frame of {per_frame} readings");
                pushed.context(what).map_err(|problem| problem.help("use fewer --readings-per-frame"))?;
            }
            if builder.len() != per_frame {
                return Err(Problem::new("the simulated fleet ended too early"));
            }
            all.extend_from_slice(&builder.encode(spool, sequence));
            ends.push(all.len());
        }
        let mut all: Bytes = all.freeze();
        let mut begin = 0;
        let mut templates = Vec::with_capacity(ends.len());
        for end in ends {
            let frame = all.split_to(end - begin);
            begin = end;
            templates
                .push(FrameTemplate::new(frame).context(|| "a frame of the simulated fleet is not valid".to_owned())?);
        }
        let rounds = (self.frames * u64::from(self.demand.readings_per_frame)).div_ceil(count);
        let span = self.fleet.interval.as_millis() * u128::from(rounds);
        let span_ms = i64::try_from(span).context(|| "the time span of the pool is too long".to_owned())?;
        Ok(FrameSource { templates, span_ms, next: 0, shift_ms: 0, latest: self.latest })
    }

    /// Creates the pools of all connections, on all cores.
    ///
    /// # Errors
    /// As [`Plan::frame_source`].
    pub(super) fn frame_sources(&self) -> Result<Vec<FrameSource>> {
        let threads = u32::try_from(super::cores()).unwrap_or(1).min(self.demand.connections);
        let parts: Vec<Result<Vec<(u32, FrameSource)>>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    let indices = (thread..self.demand.connections).step_by(threads as usize);
                    scope.spawn(move || indices.map(|index| Ok((index, self.frame_source(index)?))).collect())
                })
                .collect();
            let lost = || Err(Problem::new("a thread that creates frames panicked"));
            workers.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect()
        });
        let mut all: Vec<_> = parts.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        all.sort_by_key(|(index, _)| *index);
        Ok(all.into_iter().map(|(_, source)| source).collect())
    }
}

/// Endless source of one connection's frames.
#[derive(Debug)]
pub(super) struct FrameSource {
    templates: Vec<FrameTemplate>,
    /// Time by which the pool's readings are later in every cycle.
    span_ms: i64,
    next: usize,
    shift_ms: i64,
    latest: Millis,
}

impl FrameSource {
    /// Returns the next frame, and the number of its readings.
    ///
    /// # Errors
    /// When its readings would be later than the start of the run.
    pub(super) fn next_frame(&mut self, spool: SpoolId, sequence: FrameSequence) -> Result<(Bytes, u64)> {
        let template = &self.templates[self.next];
        if template.time_max().saturating_add(self.shift_ms) > self.latest {
            return Err(Problem::new("the readings of the simulated fleet have reached the present")
                .detail("they were sent faster than planned for")
                .help("use more --loggers, or a shorter --duration"));
        }
        let frame = template.stamp(spool, sequence, self.shift_ms);
        let frame = frame.context(|| "a reading's time is out of range".to_owned())?;
        let readings = template.len() as u64;
        self.next += 1;
        if self.next == self.templates.len() {
            self.next = 0;
            self.shift_ms = self.shift_ms.saturating_add(self.span_ms);
        }
        Ok((frame, readings))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use storage_format::Frame;

    use super::*;

    fn now() -> Millis {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn demand() -> Demand {
        Demand { connections: 3, loggers: 10, readings_per_frame: 7, rate: Some(100.0), time: Duration::from_secs(2) }
    }

    #[test]
    fn every_logger_is_in_one_share() {
        for (loggers, connections) in [(10, 3), (3, 3), (1_000, 8), (17, 16)] {
            let all: Vec<u32> = (0..connections).flat_map(|index| share(loggers, connections, index)).collect();
            assert_eq!(all, (0..loggers).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_key_occurs_twice_on_any_connection() {
        let mut sources = Plan::new(demand(), now()).expect("fits").frame_sources().expect("created");
        assert_eq!(sources.len(), 3);
        let mut keys = HashSet::new();
        let spool = SpoolId::new(5).expect("an id");
        for source in &mut sources {
            let pool = source.templates.len();
            for sequence in 1..=3 * pool as u64 {
                let (bytes, readings) = source.next_frame(spool, FrameSequence::new(sequence)).expect("created");
                let frame = Frame::decode(bytes).expect("valid");
                assert_eq!((frame.len() as u64, readings), (7, 7));
                assert_eq!(frame.sequence(), FrameSequence::new(sequence));
                for run in frame.runs() {
                    for &time in &frame.times()[run.range()] {
                        assert!(keys.insert((run.logger, time)), "{:?} at {time} occurs twice", run.logger);
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_run_at_full_speed_fits_before_now() {
        let time = Duration::from_secs(602);
        let plan =
            Plan::new(Demand { connections: 8, loggers: 1_000, readings_per_frame: 1_000, rate: None, time }, now());
        let plan = plan.expect("fits");
        assert!((INTERVAL_MIN..=INTERVAL_MAX).contains(&plan.interval()));
        let rounds = RATE_MAX * UNEVEN * time.as_secs_f64() / 1_000.0;
        let span = plan.interval().as_secs_f64() * rounds;
        assert!(span < 26.0 * 365.25 * 86_400.0, "{span}");
        let short = Plan::new(demand(), now()).expect("fits");
        assert_eq!(short.interval(), INTERVAL_MAX, "as in the field, if the run is short enough");
    }

    #[test]
    fn a_run_that_cannot_fit_is_refused() {
        let endless = Demand { rate: Some(1e9), time: Duration::from_secs(86_400), ..demand() };
        assert!(Plan::new(endless, now()).expect_err("too much").to_string().contains("--loggers"));
        assert!(Plan::new(Demand { loggers: 2, ..demand() }, now()).is_err());
        let mut source = Plan::new(demand(), now()).expect("fits").frame_source(0).expect("created");
        source.latest = START.parse().expect("a time");
        let (spool, sequence) = (SpoolId::new(5).expect("an id"), FrameSequence::new(1));
        assert!(source.next_frame(spool, sequence).expect_err("not in the future").to_string().contains("present"));
    }
}
