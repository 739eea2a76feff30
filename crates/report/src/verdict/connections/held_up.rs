//! Arrivals held up at a connection limit: their number, the cause, and the text of the finding.

use crate::seconds::Seconds;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{ErrorClass, Nanos, ServiceSum, Snapshot, StreamLimits};
use plimsoll_plan::WebSocketRules;

/// A limit below the need by less than this share does not count as too low.
const TOLERANCE: f64 = 0.05;
/// Headroom above the need, in standard deviations of a Poisson number.
const HEADROOM: f64 = 2.0;

/// Why arrivals were held up at the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    LimitTooLow,
    TargetSlowed,
    Burst,
}

impl Cause {
    pub(super) const ALL: [Cause; 3] = [Cause::LimitTooLow, Cause::TargetSlowed, Cause::Burst];
}

/// Arrivals that were held up by one cause.
#[derive(Clone, Debug, Default)]
pub(super) struct HeldUp {
    pub(super) arrivals: u64,
    /// The part of them whose wait left too little time for an answer.
    pub(super) starved: Starved,
    pub(super) seconds: Option<Seconds>,
    pub(super) worst: Option<Evidence>,
    /// The highest demand of these seconds.
    pub(super) demand: Demand,
    /// All exchanges of these seconds.
    pub(super) exchanges: Exchanges,
}

/// The outcome of the exchanges of one or more seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchanges {
    pub(super) service: ServiceSum,
    pub(super) timed_out: u64,
    /// Total time that connections were in use.
    pub(super) in_use: Nanos,
    /// Complete answers by target.
    pub(super) by_target: Vec<u64>,
}

impl Exchanges {
    fn merge(&mut self, other: &Exchanges) {
        self.service.merge(&other.service);
        self.timed_out += other.timed_out;
        self.in_use += other.in_use;
        self.by_target.resize(self.by_target.len().max(other.by_target.len()), 0);
        self.by_target.iter_mut().zip(&other.by_target).for_each(|(own, n)| *own += n);
    }

    /// Distance between the distributions of answers over the targets: 0 identical, 1 disjoint.
    pub(super) fn distance(&self, other: &Exchanges) -> f64 {
        let part =
            |of: &Exchanges, n: u64| n as f64 / of.by_target.iter().sum::<u64>().max(1) as f64;
        let pairs = self.by_target.iter().zip(&other.by_target);
        pairs.map(|(a, b)| (part(self, *a) - part(other, *b)).abs()).sum::<f64>() / 2.0
    }

    /// The mean service time. If exchanges timed out, at least the mean time that each used its connection.
    pub(super) fn mean(&self) -> Option<Nanos> {
        let exchanges = self.service.count + self.timed_out;
        let used = (self.timed_out > 0).then(|| Nanos(self.in_use.0 / exchanges));
        [self.service.mean(), used].into_iter().flatten().max()
    }
}

impl HeldUp {
    pub(super) fn merge(&mut self, other: HeldUp) {
        self.arrivals += other.arrivals;
        self.starved.merge(other.starved);
        self.demand = self.demand.max(other.demand);
        self.exchanges.merge(&other.exchanges);
        if let Some(seconds) = other.seconds {
            Seconds::widen(&mut self.seconds, seconds);
        }
        self.worst = match (self.worst, other.worst) {
            (Some(own), Some(other)) => Some(own.worse(other)),
            (own, other) => own.or(other),
        };
    }
}

/// Arrivals without an answer that spent their time waiting at a connection limit.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::verdict) struct Starved {
    /// Never sent: `no_connection`.
    pub(in crate::verdict) unsent: u64,
    /// Sent too late: `response_timeout`.
    pub(in crate::verdict) timed_out: u64,
}

impl Starved {
    /// All arrivals of a second that may have starved, by their error class.
    pub(in crate::verdict) fn of(snapshot: &Snapshot) -> Starved {
        let count = |class| snapshot.stats.iter().map(|stats| stats.errors.get(class)).sum();
        Starved {
            unsent: count(ErrorClass::NoConnection),
            timed_out: count(ErrorClass::ResponseTimeout),
        }
    }

