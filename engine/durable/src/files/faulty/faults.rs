//! What the faulty file system can be told to do wrong, and what it counts of that. Plain data: nothing here decides.

/// How often what goes wrong, each in parts per million of the operations that it can happen to. None by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// A write fails and has written nothing.
    pub write_error: u32,
    /// A write fails and has written its first sectors.
    pub torn_write: u32,
    /// A sync of a file (or of the file system) fails, and loses what it should have made durable.
    pub sync_error: u32,
    /// A sync of a directory fails, and loses what it should have made durable. A restart after it, even one that only
    /// the process was to be lost in, is a power cut.
    pub dir_sync_error: u32,
    /// A read fails.
    pub read_error: u32,
    /// One bit of what a read returns is wrong; the disk has it right.
    pub read_rot: u32,
    /// A write goes to another place in the file and says that all is well.
    pub misdirected_write: u32,
    /// A file or directory is not made, linked, renamed or removed.
    pub name_error: u32,
    /// A file or directory cannot be opened: too many are open.
    pub open_error: u32,
}

/// What was injected, and what the power cuts did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Writes that failed and wrote nothing.
    pub write_errors: u64,
    /// Writes that failed and had written a part.
    pub torn_writes: u64,
    /// Failed syncs of files and of the file system.
    pub sync_errors: u64,
    /// Failed syncs of directories.
    pub dir_sync_errors: u64,
    /// Failed reads.
    pub read_errors: u64,
    /// Reads with a wrong bit.
    pub read_rots: u64,
    /// Writes that went elsewhere.
    pub misdirected_writes: u64,
    /// Names not made, moved or removed.
    pub name_errors: u64,
    /// Files and directories not opened.
    pub open_errors: u64,
    /// What was refused because the disk was full.
    pub no_space: u64,
    /// Processes stopped by [`FaultyFiles::crash_after`](super::FaultyFiles::crash_after).
    pub crashes: u64,
    /// Restarts that lost what was not synced, or some of it.
    pub power_cuts: u64,
    /// Restarts that lost the process only.
    pub kills: u64,
    /// Sectors not yet synced that power cuts lost.
    pub sectors_lost: u64,
    /// Sectors not yet synced that power cuts left.
    pub sectors_kept: u64,
    /// Changes of names, not yet synced, that power cuts lost.
    pub names_lost: u64,
    /// Changes of names, not yet synced, that power cuts left.
    pub names_kept: u64,
}

impl FaultCounts {
    /// Adds another file system's counts.
    pub fn add(&mut self, other: &Self) {
        let Self {
            write_errors,
            torn_writes,
            sync_errors,
            dir_sync_errors,
            read_errors,
            read_rots,
            misdirected_writes,
            name_errors,
            open_errors,
            no_space,
            crashes,
            power_cuts,
            kills,
            sectors_lost,
            sectors_kept,
            names_lost,
            names_kept,
        } = *other;
        self.write_errors += write_errors;
        self.torn_writes += torn_writes;
        self.sync_errors += sync_errors;
        self.dir_sync_errors += dir_sync_errors;
        self.read_errors += read_errors;
        self.read_rots += read_rots;
        self.misdirected_writes += misdirected_writes;
        self.name_errors += name_errors;
        self.open_errors += open_errors;
        self.no_space += no_space;
        self.crashes += crashes;
        self.power_cuts += power_cuts;
        self.kills += kills;
        self.sectors_lost += sectors_lost;
        self.sectors_kept += sectors_kept;
        self.names_lost += names_lost;
        self.names_kept += names_kept;
    }
}

/// What is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncKind {
    /// One file.
    File,
    /// One directory.
    Dir,
    /// All there is.
    FileSystem,
}
