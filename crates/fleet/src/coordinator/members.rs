//! The members of a run, as the log shows them.

use super::{LEASE, LOSS_AFTER, RECORDS_MAX};
use crate::message::{MemberOrder, Problem, StoredRecords, part_from_wire};
use crate::unsent::Owned;
use plimsoll_measure::Nanos;
use plimsoll_plan::Part;
use std::collections::BTreeMap;

/// How far a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Asked to prepare.
    Asked,
    /// Ready to start.
    Ready,
    /// It does not take part.
    Refused,
    /// It has started.
    Running,
    /// Its last arrival has ended.
    Ended,
    /// It is silent, or has failed.
    Lost,
}

/// An agent in a run.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its process.
    pub session: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How far it is.
    pub state: MemberState,
    /// What it owns, and owned.
    pub owned: Vec<Owned>,
    /// The end of its last second.
    pub t: Nanos,
    /// What the last tick before its last report read, on the run's clock: after an outage, a member that
    /// delivers its seconds one after another is not silent.
    pub(super) heard: Nanos,
    /// Number of its worker threads.
    pub workers: usize,
    /// The most by which its clock's offset can be off.
    pub bound: Nanos,
    /// When its clock started, minus when it should have, in nanoseconds, and the most by which that is off.
    pub skew: Option<(i64, Nanos)>,
    /// Why it does not take part.
    pub problems: Vec<Problem>,
    /// Why it failed.
    pub failed: Option<String>,
    /// The records of its requests, once they are stored.
    pub records: Option<StoredRecords>,
    /// The number of its last report.
    pub(super) reported: u64,
    /// What it was ordered to take over and has not answered: the instant, and the lost agent.
    taking: Vec<(Nanos, String)>,
    /// What it owned when it was lost and others refused to take over, and since when.
    unowned: Option<(Part, Nanos)>,
}

impl Member {
    pub(super) fn of(order: &MemberOrder, streams: usize) -> Option<Member> {
        let part = part_from_wire(&order.part, streams)?;
        Some(Member {
            name: order.name.clone(),
            session: order.session.clone(),
            labels: order.labels.clone(),
            state: MemberState::Asked,
            owned: vec![Owned { part, from: Nanos::ZERO, to: Nanos::MAX }],
            t: Nanos::ZERO,
            heard: Nanos::ZERO,
            workers: 0,
            bound: Nanos::ZERO,
            skew: None,
            problems: Vec::new(),
            failed: None,
            records: None,
            reported: 0,
            taking: Vec::new(),
            unowned: None,
        })
    }

    /// Whether it is silent when the run's clock has been seen to read `witnessed`.
    pub(super) fn silent_at(&self, witnessed: Nanos) -> bool {
        let live = matches!(self.state, MemberState::Ready | MemberState::Running);
        live && (self.failed.is_some() || witnessed >= self.t.max(self.heard) + LOSS_AFTER)
    }

    /// The earliest instant at which others may own its shards: its lease is over then.
    pub(super) fn free_from(&self) -> Nanos {
        let taken = self.open().map(|own| own.from).max().unwrap_or_default();
        let refused = self.unowned.as_ref().map_or(Nanos::ZERO, |(_, since)| *since);
        (self.t + LEASE).max(taken).max(refused)
    }

    fn open(&self) -> impl Iterator<Item = &Owned> {
        self.owned.iter().filter(|own| own.to == Nanos::MAX)
    }

    /// What it owns until further notice.
    pub(super) fn open_part(&self) -> Part {
        let nothing = Part::nothing(self.owned[0].part.streams().len());
        self.open().fold(nothing, |all, own| all.with(&own.part))
    }

    pub(super) fn has_unowned(&self) -> bool {
        self.unowned.is_some()
    }

    /// It is lost.
    pub(super) fn lose(&mut self) {
        self.state = MemberState::Lost;
        self.unowned = None;
    }

