//! The metrics page, in Prometheus' text format.
//!
//! Values are summed over the workers' shards on request. [`METRICS`] lists every metric; a test
//! compares it with the documentation.

mod customers;

use std::fmt::Write;
use std::sync::Arc;

use plimsoll_registry::store::{Contact, Report};
use plimsoll_registry::usage;
use plimsoll_rpc::method;

use crate::cache::class::Reason;
use crate::cache::shared::SharedCounts;
use crate::cache::store;
use crate::error::{ErrorKind, TABLE};
use crate::limits::keep::LeaseFigures;
use crate::line::{Line, Waited};
use crate::observe::stats::{
    CacheUse, Calls, Counter, Counts, Durations, EDGES, Extra, Limited, Outcome, RelayOutcome,
    Relays, SHED, Sharded, WrongKey,
};
use crate::observe::traces::TraceCounts;
pub(crate) use customers::Customers;

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels, comma-separated.
    pub labels: &'static str,
    /// Its HELP text.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($name:ident = $text:literal, $kind:literal, $labels:literal, $help:literal;)*) => {
        $(const $name: Metric = Metric { name: $text, kind: $kind, labels: $labels, help: $help };)*

        /// Every metric.
        pub const METRICS: &[Metric] = &[$($name,)*];
    };
}

