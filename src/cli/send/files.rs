//! The files of one call, opened one after the other.

use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};

use gateway::readings_csv::check_gzip;
use problem::{Context, Problem, Result};

/// The files that are to be sent.
#[derive(Debug)]
pub(in crate::cli) struct Files {
    paths: Vec<PathBuf>,
    /// Their sizes together, as far as they are known.
    pub(super) bytes: u64,
}

impl Files {
    /// Looks whether all of them can be read, before the first is sent.
    pub(in crate::cli) fn new(paths: &[PathBuf]) -> Result<Self> {
        let mut bytes = 0;
        for (index, path) in paths.iter().enumerate() {
            if paths[..index].contains(path) {
                return Err(Problem::new(format!("{} is named twice", path.display())));
            }
            if is_stdin(path) {
                continue;
            }
            if path.is_dir() {
                return Err(Problem::new(format!("{} is a directory, not a CSV file", path.display())));
            }
            let metadata = open(path)?.metadata();
            bytes += metadata.map_or(0, |metadata| metadata.len());
        }
        Ok(Self { paths: paths.to_vec(), bytes })
    }

    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }

    /// The name of a file, for messages.
    pub(super) fn name(&self, index: usize) -> String {
        match self.paths.get(index) {
            Some(path) if is_stdin(path) => "stdin".to_owned(),
            Some(path) => path.display().to_string(),
            None => String::new(),
        }
    }

    /// The name of all of them, for the summary.
    pub(super) fn names(&self) -> String {
        if self.len() == 1 { self.name(0) } else { format!("{} files", self.len()) }
    }

    /// Looks whether a compressed file is whole, which only its end tells. What comes from stdin is read once only.
    pub(super) fn check(&self, index: usize) -> Result<()> {
        if self.paths.get(index).is_none_or(|path| is_stdin(path)) {
            return Ok(());
        }
        let what = || format!("{} is damaged", self.name(index));
        check_gzip(self.open(index)?).context(what).map_err(|problem| {
            problem
                .help("nothing of this file was sent: unpack it with gzip to see what is left of it, or get it again")
        })
    }

    pub(super) fn open(&self, index: usize) -> Result<Box<dyn BufRead>> {
        match self.paths.get(index) {
            Some(path) if !is_stdin(path) => Ok(Box::new(BufReader::with_capacity(256 << 10, open(path)?))),
            _ => Ok(Box::new(stdin().lock())),
        }
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn open(path: &Path) -> Result<File> {
    File::open(path).context(|| format!("cannot read {}", path.display()))
}
