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
#[cfg(any(test, feature = "fault"))]
mod faulty_reads;
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
use disk::{Disk, Target, before};
use upload::Upload;

use crate::files::{Files, RealFiles};

/// How many deletes run at once.
const DELETES_MAX: usize = 8;

/// A local directory as an object store.
#[derive(Debug)]
pub struct LocalDurable {
    /// What reads. It writes nothing.
    reads: Arc<dyn ObjectStore>,
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
        let (root, staging) = (root.into(), staging.into());
        let files: Arc<dyn Files> = Arc::new(RealFiles);
        make(files.as_ref(), [&root, &staging])?;
        let root = root.canonicalize().map_err(before("resolve", &root))?;
        let staging = staging.canonicalize().map_err(before("resolve", &staging))?;
        let disk = Disk::open(files, root, staging)?;
        Ok(Self { reads: Arc::new(LocalFileSystem::new_with_prefix(disk.root())?), disk: Arc::new(disk) })
    }

    /// Opens the store on a file system of tests and simulations, as [`LocalDurable::open`] does on the machine's. All
    /// is synchronous where there is no runtime. It belongs to the present process: after a restart all of it fails.
    ///
    /// # Errors
    /// As [`LocalDurable::open`].
    #[cfg(any(test, feature = "fault"))]
    pub fn open_on(files: crate::FaultyFiles, root: PathBuf, staging: PathBuf) -> Result<Self> {
        let files = files.of_this_process();
        make(&files, [&root, &staging])?;
        let reads = faulty_reads::FaultyReads::new(files.clone(), root.clone());
        let disk = Disk::open(Arc::new(files), root, staging)?;
        Ok(Self { reads: Arc::new(reads), disk: Arc::new(disk) })
    }
}

/// Makes the store's own directories.
fn make(files: &dyn Files, dirs: [&PathBuf; 2]) -> Result<()> {
    for dir in dirs {
        files.create_dir_all(dir).map_err(before("make directory", dir))?;
    }
    Ok(())
}

/// Runs blocking work beside the async threads; where there is no runtime, here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

/// The file that an object is. As the library has it, whose reader must find it: no names that end in `#` and digits,
/// which its lists hide.
fn target(disk: &Disk, location: &Path) -> Result<PathBuf> {
    let numbered = |name: &str| {
        name.split_once('#').is_some_and(|(_, end)| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit()))
    };
    match location.filename() {
        Some(name) if !numbered(name) => Ok(disk.root().join(location.as_ref())),
        _ => {
            let source = "the local store has no such names".into();
            Err(Error::Generic { store: "LocalDurable", source })
        }
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
            PutMode::Create => Target::create(location, target(&self.disk, location)?),
            PutMode::Overwrite => Target::overwrite(location, target(&self.disk, location)?),
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
        let target = Target::overwrite(location, target(&self.disk, location)?);
        let disk = Arc::clone(&self.disk);
        let staged = blocking(move || disk.stage()).await?;
        Ok(Box::new(Upload::new(Arc::clone(&self.disk), target, staged)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.reads.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let disk = Arc::clone(&self.disk);
        locations
            .map(move |location| {
                let disk = Arc::clone(&disk);
                async move {
                    let location = location?;
                    let file = target(&disk, &location)?;
                    let name = location.to_string();
                    blocking(move || disk.remove(&name, &file)).await?;
                    Ok(location)
                }
            })
            .buffered(DELETES_MAX)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.reads.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.reads.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.reads.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let source = target(&self.disk, from)?;
        let target = match options.mode {
            CopyMode::Create => Target::create(to, target(&self.disk, to)?),
            CopyMode::Overwrite => Target::overwrite(to, target(&self.disk, to)?),
        };
        let (disk, name) = (Arc::clone(&self.disk), from.to_string());
        blocking(move || disk.copy(&name, &source, &target)).await
    }
}

impl LocalDurable {
    async fn result(&self, location: &Path) -> Result<PutResult> {
        // The object is durable: failing to look at it again must not say that it is not.
        let e_tag = self.reads.head(location).await.ok().and_then(|meta| meta.e_tag);
        Ok(PutResult { e_tag, version: None })
    }
}
