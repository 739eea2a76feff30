//! Reads faults from a TOML file, or from the JSON of the control endpoint, which has the same keys.

use plimsoll_config::{Document, Field, Problems, Table, Variables, values};
use plimsoll_measure::Nanos;
use plimsoll_rpc::json::{self, Kind};

use super::{FAULTS_MAX, Fault, FaultKind, Window};

/// The kinds that a file may contain.
const KINDS: &[&str] = &[
    "error",
    "status",
    "stall",
    "delay",
    "lag",
    "reorganise",
    "chain_id",
    "reset",
    "truncate",
    "slow",
    "refuse",
    "wrong_id",
    "garbage",
    "goaway",
    "refuse_stream",
    "enhance_your_calm",
    "close",
    "silence",
    "drop",
    "duplicate",
    "reorder",
];

/// Reads a file of `[[fault]]` tables.
///
/// # Errors
/// Returns all errors, with line and column.
pub fn from_toml(file: &str, text: &str) -> Result<Vec<Fault>, Problems> {
    read(file, text, &Variables::from_environment())
}

fn read(file: &str, text: &str, variables: &Variables) -> Result<Vec<Fault>, Problems> {
    Document::new(file, text).read(variables, |table| {
        let tables = table.field("fault").map(|f| f.tables("[[fault]]")).unwrap_or_default();
        if tables.len() > FAULTS_MAX {
            table.problem(format!("more than {FAULTS_MAX} faults"), "");
        }
        // Reads every table before failing, so that all errors are reported at once.
        let faults: Vec<_> = tables.iter().map(read_fault).collect();
        faults.into_iter().collect()
    })
}

/// Reads one fault, or an array of faults, from JSON.
///
/// # Errors
/// Returns all errors, one per line.
pub fn from_json(text: &[u8]) -> Result<Vec<Fault>, String> {
    json::validate(text).map_err(|syntax| format!("not JSON: {syntax}"))?;
    let list: Vec<&[u8]> = match json::kind(text) {
        Some(Kind::Array) => json::items(text).filter_map(Result::ok).collect(),
        Some(Kind::Object) => vec![text],
        _ => return Err("must be a fault object or an array of fault objects".into()),
    };
    let mut toml = String::new();
    for fault in list {
        if json::kind(fault) != Some(Kind::Object) {
            return Err("each fault must be an object".into());
        }
        toml.push_str("[[fault]]\n");
        for member in json::members(fault).filter_map(Result::ok) {
            toml.push_str(&format!("{} = ", quoted(&String::from_utf8_lossy(&member.plain()))));
            match json::kind(member.value) {
                Some(Kind::String) => {
                    toml.push_str(&quoted(&json::text(member.value).unwrap_or_default()));
                }
                Some(Kind::Number | Kind::Bool) => {
                    toml.push_str(&String::from_utf8_lossy(member.value));
                }
                _ => toml.push_str("{}"),
            }
            toml.push('\n');
        }
    }
    // Clients of the endpoint must not read the environment. Line numbers are omitted, because they
    // refer to the translation.
    read("", &toml, &Variables::none()).map_err(|problems| {
        let line = |problem: &plimsoll_config::Problem| match problem.hint.as_str() {
            "" => problem.message.clone(),
            hint => format!("{}; {hint}", problem.message),
        };
        problems.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

/// Quotes a text as a TOML basic string.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

fn read_fault(table: &Table<'_>) -> Option<Fault> {
    let kind = read_kind(table);
    let window = read_window(table);
    let share = table.field("share").map(|field| field.parse(values::share));
    let text = |key| table.field(key).map(|field| field.text().map(|text| text.value));
    let (service, method) = (text("service"), text("method"));
    table.close();
    let kind = kind?;
    if matches!(kind, FaultKind::Stall | FaultKind::Refuse) && window?.length.is_none() {
        table.problem(
            format!("a fault of kind \"{}\" needs \"for\"", kind.name()),
            "otherwise no request would ever be answered again; add for = \"5s\"",
        );
        return None;
    }
    Some(Fault {
        kind,
        window: window?,
        share: share.unwrap_or(Some(1.0))?,
        service: optional(service)?,
        method: optional(method)?,
    })
}

/// Keeps a missing value apart from an invalid one, whose error was already reported.
fn optional<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(Some(value)) => Some(Some(value)),
        Some(None) => None,
    }
}

fn read_kind(table: &Table<'_>) -> Option<FaultKind> {
    let Some(field) = table.field("kind") else {
        table.problem("a fault without \"kind\"", &format!("one of {}", KINDS.join(", ")));
        return None;
    };
    let words: Vec<_> = KINDS.iter().map(|kind| (*kind, *kind)).collect();
    let number = |key, default, least, most| match table.field(key) {
        Some(field) => field.integer(least, most),
        None => Some(default),
    };
    let span = |key, default: Nanos| match table.field(key) {
        Some(field) => field.duration().map(Nanos::from),
        None => Some(default),
    };
    let size = |key, default| match table.field(key) {
        Some(field) => field.size().map(|size| size as usize),
        None => Some(default),
    };
    Some(match field.one_of(&words)? {
        "error" => {
            let code = table.field("code").map_or(Some(-32000), |field| read_code(&field));
            let message = table.field("message").map(|field| field.text());
            let message = message.map_or(Some("simulated error".into()), |text| Some(text?.value));
            FaultKind::Error { code: code?, message: message? }
        }
        "status" => FaultKind::Status {
            status: number("status", 503, 400, 599)? as u16,
            retry_after: match table.field("retry_after") {
                None => None,
                Some(field) => Some(field.duration()?.as_secs()),
            },
        },
        "stall" => FaultKind::Stall,
        "delay" => FaultKind::Delay { by: span("by", Nanos::from_millis(100))? },
        "lag" => FaultKind::Lag { blocks: number("blocks", 10, 1, 1 << 40)? },
        "reorganise" => FaultKind::Reorganise { depth: number("depth", 3, 1, 1 << 40)? },
        "chain_id" => FaultKind::ChainId { id: number("id", 666, 0, 1 << 53)? },
        "reset" => FaultKind::Reset { after: size("after", 0)? },
        "truncate" => FaultKind::Truncate {
            after: match table.field("after") {
                None => None,
                Some(field) => Some(field.size()? as usize),
            },
        },
        "slow" => FaultKind::Slow {
            bytes: size("bytes", 16)?.max(1),
            every: span("pause", Nanos::from_millis(50))?,
        },
        "refuse" => FaultKind::Refuse,
        "wrong_id" => FaultKind::WrongId,
        "goaway" => FaultKind::Goaway { after: number("after", 1_000, 1, 1 << 40)? },
        "refuse_stream" => FaultKind::RefuseStream,
        "enhance_your_calm" => FaultKind::Calm,
        "close" => FaultKind::Close { code: read_close_code(table)? },
        "silence" => FaultKind::Silence,
        "drop" => FaultKind::Drop,
        "duplicate" => FaultKind::Duplicate,
        "reorder" => FaultKind::Reorder,
        _ => FaultKind::Garbage,
    })
}

/// The code of a close frame: one that an endpoint may send (RFC 6455 §7.4).
fn read_close_code(table: &Table<'_>) -> Option<u16> {
    let Some(field) = table.field("code") else { return Some(1011) };
    let code = field.integer(1000, 4999)? as u16;
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..) {
        field.problem(
            format!("{code} cannot be sent in a close frame"),
            "use 1000 to 1003, 1007 to 1014, or 3000 to 4999",
        );
        return None;
    }
    Some(code)
}

