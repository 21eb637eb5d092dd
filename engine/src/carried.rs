//! Carried files: records of an organisation in trouble, copied out of the log so that the log can go on without it.
//!
//! Knows files and formats (`storage-format/docs/wal.md`, version 2). What is carried, and when it is applied again, is
//! decided in `trouble` and `recover`.
//!
//! Invariants: a file is complete and durable before anybody relies on it; files of an organisation are written in the
//! order of their LSNs, and removed in it, so that what is there is always the end of what was carried.
//!
//! Crash consistency, carried files and log: a record is in the log until its carried file is durable, so it is in one of
//! them or in both; a start passes over records of the log that carried files hold. Carried files and manifest: a file is
//! removed after the commit that covers its records; one that a crash left behind is covered, and goes at the next start.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use durable::{Clock, Files, Random, replace_file};
use storage_format::wal::{WalFileKind, WalRecordKind, scan_wal};
use storage_format::{FileKind, FormatError, FormatErrorKind, Lsn, OrgId};

use crate::error::{EngineError, EngineErrorKind};
use crate::keys::KeyProvider;
use crate::wal::{FrameOfLog, WholeFile, corrupt};

const EXTENSION: &str = ".wal";
/// What an unfinished write leaves behind.
const TEMPORARY_EXTENSION: &str = ".tmp";

/// A file with records of one organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarriedFile {
    /// Organisation of the records.
    pub org: OrgId,
    /// The first of them.
    pub first: Lsn,
    /// The last of them.
    pub last: Lsn,
    /// The file's length.
    pub bytes: u64,
}

impl CarriedFile {
    /// The file's name in the directory of carried files.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{:020}-{:020}{EXTENSION}", self.org, self.first.get(), self.last.get())
    }

    /// What a name says.
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(EXTENSION)?.split('-');
        let org = parts.next()?.parse().ok()?;
        let mut lsn = || parts.next()?.parse().ok().map(Lsn::new);
        let file = Self { org, first: lsn()?, last: lsn()?, bytes: 0 };
        // One form each: another spelling would be another place.
        (file.name() == name && file.first <= file.last && file.first > Lsn::ZERO).then_some(file)
    }
}

/// The directory of carried files.
#[derive(Debug)]
pub(crate) struct CarriedFiles {
    dir: PathBuf,
    files: Arc<dyn Files>,
    keys: Arc<dyn KeyProvider>,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
}

impl CarriedFiles {
    pub(crate) fn new(
        dir: PathBuf,
        files: Arc<dyn Files>,
        keys: Arc<dyn KeyProvider>,
        random: Arc<dyn Random>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { dir, files, keys, random, clock }
    }

    /// Path of a file.
    pub(crate) fn path(&self, file: &CarriedFile) -> PathBuf {
        self.dir.join(file.name())
    }

    /// What an earlier process left, by organisation, each oldest first. Unfinished files are removed, and what is found
    /// is durable after this.
    ///
    /// # Errors
    /// [`EngineErrorKind::Failed`] when the directory cannot be read.
    pub(crate) fn find(&self) -> Result<BTreeMap<OrgId, Vec<CarriedFile>>, EngineError> {
        let find = || -> io::Result<BTreeMap<OrgId, Vec<CarriedFile>>> {
            let names = match self.files.list(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
                names => names?,
            };
            let mut found: BTreeMap<OrgId, Vec<CarriedFile>> = BTreeMap::new();
            for name in names {
                if name.ends_with(TEMPORARY_EXTENSION) {
                    self.files.remove(&self.dir.join(&name))?;
                } else if let Some(file) = CarriedFile::parse(&name) {
                    let bytes = self.files.open(&self.dir.join(&name))?.len()?;
                    found.entry(file.org).or_default().push(CarriedFile { bytes, ..file });
                } else {
                    tracing::warn!(name, "a file in the directory of carried records that is none of them");
                }
            }
            self.files.sync_dir(&self.dir)?;
            for files in found.values_mut() {
                files.sort_by_key(|file| (file.first, file.last));
            }
            Ok(found)
        };
        find().map_err(|error| {
            EngineError::new(
                EngineErrorKind::Failed,
                "the directory of carried records cannot be read",
                "Look at the disk and at the rights of the data directory.",
            )
            .at(self.dir.display())
            .because(error)
        })
    }

