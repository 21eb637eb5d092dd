//! The unit that values of one logger and channel are whole numbers of: a step of a power of ten.
//!
//! Sensors state decimals with few digits, so each value is `mantissa / 10^decimals`, rounded to the nearest double, with
//! a mantissa that is a multiple of the sensor's step. Whether that gives back every value bit by bit is tried, not
//! assumed.

/// Most decimals: ten to this power is exact in a double.
const DECIMALS_MAX: u32 = 15;
/// Mantissas below this are exact in a double.
const MANTISSA_END: f64 = 9_007_199_254_740_992.0;
/// Steps below this fit into a unit's number.
const STEP_END: i64 = 1 << 47;
const SUM_RAW: i64 = 1 << 8;

const POWERS: [f64; 16] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Conversion of the numbers of a row to values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Numbers are the bits of doubles.
    Raw,
    /// Numbers count steps of ten to the power of `-decimals`.
    Steps {
        decimals: u32,
        step: i64,
        /// Whether sums are the bits of doubles all the same.
        sum_raw: bool,
    },
}

/// What a run of rows holds of a channel: all values that must come back bit by bit, and sums with the distance that
/// they may be off.
pub(super) struct Run<'a> {
    pub(super) values: &'a [f64],
    pub(super) sums: &'a [(f64, f64)],
}

fn mantissa(value: f64, power: f64) -> Option<i64> {
    let scaled = (value * power).round();
    if scaled.abs() >= MANTISSA_END {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
    let mantissa = scaled as i64;
    (value_of(mantissa, power).to_bits() == value.to_bits()).then_some(mantissa)
}

fn sum_mantissa(sum: f64, off_max: f64, power: f64) -> Option<i64> {
    let scaled = (sum * power).round();
    if scaled.abs() >= MANTISSA_END || (scaled / power - sum).abs() > off_max {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
    Some(scaled as i64)
}

fn gcd(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.abs()
}

/// The value of a mantissa. The writer keeps those below 2^53, which the encoder checks, so that it is exact.
fn value_of(mantissa: i64, power: f64) -> f64 {
    mantissa as f64 / power
}

impl Unit {
    /// Returns the coarsest unit of these values and sums.
    pub(super) fn of(run: &Run<'_>) -> Self {
        let mut decimals = 0;
        for &value in run.values {
            while mantissa(value, POWERS[decimals as usize]).is_none() {
                decimals += 1;
                if decimals > DECIMALS_MAX {
                    return Self::Raw;
                }
            }
        }
        let sums = |decimals: u32| -> Option<i64> {
            let power = POWERS[decimals as usize];
            run.sums.iter().try_fold(0, |step, &(sum, off)| Some(gcd(step, sum_mantissa(sum, off, power)?)))
        };
        let finer = (decimals..=DECIMALS_MAX.min(decimals + 3)).find_map(|finer| Some((finer, sums(finer)?)));
        let (decimals, step, sum_raw) = finer.map_or((decimals, 0, true), |(finer, step)| (finer, step, false));
        let power = POWERS[decimals as usize];
        let step = run.values.iter().try_fold(step, |step, &value| Some(gcd(step, mantissa(value, power)?)));
        match step {
            None => Self::Raw,
            // All zeros.
            Some(0) => Self::Steps { decimals, step: 1, sum_raw },
            Some(step) => Self::Steps { decimals, step: if step < STEP_END { step } else { 1 }, sum_raw },
        }
    }

    /// Returns the number that stands for the unit.
    pub(super) const fn code(self) -> i64 {
        match self {
            Self::Raw => 0,
            Self::Steps { decimals, step, sum_raw } => {
                (step << 16) | if sum_raw { SUM_RAW } else { 0 } | (decimals as i64 + 1)
            }
        }
    }

    /// Returns the unit with this number.
    pub(super) fn from_code(code: i64) -> Option<Self> {
        if code == 0 {
            return Some(Self::Raw);
        }
        let (step, decimals) = (code >> 16, u32::try_from(code & 0xFF).ok()?.checked_sub(1)?);
        let flags = code & 0xFF00;
        if step <= 0 || decimals > DECIMALS_MAX || (flags != 0 && flags != SUM_RAW) {
            return None;
        }
        Some(Self::Steps { decimals, step, sum_raw: flags != 0 })
    }

    /// Returns the number of a value. Decoding gives back the value if the unit is one of it, which the encoder checks.
    pub(super) fn number(self, value: f64) -> i64 {
        match self {
            Self::Raw => value.to_bits().cast_signed(),
            Self::Steps { decimals, step, .. } => mantissa(value, POWERS[decimals as usize]).unwrap_or(0) / step,
        }
    }

    /// Returns the number of a sum, as [`Unit::number`].
    pub(super) fn sum_number(self, sum: f64) -> i64 {
        match self {
            Self::Raw | Self::Steps { sum_raw: true, .. } => sum.to_bits().cast_signed(),
            Self::Steps { decimals, step, .. } => {
                sum_mantissa(sum, f64::INFINITY, POWERS[decimals as usize]).unwrap_or(0) / step
            }
        }
    }

    /// Returns whether values are whole numbers of steps.
    pub(super) const fn has_steps(self) -> bool {
        matches!(self, Self::Steps { .. })
    }

    /// Returns whether sums are whole numbers of steps.
    pub(super) const fn has_sum_steps(self) -> bool {
        matches!(self, Self::Steps { sum_raw: false, .. })
    }

    /// Returns the functions from number to value, and from number to sum, as what to multiply by and to divide by.
    pub(super) const fn scale(self) -> Scale {
        match self {
            Self::Raw => Scale { step: 1, power: 0.0, sum_power: 0.0 },
            Self::Steps { decimals, step, sum_raw } => {
                let power = POWERS[decimals as usize];
                Scale { step, power, sum_power: if sum_raw { 0.0 } else { power } }
            }
        }
    }
}

/// A unit, ready for decoding. A power of zero marks numbers that are the bits of doubles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    step: i64,
    power: f64,
    sum_power: f64,
}

impl Scale {
    #[inline]
    pub(super) fn value(self, number: i64) -> f64 {
        if self.power == 0.0 {
            f64::from_bits(number.cast_unsigned())
        } else {
            value_of(number.wrapping_mul(self.step), self.power)
        }
    }

    #[inline]
    pub(super) fn sum(self, number: i64) -> f64 {
        if self.sum_power == 0.0 {
            f64::from_bits(number.cast_unsigned())
        } else {
            value_of(number.wrapping_mul(self.step), self.sum_power)
        }
    }
}
