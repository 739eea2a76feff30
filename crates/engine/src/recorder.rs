//! The only place that counts.
//!
//! Every arrival's end comes here once, as a [`Finished`]; from it everything is counted that a
//! snapshot holds. A sink for per-request records takes the same value.

use crate::exchange::Exchange;
use plimsoll_measure::{ErrorClass, Fault, Nanos, Requests, Snapshot};

/// An arrival whose fate is known.
pub(crate) struct Finished<'a> {
    pub(crate) exchange: &'a Exchange,
    pub(crate) ended_at: Nanos,
    /// Whether a whole response came.
    pub(crate) whole: bool,
    /// The response's HTTP status; 0 when none came.
    pub(crate) status: u16,
    pub(crate) outcome: Result<(), (ErrorClass, Option<Fault>)>,
}

/// What one worker has counted since its last snapshot.
pub(crate) struct Recorder {
    /// The counts; connections and gauges are kept up to date by the dispatcher.
    pub(crate) counts: Snapshot,
}

impl Recorder {
    pub(crate) fn new(counts: Snapshot) -> Recorder {
        Recorder { counts }
    }

    /// Counts an arrival.
    #[inline]
    pub(crate) fn finish(&mut self, finished: &Finished<'_>) {
        let exchange = finished.exchange;
        if exchange.warm {
            count_fate(&mut self.counts.warmup, exchange.was_sent(), finished.outcome.is_ok());
            return;
        }
        let latency = finished.ended_at - exchange.scheduled_at;
        let stats = &mut self.counts.stats[exchange.target as usize];
        count_fate(&mut stats.requests, exchange.was_sent(), finished.outcome.is_ok());
        stats.bytes_in += exchange.bytes_in;
        stats.bytes_out += exchange.bytes_out;
        let service_time = finished.ended_at - exchange.sent_at;
        match finished.outcome {
            Ok(()) => {
                stats.latency_ok.record(latency);
                stats.service_time_ok.record(service_time);
            }
            Err((class, fault)) => {
                stats.latency_failed.record(latency);
                if finished.whole {
                    stats.service_time_failed.record(service_time);
                }
                stats.errors.count(class);
                if let Some(fault) = fault {
                    self.counts.faults.count(fault);
                }
            }
        }
        self.counts.lag.record(exchange.dispatched_at - exchange.scheduled_at);
        if exchange.was_sent() {
            self.counts.wait.record(exchange.sent_at - exchange.dispatched_at);
        }
        if finished.status != 0 {
            self.counts.status.count(finished.status);
        }
    }
}

#[inline]
fn count_fate(requests: &mut Requests, sent: bool, ok: bool) {
    requests.scheduled += 1;
    if sent {
        requests.sent += 1;
        *(if ok { &mut requests.ok } else { &mut requests.failed }) += 1;
    } else {
        requests.unsent += 1;
    }
}
