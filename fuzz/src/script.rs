//! The bytes of a fuzzer as a source of choices. After the last byte it returns zeros, so that any bytes are a script.

/// Source of choices, read from the front of the bytes.
#[derive(Debug, Clone)]
pub struct Script<'a> {
    bytes: &'a [u8],
}

macro_rules! number {
    ($name:ident, $type:ty) => {
        /// Returns the next number, little endian.
        pub fn $name(&mut self) -> $type {
            <$type>::from_le_bytes(self.array())
        }
    };
}

impl<'a> Script<'a> {
    /// Creates a script of these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Returns whether all bytes are used.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.take(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    number!(u8, u8);
    number!(u16, u16);
    number!(u32, u32);
    number!(u64, u64);
    number!(u128, u128);
    number!(i64, i64);

    /// Returns the next bytes, at most `count_max`.
    pub fn take(&mut self, count_max: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(count_max.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// Returns all remaining bytes.
    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: u8) -> u8 {
        self.u8() % end.max(1)
    }

    /// Returns true with a probability of one in `times`.
    pub fn one_in(&mut self, times: u8) -> bool {
        self.below(times) == 1
    }
}
