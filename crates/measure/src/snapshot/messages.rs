//! Exchanges that stay open (sockets, subscriptions, event streams), and the messages that arrive on them.
//!
//! An arrival of such a stream is counted under [`Requests`](super::Requests) when it ends; here it is
//! counted when it opens, and so is each message when it is read. Two identities hold exactly:
//!
//! - `received = in order + duplicates + replaced + reordered + unmatched`, in every snapshot;
//! - `opened = kept + dropped`, once every arrival has ended. Until then the difference is the number that
//!   is open ([`MessageCounts::open`]).
//!
//! Everything here is a count or a histogram, so that sums over workers and seconds are exact.

use super::Imbalance;
use super::identity::{equal, sum};
use crate::{Histogram, Nanos};

/// What a message is, compared with those that its exchange has received before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// New, and not older than the newest message before. `missing` is how many numbers were skipped.
    InOrder {
        /// Numbers between the newest before and this one.
        missing: u64,
    },
    /// The same message was received before.
    Duplicate,
    /// Another message with this number was received before, as after a reorganisation of a chain.
    Replaced,
    /// Older than the newest message before, and not received before.
    Reordered,
}

/// The counts of exchanges that stay open, under one statistics name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MessageCounts {
    /// Exchanges that opened: the socket was established, the subscription confirmed, the event stream begun.
    pub opened: u64,
    /// Of these, replacements for one that had ended too early.
    pub reopened: u64,
    /// Opened exchanges that lasted until the end of their stream.
    pub kept: u64,
    /// Opened exchanges that ended before; each is a failed arrival with an error class.
    pub dropped: u64,
    /// Messages.
    pub received: u64,
    /// Messages that were new, and not older than the one before.
    pub in_order: u64,
    /// Messages that were received before.
    pub duplicates: u64,
    /// Messages that took the place of an earlier one with the same number.
    pub replaced: u64,
    /// Messages that are older than one received before.
    pub reordered: u64,
    /// Messages of no subscription of their connection, or before the subscription was confirmed.
    pub unmatched: u64,
    /// Numbers that were skipped between messages in order.
    pub gaps: u64,
    /// Times in which an exchange received nothing for longer than the plan allows.
    pub silences: u64,
    /// Messages whose timestamp is later than this host's clock; their lag counts as zero.
    pub ahead: u64,
    /// Bytes of messages.
    pub bytes: u64,
    /// Pings sent.
    pub pings: u64,
    /// Comments in event streams.
    pub heartbeats: u64,
    /// Time from the planned instant until an exchange opened.
    pub opening: Histogram,
    /// Time from the opening of an exchange to its first message.
    pub first: Histogram,
    /// Time between consecutive messages of an exchange.
    pub interval: Histogram,
    /// Time from a message's own timestamp until it was read.
    pub lag: Histogram,
    /// Time from the first receipt of a numbered message by any exchange of a worker to each further receipt.
    pub spread: Histogram,
    /// Time from a ping to its pong.
    pub pong: Histogram,
}

impl MessageCounts {
    /// Exchanges that are open at the end of the period, if the counts begin with the run.
    pub fn open(&self) -> u64 {
        self.opened.saturating_sub(self.kept + self.dropped)
    }

    /// Counts a message of an exchange.
    #[inline]
    pub fn count(&mut self, order: Order, bytes: u64) {
        self.received += 1;
        self.bytes += bytes;
        match order {
            Order::InOrder { missing } => {
                self.in_order += 1;
                self.gaps = self.gaps.saturating_add(missing);
            }
            Order::Duplicate => self.duplicates += 1,
            Order::Replaced => self.replaced += 1,
            Order::Reordered => self.reordered += 1,
        }
    }

    /// Counts a message that belongs to no subscription.
    #[inline]
    pub fn count_unmatched(&mut self, bytes: u64) {
        self.received += 1;
        self.unmatched += 1;
        self.bytes += bytes;
    }

    /// Counts the time from a message's own timestamp, negative if that is in the future.
    #[inline]
    pub fn count_lag(&mut self, read_at_unix: Nanos, timestamp_unix: Nanos) {
        self.ahead += u64::from(timestamp_unix > read_at_unix);
        self.lag.record(read_at_unix - timestamp_unix);
    }

    /// Adds other counts.
    pub fn merge(&mut self, other: &MessageCounts) {
        for ((own, _), (n, _)) in self.counts_mut().into_iter().zip(other.counts()) {
            *own += n;
        }
        for ((own, _), (next, _)) in self.histograms_mut().into_iter().zip(other.histograms()) {
            own.merge(next);
        }
    }

    /// Resets all counts and keeps the allocations.
    pub(super) fn clear(&mut self) {
        self.counts_mut().into_iter().for_each(|(own, _)| *own = 0);
        self.histograms_mut().into_iter().for_each(|(own, _)| own.clear());
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.counts().iter().all(|(n, _)| *n == 0)
    }

