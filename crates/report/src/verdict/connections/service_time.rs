//! How long an origin's answers take by themselves, and whether they take longer now.
//!
//! The origin's own service time is the mean over exchanges that began below the connection limit:
//! those of seconds in which nothing was held up, if there are enough of them, and compared target by
//! target, because a mix of targets that changes is no target that slows down.

use super::held_up::Came;
use super::{Second, per_second, share_of};
use plimsoll_measure::{Histogram, Nanos, OriginCounts, ServiceSum, Stats};

/// A service time has risen when its mean is higher by this share…
pub(super) const RISE_MIN: f64 = 0.25;
/// …and by this many standard errors.
const RISE_ERRORS: f64 = 3.0;
/// A target stands still when connections are in use for this many times as long as its answers take.
/// Where connections are not reused, opening them accounts for part of that.
const STANDSTILL: f64 = 4.0;
/// With fewer exchanges, of service times that scatter as much as they are large, a mean is not taken
/// for the target's own service time.
const OWN_MIN: f64 = 20.0;
/// Exchanges over which a mean is taken where hardly any began below the limit; more where service
/// times scatter more than they are large.
const BLOCK: f64 = 50.0;

/// What is known of an origin's service time.
pub(super) struct ServiceTime {
    /// The statistics names that send there.
    targets: Vec<usize>,
    /// Exchanges begun below the limit.
    free: ServiceSum,
    /// Those of seconds in which nothing was held up.
    unhindered: ServiceSum,
    /// All answers of these seconds, by target.
    by_target: Vec<ServiceSum>,
    /// The block of exchanges that is being filled, and the lowest mean of a full one.
    block: ServiceSum,
    block_min: Option<Nanos>,
    /// All answers so far.
    all: Histogram,
    /// Connections that were established, and exchanges.
    connected: ServiceSum,
    exchanges: u64,
    /// The most that the limit was seen to carry per second, and in what second.
    carried: (f64, Came),
}

/// Where at least this many connections are established for each exchange, they are not reused.
const NOT_REUSED: f64 = 0.5;
/// Seconds whose answers are distributed more differently over the targets are not compared.
const OTHER_MIX: f64 = 0.2;
/// A limit carries more than was computed when it is more by this share.
const CARRIED_MORE: f64 = 0.05;

/// What a second in which arrivals were held up shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    /// The origin's own service time; `None` when there was never an answer.
    pub(super) own: Option<Nanos>,
    /// The mean service time, where it has risen above that.
    pub(super) risen: Option<Nanos>,
    /// It answered far less than the connections in use would have carried.
    pub(super) stood_still: bool,
}

impl ServiceTime {
    pub(super) fn new(targets: Vec<usize>) -> ServiceTime {
        ServiceTime {
            free: ServiceSum::default(),
            unhindered: ServiceSum::default(),
            by_target: vec![ServiceSum::default(); targets.len()],
            block: ServiceSum::default(),
            block_min: None,
            all: Histogram::new(),
            connected: ServiceSum::default(),
            exchanges: 0,
            carried: (0.0, Came::default()),
            targets,
        }
    }

