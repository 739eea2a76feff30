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
//! upstreams in rotation have reached ([`quorum`]), and at most the measure (below); `safe` and
//! `finalized` likewise. Half rather than one: calls for the head have at least half of the pool to go
//! to. Half rather than all: one that is stuck does not hold the others back. With two upstreams it is
//! the higher one, so that the other one's failure or lag never delays the head; see Limits.
//! A number that not all of them have reached waits for the others for one poll: usually they are only
//! polled later, and a head that all have can be asked of all.
//!
//! The first served head waits until a majority has been asked, of three upstreams all, but no longer
//! than one poll, because the first report alone must not decide.
//!
//! # The measure, and lag
//! Since a served number cannot be taken back, no single upstream may set it. With three or more
//! reporting, the measure is the second highest of their heads. With two, it is the higher one, unless
//! that has jumped further above the served head than the time explains. An upstream above the
//! measure is merely ahead. Upstreams whose heads have not risen for a long time
//! while others' have are stuck ([`STUCK_MIN`]), and have no say: two stuck nodes must not outvote one
//! that works.
//!
//! An upstream's lag is counted when it reports, from the measure then: so an upstream is not behind
//! because another one was polled after it. One that lags by more than the service allows leaves
//! rotation, and returns with the first report within the limit. If all are out of rotation, the one
//! with the highest head serves ([`Heads::fallback`]).
//!
//! # Lag or reorganisation
//! A lower number means that a node lags; another hash at the same number means that it is on another
//! branch. Numbers never lead to a reorganisation, and lag therefore never does. For each upstream and
//! for the served chain, the hashes of recent blocks are known: from reported heads, their parents, and
//! the block that each poll also asks for ([`Heads::anchor`]): the highest known block of the served
//! chain that the upstream should have, which shows whether one that has moved on by several blocks
//! is still on it.
//!
//! An upstream that contradicts the served chain is forked and out of rotation. When more upstreams
//! know the other branch than know the served one, or as many and it is longer by [`LEAD_MIN`] blocks,
//! the chain has reorganised: the other branch is served, and those that have stayed behind are
//! forked. Those whose known blocks do not show that they have followed are unknown until they are
//! asked again, which the keeper does at once. The served number does not go down: it is held until
//! the new branch reaches it. Until then no upstream has the served head ([`Heads::is_held`]).
//!
//! # Upstreams that are several nodes
//! Behind one URL there may be a load balancer or a PATH instance, whose nodes are never at the same
//! block. Such an upstream denies a block that it has just reported, or reports a lower head than
//! before on the same branch. Then it is trusted to have only the blocks below ([`Heads::denied`]), for
//! [`UNEVEN_FOR`] after it was last seen: the served head is one that all of its nodes have.
//!
//! # Implausible heads
//! Chain ids must be checked before a report is passed on. A number far above the measure, given the
//! time since, is doubted ([`doubt`]): it is believed when more upstreams say so than contradict it.
//! If nobody contradicts it, or one does and the served head is itself the word of one, it is believed
//! when it has been repeated [`DOUBTED_REPORTS`] times: so a gateway that first met a syncing node still
//! follows the other one. One garbled answer is harmless in any case.
//!
//! A head that was believed on the word of one, and that no second upstream has come near, may have
//! been a lie. If a clear majority then agrees on far lower heads for several polls, the served heads
//! are corrected to theirs ([`Event::Corrected`]). This is the only case in which a served number goes
//! down: it never was the chain's. A head that two upstreams have reached is never corrected.
//!
//! # Limits
//! What holds here holds per process. A single upstream that lies consistently is believed, and so is a
//! majority. Of two upstreams that report for the first time, the higher one is believed, because a node
//! that is syncing is more frequent than one that lies. With two upstreams on two branches of equal
//! length, the one first seen is served. A chain that was restarted from its first block, as
//! development chains are, is held at the old number; restart the gateway.
//!
//! Pure: reports and times come in, decisions come out. [`Board`] makes them readable by workers.

mod blocks;
mod board;
mod branches;
mod doubt;
mod serve;

use plimsoll_measure::Nanos;

use blocks::Blocks;
pub use board::{Board, Floor, Floors};
use doubt::Doubt;

