//! The texts of a logger's EUI-64: what is accepted, and the one form that is printed.
//!
//! A text of decimal digits alone can be the hexadecimal form of one logger and the decimal number of another. Readings
//! are write-once, so such a text is refused unless the caller states its base. What is printed is never such a text.

use std::fmt;
use std::str::FromStr;

use super::{IdError, LoggerId, text_error};

const KIND: &str = "logger id";
const DIGITS: usize = 16;

/// The base of an id that is written with decimal digits alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdBase {
    /// Nobody stated it: such a text is refused.
    #[default]
    Unstated,
    /// All ids are hexadecimal.
    Hex,
    /// All ids are decimal numbers, as SQL prints the column `logger`.
    Decimal,
}

impl LoggerId {
    /// The id of this text, in a base that the caller may state.
    ///
    /// Hexadecimal forms are 16 digits of either case, `0x` and 16 digits, and 16 digits in groups of two or of four
    /// with `-` or `:` between them. The last two never pass for a decimal number.
    ///
    /// # Errors
    /// [`IdError::Ambiguous`] and [`IdError::Decimal`] for decimal digits of an unstated base, [`IdError::Text`] for
    /// what is no id, [`IdError::Zero`] for zero.
    pub fn parse_as(text: &str, base: IdBase) -> Result<Self, IdError> {
        let is_decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match base {
            IdBase::Decimal if is_decimal => text.parse().map_err(|_| number_error(text)).and_then(Self::new),
            IdBase::Decimal => Err(number_error(text)),
            IdBase::Unstated if is_decimal => Err(unstated(text)),
            _ => hex(text).ok_or_else(|| text_error(KIND, text, DIGITS)).and_then(Self::new),
        }
    }

    /// Returns whether all 16 hexadecimal digits are decimal ones too.
    const fn looks_decimal(self) -> bool {
        let id = self.get();
        // A digit is A to F when its highest bit and one of the next two are set.
        id & (id << 1 | id << 2) & 0x8888_8888_8888_8888 == 0
    }
}

fn number_error(text: &str) -> IdError {
    IdError::Number { text: text.chars().take(64).collect() }
}

/// Why decimal digits of an unstated base are refused.
fn unstated(text: &str) -> IdError {
    let hex = hex(text).map(LoggerId::new);
    let decimal = text.parse().ok().map(LoggerId::new);
    match (hex, decimal) {
        (Some(Err(zero)), _) => zero,
        (Some(Ok(hex)), Some(Ok(decimal))) => IdError::Ambiguous { text: text.to_owned(), hex, decimal },
        (None, Some(Ok(decimal))) => IdError::Decimal { text: text.to_owned(), decimal },
        _ => text_error(KIND, text, DIGITS),
    }
}

/// The number of a hexadecimal form.
fn hex(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() == DIGITS {
        return digits(bytes);
    }
    if let [b'0', b'x' | b'X', rest @ ..] = bytes {
        return if rest.len() == DIGITS { digits(rest) } else { None };
    }
    let group = match bytes.len() {
        23 => 2,
        19 => 4,
        _ => return None,
    };
    let separator = *bytes.get(group).filter(|byte| matches!(byte, b'-' | b':'))?;
    let mut plain = [0; DIGITS];
    let mut length = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if index % (group + 1) == group {
            if *byte != separator {
                return None;
            }
        } else {
            plain[length] = *byte;
            length += 1;
        }
    }
    digits(&plain)
}

/// The value of each hexadecimal digit; others have a high bit. A table, because a file has an id in every row.
const DIGIT_VALUES: [u8; 256] = {
    let mut values = [0xF0; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789ABCDEF"[digit as usize] as usize] = digit;
        values[b"0123456789abcdef"[digit as usize] as usize] = digit;
        digit += 1;
    }
    values
};

fn digits(bytes: &[u8]) -> Option<u64> {
    let (mut value, mut all) = (0, 0);
    for byte in bytes {
        let digit = DIGIT_VALUES[usize::from(*byte)];
        all |= digit;
        value = value << 4 | u64::from(digit & 0xF);
    }
    (all < 16).then_some(value)
}

impl fmt::Display for LoggerId {
    /// 16 upper-case hexadecimal digits; after `0x` if they could be taken for a decimal number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.looks_decimal() { "0x" } else { "" };
        write!(f, "{prefix}{:016X}", self.get())
    }
}

