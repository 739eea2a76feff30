//! Reads streams: their load, start, end and targets.

use super::file::Files;
use super::request::read_target;
use super::sockets::{check_effect, check_without, read_sockets};
use super::spec::is_token;
use crate::stream::{Arrivals, Counted, End, Load, Sockets, Stream};
use crate::{Deck, Profile, RequestSpec, Stage, Target, domain};
use plimsoll_config::{Field, Table};
use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Key;
use std::collections::{BTreeMap, BTreeSet};

/// Keys of a stream, which a plan with only one stream has at the top level.
const STREAM_KEYS: [&str; 15] = [
    "agents",
    "rate",
    "users",
    "think_time",
    "duration",
    "requests",
    "arrivals",
    "stages",
    "start",
    "labels",
    "target",
    "sockets",
    "per_second",
    "ping",
    "silence",
];
/// More arrivals than this are most likely a typo, and exceed the schedule's precision.
const REQUESTS_MAX: u64 = 1_000_000_000_000;
pub(super) const USERS_MAX: u64 = 1_000_000;
/// It is compared with each header of each answer.
const SPLIT_HEADER_MAX: usize = 64;
const SPLIT_HINT: &str =
    "name a response header that identifies the instance: split_by = { header = \"x-instance\" }";
const RATE_MAX: f64 = 100_000_000.0;

/// The largest number of arrivals per second, or users.
pub(super) fn peak(stream: &Stream) -> f64 {
    let (Load::Open { profile, .. } | Load::Closed { profile, .. }) = &stream.load;
    profile.max()
}

pub(super) fn read_streams(
    root: &Table<'_>,
    files: &Files<'_>,
    key: Key,
    (targets, requests): (&mut Vec<Target>, &mut Vec<RequestSpec>),
) -> Option<Vec<Stream>> {
    let split_by = root.field("split_by").and_then(|field| read_split(&field));
    let Some(field) = root.field("stream") else {
        let place = (0, 1);
        let only =
            StreamReader { table: root, files, name: "main".into(), place, key: key.with(0) };
        let stream = only.stream(targets, requests)?;
        return Some(vec![Stream { split_by, ..stream }]);
    };
    for key in STREAM_KEYS {
        if let Some(field) = root.field(key) {
            let message =
                format!("\"{key}\" is not allowed at the top level together with [[stream]]");
            field.problem_with_key(message, "move it into the [[stream]] that it belongs to");
        }
    }
    let tables = field.tables("[[stream]]");
    if tables.is_empty() {
        field.problem("a plan needs at least one stream", "");
    }
    let mut names = BTreeSet::new();
    let mut streams = Vec::with_capacity(tables.len());
    for (place, table) in tables.iter().enumerate() {
        let given = table.field("name").and_then(|f| Some((f.open_text("a stream's name")?, f)));
        let (name, at) =
            given.map_or((format!("stream-{}", place + 1), None), |(n, f)| (n, Some(f)));
        if !names.insert(name.clone())
            && let Some(at) = at
        {
            at.problem(format!("duplicate stream name \"{name}\""), "");
        }
        let key = key.with(place as u64);
        let reader = StreamReader { table, files, name, place: (place, tables.len()), key };
        if let Some(stream) = reader.stream(targets, requests) {
            let own = table.field("split_by").and_then(|field| read_split(&field));
            streams.push(Stream { split_by: own.or_else(|| split_by.clone()), ..stream });
        }
        table.close();
    }
    (streams.len() == tables.len()).then_some(streams)
}

/// The header in `split_by = { header = "x-instance" }`, in lower case.
fn read_split(field: &Field<'_>) -> Option<String> {
    let table = field.table("split_by")?;
    let header = table.field("header");
    table.close();
    let Some(header) = header else {
        field.problem("\"split_by\" needs \"header\"", SPLIT_HINT);
        return None;
    };
    let name = header.open_text("the header of split_by")?;
    if !is_token(&name) {
        header.problem(format!("\"{name}\" is not a valid header name"), SPLIT_HINT);
        return None;
    }
    if name.len() > SPLIT_HEADER_MAX {
        let message =
            format!("a header name of {} bytes; the maximum is {SPLIT_HEADER_MAX}", name.len());
        header.problem(message, "");
        return None;
    }
    Some(name.to_ascii_lowercase())
}

struct StreamReader<'r, 't> {
    table: &'r Table<'t>,
    files: &'r Files<'r>,
    name: String,
    /// The stream's place, and how many streams there are.
    place: (usize, usize),
    key: Key,
}

