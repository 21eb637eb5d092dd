//! From the log into carried files: what an organisation's frozen buffers hold, so that they may leave.

use std::path::PathBuf;
use std::sync::Arc;

use durable::Files;
use storage_format::wal::WalRecordKind;
use storage_format::{Frame, Lsn, OrgId};

use crate::carried::CarriedFiles;
use crate::error::{EngineError, EngineErrorKind};
use crate::keys::KeyProvider;
use crate::org::{Org, Orgs};
use crate::wal::{FrameOfLog, WalReader};

/// What carrying on needs.
#[derive(Debug, Clone)]
pub(crate) struct CarryOn {
    pub(crate) orgs: Arc<Orgs>,
    pub(crate) carried: Arc<CarriedFiles>,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) keys: Arc<dyn KeyProvider>,
    /// The log's directory.
    pub(crate) wal_dir: PathBuf,
}

impl CarryOn {
    /// Puts the records of the organisation's frozen buffers into carried files, and the buffers out of the state. The
    /// organisation is in trouble. Returns how many records were copied.
    ///
    /// Reads the log's files that have them, one at a time: its memory is that of one file, and of the organisation's part
    /// of it.
    ///
    /// # Errors
    /// When the log cannot be read or a carried file not be written; then the buffers stay.
    pub(crate) async fn run(&self, org: &Org) -> Result<u64, EngineError> {
        let frozen = org.state().frozen.clone();
        let (Some(first), Some(last)) =
            (frozen.first().and_then(|buffer| buffer.lsn_first()), frozen.last().and_then(|buffer| buffer.lsn_last()))
        else {
            return Ok(0);
        };
        let known = self.orgs.troubles().get(org.id()).map(|trouble| trouble.carried_up_to()).unwrap_or_default();
        let mut from = known.next().unwrap_or(known).max(first);
        let mut copied = 0;
        if from <= last {
            let reader = WalReader::look(Arc::clone(&self.files), Arc::clone(&self.keys), self.wal_dir.clone())?;
            let mut firsts = Vec::new();
            for id in reader.ids() {
                // A file that goes meanwhile is needed by nobody.
                if let Ok(Some(lsn)) = reader.first_lsn(*id) {
                    firsts.push((*id, lsn));
                }
            }
            let begin = firsts.iter().rposition(|(_, lsn)| *lsn <= from).ok_or_else(|| not_there(org.id(), from))?;
            for (id, first_of_file) in &firsts[begin..] {
                if from > last || *first_of_file > from {
                    break;
                }
                // However the file ends: the appender may be writing it.
                let scan = reader.scan(*id, false).await?;
                let next = scan.next_lsn;
                let records = records_of(org.id(), from..=last, scan.blocks);
                if !records.is_empty() {
                    let file = self.carried.write(&records)?;
                    self.orgs.troubles().carried(org.id(), file);
                    copied += records.len() as u64;
                }
                from = from.max(next);
            }
            if from <= last {
                return Err(not_there(org.id(), from));
            }
        }
        org.carried(&frozen);
        Ok(copied)
    }
}

/// The organisation's frames among these. Those that do not decode are in no buffer: a start has kept them aside, and
/// mending could not apply them either.
fn records_of(
    of: OrgId,
    lsns: std::ops::RangeInclusive<Lsn>,
    blocks: Vec<storage_format::wal::WalBlock>,
) -> Vec<FrameOfLog> {
    let records = blocks.into_iter().flat_map(|block| block.records);
    let wanted = records.filter_map(|record| match record.kind {
        WalRecordKind::Frame { org, gateway, received, frame }
            if org == of && lsns.contains(&record.lsn) && Frame::decode(frame.clone()).is_ok() =>
        {
            Some(FrameOfLog { lsn: record.lsn, org, gateway, received, frame })
        }
        WalRecordKind::Frame { .. } | WalRecordKind::Closed => None,
    });
    wanted.collect()
}

fn not_there(org: OrgId, lsn: Lsn) -> EngineError {
    EngineError::new(
        EngineErrorKind::Retry,
        "the log does not have a record that is in memory",
        "It is tried again. If this comes again and again, the WAL is damaged: look with `icecore wal inspect`.",
    )
    .at(format_args!("organisation {org}, LSN {lsn}"))
}

#[cfg(test)]
mod tests {
    use storage_format::wal::{WalBlock, WalRecord};
    use storage_format::{GatewayId, Millis};

    use super::*;
    use crate::append::support::{frame, org};

    #[test]
    fn what_does_not_decode_is_not_carried_on() {
        let record = |lsn, org, frame: &[u8]| {
            let gateway = GatewayId::new(1).expect("not zero");
            let frame = bytes::Bytes::copy_from_slice(frame);
            let kind = WalRecordKind::Frame { org, gateway, received: Millis::EPOCH, frame };
            WalRecord { lsn: Lsn::new(lsn), kind }
        };
        let good = frame(1, 10);
        let records = vec![
            record(1, org(1), good.bytes()),
            record(2, org(1), good.bytes()),
            record(3, org(1), b"no frame"),
            record(4, org(2), good.bytes()),
            record(5, org(1), good.bytes()),
            record(6, org(1), good.bytes()),
        ];
        let blocks = vec![WalBlock { offset: 0, bytes: 0, records }];
        let carried = records_of(org(1), Lsn::new(2)..=Lsn::new(5), blocks);
        let lsns: Vec<u64> = carried.iter().map(|record| record.lsn.get()).collect();
        assert_eq!(lsns, [2, 5]);
    }
}
