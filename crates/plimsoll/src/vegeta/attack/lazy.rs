//! `-lazy`: targets are read while the attack sends them.

use crate::vegeta::refused;
use anyhow::Context;
use plimsoll_engine::Feeder;
use plimsoll_plan::TargetStream;
use plimsoll_plan::target_file::{Format, RequestText, Requests};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

/// A stream of targets of which the first was read.
pub(super) struct Lazy {
    requests: Requests<Box<dyn BufRead + Send>>,
    pub(super) first: RequestText,
}

/// A thread that reads targets.
pub(super) struct Reading {
    /// Holds what ended it, unless the input ended.
    failure: Arc<Mutex<Option<String>>>,
    done: Receiver<()>,
}

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
        let first = requests
            .next()
            .map_err(|error| refused(format!("cannot read {shown}: {error:?}"), ""))?;
        let none = || refused("no targets to attack", "each target begins with METHOD URL");
        Ok(Lazy { first: first.ok_or_else(none)?, requests })
    }

    /// Passes on the first target and reads the others, on a thread of its own, until the run ends.
    pub(super) fn read(self, stream: TargetStream, feeder: Feeder) -> anyhow::Result<Reading> {
        let Lazy { mut requests, first } = self;
        let failure = Arc::new(Mutex::new(None));
        let (is_done, done) = channel();
        let failed = failure.clone();
        let read = move || {
            let mut next = Some(first);
            while let Some(text) = next.take() {
                let read = stream.read(&text).map(|spec| feeder.send(spec));
                let more = read.and_then(|is_running| match is_running {
                    true => requests.next().map_err(|error| stream.problem(&error)),
                    false => Ok(None),
                });
                match more {
                    Ok(text) => next = text,
                    Err(problem) => *failed.lock().expect("no holder panics") = Some(problem),
                }
            }
            // Before the feeder is dropped, which ends the run.
            drop(is_done);
        };
        std::thread::Builder::new()
            .name("targets".into())
            .spawn(read)
            .context("cannot spawn the thread that reads targets")?;
        Ok(Reading { failure, done })
    }
}

impl Reading {
    /// Why reading ended before the input did. Does not wait for a thread that still waits for input.
    pub(super) fn failure(&self) -> Option<String> {
        let _ = self.done.try_recv();
        self.failure.lock().expect("no holder panics").take()
    }
}
