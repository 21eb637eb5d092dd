//! The tables that a session has: `readings`, `last_readings`, `conflicts`, `totals`. All of one query read one snapshot.

mod conflicts;
mod last_readings;
mod readings;
mod resolve;
mod totals;

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::Result;

use crate::scan::ScanContext;

pub(crate) use readings::readings_beside;

/// The table of readings.
pub(crate) fn readings(context: &Arc<ScanContext>) -> Arc<dyn TableProvider> {
    Arc::new(readings::ReadingsTable::new(Arc::clone(context)))
}

/// The table of each logger's last reading.
pub(crate) fn last_readings(context: &Arc<ScanContext>) -> Arc<dyn TableProvider> {
    Arc::new(last_readings::LastReadingsTable::new(Arc::clone(context)))
}

/// Whether this is the table of readings.
pub(crate) fn is_readings(table: &dyn TableProvider) -> bool {
    table.is::<readings::ReadingsTable>()
}

/// The table of refused values.
pub(crate) fn conflicts(context: &Arc<ScanContext>) -> Result<Arc<dyn TableProvider>> {
    conflicts::table(context)
}

/// The table of counts.
pub(crate) fn totals(context: &Arc<ScanContext>) -> Arc<dyn TableProvider> {
    Arc::new(totals::TotalsTable::new(Arc::clone(context)))
}
