//! What is expected of a planted fault, whether a verdict is right, and the confusion matrix.

use plimsoll_measure::Nanos;
use serde_json::Value;
use std::fmt::Write;

/// What a run printed, or what its recording gives.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    /// `summary.json`; null if the run did not start.
    pub(crate) summary: Value,
    pub(crate) stderr: String,
    /// How it was obtained.
    pub(crate) from: String,
}

/// The verdict that a planted fault must get.
#[derive(Clone)]
pub(crate) struct Expected {
    valid: bool,
    /// The first finding is one of these; empty: there is none.
    primary: Vec<&'static str>,
    severity: &'static str,
    side: &'static str,
    /// Further findings that must be present.
    must: Vec<&'static str>,
    /// Further findings that may be present.
    may: Vec<&'static str>,
    /// A part of the primary finding's fix.
    fix: &'static str,
    code: i32,
    /// Whether the target is healthy: then no finding may have its side.
    healthy: bool,
    /// The median latency is at least this.
    latency_min: Nanos,
    /// Parts of the message if the run must be refused.
    refused: &'static [&'static str],
}

/// Findings that may follow any cause in the generator: late sending and reading, failures.
const EFFECTS: [&str; 3] = ["plan_not_held", "lag_high", "read_late"];
/// Findings about a busy machine. `cargo test` runs many tests at a time, so that these may come to
/// faults that do not depend on timing.
const BUSY: [&str; 5] = ["cpu_contended", "cpu_saturated", "lag_high", "read_late", "host_noise"];

impl Expected {
    fn new(valid: bool, primary: &'static str, severity: &'static str) -> Expected {
        Expected {
            valid,
            primary: vec![primary],
            severity,
            side: "generator",
            must: Vec::new(),
            may: vec!["host_noise"],
            fix: "",
            code: 0,
            healthy: true,
            latency_min: Nanos::ZERO,
            refused: &[],
        }
    }

    /// The generator spoiled the run.
    pub(crate) fn invalid(primary: &'static str) -> Expected {
        let mut expected = Expected { code: 98, ..Expected::new(false, primary, "invalid") };
        expected.may.extend(EFFECTS);
        expected
    }

    /// The run is valid; something went wrong at the target.
    pub(crate) fn target(primary: &'static str) -> Expected {
        let side = "target";
        Expected { side, healthy: false, ..Expected::new(true, primary, "warning") }
    }

    /// The run is valid; something went wrong between generator and target.
    pub(crate) fn network(primary: &'static str) -> Expected {
        Expected { side: "network", ..Expected::new(true, primary, "warning") }
    }

    /// The run is valid, and no finding blames anyone.
    pub(crate) fn clean() -> Expected {
        Expected { primary: Vec::new(), ..Expected::new(true, "", "") }
    }