    /// Writes these records, at least one, of one organisation, in the order of their LSNs. When this returns, the file is
    /// durable.
    ///
    /// # Errors
    /// [`EngineErrorKind::Retry`]; the file may be there, and nobody may rely on it.
    pub(crate) fn write(&self, records: &[FrameOfLog]) -> Result<CarriedFile, EngineError> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Err(EngineError::new(EngineErrorKind::Failed, "no records to carry on", "Please report this."));
        };
        let mut file = CarriedFile { org: first.org, first: first.lsn, last: last.lsn, bytes: 0 };
        let path = self.path(&file);
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            EngineError::new(
                EngineErrorKind::Retry,
                "records of an organisation in trouble could not be carried on, so that the log keeps them",
                "Look at the disk of the data directory; it is tried again.",
            )
            .at(path.display())
            .because(error)
        };
        let mut whole = WholeFile::new(WalFileKind::Carried, &*self.random);
        for record in records {
            whole.push(record);
        }
        let bytes = whole.finish(&*self.keys, &*self.clock).map_err(|error| failed(error.into()))?;
        self.files.create_dir_all(&self.dir).map_err(|error| failed(error.into()))?;
        replace_file(&*self.files, &path, &bytes).map_err(|error| failed(error.into()))?;
        file.bytes = bytes.len() as u64;
        Ok(file)
    }

    /// Reads a file's records, in the order of their LSNs.
    ///
    /// # Errors
    /// [`EngineErrorKind::Corrupt`] when it is damaged or missing, with the place; [`EngineErrorKind::Retry`] when it
    /// cannot be read.
    pub(crate) fn read(&self, file: &CarriedFile) -> Result<Vec<FrameOfLog>, EngineError> {
        let path = self.path(file);
        let bytes = match self.files.open(&path).and_then(|file| file.read_all()) {
            Ok(bytes) => bytes,
            Err(error) => {
                let kind = match error.kind() {
                    io::ErrorKind::NotFound => EngineErrorKind::Corrupt,
                    _ => EngineErrorKind::Retry,
                };
                return Err(EngineError::new(
                    kind,
                    "carried records cannot be read",
                    "Look at the disk; if the file was removed, put it back.",
                )
                .at(path.display())
                .because(error));
            }
        };
        self.decode(file, &bytes).map_err(|error| corrupt(&path, &error))
    }

    fn decode(&self, file: &CarriedFile, bytes: &[u8]) -> Result<Vec<FrameOfLog>, FormatError> {
        let wrong = |kind, detail: &str| FormatError::new(FileKind::Wal, kind, 0, detail.to_owned());
        let unwrap = |wrapped: &_, aad: &[u8]| {
            let unwrapped = self.keys.unwrap(wrapped, aad);
            unwrapped.map_err(|error| wrong(FormatErrorKind::WrongKey, &error.to_string()))
        };
        let scan = scan_wal(bytes, &unwrap)?;
        if scan.header().kind != WalFileKind::Carried {
            return Err(wrong(FormatErrorKind::Invalid, "a file of the log, not of carried records"));
        }
        let mut records = Vec::new();
        for block in scan {
            for record in block?.records {
                match record.kind {
                    WalRecordKind::Frame { org, gateway, received, frame } if org == file.org => {
                        records.push(FrameOfLog { lsn: record.lsn, org, gateway, received, frame });
                    }
                    _ => return Err(wrong(FormatErrorKind::Invalid, "a record of another organisation")),
                }
            }
        }
        let ends = |record: Option<&FrameOfLog>| record.map(|record| record.lsn);
        if (ends(records.first()), ends(records.last())) != (Some(file.first), Some(file.last)) {
            return Err(wrong(FormatErrorKind::Invalid, "the records are not those that the file's name says"));
        }
        Ok(records)
    }

    /// Removes a file whose records segments hold.
    ///
    /// # Errors
    /// The file layer's: the next start removes it.
    pub(crate) fn remove(&self, file: &CarriedFile) -> io::Result<()> {
        match self.files.remove(&self.path(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.files.sync_dir(&self.dir),
        }
    }
}

#[cfg(test)]
mod tests;
