//! A simulated fleet: loggers of several makes in fridges, cold rooms and halls. The same seed gives the same readings,
//! at the same times, for ever.
//!
//! Values follow a daily cycle with noise, doors that open in working hours, and a compressor that hums; they are
//! rounded to the sensor's resolution (0.01, 0.0625 or 0.1 °C), because that is what decides how well they compress.
//! Randomness is a small generator of our own, so that no library update changes what a seed means.

use std::ops::Range;
use std::time::Duration;

use storage_format::{Channel, ChannelCode, LoggerId, Millis};

use problem::{Context, Problem, Result};

/// What a fleet looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetConfig {
    /// Everything else being equal, the same seed gives the same readings.
    pub seed: u64,
    /// How many loggers.
    pub loggers: u32,
    /// Time between two readings of a logger.
    pub interval: Duration,
    /// Time of the first readings.
    pub start: Millis,
    /// How long the fleet runs.
    pub days: u32,
}

/// Loggers of one seed at most: their ids share a prefix.
pub const LOGGERS_MAX: u32 = 1 << 20;

const DAY_MS: i64 = 86_400_000;
/// Loggers wake up by a cheap crystal: up to so much late. Never early, so that a fleet that starts with a month stays
/// in it.
const JITTER_MS: i64 = 700;

/// One reading of the fleet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimulatedReading {
    /// Who measured.
    pub logger: LoggerId,
    /// When.
    pub time: Millis,
    /// What.
    pub samples: [(ChannelCode, f64); 2],
}

/// A small, fast, reproducible generator (SplitMix64, Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly in 0..1.
    fn unit(&mut self) -> f64 {
        // 32 bits convert to f64 exactly.
        let high = u32::try_from(self.next() >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }

    /// Evenly in -1..1.
    fn symmetric(&mut self) -> f64 {
        self.unit().mul_add(2.0, -1.0)
    }
}

/// Where a logger hangs: mean temperature, daily swing, what an open door adds, mean humidity.
const PLACES: [(f64, f64, f64, f64); 5] = [
    (5.0, 0.3, 4.0, 45.0),   // a vaccine fridge
    (-20.0, 0.5, 6.0, 60.0), // a freezer
    (3.0, 0.8, 3.0, 80.0),   // a cold room
    (21.0, 1.5, 0.5, 50.0),  // a museum hall
    (18.0, 6.0, 1.0, 55.0),  // a lorry
];

const RESOLUTIONS: [f64; 3] = [0.01, 0.0625, 0.1];

#[derive(Debug, Clone)]
struct Logger {
    id: LoggerId,
    dice: Dice,
    mean: f64,
    swing: f64,
    door: f64,
    humidity: f64,
    resolution: f64,
    phase: f64,
    /// Slow noise: each value is close to the one before it.
    drift: f64,
    /// How far open doors have warmed the place, decaying.
    warmth: f64,
}

fn pick<T: Copy>(dice: &mut Dice, of: &[T]) -> T {
    let index = dice.next() % u64::try_from(of.len()).unwrap_or(1);
    of[usize::try_from(index).unwrap_or(0)]
}

fn round_to(value: f64, resolution: f64) -> f64 {
    let steps = (value / resolution).round();
    // Divide by the inverse where that is whole: 21.79, not 21.790000000000003.
    let inverse = (1.0 / resolution).round();
    // Adding zero turns -0.0 into 0.0.
    (if (inverse * resolution - 1.0).abs() < 1e-9 { steps / inverse } else { steps * resolution }) + 0.0
}

