//! A part of a run: which targets, streams and seconds a report covers.
//!
//! Filters of one kind are alternatives (`chain=a` or `chain=b`), filters of different kinds must all
//! match. A second belongs to a range or a stage if its midpoint does.
//!
//! Snapshots count some figures only by stream (lag, wait, answers by header value) or only for the whole
//! process (HTTP statuses, JSON-RPC codes, faults, connections, read lag, warm-up, CPU, other processes).
//! A report on a part shows none of them where they would include requests outside the part ([`Scope`]),
//! unless the records of single requests have them ([`Details`](crate::Details)).

use crate::seconds::Seconds;
use plimsoll_measure::{Nanos, Snapshot, Stats, StreamCounts};
use plimsoll_plan::{Plan, unknown_name};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// What a report is narrowed to, as its user wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Names of targets.
    pub targets: Vec<String>,
    /// Tags and values, such as `chain=boba`.
    pub tags: Vec<String>,
    /// Names of streams.
    pub streams: Vec<String>,
    /// Stages: `STREAM:NUMBER`, or a number if only one stream has stages. Numbers begin at 1.
    pub stages: Vec<String>,
    /// From here on, counted from the end of the warm-up as in the text report; `None`: from the start.
    pub from: Option<Nanos>,
    /// Until here, counted from the end of the warm-up; `None`: until the end.
    pub to: Option<Nanos>,
}

/// Why a report cannot be narrowed as its user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, as a fragment: `--target: no target is named "x"`.
    pub message: String,
    /// How to fix it.
    pub hint: String,
}

impl Problem {
    fn new(flag: &str, message: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { message: format!("{flag}: {}", message.into()), hint: hint.into() }
    }
}

/// The largest unit to which figures of a part are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Every request of the selected seconds: all figures are known.
    Run,
    /// Every request of some streams: figures of the whole process are not shown.
    Streams,
    /// Some targets of a stream: figures that are counted by stream are not shown either.
    Targets,
}

/// A span of the run's clock.
type Span = (Nanos, Nanos);

/// A part of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrow {
    filters: Filters,
    scope: Scope,
    /// By target of the plan: whether it is included.
    targets: Vec<bool>,
    /// By stream of the plan: when it is included; empty: never.
    streams: Vec<Vec<Span>>,
    /// By stream: whether all of its targets are included.
    complete: Vec<bool>,
}

const WHOLE: Span = (Nanos::ZERO, Nanos::MAX);

impl Narrow {
    /// The whole run.
    pub fn whole(plan: &Plan) -> Narrow {
        Narrow {
            filters: Filters::default(),
            scope: Scope::Run,
            targets: vec![true; plan.targets.len()],
            streams: vec![vec![WHOLE]; plan.streams.len()],
            complete: vec![true; plan.streams.len()],
        }
    }

    /// The part that the filters select from a run that ended at `end` on its clock.
    ///
    /// # Errors
    /// A name that the plan does not have, a range outside the run, or filters that select nothing.
    pub fn new(plan: &Plan, filters: &Filters, end: Nanos) -> Result<Narrow, Problem> {
        let range = range_of(plan, filters, end)?;
        let names = Names::read(plan, filters)?;
        let stages = stages_of(plan, filters)?;
        let spans = |stream: usize| -> Vec<Span> {
            let own = stages.iter().filter(|(of, _)| *of == stream);
            let spans = match stages.as_slice() {
                [] => vec![WHOLE],
                _ => own.map(|(_, stage)| stage_span(plan, stream, *stage)).collect(),
            };
            let cut = |(from, to): Span| (from.max(range.0), to.min(range.1));
            spans.into_iter().map(cut).filter(|(from, to)| from < to && *from < end).collect()
        };
        let mut targets: Vec<bool> =
            plan.targets.iter().map(|target| names.hold(target, plan)).collect();
        if !targets.contains(&true) {
            let message = "no target matches all of these filters";
            let hint = "filters of different kinds must all match; remove one";
            return Err(Problem::new(&names.flags(), message, hint));
        }
        let mut streams: Vec<Vec<Span>> = (0..plan.streams.len()).map(spans).collect();
        let mut complete = Vec::new();
        for (own, spans) in plan.streams.iter().zip(&mut streams) {
            let included = &mut targets[own.targets.clone()];
            if !included.contains(&true) {
                spans.clear();
            }
            complete.push(included.iter().all(|included| *included));
            included.iter_mut().for_each(|included| *included &= !spans.is_empty());
        }
        if !targets.contains(&true) {
            let message =
                format!("no second of the run is selected; it ended after {}", end - plan.warmup);
            let hint = if filters.stages.is_empty() {
                "select another stream or range"
            } else {
                "the run did not reach this stage, or the stage lies outside the range or the streams"
            };
            return Err(Problem::new("--stage, --stream, --from and --to", message, hint));
        }
        let partly = streams.iter().zip(&complete).any(|(spans, all)| !spans.is_empty() && !all);
        let scope = if partly {
            Scope::Targets
        } else if streams.iter().any(|spans| *spans != streams[0]) {
            Scope::Streams
        } else {
            Scope::Run
        };
        Ok(Narrow { filters: filters.clone(), scope, targets, streams, complete })
    }

