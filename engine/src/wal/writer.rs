//! The log's one writer: records into a block, the block into the file, one sync. While a block is written, the next can
//! be filled and sealed.
//!
//! Crash consistency, file and directory: zeros and header are durable before the rename, the name is durable before
//! the first block. A crash in between leaves a temporary file, which the next start removes, or a file of the log
//! without records, which reads as an empty one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use durable::{Clock, Dir, File, Random};
use storage_format::encryption::SecretKey;
use storage_format::limits::{WAL_BLOCK_BYTES_MAX, WAL_FILE_HEADER_BYTES};
use storage_format::wal::{WalBlockBuilder, WalFileHeader, WalFileKey, WalFileKind};
use storage_format::{GatewayId, Lsn, Millis, OrgId, WalFileId};

use super::directory::{WalDirectory, WalFile};
use super::prepare::{PreparedFile, prepare};
use crate::error::{EngineError, EngineErrorKind};
use crate::keys::KeyProvider;
use crate::planted::{self, PlantedBug};

/// Is there a file with room for a record?
#[derive(Debug)]
pub(crate) enum WalRoom {
    /// Yes.
    Ready,
    /// Not now.
    Wait(WalWait),
}

/// Why there is no room, and there may be later. Nothing is lost meanwhile, and nothing acknowledged.
#[derive(Debug)]
pub(crate) enum WalWait {
    /// All files together are as long as they may be: a flush must let some go.
    Full,
    /// The next file cannot be made.
    NoFile(Box<dyn std::error::Error + Send + Sync>),
}

impl WalWait {
    /// What to do about it.
    pub(crate) fn advice(&self) -> &'static str {
        let Self::NoFile(error) = self else { return "Let flushes finish." };
        match error.downcast_ref::<io::Error>() {
            Some(error) if is_out_of_space(error) => {
                "Free space on the disk of the data directory, or enlarge its quota."
            }
            Some(error) if is_out_of_handles(error) => {
                "Raise the limit of open files, of the process (ulimit -n) or of the machine."
            }
            Some(_) => "Look at the disk of the data directory.",
            None => "Look at the key provider: a WAL file begins with its wrapped key.",
        }
    }
}

/// The file being written.
#[derive(Debug)]
struct Active {
    path: Arc<Path>,
    file: Arc<dyn File>,
    key: WalFileKey,
    /// Where the next block goes.
    offset: u64,
    bytes: u64,
}

/// A block on its way to the disk, with all that it takes to get there: whoever writes it needs no writer.
#[derive(Debug)]
pub(crate) struct SealedBlock {
    block: WalBlockBuilder,
    file: Arc<dyn File>,
    path: Arc<Path>,
    offset: u64,
}

impl SealedBlock {
    /// How long it is.
    pub(crate) fn bytes(&self) -> u64 {
        self.block.sealed().len() as u64
    }

    /// Writes the block and syncs it. When this returns, its records are durable.
    ///
    /// # Errors
    /// When the write or the sync failed: what the disk holds is not known, so nothing may be written after it.
    pub(crate) fn write(&self) -> Result<(), EngineError> {
        let sync = || match self.file.sync_data() {
            Err(_) if planted::has(PlantedBug::RetryFailedSync) => self.file.sync_data(),
            synced => synced,
        };
        self.file.write_at(self.block.sealed(), self.offset).and_then(|()| sync()).map_err(|error| {
            failure("a WAL block could not be written and synced")
                .at(format_args!("{} at byte {}", self.path.display(), self.offset))
                .because(error)
        })
    }
}

/// The log's one writer.
#[derive(Debug)]
pub(crate) struct WalWriter {
    directory: Arc<WalDirectory>,
    keys: Arc<dyn KeyProvider>,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    active: Option<Active>,
    next_id: WalFileId,
    next_lsn: Lsn,
    /// Records that are not sealed.
    block: WalBlockBuilder,
    /// The memory of a block that was written.
    spare: WalBlockBuilder,
    block_bytes_max: usize,
}

