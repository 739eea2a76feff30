//! The plan of a script, as a plan file.

use plimsoll_plan::{Document, Plan, Variables};
use std::path::Path;
use std::sync::Arc;

/// A plan under construction.
pub(super) struct Draft {
    pub(super) load: String,
    pub(super) timeout_ms: u64,
    pub(super) connections: String,
    pub(super) rest: String,
    /// Lines of each target.
    pub(super) target: String,
    pub(super) targets: Vec<(String, usize)>,
    /// If set, the plan has two streams of this rate and duration, each with its own target.
    pub(super) streams: Option<(u64, u64)>,
    /// Instead of all but the seed and the timeout.
    pub(super) raw: Option<String>,
}

impl Draft {
    /// Parses the plan.
    pub(super) fn read(&self, seed: u64) -> Arc<Plan> {
        if let Some(raw) = &self.raw {
            let timeout = self.timeout_ms;
            return Draft::parse(format!(
                "seed = {seed}\ntimeout = \"{timeout}ms\"\ngrace = \"60s\"\n{raw}"
            ));
        }
        let load = if self.streams.is_some() { "" } else { &self.load };
        let mut text = format!(
            "seed = {seed}\n{load}timeout = \"{}ms\"\ngrace = \"60s\"\nconnections = {{ {} }}\n{}",
            self.timeout_ms, self.connections, self.rest
        );
        for stream in self.streams.iter().flat_map(|streams| [*streams; 2]).enumerate() {
            let (place, (rate, secs)) = stream;
            text += &format!(
                "[[stream]]\nrate = \"{rate}/s\"\nduration = \"{secs}s\"\n\
                 [[stream.target]]\nname = \"t{place}\"\nrequest = \"POST http://10.0.0.1/t{place}/{{{{seq}}}}\"\n\
                 body = '{{\"jsonrpc\":\"2.0\",\"method\":\"eth_chainId\",\"params\":[],\"id\":{{{{seq}}}}}}'\n"
            );
        }
        if self.streams.is_some() {
            return Draft::parse(text);
        }
        for (place, (url, extra)) in self.targets.iter().enumerate() {
            text += &format!(
                "[[target]]\nname = \"t{place}\"\nrequest = \"POST {url}/t{place}/{{{{seq}}}}\"\n\
                 body = '{{\"jsonrpc\":\"2.0\",\"method\":\"eth_getBalance\",\"params\":[\"{}\"],\"id\":{{{{seq}}}}}}'\n{}",
                "x".repeat(*extra),
                self.target
            );
        }
        Draft::parse(text)
    }

    fn parse(text: String) -> Arc<Plan> {
        let document = Document::new("plan.toml", text.clone());
        match Plan::read(&document, &Variables::default(), Path::new(".")) {
            Ok(plan) => Arc::new(plan),
            Err(problems) => panic!("{problems}\n{text}"),
        }
    }
}
