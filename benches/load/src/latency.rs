//! Latencies: recorded in nanoseconds, reported in milliseconds, written in the percentile text form of HdrHistogram.

use std::io::{self, Write};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Resolution: a microsecond.
const NANOS_MIN: u64 = 1_000;
/// Upper limit: a longer latency counts as this.
const NANOS_MAX: u64 = 3_600_000_000_000;
/// Significant digits.
const DIGITS: u8 = 3;
/// Number of lines for each halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 5;

/// A histogram of latencies.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

/// Percentiles of latencies in a report, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
    /// The 99.99th percentile.
    pub p9999: f64,
    /// The maximum.
    pub max: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// Creates an empty histogram.
    ///
    /// # Panics
    /// Never, because the bounds are constants that are valid together, which a test checks.
    #[must_use]
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(NANOS_MIN, NANOS_MAX, DIGITS).expect("valid bounds"))
    }

    /// Adds a latency.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(NANOS_MAX));
    }

    /// Adds the latencies of another histogram.
    pub fn add(&mut self, other: &Self) {
        // It cannot fail, because both histograms have the same bounds.
        let _fits = self.0.add(&other.0);
    }

    /// Returns the number of latencies.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Returns whether there are no latencies.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a quantile in milliseconds; `quantile` is 0.5 for the median. It is zero without latencies.
    #[must_use]
    pub fn ms(&self, quantile: f64) -> f64 {
        nanos_to_ms(self.0.value_at_quantile(quantile))
    }

    /// Returns the percentiles of a report.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            p50: self.ms(0.5),
            p90: self.ms(0.9),
            p99: self.ms(0.99),
            p999: self.ms(0.999),
            p9999: self.ms(0.9999),
            max: nanos_to_ms(self.0.max()),
        }
    }

    /// Writes the percentile text form (`.hgrm`) that HdrHistogram's tools and plotters read; values are in
    /// milliseconds.
    ///
    /// # Errors
    /// The error of `out`.
    pub fn write_hgrm(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
        let mut count = 0;
        for step in self.0.iter_quantiles(TICKS_PER_HALF) {
            let (value, quantile) = (nanos_to_ms(step.value_iterated_to()), step.quantile_iterated_to());
            count += step.count_since_last_iteration();
            if quantile < 1.0 {
                writeln!(out, "{value:>12.3} {quantile:>14.12} {count:>10} {:>14.2}", 1.0 / (1.0 - quantile))?;
            } else {
                writeln!(out, "{value:>12.3} {quantile:>14.12} {count:>10}")?;
            }
        }
        let (mean, deviation) = (self.0.mean() / 1e6, self.0.stdev() / 1e6);
        writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]")?;
        writeln!(out, "#[Max     = {:>12.3}, Total count    = {:>12}]", nanos_to_ms(self.0.max()), self.0.len())?;
        writeln!(out, "#[Buckets = {:>12}, SubBuckets     = {:>12}]", self.0.buckets(), 2048)
    }
}

fn nanos_to_ms(nanos: u64) -> f64 {
    // Rounds to six digits after the point, which are nanoseconds.
    (nanos as f64 / 1e6 * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thousand() -> Latencies {
        let mut latencies = Latencies::new();
        for ms in 1..=1_000 {
            latencies.record(Duration::from_millis(ms));
        }
        latencies
    }

    #[test]
    fn percentiles_match_the_recorded_latencies() {
        let all = thousand().percentiles();
        for (found, expected) in
            [(all.p50, 500.0), (all.p90, 900.0), (all.p99, 990.0), (all.p999, 999.0), (all.max, 1e3)]
        {
            assert!((found / expected - 1.0).abs() < 0.002, "{found}, expected {expected}");
        }
        assert_eq!(Latencies::new().percentiles(), Percentiles::default());
    }

    #[test]
    fn added_latencies_count_as_recorded() {
        let (mut first, mut second) = (Latencies::new(), thousand());
        first.record(Duration::from_secs(2));
        first.record(Duration::from_secs(100_000));
        second.add(&first);
        assert_eq!(second.len(), 1_002);
        assert!(second.percentiles().max >= 3_599_000.0, "a latency above the limit counts as the limit");
    }

    #[test]
    fn the_text_form_can_be_parsed() {
        let mut text = Vec::new();
        thousand().write_hgrm(&mut text).expect("written");
        let text = String::from_utf8(text).expect("text");
        let mut lines = text.lines();
        assert!(lines.next().expect("a header").split_whitespace().eq([
            "Value",
            "Percentile",
            "TotalCount",
            "1/(1-Percentile)"
        ]));
        let rows: Vec<Vec<f64>> = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|field| field.parse().expect("a number")).collect())
            .collect();
        assert!(rows.len() > 10, "{text}");
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]), "{text}");
        let last = rows.last().expect("a last row");
        assert!((last[1] - 1.0).abs() < 1e-9 && (last[2] - 1_000.0).abs() < 1e-9, "{text}");
        assert!(text.contains("#[Mean") && text.contains("Total count    =         1000]"), "{text}");
    }
}
