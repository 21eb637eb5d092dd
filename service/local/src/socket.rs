//! The socket's file: its path, its length, its rights.
//!
//! The file is made under a temporary name, gets mode 0600, and takes its name by a rename: nobody can come in before
//! that, and what a killed server left is replaced. Only the holder of the data directory's lock makes it.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use control::data_dir::DataDir;
use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

use crate::limits::SOCKET_PATH_BYTES_MAX;

/// A path that fits into a socket's address, for as long as it lives.
///
/// The kernel takes about a hundred bytes. The files of a directory with a longer path are reached through a descriptor
/// of that directory, where the system shows descriptors as files (Linux).
struct ShortPath {
    path: PathBuf,
    _dir: Option<OwnedFd>,
}

impl ShortPath {
    fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().as_bytes().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(Self { path: path.to_owned(), _dir: None });
        }
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let dir = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let through = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
        if !through.is_dir() {
            let what = format!(
                "the path is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a socket's may have here: use a data \
                 directory with a shorter path"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, what));
        }
        Ok(Self { path: through.join(name), _dir: Some(dir) })
    }
}

/// The name under which the socket is made.
fn staged(path: &Path) -> PathBuf {
    path.with_extension("sock.new")
}

/// Removes a socket; another file of that name is not ours.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is no socket", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the socket of a data directory, in place of one that a killed server left.
pub(crate) fn listen(data: &DataDir) -> io::Result<UnixListener> {
    let path = data.local_socket();
    let staged = staged(&path);
    remove(&staged)?;
    remove(&path)?;
    let short = ShortPath::new(&staged)?;
    let listener = UnixListener::bind(&short.path)?;
    std::fs::set_permissions(&staged, Permissions::from_mode(0o600))?;
    std::fs::rename(&staged, &path)?;
    Ok(listener)
}

/// Removes the socket of a server that stops.
pub(crate) fn unlink(data: &DataDir) {
    if let Err(error) = remove(&data.local_socket()) {
        tracing::debug!(%error, "the local socket is not removed; the next start replaces it");
    }
}

/// Connects to the server that listens in this data directory.
pub(crate) async fn connect(data: &DataDir) -> io::Result<UnixStream> {
    let path = ShortPath::new(&data.local_socket())?;
    UnixStream::connect(&path.path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("there").permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn only_the_owner_may_come_in() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::new(dir.path());
        let _listener = listen(&data).expect("made");
        assert_eq!(mode(&data.local_socket()), 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing temporary is left");
        connect(&data).await.expect("connected");
        unlink(&data);
        assert!(!data.local_socket().exists());
    }

    #[tokio::test]
    async fn what_a_killed_server_left_is_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::new(dir.path());
        drop(listen(&data).expect("made"));
        assert_eq!(connect(&data).await.expect_err("nobody").kind(), io::ErrorKind::ConnectionRefused);
        std::fs::rename(data.local_socket(), staged(&data.local_socket()))
            .expect("as a kill before the rename leaves it");
        drop(listen(&data).expect("made again"));
        let _listener = listen(&data).expect("and again");
        connect(&data).await.expect("connected");
    }

    #[tokio::test]
    async fn a_file_of_that_name_is_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::new(dir.path());
        std::fs::write(data.local_socket(), "mine").expect("written");
        assert!(listen(&data).expect_err("refused").to_string().contains("is no socket"));
        unlink(&data);
        assert_eq!(std::fs::read(data.local_socket()).expect("read"), b"mine");
    }

    #[tokio::test]
    async fn a_long_path_is_no_obstacle() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).expect("made");
        let data = DataDir::new(deep);
        let _listener = listen(&data).expect("made");
        assert_eq!(mode(&data.local_socket()), 0o600);
        connect(&data).await.expect("connected");
    }
}