    /// What was counted of the targets that send here.
    pub(super) fn stats<'a>(&'a self, second: &'a Second<'_>) -> impl Iterator<Item = &'a Stats> {
        self.targets.iter().map(|target| &second.snapshot.stats[*target])
    }

    /// Counts exchanges, and the connections that were established for them.
    pub(super) fn count(&mut self, counts: &OriginCounts) {
        self.connected.merge(&counts.connected);
        self.exchanges += counts.service_free.count + counts.service_capped.count;
    }

    /// Learns from a second. Where timeouts cut answers off, only the fast ones are seen: such
    /// seconds say nothing of the usual time.
    pub(super) fn learn(&mut self, second: &Second<'_>, counts: &OriginCounts, cut_off: bool) {
        self.free.merge(&counts.service_free);
        if cut_off {
            return;
        }
        for target in &self.targets {
            let stats = &second.snapshot.stats[*target];
            self.all.merge(&stats.service_time_ok);
            self.all.merge(&stats.service_time_failed);
        }
        self.block.merge(&counts.service_free);
        self.block.merge(&counts.service_capped);
        if self.block.count as f64 >= BLOCK * self.scatter().max(1.0).powi(2) {
            let mean = std::mem::take(&mut self.block).mean();
            self.block_min = [self.block_min, mean].into_iter().flatten().min();
        }
    }

    /// Learns from a second in which nothing was held up.
    pub(super) fn learn_unhindered(&mut self, second: &Second<'_>, counts: &OriginCounts) {
        self.unhindered.merge(&counts.service_free);
        for (target, sum) in self.targets.iter().zip(&mut self.by_target) {
            sum.merge(&answers_of(&second.snapshot.stats[*target]));
        }
    }

    /// Learns from a second in which arrivals were held up what the limit carries. Answers to
    /// exchanges that used their connection in the seconds before count for the part that lies in
    /// this second; they are at most as many as there are connections.
    pub(super) fn learn_carried(
        &mut self,
        second: &Second<'_>,
        counts: &OriginCounts,
        came: &Came,
    ) {
        let mut spent = came.service.total;
        let mut used = came.in_use;
        if self.connecting() > Nanos::ZERO {
            spent += counts.connected.total;
            used = used.max(counts.occupied);
        }
        let part = (used.0 as f64 / spent.0.max(1) as f64).min(1.0);
        let answers = came.service.count;
        let within = answers.saturating_sub(counts.limit).max((answers as f64 * part) as u64);
        let carried = per_second(within, second.seconds.len());
        if carried > self.carried.0 {
            self.carried = (carried, came.clone());
        }
    }

    /// What came of the exchanges of a second.
    pub(super) fn came(&self, second: &Second<'_>, counts: &OriginCounts, timed_out: u64) -> Came {
        let mut service = counts.service_free;
        service.merge(&counts.service_capped);
        let by_target = self.stats(second).map(|stats| answers_of(stats).count).collect();
        Came { service, timed_out, in_use: counts.in_use, by_target }
    }

    /// How long connecting takes for each exchange; zero where connections are reused.
    pub(super) fn connecting(&self) -> Nanos {
        let each = share_of(self.connected.count, self.exchanges);
        let mean = self.connected.mean().filter(|_| each >= NOT_REUSED).unwrap_or_default();
        Nanos((mean.0 as f64 * each.min(1.0)) as u64)
    }

    /// The most that the limit was seen to carry per second, of such a mix of targets, where that is
    /// more, and not by chance, than connections held for `held` each can carry.
    pub(super) fn carried(&self, of: &Came, limit: u64, held: Nanos) -> Option<f64> {
        let (carried, came) = &self.carried;
        let expected = limit as f64 / held.as_secs_f64().max(1e-9);
        let chance = RISE_ERRORS * self.scatter().min(1.0) / expected.sqrt();
        let is_more = *carried > expected * (1.0 + chance.max(CARRIED_MORE));
        (is_more && came.distance(of) <= OTHER_MIX).then_some(*carried)
    }

    /// The usual time of such a mix of targets, by what is known of unhindered seconds of the whole
    /// run; `None` where that is too little.
    pub(super) fn unhindered_for(&self, came: &Came) -> Option<Nanos> {
        let enough = OWN_MIN * self.scatter().clamp(0.3, 1.0).powi(2);
        if (self.unhindered.count as f64) < enough {
            return None;
        }
        let mut sum = ServiceSum::default();
        let mut answers = 0;
        for (own, n) in self.by_target.iter().zip(&came.by_target) {
            answers += n;
            if let Some(mean) = own.mean().filter(|_| own.count as f64 >= enough) {
                sum.merge(&ServiceSum { count: *n, total: Nanos(mean.0 * n) });
            }
        }
        if answers == 0 {
            return self.unhindered.mean();
        }
        sum.mean().filter(|_| 2 * sum.count >= answers)
    }

    /// The usual time by what is known at the end; `None` when there was never an answer.
    pub(super) fn of_whole_run(&self, came: &Came) -> Option<Nanos> {
        self.unhindered_for(came).or(self.block_min).or(self.block.mean()).or(self.free.mean())
    }

    /// Whether there was never a whole answer.
    pub(super) fn is_silent(&self) -> bool {
        self.exchanges == 0
    }

    /// Whether connections were established, as far as that was counted.
    pub(super) fn accepts(&self, occupied: Nanos) -> bool {
        self.connected.count > 0 || occupied == Nanos::ZERO
    }

    /// Whether such exchanges used their connections for far longer than such answers take.
    pub(super) fn stood_still(&self, came: &Came, own: Nanos) -> bool {
        let (scatter, timed_out) = (self.scatter(), came.timed_out);
        let answers = Answers { service: came.service, scatter, timed_out, in_use: came.in_use };
        answers.stand_still(Some(own))
    }

    /// What a second in which arrivals were held up shows.
    pub(super) fn shown(
        &self,
        second: &Second<'_>,
        counts: &OriginCounts,
        timed_out: u64,
    ) -> Shown {
        let mut service = counts.service_free;
        service.merge(&counts.service_capped);
        let (scatter, in_use) = (self.scatter(), counts.in_use);
        let answers = Answers { service, scatter, timed_out, in_use };
        let unhindered = answers.is_enough(self.unhindered);
        let known = if unhindered { self.expected(second) } else { Some(self.free) };
        let Some(known) = known else {
            // Of most that is sent now it is not known how long it takes by itself.
            return Shown { own: service.mean(), risen: None, stood_still: false };
        };
        let is_known = answers.is_enough(known);
        let rose = is_known && answers.has_risen_above(known);
        let usual = if is_known {
            known.mean()
        } else {
            // Taken to be the same whenever it began: the more values the better.
            self.block_min.or(self.block.mean()).or(known.mean())
        };
        let connecting = self.connecting();
        let stood_still = answers.stand_still(usual.map(|usual| usual + connecting));
        let own = if (rose || stood_still) && !unhindered {
            // What began below the limit has queued at the target already.
            [self.all.min(), usual].into_iter().flatten().min()
        } else {
            usual
        };
        Shown { own, risen: answers.mean().filter(|_| rose), stood_still: stood_still && !rose }
    }

    /// The service time to be expected of the answers of a second, each target's being its own;
    /// `None` where more than half are of targets whose own is not known.
    fn expected(&self, second: &Second<'_>) -> Option<ServiceSum> {
        let (mut all, mut known) = (ServiceSum::default(), 0);
        for (stats, own) in self.stats(second).zip(&self.by_target) {
            let now = answers_of(stats);
            let mean = own.mean().filter(|_| own.count as f64 >= OWN_MIN).inspect(|_| {
                known += now.count;
            });
            let mean = mean.or(now.mean()).unwrap_or_default();
            all.merge(&ServiceSum { count: now.count, total: Nanos(mean.0 * now.count) });
        }
        let Some(mean) = all.mean() else { return Some(self.unhindered) };
        let count = self.unhindered.count;
        (2 * known >= all.count).then_some(ServiceSum { count, total: Nanos(mean.0 * count) })
    }

    /// How much service times scatter, as a part of their mean; as much as they are large where it
    /// cannot be known.
    fn scatter(&self) -> f64 {
        match (self.all.mean(), self.all.deviation()) {
            (Some(mean), Some(deviation)) if self.all.count() > 1 => {
                deviation.0 as f64 / mean.0.max(1) as f64
            }
            _ => 1.0,
        }
    }
}

