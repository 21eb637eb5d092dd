//! Sums of doubles that do not lose what is smaller than their last bit: to be rounded once, at the end.
//!
//! Two doubles hold a sum: the rounded one, and what rounding took from it (Knuth's two-sum, added up). The result is off
//! by a bit of the last place of the sum, and by `n * 2^-105` of the sum of the absolute values.

/// Values from here on are added in smaller units, so that sums of both signs do not overflow on the way.
const HUGE: f64 = 8.452_712_498_170_644e270; // 2^900
/// The root of that.
const HUGE_ROOT: f64 = 2.907_354_897_182_427_6e135; // 2^450
const UP: f64 = (1_u64 << 50) as f64 * (1_u64 << 50) as f64;
const DOWN: f64 = 1.0 / UP;

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Pair {
    high: f64,
    low: f64,
}

impl Pair {
    #[inline]
    fn add(&mut self, value: f64) {
        let sum = self.high + value;
        let of_value = sum - self.high;
        self.low += (self.high - (sum - of_value)) + (value - of_value);
        self.high = sum;
    }
}

/// A sum of finite doubles.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Sum {
    pair: Pair,
    /// The sum of what is too large for the pair, in units of 2^100.
    huge: Pair,
}

impl Sum {
    pub(super) const ZERO: Self = Self { pair: Pair { high: 0.0, low: 0.0 }, huge: Pair { high: 0.0, low: 0.0 } };

    #[inline]
    pub(super) fn add(&mut self, value: f64) {
        self.add_times(value, 1.0);
    }

    /// Adds a value so many times, at most some millions.
    #[inline]
    pub(super) fn add_times(&mut self, value: f64, times: f64) {
        if value.abs() < HUGE {
            self.pair.add(value * times);
        } else {
            self.huge.add(value * DOWN * times);
        }
    }

    /// Adds the square of a value.
    #[inline]
    pub(super) fn add_square(&mut self, value: f64) {
        if value.abs() < HUGE_ROOT {
            self.pair.add(value * value);
        } else {
            self.huge.add(value * (value * DOWN));
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, others) in [(&mut self.pair, &other.pair), (&mut self.huge, &other.huge)] {
            mine.add(others.high);
            mine.add(others.low);
        }
    }

    /// Returns the sum, rounded; infinite if it is beyond all doubles. Never a negative zero.
    pub(super) fn value(&self) -> f64 {
        if self.huge == Pair::default() {
            return self.pair.high + self.pair.low + 0.0;
        }
        if self.huge.high.is_infinite() {
            return self.huge.high;
        }
        let mut all = self.huge;
        all.add(self.pair.high * DOWN);
        all.add(self.pair.low * DOWN);
        (all.high + all.low) * UP + 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[f64]) -> f64 {
        let mut sum = Sum::default();
        values.iter().for_each(|value| sum.add(*value));
        sum.value()
    }

    #[test]
    fn small_values_are_not_lost_beside_large_ones() {
        assert_eq!(sum(&[1e100, 1.0, -1e100]).to_bits(), 1.0_f64.to_bits());
        assert_eq!(sum(&[0.1; 10]).to_bits(), 1.0_f64.to_bits());
        assert_eq!(sum(&[-0.0]).to_bits(), 0);
        let mut merged = Sum::default();
        for part in [[1e16, 1.0], [1.0, -1e16]] {
            let mut other = Sum::default();
            part.iter().for_each(|value| other.add(*value));
            merged.merge(&other);
        }
        assert_eq!(merged.value().to_bits(), 2.0_f64.to_bits());
    }

    #[test]
    fn sums_overflow_only_when_they_must() {
        assert_eq!(sum(&[1.5e308, 1.5e308, -1.5e308, -1e308]).to_bits(), 0.5e308_f64.to_bits());
        assert_eq!(sum(&[1.5e308, 1.5e308]), f64::INFINITY);
        assert_eq!(sum(&[-1.5e308, 1.0, -1.5e308]), f64::NEG_INFINITY);
    }
}
