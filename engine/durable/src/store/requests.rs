//! Counters of what is asked of an object store: requests are what a remote store is paid by.
//!
//! On a remote store every HTTP request counts, tries that failed included, because each is billed. On a local one
//! every operation counts as one request of its kind, a list as one for each 1,000 names, so that figures of both compare.

use std::sync::atomic::{AtomicU64, Ordering};

/// Kind of a request, as price lists tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// An object, or a part of one, is written.
    Put,
    /// An object is read, wholly or in part.
    Get,
    /// An object's size is asked for.
    Head,
    /// Up to 1,000 names are listed.
    List,
    /// Objects are removed: one, or many at once.
    Delete,
    /// An object is copied within the store.
    Copy,
    /// Anything else, such as a request for credentials.
    Other,
}

impl RequestKind {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Put, Self::Get, Self::Head, Self::List, Self::Delete, Self::Copy, Self::Other];

    /// A short word for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Copy => "copy",
            Self::Other => "other",
        }
    }
}

/// Requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestCounts {
    /// Requests with a response that tells how things are, also "no such object" and "there is one already".
    pub ok: u64,
    /// Requests that failed, or had no response.
    pub failed: u64,
    /// Bytes of objects sent with them.
    pub bytes_sent: u64,
    /// Bytes of objects received for them.
    pub bytes_received: u64,
}

#[derive(Debug, Default)]
struct Counters {
    ok: AtomicU64,
    failed: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

/// The counters of one store.
#[derive(Debug, Default)]
pub struct StoreRequests([Counters; RequestKind::ALL.len()]);

impl StoreRequests {
    fn of(&self, kind: RequestKind) -> &Counters {
        // A kind's number is its place in `ALL`.
        &self.0[kind as usize]
    }

    /// Counts a request by its outcome.
    pub(super) fn count(&self, kind: RequestKind, ok: bool) {
        let counters = self.of(kind);
        let counter = if ok { &counters.ok } else { &counters.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, kind: RequestKind, bytes: u64) {
        self.of(kind).bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn received(&self, kind: RequestKind, bytes: u64) {
        self.of(kind).bytes_received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Requests of this kind so far.
    #[must_use]
    pub fn get(&self, kind: RequestKind) -> RequestCounts {
        let counters = self.of(kind);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestCounts {
            ok: load(&counters.ok),
            failed: load(&counters.failed),
            bytes_sent: load(&counters.bytes_sent),
            bytes_received: load(&counters.bytes_received),
        }
    }

    /// Requests of all kinds so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        RequestKind::ALL.iter().map(|kind| self.get(*kind)).map(|counts| counts.ok + counts.failed).sum()
    }
}
