//! The followed logs of a run: how many lines matched each pattern, and when.
//!
//! Of each pattern three examples are kept, whatever is logged: of the first second in which lines matched,
//! of the second with most of them, and of the last.

use crate::seconds::Seconds;
use plimsoll_measure::{Followed, Snapshot};
use plimsoll_plan::{Log, Plan};

/// Lines of a second that match a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The second.
    pub seconds: Seconds,
    /// How many lines matched.
    pub lines: u64,
    /// One of them, without secrets.
    pub text: String,
}

/// Lines that match a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatternLines {
    /// The pattern.
    pub pattern: String,
    /// How many lines matched.
    pub lines: u64,
    /// Of the first second with such lines.
    pub first: Option<Example>,
    /// Of the second with most of them.
    pub busiest: Option<Example>,
    /// Of the last second with such lines.
    pub last: Option<Example>,
}

impl PatternLines {
    fn add(&mut self, example: Example) {
        self.lines += example.lines;
        let is_most = self.busiest.as_ref().is_none_or(|own| own.lines < example.lines);
        if self.first.is_none() {
            self.first = Some(example.clone());
        }
        if is_most {
            self.busiest = Some(example.clone());
        }
        self.last = Some(example);
    }

    /// The examples in their order, each once.
    pub fn examples(&self) -> Vec<&Example> {
        let mut all: Vec<&Example> = Vec::new();
        for example in [&self.first, &self.busiest, &self.last].into_iter().flatten() {
            if !all.contains(&example) {
                all.push(example);
            }
        }
        all
    }
}

/// A followed log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogLines {
    /// Its name in the plan.
    pub name: String,
    /// Its file or command, without secrets.
    pub source: String,
    /// Lines and bytes read, and what else happened. Its matches are in `patterns`.
    pub followed: Followed,
    /// By pattern, in the plan's order.
    pub patterns: Vec<PatternLines>,
}

/// All followed logs, in the plan's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// The logs.
    pub logs: Vec<LogLines>,
}

impl Logs {
    /// Nothing followed yet.
    pub(crate) fn new(plan: &Plan) -> Logs {
        let log = |log: &Log| LogLines {
            name: log.name.clone(),
            source: log.source.to_string(),
            followed: Followed::default(),
            patterns: log
                .patterns
                .iter()
                .map(|own| PatternLines { pattern: own.text.clone(), ..PatternLines::default() })
                .collect(),
        };
        Logs { logs: plan.logs.iter().map(log).collect() }
    }

    /// Adds the next second.
    pub(crate) fn add(&mut self, second: &Snapshot, seconds: Seconds) {
        for (own, next) in self.logs.iter_mut().zip(&second.logs) {
            for (pattern, matched) in own.patterns.iter_mut().zip(&next.matched) {
                if matched.lines > 0 {
                    let text = matched.example.clone().unwrap_or_default();
                    pattern.add(Example { seconds, lines: matched.lines, text });
                }
            }
            // Examples are above.
            own.followed.append(&Followed { matched: Vec::new(), ..next.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Recording, plan};

    #[test]
    fn examples_are_of_the_first_the_busiest_and_the_last_second() {
        let plan = plan(
            "rate = 1\nduration = \"5s\"\n[[target]]\nrequest = \"GET http://h/\"\n\
             [[log]]\nfile = \"/a\"\npatterns = [\"error\", \"never\"]\n",
        );
        let mut run = Recording::new(&plan);
        for lines in [0, 2, 7, 7, 1] {
            run.second(|second| {
                let text = format!("{lines} errors");
                let mut own = Followed { lines: 10, ..Followed::default() };
                (0..lines).for_each(|_| own.count(0, || text.clone()));
                second.snapshot.followed(0, &own);
            });
        }
        let summary = run.summary();
        let [log] = &summary.logs.logs[..] else { panic!("one") };
        assert_eq!(
            (log.name.as_str(), log.source.as_str(), log.followed.lines),
            ("log-1", "/a", 50)
        );
        let [errors, never] = &log.patterns[..] else { panic!("two") };
        let examples: Vec<_> = errors
            .examples()
            .iter()
            .map(|own| (own.seconds.from.0 / 1_000_000_000, own.lines))
            .collect();
        assert_eq!((errors.lines, examples), (17, vec![(1, 2), (2, 7), (4, 1)]));
        assert_eq!((never.lines, never.examples().len()), (0, 0));
        assert_eq!(
            summary.total.logs[0].matched[0].lines, 17,
            "the sum of the snapshots is the same"
        );
    }
}