impl WalWriter {
    /// A writer that goes on at this LSN, in a new file of this id, which is made when it is needed first.
    pub(crate) fn new(
        directory: Arc<WalDirectory>,
        keys: Arc<dyn KeyProvider>,
        random: Arc<dyn Random>,
        clock: Arc<dyn Clock>,
        next_id: WalFileId,
        next_lsn: Lsn,
        block_bytes_max: u64,
    ) -> Self {
        let block_bytes_max = usize::try_from(block_bytes_max).unwrap_or(usize::MAX).min(WAL_BLOCK_BYTES_MAX);
        Self {
            directory,
            keys,
            random,
            clock,
            active: None,
            next_id,
            next_lsn,
            block: WalBlockBuilder::new(),
            spare: WalBlockBuilder::new(),
            block_bytes_max,
        }
    }

    /// The shared directory.
    pub(crate) fn directory(&self) -> &Arc<WalDirectory> {
        &self.directory
    }

    /// The LSN that the next record gets.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// Sees to it that the active file has room for a block with this frame, beginning the next file if need be. To be
    /// called with no record pending, and no block on its way: a file's name is only made when the log before it is whole.
    ///
    /// # Errors
    /// When the disk refuses the file for good, or the directory's sync failed: the log cannot go on.
    pub(crate) fn make_room(&mut self, frame_bytes: usize) -> Result<WalRoom, EngineError> {
        debug_assert!(self.block.is_empty());
        let needed = WalBlockBuilder::bytes_for(frame_bytes) as u64;
        if self.active.as_ref().is_some_and(|active| active.bytes - active.offset >= needed) {
            return Ok(WalRoom::Ready);
        }
        // A frame that is larger than the usual file gets a file of its size.
        let bytes = self.directory.file_bytes().max(WAL_FILE_HEADER_BYTES as u64 + needed);
        // With one file alone there is nothing that could go, and the log must go on to let it.
        let full = self.directory.is_full(bytes) && self.directory.file_count() > 1;
        self.directory.set_waiting(full);
        if full {
            return Ok(WalRoom::Wait(WalWait::Full));
        }
        let prepared = match self.directory.take_prepared(bytes) {
            Some(prepared) => prepared,
            None => match prepare(&self.directory, &*self.random, bytes, None) {
                Ok(prepared) => prepared,
                Err(error) => return Ok(WalRoom::Wait(WalWait::NoFile(error.into()))),
            },
        };
        self.begin_file(prepared)
    }

    fn begin_file(&mut self, prepared: PreparedFile) -> Result<WalRoom, EngineError> {
        let (id, first_lsn, bytes) = (self.next_id, self.next_lsn, prepared.bytes);
        let mut key = [0; 32];
        self.random.fill(&mut key);
        let key = SecretKey::from_bytes(key);
        let created = self.clock.now();
        let wrapped =
            match self.keys.wrap(&key, &WalFileHeader::key_aad(WalFileKind::Log, id, first_lsn, bytes, created)) {
                Ok(wrapped) => wrapped,
                Err(error) => {
                    if let Some(second) = self.directory.put_prepared(prepared) {
                        let _remains = self.directory.files().remove(&second.path);
                    }
                    return Ok(WalRoom::Wait(WalWait::NoFile(error.into())));
                }
            };
        let header = WalFileHeader { kind: WalFileKind::Log, id, first_lsn, file_bytes: bytes, created, key: wrapped };
        let path = self.directory.file_path(id);
        let dir = match self.name_file(&prepared, &header) {
            Ok(dir) => dir,
            Err(error) => {
                // No block was written to it: as if it had never been. The name may be durable or not; both read well.
                let remains = [self.directory.files().remove(&prepared.path), self.directory.files().remove(&path)];
                drop(remains);
                return if is_passing(&error) {
                    Ok(WalRoom::Wait(WalWait::NoFile(error.into())))
                } else {
                    Err(failure("a new WAL file could not be made").at(path.display()).because(error))
                };
            }
        };
        if !planted::has(PlantedBug::ForgetDirectorySync) {
            // After it failed nothing is known of any name in the directory.
            dir.sync().map_err(|error| {
                failure("a new WAL file could not be made durable").at(path.display()).because(error)
            })?;
        }
        self.next_id = id.next().ok_or_else(|| failure("there are no more WAL file numbers"))?;
        self.directory.add(WalFile { id, first_lsn, bytes });
        self.directory.want_prepared();
        let offset = WAL_FILE_HEADER_BYTES as u64;
        self.active =
            Some(Active { path: path.into(), file: prepared.file.into(), key: WalFileKey::new(&key), offset, bytes });
        Ok(WalRoom::Ready)
    }

