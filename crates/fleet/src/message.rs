//! What agents and coordinators exchange, in versioned wire forms.
//!
//! A run has one log: a stream of messages in one order that everybody sees. The coordinator writes [`Order`]s
//! and [`Tick`]s to it, each agent its [`Report`]s. Whoever reads the log from its beginning knows everything
//! about the run. Besides it there are only the agents' [`Announcement`]s, the plan, and the messages that
//! measure clock offsets.
//!
//! Each message names its schema. A message of another version is refused with both versions named, never
//! guessed at. The seconds, and an agent's first and last line, are lines of `snapshots.jsonl`
//! ([`plimsoll_measure::wire`]), which have a version and checksums of their own.

use plimsoll_measure::Nanos;
use plimsoll_plan::{Part, Shards};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of all messages between agents and coordinators.
pub const PROTOCOL: u32 = 1;
const AGENT: &str = "plimsoll/agent/1";
const ORDER: &str = "plimsoll/order/1";
const REPORT: &str = "plimsoll/report/1";
const TICK: &str = "plimsoll/tick/1";

/// An agent's announcement of itself, renewed every few seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The agent's name, unique in its fleet.
    pub name: String,
    /// A random number of this process: a restarted agent has another one.
    pub session: String,
    /// The program's version.
    pub version: String,
    /// What it was labelled with.
    pub labels: BTreeMap<String, String>,
    /// CPUs that it may use.
    pub cpus: usize,
    /// The targets that its operator allowed.
    pub allow: Vec<String>,
    /// What the doctor found on its host.
    pub findings: Vec<String>,
    /// The run that it takes part in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

/// A message of the coordinator to all agents of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The run.
    pub run: String,
    /// Counts the coordinators of the run: orders of an earlier one are ignored.
    pub epoch: u64,
    /// Counts this coordinator's orders, from 1: a repeated one is ignored.
    pub number: u64,
    /// The coordinator's session.
    pub coordinator: String,
    /// What is ordered.
    pub what: OrderKind,
}

/// What a coordinator orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderKind {
    /// Prepare to send these parts of the plan.
    Begin {
        /// Digest of the resolved plan, 16 hexadecimal digits.
        digest: String,
        /// The seed of all random choices.
        seed: u64,
        /// How long an agent sends on without confirmation that its seconds were stored; `None`: to the
        /// plan's end. Set if lost shards are handed over, so that no arrival has two owners, and if the loss of an
        /// agent stops all, so that it stops as well.
        lease_ns: Option<u64>,
        /// Whether lost shards are handed over: agents then wait for those of others to the plan's end.
        hands_over: bool,
        /// Which requests agents record one by one, for the coordinator to fetch afterwards.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        records: Option<Records>,
        /// The agents, with their parts.
        members: Vec<MemberOrder>,
    },
    /// Another coordinator has taken over.
    Resume {},
    /// The run's clock starts at this time of the coordinator's clock, in nanoseconds since 1970.
    Start {
        /// The instant.
        at_unix_ns: u64,
    },
    /// A member is lost: from `at_ns` on the run's clock, others own its open shards. With no parts, nobody
    /// does.
    Lost {
        /// The lost agent's name.
        agent: String,
        /// The instant.
        at_ns: u64,
        /// The new owners.
        parts: Vec<(String, Vec<String>)>,
    },
    /// Stop sending; from level 2 on, also end what is in flight.
    Stop {
        /// How often the user stopped the run.
        level: u8,
        /// When, on the coordinator's clock, in nanoseconds since 1970.
        at_unix_ns: u64,
    },
    /// The run does not start.
    Cancel {
        /// The reason.
        why: String,
    },
}

/// Which requests are recorded one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Records {
    /// All.
    All,
    /// Those that were not answered as expected.
    Errors,
}

/// The records of an agent's requests, as it stored them in NATS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRecords {
    /// Their length; zero: there are none.
    pub bytes: u64,
    /// Their SHA-256, in hexadecimal digits.
    pub sha256: String,
    /// Why some or all are missing; may be empty.
    pub missing: String,
}

/// A member of a run in [`OrderKind::Begin`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberOrder {
    /// The agent's name.
    pub name: String,
    /// Its process.
    pub session: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its part of the plan, by stream; see [`part_to_wire`].
    pub part: Vec<String>,
}

/// A message of an agent about its part of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The run.
    pub run: String,
    /// The agent's name.
    pub agent: String,
    /// Its process.
    pub session: String,
    /// Counts this process's reports of the run, from 1: a repeated one is ignored.
    pub number: u64,
    /// What is reported.
    pub what: ReportKind,
}

