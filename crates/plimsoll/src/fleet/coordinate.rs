//! The coordinator of a run over several agents: finds them, orders them to start, and collects their seconds.

use super::plan::SentPlan;
use super::records;
use super::result::{self, AgentFiles, End, Live};
use super::scrapes::Scrapes;
use super::{NatsArgs, bus_error, runtime, session};
use crate::run::{Finished, Views, Watch};
use crate::run_dir::RunDir;
use crate::{tell, usage_error};
use plimsoll_config::Variables;
use plimsoll_fleet::nats::{
    BacklogLimits, Bus, HostClock, LogEvent, LogWriter, Role, STREAM_BYTES_MAX, Written,
};
use plimsoll_fleet::{
    AgentLabels, Announcement, Choice, Coordinator, CoordinatorAction, LogMessage, Outcome,
    Records, choose, parts,
};
use plimsoll_measure::{Nanos, StartFacts, WallClock};
use plimsoll_plan::{OnAgentLoss, Plan, SecretsFrom};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often time-dependent decisions are made.
const DECIDE_EVERY: Duration = Duration::from_millis(50);
/// Time between two looks at the agents that are there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What to do.
pub(crate) enum FleetRun {
    /// Begin a run.
    Begin(Box<Begin>),
    /// Continue one.
    Resume(Resume),
}

/// A run to begin.
pub(crate) struct Begin {
    /// Read, with its seed.
    pub(crate) plan: Plan,
    /// For secrets that the plan lets the coordinator send.
    pub(crate) variables: Variables,
    /// Number of agents.
    pub(crate) agents: usize,
    /// Which requests they record one by one.
    pub(crate) records: Option<Records>,
    /// How long to wait for them.
    pub(crate) wait: Duration,
}

/// A run to continue.
pub(crate) struct Resume {
    /// Its name.
    pub(crate) run: String,
    /// For the plan.
    pub(crate) variables: Variables,
}

