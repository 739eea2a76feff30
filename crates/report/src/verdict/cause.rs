//! Why the generator was late: what the host did to it in the seconds with late arrivals or answers.
//!
//! Lateness itself is judged in `lateness`; it is an effect, and this module names its cause. Each second
//! with late arrivals has one cause, the first of these that explains at least half of the second's
//! longest delay:
//!
//! 1. The control group was out of CPU time (`cpu_throttled`).
//! 2. A worker used a CPU for more than four fifths of the second (`cpu_saturated`).
//! 3. A worker was ready to run, and its CPU did something else (`cpu_contended`).
//! 4. The hypervisor gave the CPU to another machine (`host_noise`).
//! 5. None of them: the process was stopped, or the whole host was (`host_noise`).
//!
//! Lateness of other programs' making that is too rare to spoil the figures is `host_noise`, whatever its
//! cause: every shared host has some.

use super::{Case, Found, Second};
use crate::objectives::percent;
use crate::seconds::Seconds;
use plimsoll_measure::units::counted;
use plimsoll_measure::{FindingId, Nanos, Severity, Side, Snapshot, Throttled};

/// A worker that uses a CPU for a larger share of the time is overloaded: the rest of a second is too
/// short for it to catch up with arrivals that come unevenly.
const SATURATED: f64 = 0.8;
/// A worker that is busier than this has no headroom left, even if nothing was late yet.
const NO_HEADROOM: f64 = 0.9;

/// Why arrivals or answers of a second were late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LateCause {
    Throttled,
    Saturated,
    Contended,
    Stolen,
    Paused,
}

/// The number of [`LateCause`]s.
pub(super) const CAUSES: usize = 5;

impl LateCause {
    const ALL: [LateCause; CAUSES] = [
        LateCause::Throttled,
        LateCause::Saturated,
        LateCause::Contended,
        LateCause::Stolen,
        LateCause::Paused,
    ];

    fn id(self) -> FindingId {
        match self {
            LateCause::Throttled => FindingId::CpuThrottled,
            LateCause::Saturated => FindingId::CpuSaturated,
            LateCause::Contended => FindingId::CpuContended,
            LateCause::Stolen | LateCause::Paused => FindingId::HostNoise,
        }
    }

    /// The cause with the most late arrivals; `None` if none is known.
    pub(super) fn main(late: &[f64; CAUSES]) -> Option<LateCause> {
        let most = LateCause::ALL
            .into_iter()
            .max_by(|a, b| late[*a as usize].total_cmp(&late[*b as usize]));
        most.filter(|most| late[*most as usize] > 0.0)
    }

    /// What to do about it.
    pub(super) fn fix(self, case: &Case<'_>) -> String {
        match self {
            LateCause::Throttled => {
                "raise the control group's CPU quota (docker run --cpus, Kubernetes limits.cpu, systemd \
                 CPUQuota), or lower the rate"
                    .into()
            }
            LateCause::Saturated => case.more_cpu(),
            LateCause::Contended => "stop other programs on this host, reserve CPUs for the generator \
                                 (taskset, cpuset), or use another host, and run again"
                .into(),
            LateCause::Stolen => {
                "use a host whose CPUs are not shared with other virtual machines, and run again".into()
            }
            LateCause::Paused => "run again; if it recurs, look for what stops the process (SIGSTOP, a \
                              debugger) or the host (snapshots, live migration, suspend)"
                .into(),
        }
    }
}

/// The share of a CPU that the busiest worker used in a second, without spinning; 0 to 1.
pub(super) fn busy_share(snapshot: &Snapshot, span: Nanos) -> f64 {
    let share = |time: Nanos| time.0 as f64 / span.0.max(1) as f64;
    let awake = share(snapshot.workers.busy_max);
    // A worker that is awake need not have a CPU, and one that has a CPU may be spinning.
    let cpus = snapshot.host.workers.iter().map(|worker| share(worker.cpu));
    cpus.reduce(f64::max).map_or(awake, |cpu| awake.min(cpu)).min(1.0)
}

/// What the host did to the generator in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    throttled: Throttled,
    /// The largest share of a CPU that a worker used, 0 to 1.
    busy: f64,
    /// The longest time a worker waited for a CPU, and the worker's number.
    run_delay: (Nanos, usize),
    /// Time that the hypervisor took, per CPU.
    stolen: Nanos,
    /// Share of the host's CPU time that the hypervisor took, 0 to 1.
    steal: f64,
    /// The longest time in which a worker did not poll its sockets.
    pause: Nanos,
}

impl Reading {
    fn of(snapshot: &Snapshot, span: Nanos) -> Reading {
        let host = &snapshot.host;
        let run_delay =
            host.workers.iter().enumerate().map(|(at, worker)| (worker.run_delay, at)).max();
        let steal = host.cpus.map_or(0.0, |cpus| cpus.share(cpus.steal));
        Reading {
            throttled: host.throttled.unwrap_or_default(),
            busy: busy_share(snapshot, span),
            run_delay: run_delay.unwrap_or_default(),
            stolen: Nanos((steal * span.0 as f64) as u64),
            steal,
            pause: snapshot.workers.pause_max,
        }
    }

    /// The cause of a delay in this second.
    fn cause(&self, worst: Nanos) -> LateCause {
        let explains = |time: Nanos| time.0 >= worst.0.div_ceil(2);
        if self.throttled.periods > 0 && explains(self.throttled.time) {
            LateCause::Throttled
        } else if self.busy > SATURATED {
            LateCause::Saturated
        } else if explains(self.run_delay.0) {
            LateCause::Contended
        } else if explains(self.stolen) {
            LateCause::Stolen
        } else {
            LateCause::Paused
        }
    }
}

