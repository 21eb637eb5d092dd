//! Bounds-checked little-endian reading and writing: a cursor whose errors carry the offset, varints (LEB128: seven
//! bits per byte, least significant first, the top bit set when more bytes follow) and zigzag.

use crate::{FileKind, FormatError, FormatErrorKind};

/// Largest size of a varint that encodes a `u64`.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Maps small numbers of either sign to small numbers: 0, -1, 1, -2 become 0, 1, 2, 3.
#[must_use]
pub(crate) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Inverts [`zigzag`].
#[must_use]
pub(crate) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}

/// Appends `value` as a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

const fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// Forward reader over bytes that never reads past their end.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    file: FileKind,
}

macro_rules! read_number {
    ($name:ident, $type:ty) => {
        pub(crate) fn $name(&mut self) -> Result<$type, FormatError> {
            self.array().map(<$type>::from_le_bytes)
        }
    };
}

#[allow(dead_code, reason = "without the `storage` feature, frames alone do not read every kind of number")]
impl<'a> Cursor<'a> {
    pub(crate) const fn new(file: FileKind, bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, file }
    }

    pub(crate) const fn position(&self) -> usize {
        self.position
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// Creates an error at the current position.
    #[cold]
    pub(crate) fn error(&self, kind: FormatErrorKind, detail: impl Into<String>) -> FormatError {
        FormatError::new(self.file, kind, self.position as u64, detail)
    }

    #[cold]
    fn truncated(&self, wanted: usize) -> FormatError {
        let left = self.remaining();
        self.error(FormatErrorKind::Truncated, format!("{wanted} bytes expected, {left} left"))
    }

    /// Reads the next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        match self.bytes[self.position..].get(..len) {
            Some(taken) => {
                self.position += len;
                Ok(taken)
            }
            None => Err(self.truncated(len)),
        }
    }

    /// Reads the next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        match self.bytes[self.position..].first_chunk::<N>() {
            Some(taken) => {
                self.position += N;
                Ok(*taken)
            }
            None => Err(self.truncated(N)),
        }
    }

    read_number!(u8, u8);
    read_number!(u16, u16);
    read_number!(u32, u32);
    read_number!(u64, u64);
    read_number!(i64, i64);

    /// Reads the next varint.
    pub(crate) fn varint(&mut self) -> Result<u64, FormatError> {
        match varint_at(self.bytes, self.position) {
            Some((value, len)) => {
                self.position += len;
                Ok(value)
            }
            None => Err(self.varint_error()),
        }
    }

    /// Reads `count` varints and passes each to `each`. Costs one bounds check per value and no allocation.
    #[inline]
    pub(crate) fn varints(&mut self, count: usize, mut each: impl FnMut(u64)) -> Result<(), FormatError> {
        let bytes = self.bytes;
        let mut position = self.position;
        for _ in 0..count {
            match varint_at(bytes, position) {
                Some((value, len)) => {
                    position += len;
                    each(value);
                }
                None => {
                    self.position = position;
                    return Err(self.varint_error());
                }
            }
        }
        self.position = position;
        Ok(())
    }

    #[cold]
    fn varint_error(&self) -> FormatError {
        if self.remaining() < VARINT_BYTES_MAX {
            self.error(FormatErrorKind::Truncated, "the bytes end inside a varint")
        } else {
            self.error(FormatErrorKind::Invalid, "a varint that does not fit 64 bits")
        }
    }
}

/// Returns the varint at this position and its length; `None` when the bytes end first, or when it exceeds 64 bits.
#[inline]
fn varint_at(bytes: &[u8], position: usize) -> Option<(u64, usize)> {
    let rest = bytes.get(position..)?;
    // Nearly all varints have one or two bytes; one load serves both cases.
    if let Some(pair) = rest.first_chunk::<2>() {
        let pair = u64::from(u16::from_le_bytes(*pair));
        if pair & 0x80 == 0 {
            return Some((pair & 0x7F, 1));
        }
        if pair & 0x8000 == 0 {
            return Some((pair & 0x7F | pair >> 1 & 0x3F80, 2));
        }
    }
    varint_slow_path(rest)
}

fn varint_slow_path(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        // The tenth byte holds one bit.
        if index == VARINT_BYTES_MAX - 1 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn oversized_varints_are_rejected() {
        let kind = |bytes: &[u8]| Cursor::new(FileKind::Frame, bytes).varint().map_err(|error| error.kind);
        assert_eq!(kind(&[]), Err(FormatErrorKind::Truncated));
        assert_eq!(kind(&[0x80]), Err(FormatErrorKind::Truncated));
        assert_eq!(kind(&[0x80; 9]), Err(FormatErrorKind::Truncated));
        assert_eq!(kind(&[0x80; 11]), Err(FormatErrorKind::Invalid));
        assert_eq!(kind(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02]), Err(FormatErrorKind::Invalid));
        assert_eq!(kind(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]), Ok(u64::MAX));
    }

    proptest! {
        #[test]
        fn varints_round_trip(values in prop::collection::vec(any::<u64>().prop_flat_map(|v| (0..64_u32).prop_map(move |s| v >> s)), 0..50)) {
            let mut bytes = Vec::new();
            for &value in &values {
                put_varint(&mut bytes, value);
            }
            let mut cursor = Cursor::new(FileKind::Frame, &bytes);
            let mut back = Vec::new();
            cursor.varints(values.len(), |value| back.push(value)).expect("all there");
            prop_assert_eq!(&back, &values);
            prop_assert_eq!(cursor.remaining(), 0);
            prop_assert!(cursor.varint().is_err());
        }

        #[test]
        fn zigzag_round_trips(value in any::<i64>()) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }
}
