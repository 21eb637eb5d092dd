//! `import`: puts files of readings into the engine, as frames with an id like that of a gateway.
//!
//! A thread reads files and packs rows into frames; this task submits them, so that they go through the same queue, log,
//! buffers and manifests as those of gateways, and waits until all are durable. The command's readings bear an id of
//! their own in the column `gateway`, which the control database knows with who ran it and which files it read.
//!
//! Crash consistency: nothing is kept beside that record and the frames themselves. The same command again, after an
//! interruption, finds its record (same organisation, same files as they were, same options), makes the same frames, and
//! passes over those that the log or the manifest has by their number. Files that have changed, or that were written
//! while they were imported, begin a new import, in which what is there already counts as duplicates.

mod csv;
mod pack;
mod parquet;
mod source;
mod submit;

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use control::{Import, NewImport, Org};
use gateway::left_out::LeftOut;
use gateway::readings_csv::{CsvForm, CsvOptions};
use gateway::sender::{counted, pace};
use problem::{Context as _, Problem, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storage_format::{GatewayId, Millis};
use tokio::sync::{mpsc, oneshot};

use crate::advice::Advise as _;
use crate::command::CommandContext;
use crate::event::Events;
use crate::limits::{IMPORT_FILES_MAX, IMPORT_FRAMES_WAITING_MAX};
use pack::PACKING;
use source::{Accepted, Counts, Input, Sink, Stop};
use submit::{Submitted, Submitter};

/// A file that was changed so shortly before its import began may have been changed once more without another time: it is
/// not relied on.
const SETTLED: Duration = Duration::from_millis(50);

/// What to import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// The organisation's name.
    pub org: String,
    /// The files, by absolute paths.
    pub files: Vec<PathBuf>,
    /// Form of CSV files.
    #[serde(default)]
    pub form: CsvForm,
    /// File that rows with mistakes go to.
    #[serde(default)]
    pub skip_bad_rows: Option<PathBuf>,
}

/// Imports that somebody in this process is at work on: the record of none of them may be continued by another.
static AT_WORK: Mutex<Option<HashSet<GatewayId>>> = Mutex::new(None);

/// An import at work, until it is dropped.
struct AtWork(GatewayId);

impl AtWork {
    fn with<T>(change: impl FnOnce(&mut HashSet<GatewayId>) -> T) -> T {
        change(AT_WORK.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        Self::with(|all| all.remove(&self.0));
    }
}

/// Outcome of the reading of all files.
struct Read {
    counts: Counts,
    left_out: LeftOut,
    stop: Option<Stop>,
}

/// Does work on files where it blocks no thread of the network.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Problem::new("the work on files broke off").help("please report this"))?
}

pub(crate) async fn run(context: &CommandContext, request: &ImportRequest, events: &Events) -> Result<()> {
    let options = request.form.options()?;
    let org = context.control.org(&request.org).await.advise()?;
    if org.suspended.is_some() {
        return Err(Problem::new(format!("{} is suspended: nothing is imported for it", org.name))
            .help(format!("`icecore org resume {}` lifts the suspension", org.name)));
    }
    let paths = request.files.clone();
    let inputs = blocking(move || look(&paths)).await?;
    refuse_csv_options(request, &inputs)?;
    let loaded = context.engine.ensure_org(org.id).await;
    loaded.map_err(|error| Problem::new(format!("nothing can be stored for {} now", org.name)).detail(error))?;
    let (now, form, rows) = (context.now(), request.form.clone(), request.skip_bad_rows.clone());
    let (left_out, source, inputs) = blocking(move || {
        // Before the record: a command that cannot begin has not begun.
        let left_out = LeftOut::new(rows.as_deref())?;
        Ok((left_out, source_of(&form, &inputs, now)?, inputs))
    })
    .await?;
    let new = NewImport {
        org: org.id,
        source,
        files: inputs.iter().map(Input::name).collect(),
        time_min: context.times.min,
        time_max: context.times.max(now),
    };
    let (import, _at_work) = begin(context, &new, now).await?;
    let durable = context.engine.durable_sequence(org.id, import.id, import.spool);
    if durable.get() > 0 {
        events.note(format!("import {} was interrupted: going on where it was", import.id)).await;
    }
    let begun = context.clock.monotonic();
    let (frames, packed) = mpsc::channel(IMPORT_FRAMES_WAITING_MAX);
    let accepted = Accepted { min: import.time_min, max: import.time_max };
    let sink = Sink::new(frames, import.spool, accepted, left_out);
    let total: u64 = inputs.iter().map(|input| input.bytes).sum();
    let reading = read_all(inputs, options, sink)?;
    let submitter = Submitter { context, org: org.id, import: &import, durable, total, events };
    // Dropped, the channel ends the thread.
    let submitted = submitter.run(packed).await;
    let read =
        reading.await.map_err(|_| Problem::new("the reading of the files broke off").help("please report this"))?;
    let submitted = submitted?;
    let took = context.clock.monotonic().saturating_sub(begun);
    finish(context, events, &org, &import, read, submitted, took).await
}

