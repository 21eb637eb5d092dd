//! `icecore doctor`: checks that everything manifests name is there, and whole.
//!
//! Reads the store of a data directory in a process of its own, with or without a server beside it, and changes nothing.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stderr};

use clap::Args;
use engine::{Doctor, Examined, FaultKind, Finding, LogState};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use storage_format::OrgId;

use super::local::LocalArgs;
use super::offline::parts;
use super::output::grouped;
use super::{block_on, output};
use crate::advice::Advise as _;
use control::data_dir::DataDir;
use problem::{Context, Problem, Result};

/// Compare manifests and store, and report what is missing or damaged. Beside a running server or without one.
///
/// Finds holes in the log of manifest versions, objects that are missing or have another size, objects that no manifest
/// names and that are older than a day, and keys that do not open; with --deep also every page that does not decode,
/// and rows that are not those in the manifest. Reads only. Exit code 0 if all is well, 1 otherwise.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Only this organisation
    #[arg(long, value_name = "ORG")]
    org: Option<String>,
    /// Read every page of every object: takes about as long as to read the whole store
    #[arg(long)]
    deep: bool,
    /// As JSON: {"well", "organisations": [ … ], "log": { … }}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    local: LocalArgs,
}

/// Niceness of the process: whoever serves comes first.
const NICENESS: i32 = 15;

pub(super) fn run(args: &DoctorArgs) -> Result<()> {
    // Without it, the examination only takes more of the machine than it should.
    let _refused = rustix::process::setpriority_process(None, NICENESS);
    let data = args.local.open();
    let report = block_on(examine(&data, args))?;
    if args.json {
        output::line(serde_json::to_string_pretty(&report.to_json()).unwrap_or_default())?;
    } else {
        report.print(args)?;
    }
    report.verdict()
}

/// What an organisation is called, and what was found.
struct OfOrg {
    id: OrgId,
    /// `None` if the control database has no such organisation.
    name: Option<String>,
    examined: Examined,
}

#[derive(Default)]
struct Report {
    orgs: Vec<OfOrg>,
    log: LogState,
    /// What is of no organisation.
    others: Vec<Finding>,
}

