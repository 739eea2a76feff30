//! `plimsoll agent`: waits for orders, sends its part of a run, and reports.

use super::work::{self, Operator, WorkEvent};
use super::{NatsArgs, bus_error, runtime, session};
use crate::lifeline;
use crate::{tell, usage_error};
use nix::sys::signal::{Signal, raise};
use plimsoll_config::is_secret;
use plimsoll_engine::Control;
use plimsoll_fleet::nats::{
    BacklogLimits, Bus, HostClock, LogEvent, LogWriter, Role, Written, is_name,
};
use plimsoll_fleet::{
    Agent, AgentAction, Allowed, Announcement, ClockOffset, LogMessage, Problem, Readiness,
};
use plimsoll_host::doctor::{Demand, Observed, blocking, examine};
use plimsoll_host::{Facts, Source};
use plimsoll_measure::Nanos;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const EXAMPLES: &str = "Examples:
  plimsoll agent --nats nats://10.0.0.5 --allow gw.example --label chain=boba
  plimsoll agent --nats nats://10.0.0.5 --allow 10.0.0.9:3069 --secret NODE_KEY

An agent sends only to targets that --allow names, whatever its orders say, reads no files for others, and \
uses only those variables of its environment that --secret names.";

/// How long NATS may take to begin with the orders.
const READING_MAX: Duration = Duration::from_secs(10);
/// How often time-dependent decisions are made.
const DECIDE_EVERY: Duration = Duration::from_millis(50);

/// Flags of `plimsoll agent`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    nats: NatsArgs,
    /// Target that plans may send to: a host with any port, or with one; may be repeated
    #[arg(long, value_name = "HOST[:PORT]", required = true)]
    allow: Vec<String>,
    /// Label that streams may ask for; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Name of this agent, unique in its fleet [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    /// Environment variable that plans may use; may be repeated
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
    /// End after one run
    #[arg(long)]
    once: bool,
    /// Memory for reports while NATS is away
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = size)]
    report_memory: u64,
    /// Disk for reports that do not fit there; when it is full, the agent stops sending
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size)]
    report_disk: u64,
    /// Disk for the records of single requests, if a run asks for them (--record); 0: none
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size)]
    record_disk: u64,
    /// Folder for both [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    report_dir: Option<PathBuf>,
    /// End, as on Ctrl-C, when stdin is closed: its parent has ended.
    #[arg(long, hide = true)]
    supervised: bool,
}

fn size(text: &str) -> Result<u64, String> {
    plimsoll_config::values::size(text)
}

/// Runs an agent until it is stopped.
pub(crate) fn run(args: &AgentArgs) -> anyhow::Result<ExitCode> {
    let allowed = Allowed::parse(args.allow.iter().map(String::as_str)).map_err(|error| {
        usage_error(format!("--allow: {error}"), "for example --allow gateway.example:3069")
    })?;
    let mut labels = BTreeMap::new();
    for label in &args.label {
        let Some((key, value)) = label.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(usage_error(
                format!("--label {label} is not in the form KEY=VALUE"),
                "for example --label chain=boba",
            ));
        };
        if labels.insert(key.to_string(), value.to_string()).is_some() {
            return Err(usage_error(format!("--label {key} was given twice"), ""));
        }
    }
    let mut variables = Vec::new();
    for name in &args.secret {
        // Orders ask for no others, and only such values are left out of what is reported.
        if !is_secret(name) {
            return Err(usage_error(
                format!("--secret {name}: the name does not suggest a secret"),
                "the coordinator fills in other variables: give them to plimsoll run; for a secret, use a name with key, token, secret or password in it",
            ));
        }
        let value = std::env::var(name).map_err(|_| {
            usage_error(
                format!("--secret {name}: the variable is not set"),
                "set it in the agent's environment",
            )
        })?;
        variables.push((name.clone(), value));
    }
    let name = args.name.clone().unwrap_or_else(host_name);
    if !is_name(&name) {
        return Err(usage_error(
            format!("\"{name}\" is not a valid name"),
            "use at most 64 letters, digits, - and _",
        ));
    }
    let folder = args.report_dir.clone().unwrap_or_else(std::env::temp_dir);
    if !folder.is_dir() {
        return Err(usage_error(
            format!("--report-dir {} is not a directory", folder.display()),
            "",
        ));
    }
    let limits = BacklogLimits {
        memory: usize::try_from(args.report_memory).unwrap_or(usize::MAX),
        disk: args.report_disk,
        folder: folder.clone(),
    };
    if args.supervised {
        // As on Ctrl-C.
        lifeline::when_parent_ends(|| _ = raise(Signal::SIGTERM))?;
    }
    plimsoll_host::raise_descriptor_limit();
    let (record_disk, clock) = (args.record_disk, HostClock::start());
    let operator = Operator { allowed, variables, folder, record_disk, clock };
    runtime()?.block_on(serve(args, name, labels, Arc::new(operator), limits))
}

/// The host's name as an agent's.
fn host_name() -> String {
    let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let valid = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    name.unwrap_or_default().chars().map(valid).take(64).collect()
}

