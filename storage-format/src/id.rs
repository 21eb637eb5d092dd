//! Ids as newtypes, each with one fallible constructor and one text form.
//!
//! Zero is never a valid id, so that zero-filled bytes never decode to one. Gateway, organisation, spool and segment
//! ids are drawn at random, because a sequential id would show one organisation how many others exist.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;

/// Reason why a number or a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The id is zero, which is reserved because unwritten bytes are zeros.
    #[error("{kind} must not be zero")]
    Zero {
        /// Name of the kind of id, for the message.
        kind: &'static str,
    },
    /// The text is not in the id's only text form.
    #[error("{text:?} is not a {kind}: expected exactly {digits} hexadecimal digits")]
    Text {
        /// Name of the kind of id, for the message.
        kind: &'static str,
        /// Text that was given, cut to 64 characters.
        text: String,
        /// Number of digits in the form.
        digits: usize,
    },
}

fn text_error(kind: &'static str, text: &str, digits: usize) -> IdError {
    IdError::Text { kind, text: text.chars().take(64).collect(), digits }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $nonzero:ty, $kind:literal, $format:literal, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($nonzero);

        impl $name {
            /// Smallest id.
            pub const MIN: Self = Self(<$nonzero>::MIN);
            /// Greatest id.
            pub const MAX: Self = Self(<$nonzero>::MAX);

            /// Creates the id with this number.
            ///
            /// # Errors
            /// [`IdError::Zero`] for zero.
            pub const fn new(value: $inner) -> Result<Self, IdError> {
                match <$nonzero>::new(value) {
                    Some(value) => Ok(Self(value)),
                    None => Err(IdError::Zero { kind: $kind }),
                }
            }

            /// Returns the number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0.get()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0.get())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                // `from_str_radix` accepts a sign, but the text form has none.
                if text.len() != $digits || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(text_error($kind, text, $digits));
                }
                let value = <$inner>::from_str_radix(text, 16).map_err(|_| text_error($kind, text, $digits))?;
                Self::new(value)
            }
        }
    };
}

hex_id!(
    /// Id of an organisation: the tenant. Text form: 16 lower-case hex digits.
    OrgId, u64, NonZeroU64, "organisation id", "{:016x}", 16
);
hex_id!(
    /// Id of a gateway: the device that forwards readings. Text form: 16 lower-case hex digits.
    GatewayId, u64, NonZeroU64, "gateway id", "{:016x}", 16
);
hex_id!(
    /// EUI-64 of a logger. Text form: 16 upper-case hex digits; lower case is accepted.
    LoggerId, u64, NonZeroU64, "logger id", "{:016X}", 16
);
hex_id!(
    /// Id of a sender's spool: the store of frames that it has numbered and that are not yet acknowledged. Sequence
    /// numbers count within a spool, so that two senders with one identity cannot mistake each other's
    /// acknowledgements for their own. Text form: 16 lower-case hex digits.
    SpoolId, u64, NonZeroU64, "spool id", "{:016x}", 16
);
hex_id!(
    /// Id of a segment (or conflicts) object. Text form: 32 lower-case hex digits.
    SegmentId, u128, NonZeroU128, "segment id", "{:032x}", 32
);

/// Number of a WAL file, from 1 in the order of writing. Text form: 20 decimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalFileId(NonZeroU64);

impl WalFileId {
    /// First WAL file of a data directory.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// Creates the id with this number.
    ///
    /// # Errors
    /// [`IdError::Zero`] for zero.
    pub const fn new(value: u64) -> Result<Self, IdError> {
        match NonZeroU64::new(value) {
            Some(value) => Ok(Self(value)),
            None => Err(IdError::Zero { kind: "WAL file id" }),
        }
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// Returns the id of the file after this one; `None` at the end of `u64`.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }
}

impl fmt::Display for WalFileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.0.get())
    }
}

impl fmt::Debug for WalFileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WalFileId({self})")
    }
}

impl FromStr for WalFileId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != 20 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(text_error("WAL file id", text, 20));
        }
        Self::new(text.parse().map_err(|_| text_error("WAL file id", text, 20))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_form() {
        let logger: LoggerId = "00124b000a6e0001".parse().expect("lower case is accepted");
        assert_eq!(logger.to_string(), "00124B000A6E0001");
        assert_eq!(logger.get(), 0x0012_4B00_0A6E_0001);
        for bad in ["", "0", "+0124B000A6E0001", "00124B000A6E000G", "0x124B000A6E0001", "00124B000A6E00011"] {
            assert!(bad.parse::<LoggerId>().is_err(), "{bad:?}");
        }
        assert_eq!("0000000000000000".parse::<LoggerId>(), Err(IdError::Zero { kind: "logger id" }));
    }

    #[test]
    fn wal_file_ids_sort_as_text() {
        let second = WalFileId::FIRST.next().expect("there is a second");
        assert!(WalFileId::FIRST.to_string() < second.to_string());
        assert_eq!(second.to_string().parse::<WalFileId>(), Ok(second));
        assert!("1".parse::<WalFileId>().is_err());
    }
}
