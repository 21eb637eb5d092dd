//! A store that counts what is asked of it, for stores that have no requests of their own to count.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::requests::{RequestKind, StoreRequests};

/// Names in one response of a remote store's list.
const LIST_PAGE: u64 = 1_000;

/// Counts what goes to the store beneath.
#[derive(Debug)]
pub struct CountedStore {
    inner: Arc<dyn ObjectStore>,
    requests: Arc<StoreRequests>,
}

impl CountedStore {
    /// Counts in `requests` what goes to `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, requests: Arc<StoreRequests>) -> Self {
        Self { inner, requests }
    }

    fn counted<T>(&self, kind: RequestKind, result: Result<T>) -> Result<T> {
        self.requests.count(kind, result.as_ref().err().is_none_or(is_answer));
        result
    }

    fn counted_list(&self, listed: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let requests = Arc::clone(&self.requests);
        // The first page is asked for in any case, and fails if any does.
        let mut names = 0;
        requests.count(RequestKind::List, true);
        listed
            .inspect_ok(move |_| {
                if names > 0 && names % LIST_PAGE == 0 {
                    requests.count(RequestKind::List, true);
                }
                names += 1;
            })
            .boxed()
    }
}

/// Returns whether the error is what was asked for: the state of things in the store.
pub(super) fn is_answer(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. } | Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. }
    )
}

impl fmt::Display for CountedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for CountedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.requests.sent(RequestKind::Put, payload.content_length() as u64);
        self.counted(RequestKind::Put, self.inner.put_opts(location, payload, options).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.counted(RequestKind::Put, self.inner.put_multipart_opts(location, options).await)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let kind = if options.head { RequestKind::Head } else { RequestKind::Get };
        let result = self.counted(kind, self.inner.get_opts(location, options).await)?;
        if kind == RequestKind::Get {
            self.requests.received(kind, result.range.end - result.range.start);
        }
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let read = self.counted(RequestKind::Get, self.inner.get_ranges(location, ranges).await)?;
        self.requests.received(RequestKind::Get, read.iter().map(|bytes| bytes.len() as u64).sum());
        Ok(read)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let requests = Arc::clone(&self.requests);
        let deleted = self.inner.delete_stream(locations);
        deleted
            .inspect(move |deleted| {
                requests.count(RequestKind::Delete, deleted.as_ref().err().is_none_or(is_answer));
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counted_list(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counted_list(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.counted(RequestKind::List, self.inner.list_with_delimiter(prefix).await)?;
        let names = (listed.objects.len() + listed.common_prefixes.len()) as u64;
        for _ in 1..names.div_ceil(LIST_PAGE) {
            self.requests.count(RequestKind::List, true);
        }
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.counted(RequestKind::Copy, self.inner.copy_opts(from, to, options).await)
    }
}
