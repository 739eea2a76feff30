//! Which agent sends which shards: each stream is split evenly over the agents that have its labels.
//!
//! What a stream sends does not depend on the split: shards own arrivals, and placeholders, feeder rows and
//! weights derive from an arrival's number.

use plimsoll_plan::{Part, Plan, Shards, Stream};
use std::collections::BTreeMap;

/// An agent, as far as it matters for the split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentLabels {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Agents chosen for a plan, as indices of the candidates; or what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// These.
    Agents(Vec<usize>),
    /// Not enough agents fit.
    Missing {
        /// Agents that fit at least one stream.
        fitting: usize,
        /// Streams that no candidate fits, with their labels: `stream "x" (chain=boba)`.
        streams: Vec<String>,
    },
}

/// Chooses `count` agents of the candidates, so that each stream has one that fits: first, by name, one for
/// each stream that has none, then further ones that fit any stream.
pub fn choose(plan: &Plan, candidates: &[AgentLabels], count: usize) -> Choice {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| candidates[*a].name.cmp(&candidates[*b].name));
    order.retain(|i| plan.streams.iter().any(|stream| fits(stream, &candidates[*i].labels)));
    let mut chosen: Vec<usize> = Vec::new();
    let mut missing = Vec::new();
    for stream in &plan.streams {
        let fitting = |i: &&usize| fits(stream, &candidates[**i].labels);
        if chosen.iter().any(|i| fitting(&i)) {
            continue;
        }
        match order.iter().find(fitting) {
            Some(first) => chosen.push(*first),
            None => missing.push(described(stream)),
        }
    }
    for i in &order {
        if chosen.len() < count && !chosen.contains(i) {
            chosen.push(*i);
        }
    }
    if missing.is_empty() && chosen.len() == count {
        chosen.sort_by(|a, b| candidates[*a].name.cmp(&candidates[*b].name));
        return Choice::Agents(chosen);
    }
    if missing.is_empty() && chosen.len() > count {
        // The streams need more agents than were asked for.
        missing.push(format!(
            "{} different agents are needed for the labels of the plan's streams",
            chosen.len()
        ));
    }
    Choice::Missing { fitting: order.len(), streams: missing }
}

/// The part of each agent, in their order.
///
/// # Errors
/// Streams that no agent fits: `stream "x" (chain=boba)`.
pub fn parts(plan: &Plan, agents: &[AgentLabels]) -> Result<Vec<Part>, Vec<String>> {
    let all = vec![Shards::all(); plan.streams.len()];
    let labels: Vec<&BTreeMap<String, String>> = agents.iter().map(|agent| &agent.labels).collect();
    let parts = split(plan, &Part::of(all), &labels);
    let missing: Vec<String> = plan
        .streams
        .iter()
        .filter(|stream| !labels.iter().any(|labels| fits(stream, labels)))
        .map(described)
        .collect();
    if missing.is_empty() { Ok(parts) } else { Err(missing) }
}

/// Splits a part evenly over agents with these labels, stream by stream. Shards of a stream that none of them
/// fits are left out.
pub(crate) fn split(plan: &Plan, part: &Part, labels: &[&BTreeMap<String, String>]) -> Vec<Part> {
    let mut parts = vec![Vec::with_capacity(plan.streams.len()); labels.len()];
    for (place, stream) in plan.streams.iter().enumerate() {
        let fitting: Vec<bool> = labels.iter().map(|labels| fits(stream, labels)).collect();
        let count = fitting.iter().filter(|fits| **fits).count();
        let mut given = 0;
        for (own, fits) in parts.iter_mut().zip(fitting) {
            own.push(if fits {
                given += 1;
                part.stream(place).share(given - 1, count)
            } else {
                Shards::of([])
            });
        }
    }
    parts.into_iter().map(Part::of).collect()
}

fn fits(stream: &Stream, labels: &BTreeMap<String, String>) -> bool {
    stream.agents.iter().all(|(label, value)| labels.get(label) == Some(value))
}

