//! Ten agents, their coordinator and a broker on virtual time: the real state machines and the real schedule, with
//! simulated engines and a log that stores messages twice, delivers them late and again, is unreachable for some
//! or for all, while any process is killed and started again. A seed decides everything; a failure prints it.
//!
//! After each run:
//! - no arrival was sent twice, whoever owned it;
//! - the joined seconds count each planned arrival exactly once: as the agent that sent it reported it, or as
//!   unsent because its agent was lost;
//! - arrivals are unsent only if an agent was lost, and every arrival that nobody sent is among them;
//! - every agent that lives has stopped and waits for orders.

mod engine;

use crate::*;
use engine::{Sent, SimEngine, Yield};
use plimsoll_measure::rng::{Key, Sequence};
use plimsoll_measure::wire::Reader;
use plimsoll_measure::{ErrorClass, Nanos, Snapshot};
use plimsoll_plan::{Document, Plan, Variables};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

const STEP: Nanos = Nanos::from_millis(50);
const BEGIN: Nanos = Nanos(1_800_000_000_000_000_000);
/// Long after every plan here has ended.
const LIMIT: Nanos = Nanos::from_secs(150);

fn plan(on_loss: &str) -> Arc<Plan> {
    let text = format!(
        "name = \"fleet\"\nseed = 7\nwarmup = \"2s\"\ntimeout = \"1s\"\n\
         fleet = {{ on_agent_loss = \"{on_loss}\" }}\n\
         [[stream]]\nname = \"any\"\nrate = 150\nduration = \"30s\"\n\
         [[stream.target]]\nname = \"a\"\nweight = 3\nrequest = \"GET http://h/\"\n\
         [[stream.target]]\nname = \"b\"\nrequest = \"GET http://h/\"\n\
         [[stream]]\nname = \"boba\"\nrate = 60\nduration = \"25s\"\narrivals = \"poisson\"\n\
         agents = {{ chain = \"boba\" }}\nstart = \"3s\"\n\
         [[stream.target]]\nname = \"c\"\nrequest = \"GET http://h/\"\n"
    );
    let document = Document::new("plan.toml", text);
    Arc::new(Plan::read(&document, &Variables::none(), Path::new(".")).unwrap())
}

/// A process's connection to the broker.
#[derive(Default)]
struct Link {
    read: usize,
    outbox: VecDeque<LogMessage>,
    /// Cut until then.
    cut_until: Nanos,
}

struct AgentNode {
    agent: Agent,
    link: Link,
    /// Its clock minus the coordinator's.
    offset: i64,
    prepared: Option<(Assignment, Nanos)>,
    start: Option<Nanos>,
    engine: Option<SimEngine>,
    header_sent: bool,
    /// When the records of its requests are stored.
    stored: Option<Nanos>,
}

struct CoordinatorNode {
    coordinator: Coordinator,
    link: Link,
    replayed: bool,
    /// By member: header, seconds, end.
    lines: BTreeMap<usize, Vec<String>>,
    outcome: Option<Outcome>,
}

struct World {
    plan: Arc<Plan>,
    random: Sequence,
    now: Nanos,
    log: Vec<Entry>,
    down_until: Nanos,
    agents: Vec<(String, BTreeMap<String, String>, Option<AgentNode>)>,
    coordinator: Option<CoordinatorNode>,
    sent: Sent,
    sessions: u64,
    /// Which requests are recorded: with an odd seed, all.
    records: Option<Records>,
    notes: Vec<String>,
}

impl World {
    fn new(plan: &Arc<Plan>, seed: u64) -> World {
        let mut world = World {
            plan: plan.clone(),
            random: Key::new(seed).sequence(),
            now: BEGIN,
            log: Vec::new(),
            down_until: Nanos::ZERO,
            agents: Vec::new(),
            coordinator: None,
            sent: Sent::new(),
            sessions: 0,
            records: (seed % 2 == 1).then_some(Records::All),
            notes: Vec::new(),
        };
        for i in 0..10 {
            let chain = if i % 3 == 0 { "boba" } else { "eth" };
            let labels = BTreeMap::from([("chain".to_string(), chain.to_string())]);
            let name = format!("agent-{i}");
            let node = world.agent(&name);
            world.agents.push((name, labels, Some(node)));
        }
        world.begin();
        world
    }

