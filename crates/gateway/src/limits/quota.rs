//! Quotas: compute units per day and per month, in UTC.
//!
//! # How
//! A call is admitted while less than the quota is used, and charged in full when it is admitted. What
//! is used is what all replicas have stored in the database, as of the last flush of metering, and what
//! this process has charged since then:
//!
//! ```text
//! used = total in the database + (charged − charged before the flush)
//! ```
//!
//! Metering takes [`Quota::mark`] before it collects what it flushes, and calls [`Quota::set_totals`]
//! with the database's totals afterwards. Enforcement is local and waits for nothing; what other
//! replicas have used since their last flush is missing, so that a quota is overrun by at most about a
//! second's worth of calls. While the database is unreachable, each replica counts its own calls on top
//! of the last totals.
//!
//! # Clock
//! Days and months come from the [`Calendar`], which never goes back: a clock that is set back does not
//! begin a day a second time. Totals of an earlier day or month than the calendar's are ignored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plimsoll_measure::WallClock;
use plimsoll_registry::model::masked;

use crate::host::ReadWallClock;

/// The wall clock and its periods, as of the last tick. Read by every call that needs them; written by
/// the keeper.
pub(crate) struct Calendar {
    read: ReadWallClock,
    now_ns: AtomicU64,
    day: AtomicU64,
    month: AtomicU64,
}

impl Calendar {
    /// A calendar that is at the present.
    pub(crate) fn new(read: ReadWallClock) -> Calendar {
        let zero = || AtomicU64::new(0);
        let calendar = Calendar { read, now_ns: zero(), day: zero(), month: zero() };
        calendar.tick();
        calendar
    }

    /// Reads the clock.
    pub(crate) fn tick(&self) {
        let now = (self.read)();
        self.now_ns.store(now.unix_ns, Relaxed);
        if self.day.fetch_max(now.day(), Relaxed) < now.day() {
            self.month.fetch_max(now.month(), Relaxed);
        }
    }

    /// The time of the last tick; goes back if the clock is set back.
    #[inline]
    pub(crate) fn now(&self) -> WallClock {
        WallClock { unix_ns: self.now_ns.load(Relaxed) }
    }

    /// The present period; never goes back.
    #[inline]
    fn period(&self, span: Span) -> u64 {
        match span {
            Span::Day => self.day.load(Relaxed),
            Span::Month => self.month.load(Relaxed),
        }
    }

    /// When the period after this one begins.
    fn next(&self, span: Span) -> WallClock {
        match span {
            Span::Day => WallClock::of_day(self.period(span) + 1),
            Span::Month => WallClock::of_month(self.period(span) + 1),
        }
    }
}

/// What a quota is counted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    Day,
    Month,
}

impl Span {
    const ALL: [Span; 2] = [Span::Day, Span::Month];

    /// The adjective in messages and metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Span::Day => "daily",
            Span::Month => "monthly",
        }
    }
}

/// What has been used in a period: `base` plus what this process has charged since its start, modulo
/// 2⁶⁴.
#[derive(Debug, Default)]
struct Period {
    number: AtomicU64,
    base: AtomicU64,
}

/// What an endpoint or a key has used.
#[derive(Debug, Default)]
struct Used {
    /// Compute units that this process has charged since its start.
    charged: AtomicU64,
    periods: [Period; 2],
}

/// The database's totals of an endpoint or a key, over all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// The day that `day_units` were used in.
    pub(crate) day: u64,
    pub(crate) day_units: u64,
    /// The month that `month_units` were used in.
    pub(crate) month: u64,
    pub(crate) month_units: u64,
}

/// The quotas of an endpoint, over all its keys, or of one key.
#[derive(Debug)]
pub(crate) struct Quota {
    pub(crate) endpoint: String,
    /// `None`: the quotas of the endpoint.
    pub(crate) key: Option<String>,
    /// Units per day and per month.
    limits: [Option<u64>; 2],
    /// Outlives a reload.
    used: Arc<Used>,
    /// Whether the limits differ from the previous ones.
    has_changed: bool,
}

/// A quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsedUp {
    pub(crate) span: Span,
    pub(crate) limit: u64,
    /// When the next period begins.
    pub(crate) until: WallClock,
}

