//! What runs did, in numbers: so that a green run can be seen to have tried something.

use std::fmt;

use engine::FaultCounts;

use crate::oracle::OracleCounts;
use crate::store::StoreCounts;
use crate::world::Looks;

/// Figures of a run, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Runs.
    pub runs: u64,
    /// Steps of all tasks.
    pub steps: u64,
    /// Crashes while tasks waited.
    pub crashes_at_await: u64,
    /// Connections broken by the network.
    pub breaks: u64,
    /// Chunks that arrived after their connection had broken.
    pub late: u64,
    /// Jumps of the clock.
    pub clock_jumps: u64,
    /// What the truth counted.
    pub oracle: OracleCounts,
    /// What was looked at.
    pub looks: Looks,
    /// What the disk did.
    pub files: FaultCounts,
    /// What the store did.
    pub store: StoreCounts,
}

impl Figures {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.crashes_at_await += other.crashes_at_await;
        self.breaks += other.breaks;
        self.late += other.late;
        self.clock_jumps += other.clock_jumps;
        self.oracle.add(&other.oracle);
        self.looks.add(&other.looks);
        self.files.add(&other.files);
        self.store.add(&other.store);
    }

    /// Every kind of fault, and how often it happened.
    #[must_use]
    pub fn kinds(&self) -> [(&'static str, u64); 32] {
        let (f, s) = (&self.files, &self.store);
        [
            ("crash in a disk operation", f.crashes),
            ("crash at an await", self.crashes_at_await),
            ("process killed", f.kills),
            ("power cut", f.power_cuts),
            ("sector lost", f.sectors_lost),
            ("sector kept", f.sectors_kept),
            ("name lost", f.names_lost),
            ("name kept", f.names_kept),
            ("write error", f.write_errors),
            ("torn write", f.torn_writes),
            ("failed sync", f.sync_errors),
            ("failed directory sync", f.dir_sync_errors),
            ("read error", f.read_errors),
            ("rotten read", f.read_rots),
            ("name error", f.name_errors),
            ("open error", f.open_errors),
            ("misdirected write", f.misdirected_writes),
            ("rotten byte on the disk", self.looks.rotten_bytes),
            ("lie of the disk that came out", self.looks.lies_told),
            ("disk full", f.no_space),
            ("store refused", s.refused),
            ("store applied, answered error", s.applied_but_error),
            ("store applied after the crash", s.applied_late),
            ("store throttled", s.throttled),
            ("rotten read of an object", s.rotten_reads),
            ("list that lags", s.lagging_lists),
            ("connection broken", self.breaks),
            ("bytes that came late", self.late),
            ("clock jumped", self.clock_jumps),
            ("object damaged or taken away", self.looks.damaged),
            ("object put back", self.looks.restored),
            ("look at carried records", self.looks.carried),
        ]
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "runs {}, steps {}", self.runs, self.steps)?;
        for (kind, count) in self.kinds() {
            writeln!(f, "  {kind:<32}{count:>12}{}", if count == 0 { "  not reached" } else { "" })?;
        }
        let (o, l) = (&self.oracle, &self.looks);
        writeln!(f, "frames taken {}, acknowledged {}", o.taken, o.acknowledged)?;
        writeln!(f, "acknowledged readings {}", o.acknowledged_readings)?;
        writeln!(
            f,
            "frames that a crash took before their acknowledgement {}, that it left {}",
            o.lost_unacknowledged, o.kept_unacknowledged
        )?;
        writeln!(
            f,
            "starts {} ({} refused), records replayed {}, torn blocks cut {}, ends by itself {}",
            l.starts, l.refused_starts, l.replayed, l.torn, l.ends
        )?;
        write!(
            f,
            "comparisons with the truth {}, readings compared {}, unreadable for a while {}, orphans seen {}, removed {}, merged segments seen {}, manifest versions collected {}, readings dropped {}, rollups compared {}",
            l.looks,
            l.readings,
            l.unreadable,
            l.orphans,
            self.store.deleted,
            l.merged,
            l.versions_collected,
            l.dropped,
            l.rollups
        )
    }
}
