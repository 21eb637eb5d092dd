//! Exact sums of floats.
//!
//! A sum of floats that is rounded at each addition depends on the order of its values, hence on partitions and the
//! speed of threads; and a sliding frame that subtracts values from it keeps their rounding and infinities. So `sum` and
//! `avg` keep the exact sum, and round when they return it.
//!
//! [`ExactSum`] is a fixed point number of 128 bits for ordinary values, which costs a shift and an addition each, and
//! beside it, once a value needs it, an integer that has a bit for each bit that a double can have ([`Wide`]; after
//! R. Neal, "Fast exact summation using small and large superaccumulators", 2015). Both are exact, so that they may
//! share values in any way. Infinities and NaNs are counted, not added: they leave a frame as they came.

mod accumulator;
mod groups;
mod partial;
mod state;
#[cfg(test)]
mod tests;
mod wide;

pub(super) use accumulator::{DistinctAccumulator, SumAccumulator};
pub(super) use groups::SumGroupsAccumulator;
pub(super) use partial::{PartialAverageAccumulator, PartialAverageGroups};
pub(super) use state::state_fields;

use wide::Wide;

/// What an aggregate returns of its exact sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// The sum itself, rounded to the nearest double.
    Sum,
    /// The rounded sum divided by the number of values, rounded. Finite if all values are.
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

/// The greatest shift of a mantissa into the fixed point number: doubles below 2^44 fit, among them milliseconds since
/// 1970. So the sum of 2,048 values can overflow, which each addition checks.
const SHIFT_MAX: u64 = 63;

/// Bits of a double's mantissa that are stored.
const MANTISSA_BITS: u64 = 52;

/// The exponent field of a double whose mantissa, as an integer, counts units of 1.
const EXPONENT_OF_UNITS: u64 = 1075;

/// The double as a fixed point number, if it fits.
#[inline]
fn fixed_point(value: f64) -> Option<i128> {
    let bits = value.to_bits();
    let exponent = (bits >> MANTISSA_BITS) & 0x7FF;
    let mantissa = (bits & ((1 << MANTISSA_BITS) - 1)) | (1 << MANTISSA_BITS);
    let shift = exponent.wrapping_sub(EXPONENT_OF_UNITS - FRACTION_BITS);
    if shift > SHIFT_MAX {
        return if value == 0.0 { Some(0) } else { None };
    }
    let mantissa = mantissa.cast_signed();
    // The mask changes nothing, but tells the compiler that the shift is short.
    Some(i128::from(if value.is_sign_negative() { -mantissa } else { mantissa }) << (shift & SHIFT_MAX))
}

/// What the fixed point number cannot take.
#[derive(Debug, Clone, Copy)]
enum Excess {
    /// A value that does not fit.
    Value(f64),
    /// A sum to which one more number would have been too much.
    Fixed(i128),
}

impl Excess {
    #[cold]
    fn add_to(self, wide: &mut Option<Box<Wide>>) {
        match self {
            Self::Value(value) => widened(wide).add(value),
            Self::Fixed(fixed) => widened(wide).add_fixed(fixed),
        }
    }
}

fn widened(wide: &mut Option<Box<Wide>>) -> &mut Wide {
    wide.get_or_insert_with(Box::default)
}

/// Adds the value to the fixed point number, and returns what is left to add to the wide one.
#[inline]
fn add_fixed_point(sum: &mut i128, value: f64) -> Option<Excess> {
    match fixed_point(value) {
        Some(term) => add_or_replace(sum, term),
        None => Some(Excess::Value(value)),
    }
}

/// Adds the number to the sum; or puts it in the place of a sum that would overflow, and returns that.
#[inline]
fn add_or_replace(sum: &mut i128, term: i128) -> Option<Excess> {
    match sum.checked_add(term) {
        Some(added) => {
            *sum = added;
            None
        }
        None => Some(Excess::Fixed(std::mem::replace(sum, term))),
    }
}

impl ExactSum {
    /// Adds all of these.
    fn add(&mut self, values: impl Iterator<Item = f64>) {
        // In registers: the compiler cannot see that the wide part is elsewhere.
        let (mut fixed, mut count) = (self.fixed, self.count);
        for value in values {
            count += 1;
            if let Some(wide) = add_fixed_point(&mut fixed, value) {
                wide.add_to(&mut self.wide);
            }
        }
        (self.fixed, self.count) = (fixed, count);
    }

    /// Takes out all of these, which were added before.
    fn subtract(&mut self, values: impl Iterator<Item = f64>) {
        for value in values {
            self.count -= 1;
            match fixed_point(value) {
                Some(term) => self.add_fixed(-term),
                None => widened(&mut self.wide).subtract(value),
            }
        }
    }

    fn add_fixed(&mut self, term: i128) {
        if let Some(excess) = add_or_replace(&mut self.fixed, term) {
            excess.add_to(&mut self.wide);
        }
    }

    /// Adds the values of another sum.
    fn merge(&mut self, fixed: i128, wide: Option<&Wide>, count: u64) {
        self.count += count;
        self.add_fixed(fixed);
        if let Some(wide) = wide {
            widened(&mut self.wide).merge(wide);
        }
    }

    /// The output; `None` without values. Never a negative zero.
    fn output(&self, output: Output) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        Some(match output {
            Output::Sum => self.rounded(),
            Output::Average => self.average(),
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
