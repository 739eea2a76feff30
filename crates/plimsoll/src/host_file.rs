//! `host.json`, version `plimsoll/host/1`: facts about the host at the start of a run and at its end,
//! and the sources that could not be read. A fact that is unknown is `null`.

use plimsoll_host::{Facts, Source, TwReuse};
use serde_json::{Value, json};

/// The content of `host.json`.
pub(crate) struct HostFile {
    start: Value,
    /// Once the run has ended.
    end: Option<Value>,
    unread: Vec<String>,
}

impl HostFile {
    /// The facts at the start of a run; `unread` are the sources that its samples lack.
    pub(crate) fn at_start(source: &Source, unread: &[String]) -> HostFile {
        HostFile { start: facts(source), end: None, unread: unread.to_vec() }
    }

    /// Adds the facts at the end of the run.
    pub(crate) fn end(&mut self, source: &Source) {
        self.end = Some(facts(source));
    }

    /// The sources that could not be read, each with the reason.
    pub(crate) fn unread(&self) -> &[String] {
        &self.unread
    }

    /// As text of JSON.
    pub(crate) fn to_json(&self) -> String {
        let all = json!({
            "schema": "plimsoll/host/1",
            "start": self.start,
            "end": self.end,
            "unread": self.unread,
        });
        format!("{all:#}\n")
    }
}

fn facts(source: &Source) -> Value {
    let facts = Facts::read(source);
    let cgroup = &facts.cgroup;
    json!({
        "kernel": facts.kernel,
        "cpus": facts.cpus,
        "clock_source": facts.clock_source,
        "time_synchronised": facts.time_synchronised,
        "memory_available_bytes": facts.memory_available,
        "cgroup": {
            "cpus": cgroup.cpus,
            "memory_max_bytes": cgroup.memory_max,
            "memory_used_bytes": cgroup.memory_used,
            "throttled_periods": cgroup.throttled.periods,
            "throttled_ns": cgroup.throttled.time.0,
        },
        "ports": facts.ports.map(|ports| json!({
            "first": ports.first,
            "last": ports.last,
            "reserved": ports.reserved,
        })),
        "tcp_tw_reuse": facts.tw_reuse.map(|reuse| match reuse {
            TwReuse::Never => "never",
            TwReuse::Always => "always",
            TwReuse::Loopback => "loopback",
        }),
        "tcp_max_tw_buckets": facts.tw_max,
        "somaxconn": facts.somaxconn,
        "tcp_max_syn_backlog": facts.syn_backlog,
        "tcp_memory_pages": facts.tcp_pages.map(|(pressure, max)| json!({
            "pressure": pressure,
            "max": max,
        })),
        "sockets": facts.sockets.map(|sockets| json!({
            "in_use": sockets.in_use,
            "established": sockets.established,
            "time_wait": sockets.time_wait,
            "orphans": sockets.orphans,
            "pages": sockets.pages,
        })),
        "descriptors": facts.descriptors.map(|descriptors| json!({
            "open": descriptors.open,
            "soft": descriptors.soft,
            "hard": descriptors.hard,
        })),
        "conntrack": facts.conntrack.map(|(used, limit)| json!({ "used": used, "limit": limit })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_host_is_null() {
        let mut file = HostFile::at_start(&Source::at("/nowhere"), &["/proc/stat: gone".into()]);
        let read = |file: &HostFile| -> Value { serde_json::from_str(&file.to_json()).unwrap() };
        let start = read(&file);
        assert_eq!(
            (&start["start"]["kernel"], &start["start"]["ports"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(
            (&start["end"], &start["unread"][0]),
            (&Value::Null, &"/proc/stat: gone".into())
        );
        file.end(&Source::host());
        assert!(read(&file)["end"]["kernel"].as_str().is_some_and(|kernel| kernel.contains('.')));
    }
}