metrics! {
    CALLS = "plimsoll_calls_total", "counter", "service,method,outcome,cache", "Calls by outcome and by use of the cache (hit, shared, coalesced, miss, bypass). Outcomes: ok; rpc_error (the upstream returned an error object); caller, gateway or upstream, the side at fault for an error of the gateway; cancelled (the caller disconnected first); truncated (the answer was not fully delivered).";
    CALL_DURATION = "plimsoll_call_duration_seconds", "histogram", "service,outcome", "Time from reading the request to having its answer.";
    RELAYS = "plimsoll_relays_total", "counter", "service,upstream,outcome", "Calls sent upstream, by outcome: ok, the class of the upstream's error object, the reason for a missing answer, or cancelled.";
    RELAY_DURATION = "plimsoll_relay_duration_seconds", "histogram", "service,upstream", "Time from sending a call upstream to the complete answer.";
    LOOSE = "plimsoll_loose_answers_total", "counter", "service,upstream", "Answers that were not strictly valid JSON-RPC (an id or a code as a string, an error that is not an object, a single answer in an array) and were corrected.";
    EXTRA = "plimsoll_extra_attempts_total", "counter", "service,reason", "Attempts beyond the first of a call: retry, because one failed or was slow; hedge, because the first took longer than usual; elsewhere, because one never reached its upstream; stale_connection, on the same upstream, because it had closed the pooled connection.";
    EXTRA_REFUSED = "plimsoll_extra_attempts_refused_total", "counter", "service,reason", "Retries and hedges that the budget did not allow. A refused retry is offered again until the call's deadline.";
    HEDGES_WON = "plimsoll_hedges_won_total", "counter", "service", "Hedges that were answered first; the other attempts were cancelled.";
    DISSENTS = "plimsoll_dissents_total", "counter", "service,upstream", "Answers that differed from those that agree = N upstreams agreed on.";
    IN_FLIGHT = "plimsoll_relays_in_flight", "gauge", "upstream", "Relays in flight.";
    CONCURRENCY = "plimsoll_upstream_concurrency", "gauge", "upstream", "The most calls that the upstream is sent at a time at present; plimsoll_relays_in_flight is what it is sent.";
    WAITING = "plimsoll_waiting_calls", "gauge", "service", "Calls that wait for an upstream with room.";
    WAITED = "plimsoll_waits_total", "counter", "service,outcome", "Calls that found all upstreams at their limit, by outcome: served; early (refused at once, because their turn would have come too late); late (their turn did not come in time); full (too many calls were waiting); left (the caller disconnected).";
    WAIT_TIME = "plimsoll_wait_seconds_total", "counter", "service", "The time that the served ones of these calls have waited.";
    SHED_CALLS = "plimsoll_shed_total", "counter", "service,endpoint,reason", "Calls refused for lack of capacity, by error. The first 200 endpoints that this happens to are named; the endpoint is empty for the others and for calls without one. too_many_connections has no service and counts connections.";
    REFUSED = "plimsoll_refused_total", "counter", "reason", "Requests and calls refused before their method was determined, by error.";
    LIMITED = "plimsoll_limited_total", "counter", "scope,reason", "Calls that a limit did not admit: of the endpoint or of the key (scope), by calls or compute_units per second, or by the daily or monthly quota.";
    REFUSED_CUSTOMERS = "plimsoll_endpoint_refused_total", "counter", "endpoint,reason", "Calls that a limit of the endpoint or of its keys did not admit (calls, compute_units, daily, monthly), and requests without a valid key (missing, malformed, conflicting, unknown, expired, foreign). The endpoint's id is masked as in the log; the first 500 endpoints by id are named, the others are added up as other.";
    QUOTA_USED = "plimsoll_quota_used_ratio", "gauge", "endpoint,key,quota", "The used part of the daily or monthly quota, 1 when it is used up; key is empty for the quota of all keys together. The endpoint's id is masked as in the log; of those that look the same, the highest. The first 500 endpoints by id.";
    QUOTAS_USED_UP = "plimsoll_quotas_used_up", "gauge", "quota", "The quotas of endpoints and keys that are used up.";
    QUOTAS_STALE = "plimsoll_quota_totals_stale", "gauge", "", "1 while the database's totals of the quotas cannot be read, and each replica adds only its own calls to the last ones; absent without a database.";
    WRONG_KEYS = "plimsoll_wrong_keys_total", "counter", "reason", "Requests to endpoints with keys that were refused: missing, malformed, conflicting (several different ones), unknown, expired or foreign (another endpoint's).";
    LIMITS_LOCAL = "plimsoll_limits_local", "gauge", "", "1 while Redis does not answer and each replica enforces its part of the limits; only if limits are shared.";
    LIMITS_REPLICAS = "plimsoll_limits_replicas", "gauge", "", "The replicas that share limits, as of the last answer of Redis.";
    LIMITS_TOKENS = "plimsoll_limits_tokens_total", "counter", "direction", "Tokens (calls or compute units) leased from shared limits, returned unused, and spent of the replica's own part (local) because Redis did not answer in time.";
    LIMITS_RENEWALS = "plimsoll_limits_renewals_total", "counter", "outcome", "Round trips to Redis that renewed leases, each for several limits, and those that failed or were late.";
    LIMITS_WAITS = "plimsoll_limits_waits_total", "counter", "", "Calls that waited for a lease, because the previous one was used up.";
    CONNECTIONS = "plimsoll_connections", "gauge", "side", "Open connections: downstream from callers, upstream to upstreams.";
    USABLE = "plimsoll_upstream_usable", "gauge", "service,upstream", "1 if the upstream is in rotation for the service; 0 if plimsoll_upstream_excluded has a reason.";
    EXCLUDED = "plimsoll_upstream_excluded", "gauge", "service,upstream,reason", "1 if the upstream is out of rotation for this reason: wrong_chain, chain_untold (it does not tell its chain id, and others do), chain_unanswered (it has never answered eth_chainId), drained, parked (it asked not to be called), breaker (its breaker is open), failing (it has failed five attempts in a row), unanswered, not_ready, behind, forked or implausible (by its health checks).";
    HEAD = "plimsoll_upstream_head", "gauge", "service,upstream", "The latest block that the upstream has reported.";
    SERVED_HEAD = "plimsoll_served_head", "gauge", "service,tag", "The block that the gateway serves as latest, safe or finalized.";
    HEAD_HELD = "plimsoll_served_head_held", "gauge", "service", "1 if no upstream has the block served as latest, else 0.";
    FALLBACK = "plimsoll_least_lagging_serves", "gauge", "service", "1 if all upstreams are out of rotation for their heads, and the least lagging one serves, else 0.";
    REORGANISATIONS = "plimsoll_reorganisations_total", "counter", "service", "Reorganisations of the served chain.";
    CORRECTIONS = "plimsoll_head_corrections_total", "counter", "service", "Served heads taken back because one upstream had reported them alone and a clear majority contradicted it.";
    CACHE_BYTES = "plimsoll_cache_bytes", "gauge", "", "Memory of the cached answers in this process; the limit is cache.memory.";
    CACHE_ENTRIES = "plimsoll_cache_entries", "gauge", "", "Cached answers in this process.";
    CACHE_STORED = "plimsoll_cache_stored_total", "counter", "", "Answers stored in this process.";
    CACHE_EVICTIONS = "plimsoll_cache_evictions_total", "counter", "", "Cached answers removed to make room for others.";
    CACHE_BYPASSED = "plimsoll_cache_bypassed_total", "counter", "service,reason", "Calls that did not use the cache, by reason; docs/caching.md lists the reasons.";
    CACHE_NOT_STORED = "plimsoll_cache_not_stored_total", "counter", "service,reason", "Results of misses that were not stored, by reason.";
    PREFETCHED = "plimsoll_cache_prefetched_total", "counter", "service", "Calls that the gateway made for new blocks (cache.prefetch of the service).";
    FLIGHTS_FULL = "plimsoll_cache_flights_full_total", "counter", "", "Misses relayed without waiting for the same call of another caller, because limits.calls calls were already waiting.";
    REDIS = "plimsoll_redis_operations_total", "counter", "result", "Reads of answers in Redis: hit, miss, foreign (a value that is not ours or damaged); reads and writes: skipped (Redis was not reachable), slow (it took longer than cache.redis_timeout), failed; writes: written, lost (too many were waiting).";
    REDIS_USED = "plimsoll_redis_used", "gauge", "", "1 if the Redis of cache.redis is used at present, 0 if it is skipped.";
    HEADS_LATE = "plimsoll_shared_heads_late_total", "counter", "", "Calls answered with the heads of this process alone, because Redis did not confirm in time which heads the replicas serve.";
    HEADS_FOREIGN = "plimsoll_shared_heads_foreign_total", "counter", "", "Values that were found instead of the heads in Redis, and replaced.";
    CALLS_IN_FLIGHT = "plimsoll_calls_in_flight", "gauge", "", "Calls in flight; the limit is limits.calls.";
    MEMORY_HELD = "plimsoll_memory_held_bytes", "gauge", "", "Memory charged for connections, calls, bodies and answers; the limit is limits.memory.";
    MEMORY_LIMIT = "plimsoll_memory_limit_bytes", "gauge", "", "The value of limits.memory.";
    CONFIG_REJECTED = "plimsoll_config_rejected", "gauge", "", "1 if the last change to the configuration, the database or the certificates was rejected and the previous state is still in use, else 0.";
    CONFIG_RELOADED = "plimsoll_config_last_reload_seconds", "gauge", "", "When the configuration was last applied, as Unix time.";
    DB_QUERIES = "plimsoll_db_queries_total", "counter", "", "Database queries; relaying a call makes none.";
    DB_CONNECTIONS = "plimsoll_db_connections", "gauge", "", "Open connections to a database server.";
    DB_UP = "plimsoll_db_up", "gauge", "", "1 if the last use of the database succeeded, 0 if it failed; absent without a database.";
    REGISTRY_SEQUENCE = "plimsoll_registry_sequence", "gauge", "", "Number of the last change of the database that is in use; all replicas should show the same.";
    REGISTRY_FROM_DISK = "plimsoll_registry_from_disk", "gauge", "", "1 while the entries in use are those saved before the start, because the database could not be reached since.";
    SNAPSHOT_FAILED = "plimsoll_registry_snapshot_failed", "gauge", "", "1 if the entries of a database server cannot be saved for the next start.";
    USAGE_FLUSHES = "plimsoll_usage_flushes_total", "counter", "result", "Batches of usage: written; known (the database already had it: the answer to an earlier commit was lost); failed (sent again later).";
    USAGE_SPOOLED = "plimsoll_usage_spooled_bytes", "gauge", "", "Usage that waits on disk for the database.";
    USAGE_HELD = "plimsoll_usage_held_rows", "gauge", "", "Rows of usage that wait in memory, because the file cannot take them: they would be lost with the process.";
    USAGE_SPOOL_FAILED = "plimsoll_usage_spool_failed", "gauge", "", "1 if usage cannot be written to disk.";
    USAGE_FOLDED = "plimsoll_usage_folded_total", "counter", "", "Additions of usage that were not kept apart by method or endpoint, because too many rows were waiting.";
    USAGE_LOST = "plimsoll_usage_lost_total", "counter", "", "Additions of usage that could not be read back from a damaged file; 0 unless a disk fails.";
    LOG_DROPPED = "plimsoll_access_log_dropped_total", "counter", "", "Access log lines that could not be written.";
    SPANS = "plimsoll_trace_spans_total", "counter", "result", "Spans of recorded traces: sent, rejected (by a receiver that accepted others of the same request), failed (the receiver refused the request or could not be reached for a minute), dropped (8,192 spans or 8 MiB were waiting).";
    SPANS_WAITING = "plimsoll_trace_spans_waiting", "gauge", "", "Spans that wait or are being sent.";
    BUILD = "plimsoll_build_info", "gauge", "version", "Always 1; the version is in the label.";
    CPU = "process_cpu_seconds_total", "counter", "", "User and system CPU time.";
    MEMORY = "process_resident_memory_bytes", "gauge", "", "Resident memory.";
    FDS = "process_open_fds", "gauge", "", "Open file descriptors.";
    STARTED = "process_start_time_seconds", "gauge", "", "Start time as Unix time.";
}

