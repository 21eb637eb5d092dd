//! The cells of one line of CSV (RFC 4180, without line breaks in cells): quoted or not, blanks around them trimmed.

use std::borrow::Cow;

/// Splits a line into its cells; a line always has at least one.
pub(super) fn cells(line: &[u8], delimiter: u8) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let here = rest?;
        let (cell, after) = match trim_start(here, delimiter).strip_prefix(b"\"") {
            Some(quoted) => quoted_cell(quoted, delimiter),
            None => {
                let end = find(delimiter, here);
                (Cow::Borrowed(here[..end].trim_ascii()), &here[end..])
            }
        };
        // `after` is empty or begins with the delimiter.
        rest = after.get(1..);
        Some(cell)
    })
}

/// Where the delimiter stands, or the end. Cells are too short for a vectorised search to be worth its start.
#[inline]
fn find(delimiter: u8, text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == delimiter).unwrap_or(text.len())
}

/// Without the blanks at the start; a tab that separates cells is none.
fn trim_start(text: &[u8], delimiter: u8) -> &[u8] {
    let blanks = text.iter().take_while(|byte| byte.is_ascii_whitespace() && **byte != delimiter).count();
    &text[blanks..]
}

/// The cell up to its closing quote, and what comes after, from the next delimiter on. Without a closing quote, or with
/// more text behind it, the cell keeps that text, so that it is seen in the error that it leads to.
fn quoted_cell(text: &[u8], delimiter: u8) -> (Cow<'_, [u8]>, &[u8]) {
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
                let end = find(delimiter, after);
                cell.extend_from_slice(after[..end].trim_ascii());
                return (Cow::Owned(cell.trim_ascii().to_vec()), &after[end..]);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<String> {
        by(line, b',')
    }

    fn by(line: &str, delimiter: u8) -> Vec<String> {
        cells(line.as_bytes(), delimiter).map(|cell| String::from_utf8_lossy(&cell).into_owned()).collect()
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

    #[test]
    fn other_delimiters() {
        assert_eq!(by("a;\"b;c\";1,5;", b';'), ["a", "b;c", "1,5", ""]);
        assert_eq!(by("\t a\t\t\"b\" \t", b'\t'), ["", "a", "", "b", ""]);
    }
}
