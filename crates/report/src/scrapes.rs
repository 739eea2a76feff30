//! Figures of other processes, from their Prometheus metrics: CPU and memory, and for Plimsoll gateways
//! calls and relays.
//!
//! They cover the time from the first scrape to the last. Counters continue across restarts of a process
//! (see [`plimsoll_measure::scrape`]).

use plimsoll_measure::{Nanos, Scraped};
use plimsoll_plan::Scrape;
use std::collections::BTreeMap;

/// Metrics that a gateway exposes even before its first relay.
const GATEWAYS: [&str; 3] =
    ["plimsoll_connections", "plimsoll_upstream_up", "plimsoll_relays_in_flight"];

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its name in the plan.
    pub name: String,
    /// The group of processes that share a load.
    pub group: String,
    /// The scraped URL, without secrets, or `pid 7`, or `cgroup /a`.
    pub url: String,
    /// The scraped metrics.
    pub scraped: Scraped,
    /// Time from the first scrape to the last.
    pub span: Nanos,
    /// CPU time used, user and system.
    pub cpu: Option<Nanos>,
    /// The largest resident set seen, in bytes.
    pub memory_max: Option<u64>,
    /// Number of restarts, detected by resets of its CPU time.
    pub restarts: u64,
    /// Metrics that the plan charts and no page had.
    pub missing: Vec<String>,
    /// A gateway's calls; `None` for other processes.
    pub calls: Option<Calls>,
    /// A gateway's relays; `None` for other processes.
    pub relays: Option<Relays>,
}

/// Calls to a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Total.
    pub total: u64,
    /// By outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// By cache result.
    pub cache: BTreeMap<String, u64>,
}

/// Relays of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relays {
    /// Total.
    pub total: u64,
    /// By upstream.
    pub upstreams: BTreeMap<String, u64>,
}

impl Process {
    fn of(scrape: &Scrape, scraped: &Scraped) -> Process {
        let whole = |n: f64| n.round() as u64;
        let by = |name: &str, label: &str| -> BTreeMap<String, u64> {
            let sums = scraped.increase_by(name, label).into_iter();
            sums.map(|(value, n)| (value, whole(n))).filter(|(_, n)| *n > 0).collect()
        };
        let between = scraped.between.map(|(from, to)| Nanos(to.unix_ns) - Nanos(from.unix_ns));
        let calls = "plimsoll_calls_total";
        let relays = "plimsoll_relays_total";
        let ours = scraped.series.keys().any(|series| GATEWAYS.contains(&series.name.as_str()));
        let has = |metric: &str| scraped.series.keys().any(|series| series.name == metric);
        let missing = scrape.charts.iter().filter(|chart| scraped.reads > 0 && !has(&chart.metric));
        Process {
            missing: missing.map(ToString::to_string).collect(),
            name: scrape.name.clone(),
            group: scrape.group.clone(),
            url: scrape.source.to_string(),
            span: between.unwrap_or_default(),
            cpu: scraped.increase("process_cpu_seconds_total").map(Nanos::from_secs_f64),
            memory_max: scraped.max("process_resident_memory_bytes").map(whole),
            restarts: scraped.resets("process_cpu_seconds_total"),
            calls: scraped.increase(calls).map(|total| Calls {
                total: whole(total),
                outcomes: by(calls, "outcome"),
                cache: by(calls, "cache"),
            }),
            relays: scraped
                .increase(relays)
                .or(ours.then_some(0.0))
                .map(|total| Relays { total: whole(total), upstreams: by(relays, "upstream") }),
            scraped: scraped.clone(),
        }
    }

    /// CPU usage, 1 being one full processor; `None` with fewer than two scrapes.
    pub fn cpu_share(&self) -> Option<f64> {
        let span = self.span.as_secs_f64();
        self.cpu.filter(|_| span > 0.0).map(|cpu| cpu.as_secs_f64() / span)
    }

    /// What shows its share of the load: its calls, or the relays of a gateway that does not count
    /// calls.
    pub fn answered(&self) -> Option<u64> {
        let relays = self.relays.as_ref().map(|relays| relays.total);
        self.calls.as_ref().map(|calls| calls.total).or(relays)
    }

