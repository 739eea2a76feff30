//! The coordinator: a fold over the run's log, and the decisions that it writes back.
//!
//! # One log, no other state
//! What the coordinator knows follows from the log alone: [`Coordinator::read`] takes one entry after another,
//! its own orders included, and changes nothing before it has read them. So a coordinator that is killed can be
//! replaced: the new one reads the log from its beginning and is where the old one was. Decisions are made
//! only at the end of the log ([`Coordinator::decide`]), and take effect when they are read.
//!
//! # One coordinator at a time
//! Each coordinator has an epoch. The first writes `begin`; a later one writes `resume` with the next epoch, but
//! only if it has seen no message of the present coordinator for [`TAKEOVER_AFTER`]. Of two that do so at once, the
//! first in the log wins, and the other stops when it reads that. Orders of earlier epochs are ignored by all.
//!
//! # Loss
//! Silence is measured by the log itself. The coordinator writes a [`Tick`] each second and reads it back; then
//! it has read everything that was stored before. A member whose last second ended [`LOSS_AFTER`] before the
//! last tick is lost. If NATS is down, or this process is, no tick is read and nobody is lost.
//!
//! If lost shards are handed over, an agent must not send when others own its shards. It stops by itself if none
//! of its seconds was confirmed for [`LEASE`]; the coordinator, which has seen what was confirmed, hands over
//! at [`LEASE`] after the last second that it has read, or later. Run clocks agree to within milliseconds, and
//! the margin is seconds, so the owners of a shard never overlap, whichever messages were lost or delayed.
//!
//! If the loss of an agent stops the run, agents have the same lease: no order to stop reaches one that is cut off, so it
//! stops by itself, before the coordinator takes it for lost and stops the others. Confirmations come from NATS, not from the
//! coordinator: without a coordinator agents send on, and another one can take over.

mod members;
mod reading;

use crate::message::{
    Entry, LogMessage, MemberOrder, Order, OrderKind, Problem, Records, Tick, part_to_wire,
};
use crate::split::split;
pub use members::{Member, MemberState};
use plimsoll_measure::Nanos;
use plimsoll_measure::units::counted;
use plimsoll_plan::{End, Load, OnAgentLoss, Part, Plan, Shards};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long agents may take to prepare.
pub const PREPARE_MAX: Nanos = Nanos::from_secs(60);
/// Time from the order to start until the clock starts: enough for the order to reach every agent.
const START_LEAD: Nanos = Nanos::from_secs(2);
/// How long an agent sends on without confirmation, if its loss has others take over its shards, or stops them.
pub(crate) const LEASE: Nanos = Nanos::from_secs(10);
/// A member is lost if the log has no second of it for this long: longer than its lease, so that it has
/// stopped.
pub const LOSS_AFTER: Nanos = Nanos::from_secs(12);
/// Time from the order to take shards over until they change hands.
const TAKE_LEAD: Nanos = Nanos::from_secs(2);
/// Time between ticks.
const TICK_EVERY: Nanos = Nanos::from_secs(1);
/// The records of an agent that has reported nothing for this long after its end are not waited for.
pub const RECORDS_MAX: Nanos = Nanos::from_secs(30);
/// A run may be taken over if its coordinator has written nothing for this long.
pub const TAKEOVER_AFTER: Nanos = Nanos::from_secs(5);

const _: () = assert!(LEASE.0 + 1_000_000_000 < LOSS_AFTER.0, "a lost agent has stopped");

/// What the coordinator's process has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorAction {
    /// Append to the log, and repeat until that is confirmed.
    Write(LogMessage),
    /// The first line of a member's seconds.
    Header(usize, String),
    /// A member's second: its end, and its line.
    Second(usize, Nanos, String),
    /// The last line of a member's seconds.
    EndLine(usize, String),
    /// Worth telling the user.
    Note(String),
    /// The run is over.
    Finished(Outcome),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every member has ended or is lost.
    Ran,
    /// It did not start; each problem with the agent that has it.
    Refused(Vec<(String, Problem)>),
    /// Another coordinator has taken over.
    Replaced,
    /// The run was to be resumed, but has a coordinator.
    HasCoordinator,
}