/// A block's hash.
pub type Hash = [u8; 32];

/// An upstream whose head has not risen for as long as this many blocks take, while another one's has,
/// is stuck.
const STUCK_BLOCKS: u64 = 8;

/// … but at least this long: blocks may be irregular.
const STUCK_MIN: Nanos = Nanos::from_secs(60);

/// With as many upstreams on two branches, the other one is served if it is this much longer: more
/// than the difference between upstreams that are polled in turn.
const LEAD_MIN: u64 = 3;

/// How long an upstream counts as several nodes after it was last seen to be.
const UNEVEN_FOR: Nanos = Nanos::from_secs(120);

/// Nodes of one upstream differ by at most this many blocks, or some of them are broken.
const UNEVEN_MAX: u64 = 8;

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

impl Served {
    /// The higher of each.
    pub fn highest(self, other: Served) -> Served {
        Served {
            latest: self.latest.max(other.latest),
            safe: self.safe.max(other.safe),
            finalized: self.finalized.max(other.finalized),
        }
    }
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
    /// The served heads were one upstream's word, which a clear majority contradicts: they have been
    /// taken back.
    Corrected {
        /// The number of the latest block that was served.
        from: u64,
        /// The number that is served now.
        to: u64,
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
    /// The highest measure of the branch that is served: lag is counted from it.
    best: u64,
    /// The highest head that was served or believed so far, and since when.
    peak: Option<(u64, Nanos)>,
    /// Whether the served head was believed on the word of one upstream, and no other one has come near.
    is_one_word: bool,
    /// The time of what is being judged.
    now: Nanos,
    /// When the first upstream reported.
    first_at: Option<Nanos>,
    /// A number that half of the upstreams have reached, and since when, but not all.
    next: Option<(u64, Nanos)>,
    /// Reports in a row that outvoted the served head.
    outvoted: usize,
    reorganisations: u64,
    corrections: u64,
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
    /// When its latest block last rose.
    risen_at: Nanos,
    /// Whether it has answered or failed a check.
    is_asked: bool,
    /// By how many blocks its nodes differ, and until when this counts.
    uneven: (u64, Nanos),
    blocks: Blocks,
    doubt: Option<Doubt>,
}

impl Upstream {
    fn unknown() -> Upstream {
        Upstream {
            standing: Standing::Unknown,
            latest: 0,
            safe: None,
            finalized: None,
            lag: 0,
            reported_at: Nanos::ZERO,
            risen_at: Nanos::ZERO,
            is_asked: false,
            uneven: (0, Nanos::ZERO),
            blocks: Blocks::default(),
            doubt: None,
        }
    }

    /// Whether it is on the served chain, as far as is known.
    fn is_on_chain(&self) -> bool {
        matches!(self.standing, Standing::Current | Standing::Lagging)
    }

    /// Whether there is a recent report that is believed.
    fn is_heard(&self) -> bool {
        !matches!(self.standing, Standing::Unknown | Standing::Implausible)
    }

    /// The number of the last block that all of its nodes have.
    fn reach(&self) -> u64 {
        self.latest.saturating_sub(self.uneven.0)
    }
}

impl Heads {
    /// The heads of a service with this many upstreams. `floor` has the heads served so far, by the
    /// configurations before this one.
    ///
    /// # Panics
    /// The block time is zero.
    pub fn new(upstreams: usize, settings: HeadsSettings, floor: &Floor) -> Heads {
        assert!(settings.block_time > Nanos::ZERO, "a block time of zero");
        let served = floor.served();
        Heads {
            settings,
            upstreams: vec![Upstream::unknown(); upstreams],
            served,
            chain: Blocks::default(),
            best: 0,
            peak: served.latest.map(|number| (number, floor.risen_at())),
            is_one_word: floor.is_one_word(),
            now: Nanos::ZERO,
            first_at: None,
            next: None,
            outvoted: 0,
            reorganisations: 0,
            corrections: 0,
        }
    }

