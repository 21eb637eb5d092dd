//! Terms of the mean kinetic temperature, by USP <1160>: `exp(-dH/R * (1/T - 1/T0))`, where dH/R is 10,000 K (83.144
//! kJ/mol over 8.3144 J/(mol K)), T is the temperature in kelvin, and T0 is 273.15 K.
//!
//! T0 only keeps the terms near one: without it they would be 2e-16 at 5 °C and 3e-23 at -80 °C.

/// The activation energy over the gas constant, in kelvin.
const DH_OVER_R: f64 = 10_000.0;
/// 0 °C in kelvin.
const ZERO_CELSIUS: f64 = 273.15;
/// Terms that are kept: loggers state the same few hundred values again and again.
const KEPT_BITS: u32 = 10;

/// Returns the term of a temperature in degrees Celsius; zero at and below absolute zero.
pub(crate) fn mkt_term(celsius: f64) -> f64 {
    let kelvin = celsius + ZERO_CELSIUS;
    if kelvin > 0.0 { (-DH_OVER_R * (1.0 / kelvin - 1.0 / ZERO_CELSIUS)).exp() } else { 0.0 }
}

/// The terms of the last values, by a part of a hash of their bits.
#[derive(Debug, Clone)]
pub(super) struct MktTerms {
    kept: Vec<(f64, f64)>,
}

impl MktTerms {
    pub(super) fn new() -> Self {
        Self { kept: vec![(0.0, mkt_term(0.0)); 1 << KEPT_BITS] }
    }

    #[inline]
    pub(super) fn term(&mut self, celsius: f64) -> f64 {
        let hash = celsius.to_bits().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - KEPT_BITS);
        let index = usize::try_from(hash).unwrap_or(0);
        let kept = &mut self.kept[index];
        if kept.0.to_bits() != celsius.to_bits() {
            *kept = (celsius, mkt_term(celsius));
        }
        kept.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean kinetic temperature of terms and their weights.
    fn mkt(weighted: &[(f64, f64)]) -> f64 {
        let weight: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let term: f64 = weighted.iter().map(|(celsius, weight)| mkt_term(*celsius) * weight).sum();
        1.0 / (1.0 / ZERO_CELSIUS - (term / weight).ln() / DH_OVER_R) - ZERO_CELSIUS
    }

    #[test]
    fn published_values() {
        for (weighted, expected) in [
            (&[(5.0, 10.0)][..], 5.0),
            (&[(20.0, 1.0), (25.0, 1.0), (30.0, 1.0)], 25.8582),
            (&[(4.0, 4.0), (16.0, 1.0)], 8.1089),
            (&[(5.0, 18.0), (14.0, 6.0)], 8.2852),
            (&[(22.0, 696.0), (40.0, 24.0)], 23.5996),
        ] {
            assert!((mkt(weighted) - expected).abs() < 5e-5, "{weighted:?}: {}", mkt(weighted));
        }
        assert_eq!([mkt_term(-273.15), mkt_term(-1e300)], [0.0, 0.0]);
        assert!(mkt_term(1e300).is_finite());
    }

    #[test]
    fn kept_terms_are_the_terms() {
        let mut terms = MktTerms::new();
        for round in 0..3 {
            for step in -4000..4000 {
                let celsius = f64::from(step) / 100.0;
                assert_eq!(terms.term(celsius).to_bits(), mkt_term(celsius).to_bits(), "{celsius} in round {round}");
            }
        }
    }
}