/// What this coordinator has written and not read back.
#[derive(Default)]
struct Asked {
    begin: bool,
    resume: bool,
    start: bool,
    cancel: bool,
    stop: u8,
    lost: Vec<usize>,
    /// Whether the user knows that records are waited for.
    records: bool,
    tick: bool,
}

/// How a coordinator came to its run.
enum Role {
    /// It began it.
    Began,
    /// It reads the log and waits whether another coordinator writes; since when.
    Watching(Option<Nanos>),
    /// It writes.
    Leads,
    /// Another one does.
    Deposed,
}

/// The coordinator of one run.
pub struct Coordinator {
    run: String,
    session: String,
    plan: Arc<Plan>,
    digest: String,
    on_loss: OnAgentLoss,
    /// Which requests agents record.
    records: Option<Records>,
    /// To begin with.
    to_begin: Vec<MemberOrder>,
    role: Role,
    epoch: u64,
    /// The number of the last order that was read, of this epoch.
    number: u64,
    /// The number of the last order that this coordinator wrote.
    written: u64,
    /// The place of the last entry that was read.
    place: u64,
    members: Vec<Member>,
    began_at: Option<Nanos>,
    start_at: Option<Nanos>,
    cancelled: bool,
    stop: u8,
    stop_wanted: u8,
    stopped_at: Option<Nanos>,
    /// When the last tick that was read was written.
    witnessed: Nanos,
    ticked_at: Option<Nanos>,
    asked: Asked,
    over: bool,
}

impl Coordinator {
    /// A coordinator that begins a run with these agents and their parts; `records`: which requests they record.
    pub fn begin(
        run: String,
        session: String,
        plan: Arc<Plan>,
        records: Option<Records>,
        members: Vec<(String, String, BTreeMap<String, String>, Part)>,
    ) -> Coordinator {
        let order = |(name, session, labels, part): (String, String, _, Part)| MemberOrder {
            name,
            session,
            labels,
            part: part_to_wire(&part),
        };
        let to_begin = members.into_iter().map(order).collect();
        Coordinator { to_begin, records, ..Coordinator::new(run, session, plan, Role::Began) }
    }

    /// A coordinator that continues a run whose log it will read.
    pub fn resume(run: String, session: String, plan: Arc<Plan>) -> Coordinator {
        Coordinator::new(run, session, plan, Role::Watching(None))
    }

    fn new(run: String, session: String, plan: Arc<Plan>, role: Role) -> Coordinator {
        Coordinator {
            run,
            session,
            digest: format!("{:016x}", plan.digest()),
            on_loss: plan.fleet.on_agent_loss,
            plan,
            records: None,
            to_begin: Vec::new(),
            role,
            epoch: 0,
            number: 0,
            written: 0,
            place: 0,
            members: Vec::new(),
            began_at: None,
            start_at: None,
            cancelled: false,
            stop: 0,
            stop_wanted: 0,
            stopped_at: None,
            witnessed: Nanos::ZERO,
            ticked_at: None,
            asked: Asked::default(),
            over: false,
        }
    }

    /// The members, in the order of the run's first message.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Which requests the agents record.
    pub fn records(&self) -> Option<Records> {
        self.records
    }

    /// When the run's clock starts, on the coordinator's clock; `None` before that is known.
    pub fn start_at(&self) -> Option<Nanos> {
        self.start_at
    }

    /// When the run was stopped, on its clock; [`Nanos::MAX`] if it was not.
    pub fn stopped_at(&self) -> Nanos {
        self.stopped_at.unwrap_or(Nanos::MAX)
    }

    /// How often the user stopped the run.
    pub fn stop_level(&self) -> u8 {
        self.stop
    }

    /// Stops the run; the second call also ends what is in flight.
    pub fn stop(&mut self) {
        self.stop_wanted = self.stop_wanted.saturating_add(1);
    }

