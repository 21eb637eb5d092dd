//! What can be wrong with stored bytes: which kind of file, where, and what.

use std::fmt;

/// The kinds of file and message that this crate gives meaning to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A frame, on the wire or inside a WAL record.
    Frame,
    /// A write-ahead log file.
    Wal,
    /// A segment: Parquet.
    Segment,
    /// A conflicts object: Parquet.
    Conflicts,
    /// A manifest base or delta.
    Manifest,
    /// A wrapped key.
    Key,
    /// The name of an object in the store.
    ObjectKey,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frame => "frame",
            Self::Wal => "WAL file",
            Self::Segment => "segment",
            Self::Conflicts => "conflicts object",
            Self::Manifest => "manifest",
            Self::Key => "wrapped key",
            Self::ObjectKey => "object key",
        })
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FormatErrorKind {
    /// The bytes end before the value does.
    Truncated,
    /// A checksum or an authentication tag does not fit: the bytes were damaged, or moved from elsewhere.
    Damaged,
    /// The bytes are whole, and break a rule of the format.
    Invalid,
    /// A version that this program does not read.
    UnknownVersion,
    /// A number of bytes, readings or entries past the format's limit.
    TooLarge,
    /// A channel that is not in the registry.
    UnknownChannel,
    /// The key does not open it.
    WrongKey,
}

/// An error in stored or received bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} at byte {offset}: {detail}")]
pub struct FormatError {
    /// What it is in.
    pub file: FileKind,
    /// What kind of error.
    pub kind: FormatErrorKind,
    /// Where, in bytes from the start of the file or message.
    pub offset: u64,
    /// What exactly, for people.
    pub detail: String,
}

impl FormatError {
    /// An error of this kind at this offset.
    #[must_use]
    pub fn new(file: FileKind, kind: FormatErrorKind, offset: u64, detail: impl Into<String>) -> Self {
        Self { file, kind, offset, detail: detail.into() }
    }
}