/// Opens all files, before the first is read.
fn look(paths: &[PathBuf]) -> Result<Vec<Input>> {
    if paths.is_empty() {
        return Err(Problem::new("no file is named"));
    }
    if paths.len() > IMPORT_FILES_MAX {
        return Err(Problem::new(format!("{} files are named, and one import takes {IMPORT_FILES_MAX}", paths.len()))
            .help("import them in several commands"));
    }
    let mut inputs = Vec::with_capacity(paths.len());
    let mut named = HashSet::with_capacity(paths.len());
    for path in paths {
        let name = path.display();
        if !path.is_absolute() {
            return Err(Problem::new(format!("{name} is not an absolute path")));
        }
        if !named.insert(path) {
            return Err(Problem::new(format!("{name} is named twice")));
        }
        let what = || format!("cannot read {name}");
        let metadata = std::fs::metadata(path).context(what)?;
        if !metadata.is_file() {
            return Err(Problem::new(format!(
                "{name} is not a file: an import reads files, from their beginning and, after an interruption, again"
            )));
        }
        let file = std::fs::File::open(path).context(what)?;
        inputs.push(Input { path: path.clone(), bytes: metadata.len(), is_parquet: csv::is_parquet(path, &file) });
    }
    Ok(inputs)
}

/// Refuses options that say how CSV is read, if a file would not heed them.
fn refuse_csv_options(request: &ImportRequest, inputs: &[Input]) -> Result<()> {
    let Some(parquet) = inputs.iter().find(|input| input.is_parquet) else { return Ok(()) };
    let form = &request.form;
    let options = [
        ("--mapping", form.mapping.is_some()),
        ("--delimiter", form.delimiter.is_some()),
        ("--encoding", form.encoding.is_some()),
        ("--decimal-comma", form.decimal_comma),
        ("--missing", !form.missing.is_empty()),
        ("--skip-bad-rows", form.skip_bad_rows || request.skip_bad_rows.is_some()),
    ];
    match options.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((option, _)) => {
            Err(Problem::new(format!("{option} is for files of CSV, and {} is Parquet", parquet.name()))
                .help("leave it out, or import the files of Parquet by a command of their own"))
        }
    }
}

/// What the frames of an import depend on. A changed file has another identity, whatever its name is.
fn source_of(form: &CsvForm, inputs: &[Input], now: Millis) -> Result<Value> {
    let mut files = Vec::with_capacity(inputs.len());
    for input in inputs {
        let metadata = std::fs::metadata(&input.path).context(|| format!("cannot read {}", input.name()))?;
        let changed_ms = metadata.ctime().saturating_mul(1_000).saturating_add(metadata.ctime_nsec() / 1_000_000);
        let age = now.get().saturating_sub(changed_ms);
        let is_settled = age >= i64::try_from(SETTLED.as_millis()).unwrap_or(i64::MAX);
        files.push(json!({
            "path": input.name(),
            "bytes": metadata.len(),
            "device": metadata.dev(),
            "inode": metadata.ino(),
            "modified": [metadata.mtime(), metadata.mtime_nsec()],
            "changed": [metadata.ctime(), metadata.ctime_nsec()],
            // What is not settled is like no other file, not even like itself a moment later.
            "unsettled": (!is_settled).then_some(now.get()),
        }));
    }
    let form = serde_json::to_value(form).context(|| "the options cannot be kept".to_owned())?;
    Ok(json!({"packing": PACKING, "version": env!("CARGO_PKG_VERSION"), "files": files, "form": form}))
}

async fn begin(context: &CommandContext, new: &NewImport, now: Millis) -> Result<(Import, AtWork)> {
    let is_free = |id| AtWork::with(|all| !all.contains(&id));
    let import = context.control.begin_import(&context.caller, new, now, is_free).await.advise()?;
    if !AtWork::with(|all| all.insert(import.id)) {
        return Err(Problem::new("the same files are being imported by another command").help("wait for its end"));
    }
    let id = import.id;
    Ok((import, AtWork(id)))
}

/// Reads all files on a thread of its own.
fn read_all(inputs: Vec<Input>, options: CsvOptions, mut sink: Sink) -> Result<oneshot::Receiver<Read>> {
    let (done, reading) = oneshot::channel();
    let read = move || {
        let mut stop = None;
        for input in &inputs {
            let read = match input.is_parquet {
                true => parquet::read(input, &options, &mut sink),
                false => csv::read(input, &options, &mut sink),
            };
            if let Err(why) = read {
                stop = Some(why);
                break;
            }
        }
        // With the sink goes the sender of frames: whoever submits them knows that there are no more.
        let (counts, left_out) = sink.finish();
        let _ = done.send(Read { counts, left_out, stop });
    };
    let thread = std::thread::Builder::new().name("icecore-import".to_owned()).spawn(move || {
        // Like flushes, and for their reason: the network and the log come first.
        let _refused = rustix::process::setpriority_process(None, IMPORT_NICENESS);
        read();
    });
    thread.context(|| "cannot start the thread that reads files".to_owned())?;
    Ok(reading)
}

