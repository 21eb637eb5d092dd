//! What a command says while it runs: progress, lines, its result, how it ended.

use std::fmt::Display;

use problem::Problem;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::limits::EVENTS_WAITING_MAX;

/// Progress of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is done, in a unit of the command's own.
    pub done: u64,
    /// What there is to do, as far as it is known.
    pub total: Option<u64>,
    /// What to show beside it.
    pub text: String,
}

/// One event of a command. The last one of every command is `Done` or `Failed`: without it the command was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Progress of the command; shown while it runs, and gone afterwards.
    Progress(Progress),
    /// A line of the result, for stdout.
    Line {
        /// Without a line break at its end.
        text: String,
    },
    /// Something beside the result, for stderr.
    Note {
        /// Without a line break at its end.
        text: String,
    },
    /// The result, for whoever called to show.
    Result {
        /// In a shape of the command's own.
        value: Value,
    },
    /// The end, in success.
    Done,
    /// The end, in failure.
    Failed {
        /// What happened.
        what: String,
        /// The detail.
        detail: Option<String>,
        /// What to do about it.
        help: Option<String>,
    },
}

impl Event {
    /// End of a command, as its last event.
    pub(crate) fn end(ended: Result<(), Problem>) -> Self {
        match ended {
            Ok(()) => Self::Done,
            Err(problem) => {
                let (what, detail, help) = problem.into_parts();
                Self::Failed { what, detail, help }
            }
        }
    }
}

/// An error as it was before it became an event.
pub(crate) fn problem(what: String, detail: Option<String>, help: Option<String>) -> Problem {
    let mut problem = Problem::new(what);
    if let Some(detail) = detail {
        problem = problem.detail(detail);
    }
    match help {
        Some(help) => problem.help(help),
        None => problem,
    }
}

/// Sink of a command's events. When nobody reads them any more the command is given up, so that what it says then
/// may be lost.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Event>);

/// The other end of [`Events`].
#[derive(Debug)]
pub struct EventsReader(mpsc::Receiver<Event>);

impl Events {
    /// Both ends; what waits between them is bounded.
    #[must_use]
    pub fn channel() -> (Self, EventsReader) {
        let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
        (Self(sender), EventsReader(receiver))
    }

    /// Tells how far the command is. Never waits: what nobody has time to look at is left out.
    pub fn progress(&self, done: u64, total: Option<u64>, text: impl Display) {
        // Room is left for what must not be left out.
        if self.0.capacity() > EVENTS_WAITING_MAX / 2 {
            let _ = self.0.try_send(Event::Progress(Progress { done, total, text: text.to_string() }));
        }
    }

    /// Prints a line of the result.
    pub async fn line(&self, text: impl Into<String>) {
        self.send(Event::Line { text: text.into() }).await;
    }

    /// Prints something beside the result.
    pub async fn note(&self, text: impl Into<String>) {
        self.send(Event::Note { text: text.into() }).await;
    }

    /// Gives the result to the caller.
    pub async fn result(&self, value: Value) {
        self.send(Event::Result { value }).await;
    }

    pub(crate) async fn send(&self, event: Event) {
        let _ = self.0.send(event).await;
    }
}

impl EventsReader {
    /// The next event; `None` when the command is gone.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }

    pub(crate) fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn progress_never_waits_and_leaves_room_for_the_rest() {
        let (events, mut reader) = Events::channel();
        for done in 0..1_000 {
            events.progress(done, Some(1_000), "so far");
        }
        events.line("kept").await;
        events.send(Event::end(Ok(()))).await;
        drop(events);
        let mut all = Vec::new();
        while let Some(event) = reader.next().await {
            all.push(event);
        }
        assert!(all.len() < EVENTS_WAITING_MAX, "{} events", all.len());
        assert_eq!(all[all.len() - 2..], [Event::Line { text: "kept".to_owned() }, Event::Done]);
    }

    #[test]
    fn an_error_arrives_as_it_was() {
        let error = Problem::new("no").detail("such\nfile").help("make it");
        let text = serde_json::to_string(&Event::end(Err(error.clone()))).expect("JSON");
        let Ok(Event::Failed { what, detail, help }) = serde_json::from_str(&text) else { panic!("{text}") };
        assert_eq!(problem(what, detail, help), error);
    }
}