/// The counters of a service.
pub(crate) struct ServiceFigures {
    pub(crate) id: String,
    pub(crate) calls: Arc<Sharded<Calls>>,
    pub(crate) routes: Vec<RouteFigures>,
    /// The served heads, if upstreams are asked for theirs.
    pub(crate) heads: Option<HeadFigures>,
    /// Whether all upstreams are behind, and the least lagging serves.
    pub(crate) is_fallback: bool,
    /// Calls made for new blocks.
    pub(crate) prefetched: u64,
    /// Its calls that wait for an upstream.
    pub(crate) line: Arc<Line>,
    /// By endpoint: its calls that were refused for lack of capacity, in the order of [`SHED`].
    pub(crate) shed: Vec<(String, [u64; SHED.len()])>,
}

/// The most endpoints that are named in [`SHED_CALLS`].
pub(crate) const SHED_NAMED_MAX: u64 = 200;

/// The served heads of a service.
pub(crate) struct HeadFigures {
    /// Latest, safe and finalized, as far as they are known.
    pub(crate) served: [Option<u64>; 3],
    pub(crate) is_held: bool,
    pub(crate) reorganisations: u64,
    pub(crate) corrections: u64,
}

/// The counters of a service's relays to one upstream.
pub(crate) struct RouteFigures {
    pub(crate) upstream: String,
    /// Why the upstream is out of rotation, if it is.
    pub(crate) excluded: Option<&'static str>,
    /// The latest block that it has reported.
    pub(crate) head: Option<u64>,
    pub(crate) relays: Arc<Sharded<Relays>>,
}

