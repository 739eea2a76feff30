//! An agent's side of a run: what it does on an order, and when it stops by itself.
//!
//! It takes part in one run at a time. Orders for other agents, of other runs, for an earlier process of its name,
//! or of a coordinator that was replaced, are ignored. Once started, it needs nobody: it sends its part to the
//! plan's end, keeps its reports until they are stored, and waits for orders again.
//!
//! If its shards would be handed over when it is silent, it has a lease: after this time without confirmation
//! that one of its seconds was stored, it stops sending for good, because others may own its shards then. It also has one
//! if its loss stops the run: orders to stop do not reach it while it is cut off.

use crate::message::{
    Order, OrderKind, Problem, Records, Report, ReportKind, StoredRecords, part_from_wire,
};
use crate::offset::ClockOffset;
use plimsoll_measure::Nanos;
use plimsoll_plan::Part;
use std::collections::VecDeque;

/// How long an agent stays prepared without an order to start.
pub const READY_MAX: Nanos = Nanos::from_secs(90);
/// An order that takes effect earlier than this after it was read has come too late: workers read commands
/// between two polls.
pub const LATE_ORDER: Nanos = Nanos::from_millis(50);

/// Reports of which an agent remembers singly that they are not stored: a second each, for more than an hour.
/// Beyond, the latest are confirmed together.
const UNSTORED_MAX: usize = 4096;

/// What an agent is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The run.
    pub run: String,
    /// Digest of the plan.
    pub digest: String,
    /// The seed.
    pub seed: u64,
    /// Its part, by stream, in wire form: how many streams there are is known once the plan was read.
    pub part: Vec<String>,
    /// Whether it may take over shards later.
    pub lasting: bool,
    /// Which requests it records one by one.
    pub records: Option<Records>,
}

impl Assignment {
    /// The part, if the plan has this many streams.
    pub fn part(&self, streams: usize) -> Option<Part> {
        part_from_wire(&self.part, streams)
    }
}

/// What an agent found when it prepared a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can start.
    Ready {
        /// Number of worker threads.
        workers: usize,
        /// Its clock against the coordinator's.
        offset: ClockOffset,
        /// Number of the plan's streams.
        streams: usize,
    },
    /// It cannot.
    Refused(Vec<Problem>),
}

/// What the agent's process has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentAction {
    /// Prepare, and call [`Agent::prepared`].
    Prepare(Assignment),
    /// Start the run's clock at this time of this host's clock.
    Start(Nanos),
    /// Own these shards, too, from this instant of the run's clock.
    TakeOver(Part, Nanos),
    /// Stop sending; from the second time, end what is in flight.
    Stop,
    /// Drop what was prepared.
    Discard(String),
    /// Append to the log, in this order, and repeat until that is confirmed: then call [`Agent::stored`].
    Write(Report),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Preparing,
    Ready,
    Started,
    /// Its part has ended; the records of its requests are being stored.
    Storing,
    Ended,
}

/// An agent in a run.
struct Participation {
    run: String,
    /// Epoch and number of the last order.
    read: (u64, u64),
    stage: Stage,
    lease: Option<Nanos>,
    records: bool,
    since: Nanos,
    offset: Option<ClockOffset>,
    streams: usize,
    /// On this host's clock.
    start: Nanos,
    ordered: Nanos,
    stop: u8,
    fenced: bool,
    number: u64,
    /// Reports that are not known to be stored, with the end of the second.
    unstored: VecDeque<(u64, Nanos)>,
    /// The end of the last second that is known to be stored.
    confirmed: Nanos,
}

impl Participation {
    /// Stops before the end of its part.
    fn fence(&mut self, actions: &mut Vec<AgentAction>) {
        if !self.fenced {
            self.fenced = true;
            actions.push(AgentAction::Stop);
        }
    }
}

/// An agent.
pub struct Agent {
    name: String,
    session: String,
    /// The place of the last entry that was read.
    place: u64,
    current: Option<Participation>,
    /// The run that it took part in last: an order to begin it may be stored twice.
    last: String,
}

impl Agent {
    /// An agent that waits for orders.
    pub fn new(name: String, session: String) -> Agent {
        Agent { name, session, place: 0, current: None, last: String::new() }
    }

    /// The run that it takes part in.
    pub fn run(&self) -> Option<&str> {
        self.current.as_ref().map(|own| own.run.as_str())
    }

