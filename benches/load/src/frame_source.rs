//! What a connection sends: frames of the simulated fleet, made before the run, restamped during it.
//!
//! Every connection has loggers of its own, and a pool of frames that are their readings in order. When the pool is at
//! its end it begins anew, later by the time that it spans: no key comes twice, and no value comes again before all
//! others have. Invariant: every reading of a run lies between [`START`] and the run's beginning, and the server refuses
//! none for its time.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use storage_format::{FrameBuilder, FrameSequence, FrameTemplate, Millis, SpoolId};

use gateway::simulator::{Fleet, FleetConfig};
use problem::{Context, Problem, Result};

/// The first readings: years ago, so that a fleet can measure faster than time passes.
pub(super) const START: &str = "2001-01-01T00:00:00Z";
/// What loggers in the field do, and what a run keeps to if it fits between [`START`] and now.
const INTERVAL_MAX: Duration = Duration::from_secs(300);
/// The shortest interval that a fleet can have.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Readings of all pools together: some segments full of them, and a memory of four to ten bytes for each.
const POOL_READINGS_MAX: u64 = 16 << 20;
/// A pool has this many frames at least.
const POOL_FRAMES_MIN: u64 = 4;
/// What is reckoned with where the rate has no limit, in readings a second.
const RATE_MAX: f64 = 20e6;
/// A connection may be faster than its share: what is reckoned with.
const UNEVEN: f64 = 2.0;
const DAY: Duration = Duration::from_secs(86_400);
/// Where everything is drawn from: two runs send the same readings.
const SEED: u64 = 1;

/// What a load needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Demand {
    /// Connections, each with a share of the loggers.
    pub connections: u32,
    /// All loggers.
    pub loggers: u32,
    /// Readings in a frame.
    pub readings_per_frame: u32,
    /// Readings a second, all connections together; none: as many as go.
    pub rate: Option<f64>,
    /// How long, warm-up included.
    pub time: Duration,
}

/// A fleet that can meet a demand.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    demand: Demand,
    fleet: FleetConfig,
    /// Frames in each connection's pool.
    frames: u64,
    /// No reading is later.
    latest: Millis,
}

/// The loggers of one of so many connections: equal shares, the first ones one more.
fn share(loggers: u32, connections: u32, index: u32) -> Range<u32> {
    let (each, more) = (loggers / connections, loggers % connections);
    let begin = index * each + index.min(more);
    begin..begin + each + u32::from(index < more)
}

#[allow(clippy::cast_precision_loss, reason = "estimates with a margin")]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturating where too large")]
impl Plan {
    /// Chooses interval and pool so that the whole run fits between [`START`] and now.
    ///
    /// # Errors
    /// When it cannot fit, or the numbers do not go together.
    pub(super) fn new(demand: Demand, now: Millis) -> Result<Self> {
        let Demand { connections, loggers, readings_per_frame, rate, time } = demand;
        if connections == 0 || readings_per_frame == 0 || loggers < connections {
            let detail = format!("{loggers} loggers on {connections} connections");
            return Err(Problem::new("every connection needs a logger of its own").detail(detail));
        }
        let start: Millis = START.parse().context(|| "the start of the fleet is no time".to_owned())?;
        let (each, per_frame) = (f64::from(loggers / connections), f64::from(readings_per_frame));
        let of_connection = rate.unwrap_or(RATE_MAX * UNEVEN) * time.as_secs_f64() / f64::from(connections);
        let pool_max = (POOL_READINGS_MAX as f64 / f64::from(connections) / per_frame).ceil();
        let wanted = rate.map_or(f64::INFINITY, |_| (of_connection / per_frame).ceil() + 1.0);
        let frames = (pool_max.min(wanted) as u64).max(POOL_FRAMES_MIN);

        // What is sent, and one pool more: a pool is moved as a whole.
        let rounds = (of_connection + per_frame * (frames + 1) as f64) / each + 1.0;
        let available = u64::try_from(now.get().saturating_sub(start.get())).unwrap_or(0);
        let interval_ms = ((available as f64 / rounds) as u64).min(INTERVAL_MAX.as_millis() as u64);
        if interval_ms < INTERVAL_MIN.as_millis() as u64 {
            return Err(Problem::new("the fleet would have to measure more often than it can")
                .detail(format!("{rounds:.0} readings of every logger do not fit between {START} and now"))
                .help("more --loggers, a shorter --duration, or a lower --rate"));
        }
        let interval = Duration::from_millis(interval_ms);
        let pool_rounds = (per_frame * frames as f64 / each) as u64 + 2;
        let days = interval.as_secs_f64() * pool_rounds as f64 / DAY.as_secs_f64();
        let fleet = FleetConfig { seed: SEED, loggers, interval, start, days: days as u32 + 1 };
        Ok(Self { demand, fleet, frames, latest: now })
    }

    /// Time between two readings of a logger.
    #[must_use]
    pub(super) fn interval(&self) -> Duration {
        self.fleet.interval
    }