    /// Whether it is the whole run.
    pub fn is_whole(&self) -> bool {
        self.filters == Filters::default()
    }

    /// What the figures of the part are complete to.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The filters.
    pub fn filters(&self) -> &Filters {
        &self.filters
    }

    /// Whether the target is included.
    pub fn holds_target(&self, target: usize) -> bool {
        self.targets[target]
    }

    /// Whether any of the stream's requests are included.
    pub fn holds_stream(&self, stream: usize) -> bool {
        !self.streams[stream].is_empty()
    }

    /// Whether all of the stream's targets are included, in some seconds.
    pub fn holds_whole_stream(&self, stream: usize) -> bool {
        self.holds_stream(stream) && self.complete[stream]
    }

    /// Whether the requests of a target, which is in this stream, are included in a second.
    pub fn holds(&self, second: Seconds, target: usize, stream: usize) -> bool {
        let within = |(from, to): &Span| (*from..*to).contains(&second.middle());
        self.targets[target] && self.streams[stream].iter().any(within)
    }

    /// By stream: whether it is included in a second; `None` if none is.
    pub(crate) fn held(&self, second: Seconds) -> Option<Vec<bool>> {
        let within = |(from, to): &Span| (*from..*to).contains(&second.middle());
        let held: Vec<bool> = self.streams.iter().map(|spans| spans.iter().any(within)).collect();
        held.contains(&true).then_some(held)
    }

    /// A second with only the counts of these streams: what the verdict is made of.
    pub(crate) fn of_streams<'s>(
        &self,
        plan: &Plan,
        second: &'s Snapshot,
        held: &[bool],
    ) -> Cow<'s, Snapshot> {
        if self.streams.iter().all(|spans| *spans == self.streams[0]) {
            return Cow::Borrowed(second);
        }
        let mut part = second.clone();
        (part.status, part.rpc, part.faults) = Default::default();
        for (counts, held) in part.streams.iter_mut().zip(held) {
            if !held {
                *counts = StreamCounts::default();
            }
        }
        clear_targets(&mut part, |target| held[plan.targets[target].stream]);
        Cow::Owned(part)
    }

    /// A second of [`Narrow::of_streams`] with only the counts of the targets.
    pub(crate) fn of_targets<'s>(&self, second: &'s Snapshot) -> Cow<'s, Snapshot> {
        if self.scope == Scope::Run {
            return Cow::Borrowed(second);
        }
        let mut part = second.clone();
        (part.status, part.rpc, part.faults, part.read_lag) = Default::default();
        (part.connections, part.warmup, part.host, part.workers) = Default::default();
        part.scrapes.clear();
        part.logs.clear();
        for (counts, complete) in part.streams.iter_mut().zip(&self.complete) {
            if !complete {
                let StreamCounts { active, last_sent, .. } = *counts;
                *counts = StreamCounts { active, last_sent, ..StreamCounts::default() };
            }
        }
        clear_targets(&mut part, |target| self.targets[target]);
        Cow::Owned(part)
    }

    /// The filters in words; empty for the whole run. Times count from the end of the warm-up.
    pub fn words(&self) -> Vec<String> {
        let Filters { targets, tags, streams, stages, from, to } = &self.filters;
        let mut words = Vec::new();
        let mut listed = |kind: &str, values: &[String]| {
            if !values.is_empty() {
                words.push(format!("{kind} {}", values.join(" or ")));
            }
        };
        listed("target", targets);
        for (tag, values) in by_tag(tags) {
            listed(&format!("{tag} ="), &values);
        }
        listed("stream", streams);
        listed("stage", stages);
        let from =
            from.filter(|from| *from > Nanos::ZERO).map_or("0s".into(), |from| from.to_string());
        match to {
            Some(to) => words.push(format!("seconds {from} to {to}")),
            None if self.filters.from.is_some() => words.push(format!("seconds from {from} on")),
            None => {}
        }
        words
    }
}