/// The figures of the cache.
#[derive(Default)]
pub(crate) struct CacheFigures {
    pub(crate) store: store::Figures,
    pub(crate) flights_full: u64,
    /// The second level's counts, and whether it is used; `None` if there is none.
    pub(crate) shared: Option<(SharedCounts, bool)>,
    pub(crate) heads_late: u64,
    pub(crate) heads_foreign: u64,
}

/// The contents of the page.
pub(crate) struct Figures<'a> {
    pub(crate) services: Vec<ServiceFigures>,
    /// Relays in flight by upstream, and the limit.
    pub(crate) in_flight: Vec<(String, u64, u32)>,
    pub(crate) counts: &'a Sharded<Counts>,
    pub(crate) cache: CacheFigures,
    /// What endpoints have used and were refused.
    pub(crate) customers: Customers,
    /// `None`: limits are not shared.
    pub(crate) leases: Option<LeaseFigures>,
    pub(crate) calls: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_limit: u64,
    pub(crate) is_config_rejected: bool,
    pub(crate) reloaded_secs: f64,
    pub(crate) db_queries: u64,
    pub(crate) db_connections: u64,
    pub(crate) database: Report,
    /// `None`: usage is not recorded.
    pub(crate) usage: Option<usage::Figures>,
    pub(crate) log_dropped: u64,
    pub(crate) traces: TraceCounts,
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) open_fds: u64,
    pub(crate) started_secs: f64,
}