impl FromStr for LoggerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse_as(text, IdBase::Unstated)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_unambiguous_form_is_understood() {
        let logger = LoggerId::new(0x0012_4B00_0A6E_0001).expect("not zero");
        for text in [
            "00124B000A6E0001",
            "00124b000a6e0001",
            "0x00124B000A6E0001",
            "0X00124b000a6e0001",
            "00-12-4B-00-0A-6E-00-01",
            "00:12:4b:00:0a:6e:00:01",
            "0012-4B00-0A6E-0001",
            "0012:4b00:0a6e:0001",
        ] {
            assert_eq!(text.parse(), Ok(logger), "{text}");
            assert_eq!(LoggerId::parse_as(text, IdBase::Hex), Ok(logger), "{text}");
            assert!(LoggerId::parse_as(text, IdBase::Decimal).is_err(), "{text}");
        }
        assert_eq!(logger.to_string(), "00124B000A6E0001");
        for bad in [
            "",
            "0",
            "0x",
            "+0124B000A6E0001",
            "00124B000A6E000G",
            "0x124B000A6E0001",
            "00124B000A6E00011",
            "00-12-4B:00-0A-6E-00-01",
            "00-12-4B-00-0A-6E-0001",
            "0012-4B00-0A6E-00é",
            "00 12 4B 00 0A 6E 00 01",
            "-012-4B00-0A6E-0001",
        ] {
            assert!(bad.parse::<LoggerId>().is_err(), "{bad:?}");
        }
        assert_eq!("0000000000000000".parse::<LoggerId>(), Err(IdError::Zero { kind: KIND }));
    }

    #[test]
    fn decimal_digits_alone_are_never_guessed() {
        let text = "5149012952875009";
        let decimal = LoggerId::new(0x0012_4B00_0000_0001).expect("not zero");
        let hex = LoggerId::new(0x5149_0129_5287_5009).expect("not zero");
        assert_eq!(text.parse::<LoggerId>(), Err(IdError::Ambiguous { text: text.into(), hex, decimal }));
        assert_eq!(LoggerId::parse_as(text, IdBase::Hex), Ok(hex));
        assert_eq!(LoggerId::parse_as(text, IdBase::Decimal), Ok(decimal));
        let said = text.parse::<LoggerId>().expect_err("two meanings").to_string();
        assert!(said.contains("0x5149012952875009") && said.contains("00124B0000000001"), "{said}");
        for same in ["0x5149012952875009", "51-49-01-29-52-87-50-09", "5149-0129-5287-5009"] {
            assert_eq!(same.parse(), Ok(hex), "{same}");
        }
        assert_eq!(hex.to_string(), "0x5149012952875009");
        // Of another length it can only be a decimal number.
        let long = "8110000000000000001";
        let said = long.parse::<LoggerId>().expect_err("a decimal number").to_string();
        assert!(said.contains("decimal") && said.contains("708C8208086B0001"), "{said}");
        assert!("18446744073709551616".parse::<LoggerId>().is_err());
        assert!(LoggerId::parse_as("18446744073709551616", IdBase::Decimal).is_err());
        assert!(LoggerId::parse_as("0", IdBase::Decimal).is_err());
        assert_eq!(LoggerId::parse_as("1", IdBase::Decimal).map(LoggerId::get), Ok(1));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_understood_everywhere(id in 1_u64.., digits in "[0-9]{16}") {
            let decimal_digits = u64::from_str_radix(&digits, 16).unwrap_or(1).max(1);
            for number in [id, decimal_digits] {
                let logger = LoggerId::new(number).expect("not zero");
                let text = logger.to_string();
                prop_assert_eq!(text.parse(), Ok(logger));
                prop_assert_eq!(LoggerId::parse_as(&text, IdBase::Hex), Ok(logger));
                prop_assert!(text.bytes().any(|byte| !byte.is_ascii_digit()), "{} could be a number", text);
                let number = number.to_string();
                prop_assert_eq!(LoggerId::parse_as(&number, IdBase::Decimal), Ok(logger));
                prop_assert!(number.parse::<LoggerId>().is_err(), "{} is a decimal number", number);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            for base in [IdBase::Unstated, IdBase::Hex, IdBase::Decimal] {
                let _ = LoggerId::parse_as(&text, base);
            }
        }
    }
}