async fn examine(data: &DataDir, args: &DoctorArgs) -> Result<Report> {
    let control = data.open_control().await.advise()?;
    let only = match &args.org {
        Some(name) => Some(control.org(name).await.advise()?.id),
        None => None,
    };
    let names: BTreeMap<OrgId, String> =
        control.orgs().await.advise()?.into_iter().map(|org| (org.id, org.name)).collect();
    control.close().await;
    let doctor = Doctor::new(&parts(data, &args.local.config(data))?, args.deep);
    let mut report = Report::default();
    let orgs = match (only, doctor.orgs().await) {
        (Some(org), _) => vec![org],
        (None, Ok(orgs)) => orgs,
        (None, Err(finding)) => {
            report.others.push(finding);
            names.keys().copied().collect()
        }
    };
    let bar = stderr().is_terminal().then(ProgressBar::new_spinner);
    for (done, id) in (1..).zip(&orgs) {
        let id = *id;
        let name = names.get(&id).cloned();
        let shown = name.clone().unwrap_or_else(|| id.to_string());
        let tell = |objects, of| {
            if let Some(bar) = &bar {
                bar.set_message(format!("organisation {done} of {}: {shown}, object {objects} of {of}", orgs.len()));
                bar.tick();
            }
        };
        tell(0, 0);
        let mut examined = doctor.examine(id, &tell).await;
        if name.is_none() && examined.objects > 0 {
            let detail = "the store has its readings, and the control database does not know it".to_owned();
            examined.findings.push(Finding { kind: FaultKind::Unknown, name: id.to_string(), detail });
        }
        report.orgs.push(OfOrg { id, name, examined });
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    report.log = doctor
        .examine_log_files(data.path())
        .context(|| format!("the log in {} cannot be read", data.path().display()))?;
    // Whoever asks for one organisation hears of no other.
    report.log.findings.retain(|(of, _)| only.is_none() || *of == only);
    Ok(report)
}

impl Report {
    fn findings(&self) -> impl Iterator<Item = &Finding> {
        let of_orgs = self.orgs.iter().flat_map(|org| &org.examined.findings);
        of_orgs.chain(self.log.findings.iter().map(|(_, finding)| finding)).chain(&self.others)
    }

    fn count(&self) -> u64 {
        self.findings().count() as u64 + self.orgs.iter().map(|org| org.examined.more).sum::<u64>()
    }

    fn sum(&self, of: fn(&Examined) -> u64) -> u64 {
        self.orgs.iter().map(|org| of(&org.examined)).sum()
    }

    fn print(&self, args: &DoctorArgs) -> Result<()> {
        for OfOrg { id, name, examined } in self.orgs.iter().filter(|org| !org.examined.is_well()) {
            output::line(format_args!("organisation {} {id}:", name.as_deref().unwrap_or("(unknown)")))?;
            print_findings(examined.findings.iter())?;
            if examined.more > 0 {
                output::line(format_args!("  and {} more", grouped(examined.more)))?;
            }
        }
        if !self.log.findings.is_empty() || !self.others.is_empty() {
            output::line("data directory:")?;
            print_findings(self.log.findings.iter().map(|(_, finding)| finding).chain(&self.others))?;
        }
        let LogState { files, bytes, set_aside, carried, .. } = &self.log;
        let (set_aside, carried) = (set_aside.values().sum::<u64>(), carried.values().sum::<u64>());
        output::line(format_args!(
            "log: files {files}, {} bytes; records set aside {set_aside}, files carried on {carried}",
            grouped(*bytes)
        ))?;
        let well = self.orgs.iter().filter(|org| org.examined.is_well()).count();
        let rows = match args.deep {
            true => format!(", {} rows read", grouped(self.sum(|examined| examined.rows))),
            false => String::new(),
        };
        output::line(format_args!(
            "organisations: {}, of them {well} well; {} objects, {} bytes, {} manifest versions{rows}; faults: {}",
            self.orgs.len(),
            grouped(self.sum(|examined| examined.objects)),
            grouped(self.sum(|examined| examined.bytes)),
            grouped(self.sum(|examined| examined.versions)),
            grouped(self.count())
        ))
    }

    fn to_json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({"kind": finding.kind.as_str(), "name": finding.name, "detail": finding.detail,
                "help": finding.kind.advice()})
        };
        let orgs = self.orgs.iter().map(|OfOrg { id, name, examined }| {
            json!({"id": id.to_string(), "name": name, "well": examined.is_well(), "versions": examined.versions,
                "objects": examined.objects, "bytes": examined.bytes, "rows": examined.rows,
                "passing": examined.passing, "more": examined.more,
                "findings": examined.findings.iter().map(finding).collect::<Vec<_>>()})
        });
        json!({
            "well": self.count() == 0,
            "faults": self.count(),
            "organisations": orgs.collect::<Vec<_>>(),
            "log": {"files": self.log.files, "bytes": self.log.bytes,
                "set_aside": self.log.set_aside.values().sum::<u64>(),
                "carried": self.log.carried.values().sum::<u64>(),
                "findings": self.log.findings.iter().map(|(_, found)| finding(found)).collect::<Vec<_>>()},
            "findings": self.others.iter().map(finding).collect::<Vec<_>>(),
        })
    }

    /// The command's end: an error unless all is well.
    fn verdict(&self) -> Result<()> {
        match self.count() {
            0 => Ok(()),
            1 => {
                Err(Problem::new("not all is well: 1 fault")
                    .help("it is named above with what to do; nothing was changed"))
            }
            faults => Err(Problem::new(format!("not all is well: {} faults", grouped(faults)))
                .help("each is named above with what to do; nothing was changed")),
        }
    }
}

/// Each finding, and once for each kind what to do.
fn print_findings<'a>(findings: impl Iterator<Item = &'a Finding>) -> Result<()> {
    let mut kinds = Vec::new();
    for finding in findings {
        output::line(format_args!("  {finding}"))?;
        if !kinds.contains(&finding.kind) {
            kinds.push(finding.kind);
        }
    }
    for kind in kinds {
        output::line(format_args!("  help: {}: {}", kind.as_str(), kind.advice()))?;
    }
    Ok(())
}
