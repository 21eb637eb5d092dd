//! An object store as networks and clouds make it: slow, failing, throttling, answering with an error what it has
//! done, doing later what nobody waits for any more, and listing what was there a moment ago.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::draw::Draw;
use crate::exec::Time;
use crate::plan::StoreFaults;

/// What was injected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Operations in all.
    pub operations: u64,
    /// Failed before anything was done.
    pub refused: u64,
    /// Done, and answered with an error.
    pub applied_but_error: u64,
    /// Done after the process that asked was gone.
    pub applied_late: u64,
    /// Told to come again later.
    pub throttled: u64,
    /// Reads with a wrong bit.
    pub rotten_reads: u64,
    /// Lists that left out what was new.
    pub lagging_lists: u64,
    /// Objects removed.
    pub deleted: u64,
}

impl StoreCounts {
    /// Adds another run's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.refused += other.refused;
        self.applied_but_error += other.applied_but_error;
        self.applied_late += other.applied_late;
        self.throttled += other.throttled;
        self.rotten_reads += other.rotten_reads;
        self.lagging_lists += other.lagging_lists;
        self.deleted += other.deleted;
    }
}

/// Work that goes on when whoever asked for it is gone.
pub(crate) type Later = Arc<dyn Fn(futures::future::BoxFuture<'static, ()>) + Send + Sync>;

struct State {
    draw: Draw,
    faults: StoreFaults,
    counts: StoreCounts,
    /// When objects were made that lists do not show yet.
    fresh: BTreeMap<Path, Duration>,
}

/// A store with another beneath, which is all right.
pub(crate) struct ChaosStore {
    inner: Arc<dyn ObjectStore>,
    time: Arc<Time>,
    /// `None` for a store in the process itself, which ends with it.
    later: Option<Later>,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for ChaosStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChaosStore")
    }
}

impl fmt::Display for ChaosStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChaosStore")
    }
}

enum Fate {
    Well,
    Refused,
    AppliedButError,
}

fn failed(what: &'static str) -> Error {
    Error::Generic { store: "ChaosStore", source: what.into() }
}

