//! Counts arrivals; no other module does.
//!
//! An arrival is counted when it is dispatched and again when it ends, as a [`Finished`], of which a sample
//! is made if arrivals are recorded.

use crate::arrival::Arrival;
use crate::judge::Judgement;
use crate::sampling::Sampling;
use plimsoll_measure::samples::{Kind, Sample, Stayed};
use plimsoll_measure::{MessageCounts, Nanos, Order, Requests, RpcCounts, Snapshot, SplitValue};

/// An arrival that has ended.
pub(crate) struct Finished<'a> {
    pub(crate) arrival: &'a Arrival,
    pub(crate) ended_at: Nanos,
    /// The HTTP status of a complete response, zero over WebSocket; `None` if there was none.
    pub(crate) status: Option<u16>,
    pub(crate) judgement: Judgement,
    /// The serial number of its last connection.
    pub(crate) connection: Option<u64>,
}

/// The counts of one worker since its last snapshot.
pub(crate) struct Recorder {
    /// The counts; the dispatcher updates connections, origins and gauges.
    pub(crate) counts: Snapshot,
    /// JSON-RPC answers during the warm-up, which are not reported.
    warm_rpc: RpcCounts,
    /// By stream, the time of its last complete answer.
    last_answer: Vec<Nanos>,
    /// If arrivals are recorded.
    sampling: Option<Sampling>,
}

impl Recorder {
    pub(crate) fn new(counts: Snapshot, sampling: Option<Sampling>) -> Recorder {
        let last_answer = vec![Nanos::ZERO; counts.streams.len()];
        Recorder { counts, warm_rpc: RpcCounts::default(), last_answer, sampling }
    }

    /// Returns the counts and continues in `fresh`; passes on the samples so far.
    pub(crate) fn take(&mut self, fresh: Snapshot) -> Snapshot {
        if let Some(sampling) = &mut self.sampling {
            self.counts.samples_dropped += sampling.end_second();
        }
        std::mem::replace(&mut self.counts, fresh)
    }

    /// Counts a dispatched arrival.
    #[inline]
    pub(crate) fn dispatched(&mut self, arrival: &Arrival) {
        if !arrival.warm {
            let stream = &mut self.counts.streams[arrival.stream as usize];
            stream.dispatched += 1;
            stream.lag.record(arrival.dispatched_at - arrival.scheduled_at);
        }
    }

    /// Records that the first byte of an arrival's exchange was sent.
    #[inline]
    pub(crate) fn sent(&mut self, arrival: &Arrival, now: Nanos) {
        if !arrival.warm {
            self.counts.streams[arrival.stream as usize].last_sent = now;
        }
    }

    /// Counts an exchange that stays open and has opened; whether it replaces an earlier one.
    pub(crate) fn opened(&mut self, arrival: &Arrival, reopened: bool, now: Nanos) {
        let messages = self.messages(arrival.target);
        messages.opened += 1;
        messages.reopened += u64::from(reopened);
        messages.opening.record(now - arrival.scheduled_at);
        self.last_answer[arrival.stream as usize] = now;
    }

    /// Counts a message: its place and size, whether it is the first of its exchange, the time since the
    /// opening or the message before, when it was read and its own timestamp, and the time since the first
    /// receipt.
    #[inline]
    pub(crate) fn received(
        &mut self,
        target: u32,
        (order, bytes): (Order, u64),
        (is_first, since): (bool, Nanos),
        (stamp, spread): (Option<(Nanos, Nanos)>, Option<Nanos>),
    ) {
        let messages = self.messages(target);
        messages.count(order, bytes);
        if is_first { &mut messages.first } else { &mut messages.interval }.record(since);
        // A repetition is late by intention.
        if order == Order::Duplicate {
            return;
        }
        if let Some((read_at, unix)) = stamp {
            messages.count_lag(read_at, unix);
        }
        if let Some(spread) = spread {
            messages.spread.record(spread);
        }
    }

    /// Counts a message that belongs to no subscription.
    pub(crate) fn unmatched(&mut self, target: u32, bytes: u64) {
        self.messages(target).count_unmatched(bytes);
    }

    /// Counts a silence that is longer than the plan allows.
    pub(crate) fn silent(&mut self, target: u32) {
        self.messages(target).silences += 1;
    }