/// What an agent reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportKind {
    /// It can start.
    Ready {
        /// Number of worker threads.
        workers: usize,
        /// Half of the fastest round trip to the coordinator: the most by which its start can be off.
        bound_ns: u64,
    },
    /// It will not take part.
    Refused {
        /// The reasons.
        problems: Vec<Problem>,
    },
    /// The run's clock has started: the first line of its seconds.
    Started {
        /// A header of `snapshots.jsonl`.
        line: String,
        /// When its clock read zero, on the coordinator's clock as measured afterwards, minus the instant that
        /// was ordered.
        skew_ns: i64,
        /// The most by which `skew_ns` can be off.
        bound_ns: u64,
    },
    /// A second.
    Second {
        /// Its end on the run's clock.
        t_ns: u64,
        /// A line of `snapshots.jsonl`.
        line: String,
    },
    /// It owns the shards of a [`OrderKind::Lost`], or does not, because the order came too late.
    TookOver {
        /// The order's `at_ns`.
        at_ns: u64,
        /// The lost agent.
        of: String,
        /// Whether it owns them.
        accepted: bool,
    },
    /// Its last arrival has ended.
    Ended {
        /// The last line of `snapshots.jsonl`.
        line: String,
        /// Whether it stopped because none of its seconds was confirmed for the time of its lease.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        fenced: bool,
    },
    /// It is storing the records of its requests in NATS, and this many bytes are stored.
    Storing {
        /// The bytes.
        bytes: u64,
    },
    /// It has stored the records of its requests, or cannot.
    Recorded(StoredRecords),
    /// It could not go on.
    Failed {
        /// The reason.
        why: String,
    },
}

/// Why an agent does not take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// How to fix it; may be empty.
    pub hint: String,
}

/// A mark that the coordinator writes to the log and reads back: it has then read everything stored before.
/// Silence is measured from tick to tick, so a coordinator that cannot reach NATS takes nobody for lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// The coordinator's epoch.
    pub epoch: u64,
    /// When it was written, on the coordinator's clock, in nanoseconds since 1970.
    pub at_unix_ns: u64,
}

/// A message in a run's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogMessage {
    /// By a coordinator.
    Order(Order),
    /// By an agent.
    Report(Report),
    /// By a coordinator.
    Tick(Tick),
}

/// A message and its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Grows from message to message; the same place is the same message.
    pub place: u64,
    /// The message.
    pub message: LogMessage,
}

/// Why a message cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Another version wrote it.
    #[error("a message of version \"{found}\"; this version of plimsoll understands \"{known}\"")]
    Version {
        /// The version found.
        found: String,
        /// The version known.
        known: &'static str,
    },
    /// It is not such a message.
    #[error("not a valid message: {0}")]
    Damaged(String),
}

#[derive(Serialize)]
struct Sealed<'m, T> {
    schema: &'static str,
    #[serde(flatten)]
    message: &'m T,
}

fn seal<T: Serialize>(schema: &'static str, message: &T) -> Vec<u8> {
    serde_json::to_vec(&Sealed { schema, message }).expect("names, numbers and text are JSON")
}

fn schema_of(bytes: &[u8]) -> Result<String, WireError> {
    #[derive(Deserialize)]
    struct Schema {
        schema: String,
    }
    let read: Result<Schema, _> = serde_json::from_slice(bytes);
    read.map(|read| read.schema).map_err(|error| WireError::Damaged(error.to_string()))
}

fn open<T: DeserializeOwned>(known: &'static str, bytes: &[u8]) -> Result<T, WireError> {
    let found = schema_of(bytes)?;
    if found != known {
        return Err(WireError::Version { found, known });
    }
    serde_json::from_slice(bytes).map_err(|error| WireError::Damaged(error.to_string()))
}

/// A message as bytes.
pub fn encode(message: &LogMessage) -> Vec<u8> {
    match message {
        LogMessage::Order(order) => seal(ORDER, order),
        LogMessage::Report(report) => seal(REPORT, report),
        LogMessage::Tick(tick) => seal(TICK, tick),
    }
}

