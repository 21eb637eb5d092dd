//! What threads share without locks, or by hand-made turns, in every interleaving that the memory model allows.
//!
//! Run by `make loom` (`RUSTFLAGS="--cfg loom" cargo test -p engine --test loom`). It takes the engine's files by their
//! paths, as they are, and so builds without the engine's dependencies. What it proves: `buffer` (a reader's view is a
//! prefix of whole frames), `state` (every applied record is seen once, and the log keeps what is not in segments),
//! `budget` (who waits for memory is woken), `gate` (a frame that was taken is answered).
//!
//! Loom does not know `ArcSwap`, tokio's `Notify` and crossbeam's channels: they stand here as small models of what they
//! document, and what uses them is as good as these are. The order in which the appender asks for the close and looks
//! into its queue is repeated in `gate`, because the step around it needs the whole engine. What a lock alone holds
//! together (a buffer's spools, the registry's map) is not modelled.
#![cfg(loom)]

use loom::model::Builder;

mod budget;
mod buffer;
#[allow(dead_code, reason = "the engine uses all of it, these tests what they prove")]
mod engine;
mod gate;
mod notify;
mod state;

/// For models of three threads: every interleaving in which threads are interrupted no more often than this, where they
/// could go on, in a second rather than a minute. `LOOM_MAX_PREEMPTIONS` sets another number.
fn model_of_three(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(4));
    builder.check(run);
}