impl Logger {
    fn new(seed: u64, index: u32) -> Result<Self> {
        let prefix = Dice(seed).next() & 0xFFF;
        let id = 0x0012_4B00_0000_0000 | (prefix << 20) | (u64::from(index) + 1);
        let id = LoggerId::new(id).context(|| "a logger's id was zero".to_owned())?;
        let mut dice = Dice(seed ^ u64::from(index + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let (mean, swing, door, humidity) = pick(&mut dice, &PLACES);
        Ok(Self {
            id,
            mean: mean + dice.symmetric(),
            swing: swing * (0.5 + dice.unit()),
            door,
            humidity: humidity + 5.0 * dice.symmetric(),
            resolution: pick(&mut dice, &RESOLUTIONS),
            phase: 0.5 * dice.symmetric(),
            drift: 0.0,
            warmth: 0.0,
            dice,
        })
    }

    fn measure(&mut self, planned_ms: i64, jitter_ms: i64) -> (i64, f64, f64) {
        let jitter = i64::try_from(self.dice.next() % (jitter_ms.unsigned_abs() + 1)).unwrap_or(0);
        let day_ms = i32::try_from(planned_ms.rem_euclid(DAY_MS)).unwrap_or(0);
        let hour = f64::from(day_ms) / 3_600_000.0;
        self.drift = self.drift.mul_add(0.9, 0.05 * self.dice.symmetric());
        let working_hours = (8.0..18.0).contains(&hour);
        let opened = self.dice.unit() < if working_hours { 0.03 } else { 0.001 };
        self.warmth = self.warmth * 0.6 + if opened { self.door * self.dice.unit() } else { 0.0 };
        // Warmest in mid-afternoon.
        let cycle = ((hour - 15.0) / 24.0 * std::f64::consts::TAU + self.phase).cos();
        let temperature = self.mean + self.swing * cycle + self.drift + self.warmth;
        // Relative humidity falls as air warms, and jumps when a door lets outside air in.
        let noise = 0.3 * self.dice.symmetric();
        let humidity = self.humidity - 1.2 * self.swing * cycle - 2.0 * self.drift + 1.5 * self.warmth + noise;
        (
            planned_ms + jitter,
            round_to(temperature, self.resolution),
            // 0.04 % is the step of common sensors, 0.1 % what others write down.
            round_to(humidity.clamp(5.0, 99.0), if self.resolution < 0.05 { 0.04 } else { 0.1 }),
        )
    }
}

/// The readings of a fleet, as they come in: round by round, logger by logger.
#[derive(Debug)]
pub struct Fleet {
    loggers: Vec<Logger>,
    channels: [ChannelCode; 2],
    start_ms: i64,
    interval_ms: i64,
    jitter_ms: i64,
    rounds: u64,
    round: u64,
    next: usize,
}

impl Fleet {
    /// A fleet that has not measured anything yet.
    ///
    /// # Errors
    /// When there are no or too many loggers, or the interval is too short.
    pub fn new(config: &FleetConfig) -> Result<Self> {
        Self::part(config, 0..config.loggers)
    }

    /// Only these loggers of the fleet, by their index: what one of several gateways hears of it.
    ///
    /// # Errors
    /// As [`Fleet::new`], and when the fleet has no such loggers.
    pub fn part(config: &FleetConfig, loggers: Range<u32>) -> Result<Self> {
        if config.loggers == 0 || config.loggers > LOGGERS_MAX {
            return Err(Problem::new(format!("a fleet has 1 to {LOGGERS_MAX} loggers, not {}", config.loggers)));
        }
        if loggers.is_empty() || loggers.end > config.loggers {
            let detail = format!("a fleet of {} has no loggers {} to {}", config.loggers, loggers.start, loggers.end);
            return Err(Problem::new(detail));
        }
        let interval_ms = i64::try_from(config.interval.as_millis()).unwrap_or(i64::MAX);
        if !(10..=30 * DAY_MS).contains(&interval_ms) {
            return Err(Problem::new("a fleet's interval is 10 ms to 30 days"));
        }
        let length_ms = i64::from(config.days) * DAY_MS;
        let channel = |name: &str| {
            let channel = Channel::by_name(name).map(|channel| channel.code);
            channel.ok_or_else(|| Problem::new(format!("the registry has no channel {name}")))
        };
        Ok(Self {
            loggers: loggers.map(|index| Logger::new(config.seed, index)).collect::<Result<_>>()?,
            channels: [channel("temperature")?, channel("humidity")?],
            start_ms: config.start.get(),
            interval_ms,
            // Two readings of a logger never meet.
            jitter_ms: JITTER_MS.min(interval_ms / 2),
            rounds: u64::try_from(length_ms / interval_ms).unwrap_or(0),
            round: 0,
            next: 0,
        })
    }

    /// How many readings there will be.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.rounds * u64::try_from(self.loggers.len()).unwrap_or(u64::MAX)
    }

    /// Does the fleet end before its first reading?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Iterator for Fleet {
    type Item = SimulatedReading;

    fn next(&mut self) -> Option<SimulatedReading> {
        if self.round >= self.rounds {
            return None;
        }
        let planned = self.start_ms.saturating_add(i64::try_from(self.round).ok()?.saturating_mul(self.interval_ms));
        let logger = &mut self.loggers[self.next];
        let (ms, temperature, humidity) = logger.measure(planned, self.jitter_ms);
        let id = logger.id;
        self.next += 1;
        if self.next == self.loggers.len() {
            self.next = 0;
            self.round += 1;
        }
        let [temperature_code, humidity_code] = self.channels;
        Some(SimulatedReading {
            logger: id,
            time: Millis::EPOCH.saturating_add(ms),
            samples: [(temperature_code, temperature), (humidity_code, humidity)],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn config(seed: u64) -> FleetConfig {
        FleetConfig {
            seed,
            loggers: 40,
            interval: Duration::from_secs(300),
            start: "2025-01-01T00:00:00Z".parse().expect("a time"),
            days: 2,
        }
    }

    fn readings(seed: u64) -> Vec<SimulatedReading> {
        Fleet::new(&config(seed)).expect("a fleet").collect()
    }

    #[test]
    fn a_seed_says_it_all() {
        let (first, second, other) = (readings(7), readings(7), readings(8));
        assert_eq!(first, second);
        assert_ne!(first, other);
        assert_eq!(first.len(), 40 * 2 * 288);
        assert_eq!(Fleet::new(&config(7)).expect("a fleet").len(), 40 * 2 * 288);
        // Written down once: what a seed means must not change with a library or a version of ours.
        let text = format!("{:?}", (first[0].logger, first[0].time));
        assert_eq!(text, "(LoggerId(00124B00DD700001), Millis(2025-01-01T00:00:00.072Z))");
    }

    #[test]
    fn no_reading_comes_twice() {
        let readings = readings(1);
        let keys: HashSet<_> = readings.iter().map(|reading| (reading.logger, reading.time)).collect();
        assert_eq!(keys.len(), readings.len());
    }

    #[test]
    fn values_are_what_sensors_say() {
        let mut resolutions = HashSet::new();
        for reading in readings(3) {
            let [(_, temperature), (_, humidity)] = reading.samples;
            assert!((-35.0..45.0).contains(&temperature), "{temperature}");
            assert!((0.0..=100.0).contains(&humidity), "{humidity}");
            let text = format!("{temperature}");
            assert!(text.len() <= 9, "{text} has digits that no sensor gives");
            let fits = |step: f64| ((temperature / step).round() * step - temperature).abs() < 1e-9;
            assert!(RESOLUTIONS.iter().any(|step| fits(*step)), "{temperature}");
            resolutions.insert(if fits(0.1) {
                0
            } else if fits(0.0625) {
                1
            } else {
                2
            });
        }
        assert_eq!(resolutions.len(), 3, "all makes of sensor are there");
    }

    #[test]
    fn parts_are_the_whole() {
        let mut whole = readings(7);
        let parts = [0..1, 1..17, 17..40].map(|part| Fleet::part(&config(7), part).expect("a part"));
        let mut parts: Vec<_> = parts.into_iter().flatten().collect();
        let order = |a: &SimulatedReading, b: &SimulatedReading| (a.logger, a.time).cmp(&(b.logger, b.time));
        whole.sort_by(order);
        parts.sort_by(order);
        assert_eq!(parts, whole);
        assert!(Fleet::part(&config(7), 40..41).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Fleet::new(&FleetConfig { loggers: 0, ..config(1) }).is_err());
        assert!(Fleet::new(&FleetConfig { interval: Duration::ZERO, ..config(1) }).is_err());
        assert!(Fleet::new(&FleetConfig { days: 0, ..config(1) }).expect("an empty fleet").is_empty());
    }
}
