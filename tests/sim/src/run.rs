//! One run: a plan, until everything that was sent is there and checked, or something is wrong.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use engine::{Engine, Loss, PlantedBug};
use kit::rig::Unread;

use crate::draw::Draw;
use crate::exec::{Executor, Group, Step};
use crate::figures::Figures;
use crate::gateway::{self, Gateway};
use crate::keeper::all_settled;
use crate::plan::Plan;
use crate::reader::{check_everything, no_orphans};
use crate::world::{Server, World};

/// Steps of a run at most: past them it is taken to turn in circles.
const STEPS_MAX: u64 = 400_000;
/// Virtual time that things may go wrong for.
const TROUBLE_MAX: Duration = Duration::from_secs(60);
/// Virtual time that a healthy system may take to get everything in.
const CALM_MAX: Duration = Duration::from_secs(3600);

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What must not be; empty if all is well.
    pub violations: Vec<String>,
    /// The last lines of its trace.
    pub trace: Vec<String>,
    /// A number for the whole trace.
    pub trace_hash: u64,
    /// Figures.
    pub figures: Figures,
}

/// When the process dies next.
#[derive(Debug, Clone, Copy)]
enum Trigger {
    Never,
    /// When the disk has done so much.
    AtOperation,
    /// After so many steps.
    AtStep(u64),
}

struct Run {
    world: Rc<World>,
    executor: Executor,
    gateways: Vec<Rc<RefCell<Gateway>>>,
    draw: Draw,
    damage: Draw,
    crashes_left: u64,
    trigger: Trigger,
    steps: u64,
    crashes_at_await: u64,
    clock_jumps: u64,
    /// The next clean close is the last.
    ending: bool,
    /// When the next process is started, while there is none.
    next_start: Option<Duration>,
}

/// Runs a plan. `choices` are those that the plan was drawn from.
#[must_use]
pub fn run(plan: &Plan, choices: &Draw, bug: Option<PlantedBug>, print: bool) -> Outcome {
    engine::plant(bug);
    let executor = Executor::new(choices.split("order"));
    let world = World::new(plan.clone(), choices, &executor, print);
    let fleet = plan.fleet;
    let gateways = (0..fleet.orgs * fleet.gateways).map(|who| gateway::start(&world, who, choices)).collect();
    let mut run = Run {
        world,
        executor,
        gateways,
        draw: choices.split("crashes"),
        damage: choices.split("damage times"),
        crashes_left: plan.crashes.count,
        trigger: Trigger::Never,
        steps: 0,
        crashes_at_await: 0,
        clock_jumps: 0,
        ending: false,
        next_start: Some(Duration::ZERO),
    };
    let panicked = catch_unwind(AssertUnwindSafe(|| run.all()));
    engine::plant(None);
    if let Err(panic) = panicked {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        run.world.violate(format!("PANIC: {}", text.unwrap_or("without a text")));
    }
    run.outcome()
}

impl Run {
    fn all(&mut self) {
        self.trouble();
        if self.is_wrong() {
            return;
        }
        self.world.heal();
        self.files_crash_never();
        if self.world.is_damaged() {
            // One organisation's trouble is nobody else's, however long it lasts.
            let (world, gateways) = (Rc::clone(&self.world), self.gateways.clone());
            let others_are_done = move || {
                let fleet = world.plan.fleet;
                let is_done = |who: &Rc<RefCell<Gateway>>| {
                    let who = who.borrow();
                    gateway::identity(&fleet, who.who).0 == world.victim() || who.is_done(&fleet)
                };
                world.server() == Server::Up && gateways.iter().all(is_done)
            };
            let what = "everything that gateways of organisations without damage have is acknowledged";
            if !self.until(CALM_MAX, what, others_are_done) {
                return;
            }
            self.world.look_for_carried();
            self.world.restore();
        }
        let world = Rc::clone(&self.world);
        let gateways = self.gateways.clone();
        let done = move || {
            let fleet = world.plan.fleet;
            world.server() == Server::Up
                && world.is_calm()
                && world.again.get() == 0
                && gateways.iter().all(|gateway| gateway.borrow().is_done(&fleet))
        };
        if !self.until(CALM_MAX, "everything that gateways have is acknowledged", done) {
            return;
        }
        self.check_gateways();
        self.check("everything is compared", check_everything);
        self.ending = true;
        self.world.close();
        let world = Rc::clone(&self.world);
        if self.is_wrong() || !self.until(CALM_MAX, "the server closes", move || world.server() == Server::Closed) {
            return;
        }
        // After a clean end, the worst that can come is nothing.
        self.die(Loss::Unsynced, "a power cut after a clean end");
        let world = Rc::clone(&self.world);
        if self.until(CALM_MAX, "the server starts again", move || world.server() == Server::Up) {
            self.check("everything is compared again", check_everything);
            self.check("what nobody names is removed", no_orphans);
            self.check("every drop is settled", all_settled);
            self.check("nothing else is", check_everything);
        }
    }