    /// Removes and returns `n` arrivals, unsent ones first.
    pub(super) fn take(&mut self, n: u64) -> Starved {
        let unsent = self.unsent.min(n);
        let timed_out = self.timed_out.min(n - unsent);
        (self.unsent, self.timed_out) = (self.unsent - unsent, self.timed_out - timed_out);
        Starved { unsent, timed_out }
    }

    pub(in crate::verdict) fn merge(&mut self, other: Starved) {
        self.unsent += other.unsent;
        self.timed_out += other.timed_out;
    }
}

/// The observations of one second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    pub(super) limit: u64,
    /// What limited the streams, with HTTP/2.
    pub(super) http2: Option<StreamLimits>,
    /// The plan's limits, with WebSocket.
    pub(super) websocket: Option<WebSocketRules>,
    /// Requests per second that arrivals wanted to send.
    pub(super) rate: f64,
    /// The target's own service time.
    pub(super) own: Option<Nanos>,
    /// Time to connect per exchange; zero if connections are reused.
    pub(super) connecting: Nanos,
    /// Whether headroom was required.
    pub(super) headroom: bool,
    /// How long connecting took in the origin's first second; zero if negligible, or in any other second.
    pub(super) opening: Nanos,
    /// The mean service time, if it had risen.
    pub(super) risen: Option<Nanos>,
    /// Whether the target hardly answered at all.
    pub(super) stood_still: bool,
    pub(super) need: Need,
    /// Whether the limit is on requests in flight rather than on connections.
    pub(super) in_flight: bool,
}

/// A plan's demand on an origin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demand {
    /// Requests per second of all streams.
    pub(super) rate: f64,
    /// The part of `rate` from open streams.
    pub(super) open: f64,
    /// Users of closed streams, weighted by the share of their requests sent to the origin.
    pub(super) users: f64,
    /// Their mean think time.
    pub(super) think_time: Nanos,
}

impl Demand {
    fn max(self, other: Demand) -> Demand {
        let most = if other.users > self.users { other } else { self };
        Demand { rate: self.rate.max(other.rate), open: self.open.max(other.open), ..most }
    }

    /// How many connections are needed if each exchange holds one for `held`.
    pub(super) fn need(self, held: Nanos) -> Need {
        let cycle = (held + self.think_time).as_secs_f64().max(1e-9);
        let busy = (held.as_secs_f64() / cycle).min(1.0);
        Need { arrivals: self.open * held.as_secs_f64(), users: self.users * busy }
    }
}

/// How many connections a plan needs on average: for planned arrivals, and for users.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    pub(super) arrivals: f64,
    pub(super) users: f64,
}

impl Need {
    pub(super) fn mean(self) -> f64 {
        self.arrivals + self.users
    }

    /// The need with headroom for planned arrivals. Users need none: their number does not fluctuate.
    pub(super) fn with_headroom(self) -> f64 {
        self.arrivals + HEADROOM * self.arrivals.sqrt() + self.users
    }
}

impl Evidence {
    /// The second whose service time had risen more, or that needed more connections.
    fn worse(self, other: Evidence) -> Evidence {
        let stood_still = self.stood_still || other.stood_still;
        let headroom = self.headroom || other.headroom;
        let opening = self.opening.min(other.opening);
        let weight = |of: &Evidence| (of.risen, Nanos::from_secs_f64(of.need.mean()));
        let worse = if weight(&other) > weight(&self) { other } else { self };
        Evidence { stood_still, headroom, opening, ..worse }
    }

    /// How long an exchange holds its connection.
    pub(super) fn held(&self) -> Nanos {
        self.own.unwrap_or_default() + self.connecting
    }

    /// Whether the limit is below the need.
    pub(super) fn is_too_low(&self) -> bool {
        let limit = self.limit as f64;
        limit < self.need.mean() * (1.0 - TOLERANCE)
            || self.headroom && limit < self.need.with_headroom()
    }