/// Runs the coordinator until the run is over. `run_dir` creates the directory of results, if there are any.
/// Returns the report and whether the run was interrupted.
pub(crate) fn coordinate(
    nats: &NatsArgs,
    what: FleetRun,
    on_loss: Option<OnAgentLoss>,
    views: Views,
    run_dir: impl FnOnce(&Plan) -> anyhow::Result<Option<RunDir>>,
) -> anyhow::Result<(Finished, bool)> {
    // A file for each agent.
    plimsoll_host::raise_descriptor_limit();
    runtime()?.block_on(async {
        let (bus, mut connection) = nats.connect(Role::Coordinator).await?;
        let clock = HostClock::start();
        let begun = match what {
            FleetRun::Begin(begin) => start(&bus, *begin, on_loss, clock).await?,
            FleetRun::Resume(resume) => continue_run(&bus, resume, clock).await?,
        };
        let Begun { run, plan, coordinator, is_new, begins } = begun;
        let dir = run_dir(&plan)?;
        let files = AgentFiles::create(dir.as_ref())?;
        let (writer, mut written) = bus.writer(&run, BacklogLimits::default());
        let mut log = bus.read_run(&run);
        let start =
            StartFacts { started_at: WallClock::now(), cpus: 0, workers: 0, forced: Vec::new() };
        let scrapes = Scrapes::start(&plan, &start)?;
        let mut process = Process {
            coordinator,
            writer,
            files,
            live: Live::new(&plan),
            watch: Watch::new(&plan, views, start, dir.as_ref().map(RunDir::path)),
            scrapes,
            outcome: None,
        };
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tell(&begins);
        let mut tick = tokio::time::interval(DECIDE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut replayed, mut stops, mut complained) = (is_new, 0, None);
        while process.outcome.is_none() {
            tokio::select! {
                Some(read) = log.next() => match read {
                    LogEvent::Entry(entry, is_last) => {
                        let actions = process.coordinator.read(&entry, clock.now());
                        process.act(actions)?;
                        replayed |= is_last;
                    }
                    LogEvent::Trouble(why) => process.say(&format!("warning: {why}")),
                },
                Some(done) = written.recv() => match done {
                    Written::Stored(_) => complained = None,
                    Written::Waiting(why) if complained.as_ref() != Some(&why) => {
                        process.say(&format!("waiting for NATS: {why}"));
                        complained = Some(why);
                    }
                    Written::Waiting(_) | Written::Spooling | Written::Full(_) => {}
                    Written::Broken(why) => anyhow::bail!("cannot keep orders for NATS: {why}"),
                },
                Some(said) = connection.recv() => process.say(&said),
                _ = interrupt.recv() => { stops += 1; process.stop(stops); }
                _ = terminate.recv() => { stops += 1; process.stop(stops); }
                _ = tick.tick() => {
                    process.watch.greet(stops > 0);
                    if replayed {
                        let actions = process.coordinator.decide(clock.now());
                        process.act(actions)?;
                    }
                }
            }
        }
        process.watch.progress.end();
        match process.outcome.take().expect("the loop has ended") {
            Outcome::Ran => {}
            other => {
                dir.iter().for_each(RunDir::discard);
                if matches!(other, Outcome::Refused(_)) {
                    // Errors are ignored: it expires.
                    let _ = bus.forget(&run).await;
                }
                return Err(not_run(&run, other));
            }
        }
        let interrupted = stops > 0;
        if let Some(scrapes) = process.scrapes.take() {
            scrapes.finish(&mut process.files)?;
        }
        let records = match &dir {
            Some(dir) if process.coordinator.records().is_some() => Some(tokio::select! {
                fetched = records::fetch(&bus, &run, &process.coordinator, dir.path()) => fetched,
                _ = interrupt.recv() => process.coordinator.members().iter()
                    .map(|_| records::Fetched::nothing("Ctrl-C while they were fetched")).collect(),
            }),
            _ => None,
        };
        let end = End { interrupted, objective: process.watch.aborted() };
        let files = (process.files, records);
        let finished = result::finish(&plan, &process.coordinator, files, dir, end)?;
        process.watch.end(&finished.summary, finished.results());
        // The results are in the run directory. Without one, or if it could not be written, another coordinator
        // can make the report again.
        if finished.results().is_some() || plan.fleet.secrets == SecretsFrom::Coordinator {
            bus.forget(&run).await.map_err(bus_error)?;
        }
        Ok((finished, interrupted))
    })
}

/// Why there is no report.
fn not_run(run: &str, outcome: Outcome) -> anyhow::Error {
    match outcome {
        Outcome::Refused(problems) if problems.is_empty() => {
            usage_error("the run was stopped before its start; nothing was sent", "")
        }
        Outcome::Refused(problems) => {
            let each: String = problems
                .iter()
                .map(|(agent, problem)| {
                    let hint = if problem.hint.is_empty() {
                        String::new()
                    } else {
                        format!("\n    hint: {}", problem.hint)
                    };
                    format!("\n  {agent}: {}{hint}", problem.message)
                })
                .collect();
            usage_error(format!("the run did not start; nothing was sent{each}"), "")
        }
        Outcome::HasCoordinator => usage_error(
            format!("the run {run} has a coordinator"),
            "it can be resumed once that one is gone",
        ),
        Outcome::Replaced | Outcome::Ran => usage_error(
            format!("another coordinator has taken over the run {run}"),
            "its report is made there",
        ),
    }
}

struct Begun {
    run: String,
    plan: Arc<Plan>,
    coordinator: Coordinator,
    is_new: bool,
    /// What the user is told once signals are handled.
    begins: String,
}

