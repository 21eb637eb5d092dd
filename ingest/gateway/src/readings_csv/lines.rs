//! Lines with their numbers, of a bounded length. A line ends with LF, CRLF or CR.

use std::io::{BufRead, ErrorKind};

use memchr::memchr2;

use super::error::{CsvError, Reason};
use super::source::Text;

/// A longer line is no reading: a few channels take some hundred bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

pub(super) struct Lines<R: BufRead> {
    text: Text<R>,
    line: Vec<u8>,
    number: u64,
    /// The line before ended with CR: an LF that comes next belongs to that end.
    after_cr: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(text: Text<R>) -> Self {
        Self { text, line: Vec::new(), number: 0, after_cr: false }
    }

    /// Reads the next line that is not blank; `false` at the end of the file.
    pub(super) fn read(&mut self) -> Result<bool, CsvError> {
        loop {
            self.line.clear();
            self.number += 1;
            if !self.read_one()? {
                return Ok(false);
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                return Ok(true);
            }
        }
    }

    /// Reads one line; `false` when there is none.
    fn read_one(&mut self) -> Result<bool, CsvError> {
        let mut is_there = false;
        loop {
            let buffer = match self.text.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    let what = format!("cannot be read: {error}");
                    return Err(CsvError::new(self.number, Reason::Unreadable, what));
                }
            };
            if buffer.is_empty() {
                return Ok(is_there);
            }
            if std::mem::take(&mut self.after_cr) && buffer[0] == b'\n' {
                self.text.consume(1);
                continue;
            }
            is_there = true;
            let end = memchr2(b'\n', b'\r', buffer);
            let length = end.unwrap_or(buffer.len());
            if self.line.len() + length > LINE_BYTES_MAX {
                let what = format!("longer than {LINE_BYTES_MAX} bytes: this is no CSV of readings");
                return Err(CsvError::new(self.number, Reason::Unreadable, what));
            }
            self.line.extend_from_slice(&buffer[..length]);
            if let Some(end) = end {
                self.after_cr = buffer[end] == b'\r';
                self.text.consume(end + 1);
                return Ok(true);
            }
            self.text.consume(length);
        }
    }

    /// The line that was read last, without its end.
    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }

    /// Its number, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.text.bytes_read()
    }
}
