//! The heads of a service's chain: which ones this gateway serves, and which upstreams have them.
//!
//! # Why
//! Nodes of one chain differ by a block or two at any time, and by many when one is syncing, stuck or
//! restarted. A caller whose calls are spread over them sees the block number go back, asks for a
//! block that it was just told of and gets null, and reads state from before its own transaction.
//! These are the most frequent complaints about gateways (erpc#276, go-ethereum#27353). So the gateway
//! serves heads of its own: `latest`, `safe` and `finalized` never go back in this process, and a
//! call that names one goes only to an upstream that has it.
//!
//! # What is served
//! The keeper polls each upstream. The served `latest` is the highest number that half of the
//! upstreams in rotation have reached ([`quorum`]); `safe` and `finalized` likewise. Half rather than
//! one: of three or more upstreams no single one can promise a block that nobody else has, and calls
//! for the head have at least half of the pool to go to. Half rather than all: one that is stuck does
//! not hold the others back. With two upstreams it is the higher one, so that the other one's failure
//! or lag never delays the head; see Limits.
//! A number that not all of them have reached waits for the others for one poll: usually they are only
//! polled later, and a head that all have can be asked of all.
//!
//! # Lag
//! An upstream's lag is counted when it reports, from the highest head known then: so an upstream is
//! not behind because another one was polled after it. One that lags by more than the service allows
//! leaves rotation, and returns with the first report within the limit. If all are out of rotation,
//! the one with the highest head serves ([`Heads::fallback`]).
//!
//! # Lag or reorganisation
//! A lower number means that a node lags; another hash at the same number means that it is on another
//! branch. Numbers never lead to a reorganisation, and lag therefore never does. For each upstream and
//! for the served chain, the hashes of recent blocks are known: from reported heads, their parents, and
//! the block that each poll also asks for ([`Heads::anchor`]), which shows whether an upstream that has
//! moved on by several blocks is still on the served chain.
//!
//! An upstream that contradicts the served chain is forked and out of rotation. When more upstreams
//! know the other branch than know the served one, or as many and it is longer by
//! [`LEAD_MIN`] blocks, the chain has reorganised: the other branch is served, and those that have stayed behind are forked. The served
//! number does not go down: it is held until the new branch reaches it. Until then no upstream has
//! the served head ([`Heads::is_held`]).
//!
//! # Implausible heads
//! Since a served number cannot be taken back, a wrong one would be served for ever. Chain ids must be
//! checked before a report is passed on. A number far above the best one known, given the time since,
//! is not believed until another upstream confirms it or the same upstream has repeated it
//! [`DOUBTED_REPORTS`] times. So one garbled answer is harmless, and a gateway that first met a
//! syncing node still follows the others.
//!
//! # Limits
//! What holds here holds per process. A single upstream that lies consistently is believed. With two
//! upstreams on two branches of equal length, the one first seen is served. A chain that was restarted
//! from its first block, as development chains are, is held at the old number; restart the gateway.
//!
//! Pure: reports and times come in, decisions come out. [`Board`] makes them readable by workers.

mod blocks;
mod board;

use plimsoll_measure::Nanos;

use blocks::Blocks;
pub use board::Board;

/// A block's hash.
pub type Hash = [u8; 32];

/// Reports until an implausible head is believed.
const DOUBTED_REPORTS: u32 = 3;

/// Heads may always be this many blocks above the best one known.
const JUMP_MIN: u64 = 64;

/// … and this many times as many as the block time explains.
const JUMP_FACTOR: u64 = 4;

/// With as many upstreams on two branches, the other one is served if it is this much longer: more
/// than the difference between upstreams that are polled in turn.
const LEAD_MIN: u64 = 3;

/// No chain has blocks from this number on.
const NUMBER_END: u64 = 1 << 60;

/// How heads are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadsSettings {
    /// An upstream in rotation lags by at most this many blocks.
    pub lag_max: u64,
    /// The time between two blocks; positive.
    pub block_time: Nanos,
    /// A report that is older says nothing any more: a few polls.
    pub stale_after: Nanos,
    /// How long a head that half of the upstreams have reached waits for the others: one poll.
    pub grace: Nanos,
}

/// A block by number and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockId {
    /// The number.
    pub number: u64,
    /// The hash.
    pub hash: Hash,
}

/// What an upstream answered to a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its latest block.
    pub latest: BlockId,
    /// The hash of that block's parent.
    pub parent: Hash,
    /// The number of its safe block, if it has one.
    pub safe: Option<u64>,
    /// The number of its finalized block, if it has one.
    pub finalized: Option<u64>,
    /// The block at the number of [`Heads::anchor`], if it was asked for and exists.
    pub anchor: Option<BlockId>,
}

