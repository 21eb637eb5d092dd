//! An open file of the faulty file system: reads, writes and syncs, and what goes wrong in them.

use std::io;

use super::FaultyFiles;
use super::faults::SyncKind;
use super::nodes::{Change, SECTOR};
use super::state::State;
use crate::files::File;

#[derive(Debug)]
pub(super) struct FaultyFile {
    files: FaultyFiles,
    file: usize,
    process: u64,
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        let mut state = self.files.state();
        if state.process == self.process {
            state.close_handle(self.file);
        }
    }
}

fn write_failed() -> io::Error {
    io::Error::other("the disk failed a write")
}

impl FaultyFile {
    /// The handle that the state has counted already.
    pub(super) fn new(files: FaultyFiles, file: usize, process: u64) -> Self {
        Self { files, file, process }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.files.state();
        state.alive(self.process)?;
        if let Err(crash) = state.operate(self.process) {
            // A process that is stopped in a write may have written any first part of it.
            let part = state.draw.below(change.sector_count() + 2);
            let whole = part > change.sector_count();
            if let Some(part) = if whole { Some(change) } else { change.first_sectors(part) } {
                state.change_bytes(self.file, part);
            }
            return Err(crash);
        }
        if state.fail_writes > 0 {
            state.fail_writes -= 1;
            state.counts.write_errors += 1;
            return Err(write_failed());
        }
        let len = state.files[self.file].seen.len();
        let more = change.end().saturating_sub(len);
        if more > 0 {
            state.check_space(more)?;
        }
        let rates = state.rates;
        if state.draw.chance(rates.write_error) {
            state.counts.write_errors += 1;
            return Err(write_failed());
        }
        let Change::Write { offset, bytes } = change else {
            state.change_bytes(self.file, change);
            return Ok(());
        };
        if !bytes.is_empty() && state.draw.chance(rates.torn_write) {
            state.counts.torn_writes += 1;
            let change = Change::Write { offset, bytes };
            let sectors = 1 + state.draw.below(change.sector_count());
            if let Some(part) = change.first_sectors(sectors) {
                state.change_bytes(self.file, part);
            }
            return Err(write_failed());
        }
        if !bytes.is_empty() && state.draw.chance(rates.misdirected_write) {
            self.misdirect(&mut state, offset, bytes);
        } else {
            state.change_bytes(self.file, Change::Write { offset, bytes });
        }
        Ok(())
    }

    /// Writes elsewhere in the file. Its length, which the file system keeps, is as if nothing were wrong. A file too
    /// short to have another place is written as asked.
    fn misdirect(&self, state: &mut State, offset: usize, bytes: Vec<u8>) {
        let (len, end) = (state.files[self.file].seen.len(), offset + bytes.len());
        let places = len.checked_sub(bytes.len()).map_or(0, |last| last / SECTOR + 1);
        let asked = (offset.is_multiple_of(SECTOR) && offset / SECTOR < places).then_some(offset / SECTOR);
        let others = places - usize::from(asked.is_some());
        if others == 0 {
            state.change_bytes(self.file, Change::Write { offset, bytes });
            return;
        }
        state.counts.misdirected_writes += 1;
        let mut place = state.draw.below(others);
        place += usize::from(asked.is_some_and(|asked| place >= asked));
        if end > len {
            state.change_bytes(self.file, Change::SetLen(end));
        }
        state.change_bytes(self.file, Change::Write { offset: place * SECTOR, bytes });
    }

    /// Fills the buffer, perhaps with a wrong bit; returns how much.
    fn read(&self, state: &mut State, buffer: &mut [u8], offset: usize) -> io::Result<usize> {
        let rates = state.rates;
        if state.draw.chance(rates.read_error) {
            state.counts.read_errors += 1;
            return Err(io::Error::other("the disk failed a read"));
        }
        let rest = state.files[self.file].seen.get(offset..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        if len > 0 && state.draw.chance(rates.read_rot) {
            state.counts.read_rots += 1;
            let at = state.draw.below(len);
            buffer[at] ^= 1 << state.draw.below(8);
        }
        Ok(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.files.sync_as(SyncKind::File, self.process, |state, fails| {
            if fails { state.stray_bytes(self.file) } else { state.sync_bytes(self.file) }
        })
    }
}

impl File for FaultyFile {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut state = self.files.state();
        state.alive(self.process)?;
        let mut bytes = vec![0; state.files[self.file].seen.len()];
        self.read(&mut state, &mut bytes, 0)?;
        Ok(bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.files.state();
        state.alive(self.process)?;
        self.read(&mut state, buffer, usize::try_from(offset).unwrap_or(usize::MAX))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.change(Change::Write { offset, bytes: bytes.to_vec() })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.files.state();
        state.alive(self.process)?;
        Ok(state.files[self.file].seen.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.change(Change::SetLen(len))
    }
}