    /// The run does not start; its message contains these words.
    pub(crate) fn refused(code: i32, words: &'static [&'static str]) -> Expected {
        Expected { code, refused: words, ..Expected::clean() }
    }

    /// The primary finding may be this one instead.
    pub(crate) fn or(mut self, primary: &'static str) -> Expected {
        self.primary.push(primary);
        self.may(&[primary])
    }

    pub(crate) fn must(mut self, ids: &[&'static str]) -> Expected {
        self.must.extend(ids);
        self
    }

    pub(crate) fn may(mut self, ids: &[&'static str]) -> Expected {
        self.may.extend(ids);
        self
    }

    pub(crate) fn fix(self, fix: &'static str) -> Expected {
        Expected { fix, ..self }
    }

    pub(crate) fn code(self, code: i32) -> Expected {
        Expected { code, ..self }
    }

    /// The target is not healthy either.
    pub(crate) fn sick(self) -> Expected {
        Expected { healthy: false, ..self }
    }

    pub(crate) fn latency_min(self, latency_min: Nanos) -> Expected {
        Expected { latency_min, ..self }
    }

    /// What is wrong with an outcome; empty if nothing is. `busy`: the machine is shared with other
    /// tests.
    pub(crate) fn wrong(&self, outcome: &Outcome, busy: bool) -> Vec<String> {
        if !self.refused.is_empty() {
            return self.not_refused(outcome);
        }
        if outcome.summary.is_null() {
            return vec![format!("exit {}: {}", outcome.code, outcome.stderr.trim())];
        }
        let findings = self.judged(outcome, busy);
        let disturbed = findings.len() < outcome.findings().len();
        let mut wrong = Vec::new();
        let mut check = |right: bool, what: String| {
            if !right {
                wrong.push(what);
            }
        };
        let valid = is_valid(&findings);
        check(valid == self.valid, format!("valid is {valid}"));
        let first = self.first(&findings);
        match first {
            None => check(self.primary.is_empty(), "no finding".into()),
            Some(first) => {
                check(self.primary.contains(&id(first)), format!("primary {}", id(first)));
                check(first["side"] == self.side, format!("side {}", first["side"]));
                check(first["severity"] == self.severity, format!("{}", first["severity"]));
                let fix = first["fix"].as_str().unwrap_or_default();
                check(fix.contains(self.fix), format!("fix \"{fix}\""));
            }
        }
        let has = |id_: &str| findings.iter().any(|finding| id(finding) == id_);
        self.must.iter().for_each(|must| check(has(must), format!("no {must}")));
        for finding in &findings {
            let named = self.names(id(finding)) || first.is_some_and(|first| first == *finding);
            check(named, format!("also {}", id(finding)));
            let blames = self.healthy && finding["side"] == "target";
            check(!blames, format!("{} blames a healthy target", id(finding)));
        }
        let code = outcome.code;
        check(code == self.code || disturbed && code == 98, format!("exit {code}"));
        let p50 = outcome.summary["latency"]["p50"].as_u64().unwrap_or(0);
        check(Nanos(p50) >= self.latency_min, format!("latency p50 {}", Nanos(p50)));
        wrong
    }

    /// The findings that count: without those that a busy machine adds.
    fn judged<'o>(&self, outcome: &'o Outcome, busy: bool) -> Vec<&'o Value> {
        let planted = |id: &str| self.primary.contains(&id) || self.must.contains(&id);
        let noise = |finding: &&Value| busy && !planted(id(finding)) && is_busy(finding);
        outcome.findings().iter().filter(|finding| !noise(finding)).collect()
    }

    /// The primary finding. The host's noise is passed over, unless it is what was planted.
    fn first<'o>(&self, findings: &[&'o Value]) -> Option<&'o Value> {
        let noise = |finding: &&&Value| {
            id(finding) == "host_noise" && !self.primary.contains(&"host_noise")
        };
        findings.iter().find(|finding| !noise(finding)).copied()
    }

    fn not_refused(&self, outcome: &Outcome) -> Vec<String> {
        let mut wrong = Vec::new();
        if !outcome.summary.is_null() {
            wrong.push("the run started".into());
        }
        if outcome.code != self.code {
            wrong.push(format!("exit {}", outcome.code));
        }
        let missing = self.refused.iter().filter(|words| !outcome.stderr.contains(**words));
        let said = outcome.stderr.trim();
        wrong.extend(missing.map(|words| format!("not \"{words}\" in \"{said}\"")));
        wrong
    }

    fn names(&self, id: &str) -> bool {
        [&self.primary, &self.must, &self.may].iter().any(|ids| ids.contains(&id))
    }

    /// Primary finding, side and validity, for the matrix.
    fn cells(&self) -> [String; 3] {
        if !self.refused.is_empty() {
            return REFUSED.map(String::from);
        }
        let some = !self.primary.is_empty();
        let or_none = |text: &str| if some { text.to_string() } else { "–".into() };
        [or_none(&self.primary.join(" or ")), or_none(self.side), yes(self.valid)]
    }

    /// The same of an outcome.
    fn cells_of(&self, outcome: &Outcome, busy: bool) -> [String; 3] {
        if outcome.summary.is_null() {
            return REFUSED.map(String::from);
        }
        let findings = self.judged(outcome, busy);
        let first = self.first(&findings);
        let of = |key: &str| first.map_or("–", |first| first[key].as_str().unwrap_or("?"));
        [of("id").into(), of("side").into(), yes(is_valid(&findings))]
    }
}