/// The numbers of the served heads; `None` while not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Of the latest block.
    pub latest: Option<u64>,
    /// Of the safe block.
    pub safe: Option<u64>,
    /// Of the finalized block.
    pub finalized: Option<u64>,
}

/// What is known of an upstream's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no recent report.
    Unknown,
    /// It is in rotation: on the served chain, within the allowed lag.
    Current,
    /// It lags by more than allowed.
    Lagging,
    /// It is on another branch than the served one.
    Forked,
    /// It reported a head that is not believed yet.
    Implausible,
}

/// What a report has changed, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An upstream's standing changed.
    Standing {
        /// The upstream's index.
        upstream: usize,
        /// The standing before.
        before: Standing,
        /// The standing now.
        after: Standing,
        /// How many blocks it lags.
        lag: u64,
    },
    /// The chain has reorganised: another branch is served.
    Reorganised {
        /// The lowest block that is known to differ. Blocks below it may differ, too.
        from: u64,
        /// The number of the served head, at most this many blocks of which were replaced.
        served: u64,
    },
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Heads {
    settings: HeadsSettings,
    upstreams: Vec<Upstream>,
    served: Served,
    /// Known blocks of the served chain.
    chain: Blocks,
    /// The highest head of the served chain, and when it was first reported.
    best: Option<(u64, Nanos)>,
    /// A number that half of the upstreams have reached, and since when, but not all.
    next: Option<(u64, Nanos)>,
    reorganisations: u64,
}

#[derive(Clone, Debug)]
struct Upstream {
    standing: Standing,
    latest: u64,
    safe: Option<u64>,
    finalized: Option<u64>,
    /// At its last report.
    lag: u64,
    reported_at: Nanos,
    blocks: Blocks,
    doubt: Option<Doubt>,
}

/// A head that is not believed yet.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    number: u64,
    since: Nanos,
    reports: u32,
}

impl Heads {
    /// The heads of a service with this many upstreams. `served` are the heads served so far, by the
    /// configuration before this one.
    ///
    /// # Panics
    /// The block time is zero.
    pub fn new(upstreams: usize, settings: HeadsSettings, served: Served) -> Heads {
        assert!(settings.block_time > Nanos::ZERO, "a block time of zero");
        let unknown = Upstream {
            standing: Standing::Unknown,
            latest: 0,
            safe: None,
            finalized: None,
            lag: 0,
            reported_at: Nanos::ZERO,
            blocks: Blocks::default(),
            doubt: None,
        };
        Heads {
            settings,
            upstreams: vec![unknown; upstreams],
            served,
            chain: Blocks::default(),
            best: None,
            next: None,
            reorganisations: 0,
        }
    }

    /// Takes an upstream's report, whose chain id has been confirmed; returns what it changed.
    pub fn report(&mut self, upstream: usize, report: &Report, now: Nanos) -> Vec<Event> {
        let before = self.standings();
        let mut events = Vec::new();
        self.expire(now);
        if self.is_plausible(upstream, report.latest.number, now) {
            self.take(upstream, report, now);
            if self.upstreams[upstream].standing != Standing::Forked {
                self.follow(upstream, report, now);
            }
            events.extend(self.reorganise(now));
            self.serve(now);
        } else {
            self.upstreams[upstream].standing = Standing::Implausible;
        }
        events.extend(self.changes(&before));
        events
    }

    /// Passes time: upstreams without a recent report become unknown. Returns the changes.
    pub fn pass(&mut self, now: Nanos) -> Vec<Event> {
        let before = self.standings();
        self.expire(now);
        let mut events: Vec<Event> = self.reorganise(now).into_iter().collect();
        self.serve(now);
        events.extend(self.changes(&before));
        events
    }

    /// The served heads.
    pub fn served(&self) -> Served {
        self.served
    }

    /// Raises the served heads to those that replicas share.
    pub fn raise(&mut self, shared: Served) {
        let Served { latest, safe, finalized } = self.served;
        self.served = Served {
            latest: latest.max(shared.latest),
            safe: safe.max(shared.safe),
            finalized: finalized.max(shared.finalized),
        };
    }

    /// The standing of an upstream.
    pub fn standing(&self, upstream: usize) -> Standing {
        self.upstreams[upstream].standing
    }

    /// The number of an upstream's latest block; `None` while not known.
    pub fn latest(&self, upstream: usize) -> Option<u64> {
        let known = &self.upstreams[upstream];
        (known.standing != Standing::Unknown).then_some(known.latest)
    }

    /// How many blocks an upstream lagged at its last report.
    pub fn lag(&self, upstream: usize) -> u64 {
        self.upstreams[upstream].lag
    }

