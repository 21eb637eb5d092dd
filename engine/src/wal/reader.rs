//! What an earlier process left of the log: the files in order, each scanned whole.
//!
//! Reading makes durable what it found: a process may have been killed between writing a block and syncing it, so that
//! the block is read from the page cache now and gone after a power cut. The last block of the last file, the only one
//! that this can be true for, is written again as it is and synced, before anything is built on it: when the file's turn
//! has come, so that a scan, which may be done ahead, changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durable::{File, Files};
use storage_format::encryption::SecretKey;
use storage_format::wal::{WalBlock, WalEnd, WalFileKind, WalScan, scan_wal};
use storage_format::{FormatError, Lsn, WalFileId};

use super::directory::{Name, WalFile, file_path, parse_name};
use crate::error::{EngineError, EngineErrorKind};
use crate::keys::KeyProvider;

/// After so many bytes a scan lets other tasks have its thread: some tenths of a millisecond.
const YIELD_BYTES: u64 = 512 << 10;

/// Reads the files that an earlier process left.
#[derive(Debug)]
pub(crate) struct WalReader {
    files: Arc<dyn Files>,
    keys: Arc<dyn KeyProvider>,
    dir: PathBuf,
    ids: Vec<WalFileId>,
}

/// A file, read and scanned to its end.
#[derive(Debug)]
pub(crate) struct WalFileScan {
    pub(crate) file: WalFile,
    /// The LSN after its last record.
    pub(crate) next_lsn: Lsn,
    pub(crate) end: WalFileEnd,
    pub(crate) blocks: Vec<WalBlock>,
    unsettled: Option<LastBlock>,
}

/// The log's last block, as it was read, and where.
#[derive(Debug)]
struct LastBlock {
    file: Box<dyn File>,
    offset: u64,
    bytes: Vec<u8>,
}

/// How a file ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WalFileEnd {
    /// As a crash or a close may leave it.
    Fine(WalEnd),
    /// Damaged, or with what no crash leaves.
    Corrupt(FormatError),
}

impl WalReader {
    /// Lists the directory, and removes files that never got a place in the log.
    pub(crate) fn open(files: Arc<dyn Files>, keys: Arc<dyn KeyProvider>, dir: PathBuf) -> Result<Self, EngineError> {
        let list = || -> io::Result<Vec<WalFileId>> {
            files.create_dir_all(&dir)?;
            let mut ids = Vec::new();
            for name in files.list(&dir)? {
                match parse_name(&name) {
                    Name::File(id) => ids.push(id),
                    Name::Temporary => files.remove(&dir.join(&name))?,
                    Name::Other => tracing::warn!(name, "a file in the WAL directory that is none of the log's"),
                }
            }
            // The next file made syncs the directory, too; with this, what is found now needs no such argument.
            files.sync_dir(&dir)?;
            ids.sort_unstable();
            Ok(ids)
        };
        let ids = list().map_err(|error| unreadable(&dir, error))?;
        Ok(Self { files, keys, dir, ids })
    }

    /// Lists the directory beside a writer, and changes nothing.
    pub(crate) fn look(files: Arc<dyn Files>, keys: Arc<dyn KeyProvider>, dir: PathBuf) -> Result<Self, EngineError> {
        let names = files.list(&dir).map_err(|error| unreadable(&dir, error))?;
        let id = |name: &String| match parse_name(name) {
            Name::File(id) => Some(id),
            Name::Temporary | Name::Other => None,
        };
        let mut ids: Vec<_> = names.iter().filter_map(id).collect();
        ids.sort_unstable();
        Ok(Self { files, keys, dir, ids })
    }

    /// The files, oldest first.
    pub(crate) fn ids(&self) -> &[WalFileId] {
        &self.ids
    }

    /// Path of a file.
    pub(crate) fn path(&self, id: WalFileId) -> PathBuf {
        file_path(&self.dir, id)
    }

    /// The LSN that a file's header says it starts with; `None` if it has no whole header.
    pub(crate) fn first_lsn(&self, id: WalFileId) -> Result<Option<Lsn>, EngineError> {
        let path = self.path(id);
        let mut page = vec![0; storage_format::limits::WAL_FILE_HEADER_BYTES];
        let read = self.files.open(&path).and_then(|file| file.read_at(&mut page, 0));
        let read = read.map_err(|error| unreadable(&path, error))?;
        let header = storage_format::wal::WalFileHeader::decode(&page[..read]);
        Ok(header.ok().map(|header| header.first_lsn))
    }