    /// Others own `moved` from `at`, as far as it is open; the rest of its part has no other owner.
    pub(super) fn give_up(&mut self, moved: &Part, at: Nanos) {
        let mut kept = Vec::new();
        for own in self.owned.iter_mut().filter(|own| own.to == Nanos::MAX) {
            let rest = own.part.without(moved);
            if rest == own.part {
                continue;
            }
            if !rest.is_empty() {
                kept.push(Owned { part: rest.clone(), from: own.from, to: Nanos::MAX });
            }
            (own.part, own.to) = (own.part.without(&rest), at);
        }
        self.owned.extend(kept);
        if let Some((part, since)) = &self.unowned {
            let left = part.without(moved);
            self.unowned = (!left.is_empty()).then_some((left, *since));
        }
    }

    /// It is ordered to own a part of a lost agent from `at`. Returns the part if it has ended: it reads no more orders.
    pub(super) fn take(&mut self, part: Part, at: Nanos, of: &str) -> Option<Part> {
        if self.state == MemberState::Ended {
            return Some(part);
        }
        self.own(part, at);
        self.taking.push((at, of.into()));
        None
    }

    /// It has answered the order to take over from `at`.
    pub(super) fn took(&mut self, at: Nanos) {
        self.taking.retain(|(own, _)| *own != at);
    }

    /// What it was ordered to take over and has ended without taking: with the instants and the lost agents.
    pub(super) fn not_taken(&mut self) -> Vec<(Part, Nanos, String)> {
        let taking = std::mem::take(&mut self.taking);
        taking.into_iter().map(|(at, of)| (self.disown(at), at, of)).collect()
    }

    /// It owns a part from `at`.
    fn own(&mut self, part: Part, at: Nanos) {
        self.owned.push(Owned { part, from: at, to: Nanos::MAX });
    }

    /// It does not own what it was given from `at`; returns that.
    pub(super) fn disown(&mut self, at: Nanos) -> Part {
        let mut part = Part::nothing(self.owned[0].part.streams().len());
        self.owned.retain(|own| {
            let refused = own.from == at && at > Nanos::ZERO && own.to == Nanos::MAX;
            if refused {
                part = part.with(&own.part);
            }
            !refused
        });
        part
    }

    /// A part that it lost was not taken over at `at`: it is charged for it until somebody does.
    pub(super) fn unowned(&mut self, part: Part, at: Nanos) {
        if !part.is_empty() {
            self.own(part.clone(), at);
            let known = self.unowned.take().map(|(known, _)| known);
            self.unowned = Some((known.map_or(part.clone(), |known| known.with(&part)), at));
        }
    }

    /// Its clock has started.
    pub(super) fn start(&mut self) {
        if matches!(self.state, MemberState::Asked | MemberState::Ready) {
            self.state = MemberState::Running;
        }
    }

    /// It has sent something although it was taken for lost.
    pub(super) fn revive(&mut self) {
        if self.state == MemberState::Lost && self.failed.is_none() {
            self.state = MemberState::Running;
        }
    }

    /// Its last arrival has ended. If it was `fenced`, it stopped before the end of its part, which is as good as
    /// lost. One that is lost stays so: what it did not send before others took over is unsent.
    pub(super) fn end(&mut self, fenced: bool) {
        if fenced {
            self.failed.get_or_insert("it reached nobody and stopped".into());
        } else if self.state != MemberState::Lost
            || self.owned.iter().all(|own| own.to == Nanos::MAX)
        {
            self.state = MemberState::Ended;
        }
    }

    pub(super) fn fail(&mut self, why: &str) {
        self.failed = Some(why.into());
        if self.state == MemberState::Asked {
            self.state = MemberState::Refused;
            self.problems.push(Problem { message: why.into(), hint: String::new() });
        }
    }

    /// Whether nothing more is expected of it.
    pub(super) fn is_over(&self) -> bool {
        match self.state {
            MemberState::Ended => true,
            MemberState::Lost => self.unowned.is_none(),
            _ => false,
        }
    }

    /// Whether the records of its requests may still come, when the run's clock has been seen to read `witnessed`.
    pub(super) fn is_storing(&self, witnessed: Nanos) -> bool {
        let silent = witnessed >= self.t.max(self.heard) + RECORDS_MAX;
        self.state == MemberState::Ended && self.records.is_none() && !silent
    }

    /// Whether part of its work may not have been done.
    pub fn is_lost(&self) -> bool {
        self.state == MemberState::Lost
    }
}
