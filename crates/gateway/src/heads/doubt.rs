//! Heads that are not believed, and heads that should not have been.

use plimsoll_measure::Nanos;

use super::blocks::Blocks;
use super::{Event, Heads, Served, Standing, Upstream};

/// Reports until a head is believed that only one upstream reports.
const DOUBTED_REPORTS: u32 = 3;

/// Heads may always be this many blocks above the highest served one.
const JUMP_MIN: u64 = 64;

/// … but one upstream's word for more than this is awaited for one more poll, and upstreams that
/// differ by more do not agree.
const STEP_MIN: u64 = 16;

/// … and this many times as many as the block time explains.
const JUMP_FACTOR: u64 = 4;

/// No chain has blocks from this number on.
const NUMBER_END: u64 = 1 << 60;

/// A served head that is at least this far above those of a majority may be corrected.
pub(super) const FAR: u64 = 64;

/// How often each upstream of the majority must have reported before that.
const CORRECTION_REPORTS: usize = 3;

/// A head that is not believed yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    number: u64,
    since: Nanos,
    reports: u32,
}

impl Heads {
    /// How many blocks may follow within this time.
    fn blocks_in(&self, time: Nanos) -> u64 {
        JUMP_MIN.saturating_add(JUMP_FACTOR.saturating_mul(time.0 / self.settings.block_time.0))
    }

    /// Whether a number is further above the highest served one than the time explains.
    pub(super) fn is_jump(&self, number: u64) -> bool {
        let above = self.peak.map(|(peak, since)| {
            peak.saturating_add(self.blocks_in(self.now - since))
                .saturating_sub(JUMP_MIN - STEP_MIN)
        });
        above.is_some_and(|above| number > above)
    }

    /// Whether to believe a head; counts those that are doubted.
    pub(super) fn is_plausible(&mut self, upstream: usize, number: u64, now: Nanos) -> bool {
        if number >= NUMBER_END {
            return false;
        }
        // Before there is a served head, all are heard.
        let Some((peak, since)) = self.peak else { return true };
        if number <= peak.saturating_add(self.blocks_in(now - since)) {
            self.upstreams[upstream].doubt = None;
            return true;
        }
        let is_next = |doubt: &Doubt| {
            let above = number.checked_sub(doubt.number);
            above.is_some_and(|above| above <= self.blocks_in(now - doubt.since))
        };
        let before = self.upstreams[upstream].doubt.filter(is_next);
        let reports = before.map_or(0, |doubt| doubt.reports) + 1;
        let says_so =
            |doubt: &Doubt| number.abs_diff(doubt.number) <= self.blocks_in(now - doubt.since);
        let others = || self.upstreams.iter().enumerate().filter(|(at, _)| *at != upstream);
        let is_believer = |known: &Upstream| known.doubt.as_ref().is_some_and(says_so);
        let believers = 1 + others().filter(|(_, known)| is_believer(known)).count();
        let is_opponent = |known: &Upstream| known.is_heard() && !is_believer(known);
        let opponents = others().filter(|(_, known)| is_opponent(known)).count();
        // Doubts that are believed stay, so that each upstream can confirm them to the next.
        self.upstreams[upstream].doubt = Some(Doubt { number, since: now, reports });
        let is_repeated = reports >= DOUBTED_REPORTS;
        let is_believed = match believers.cmp(&opponents) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => is_repeated && self.is_one_word,
            std::cmp::Ordering::Greater => is_repeated || believers > 1,
        };
        if is_believed {
            // The measure, which fewer upstreams vouch for, no longer holds.
            self.peak = Some((number, now));
            self.is_one_word = believers < 2 && self.upstreams.len() > 1;
        }
        is_believed
    }

    /// Weighs the served head: whether a second upstream is near it. When it is the first one, heads far
    /// above it are doubted.
    pub(super) fn weigh(&mut self, is_first: bool, now: Nanos) {
        let Some(latest) = self.served.latest else { return };
        let is_near = |known: &&Upstream| {
            known.is_on_chain() && known.latest.saturating_add(JUMP_MIN) >= latest
        };
        if self.upstreams.iter().filter(is_near).count() > 1 {
            self.is_one_word = false;
        } else if is_first {
            self.is_one_word = self.upstreams.len() > 1;
        }
        if is_first {
            let limit = latest.saturating_add(self.blocks_in(Nanos::ZERO));
            for known in self.upstreams.iter_mut().filter(|known| known.is_heard()) {
                if known.latest > limit {
                    known.standing = Standing::Implausible;
                    known.doubt = Some(Doubt { number: known.latest, since: now, reports: 1 });
                }
            }
            self.rebuild();
            self.judge_lags();
        }
    }

    /// The served chain, of the blocks of those that are on it.
    fn rebuild(&mut self) {
        self.chain = Blocks::default();
        for known in self.upstreams.iter().filter(|known| known.is_on_chain()) {
            self.chain.extend(&known.blocks);
        }
    }

    /// Takes the served heads back if they are one upstream's word and a clear majority, of which this
    /// upstream is a part, has contradicted them for several polls.
    pub(super) fn correct(&mut self, upstream: usize, now: Nanos) -> Option<Event> {
        let from = self.served.latest.filter(|_| self.is_one_word)?;
        let is_far_below = |known: &&Upstream| known.latest.saturating_add(FAR) < from;
        let heard = || self.upstreams.iter().filter(|known| known.is_heard());
        let mut below: Vec<u64> = heard().filter(is_far_below).map(|known| known.latest).collect();
        below.sort_unstable_by(|a, b| b.cmp(a));
        let agreed = below.get(1).copied().unwrap_or_default();
        let agrees = |number: &u64| number.abs_diff(agreed) <= STEP_MIN;
        let agreeing = below.iter().filter(|number| agrees(number)).count();
        let known = |known: &&Upstream| known.standing != Standing::Unknown;
        let others = self.upstreams.iter().filter(known).count() - agreeing;
        if below.len() < 2 || agreeing < others + 2 {
            self.outvoted = 0;
            return None;
        }
        if agrees(&self.upstreams[upstream].latest) {
            self.outvoted += 1;
        }
        if self.outvoted < CORRECTION_REPORTS * agreeing {
            return None;
        }
        (self.served, self.peak, self.next) = (Served::default(), None, None);
        (self.outvoted, self.is_one_word) = (0, false);
        for known in self.upstreams.iter_mut().filter(|known| known.is_heard()) {
            known.standing =
                if agrees(&known.latest) { Standing::Current } else { Standing::Unknown };
        }
        self.corrections += 1;
        self.rebuild();
        self.serve(now);
        Some(Event::Corrected { from, to: self.served.latest.unwrap_or_default() })
    }
}
