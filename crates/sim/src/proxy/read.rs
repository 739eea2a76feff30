//! Reads the faults of a proxy from TOML.

use plimsoll_config::{Document, Problems, Table, Variables, values};
use plimsoll_measure::Nanos;

use super::{LinkFault, LinkFaultKind};
use crate::faults::FAULTS_MAX;
use crate::faults::read::read_window;

const KINDS: &[&str] = &[
    "delay",
    "bandwidth",
    "reset",
    "truncate",
    "silence",
    "drip",
    "refuse",
    "black_hole",
    "limit",
];

/// Reads a file of `[[fault]]` tables.
///
/// # Errors
/// Returns all errors, with line and column.
pub fn from_toml(file: &str, text: &str) -> Result<Vec<LinkFault>, Problems> {
    Document::new(file, text).read(&Variables::from_environment(), |table| {
        let tables = table.field("fault").map(|f| f.tables("[[fault]]")).unwrap_or_default();
        if tables.len() > FAULTS_MAX {
            table.problem(format!("more than {FAULTS_MAX} faults"), "");
        }
        // Reads every table before failing, so that all errors are reported at once.
        let faults: Vec<_> = tables.iter().map(read_fault).collect();
        faults.into_iter().collect()
    })
}

fn read_fault(table: &Table<'_>) -> Option<LinkFault> {
    let kind = read_kind(table);
    let window = read_window(table);
    let share = table.field("share").map(|field| field.parse(values::share));
    table.close();
    Some(LinkFault { kind: kind?, window: window?, share: share.unwrap_or(Some(1.0))? })
}

fn read_kind(table: &Table<'_>) -> Option<LinkFaultKind> {
    let Some(field) = table.field("kind") else {
        table.problem("a fault without \"kind\"", &format!("one of {}", KINDS.join(", ")));
        return None;
    };
    let words: Vec<_> = KINDS.iter().map(|kind| (*kind, *kind)).collect();
    let span = |key, default: Nanos| match table.field(key) {
        Some(field) => field.duration().map(Nanos::from),
        None => Some(default),
    };
    let size = |key, default| match table.field(key) {
        Some(field) => field.size(),
        None => Some(default),
    };
    Some(match field.one_of(&words)? {
        "delay" => {
            let (by, jitter) = (span("by", Nanos::from_millis(100)), span("jitter", Nanos::ZERO));
            LinkFaultKind::Delay { by: by?, jitter: jitter? }
        }
        // Bytes per second: "1MiB" is 1 MiB/s.
        "bandwidth" => LinkFaultKind::Bandwidth { rate: size("rate", 1 << 20)?.max(1) },
        "reset" => LinkFaultKind::Reset { after: size("after", 0)? },
        "truncate" => LinkFaultKind::Truncate { after: size("after", 0)? },
        "silence" => LinkFaultKind::Silence { after: size("after", 0)? },
        "drip" => {
            let (bytes, pause) = (size("bytes", 16), span("pause", Nanos::from_millis(50)));
            LinkFaultKind::Drip { bytes: bytes?.max(1) as usize, pause: pause? }
        }
        "refuse" => LinkFaultKind::Refuse,
        "black_hole" => LinkFaultKind::BlackHole,
        _ => LinkFaultKind::Limit {
            connections: match table.field("connections") {
                Some(field) => field.integer(0, 1 << 32)?,
                None => 100,
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read() {
        for kind in KINDS {
            let text = format!("[[fault]]\nkind = \"{kind}\"\nat = \"1s\"\nshare = \"50%\"\n");
            let faults = from_toml("link.toml", &text).expect(kind);
            assert_eq!((faults[0].window.at, faults[0].share), (Nanos::from_secs(1), 0.5));
        }
        let text = "[[fault]]\nkind = \"delay\"\nby = \"20ms\"\njitter = \"5ms\"\n";
        let delay =
            LinkFaultKind::Delay { by: Nanos::from_millis(20), jitter: Nanos::from_millis(5) };
        assert_eq!(from_toml("link.toml", text), Ok(vec![LinkFault::new(delay)]));
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let text = "[[fault]]\nkind = \"delya\"\n\n[[fault]]\nkind = \"reset\"\nbefore = 3\n";
        let problems = from_toml("link.toml", text).expect_err("two problems").to_string();
        assert!(
            problems.contains("link.toml:2:8") && problems.contains("link.toml:6:1"),
            "{problems}"
        );
    }
}
