//! Little-endian reading and writing within bounds: a cursor that answers with offsets when bytes run out, varints
//! (LEB128: seven bits a byte, least significant first, the top bit says that more follow) and zigzag.

use crate::{FileKind, FormatError, FormatErrorKind};

/// Varints of a `u64` are never longer.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Maps small numbers of either sign to small numbers: 0, -1, 1, -2 become 0, 1, 2, 3.
#[must_use]
pub(crate) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag`].
#[must_use]
pub(crate) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}

/// Appends a varint.
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

/// Reads forward through bytes, and never past them.
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

    /// An error at this place.
    #[cold]
    pub(crate) fn error(&self, kind: FormatErrorKind, detail: impl Into<String>) -> FormatError {
        FormatError::new(self.file, kind, self.position as u64, detail)
    }

    #[cold]
    fn truncated(&self, wanted: usize) -> FormatError {
        let left = self.remaining();
        self.error(FormatErrorKind::Truncated, format!("{wanted} bytes expected, {left} left"))
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        match self.bytes[self.position..].get(..len) {
            Some(taken) => {
                self.position += len;
                Ok(taken)
            }
            None => Err(self.truncated(len)),
        }
    }

    /// The next `N` bytes.
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

    /// The next varint.
    pub(crate) fn varint(&mut self) -> Result<u64, FormatError> {
        match varint_at(self.bytes, self.position) {
            Some((value, len)) => {
                self.position += len;
                Ok(value)
            }
            None => Err(self.varint_error()),
        }
    }

    /// So many varints, each handed to `each`. One bounds check a value on the way, none of them allocates.
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
            self.error(FormatErrorKind::Truncated, "the bytes end within a varint")
        } else {
            self.error(FormatErrorKind::Invalid, "a varint that does not fit 64 bits")
        }
    }
}

/// The varint at this position and its length; `None` when the bytes end before it does, or it does not fit.
#[inline]
fn varint_at(bytes: &[u8], position: usize) -> Option<(u64, usize)> {
    let rest = bytes.get(position..)?;
    // One and two bytes are nearly all there are; both are answered from one load.
    if let Some(pair) = rest.first_chunk::<2>() {
        let pair = u64::from(u16::from_le_bytes(*pair));
        if pair & 0x80 == 0 {
            return Some((pair & 0x7F, 1));
        }
        if pair & 0x8000 == 0 {
            return Some((pair & 0x7F | pair >> 1 & 0x3F80, 2));
        }
    }
    varint_slowly(rest)
}

fn varint_slowly(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        // The tenth byte has room for one bit.
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
    fn varints_that_do_not_fit_are_refused() {
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
        fn varints_come_back(values in prop::collection::vec(any::<u64>().prop_flat_map(|v| (0..64_u32).prop_map(move |s| v >> s)), 0..50)) {
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
        fn zigzag_comes_back(value in any::<i64>()) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }
}