impl Figures<'_> {
    /// The page.
    pub(crate) fn page(&self) -> String {
        let mut page = Page(String::with_capacity(16 << 10));
        page.calls(&self.services);
        page.relays(&self.services);
        page.extra(&self.services);
        page.head(IN_FLIGHT);
        for (upstream, in_flight, _) in &self.in_flight {
            page.sample(IN_FLIGHT, "", &[("upstream", upstream)], in_flight);
        }
        page.head(CONCURRENCY);
        for (upstream, _, limit) in &self.in_flight {
            page.sample(CONCURRENCY, "", &[("upstream", upstream)], limit);
        }
        page.waits(&self.services);
        page.shed(self.counts, &self.services);
        page.head(REFUSED);
        for (at, row) in TABLE.iter().enumerate() {
            let count = self.counts.sum(|counts| counts.refused[at].get());
            if count > 0 {
                page.sample(REFUSED, "", &[("reason", row.name)], count);
            }
        }
        page.access(self.counts);
        page.customers(&self.customers);
        if let Some(leases) = &self.leases {
            page.leases(leases);
        }
        page.head(CONNECTIONS);
        let downstream = self.counts.sum(|counts| counts.downstream.get());
        page.sample(CONNECTIONS, "", &[("side", "downstream")], downstream);
        let upstream = self.counts.sum(|counts| counts.upstream.get());
        page.sample(CONNECTIONS, "", &[("side", "upstream")], upstream);
        page.rotation(&self.services);
        page.heads(&self.services);
        page.cache(&self.cache, &self.services);
        page.one(CALLS_IN_FLIGHT, self.calls);
        page.one(MEMORY_HELD, self.memory_bytes);
        page.one(MEMORY_LIMIT, self.memory_limit);
        page.one(CONFIG_REJECTED, u8::from(self.is_config_rejected));
        page.one(CONFIG_RELOADED, self.reloaded_secs);
        page.one(DB_QUERIES, self.db_queries);
        page.one(DB_CONNECTIONS, self.db_connections);
        if self.database.contact != Contact::None {
            page.one(DB_UP, u8::from(self.database.contact == Contact::Up));
        }
        page.one(REGISTRY_SEQUENCE, self.database.sequence);
        page.one(REGISTRY_FROM_DISK, u8::from(self.database.from_disk));
        page.one(SNAPSHOT_FAILED, u8::from(!self.database.snapshot_error.is_empty()));
        if let Some(usage) = &self.usage {
            page.usage(usage);
        }
        page.one(LOG_DROPPED, self.log_dropped);
        page.traces(&self.traces);
        page.head(BUILD);
        page.sample(BUILD, "", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.one(CPU, self.cpu_seconds);
        page.one(MEMORY, self.resident_bytes);
        page.one(FDS, self.open_fds);
        page.one(STARTED, self.started_secs);
        page.0
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, metric: Metric) {
        let Metric { name, kind, help, .. } = metric;
        write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect("writing to memory");
    }

    fn one(&mut self, metric: Metric, value: impl std::fmt::Display) {
        self.head(metric);
        self.sample(metric, "", &[], value);
    }

    fn sample(
        &mut self,
        metric: Metric,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl std::fmt::Display,
    ) {
        self.0 += metric.name;
        self.0 += suffix;
        for (at, (name, value)) in labels.iter().enumerate() {
            // Ids contain no characters that need escaping.
            write!(self.0, "{}{name}=\"{value}\"", if at == 0 { '{' } else { ',' })
                .expect("writing to memory");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        writeln!(self.0, "{close} {value}").expect("writing to memory");
    }

    fn calls(&mut self, services: &[ServiceFigures]) {
        self.head(CALLS);
        for service in services {
            for method in 0..=method::NAMES.len() {
                let name = method::NAMES.get(method).copied().unwrap_or("other");
                let uses = CacheUse::NAMES.into_iter().enumerate();
                let outcomes = || Outcome::NAMES.into_iter().enumerate();
                for ((used, cache), (at, outcome)) in
                    uses.flat_map(|used| outcomes().map(move |outcome| (used, outcome)))
                {
                    let count = service.calls.sum(|calls| calls.count(method, used, at));
                    if count > 0 {
                        let labels = [
                            ("service", service.id.as_str()),
                            ("method", name),
                            ("outcome", outcome),
                            ("cache", cache),
                        ];
                        self.sample(CALLS, "", &labels, count);
                    }
                }
            }
        }
        self.head(CALL_DURATION);
        for service in services {
            for (at, outcome) in Outcome::NAMES.into_iter().enumerate() {
                let labels = [("service", service.id.as_str()), ("outcome", outcome)];
                self.durations(CALL_DURATION, &labels, |bucket| {
                    service.calls.sum(|calls| figure(&calls.durations[at], bucket))
                });
            }
        }
    }

    fn cache(&mut self, cache: &CacheFigures, services: &[ServiceFigures]) {
        self.one(CACHE_BYTES, cache.store.bytes);
        self.one(CACHE_ENTRIES, cache.store.entries);
        self.one(CACHE_STORED, cache.store.stored);
        self.one(CACHE_EVICTIONS, cache.store.evicted);
        type ByReason = fn(&Calls) -> &[Counter];
        let bypassed: (Metric, ByReason) = (CACHE_BYPASSED, |calls| &calls.bypassed);
        let not_stored: (Metric, ByReason) = (CACHE_NOT_STORED, |calls| &calls.not_stored);
        for (metric, counts) in [bypassed, not_stored] {
            self.head(metric);
            for service in services {
                for (place, reason) in Reason::ALL.into_iter().enumerate() {
                    let count = service.calls.sum(|calls| counts(calls)[place].get());
                    if count > 0 {
                        let labels = [("service", service.id.as_str()), ("reason", reason.name())];
                        self.sample(metric, "", &labels, count);
                    }
                }
            }
        }
        self.head(PREFETCHED);
        for service in services.iter().filter(|service| service.prefetched > 0) {
            self.sample(PREFETCHED, "", &[("service", &service.id)], service.prefetched);
        }
        self.one(FLIGHTS_FULL, cache.flights_full);
        let (counts, is_used) = cache.shared.unwrap_or_default();
        self.head(REDIS);
        for (result, count) in counts.named() {
            self.sample(REDIS, "", &[("result", result)], count);
        }
        self.one(REDIS_USED, u8::from(is_used));
        self.one(HEADS_LATE, cache.heads_late);
        self.one(HEADS_FOREIGN, cache.heads_foreign);
    }

    fn traces(&mut self, traces: &TraceCounts) {
        let TraceCounts { sent, rejected, failed, dropped, waiting } = *traces;
        self.head(SPANS);
        let results =
            [("sent", sent), ("rejected", rejected), ("failed", failed), ("dropped", dropped)];
        for (result, count) in results.into_iter().filter(|(_, count)| *count > 0) {
            self.sample(SPANS, "", &[("result", result)], count);
        }
        self.one(SPANS_WAITING, waiting);
    }

    fn usage(&mut self, usage: &usage::Figures) {
        self.head(USAGE_FLUSHES);
        let results =
            [("written", usage.written), ("known", usage.known), ("failed", usage.failed)];
        for (result, count) in results {
            self.sample(USAGE_FLUSHES, "", &[("result", result)], count);
        }
        self.one(USAGE_SPOOLED, usage.spooled_bytes);
        self.one(USAGE_HELD, usage.held_rows);
        self.one(USAGE_SPOOL_FAILED, u8::from(!usage.spool_error.is_empty()));
        self.one(USAGE_FOLDED, usage.folded);
        self.one(USAGE_LOST, usage.lost);
    }

    fn rotation(&mut self, services: &[ServiceFigures]) {
        let routes = || {
            services.iter().flat_map(|service| {
                service.routes.iter().map(move |route| (service.id.as_str(), route))
            })
        };
        self.head(USABLE);
        for (service, route) in routes() {
            let labels = [("service", service), ("upstream", &route.upstream)];
            self.sample(USABLE, "", &labels, u8::from(route.excluded.is_none()));
        }
        self.head(EXCLUDED);
        for (service, route) in routes() {
            if let Some(reason) = route.excluded {
                let labels =
                    [("service", service), ("upstream", &route.upstream), ("reason", reason)];
                self.sample(EXCLUDED, "", &labels, 1);
            }
        }
        self.head(HEAD);
        for (service, route) in routes() {
            if let Some(head) = route.head {
                self.sample(HEAD, "", &[("service", service), ("upstream", &route.upstream)], head);
            }
        }
        self.head(DISSENTS);
        for (service, route) in routes() {
            let count = route.relays.sum(|relays| relays.dissents.get());
            if count > 0 {
                let labels = [("service", service), ("upstream", route.upstream.as_str())];
                self.sample(DISSENTS, "", &labels, count);
            }
        }
    }

    fn heads(&mut self, services: &[ServiceFigures]) {
        let heads =
            || services.iter().filter_map(|one| Some((one.id.as_str(), one.heads.as_ref()?)));
        self.head(SERVED_HEAD);
        for (service, heads) in heads() {
            for (tag, number) in ["latest", "safe", "finalized"].into_iter().zip(heads.served) {
                if let Some(number) = number {
                    self.sample(SERVED_HEAD, "", &[("service", service), ("tag", tag)], number);
                }
            }
        }
        self.head(HEAD_HELD);
        for (service, heads) in heads() {
            self.sample(HEAD_HELD, "", &[("service", service)], u8::from(heads.is_held));
        }
        self.head(FALLBACK);
        for service in services.iter().filter(|service| service.heads.is_some()) {
            let labels = [("service", service.id.as_str())];
            self.sample(FALLBACK, "", &labels, u8::from(service.is_fallback));
        }
        self.head(REORGANISATIONS);
        for (service, heads) in heads() {
            self.sample(REORGANISATIONS, "", &[("service", service)], heads.reorganisations);
        }
        self.head(CORRECTIONS);
        for (service, heads) in heads() {
            self.sample(CORRECTIONS, "", &[("service", service)], heads.corrections);
        }
    }

    fn extra(&mut self, services: &[ServiceFigures]) {
        for (metric, is_refused) in [(EXTRA, false), (EXTRA_REFUSED, true)] {
            self.head(metric);
            for service in services {
                for (place, reason) in Extra::NAMES.into_iter().enumerate() {
                    let count = service.calls.sum(|calls| {
                        let counts = if is_refused { &calls.refused_extra } else { &calls.extra };
                        counts[place].get()
                    });
                    if count > 0 {
                        let labels = [("service", service.id.as_str()), ("reason", reason)];
                        self.sample(metric, "", &labels, count);
                    }
                }
            }
        }
        self.head(HEDGES_WON);
        for service in services {
            let count = service.calls.sum(|calls| calls.hedges_won.get());
            if count > 0 {
                self.sample(HEDGES_WON, "", &[("service", service.id.as_str())], count);
            }
        }
    }

    fn relays(&mut self, services: &[ServiceFigures]) {
        self.head(RELAYS);
        let routes = || {
            services.iter().flat_map(|service| {
                service.routes.iter().map(move |route| (service.id.as_str(), route))
            })
        };
        for (service, route) in routes() {
            for at in 0..RelayOutcome::COUNT {
                let count = route.relays.sum(|relays| relays.count(at));
                if count > 0 {
                    let labels = [
                        ("service", service),
                        ("upstream", route.upstream.as_str()),
                        ("outcome", RelayOutcome::label(at)),
                    ];
                    self.sample(RELAYS, "", &labels, count);
                }
            }
        }
        self.head(LOOSE);
        for (service, route) in routes() {
            let count = route.relays.sum(|relays| relays.loose.get());
            if count > 0 {
                let labels = [("service", service), ("upstream", route.upstream.as_str())];
                self.sample(LOOSE, "", &labels, count);
            }
        }
        self.head(RELAY_DURATION);
        for (service, route) in routes() {
            let labels = [("service", service), ("upstream", route.upstream.as_str())];
            self.durations(RELAY_DURATION, &labels, |bucket| {
                route.relays.sum(|relays| figure(&relays.durations, bucket))
            });
        }
    }

    fn access(&mut self, counts: &Sharded<Counts>) {
        self.head(LIMITED);
        for (at, scope) in ["endpoint", "key"].into_iter().enumerate() {
            for (place, reason) in Limited::NAMES.into_iter().enumerate() {
                let count = counts.sum(|counts| counts.limited[at][place].get());
                if count > 0 {
                    self.sample(LIMITED, "", &[("scope", scope), ("reason", reason)], count);
                }
            }
        }
        self.head(WRONG_KEYS);
        for (place, reason) in WrongKey::NAMES.into_iter().enumerate() {
            let count = counts.sum(|counts| counts.wrong_keys[place].get());
            if count > 0 {
                self.sample(WRONG_KEYS, "", &[("reason", reason)], count);
            }
        }
    }

    fn waits(&mut self, services: &[ServiceFigures]) {
        self.head(WAITING);
        for service in services {
            self.sample(WAITING, "", &[("service", &service.id)], service.line.waiting());
        }
        self.head(WAITED);
        for service in services {
            for how in Waited::ALL {
                let count = service.line.ended(how);
                if count > 0 {
                    let labels = [("service", service.id.as_str()), ("outcome", how.word())];
                    self.sample(WAITED, "", &labels, count);
                }
            }
        }
        self.head(WAIT_TIME);
        for service in services {
            let waited = service.line.waited().as_secs_f64();
            self.sample(WAIT_TIME, "", &[("service", &service.id)], waited);
        }
    }

    fn leases(&mut self, leases: &LeaseFigures) {
        self.one(LIMITS_LOCAL, u8::from(leases.is_local));
        self.one(LIMITS_REPLICAS, leases.replicas);
        self.head(LIMITS_TOKENS);
        let LeaseFigures { leased, returned, local, .. } = *leases;
        for (direction, count) in [("leased", leased), ("returned", returned), ("local", local)] {
            self.sample(LIMITS_TOKENS, "", &[("direction", direction)], count);
        }
        self.head(LIMITS_RENEWALS);
        let ok = leases.asked.saturating_sub(leases.failed);
        for (outcome, count) in [("ok", ok), ("failed", leases.failed)] {
            self.sample(LIMITS_RENEWALS, "", &[("outcome", outcome)], count);
        }
        self.one(LIMITS_WAITS, leases.waited);
    }

    fn shed(&mut self, counts: &Sharded<Counts>, services: &[ServiceFigures]) {
        self.head(SHED_CALLS);
        let mut sample = |service: &str, endpoint: &str, kind: ErrorKind, count: u64| {
            if count > 0 {
                let reason = ("reason", kind.row().name);
                let labels = [("service", service), ("endpoint", endpoint), reason];
                self.sample(SHED_CALLS, "", &labels, count);
            }
        };
        for service in services {
            for (place, kind) in SHED.into_iter().enumerate() {
                let mut others = service.calls.sum(|calls| calls.shed[place].get());
                for (endpoint, counts) in &service.shed {
                    sample(&service.id, endpoint, kind, counts[place]);
                    others = others.saturating_sub(counts[place]);
                }
                sample(&service.id, "", kind, others);
            }
        }
        let full = ErrorKind::TooManyConnections;
        sample("", "", full, counts.sum(|counts| counts.refused[full as usize].get()));
    }

    /// Writes a histogram, unless it is empty; `figure` returns a bucket's count, or the sum.
    fn durations(
        &mut self,
        metric: Metric,
        labels: &[(&str, &str)],
        figure: impl Fn(Option<usize>) -> u64,
    ) {
        let counts: Vec<u64> = (0..=EDGES.len()).map(|bucket| figure(Some(bucket))).collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return;
        }
        let mut below = 0;
        for (count, edge) in counts.iter().zip(EDGES) {
            below += count;
            let edge = edge.as_secs_f64().to_string();
            let labels: Vec<_> = labels.iter().copied().chain([("le", edge.as_str())]).collect();
            self.sample(metric, "_bucket", &labels, below);
        }
        let labels_inf: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
        self.sample(metric, "_bucket", &labels_inf, total);
        self.sample(metric, "_sum", labels, figure(None) as f64 / 1e9);
        self.sample(metric, "_count", labels, total);
    }
}

fn figure(durations: &Durations, bucket: Option<usize>) -> u64 {
    match bucket {
        Some(bucket) => durations.buckets[bucket].get(),
        None => durations.sum_ns.get(),
    }
}
