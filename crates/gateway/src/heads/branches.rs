//! Which branch an upstream is on, and which one is served.

use plimsoll_measure::Nanos;

use super::blocks::Blocks;
use super::{BlockId, Event, Heads, LEAD_MIN, Report, Standing, UNEVEN_FOR, UNEVEN_MAX, Upstream};

impl Upstream {
    /// Records that its nodes differ by this many blocks.
    pub(super) fn is_uneven_by(&mut self, blocks: u64, now: Nanos) {
        if blocks <= UNEVEN_MAX {
            self.uneven = (self.uneven.0.max(blocks), now + UNEVEN_FOR);
        }
    }

    /// Records its latest block. One that is lower than before, on the same branch, is that of another
    /// one of its nodes.
    fn set_latest(&mut self, number: u64, is_same_branch: bool, now: Nanos) {
        let fallen = self.latest.saturating_sub(number);
        if number > self.latest {
            self.risen_at = now;
        }
        if is_same_branch && self.is_on_chain() && fallen > 0 {
            self.is_uneven_by(fallen, now);
            if fallen <= self.uneven.0 {
                return;
            }
        }
        self.latest = number;
    }
}

impl Heads {
    /// Records a report, and whether it contradicts the served chain.
    pub(super) fn take(&mut self, upstream: usize, report: &Report, now: Nanos) {
        let known = &mut self.upstreams[upstream];
        let BlockId { number, .. } = report.latest;
        let parent = number.checked_sub(1).map(|number| BlockId { number, hash: report.parent });
        let blocks: Vec<BlockId> =
            report.anchor.into_iter().chain(parent).chain([report.latest]).collect();
        let is_same_branch = known.blocks.record(&blocks);
        known.set_latest(number, is_same_branch, now);
        (known.safe, known.finalized) = (report.safe, report.finalized);
        let is_forked = known.blocks.agrees(&self.chain) == Some(false);
        known.standing = if is_forked { Standing::Forked } else { Standing::Current };
    }

    /// Extends the served chain by the blocks of an upstream that is on it, as far as more than one
    /// vouches for their numbers.
    pub(super) fn follow(&mut self, upstream: usize, report: &Report) {
        let number = report.latest.number;
        let measure = self.measure().unwrap_or_default();
        let parent = number.checked_sub(1).map(|number| BlockId { number, hash: report.parent });
        for block in parent.into_iter().chain([report.latest]) {
            if block.number <= measure {
                self.chain.add(block);
            }
        }
        if self.served.latest.is_none() {
            self.best = measure;
        } else if !self.is_jump(measure) {
            self.best = self.best.max(measure);
        }
        self.judge_lag(upstream);
    }

    /// Judges the lag of an upstream on the served chain.
    fn judge_lag(&mut self, upstream: usize) {
        let known = &mut self.upstreams[upstream];
        known.lag = self.best.saturating_sub(known.latest);
        let is_lagging = known.lag > self.settings.lag_max;
        known.standing = if is_lagging { Standing::Lagging } else { Standing::Current };
    }

    /// Serves another branch if more upstreams are on it than on the served one, or as many and it is
    /// longer by [`LEAD_MIN`].
    pub(super) fn reorganise(&mut self) -> Option<Event> {
        let forked = self.upstreams.iter().filter(|known| known.standing == Standing::Forked);
        let contenders = forked.filter_map(|known| {
            let from = known.blocks.lowest_difference(&self.chain)?;
            Some((self.votes(&known.blocks, &self.chain, from), from, known))
        });
        let (votes, from, winner) = contenders.max_by_key(|(votes, ..)| *votes)?;
        let served = self.votes(&self.chain, &winner.blocks, from);
        let is_longer = votes.0 == served.0 && votes.1 >= served.1.saturating_add(LEAD_MIN);
        if votes.0 <= served.0 && !is_longer {
            return None;
        }
        let branch = winner.blocks.clone();
        let left = std::mem::replace(&mut self.chain, branch);
        self.reorganisations += 1;
        self.settle(&left, from);
        Some(Event::Reorganised { from, served: self.served.latest.unwrap_or_default() })
    }

    /// How many upstreams know blocks of a branch that another one does not have, from a number on,
    /// and the highest head among them.
    fn votes(&self, branch: &Blocks, other: &Blocks, from: u64) -> (usize, u64) {
        let voters = self.upstreams.iter().filter(|known| known.is_heard());
        let voters = voters.filter(|known| known.blocks.is_on(branch, other, from));
        voters.fold((0, 0), |(votes, highest), known| (votes + 1, highest.max(known.latest)))
    }

    /// Judges every upstream anew by the branch that is now served instead of `left`, from which it
    /// differs from a number on. What does not show that an upstream has followed says nothing about it.
    fn settle(&mut self, left: &Blocks, from: u64) {
        for known in self.upstreams.iter_mut().filter(|known| known.is_heard()) {
            known.standing = if known.blocks.agrees(&self.chain) == Some(false) {
                Standing::Forked
            } else if known.blocks.is_on(&self.chain, left, from) {
                Standing::Current
            } else {
                Standing::Unknown
            };
            if known.standing == Standing::Current {
                self.chain.extend(&known.blocks);
            }
        }
        self.judge_lags();
    }

    /// Judges the lag of all upstreams on the served chain anew, from the present measure.
    pub(super) fn judge_lags(&mut self) {
        self.best = self.measure().unwrap_or_default();
        for upstream in 0..self.upstreams.len() {
            if self.upstreams[upstream].is_on_chain() {
                self.judge_lag(upstream);
            }
        }
    }
}
