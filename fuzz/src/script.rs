//! A fuzzer's bytes as a source of choices. Past its end it gives zeros, so that any bytes are a whole script.

/// Reads choices from the front of the bytes.
#[derive(Debug, Clone)]
pub struct Script<'a> {
    bytes: &'a [u8],
}

macro_rules! number {
    ($name:ident, $type:ty) => {
        /// The next number, little endian.
        pub fn $name(&mut self) -> $type {
            <$type>::from_le_bytes(self.array())
        }
    };
}

impl<'a> Script<'a> {
    /// A script of these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Are all bytes used?
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

    /// The next bytes, at most so many.
    pub fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(most.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    /// A choice below this number.
    pub fn below(&mut self, end: u8) -> u8 {
        self.u8() % end.max(1)
    }

    /// Yes, one time in so many.
    pub fn one_in(&mut self, times: u8) -> bool {
        self.below(times) == 1
    }
}