    /// Reads one file whole and changes nothing. Of the `last` file, what [`WalReader::settle`] needs is kept.
    ///
    /// # Errors
    /// When the file cannot be read, its header is damaged or its key does not open: then nothing of it can be told.
    pub(crate) async fn scan(&self, id: WalFileId, last: bool) -> Result<WalFileScan, EngineError> {
        let path = self.path(id);
        let file = self.files.open(&path).map_err(|error| unreadable(&path, error))?;
        let bytes = file.read_all().map_err(|error| unreadable(&path, error))?;
        let mut scan = self.begin(&path, &bytes)?;
        let header = *scan.header();
        if header.id != id {
            let detail = format!("the header says that this is file {}", header.id);
            let kind = storage_format::FormatErrorKind::Invalid;
            return Err(corrupt(&path, &FormatError::new(storage_format::FileKind::Wal, kind, 16, detail)));
        }
        if header.kind != WalFileKind::Log {
            let kind = storage_format::FormatErrorKind::Invalid;
            let detail = "a file of carried records, in the log's place".to_owned();
            return Err(corrupt(&path, &FormatError::new(storage_format::FileKind::Wal, kind, 4, detail)));
        }
        let mut blocks = Vec::new();
        let mut end = None;
        let mut yielded = 0;
        for block in &mut scan {
            match block {
                Ok(block) => {
                    let offset = block.offset;
                    blocks.push(block);
                    if offset - yielded >= YIELD_BYTES {
                        yielded = offset;
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => end = Some(WalFileEnd::Corrupt(error)),
            }
        }
        let end = end.or(scan.end().map(WalFileEnd::Fine)).expect("a scan without error has an end");
        let next_lsn = scan.next_lsn();
        let last_block = scan.last_block().filter(|_| last && matches!(end, WalFileEnd::Fine(_)));
        let unsettled = last_block.map(|at| LastBlock { file, offset: at.start as u64, bytes: bytes[at].to_vec() });
        let file = WalFile { id, first_lsn: header.first_lsn, bytes: bytes.len() as u64 };
        Ok(WalFileScan { file, next_lsn, end, blocks, unsettled })
    }

    fn begin<'a>(&self, path: &Path, bytes: &'a [u8]) -> Result<WalScan<'a>, EngineError> {
        let key_error = std::cell::RefCell::new(None);
        let unwrap = |wrapped: &_, aad: &[u8]| -> Result<SecretKey, FormatError> {
            self.keys.unwrap(wrapped, aad).map_err(|error| {
                let text = error.to_string();
                *key_error.borrow_mut() = Some(error);
                FormatError::new(storage_format::FileKind::Wal, storage_format::FormatErrorKind::WrongKey, 48, text)
            })
        };
        let scan = scan_wal(bytes, &unwrap);
        if let Some(error) = key_error.into_inner() {
            return Err(EngineError::new(
                EngineErrorKind::Invalid,
                "a WAL file's key does not open with this master key",
                "Start with the master key that the data directory was made with.",
            )
            .at(path.display())
            .because(error));
        }
        scan.map_err(|error| corrupt(path, &error))
    }

    /// Makes the last block of the last file durable.
    pub(crate) fn settle(&self, scan: &mut WalFileScan) -> Result<(), EngineError> {
        let Some(LastBlock { file, offset, bytes }) = scan.unsettled.take() else { return Ok(()) };
        file.write_at(&bytes, offset).and_then(|()| file.sync_data()).map_err(|error| {
            EngineError::new(
                EngineErrorKind::Failed,
                "the end of the WAL could not be made durable",
                "Look at the disk, then start again: everything acknowledged is kept.",
            )
            .at(self.path(scan.file.id).display())
            .because(error)
        })
    }
}

fn unreadable(path: &Path, error: io::Error) -> EngineError {
    EngineError::new(
        EngineErrorKind::Failed,
        "the WAL cannot be read",
        "Look at the disk and at the rights of the data directory.",
    )
    .at(path.display())
    .because(error)
}

/// A damaged WAL file, with the place of the damage.
pub(crate) fn corrupt(path: &Path, error: &FormatError) -> EngineError {
    EngineError::new(
        EngineErrorKind::Corrupt,
        "a WAL file is damaged in a way that no crash leaves",
        "Nothing was changed. Look with `icecore wal inspect`; restore the file from a copy if there is one. Do not \
         remove it: what only it holds would be lost, and no start would notice if it is the newest.",
    )
    .at(format_args!("{} at byte {}", path.display(), error.offset))
    .because(error.clone())
}
