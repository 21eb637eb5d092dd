//! A remote store whose writes are tried again with pauses, and whose errors keep what is known about a write.
//!
//! The library's clients try requests again by themselves. For reads that is all that is needed. For a write it would
//! hide what an earlier try may have done: one that was applied and answered with an error, followed by one that is
//! refused (expired credentials, say), would look as if nothing had happened. So writes go through a client that tries
//! once, and the tries are made here.
//!
//! Crash consistency: each object comes into being in one request, or in one that completes an upload in parts; both
//! are refused by the store when the name is taken. Parts of an upload that was never completed are no object; the
//! store's own rule for unfinished uploads removes them (`docs/object-stores.md`).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::{Clock, Random};

/// Objects from this size on are written in parts.
const PARTS_FROM_BYTES: usize = 32 * 1024 * 1024;
/// Size of a part: large enough that the requests cost little, small enough that one which fails is soon sent again.
const PART_BYTES: usize = 16 * 1024 * 1024;
/// Parts of one object on their way at once.
const PARTS_AT_ONCE: usize = 4;

/// Limits of the tries of one request.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    pub(super) retries_max: usize,
    pub(super) time_max: Duration,
    pub(super) pause_min: Duration,
    pub(super) pause_max: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
}

/// Tries of one request that have failed.
#[derive(Debug, Default)]
struct Tries {
    made: usize,
    /// Monotonic time at which the first has failed, and the last pause.
    since: Option<(Duration, Duration)>,
}

/// Returns whether the same request may succeed a moment later.
fn may_pass(error: &Error) -> bool {
    matches!(error, Error::Generic { .. })
}

impl Patience {
    /// Waits before another try; returns whether there is to be one.
    async fn again(&self, tries: &mut Tries, error: &Error) -> bool {
        let now = self.clock.monotonic();
        let (since, pause) = tries.since.unwrap_or((now, self.pause_min));
        if !may_pass(error) || tries.made >= self.retries_max || now.saturating_sub(since) >= self.time_max {
            return false;
        }
        tries.made += 1;
        tries.since = Some((since, self.pause(pause)));
        self.clock.sleep(pause).await;
        true
    }

    /// A pause between the shortest and twice what it was, so that many who wait do not come back at once.
    fn pause(&self, last: Duration) -> Duration {
        let mut bytes = [0; 4];
        self.random.fill(&mut bytes);
        let part = f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX);
        let longest = (last * 2).min(self.pause_max);
        self.pause_min + longest.saturating_sub(self.pause_min).mul_f64(part)
    }
}

/// A client whose completed uploads never replace an object.
pub(super) struct PartsTo {
    pub(super) store: Arc<dyn MultipartStore>,
    /// What all names begin with: this client does not put it there by itself.
    pub(super) prefix: Path,
}

/// All tries of a write have failed, or its outcome is unknown. It may be there.
#[derive(Debug, thiserror::Error)]
#[error("{source} (tries: {tries})")]
pub(super) struct Unsettled {
    tries: usize,
    source: Error,
}

/// Returns whether this error is a write that was tried as often as it may be.
pub(super) fn is_tried_enough(error: &Error) -> bool {
    matches!(error, Error::Generic { source, .. } if source.is::<Unsettled>())
}

/// A remote store.
pub(super) struct RemoteStore {
    url: String,
    reads: Arc<dyn ObjectStore>,
    /// Tries each request once.
    writes: Arc<dyn ObjectStore>,
    parts: Option<PartsTo>,
    /// Whether the store can be asked for the end of an object whose size is not known. Azure cannot.
    gives_ends: bool,
    patience: Patience,
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteStore({})", self.url)
    }
}

impl fmt::Display for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl RemoteStore {
    pub(super) fn new(
        url: String,
        (reads, writes, parts): (Arc<dyn ObjectStore>, Arc<dyn ObjectStore>, Option<PartsTo>),
        gives_ends: bool,
        patience: Patience,
    ) -> Self {
        Self { url, reads, writes, parts, gives_ends, patience }
    }

    /// Reads the end of an object by its size, which costs a request more.
    async fn get_end(&self, location: &Path, length: u64, options: GetOptions) -> Result<GetResult> {
        let size = self.reads.head(location).await?.size;
        let range = (size > 0).then(|| GetRange::Bounded(size.saturating_sub(length)..size));
        self.reads.get_opts(location, GetOptions { range, ..options }).await
    }

