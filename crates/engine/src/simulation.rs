//! The engine on a simulated machine, thousands of seeds.
//!
//! The real worker, dispatcher, connections, codec and recorder run on bytes and virtual time; only
//! clock, poll, sockets and names are replaced (`net`, `system`). A seed stands for a plan (`draft`), a
//! network and what goes wrong in it (`script`), with servers that follow their script (`peer`). After each run the
//! accounts must balance, nothing may have been sent after its deadline, what grows must have stayed
//! within its limit, and **the side that the script made guilty must be the side that is blamed**.
//!
//! A failure names its seed; `PLIMSOLL_SEED=N cargo test -p plimsoll-engine one_seed` runs it alone
//! and prints what was seen.

mod draft;
mod net;
mod peer;
mod script;
mod system;

use crate::control::{Assignments, Control};
use crate::dispatch::Dispatcher;
use crate::pool::{Name, Pool};
use crate::prepare::{Shared, Spin};
use crate::request::tls_start;
use crate::running::{Reporter, Running, Started};
use crate::source::Source;
use crate::worker::Worker;
use net::Seen;
use plimsoll_measure::{ErrorClass, Fault, HostSample, Nanos, RunFacts, Side, Snapshot, WallClock};
use plimsoll_plan::{Load, Shards};
use plimsoll_report::{Fold, Summary};
use script::{Guilty, Kind, Script};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;
use system::SimSystem;

/// Short reads, so that few bytes make what long answers make elsewhere.
const READ_MAX: usize = 8 << 10;

/// What came of a seed.
struct Ran {
    script: Script,
    seconds: Vec<Snapshot>,
    facts: RunFacts,
    seen: Seen,
}

