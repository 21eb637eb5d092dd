//! SIGKILL again and again, under load: while frames come in, while buffers are flushed, while the server starts, stops
//! or idles. After each start everything that was acknowledged must be there, once, with its first value.
//!
//! `KILL_CYCLES` says how many kills (a few by default), `KILL_SEED` draws the same kinds of kills and readings again
//! (times are the machine's, so a seed makes a failure likely to come again, not sure). `ICECORE` names another build.
//! `KILL_REPORT` names a file for the figures. `make kill CYCLES=1000` sets all but the seed. With `E2E_KEEP` the data
//! directory of a failure stays.

#![allow(clippy::print_stdout, reason = "the seed and the figures are for whoever reads the test's output")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use kit::SplitMix64;

use crate::load::{Load, Shape};
use crate::server::{Icecore, PATIENCE};

/// Small limits, so that a short life of a server has flushes and new WAL files in it.
const BUSY: &[(&str, &str)] = &[
    ("ICECORE_ENGINE__FLUSH_AGE", "1s"),
    ("ICECORE_ENGINE__FLUSH_BYTES", "128 KiB"),
    ("ICECORE_ENGINE__SCHEDULE_INTERVAL", "20ms"),
    ("ICECORE_ENGINE__FLUSH_RETRY_MIN", "20ms"),
    ("ICECORE_ENGINE__GROUP_BYTES_MAX", "2 MiB"),
    ("ICECORE_ENGINE__WAL_FILE_BYTES", "3 MiB"),
    ("ICECORE_ENGINE__WAL_BYTES_MAX", "48 MiB"),
];

/// Kills of one data directory: then a fresh one, so that the last cycle costs no more than the first.
const ROUND: u64 = 50;
/// Each so many cycles everything is looked at, not only what is new.
const EVERYTHING_EACH: u64 = 10;

/// What a kill interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Frames coming in, and whatever else goes on.
    Load,
    /// An object that is being written: the kill comes as soon as one shows.
    Flush,
    /// The start, recovery included.
    Start,
    /// Nothing.
    Idle,
    /// A clean stop under way.
    Stop,
}

const MOMENTS: [Moment; 5] = [Moment::Load, Moment::Flush, Moment::Start, Moment::Idle, Moment::Stop];

impl Moment {
    fn draw(dice: &mut SplitMix64) -> Self {
        match dice.below(100) {
            0..50 => Self::Load,
            50..70 => Self::Flush,
            70..88 => Self::Start,
            88..94 => Self::Idle,
            _ => Self::Stop,
        }
    }
}

#[derive(Debug, Default)]
struct Figures {
    passed: u64,
    failed: u64,
    kills: [u64; MOMENTS.len()],
    /// Kills of `Moment::Start` that came before the server was ready.
    before_ready: u64,
    /// Kills that left an object half written.
    torn_objects: u64,
    acknowledged: u64,
    compared: u64,
    flushes: u64,
    reconnects: u64,
}

impl Figures {
    fn text(&self, seed: u64, took: Duration) -> String {
        let kills: Vec<_> = MOMENTS.iter().zip(self.kills).map(|(moment, n)| format!("{n} {moment:?}")).collect();
        format!(
            "seed {seed}, {:.0} s; kills: {} ({} before ready); {} left an object half written\n\
             {} readings acknowledged and checked, {} comparisons; {} flushes, {} reconnects\n\
             {} passed, {} failed\n",
            took.as_secs_f64(),
            kills.join(", "),
            self.before_ready,
            self.torn_objects,
            self.acknowledged,
            self.compared,
            self.flushes,
            self.reconnects,
            self.passed,
            self.failed
        )
    }
}

