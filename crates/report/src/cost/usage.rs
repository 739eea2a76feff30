//! What the scraped processes have counted after the warm-up, in total and by chain.

use super::{Basis, CostOf, Known};
use crate::summary::Group;
use plimsoll_measure::{Nanos, Scraped};
use plimsoll_plan::{Charted, RelaysFrom, Scrape};
use std::collections::BTreeMap;

const CPU: &str = "process_cpu_seconds_total";
const REDIS: &str = "plimsoll_redis_operations_total";
const DATABASE: &str = "plimsoll_db_queries_total";
/// Results of operations that never reached Redis.
const NOT_SENT: [&str; 2] = ["skipped", "lost"];
/// How much of the time the scrapes of a process may miss at either end: a few failures do no harm.
const MISSED_MAX: Nanos = Nanos::from_secs(3);

/// A scraped process over the time.
pub(super) struct Member<'b> {
    pub(super) scrape: &'b Scrape,
    now: &'b Scraped,
    before: Option<&'b Scraped>,
    /// Why its counters do not cover the time.
    gap: Option<String>,
}

impl<'b> Member<'b> {
    fn of(basis: &Basis<'b>, place: usize, none: &'b Scraped) -> Member<'b> {
        let scrape = &basis.scrapes[place];
        let now = basis.scraped.get(place).unwrap_or(none);
        let gap = gap(basis, now).map(|why| format!("{}: {why}", scrape.name));
        Member { scrape, now, before: basis.before.get(place), gap }
    }

    fn has(&self, metric: &str) -> bool {
        self.now.series.keys().any(|series| series.name == metric)
    }

    /// The growth of a counter; `None` if the process does not have it.
    fn counted(&self, metric: &str) -> Option<f64> {
        let before = self.before.and_then(|before| before.increase(metric)).unwrap_or(0.0);
        self.now.increase(metric).map(|now| (now - before).max(0.0))
    }

    fn counted_by(&self, metric: &str, label: &str) -> BTreeMap<String, f64> {
        let mut now = self.now.increase_by(metric, label);
        let before = self.before.map(|before| before.increase_by(metric, label));
        for (value, n) in before.into_iter().flatten() {
            now.entry(value).and_modify(|own| *own = (*own - n).max(0.0));
        }
        now
    }

    /// CPU time.
    pub(super) fn cpu(&self) -> Known<Nanos> {
        self.whole()?;
        let missing = || format!("{} has no {CPU}", self.scrape.name);
        self.counted(CPU).map(Nanos::from_secs_f64).ok_or_else(missing)
    }

    fn whole(&self) -> Known<()> {
        self.gap.clone().map_or(Ok(()), Err)
    }
}

/// Why the scrapes of a process do not cover the time.
fn gap(basis: &Basis<'_>, scraped: &Scraped) -> Option<String> {
    let failure = || {
        let most = scraped.failures.iter().max_by_key(|(_, n)| **n);
        most.map(|(why, _)| format!(" ({why})")).unwrap_or_default()
    };
    let Some((first, last)) = scraped.between.filter(|_| scraped.reads > 1) else {
        return Some(format!("its metrics were not read twice{}", failure()));
    };
    let since = |at: u64| Nanos(at.saturating_sub(basis.started_at.unix_ns));
    let (from, to) = (since(first.unix_ns), since(last.unix_ns));
    let wanted = basis.seconds;
    let missed = (from - wanted.from).max(wanted.to - to);
    (missed > MISSED_MAX).then(|| {
        let known = to.min(wanted.to) - from.max(wanted.from);
        let rounded = |time: Nanos| format!("{:.0}s", time.as_secs_f64());
        let (known, all) = (rounded(known), rounded(wanted.len()));
        format!("its metrics cover only {known} of {all}{}", failure())
    })
}

/// What was counted.
pub(super) struct Usage<'u, 'b> {
    basis: &'u Basis<'b>,
    pub(super) members: Vec<Member<'b>>,
}

static NONE: std::sync::LazyLock<Scraped> = std::sync::LazyLock::new(Scraped::default);

impl<'u, 'b> Usage<'u, 'b> {
    pub(super) fn of(basis: &'u Basis<'b>) -> Usage<'u, 'b> {
        let members = (0..basis.scrapes.len()).map(|place| Member::of(basis, place, &NONE));
        Usage { basis, members: members.collect() }
    }

    /// All but compute units and costs.
    pub(super) fn total(&self) -> CostOf {
        let all: Vec<&Member<'_>> = self.members.iter().collect();
        self.figures("all", self.basis.all, self.relays(), &all)
    }

    /// The same of a chain.
    pub(super) fn of_chain(&self, chain: &Group) -> CostOf {
        let name = chain.name.as_str();
        let shared = self.members.iter().find(|own| own.scrape.chain.is_none());
        let own = self.members.iter().filter(|own| own.scrape.chain.as_deref() == Some(name));
        let own: Vec<&Member<'_>> = own.collect();
        let mut figures = self.figures(name, chain, self.relays_of(chain), &own);
        if let Some(shared) = shared {
            let shared = &shared.scrape.name;
            let why = || format!("not counted by chain: {shared} may serve several");
            // What nothing counts at all is said in total.
            figures.cpu = Err(why());
            figures.redis = Err(why());
            figures.database = Err(why());
        }
        figures
    }