/// What the doctor finds on this host for a plan with the default limits.
fn findings() -> Vec<String> {
    let checks = examine(&Facts::read(&Source::host()), &Observed::default(), &Demand::default());
    blocking(&checks).map(|check| format!("{}: {}", check.id, check.value)).collect()
}

async fn serve(
    args: &AgentArgs,
    name: String,
    labels: BTreeMap<String, String>,
    operator: Arc<Operator>,
    limits: BacklogLimits,
) -> anyhow::Result<ExitCode> {
    let session = session();
    let (bus, mut connection) = args.nats.connect(Role::Agent(name.clone())).await?;
    // Orders are read from before the announcement on. Without an answer, the announcement fails, with its reason.
    let mut orders = bus.read_orders();
    let _ = tokio::time::timeout(READING_MAX, orders.begun()).await;
    let announcement = Announcement {
        name: name.clone(),
        session: session.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        labels,
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        allow: operator.allowed.shown(),
        findings: findings(),
        run: None,
    };
    let mut presence = bus.announce(announcement).await.map_err(bus_error)?;
    let (writer, mut written) = bus.writer("", limits);
    let (events, mut work) = unbounded_channel();
    let (measured, mut offsets) = unbounded_channel();
    let mut process = Process {
        name: name.clone(),
        agent: Agent::new(name.clone(), session),
        bus,
        writer,
        operator,
        events,
        measured,
        start: None,
        control: None,
        ready: None,
        offset: None,
        started: None,
        held: VecDeque::new(),
        storing: Nanos::ZERO,
        runs: 0,
    };
    tell(&format!("agent {name} waits for orders"));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut tick = tokio::time::interval(DECIDE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stops = 0;
    loop {
        let now = process.now();
        let actions = tokio::select! {
            Some(read) = orders.next() => match read {
                LogEvent::Entry(entry, _) => match &entry.message {
                    LogMessage::Order(order) => process.agent.read(entry.place, order, now),
                    _ => Vec::new(),
                },
                LogEvent::Trouble(why) => { tell(&format!("warning: {why}")); Vec::new() }
            },
            Some(done) = written.recv() => process.on_written(done)?,
            Some(event) = work.recv() => process.on_work(event),
            Some(offset) = offsets.recv() => process.on_offset(offset),
            Some(said) = connection.recv() => { tell(&said); Vec::new() }
            _ = presence.lost() => {
                process.control.iter().for_each(Control::stop);
                return Err(usage_error(
                    format!("another agent named \"{name}\" has taken over the name"),
                    "give each agent a name of its own: --name NAME",
                ));
            }
            _ = interrupt.recv() => { stops += 1; process.stop(stops); Vec::new() }
            _ = terminate.recv() => { stops += 1; process.stop(stops); Vec::new() }
            _ = tick.tick() => process.agent.decide(now),
        };
        process.act(actions);
        presence.set_run(process.agent.run());
        let idle = process.agent.run().is_none();
        if idle && (stops > 0 || (args.once && process.runs > 0)) || stops > 1 {
            drop(presence);
            // Long enough to take the announcement back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            return Ok(ExitCode::from(if stops > 0 { 130 } else { 0 }));
        }
    }
}

type Offset = Result<ClockOffset, Problem>;

struct Process {
    name: String,
    agent: Agent,
    bus: Bus,
    writer: LogWriter,
    operator: Arc<Operator>,
    events: UnboundedSender<WorkEvent>,
    measured: UnboundedSender<Offset>,
    /// Starts the prepared work.
    start: Option<Sender<Nanos>>,
    control: Option<Control>,
    /// Workers and streams of the prepared work, while its clock's offset is measured.
    ready: Option<(usize, usize)>,
    offset: Option<ClockOffset>,
    /// When the clock started and the header, while the offset is measured again…
    started: Option<(Nanos, String)>,
    /// …and what was reported meanwhile.
    held: VecDeque<WorkEvent>,
    /// When it was last reported how many bytes of records are stored.
    storing: Nanos,
    runs: u64,
}

impl Process {
    fn now(&self) -> Nanos {
        self.operator.clock.now()
    }

    fn measure(&self) {
        let (bus, clock, done) = (self.bus.clone(), self.operator.clock, self.measured.clone());
        let Some(run) = self.agent.run().map(String::from) else { return };
        tokio::spawn(async move {
            let offset = bus.measure_offset(&run, clock).await;
            let _ =
                done.send(offset.map_err(|why| Problem { message: why.message, hint: why.hint }));
        });
    }

    fn on_written(&mut self, written: Written) -> anyhow::Result<Vec<AgentAction>> {
        match written {
            Written::Stored(LogMessage::Report(report)) => {
                self.agent.stored(&report.run, report.number);
            }
            Written::Stored(_) | Written::Waiting(_) => {}
            Written::Spooling => {
                tell("reports that NATS does not take are kept on disk until it does");
            }
            Written::Full(why) => {
                tell(&format!("the agent stops sending: {why}"));
                return Ok(self.agent.full());
            }
            Written::Broken(why) => {
                self.control.iter().for_each(Control::stop);
                anyhow::bail!("cannot read back the reports that were kept on disk: {why}");
            }
        }
        Ok(Vec::new())
    }

    fn on_work(&mut self, event: WorkEvent) -> Vec<AgentAction> {
        if self.started.is_some() {
            // The header comes first.
            self.held.push_back(event);
            return Vec::new();
        }
        let now = self.now();
        match event {
            WorkEvent::Prepared { workers, streams, control } => {
                (self.ready, self.control) = (Some((workers, streams)), Some(control));
                self.measure();
                Vec::new()
            }
            WorkEvent::Refused(problems) => {
                problems.iter().for_each(|own| tell(&format!("refused: {}", own.message)));
                self.start = None;
                self.agent.prepared(Readiness::Refused(problems), now)
            }
            WorkEvent::Started(at, line) => {
                self.started = Some((at, line));
                self.measure();
                Vec::new()
            }
            WorkEvent::Second(t, line) => self.agent.second(t, line),
            WorkEvent::Ended(line, records) => {
                self.end();
                if let (Some(records), Some(run)) = (records, self.agent.run()) {
                    let (bus, run, name) = (self.bus.clone(), run.into(), self.name.clone());
                    tokio::spawn(records.store(bus, run, name, self.events.clone()));
                }
                self.agent.ended(line)
            }
            // As often as seconds are reported.
            WorkEvent::Storing(_) if now - self.storing < Nanos::from_secs(1) => Vec::new(),
            WorkEvent::Storing(bytes) => {
                self.storing = now;
                self.agent.storing(bytes)
            }
            WorkEvent::Recorded(stored) => {
                match stored.bytes {
                    0 => tell(&format!("no records of requests: {}", stored.missing)),
                    bytes => {
                        tell(&format!("{bytes} bytes of records of requests are stored in NATS"))
                    }
                }
                self.agent.recorded(stored)
            }
            WorkEvent::Failed(why) => {
                self.end();
                self.agent.failed(why)
            }
        }
    }

    fn end(&mut self) {
        (self.start, self.control) = (None, None);
        self.runs += 1;
        tell("the run has ended");
    }

    fn on_offset(&mut self, offset: Offset) -> Vec<AgentAction> {
        let now = self.now();
        if let Some((workers, streams)) = self.ready.take() {
            return match offset {
                Ok(offset) => {
                    self.offset = Some(offset);
                    self.agent.prepared(Readiness::Ready { workers, offset, streams }, now)
                }
                Err(problem) => {
                    (self.start, self.control) = (None, None);
                    self.agent.prepared(Readiness::Refused(vec![problem]), now)
                }
            };
        }
        let Some((at, line)) = self.started.take() else { return Vec::new() };
        // Without an answer, the coordinator is gone: what was measured before stands.
        let offset = offset.ok().or(self.offset);
        let Some(offset) = offset else { return Vec::new() };
        let mut actions = self.agent.started(line, at, offset);
        while let Some(event) = self.held.pop_front() {
            actions.extend(self.on_work(event));
        }
        actions
    }

    fn stop(&mut self, times: u32) {
        tell(if times == 1 {
            "stopping: waiting for the answers to requests already sent"
        } else {
            "stopping now"
        });
        self.control.iter().for_each(Control::stop);
    }

    fn act(&mut self, actions: Vec<AgentAction>) {
        for action in actions {
            match action {
                AgentAction::Prepare(assignment) => {
                    tell(&format!("preparing the run {}", assignment.run));
                    let (bus, operator, events) =
                        (self.bus.clone(), self.operator.clone(), self.events.clone());
                    self.start = Some(begin_work(assignment, bus, operator, events));
                }
                AgentAction::Start(at) => {
                    // The work may have ended meanwhile.
                    self.start.iter().for_each(|start| _ = start.send(at));
                }
                AgentAction::TakeOver(part, at) => {
                    if let Some(Err(why)) =
                        self.control.as_ref().map(|control| control.take_over(&part, at))
                    {
                        tell(&format!("warning: cannot take over shards: {why}"));
                    } else {
                        tell(&format!("taking over a part of a lost agent at {at}"));
                    }
                }
                AgentAction::Stop => self.control.iter().for_each(Control::stop),
                AgentAction::Discard(why) => {
                    tell(&format!("the run does not start: {why}"));
                    (self.start, self.control, self.ready) = (None, None, None);
                }
                AgentAction::Write(report) => self.writer.write(LogMessage::Report(report)),
            }
        }
    }
}

/// Fetches the plan and prepares the work; returns what starts it.
fn begin_work(
    assignment: plimsoll_fleet::Assignment,
    bus: Bus,
    operator: Arc<Operator>,
    events: UnboundedSender<WorkEvent>,
) -> Sender<Nanos> {
    let (start, order) = std::sync::mpsc::channel();
    tokio::spawn(async move {
        let plan = bus.plan(&assignment.run).await.map_err(|why| why.message);
        if let Err(why) = work::begin(assignment, plan, operator, events.clone(), order) {
            let problem =
                Problem { message: format!("cannot start a thread: {why}"), hint: String::new() };
            let _ = events.send(WorkEvent::Refused(vec![problem]));
        }
    });
    start
}
