//! Compares everything that an engine holds with the model.

use engine::Engine;
use kit::{Conflict, FirstWins};
use storage_format::OrgId;

/// What a snapshot shows must be what the model has.
pub(crate) async fn check_rows(engine: &Engine, org: OrgId, model: &FirstWins) {
    let snapshot = engine.snapshot(org).await.expect("a snapshot");
    let found = kit::rig::rows(engine, &snapshot).await.expect("it reads");
    assert_eq!(found.len(), model.rows.len(), "number of readings");
    assert_eq!(found, model.rows);
}

/// The last readings must be those of the model.
pub(crate) async fn check_last(engine: &Engine, org: OrgId, model: &FirstWins) {
    let snapshot = engine.snapshot(org).await.expect("a snapshot");
    let found = kit::rig::last_readings(engine, &snapshot).await.expect("they are read");
    assert_eq!(found, model.last(), "last readings");
}

/// After everything is flushed, counts and conflicts must be the model's, too.
pub(crate) async fn check_flushed(engine: &Engine, org: OrgId, model: &FirstWins) {
    check_rows(engine, org, model).await;
    check_last(engine, org, model).await;
    let snapshot = engine.snapshot(org).await.expect("a snapshot");
    assert_eq!(snapshot.buffered_rows(), 0, "everything is flushed");
    let totals = snapshot.manifest.totals();
    assert_eq!(totals.readings, model.rows.len() as u64, "readings");
    assert_eq!(totals.filled, model.filled, "filled");
    let found = kit::rig::conflicts(engine, &snapshot).await.expect("it reads");
    assert_eq!(totals.conflicts, found.len() as u64, "every conflict that is counted is kept");
    // A refused value that its gateway tells again may count as one or the other, by whether a flush came between.
    assert_eq!(totals.duplicates + totals.conflicts, model.repeated(), "samples");
    assert_eq!(Conflict::keys(&found), model.conflict_keys(), "conflicts");
}