    /// Gives the file its header and its name; answers the directory, whose sync makes the name durable.
    fn name_file(&self, prepared: &PreparedFile, header: &WalFileHeader) -> io::Result<Box<dyn Dir>> {
        // Opened before there is a name: running out of file handles must not leave one that is not synced.
        let dir = self.directory.files().open_dir(self.directory.path())?;
        prepared.file.write_at(&header.encode(), 0)?;
        prepared.file.sync_data()?;
        self.directory.files().rename(&prepared.path, &self.directory.file_path(header.id))?;
        Ok(dir)
    }

    /// Does a frame of so many bytes still fit into the block, and the block into the file?
    pub(crate) fn has_room(&self, frame_bytes: usize) -> bool {
        let left = self.active.as_ref().map_or(0, |active| active.bytes - active.offset);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        // The first frame of a block has the room that was made for it, however small blocks should be.
        let block_bytes_max = if self.block.is_empty() { WAL_BLOCK_BYTES_MAX } else { self.block_bytes_max };
        self.block.has_room(frame_bytes, block_bytes_max.min(left))
    }

    /// Adds a record to the block; there must be room. Answers its LSN.
    pub(crate) fn push(&mut self, org: OrgId, gateway: GatewayId, received: Millis, frame: &[u8]) -> Lsn {
        let lsn = self.next_lsn;
        self.block.push_frame(lsn, org, gateway, received, frame);
        self.next_lsn = Lsn::new(lsn.get() + 1);
        lsn
    }

    /// Seals the block, of one record at least, for its place in the log. It must be written before the next one is, and
    /// if that fails, none may be written any more.
    ///
    /// # Errors
    /// When [`WalWriter::make_room`] was never called, which is a defect.
    pub(crate) fn seal(&mut self) -> Result<SealedBlock, EngineError> {
        let Some(active) = &mut self.active else {
            return Err(failure("a WAL block without a file"));
        };
        let offset = active.offset;
        active.offset += self.block.seal(&active.key, offset).len() as u64;
        let block = std::mem::replace(&mut self.block, std::mem::take(&mut self.spare));
        Ok(SealedBlock { block, file: Arc::clone(&active.file), path: Arc::clone(&active.path), offset })
    }

    /// Takes back what a written block has of memory.
    pub(crate) fn recycle(&mut self, written: SealedBlock) {
        self.spare = written.block;
    }

    /// Writes the mark of a clean close, if this writer has a file and there is room for it. The log reads well without.
    /// To be called with no record pending, and no block on its way.
    ///
    /// # Errors
    /// As [`SealedBlock::write`].
    pub(crate) fn close(&mut self) -> Result<(), EngineError> {
        if let Some(prepared) = self.directory.take_prepared(0) {
            // Removed at the next start if it cannot be now.
            let _remains = self.directory.files().remove(&prepared.path);
        }
        if self.has_room(0) {
            self.block.push_closed(self.next_lsn);
            self.next_lsn = Lsn::new(self.next_lsn.get() + 1);
            self.seal()?.write()?;
        }
        self.active = None;
        Ok(())
    }
}

fn failure(what: &'static str) -> EngineError {
    EngineError::new(
        EngineErrorKind::Failed,
        what,
        "The engine has stopped acknowledging. Look at the disk, then start again: everything acknowledged is kept.",
    )
}

/// Errors that end by themselves: a disk has space again, files are closed. After another one, with the file half in its
/// place, the process ends loudly instead.
fn is_passing(error: &io::Error) -> bool {
    is_out_of_space(error) || is_out_of_handles(error)
}

fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn is_out_of_handles(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(rustix::io::Errno::raw_os_error).contains(&code)
    })
}