impl Quota {
    /// Quotas with these limits, which continue to count from the previous ones.
    pub(crate) fn new(
        endpoint: &str,
        key: Option<&str>,
        daily: Option<u64>,
        monthly: Option<u64>,
        previous: Option<&Arc<Quota>>,
    ) -> Quota {
        let limits = [daily, monthly];
        Quota {
            endpoint: endpoint.into(),
            key: key.map(String::from),
            limits,
            used: previous.map(|old| old.used.clone()).unwrap_or_default(),
            has_changed: previous.is_some_and(|old| old.limits != limits),
        }
    }

    /// Whether there is any limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.limits.iter().any(Option::is_some)
    }

    /// Checks whether a call is admitted, without charging it.
    ///
    /// # Errors
    /// The quota that is used up; of two, that of the longer period.
    #[inline]
    pub(crate) fn check(&self, calendar: &Calendar) -> Result<(), UsedUp> {
        for span in Span::ALL.into_iter().rev() {
            let Some(limit) = self.limits[span as usize] else { continue };
            if self.used(span, calendar) >= limit {
                return Err(UsedUp { span, limit, until: calendar.next(span) });
            }
        }
        Ok(())
    }

    /// What to warn of after a reload: quotas that have been set below what is already used.
    pub(crate) fn warnings(&self, calendar: &Calendar) -> impl Iterator<Item = String> {
        let below = |span: Span| {
            let limit = self.limits[span as usize].filter(|_| self.has_changed)?;
            let used = self.used(span, calendar);
            let whose = match &self.key {
                Some(name) => format!("of its key {name}"),
                None => "of all its keys".into(),
            };
            (used >= limit).then(|| {
                let (id, word, until) = (masked(&self.endpoint), span.word(), calendar.next(span));
                format!(
                    "endpoint {id}: the {word} quota {whose}, {limit} compute units, is already used \
                     up: {used} have been used, and calls are refused until {}",
                    until.rfc3339()
                )
            })
        };
        let found: Vec<String> = Span::ALL.into_iter().filter_map(below).collect();
        found.into_iter()
    }

    /// Charges a call that was admitted.
    #[inline]
    pub(crate) fn charge(&self, units: u64) {
        self.used.charged.fetch_add(units, Relaxed);
    }

    /// What has been used in the present period.
    #[inline]
    pub(crate) fn used(&self, span: Span, calendar: &Calendar) -> u64 {
        let (period, present) = (&self.used.periods[span as usize], calendar.period(span));
        if period.number.load(Relaxed) < present {
            self.begin(span, present);
        }
        let charged = self.used.charged.load(Relaxed);
        period.base.load(Relaxed).wrapping_add(charged)
    }

    /// Begins a period, in which nothing is used yet.
    #[cold]
    fn begin(&self, span: Span, present: u64) {
        let period = &self.used.periods[span as usize];
        // Of several threads, one begins it.
        if period.number.fetch_max(present, Relaxed) < present {
            let charged = self.used.charged.load(Relaxed);
            period.base.store(0u64.wrapping_sub(charged), Relaxed);
        }
    }

    /// What this process has charged so far, for [`Quota::set_totals`].
    pub(crate) fn mark(&self) -> u64 {
        self.used.charged.load(Relaxed)
    }

    /// Sets what all replicas have used according to the database, which contains what this process
    /// had charged when `mark` was taken.
    pub(crate) fn set_totals(&self, mark: u64, totals: &Totals, calendar: &Calendar) {
        let values = [(totals.day, totals.day_units), (totals.month, totals.month_units)];
        for (span, (number, units)) in Span::ALL.into_iter().zip(values) {
            // Begins the present period if it is new.
            self.used(span, calendar);
            if number == calendar.period(span) {
                let base = units.wrapping_sub(mark);
                self.used.periods[span as usize].base.store(base, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A calendar whose clock the test sets.
    fn calendar(start: &str) -> (Calendar, Arc<AtomicU64>) {
        let at = |text: &str| WallClock::parse(text).expect(text).unix_ns;
        let clock = Arc::new(AtomicU64::new(at(start)));
        let read = clock.clone();
        let calendar = Calendar::new(Arc::new(move || WallClock { unix_ns: read.load(Relaxed) }));
        (calendar, clock)
    }

    fn set(calendar: &Calendar, clock: &AtomicU64, to: &str) {
        clock.store(WallClock::parse(to).expect(to).unix_ns, Relaxed);
        calendar.tick();
    }

    /// How many of these calls of one unit are admitted.
    fn admitted(quota: &Quota, calendar: &Calendar, calls: usize) -> usize {
        let admit = |_: &usize| {
            let is_admitted = quota.check(calendar).is_ok();
            if is_admitted {
                quota.charge(1);
            }
            is_admitted
        };
        (0..calls).filter(admit).count()
    }

    #[test]
    fn quotas_are_per_day_and_per_month() {
        let (calendar, clock) = calendar("2027-01-30T23:59:00Z");
        let quota = Quota::new("e", None, Some(10), Some(25), None);
        assert_eq!(admitted(&quota, &calendar, 15), 10);
        let used_up = quota.check(&calendar).expect_err("it is used up");
        let until = |text| WallClock::parse(text).expect(text);
        assert_eq!((used_up.span, used_up.until), (Span::Day, until("2027-01-31")));
        set(&calendar, &clock, "2027-01-31T00:00:01Z");
        assert_eq!(admitted(&quota, &calendar, 15), 10);
        // The month has 5 left on this day, which is the last.
        set(&calendar, &clock, "2027-02-01");
        assert_eq!(admitted(&quota, &calendar, 15), 10);
        set(&calendar, &clock, "2027-02-02");
        assert_eq!(admitted(&quota, &calendar, 15), 10);
        set(&calendar, &clock, "2027-02-03");
        assert_eq!(admitted(&quota, &calendar, 15), 5);
        let used_up = quota.check(&calendar).expect_err("it is used up");
        assert_eq!((used_up.span, used_up.until), (Span::Month, until("2027-03-01")));
    }

    #[test]
    fn a_clock_that_is_set_back_gives_no_second_quota() {
        let (calendar, clock) = calendar("2027-01-31T12:00:00Z");
        let quota = Quota::new("e", None, Some(10), Some(15), None);
        assert_eq!(admitted(&quota, &calendar, 15), 10);
        for back in ["2027-01-30T12:00:00Z", "2026-12-31", "2027-01-31T11:00:00Z"] {
            set(&calendar, &clock, back);
            assert_eq!(admitted(&quota, &calendar, 15), 0, "{back}");
        }
        set(&calendar, &clock, "2027-02-01");
        assert_eq!(admitted(&quota, &calendar, 15), 10);
        // Over the end of a month and back.
        set(&calendar, &clock, "2027-01-31T12:00:00Z");
        assert_eq!(admitted(&quota, &calendar, 15), 0);
    }

    #[test]
    fn totals_of_all_replicas_count() {
        let (calendar, _) = calendar("2027-01-31T12:00:00Z");
        let quota = Quota::new("e", Some("k"), Some(100), None, None);
        assert_eq!(admitted(&quota, &calendar, 10), 10);
        let mark = quota.mark();
        // While metering flushes, calls go on.
        assert_eq!(admitted(&quota, &calendar, 5), 5);
        let (day, month) = (calendar.period(Span::Day), calendar.period(Span::Month));
        // This replica's 10, and 60 of others.
        let totals = Totals { day, day_units: 70, month, month_units: 500 };
        quota.set_totals(mark, &totals, &calendar);
        assert_eq!(quota.used(Span::Day, &calendar), 75);
        assert_eq!(quota.used(Span::Month, &calendar), 505);
        assert_eq!(admitted(&quota, &calendar, 100), 25);
        // Totals that were read before midnight say nothing about the new day.
        quota.set_totals(quota.mark(), &Totals { day: day - 1, ..totals }, &calendar);
        assert_eq!(quota.used(Span::Day, &calendar), 100);
        // A quota below what is used.
        let lower = Quota::new("e", Some("k"), Some(50), None, Some(&Arc::new(quota)));
        let warnings: Vec<String> = lower.warnings(&calendar).collect();
        let words = "of its key k, 50 compute units, is already used up: 100 have been used";
        assert!(warnings.len() == 1 && warnings[0].contains(words), "{warnings:?}");
        assert_eq!(admitted(&lower, &calendar, 10), 0);
        let higher = Quota::new("e", Some("k"), Some(103), None, Some(&Arc::new(lower)));
        assert_eq!(higher.warnings(&calendar).count(), 0);
        assert_eq!(admitted(&higher, &calendar, 10), 3);
    }
}
