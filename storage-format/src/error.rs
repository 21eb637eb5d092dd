//! Errors in stored or received bytes: the kind of file, the offset and the fault.

use std::fmt;

/// Kind of file or message that this crate decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A frame, on the wire or inside a WAL record.
    Frame,
    /// A write-ahead log file.
    Wal,
    /// A segment (Parquet).
    Segment,
    /// A conflicts object (Parquet).
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

/// Kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FormatErrorKind {
    /// The bytes end inside a value.
    Truncated,
    /// A checksum or an authentication tag does not match: the bytes were damaged, or moved from elsewhere.
    Damaged,
    /// The bytes are intact, but break a rule of the format.
    Invalid,
    /// A version that this program does not read.
    UnknownVersion,
    /// A number of bytes, readings or entries above the format's limit.
    TooLarge,
    /// A channel that is not in the registry.
    UnknownChannel,
    /// The key does not decrypt the bytes.
    WrongKey,
}

/// An error in stored or received bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} at byte {offset}: {detail}")]
pub struct FormatError {
    /// Kind of file or message.
    pub file: FileKind,
    /// Kind of fault.
    pub kind: FormatErrorKind,
    /// Offset of the fault, in bytes from the start of the file or message.
    pub offset: u64,
    /// Description for the operator.
    pub detail: String,
}

impl FormatError {
    /// Creates an error of this kind at this offset.
    #[must_use]
    pub fn new(file: FileKind, kind: FormatErrorKind, offset: u64, detail: impl Into<String>) -> Self {
        Self { file, kind, offset, detail: detail.into() }
    }
}
