//! Every limit of this crate, with what it bounds.

use std::time::Duration;

/// Bytes of a request: a list of files with long names, and the text of a mapping.
pub const CALL_BYTES_MAX: usize = 4 << 20;
/// Bytes of one event that a client takes: the manifest of a very large organisation.
pub(crate) const EVENT_BYTES_MAX: usize = 256 << 20;
/// Files of one import. More would make a record that nobody reads, and a request that is too long.
pub(crate) const IMPORT_FILES_MAX: usize = 4_096;
/// Frames of an import between the thread that makes them and the engine, which has a queue of its own: some hundred KiB
/// each.
pub(crate) const IMPORT_FRAMES_WAITING_MAX: usize = 8;
/// Events between a command and whoever prints them. A command waits while they are taken slowly; only progress is left
/// out then.
pub(crate) const EVENTS_WAITING_MAX: usize = 64;
/// Time after its start at which a server first drops what was kept long enough: not while it catches up.
pub(crate) const RETENTION_FIRST: Duration = Duration::from_secs(10 * 60);
/// Interval at which a server does so.
pub(crate) const RETENTION_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Connections at once. More wait in the kernel's backlog.
pub(crate) const CONNECTIONS_MAX: usize = 64;
/// Commands that run at once in a server; more are refused, since one may take hours.
pub(crate) const COMMANDS_MAX: usize = 16;
/// Time for a request to arrive whole.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a server that has begun its start to be ready for a command.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for commands to say that they were stopped with the server.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(2);
/// Time for which a command tries to reach a server that is starting or stopping, or waits for the directory to be free.
pub(crate) const REACH_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two tries.
pub(crate) const REACH_PAUSE: Duration = Duration::from_millis(50);
/// Time after which waiting is mentioned to the person who waits.
pub(crate) const TOLD_AFTER: Duration = Duration::from_secs(2);
/// Bytes of a Unix socket's path that every system takes: `sun_path` has 108 on Linux and 104 elsewhere.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 103;
