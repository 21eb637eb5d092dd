//! The table against a model that looks at everybody, every time; and the turns themselves under tasks that come, wait,
//! and go away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use proptest::prelude::*;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn org(id: u64) -> OrgId {
    OrgId::new(id).expect("not zero")
}

fn limits() -> QueryLimits {
    QueryLimits {
        queries_max: 4,
        queries_per_org_max: 3,
        requests_max: 12,
        requests_per_org_max: 6,
        queue_time_max: PATIENCE,
        ..QueryLimits::default()
    }
}

#[test]
fn exports_leave_turns_to_queries() {
    for (queries_max, queries_per_org_max, exports, org_exports) in
        [(8, 4, 6, 3), (4, 3, 3, 2), (2, 1, 1, 1), (1, 1, 1, 1), (1, 4, 1, 1), (100, 10, 75, 9)]
    {
        let limits = TurnLimits::of(&QueryLimits { queries_max, queries_per_org_max, ..limits() });
        assert_eq!((limits.all.exports, limits.org.exports), (exports, org_exports), "{limits:?}");
    }
}

// --- The table against a model.

#[derive(Debug, Clone, Copy)]
enum Step {
    Enter(u64),
    /// The index is that of a request, modulo their number.
    Leave(usize),
    Ask(usize, TurnKind),
    GiveUp(usize),
    /// The index is that of a turn.
    Release(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = || prop_oneof![Just(TurnKind::Query), Just(TurnKind::Export)];
    prop_oneof![
        3 => (1..=4_u64).prop_map(Step::Enter),
        1 => any::<usize>().prop_map(Step::Leave),
        4 => (any::<usize>(), kind()).prop_map(|(index, kind)| Step::Ask(index, kind)),
        1 => any::<usize>().prop_map(Step::GiveUp),
        3 => any::<usize>().prop_map(Step::Release),
    ]
}

/// A request of the model: who, and what it waits for.
#[derive(Debug, Clone, Copy)]
struct Request {
    org: OrgId,
    waits: Option<(u64, TurnKind)>,
}

/// What there is, in the order of arrival, without any index of it.
#[derive(Debug, Default)]
struct Model {
    requests: Vec<Request>,
    turns: Vec<(OrgId, TurnKind)>,
    /// Those that wait, in the order in which they asked.
    queue: Vec<(u64, OrgId, TurnKind)>,
    /// When an organisation last had a turn of a kind while it waited, or began to wait.
    since: HashMap<(OrgId, TurnKind), usize>,
    now: usize,
    last: Option<TurnKind>,
}

impl Model {
    fn has_room(&self, limits: &TurnLimits, of: Option<OrgId>, kind: TurnKind) -> bool {
        let limits = if of.is_some() { limits.org } else { limits.all };
        let turns = || self.turns.iter().filter(|(org, _)| of.is_none_or(|of| *org == of));
        let exports = turns().filter(|(_, kind)| *kind == TurnKind::Export).count();
        turns().count() < limits.running && (kind == TurnKind::Query || exports < limits.exports)
    }

    fn can_run(&self, limits: &TurnLimits, org: OrgId, kind: TurnKind) -> bool {
        self.has_room(limits, None, kind) && self.has_room(limits, Some(org), kind)
    }

