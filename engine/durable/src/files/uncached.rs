//! A file whose writes bypass the system's cache: a write with its sync takes half the time, from a few KiB on, since
//! nothing is copied into pages that then have to be found, and nothing that is wanted is pushed out of the cache.
//!
//! What a disk and a file system ask of such writes differs. Whatever they refuse as not aligned is written through the
//! cache instead, from then on; so the worst is what all other files have.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Where the memory of such writes begins: a page, which is enough for every disk.
const ALIGNMENT: usize = 4096;
/// Bytes in one write at most, which is the memory that this takes.
const PIECE_BYTES_MAX: usize = 4 << 20;

#[cfg(target_os = "linux")]
const DIRECT: OFlags = OFlags::DIRECT;
/// Where there is no such flag.
#[cfg(not(target_os = "linux"))]
const DIRECT: OFlags = OFlags::empty();

/// Writes past the cache while that goes well.
#[derive(Debug)]
pub(super) struct Uncached {
    /// Aligned somewhere within it; none once writes go through the cache.
    memory: Mutex<Option<Vec<u8>>>,
}

impl Uncached {
    /// For this file, from now on.
    pub(super) fn new(file: &fs::File) -> Self {
        let asked = fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags | DIRECT));
        Self { memory: Mutex::new((asked.is_ok() && !DIRECT.is_empty()).then(Vec::new)) }
    }

    /// Writes all of it at this offset.
    pub(super) fn write_at(&self, file: &fs::File, bytes: &[u8], offset: u64) -> io::Result<()> {
        // Nothing panics while the lock is held.
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < bytes.len() {
            let (rest, at) = (&bytes[done..], offset + done as u64);
            let Some(memory) = &mut *memory else { return file.write_all_at(rest, at) };
            match file.write_at(aligned(memory, &rest[..rest.len().min(PIECE_BYTES_MAX)]), at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing of it was written.
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => break,
                Err(error) => return Err(error),
            }
        }
        if done < bytes.len() {
            *memory = None;
            fcntl_setfl(file, fcntl_getfl(file)? - DIRECT)?;
            file.write_all_at(&bytes[done..], offset + done as u64)?;
        }
        Ok(())
    }
}

/// A copy of these bytes in aligned memory.
fn aligned<'a>(memory: &'a mut Vec<u8>, bytes: &[u8]) -> &'a [u8] {
    if memory.len() < bytes.len() + ALIGNMENT {
        memory.resize(bytes.len().next_power_of_two() + ALIGNMENT, 0);
    }
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let memory = &mut memory[start..start + bytes.len()];
    memory.copy_from_slice(bytes);
    memory
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn is_direct(file: &fs::File) -> bool {
        fcntl_getfl(file).expect("flags").contains(DIRECT)
    }

    fn file(dir: &Path) -> fs::File {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).open(dir.join("file")).expect("made")
    }

    #[test]
    fn whole_sectors_are_written_past_the_cache_or_through_it() {
        // On the disk; and in memory, where a system without such writes may refuse them.
        for root in [std::env::temp_dir().as_path(), Path::new("/dev/shm")].into_iter().filter(|root| root.is_dir()) {
            let dir = tempfile::tempdir_in(root).expect("a directory");
            let file = file(dir.path());
            let uncached = Uncached::new(&file);
            let mut expected = vec![0; PIECE_BYTES_MAX + (64 << 10)];
            let fill = |bytes: &mut [u8], seed: u8| {
                bytes.iter_mut().zip((seed..=250).cycle()).for_each(|(byte, value)| *byte = value);
            };
            // More than one piece; one sector; several.
            let writes = [(0, expected.len()), (4096, 512), (512, 20 << 9), (expected.len() - 512, 512)];
            for (seed, (offset, len)) in (1..).zip(writes) {
                let bytes = &mut expected[offset..offset + len];
                fill(bytes, seed);
                uncached.write_at(&file, bytes, offset as u64).expect("written");
            }
            assert!(fs::read(dir.path().join("file")).expect("read") == expected);
        }
    }

    #[test]
    fn what_is_not_aligned_goes_through_the_cache_from_then_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = file(dir.path());
        let uncached = Uncached::new(&file);
        uncached.write_at(&file, &[1; 4096], 0).expect("written");
        uncached.write_at(&file, b"odd", 5).expect("written");
        assert!(!is_direct(&file));
        uncached.write_at(&file, &[2; 512], 512).expect("written");
        let mut expected = [1; 4096];
        expected[5..8].copy_from_slice(b"odd");
        expected[512..1024].fill(2);
        assert_eq!(fs::read(dir.path().join("file")).expect("read"), expected);
    }
}