    /// The pool of one connection. Takes about a quarter of a microsecond for each reading.
    ///
    /// # Errors
    /// When a frame of so many readings is too large.
    pub(super) fn supply(&self, connection: u32) -> Result<Supply> {
        let loggers = share(self.demand.loggers, self.demand.connections, connection);
        let count = u64::from(loggers.end - loggers.start);
        let mut fleet = Fleet::part(&self.fleet, loggers)?;
        let (spool, sequence) = (SpoolId::new(1).context(|| "an id was zero".to_owned())?, FrameSequence::new(1));
        let per_frame = usize::try_from(self.demand.readings_per_frame).unwrap_or(usize::MAX);
        // All in one piece of memory: small frames would cost more for themselves than for their bytes.
        let mut all = BytesMut::new();
        let mut ends = Vec::new();
        let mut builder = FrameBuilder::new();
        for _ in 0..self.frames {
            for reading in fleet.by_ref().take(per_frame) {
                let pushed = builder.push(reading.logger, reading.time, &reading.samples);
                let what = || format!("a frame of {per_frame} readings cannot be made");
                pushed.context(what).map_err(|problem| problem.help("fewer --readings-per-frame"))?;
            }
            if builder.len() != per_frame {
                return Err(Problem::new("the simulated fleet has ended before its time"));
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
            templates.push(FrameTemplate::new(frame).context(|| "a frame of the simulated fleet is none".to_owned())?);
        }
        let rounds = (self.frames * u64::from(self.demand.readings_per_frame)).div_ceil(count);
        let span = self.fleet.interval.as_millis() * u128::from(rounds);
        let span_ms = i64::try_from(span).context(|| "the pool spans too long a time".to_owned())?;
        Ok(Supply { templates, span_ms, next: 0, shift_ms: 0, latest: self.latest })
    }

    /// The pools of all connections, made on all cores.
    ///
    /// # Errors
    /// As [`Plan::supply`].
    pub(super) fn supplies(&self) -> Result<Vec<Supply>> {
        let threads = u32::try_from(super::cores()).unwrap_or(1).min(self.demand.connections);
        let parts: Vec<Result<Vec<(u32, Supply)>>> = std::thread::scope(|scope| {
            let making: Vec<_> = (0..threads)
                .map(|thread| {
                    let mine = (thread..self.demand.connections).step_by(threads as usize);
                    scope.spawn(move || mine.map(|index| Ok((index, self.supply(index)?))).collect())
                })
                .collect();
            let lost = || Err(Problem::new("a thread that made frames broke down"));
            making.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect()
        });
        let mut all: Vec<_> = parts.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        all.sort_by_key(|(index, _)| *index);
        Ok(all.into_iter().map(|(_, supply)| supply).collect())
    }
}

/// One connection's frames, without end.
#[derive(Debug)]
pub(super) struct Supply {
    templates: Vec<FrameTemplate>,
    /// The pool's readings are this much later in every cycle.
    span_ms: i64,
    next: usize,
    shift_ms: i64,
    latest: Millis,
}

impl Supply {
    /// The next frame, and how many readings it has.
    ///
    /// # Errors
    /// When its readings would be later than now.
    pub(super) fn next_frame(&mut self, spool: SpoolId, sequence: FrameSequence) -> Result<(Bytes, u64)> {
        let template = &self.templates[self.next];
        if template.time_max().saturating_add(self.shift_ms) > self.latest {
            return Err(Problem::new("the simulated fleet has come to the present")
                .detail("it was sent faster than was reckoned with")
                .help("more --loggers, or a shorter --duration"));
        }
        let frame = template.stamp(spool, sequence, self.shift_ms);
        let frame = frame.context(|| "the simulated fleet has come to the end of time".to_owned())?;
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
    fn shares_are_all_loggers_once() {
        for (loggers, connections) in [(10, 3), (3, 3), (1_000, 8), (17, 16)] {
            let all: Vec<u32> = (0..connections).flat_map(|index| share(loggers, connections, index)).collect();
            assert_eq!(all, (0..loggers).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_key_comes_twice_on_any_connection() {
        let mut supplies = Plan::new(demand(), now()).expect("fits").supplies().expect("made");
        assert_eq!(supplies.len(), 3);
        let mut keys = HashSet::new();
        let spool = SpoolId::new(5).expect("an id");
        for supply in &mut supplies {
            let pool = supply.templates.len();
            for sequence in 1..=3 * pool as u64 {
                let (bytes, readings) = supply.next_frame(spool, FrameSequence::new(sequence)).expect("made");
                let frame = Frame::decode(bytes).expect("valid");
                assert_eq!((frame.len() as u64, readings), (7, 7));
                assert_eq!(frame.sequence(), FrameSequence::new(sequence));
                for run in frame.runs() {
                    for &time in &frame.times()[run.range()] {
                        assert!(keys.insert((run.logger, time)), "{:?} at {time} came twice", run.logger);
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
        assert_eq!(short.interval(), INTERVAL_MAX, "as in the field, where there is time");
    }

    #[test]
    fn what_cannot_fit_is_refused() {
        let endless = Demand { rate: Some(1e9), time: Duration::from_secs(86_400), ..demand() };
        assert!(Plan::new(endless, now()).expect_err("too much").to_string().contains("--loggers"));
        assert!(Plan::new(Demand { loggers: 2, ..demand() }, now()).is_err());
        let mut supply = Plan::new(demand(), now()).expect("fits").supply(0).expect("made");
        supply.latest = START.parse().expect("a time");
        let (spool, sequence) = (SpoolId::new(5).expect("an id"), FrameSequence::new(1));
        assert!(supply.next_frame(spool, sequence).expect_err("not in the future").to_string().contains("present"));
    }
}