    /// Is there nothing more to learn from this run?
    fn is_wrong(&self) -> bool {
        self.world.over.get()
            || !self.world.violations.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_empty()
    }

    /// The time in which everything goes wrong.
    fn trouble(&mut self) {
        while !self.is_wrong() && self.world.time.now() < TROUBLE_MAX {
            let fleet = self.world.plan.fleet;
            let sent = self.gateways.iter().all(|gateway| gateway.borrow().is_done(&fleet));
            if sent && self.crashes_left == 0 {
                return;
            }
            if sent && self.world.server() == Server::Up {
                // The rest of the crashes hit an idle server.
                self.crash_now();
            }
            if self.steps > STEPS_MAX {
                return self.world.violate("STUCK: it turns in circles".to_owned());
            }
            self.step();
            if self.steps.is_multiple_of(512) {
                self.meddle();
            }
        }
    }

    fn meddle(&mut self) {
        let plan = &self.world.plan;
        if self.draw.chance(plan.clock_jumps) {
            let ms = *self.draw.pick(&[0, 0, -7_200_000, 3_600_000, -200_000_000, 80_000_000]);
            self.clock_jumps += 1;
            self.world.clock.jump(ms);
            self.world.trace(format_args!("the clock is off by {ms} ms"));
        }
        let damage = plan.damage;
        if self.damage.chance(damage) {
            // More often damaged than not, so that log and memory fill.
            if self.world.is_damaged() && self.damage.chance(300) { self.world.restore() } else { self.world.damage() }
        }
        self.world.look_for_carried();
        let plan = &self.world.plan;
        if self.draw.chance(20) && self.world.server() == Server::Up {
            // Somebody stops it in an orderly way, with whatever may come in between.
            self.world.close();
        }
        if let Some(space) = plan.disk_space {
            let space = self.draw.chance(500).then_some(space);
            self.world.files.set_space(space);
        }
    }

    /// Goes on until something is so; a violation if it does not become so.
    fn until(&mut self, time: Duration, what: &str, is_so: impl Fn() -> bool) -> bool {
        let end = self.world.time.now() + time;
        while !self.is_wrong() {
            if is_so() {
                return true;
            }
            if self.world.time.now() > end || self.steps > STEPS_MAX {
                self.world.violate(format!("STUCK: nothing is wrong, and it does not come to this: {what}"));
                return false;
            }
            self.step();
        }
        false
    }

    fn check(&mut self, what: &str, check: impl AsyncFn(&World, &Engine) -> Result<(), Unread> + 'static) {
        let Some(engine) = self.world.engine() else { return };
        let done = Rc::new(Cell::new(false));
        let (world, told) = (Rc::clone(&self.world), Rc::clone(&done));
        self.world.door.spawn(Group::Server, async move {
            match check(&world, &engine).await {
                Ok(()) => {}
                Err(Unread::Failed(why)) => world.violate(format!("unreadable at the end: {why}")),
                Err(Unread::Wrong(what)) => world.violate(what),
            }
            told.set(true);
        });
        self.until(CALM_MAX, what, move || done.get());
    }