    /// The next that gets a turn, if anybody can.
    fn next(&mut self, limits: &TurnLimits) -> Option<(u64, OrgId, TurnKind)> {
        let able = self.queue.iter().filter(|(_, org, kind)| self.can_run(limits, *org, *kind));
        let rank =
            |(id, org, kind): &(u64, OrgId, TurnKind)| (self.last == Some(*kind), self.since[&(*org, *kind)], *id);
        let next = *able.min_by_key(|waiter| rank(waiter))?;
        let (id, org, kind) = next;
        self.queue.retain(|(other, _, _)| *other != id);
        self.requests.iter_mut().filter(|request| request.waits == Some((id, kind))).for_each(|r| r.waits = None);
        self.turns.push((org, kind));
        self.now += 1;
        self.since.insert((org, kind), self.now);
        self.last = Some(kind);
        Some(next)
    }
}

/// Turns of others since an organisation that waits for room among all began to wait for it, or had its last turn.
#[derive(Debug, Default)]
struct Fairness(HashMap<(OrgId, TurnKind), HashMap<OrgId, usize>>);

impl Fairness {
    fn granted(&mut self, to: OrgId, of: TurnKind) {
        self.0.remove(&(to, of));
        for ((_, kind), others) in &mut self.0 {
            if *kind == of {
                let count = others.entry(to).or_default();
                *count += 1;
                assert!(*count <= 1, "{to} has two turns while another organisation waits: {others:?}");
            }
        }
    }

