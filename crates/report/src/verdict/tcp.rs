//! What the kernel's TCP counters explain: a listener's full accept queue (`accept_backlog`) and lost
//! packets (`packet_loss`).
//!
//! The counters are those of the network namespace: other programs in it count too, and both ends do if
//! the target is in it. So a counter alone accuses nobody. A finding also needs an effect on this run, in
//! the same second: an answer, or a failure, that took at least as long as the kernel waits before it
//! sends a segment again; for a full accept queue, slow connecting or an attempt that timed out.
//!
//! A full accept queue drops SYNs and the last segment of a handshake, so both are sent again; only
//! retransmissions beyond those are taken for loss. If the target is on another host, its listener's
//! counters cannot be read, and a full queue looks like loss of SYNs alone.

use super::{Case, Found, Second};
use crate::objectives::percent;
use crate::seconds::Seconds;
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{ErrorClass, FindingId, Nanos, OriginCounts, Severity, Side, TcpCounter};

/// The kernel's smallest retransmission timeout (`TCP_RTO_MIN`).
const RTO_MIN: Nanos = Nanos::from_millis(200);
/// Fewer retransmissions than this may be chance.
const RETRANSMITTED_MIN: u64 = 5;
/// A smaller share of lost segments affects fewer than 1 of 1,000 requests.
const LOSS_MIN: f64 = 0.001;
/// A connection attempt that a full accept queue drops causes at most this many retransmissions: the
/// kernel sends a SYN or a SYN-ACK six times and, meanwhile, the request about as often.
const PER_DROP: u64 = 12;

/// Sums over the seconds in which requests were slow or failed.
#[derive(Clone, Default)]
pub(super) struct TcpRule {
    /// Connection attempts that listeners of the namespace dropped.
    dropped: u64,
    dropped_in: Option<Seconds>,
    /// Segments sent, and those sent again.
    segments: u64,
    retransmitted: u64,
    /// Of those, in handshakes.
    syns: u64,
    lost_in: Option<Seconds>,
}

impl TcpRule {
    pub(super) fn add(&mut self, second: &Second<'_>) {
        let Some(tcp) = &second.snapshot.host.tcp else { return };
        let stats = second.snapshot.stats.iter();
        let slowest =
            stats.filter_map(|stats| stats.latency_ok.max().max(stats.latency_failed.max()));
        self.segments += tcp.get(TcpCounter::SegmentsOut);
        if slowest.max().unwrap_or_default() < RTO_MIN {
            return;
        }
        let origins = &second.snapshot.origins;
        let slow = |own: &OriginCounts| own.connected.mean().is_some_and(|mean| mean >= RTO_MIN);
        let stats = &second.snapshot.stats;
        let timed_out = stats.iter().any(|own| own.errors.get(ErrorClass::ConnectTimeout) > 0);
        let is_connecting_slow = timed_out || origins.iter().any(slow);
        let dropped = tcp.get(TcpCounter::ListenOverflows).max(tcp.get(TcpCounter::ListenDrops));
        let dropped = if is_connecting_slow { dropped } else { 0 };
        let retransmitted = tcp.get(TcpCounter::Retransmitted);
        self.dropped += dropped;
        self.retransmitted += retransmitted;
        self.syns += tcp.get(TcpCounter::SynRetransmitted);
        if dropped > 0 {
            Seconds::widen(&mut self.dropped_in, second.seconds);
        }
        if retransmitted > 0 {
            Seconds::widen(&mut self.lost_in, second.seconds);
        }
    }

    pub(super) fn found(&self, case: &Case<'_>) -> Vec<Found> {
        self.accept_backlog(case).into_iter().chain(self.packet_loss()).collect()
    }

    fn accept_backlog(&self, case: &Case<'_>) -> Option<Found> {
        // Dropped attempts either time out or are accepted later; SYNs that are sent again count twice.
        let timed_out = case.count(ErrorClass::ConnectTimeout);
        let share = case.share(self.dropped.max(timed_out)).min(1.0);
        (self.dropped > 0).then(|| Found {
            id: FindingId::AcceptBacklog,
            severity: Severity::Warning,
            side: Side::Target,
            evidence: format!(
                "a listener in this network namespace dropped {} because its accept queue was full; the \
                 client's kernel tries again after a second or more",
                counted(self.dropped, "connection attempt")
            ),
            fix: "raise the listen backlog of the target and its net.core.somaxconn, or let it accept \
                  faster"
                .into(),
            seconds: self.dropped_in,
            share,
        })
    }

    fn packet_loss(&self) -> Option<Found> {
        let explained = self.dropped * PER_DROP;
        let data = self.retransmitted.saturating_sub(self.syns);
        let lost = data.saturating_sub(explained);
        let rate = lost as f64 / self.segments.max(1) as f64;
        (lost >= RETRANSMITTED_MIN && rate >= LOSS_MIN).then(|| Found {
            id: FindingId::PacketLoss,
            severity: Severity::Warning,
            side: Side::Network,
            evidence: format!(
                "{} of {} sent in this network namespace ({}) had to be sent again, which usually \
                 delays a request by 200ms or more",
                grouped(lost),
                counted(self.segments, "TCP segment"),
                percent(rate)
            ),
            fix: "check the path to the target (mtr, ethtool -S) and firewalls on it; the figures \
                  include the time lost"
                .into(),
            seconds: self.lost_in,
            share: rate,
        })
    }
}