    fn figures(
        &self,
        name: &str,
        group: &Group,
        relays: Known<u64>,
        members: &[&Member<'_>],
    ) -> CostOf {
        let not_sent = |own: &Member<'_>| -> f64 {
            let results = own.counted_by(REDIS, "result");
            results
                .iter()
                .filter(|(name, _)| NOT_SENT.contains(&name.as_str()))
                .map(|(_, n)| n)
                .sum()
        };
        CostOf {
            name: name.into(),
            sent: group.stats.requests.sent,
            ok: group.stats.requests.ok,
            relays,
            cpu: if members.is_empty() {
                Err(self.no_process())
            } else {
                members.iter().map(|own| own.cpu()).try_fold(Nanos::ZERO, |sum, own| Ok(sum + own?))
            },
            bytes: group.stats.bytes_in + group.stats.bytes_out,
            redis: self.sum(members, REDIS, |own| own.counted(REDIS).map(|n| n - not_sent(own))),
            database: self.sum(members, DATABASE, |own| own.counted(DATABASE)),
            compute_units: Ok(0),
            upokt: None,
            parts: Vec::new(),
        }
    }

    fn no_process(&self) -> String {
        if self.members.is_empty() {
            return "the plan reads no process: it has no [[scrape]]".into();
        }
        "no scraped process serves this chain".into()
    }

    /// The sum of a counter of those processes that have it; not known if none does.
    fn sum(
        &self,
        members: &[&Member<'_>],
        metric: &str,
        of: impl Fn(&Member<'_>) -> Option<f64>,
    ) -> Known<u64> {
        if members.is_empty() {
            return Err(self.no_process());
        }
        let (mut sum, mut has) = (0.0, false);
        for own in members {
            if let Some(n) = of(own) {
                own.whole()?;
                sum += n;
                has = true;
            }
        }
        // A process that was never read may have it.
        let unread = members.iter().find(|own| own.now.reads == 0);
        match (has, unread) {
            (_, Some(unread)) => Err(unread.gap.clone().unwrap_or_default()),
            (false, None) => Err(format!("no scraped process has the counter {metric}")),
            (true, None) => Ok(sum.round() as u64),
        }
    }

    /// The processes that count relays: the instances.
    pub(super) fn instances(&self) -> Known<Vec<&Member<'b>>> {
        let of_group = |group: &str| -> Vec<&Member<'b>> {
            self.members.iter().filter(|own| own.scrape.group == group).collect()
        };
        if self.members.is_empty() {
            let answers = "cost.relays = \"answers\" counts answers instead";
            return Err(format!("{}; {answers}", self.no_process()));
        }
        let rules = self.basis.rules;
        if let Some(group) = &rules.group {
            return Ok(of_group(group));
        }
        let counts = |own: &&Member<'b>| match &rules.relays {
            RelaysFrom::Metric(metric) => own.has(&metric.metric),
            RelaysFrom::Answers => true,
        };
        let mut groups: Vec<&str> = Vec::new();
        for own in self.members.iter().filter(counts) {
            if !groups.contains(&own.scrape.group.as_str()) {
                groups.push(&own.scrape.group);
            }
        }
        match (&groups[..], &rules.relays) {
            ([only], _) => Ok(of_group(only)),
            ([], RelaysFrom::Metric(metric)) => {
                let read = self.members.iter().any(|own| own.now.reads > 0);
                let name = &metric.metric;
                Err(if read {
                    format!("no scraped process has the counter {name} (cost.relays)")
                } else {
                    self.members[0].gap.clone().unwrap_or_default()
                })
            }
            (several, _) => {
                let several = several.join(", ");
                Err(format!("several groups of processes relay: {several} (set cost.group to one)"))
            }
        }
    }

    fn relays(&self) -> Known<u64> {
        match &self.basis.rules.relays {
            RelaysFrom::Answers => Ok(self.basis.all.stats.requests.ok),
            RelaysFrom::Metric(Charted { metric, .. }) => {
                let instances = self.instances()?;
                self.sum(&instances, metric, |own| own.counted(metric))
            }
        }
    }

    fn relays_of(&self, chain: &Group) -> Known<u64> {
        let metric = match &self.basis.rules.relays {
            RelaysFrom::Answers => return Ok(chain.stats.requests.ok),
            RelaysFrom::Metric(metric) => metric,
        };
        self.relays()?;
        let instances = self.instances()?;
        let Some(label) = &metric.by else {
            return Err("not counted by chain: cost.relays names no label".into());
        };
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for (service, n) in instances.iter().flat_map(|own| own.counted_by(&metric.metric, label)) {
            *sums.entry(service).or_default() += n;
        }
        let service = self.basis.rules.service(&chain.name);
        match sums.get(service) {
            Some(n) => Ok(n.round() as u64),
            None => {
                let known: Vec<&str> = sums.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                Err(format!(
                    "no relays of the service \"{service}\" were counted, only of: {known} (cost.services)"
                ))
            }
        }
    }

    /// What distorts the figures.
    pub(super) fn notes(&self) -> Vec<String> {
        let restarted = self.members.iter().filter(|own| own.now.resets(CPU) > 0);
        let notes = restarted.map(|own| {
            format!(
                "{} was restarted: what it counted between its last scrape and the restart is missing",
                own.scrape.name
            )
        });
        notes.collect()
    }
}
