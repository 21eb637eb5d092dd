//! The next WAL file, made ahead: real zeros, durable, under a temporary name. Only then is a sync of a block the sync
//! of data alone, without metadata.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use durable::{File, Random};

use super::directory::WalDirectory;

/// How many zeros are written at a time.
const ZEROS_BYTES: usize = 1 << 20;

/// A file of durable zeros that has no place in the log yet.
#[derive(Debug)]
pub(crate) struct PreparedFile {
    pub(super) file: Box<dyn File>,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// Makes the next file ready when there is none.
#[derive(Debug)]
pub(crate) struct WalPrepareStep {
    directory: Arc<WalDirectory>,
    random: Arc<dyn Random>,
}

impl WalPrepareStep {
    pub(crate) fn new(directory: Arc<WalDirectory>, random: Arc<dyn Random>) -> Self {
        Self { directory, random }
    }

    /// Makes one file ready if none is and the log may grow; answers whether it did. A failure costs nothing: the
    /// appender makes the file itself when it needs it, and tells if it cannot.
    #[cfg(any(test, feature = "fault"))]
    pub(crate) fn run_once(&self) -> io::Result<bool> {
        self.run_gently(&|| true)
    }

    /// The same, a little at a time: what the disk has to do at once, blocks wait for. `breathe` is called in
    /// between, and says whether to go on.
    pub(crate) fn run_gently(&self, breathe: &dyn Fn() -> bool) -> io::Result<bool> {
        let bytes = self.directory.file_bytes();
        if self.directory.has_prepared() || self.directory.is_full(bytes) {
            return Ok(false);
        }
        let file = prepare(&self.directory, &*self.random, bytes, Some(breathe))?;
        if let Some(file) = self.directory.put_prepared(file) {
            // Somebody else was faster.
            self.directory.files().remove(&file.path)?;
        }
        Ok(true)
    }
}

/// Makes a file of durable zeros: all at once if somebody waits for it, or with `breathe` called in between, which says
/// whether to go on. After a failure its remains are removed as far as possible; a failed sync of a file that nothing
/// relies on, and that is thrown away, is no reason to stop.
pub(super) fn prepare(
    directory: &WalDirectory,
    random: &dyn Random,
    bytes: u64,
    breathe: Option<&dyn Fn() -> bool>,
) -> io::Result<PreparedFile> {
    let path = directory.temporary_path(&format!("{:016x}", random.nonzero_u64()));
    let file = directory.files().create_new_uncached(&path)?;
    match fill_with_zeros(&*file, bytes, breathe) {
        Ok(()) => Ok(PreparedFile { file, path, bytes }),
        Err(error) => {
            drop(file);
            // The first error is the one that tells; what stays is removed at the next start.
            let _remains = directory.files().remove(&path);
            Err(error)
        }
    }
}

fn fill_with_zeros(file: &dyn File, bytes: u64, breathe: Option<&dyn Fn() -> bool>) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES.min(usize::try_from(bytes).unwrap_or(ZEROS_BYTES))];
    let mut offset = 0;
    while offset < bytes {
        let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
        let chunk = &zeros[..left.min(zeros.len())];
        file.write_at(chunk, offset)?;
        offset += chunk.len() as u64;
        if let Some(breathe) = breathe
            && offset < bytes
        {
            file.sync_data()?;
            if !breathe() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "nobody needs it any more"));
            }
        }
    }
    file.sync_all()
}
