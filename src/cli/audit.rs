//! `icecore audit`: who changed what in the control database, and when.

use std::collections::HashMap;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::table::text_table;
use super::{DataDirArgs, block_on, output};
use crate::advice::Advise as _;
use control::{AuditEntry, Control};
use problem::Result;
use storage_format::OrgId;

/// How many entries are read, held and printed at a time.
const PAGE: u32 = 500;

/// Show who changed what: organisations, gateways, tokens. Works beside a running server.
#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// List all entries of the audit log, oldest first
    List {
        /// Only those of this organisation
        #[arg(long, value_name = "ORG")]
        org: Option<String>,
        /// As JSON: {"items": [ … ]}, with everything that an entry has
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
}

pub(super) fn run(args: &AuditArgs) -> Result<()> {
    let AuditCommand::List { org, json, data_dir } = &args.command;
    block_on(async {
        let control = data_dir.open().open_control().await.advise()?;
        let only = match org {
            Some(name) => Some(control.org(name).await.advise()?.id),
            None => None,
        };
        if *json { list_json(&control, only).await } else { list_tables(&control, only).await }
    })
}

/// Calls `print` with page after page until the end, or until it says that the reader has gone.
async fn pages(
    control: &Control,
    only: Option<OrgId>,
    mut print: impl FnMut(&[AuditEntry]) -> Result<bool>,
) -> Result<()> {
    let mut after = 0;
    loop {
        let page = control.audit_page(only, after, PAGE).await.advise()?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        if !print(&page)? {
            return Ok(());
        }
    }
}

async fn list_json(control: &Control, only: Option<OrgId>) -> Result<()> {
    if !output::write(b"{\"items\": [")? {
        return Ok(());
    }
    let mut before = "\n";
    pages(control, only, |page| {
        let mut text = String::new();
        for entry in page {
            text.push_str(std::mem::replace(&mut before, ",\n"));
            text.push_str(&entry.to_json().to_string());
        }
        output::write(text.as_bytes())
    })
    .await?;
    output::line("\n]}")
}

/// A table for each page, so that the widths of columns need no look at all entries.
async fn list_tables(control: &Control, only: Option<OrgId>) -> Result<()> {
    let names: HashMap<_, _> = control.orgs().await.advise()?.into_iter().map(|org| (org.id, org.name)).collect();
    let header = ["id", "at", "actor", "action", "target", "organisation", "change"];
    let mut any = false;
    pages(control, only, |page| {
        any = true;
        let rows = page.iter().map(|entry| {
            let org = entry.org.map_or_else(String::new, |id| names.get(&id).cloned().unwrap_or(id.to_string()));
            let actor = format!("{} {}", entry.actor.kind.as_str(), entry.actor.name);
            let change = change(entry.before.as_ref(), entry.after.as_ref());
            let (id, at, action) = (entry.id.to_string(), entry.at.to_string(), entry.action.clone());
            vec![id, at, actor, action, fields(&entry.target), org, change]
        });
        output::write(format!("{}\n", text_table(&header, rows)).as_bytes())
    })
    .await?;
    if any { Ok(()) } else { output::line("the audit log has no entries") }
}

/// What an entry says of the values before and after, in one line.
fn change(before: Option<&Value>, after: Option<&Value>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("{} → {}", fields(before), fields(after)),
        (Some(only), None) | (None, Some(only)) => fields(only),
        (None, None) => String::new(),
    }
}

fn fields(value: &Value) -> String {
    let Value::Object(fields) = value else { return value.to_string() };
    let field = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name} {text}"),
        Value::Null => format!("{name} –"),
        other => format!("{name} {other}"),
    };
    fields.iter().map(field).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_reads_as_one_line() {
        let (before, after) = (json!({"revoked": null}), json!({"revoked": "2026-01-01T00:00:00Z"}));
        assert_eq!(change(Some(&before), Some(&after)), "revoked – → revoked 2026-01-01T00:00:00Z");
        assert_eq!(change(None, Some(&json!({"name": "dock", "days": 3}))), "days 3, name dock");
        assert_eq!(change(None, None), "");
    }
}
