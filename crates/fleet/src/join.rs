//! The seconds of all agents as the seconds of one run.
//!
//! All agents' clocks start at the same instant, to within the skew that the report shows, so the seconds with
//! the same number are joined as those of the workers of one process are. The sum is exact: each second of
//! each agent is added once, and arrivals of lost agents are added as unsent. An agent's host is not part of the
//! sum; the report has each agent's own.
//!
//! Of each agent, one line waits, and is decoded when its second is joined: memory does not depend on the length of the
//! run, and a line of four targets has 5 KB, its histograms some hundred.

use plimsoll_measure::wire::{ReadError, Reader};
use plimsoll_measure::{HostSample, Nanos, Snapshot};
use std::collections::BTreeMap;
use std::io::BufRead;

/// Passes each second of the run to `each`, in order. `unsent` are arrivals of lost agents by second, from 0;
/// `blank` is a snapshot of the plan without counts.
///
/// # Errors
/// The index of the agent whose lines cannot be read, and why.
pub fn join<R: BufRead>(
    agents: &mut [Reader<R>],
    unsent: &BTreeMap<u64, Snapshot>,
    blank: &Snapshot,
    mut each: impl FnMut(&Snapshot),
) -> Result<(), (usize, ReadError)> {
    let mut unsent = unsent.iter().peekable();
    for number in 0.. {
        let end = Nanos::from_secs(number + 1);
        let mut second = blank.blank();
        let mut is_last = true;
        for (place, reader) in agents.iter_mut().enumerate() {
            let follows = add_to(&mut second, reader, end).map_err(|error| (place, error))?;
            is_last &= !follows;
        }
        if let Some((_, lost)) = unsent.next_if(|(due, _)| **due == number) {
            join_agent(&mut second, lost);
        }
        is_last &= unsent.peek().is_none();
        if second.t == Nanos::ZERO {
            if is_last {
                break;
            }
            // All agents were silent, but the run goes on.
            second.t = end;
        }
        each(&second);
        if is_last {
            break;
        }
    }
    Ok(())
}

/// Adds what of an agent ended by `end`; returns whether more follows.
fn add_to<R: BufRead>(
    second: &mut Snapshot,
    reader: &mut Reader<R>,
    end: Nanos,
) -> Result<bool, ReadError> {
    let mut own: Option<Snapshot> = None;
    while let Some(next) = reader.next_second_by(end)? {
        match &mut own {
            None => own = Some(next),
            Some(own) => own.append(&next),
        }
    }
    own.iter().for_each(|own| join_agent(second, own));
    reader.has_second()
}

/// Adds an agent's counts of the same second.
pub fn join_agent(sum: &mut Snapshot, agent: &Snapshot) {
    let rates: Vec<f64> = sum
        .streams
        .iter()
        .zip(&agent.streams)
        .map(|(own, other)| own.planned_rate + other.planned_rate)
        .collect();
    sum.join(agent);
    // Each agent's rate is its part of the plan's, unlike that of a worker.
    sum.streams.iter_mut().zip(rates).for_each(|(stream, rate)| stream.planned_rate = rate);
    // CPU time adds up over hosts; limits and levels do not.
    let (cpu, user) = (sum.host.cpu, sum.host.user);
    sum.host = HostSample { cpu, user, ..HostSample::default() };
}