impl StreamReader<'_, '_> {
    fn stream(self, all: &mut Vec<Target>, requests: &mut Vec<RequestSpec>) -> Option<Stream> {
        let first = all.len();
        let labels = self.table.field("labels").and_then(|f| f.table("labels"));
        let labels = labels.map(|table| super::read_tags(&table, "a label")).unwrap_or_default();
        let agents = self.table.field("agents").and_then(|f| f.table("agents"));
        let agents = agents.map(|table| super::read_pairs(&table, "an agent's label"));
        let sockets = self.table.field("sockets");
        self.files.stays_open.set(sockets.is_some());
        let first_request = requests.len();
        let weights = self.targets(all, requests, &labels);
        if sockets.is_some() {
            check_effect(self.table, &requests[first_request..]);
        }
        let start = self.table.field("start").and_then(|f| f.duration()).map(Nanos::from);
        let load = match &sockets {
            Some(count) => read_sockets(self.table, count)
                .map(|(load, end, sockets)| (load, end, Vec::new(), Some(sockets))),
            None => {
                check_without(self.table);
                self.load().map(|(load, end, stages)| (load, end, stages, None))
            }
        };
        let deck = weights.map(|weights| Deck::new(&weights, self.key.with(domain::DECK)))?;
        let (load, end, stages, sockets): (_, _, _, Option<Sockets>) = load?;
        Some(Stream {
            name: self.name,
            labels,
            agents: agents.unwrap_or_default(),
            start: start.unwrap_or_default(),
            load,
            sockets,
            end,
            stages,
            split_by: None,
            targets: first..all.len(),
            deck,
            key: self.key,
            place: (self.place.0 as u64, self.place.1 as u64),
            counted: Counted::default(),
        })
    }

    fn targets(
        &self,
        all: &mut Vec<Target>,
        requests: &mut Vec<RequestSpec>,
        labels: &BTreeMap<String, String>,
    ) -> Option<Vec<u32>> {
        let Some(field) = self.table.field("target") else {
            self.table.problem(
                format!("stream \"{}\" has no target", self.name),
                "add [[target]] with request = \"POST http://…\", or with file = \"targets.txt\"",
            );
            return None;
        };
        let tables = field.tables("[[target]]");
        if tables.is_empty() {
            field.problem("a stream needs at least one target", "");
        }
        let first = all.len();
        for table in &tables {
            if let Some(mut target) = read_target(table, self.files, all.len(), requests) {
                target.stream = self.place.0;
                labels.iter().for_each(|(label, value)| {
                    target.tags.entry(label.clone()).or_insert_with(|| value.clone());
                });
                if all.iter().any(|other| other.name == target.name) {
                    table.problem(
                        format!("duplicate target name \"{}\"", target.name),
                        "give each target a unique name; tags may be shared",
                    );
                }
                all.push(target);
            }
            table.close();
        }
        let weights: Vec<u32> = all[first..].iter().map(|target| target.weight).collect();
        if weights.len() == tables.len() && weights.iter().all(|weight| *weight == 0) {
            field.problem_with_key("every target has weight 0: nothing would be sent", "");
            return None;
        }
        (weights.len() == tables.len() && !tables.is_empty()).then_some(weights)
    }

    fn load(&self) -> Option<(Load, End, Vec<Stage>)> {
        let table = self.table;
        let rate = table.field("rate").map(|field| (field.rate(), field));
        let users = table.field("users").map(|field| (field.integer(1, USERS_MAX), field));
        let stages = table.field("stages");
        let think_time = table.field("think_time").map(|field| (field.duration(), field));
        let arrivals = table.field("arrivals");
        let words = [("constant", Arrivals::Constant), ("poisson", Arrivals::Poisson)];
        let spacing = arrivals.as_ref().and_then(|f| f.one_of(&words));
        let end = self.end(stages.is_some());

        if let (Some(_), Some((_, users))) = (&rate, &users) {
            users.problem_with_key(
                "\"rate\" and \"users\" cannot be used together",
                "rate is the open model, users the closed model; keep one, or use two [[stream]] tables",
            );
            return None;
        }
        let stages = match &stages {
            Some(field) => Some(read_stages(field)?),
            None => None,
        };
        let closed =
            users.is_some() || stages.as_ref().is_some_and(|(of, _)| *of == StageUnit::Users);
        if let Some((_, field)) = think_time.as_ref().filter(|_| !closed) {
            field.problem_with_key(
                "\"think_time\" requires \"users\"",
                "think_time applies to the closed model only; remove it, or use users instead of rate",
            );
        }
        if let Some(field) = arrivals.as_ref().filter(|_| closed) {
            field.problem_with_key(
                "\"arrivals\" cannot be used with \"users\"",
                "arrivals applies to the open model only; remove it, or use rate instead of users",
            );
        }
        if rate.is_none() && users.is_none() && stages.is_none() {
            table.problem(
                format!("stream \"{}\" has no \"rate\", \"users\", \"stages\" or \"sockets\"", self.name),
                "add rate = \"100/s\" (open model), users = 10 (closed model), or sockets = 100 (stay open)",
            );
            return None;
        }
        let value = match (&rate, &users) {
            (Some((rate, field)), _) => Some(check_rate((*rate)?, field)?),
            (_, Some((users, _))) => Some((*users)? as f64),
            _ => None,
        };
        let (profile, end, stages) = self.profile(value, closed, stages, end)?;
        let load = if closed {
            let think_time = think_time.and_then(|(span, _)| span).unwrap_or_default().into();
            Load::Closed { profile, think_time }
        } else {
            Load::Open { profile, arrivals: spacing.unwrap_or(Arrivals::Constant) }
        };
        Some((load, end, stages))
    }

