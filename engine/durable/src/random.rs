//! Randomness: ids, keys and nonces come from here and nowhere else, so that a
//! simulation draws them from its seed.

use std::fmt::Debug;

use ring::rand::SecureRandom as _;

/// Gives random bytes.
pub trait Random: Send + Sync + Debug {
    /// Fills all of it.
    fn fill(&self, bytes: &mut [u8]);

    /// A random number that is not zero: an id.
    fn nonzero_u64(&self) -> u64 {
        loop {
            let mut bytes = [0; 8];
            self.fill(&mut bytes);
            let value = u64::from_le_bytes(bytes);
            if value != 0 {
                return value;
            }
        }
    }
}

impl<R: Random + ?Sized> Random for std::sync::Arc<R> {
    fn fill(&self, bytes: &mut [u8]) {
        (**self).fill(bytes);
    }
}

/// The operating system's generator, fit for keys.
#[derive(Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    /// # Panics
    /// When the operating system has no randomness to give: no key made without it would be one.
    fn fill(&self, bytes: &mut [u8]) {
        ring::rand::SystemRandom::new().fill(bytes).expect("the operating system gives random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        let (mut first, mut second) = ([0; 32], [0; 32]);
        SystemRandom.fill(&mut first);
        SystemRandom.fill(&mut second);
        assert_ne!(first, second);
        assert_ne!(SystemRandom.nonzero_u64(), 0);
    }
}
