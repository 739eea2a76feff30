//! The only place that counts.
//!
//! An arrival is counted when it is taken up and once more when it ends, as a [`Finished`]; from
//! these everything is counted that a snapshot holds of arrivals. A sink for per-request records
//! takes the same value.

use crate::arrival::Arrival;
use crate::judge::Judgement;
use plimsoll_measure::{Nanos, Requests, RpcCounts, Snapshot};

/// An arrival that has ended.
pub(crate) struct Finished<'a> {
    pub(crate) arrival: &'a Arrival,
    pub(crate) ended_at: Nanos,
    /// The HTTP status of a whole response; `None` when none came.
    pub(crate) status: Option<u16>,
    pub(crate) judgement: Judgement,
}

/// What one worker has counted since its last snapshot.
pub(crate) struct Recorder {
    /// The counts; connections, origins and gauges are kept up to date by the dispatcher.
    pub(crate) counts: Snapshot,
    /// JSON-RPC answers of the warm-up, which are not reported.
    warm_rpc: RpcCounts,
    /// When each stream had its last whole answer.
    last_answer: Vec<Nanos>,
}

impl Recorder {
    pub(crate) fn new(counts: Snapshot) -> Recorder {
        let last_answer = vec![Nanos::ZERO; counts.streams.len()];
        Recorder { counts, warm_rpc: RpcCounts::default(), last_answer }
    }

    /// Counts an arrival that was taken up.
    #[inline]
    pub(crate) fn dispatched(&mut self, arrival: &Arrival) {
        if !arrival.warm {
            let stream = &mut self.counts.streams[arrival.stream as usize];
            stream.dispatched += 1;
            stream.lag.record(arrival.dispatched_at - arrival.scheduled_at);
        }
    }

    /// The first byte of an arrival's exchange was sent.
    #[inline]
    pub(crate) fn sent(&mut self, arrival: &Arrival, now: Nanos) {
        if !arrival.warm {
            self.counts.streams[arrival.stream as usize].last_sent = now;
        }
    }

    /// Where JSON-RPC answers to an arrival are counted.
    pub(crate) fn rpc(&mut self, warm: bool) -> &mut RpcCounts {
        if warm { &mut self.warm_rpc } else { &mut self.counts.rpc }
    }

    /// When a stream had its last whole answer.
    pub(crate) fn last_answer(&self, stream: usize) -> Nanos {
        self.last_answer[stream]
    }

    /// Counts an arrival's end.
    #[inline]
    pub(crate) fn finish(&mut self, finished: &Finished<'_>) {
        let arrival = finished.arrival;
        let outcome = finished.judgement.outcome;
        let sent_at = arrival.sent_at;
        if arrival.warm {
            count_fate(&mut self.counts.warmup, sent_at.is_some(), outcome.is_ok());
            return;
        }
        let latency = finished.ended_at - arrival.scheduled_at;
        let stats = &mut self.counts.stats[arrival.target as usize];
        count_fate(&mut stats.requests, sent_at.is_some(), outcome.is_ok());
        stats.bytes_in += arrival.bytes_in;
        stats.bytes_out += arrival.bytes_out;
        match (outcome, sent_at) {
            (Ok(()), Some(_)) => {
                stats.latency_ok.record(latency);
                stats.service_time_ok.record(arrival.served);
            }
            (Ok(()), None) => unreachable!("an answer follows a request"),
            (Err(why), sent_at) => {
                stats.latency_failed.record(latency);
                if let (Some(_), Some(_)) = (finished.status, sent_at) {
                    stats.service_time_failed.record(arrival.served);
                }
                stats.errors.count(why.class);
                if let Some(fault) = why.fault {
                    self.counts.faults.count(fault);
                }
            }
        }
        let stream = &mut self.counts.streams[arrival.stream as usize];
        stream.wait.record(arrival.wait(finished.ended_at));
        if let Some(status) = finished.status {
            self.counts.status.count(status);
            self.last_answer[arrival.stream as usize] = finished.ended_at;
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
