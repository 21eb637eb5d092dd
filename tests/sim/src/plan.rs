//! What a run is, as data: who is there, how small the limits are, what goes wrong and how often. Drawn from the seed
//! at once, so that a failing run can be made smaller by changing it.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use engine::{EngineConfig, FaultRates};

use crate::draw::Draw;

/// What the store does wrong. Rates are parts per thousand, times microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreFaults {
    /// Longest wait before and after an operation.
    pub delay_max: u64,
    /// Fails, and nothing was done.
    pub refuse: u32,
    /// Fails, and all was done.
    pub applied_but_error: u32,
    /// What was under way when the process died is done after it.
    pub applied_late: u32,
    /// Tells to come later.
    pub throttle: u32,
    /// Reads have a wrong bit.
    pub read_rot: u32,
    /// How long lists may leave out what is new.
    pub list_lag_max: u64,
}

/// What the network does. Rates are parts per thousand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkFaults {
    /// Longest way of a chunk, in microseconds.
    pub delay_max: u64,
    /// A connection breaks, at each chunk.
    pub break_rate: u32,
    /// What was on its way to the server when a connection broke still arrives there.
    pub arrives_late: u32,
    /// Chunks are cut small.
    pub fragment: u32,
    /// A gateway opens a second connection beside the first.
    pub twice: u32,
}

/// Who sends what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    /// Organisations.
    pub orgs: u64,
    /// Gateways of each.
    pub gateways: u64,
    /// Loggers of each organisation, which its gateways share.
    pub loggers: u64,
    /// Frames that each gateway makes.
    pub frames: u64,
    /// Readings in a frame at most.
    pub readings_max: u64,
    /// Channels at most.
    pub channels: u64,
    /// Different times: few of them make many repeated keys.
    pub times: u64,
    /// Every so many of them is of years before.
    pub old_every: u64,
    /// Parts per thousand of repeated readings that have another value.
    pub other_value: u32,
    /// Longest pause between two frames, in milliseconds.
    pub pause_max: u64,
    /// Parts per thousand of the pauses after which a gateway loses its memory.
    pub forgets: u32,
}

/// Crashes of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crashes {
    /// How many.
    pub count: u64,
    /// Parts per thousand of them that are power cuts; the others kill the process.
    pub power_cuts: u32,
}

/// Where the objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// In a local directory of the same machine, which loses power with it.
    Local,
    /// Somewhere else.
    Remote,
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed it came from.
    pub seed: u64,
    /// Who sends.
    pub fleet: Fleet,
    /// The engine's settings.
    pub config: EngineConfig,
    /// Where objects are.
    pub store: StoreKind,
    /// What the store does.
    pub store_faults: StoreFaults,
    /// What the disk does, in parts per million.
    pub file_faults: FaultRates,
    /// Slowest sync, in microseconds.
    pub sync_max: u64,
    /// Room on the disk for a while, in bytes; `None` for enough.
    pub disk_space: Option<u64>,
    /// What the network does.
    pub network: NetworkFaults,
    /// Crashes.
    pub crashes: Crashes,
    /// Parts per thousand: the clock jumps, at each look.
    pub clock_jumps: u32,
    /// The disk lies: writes go elsewhere and say that all is well, bytes change where they lie. Nobody can promise that
    /// nothing is lost then; what must hold is that nothing wrong is ever shown: an error, or the truth.
    pub lies: bool,
    /// Parts per thousand: an object of the first organisation is damaged or taken away, or those that were are put back,
    /// at each look. In a remote store only.
    pub damage: u32,
    /// How often somebody reads, in milliseconds between two.
    pub read_pause_max: u64,
    /// How often somebody asks for a flush, in milliseconds between two; zero for never.
    pub flush_pause_max: u64,
    /// Longest pause between two runs that drop what was kept long enough, in milliseconds; zero for never.
    pub retention_pause_max: u64,
}

/// Frames of a whole fleet: many short runs find more than few long ones.
const FRAMES_MAX: u64 = 96;

/// Where the simulated server keeps its files.
pub(crate) const DATA_DIR: &str = "/server";