impl ChaosStore {
    /// Over this one.
    #[must_use]
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, time: &Arc<Time>, later: Option<Later>, draw: Draw) -> Self {
        let state =
            State { draw, faults: StoreFaults::default(), counts: StoreCounts::default(), fresh: BTreeMap::new() };
        Self { inner, time: Arc::clone(time), later, state: Arc::new(Mutex::new(state)) }
    }

    /// The same faults, over another store beneath: the process has opened it anew.
    #[must_use]
    pub(crate) fn reopened(&self, inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, time: Arc::clone(&self.time), later: self.later.clone(), state: Arc::clone(&self.state) }
    }

    /// What goes wrong from now on.
    pub(crate) fn set_faults(&self, faults: StoreFaults) {
        self.state().faults = faults;
    }

    /// What went wrong so far.
    #[must_use]
    pub(crate) fn counts(&self) -> StoreCounts {
        self.state().counts
    }

    /// The store beneath.
    #[must_use]
    pub(crate) fn inner(&self) -> &Arc<dyn ObjectStore> {
        &self.inner
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    async fn begin(&self) -> Result<Fate> {
        let (wait, fate) = {
            let mut state = self.state();
            state.counts.operations += 1;
            let faults = state.faults;
            let wait = state.draw.spread(100, faults.delay_max.max(200));
            let fate = if state.draw.chance(faults.throttle) {
                state.counts.throttled += 1;
                Fate::Refused
            } else if state.draw.chance(faults.refuse) {
                state.counts.refused += 1;
                Fate::Refused
            } else if state.draw.chance(faults.applied_but_error) {
                Fate::AppliedButError
            } else {
                Fate::Well
            };
            (wait, fate)
        };
        self.time.sleep(Duration::from_micros(wait)).await;
        match fate {
            Fate::Refused => Err(failed("refused, or told to come later")),
            fate => Ok(fate),
        }
    }

    async fn answer(&self) {
        let wait = {
            let mut state = self.state();
            let most = state.faults.delay_max.max(200);
            state.draw.spread(100, most)
        };
        self.time.sleep(Duration::from_micros(wait)).await;
    }

    async fn begin_read(&self) -> Result<()> {
        // A read that is "done and answered with an error" is a failed read.
        match self.begin().await? {
            Fate::AppliedButError => Err(failed("the answer was lost")),
            _ => Ok(()),
        }
    }

    fn rot(&self, bytes: Bytes) -> Bytes {
        let mut state = self.state();
        let rate = state.faults.read_rot;
        if bytes.is_empty() || !state.draw.chance(rate) {
            return bytes;
        }
        state.counts.rotten_reads += 1;
        let mut wrong = bytes.to_vec();
        let at = state.draw.index(wrong.len());
        wrong[at] ^= 1 << state.draw.below(8);
        wrong.into()
    }

    fn lagging(&self) -> Vec<Path> {
        let now = self.time.now();
        let mut state = self.state();
        state.fresh.retain(|_, shown| *shown > now);
        if !state.fresh.is_empty() {
            state.counts.lagging_lists += 1;
        }
        state.fresh.keys().cloned().collect()
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl ObjectStore for ChaosStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fate = self.begin().await?;
        let put = {
            let (inner, location, state) = (Arc::clone(&self.inner), location.clone(), Arc::clone(&self.state));
            let time = Arc::clone(&self.time);
            async move {
                let done = inner.put_opts(&location, payload, options).await;
                if done.is_ok() {
                    let mut state = locked(&state);
                    let (lag, now) = (state.faults.list_lag_max, time.now());
                    if lag > 0 {
                        let shown = now + Duration::from_micros(state.draw.below(lag));
                        state.fresh.insert(location, shown);
                    }
                }
                done
            }
        };
        let done = match &self.later {
            None => put.await,
            Some(later) => {
                let (wait, survives) = {
                    let mut state = self.state();
                    let late = state.faults.applied_late;
                    // Slow enough that a crash may come in between.
                    let most = state.faults.delay_max.max(if late > 0 { 2_000_000 } else { 200 });
                    (state.draw.spread(100, most), state.draw.chance(late))
                };
                let (tell, told) = oneshot::channel();
                let (time, state) = (Arc::clone(&self.time), Arc::clone(&self.state));
                later(
                    async move {
                        time.sleep(Duration::from_micros(wait)).await;
                        if tell.is_canceled() {
                            if !survives {
                                return;
                            }
                            locked(&state).counts.applied_late += 1;
                        }
                        // Nobody may be there to be told.
                        let _gone = tell.send(put.await);
                    }
                    .boxed(),
                );
                told.await.unwrap_or_else(|_| Err(failed("the store went away")))
            }
        };
        self.answer().await;
        match fate {
            // What the store beneath says itself is told as it is.
            Fate::AppliedButError if done.is_ok() => {
                self.state().counts.applied_but_error += 1;
                Err(failed("the answer was lost"))
            }
            _ => done,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.begin_read().await?;
        let head = options.head;
        let got = self.inner.get_opts(location, options).await;
        self.answer().await;
        let got = got?;
        if head {
            return Ok(got);
        }
        let (meta, range, attributes) = (got.meta.clone(), got.range.clone(), got.attributes.clone());
        let bytes = self.rot(got.bytes().await?);
        let payload = GetResultPayload::Stream(futures::stream::once(async move { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.begin_read().await?;
        let got = self.inner.get_ranges(location, ranges).await;
        self.answer().await;
        Ok(got?.into_iter().map(|bytes| self.rot(bytes)).collect())
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let me = Arc::new(self.reopened(Arc::clone(&self.inner)));
        let delete = move |location: Result<Path>| {
            let me = Arc::clone(&me);
            async move {
                let location = location?;
                let fate = me.begin().await?;
                let done = me.inner.delete(&location).await;
                me.answer().await;
                match (fate, done) {
                    (Fate::AppliedButError, Ok(())) => {
                        me.state().counts.applied_but_error += 1;
                        Err(failed("the answer was lost"))
                    }
                    (_, done) => {
                        me.state().counts.deleted += u64::from(done.is_ok());
                        done.map(|()| location)
                    }
                }
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (me, prefix) = (self.reopened(Arc::clone(&self.inner)), prefix.cloned());
        futures::stream::once(async move {
            me.begin_read().await?;
            let hidden = me.lagging();
            let all: Vec<ObjectMeta> = me.inner.list(prefix.as_ref()).try_collect().await?;
            me.answer().await;
            Ok::<_, Error>(futures::stream::iter(
                all.into_iter().filter(move |meta| !hidden.contains(&meta.location)).map(Ok),
            ))
        })
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.begin_read().await?;
        let listed = self.inner.list_with_delimiter(prefix).await;
        self.answer().await;
        listed
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