    fn profile(
        &self,
        value: Option<f64>,
        closed: bool,
        stages: Option<(StageUnit, Vec<Stage>)>,
        end: Option<End>,
    ) -> Option<(Profile, End, Vec<Stage>)> {
        if let Some((of, stages)) = stages {
            if value.is_some() && (of == StageUnit::Users) != closed {
                self.table.problem(
                    "\"stages\" and the stream use different models",
                    "use rate, or users, in both",
                );
                return None;
            }
            let profile = Profile::stages(value.unwrap_or(0.0), &stages);
            if profile.max() <= 0.0 {
                self.table.problem("every stage has the value 0: nothing would be sent", "");
                return None;
            }
            if profile.total() > REQUESTS_MAX as f64 && !closed {
                self.table.problem(format!("the stream has more than {REQUESTS_MAX} requests"), "");
                return None;
            }
            let end = End::After(profile.end());
            return Some((profile, end, stages));
        }
        let value = value?;
        let profile = match end? {
            End::After(span) => Profile::constant(value, span),
            End::Requests(_) => Profile::endless(value),
        };
        if profile.total().is_finite() && profile.total() > REQUESTS_MAX as f64 && !closed {
            self.table.problem(format!("the stream has more than {REQUESTS_MAX} requests"), "");
            return None;
        }
        Some((profile, end?, Vec::new()))
    }

    fn end(&self, staged: bool) -> Option<End> {
        let duration = self.table.field("duration");
        let requests = self.table.field("requests");
        match (duration, requests) {
            (Some(field), _) | (_, Some(field)) if staged => {
                field
                    .problem_with_key("the stages already determine how long the stream lasts", "");
                None
            }
            (Some(_), Some(requests)) => {
                requests.problem_with_key(
                    "\"duration\" and \"requests\" cannot be used together",
                    "keep one",
                );
                None
            }
            (Some(duration), None) => Some(End::After(duration.duration_above_zero()?.into())),
            (None, Some(requests)) => Some(End::Requests(requests.integer(1, REQUESTS_MAX)?)),
            (None, None) if staged => None,
            (None, None) => {
                self.table.problem(
                    format!("stream \"{}\" has neither \"duration\" nor \"requests\"", self.name),
                    "set duration = \"1m\" or requests = 100_000",
                );
                None
            }
        }
    }
}

pub(super) fn check_rate(rate: f64, field: &Field<'_>) -> Option<f64> {
    if rate > 0.0 && rate <= RATE_MAX {
        return Some(rate);
    }
    let hint = "remove a stream that should send nothing";
    field.problem(format!("\"rate\" must be above 0/s and at most {RATE_MAX:.0}/s"), hint);
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StageUnit {
    Rate,
    Users,
}

fn read_stages(field: &Field<'_>) -> Option<(StageUnit, Vec<Stage>)> {
    let tables = field.tables("a stage");
    let mut stages = Vec::with_capacity(tables.len());
    let mut kinds = BTreeMap::new();
    for table in &tables {
        let rate = table.field("rate").map(|field| (field.rate(), field));
        let users = table.field("users").map(|field| (field.integer(0, USERS_MAX), field));
        let over = table.field("over").map(|f| f.duration());
        let hold = table.field("for").map(|f| f.duration());
        table.close();
        let value = match (rate, users) {
            (Some(_), Some((_, users))) => {
                let message = "\"rate\" and \"users\" in one stage";
                users.problem_with_key(
                    message,
                    "keep one; rate is the open model, users the closed",
                );
                None
            }
            (Some((Some(rate), field)), None) if rate > RATE_MAX => {
                field.problem(format!("\"rate\" must be at most {RATE_MAX:.0}/s"), "");
                None
            }
            (Some((rate, _)), None) => rate.map(|rate| (0, rate)),
            (None, Some((users, _))) => users.map(|users| (1, users as f64)),
            (None, None) => {
                table.problem("a stage needs \"rate\" or \"users\"", "");
                None
            }
        };
        let Some((kind, value)) = value else { continue };
        kinds.insert(kind, ());
        if over.is_none() && hold.is_none() {
            let hint = "over = \"30s\" ramps linearly to the value; for = \"30s\" holds it";
            table.problem("a stage needs \"over\" or \"for\"", hint);
            continue;
        }
        let (Some(over), Some(hold)) =
            (over.unwrap_or(Some(Default::default())), hold.unwrap_or(Some(Default::default())))
        else {
            continue;
        };
        stages.push(Stage { value, over: over.into(), hold: hold.into() });
    }
    if kinds.len() > 1 {
        field.problem("stages mix \"rate\" and \"users\"", "use two [[stream]] tables");
        return None;
    }
    if tables.is_empty() {
        field.problem("\"stages\" is empty", "");
    }
    let of = if kinds.contains_key(&1) { StageUnit::Users } else { StageUnit::Rate };
    (stages.len() == tables.len() && !stages.is_empty()).then_some((of, stages))
}
