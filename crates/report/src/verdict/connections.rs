//! The connection limit, by origin: is it too low for the plan, or did the target slow down?
//!
//! # The rule
//! By Little's law `rate × service time` connections are in use on average. In each second in which
//! arrivals were held up at the limit:
//! - The target **slowed down** if this second's mean service time exceeds its own service time by more
//!   than chance and a quarter, or if it answered far fewer requests than the connections in use could
//!   carry. Its own service time is that of exchanges begun below the limit, preferably in seconds in
//!   which nothing was held up.
//! - The limit is **too low** if it is below what the rate needs at the target's own service time; if the
//!   service time stayed flat, also if it leaves no headroom (two standard deviations of a Poisson
//!   number: `needed + 2 √needed`). The fix names a limit with headroom.
//! - Otherwise arrivals came in a **burst**. Consecutive seconds with held-up arrivals share a cause:
//!   those before or after a slow-down or a limit that is too low are its beginning or backlog.
//!
//! Arrivals that seem to wait at a limit that is too low, or that wait before the first answer, are judged
//! again at the end: by the service time of later unhindered seconds, and by the throughput observed at
//! the limit. If overload of the generator makes the run invalid, waits in seconds with overload are
//! attributed to neither side.
//!
//! An arrival counts as held up if its exchange began at the limit after a wait that is not small
//! compared with its stream's latency, or if the wait left too little time for an answer.

mod held_up;
mod service_time;

use super::errors::SILENT_FIX;
use super::{
    Case, DELAY_FLOOR, Found, MATERIAL, NOTABLE, Second, allowed_delay, count_over, share_of,
};
use crate::activity::per_second;
use crate::objectives::percent;
pub(super) use held_up::Starved;
use held_up::{Cause, Demand, Evidence, HeldUp};
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{ErrorClass, FindingId, Nanos, OriginCounts, Severity, Side, StreamLimits};
use plimsoll_plan::{Load, Plan, Target, WebSocketRules};
use service_time::{Assessment, RISE_MIN, ServiceTime};

/// How the users of a closed stream use an origin.
#[derive(Clone)]
struct ClosedShare {
    stream: usize,
    /// The share of their requests sent to this origin.
    part: f64,
    think_time: Nanos,
}

/// The rule for one origin.
#[derive(Clone)]
pub(super) struct OriginRule {
    place: usize,
    name: String,
    /// The plan's limits, if its connections are WebSockets.
    websocket: Option<WebSocketRules>,
    /// The streams that use this origin, each with the share of its requests sent here.
    streams: Vec<(usize, f64)>,
    closed: Vec<ClosedShare>,
    /// Requests that arrivals wanted to send.
    wanted: u64,
    /// From representative seconds…
    service_time: ServiceTime,
    /// …and from all seconds, for runs without any representative one. It may include the generator's own
    /// delay, and so may make the limit look too low, but it never accuses the target.
    of_all_seconds: ServiceTime,
    /// The rate in the last second that had arrivals.
    rate: f64,
    /// The cause of the current sequence of seconds with held-up arrivals.
    cause: Option<Cause>,
    /// Held-up arrivals by [`Cause`].
    held_up: [HeldUp; 3],
    /// Held-up arrivals of a burst whose cause may still change in the next second.
    burst: HeldUp,
    /// Held-up arrivals before the target's first answer; judged at the end.
    unknown: HeldUp,
    /// Held-up arrivals by [`Cause`], in seconds in which the generator was overloaded and in the seconds
    /// right after.
    overloaded: [HeldUp; 3],
    /// Whether the generator was overloaded in the previous second.
    was_overloaded: bool,
    /// Total time that connections were open.
    occupied: Nanos,
    /// Whether arrivals wait for the number of requests in flight rather than for a connection. Those that
    /// wait are not known to the origin, so the rate is that of the plan.
    in_flight: bool,
}

impl OriginRule {
    /// A rule for each origin of the plan.
    pub(super) fn all(plan: &Plan) -> Vec<OriginRule> {
        let origins = plan.origins();
        let names = plan.origin_names().into_iter().enumerate();
        let rule = |(place, name)| {
            // The targets of redirects are not in the plan: any target may lead there.
            let part = |target: &Target| {
                let Some(origin) = origins.get(place) else { return 1.0 };
                let requests = &plan.requests[target.requests.clone()];
                let here = requests.iter().filter(|request| request.origin() == *origin);
                here.count() as f64 / requests.len() as f64
            };
            OriginRule::new(place, name, plan, &part)
        };
        names.map(rule).collect()
    }