fn answers_of(stats: &Stats) -> ServiceSum {
    let mut sum = ServiceSum::default();
    for histogram in [&stats.service_time_ok, &stats.service_time_failed] {
        let mean = histogram.mean().unwrap_or_default();
        let count = histogram.count();
        sum.merge(&ServiceSum { count, total: Nanos(mean.0 * count) });
    }
    sum
}

/// What came of exchanges in a second.
#[derive(Clone, Copy)]
struct Answers {
    /// Of whole answers.
    service: ServiceSum,
    /// The standard deviation of these service times, as a part of their mean.
    scatter: f64,
    /// Exchanges that timed out.
    timed_out: u64,
    /// Connection-time in use.
    in_use: Nanos,
}

impl Answers {
    /// Whether these are enough exchanges for their mean to be relied on.
    fn is_enough(&self, known: ServiceSum) -> bool {
        known.count as f64 >= OWN_MIN * self.scatter.max(0.3).powi(2)
    }

    /// The mean service time. Where exchanges timed out it is at least as long as each used its
    /// connection: answers that would have taken longer than the timeout are not among the answers.
    fn mean(&self) -> Option<Nanos> {
        let exchanges = self.service.count + self.timed_out;
        let used = (self.timed_out > 0).then(|| Nanos(self.in_use.0 / exchanges));
        [self.service.mean(), used].into_iter().flatten().max()
    }

    fn has_risen_above(&self, own: ServiceSum) -> bool {
        let (Some(before), Some(mean)) = (own.mean(), self.mean()) else { return false };
        let now = (self.service.count + self.timed_out) as f64;
        let error = self.scatter * (1.0 / own.count as f64 + 1.0 / now).sqrt();
        mean.0 as f64 > before.0 as f64 * (1.0 + RISE_MIN.max(RISE_ERRORS * error))
    }

    /// Whether the target answered far less than the connections in use would have carried.
    fn stand_still(&self, own: Option<Nanos>) -> bool {
        let Some(own) = own else { return true };
        let ended = if self.service.count == 0 { 0 } else { self.service.count + self.timed_out };
        let busy = own.as_secs_f64() * (ended + 1) as f64;
        self.in_use.as_secs_f64() > STANDSTILL * busy
    }
}