    /// CPU time per call.
    pub fn cpu_per_call(&self) -> Option<Nanos> {
        let answered = self.answered().filter(|n| *n > 0)?;
        self.cpu.map(|cpu| Nanos(cpu.0 / answered))
    }

    /// CPU time per relay.
    pub fn cpu_per_relay(&self) -> Option<Nanos> {
        let relays = self.relays.as_ref().map(|relays| relays.total).filter(|n| *n > 0)?;
        self.cpu.map(|cpu| Nanos(cpu.0 / relays))
    }

    /// Reasons of failed scrapes, the most frequent first.
    pub fn failures(&self) -> Vec<(&str, u64)> {
        let mut failures: Vec<_> =
            self.scraped.failures.iter().map(|(why, n)| (why.as_str(), *n)).collect();
        failures.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        failures
    }
}

/// All scraped processes of a plan.
#[derive(Clone, Debug, Default)]
pub struct Scrapes {
    /// In the plan's order.
    pub processes: Vec<Process>,
}

/// How evenly calls were spread over the gateways of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Evenness {
    /// The group.
    pub group: String,
    /// The share of each gateway, 0 to 1, if calls were spread evenly.
    pub mean_share: f64,
    /// The largest deviation from `mean_share`, relative to it.
    pub deviation_max: f64,
    /// The gateway with the largest deviation.
    pub of: String,
}

impl Scrapes {
    /// The processes of a plan. `scraped` may be shorter than `scrapes`; missing entries are empty.
    pub(crate) fn new(scrapes: &[Scrape], scraped: &[Scraped]) -> Scrapes {
        let none = Scraped::default();
        let processes = scrapes
            .iter()
            .enumerate()
            .map(|(place, scrape)| Process::of(scrape, scraped.get(place).unwrap_or(&none)));
        Scrapes { processes: processes.collect() }
    }