impl LogMessage {
    /// Reads a message.
    ///
    /// # Errors
    /// It is damaged, or of another version.
    pub fn decode(bytes: &[u8]) -> Result<LogMessage, WireError> {
        let schema = schema_of(bytes)?;
        match schema.rsplit_once('/').map(|(kind, _)| kind) {
            Some("plimsoll/order") => open(ORDER, bytes).map(LogMessage::Order),
            Some("plimsoll/report") => open(REPORT, bytes).map(LogMessage::Report),
            Some("plimsoll/tick") => open(TICK, bytes).map(LogMessage::Tick),
            _ => Err(WireError::Damaged(format!("unknown schema \"{schema}\""))),
        }
        .and_then(LogMessage::checked)
    }

    /// The message, if its names may be parts of subjects and of file names: whoever wrote it may have chosen others.
    fn checked(self) -> Result<LogMessage, WireError> {
        let mut names = match &self {
            LogMessage::Order(Order { run, what: OrderKind::Begin { members, .. }, .. }) => {
                let members = members.iter().map(|own| own.name.as_str());
                std::iter::once(run.as_str()).chain(members).collect()
            }
            LogMessage::Order(own) => vec![own.run.as_str()],
            LogMessage::Report(own) => vec![own.run.as_str(), &own.agent],
            LogMessage::Tick(_) => Vec::new(),
        };
        names.retain(|name| !is_name(name));
        names.first().map(|name| Err(not_a_name(name))).unwrap_or(Ok(()))?;
        Ok(self)
    }
}

impl Announcement {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        seal(AGENT, self)
    }
}

/// Reads an announcement.
///
/// # Errors
/// It is damaged, or of another version.
pub fn decode_announcement(bytes: &[u8]) -> Result<Announcement, WireError> {
    let read: Announcement = open(AGENT, bytes)?;
    if is_name(&read.name) { Ok(read) } else { Err(not_a_name(&read.name)) }
}

/// Whether a text can be part of a subject and of a file's name: letters, digits, `-` and `_`, at most 64.
pub fn is_name(text: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=64).contains(&text.len()) && text.chars().all(valid)
}

fn not_a_name(text: &str) -> WireError {
    let shown: String = text.chars().take(64).collect();
    WireError::Damaged(format!("{shown:?} is not a valid name"))
}

/// A part as text: for each stream its shards as progressions `first-last/step`, separated by commas.
pub(crate) fn part_to_wire(part: &Part) -> Vec<String> {
    part.streams().iter().map(shards_to_wire).collect()
}

fn shards_to_wire(shards: &Shards) -> String {
    let all: Vec<u64> = shards.iter().collect();
    let (mut runs, mut rest) = (Vec::new(), all.as_slice());
    while let [first, after @ ..] = rest {
        let step = after.first().map_or(1, |second| second - first);
        let inside = (1..).zip(after).take_while(|(n, shard)| **shard == first + n * step).count();
        let last = first + inside as u64 * step;
        runs.push(if inside == 0 { first.to_string() } else { format!("{first}-{last}/{step}") });
        rest = &after[inside..];
    }
    runs.join(",")
}

/// Reads a part; `None` if it is not one of a plan with this many streams.
pub(crate) fn part_from_wire(texts: &[String], streams: usize) -> Option<Part> {
    let shards: Option<Vec<Shards>> = texts.iter().map(|text| shards_from_wire(text)).collect();
    shards.filter(|all| all.len() == streams).map(Part::of)
}

fn shards_from_wire(text: &str) -> Option<Shards> {
    let mut all: Vec<u16> = Vec::new();
    for run in text.split(',').filter(|run| !run.is_empty()) {
        match run.split_once('-') {
            None => all.push(run.parse().ok()?),
            Some((first, rest)) => {
                let (last, step) = rest.split_once('/')?;
                let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
                let step: usize = step.parse().ok().filter(|step| *step > 0)?;
                all.extend((first..=last.min(plimsoll_plan::SHARDS as u16)).step_by(step));
            }
        }
    }
    Some(Shards::of(all))
}

