//! An integer wide enough for the exact sum of any doubles, in units of the smallest one.

use crate::canonical::NAN;

use super::{FRACTION_BITS, MANTISSA_BITS};

/// Words of 64 bits: 2,098 bits that doubles have, 63 for the number of values, the sign.
const LIMBS: usize = 34;

/// The bit of the integer that is worth 1: the smallest double is 2^-1074.
const BIT_OF_UNITS: u64 = 1074;

/// The exponent field of infinities and NaNs.
const EXPONENT_OF_INFINITY: u64 = 0x7FF;

/// A sum that overflows is divided by 2^64 before it is rounded: there are fewer values than that.
const SCALE_BITS: u64 = 64;

/// 2^[`SCALE_BITS`].
const SCALE: f64 = (1_u128 << SCALE_BITS) as f64;

/// The exact sum of any doubles; infinities and NaNs beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wide {
    /// The finite sum, two's complement, least significant first.
    limbs: [u64; LIMBS],
    infinities: u64,
    negative_infinities: u64,
    nans: u64,
}

impl Default for Wide {
    fn default() -> Self {
        Self { limbs: [0; LIMBS], infinities: 0, negative_infinities: 0, nans: 0 }
    }
}

/// A finite double as an integer and the bit where it begins; or which counter it belongs to.
enum Parts {
    Finite { negative: bool, mantissa: u64, bit: u64 },
    Infinite { negative: bool },
    Nan,
}

fn parts(value: f64) -> Parts {
    let bits = value.to_bits();
    let exponent = (bits >> MANTISSA_BITS) & EXPONENT_OF_INFINITY;
    let mantissa = bits & ((1 << MANTISSA_BITS) - 1);
    let negative = value.is_sign_negative();
    match exponent {
        EXPONENT_OF_INFINITY if mantissa == 0 => Parts::Infinite { negative },
        EXPONENT_OF_INFINITY => Parts::Nan,
        // Subnormal numbers have the exponent of the smallest normal ones, without the hidden bit.
        0 => Parts::Finite { negative, mantissa, bit: 0 },
        _ => Parts::Finite { negative, mantissa: mantissa | (1 << MANTISSA_BITS), bit: exponent - 1 },
    }
}

impl Wide {
    pub(super) fn add(&mut self, value: f64) {
        match parts(value) {
            Parts::Finite { negative, mantissa, bit } => self.add_at(negative, u128::from(mantissa), bit),
            Parts::Infinite { negative: false } => self.infinities += 1,
            Parts::Infinite { negative: true } => self.negative_infinities += 1,
            Parts::Nan => self.nans += 1,
        }
    }

    /// Takes out a value that was added before, here or to another sum that was merged into this one.
    pub(super) fn subtract(&mut self, value: f64) {
        match parts(value) {
            Parts::Finite { negative, mantissa, bit } => self.add_at(!negative, u128::from(mantissa), bit),
            Parts::Infinite { negative: false } => self.infinities -= 1,
            Parts::Infinite { negative: true } => self.negative_infinities -= 1,
            Parts::Nan => self.nans -= 1,
        }
    }

