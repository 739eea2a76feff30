//! An agent's part of a run on the load engine, on a thread of its own: prepare, wait for the order to start, then
//! pass on second after second.

use super::plan::SentPlan;
use super::records::{Keeping, Kept};
use crate::host_check;
use crate::recording;
use crate::run::{default_settings, mask_split};
use crate::run_dir::header;
use plimsoll_config::Variables;
use plimsoll_engine::{Control, Prepared, Recorded, SampleSink, Settings, descriptors_needed};
use plimsoll_fleet::nats::HostClock;
use plimsoll_fleet::{Allowed, Assignment, Problem, Records, StoredRecords};
use plimsoll_host::{Facts, SampledRun, Sampler, Source};
use plimsoll_measure::Nanos;
use plimsoll_measure::wire::{end_line, to_line};
use plimsoll_plan::Plan;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use tokio::sync::mpsc::UnboundedSender;

/// What the agent's operator decided.
pub(super) struct Operator {
    pub(super) allowed: Allowed,
    /// Variables of this host that plans may use.
    pub(super) variables: Vec<(String, String)>,
    /// Where reports and records that wait are kept.
    pub(super) folder: PathBuf,
    /// Bytes that the records of a run's requests may take; zero: none are recorded.
    pub(super) record_disk: u64,
    pub(super) clock: HostClock,
}

/// What happens to a part of a run.
pub(super) enum WorkEvent {
    /// It waits for the order to start.
    Prepared { workers: usize, streams: usize, control: Control },
    /// It cannot start.
    Refused(Vec<Problem>),
    /// Its clock will read zero at this time of the host's clock; the header of its seconds.
    Started(Nanos, String),
    /// A second.
    Second(Nanos, String),
    /// Its end, and the records of its requests, if the order asks for them.
    Ended(String, Option<Kept>),
    /// This many bytes of records are stored.
    Storing(u64),
    /// All records are stored, or cannot be.
    Recorded(StoredRecords),
    /// It cannot go on.
    Failed(String),
}

/// Prepares a part of a run. `order` receives when its clock starts, on the host's clock; if its sender is
/// dropped, the work ends.
pub(super) fn begin(
    assignment: Assignment,
    plan: Result<Vec<u8>, String>,
    operator: Arc<Operator>,
    events: UnboundedSender<WorkEvent>,
    order: Receiver<Nanos>,
) -> std::io::Result<()> {
    std::thread::Builder::new().name("work".into()).spawn(move || {
        let refused = |problems| _ = events.send(WorkEvent::Refused(problems));
        let (samples, recording) = records(&assignment, &operator);
        match prepare(&assignment, plan, &operator, samples) {
            Err(problems) => refused(problems),
            Ok((plan, prepared)) => run(&plan, (prepared, recording), &operator, &order, &events),
        }
    })?;
    Ok(())
}

fn problem(message: impl Into<String>, hint: impl Into<String>) -> Vec<Problem> {
    vec![Problem { message: message.into(), hint: hint.into() }]
}

/// A recording that has not started, or why there is none.
type Recording = Result<recording::Prepared, String>;

/// The engine's end of a recording and the recording, if the order asks for one.
fn records(
    assignment: &Assignment,
    operator: &Operator,
) -> (Option<SampleSink>, Option<Recording>) {
    let Some(records) = assignment.records else { return (None, None) };
    if operator.record_disk == 0 {
        return (None, Some(Err("the agent's operator allows none (--record-disk 0)".into())));
    }
    let recorded = match records {
        Records::All => Recorded::All,
        Records::Errors => Recorded::Errors,
    };
    let (sink, recording) = recording::Prepared::new(recorded);
    (Some(sink), Some(Ok(recording)))
}

fn prepare(
    assignment: &Assignment,
    plan: Result<Vec<u8>, String>,
    operator: &Operator,
    samples: Option<SampleSink>,
) -> Result<(Arc<Plan>, Prepared), Vec<Problem>> {
    let bytes = plan.map_err(|why| problem(why, ""))?;
    let sent = SentPlan::decode(&bytes).map_err(|problem| vec![problem])?;
    let mut variables = Variables::none();
    for (name, value) in &operator.variables {
        variables.set(name, value);
    }
    let mut plan = sent.read(variables).map_err(|why| {
        let hint = "variables that plans may use are named by the agent's operator: plimsoll agent --secret NAME";
        let hint = if why.contains("variable") { hint } else { "" };
        problem(why, hint)
    })?;
    if format!("{:016x}", plan.digest()) != assignment.digest {
        return Err(problem(
            "the plan reads differently here than at the coordinator",
            "use the same version of plimsoll on all hosts",
        ));
    }
    plan.reseed(assignment.seed);
    let problems = operator.allowed.problems(&plan);
    if !problems.is_empty() {
        return Err(problems);
    }
    let Some(part) = assignment.part(plan.streams.len()) else {
        return Err(problem("the order has a part of another plan", ""));
    };
    let _ = host_check::fit_connections(&mut plan, &Facts::read(&Source::host()));
    let found = host_check::blocking_part(&plan, &part);
    if !found.is_empty() {
        return Err(found
            .into_iter()
            .flat_map(|(message, hint)| {
                problem(format!("its host cannot carry its part: {message}"), hint)
            })
            .collect());
    }
    let plan = Arc::new(plan);
    let settings = Settings { samples, lasting: assignment.lasting, ..default_settings() };
    let prepared = Prepared::new(&plan, &part, settings).map_err(|error| {
        problem(plan.secrets.mask(&error.message), plan.secrets.mask(&error.hint))
    })?;
    Ok((plan, prepared))
}

fn run(
    plan: &Arc<Plan>,
    (prepared, recording): (Prepared, Option<Recording>),
    operator: &Operator,
    order: &Receiver<Nanos>,
    events: &UnboundedSender<WorkEvent>,
) {
    let (workers, streams) = (prepared.workers(), plan.streams.len());
    let control = prepared.control();
    // Receivers are gone only while the process ends.
    let _ = events.send(WorkEvent::Prepared { workers, streams, control });
    let Ok(at) = order.recv() else { return };
    let sampled = SampledRun {
        destinations: prepared.destinations(),
        workers: workers as u64,
        descriptors: descriptors_needed(plan, workers),
    };
    let mut sampler = Sampler::new(&Source::host(), sampled);
    let unread = sampler.unread().to_vec();
    let clock = operator.clock.run_clock(at);
    let mut running = prepared.start_on(clock, Box::new(move || sampler.sample()));
    let start = running.start_facts();
    let records = recording.map(|own| match own {
        Ok(own) => Keeping::start(own, operator, plan, start.started_at),
        Err(why) => Keeping::Nothing(why),
    });
    let header = header(plan, &start, unread);
    let _ = events.send(WorkEvent::Started(at, header.to_line()));
    let secrets = plan.secrets_of_all();
    let mut seconds = 0;
    loop {
        match running.next_second() {
            Ok(Some(mut second)) => {
                mask_split(&secrets, &mut second.counts);
                seconds += 1;
                let line = to_line(&second.counts, &header);
                let _ = events.send(WorkEvent::Second(second.counts.t, line));
            }
            Ok(None) => break,
            Err(error) => {
                let _ = events.send(WorkEvent::Failed(error.to_string()));
                return;
            }
        }
    }
    let facts = running.finish();
    let end = end_line(&facts, false, seconds);
    let _ = events.send(WorkEvent::Ended(end, records.map(Keeping::finish)));
}
