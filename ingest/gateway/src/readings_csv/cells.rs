//! The cells of one line of CSV (RFC 4180, without line breaks in cells): quoted or not, blanks around them trimmed.

use std::borrow::Cow;

/// Splits a line into its cells; a line always has at least one.
pub(super) fn cells(line: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let here = rest?;
        let trimmed = here.trim_ascii_start();
        let (cell, after) = match trimmed.strip_prefix(b"\"") {
            Some(quoted) => quoted_cell(quoted),
            None => {
                let end = here.iter().position(|byte| *byte == b',').unwrap_or(here.len());
                (Cow::Borrowed(here[..end].trim_ascii()), &here[end..])
            }
        };
        // What stands before the next comma is the end of this cell.
        rest = after.iter().position(|byte| *byte == b',').map(|comma| &after[comma + 1..]);
        Some(cell)
    })
}

/// The cell up to its closing quote, and what comes after. Without one, or with more text behind it, the cell keeps
/// that text, so that it is seen in the error that it leads to.
fn quoted_cell(text: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    let mut cell = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, text.get(at + 1)) {
            (b'"', Some(b'"')) => {
                cell.push(b'"');
                at += 2;
            }
            (b'"', _) => {
                let after = &text[at + 1..];
                let end = after.iter().position(|byte| *byte == b',').unwrap_or(after.len());
                cell.extend_from_slice(after[..end].trim_ascii());
                return (trimmed(cell), &after[end..]);
            }
            (byte, _) => {
                cell.push(*byte);
                at += 1;
            }
        }
    }
    cell.insert(0, b'"');
    (Cow::Owned(cell), &[])
}

fn trimmed(cell: Vec<u8>) -> Cow<'static, [u8]> {
    Cow::Owned(cell.trim_ascii().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<String> {
        cells(line.as_bytes()).map(|cell| String::from_utf8_lossy(&cell).into_owned()).collect()
    }

    #[test]
    fn splits_as_rfc_4180_does() {
        assert_eq!(split("a, b ,,c"), ["a", "b", "", "c"]);
        assert_eq!(split(""), [""]);
        assert_eq!(split(","), ["", ""]);
        assert_eq!(split("\"a,b\", \"c\"\"d\" ,e"), ["a,b", "c\"d", "e"]);
        assert_eq!(split("\"a\"b,c"), ["ab", "c"]);
        assert_eq!(split("\"open,c"), ["\"open,c"]);
        assert_eq!(split("a\"b,c"), ["a\"b", "c"]);
    }
}
