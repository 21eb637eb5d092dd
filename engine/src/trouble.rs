//! Trouble stays at home: an organisation whose stored data is damaged or missing holds up nobody else, and is mended when
//! somebody restores it.
//!
//! [`CarryOn`] copies what memory and log hold of it into carried files, when one of them is in the way of others; then
//! buffers and log go. [`TroubleStep`] is the step of maintenance that does so, and that tries again and again whether
//! the organisation is well: it loads the manifest, applies the carried records through `apply`, flushes them, and
//! removes their files. Who is in trouble, and what that means for those who ask, `org` knows.
//!
//! Invariants: records are applied in the order of their LSNs, once: those that the manifest covers are left out, and what
//! a failed try has applied is dropped before the next. Until all of it is in segments nobody reads the organisation.
//!
//! Crash consistency: carried files are durable before buffers leave the state, and with them the log's reason to stay.
//! Mending goes file by file: commit, then removal. A crash before the commit leaves the file, after it a file that is
//! covered; the next start finds either.

mod carry;
mod step;

pub(crate) use carry::CarryOn;
pub(crate) use step::{TroubleHost, TroubleParts, TroubleStep};