async fn start(
    bus: &Bus,
    begin: Begin,
    on_loss: Option<OnAgentLoss>,
    clock: HostClock,
) -> anyhow::Result<Begun> {
    let Begin { mut plan, variables, agents, records, wait } = begin;
    if let Some(on_loss) = on_loss {
        plan.fleet.on_agent_loss = on_loss;
    }
    if !plan.logs.is_empty() {
        tell("warning: [[log]] is ignored: agents read no files and run no commands for others");
    }
    too_long(&plan, agents).iter().for_each(|warning| tell(warning));
    let sent = SentPlan::of(&plan, &variables)?;
    if records.is_some() {
        bus.create_records().await.map_err(bus_error)?;
    }
    let chosen = wait_for_agents(bus, &plan, agents, wait).await?;
    let labels: Vec<AgentLabels> = chosen
        .iter()
        .map(|own| AgentLabels { name: own.name.clone(), labels: own.labels.clone() })
        .collect();
    let parts = parts(&plan, &labels)
        .map_err(|streams| usage_error(format!("no agent for {}", streams.join(" and ")), ""))?;
    let session = session();
    let run = format!("{}-{}", WallClock::now().compact(), &session[..4]);
    bus.put_plan(&run, &sent.encode()).await.map_err(bus_error)?;
    bus.answer_clock(&run, clock).await.map_err(bus_error)?;
    let names: Vec<&str> = chosen.iter().map(|own| own.name.as_str()).collect();
    let begins = format!(
        "run {run} over {}: {}",
        plimsoll_measure::units::counted(chosen.len() as u64, "agent"),
        names.join(", ")
    );
    let members = chosen.iter().zip(parts);
    let members = members
        .map(|(own, part)| (own.name.clone(), own.session.clone(), own.labels.clone(), part))
        .collect();
    let plan = Arc::new(plan);
    let coordinator = Coordinator::begin(run.clone(), session, plan.clone(), records, members);
    Ok(Begun { run, plan, coordinator, is_new: true, begins })
}

/// Bytes of a second of an agent: 1,200 for each target at 500/s, measured with four.
const SECOND_BYTES: u64 = 1200;

/// A warning if NATS would not keep all reports of a run.
fn too_long(plan: &Plan, agents: usize) -> Option<String> {
    let seconds = plan.planned_end()?.0.div_ceil(1_000_000_000);
    let bytes = agents as u64 * seconds * SECOND_BYTES * plan.targets.len() as u64;
    (bytes > STREAM_BYTES_MAX).then(|| {
        format!(
            "warning: the agents' reports will have about {} MiB, and NATS keeps {} MiB of a tenant's runs: it will refuse the rest, and agents stop when their own disks have no room (--report-disk). Use fewer agents or a shorter run",
            bytes >> 20,
            STREAM_BYTES_MAX >> 20
        )
    })
}