    /// Reads an order, at `place` in the log, at `now` on this host's clock.
    pub fn read(&mut self, place: u64, order: &Order, now: Nanos) -> Vec<AgentAction> {
        if place <= self.place {
            return Vec::new();
        }
        self.place = place;
        let mut actions = Vec::new();
        if let OrderKind::Begin { digest, seed, lease_ns, hands_over, records, members } =
            &order.what
        {
            let own =
                members.iter().find(|own| own.name == self.name && own.session == self.session);
            if let Some(own) = own
                && self.last != order.run
            {
                let assignment = Assignment {
                    run: order.run.clone(),
                    digest: digest.clone(),
                    seed: *seed,
                    part: own.part.clone(),
                    lasting: *hands_over,
                    records: *records,
                };
                self.begin(order, assignment, lease_ns.map(Nanos), now, &mut actions);
            }
            return actions;
        }
        let Some(own) = self.current.as_mut().filter(|own| own.run == order.run) else {
            return actions;
        };
        if (order.epoch, order.number) <= own.read {
            return actions;
        }
        own.read = (order.epoch, order.number);
        match &order.what {
            OrderKind::Start { at_unix_ns } if own.stage == Stage::Ready => {
                let local = own.offset.expect("it is ready").local(Nanos(*at_unix_ns));
                if local < now + LATE_ORDER {
                    let why =
                        "the order to start came too late: the connection to NATS is too slow";
                    self.fail(why.into(), &mut actions);
                } else {
                    (own.stage, own.start, own.ordered) =
                        (Stage::Started, local, Nanos(*at_unix_ns));
                    actions.push(AgentAction::Start(local));
                }
            }
            OrderKind::Cancel { why } if matches!(own.stage, Stage::Preparing | Stage::Ready) => {
                actions.push(AgentAction::Discard(why.clone()));
                self.current = None;
            }
            OrderKind::Stop { level, .. } if own.stage == Stage::Started => {
                (own.stop..*level).for_each(|_| actions.push(AgentAction::Stop));
                own.stop = own.stop.max(*level);
            }
            OrderKind::Lost { agent, at_ns, parts } => {
                if let Some((_, wire)) = parts.iter().find(|(name, _)| *name == self.name) {
                    self.take_over(agent, Nanos(*at_ns), wire, now, &mut actions);
                }
            }
            _ => {}
        }
        actions
    }

    fn begin(
        &mut self,
        order: &Order,
        assignment: Assignment,
        lease: Option<Nanos>,
        now: Nanos,
        actions: &mut Vec<AgentAction>,
    ) {
        if let Some(busy) = &self.current {
            let message = format!("it takes part in the run {}", busy.run);
            let hint = "wait for its end, or use other agents".into();
            let what = ReportKind::Refused { problems: vec![Problem { message, hint }] };
            let (agent, session) = (self.name.clone(), self.session.clone());
            let report = Report { run: order.run.clone(), agent, session, number: 1, what };
            actions.push(AgentAction::Write(report));
            return;
        }
        self.last = order.run.clone();
        self.current = Some(Participation {
            run: order.run.clone(),
            read: (order.epoch, order.number),
            stage: Stage::Preparing,
            lease,
            records: assignment.records.is_some(),
            since: now,
            offset: None,
            streams: 0,
            start: Nanos::MAX,
            ordered: Nanos::MAX,
            stop: 0,
            fenced: false,
            number: 0,
            unstored: VecDeque::new(),
            confirmed: Nanos::ZERO,
        });
        actions.push(AgentAction::Prepare(assignment));
    }

    fn take_over(
        &mut self,
        of: &str,
        at: Nanos,
        wire: &[String],
        now: Nanos,
        actions: &mut Vec<AgentAction>,
    ) {
        let Some(own) = &self.current else { return };
        let in_time = at > (now - own.start) + LATE_ORDER;
        let runs = own.stage == Stage::Started && own.stop == 0 && !own.fenced;
        let part = part_from_wire(wire, own.streams).filter(|_| in_time && runs);
        let accepted = part.is_some();
        if let Some(part) = part {
            actions.push(AgentAction::TakeOver(part, at));
        }
        self.report(ReportKind::TookOver { at_ns: at.0, of: of.into(), accepted }, None, actions);
    }

    /// The preparation is over.
    pub fn prepared(&mut self, readiness: Readiness, now: Nanos) -> Vec<AgentAction> {
        let mut actions = Vec::new();
        let Some(own) = self.current.as_mut().filter(|own| own.stage == Stage::Preparing) else {
            return actions;
        };
        match readiness {
            Readiness::Ready { workers, offset, streams } => {
                (own.stage, own.since) = (Stage::Ready, now);
                (own.offset, own.streams) = (Some(offset), streams);
                let what = ReportKind::Ready { workers, bound_ns: offset.bound.0 };
                self.report(what, None, &mut actions);
            }
            Readiness::Refused(problems) => {
                self.report(ReportKind::Refused { problems }, None, &mut actions);
                self.current = None;
            }
        }
        actions
    }

