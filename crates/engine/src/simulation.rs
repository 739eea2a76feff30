//! The engine on a simulated machine, thousands of seeds.
//!
//! The real worker, dispatcher, connections, codec and recorder run on bytes and virtual time; only
//! clock, poll, sockets and name resolution are simulated (`net`, `system`). A seed determines a
//! plan (`draft`), a network with its failures (`script`), and servers that act on them (`peer`).
//! After each run, the accounting identities must hold, nothing may have been sent after its
//! deadline, limits must have been kept, and **the verdict must blame the side at fault in the
//! script**.
//!
//! A failure prints its seed; `PLIMSOLL_SEED=N cargo test -p plimsoll-engine one_seed` replays that
//! seed and prints the details.

mod draft;
pub(crate) mod http2;
mod net;
mod peer;
mod script;
mod standing;
mod system;

use crate::capture::{Capture, CapturedBlock};
use crate::control::{Assignments, Control};
use crate::dispatch::Dispatcher;
use crate::pool::{Name, Pool};
use crate::prepare::{Shared, Spin};
use crate::request::{opening_of, tls_start};
use crate::running::{Reporter, Running, Started, Waker};
use crate::sampling::{Recorded, SampleSink, Sampling};
use crate::source::Source;
use crate::worker::Worker;
use net::Seen;
use plimsoll_measure::{
    ErrorClass, Fault, HostSample, Nanos, RunFacts, Sample, Side, Snapshot, Stats, WallClock,
};
use plimsoll_plan::{Load, Part, Plan, Protocol, Shards, TimeoutFrom};
use plimsoll_report::{Fold, Summary};
use script::{AtFault, Kind, Script};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;
use system::SimSystem;

/// The time of day at which simulated runs start.
const STARTED_AT_UNIX: Nanos = Nanos::from_secs(1_700_000_000);

/// A small read buffer, so that short answers exercise what takes long answers in production.
const READ_MAX: usize = 8 << 10;

/// Enough for the samples of a whole run.
const SAMPLE_BLOCKS: usize = 10_000;

/// The result of running a script.
struct Outcome {
    script: Script,
    seconds: Vec<Snapshot>,
    samples: Vec<Sample>,
    facts: RunFacts,
    seen: Seen,
    /// By arrival, whether its captured result is a success.
    results: Vec<(u64, bool)>,
}

/// Runs a script.
fn run(mut script: Script) -> Outcome {
    let plan = script.plan.clone();
    let world =
        std::mem::replace(&mut script.world, net::World::new(plimsoll_measure::rng::Key::new(0)));
    let origins = plan.origins();
    static TLS: std::sync::OnceLock<Arc<rustls::ClientConfig>> = std::sync::OnceLock::new();
    let secure = plan.tls.insecure.then(|| {
        TLS.get_or_init(|| crate::tls::client_config(&plan.tls, plan.protocol).unwrap()).clone()
    });
    let mut shared = Shared::new(&plan, &origins, secure, (1, Spin::Adaptive, 0));
    shared.read_max = READ_MAX;
    shared.held_max = script.held_max.unwrap_or(shared.held_max);
    let (capture, captured) = Capture::new(64);
    shared.capture = Some(capture);
    let shared = Arc::new(shared);
    let pools = origins.iter().enumerate().map(|(slot, origin)| {
        let tls = tls_start(&plan, shared.tls.as_ref(), origin).unwrap();
        let limits = shared.limits(0, origin);
        let mut pool = Pool::new(origin.clone(), slot, tls, Name::Resolving, limits);
        pool.opening = opening_of(&plan, origin);
        let known = match origin.host.parse::<std::net::IpAddr>() {
            Ok(ip) => vec![(ip, origin.port).into()],
            Err(_) => world.lookup(&origin.host).unwrap(),
        };
        pool.set_addresses(known);
        pool
    });
    let pools = pools.collect();
    let schedules: Vec<_> = plan.streams.iter().map(|s| s.schedules(plan.warmup)).collect();
    let sources = plan.streams.iter().zip(&schedules);
    let sources = sources
        .map(|(stream, schedules)| Source::new(&plan, stream, schedules.as_ref(), &Shards::all()))
        .collect();
    let world = Rc::new(RefCell::new(world));
    let system = SimSystem(world.clone());
    let (reports, inbox) = channel();
    let (emptied, take_back) = channel();
    let waker = Waker::new(&reports);
    let reporter = Reporter::new(0, plan.blank_snapshot(), reports, take_back);
    let (sink, samples) = SampleSink::holding(Recorded::All, SAMPLE_BLOCKS);
    let sampling = Some(Sampling::new(0, &sink));
    let dispatcher = Dispatcher::new(shared.clone(), system, (sources, pools), sampling, 0);
    let mut worker = Worker::new(shared, reporter, dispatcher);
    worker.run().unwrap();
    drop(worker);
    let assignments = Assignments::new(plan.clone(), &schedules, vec![Part::whole(&plan)]);
    let mut running = Running::new(Started {
        plan,
        control: Control::new(assignments, Vec::new()),
        started_at: WallClock { unix_ns: 0 },
        inbox,
        waker,
        emptied: vec![emptied],
        threads: Vec::new(),
        probe: Box::new(HostSample::default),
        forced: Vec::new(),
    });
    let mut seconds = Vec::new();
    while let Some(second) = running.next_second().unwrap() {
        seconds.push(second.counts);
    }
    let seen = std::mem::take(&mut world.borrow_mut().seen);
    let samples = samples.try_iter().flat_map(|block| block.samples().to_vec()).collect();
    let results = |block: CapturedBlock| {
        block.results().map(|own| (own.number, own.error.is_none())).collect::<Vec<_>>()
    };
    let results = captured.flat_map(results).collect();
    Outcome { script, seconds, samples, facts: running.finish(), seen, results }
}