/// The cells of a run that did not start.
const REFUSED: [&str; 3] = ["refused", "–", "–"];

fn is_valid(findings: &[&Value]) -> bool {
    findings.iter().all(|finding| finding["severity"] != "invalid")
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

fn id(finding: &Value) -> &str {
    finding["id"].as_str().unwrap_or_default()
}

/// Whether a finding is due to a busy machine, or to arrivals that were late because of it.
fn is_busy(finding: &Value) -> bool {
    let late = |text: &str| text.ends_with(" late") || text.contains(" late, ");
    let evidence = finding["evidence"].as_str().unwrap_or_default();
    BUSY.contains(&id(finding)) || id(finding) == "plan_not_held" && late(evidence)
}

impl Outcome {
    pub(crate) fn findings(&self) -> &[Value] {
        self.summary["verdict"]["findings"].as_array().map_or(&[], Vec::as_slice)
    }
}

/// A row of the matrix: the outcomes of a planted fault's runs, or the reason why it was not planted.
pub(crate) struct Judged {
    pub(crate) name: &'static str,
    pub(crate) expected: Expected,
    pub(crate) outcomes: Result<Vec<Outcome>, String>,
    /// Whether other tests ran at the same time.
    pub(crate) busy: bool,
    /// What is wrong, by run.
    pub(crate) wrong: Vec<String>,
}

/// The confusion matrix as a table in Markdown.
pub(crate) fn matrix(rows: &[Judged]) -> String {
    let mut text = String::from(
        "| planted | expected | got | side | valid | from | |\n|---|---|---|---|---|---|---|\n",
    );
    let or_same = |expected: &str, got: &str| match expected == got {
        true => got.to_string(),
        false => format!("{got}, not {expected}"),
    };
    for row in rows {
        let [primary, side, valid] = row.expected.cells();
        let outcomes = match &row.outcomes {
            Err(why) => {
                _ = writeln!(text, "| {} | {primary} | – | – | – | – | skipped: {why} |", row.name);
                continue;
            }
            Ok(outcomes) => outcomes,
        };
        // Of several runs, the first that is wrong.
        let wrong =
            outcomes.iter().find(|outcome| !row.expected.wrong(outcome, row.busy).is_empty());
        let shown = wrong.or(outcomes.first()).expect("at least one run");
        let [got, got_side, got_valid] = row.expected.cells_of(shown, row.busy);
        let runs =
            if outcomes.len() > 1 { format!("{} runs, ", outcomes.len()) } else { String::new() };
        let judged = if row.wrong.is_empty() {
            "right".into()
        } else {
            // The cells of a table cannot contain these.
            format!("**wrong**: {}", row.wrong.join("; ").replace(['|', '\n'], " "))
        };
        _ = writeln!(
            text,
            "| {} | {primary} | {got} | {} | {} | {runs}{} | {judged} |",
            row.name,
            or_same(&side, &got_side),
            or_same(&valid, &got_valid),
            shown.from,
        );
    }
    let count = |is: &dyn Fn(&&Judged) -> bool| rows.iter().filter(is).count();
    let skipped = count(&|row| row.outcomes.is_err());
    let right = count(&|row| row.outcomes.is_ok() && row.wrong.is_empty());
    let blamed = count(&|row| row.wrong.iter().any(|wrong| wrong.contains("blames a healthy")));
    _ = writeln!(
        text,
        "\n{right} of {} rows are right, {skipped} were skipped, {blamed} blame a healthy target.",
        rows.len()
    );
    text
}
