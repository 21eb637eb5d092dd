//! The report of a sender: what became of every reading, and what to do about those that are not stored.

use std::time::Duration;

use ingest::RefusalCode;
use ingest::client::{ClientError, RefusedFrame};
use problem::{Problem, Result};
use storage_format::{LoggerId, Millis};

use super::{Origin, explain};

/// A reading that the server refused for its time, in a frame whose other readings were sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateRefusal {
    /// Its logger.
    pub logger: LoggerId,
    /// Its time.
    pub time: Millis,
    /// Where the frame began.
    pub begins: Origin,
}

/// What became of everything.
#[derive(Debug)]
pub struct Outcome {
    /// Readings that are durable.
    pub acknowledged_readings: u64,
    /// Frames that are durable.
    pub acknowledged_frames: u64,
    /// Readings that were refused.
    pub refused_readings: u64,
    /// Frames that were refused, and where they began.
    pub refused: Vec<(RefusedFrame, Option<Origin>)>,
    /// Readings that were left out before they were packed, because the server does not accept their times.
    pub left_out_readings: u64,
    /// Readings that the server refused for their times, in frames whose other readings were sent again.
    pub late_readings: u64,
    /// The first of them, one by one.
    pub late: Vec<LateRefusal>,
    /// Readings without an answer: they may be durable or not.
    pub unanswered_readings: u64,
    /// How often a connection was made after the first.
    pub reconnects: u64,
    /// From the first reading to the last answer.
    pub elapsed: Duration,
    /// What ended it early.
    pub error: Option<ClientError>,
}

/// A number of things, by the word for one of them.
#[must_use]
pub fn counted(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// The time that readings took, and how many a second they were: `0.50 s, 2000 readings/s`.
#[must_use]
pub fn pace(readings: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    match per_second(readings, took) {
        Some(rate) if readings > 0 => format!("{seconds:.2} s, {rate} readings/s"),
        _ => format!("{seconds:.2} s"),
    }
}

/// A number for each second of a time; `None` if there was no time.
#[must_use]
pub fn per_second(number: u64, took: Duration) -> Option<u128> {
    let nanos = took.as_nanos();
    (u128::from(number) * 1_000_000_000 + nanos / 2).checked_div(nanos)
}

/// What to do about a refusal. Readings that come from no file cannot be corrected in one.
fn refusal_help(code: RefusalCode, from_file: bool) -> &'static str {
    match code {
        RefusalCode::OrgSuspended => {
            "nothing is wrong with the readings: ask the server's operator, who lifts the suspension with \
             `icecore org resume`, and send again, which is safe"
        }
        RefusalCode::CertificateRevoked => {
            "nothing is wrong with the readings: enroll the gateway again (`icecore gateway enroll`), and send again, \
             which is safe"
        }
        RefusalCode::NotKept => "the server's log says why; sending again is safe",
        RefusalCode::TooLarge => "--frame-readings makes frames smaller; sending again is safe",
        _ if from_file => "a frame is refused as a whole: correct what is named and send the file again, which is safe",
        RefusalCode::TimeOutOfRange => {
            "a frame is refused as a whole: --start and --days have to stay within the times that the server accepts"
        }
        _ => "are this program and the server of the same version?",
    }
}

impl Outcome {
    /// One line that says it all.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{} acknowledged, {} refused, {}, {}",
            counted(self.acknowledged_readings, "reading"),
            self.refused_readings + self.late_readings,
            counted(self.acknowledged_frames, "frame"),
            pace(self.acknowledged_readings, self.elapsed)
        );
        if self.unanswered_readings > 0 {
            text.push_str(&format!(", {} without an answer", self.unanswered_readings));
        }
        if self.reconnects > 0 {
            text.push_str(&format!(", {}", counted(self.reconnects, "reconnect")));
        }
        text
    }

    /// Fails unless every reading of a simulation was acknowledged.
    ///
    /// # Errors
    /// What ended the sending, or which frames were refused and why.
    pub fn check(&self) -> Result<()> {
        if self.left_out_readings > 0 && self.error.is_none() {
            let what = format!("{} left out", counted(self.left_out_readings, "reading"));
            return Err(Problem::new(what)
                .detail("the server does not accept their times")
                .help("--start and --days have to stay within the times that the server accepts"));
        }
        self.check_sent(false, |origin| format!("reading {}", origin.line))
    }

    /// Fails unless every reading that was sent is acknowledged; those that were left out are the caller's to report.
    /// `place` names an origin.
    ///
    /// # Errors
    /// What ended the sending, or which frames and readings were refused and why.
    pub fn check_sent(&self, from_file: bool, place: impl Fn(Origin) -> String) -> Result<()> {
        /// As many refusals are listed; their number is told in any case.
        const LISTED: usize = 20;
        if let Some(error) = &self.error {
            return Err(explain(error));
        }
        let refused = self.refused_readings + self.late_readings;
        if refused == 0 && self.unanswered_readings == 0 {
            return Ok(());
        }
        let mut lines: Vec<String> = Vec::new();
        for (frame, origin) in self.refused.iter().take(LISTED) {
            let place =
                origin.map_or_else(String::new, |origin| format!(" beginning at {} ({})", place(origin), origin.time));
            // Some reasons have nothing to add to their code, and say it again.
            let said = frame.code.to_string();
            let reason = match frame.detail.as_str() {
                "" => said,
                detail if detail == said => said,
                detail => format!("{said}: {detail}"),
            };
            lines.push(format!(
                "{reason}; the frame of {}{place} was refused whole",
                counted(frame.readings, "reading")
            ));
        }
        if self.refused.len() > LISTED {
            lines.push(format!("and {} more", counted((self.refused.len() - LISTED) as u64, "frame")));
        }
        for late in self.late.iter().take(LISTED) {
            lines.push(format!(
                "the reading of logger {} at {}, in the frame beginning at {}: its time is out of the accepted range",
                late.logger,
                late.time,
                place(late.begins)
            ));
        }
        let listed = self.late.len().min(LISTED) as u64;
        if self.late_readings > listed {
            lines.push(format!(
                "and {} more out of the accepted range",
                counted(self.late_readings - listed, "reading")
            ));
        }
        let they = if refused == 1 { "it is" } else { "they are" };
        let what = format!("the server refused {}; {they} not stored", counted(refused, "reading"));
        let mut helps: Vec<&str> = Vec::new();
        if self.late_readings > 0 {
            helps.push("correct the times of these readings and send the file again, which is safe");
        }
        for (frame, _) in &self.refused {
            let help = refusal_help(frame.code, from_file);
            if !helps.contains(&help) {
                helps.push(help);
            }
        }
        Err(Problem::new(what).detail(lines.join("\n")).help(helps.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_rounded_and_needs_time_and_readings() {
        for (readings, ms, text) in [
            (1_000, 500, "0.50 s, 2000 readings/s"),
            (2, 3_000, "3.00 s, 1 readings/s"),
            (0, 3_000, "3.00 s"),
            (5, 0, "0.00 s"),
        ] {
            assert_eq!(pace(readings, Duration::from_millis(ms)), text);
        }
        assert_eq!(per_second(u64::MAX, Duration::from_nanos(1)), Some(u128::from(u64::MAX) * 1_000_000_000));
    }
}