    fn new(place: usize, name: String, plan: &Plan, part: &dyn Fn(&Target) -> f64) -> OriginRule {
        let origins = plan.origins();
        let origin = origins.get(place);
        let is_websocket = origin.is_some_and(|own| own.scheme.is_websocket() && !own.stays_open);
        let targets = plan.targets.iter().enumerate();
        let targets: Vec<usize> =
            targets.filter(|(_, target)| part(target) > 0.0).map(|(place, _)| place).collect();
        let mut streams: Vec<usize> = targets.iter().map(|own| plan.targets[*own].stream).collect();
        streams.dedup();
        let part_of = |stream: usize| {
            let all = &plan.targets[plan.streams[stream].targets.clone()];
            let weight = |target: &Target| f64::from(target.weight);
            let here: f64 = all.iter().map(|target| weight(target) * part(target)).sum();
            (stream, here / all.iter().map(weight).sum::<f64>())
        };
        let streams: Vec<(usize, f64)> = streams.into_iter().map(part_of).collect();
        let share = |(stream, part): &(usize, f64)| {
            let Load::Closed { think_time, .. } = plan.streams[*stream].load else { return None };
            Some(ClosedShare { stream: *stream, part: *part, think_time })
        };
        OriginRule {
            place,
            name,
            closed: streams.iter().filter_map(share).collect(),
            websocket: is_websocket.then_some(plan.connections.websocket),
            streams,
            wanted: 0,
            service_time: ServiceTime::new(targets.clone()),
            of_all_seconds: ServiceTime::new(targets),
            rate: 0.0,
            cause: None,
            held_up: Default::default(),
            burst: HeldUp::default(),
            unknown: HeldUp::default(),
            overloaded: Default::default(),
            was_overloaded: false,
            occupied: Nanos::ZERO,
            in_flight: plan.max_in_flight.is_some_and(|max| {
                // Redirects lead to HTTP.
                let origin = origin.or(origins.iter().find(|own| !own.scheme.is_websocket()));
                let (connections, each) =
                    origin.map_or((u64::MAX, 1), |origin| plan.connection_limit(origin));
                max <= connections.saturating_mul(each)
            }),
        }
    }

    /// Adds a second, and subtracts the arrivals that starved at this origin from `errors`.
    pub(super) fn add(&mut self, second: &Second<'_>, errors: &mut Starved) {
        let counts = &second.snapshot.origins[self.place];
        let first = self.wanted == 0;
        self.wanted += counts.wanted;
        let [unsent, timed_out] =
            [ErrorClass::NoConnection, ErrorClass::ResponseTimeout].map(|class| {
                let stats = self.service_time.stats(second);
                stats.map(|stats| stats.errors.get(class)).sum::<u64>()
            });
        self.occupied += counts.occupied;
        let overloaded = second.overloaded || self.was_overloaded;
        self.was_overloaded = second.overloaded;
        let cut_off = timed_out + counts.starved > 0;
        self.service_time.count(counts);
        self.of_all_seconds.count(counts);
        self.of_all_seconds.learn(second, counts, cut_off);
        if second.representative {
            self.service_time.learn(second, counts, cut_off);
        }
        if counts.wanted > 0 && second.seconds.len() > Nanos::ZERO {
            self.rate = per_second(counts.wanted, second.seconds.len());
        }
        if self.in_flight {
            let planned = |(stream, part): &(usize, f64)| {
                second.snapshot.streams[*stream].planned_rate * part
            };
            let open = self.streams.iter().filter(|own| !self.is_closed(own.0));
            let planned: f64 = open.map(planned).sum();
            self.rate = if planned > 0.0 { planned } else { self.rate };
        }
        let held_up_now =
            counts.capped > Nanos::ZERO || counts.starved > 0 || counts.service_capped.count > 0;
        if !held_up_now {
            self.of_all_seconds.learn_unhindered(second, counts);
            if second.representative {
                self.service_time.learn_unhindered(second, counts);
            }
            self.cause = None;
            self.held_up[Cause::Burst as usize].merge(std::mem::take(&mut self.burst));
            return;
        }
        let waited = self.streams.iter().map(|stream| {
            let wait = &second.snapshot.streams[stream.0].wait;
            count_over(wait, allowed_delay(second.latency[stream.0]))
        });
        let (arrivals, starved) = count_held_up(counts, unsent + timed_out, waited.sum());
        let assessment = self.known().assess(second, counts, timed_out);
        let exchanges = self.service_time.exchanges(second, counts, timed_out);
        self.service_time.learn_carried(second, counts, &exchanges);
        self.of_all_seconds.learn_carried(second, counts, &exchanges);
        let demand = self.demand(second);
        let opening = counts.connected.mean().filter(|mean| first && *mean > DELAY_FLOOR);
        let (cause, mut evidence) = self.cause_of(counts, assessment, first, demand);
        evidence.opening = opening.unwrap_or_default();
        let held_up = HeldUp {
            arrivals,
            starved: errors.take(starved),
            seconds: Some(second.seconds),
            worst: Some(evidence),
            demand,
            exchanges,
        };
        if overloaded {
            self.overloaded[cause as usize].merge(held_up);
            return;
        }
        self.cause = Some(cause);
        if evidence.own.is_none() {
            self.unknown.merge(held_up);
            return;
        }
        self.burst.merge(held_up);
        if cause != Cause::Burst {
            self.held_up[cause as usize].merge(std::mem::take(&mut self.burst));
        }
    }

