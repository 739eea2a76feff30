//! The wall clock of quotas: which day and month it is.
//!
//! The calendar never goes back: a clock that is set back does not begin a day a second time. Day and
//! month are one word, so that a call is never checked against one day and charged to another.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plimsoll_measure::WallClock;

use crate::host::ReadWallClock;

/// Bits of the month in the word of a day and a month; the day has the others.
const MONTH_BITS: u32 = 24;

/// What a quota is counted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    Day,
    Month,
}

impl Span {
    pub(crate) const ALL: [Span; 2] = [Span::Day, Span::Month];

    /// The adjective in messages and metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Span::Day => "daily",
            Span::Month => "monthly",
        }
    }
}

/// A day and its month, in UTC, counted from the first of January 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Today {
    pub(crate) day: u64,
    pub(crate) month: u64,
}

impl Today {
    pub(crate) fn of(now: WallClock) -> Today {
        Today { day: now.day(), month: now.month() }
    }

    /// The number of the day or of the month.
    #[inline]
    pub(crate) fn number(self, span: Span) -> u64 {
        match span {
            Span::Day => self.day,
            Span::Month => self.month,
        }
    }

    /// The first hour of the day, counted from 1970.
    pub(crate) fn hour(self) -> u64 {
        self.day * 24
    }

    /// When the next day or month begins.
    pub(crate) fn next(self, span: Span) -> WallClock {
        match span {
            Span::Day => WallClock::of_day(self.day + 1),
            Span::Month => WallClock::of_month(self.month + 1),
        }
    }
}

/// The wall clock and its periods, as of the last tick. Read by every call that needs them; written by
/// the keeper.
pub(crate) struct Calendar {
    read: ReadWallClock,
    now_ns: AtomicU64,
    /// The day and the month.
    today: AtomicU64,
}

impl Calendar {
    /// A calendar that is at the present.
    pub(crate) fn new(read: ReadWallClock) -> Calendar {
        let calendar = Calendar { read, now_ns: AtomicU64::new(0), today: AtomicU64::new(0) };
        calendar.tick();
        calendar
    }

    /// Reads the clock.
    pub(crate) fn tick(&self) {
        let now = (self.read)();
        self.now_ns.store(now.unix_ns, Relaxed);
        let Today { day, month } = Today::of(now);
        self.today.fetch_max(day << MONTH_BITS | month, Relaxed);
    }

    /// The time of the last tick; goes back if the clock is set back.
    #[inline]
    pub(crate) fn now(&self) -> WallClock {
        WallClock { unix_ns: self.now_ns.load(Relaxed) }
    }

    /// The present day and month; they never go back.
    #[inline]
    pub(crate) fn today(&self) -> Today {
        let word = self.today.load(Relaxed);
        Today { day: word >> MONTH_BITS, month: word & ((1 << MONTH_BITS) - 1) }
    }
}