/// The counts of a run, made from its samples.
fn sampled(samples: &[Sample], plan: &Plan) -> Snapshot {
    let mut counts = plan.blank_snapshot();
    for sample in samples {
        let target = sample.kind.target as usize;
        counts.stats[target].add_sample(sample);
        sample.kind.status.into_iter().for_each(|status| counts.status.count(status));
        sample.kind.fault.into_iter().for_each(|fault| counts.faults.count(fault));
        let stream = &mut counts.streams[plan.targets[target].stream];
        stream.wait.record(sample.wait);
        stream.lag.record(sample.lag);
    }
    counts
}

/// The failed checks of a run; empty if it is correct.
fn failed_checks(outcome: &Outcome) -> Vec<String> {
    let mut failed_checks = Vec::new();
    let script = &outcome.script;
    let mut total = script.plan.blank_snapshot();
    outcome.seconds.iter().for_each(|second| total.append(second));
    total.assert_complete();
    let mut sampled = sampled(&outcome.samples, &script.plan);
    sampled.stats = recorded(&sampled, script.kind);
    // A request that was repeated is not an error of its arrival.
    for repeated in [Fault::StaleRetried, Fault::GoawayMoved] {
        sampled.faults.add(repeated, total.faults.get(repeated));
    }
    let all = total.total();
    let requests = all.requests;
    let never_started = match script.plan.max_in_flight {
        Some(_) => all.errors.get(ErrorClass::NoConnection),
        None => 0,
    };
    let mut check = |holds: bool, what: String| {
        if !holds {
            failed_checks.push(what);
        }
    };
    check(sampled.stats == recorded(&total, script.kind), "the samples differ".into());
    for wrong in wrong_messages(outcome, &total) {
        check(false, wrong);
    }
    check(sampled.status == total.status, "statuses of the samples differ".into());
    // Connections that carry no request have faults, too.
    let has = |(fault, n): (Fault, u64)| n <= total.faults.get(fault);
    check(sampled.faults.iter().all(has), "faults of the samples differ".into());
    check(sampled.wait() == total.wait(), "waits of the samples differ".into());
    check(sampled.lag() == total.lag(), "lags of the samples differ".into());
    let planned = script.planned.or_else(|| script.plan.planned_requests());
    if let (Some(planned), Load::Open { .. }) = (planned, &script.plan.streams[0].load) {
        check(requests.scheduled == planned, format!("{planned} planned, {}", requests.scheduled));
    }
    for place in &script.all_ok {
        let own = &total.stats[*place];
        let errors = &own.errors;
        check(own.requests.ok == own.requests.scheduled, format!("target {place}: {errors:?}"));
    }
    let ok = requests.ok * 1000 >= requests.scheduled * script.ok_at_least;
    check(ok, format!("{} ok of {}: {:?}", requests.ok, requests.scheduled, all.errors));
    check(faults_are_counted(script.kind, &total), format!("faults: {:?}", total.faults));
    let starved: u64 = total.origins.iter().map(|origin| origin.starved).sum();
    let unserved = all.errors.get(ErrorClass::NoConnection);
    check(starved >= unserved, format!("{starved} starved at the limit, {unserved} unserved"));
    let succeeded = outcome.results.iter().filter(|(_, is_ok)| *is_ok).count() as u64;
    let results = (outcome.results.len() as u64, succeeded);
    let started = (requests.scheduled - never_started, requests.ok);
    check(results == started, format!("{results:?} results and successes, not {started:?}"));
    if let Some(max) = script.plan.max_in_flight {
        let peak = outcome.seconds.iter().map(|second| second.origins[0].in_use_peak).max();
        check(peak.unwrap_or(0) <= max, format!("{peak:?} in flight, at most {max} allowed"));
        // Every request that starts has its whole timeout, and waiting is not the worker's lateness.
        let others = all.errors.total() - never_started;
        check(others == 0, format!("all that started have time: {:?}", all.errors));
        let lag = total.streams[0].lag.max().unwrap_or_default();
        check(lag < Nanos::from_millis(1), format!("a lag of {lag}"));
    }
    if script.kind == Kind::Capped {
        // Sending requests that cannot be answered in time costs connections and blames the target.
        let timed_out = all.errors.get(ErrorClass::ResponseTimeout);
        check(timed_out * 3 <= requests.sent, format!("{timed_out} of {} sent", requests.sent));
    }
    if matches!(script.kind, Kind::Paused | Kind::PausedAtStart) {
        // Answers that arrived in time were read before anything timed out. A request sent with
        // hardly enough time left may fail, and before the first answer it is unknown how much is
        // enough.
        let sent = all.errors.get(ErrorClass::ResponseTimeout);
        let unsent = all.errors.total() - all.errors.get(ErrorClass::Late) - sent;
        let few = script.kind == Kind::PausedAtStart || sent <= 5;
        check(unsent == 0 && few, format!("the target is healthy: {:?}", all.errors));
    }
    if script.kind == Kind::TwoStreams {
        let lag = |stream: usize| total.streams[stream].lag.mean().unwrap().0;
        let (least, most) = (lag(0).min(lag(1)), lag(0).max(lag(1)));
        check(most < 2 * least, format!("lag is {least} in one stream and {most} in the other"));
    }
    for late in sent_late(outcome).into_iter().chain(misjudged(outcome, requests.ok)) {
        check(false, late);
    }
    for address in &script.addresses {
        let open = outcome.seen.open_max.get(address).copied().unwrap_or(0);
        let rules = &script.plan.connections;
        let max = match script.plan.protocol {
            Protocol::Http2 => rules.http2.connections as usize,
            _ => rules.max as usize,
        };
        check(open <= max, format!("{open} connections to {address}, at most {max} allowed"));
        let reached = outcome.seen.reached.get(address).copied().unwrap_or(0);
        let served = matches!(script.at_fault, AtFault::None | AtFault::NotTheTarget);
        check(reached > 0 || !served, format!("no request reached {address}"));
    }
    let summary = summary(outcome);
    if let Some(id) = script.must_find
        && !summary.verdict.findings.iter().any(|finding| finding.id == id)
    {
        check(false, format!("no finding {id}: {:#?}", summary.verdict.findings));
    }
    if let Some(blame) = wrong_blame(outcome, summary) {
        check(false, blame);
    }
    failed_checks
}