fn clear_targets(part: &mut Snapshot, holds: impl Fn(usize) -> bool) {
    for (target, stats) in part.stats.iter_mut().enumerate() {
        if !holds(target) {
            *stats = Stats::default();
        }
    }
}

/// The range on the run's clock.
fn range_of(plan: &Plan, filters: &Filters, end: Nanos) -> Result<Span, Problem> {
    let (from, to) = (filters.from, filters.to);
    let length = end - plan.warmup;
    let ended = format!("the run lasted {length}, counted from the end of the warm-up");
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        let message = format!("{from} is not before --to {to}");
        return Err(Problem::new("--from", message, "exchange them, or write an earlier --from"));
    }
    if let Some(from) = from
        && from >= length
    {
        let message = format!("{from} is after the end of the run");
        return Err(Problem::new("--from", message, ended));
    }
    let second = Nanos::from_secs(1);
    // The last second is included only if its midpoint is.
    if from > Some(Nanos::ZERO) && length - from.unwrap_or_default() < Nanos(second.0 / 2) {
        let message = format!(
            "{} is less than half a second before the end of the run",
            from.unwrap_or_default()
        );
        return Err(Problem::new("--from", message, ended));
    }
    let (start, stop) = (from.unwrap_or_default(), to.unwrap_or(length));
    if to.is_some() && stop - start < second {
        let message = format!("{} is shorter than a second", stop - start);
        let hint = "figures are counted by second; select at least one second";
        return Err(Problem::new("--from and --to", message, hint));
    }
    let absolute = |instant: Nanos| plan.warmup + instant;
    Ok((from.map_or(Nanos::ZERO, absolute), to.map_or(Nanos::MAX, absolute)))
}

/// The filters by name, checked.
struct Names<'f> {
    filters: &'f Filters,
    tags: BTreeMap<&'f str, Vec<String>>,
}

impl<'f> Names<'f> {
    fn read(plan: &Plan, filters: &'f Filters) -> Result<Names<'f>, Problem> {
        let targets: Vec<&str> = plan.targets.iter().map(|target| target.name.as_str()).collect();
        known("--target", "target", &filters.targets, &targets)?;
        known("--stream", "stream", &filters.streams, &stream_names(plan))?;
        let mut tags: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (tag, value) in plan.targets.iter().flat_map(|target| &target.tags) {
            tags.entry(tag).or_default().insert(value);
        }
        for filter in &filters.tags {
            let Some((tag, value)) = filter.split_once('=') else {
                let message = format!("\"{filter}\" has no \"=\"");
                return Err(Problem::new(
                    "--tag",
                    message,
                    "write NAME=VALUE, such as chain=ethereum",
                ));
            };
            if tags.is_empty() {
                let message = format!("no target has a tag, so none has \"{tag}\"");
                return Err(Problem::new("--tag", message, "remove --tag, or select by --target"));
            }
            let names: Vec<&str> = tags.keys().copied().collect();
            known("--tag", "tag", &[tag.to_string()], &names)?;
            let values: Vec<&str> = tags[tag].iter().copied().collect();
            if !values.contains(&value) {
                let (_, hint) = unknown_name("value", value, &values);
                let message = format!("no target has {tag} = \"{value}\"");
                return Err(Problem::new("--tag", message, hint));
            }
        }
        Ok(Names { filters, tags: by_tag(&filters.tags) })
    }

    fn hold(&self, target: &plimsoll_plan::Target, plan: &Plan) -> bool {
        let any = |names: &[String], own: &String| names.is_empty() || names.contains(own);
        let tagged = |(tag, values): (&&str, &Vec<String>)| {
            target.tags.get(*tag).is_some_and(|own| values.contains(own))
        };
        any(&self.filters.targets, &target.name)
            && any(&self.filters.streams, &plan.streams[target.stream].name)
            && self.tags.iter().all(tagged)
    }

    /// The flags in use, for a message.
    fn flags(&self) -> String {
        let Filters { targets, tags, streams, .. } = self.filters;
        let flags = [("--target", targets), ("--tag", tags), ("--stream", streams)];
        let used = flags.into_iter().filter(|(_, values)| !values.is_empty());
        used.map(|(flag, _)| flag).collect::<Vec<_>>().join(" and ")
    }
}

fn by_tag(filters: &[String]) -> BTreeMap<&str, Vec<String>> {
    let mut tags: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (tag, value) in filters.iter().filter_map(|filter| filter.split_once('=')) {
        tags.entry(tag).or_default().push(value.into());
    }
    tags
}

fn stream_names(plan: &Plan) -> Vec<&str> {
    plan.streams.iter().map(|stream| stream.name.as_str()).collect()
}

fn known(flag: &str, what: &str, names: &[String], known: &[&str]) -> Result<(), Problem> {
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let (message, hint) = unknown_name(what, name, known);
            Err(Problem::new(flag, message, hint))
        }
    }
}

