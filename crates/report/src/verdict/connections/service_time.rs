//! An origin's own service time, and whether the current service time has risen above it.
//!
//! The own service time is the mean over exchanges that began below the connection limit, from seconds in
//! which nothing was held up if there are enough of them. It is compared target by target, because a
//! change in the mix of targets is not a slow-down.

use super::held_up::Exchanges;
use super::{Second, per_second, share_of};
use plimsoll_measure::{Histogram, Nanos, OriginCounts, ServiceSum, Stats};

/// A service time has risen if its mean is higher by this share…
pub(super) const RISE_MIN: f64 = 0.25;
/// …and by this many standard errors.
const RISE_ERRORS: f64 = 3.0;
/// A target stands still if connections are in use for this many times as long as its answers take. If
/// connections are not reused, opening them accounts for part of that.
const STANDSTILL: f64 = 4.0;
/// Minimum number of exchanges for a mean to count as the target's own service time, at a coefficient of
/// variation of 1.
const OWN_MIN: f64 = 20.0;
/// Number of exchanges to average over if hardly any began below the limit; more at a coefficient of
/// variation above 1.
const BLOCK: f64 = 50.0;

/// The service time of an origin, learned over the run.
#[derive(Clone)]
pub(super) struct ServiceTime {
    /// The targets that use the origin.
    targets: Vec<usize>,
    /// All exchanges begun below the limit.
    free: ServiceSum,
    /// Exchanges of seconds in which nothing was held up.
    unhindered: ServiceSum,
    /// Answers of the unhindered seconds, by target.
    by_target: Vec<ServiceSum>,
    /// The block of exchanges being filled, and the lowest mean of a full block.
    block: ServiceSum,
    block_min: Option<Nanos>,
    /// All answers so far.
    all: Histogram,
    /// Established connections, and the number of exchanges.
    connected: ServiceSum,
    exchange_count: u64,
    /// The highest throughput observed at the limit, per second, and the exchanges of that second.
    carried: (f64, Exchanges),
}

/// With at least this many established connections per exchange, connections are not reused.
const NOT_REUSED: f64 = 0.5;
/// Seconds whose answers are distributed more differently over the targets are not compared.
const OTHER_MIX: f64 = 0.2;
/// Observed throughput replaces the computed capacity of a limit if it is higher by this share.
const CARRIED_MORE: f64 = 0.05;

