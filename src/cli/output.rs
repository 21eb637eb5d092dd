//! What commands print: results to stdout, everything else to stderr.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use problem::{Context, Problem, Result};

/// Prints a line of the result.
///
/// # Errors
/// When stdout cannot be written; a reader that has seen enough is none.
pub(super) fn line(text: impl Display) -> Result<()> {
    write(format!("{text}\n").as_bytes()).map(drop)
}

/// Writes bytes of the result; `false` once the reader has gone.
///
/// # Errors
/// When stdout cannot be written.
pub(super) fn write(bytes: &[u8]) -> Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context(|| "cannot write to stdout".to_owned()),
    }
}

/// Tells something beside the result, on stderr.
pub(super) fn note(text: impl Display) {
    // Nowhere is left to tell that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Tells why a command failed.
pub(super) fn error(problem: &Problem) {
    note(format_args!("error: {problem}"));
}

/// A number with its digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_in_groups() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(134_469), "134,469");
        assert_eq!(grouped(1_000_000), "1,000,000");
    }
}