    fn agent(&mut self, name: &str) -> AgentNode {
        self.sessions += 1;
        AgentNode {
            agent: Agent::new(name.into(), format!("s{}", self.sessions)),
            // A new process reads new orders only.
            link: Link { read: self.log.len(), ..Link::default() },
            offset: self.random.below(10_000_000_000) as i64 - 5_000_000_000,
            prepared: None,
            start: None,
            engine: None,
            header_sent: false,
            stored: None,
        }
    }

    fn begin(&mut self) {
        let labels: Vec<AgentLabels> = self
            .agents
            .iter()
            .map(|(name, labels, _)| AgentLabels { name: name.clone(), labels: labels.clone() })
            .collect();
        let parts = parts(&self.plan, &labels).unwrap();
        let members =
            self.agents.iter().zip(parts).enumerate().map(|(i, ((name, labels, _), part))| {
                (name.clone(), format!("s{}", i + 1), labels.clone(), part)
            });
        let members = members.collect();
        let (plan, records) = (self.plan.clone(), self.records);
        let coordinator = Coordinator::begin("run".into(), "c1".into(), plan, records, members);
        self.coordinator = Some(CoordinatorNode::new(coordinator));
    }

    fn resume(&mut self) {
        self.sessions += 1;
        let session = format!("c{}", self.sessions);
        let coordinator = Coordinator::resume("run".into(), session, self.plan.clone());
        self.coordinator = Some(CoordinatorNode::new(coordinator));
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    /// Stores what a process has written: perhaps not now, perhaps twice. Returns what it knows to be stored.
    fn store(&mut self, link: &mut Link) -> Vec<LogMessage> {
        let mut confirmed = Vec::new();
        while !link.outbox.is_empty() && self.reaches(link) {
            let fate = self.random.below(100);
            if fate < 90 {
                let place = self.log.len() as u64 + 1;
                self.log.push(Entry { place, message: link.outbox[0].clone() });
            }
            if fate >= 80 {
                // Not stored, or stored without an answer.
                break;
            }
            confirmed.extend(link.outbox.pop_front());
        }
        confirmed
    }

    fn reaches(&self, link: &Link) -> bool {
        self.now >= self.down_until && self.now >= link.cut_until
    }

    /// What a process reads of the log now; sometimes again.
    fn fetch(&mut self, link: &mut Link) -> Vec<Entry> {
        if !self.reaches(link) || self.chance(20) {
            return Vec::new();
        }
        let mut entries = Vec::new();
        if link.read > 0 && self.chance(5) {
            let again = self.random.below(link.read as u64) as usize;
            entries.push(self.log[again].clone());
        }
        let upto =
            self.log.len() - self.random.below(2).min((self.log.len() - link.read) as u64) as usize;
        entries.extend_from_slice(&self.log[link.read..upto]);
        link.read = upto;
        entries
    }

    fn step(&mut self) {
        self.now += STEP;
        for i in 0..self.agents.len() {
            if let Some(mut node) = self.agents[i].2.take() {
                self.step_agent(&mut node);
                self.agents[i].2 = Some(node);
            }
        }
        if let Some(mut node) = self.coordinator.take() {
            self.step_coordinator(&mut node);
            self.coordinator = Some(node);
        }
    }

    fn step_agent(&mut self, node: &mut AgentNode) {
        let local = Nanos(self.now.0.wrapping_add_signed(node.offset));
        for message in self.store(&mut node.link) {
            if let LogMessage::Report(report) = message {
                node.agent.stored(&report.run, report.number);
            }
        }
        for entry in self.fetch(&mut node.link) {
            if let LogMessage::Order(order) = &entry.message {
                let actions = node.agent.read(entry.place, order, local);
                self.act(node, actions, local);
            }
        }
        if let Some((assignment, _)) = node.prepared.take_if(|(_, at)| *at <= local) {
            let part = assignment.part(self.plan.streams.len()).unwrap();
            node.engine = Some(SimEngine::new(&self.plan, &part, assignment.lasting));
            let offset = self.offset(node);
            let streams = self.plan.streams.len();
            let actions =
                node.agent.prepared(Readiness::Ready { workers: 1, offset, streams }, local);
            self.act(node, actions, local);
        }
        if let Some(start) = node.start.filter(|start| *start < local) {
            self.run_engine(node, start, local);
        }
        if node.stored.take_if(|at| *at <= local).is_some() {
            let stored = StoredRecords { bytes: 1, sha256: String::new(), missing: String::new() };
            let actions = node.agent.recorded(stored);
            self.act(node, actions, local);
        }
        let actions = node.agent.decide(local);
        self.act(node, actions, local);
    }

    /// An offset as it is measured: wrong by at most its bound.
    fn offset(&mut self, node: &AgentNode) -> ClockOffset {
        let wrong = self.random.below(2_000_001) as i64 - 1_000_000;
        ClockOffset { offset_ns: -node.offset + wrong, bound: Nanos(1_000_000) }
    }

    fn run_engine(&mut self, node: &mut AgentNode, start: Nanos, local: Nanos) {
        let Some(mut engine) = node.engine.take() else { return };
        if !node.header_sent {
            node.header_sent = true;
            let offset = self.offset(node);
            let actions = node.agent.started(engine.header.to_line(), start, offset);
            self.act(node, actions, local);
        }
        let yields = engine.run_to(local - start, &mut self.sent, &mut self.random);
        node.engine = Some(engine);
        for own in yields {
            let actions = match own {
                Yield::Second(t, line) => node.agent.second(t, line),
                Yield::Ended(line) => {
                    (node.engine, node.start, node.header_sent) = (None, None, false);
                    node.stored = Some(local + Nanos(self.random.below(5_000_000_000)));
                    node.agent.ended(line)
                }
            };
            self.act(node, actions, local);
        }
    }

    fn act(&mut self, node: &mut AgentNode, actions: Vec<AgentAction>, local: Nanos) {
        for action in actions {
            match action {
                AgentAction::Prepare(assignment) => {
                    let takes = Nanos(self.random.below(3_000_000_000));
                    node.prepared = Some((assignment, local + takes));
                }
                AgentAction::Start(at) => node.start = Some(at),
                AgentAction::TakeOver(part, at) => {
                    if let Some(engine) = &mut node.engine {
                        engine.own(&part, at);
                    }
                }
                AgentAction::Stop => {
                    if let Some(engine) = &mut node.engine {
                        engine.stop();
                    }
                }
                AgentAction::Discard(_) => {
                    (node.engine, node.start, node.prepared) = (None, None, None);
                }
                AgentAction::Write(report) => {
                    node.link.outbox.push_back(LogMessage::Report(report))
                }
            }
        }
    }

    fn step_coordinator(&mut self, node: &mut CoordinatorNode) {
        self.store(&mut node.link);
        for entry in self.fetch(&mut node.link) {
            let actions = node.coordinator.read(&entry, self.now);
            node.act(actions, &mut self.notes);
        }
        node.replayed |= node.link.read == self.log.len();
        if node.replayed {
            let actions = node.coordinator.decide(self.now);
            node.act(actions, &mut self.notes);
        }
    }

    fn run_until(&mut self, end: Nanos) {
        while self.now < BEGIN + end && !self.is_over() {
            self.step();
        }
    }

    fn is_over(&self) -> bool {
        let finished = self.coordinator.as_ref().is_none_or(|node| node.outcome.is_some());
        finished && self.agents.iter().flat_map(|own| &own.2).all(|node| node.agent.run().is_none())
    }

    /// The seconds of the run as the coordinator joins them.
    fn joined(&self) -> Snapshot {
        let node = self.coordinator.as_ref().unwrap();
        let mut sum = self.plan.blank_snapshot();
        let text =
            |i: &usize| node.lines.get(i).map(|lines| lines.join("\n") + "\n").unwrap_or_default();
        let members = node.coordinator.members();
        let texts: Vec<String> = (0..members.len()).map(|i| text(&i)).collect();
        let mut unsent_all: BTreeMap<u64, Snapshot> = BTreeMap::new();
        for (member, text) in members.iter().zip(&texts).filter(|(member, _)| member.is_lost()) {
            let mut reported = self.plan.blank_snapshot();
            if !text.is_empty() {
                let mut reader = Reader::new(text.as_bytes()).unwrap();
                while let Some(second) = reader.next_second().unwrap() {
                    reported.append(&second);
                }
            }
            let own = unsent(&self.plan, &member.owned, &reported, node.coordinator.stopped_at());
            for (second, counts) in own {
                match unsent_all.entry(second) {
                    std::collections::btree_map::Entry::Vacant(free) => _ = free.insert(counts),
                    std::collections::btree_map::Entry::Occupied(mut known) => {
                        known.get_mut().join(&counts)
                    }
                }
            }
        }
        let mut readers: Vec<_> = texts
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| Reader::new(text.as_bytes()).unwrap())
            .collect();
        let (blank, mut last) = (self.plan.blank_snapshot(), Nanos::ZERO);
        join(&mut readers, &unsent_all, &blank, |second| {
            assert!(second.t > last && second.t - last <= Nanos::from_secs(1), "{:?}", second.t);
            last = second.t;
            second.assert_identities();
            sum.append(second);
        })
        .unwrap();
        sum
    }