    /// Whether an upstream has the block of the served chain with this number. One that lags has the
    /// older ones.
    pub fn has(&self, upstream: usize, number: u64) -> bool {
        has(self.upstreams[upstream].standing, self.upstreams[upstream].latest, number)
    }

    /// Whether no upstream has the served latest block: the new branch has not reached it, or those
    /// that had it are gone.
    pub fn is_held(&self) -> bool {
        let has = |number| (0..self.upstreams.len()).any(|upstream| self.has(upstream, number));
        self.served.latest.is_some_and(|number| !has(number))
    }

    /// The upstream that serves if none is in rotation: the one on the served chain with the highest
    /// head, or else any with the highest. `None` if one is in rotation, or nothing is known.
    pub fn fallback(&self) -> Option<usize> {
        let is = |standing: Standing| move |known: &Upstream| known.standing == standing;
        if self.upstreams.iter().any(is(Standing::Current)) {
            return None;
        }
        let rank = |known: &Upstream| match known.standing {
            Standing::Lagging => Some((1, known.latest)),
            Standing::Forked => Some((0, known.latest)),
            _ => None,
        };
        let ranked = self.upstreams.iter().enumerate();
        let ranked = ranked.filter_map(|(at, known)| Some((rank(known)?, at)));
        ranked.max().map(|(_, at)| at)
    }

    /// The number of the block that a poll of this upstream should also ask for, besides the latest.
    pub fn anchor(&self, upstream: usize) -> Option<u64> {
        let limit = match self.upstreams[upstream].standing {
            Standing::Unknown => u64::MAX,
            _ => self.upstreams[upstream].latest,
        };
        self.chain.highest_up_to(limit)
    }

    /// The hash of the served chain's block with this number, if it is known: of recent blocks it mostly
    /// is.
    pub fn hash(&self, number: u64) -> Option<Hash> {
        self.chain.hash(number)
    }

    /// Whether a head waits for the upstreams that have not reported it.
    pub fn is_waiting(&self) -> bool {
        self.next.is_some()
    }

    /// Reorganisations since the start.
    pub fn reorganisations(&self) -> u64 {
        self.reorganisations
    }

    fn standings(&self) -> Vec<Standing> {
        self.upstreams.iter().map(|known| known.standing).collect()
    }

    fn changes(&self, before: &[Standing]) -> Vec<Event> {
        let pairs = before.iter().zip(&self.upstreams).enumerate();
        let changed = pairs.filter(|(_, (before, known))| **before != known.standing);
        let event = |(upstream, (before, known)): (usize, (&Standing, &Upstream))| {
            Event::Standing { upstream, before: *before, after: known.standing, lag: known.lag }
        };
        changed.map(event).collect()
    }

    fn expire(&mut self, now: Nanos) {
        for known in &mut self.upstreams {
            if now - known.reported_at > self.settings.stale_after {
                known.standing = Standing::Unknown;
            }
        }
    }

    /// Whether to believe a head; counts those that are doubted.
    fn is_plausible(&mut self, upstream: usize, number: u64, now: Nanos) -> bool {
        if number >= NUMBER_END {
            return false;
        }
        let blocks = |time: Nanos| {
            JUMP_MIN.saturating_add(JUMP_FACTOR * (time.0 / self.settings.block_time.0))
        };
        let served = self.served.latest.map(|number| (number, Nanos::ZERO));
        let Some((best, since)) = self.best.or(served) else { return true };
        if number <= best.saturating_add(blocks(now - since)) {
            self.upstreams[upstream].doubt = None;
            return true;
        }
        let follows = |doubt: &Doubt| {
            let above = number.checked_sub(doubt.number);
            above.is_some_and(|above| above <= blocks(now - doubt.since))
        };
        let confirms = |doubt: &Doubt| number.abs_diff(doubt.number) <= blocks(now - doubt.since);
        let others = self.upstreams.iter().enumerate().filter(|(at, _)| *at != upstream);
        let is_confirmed = others.filter_map(|(_, known)| known.doubt.as_ref()).any(confirms);
        let known = &mut self.upstreams[upstream];
        let reports = match known.doubt.as_ref() {
            Some(doubt) if follows(doubt) => doubt.reports + 1,
            _ => 1,
        };
        known.doubt = Some(Doubt { number, since: now, reports });
        // Confirmed doubts stay, so that each upstream that has this head can confirm it to the next.
        is_confirmed || reports >= DOUBTED_REPORTS
    }