/// An error code: an integer, which may be negative.
fn read_code(field: &Field<'_>) -> Option<i64> {
    field.signed(-1 << 53, 1 << 53)
}

pub(crate) fn read_window(table: &Table<'_>) -> Option<Window> {
    let span = |key| table.field(key).map(|field| field.duration().map(Nanos::from));
    let (at, length, every) = (span("at"), span("for"), span("every"));
    let at = at.unwrap_or(Some(Nanos::ZERO))?;
    let (length, every) = (optional(length)?, optional(every)?);
    if let Some(every) = every {
        let length = length.unwrap_or(Nanos::MAX);
        if length >= every {
            table.problem(
                "\"every\" must be longer than \"for\"",
                "for = \"1s\", every = \"10s\" applies the fault for one second in ten",
            );
            return None;
        }
    }
    Some(Window { at, length, every })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let text = r#"
            [[fault]]
            kind = "stall"
            at = "20s"
            for = "1s"
            every = "10s"

            [[fault]]
            kind = "error"
            code = -32005
            message = "limit exceeded"
            share = "0.5%"
            service = "eth"
            method = "eth_call"
        "#;
        let faults = from_toml("faults.toml", text).expect("valid faults");
        let s = Nanos::from_secs;
        assert_eq!(faults[0].window, Window { at: s(20), length: Some(s(1)), every: Some(s(10)) });
        let error = FaultKind::Error { code: -32005, message: "limit exceeded".into() };
        let expected = Fault::new(error).for_share(0.005).for_service("eth").for_method("eth_call");
        assert_eq!(faults[1], expected);
    }

    #[test]
    fn every_kind_has_defaults() {
        for kind in KINDS {
            let text = format!("{{\"kind\":\"{kind}\",\"for\":\"1s\"}}");
            let faults = from_json(text.as_bytes()).expect(kind);
            assert_eq!(faults[0].kind.name(), *kind);
        }
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let text = "[[fault]]\nkind = \"stal\"\n\n[[fault]]\nkind = \"lag\"\nblock = 3\n\n[[fault]]\nkind = \"stall\"\n";
        let problems = from_toml("f.toml", text).expect_err("three problems").to_string();
        for part in
            ["f.toml:2:8", "did you mean \"stall\"", "f.toml:6:1", "\"blocks\"", "needs \"for\""]
        {
            assert!(problems.contains(part), "{part} in {problems}");
        }
        let problems = from_json(br#"[{"kind":"lag","blocks":0},{"kind":"delay","by":7}]"#);
        let problems = problems.expect_err("two problems");
        assert_eq!(problems.lines().count(), 2, "{problems}");
        assert!(from_json(b"[1]").is_err() && from_json(b"{").is_err() && from_json(b"3").is_err());
    }
}