fn number(name: &str, otherwise: impl FnOnce() -> u64) -> u64 {
    let set = std::env::var(name).ok().filter(|text| !text.is_empty());
    set.map_or_else(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")))
}

/// Sleeps until something shows in the directory, or the time is over.
fn wait_for_entry(dir: &Path, at_most: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < at_most && !has_entry(dir) {
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn has_entry(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

struct Round {
    icecore: Icecore,
    load: Load,
    dice: SplitMix64,
    start_ms: u64,
}

impl Round {
    fn new(seed: u64) -> Self {
        let mut icecore = Icecore::with_environment(BUSY);
        let begun = Instant::now();
        icecore.start();
        let start_ms = u64::try_from(begun.elapsed().as_millis()).expect("short");
        // Less to compare in each look, so that more kills fit into a minute.
        let shape = Shape { rows_max: 40, pause_max: Duration::from_millis(30), ..Shape::new(seed) };
        let load = Load::begin(&icecore, shape);
        Self { icecore, load, dice: SplitMix64::new(seed ^ 0x5EED), start_ms }
    }

    fn sleep(&mut self, ms_max: u64) {
        std::thread::sleep(Duration::from_micros(self.dice.below(ms_max * 1_000 + 1)));
    }

    /// From a running server over a kill to a running server whose readings were looked at.
    fn cycle(&mut self, everything: bool, figures: &mut Figures) {
        let moment = Moment::draw(&mut self.dice);
        let staging = Path::new(&self.icecore.data_dir()).join("tmp/store");
        // A server that took nothing new has nothing new to lose.
        assert!(self.load.wait_for_acks(3, PATIENCE), "nothing is acknowledged any more");
        match moment {
            Moment::Load => self.sleep(400),
            Moment::Flush => {
                wait_for_entry(&staging, Duration::from_millis(1_500));
                self.sleep(6);
            }
            Moment::Start => {
                self.sleep(50);
                self.icecore.kill();
                // Several in a row: a recovery that was itself interrupted.
                for _ in 0..=self.dice.below(3) {
                    let log = self.icecore.log().len();
                    self.icecore.launch();
                    self.sleep(self.start_ms * 5 / 4);
                    self.icecore.kill();
                    figures.before_ready += u64::from(!self.icecore.log()[log..].contains("ready http="));
                }
                self.icecore.launch();
                self.sleep(self.start_ms);
            }
            Moment::Idle => {
                self.load.pause(true);
                std::thread::sleep(Duration::from_millis(60));
                self.sleep(60);
            }
            Moment::Stop => {
                self.sleep(100);
                self.icecore.signal("TERM");
                self.sleep(60);
            }
        }
        self.icecore.kill();
        self.load.pause(false);
        figures.kills[moment as usize] += 1;
        figures.torn_objects += u64::from(has_entry(&staging));
        self.icecore.start();
        figures.compared += self.load.check(&self.icecore, everything);
        figures.passed += 1;
    }

    fn run(mut self, cycles: u64, figures: &mut Figures) {
        for cycle in 1..=cycles {
            self.cycle(cycle % EVERYTHING_EACH == 0, figures);
        }
        figures.reconnects += self.load.reconnects();
        figures.acknowledged += self.load.finish(&self.icecore);
        // Nothing removes a manifest yet, and each flush commits one; an organisation begins with one.
        figures.flushes += (self.icecore.files("/manifest/").len() as u64).saturating_sub(2);
    }
}

#[test]
fn acknowledged_readings_survive_any_kill() {
    let begun = Instant::now();
    let cycles = number("KILL_CYCLES", || 10);
    // Another one each time: over the runs of many machines this sees more than one lucky seed.
    let seed = number("KILL_SEED", || u64::from(std::process::id()) << 20 | u64::from(begun_at().subsec_micros()));
    println!("KILL_SEED={seed} KILL_CYCLES={cycles}");
    let mut figures = Figures::default();
    let mut left = cycles;
    for round in 0.. {
        let (now, seed) = (left.min(ROUND), seed.wrapping_add(round));
        let failed = catch_unwind(AssertUnwindSafe(|| Round::new(seed).run(now, &mut figures))).is_err();
        if failed {
            figures.failed += 1;
            println!("failed in the round of KILL_SEED={seed} KILL_CYCLES={now}");
        }
        left -= now;
        if left == 0 || figures.failed > 3 {
            break;
        }
        println!("{} cycles, {:.0} s", cycles - left, begun.elapsed().as_secs_f64());
    }
    let text = figures.text(seed, begun.elapsed());
    println!("{text}");
    if let Some(report) = std::env::var_os("KILL_REPORT") {
        fs::write(report, &text).expect("the report can be written");
    }
    assert_eq!(figures.failed, 0, "a kill lost or changed something: see above, and set KILL_SEED to see it again");
    assert!(figures.flushes > 0, "no flush in the whole run: nothing of what a kill can do to one was seen");
}

/// The wall clock, for a seed: the one place where it need not be held still.
#[allow(clippy::disallowed_methods, reason = "a seed wants to be another one each time")]
fn begun_at() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}
