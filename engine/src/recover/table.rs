//! What recovery decides, as data: each table has one row for every combination, which a test holds.

/// How a WAL file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileEnd {
    /// With the mark of a clean close.
    Closed,
    /// With zeros after the last block.
    Open,
    /// With a block that a crash tore.
    Torn,
    /// With what no crash leaves.
    Corrupt,
}

/// The file after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextFile {
    /// It is the last.
    None,
    /// Begins with the LSN after this file's last.
    Continues,
    /// Begins with another.
    Gap,
}

/// What to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileAction {
    /// Apply its records.
    Replay,
    /// Apply its records, pass over the torn block.
    Cut,
    /// Do not start: records are missing.
    RefuseGap,
    /// Do not start: bytes are damaged.
    RefuseDamage,
}

/// A crash stops a writer, and the next process writes a new file: so every good end may be followed by a file that
/// continues. A gap means that a file, or a file's end, is lost.
const FILES: [(FileEnd, NextFile, FileAction); 12] = [
    (FileEnd::Closed, NextFile::None, FileAction::Replay),
    (FileEnd::Closed, NextFile::Continues, FileAction::Replay),
    (FileEnd::Closed, NextFile::Gap, FileAction::RefuseGap),
    (FileEnd::Open, NextFile::None, FileAction::Replay),
    (FileEnd::Open, NextFile::Continues, FileAction::Replay),
    (FileEnd::Open, NextFile::Gap, FileAction::RefuseGap),
    (FileEnd::Torn, NextFile::None, FileAction::Cut),
    (FileEnd::Torn, NextFile::Continues, FileAction::Cut),
    (FileEnd::Torn, NextFile::Gap, FileAction::RefuseGap),
    (FileEnd::Corrupt, NextFile::None, FileAction::RefuseDamage),
    (FileEnd::Corrupt, NextFile::Continues, FileAction::RefuseDamage),
    (FileEnd::Corrupt, NextFile::Gap, FileAction::RefuseDamage),
];

/// What is known of a record's organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrgState {
    /// There is none, and nobody knows why.
    Missing,
    /// Its manifest cannot be read, or is not looked at before its carried records are applied.
    InTrouble,
    /// Its manifest covers the record, or a carried file holds it.
    Covered,
    /// Its manifest does not cover the record.
    Open,
}

/// What is known of a record's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameState {
    /// It decodes, or nobody need look.
    Good,
    /// It does not: written by a newer program, or by a faulty one.
    Bad,
}

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordAction {
    /// Into the write buffer.
    Apply,
    /// Segments hold it, or a carried file does.
    Skip,
    /// Into a carried file, to be applied when the organisation is mended.
    CarryOn,
    /// Keep it in a file of its own, loudly.
    SetAside,
}

const RECORDS: [(OrgState, FrameState, RecordAction); 8] = [
    (OrgState::Missing, FrameState::Good, RecordAction::SetAside),
    (OrgState::Missing, FrameState::Bad, RecordAction::SetAside),
    (OrgState::InTrouble, FrameState::Good, RecordAction::CarryOn),
    (OrgState::InTrouble, FrameState::Bad, RecordAction::SetAside),
    (OrgState::Covered, FrameState::Good, RecordAction::Skip),
    (OrgState::Covered, FrameState::Bad, RecordAction::Skip),
    (OrgState::Open, FrameState::Good, RecordAction::Apply),
    (OrgState::Open, FrameState::Bad, RecordAction::SetAside),
];

/// Are there WAL files?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogState {
    /// Not one.
    None,
    /// At least one.
    Some,
}

/// What manifests say about the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ManifestsState {
    /// Nothing has been flushed.
    CoverNothing,
    /// They cover records that the log has, or had before its first file.
    WithinLog,
    /// They cover records that the log has not reached.
    BeyondLog,
}