    /// Checks what must hold after any run; returns the number of unsent arrivals.
    fn check(&self, seed: u64) -> u64 {
        let node = self.coordinator.as_ref().unwrap();
        let about = || format!("seed {seed}, {:?}, notes {:?}", self.plan.fleet, self.notes);
        assert_eq!(node.outcome, Some(Outcome::Ran), "{}", about());
        assert!(self.is_over(), "an agent did not end; {}", about());
        if let Some((arrival, times)) = self.sent.iter().find(|(_, times)| **times > 1) {
            panic!("arrival {arrival:?} was sent {times} times; {}", about());
        }
        let sum = self.joined();
        sum.assert_complete();
        let all = sum.total();
        let lost = all.errors.get(ErrorClass::AgentLost);
        let sent = self.sent.len() as u64;
        assert!(all.requests.sent <= sent, "{}", about());
        assert_eq!(lost, all.requests.unsent, "{}", about());
        if node.coordinator.stopped_at() == Nanos::MAX {
            let planned = self.plan.planned_requests().unwrap();
            assert_eq!(all.requests.scheduled, planned, "{}", about());
            assert!(planned - sent <= lost, "{} were not sent; {}", planned - sent, about());
        }
        for member in node.coordinator.members() {
            let stored = member.records.is_some();
            assert!(!stored || self.records.is_some(), "{}: {}", member.name, about());
        }
        let any_lost = node.coordinator.members().iter().any(Member::is_lost);
        assert!(lost == 0 || any_lost, "{lost} unsent, but nobody is lost; {}", about());
        lost
    }
}

impl CoordinatorNode {
    fn new(coordinator: Coordinator) -> CoordinatorNode {
        let (lines, outcome) = (BTreeMap::new(), None);
        CoordinatorNode { coordinator, link: Link::default(), replayed: false, lines, outcome }
    }

    fn act(&mut self, actions: Vec<CoordinatorAction>, notes: &mut Vec<String>) {
        for action in actions {
            match action {
                CoordinatorAction::Write(message) => self.link.outbox.push_back(message),
                CoordinatorAction::Header(member, line)
                | CoordinatorAction::Second(member, _, line)
                | CoordinatorAction::EndLine(member, line) => {
                    self.lines.entry(member).or_default().push(line);
                }
                CoordinatorAction::Note(note) => notes.push(note),
                CoordinatorAction::Finished(outcome) => self.outcome = Some(outcome),
            }
        }
    }
}

mod tests;