/// The counts that samples have: not those of messages, and no service times where there is no status.
fn recorded(total: &Snapshot, kind: Kind) -> Vec<Stats> {
    let mut stats = total.stats.clone();
    for own in &mut stats {
        own.messages = None;
        if kind.stays_open() {
            (own.service_time_ok, own.service_time_failed) = Default::default();
        }
    }
    stats
}

/// What is wrong with the counts of what stays open.
fn wrong_messages(outcome: &Outcome, total: &Snapshot) -> Vec<String> {
    let kind = outcome.script.kind;
    if !kind.stays_open() {
        return Vec::new();
    }
    let stats = &total.stats[0];
    let messages = stats.messages.as_deref().cloned().unwrap_or_default();
    let users = outcome.script.plan.streams[0].users();
    let users = users.map_or(0, |users| users.of(&Shards::all()).len() as u64);
    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            wrong.push(format!("{what}: {messages:?}"));
        }
    };
    let stayed: Vec<_> = outcome.samples.iter().filter_map(|sample| sample.stayed).collect();
    check(stayed.len() as u64 == messages.opened, "a record of each that opened");
    let recorded: u64 = stayed.iter().map(|own| u64::from(own.messages)).sum();
    check(recorded == messages.received - messages.unmatched, "the records have all messages");
    let irregular = messages.gaps + messages.duplicates + messages.reordered + messages.replaced;
    match kind {
        Kind::Idle | Kind::Subscribed | Kind::Events | Kind::Http2Events => {
            check(messages.opened == users && messages.kept == users, "all stay open");
            check(irregular + messages.unmatched == 0, "all in order");
            check(messages.silences == 0, "none silent");
            let pongs = messages.pong.count();
            check(pongs == messages.pings || kind.has_events(), "each ping is answered");
            check(messages.received > 0 || kind == Kind::Idle, "some messages");
        }
        Kind::SubscribedOdd | Kind::EventsOdd | Kind::Http2EventsOdd => {
            check(messages.kept == users, "all stay open");
            let odd = irregular + messages.unmatched + messages.silences;
            check(odd > 0 && odd <= 2 * users, "one irregularity in each, or two");
        }
        // Those that open are closed again and again, each time after a longer pause.
        _ => check(stats.requests.failed + stats.requests.unsent >= users, "all fail"),
    }
    wrong
}