    /// What a gateway takes for acknowledged is in the log.
    fn check_gateways(&self) {
        for gateway in &self.gateways {
            let gateway = gateway.borrow();
            let (_, id) = gateway::identity(&self.world.plan.fleet, gateway.who);
            for past in gateway.spools() {
                let there = self.world.oracle().frames_of(id, past.spool);
                if let Some(missing) = past.done.difference(&there).next() {
                    self.world.violate(format!(
                        "LOST: gateway {id} takes frame {missing} of spool {} for acknowledged; it was never durable",
                        past.spool
                    ));
                }
            }
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        if self.world.files.is_crashed() {
            let loss = self.loss();
            let why = if self.world.closing() {
                "a crash in an operation of the disk, while closing"
            } else {
                "a crash in an operation of the disk"
            };
            return self.die(loss, why);
        }
        if matches!(self.trigger, Trigger::AtStep(step) if step <= self.steps) {
            return self.crash_now();
        }
        match self.world.server() {
            Server::Ended => {
                let loss = if self.draw.chance(300) { self.loss() } else { Loss::Process };
                return self.die(loss, "the process has ended");
            }
            Server::Down => {
                if self.next_start.is_none_or(|start| start <= self.world.time.now()) {
                    self.start();
                }
            }
            Server::Closed if !self.ending => {
                let loss = self.loss();
                return self.die(loss, "the process has ended well");
            }
            Server::Starting | Server::Up | Server::Closed => {}
        }
        match self.executor.step() {
            Step::Ran | Step::Waited => {}
            Step::Stuck if self.world.server() == Server::Down => self.next_start = None,
            Step::Stuck => self.world.violate("STUCK: nobody will ever do anything again".to_owned()),
        }
    }

    fn start(&mut self) {
        self.world.starting();
        self.trigger = Trigger::Never;
        if self.crashes_left > 0 && !self.world.is_healed() {
            self.trigger = if self.draw.chance(600) {
                self.world.files.crash_after(self.draw.spread(1, 300));
                Trigger::AtOperation
            } else {
                Trigger::AtStep(self.steps + self.draw.spread(1, 20_000))
            };
        }
        self.executor.door().spawn(Group::Server, crate::server::run(Rc::clone(&self.world)));
    }

    /// No crash is due any more.
    fn files_crash_never(&mut self) {
        self.trigger = Trigger::Never;
        self.crashes_left = 0;
        self.world.files.crash_after(u64::MAX / 2);
    }

    fn crash_now(&mut self) {
        self.crashes_at_await += 1;
        let loss = self.loss();
        self.die(loss, "a crash between two steps");
    }

    fn loss(&mut self) -> Loss {
        let power = self.world.plan.crashes.power_cuts;
        if !self.draw.chance(power) {
            Loss::Process
        } else if self.draw.chance(200) {
            Loss::Unsynced
        } else {
            Loss::Some(self.draw.any())
        }
    }

    fn die(&mut self, loss: Loss, why: &str) {
        self.world.trace(format_args!("{why}: {loss:?}"));
        self.crashes_left = self.crashes_left.saturating_sub(1);
        self.trigger = Trigger::Never;
        self.world.down();
        self.executor.kill(Group::Server);
        self.world.files.restart(loss);
        if self.world.plan.lies && !self.world.is_healed() && self.draw.chance(300) {
            self.world.rot();
        }
        let pause = Duration::from_micros(self.draw.spread(10, 3_000_000));
        self.next_start = Some(self.world.time.now() + pause);
        let time = std::sync::Arc::clone(&self.world.time);
        // Somebody who waits for it, so that time gets there.
        self.executor.door().spawn(Group::Fleet, async move { time.sleep(pause).await });
    }

    fn outcome(mut self) -> Outcome {
        let world = Rc::clone(&self.world);
        let violations = world.violations.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let figures = Figures {
            runs: 1,
            steps: self.steps,
            crashes_at_await: self.crashes_at_await,
            breaks: world.network.breaks(),
            late: world.network.late(),
            clock_jumps: self.clock_jumps,
            oracle: world.oracle().counts(),
            looks: world.looks(),
            files: world.files.counts(),
            store: world.store.counts(),
        };
        let (trace, trace_hash) = (world.trace_end(), world.trace_hash());
        // Tasks hold the world, and the world the door to tasks: let go of all of it.
        for group in [Group::Server, Group::Fleet, Group::Store] {
            self.executor.kill(group);
        }
        Outcome { violations, trace, trace_hash, figures }
    }
}