    pub(super) fn explain(&self, cause: Cause) -> String {
        let (own, limit) = (self.own.unwrap_or_default(), self.limit as f64);
        let held = self.held().as_secs_f64().max(1e-9);
        let after = if self.connecting > Nanos::ZERO {
            format!(" after {} of connecting", self.connecting)
        } else {
            String::new()
        };
        let carry = match self.limit {
            _ if self.in_flight || self.websocket.is_some() => "at a time carry",
            1 if self.http2.is_some() => "stream carries",
            _ if self.http2.is_some() => "streams carry",
            1 => "connection carries",
            _ => "connections carry",
        };
        let used = match (&self.http2, &self.websocket) {
            (Some(_), _) => "streams",
            (None, Some(_)) => "calls",
            (None, None) => "connections",
        };
        match cause {
            Cause::LimitTooLow if limit < self.need.mean() => format!(
                "the target answers in {own}{after}, so {} {carry} {}/s of {}/s",
                grouped(self.limit),
                grouped((limit / held).round() as u64),
                grouped(self.rate.max(self.need.mean() / held).round() as u64),
            ),
            Cause::LimitTooLow => format!(
                "the target answers in {own}{after}, so {:.0}/s use {:.1} {used} on average, and more \
                 at peaks",
                self.rate,
                self.need.mean()
            ),
            Cause::TargetSlowed => match (self.own, self.risen) {
                (None, _) => "the target sent no answers on them".into(),
                (Some(own), Some(risen)) => {
                    let still =
                        if self.stood_still { ", and at times it stopped answering" } else { "" };
                    format!("the target's service time rose from {own} to {risen}{still}")
                }
                (Some(own), None) => {
                    format!(
                        "the target usually answers in {own}, but at times it stopped answering"
                    )
                }
            },
            Cause::Burst if self.opening > Nanos::ZERO => format!(
                "they arrived while connections were still being opened, which took {}; the limit is \
                 sufficient for the mean rate",
                self.opening
            ),
            Cause::Burst => {
                "the arrivals came in a burst; the limit is sufficient for the mean rate".into()
            }
        }
    }

    pub(super) fn fix(&self, demand: Demand) -> String {
        // Always suggest at least a quarter more than a limit that was reached. Users alone, without planned
        // arrivals, never need more connections than there are users.
        let limit = self.limit as f64;
        let mut enough = self.need.with_headroom().max(limit * 1.25);
        if self.opening > Nanos::ZERO {
            enough = enough.max(demand.need(self.held() + self.opening).with_headroom());
        }
        if demand.open == 0.0 && demand.users > limit {
            enough = enough.min(demand.users);
        }
        let http2 = match self.http2 {
            _ if self.in_flight => {
                return format!("raise {{max_in_flight}} to {}", round_up(enough));
            }
            None => {
                return match self.websocket {
                    Some(rules) => {
                        let connections = round_up(enough / rules.calls as f64);
                        format!("raise {{websocket.connections}} to {connections}")
                    }
                    None => format!("raise {{connections.max}} to {}", round_up(enough)),
                };
            }
            Some(http2) => http2,
        };
        let connections = round_up(enough / http2.per_connection().max(1) as f64);
        match self.peer_limit() {
            Some(_) => format!(
                "raise {{http2.connections}} to {connections}, or the target's limit of streams per \
                 connection (nginx: http2_max_concurrent_streams, Traefik: maxConcurrentStreams) to {}",
                round_up(enough / http2.connections.max(1) as f64)
            ),
            None => format!("raise {{http2.connections}} to {connections}"),
        }
    }

    /// The most streams that the target allows on a connection, if it is fewer than the plan allows.
    pub(super) fn peer_limit(&self) -> Option<u64> {
        let http2 = self.http2.filter(|_| !self.in_flight)?;
        http2.peer.filter(|peer| *peer < http2.streams)
    }
}

/// Rounds up to a round number: 7, 20, 35, 250.
fn round_up(number: f64) -> u64 {
    let step = match number {
        n if n <= 10.0 => 1.0,
        n => 5.0 * 10f64.powi(n.log10().floor() as i32 - 1),
    };
    ((number / step).ceil() * step) as u64
}
