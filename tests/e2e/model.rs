//! What a load's readings are, by computation alone, and the comparison of an answer with what must and may be in it.

use kit::SplitMix64;

/// Whose rows they are. The seed makes the values of two runs differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) seed: u64,
    pub(crate) org: u8,
    pub(crate) gateway: u8,
}

/// One row: the first value that is ever sent, and the one that a forger sends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    pub(crate) logger: u64,
    pub(crate) time_ms: i64,
    pub(crate) temperature: f64,
    pub(crate) forged: f64,
    pub(crate) humidity: Option<f64>,
}

const FIRST_LOGGER: u64 = 0x0012_4B00_0A6E_0001;
/// Of each gateway.
const LOGGERS: u32 = 8;
const START_MS: i64 = 1_706_572_800_000;
const MINUTE_MS: i64 = 60_000;
/// Readings are five minutes apart, so a run soon crosses into the next month's window ...
const STEP_MINUTES: i64 = 5;
/// ... and each sixteenth comes this late, into windows that have long had segments. One minute beside the others.
const LATE_MINUTES: i64 = 40 * 1440 - 1;
const LATE_EACH: i64 = 16;

fn time_ms(step: i64) -> i64 {
    let late = if step % LATE_EACH == LATE_EACH - 1 { LATE_MINUTES } else { 0 };
    START_MS + (step * STEP_MINUTES - late) * MINUTE_MS
}

/// No row before this one has a later time.
pub(crate) fn time_since(row: u32) -> i64 {
    START_MS + i64::from(row / LOGGERS) * STEP_MINUTES * MINUTE_MS
}

/// The row of this gateway.
pub(crate) fn reading(place: Place, row: u32) -> Reading {
    let mut dice = SplitMix64::new(place.seed ^ (u64::from(place.org) << 48) ^ (u64::from(place.gateway) << 40));
    let mut dice = SplitMix64::new(dice.any() ^ u64::from(row));
    let hundredths = |value: u64| f64::from(i32::try_from(value).expect("small")) / 100.0;
    let temperature = dice.below(5_000);
    let humidity = dice.below(10_001);
    Reading {
        logger: FIRST_LOGGER + u64::from(u32::from(place.gateway) * LOGGERS + row % LOGGERS),
        time_ms: time_ms(i64::from(row / LOGGERS)),
        temperature: hundredths(temperature),
        forged: hundredths(temperature + 6_000),
        humidity: (row % 7 != 3).then(|| hundredths(humidity)),
    }
}

/// The gateway and row of a key, if there is one.
fn row_of(logger: u64, time_ms: i64) -> Option<(u8, u32)> {
    let number = u32::try_from(logger.checked_sub(FIRST_LOGGER)?).ok()?;
    let minutes = (time_ms - START_MS) / MINUTE_MS;
    let late = minutes.rem_euclid(STEP_MINUTES) != 0;
    let step = (minutes + if late { LATE_MINUTES } else { 0 }) / STEP_MINUTES;
    if step < 0 || self::time_ms(step) != time_ms {
        return None;
    }
    let row = u32::try_from(step).ok()?.checked_mul(LOGGERS)? + number % LOGGERS;
    Some((u8::try_from(number / LOGGERS).ok()?, row))
}

/// A line of the list of conflicts, as it must be for this row.
pub(crate) fn conflict_line(place: Place, row: u32) -> String {
    let Reading { logger, time_ms, temperature, forged, .. } = reading(place, row);
    format!("{logger},{time_ms},temperature,{temperature:?},{forged:?}")
}