    /// Reads an entry of the log, at `now` on the coordinator's clock. An entry that was read before is ignored.
    pub fn read(&mut self, entry: &Entry, now: Nanos) -> Vec<CoordinatorAction> {
        let mut actions = Vec::new();
        if entry.place <= self.place || self.over {
            return actions;
        }
        self.place = entry.place;
        match &entry.message {
            LogMessage::Order(order) => self.read_order(order, now, &mut actions),
            LogMessage::Tick(tick) => {
                if tick.epoch == self.epoch {
                    self.seen_other(&mut actions);
                    self.witnessed = self.witnessed.max(tick.at());
                    self.asked.tick = false;
                }
            }
            LogMessage::Report(report) => self.read_report(report, &mut actions),
        }
        actions
    }

    /// Decides what to do at `now`, having read the whole log so far.
    pub fn decide(&mut self, now: Nanos) -> Vec<CoordinatorAction> {
        let mut actions = Vec::new();
        if self.over {
            return actions;
        }
        match &mut self.role {
            Role::Deposed => return actions,
            Role::Watching(since) => {
                let since = *since.get_or_insert(now);
                if now - since > TAKEOVER_AFTER && !self.asked.resume {
                    self.asked.resume = true;
                    let epoch = self.epoch + 1;
                    let order = self.order_of(epoch, OrderKind::Resume {});
                    actions.push(order);
                }
                return actions;
            }
            Role::Began => {
                if !self.asked.begin {
                    self.asked.begin = true;
                    let lease = self.on_loss != OnAgentLoss::Continue;
                    let what = OrderKind::Begin {
                        digest: self.digest.clone(),
                        seed: self.plan.seed,
                        lease_ns: lease.then_some(LEASE.0),
                        hands_over: self.on_loss == OnAgentLoss::Rebalance,
                        records: self.records,
                        members: std::mem::take(&mut self.to_begin),
                    };
                    actions.push(self.order_of(1, what));
                }
                return actions;
            }
            Role::Leads => {}
        }
        self.tick(now, &mut actions);
        match (self.cancelled, self.start_at) {
            (true, _) => self.finish(Outcome::Refused(self.problems()), &mut actions),
            (false, None) => self.decide_start(now, &mut actions),
            (false, Some(_)) => self.decide_running(now, &mut actions),
        }
        actions
    }

    fn finish(&mut self, outcome: Outcome, actions: &mut Vec<CoordinatorAction>) {
        self.over = true;
        actions.push(CoordinatorAction::Finished(outcome));
    }

    fn order(&mut self, what: OrderKind) -> CoordinatorAction {
        self.order_of(self.epoch, what)
    }

    fn order_of(&mut self, epoch: u64, what: OrderKind) -> CoordinatorAction {
        self.written += 1;
        let (run, coordinator) = (self.run.clone(), self.session.clone());
        let order = Order { run, epoch, number: self.written, coordinator, what };
        CoordinatorAction::Write(LogMessage::Order(order))
    }

    /// At most one tick is on its way: if NATS is away, ticks do not pile up.
    fn tick(&mut self, now: Nanos, actions: &mut Vec<CoordinatorAction>) {
        let due = self.ticked_at.is_none_or(|last| now - last >= TICK_EVERY);
        if due && !self.asked.tick {
            self.ticked_at = Some(now);
            self.asked.tick = true;
            let tick = Tick { epoch: self.epoch, at_unix_ns: now.0 };
            actions.push(CoordinatorAction::Write(LogMessage::Tick(tick)));
        }
    }

    fn decide_start(&mut self, now: Nanos, actions: &mut Vec<CoordinatorAction>) {
        let waiting = self.members.iter().any(|member| member.state == MemberState::Asked);
        let refused = self.members.iter().any(|member| !member.problems.is_empty());
        let expired = self.began_at.is_some_and(|began| now - began > PREPARE_MAX);
        let why = if self.stop_wanted > 0 {
            "the run was interrupted before its start"
        } else if refused && !waiting {
            "an agent refused"
        } else if expired {
            "an agent did not answer in time"
        } else {
            if !waiting && !refused && !self.asked.start {
                self.asked.start = true;
                actions.push(self.order(OrderKind::Start { at_unix_ns: (now + START_LEAD).0 }));
            }
            return;
        };
        if !self.asked.cancel {
            self.asked.cancel = true;
            actions.push(self.order(OrderKind::Cancel { why: why.into() }));
        }
    }

