//! Progress of a sending: a bar on a terminal, and notes about what should be known at once.

use std::io::{IsTerminal, stderr};
use std::pin::pin;
use std::time::Duration;

use gateway::sender::Sender;
use indicatif::{ProgressBar, ProgressStyle};
use ingest::client::Progress;
use problem::Result;
use tokio::task::JoinHandle;

use crate::cli::output;

/// Shows how it goes: a bar on a terminal, otherwise only trouble.
pub(in crate::cli) struct Watcher {
    bar: ProgressBar,
    looks: u64,
    watching: Option<JoinHandle<()>>,
}

/// Readings between two looks at how far the file is read.
const LOOK_EVERY: u64 = 1_024;
/// A first connection that takes longer is told.
const TOLD_AFTER: Duration = Duration::from_secs(3);

impl Watcher {
    pub(in crate::cli) fn new(length: u64) -> Self {
        let bar = if stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} % {elapsed} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, looks: 0, watching: None }
    }

    /// Connects, and says so when that takes long.
    pub(in crate::cli) async fn connect(&mut self, sender: &mut Sender) -> Result<()> {
        if self.watching.is_some() {
            return Ok(());
        }
        {
            let mut connect = pin!(sender.connect());
            tokio::select! {
                done = &mut connect => done?,
                () = tokio::time::sleep(TOLD_AFTER) => {
                    self.bar.suspend(|| output::note("no connection yet; trying again"));
                    connect.await?;
                }
            }
        }
        self.watching = sender.progress().map(|progress| tokio::spawn(watch(self.bar.clone(), progress)));
        Ok(())
    }

    pub(in crate::cli) fn look(&mut self, position: u64) {
        self.looks += 1;
        if self.looks.is_multiple_of(LOOK_EVERY) {
            self.bar.set_position(position);
        }
    }

    pub(in crate::cli) fn end(&self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
        self.bar.finish_and_clear();
    }
}

/// Tells acknowledgements on the bar, trouble once for each kind, and the first refusal: a long sending need not go on to
/// its end to be known to be in vain.
async fn watch(bar: ProgressBar, mut progress: tokio::sync::watch::Receiver<Progress>) {
    let (mut told, mut refusal_told) = (None, false);
    while progress.changed().await.is_ok() {
        let now = progress.borrow_and_update().clone();
        if now.trouble.is_some() && now.trouble != told {
            let trouble = now.trouble.as_deref().unwrap_or_default();
            bar.suspend(|| output::note(format_args!("no connection: {trouble}; trying again")));
            told = now.trouble;
        }
        if now.refused_readings > 0 && !refusal_told {
            let readings = output::grouped(now.refused_readings);
            bar.suspend(|| {
                output::note(format_args!(
                    "warning: the server refuses readings, {readings} so far; going on with the rest, and telling why at \
                     the end"
                ));
            });
            refusal_told = true;
        }
        bar.set_message(format!("{} acknowledged", output::grouped(now.acknowledged_readings)));
    }
}