/// Assessment of a second in which arrivals were held up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assessment {
    /// The origin's own service time; `None` if there was never an answer.
    pub(super) own: Option<Nanos>,
    /// The mean service time, if it has risen above `own`.
    pub(super) risen: Option<Nanos>,
    /// Whether the origin answered far fewer requests than the connections in use could have carried.
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
            exchange_count: 0,
            carried: (0.0, Exchanges::default()),
            targets,
        }
    }

    /// The counts of the targets that use the origin.
    pub(super) fn stats<'a>(&'a self, second: &'a Second<'_>) -> impl Iterator<Item = &'a Stats> {
        self.targets.iter().map(|target| &second.snapshot.stats[*target])
    }

    /// Counts exchanges and established connections.
    pub(super) fn count(&mut self, counts: &OriginCounts) {
        self.connected.merge(&counts.connected);
        self.exchange_count += counts.service_free.count + counts.service_capped.count;
    }

    /// Learns from a second. Seconds in which timeouts cut answers off are excluded, because only the fast
    /// answers would be counted.
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
        if self.block.count as f64 >= BLOCK * self.variation().max(1.0).powi(2) {
            let mean = std::mem::take(&mut self.block).mean();
            self.block_min = [self.block_min, mean].into_iter().flatten().min();
        }
    }

    /// Whether it has learned from an exchange.
    pub(super) fn has_learned(&self) -> bool {
        self.free.count + self.block.count > 0 || self.block_min.is_some()
    }

    /// Learns from a second in which nothing was held up.
    pub(super) fn learn_unhindered(&mut self, second: &Second<'_>, counts: &OriginCounts) {
        self.unhindered.merge(&counts.service_free);
        for (target, sum) in self.targets.iter().zip(&mut self.by_target) {
            sum.merge(&answers_of(&second.snapshot.stats[*target]));
        }
    }

    /// Learns the throughput at the limit from a second in which arrivals were held up. Answers to exchanges
    /// that also used their connection in earlier seconds count in proportion to the part in this second;
    /// there are at most as many of these as connections.
    pub(super) fn learn_carried(
        &mut self,
        second: &Second<'_>,
        counts: &OriginCounts,
        exchanges: &Exchanges,
    ) {
        let mut spent = exchanges.service.total;
        let mut used = exchanges.in_use;
        if self.connecting() > Nanos::ZERO {
            spent += counts.connected.total;
            used = used.max(counts.occupied);
        }
        let part = (used.0 as f64 / spent.0.max(1) as f64).min(1.0);
        let answers = exchanges.service.count;
        let within = answers.saturating_sub(counts.limit).max((answers as f64 * part) as u64);
        let carried = per_second(within, second.seconds.len());
        if carried > self.carried.0 {
            self.carried = (carried, exchanges.clone());
        }
    }

    /// The exchanges of a second.
    pub(super) fn exchanges(
        &self,
        second: &Second<'_>,
        counts: &OriginCounts,
        timed_out: u64,
    ) -> Exchanges {
        let mut service = counts.service_free;
        service.merge(&counts.service_capped);
        let by_target = self.stats(second).map(|stats| answers_of(stats).count).collect();
        Exchanges { service, timed_out, in_use: counts.in_use, by_target }
    }

    /// Mean time to connect per exchange; zero if connections are reused.
    pub(super) fn connecting(&self) -> Nanos {
        let each = share_of(self.connected.count, self.exchange_count);
        let mean = self.connected.mean().filter(|_| each >= NOT_REUSED).unwrap_or_default();
        Nanos((mean.0 as f64 * each.min(1.0)) as u64)
    }

    /// The highest throughput observed at the limit for a similar mix of targets, if it is significantly
    /// higher than what connections held for `held` each can carry.
    pub(super) fn carried(&self, of: &Exchanges, limit: u64, held: Nanos) -> Option<f64> {
        let (carried, exchanges) = &self.carried;
        let expected = limit as f64 / held.as_secs_f64().max(1e-9);
        let chance = RISE_ERRORS * self.variation().min(1.0) / expected.sqrt();
        let is_more = *carried > expected * (1.0 + chance.max(CARRIED_MORE));
        (is_more && exchanges.distance(of) <= OTHER_MIX).then_some(*carried)
    }

    /// The own service time for a mix of targets, from unhindered seconds of the whole run; `None` without
    /// enough data.
    pub(super) fn unhindered_for(&self, exchanges: &Exchanges) -> Option<Nanos> {
        let enough = OWN_MIN * self.variation().clamp(0.3, 1.0).powi(2);
        if (self.unhindered.count as f64) < enough {
            return None;
        }
        let mut sum = ServiceSum::default();
        let mut answers = 0;
        for (own, n) in self.by_target.iter().zip(&exchanges.by_target) {
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

    /// The own service time from the data of the whole run; `None` if there was never an answer.
    pub(super) fn of_whole_run(&self, exchanges: &Exchanges) -> Option<Nanos> {
        self.unhindered_for(exchanges).or(self.block_min).or(self.block.mean()).or(self.free.mean())
    }

    /// Whether there was never a complete answer.
    pub(super) fn is_silent(&self) -> bool {
        self.exchange_count == 0
    }

    /// Whether connections were established, as far as known.
    pub(super) fn accepts(&self, occupied: Nanos) -> bool {
        self.connected.count > 0 || occupied == Nanos::ZERO
    }

    /// Whether exchanges used their connections for far longer than answers take.
    pub(super) fn stood_still(&self, exchanges: &Exchanges, own: Nanos) -> bool {
        let &Exchanges { service, timed_out, in_use, .. } = exchanges;
        let answers = Answers { service, variation: self.variation(), timed_out, in_use };
        answers.stand_still(Some(own))
    }

    /// Assesses a second in which arrivals were held up.
    pub(super) fn assess(
        &self,
        second: &Second<'_>,
        counts: &OriginCounts,
        timed_out: u64,
    ) -> Assessment {
        let mut service = counts.service_free;
        service.merge(&counts.service_capped);
        let (variation, in_use) = (self.variation(), counts.in_use);
        let answers = Answers { service, variation, timed_out, in_use };
        let unhindered = answers.is_enough(self.unhindered);
        let known = if unhindered { self.expected(second) } else { Some(self.free) };
        let Some(known) = known else {
            // The own service time of most of the current answers is unknown.
            return Assessment { own: service.mean(), risen: None, stood_still: false };
        };
        let is_known = answers.is_enough(known);
        let rose = is_known && answers.has_risen_above(known);
        let usual = if is_known {
            known.mean()
        } else {
            // Too few exchanges began below the limit, so those that began at it are included.
            self.block_min.or(self.block.mean()).or(known.mean())
        };
        let connecting = self.connecting();
        let stood_still = answers.stand_still(usual.map(|usual| usual + connecting));
        let own = if (rose || stood_still) && !unhindered {
            // Exchanges that began below the limit may already have queued at the target.
            [self.all.min(), usual].into_iter().flatten().min()
        } else {
            usual
        };
        Assessment {
            own,
            risen: answers.mean().filter(|_| rose),
            stood_still: stood_still && !rose,
        }
    }

    /// The service time to expect for the answers of a second, from each target's own service time; `None` if
    /// that is unknown for more than half of the answers.
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

    /// The coefficient of variation of service times; 1 if unknown.
    fn variation(&self) -> f64 {
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

/// The answers and timeouts of a second.
#[derive(Clone, Copy)]
struct Answers {
    /// Service times of complete answers.
    service: ServiceSum,
    /// The coefficient of variation of these service times.
    variation: f64,
    /// Number of exchanges that timed out.
    timed_out: u64,
    /// Total time that connections were in use.
    in_use: Nanos,
}

impl Answers {
    /// Whether there are enough known exchanges for their mean to be reliable.
    fn is_enough(&self, known: ServiceSum) -> bool {
        known.count as f64 >= OWN_MIN * self.variation.max(0.3).powi(2)
    }

    /// The mean service time. If exchanges timed out, at least the mean time that each used its connection,
    /// because answers slower than the timeout are missing from the sum.
    fn mean(&self) -> Option<Nanos> {
        let exchanges = self.service.count + self.timed_out;
        let used = (self.timed_out > 0).then(|| Nanos(self.in_use.0 / exchanges));
        [self.service.mean(), used].into_iter().flatten().max()
    }

    fn has_risen_above(&self, own: ServiceSum) -> bool {
        let (Some(before), Some(mean)) = (own.mean(), self.mean()) else { return false };
        let now = (self.service.count + self.timed_out) as f64;
        let error = self.variation * (1.0 / own.count as f64 + 1.0 / now).sqrt();
        mean.0 as f64 > before.0 as f64 * (1.0 + RISE_MIN.max(RISE_ERRORS * error))
    }

    /// Whether the target answered far fewer requests than the connections in use could have carried.
    fn stand_still(&self, own: Option<Nanos>) -> bool {
        let Some(own) = own else { return true };
        let ended = if self.service.count == 0 { 0 } else { self.service.count + self.timed_out };
        let busy = own.as_secs_f64() * (ended + 1) as f64;
        self.in_use.as_secs_f64() > STANDSTILL * busy
    }
}