    /// Counts a comment in an event stream.
    pub(crate) fn heartbeat(&mut self, target: u32) {
        self.messages(target).heartbeats += 1;
    }

    pub(crate) fn pinged(&mut self, target: u32) {
        self.messages(target).pings += 1;
    }

    pub(crate) fn ponged(&mut self, target: u32, took: Nanos) {
        self.messages(target).pong.record(took);
    }

    #[inline]
    fn messages(&mut self, target: u32) -> &mut MessageCounts {
        self.counts.stats[target as usize].messages_mut()
    }

    /// The counts for JSON-RPC answers to an arrival.
    pub(crate) fn rpc(&mut self, warm: bool) -> &mut RpcCounts {
        if warm { &mut self.warm_rpc } else { &mut self.counts.rpc }
    }

    /// Counts an arrival's last answer by the value of its stream's header.
    #[inline]
    pub(crate) fn split(&mut self, arrival: &Arrival, value: Option<&SplitValue>) {
        if !arrival.warm {
            self.counts.streams[arrival.stream as usize].split.add(value, 1);
        }
    }

    /// The time of a stream's last complete answer.
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
            count_outcome(&mut self.counts.warmup, sent_at.is_some(), outcome.is_ok());
            return;
        }
        if let Some(sampling) = &mut self.sampling
            && (outcome.is_err() || sampling.records_ok())
        {
            self.counts.samples_dropped += sampling.push(sample(finished));
        }
        // Of what stays open, the latency is that of its opening.
        let opened_at = arrival.held.as_ref().map(|held| held.opened_at);
        let latency = opened_at.unwrap_or(finished.ended_at) - arrival.scheduled_at;
        let stats = &mut self.counts.stats[arrival.target as usize];
        count_outcome(&mut stats.requests, sent_at.is_some(), outcome.is_ok());
        stats.bytes_in += arrival.bytes_in;
        stats.bytes_out += arrival.bytes_out;
        if opened_at.is_some() {
            let messages = stats.messages_mut();
            *(if outcome.is_ok() { &mut messages.kept } else { &mut messages.dropped }) += 1;
        }
        match (outcome, sent_at) {
            (Ok(()), Some(_)) => {
                stats.latency_ok.record(latency);
                stats.service_time_ok.record(arrival.served);
            }
            (Ok(()), None) => unreachable!("an ok arrival was sent"),
            (Err(cause), sent_at) => {
                stats.latency_failed.record(latency);
                if let (Some(_), Some(_)) = (finished.status, sent_at) {
                    stats.service_time_failed.record(arrival.served);
                }
                stats.errors.count(cause.class);
                if let Some(fault) = cause.fault {
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

/// The record of an arrival.
#[inline]
fn sample(finished: &Finished<'_>) -> Sample {
    let Finished { arrival, ended_at, status, judgement, connection } = *finished;
    let held = arrival.held.as_ref();
    let stayed =
        held.map(|held| Stayed { open_for: ended_at - held.opened_at, messages: held.received });
    let ended_at = held.map_or(ended_at, |held| held.opened_at);
    let lag = arrival.dispatched_at - arrival.scheduled_at;
    let wait = arrival.wait(ended_at);
    let exchange = &arrival.exchange;
    let ttfb = exchange.first_byte_at.zip(exchange.sent_at).map(|(first, sent)| first - sent);
    let cause = judgement.outcome.err();
    Sample {
        scheduled_at: arrival.scheduled_at,
        lag,
        wait,
        flight: ended_at - arrival.scheduled_at - lag - wait,
        ttfb,
        bytes_in: arrival.bytes_in,
        bytes_out: arrival.bytes_out,
        connection: connection.map(|serial| serial as u32),
        kind: Kind {
            target: arrival.target,
            error: cause.map(|cause| cause.class),
            fault: cause.and_then(|cause| cause.fault),
            status: status.filter(|status| *status > 0),
            rpc_code: judgement.rpc_code,
            sent: arrival.sent_at.is_some(),
        },
        stayed,
    }
}

#[inline]
fn count_outcome(requests: &mut Requests, sent: bool, ok: bool) {
    requests.scheduled += 1;
    if sent {
        requests.sent += 1;
        *(if ok { &mut requests.ok } else { &mut requests.failed }) += 1;
    } else {
        requests.unsent += 1;
    }
}