    /// The counts, each with its name in files.
    pub fn counts(&self) -> [(u64, &'static str); 16] {
        [
            (self.opened, "opened"),
            (self.reopened, "reopened"),
            (self.kept, "kept"),
            (self.dropped, "dropped"),
            (self.received, "received"),
            (self.in_order, "in_order"),
            (self.duplicates, "duplicates"),
            (self.replaced, "replaced"),
            (self.reordered, "reordered"),
            (self.unmatched, "unmatched"),
            (self.gaps, "gaps"),
            (self.silences, "silences"),
            (self.ahead, "ahead"),
            (self.bytes, "bytes"),
            (self.pings, "pings"),
            (self.heartbeats, "heartbeats"),
        ]
    }

    /// The same for setting them.
    pub(crate) fn counts_mut(&mut self) -> [(&mut u64, &'static str); 16] {
        [
            (&mut self.opened, "opened"),
            (&mut self.reopened, "reopened"),
            (&mut self.kept, "kept"),
            (&mut self.dropped, "dropped"),
            (&mut self.received, "received"),
            (&mut self.in_order, "in_order"),
            (&mut self.duplicates, "duplicates"),
            (&mut self.replaced, "replaced"),
            (&mut self.reordered, "reordered"),
            (&mut self.unmatched, "unmatched"),
            (&mut self.gaps, "gaps"),
            (&mut self.silences, "silences"),
            (&mut self.ahead, "ahead"),
            (&mut self.bytes, "bytes"),
            (&mut self.pings, "pings"),
            (&mut self.heartbeats, "heartbeats"),
        ]
    }

    /// The times, each with its name in files.
    pub fn histograms(&self) -> [(&Histogram, &'static str); 6] {
        [
            (&self.opening, "opening"),
            (&self.first, "first"),
            (&self.interval, "interval"),
            (&self.lag, "lag"),
            (&self.spread, "spread"),
            (&self.pong, "pong"),
        ]
    }

    /// The same for setting them.
    pub(crate) fn histograms_mut(&mut self) -> [(&mut Histogram, &'static str); 6] {
        [
            (&mut self.opening, "opening"),
            (&mut self.first, "first"),
            (&mut self.interval, "interval"),
            (&mut self.lag, "lag"),
            (&mut self.spread, "spread"),
            (&mut self.pong, "pong"),
        ]
    }

    /// Checks the accounting identities of a period with `ok` and `failed` arrivals.
    pub(super) fn check_identities(&self, ok: u64, failed: u64) -> Result<(), Imbalance> {
        let kinds = [self.in_order, self.duplicates, self.replaced, self.reordered, self.unmatched];
        equal(
            "messages received = in order + duplicates + replaced + reordered + unmatched",
            Some(self.received),
            sum(kinds),
        )?;
        equal("each kept exchange is an ok arrival", Some(self.kept), Some(ok))?;
        let dropped = self.dropped.min(failed);
        equal("each dropped exchange is a failed arrival", Some(self.dropped), Some(dropped))?;
        let reopened = self.reopened.min(self.opened);
        equal("each reopened exchange is an opened one", Some(self.reopened), Some(reopened))?;
        let opened = Some(self.opening.count());
        equal("each opened exchange has a time to open", opened, Some(self.opened))?;
        let times = sum([self.first.count(), self.interval.count(), self.unmatched]);
        equal("each message is the first or has an interval", times, Some(self.received))?;
        let ahead = self.ahead.min(self.lag.count());
        equal("a timestamp in the future has a lag", Some(self.ahead), Some(ahead))
    }

    /// Checks, on the sum of all seconds, that every opened exchange has ended.
    pub(super) fn assert_complete(&self) {
        assert_eq!(self.opened, self.kept + self.dropped, "each opened exchange has ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(messages: &[(u8, u64)]) -> MessageCounts {
        let mut counts = MessageCounts::default();
        for (kind, n) in messages {
            let order = match kind % 5 {
                0 => Order::InOrder { missing: *n },
                1 => Order::Duplicate,
                2 => Order::Replaced,
                3 => Order::Reordered,
                _ => {
                    counts.count_unmatched(*n);
                    continue;
                }
            };
            counts.count(order, *n);
            if counts.first.count() == 0 { &mut counts.first } else { &mut counts.interval }
                .record(Nanos(*n));
            counts.count_lag(Nanos(500), Nanos(*n));
        }
        counts
    }

    #[test]
    fn names_and_counts_are_in_the_same_order() {
        let mut counts = MessageCounts::default();
        for (place, (own, _)) in counts.counts_mut().into_iter().enumerate() {
            *own = place as u64;
        }
        let names: Vec<&str> = counts.counts_mut().into_iter().map(|(_, name)| name).collect();
        for (place, (n, name)) in counts.counts().into_iter().enumerate() {
            assert_eq!((n, name), (place as u64, names[place]));
        }
        let times: Vec<&str> = counts.histograms_mut().into_iter().map(|(_, name)| name).collect();
        assert_eq!(counts.histograms().map(|(_, name)| name).to_vec(), times);
    }

    proptest! {
        /// Whatever arrives, and in whatever order its counts are added.
        #[test]
        fn merging_is_exact_and_the_identities_hold(
            messages in proptest::collection::vec((0..5u8, 0..1_000u64), 0..50),
            cut in 0..50usize,
        ) {
            let (left, right) = messages.split_at(cut.min(messages.len()));
            let [mut forth, mut back] = [counted(left), counted(right)];
            let other = forth.clone();
            forth.merge(&back);
            back.merge(&other);
            prop_assert_eq!(&forth, &back);
            prop_assert_eq!(forth.received, messages.len() as u64);
            prop_assert!(forth.check_identities(0, 0).is_ok());
            forth.clear();
            prop_assert!(forth.is_empty() && forth.lag.count() == 0);
        }
    }

    #[test]
    fn an_identity_that_does_not_hold_is_named() {
        let check = |change: fn(&mut MessageCounts), words: &str| {
            let mut counts = MessageCounts::default();
            change(&mut counts);
            let why = counts.check_identities(0, 0).unwrap_err().to_string();
            assert!(why.contains(words), "{why}");
        };
        check(|own| own.received = 1, "in order + duplicates");
        check(|own| own.kept = 1, "each kept exchange is an ok arrival");
        check(|own| own.dropped = 1, "each dropped exchange is a failed arrival");
        check(|own| own.reopened = 1, "each reopened exchange");
        check(|own| own.opened = 1, "time to open");
        check(|own| own.first.record(Nanos(1)), "is the first or has an interval");
        check(|own| own.ahead = 1, "in the future");
    }
}