    /// The groups, in the order in which the plan first names them.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for process in &self.processes {
            if !groups.contains(&process.group.as_str()) {
                groups.push(&process.group);
            }
        }
        groups
    }

    /// Total relays of a group's gateways.
    pub fn relays(&self, group: &str) -> u64 {
        self.gateways(group).map(|(_, relays)| relays.total).sum()
    }

    /// A gateway's share of its group's calls; `None` for other processes, or if the group has none.
    pub fn share(&self, process: &Process) -> Option<f64> {
        let members = self.gateways(&process.group);
        let all: u64 = members.filter_map(|(member, _)| member.answered()).sum();
        let own = process.answered().filter(|_| all > 0 && process.relays.is_some())?;
        Some(own as f64 / all as f64)
    }

    /// A group's calls by cache result.
    pub fn cache(&self, group: &str) -> BTreeMap<&str, u64> {
        let members = self.gateways(group).filter_map(|(process, _)| process.calls.as_ref());
        let mut sums = BTreeMap::new();
        for (result, n) in members.flat_map(|calls| &calls.cache) {
            *sums.entry(result.as_str()).or_insert(0) += n;
        }
        sums
    }

    /// A group's relays by upstream.
    pub fn upstreams(&self, group: &str) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for (name, n) in self.gateways(group).flat_map(|(_, relays)| &relays.upstreams) {
            *sums.entry(name.as_str()).or_insert(0) += n;
        }
        sums
    }

    /// How evenly a group's calls were spread; `None` with fewer than two gateways or no calls.
    pub fn evenness(&self, group: &str) -> Option<Evenness> {
        let shares: Vec<_> = self
            .gateways(group)
            .filter_map(|(process, _)| Some((process, self.share(process)?)))
            .collect();
        if shares.len() < 2 {
            return None;
        }
        let mean_share = 1.0 / shares.len() as f64;
        let far = |share: f64| (share - mean_share).abs() / mean_share;
        let (process, share) =
            shares.into_iter().max_by(|(_, a), (_, b)| far(*a).total_cmp(&far(*b)))?;
        let (group, of) = (group.to_string(), process.name.clone());
        Some(Evenness { group, mean_share, deviation_max: far(share), of })
    }

    fn gateways(&self, group: &str) -> impl Iterator<Item = (&Process, &Relays)> {
        let members = self.processes.iter().filter(move |process| process.group == group);
        members.filter_map(|process| Some((process, process.relays.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_measure::{WallClock, prometheus};
    use plimsoll_plan::{ScrapeSource, Url};

    fn scrapes(pages: &[&[&str]]) -> Scrapes {
        let scrape = |n: usize| {
            let shown = format!("http://h:{n}/");
            let (name, group) = (format!("gw-{n}"), "all".to_string());
            Scrape {
                name,
                group,
                source: ScrapeSource::Url { url: Url::parse(&shown).unwrap(), shown },
                chain: None,
                charts: Vec::new(),
            }
        };
        let named: Vec<_> = (1..=pages.len()).map(scrape).collect();
        let sum = |pages: &&[&str]| {
            let mut sum = Scraped::default();
            for (second, page) in (1..).zip(*pages) {
                let at = WallClock { unix_ns: second * 1_000_000_000 };
                sum.append(&match prometheus::parse(page) {
                    Ok(samples) => Scraped::page(at, samples, &[]),
                    Err(fault) => Scraped::failure(fault.to_string()),
                });
            }
            sum
        };
        Scrapes::new(&named, &pages.iter().map(sum).collect::<Vec<_>>())
    }

    #[test]
    fn gateways_and_others() {
        let gateway = |started: u64, cpu: f64, a: u64, b: u64| {
            format!(
                "process_start_time_seconds {started}\nprocess_cpu_seconds_total {cpu}\nprocess_resident_memory_bytes 1e6\n\
                 plimsoll_calls_total{{service=\"eth\",method=\"other\",outcome=\"ok\",cache=\"miss\"}} {}\n\
                 plimsoll_relays_total{{service=\"eth\",upstream=\"a\",outcome=\"ok\"}} {a}\n\
                 plimsoll_relays_total{{service=\"eth\",upstream=\"b\",outcome=\"ok\"}} {b}\n",
                a + b
            )
        };
        let scrapes = scrapes(&[
            &[&gateway(7, 10.0, 5, 5), &gateway(7, 10.5, 305, 305)],
            // Restarted: 100 relays before, 300 after.
            &[&gateway(7, 4.0, 0, 0), &gateway(7, 4.1, 50, 50), &gateway(99, 0.1, 200, 100)],
            &["process_cpu_seconds_total 1", "process_cpu_seconds_total 1.25"],
            &["!"],
        ]);
        let [one, two, other, failing] = scrapes.processes.as_slice() else { panic!("four") };
        let millis = Nanos::from_millis;
        assert_eq!((one.cpu, one.cpu_share(), one.restarts), (Some(millis(500)), Some(0.5), 0));
        assert_eq!((one.relays.as_ref().unwrap().total, one.memory_max), (600, Some(1_000_000)));
        assert_eq!(one.cpu_per_relay(), Some(Nanos(833_333)));
        assert_eq!(one.calls.as_ref().unwrap().cache, [("miss".into(), 600)].into());
        assert_eq!((two.relays.as_ref().unwrap().total, two.restarts), (400, 1));
        assert_eq!(two.cpu, Some(millis(200)));
        assert_eq!((other.cpu_share(), other.relays.is_none()), (Some(0.25), true));
        assert_eq!(
            (failing.cpu, failing.failures()),
            (None, vec![("line 1: missing or invalid metric name", 1)])
        );
        assert_eq!(
            (scrapes.relays("all"), scrapes.share(one), scrapes.share(other)),
            (1000, Some(0.6), None)
        );
        assert_eq!(scrapes.upstreams("all"), [("a", 550), ("b", 450)].into());
        let even = scrapes.evenness("all").unwrap();
        assert_eq!(even.mean_share, 0.5);
        assert!((even.deviation_max - 0.2).abs() < 1e-9);
    }

    #[test]
    fn gateways_without_relays() {
        let generator = "plimsoll_run_in_flight 0";
        let scrapes = scrapes(&[&["plimsoll_connections{side=\"down\"} 0"], &[], &[generator]]);
        assert_eq!((scrapes.relays("all"), scrapes.evenness("all")), (0, None));
        assert_eq!(scrapes.processes[0].relays, Some(Relays::default()));
        assert_eq!(scrapes.processes[0].cpu_per_relay(), None);
        assert_eq!(scrapes.processes[2].relays, None, "another load generator is not a gateway");
    }
}