/// Compares an answer of one organisation (CSV: logger, milliseconds, temperature, humidity, in any order) with its
/// gateways' rows. Of each gateway all rows before `acked` with times from `since_ms` on must be there, those before
/// `sent` may be, each once and with its first value, and nothing else. Answers how many there are.
pub(crate) fn compare(org: Place, acked: &[u32], sent: &[u32], since_ms: i64, answer: &str) -> Result<u64, String> {
    let mut found: Vec<Vec<bool>> = sent.iter().map(|rows| vec![false; *rows as usize]).collect();
    let mut count = 0;
    for line in answer.lines().skip(1) {
        let fault = |what: &str| format!("{what}: {line}");
        let mut cells = line.split(',');
        let mut cell = || cells.next().unwrap_or_default();
        let (logger, time_ms) = (cell().parse(), cell().parse());
        let (Ok(logger), Ok(time_ms)) = (logger, time_ms) else { return Err(fault("not a reading")) };
        let (temperature, humidity) = (cell().parse().ok(), cell().parse().ok());
        let (gateway, row) = row_of(logger, time_ms).ok_or_else(|| fault("never sent: no gateway has such a key"))?;
        let place = found.get_mut(usize::from(gateway)).and_then(|rows| rows.get_mut(row as usize));
        let place = place.ok_or_else(|| fault(&format!("never sent: row {row} of gateway {gateway}")))?;
        if std::mem::replace(place, true) {
            return Err(fault(&format!("there twice: row {row} of gateway {gateway}")));
        }
        let first = reading(Place { gateway, ..org }, row);
        if temperature != Some(first.temperature) || humidity != first.humidity {
            return Err(fault(&format!("not the first value of row {row} of gateway {gateway}, which is {first:?}")));
        }
        count += 1;
    }
    for (gateway, (acked, found)) in (0..).zip(acked.iter().zip(&found)) {
        let lost = |row: &u32| !found[*row as usize] && reading(Place { gateway, ..org }, *row).time_ms >= since_ms;
        let lost: Vec<_> = (0..*acked).filter(lost).collect();
        if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
            return Err(format!(
                "acknowledged and lost: {} rows of gateway {gateway}, between {first} and {last} of {acked} \
                 acknowledged; the first is {:?}",
                lost.len(),
                reading(Place { gateway, ..org }, *first)
            ));
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORG: Place = Place { seed: 7, org: 1, gateway: 0 };

    fn line(place: Place, row: u32) -> String {
        let Reading { logger, time_ms, temperature, humidity, .. } = reading(place, row);
        format!("{logger},{time_ms},{temperature:?},{}\n", humidity.map_or(String::new(), |h| format!("{h:?}")))
    }

    /// Two gateways of 300 rows each, the whole of them.
    fn whole() -> Vec<String> {
        let rows = (0..2).flat_map(|gateway| (0..300).map(move |row| line(Place { gateway, ..ORG }, row)));
        std::iter::once("logger,ms,temperature,humidity\n".to_owned()).chain(rows).collect()
    }

    fn compared(lines: &[String], acked: [u32; 2], sent: [u32; 2], since_ms: i64) -> Result<u64, String> {
        compare(ORG, &acked, &sent, since_ms, &lines.concat())
    }

    #[test]
    fn keys_are_unique_and_lead_back() {
        for row in 0..100_000 {
            let Reading { logger, time_ms, .. } = reading(Place { gateway: 2, ..ORG }, row);
            assert_eq!(row_of(logger, time_ms), Some((2, row)));
            assert!(time_ms <= time_since(row));
        }
    }

    #[test]
    fn what_must_be_and_may_be_is_accepted() {
        assert_eq!(compared(&whole(), [300, 300], [300, 300], i64::MIN), Ok(600));
        assert_eq!(compared(&whole(), [0, 0], [300, 300], i64::MIN), Ok(600), "not acknowledged, and there");
        assert_eq!(compared(&whole()[..301], [300, 0], [300, 300], i64::MIN), Ok(300), "not acknowledged, and absent");
        let late: Vec<_> = whole().into_iter().filter(|line| row_time(line) >= time_since(160)).collect();
        assert!(compared(&late, [300, 300], [300, 300], time_since(160)).is_ok(), "only what was asked for");
    }

    fn row_time(line: &str) -> i64 {
        line.split(',').nth(1).and_then(|ms| ms.parse().ok()).unwrap_or(i64::MAX)
    }

    #[test]
    fn whatever_is_wrong_is_found() {
        let fault = |change: &dyn Fn(&mut Vec<String>), says: &str| {
            let mut lines = whole();
            change(&mut lines);
            let fault = compared(&lines, [300, 300], [300, 300], i64::MIN).expect_err(says);
            assert!(fault.contains(says), "{fault}");
        };
        fault(&|lines| drop(lines.remove(17)), "lost");
        fault(&|lines| drop(lines.pop()), "lost");
        fault(&|lines| lines.push(lines[5].clone()), "twice");
        fault(&|lines| lines.push(line(Place { gateway: 1, ..ORG }, 300)), "never sent");
        fault(&|lines| lines.push(line(Place { gateway: 2, ..ORG }, 0)), "never sent");
        fault(&|lines| lines[9] = line(Place { org: 0, ..ORG }, 8), "first value");
        fault(
            &|lines| {
                let Reading { temperature, forged, .. } = reading(ORG, 8);
                lines[9] = lines[9].replace(&format!(",{temperature:?},"), &format!(",{forged:?},"));
            },
            "first value",
        );
    }
}
