//! Reads of a store on the faulty file system: what the library's local store does on the machine's. In memory nothing
//! blocks, so everything is done when it is asked for. Only for tests and simulations; it writes nothing.

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::files::{FaultyFiles, Files as _, Listed};

#[derive(Debug)]
pub(super) struct FaultyReads {
    files: FaultyFiles,
    root: PathBuf,
}

impl fmt::Display for FaultyReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyReads({})", self.root.display())
    }
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "FaultyReads", source: source.into() }
}

fn no_object(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

fn not_found(location: &Path, error: io::Error) -> Error {
    if no_object(&error) { Error::NotFound { path: location.to_string(), source: error.into() } } else { failed(error) }
}

fn meta(location: Path, id: usize, len: u64) -> ObjectMeta {
    // A name's file is never written to again: its number is the version. There is no clock here.
    let e_tag = Some(format!("{id:x}-{len:x}"));
    ObjectMeta { location, last_modified: Default::default(), size: len, e_tag, version: None }
}

impl FaultyReads {
    pub(super) fn new(files: FaultyFiles, root: PathBuf) -> Self {
        Self { files, root }
    }

    fn read(&self, location: &Path, ranges: impl Iterator<Item = Range<u64>>) -> Result<Vec<Bytes>> {
        let file = self.files.open(&self.root.join(location.as_ref())).map_err(|e| not_found(location, e))?;
        let read = |range: Range<u64>| {
            let len = usize::try_from(range.end - range.start).map_err(failed)?;
            let mut bytes = vec![0; len];
            let read = file.read_at(&mut bytes, range.start).map_err(failed)?;
            if read < len { Err(failed("the file is shorter than its range")) } else { Ok(Bytes::from(bytes)) }
        };
        ranges.map(read).collect()
    }

    /// A directory's objects and directories; of what is no directory, none.
    fn level(&self, prefix: &Path) -> Result<ListResult> {
        let mut level = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
        let entries = match self.files.entries(&self.root.join(prefix.as_ref())) {
            Err(error) if no_object(&error) => return Ok(level),
            entries => entries.map_err(failed)?,
        };
        for (name, listed) in entries {
            let location = Path::parse(format!("{prefix}/{name}")).map_err(failed)?;
            match listed {
                Listed::Dir => level.common_prefixes.push(location),
                Listed::File { id, len } => level.objects.push(meta(location, id, len)),
            }
        }
        Ok(level)
    }

    fn all(&self, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let mut objects = Vec::new();
        let mut left = vec![prefix.cloned().unwrap_or_default()];
        while let Some(prefix) = left.pop() {
            let level = self.level(&prefix)?;
            objects.extend(level.objects);
            left.extend(level.common_prefixes);
        }
        Ok(objects)
    }
}

fn unsupported() -> Error {
    Error::NotImplemented { operation: "a write".to_owned(), implementer: "FaultyReads".to_owned() }
}

#[async_trait]
impl ObjectStore for FaultyReads {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let stat = self.files.stat(&self.root.join(location.as_ref()));
        let (id, len) = stat.map_err(|e| not_found(location, e))?;
        let meta = meta(location.clone(), id, len);
        options.check_preconditions(&meta)?;
        let range = match options.range {
            Some(range) => range.as_range(len).map_err(failed)?,
            None => 0..len,
        };
        let bytes = if options.head { Vec::new() } else { self.read(location, std::iter::once(range.clone()))? };
        let payload = GetResultPayload::Stream(stream::iter(bytes.into_iter().map(Ok)).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let stat = self.files.stat(&self.root.join(location.as_ref()));
        let (_, len) = stat.map_err(|e| not_found(location, e))?;
        let within = ranges.iter().map(|range| GetRange::Bounded(range.clone()).as_range(len).map_err(failed));
        self.read(location, within.collect::<Result<Vec<_>>>()?.into_iter())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.all(prefix) {
            Ok(objects) => stream::iter(objects.into_iter().map(Ok)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.level(&prefix.cloned().unwrap_or_default())
    }

    async fn put_opts(&self, _location: &Path, _payload: PutPayload, _options: PutOptions) -> Result<PutResult> {
        Err(unsupported())
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(unsupported())
    }

    fn delete_stream(&self, _locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        stream::iter([Err(unsupported())]).boxed()
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(unsupported())
    }
}