/// Whether faults are counted for the classes that are too coarse.
fn faults_are_counted(kind: Kind, total: &Snapshot) -> bool {
    let errors = total.total().errors;
    let fault = |fault| total.faults.get(fault);
    match kind {
        // A connection closed while idle is not a crash.
        Kind::IdleCloses => {
            fault(Fault::StaleKeepAlive)
                == errors.get(ErrorClass::Reset) + errors.get(ErrorClass::ClosedEarly)
        }
        Kind::SilentTls => fault(Fault::HandshakeTimeout) == errors.get(ErrorClass::Tls),
        _ => true,
    }
}

/// When each arrival was due; `None` unless the plan has one stream with one schedule.
fn due(outcome: &Outcome) -> Option<HashMap<u64, Nanos>> {
    let plan = &outcome.script.plan;
    let schedules = plan.streams[0].schedules(plan.warmup)?;
    let from_start = plan.timeout_from == TimeoutFrom::Start;
    if outcome.script.planned.is_some() || plan.streams.len() > 1 || from_start {
        return None;
    }
    let mut due = HashMap::new();
    let mut pacer = schedules.main.pacer(&Shards::all(), Nanos::ZERO);
    while let Some(arrival) = pacer.peek() {
        due.insert(arrival.seq, arrival.at);
        pacer.advance();
    }
    Some(due)
}

/// Requests whose first byte was written after their deadline.
fn sent_late(outcome: &Outcome) -> Vec<String> {
    let Some(due) = due(outcome) else { return Vec::new() };
    let sent = outcome.seen.sent.iter();
    let late = sent.filter_map(|((_, seq), at)| {
        let deadline = due[seq] + outcome.script.plan.timeout;
        let at = Nanos(*at);
        (at > deadline).then(|| format!("{seq} was sent at {at}, its deadline was {deadline}"))
    });
    late.collect()
}

