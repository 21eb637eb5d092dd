//! Exact sums of floats.
//!
//! A sum of floats that is rounded at each addition depends on the order of its values, hence on partitions and on
//! which thread was quicker; and a frame that slides by subtraction carries rounding and infinities on to its end. So
//! `sum` and `avg` keep the exact sum and round once, when it is asked for.
//!
//! [`ExactSum`] is a fixed point number of 128 bits for ordinary values, which costs a shift and an addition each, and
//! beside it, once a value needs it, an integer that has a bit for each bit that a double can have ([`Wide`]; after
//! R. Neal, "Fast exact summation using small and large superaccumulators", 2015). Both are exact, so that they may
//! share values in any way. Infinities and NaNs are counted, not added: they leave a frame as they came.

mod accumulator;
mod groups;
mod state;
#[cfg(test)]
mod tests;
mod wide;

pub(super) use accumulator::{DistinctAccumulator, SumAccumulator};
pub(super) use groups::SumGroupsAccumulator;
pub(super) use state::state_fields;

use wide::Wide;

/// What is asked of the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// The sum itself, rounded to the nearest double.
    Sum,
    /// The sum, rounded, divided by the number of values, rounded.
    Average,
}

/// The exact sum of any doubles, and how many they are. Values can be taken out again.
#[derive(Debug, Clone, Default)]
struct ExactSum {
    /// The sum of what fits, in units of 2^-[`FRACTION_BITS`].
    fixed: i128,
    /// The sum of all else.
    wide: Option<Box<Wide>>,
    count: u64,
}

/// Bits of the fixed point number after the point. A double of at least 2^-20 has no bit below these.
const FRACTION_BITS: u64 = 72;

/// The greatest shift of a mantissa into the fixed point number: doubles below 2^51 fit. So it overflows after 16
/// values at the soonest, which is looked for.
const SHIFT_MAX: u64 = 70;

/// Bits of a double's mantissa that are stored.
const MANTISSA_BITS: u64 = 52;

/// The exponent field of a double whose mantissa, as an integer, counts units of 1.
const EXPONENT_OF_UNITS: u64 = 1075;

/// The double as a fixed point number, if it fits.
#[inline]
fn fixed(value: f64) -> Option<i128> {
    let bits = value.to_bits();
    let exponent = (bits >> MANTISSA_BITS) & 0x7FF;
    let mantissa = (bits & ((1 << MANTISSA_BITS) - 1)) | (1 << MANTISSA_BITS);
    let shift = exponent.wrapping_sub(EXPONENT_OF_UNITS - FRACTION_BITS);
    if shift > SHIFT_MAX {
        return if value == 0.0 { Some(0) } else { None };
    }
    let mantissa = mantissa.cast_signed();
    Some(i128::from(if value.is_sign_negative() { -mantissa } else { mantissa }) << shift)
}

impl ExactSum {
    /// Adds all of these.
    fn add(&mut self, values: impl Iterator<Item = f64>) {
        // In registers: the compiler cannot see that the wide part is elsewhere.
        let (mut sum, mut count) = (self.fixed, self.count);
        for value in values {
            count += 1;
            match fixed(value) {
                Some(term) => match sum.checked_add(term) {
                    Some(added) => sum = added,
                    None => self.carry(std::mem::replace(&mut sum, term)),
                },
                None => self.wide_mut().add(value),
            }
        }
        (self.fixed, self.count) = (sum, count);
    }

    /// Takes out all of these, which were added before.
    fn subtract(&mut self, values: impl Iterator<Item = f64>) {
        for value in values {
            self.count -= 1;
            match fixed(value) {
                Some(term) => self.add_fixed(-term),
                None => self.wide_mut().subtract(value),
            }
        }
    }

    fn add_fixed(&mut self, term: i128) {
        match self.fixed.checked_add(term) {
            Some(sum) => self.fixed = sum,
            None => {
                let full = std::mem::replace(&mut self.fixed, term);
                self.carry(full);
            }
        }
    }

    /// Moves a sum of fixed point numbers that would overflow into the wide part.
    fn carry(&mut self, full: i128) {
        self.wide_mut().add_fixed(full);
    }

    /// Adds the values of another sum.
    fn merge(&mut self, fixed: i128, wide: Option<&Wide>, count: u64) {
        self.count += count;
        self.add_fixed(fixed);
        if let Some(wide) = wide {
            self.wide_mut().merge(wide);
        }
    }

    #[cold]
    fn wide_mut(&mut self) -> &mut Wide {
        self.wide.get_or_insert_with(Box::default)
    }

    /// The answer; `None` without values. Never a negative zero.
    fn answer(&self, question: Question) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        Some(match question {
            Question::Sum => self.rounded(),
            Question::Average => self.average(),
        })
    }

    fn rounded(&self) -> f64 {
        match &self.wide {
            None => self.fixed as f64 * FIXED_UNIT,
            Some(wide) => wide.plus_fixed(self.fixed).rounded(),
        }
    }

    fn average(&self) -> f64 {
        let count = self.count as f64;
        let average = match &self.wide {
            None => self.rounded() / count,
            Some(wide) => wide.plus_fixed(self.fixed).average(count),
        };
        // A quotient can be too small for a double.
        average + 0.0
    }
}

/// 2^-[`FRACTION_BITS`].
const FIXED_UNIT: f64 = 1.0 / (1_u128 << FRACTION_BITS) as f64;