    /// The run's clock has started at `started` on this host's clock, whose offset was measured again.
    pub fn started(
        &mut self,
        line: String,
        started: Nanos,
        offset: ClockOffset,
    ) -> Vec<AgentAction> {
        let mut actions = Vec::new();
        if let Some(own) = &self.current {
            let skew_ns = offset.remote(started).0.wrapping_sub(own.ordered.0) as i64;
            let what = ReportKind::Started { line, skew_ns, bound_ns: offset.bound.0 };
            self.report(what, None, &mut actions);
        }
        actions
    }

    /// A second has ended at `t` on the run's clock.
    pub fn second(&mut self, t: Nanos, line: String) -> Vec<AgentAction> {
        let mut actions = Vec::new();
        self.report(ReportKind::Second { t_ns: t.0, line }, Some(t), &mut actions);
        actions
    }

    /// The last arrival has ended. If requests were recorded, [`Agent::recorded`] follows.
    pub fn ended(&mut self, line: String) -> Vec<AgentAction> {
        let mut actions = Vec::new();
        let Some(own) = &mut self.current else { return actions };
        own.stage = if own.records { Stage::Storing } else { Stage::Ended };
        let fenced = own.fenced;
        self.report(ReportKind::Ended { line, fenced }, None, &mut actions);
        actions
    }

    /// This many bytes of records are stored.
    pub fn storing(&mut self, bytes: u64) -> Vec<AgentAction> {
        let mut actions = Vec::new();
        if self.current.as_ref().is_some_and(|own| own.stage == Stage::Storing) {
            self.report(ReportKind::Storing { bytes }, None, &mut actions);
        }
        actions
    }

    /// The records are stored, or cannot be.
    pub fn recorded(&mut self, stored: StoredRecords) -> Vec<AgentAction> {
        let mut actions = Vec::new();
        if let Some(own) = self.current.as_mut().filter(|own| own.stage == Stage::Storing) {
            own.stage = Stage::Ended;
            self.report(ReportKind::Recorded(stored), None, &mut actions);
        }
        actions
    }

    /// The run cannot go on.
    pub fn failed(&mut self, why: String) -> Vec<AgentAction> {
        let mut actions = Vec::new();
        self.fail(why, &mut actions);
        actions
    }

    fn fail(&mut self, why: String, actions: &mut Vec<AgentAction>) {
        if let Some(own) = &mut self.current {
            let prepared = own.stage == Stage::Ready;
            own.stage = Stage::Ended;
            self.report(ReportKind::Failed { why: why.clone() }, None, actions);
            if prepared {
                actions.push(AgentAction::Discard(why));
            }
        }
    }

    /// Stops sending, because no more reports can be kept until NATS takes them. The rest of the part is as good as
    /// lost.
    pub fn full(&mut self) -> Vec<AgentAction> {
        let mut actions = Vec::new();
        if let Some(own) = self.current.as_mut().filter(|own| own.stage == Stage::Started) {
            own.fence(&mut actions);
        }
        actions
    }

    /// A report was stored.
    pub fn stored(&mut self, run: &str, number: u64) {
        let Some(own) = self.current.as_mut().filter(|own| own.run == run) else { return };
        while let Some((_, t)) = own.unstored.pop_front_if(|(first, _)| *first <= number) {
            own.confirmed = own.confirmed.max(t);
        }
        if own.stage == Stage::Ended && own.unstored.is_empty() {
            self.current = None;
        }
    }

    /// Decides what time alone decides, at `now` on this host's clock.
    pub fn decide(&mut self, now: Nanos) -> Vec<AgentAction> {
        let mut actions = Vec::new();
        let Some(own) = &mut self.current else { return actions };
        match own.stage {
            Stage::Ready if now - own.since > READY_MAX => {
                self.fail("no order to start came: the coordinator is gone".into(), &mut actions);
            }
            Stage::Started if !own.fenced && now > own.start => {
                let expired =
                    own.lease.is_some_and(|lease| now - own.start >= own.confirmed + lease);
                if expired {
                    own.fence(&mut actions);
                }
            }
            _ => {}
        }
        actions
    }

    fn report(&mut self, what: ReportKind, t: Option<Nanos>, actions: &mut Vec<AgentAction>) {
        let Some(own) = &mut self.current else { return };
        own.number += 1;
        own.unstored.push_back((own.number, t.unwrap_or_default()));
        if own.unstored.len() > UNSTORED_MAX
            && let (Some((number, t)), Some((_, before))) =
                (own.unstored.pop_back(), own.unstored.pop_back())
        {
            own.unstored.push_back((number, t.max(before)));
        }
        actions.push(AgentAction::Write(Report {
            run: own.run.clone(),
            agent: self.name.clone(),
            session: self.session.clone(),
            number: own.number,
            what,
        }));
    }
}