/// The stages that the filters name, as stream and stage of the plan.
fn stages_of(plan: &Plan, filters: &Filters) -> Result<Vec<(usize, usize)>, Problem> {
    let staged: Vec<usize> =
        (0..plan.streams.len()).filter(|stream| !plan.streams[*stream].stages.is_empty()).collect();
    let problem = |message: String, hint: String| Err(Problem::new("--stage", message, hint));
    let mut stages = Vec::new();
    for filter in &filters.stages {
        // A stream's name may contain a colon; a number does not.
        let (stream, number) = match (filter.rsplit_once(':'), staged.as_slice()) {
            (_, []) => {
                return problem(
                    "no stream has stages".into(),
                    "select a range with --from and --to".into(),
                );
            }
            (Some((name, number)), _) => {
                known("--stage", "stream", &[name.into()], &stream_names(plan))?;
                let stream = plan.streams.iter().position(|stream| stream.name == name);
                (stream.expect("the name is known"), number)
            }
            (None, [only]) => (*only, filter.as_str()),
            (None, _) => {
                let names: Vec<_> =
                    staged.iter().map(|stream| &*plan.streams[*stream].name).collect();
                let message = format!("\"{filter}\" does not say of which stream");
                let hint = format!(
                    "write {}:{filter}; streams with stages: {}",
                    names[0],
                    names.join(", ")
                );
                return problem(message, hint);
            }
        };
        let (name, count) = (&plan.streams[stream].name, plan.streams[stream].stages.len());
        let Ok(number) = number.parse::<usize>() else {
            let message = format!("\"{number}\" is not the number of a stage");
            return problem(message, format!("write {name}:1, or 1 if only one stream has stages"));
        };
        if !(1..=count).contains(&number) {
            let hint = match count {
                0 => "it has a steady load; select a range with --from and --to".into(),
                1 => "it has one stage, 1".into(),
                count => format!("it has stages 1 to {count}"),
            };
            return problem(format!("stream {name} has no stage {number}"), hint);
        }
        stages.push((stream, number - 1));
    }
    Ok(stages)
}

/// When a stage of a stream begins and ends, on the run's clock; the last one lasts until the end of the
/// run.
///
/// # Panics
/// If there is no such stage.
pub(crate) fn stage_span(plan: &Plan, stream: usize, stage: usize) -> Span {
    let stream = &plan.streams[stream];
    let length = |stage: &plimsoll_plan::Stage| stage.over + stage.hold;
    let before = stream.stages[..stage].iter().map(length).fold(Nanos::ZERO, |sum, own| sum + own);
    let from = plan.warmup + stream.start + before;
    let last = stage + 1 == stream.stages.len();
    (from, if last { Nanos::MAX } else { from + length(&stream.stages[stage]) })
}

#[cfg(test)]
mod tests;
