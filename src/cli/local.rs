//! Commands that need the engine: through the running server, or in this process when none runs.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use local::{Call, Command, Connection, Event, Events, Progress, Reached};
use problem::{Problem, Result};
use serde_json::Value;

use super::serve::stop_signal;
use super::{DataDirArgs, caller, output};
use crate::opened::Opened;
use control::data_dir::{DataDir, DirLock};

/// The data directory of such a command, and the configuration for the case that it opens the directory itself.
#[derive(Debug, Args)]
pub(super) struct LocalArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// The configuration, instead of config.toml in the data directory; a running server has its own
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl LocalArgs {
    pub(super) fn open(&self) -> DataDir {
        self.data_dir.open()
    }

    /// The configuration's file.
    pub(super) fn config(&self, data: &DataDir) -> PathBuf {
        self.config.clone().unwrap_or_else(|| data.config())
    }

    /// For a command whose arguments are optional, because it has subcommands.
    pub(super) fn new(data_dir: PathBuf, config: Option<PathBuf>) -> Self {
        Self { data_dir: DataDirArgs { data_dir }, config }
    }

    /// Runs a command to its end, and shows what it says; returns its result, if it gives one.
    pub(super) async fn run(&self, command: Command) -> Result<Option<Value>> {
        let data = self.data_dir.open();
        let mut screen = Screen::new();
        match local::reach(&data, &call(&command), |text| output::note(text)).await? {
            Reached::Server(mut server) => {
                while let Some(event) = server.next().await? {
                    screen.show(event)?;
                }
            }
            Reached::Free(lock) => self.run_here(&data, lock, command, &mut screen).await?,
        }
        Ok(screen.result.take())
    }

    async fn run_here(&self, data: &DataDir, lock: DirLock, command: Command, screen: &mut Screen) -> Result<()> {
        let mut stop = stop_signal()?;
        let stopped = || Problem::new("stopped by a signal").help("run the command again: it finishes what is left");
        let config = self.config(data);
        let opened = tokio::select! {
            opened = Opened::open(data, lock, &config) => opened?,
            () = stop.wait() => return Err(stopped()),
        };
        let (events, mut reader) = Events::channel();
        let ended = {
            let context = opened.resources.for_caller(caller());
            // Its failure is no error of this task: that would end the other one before it has shown everything.
            let work = async move { Ok(local::run(&context, command, &events).await) };
            let show = async {
                while let Some(event) = reader.next().await {
                    screen.show(event)?;
                }
                Ok(())
            };
            tokio::select! {
                ended = async { tokio::try_join!(work, show) } => ended.and_then(|(ended, ())| ended),
                () = stop.wait() => Err(stopped()),
            }
        };
        let closed = tokio::select! {
            closed = opened.close() => closed,
            // What was acknowledged is in the log, for whoever opens the directory next.
            () = stop.wait() => Ok(()),
        };
        ended.and(closed)
    }
}

fn call(command: &Command) -> Call {
    Call { user: caller().actor.name, command: command.clone() }
}

/// The server of a directory with this command in it, if one runs there.
pub(super) async fn ask(data: &DataDir, command: &Command) -> Result<Option<Box<Connection>>> {
    local::ask(data, &call(command)).await
}

/// Shows events: results on stdout, the rest on stderr, progress as a bar on a terminal.
pub(super) struct Screen {
    bar: ProgressBar,
    pub(super) result: Option<Value>,
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Screen {
    pub(super) fn new() -> Self {
        let bar = if stderr().is_terminal() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        Self { bar, result: None }
    }

    pub(super) fn show(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Progress(progress) => self.progress(&progress),
            Event::Line { text } => self.bar.suspend(|| output::line(text))?,
            Event::Note { text } => self.bar.suspend(|| output::note(text)),
            Event::Result { value } => self.result = Some(value),
            // The last one is what the command returned.
            Event::Done | Event::Failed { .. } => {}
        }
        Ok(())
    }

    fn progress(&self, progress: &Progress) {
        if self.bar.length() != progress.total || self.bar.position() == 0 {
            let template = match progress.total {
                Some(_) => "{bar:30} {percent:>3} % {elapsed}, {eta} left, {msg}",
                None => "{spinner} {elapsed} {msg}",
            };
            let style = ProgressStyle::with_template(template);
            self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            if let Some(total) = progress.total {
                self.bar.set_length(total);
            }
        }
        self.bar.set_position(progress.done);
        self.bar.set_message(progress.text.clone());
    }
}
