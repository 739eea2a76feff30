//! `-lazy`: targets are read while the attack sends them.

use crate::vegeta::refused;
use anyhow::Context;
use plimsoll_engine::Feeder;
use plimsoll_plan::TargetStream;
use plimsoll_plan::target_file::{Format, RequestText, Requests};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::sync::{Arc, Mutex};

/// A stream of targets of which the first was read.
pub(super) struct Lazy {
    requests: Requests<Box<dyn BufRead + Send>>,
    pub(super) first: RequestText,
}

/// A thread that reads targets. Holds what ended it, unless the input ended.
pub(super) struct Reading(Arc<Mutex<Option<String>>>);

impl Lazy {
    /// Opens the file and reads the first target, which may take as long as its writer likes.
    pub(super) fn open(path: &OsStr, format: &str) -> anyhow::Result<Lazy> {
        let shown = path.display();
        let input: Box<dyn BufRead + Send> = if path == "stdin" {
            Box::new(BufReader::new(io::stdin()))
        } else {
            let opened = File::open(path);
            let refused = |error| refused(format!("error opening {shown}: {error}"), "");
            Box::new(BufReader::new(opened.map_err(refused)?))
        };
        let format = if format == "json" { Format::Json } else { Format::Http };
        let mut requests = Requests::new(input, format);
        let first = requests.next_request().map_err(|error| refused(error.describe(&shown), ""))?;
        let none = || refused("no targets to attack", "each target begins with METHOD URL");
        Ok(Lazy { first: first.ok_or_else(none)?, requests })
    }

    /// Passes on the first target and reads the others, on a thread of its own, until the run ends.
    pub(super) fn read(self, stream: TargetStream, feeder: Feeder) -> anyhow::Result<Reading> {
        let Lazy { mut requests, first } = self;
        let failure = Arc::new(Mutex::new(None));
        let failed = failure.clone();
        let read = move || {
            let mut next = Some(first);
            while let Some(text) = next.take() {
                let sent = stream.read(&text).map(|spec| feeder.send(spec));
                let more = sent.and_then(|is_running| {
                    let more = if is_running { requests.next_request() } else { Ok(None) };
                    more.map_err(|error| stream.problem(&error))
                });
                match more {
                    Ok(text) => next = text,
                    // Before the feeder is dropped, which ends the run.
                    Err(problem) => *failed.lock().expect("no holder panics") = Some(problem),
                }
            }
        };
        std::thread::Builder::new()
            .name("targets".into())
            .spawn(read)
            .context("cannot spawn the thread that reads targets")?;
        Ok(Reading(failure))
    }
}

impl Reading {
    /// Why reading ended before the input did. Does not wait for a thread that still waits for input.
    pub(super) fn failure(&self) -> Option<String> {
        self.0.lock().expect("no holder panics").take()
    }
}
