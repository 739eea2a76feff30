//! What each entry of the log changes.

use super::{Asked, Coordinator, CoordinatorAction, Member, MemberState, Outcome, Role};
use crate::message::{Order, OrderKind, Report, ReportKind, part_from_wire};
use plimsoll_measure::Nanos;
use plimsoll_plan::{OnAgentLoss, Part};

impl Coordinator {
    pub(super) fn read_order(
        &mut self,
        order: &Order,
        now: Nanos,
        actions: &mut Vec<CoordinatorAction>,
    ) {
        let own = order.coordinator == self.session;
        match &order.what {
            OrderKind::Begin { members, records, .. } if self.epoch == 0 => {
                self.records = *records;
                (self.epoch, self.number) = (order.epoch, order.number);
                self.began_at = Some(now);
                let streams = self.plan.streams.len();
                self.members = members.iter().filter_map(|one| Member::of(one, streams)).collect();
                if own {
                    self.role = Role::Leads;
                }
                return;
            }
            OrderKind::Resume {} if order.epoch > self.epoch => {
                (self.epoch, self.number) = (order.epoch, order.number);
                self.asked = Asked { stop: self.stop, ..Asked::default() };
                self.ticked_at = None;
                match (&self.role, own) {
                    (_, true) => self.role = Role::Leads,
                    // From an earlier time: the log is being read from its beginning.
                    (Role::Watching(None), false) => {}
                    (Role::Watching(Some(_)), false) => {
                        self.finish(Outcome::HasCoordinator, actions)
                    }
                    (_, false) => {
                        self.role = Role::Deposed;
                        self.finish(Outcome::Replaced, actions);
                    }
                }
                return;
            }
            _ if order.epoch != self.epoch || order.number <= self.number => return,
            _ => {
                self.number = order.number;
                self.seen_other(actions);
            }
        }
        match &order.what {
            OrderKind::Start { at_unix_ns } if self.start_at.is_none() && !self.cancelled => {
                self.start_at = Some(Nanos(*at_unix_ns));
            }
            OrderKind::Cancel { .. } if self.start_at.is_none() => self.cancelled = true,
            OrderKind::Stop { level, at_unix_ns } => {
                self.stop = self.stop.max(*level);
                let start = self.start_at.unwrap_or_default();
                self.stopped_at.get_or_insert(Nanos(*at_unix_ns) - start);
            }
            OrderKind::Lost { agent, at_ns, parts } => {
                self.read_lost(agent, Nanos(*at_ns), parts, actions);
            }
            _ => {}
        }
    }

    /// A message of the present coordinator, which may be another one.
    pub(super) fn seen_other(&mut self, actions: &mut Vec<CoordinatorAction>) {
        if matches!(self.role, Role::Watching(Some(_))) {
            self.finish(Outcome::HasCoordinator, actions);
        }
    }

    fn read_lost(
        &mut self,
        agent: &str,
        at: Nanos,
        parts: &[(String, Vec<String>)],
        actions: &mut Vec<CoordinatorAction>,
    ) {
        let Some(place) = self.members.iter().position(|own| own.name == agent) else { return };
        self.asked.lost.retain(|own| *own != place);
        let streams = self.plan.streams.len();
        let mut moved = Part::nothing(streams);
        let given: Vec<(&String, Part)> = parts
            .iter()
            .filter_map(|(name, wire)| Some((name, part_from_wire(wire, streams)?)))
            .collect();
        for (_, part) in &given {
            moved = moved.with(part);
        }
        self.members[place].lose();
        // What it refused to take over meanwhile is charged to the former owner.
        let former = self.members.iter_mut().filter(|own| own.state == MemberState::Lost);
        former.for_each(|own| own.give_up(&moved, at));
        let mut not_taken = Part::nothing(streams);
        for (name, part) in given {
            let taker = self.members.iter_mut().find(|own| own.name == *name);
            if let Some(part) = taker.and_then(|taker| taker.take(part, at, agent)) {
                not_taken = not_taken.with(&part);
            }
        }
        self.members[place].unowned(not_taken, at);
        let lost = &self.members[place];
        let note = if moved.is_empty() {
            format!("agent {agent} is lost; its last second ended at {}", lost.t)
        } else {
            let takers: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
            format!(
                "agent {agent} is lost; its last second ended at {}; {} take over its part at {at}",
                lost.t,
                takers.join(", ")
            )
        };
        actions.push(CoordinatorAction::Note(note));
    }

    /// A lost agent's part has no owner from `at`.
    fn charge(&mut self, lost: &str, part: Part, at: Nanos) {
        if let Some(lost) = self.members.iter_mut().find(|own| own.name == lost) {
            lost.unowned(part, at);
        }
    }

    pub(super) fn read_report(&mut self, report: &Report, actions: &mut Vec<CoordinatorAction>) {
        let Some(place) = self.members.iter().position(|own| own.name == report.agent) else {
            return;
        };
        let member = &mut self.members[place];
        if member.session != report.session || report.number <= member.reported {
            return;
        }
        member.reported = report.number;
        if let Some(start) = self.start_at {
            member.heard = self.witnessed - start;
        }
        match &report.what {
            ReportKind::Ready { workers, bound_ns } => {
                member.workers = *workers;
                member.bound = Nanos(*bound_ns);
                if member.state == MemberState::Asked {
                    member.state = MemberState::Ready;
                }
            }
            ReportKind::Refused { problems } => {
                member.state = MemberState::Refused;
                member.problems = problems.clone();
            }
            ReportKind::Started { line, skew_ns, bound_ns } => {
                member.skew = Some((*skew_ns, Nanos(*bound_ns)));
                member.start();
                actions.push(CoordinatorAction::Header(place, line.clone()));
            }
            ReportKind::Second { t_ns, line } => {
                member.t = member.t.max(Nanos(*t_ns));
                if self.on_loss != OnAgentLoss::Rebalance {
                    member.revive();
                }
                actions.push(CoordinatorAction::Second(place, Nanos(*t_ns), line.clone()));
            }
            ReportKind::TookOver { at_ns, of, accepted } => {
                let at = Nanos(*at_ns);
                member.took(at);
                if *accepted {
                    return;
                }
                let refused = member.disown(at);
                self.charge(of, refused, at);
            }
            ReportKind::Ended { line, fenced } => {
                member.end(*fenced);
                actions.push(CoordinatorAction::EndLine(place, line.clone()));
                // An order that it reads after its end is not answered.
                for (part, at, of) in self.members[place].not_taken() {
                    self.charge(&of, part, at);
                }
            }
            // That it was heard is enough.
            ReportKind::Storing { .. } => {}
            ReportKind::Recorded(stored) => member.records = Some(stored.clone()),
            ReportKind::Failed { why } => {
                let name = &member.name;
                actions.push(CoordinatorAction::Note(format!("agent {name} failed: {why}")));
                member.fail(why);
            }
        }
    }
}
