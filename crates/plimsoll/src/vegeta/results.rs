//! The results that a command reads: from its files or stdin, merged; and what was wrong with them.

use super::interrupt::{InterruptibleStdin, Interrupts};
use super::refused;
use crate::tell;
use anyhow::{Context, anyhow};
use plimsoll_compat::vegeta::flags::Flags;
use plimsoll_compat::vegeta::{Fields, Hit, Merge, Problem, Reader};
use plimsoll_measure::units::{counted, grouped};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::process::ExitCode;

/// Inputs at most; each has a buffer of its own.
const INPUTS_MAX: usize = 512;

/// The results of a command's inputs.
pub(super) struct Results {
    merge: Merge<Box<dyn Read>>,
    interrupts: Interrupts,
}

/// The inputs that flags name: their arguments, or stdin without any.
pub(super) fn inputs(flags: &Flags) -> Vec<&OsStr> {
    if flags.arguments.is_empty() {
        return vec![OsStr::new("stdin")];
    }
    flags.arguments.iter().map(|name| name.as_os_str()).collect()
}

impl Results {
    /// Opens the inputs and reads the first result of each.
    pub(super) fn open(inputs: &[&OsStr], fields: Fields) -> anyhow::Result<Results> {
        if inputs.len() > INPUTS_MAX {
            return Err(refused(
                format!("{} files; at most {INPUTS_MAX} are read at once", inputs.len()),
                "concatenate them: cat results*.bin | vegeta report",
            ));
        }
        let from_stdin = inputs.contains(&OsStr::new("stdin"));
        let typed = from_stdin && std::io::stdin().is_terminal();
        if typed {
            tell(
                "reading results from the terminal; name files, or pipe results into this command \
                 (vegeta attack … | vegeta report); Ctrl-D ends the input",
            );
        }
        let interrupts = Interrupts::listen(from_stdin && !typed)?;
        let open = |name: &&OsStr| {
            let input: Box<dyn Read> = if *name == "stdin" {
                Box::new(InterruptibleStdin::new(&interrupts)?)
            } else {
                let file = File::open(name);
                Box::new(file.with_context(|| format!("cannot open {}", name.display()))?)
            };
            Ok((name.display().to_string(), Reader::new(input, fields)))
        };
        let readers = inputs.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Results { merge: Merge::new(readers), interrupts })
    }

    /// The next result; `None` after the last, or when Ctrl-C ended reading.
    pub(super) fn read(&mut self) -> Option<&Hit> {
        if self.interrupts.is_enough() {
            return None;
        }
        self.merge.read()
    }

    /// Whether the next `read` may wait for data.
    pub(super) fn may_wait(&self) -> bool {
        self.merge.may_wait()
    }

    /// The number of results read.
    pub(super) fn count(&self) -> u64 {
        self.merge.inputs().iter().map(|input| input.results).sum()
    }

    /// Fails if there is no result at all, as vegeta does.
    pub(super) fn require_any(&self) -> anyhow::Result<()> {
        if self.count() > 0 {
            return Ok(());
        }
        if self.interrupts.is_enough() {
            return Err(anyhow!("interrupted before the first result"));
        }
        let inputs = self.merge.inputs();
        match inputs.iter().find_map(|input| input.error.as_ref().map(|error| (&input.name, error)))
        {
            Some((name, error)) => Err(match &error.problem {
                Problem::Malformed(_) => refused(
                    error.in_input(name),
                    "expected results of vegeta in gob, JSON or CSV, as vegeta attack and encode write them",
                ),
                _ => anyhow!(error.in_input(name)),
            }),
            None => {
                let names: Vec<_> = inputs.iter().map(|input| input.name.as_str()).collect();
                Err(refused(
                    format!("{} no results", counted_names(&names)),
                    "pipe results into this command or name files with results: vegeta report results.bin",
                ))
            }
        }
    }

    /// Reports on stderr which inputs were not read to their ends, and returns the exit code: 1 if
    /// there are any.
    pub(super) fn finish(&self) -> ExitCode {
        let mut code = ExitCode::SUCCESS;
        for input in self.merge.inputs() {
            let name = &input.name;
            let what = match &input.error {
                Some(error) => format!(
                    "{}; the {} before it {} included, everything after it is missing",
                    error.in_input(name),
                    counted(input.results, "result"),
                    if input.results == 1 { "is" } else { "are" },
                ),
                None if input.results == 0 && !self.interrupts.is_enough() => {
                    format!("{name} holds no results")
                }
                None => continue,
            };
            tell(&format!("vegeta: {what}"));
            code = ExitCode::FAILURE;
        }
        if self.interrupts.is_enough() {
            tell(&format!("interrupted after {}", counted(self.count(), "result")));
        }
        code
    }
}

/// `a.bin holds`, or `a.bin and 3 others hold`.
fn counted_names(names: &[&str]) -> String {
    match names {
        [one] => format!("{one} holds"),
        [one, other] => format!("{one} and {other} hold"),
        [one, others @ ..] => format!("{one} and {} others hold", grouped(others.len() as u64)),
        [] => unreachable!("stdin is read without any"),
    }
}