    /// Begins to count for those that now wait for nothing but room among all, and ends it for others.
    fn watch(&mut self, model: &Model, limits: &TurnLimits) {
        let waits: Vec<_> = model
            .queue
            .iter()
            .filter(|(_, org, kind)| model.has_room(limits, Some(*org), *kind))
            .map(|(_, org, kind)| (*org, *kind))
            .collect();
        self.0.retain(|key, _| waits.contains(key));
        for key in waits {
            self.0.entry(key).or_default();
        }
    }
}

fn run(limits: &TurnLimits, steps: &[Step]) {
    let mut table: Table<(OrgId, TurnKind, u64)> = Table::new(limits.all, limits.org);
    let mut model = Model { last: Some(TurnKind::Export), ..Model::default() };
    let (mut fairness, mut ids) = (Fairness::default(), 0_u64);
    let index = |index: usize, count: usize| index.checked_rem(count);
    for step in steps {
        match *step {
            Step::Enter(id) => {
                let org = org(id);
                let own = model.requests.iter().filter(|request| request.org == org).count();
                let expected = match (own < limits.org.requests, model.requests.len() < limits.all.requests) {
                    (false, _) => Err(TurnRefused::OrgRequests { requests_max: limits.org.requests }),
                    (true, false) => Err(TurnRefused::Requests { requests_max: limits.all.requests }),
                    (true, true) => Ok(()),
                };
                assert_eq!(table.enter(org), expected);
                if expected.is_ok() {
                    model.requests.push(Request { org, waits: None });
                }
            }
            Step::Leave(at) => {
                let Some(at) = index(at, model.requests.len()) else { continue };
                if model.requests[at].waits.is_none() {
                    table.leave(model.requests.remove(at).org);
                }
            }
            Step::Ask(at, kind) => {
                let Some(at) = index(at, model.requests.len()) else { continue };
                let Request { org, waits: None } = model.requests[at] else { continue };
                let can_run = model.can_run(limits, org, kind);
                let asked = table.ask(org, kind, (org, kind, ids));
                assert_eq!(asked, if can_run { Asked::Granted } else { Asked::Waits(ids) });
                if can_run {
                    model.turns.push((org, kind));
                    fairness.granted(org, kind);
                } else {
                    if !model.queue.iter().any(|(_, other, of)| (*other, *of) == (org, kind)) {
                        model.now += 1;
                        model.since.insert((org, kind), model.now);
                    }
                    model.queue.push((ids, org, kind));
                    model.requests[at].waits = Some((ids, kind));
                }
                ids += 1;
            }
            Step::GiveUp(at) => {
                let Some(at) = index(at, model.requests.len()) else { continue };
                let Request { org, waits: Some((id, kind)) } = model.requests[at] else { continue };
                let refused = table.give_up(org, kind, id).expect("it waits");
                assert_eq!(refused.is_own(), !model.has_room(limits, Some(org), kind), "{refused:?}");
                assert_eq!(table.give_up(org, kind, id), None, "it waits no more");
                model.queue.retain(|(other, _, _)| *other != id);
                model.requests[at].waits = None;
            }
            Step::Release(at) => {
                let Some(at) = index(at, model.turns.len()) else { continue };
                let (org, kind) = model.turns.remove(at);
                for (org, kind, id) in table.release(org, kind) {
                    assert_eq!(model.next(limits), Some((id, org, kind)));
                    fairness.granted(org, kind);
                }
            }
        }
        assert!(!model.queue.iter().any(|(_, org, kind)| model.can_run(limits, *org, *kind)), "nobody waits in vain");
        fairness.watch(&model, limits);
        assert_eq!((table.waiting(), table.running()), (model.queue.len(), model.turns.len()));
        assert!(model.turns.len() <= limits.all.running);
        for id in 1..=4 {
            assert!(model.turns.iter().filter(|(other, _)| *other == org(id)).count() <= limits.org.running);
        }
    }
    // Everybody goes, in whatever state.
    for Request { org, waits } in model.requests {
        if let Some((id, kind)) = waits {
            table.give_up(org, kind, id).expect("it waits");
        }
        table.leave(org);
    }
    for (org, kind) in model.turns {
        assert_eq!(table.release(org, kind), []);
    }
    assert_eq!((table.waiting(), table.running(), table.orgs()), (0, 0, 0), "nothing is left");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_table_does_what_the_model_does(
        (queries_max, queries_per_org_max) in prop_oneof![Just((4, 3)), Just((8, 4)), Just((2, 1)), Just((1, 1))],
        steps in proptest::collection::vec(step(), 0..160),
    ) {
        let limits = QueryLimits { queries_max, queries_per_org_max, requests_max: 16, ..limits() };
        run(&TurnLimits::of(&limits), &steps);
    }
}

// --- The turns themselves.

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    soon(what, async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Starts a task that waits for a turn and then returns it.
fn wait(turns: &Turns, id: u64, kind: TurnKind) -> tokio::task::JoinHandle<Result<Turn, TurnRefused>> {
    let entered = turns.enter(org(id));
    tokio::spawn(async move { entered?.turn(kind).await })
}

#[tokio::test]
async fn organisations_take_turns() {
    let turns = Turns::new(&QueryLimits { queries_max: 1, queries_per_org_max: 1, ..limits() });
    let first = turns.enter(org(1)).expect("room").turn(TurnKind::Query).await.expect("free");
    let mut waiting = Vec::new();
    for id in [1, 1, 1, 1, 2, 2, 3] {
        waiting.push((id, wait(&turns, id, TurnKind::Query)));
        until("it waits", || turns.waiting() == waiting.len()).await;
    }
    let mut order = Vec::new();
    let mut turn = Some(first);
    while !waiting.is_empty() {
        drop(turn.take());
        until("one has its turn", || waiting.iter().any(|(_, task)| task.is_finished())).await;
        let index = waiting.iter().position(|(_, task)| task.is_finished()).expect("one is");
        let (id, task) = waiting.remove(index);
        assert!(index == 0 || waiting[..index].iter().all(|(other, _)| *other != id), "first come, first served");
        order.push(id);
        turn = Some(task.await.expect("no panic").expect("its turn"));
        assert_eq!(turns.running(), 1);
    }
    assert_eq!(order, [1, 2, 3, 1, 2, 1, 1]);
}

#[tokio::test]
async fn what_ends_in_vain_says_whose_limit_it_was() {
    let turns = Turns::new(&QueryLimits { queue_time_max: Duration::ZERO, ..limits() });
    let turn = async |id, kind| turns.enter(org(id)).expect("room").turn(kind).await;
    let mut held = vec![turn(1, TurnKind::Export).await.expect("free"), turn(1, TurnKind::Export).await.expect("free")];
    assert_eq!(turn(1, TurnKind::Export).await.err(), Some(TurnRefused::OrgTurns { running_max: 2 }));
    held.push(turn(1, TurnKind::Query).await.expect("a query has a turn that exports leave"));
    assert_eq!(turn(1, TurnKind::Query).await.err(), Some(TurnRefused::OrgTurns { running_max: 3 }));
    held.push(turn(2, TurnKind::Query).await.expect("free"));
    assert_eq!(turn(2, TurnKind::Query).await.err(), Some(TurnRefused::Turns { running_max: 4 }));
    assert_eq!(turns.waiting(), 0);
    drop(held);
    assert!(turn(2, TurnKind::Query).await.is_ok());
}

#[tokio::test]
async fn exports_do_not_keep_queries_of_others_from_their_turn() {
    let turns = Turns::new(&limits());
    let mut exports = Vec::new();
    for id in [1, 1, 2, 2, 3, 3] {
        exports.push(wait(&turns, id, TurnKind::Export));
    }
    until("as many as may", || turns.running() == 3 && turns.waiting() == 3).await;
    for (what, id) in [("a query of another organisation", 4), ("a query of one that exports", 1)] {
        let turn = soon(what, wait(&turns, id, TurnKind::Query)).await.expect("no panic");
        turn.expect("its turn");
    }
}

#[tokio::test]
async fn whoever_goes_away_leaves_the_queue_at_once() {
    let turns = Turns::new(&QueryLimits { queries_max: 1, ..limits() });
    let first = turns.enter(org(1)).expect("room").turn(TurnKind::Query).await.expect("free");
    let (gone, next) = (wait(&turns, 1, TurnKind::Query), wait(&turns, 1, TurnKind::Query));
    until("they wait", || turns.waiting() == 2).await;
    gone.abort();
    assert!(gone.await.is_err());
    assert_eq!(turns.waiting(), 1);
    drop(first);
    let second = soon("the turn of the one that stayed", next).await.expect("no panic").expect("its turn");

    // One that is granted a turn, and goes before it learns of it: the turn goes on to the next.
    let entered = turns.enter(org(1)).expect("room");
    let mut granted = Box::pin(entered.turn(TurnKind::Query));
    assert!(futures::poll!(&mut granted).is_pending());
    let next = wait(&turns, 2, TurnKind::Query);
    until("both wait", || turns.waiting() == 2).await;
    drop(second);
    assert_eq!((turns.waiting(), turns.running()), (1, 1));
    drop(granted);
    drop(soon("the turn that came back", next).await.expect("no panic").expect("its turn"));
    drop(entered);
    assert_eq!((turns.waiting(), turns.running(), turns.table().orgs()), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_that_comes_and_goes_never_exceeds_a_limit_and_all_have_their_turn() {
    let turns = Turns::new(&QueryLimits { requests_max: 1_000, requests_per_org_max: 1_000, ..limits() });
    let running: Arc<[AtomicUsize; 5]> = Arc::default();
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..400_u64 {
        let (entered, running) = (turns.enter(org(number % 4 + 1)).expect("room"), Arc::clone(&running));
        tasks.spawn(async move {
            let kind = if number % 3 == 0 { TurnKind::Export } else { TurnKind::Query };
            if number % 5 == 0 {
                // Goes away after a moment, while it waits, while it is granted a turn, or with it.
                let moment = Duration::from_micros(number * 7 % 900);
                let _ = tokio::time::timeout(moment, entered.turn(kind)).await.is_ok();
                return false;
            }
            let turn = entered.turn(kind).await.expect("its turn");
            let own = usize::try_from(number % 4).expect("small");
            assert!(running[4].fetch_add(1, Ordering::SeqCst) < 4);
            assert!(running[own].fetch_add(1, Ordering::SeqCst) < 3);
            tokio::time::sleep(Duration::from_micros(number % 7 * 50)).await;
            running[own].fetch_sub(1, Ordering::SeqCst);
            running[4].fetch_sub(1, Ordering::SeqCst);
            drop(turn);
            true
        });
    }
    let had: Vec<bool> = soon("all of them", tasks.join_all()).await;
    assert_eq!(had.iter().filter(|had| **had).count(), 320, "after {:?}", begun.elapsed());
    assert_eq!((turns.waiting(), turns.running(), turns.table().orgs()), (0, 0, 0));
}