    /// Takes an upstream's report, whose chain id has been confirmed; returns what it changed.
    pub fn report(&mut self, upstream: usize, report: &Report, now: Nanos) -> Vec<Event> {
        let before = self.standings();
        let mut events = Vec::new();
        self.expire(now);
        self.first_at.get_or_insert(now);
        let known = &mut self.upstreams[upstream];
        known.is_asked = true;
        known.reported_at = now;
        if self.is_plausible(upstream, report.latest.number, now) {
            self.take(upstream, report, now);
            if self.upstreams[upstream].standing != Standing::Forked {
                self.follow(upstream, report);
            }
            events.extend(self.reorganise());
            events.extend(self.correct(upstream, now));
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
        let mut events: Vec<Event> = self.reorganise().into_iter().collect();
        self.serve(now);
        events.extend(self.changes(&before));
        events
    }

    /// Records that an upstream did not answer a check, so that the first head does not wait for it.
    pub fn missed(&mut self, upstream: usize) {
        self.upstreams[upstream].is_asked = true;
    }

    /// Records that an upstream does not have the block with this number, although it reported it: it
    /// is several nodes.
    pub fn denied(&mut self, upstream: usize, number: u64, now: Nanos) {
        let known = &mut self.upstreams[upstream];
        if known.is_heard() && number <= known.latest {
            known.is_uneven_by(known.latest - number + 1, now);
        }
    }

    /// A report is recent for this long from now on.
    pub fn set_stale_after(&mut self, span: Nanos) {
        self.settings.stale_after = span;
    }

    /// Takes over the heads that the process serves, which an earlier configuration may have raised.
    pub fn adopt(&mut self, floor: &Floor) {
        self.served = floor.served();
    }

    /// The served heads.
    pub fn served(&self) -> Served {
        self.served
    }

    /// Whether the served head is the word of one upstream that may be outvoted.
    pub fn is_one_word(&self) -> bool {
        self.is_one_word
    }

    /// Raises the served heads to those that replicas share.
    pub fn raise(&mut self, shared: Served) {
        let served = self.served.highest(shared);
        let far = |latest: u64| latest.saturating_add(doubt::FAR);
        if self.upstreams.len() > 1 && served.latest > self.served.latest.map(far) {
            // Until an upstream of this process has come near.
            self.is_one_word = true;
        }
        self.served = served;
    }

    /// Replaces the served heads by those that replicas share since they were corrected.
    pub fn replace(&mut self, shared: Served, now: Nanos) {
        (self.served, self.next) = (shared, None);
        self.peak = shared.latest.map(|number| (number, now));
        (self.outvoted, self.is_one_word) = (0, false);
    }

    /// The standing of an upstream.
    pub fn standing(&self, upstream: usize) -> Standing {
        self.upstreams[upstream].standing
    }

    /// The number of the latest block that an upstream is trusted to have; `None` while not known.
    pub fn latest(&self, upstream: usize) -> Option<u64> {
        let known = &self.upstreams[upstream];
        (known.standing != Standing::Unknown).then(|| known.reach())
    }

    /// How many blocks an upstream lagged at its last report.
    pub fn lag(&self, upstream: usize) -> u64 {
        self.upstreams[upstream].lag
    }

    /// Whether an upstream has the block of the served chain with this number. One that lags has the
    /// older ones.
    pub fn has(&self, upstream: usize, number: u64) -> bool {
        has(self.upstreams[upstream].standing, self.upstreams[upstream].reach(), number)
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

    /// The number of the block that a poll should also ask for, of an upstream whose latest block has
    /// this number: the highest known block of the served chain that the upstream should have.
    pub fn anchor(&self, latest: u64) -> Option<u64> {
        self.chain.highest_up_to(latest)
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

    /// How often the served heads were corrected since the start.
    pub fn corrections(&self) -> u64 {
        self.corrections
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
        self.now = now;
        for known in &mut self.upstreams {
            if now - known.reported_at > self.settings.stale_after {
                known.standing = Standing::Unknown;
                known.doubt = None;
            }
            if now >= known.uneven.1 {
                known.uneven.0 = 0;
            }
        }
    }
}

/// Whether an upstream with this standing and latest block has a block of the served chain.
fn has(standing: Standing, latest: u64, number: u64) -> bool {
    matches!(standing, Standing::Current | Standing::Lagging) && latest >= number
}

#[cfg(test)]
mod tests;