    /// The service times to judge by.
    fn known(&self) -> &ServiceTime {
        if self.service_time.has_learned() { &self.service_time } else { &self.of_all_seconds }
    }

    fn cause_of(
        &self,
        counts: &OriginCounts,
        assessment: Assessment,
        first: bool,
        demand: Demand,
    ) -> (Cause, Evidence) {
        let Assessment { own, risen, stood_still } = assessment;
        let slowed = risen.is_some() || stood_still;
        let connecting = self.service_time.connecting();
        let need = own.map(|own| demand.need(own + connecting)).unwrap_or_default();
        // Headroom is not required while connections are being opened, or after a slow-down.
        let headroom = !(slowed || first || self.cause == Some(Cause::TargetSlowed));
        let rate = demand.rate;
        let (opening, in_flight) = (Nanos::ZERO, self.in_flight);
        let evidence = Evidence {
            limit: counts.limit,
            http2: counts.http2,
            websocket: self.websocket,
            rate,
            own,
            connecting,
            headroom,
            opening,
            risen,
            stood_still,
            need,
            in_flight,
        };
        let cause = if evidence.is_too_low() {
            Cause::LimitTooLow
        } else if slowed {
            Cause::TargetSlowed
        } else {
            self.cause.unwrap_or(Cause::Burst)
        };
        (cause, evidence)
    }

    fn is_closed(&self, stream: usize) -> bool {
        self.closed.iter().any(|share| share.stream == stream)
    }

    /// The plan's demand on this origin in a second.
    fn demand(&self, second: &Second<'_>) -> Demand {
        let streams = &second.snapshot.streams;
        let (mut all, mut open) = (0.0, 0.0);
        for (stream, part) in &self.streams {
            let started = streams[*stream].dispatched as f64 * part;
            all += started;
            open += if self.is_closed(*stream) { 0.0 } else { started };
        }
        // In a second without arrivals, the backlog may belong to streams of either kind.
        let open = if self.closed.is_empty() { 1.0 } else { open / f64::max(all, 1.0) };
        let (mut users, mut think_time) = (0.0, 0.0);
        for share in &self.closed {
            let here = streams[share.stream].planned_rate * share.part;
            users += here;
            think_time += here * share.think_time.as_secs_f64();
        }
        let think_time = Nanos::from_secs_f64(think_time / f64::max(users, 1e-9));
        Demand { rate: self.rate, open: self.rate * open, users, think_time }
    }

