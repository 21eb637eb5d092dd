//! Sequence numbers as newtypes, so that numbers that count different things cannot be mixed up.

use std::fmt;

macro_rules! sequence {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// Zero: no number assigned yet. Assigned numbers start at 1.
            pub const ZERO: Self = Self(0);

            /// Creates the sequence number with this value.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// Returns the number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Returns the next number; `None` at the end of `u64`.
            #[must_use]
            pub const fn next(self) -> Option<Self> {
                match self.0.checked_add(1) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

sequence!(
    /// Log sequence number: one per WAL record, without gaps, over all WAL files of a data directory.
    Lsn
);
sequence!(
    /// Number of a frame within its sender's spool. Increases from frame to frame; gaps are allowed.
    FrameSequence
);
sequence!(
    /// Number of a flush of one organisation. A smaller number takes precedence, channel by channel.
    FlushNumber
);
sequence!(
    /// Version of an organisation's manifest: one per commit, without gaps.
    ManifestVersion
);
sequence!(
    /// Number of a writer of an organisation's manifest. A writer with a greater epoch fences those before it.
    WriterEpoch
);
