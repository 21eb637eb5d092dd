//! The write-ahead log's files, and the records that wait beside it.
//!
//! A server that runs writes and removes these files, so that what vanishes is no fault, and what the newest file ends
//! with is none either. Memory: one file of the log.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use durable::File;
use storage_format::encryption::SecretKey;
use storage_format::wal::{WalRecordKind, scan_wal};
use storage_format::{FileKind, FormatError, FormatErrorKind, OrgId};

use super::{Doctor, FaultKind, Finding};

/// What the directories of the log hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogState {
    /// Files of the log.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records that could not be applied and are kept for a person to look at, by organisation.
    pub set_aside: BTreeMap<OrgId, u64>,
    /// Files of records that wait until their organisation is mended, by organisation.
    pub carried: BTreeMap<OrgId, u64>,
    /// What is wrong, and of which organisation, if it is of one.
    pub findings: Vec<(Option<OrgId>, Finding)>,
}

impl Doctor {
    /// Looks at the log of this data directory. A deep look reads all of it.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn examine_log_files(&self, data_dir: &Path) -> io::Result<LogState> {
        let mut state = LogState::default();
        let wal = self.log_files(&data_dir.join("wal"))?;
        for (index, path) in wal.iter().enumerate() {
            let Some(file) = vanishing(self.files.open(path))? else { continue };
            state.files += 1;
            state.bytes += file.len()?;
            if self.deep {
                let fault = self.file_fault(&*file, path, index + 1 == wal.len(), |_| {})?;
                state.findings.extend(fault.map(|fault| (None, fault)));
            }
        }
        for path in self.log_files(&data_dir.join("set-aside"))? {
            let Some(file) = vanishing(self.files.open(&path))? else { continue };
            let mut org = None;
            let fault = self.file_fault(&*file, &path, false, |of| org = Some(of))?;
            if let Some(org) = org {
                *state.set_aside.entry(org).or_default() += 1;
            }
            let detail = match org {
                Some(org) => format!("an acknowledged record of organisation {org} that could not be applied"),
                None => "a record that could not be applied".to_owned(),
            };
            let finding = Finding { kind: FaultKind::SetAside, name: path.display().to_string(), detail };
            state.findings.push((org, fault.unwrap_or(finding)));
        }
        for path in self.log_files(&data_dir.join("carried"))? {
            let Some(file) = vanishing(self.files.open(&path))? else { continue };
            // Its name begins with the organisation.
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let org = name.split('-').next().and_then(|org| org.parse().ok());
            if let Some(org) = org {
                *state.carried.entry(org).or_default() += 1;
            }
            let finding = Finding {
                kind: FaultKind::Carried,
                name: path.display().to_string(),
                detail: format!("{} bytes of acknowledged records that are in no segment yet", file.len()?),
            };
            let fault = if self.deep { self.file_fault(&*file, &path, false, |_| {})? } else { None };
            state.findings.push((org, fault.unwrap_or(finding)));
        }
        Ok(state)
    }

    fn log_files(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = vanishing(self.files.list(dir))?.unwrap_or_default();
        names.retain(|name| name.ends_with(".wal"));
        names.sort_unstable();
        Ok(names.into_iter().map(|name| dir.join(name)).collect())
    }

    /// What is wrong with a file of the log; `seen` hears whose its records are.
    fn file_fault(
        &self,
        file: &dyn File,
        path: &Path,
        is_newest: bool,
        mut seen: impl FnMut(OrgId),
    ) -> io::Result<Option<Finding>> {
        let bytes = file.read_all()?;
        let unwrap = |wrapped: &_, aad: &[u8]| -> Result<SecretKey, FormatError> {
            self.keys
                .unwrap(wrapped, aad)
                .map_err(|error| FormatError::new(FileKind::Wal, FormatErrorKind::WrongKey, 48, error.to_string()))
        };
        let damaged = |error: &FormatError| {
            let detail = format!("at byte {}: {error}", error.offset);
            Some(Finding { kind: FaultKind::DamagedLog, name: path.display().to_string(), detail })
        };
        let mut scan = match scan_wal(&bytes, &unwrap) {
            Ok(scan) => scan,
            Err(error) => return Ok(damaged(&error)),
        };
        for block in &mut scan {
            match block {
                Ok(block) => {
                    for record in &block.records {
                        if let WalRecordKind::Frame { org, .. } = &record.kind {
                            seen(*org);
                        }
                    }
                }
                // It may be written at this moment.
                Err(_) if is_newest => return Ok(None),
                Err(error) => return Ok(damaged(&error)),
            }
        }
        Ok(None)
    }
}

/// What vanished since it was listed is `None`.
fn vanishing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