    pub(super) fn found(&self, case: &Case<'_>, late: bool) -> Vec<Found> {
        let settled = self.settled(late).0;
        let found = Cause::ALL.into_iter().zip(settled).filter_map(|(cause, held_up)| {
            let worst = held_up.worst.filter(|_| held_up.arrivals > 0)?;
            Some(self.found_for(cause, &held_up, worst, case))
        });
        found.collect()
    }

    /// Held-up arrivals by cause, judged with the data of the whole run; and the arrivals that starved in
    /// seconds whose service times include the generator's delay.
    ///
    /// `late`: whether the generator's lateness makes the run invalid. If so, waits in such seconds are
    /// attributed neither to the limit nor to the target.
    fn settled(&self, late: bool) -> ([HeldUp; 3], Starved) {
        let mut settled = self.held_up.clone();
        settled[Cause::Burst as usize].merge(self.burst.clone());
        let mut spoiled = Starved::default();
        for (own, overloaded) in settled.iter_mut().zip(&self.overloaded) {
            if late {
                spoiled.merge(overloaded.starved);
            } else {
                own.merge(overloaded.clone());
            }
        }
        let mut limit = std::mem::take(&mut settled[Cause::LimitTooLow as usize]);
        let mut cause = Cause::LimitTooLow;
        if let Some(worst) = limit.worst {
            let (judged, evidence) = self.judge_again(&limit, worst);
            (cause, limit.worst) = (judged, Some(evidence));
        }
        settled[cause as usize].merge(limit);
        let mut unknown = self.unknown.clone();
        let own = self.known().of_whole_run(&unknown.exchanges);
        let mut cause = Cause::TargetSlowed;
        if let (Some(worst), Some(_)) = (unknown.worst, own) {
            let (judged, evidence) = self.judge_again(&unknown, Evidence { own, ..worst });
            (cause, unknown.worst) = (judged, Some(evidence));
        }
        settled[cause as usize].merge(unknown);
        let slowed = &mut settled[Cause::TargetSlowed as usize];
        if let Some(worst) = &mut slowed.worst {
            worst.own = worst.own.or_else(|| self.known().of_whole_run(&slowed.exchanges));
        }
        (settled, spoiled)
    }

    /// Judges again whether the limit was too low: by the service time of later unhindered seconds, and by
    /// the throughput observed at the limit.
    fn judge_again(&self, held_up: &HeldUp, worst: Evidence) -> (Cause, Evidence) {
        let known = self.known();
        let connecting = known.connecting();
        let own = [worst.own, known.unhindered_for(&held_up.exchanges)].into_iter().flatten().min();
        let mut own = own.unwrap_or_default();
        if let Some(carried) = known.carried(&held_up.exchanges, worst.limit, own + connecting) {
            let at_most = Nanos::from_secs_f64(worst.limit as f64 / carried);
            own = own.min(Nanos(at_most.0.saturating_sub(connecting.0)));
        }
        let need = held_up.demand.need(own + connecting);
        let rate = held_up.demand.rate;
        let evidence = Evidence { own: Some(own), connecting, need, rate, ..worst };
        if evidence.is_too_low() {
            return (Cause::LimitTooLow, evidence);
        }
        let mean = held_up.exchanges.mean();
        let risen = mean.filter(|mean| mean.0 as f64 > own.0 as f64 * (1.0 + RISE_MIN));
        let stood_still = known.stood_still(&held_up.exchanges, own + connecting);
        let slowed = risen.is_some() || stood_still;
        let cause = if slowed { Cause::TargetSlowed } else { Cause::Burst };
        (cause, Evidence { risen, stood_still: stood_still && risen.is_none(), ..evidence })
    }

    /// Arrivals that starved at this limit: because it is too low, and because the target slowed down.
    pub(super) fn starved(&self, late: bool) -> [Starved; 2] {
        let (settled, spoiled) = self.settled(late);
        let mut limit = settled[Cause::LimitTooLow as usize].starved;
        limit.merge(settled[Cause::Burst as usize].starved);
        limit.merge(spoiled);
        [limit, settled[Cause::TargetSlowed as usize].starved]
    }