/// Carries a script out.
fn run(mut script: Script) -> Ran {
    let plan = script.plan.clone();
    let world =
        std::mem::replace(&mut script.world, net::World::new(plimsoll_measure::rng::Key::new(0)));
    let origins = plan.origins();
    static TLS: std::sync::OnceLock<Arc<rustls::ClientConfig>> = std::sync::OnceLock::new();
    let secure = plan
        .tls
        .insecure
        .then(|| TLS.get_or_init(|| crate::tls::client_config(&plan.tls).unwrap()).clone());
    let mut shared = Shared::new(&plan, &origins, secure, (1, Spin::Adaptive, 0));
    shared.read_max = READ_MAX;
    shared.held_max = script.held_max.unwrap_or(shared.held_max);
    let shared = Arc::new(shared);
    let pools = origins.iter().enumerate().map(|(slot, origin)| {
        let tls = tls_start(&plan, shared.tls.as_ref(), origin).unwrap();
        let mut pool = Pool::new(origin.clone(), slot, tls, Name::Resolving, shared.limit(0));
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
    let reporter = Reporter::new(0, plan.blank_snapshot(), reports, take_back);
    let dispatcher = Dispatcher::new(shared.clone(), system, sources, pools);
    let mut worker = Worker::new(shared, reporter, dispatcher);
    worker.run().unwrap();
    drop(worker);
    let assignments = Assignments::new(plan.clone(), &schedules, vec![Shards::all()]);
    let mut running = Running::new(Started {
        plan,
        control: Control::new(assignments, Vec::new()),
        started_at: WallClock { unix_ns: 0 },
        inbox,
        emptied: vec![emptied],
        threads: Vec::new(),
        usage: HostSample::default,
        forced: Vec::new(),
    });
    let mut seconds = Vec::new();
    while let Some(second) = running.next_second().unwrap() {
        seconds.push(second.counts);
    }
    let seen = std::mem::take(&mut world.borrow_mut().seen);
    Ran { script, seconds, facts: running.finish(), seen }
}

/// What is wrong with a run; empty when nothing is.
fn wrong(ran: &Ran) -> Vec<String> {
    let mut wrong = Vec::new();
    let script = &ran.script;
    let mut total = script.plan.blank_snapshot();
    ran.seconds.iter().for_each(|second| total.append(second));
    total.assert_complete();
    let all = total.total();
    let requests = all.requests;
    let mut check = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    let planned = script.planned.or_else(|| script.plan.planned_requests());
    if let (Some(planned), Load::Open { .. }) = (planned, &script.plan.streams[0].load) {
        check(requests.scheduled == planned, format!("{planned} planned, {}", requests.scheduled));
    }
    for place in &script.whole {
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
    if script.kind == Kind::Capped {
        // Sending what cannot be answered in time costs connections and blames the target.
        let timed_out = all.errors.get(ErrorClass::ResponseTimeout);
        check(timed_out * 3 <= requests.sent, format!("{timed_out} of {} sent", requests.sent));
    }
    if matches!(script.kind, Kind::Paused | Kind::PausedAtStart) {
        // Whatever came in time was read before anything timed out. A request that was sent with
        // hardly enough time left may fail, and before the first answer it is not known what is enough.
        let sent = all.errors.get(ErrorClass::ResponseTimeout);
        let unsent = all.errors.total() - all.errors.get(ErrorClass::Late) - sent;
        let few = script.kind == Kind::PausedAtStart || sent <= 5;
        check(unsent == 0 && few, format!("the target is healthy: {:?}", all.errors));
    }
    if script.kind == Kind::TwoStreams {
        let lag = |stream: usize| total.streams[stream].lag.mean().unwrap().0;
        let (least, most) = (lag(0).min(lag(1)), lag(0).max(lag(1)));
        check(most < 2 * least, format!("one stream lags by {least}, the other by {most}"));
    }
    for late in sent_late(ran).into_iter().chain(misjudged(ran, requests.ok)) {
        check(false, late);
    }
    for address in &script.addresses {
        let open = ran.seen.open_max.get(address).copied().unwrap_or(0);
        let max = script.plan.connections.max as usize;
        check(open <= max, format!("{open} connections to {address}, at most {max} allowed"));
        let reached = ran.seen.reached.get(address).copied().unwrap_or(0);
        let served = matches!(script.guilty, Guilty::Nobody | Guilty::NotTheTarget);
        check(reached > 0 || !served, format!("no request reached {address}"));
    }
    if let Some(blame) = misplaced_blame(ran, summary(ran)) {
        check(false, blame);
    }
    wrong
}

/// Whether faults are counted beside the classes that do not tell enough.
fn faults_are_counted(kind: Kind, total: &Snapshot) -> bool {
    let errors = total.total().errors;
    let fault = |fault| total.faults.get(fault);
    match kind {
        // A connection that was closed while it was idle is not a crash.
        Kind::IdleCloses => {
            fault(Fault::StaleKeepAlive)
                == errors.get(ErrorClass::Reset) + errors.get(ErrorClass::ClosedEarly)
        }
        Kind::SilentTls => fault(Fault::HandshakeTimeout) == errors.get(ErrorClass::Tls),
        _ => true,
    }
}

/// When each arrival of the only stream was due; `None` where that is not one schedule's.
fn due(ran: &Ran) -> Option<HashMap<u64, Nanos>> {
    let plan = &ran.script.plan;
    let schedules = plan.streams[0].schedules(plan.warmup)?;
    if ran.script.planned.is_some() || plan.streams.len() > 1 {
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

/// Requests of which the first byte was written after their deadline.
fn sent_late(ran: &Ran) -> Vec<String> {
    let Some(due) = due(ran) else { return Vec::new() };
    let sent = ran.seen.sent.iter();
    let late = sent.filter_map(|((_, seq), at)| {
        let deadline = due[seq] + ran.script.plan.timeout;
        let at = Nanos(*at);
        (at > deadline).then(|| format!("{seq} was sent at {at}, its deadline was {deadline}"))
    });
    late.collect()
}

/// Answers that arrived in time and are not counted as `ok`, or the other way round.
fn misjudged(ran: &Ran, ok: u64) -> Option<String> {
    let due = due(ran).filter(|_| ran.script.kind.answers_well())?;
    let arrived = ran.seen.arrived.iter();
    let in_time = arrived.filter(|(seq, at)| Nanos(**at) <= due[*seq] + ran.script.plan.timeout);
    let in_time = in_time.count() as u64;
    // An answer may arrive while the worker looks.
    (in_time.abs_diff(ok) > 1).then(|| format!("{in_time} answers came in time, {ok} are ok"))
}

fn summary(ran: &Ran) -> Summary {
    let mut fold = Fold::new(&ran.script.plan);
    ran.seconds.iter().for_each(|second| fold.add(second));
    fold.finish(ran.facts.clone())
}

fn misplaced_blame(ran: &Ran, summary: Summary) -> Option<String> {
    let verdict = &summary.verdict;
    let blamed = (verdict.valid, verdict.limited_by);
    let right = match ran.script.guilty {
        Guilty::Nobody => blamed == (true, None),
        Guilty::Generator => blamed == (false, Some(Side::Generator)),
        Guilty::Network => blamed == (true, Some(Side::Network)),
        Guilty::Target => blamed == (true, Some(Side::Target)),
        Guilty::NotTheTarget => matches!(verdict.limited_by, None | Some(Side::Generator)),
        Guilty::NotTheGenerator => verdict.valid && verdict.limited_by != Some(Side::Network),
    };
    (!right).then(|| {
        let errors = &summary.all.stats.errors;
        format!(
            "guilty: {:?}; blamed: {blamed:?}; {errors:?} {:#?}",
            ran.script.guilty, verdict.findings
        )
    })
}

/// Runs seeds `from..to` on as many threads as there are CPUs; what went wrong, by seed.
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
                        let ran = run(Script::new(seed));
                        (ran.script.kind, wrong(&ran))
                    };
                    let judged = std::panic::catch_unwind(judge);
                    let (kind, wrong) = judged.unwrap_or_else(|_| {
                        (Script::new(seed).kind, vec!["panicked, see above".into()])
                    });
                    if !wrong.is_empty() {
                        failed.lock().unwrap().push((seed, kind, wrong));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|(seed, ..)| *seed);
    failed
}

/// Seeds that a plain test run goes through.
const SEEDS: u64 = 3_000;

#[test]
fn the_guilty_side_is_blamed() {
    let failed = run_seeds(0, SEEDS);
    for (seed, kind, wrong) in failed.iter().take(5) {
        eprintln!(
            "seed {seed} ({kind:?}): {}",
            wrong.iter().take(3).cloned().collect::<Vec<_>>().join("\n  ")
        );
    }
    let seeds: Vec<u64> = failed.iter().map(|(seed, ..)| *seed).collect();
    assert!(failed.is_empty(), "{} of {SEEDS} seeds failed: {seeds:?}", failed.len());
}

#[test]
fn the_same_seed_runs_the_same() {
    for seed in [3, 11, 14, 17] {
        let (a, b) = (run(Script::new(seed)), run(Script::new(seed)));
        assert_eq!(a.seconds, b.seconds, "seed {seed}");
    }
}

/// Replays one seed, and prints what was seen.
#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("PLIMSOLL_SEED") else { return };
    let ran = run(Script::new(seed.parse().expect("PLIMSOLL_SEED is a number")));
    eprintln!("{:?}, guilty: {:?}", ran.script.kind, ran.script.guilty);
    eprintln!("{}", ran.script.plan.to_toml());
    for second in &ran.seconds {
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
    eprintln!("paused {}", Nanos(ran.seen.paused));
    let wrong = wrong(&ran);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