    /// Adds a fixed point number.
    pub(super) fn add_fixed(&mut self, fixed: i128) {
        self.add_at(fixed < 0, fixed.unsigned_abs(), BIT_OF_UNITS - FRACTION_BITS);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let mut carry = false;
        for (limb, other) in self.limbs.iter_mut().zip(other.limbs) {
            let (sum, over) = limb.overflowing_add(other);
            let (sum, over_too) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, over | over_too);
        }
        self.infinities += other.infinities;
        self.negative_infinities += other.negative_infinities;
        self.nans += other.nans;
    }

    /// Adds or subtracts a magnitude that begins at this bit.
    fn add_at(&mut self, negative: bool, magnitude: u128, bit: u64) {
        let first = usize::try_from(bit / 64).expect("a few limbs");
        let by = bit % 64;
        let low = low_half(magnitude);
        let high = low_half(magnitude >> 64);
        let carried = |word: u64| if by == 0 { 0 } else { word >> (64 - by) };
        let terms = [low << by, (high << by) | carried(low), carried(high)];
        let mut carry = false;
        for (index, limb) in self.limbs.iter_mut().skip(first).enumerate() {
            let term = terms.get(index).copied().unwrap_or(0);
            if index >= terms.len() && !carry {
                break;
            }
            let ((sum, over), step) =
                (if negative { limb.overflowing_sub(term) } else { limb.overflowing_add(term) }, u64::from(carry));
            let (sum, over_too) = if negative { sum.overflowing_sub(step) } else { sum.overflowing_add(step) };
            (*limb, carry) = (sum, over | over_too);
        }
    }

    /// The sum of this and a fixed point number.
    pub(super) fn plus_fixed(&self, fixed: i128) -> Self {
        let mut sum = self.clone();
        sum.add_fixed(fixed);
        sum
    }

    /// What infinities and NaNs make of the sum, if there are any.
    fn special(&self) -> Option<f64> {
        match (self.infinities > 0, self.negative_infinities > 0, self.nans > 0) {
            (_, _, true) | (true, true, _) => Some(NAN),
            (true, false, _) => Some(f64::INFINITY),
            (false, true, _) => Some(f64::NEG_INFINITY),
            (false, false, false) => None,
        }
    }

    /// The nearest double, of two equally near ones the even one; infinite only past the greatest double, or by an
    /// infinite value.
    pub(super) fn rounded(&self) -> f64 {
        self.special().unwrap_or_else(|| self.finite(0))
    }

    /// The rounded sum divided by the number of values; also where that is a double and the sum itself is none.
    pub(super) fn average(&self, count: f64) -> f64 {
        if let Some(special) = self.special() {
            return special;
        }
        let sum = self.finite(0);
        if sum.is_finite() {
            return sum / count;
        }
        // An average is never past its greatest value, but two roundings might go there.
        (self.finite(SCALE_BITS) / count * SCALE).clamp(f64::MIN, f64::MAX)
    }

    /// The finite sum divided by 2^`scale_bits`, rounded. With a scale, only sums past the greatest double are asked
    /// for, so that no quotient is subnormal.
    fn finite(&self, scale_bits: u64) -> f64 {
        let negative = self.limbs[LIMBS - 1] >> 63 == 1;
        let mut limbs = self.limbs;
        if negative {
            let mut carry = true;
            for limb in &mut limbs {
                (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
            }
        }
        let Some(top) = limbs.iter().rposition(|&limb| limb != 0) else { return 0.0 };
        let width = top as u64 * 64 + 64 - u64::from(limbs[top].leading_zeros());
        // Integers of so many bits are what subnormal and the smallest normal doubles have as their bits.
        let Some(dropped) = width.checked_sub(MANTISSA_BITS + 1) else {
            return signed(f64::from_bits(limbs[0]), negative);
        };
        let mantissa = bits_at(&limbs, dropped, MANTISSA_BITS + 1);
        let rounds_up = dropped > 0 && bits_at(&limbs, dropped - 1, 1) == 1 && {
            mantissa & 1 == 1 || any_below(&limbs, dropped - 1)
        };
        // A mantissa that is full goes over into the exponent, which is what it should.
        let exponent = dropped - scale_bits;
        let bits = (exponent << MANTISSA_BITS) + mantissa + u64::from(rounds_up);
        signed(if bits >= f64::INFINITY.to_bits() { f64::INFINITY } else { f64::from_bits(bits) }, negative)
    }

    /// The stored form: limbs and counts, little endian.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let counts = [self.infinities, self.negative_infinities, self.nans];
        self.limbs.iter().chain(&counts).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// From the stored form; `None` if it has another length.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        if words.len() != LIMBS + 3 || !rest.is_empty() {
            return None;
        }
        let mut limbs = [0; LIMBS];
        for (limb, word) in limbs.iter_mut().zip(words) {
            *limb = u64::from_le_bytes(*word);
        }
        let count = |index: usize| u64::from_le_bytes(words[LIMBS + index]);
        Some(Self { limbs, infinities: count(0), negative_infinities: count(1), nans: count(2) })
    }
}

fn signed(magnitude: f64, negative: bool) -> f64 {
    if negative { -magnitude } else { magnitude }
}

fn low_half(value: u128) -> u64 {
    u64::try_from(value & u128::from(u64::MAX)).expect("64 bits are left")
}

/// `count` bits (at most 63) that begin at this one.
fn bits_at(limbs: &[u64; LIMBS], bit: u64, count: u64) -> u64 {
    let index = usize::try_from(bit / 64).expect("a few limbs");
    let by = bit % 64;
    let low = limbs[index] >> by;
    let high = match limbs.get(index + 1) {
        Some(next) if by > 0 => next << (64 - by),
        _ => 0,
    };
    (low | high) & ((1 << count) - 1)
}

/// Whether any bit below this one is set.
fn any_below(limbs: &[u64; LIMBS], bit: u64) -> bool {
    let index = usize::try_from(bit / 64).expect("a few limbs");
    limbs[..index].iter().any(|&limb| limb != 0) || limbs[index] & ((1 << (bit % 64)) - 1) != 0
}