    fn found_for(&self, cause: Cause, held_up: &HeldUp, worst: Evidence, case: &Case<'_>) -> Found {
        let share = share_of(held_up.arrivals, self.wanted).min(1.0);
        let to = if case.plan.origins().len() > 1 {
            format!(" to {}", self.name)
        } else {
            String::new()
        };
        let limit = match worst.limit {
            1 if self.in_flight => "until no other was in flight".into(),
            limit if self.in_flight => {
                format!("until fewer than {} were in flight", grouped(limit))
            }
            limit => match worst.http2 {
                Some(http2) => for_a_stream(limit, &http2),
                None => match &worst.websocket {
                    Some(rules) => for_a_call(limit, rules),
                    None if limit == 1 => "for the only connection".into(),
                    None => format!("for one of {} connections", grouped(limit)),
                },
            },
        };
        let mut evidence = format!("{} of the requests{to} waited {limit}", percent(share));
        // Those that waited to start and then timed out were sent.
        let timed_out = if self.in_flight { 0 } else { held_up.starved.timed_out };
        let starved = held_up.starved.unsent + timed_out;
        if starved > 0 {
            let until = if self.in_flight { "sent at all" } else { "answered before the timeout" };
            evidence += &format!(", {} of them too long to be {until}", grouped(starved));
        }
        let silent = cause == Cause::TargetSlowed && self.service_time.is_silent();
        if silent && self.service_time.accepts(self.occupied) {
            evidence += "; the target accepted connections but never answered";
        } else if silent {
            evidence += "; no connection was established in time";
        } else {
            evidence += &format!("; {}", worst.explain(cause));
        }
        let severity = match cause {
            Cause::LimitTooLow if share > MATERIAL => Severity::Invalid,
            Cause::LimitTooLow | Cause::Burst if case.share(starved) > NOTABLE => Severity::Invalid,
            Cause::TargetSlowed => Severity::Warning,
            Cause::LimitTooLow if share > NOTABLE => Severity::Warning,
            Cause::Burst if share > MATERIAL => Severity::Warning,
            Cause::LimitTooLow | Cause::Burst => Severity::Info,
        };
        let (id, side, fix) = match cause {
            Cause::TargetSlowed => {
                let fix = if silent {
                    SILENT_FIX
                } else {
                    "lower the rate, or find out why the target slowed down"
                };
                (FindingId::TargetSaturated, Side::Target, fix.into())
            }
            _ => {
                let id = match worst.peer_limit() {
                    Some(_) => FindingId::PeerStreamLimit,
                    None => FindingId::ConnectionsCapped,
                };
                (id, Side::Generator, case.advise(&worst.fix(held_up.demand)))
            }
        };
        Found { id, severity, side, evidence, fix, seconds: held_up.seconds, share }
    }
}

/// What arrivals waited for that waited for a stream.
fn for_a_stream(limit: u64, http2: &StreamLimits) -> String {
    let connections = counted(http2.connections, "HTTP/2 connection");
    let each = if http2.connections == 1 { "it" } else { "each" };
    let per = match http2.peer.filter(|peer| *peer < http2.streams) {
        Some(peer) => format!("the target allows {} on {each}", grouped(peer)),
        None => format!("{} on {each}", grouped(http2.streams)),
    };
    match limit {
        0 => format!("for a stream ({connections}; {per})"),
        1 => format!("for the only stream ({connections}; {per})"),
        _ => format!("for one of {} streams ({connections}; {per})", grouped(limit)),
    }
}

/// What arrivals waited for that waited to be sent on a WebSocket.
fn for_a_call(limit: u64, rules: &WebSocketRules) -> String {
    let connections = counted(rules.connections, "WebSocket connection");
    let each = if rules.connections == 1 { "it" } else { "each" };
    let calls = grouped(rules.calls);
    format!("for one of {} calls at a time ({connections}; {calls} on {each})", grouped(limit))
}

/// How many arrivals were held up, and how many of these starved.
///
/// If service times vary, an arrival that was sent with some time left may also time out because of its
/// wait: of the arrivals that waited and were not answered, as many count as starved as timed out.
fn count_held_up(counts: &OriginCounts, timed_out: u64, waited: u64) -> (u64, u64) {
    let at_limit = counts.service_capped.count;
    let starved = waited.saturating_sub(at_limit).min(timed_out).max(counts.starved);
    ((at_limit + starved).min(waited.max(starved)), starved)
}
