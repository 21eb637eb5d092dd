//! The bytes of a file as UTF-8 text: unpacked if they are gzip, decoded if they are in another encoding.
//!
//! A mark at the start (BOM) decides; without one the encoding is the caller's, UTF-16 where every other byte is zero,
//! and otherwise UTF-8, whose bytes pass unchanged and unchecked. Nothing is held but one buffer at each stage.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use encoding_rs::{CoderResult, Decoder, Encoding, UTF_8, UTF_16BE, UTF_16LE};
use flate2::bufread::MultiGzDecoder;

/// Longer than every mark that is looked for.
const HEAD_BYTES: u64 = 8;
const GZIP_MARK: &[u8] = b"\x1f\x8b";
/// What is decoded at a time.
const DECODED_BYTES: usize = 64 << 10;

type Headed<R> = Chain<Cursor<Vec<u8>>, R>;

/// Reads the first bytes without taking them away.
fn head<R: Read>(mut source: R) -> io::Result<(Vec<u8>, R)> {
    let mut head = Vec::new();
    source.by_ref().take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok((head, source))
}

/// Unpacks a gzip file to its end, so that damage is found before a reading of it is sent: its checksum stands at the end,
/// and a changed digit looks like any other. Other files pass.
///
/// # Errors
/// When the file cannot be read, or is damaged.
pub fn check_gzip(source: impl BufRead) -> io::Result<()> {
    let (first, source) = head(source)?;
    if first.starts_with(GZIP_MARK) {
        io::copy(&mut MultiGzDecoder::new(Cursor::new(first).chain(source)), &mut io::sink())?;
    }
    Ok(())
}

/// Counts what is taken from a source.
struct Counted<R> {
    source: R,
    bytes: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    fn count(&self, bytes: usize) {
        // Nobody else writes it, and an atomic addition for each line would take a tenth of the reading.
        self.bytes.store(self.bytes.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(out)?;
        self.count(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.count(bytes);
        self.source.consume(bytes);
    }
}

enum Unpacked<R: BufRead> {
    Plain(Headed<Counted<R>>),
    Gzip(Box<BufReader<MultiGzDecoder<Headed<Counted<R>>>>>),
}

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(out),
            Self::Gzip(source) => source.read(out),
        }
    }
}

impl<R: BufRead> BufRead for Unpacked<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Plain(source) => source.fill_buf(),
            Self::Gzip(source) => source.fill_buf(),
        }
    }

    fn consume(&mut self, bytes: usize) {
        match self {
            Self::Plain(source) => source.consume(bytes),
            Self::Gzip(source) => source.consume(bytes),
        }
    }
}

/// Decodes into UTF-8. What is no text of the encoding becomes U+FFFD.
struct Transcoder {
    decoder: Decoder,
    out: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Transcoder {
    fn new(encoding: &'static Encoding) -> Self {
        Self { decoder: encoding.new_decoder_without_bom_handling(), out: Vec::new(), at: 0, ended: false }
    }

    fn fill(&mut self, source: &mut impl BufRead) -> io::Result<()> {
        while self.at == self.out.len() && !self.ended {
            let input = source.fill_buf()?;
            let last = input.is_empty();
            self.out.resize(DECODED_BYTES, 0);
            let (result, read, written, _) = self.decoder.decode_to_utf8(input, &mut self.out, last);
            source.consume(read);
            self.out.truncate(written);
            self.at = 0;
            self.ended = last && result == CoderResult::InputEmpty;
        }
        Ok(())
    }
}

/// A file's text.
pub(super) struct Text<R: BufRead> {
    source: Headed<Unpacked<R>>,
    transcoder: Option<Transcoder>,
    bytes: Arc<AtomicU64>,
}

/// Why a file is no text, by its first bytes.
fn not_text(head: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 6] = [
        (b"PK\x03\x04", "this is a ZIP archive or a workbook (.xlsx), not CSV: unpack it, or save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0", "this is a workbook (.xls), not CSV: save the sheet as CSV"),
        (b"\x28\xb5\x2f\xfd", "this is compressed by zstd; only gzip is unpacked here"),
        (b"\xfd7zXZ", "this is compressed by xz; only gzip is unpacked here"),
        (b"BZh", "this is compressed by bzip2; only gzip is unpacked here"),
        (b"PAR1", "this is Parquet, not CSV"),
    ];
    KINDS.iter().find(|(mark, _)| head.starts_with(mark)).map(|(_, what)| *what)
}

/// The encoding of these first bytes, and how many of them are its mark.
fn detect(head: &[u8], stated: Option<&'static Encoding>) -> (Option<&'static Encoding>, usize) {
    if let Some((encoding, bytes)) = Encoding::for_bom(head) {
        return (Some(encoding), bytes);
    }
    let guess = match head {
        // Text of digits, letters and commas has a zero in every second byte.
        [a, 0, b, 0, ..] if *a > 0 && *b > 0 => Some(UTF_16LE),
        [0, a, 0, b, ..] if *a > 0 && *b > 0 => Some(UTF_16BE),
        _ => None,
    };
    (stated.or(guess), 0)
}

impl<R: BufRead> Text<R> {
    /// Looks at the first bytes.
    ///
    /// # Errors
    /// When they cannot be read, or are not those of a text.
    pub(super) fn new(source: R, encoding: Option<&'static Encoding>) -> Result<Self, String> {
        let unreadable = |error: io::Error| format!("cannot be read: {error}");
        let bytes = Arc::<AtomicU64>::default();
        let counted = Counted { source, bytes: Arc::clone(&bytes) };
        let (first, counted) = head(counted).map_err(unreadable)?;
        if let Some(what) = not_text(&first) {
            return Err(what.to_owned());
        }
        let is_gzip = first.starts_with(GZIP_MARK);
        let source = Cursor::new(first).chain(counted);
        let source = if is_gzip {
            Unpacked::Gzip(Box::new(BufReader::with_capacity(DECODED_BYTES, MultiGzDecoder::new(source))))
        } else {
            Unpacked::Plain(source)
        };
        let (mut first, source) = head(source).map_err(unreadable)?;
        if let Some(what) = not_text(&first) {
            return Err(what.to_owned());
        }
        let (encoding, mark) = detect(&first, encoding);
        first.drain(..mark);
        let transcoder = encoding.filter(|encoding| *encoding != UTF_8).map(Transcoder::new);
        Ok(Self { source: Cursor::new(first).chain(source), transcoder, bytes })
    }

    /// Bytes taken from the file so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &mut self.transcoder {
            None => self.source.fill_buf(),
            Some(transcoder) => {
                transcoder.fill(&mut self.source)?;
                Ok(&transcoder.out[transcoder.at..])
            }
        }
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        match &mut self.transcoder {
            None => self.source.consume(bytes),
            Some(transcoder) => transcoder.at += bytes,
        }
    }
}
