//! Sequence numbers as newtypes: what counts what can never be confused.

use std::fmt;

macro_rules! sequence {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// Nothing yet: real numbers start at 1.
            pub const ZERO: Self = Self(0);

            /// The number as it is.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The next one; `None` at the end of `u64`.
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
    /// Log sequence number: one per WAL record, without holes, over all WAL files of a data directory.
    Lsn
);
sequence!(
    /// A frame's number within its sender's spool; grows from frame to frame, holes are allowed.
    FrameSequence
);
sequence!(
    /// The number of a flush of one organisation. An earlier number wins, channel by channel.
    FlushNumber
);
sequence!(
    /// The version of an organisation's manifest: one per commit, without holes.
    ManifestVersion
);
sequence!(
    /// Counts the writers that an organisation's manifest has had; a later one fences an earlier one.
    WriterEpoch
);