impl Tick {
    /// When it was written, on the coordinator's clock.
    pub fn at(&self) -> Nanos {
        Nanos(self.at_unix_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back() {
        let order = |what| {
            LogMessage::Order(Order {
                run: "r1".into(),
                epoch: 2,
                number: 3,
                coordinator: "c".into(),
                what,
            })
        };
        let report = |what| {
            LogMessage::Report(Report {
                run: "r1".into(),
                agent: "a".into(),
                session: "s".into(),
                number: 7,
                what,
            })
        };
        let member = MemberOrder {
            name: "a".into(),
            session: "s".into(),
            labels: BTreeMap::from([("chain".into(), "boba".into())]),
            part: vec!["0-1022/2".into(), String::new()],
        };
        let begin = OrderKind::Begin {
            digest: "00".into(),
            seed: 1 << 53,
            lease_ns: Some(10_000_000_000),
            hands_over: true,
            records: Some(Records::Errors),
            members: vec![member],
        };
        let lost = OrderKind::Lost {
            agent: "a".into(),
            at_ns: 12_000_000_000,
            parts: vec![("b".into(), vec!["1,3".into()])],
        };
        let problem = Problem { message: "no".into(), hint: String::new() };
        let messages = [
            order(begin),
            order(OrderKind::Resume {}),
            order(OrderKind::Start { at_unix_ns: u64::MAX }),
            order(lost),
            order(OrderKind::Stop { level: 1, at_unix_ns: 9 }),
            order(OrderKind::Cancel { why: "\"quoted\"".into() }),
            report(ReportKind::Ready { workers: 2, bound_ns: 1 }),
            report(ReportKind::Refused { problems: vec![problem] }),
            report(ReportKind::Started { line: "{}".into(), skew_ns: -5, bound_ns: 9 }),
            report(ReportKind::Second { t_ns: 1, line: "{\"t_ns\":1}".into() }),
            report(ReportKind::TookOver { at_ns: 1, of: "b".into(), accepted: false }),
            report(ReportKind::Ended { line: "{}".into(), fenced: true }),
            report(ReportKind::Storing { bytes: 4 }),
            report(ReportKind::Recorded(StoredRecords {
                bytes: 4,
                sha256: "00".into(),
                missing: String::new(),
            })),
            report(ReportKind::Failed { why: "it broke".into() }),
            LogMessage::Tick(Tick { epoch: 1, at_unix_ns: 5 }),
        ];
        for message in messages {
            assert_eq!(LogMessage::decode(&encode(&message)), Ok(message));
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut tick =
            String::from_utf8(encode(&LogMessage::Tick(Tick { epoch: 1, at_unix_ns: 5 }))).unwrap();
        tick = tick.replace("plimsoll/tick/1", "plimsoll/tick/2");
        let error = LogMessage::decode(tick.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            error,
            "a message of version \"plimsoll/tick/2\"; this version of plimsoll understands \"plimsoll/tick/1\""
        );
        for name in ["", "a.b", "../a", "a b", "a\r\nPUB x 0", &"a".repeat(65)] {
            let report = Report {
                run: name.into(),
                agent: "a".into(),
                session: "s".into(),
                number: 1,
                what: ReportKind::Failed { why: String::new() },
            };
            let other = Report { run: "r".into(), agent: name.into(), ..report.clone() };
            for message in [report, other] {
                let error = LogMessage::decode(&encode(&LogMessage::Report(message))).unwrap_err();
                assert!(error.to_string().ends_with("is not a valid name"), "{error}");
            }
        }
        for damaged in ["", "{}", "{\"schema\":\"x/1\"}", "{\"schema\":\"plimsoll/order/1\"}"] {
            let error = LogMessage::decode(damaged.as_bytes()).unwrap_err();
            assert!(matches!(error, WireError::Damaged(_)), "{damaged}: {error}");
        }
        let error = decode_announcement(br#"{"schema":"plimsoll/agent/9"}"#).unwrap_err();
        assert!(matches!(error, WireError::Version { .. }));
    }

    #[test]
    fn parts_read_back() {
        let check = |shards: &[u16], text: &str| {
            let part = Part::of(vec![Shards::of(shards.iter().copied())]);
            let wire = part_to_wire(&part);
            assert_eq!(wire, [text]);
            assert_eq!(part_from_wire(&wire, 1), Some(part));
        };
        check(&[], "");
        check(&[7], "7");
        check(&[0, 10, 20, 30], "0-30/10");
        check(&[1, 2, 3, 9, 20, 22], "1-3/1,9-20/11,22");
        let tenth = Part::of(vec![Shards::part(3, 10).share(1, 3)]);
        assert_eq!(part_to_wire(&tenth), ["13-1003/30"]);
        assert_eq!(part_to_wire(&Part::of(vec![Shards::all()])), ["0-1023/1"]);
        for wrong in ["x", "1-2", "1-2/0", "5/1-2"] {
            assert_eq!(part_from_wire(&[wrong.into()], 1), None, "{wrong}");
        }
        assert_eq!(part_from_wire(&[], 1), None);
        // Shards that do not exist are left out.
        let beyond = part_from_wire(&["1000-60000/1".into()], 1).unwrap();
        assert_eq!(beyond.stream(0).len(), 24);
    }
}