/// The cause of lateness in a second, given the longest delay in it; `None` if the snapshot does not say
/// what the host did, and the generator was not overloaded.
pub(super) fn of(second: &Second<'_>, worst: Nanos) -> Option<LateCause> {
    let snapshot = second.snapshot;
    let cause = Reading::of(snapshot, second.seconds.len()).cause(worst);
    (cause == LateCause::Saturated || !snapshot.host.workers.is_empty()).then_some(cause)
}

/// The readings of the late seconds, by cause.
#[derive(Clone, Default)]
pub(super) struct CauseRule {
    seen: [Seen; CAUSES],
    /// Arrivals in seconds in which a worker had no headroom, and those seconds.
    saturated: (u64, Option<Seconds>),
}

#[derive(Clone, Copy, Default)]
struct Seen {
    throttled: Throttled,
    /// The worst second's.
    worst: Reading,
}

impl CauseRule {
    /// Adds a second; `cause` is the one of its lateness, if anything was late.
    pub(super) fn add(&mut self, second: &Second<'_>, cause: Option<LateCause>) {
        let reading = Reading::of(second.snapshot, second.seconds.len());
        if reading.busy > NO_HEADROOM {
            self.saturated.0 += second.snapshot.total().requests.scheduled;
            Seconds::widen(&mut self.saturated.1, second.seconds);
        }
        if let Some(cause) = cause {
            let seen = &mut self.seen[cause as usize];
            seen.throttled.add(&reading.throttled);
            let size = |reading: &Reading| match cause {
                LateCause::Throttled => reading.throttled.time.0 as f64,
                LateCause::Saturated => reading.busy,
                LateCause::Contended => reading.run_delay.0.0 as f64,
                LateCause::Stolen => reading.steal,
                LateCause::Paused => reading.pause.0 as f64,
            };
            if size(&reading) >= size(&seen.worst) {
                seen.worst = reading;
            }
        }
    }

    fn evidence(&self, cause: LateCause) -> String {
        let Seen { throttled, worst } = &self.seen[cause as usize];
        match cause {
            LateCause::Throttled => format!(
                "the control group's CPU limit stopped the generator {}, for {} in all",
                match throttled.periods {
                    1 => "once".into(),
                    n => format!("{n} times"),
                },
                throttled.time
            ),
            LateCause::Saturated => {
                format!(
                    "a worker was busy {} of the time in the busiest second",
                    percent(worst.busy)
                )
            }
            LateCause::Contended => format!(
                "worker {} waited {} in one second for a CPU that other work was using",
                worst.run_delay.1, worst.run_delay.0
            ),
            LateCause::Stolen => format!(
                "the hypervisor gave {} of this host's CPU time to other virtual machines in one second",
                percent(worst.steal)
            ),
            LateCause::Paused => format!(
                "the generator did not run for up to {}, although no other work had its CPU: the process \
                 or its host was stopped",
                worst.pause
            ),
        }
    }

    /// Puts the causes of lateness before the findings on it. Lateness that does not make the run invalid
    /// and that the generator is not the cause of becomes `host_noise`.
    pub(super) fn explain(
        &self,
        case: &Case<'_>,
        late: Vec<(Found, Option<LateCause>)>,
    ) -> Vec<Found> {
        let mut noise: Option<Found> = None;
        let mut causes: Vec<Found> = Vec::new();
        let mut effects = Vec::new();
        for (found, cause) in late {
            let is_own = cause
                .is_none_or(|cause| matches!(cause, LateCause::Throttled | LateCause::Saturated));
            let is_noise = match found.severity {
                Severity::Info => true,
                Severity::Warning => !is_own,
                Severity::Invalid => false,
            };
            if is_noise {
                let why =
                    cause.map_or(String::new(), |cause| format!("; {}", self.evidence(cause)));
                let own = Found {
                    id: FindingId::HostNoise,
                    evidence: found.evidence + &why,
                    fix: match found.severity {
                        Severity::Info => "nothing: these are too few to change the figures".into(),
                        _ => cause.map_or(found.fix, |cause| cause.fix(case)),
                    },
                    ..found
                };
                match &mut noise {
                    Some(noise) => noise.absorb(own),
                    None => noise = Some(own),
                }
                continue;
            }
            if let Some(cause) = cause {
                let own = Found {
                    id: cause.id(),
                    severity: found.severity,
                    side: Side::Generator,
                    evidence: self.evidence(cause),
                    fix: cause.fix(case),
                    seconds: found.seconds,
                    share: found.share,
                };
                match causes.iter_mut().find(|cause| cause.id == own.id) {
                    Some(known) => known.absorb(own),
                    None => causes.push(own),
                }
            }
            effects.push(found);
        }
        causes.into_iter().chain(effects).chain(noise).collect()
    }

    /// `cpu_saturated` without lateness: the rate, or the rate that users reach, is the generator's.
    pub(super) fn saturated(&self, case: &Case<'_>) -> Option<Found> {
        let (arrivals, seconds) = self.saturated;
        (arrivals > 0).then(|| Found {
            id: FindingId::CpuSaturated,
            severity: Severity::Warning,
            side: Side::Generator,
            evidence: format!(
                "a worker was busy more than {} of the time while {} ended; the target may be able to \
                 answer more than the generator can send",
                percent(NO_HEADROOM),
                counted(arrivals, "request")
            ),
            fix: case.more_cpu(),
            seconds,
            share: case.share(arrivals),
        })
    }
}