/// Niceness of the thread that reads files: that of flushes.
const IMPORT_NICENESS: i32 = 5;

/// Says what became of everything, and notes the end.
async fn finish(
    context: &CommandContext,
    events: &Events,
    org: &Org,
    import: &Import,
    read: Read,
    submitted: Submitted,
    took: Duration,
) -> Result<()> {
    let Read { counts, left_out, stop } = read;
    let stopped = match stop {
        None => Ok(()),
        Some(Stop::Mistake(problem) | Stop::Failure(problem)) => Err(problem),
        // Nobody took frames any more, and that was told above.
        Some(Stop::Gone) => Err(Problem::new("the import broke off").help("run the same command again: it goes on")),
    };
    let left_out_text = left_out.summary();
    // Not before all is durable: a complete file would be in the way of the same command again.
    let left_out = blocking(move || left_out.check("left out, and not stored")).await;
    let is_done = stopped.is_ok() && left_out.is_ok();
    let ended = context.control.end_import(&context.caller, import, is_done, counts.readings, context.now()).await;

    let names = if import.files.len() == 1 { import.files[0].clone() } else { format!("{} files", import.files.len()) };
    let mut text = format!(
        "{names}: {} imported for {} as {}, {}, {}",
        counted(counts.readings, "reading"),
        org.name,
        import.id,
        counted(submitted.frames, "frame"),
        pace(submitted.readings, took)
    );
    if submitted.passed_over > 0 {
        text.push_str(&format!(", {} there from before the interruption", counted(submitted.passed_over, "reading")));
    }
    if counts.rows_without_values > 0 {
        text.push_str(&format!(", {} without values", counted(counts.rows_without_values, "row")));
    }
    text.push_str(&left_out_text);
    events.line(text).await;
    // Whatever went wrong is told; the last one by the caller.
    let mut problems: Vec<Problem> =
        [left_out, stopped, ended.advise()].into_iter().filter_map(std::result::Result::err).collect();
    let last = problems.pop();
    for problem in problems {
        events.note(format!("error: {problem}")).await;
    }
    last.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_csv_is_not_ignored_for_parquet() {
        let input = |is_parquet| Input { path: PathBuf::from("/a"), bytes: 0, is_parquet };
        let request = |form| ImportRequest { org: "lab".to_owned(), files: Vec::new(), form, skip_bad_rows: None };
        let (plain, marked) = (CsvForm::default(), CsvForm { missing: vec!["-".to_owned()], ..CsvForm::default() });
        let both = CsvForm { truncate_times: true, logger: Some("7".to_owned()), ..CsvForm::default() };
        assert!(refuse_csv_options(&request(marked.clone()), &[input(false)]).is_ok());
        assert!(refuse_csv_options(&request(plain), &[input(false), input(true)]).is_ok());
        assert!(refuse_csv_options(&request(both), &[input(true)]).is_ok());
        let refused = refuse_csv_options(&request(marked), &[input(false), input(true)]).expect_err("refused");
        assert_eq!(refused.what(), "--missing is for files of CSV, and /a is Parquet");
    }

    #[tokio::test]
    async fn the_file_of_bad_rows_is_complete_only_when_the_import_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (path, bad) = (dir.path().join("a.csv"), dir.path().join("bad.csv"));
        std::fs::write(&path, "time,logger,temperature\nx,y,z\n2024-01-01T00:00:00Z,00124B0000000001,4\n")
            .expect("written");
        let options = CsvForm { skip_bad_rows: true, ..CsvForm::default() }.options().expect("options");
        let accepted = Accepted { min: Millis::MIN, max: Millis::MAX };
        let read = async || {
            let left_out = LeftOut::new(Some(&bad)).expect("begun");
            let (frames, packed) = mpsc::channel(1);
            // The command has gone.
            drop(packed);
            let sink = Sink::new(frames, storage_format::SpoolId::new(1).expect("not zero"), accepted, left_out);
            let inputs = look(std::slice::from_ref(&path)).expect("looked");
            read_all(inputs, options.clone(), sink).expect("begun").await.expect("read")
        };
        let Read { stop: Some(Stop::Gone), left_out, .. } = read().await else { panic!("it went on") };
        drop(left_out);
        assert!(!bad.exists());
        let again = read().await;
        again.left_out.check("left out").expect_err("a row is");
        assert!(bad.exists());
    }

    #[test]
    fn a_file_that_is_named_twice_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.csv");
        std::fs::write(&path, "").expect("written");
        assert_eq!(look(std::slice::from_ref(&path)).expect("looked").len(), 1);
        let refused = look(&[path.clone(), path]).expect_err("refused");
        assert!(refused.what().ends_with("a.csv is named twice"), "{refused}");
    }
}
