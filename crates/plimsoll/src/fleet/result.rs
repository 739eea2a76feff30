//! The report on a run over several agents, from the seconds of each.
//!
//! During the run, each agent's lines are written to a file of its own, as they are (`agents/NAME.jsonl` in the run
//! directory; a `snapshots.jsonl` each). Afterwards the files are read side by side: each second of the run is the
//! sum of the agents' and goes to the run's own `snapshots.jsonl`, so that `plimsoll report` reads it like any. What is
//! known of the agents besides is kept in `agents/index.json` (`index`), and their records become the run's
//! `samples.parquet` (`records`).

use super::index::{self, AgentFacts};
use super::records::{self, Fetched, Placed};
use crate::host_file::HostFile;
use crate::run::Finished;
use crate::run_dir::RunDir;
use crate::tell;
use anyhow::Context;
use plimsoll_fleet::{Coordinator, Member, join, join_agent, unsent};
use plimsoll_host::Source;
use plimsoll_measure::wire::{Header, Reader, second_of};
use plimsoll_measure::{Nanos, Requests, RunFacts, Snapshot, StartFacts, WallClock};
use plimsoll_plan::Plan;
use plimsoll_report::{AgentPart, AgentRecords, Fold};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::PathBuf;

/// The place of what the coordinator has scraped, after all agents.
pub(super) const SCRAPES: usize = usize::MAX;

/// The files of the agents' lines.
pub(super) struct AgentFiles {
    folder: PathBuf,
    is_temporary: bool,
    files: BTreeMap<usize, (PathBuf, File)>,
}

impl AgentFiles {
    pub(super) fn create(run_dir: Option<&RunDir>) -> anyhow::Result<AgentFiles> {
        let folder = match run_dir {
            Some(dir) => dir.path().join("agents"),
            None => std::env::temp_dir().join(format!("plimsoll-{}", super::session())),
        };
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(AgentFiles { folder, is_temporary: run_dir.is_none(), files: BTreeMap::new() })
    }

    /// Appends a line of an agent.
    pub(super) fn add(&mut self, member: usize, name: &str, line: &str) -> anyhow::Result<()> {
        let (path, file) = match self.files.entry(member) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let path = self.folder.join(format!("{name}.jsonl"));
                let file = File::create_new(&path)
                    .with_context(|| format!("cannot create {}", path.display()))?;
                free.insert((path, file))
            }
        };
        let text = format!("{line}\n");
        file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }

    fn reader(&self, member: usize) -> anyhow::Result<Option<Reader<BufReader<File>>>> {
        let Some((path, _)) = self.files.get(&member) else { return Ok(None) };
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let reader = Reader::new(BufReader::new(file));
        Ok(Some(reader.with_context(|| format!("cannot read {}", path.display()))?))
    }
}

