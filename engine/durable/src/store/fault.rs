//! A store that fails when told to, for tests: before it did anything, or after it did.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// An object is written.
    Put,
    /// An object is read, wholly or in part.
    Get,
    /// Names are listed.
    List,
    /// An object is removed.
    Delete,
    /// An object is copied.
    Copy,
}

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// An error, and nothing was done.
    Before,
    /// The operation was done, and its response is an error. Reads, which do nothing, fail.
    Applied,
}

#[derive(Debug)]
struct Planned {
    operation: Operation,
    name_contains: String,
    fault: Fault,
    skip: usize,
}

/// Called with each operation and the object's name, before it is done.
type Watcher = Box<dyn Fn(Operation, &str) + Send + Sync>;

/// Wraps a store. Faults are planned; each happens once, in the order planned.
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    plan: Mutex<VecDeque<Planned>>,
    log: Mutex<Vec<(Operation, String)>>,
    watcher: Mutex<Option<Watcher>>,
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

fn injected() -> Error {
    Error::Generic { store: "FaultStore", source: "injected".into() }
}

impl FaultStore {
    /// A store that does as this one does, until told otherwise.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, plan: Mutex::default(), log: Mutex::default(), watcher: Mutex::default() }
    }

    /// Fails the next such operation on a name that contains this text, after `skip` others of the kind.
    pub fn fail_next(&self, operation: Operation, name_contains: &str, fault: Fault, skip: usize) {
        let planned = Planned { operation, name_contains: name_contains.to_owned(), fault, skip };
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).push_back(planned);
    }

    /// Calls this before each operation, instead of what was called so far.
    pub fn watch(&self, watcher: impl Fn(Operation, &str) + Send + Sync + 'static) {
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(watcher));
    }

    /// Forgets what is planned; tells how many faults had not happened.
    pub fn clear(&self) -> usize {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let left = plan.len();
        plan.clear();
        left
    }

    /// What was asked since the last call, with names.
    pub fn take_log(&self) -> Vec<(Operation, String)> {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn next(&self, operation: Operation, name: &str) -> Option<Fault> {
        if let Some(watcher) = &*self.watcher.lock().unwrap_or_else(PoisonError::into_inner) {
            watcher(operation, name);
        }
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push((operation, name.to_owned()));
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        for index in 0..plan.len() {
            let planned = &mut plan[index];
            if planned.operation == operation && name.contains(&planned.name_contains) {
                if planned.skip == 0 {
                    return plan.remove(index).map(|planned| planned.fault);
                }
                planned.skip -= 1;
                return None;
            }
        }
        None
    }

    fn fail(&self, operation: Operation, name: &str) -> Result<()> {
        if self.next(operation, name).is_some() { Err(injected()) } else { Ok(()) }
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.next(Operation::Put, location.as_ref()) {
            Some(Fault::Before) => Err(injected()),
            Some(Fault::Applied) => {
                let _ = self.inner.put_opts(location, payload, options).await;
                Err(injected())
            }
            None => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.fail(Operation::Put, location.as_ref())?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.fail(Operation::Get, location.as_ref())?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.fail(Operation::Get, location.as_ref())?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // One fault spoils the whole call: which of the objects are gone is for the caller to find out.
        if self.next(Operation::Delete, "").is_some() {
            return futures::stream::once(async { Err(injected()) }).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.fail(Operation::List, prefix.map_or("", |prefix| prefix.as_ref())) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.fail(Operation::List, prefix.map_or("", |prefix| prefix.as_ref()))?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.fail(Operation::Copy, to.as_ref())?;
        self.inner.copy_opts(from, to, options).await
    }
}