fn described(stream: &Stream) -> String {
    let labels: Vec<String> =
        stream.agents.iter().map(|(label, value)| format!("{label}={value}")).collect();
    let labels = if labels.is_empty() { "any agent".into() } else { labels.join(", ") };
    format!("stream \"{}\" ({labels})", stream.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_plan::{Document, Variables};
    use std::path::Path;

    fn plan(streams: &[&str]) -> Plan {
        let stream = |(i, agents): (usize, &&str)| {
            let agents =
                if agents.is_empty() { String::new() } else { format!("agents = {agents}\n") };
            format!(
                "[[stream]]\nname = \"s{i}\"\nrate = 100\nduration = \"1s\"\n{agents}\
                 [[stream.target]]\nname = \"t{i}\"\nrequest = \"GET http://h/\"\n"
            )
        };
        let text: String = streams.iter().enumerate().map(stream).collect();
        let document = Document::new("plan.toml", text);
        Plan::read(&document, &Variables::none(), Path::new(".")).unwrap()
    }

    fn agents(all: &[(&str, &str)]) -> Vec<AgentLabels> {
        let one = |(name, chain): &(&str, &str)| AgentLabels {
            name: (*name).into(),
            labels: BTreeMap::from([("chain".into(), (*chain).into())]),
        };
        all.iter().map(one).collect()
    }

    const BOBA: &str = "{ chain = \"boba\" }";
    const KAVA: &str = "{ chain = \"kava\" }";

    #[test]
    fn each_stream_is_split_over_the_agents_that_fit() {
        let plan = plan(&[BOBA, "", KAVA]);
        let agents = agents(&[("a", "boba"), ("b", "kava"), ("c", "boba")]);
        let parts = parts(&plan, &agents).unwrap();
        let sizes = |agent: usize| -> Vec<usize> {
            parts[agent].streams().iter().map(Shards::len).collect()
        };
        assert_eq!(
            (sizes(0), sizes(1), sizes(2)),
            (vec![512, 342, 0], vec![0, 341, 1024], vec![512, 341, 0])
        );
        let union = parts.iter().fold(Part::nothing(3), |all, part| all.with(part));
        assert_eq!(union, Part::whole(&plan));
    }

    #[test]
    fn streams_without_an_agent_are_named_with_their_labels() {
        let plan = plan(&[BOBA, KAVA, ""]);
        let missing = parts(&plan, &agents(&[("a", "boba")])).unwrap_err();
        assert_eq!(missing, ["stream \"s1\" (chain=kava)"]);
    }

    #[test]
    fn agents_are_chosen_so_that_each_stream_has_one() {
        let check =
            |all: &[(&str, &str)], count: usize, expected: Result<&[&str], (usize, usize)>| {
                let candidates = agents(all);
                let chosen = choose(&plan(&[BOBA, KAVA]), &candidates, count);
                match (chosen, expected) {
                    (Choice::Agents(chosen), Ok(names)) => {
                        let chosen: Vec<&str> =
                            chosen.iter().map(|i| candidates[*i].name.as_str()).collect();
                        assert_eq!(chosen, names);
                    }
                    (Choice::Missing { fitting, streams }, Err(missing)) => {
                        assert_eq!((fitting, streams.len()), missing, "{streams:?}");
                    }
                    (chosen, expected) => panic!("{chosen:?}, not {expected:?}"),
                }
            };
        check(&[("a", "boba"), ("b", "boba"), ("c", "kava")], 2, Ok(&["a", "c"]));
        check(&[("c", "boba"), ("b", "boba"), ("a", "kava")], 3, Ok(&["a", "b", "c"]));
        // An agent that fits no stream does not count.
        check(&[("a", "boba"), ("b", "eth"), ("c", "kava")], 3, Err((2, 0)));
        check(&[("a", "boba"), ("b", "boba")], 2, Err((2, 1)));
        check(&[("a", "boba"), ("b", "kava")], 1, Err((2, 1)));
        check(&[], 1, Err((0, 2)));
    }
}
