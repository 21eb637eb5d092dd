//! An object store in a local directory that really is one: an object is on stable storage when a put returns.
//!
//! `object_store`'s own local store never syncs. Here a put writes a staging file, syncs it, gives it its name (link
//! for create, rename for overwrite), syncs the directory, and before that every directory that was made on the way.
//! Staging files live outside the root, so that no list shows one; whoever opens the store alone removes leftovers.
//!
//! Crash consistency: before the link or rename nothing has happened but a staging file, removed at the next open.
//! After it and before the directory's sync the object may or may not be there after a power cut: the put has not
//! returned. A failed sync leaves unknown what is on the disk, and asking again would hide it: from then on every
//! write is refused.
//!
//! Owns the staging directory. Does not own locking: one process at a time may write.

mod disk;
mod upload;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

pub use disk::LocalDurableError;
use disk::{Disk, Target};
use upload::Upload;

/// How many deletes run at once.
const DELETES_MAX: usize = 8;

/// A local directory as an object store.
#[derive(Debug)]
pub struct LocalDurable {
    inner: LocalFileSystem,
    disk: Arc<Disk>,
}

impl fmt::Display for LocalDurable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalDurable({})", self.disk.root().display())
    }
}

impl LocalDurable {
    /// Opens the store in `root`, with staging files in `staging`, which must be on the same file system and outside
    /// of `root`. Both are made if need be. What an earlier process left in `staging` is removed: only the holder of
    /// the data directory's lock may call this.
    ///
    /// # Errors
    /// [`Error`] when a directory cannot be made, synced or read, or `staging` is inside `root`.
    pub fn open(root: impl Into<PathBuf>, staging: impl Into<PathBuf>) -> Result<Self> {
        let disk = Disk::open(root.into(), staging.into())?;
        Ok(Self { inner: LocalFileSystem::new_with_prefix(disk.root())?, disk: Arc::new(disk) })
    }

    /// Opens the store on a file system of tests and simulations, as [`LocalDurable::open`] does on the machine's. All
    /// is synchronous where there is no runtime. It belongs to the present process: after a restart all of it fails.
    ///
    /// # Errors
    /// As [`LocalDurable::open`].
    #[cfg(any(test, feature = "fault"))]
    pub fn open_on(files: crate::FaultyFiles, root: PathBuf, staging: PathBuf) -> Result<Self> {
        let _ = (files, root, staging);
        Err(unsupported("not yet"))
    }

    fn target(&self, location: &Path) -> Result<PathBuf> {
        // Refuses names that end in `#` and digits, which the library's lists hide.
        self.inner.path_to_filesystem(location)
    }

    #[cfg(test)]
    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }
}

/// Runs blocking work beside the async threads; where there is no runtime, here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "LocalDurable".to_owned() }
}

#[async_trait]
impl ObjectStore for LocalDurable {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if !options.attributes.is_empty() {
            return Err(unsupported("put with attributes"));
        }
        let target = match options.mode {
            PutMode::Create => Target::create(location, self.target(location)?),
            PutMode::Overwrite => Target::overwrite(location, self.target(location)?),
            PutMode::Update(_) => return Err(unsupported("put with a version to replace")),
        };
        let disk = Arc::clone(&self.disk);
        blocking(move || disk.put(&target, payload.iter())).await?;
        self.result(location).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !options.attributes.is_empty() {
            return Err(unsupported("put with attributes"));
        }
        let target = Target::overwrite(location, self.target(location)?);
        let disk = Arc::clone(&self.disk);
        let staged = blocking(move || disk.stage()).await?;
        Ok(Box::new(Upload::new(Arc::clone(&self.disk), target, staged)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (disk, inner) = (Arc::clone(&self.disk), self.inner.clone());
        locations
            .map(move |location| {
                let (disk, inner) = (Arc::clone(&disk), inner.clone());
                async move {
                    let location = location?;
                    let target = inner.path_to_filesystem(&location)?;
                    let name = location.to_string();
                    blocking(move || disk.remove(&name, &target)).await?;
                    Ok(location)
                }
            })
            .buffered(DELETES_MAX)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let source = self.target(from)?;
        let target = match options.mode {
            CopyMode::Create => Target::create(to, self.target(to)?),
            CopyMode::Overwrite => Target::overwrite(to, self.target(to)?),
        };
        let (disk, name) = (Arc::clone(&self.disk), from.to_string());
        blocking(move || disk.copy(&name, &source, &target)).await
    }
}

impl LocalDurable {
    async fn result(&self, location: &Path) -> Result<PutResult> {
        // The object is durable: failing to look at it again must not say that it is not.
        let e_tag = self.inner.head(location).await.ok().and_then(|meta| meta.e_tag);
        Ok(PutResult { e_tag, version: None })
    }
}