impl Drop for AgentFiles {
    fn drop(&mut self) {
        if self.is_temporary {
            // Errors are ignored: the system removes temporary files.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The seconds so far, for the progress line: those that all agents have reported.
pub(super) struct Live {
    blank: Snapshot,
    headers: BTreeMap<usize, Header>,
    /// By the number of the second.
    seconds: BTreeMap<u64, Snapshot>,
    shown: u64,
}

/// A second is shown without an agent that is this many seconds behind.
const BEHIND_MAX: u64 = 3;

impl Live {
    pub(super) fn new(plan: &Plan) -> Live {
        Live {
            blank: plan.blank_snapshot(),
            headers: BTreeMap::new(),
            seconds: BTreeMap::new(),
            shown: 0,
        }
    }

    /// Reads an agent's first line.
    pub(super) fn header(&mut self, member: usize, line: &str) -> Option<&Header> {
        let text = format!("{line}\n");
        let header = Reader::new(text.as_bytes()).ok()?.header().clone();
        self.headers.insert(member, header);
        self.headers.get(&member)
    }

    pub(super) fn second(&mut self, member: usize, t: Nanos, line: &str) {
        let number = t.0.div_ceil(1_000_000_000);
        let Some(header) = self.headers.get(&member).filter(|_| number > self.shown) else {
            return;
        };
        if let Ok(own) = second_of(line, header) {
            let blank = &self.blank;
            join_agent(self.seconds.entry(number).or_insert_with(|| blank.clone()), &own);
        }
    }

    /// The seconds that are complete now.
    pub(super) fn complete(&mut self, members: &[Member]) -> Vec<Snapshot> {
        use plimsoll_fleet::MemberState;
        let running = members.iter().filter(|own| own.state == MemberState::Running);
        let slowest = running.map(|own| own.t.0 / 1_000_000_000).min().unwrap_or(u64::MAX);
        let newest = self.seconds.keys().next_back().copied().unwrap_or(0);
        let mut complete = Vec::new();
        while let Some(first) = self.seconds.first_entry() {
            let number = *first.key();
            if number > slowest && number + BEHIND_MAX > newest {
                break;
            }
            complete.push(first.remove());
            self.shown = number;
        }
        complete
    }
}

/// Why a run ended before its planned end, if it did.
pub(super) struct End {
    /// Whether its user stopped it.
    pub(super) interrupted: bool,
    /// The objective that stopped it.
    pub(super) objective: Option<String>,
}

/// Makes the report and writes the results. `records`: the records of each member's requests, if the run has any.
pub(super) fn finish(
    plan: &Plan,
    coordinator: &Coordinator,
    (files, records): (AgentFiles, Option<Vec<Fetched>>),
    run_dir: Option<RunDir>,
    end: End,
) -> anyhow::Result<Finished> {
    let members = coordinator.members();
    let aborted = end.objective.is_some();
    let mut of_all = OfAll { aborted, ..OfAll::default() };
    let (mut facts, mut placed, mut reported) = (Vec::new(), Vec::new(), Vec::new());
    for (place, member) in members.iter().enumerate() {
        let mut fold = Fold::new(plan);
        let (mut own, mut seconds) = (None, Vec::new());
        if let Some(mut reader) = files.reader(place)? {
            own = Some(index::read_agent(plan, &mut reader, &mut fold, |second| {
                // That in which `join` counts it.
                seconds.push((second.t.0.div_ceil(1_000_000_000) as u32).saturating_sub(1));
            })?);
        }
        let mut missing = 0;
        if member.is_lost() {
            let stopped_at = coordinator.stopped_at();
            for (second, counts) in unsent(plan, &member.owned, fold.total(), stopped_at) {
                missing += counts.total().requests.unsent;
                of_all.lost.entry(second).and_modify(|sum| sum.join(&counts)).or_insert(counts);
            }
        }
        facts.extend(own.clone());
        placed.push(Placed { seconds, workers: member.workers });
        reported.push(fold.total().total().requests);
        let known = AgentFacts {
            name: member.name.clone(),
            skew: member.skew,
            lost: member.is_lost().then_some(member.t),
            unsent: missing,
            records: None,
        };
        of_all.parts.push(known.with_seconds(own.map(|facts| fold.finish(facts))));
    }
    let facts = facts_of_all(plan, coordinator, &facts, end);
    let mut joined = Ok(());
    if let (Some(dir), Some(mut fetched)) = (&run_dir, records) {
        let rows = records::join(plan, facts.started_at, &mut fetched, &placed, dir.path());
        let rows = rows.unwrap_or_else(|why| {
            joined = Err(why);
            vec![0; members.len()]
        });
        of_all.add_records(coordinator, &reported, &fetched, &rows);
    }
    if let Some(dir) = &run_dir {
        let written = index::write(dir.path(), &of_all.parts);
        joined = joined.and(written);
    }
    let (summary, written, path) = write(plan, members, &files, run_dir, facts, of_all)?;
    Ok(Finished::of_fleet(summary, path, written.and(joined), aborted))
}

/// What the report has besides the agents' seconds.
#[derive(Default)]
struct OfAll {
    /// Arrivals of lost agents, by second.
    lost: BTreeMap<u64, Snapshot>,
    parts: Vec<AgentPart>,
    /// Whether an objective stopped the run.
    aborted: bool,
}

impl OfAll {
    /// Adds how many requests of each agent are recorded, and why some are not.
    fn add_records(
        &mut self,
        coordinator: &Coordinator,
        reported: &[Requests],
        fetched: &[Fetched],
        rows: &[u64],
    ) {
        let Some(which) = coordinator.records() else { return };
        for (((part, requests), fetched), rows) in
            self.parts.iter_mut().zip(reported).zip(fetched).zip(rows)
        {
            let missing = records::expected(which, requests).saturating_sub(*rows);
            let why = match (missing, fetched.missing.as_str()) {
                (0, _) => String::new(),
                (_, "") => "the agent could not write them in time".into(),
                (_, why) => why.into(),
            };
            part.records = Some(AgentRecords { records: *rows, missing, why });
        }
    }
}

type Written = (plimsoll_report::Summary, anyhow::Result<()>, Option<String>);

fn write(
    plan: &Plan,
    members: &[Member],
    files: &AgentFiles,
    mut run_dir: Option<RunDir>,
    facts: RunFacts,
    of_all: OfAll,
) -> anyhow::Result<Written> {
    let OfAll { lost, parts, aborted } = of_all;
    let mut host = HostFile::at_start(&Source::host(), &[]);
    if let Some(dir) = &mut run_dir {
        let start = StartFacts {
            started_at: facts.started_at,
            cpus: facts.cpus,
            workers: facts.workers,
            forced: facts.forced.clone(),
        };
        dir.begin(plan, &start, &host).iter().for_each(|warning| tell(warning));
    }
    let mut readers = Vec::new();
    for place in (0..members.len()).chain([SCRAPES]) {
        readers.extend(files.reader(place)?);
    }
    let mut fold = Fold::new(plan).charted();
    let joined = join(&mut readers, &lost, &plan.blank_snapshot(), |second| {
        fold.add(second);
        run_dir.iter_mut().filter_map(|dir| dir.add(second)).for_each(|warning| tell(&warning));
    });
    joined.map_err(|(_, why)| why).context("cannot join the agents' seconds")?;
    let summary = fold.finish(facts).with_agents(parts);
    let path = run_dir.as_ref().map(|dir| dir.path().display().to_string());
    host.end(&Source::host());
    let written = run_dir.map_or(Ok(()), |dir| dir.finish(plan, &summary, aborted, &host).0);
    Ok((summary, written, path))
}

/// The facts of the whole run from those of the agents.
fn facts_of_all(plan: &Plan, coordinator: &Coordinator, agents: &[RunFacts], end: End) -> RunFacts {
    let max = |of: fn(&RunFacts) -> Nanos| agents.iter().map(of).max().unwrap_or_default();
    let start = coordinator.start_at().unwrap_or_default();
    let stopped = coordinator.stop_level() > 0;
    RunFacts {
        started_at: WallClock { unix_ns: start.0 },
        duration: max(|own| own.duration),
        drain: max(|own| own.drain),
        warmup: plan.warmup.min(max(|own| own.warmup)),
        cut_short: stopped && agents.iter().any(|own| own.cut_short),
        stopped_by: stopped.then(|| match end {
            End { objective: Some(that), .. } => that,
            End { interrupted: true, .. } => "Ctrl-C".into(),
            _ => "the loss of an agent".into(),
        }),
        cpus: agents.iter().map(|own| own.cpus).sum(),
        workers: agents.iter().map(|own| own.workers).sum(),
        forced: Vec::new(),
    }
}