impl Plan {
    /// The run of this seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        Self::from(seed, &Draw::from_seed(seed))
    }

    /// A run of these choices.
    #[must_use]
    pub fn from(seed: u64, choices: &Draw) -> Self {
        let mut d = choices.split("plan");
        let (orgs, gateways) = (d.spread(1, 4), d.spread(1, 4));
        let fleet = Fleet {
            orgs,
            gateways,
            loggers: d.spread(1, 8),
            frames: d.spread(2, 32).min(FRAMES_MAX / (orgs * gateways)),
            readings_max: d.spread(1, 48),
            channels: d.between(1, 4),
            times: d.spread(4, 400),
            old_every: *choices.split("old").pick(&[37, 37, 4]),
            other_value: *d.pick(&[0, 100, 500]),
            pause_max: d.spread(1, 3000),
            forgets: *d.pick(&[0, 0, 50, 200]),
        };
        let config = config(&mut d);
        let store = if d.chance(500) { StoreKind::Local } else { StoreKind::Remote };
        // Each kind of fault is in about a third of the runs: together they would hide each other.
        let mut rate =
            |most: u64| -> u32 { if d.chance(350) { u32::try_from(d.spread(1, most)).unwrap_or(0) } else { 0 } };
        let store_faults = StoreFaults {
            refuse: rate(300),
            applied_but_error: rate(300),
            applied_late: rate(1000),
            throttle: rate(300),
            read_rot: rate(30),
            list_lag_max: u64::from(rate(5_000_000)),
            delay_max: u64::from(rate(2_000_000)),
        };
        let file_faults = FaultRates {
            write_error: rate(20_000),
            torn_write: rate(20_000),
            sync_error: rate(20_000),
            dir_sync_error: rate(50_000),
            read_error: rate(50_000),
            read_rot: rate(50_000),
            misdirected_write: 0,
            name_error: rate(50_000),
            open_error: rate(50_000),
        };
        let network = NetworkFaults {
            delay_max: u64::from(rate(300_000)),
            break_rate: rate(100),
            arrives_late: rate(1000),
            fragment: rate(1000),
            twice: rate(300),
        };
        let lies = choices.split("lies").chance(80);
        let file_faults = FaultRates {
            misdirected_write: if lies { u32::try_from(d.spread(1000, 60_000)).unwrap_or(0) } else { 0 },
            ..file_faults
        };
        let mut damage = choices.split("damage");
        let damage = if store == StoreKind::Remote && damage.chance(400) { *damage.pick(&[30, 150, 400]) } else { 0 };
        let crashes = Crashes { count: d.spread(1, 7) - 1, power_cuts: *d.pick(&[0, 300, 700, 1000]) };
        Self {
            seed,
            fleet,
            store,
            store_faults,
            file_faults,
            sync_max: d.spread(50, 200_000),
            disk_space: d.chance(150).then(|| d.spread(config.wal_file_bytes, config.wal_bytes_max * 3)),
            config,
            network,
            crashes,
            lies,
            damage,
            clock_jumps: *d.pick(&[0, 0, 50]),
            read_pause_max: d.spread(100, 3000),
            flush_pause_max: *d.pick(&[0, 500, 5000]),
            retention_pause_max: *choices.split("retention").pick(&[0, 1000, 8000]),
        }
    }
}

/// Limits from absurdly small to small.
fn config(d: &mut Draw) -> EngineConfig {
    const KIB: u64 = 1 << 10;
    let rows = |rows| usize::try_from(rows).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
    let wal_file_bytes = d.spread(6 * KIB, 256 * KIB);
    EngineConfig {
        data_dir: PathBuf::from(DATA_DIR),
        wal_file_bytes,
        wal_bytes_max: wal_file_bytes * d.between(2, 10),
        queue_bytes_max: d.spread(64, 64 * KIB),
        group_bytes_max: d.spread(512, 64 * KIB),
        group_frames_max: usize::try_from(d.spread(1, 64)).unwrap_or(1),
        buffer_bytes_max: d.spread(8 * KIB, 512 * KIB),
        flush_bytes: d.spread(512, 64 * KIB),
        flush_age: Duration::from_millis(d.spread(200, 60_000)),
        flush_concurrency: usize::try_from(d.between(1, 3)).unwrap_or(1),
        flush_part_rows: rows(d.spread(4, 512)),
        segment_bytes_max: d.spread(512, 64 * KIB),
        row_group_rows: rows(d.spread(1, 512)),
        merge_runs_max: usize::try_from(d.spread(1, 16)).unwrap_or(1),
        flush_retry_min: Duration::from_millis(d.spread(1, 1000)),
        flush_retry_max: Duration::from_secs(2),
        garbage_delay: Duration::from_millis(d.spread(20, 20_000)),
        schedule_interval: Duration::from_millis(d.spread(20, 2000)),
        compaction: d.chance(800),
        compaction_interval: Duration::from_millis(d.spread(5, 5000)),
        compaction_inputs_min: usize::try_from(d.between(2, 12)).unwrap_or(2),
        compaction_settle: Duration::from_millis(d.spread(1, 30_000)),
        compaction_bytes_max: d.spread(16 * KIB, 1024 * KIB),
        compaction_rate_bytes_max: d.spread(64 * KIB, 64 * 1024 * KIB),
        last_readings_bytes_max: 1 << 20,
        flush_at_close: false,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:?}, {:?}", self.seed, self.store, self.crashes)?;
        writeln!(f, "  {:?}", self.fleet)?;
        writeln!(f, "  {:?}", self.store_faults)?;
        writeln!(f, "  {:?}, sync up to {} µs, space {:?}", self.file_faults, self.sync_max, self.disk_space)?;
        let (jumps, damage) = (self.clock_jumps, self.damage);
        writeln!(f, "  {:?}, clock jumps {jumps}, the disk lies: {}, damage {damage}", self.network, self.lies)?;
        writeln!(f, "  retention every {} ms at most", self.retention_pause_max)?;
        let c = &self.config;
        write!(
            f,
            "  WAL file {} of {}, queue {}, group {} in {}, buffers {}, flush at {} or {:?} in parts of {}, segment {} in row groups of {}, runs {}, flushes {}, retry {:?}, every {:?}, collection after {:?}, merges {} every {:?} of {} after {:?}, {} at {} a second",
            c.wal_file_bytes,
            c.wal_bytes_max,
            c.queue_bytes_max,
            c.group_frames_max,
            c.group_bytes_max,
            c.buffer_bytes_max,
            c.flush_bytes,
            c.flush_age,
            c.flush_part_rows,
            c.segment_bytes_max,
            c.row_group_rows,
            c.merge_runs_max,
            c.flush_concurrency,
            c.flush_retry_min,
            c.schedule_interval,
            c.garbage_delay,
            c.compaction,
            c.compaction_interval,
            c.compaction_inputs_min,
            c.compaction_settle,
            c.compaction_bytes_max,
            c.compaction_rate_bytes_max,
        )
    }
}
