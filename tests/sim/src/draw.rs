//! Where every choice of a run comes from: a seed, or bytes that a fuzzer made.
//!
//! Each part of a run draws from a stream of its own, split off by name, so that switching one part off leaves the
//! choices of the others as they were: that is what makes a failing run shrink.

use kit::SplitMix64;

/// A stream of choices.
#[derive(Debug, Clone)]
pub struct Draw {
    bytes: Vec<u8>,
    at: usize,
    rng: fastrand::Rng,
}

impl Draw {
    /// All choices from this seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self { bytes: Vec::new(), at: 0, rng: fastrand::Rng::with_seed(mix(seed)) }
    }

    /// The first choices from these bytes, the rest from a seed that they make.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0, rng: fastrand::Rng::with_seed(mix(bytes.len() as u64)) }
    }

    /// A stream for the part of this name.
    #[must_use]
    pub fn split(&self, part: &str) -> Self {
        // FNV-1a over the name: the same name always splits off the same stream.
        let name =
            part.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
        let mut own = self.rng.clone();
        let seed = mix(own.u64(..) ^ name);
        // A fuzzer's bytes are dealt out to the parts: each gets those of its residue.
        let dealt = self.bytes.iter().skip(usize::try_from(name % 5).unwrap_or(0)).step_by(5).copied().collect();
        Self { bytes: dealt, at: 0, rng: fastrand::Rng::with_seed(seed) }
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        match self.bytes.get(self.at) {
            Some(&byte) => {
                self.at += 1;
                u64::from(byte)
            }
            None => self.rng.u64(..),
        }
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        if self.at < self.bytes.len() { self.any() % end } else { self.rng.u64(..end) }
    }

    /// A number between these, both inside.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// A number between these, small ones as likely as large ones.
    pub fn spread(&mut self, first: u64, last: u64) -> u64 {
        let (low, high) = (first.max(1).ilog2(), last.max(1).ilog2());
        let bits = self.between(u64::from(low), u64::from(high));
        let start = 1_u64 << bits;
        self.between(start, start.saturating_mul(2) - 1).clamp(first, last)
    }

    /// Yes, in so many of a thousand cases.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }

    /// An index into something of this length, which is not zero.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// One of these, which are not none.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.index(all.len())]
    }

    /// Fills all of it.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.rng.fill(bytes);
    }
}

/// Neighbouring seeds make streams that have nothing in common.
fn mix(seed: u64) -> u64 {
    SplitMix64::new(seed).any()
}
