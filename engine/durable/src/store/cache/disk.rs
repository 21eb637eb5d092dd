//! The cache's files: one for each block, `<2 hex digits>/<object>-<size>-<block>`, in hexadecimal.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `ICB` and the version, 1 |
//! | 4 | 4 | CRC32C over the store's address, a zero, the object's name, a zero, size, block, length, and the bytes |
//! | 8 | 8 | length of the bytes |
//! | 16 | length | the bytes, as they are in the store |
//!
//! Crash consistency: a file is written under another name and renamed, and never synced. After a crash it may be
//! missing, empty, or hold anything; the checksum tells, and such a file is removed and its block read from the store.
//! Files of another version or another store are never asked for, and give way in time.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ring::digest::{SHA256, digest};

use super::index::{BlockId, HEADER_BYTES, Index, ObjectId, block_range};
use crate::Files;

const HEADER: usize = 16;
const MAGIC: [u8; 4] = *b"ICB\x01";
/// What files that are being written end in.
const TEMPORARY: &str = ".tmp";

#[derive(Debug)]
pub(super) struct CacheDisk {
    files: Arc<dyn Files>,
    dir: PathBuf,
    address: String,
    bytes_max: u64,
    index: Mutex<Index>,
    temporary: AtomicU64,
}

impl CacheDisk {
    /// Opens a directory, which is made if need be; counts what is there, and removes what is too much or half written.
    pub(super) fn open(files: Arc<dyn Files>, dir: PathBuf, address: &str, bytes_max: u64) -> io::Result<Self> {
        files.create_dir_all(&dir)?;
        let disk = Self {
            files,
            dir,
            address: address.to_owned(),
            bytes_max,
            index: Mutex::new(Index::new(bytes_max)),
            temporary: AtomicU64::new(0),
        };
        for shard in 0..=u8::MAX {
            let shard = disk.dir.join(format!("{shard:02x}"));
            match disk.files.create_dir(&shard) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            for name in disk.files.list(&shard)? {
                match parse(&name) {
                    Some(block) if disk.path(block) == shard.join(&name) => {
                        let gone = disk.index().insert(block);
                        gone.into_iter().for_each(|block| disk.remove(block));
                    }
                    // Somebody else's files are left alone.
                    None if !name.ends_with(TEMPORARY) => {}
                    _ => disk.files.remove(&shard.join(&name))?,
                }
            }
        }
        Ok(disk)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.index().bytes()
    }

    pub(super) const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The object of this name in the store that this cache is for.
    pub(super) fn id(&self, name: &str) -> ObjectId {
        let digest = digest(&SHA256, format!("{}\0{name}", self.address).as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&digest.as_ref()[..16]);
        ObjectId(u128::from_be_bytes(id))
    }

    pub(super) fn size(&self, object: ObjectId) -> Option<u64> {
        self.index().size(object)
    }

    fn path(&self, block: BlockId) -> PathBuf {
        let BlockId { object, size, block } = block;
        let name = format!("{:032x}-{size:x}-{block:x}", object.0);
        self.dir.join(&name[..2]).join(name)
    }

    fn checksum(&self, name: &str, block: BlockId, bytes: &[u8]) -> u32 {
        let mut sum = crc32c::crc32c(self.address.as_bytes());
        sum = crc32c::crc32c_append(sum, b"\0");
        sum = crc32c::crc32c_append(sum, name.as_bytes());
        sum = crc32c::crc32c_append(sum, b"\0");
        for number in [block.size, block.block, bytes.len() as u64] {
            sum = crc32c::crc32c_append(sum, &number.to_le_bytes());
        }
        crc32c::crc32c_append(sum, bytes)
    }

    /// Keeps a block; returns how many others had to go.
    pub(super) fn insert(&self, name: &str, object: ObjectId, size: u64, block: u64, bytes: &Bytes) -> io::Result<u64> {
        let block = BlockId { object, size, block };
        if self.index().touch(block) || block.cost() > self.bytes_max {
            return Ok(0);
        }
        let path = self.path(block);
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!("{number:x}{TEMPORARY}"));
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&MAGIC);
        header[4..8].copy_from_slice(&self.checksum(name, block, bytes).to_le_bytes());
        header[8..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        let written = self.files.create_new(&temporary).and_then(|file| {
            file.write_at(&header, 0)?;
            file.write_at(bytes, HEADER_BYTES)
        });
        if let Err(error) = written.and_then(|()| self.files.rename(&temporary, &path)) {
            let _gone = self.files.remove(&temporary);
            return Err(error);
        }
        let gone = self.index().insert(block);
        let count = gone.len() as u64;
        gone.into_iter().for_each(|block| self.remove(block));
        Ok(count)
    }

    /// Reads those blocks of a run that are there, neighbours together; returns how many were damaged.
    pub(super) fn read_run(
        &self,
        name: &str,
        object: ObjectId,
        size: u64,
        run: Range<u64>,
        pieces: &mut Vec<(u64, Bytes)>,
    ) -> u64 {
        let mut damaged = 0;
        let mut open: Option<(u64, Vec<u8>)> = None;
        for block in run {
            let range = block_range(size, block);
            let block = BlockId { object, size, block };
            // Beyond the end there is nothing to find.
            let there = !range.is_empty() && self.index().touch(block);
            let read = if there { self.read(name, block) } else { None };
            match (read, &mut open) {
                (Some(bytes), Some((_, run))) => run.extend_from_slice(&bytes),
                (Some(bytes), None) => open = Some((range.start, bytes)),
                (None, _) => {
                    if there {
                        damaged += 1;
                        self.index().remove(block);
                        self.remove(block);
                    }
                    pieces.extend(open.take().map(|(start, bytes)| (start, Bytes::from(bytes))));
                }
            }
        }
        pieces.extend(open.map(|(start, bytes)| (start, Bytes::from(bytes))));
        damaged
    }

    fn read(&self, name: &str, block: BlockId) -> Option<Vec<u8>> {
        let length = block.length();
        let file = self.files.open(&self.path(block)).ok()?;
        let mut header = [0; HEADER];
        if file.read_at(&mut header, 0).ok()? != header.len()
            || header[..4] != MAGIC
            || header[8..] != (length as u64).to_le_bytes()
        {
            return None;
        }
        let mut bytes = vec![0; length];
        if file.read_at(&mut bytes, HEADER_BYTES).ok()? != length {
            return None;
        }
        (header[4..8] == self.checksum(name, block, &bytes).to_le_bytes()).then_some(bytes)
    }

    /// Removes what there is of an object.
    pub(super) fn forget(&self, object: ObjectId) {
        let gone = self.index().forget(object);
        gone.into_iter().for_each(|block| self.remove(block));
    }

    fn remove(&self, block: BlockId) {
        // If it cannot be removed, it is counted again at the next start.
        let _gone = self.files.remove(&self.path(block));
    }
}

/// The block that a file is, by its name.
fn parse(name: &str) -> Option<BlockId> {
    let mut parts = name.split('-');
    let (object, size, block) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || object.len() != 32 {
        return None;
    }
    let size = u64::from_str_radix(size, 16).ok()?;
    let block = u64::from_str_radix(block, 16).ok()?;
    let object = ObjectId(u128::from_str_radix(object, 16).ok()?);
    (block < size.div_ceil(super::BLOCK_BYTES)).then_some(BlockId { object, size, block })
}
