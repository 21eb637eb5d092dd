//! Random lives of the local store on a file system that fails in every way that it should survive, from seeds: every
//! answer must be true at once, and after kills and power cuts what the answers promised is there.

use super::power::{Objects, Step, found};
use super::*;
use crate::files::FaultCounts;

const NAMES: [&str; 6] = ["a/x", "a/y", "b/c/x", "b/y", "c/d/e/z", "top"];

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    fn name(&mut self) -> &'static str {
        NAMES[usize::try_from(self.roll(NAMES.len() as u64)).expect("small")]
    }

    fn step(&mut self, objects: &Objects) -> Step {
        let (name, from) = (self.name(), self.name());
        let fill = u8::try_from(self.roll(256)).expect("a byte");
        let len = usize::try_from(self.roll(2500)).expect("short");
        match self.roll(8) {
            0..3 => Step::Create(name, fill, len),
            3 | 4 => Step::Overwrite(name, fill, len),
            5 => Step::Parts(name, fill, len),
            6 if objects.contains_key(from) => Step::Copy(from, name),
            _ => Step::Delete(name),
        }
    }

    fn loss(&mut self) -> Loss {
        match self.roll(4) {
            0 => Loss::Process,
            1 => Loss::Unsynced,
            _ => Loss::Some(self.roll(u64::MAX)),
        }
    }
}

/// Reading goes round the faults: what is there is asked, not whether it can be read.
fn look(files: &FaultyFiles, store: &LocalDurable, dice: &mut Dice, rates: FaultRates) -> Objects {
    files.set_faults(0, FaultRates::default());
    let objects = found(store);
    files.set_faults(dice.roll(u64::MAX), rates);
    objects
}

/// Opens until it opens. What fails an open stops a process like anything else.
fn open_at_last(files: &FaultyFiles, dice: &mut Dice, rates: FaultRates) -> LocalDurable {
    loop {
        if dice.roll(2) == 0 {
            files.set_faults(dice.roll(u64::MAX), rates);
        }
        if dice.roll(4) == 0 {
            files.crash_after(dice.roll(3));
        }
        match LocalDurable::open_on(files.clone(), root(), staging()) {
            Ok(store) if !files.is_crashed() => return store,
            _ => files.restart(dice.loss()),
        }
    }
}

fn life(seed: u64) -> FaultCounts {
    let mut dice = Dice(seed);
    let rates = FaultRates {
        write_error: 20_000,
        torn_write: 20_000,
        sync_error: 10_000,
        dir_sync_error: 10_000,
        name_error: 20_000,
        open_error: 20_000,
        ..FaultRates::default()
    };
    let files = FaultyFiles::new();
    let mut store = open_at_last(&files, &mut dice, rates);
    let mut objects = Objects::new();
    for number in 0..120 {
        if dice.roll(20) == 0 {
            files.crash_after(dice.roll(15));
        }
        let step = dice.step(&objects);
        let mut after = objects.clone();
        step.apply(&mut after);
        let answer = step.ask(&store).now_or_never().expect("nothing to wait for");
        let stops = files.is_crashed() || answer.as_ref().is_err_and(is_fatal);
        let what = format!("seed {seed}, step {number}: {answer:?}");
        if answer.is_ok() {
            objects = after.clone();
        }
        if !stops {
            assert_eq!(look(&files, &store, &mut dice, rates), objects, "{what}");
            if dice.roll(30) > 0 {
                continue;
            }
        }
        files.restart(dice.loss());
        store = open_at_last(&files, &mut dice, rates);
        let now = look(&files, &store, &mut dice, rates);
        assert!(now == objects || (stops && now == after), "{what}");
        objects = now;
    }
    files.counts()
}

#[test]
fn in_random_lives_every_answer_is_true() {
    let mut counts = FaultCounts::default();
    for seed in 0..50 {
        counts.add(&life(seed));
    }
    let happened = [
        counts.write_errors,
        counts.torn_writes,
        counts.sync_errors,
        counts.dir_sync_errors,
        counts.name_errors,
        counts.open_errors,
        counts.crashes,
        counts.power_cuts,
        counts.kills,
        counts.sectors_lost,
        counts.sectors_kept,
        counts.names_lost,
        counts.names_kept,
    ];
    assert!(happened.iter().all(|&count| count > 40), "{counts:?}");
}