    /// Records a report, and whether it contradicts the served chain.
    fn take(&mut self, upstream: usize, report: &Report, now: Nanos) {
        let known = &mut self.upstreams[upstream];
        let BlockId { number, .. } = report.latest;
        let parent = number.checked_sub(1).map(|number| BlockId { number, hash: report.parent });
        let blocks: Vec<BlockId> =
            report.anchor.into_iter().chain(parent).chain([report.latest]).collect();
        known.blocks.record(&blocks);
        (known.latest, known.reported_at) = (number, now);
        (known.safe, known.finalized) = (report.safe, report.finalized);
        let is_forked = known.blocks.agrees(&self.chain) == Some(false);
        known.standing = if is_forked { Standing::Forked } else { Standing::Current };
    }

    /// Extends the served chain by the blocks of an upstream that is on it.
    fn follow(&mut self, upstream: usize, report: &Report, now: Nanos) {
        let number = report.latest.number;
        if let Some(parent) = number.checked_sub(1) {
            self.chain.add(BlockId { number: parent, hash: report.parent });
        }
        self.chain.add(report.latest);
        if self.best.is_none_or(|(best, _)| number > best) {
            self.best = Some((number, now));
        }
        self.judge_lag(upstream);
    }

    /// Judges the lag of an upstream on the served chain.
    fn judge_lag(&mut self, upstream: usize) {
        let best = self.best.map_or(0, |(best, _)| best);
        let known = &mut self.upstreams[upstream];
        known.lag = best.saturating_sub(known.latest);
        let is_lagging = known.lag > self.settings.lag_max;
        known.standing = if is_lagging { Standing::Lagging } else { Standing::Current };
    }

    /// Serves another branch if more upstreams are on it than on the served one, or as many and it is
    /// longer by [`LEAD_MIN`].
    fn reorganise(&mut self, now: Nanos) -> Option<Event> {
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
        self.chain = winner.blocks.clone();
        self.reorganisations += 1;
        self.settle(now);
        Some(Event::Reorganised { from, served: self.served.latest.unwrap_or_default() })
    }

    /// How many upstreams know blocks of a branch that another one does not have, from a number on,
    /// and the highest head among them.
    fn votes(&self, branch: &Blocks, other: &Blocks, from: u64) -> (usize, u64) {
        let is_recent = |known: &&Upstream| {
            !matches!(known.standing, Standing::Unknown | Standing::Implausible)
        };
        let voters = self.upstreams.iter().filter(is_recent);
        let voters = voters.filter(|known| known.blocks.is_on(branch, other, from));
        voters.fold((0, 0), |(votes, highest), known| (votes + 1, highest.max(known.latest)))
    }

    /// Judges every upstream anew by the branch that is now served.
    fn settle(&mut self, now: Nanos) {
        let mut best = 0;
        for known in &mut self.upstreams {
            if matches!(known.standing, Standing::Unknown | Standing::Implausible) {
                continue;
            }
            let is_forked = known.blocks.agrees(&self.chain) == Some(false);
            known.standing = if is_forked { Standing::Forked } else { Standing::Current };
            if !is_forked {
                self.chain.extend(&known.blocks);
                best = best.max(known.latest);
            }
        }
        self.best = Some((best, now));
        for upstream in 0..self.upstreams.len() {
            if self.upstreams[upstream].standing == Standing::Current {
                self.judge_lag(upstream);
            }
        }
    }

    /// Raises the served heads.
    fn serve(&mut self, now: Nanos) {
        let current = || self.upstreams.iter().filter(|known| known.standing == Standing::Current);
        let reached = quorum(current().map(|known| known.latest));
        let by_all = current().map(|known| known.latest).min();
        let waits = |reached: &u64| Some(*reached) > self.served.latest.max(by_all);
        let next = match reached.filter(waits) {
            None => {
                self.next = None;
                reached
            }
            Some(reached) => {
                let (number, since) = *self.next.get_or_insert((reached, now));
                let is_over = now - since >= self.settings.grace || self.served.latest.is_none();
                if is_over {
                    self.next = None;
                }
                if is_over { Some(number) } else { by_all }
            }
        };
        let latest = self.served.latest.max(next);
        let safe = self.served.safe.max(quorum(current().filter_map(|known| known.safe)));
        let finalized =
            self.served.finalized.max(quorum(current().filter_map(|known| known.finalized)));
        // Upstreams poll them one after the other, but they must be in order.
        let finalized = finalized.min(latest);
        let safe = safe.map(|safe| Some(safe).max(finalized)).unwrap_or_default().min(latest);
        self.served = Served { latest, safe, finalized };
    }
}

/// Whether an upstream with this standing and latest block has a block of the served chain.
fn has(standing: Standing, latest: u64, number: u64) -> bool {
    matches!(standing, Standing::Current | Standing::Lagging) && latest >= number
}

/// The highest number that at least half of these have reached.
fn quorum(numbers: impl Iterator<Item = u64>) -> Option<u64> {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.get(numbers.len().div_ceil(2).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests;