    /// A list that goes on behind the last name it had when a response breaks off, which the library does not do.
    fn listing(&self, prefix: Option<Path>, offset: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (reads, patience) = (Arc::clone(&self.reads), self.patience.clone());
        let ask = move |last: Option<&Path>| match last {
            Some(last) => reads.list_with_offset(prefix.as_ref(), last),
            None => reads.list(prefix.as_ref()),
        };
        let names = ask(offset.as_ref());
        futures::stream::try_unfold((names, offset, Tries::default()), move |(mut names, mut last, mut tries)| {
            let (ask, patience) = (ask.clone(), patience.clone());
            async move {
                loop {
                    match names.next().await {
                        None => return Ok(None),
                        Some(Ok(meta)) => {
                            last = Some(meta.location.clone());
                            // Bounded are tries without progress.
                            return Ok(Some((meta, (names, last, Tries::default()))));
                        }
                        Some(Err(error)) if patience.again(&mut tries, &error).await => names = ask(last.as_ref()),
                        Some(Err(error)) => return Err(error),
                    }
                }
            }
        })
        .boxed()
    }

    async fn put_whole(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let mut tries = Tries::default();
        loop {
            let error = match self.writes.put_opts(location, payload.clone(), options.clone()).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            // How things stand, also if an earlier try has made them so: whoever asks compares the bytes.
            if super::counted::is_answer(&error) {
                return Err(error);
            }
            if !may_pass(&error) && tries.made == 0 {
                return Err(error);
            }
            if !self.patience.again(&mut tries, &error).await {
                return Err(unsettled(tries.made + 1, error));
            }
        }
    }

    async fn put_in_parts(&self, to: &PartsTo, location: &Path, payload: PutPayload) -> Result<PutResult> {
        let name: Path = to.prefix.parts().chain(location.parts()).collect();
        // Until the last request nothing is there under the name: any error is one before the fact, and the client has
        // tried each request as often as it may be.
        let upload = to.store.create_multipart(&name).await?;
        let sent = futures::stream::iter(split(&payload).into_iter().enumerate())
            .map(|(index, part)| to.store.put_part(&name, &upload, index, part))
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await;
        let done = match sent {
            Ok(parts) => to.store.complete_multipart(&name, &upload, parts).await,
            Err(error) => Err(error),
        };
        let error = match done {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        // If it was completed nevertheless, there is nothing to give up.
        let _left = to.store.abort_multipart(&name, &upload).await;
        Err(match error {
            Error::Precondition { path, source } | Error::NotModified { path, source } => {
                Error::AlreadyExists { path, source }
            }
            error @ Error::AlreadyExists { .. } => error,
            // Also "no such upload": an earlier try may have completed it.
            error => unsettled(1, error),
        })
    }
}

fn unsettled(tries: usize, source: Error) -> Error {
    Error::Generic { store: "remote", source: Box::new(Unsettled { tries, source }) }
}

/// The payload in parts, without a copy.
fn split(payload: &PutPayload) -> Vec<PutPayload> {
    let mut parts = Vec::new();
    let mut part: Vec<Bytes> = Vec::new();
    let mut room = PART_BYTES;
    for chunk in payload {
        let mut rest = chunk.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(room));
            room -= piece.len();
            part.push(piece);
            if room == 0 {
                parts.push(std::mem::take(&mut part).into_iter().collect());
                room = PART_BYTES;
            }
        }
    }
    if !part.is_empty() {
        parts.push(part.into_iter().collect());
    }
    parts
}

#[async_trait]
impl ObjectStore for RemoteStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match &self.parts {
            Some(to) if options.mode == PutMode::Create && payload.content_length() >= PARTS_FROM_BYTES => {
                self.put_in_parts(to, location, payload).await
            }
            _ => self.put_whole(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.reads.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match options.range {
            Some(GetRange::Suffix(length)) if !self.gives_ends => self.get_end(location, length, options).await,
            _ => self.reads.get_opts(location, options).await,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.reads.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.reads.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix.cloned(), None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut tries = Tries::default();
        loop {
            match self.reads.list_with_delimiter(prefix).await {
                Err(error) if self.patience.again(&mut tries, &error).await => {}
                listed => return listed,
            }
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.reads.copy_opts(from, to, options).await
    }
}