/// Compares the number of answers that arrived in time with the number counted as `ok`.
fn misjudged(outcome: &Outcome, ok: u64) -> Option<String> {
    let due = due(outcome).filter(|_| outcome.script.kind.answers_are_valid())?;
    let arrived = outcome.seen.arrived.iter();
    let in_time =
        arrived.filter(|(seq, at)| Nanos(**at) <= due[*seq] + outcome.script.plan.timeout);
    let in_time = in_time.count() as u64;
    // One answer may arrive while the worker polls.
    (in_time.abs_diff(ok) > 1).then(|| format!("{in_time} answers came in time, {ok} are ok"))
}

fn summary(outcome: &Outcome) -> Summary {
    let mut fold = Fold::new(&outcome.script.plan);
    outcome.seconds.iter().for_each(|second| fold.add(second));
    fold.finish(outcome.facts.clone())
}

fn wrong_blame(outcome: &Outcome, summary: Summary) -> Option<String> {
    let verdict = &summary.verdict;
    let blamed = (verdict.valid, verdict.limited_by);
    let right = match outcome.script.at_fault {
        AtFault::None => blamed == (true, None),
        AtFault::Generator => blamed == (false, Some(Side::Generator)),
        AtFault::Network => blamed == (true, Some(Side::Network)),
        AtFault::Target => blamed == (true, Some(Side::Target)),
        AtFault::NotTheTarget => matches!(verdict.limited_by, None | Some(Side::Generator)),
        AtFault::NotTheGenerator => verdict.valid && verdict.limited_by != Some(Side::Network),
    };
    (!right).then(|| {
        let errors = &summary.all.stats.errors;
        format!(
            "at_fault: {:?}; blamed: {blamed:?}; {errors:?} {:#?}",
            outcome.script.at_fault, verdict.findings
        )
    })
}

/// Runs seeds `from..to` on one thread per CPU and returns the failed checks by seed.
fn run_seeds(from: u64, to: u64) -> Vec<(u64, Kind, Vec<String>)> {
    let next = std::sync::atomic::AtomicU64::new(from);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= to {
                        break;
                    }
                    let judge = || {
                        let outcome = run(Script::new(seed));
                        (outcome.script.kind, failed_checks(&outcome))
                    };
                    let judged = std::panic::catch_unwind(judge);
                    let (kind, failed_checks) = judged.unwrap_or_else(|_| {
                        (Script::new(seed).kind, vec!["panicked, see above".into()])
                    });
                    if !failed_checks.is_empty() {
                        failed.lock().unwrap().push((seed, kind, failed_checks));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|(seed, ..)| *seed);
    failed
}

/// Number of seeds in a normal test run.
const SEEDS: u64 = script::HTTP2_EVENTS + 120;

#[test]
fn the_side_at_fault_is_blamed() {
    let failed = run_seeds(0, SEEDS);
    for (seed, kind, failed_checks) in failed.iter().take(5) {
        eprintln!(
            "seed {seed} ({kind:?}): {}",
            failed_checks.iter().take(3).cloned().collect::<Vec<_>>().join("\n  ")
        );
    }
    let seeds: Vec<u64> = failed.iter().map(|(seed, ..)| *seed).collect();
    assert!(failed.is_empty(), "{} of {SEEDS} seeds failed: {seeds:?}", failed.len());
}

#[test]
fn runs_are_deterministic() {
    for seed in [3, 11, 14, 17] {
        let (a, b) = (run(Script::new(seed)), run(Script::new(seed)));
        assert_eq!(a.seconds, b.seconds, "seed {seed}");
    }
}

/// Replays one seed and prints the details.
#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("PLIMSOLL_SEED") else { return };
    let outcome = run(Script::new(seed.parse().expect("PLIMSOLL_SEED is a number")));
    eprintln!("{:?}, at_fault: {:?}", outcome.script.kind, outcome.script.at_fault);
    eprintln!("{}", outcome.script.plan.to_toml());
    for second in &outcome.seconds {
        let all = second.total();
        eprintln!(
            "{}: {:?} {:?} lag p99 {:?} {:?} {:?}",
            second.t,
            all.requests,
            all.errors,
            second.lag().quantile(0.99),
            second.workers,
            second.origins
        );
    }
    eprintln!("paused {}", Nanos(outcome.seen.paused));
    let failed_checks = failed_checks(&outcome);
    assert!(failed_checks.is_empty(), "{}", failed_checks.join("\n"));
}