/// How the log goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogAction {
    /// After its last record, or at 1.
    GoOn,
    /// After the last record that a manifest covers, in a new log.
    BeginAfterManifests,
    /// Do not start.
    Refuse,
}

/// The newest file is never removed, so a log that is wholly gone was taken away: a data directory made anew beside an
/// old store. One that is there and too short has lost its end, and with it perhaps acknowledged records.
const LOG: [(LogState, ManifestsState, LogAction); 6] = [
    (LogState::None, ManifestsState::CoverNothing, LogAction::GoOn),
    (LogState::None, ManifestsState::WithinLog, LogAction::BeginAfterManifests),
    (LogState::None, ManifestsState::BeyondLog, LogAction::BeginAfterManifests),
    (LogState::Some, ManifestsState::CoverNothing, LogAction::GoOn),
    (LogState::Some, ManifestsState::WithinLog, LogAction::GoOn),
    (LogState::Some, ManifestsState::BeyondLog, LogAction::Refuse),
];

fn look_up<A: PartialEq, B: PartialEq, C: Copy>(table: &[(A, B, C)], first: &A, second: &B) -> C {
    let row = table.iter().find(|(a, b, _)| a == first && b == second);
    row.expect("a test holds that every combination has a row").2
}

pub(super) fn on_file(end: FileEnd, next: NextFile) -> FileAction {
    look_up(&FILES, &end, &next)
}

pub(super) fn on_record(org: OrgState, frame: FrameState) -> RecordAction {
    look_up(&RECORDS, &org, &frame)
}

pub(super) fn on_log(log: LogState, manifests: ManifestsState) -> LogAction {
    look_up(&LOG, &log, &manifests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<A: PartialEq, B: PartialEq, C>(table: &[(A, B, C)], first: &[A], second: &[B]) {
        for a in first {
            for b in second {
                assert_eq!(table.iter().filter(|row| row.0 == *a && row.1 == *b).count(), 1);
            }
        }
        assert_eq!(table.len(), first.len() * second.len());
    }

    #[test]
    fn every_combination_has_one_row() {
        use FileEnd::{Closed, Corrupt, Open, Torn};
        rows(&FILES, &[Closed, Open, Torn, Corrupt], &[NextFile::None, NextFile::Continues, NextFile::Gap]);
        use OrgState::{Covered, InTrouble, Missing};
        rows(&RECORDS, &[Missing, InTrouble, Covered, OrgState::Open], &[FrameState::Good, FrameState::Bad]);
        use ManifestsState::{BeyondLog, CoverNothing, WithinLog};
        rows(&LOG, &[LogState::None, LogState::Some], &[CoverNothing, WithinLog, BeyondLog]);
    }

    #[test]
    fn the_tables_keep_the_promises() {
        for (end, next, action) in FILES {
            let refused = matches!(action, FileAction::RefuseGap | FileAction::RefuseDamage);
            // Damage and holes stop the start, and nothing else does.
            assert_eq!(refused, end == FileEnd::Corrupt || next == NextFile::Gap, "{end:?} {next:?}");
            assert_eq!(action == FileAction::Cut, end == FileEnd::Torn && !refused, "{end:?} {next:?}");
        }
        for (org, frame, action) in RECORDS {
            // A record that segments hold is never applied again; one that they do not hold is applied or kept.
            assert_eq!(action == RecordAction::Skip, org == OrgState::Covered, "{org:?} {frame:?}");
            if action == RecordAction::Apply {
                assert_eq!((org, frame), (OrgState::Open, FrameState::Good));
            }
            // What is carried on is applied some day: it must be a frame.
            if action == RecordAction::CarryOn {
                assert_eq!((org, frame), (OrgState::InTrouble, FrameState::Good));
            }
        }
        for (log, manifests, action) in LOG {
            // LSNs that a manifest covers are never given again.
            if manifests == ManifestsState::BeyondLog {
                assert_ne!(action, LogAction::GoOn, "{log:?}");
            }
        }
    }
}
