//! Functions of the commands that the demo uses, so that its output is theirs.

use std::path::{Path, PathBuf};

use control::data_dir::DataDir;
use control::pki::GATEWAY_DAYS;
use control::{Caller, Control};
use problem::{Context, Result};
use serde_json::json;
use storage_format::Millis;

use super::gateway::{self, Enrollment};
use super::{export, query};
use client::Api;

/// A query of somebody.
pub(crate) struct Question {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) sql: String,
}

/// The wall clock.
pub(crate) fn now() -> Millis {
    super::now()
}

/// Who runs the demo.
pub(crate) fn caller() -> Caller {
    super::caller()
}

/// Runs what waits for the server beside the threads that the server needs.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context(|| "a command of the demo was lost".to_owned())?
}

/// The result, as `icecore query` prints it.
pub(crate) async fn ask(question: Question) -> Result<String> {
    blocking(move || {
        let api = Api::new(&question.url, &question.token)?;
        query::table_text(&api, &question.sql)
    })
    .await
}

/// As `icecore export`.
pub(crate) async fn export(url: String, token: String, path: PathBuf) -> Result<()> {
    blocking(move || {
        let api = Api::new(&url, &token)?;
        export::write(&api, &json!({"format": "csv"}), &path)
    })
    .await
}

/// As `icecore gateway enroll`.
pub(crate) async fn enroll(control: &Control, data: &DataDir, org: &str, out: &Path) -> Result<()> {
    let server_name = gateway::first_server_name(data)?;
    let gateway = Enrollment { org, name: "first", server_name: &server_name, days: GATEWAY_DAYS };
    gateway::enroll(control, data, &gateway, out).await
}

/// The size of all files below a directory.
pub(crate) fn bytes_below(dir: &Path) -> Result<u64> {
    let what = || format!("cannot read {}", dir.display());
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).context(what)? {
        let entry = entry.context(what)?;
        let metadata = entry.metadata().context(what)?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