    fn decide_running(&mut self, now: Nanos, actions: &mut Vec<CoordinatorAction>) {
        if self.stop_wanted > self.asked.stop.max(self.stop) {
            self.asked.stop = self.stop_wanted;
            actions
                .push(self.order(OrderKind::Stop { level: self.stop_wanted, at_unix_ns: now.0 }));
        }
        let start = self.start_at.expect("the run has started");
        let witnessed = self.witnessed - start;
        // One batch after another: a decision follows from what the one before has changed.
        let places = if self.asked.lost.is_empty() { 0..self.members.len() } else { 0..0 };
        let lost: Vec<usize> = places
            .filter(|place| {
                self.members[*place].silent_at(witnessed) || self.members[*place].has_unowned()
            })
            .collect();
        // All of them first, so that none takes over from another.
        self.asked.lost.extend(&lost);
        for place in lost {
            let at = (now - start + TAKE_LEAD).max(self.members[place].free_from());
            // Unlike the instants of other losses, by which a refusal is recognised.
            let at = at + Nanos(place as u64);
            actions.push(self.lost(place, at));
        }
        let is_lost = |member: &Member| member.state == MemberState::Lost;
        if self.on_loss == OnAgentLoss::Abort
            && self.members.iter().any(is_lost)
            && self.asked.stop.max(self.stop) == 0
        {
            self.asked.stop = 1;
            actions.push(self.order(OrderKind::Stop { level: 1, at_unix_ns: now.0 }));
        }
        if self.members.iter().all(Member::is_over) && self.asked.lost.is_empty() {
            let waits = |own: &&Member| own.is_storing(witnessed);
            let storing = match self.records {
                Some(_) if self.stop < 2 => self.members.iter().filter(waits).count(),
                _ => 0,
            };
            if storing == 0 {
                self.finish(Outcome::Ran, actions);
            } else if !std::mem::replace(&mut self.asked.records, true) {
                let agents = counted(storing as u64, "agent");
                let note = format!(
                    "waiting for the records of {agents}; press Ctrl-C twice to leave them out"
                );
                actions.push(CoordinatorAction::Note(note));
            }
        }
    }

    /// The order that a member is lost from `at` on.
    fn lost(&mut self, place: usize, at: Nanos) -> CoordinatorAction {
        let member = &self.members[place];
        let mut parts = Vec::new();
        if self.on_loss == OnAgentLoss::Rebalance && self.stop == 0 {
            let part = movable(&self.plan, &member.open_part());
            let others: Vec<&Member> = self
                .members
                .iter()
                .enumerate()
                .filter(|(other, own)| *other != place && own.state == MemberState::Running)
                .filter(|(other, _)| !self.asked.lost.contains(other))
                .map(|(_, own)| own)
                .collect();
            let labels: Vec<_> = others.iter().map(|own| &own.labels).collect();
            let split = split(&self.plan, &part, &labels);
            let given = others.iter().zip(split).filter(|(_, part)| !part.is_empty());
            parts = given.map(|(own, part)| (own.name.clone(), part_to_wire(&part))).collect();
        }
        let agent = self.members[place].name.clone();
        self.order(OrderKind::Lost { agent, at_ns: at.0, parts })
    }

    /// Why the run did not start, with the agents' names.
    fn problems(&self) -> Vec<(String, Problem)> {
        let mut all = Vec::new();
        for member in &self.members {
            let own = member.problems.iter().map(|problem| (member.name.clone(), problem.clone()));
            all.extend(own);
            if member.state == MemberState::Asked {
                let message = "no answer to the order to prepare".into();
                let hint = "check that the agent runs and reaches NATS: plimsoll agents".into();
                all.push((member.name.clone(), Problem { message, hint }));
            }
        }
        all
    }
}

/// A part without the streams that cannot change hands: how many requests their users have left to send is known
/// only to their owner.
fn movable(plan: &Plan, part: &Part) -> Part {
    let stream = |(place, stream): (usize, &plimsoll_plan::Stream)| match (&stream.load, stream.end)
    {
        (Load::Closed { .. }, End::Requests(_)) => Shards::of([]),
        _ => part.stream(place).clone(),
    };
    Part::of(plan.streams.iter().enumerate().map(stream).collect())
}