/// Waits until enough free agents of this version fit the plan.
async fn wait_for_agents(
    bus: &Bus,
    plan: &Plan,
    count: usize,
    wait: Duration,
) -> anyhow::Result<Vec<Announcement>> {
    let clock = plimsoll_measure::Clock::start();
    let mut said = false;
    loop {
        let all = bus.agents().await.map_err(bus_error)?;
        let mut others = Vec::new();
        let mut free = Vec::new();
        for agent in all {
            match agent {
                Ok(own) if own.version != env!("CARGO_PKG_VERSION") => {
                    others.push(format!(
                        "agent {} has version {}, this is {}",
                        own.name,
                        own.version,
                        env!("CARGO_PKG_VERSION")
                    ));
                }
                Ok(own) => match &own.run {
                    Some(run) => {
                        others.push(format!("agent {} takes part in the run {run}", own.name))
                    }
                    None => free.push(own),
                },
                Err(why) => others.push(format!("an agent wrote {why}")),
            }
        }
        let labels: Vec<AgentLabels> = free
            .iter()
            .map(|own| AgentLabels { name: own.name.clone(), labels: own.labels.clone() })
            .collect();
        match choose(plan, &labels, count) {
            Choice::Agents(chosen) => {
                return Ok(chosen.into_iter().map(|i| free[i].clone()).collect());
            }
            Choice::Missing { fitting, streams } => {
                if clock.now() >= Nanos::from(wait) {
                    let mut message =
                        format!("{fitting} of {count} agents are there and fit the plan");
                    for stream in streams {
                        message += &format!("\n  no agent for {stream}");
                    }
                    others.iter().for_each(|other| message += &format!("\n  {other}"));
                    return Err(usage_error(
                        message,
                        "plimsoll agents lists the agents; --wait 60s waits longer for them",
                    ));
                }
                if !std::mem::replace(&mut said, true) {
                    tell(&format!(
                        "waiting for agents: {fitting} of {count} are there and fit the plan"
                    ));
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn continue_run(bus: &Bus, resume: Resume, clock: HostClock) -> anyhow::Result<Begun> {
    let Resume { run, variables } = resume;
    let bytes = bus.plan(&run).await.map_err(bus_error)?;
    let sent =
        SentPlan::decode(&bytes).map_err(|problem| usage_error(problem.message, problem.hint))?;
    let plan = sent.read(variables.leave_unset()).map_err(|why| usage_error(why, ""))?;
    let plan = Arc::new(plan);
    bus.answer_clock(&run, clock).await.map_err(bus_error)?;
    let begins = format!("resuming the run {run}");
    let coordinator = Coordinator::resume(run.clone(), session(), plan.clone());
    Ok(Begun { run, plan, coordinator, is_new: false, begins })
}

struct Process<'p> {
    coordinator: Coordinator,
    writer: LogWriter,
    files: AgentFiles,
    live: Live,
    watch: Watch<'p>,
    scrapes: Option<Scrapes>,
    outcome: Option<Outcome>,
}

impl Process<'_> {
    fn say(&mut self, text: &str) {
        self.watch.progress.end();
        tell(text);
    }

    fn stop(&mut self, times: u32) {
        self.say(if times == 1 {
            "stopping all agents: waiting for the answers to requests already sent; press Ctrl-C again to stop now"
        } else {
            "stopping all agents now; the results so far are kept"
        });
        self.coordinator.stop();
    }

    fn act(&mut self, actions: Vec<CoordinatorAction>) -> anyhow::Result<()> {
        for action in actions {
            match action {
                CoordinatorAction::Write(message) => {
                    if let LogMessage::Order(order) = &message
                        && let plimsoll_fleet::OrderKind::Start { .. } = order.what
                    {
                        tell("all agents are ready");
                    }
                    self.writer.write(message);
                }
                CoordinatorAction::Header(member, line) => {
                    if let Some(header) = self.live.header(member, &line) {
                        self.watch.start.cpus += header.cpus;
                        self.watch.start.workers += header.workers;
                    }
                    self.keep(member, &line)?;
                }
                CoordinatorAction::Second(member, t, line) => {
                    self.keep(member, &line)?;
                    self.live.second(member, t, &line);
                    self.show_complete()?;
                }
                CoordinatorAction::EndLine(member, line) => self.keep(member, &line)?,
                CoordinatorAction::Note(note) => self.say(&note),
                CoordinatorAction::Finished(outcome) => self.outcome = Some(outcome),
            }
        }
        Ok(())
    }

    fn keep(&mut self, member: usize, line: &str) -> anyhow::Result<()> {
        self.files.add(member, &self.coordinator.members()[member].name, line)
    }

    /// Shows the seconds that are complete now, with what other processes' metrics say, and judges them.
    fn show_complete(&mut self) -> anyhow::Result<()> {
        for mut second in self.live.complete(self.coordinator.members()) {
            if let Some(scrapes) = &mut self.scrapes {
                scrapes.add_to(&mut second, &mut self.files)?;
            }
            if self.watch.add(&second, self.coordinator.stop_level() > 0) {
                self.coordinator.stop();
            }
        }
        Ok(())
    }
}
