//! JUnit XML, as Jenkins, GitLab and others read it: one test suite with a case for the verdict, for the
//! end of the run, and for each objective.
//!
//! Names and messages come from files and peers. XML 1.0 cannot contain most control characters, not even
//! escaped; they are dropped.

use crate::objectives::{Judged, Unjudged};
use crate::summary::Summary;
use plimsoll_measure::{FindingId, Listed, Nanos, Severity};
use plimsoll_plan::Objective;
use std::fmt::Write as _;

/// How a case ended.
enum Outcome {
    Passed,
    /// Type, message and text of a failure.
    Failed(&'static str, String, String),
    Skipped(String),
}

struct Case {
    name: String,
    time: Nanos,
    outcome: Outcome,
}

impl Summary {
    /// The report as a JUnit XML document.
    pub fn to_junit(&self) -> String {
        let mut cases = vec![self.verdict_case(), self.end_case()];
        cases.extend(self.objectives.iter().map(objective_case));
        cases.extend(self.unjudged.iter().map(unjudged_case));
        let count = |of: fn(&Outcome) -> bool| cases.iter().filter(|own| of(&own.outcome)).count();
        let failures = count(|own| matches!(own, Outcome::Failed(..)));
        let skipped = count(|own| matches!(own, Outcome::Skipped(_)));
        let (name, tests) = (attribute(&self.name), cases.len());
        let time = seconds(self.facts.duration);
        let started = self.facts.started_at.rfc3339();
        let started = started.get(..19).unwrap_or_default();
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <testsuites name=\"plimsoll\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" \
             time=\"{time}\">\n  \
             <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" \
             skipped=\"{skipped}\" time=\"{time}\" timestamp=\"{started}\">\n",
        );
        xml += "    <properties>\n";
        for (name, value) in self.properties() {
            let value = attribute(&value);
            let _ = writeln!(xml, "      <property name=\"{name}\" value=\"{value}\"/>");
        }
        xml += "    </properties>\n";
        cases.iter().for_each(|case| write_case(&mut xml, &name, case));
        let report = content(&self.to_text(None, usize::MAX, false));
        let _ =
            write!(xml, "    <system-out>{report}</system-out>\n  </testsuite>\n</testsuites>\n");
        xml
    }

    fn properties(&self) -> Vec<(&'static str, String)> {
        let limited_by = self.verdict.limited_by.map_or("none", |side| side.name());
        let mut properties = vec![("load", self.load.clone()), ("limited_by", limited_by.into())];
        match &self.merged {
            None => properties.push(("seed", self.seed.to_string())),
            Some(merged) => {
                let labels: Vec<&str> = merged.runs.iter().map(|run| run.label.as_str()).collect();
                properties.push(("runs", labels.join(", ")));
            }
        }
        if !self.narrow.is_whole() {
            properties.push(("narrowed_to", self.narrow.words().join(", ")));
            properties.push(("verdict_covers", self.verdict_covers().into()));
        }
        properties
    }

    /// Fails if the run is invalid, or if no request was answered as expected.
    fn verdict_case(&self) -> Case {
        let fails = |severity, id| severity == Severity::Invalid || id == FindingId::NothingOk;
        let findings = self.verdict.findings.iter();
        let failing: Vec<_> = findings.filter(|own| fails(own.severity, own.id)).collect();
        let text: Vec<String> = failing
            .iter()
            .map(|own| format!("{}: {}\nfix: {}", own.id, own.evidence, own.fix))
            .collect();
        let outcome = match failing.first() {
            None => Outcome::Passed,
            Some(first) => {
                let kind = if self.verdict.valid { "nothing_ok" } else { "invalid" };
                Outcome::Failed(
                    kind,
                    format!("{}: {}", first.id, first.evidence),
                    text.join("\n\n"),
                )
            }
        };
        Case { name: "verdict: the run is valid".into(), time: self.facts.duration, outcome }
    }

    fn end_case(&self) -> Case {
        let cut_short = self.verdict.findings.iter().find(|own| own.id == FindingId::CutShort);
        let outcome = match (cut_short, self.facts.cut_short) {
            (_, false) => Outcome::Passed,
            (None, true) => {
                let message = format!("the run was stopped early{}", self.facts.by());
                Outcome::Failed("cut_short", message.clone(), message)
            }
            (Some(finding), true) => {
                let text = format!("{}\nfix: {}", finding.evidence, finding.fix);
                Outcome::Failed("cut_short", finding.evidence.clone(), text)
            }
        };
        Case { name: "the run lasted until its end".into(), time: Nanos::ZERO, outcome }
    }
}

fn objective_name(objective: &Objective) -> String {
    let narrowed = objective.narrowed.iter().map(|(tag, value)| format!("{tag} = {value}"));
    let narrowed: Vec<String> = narrowed.collect();
    match narrowed.as_slice() {
        [] => objective.that.clone(),
        narrowed => format!("{} where {}", objective.that, narrowed.join(" and ")),
    }
}

fn objective_case(judged: &Judged) -> Case {
    let run = judged.run.as_ref().map(|run| format!("{run}: ")).unwrap_or_default();
    let name = format!("{run}{}", objective_name(&judged.objective));
    let outcome = if judged.ok {
        Outcome::Passed
    } else {
        let value = judged.shown();
        Outcome::Failed("objective", format!("missed: {value}"), format!("{name}: {value}"))
    };
    Case { name, time: Nanos::ZERO, outcome }
}

fn unjudged_case(Unjudged { objective, why }: &Unjudged) -> Case {
    let outcome = Outcome::Skipped(format!("not judged on this part of the run: {why}"));
    Case { name: objective_name(objective), time: Nanos::ZERO, outcome }
}

fn write_case(xml: &mut String, class: &str, case: &Case) {
    let (name, time) = (attribute(&case.name), seconds(case.time));
    let _ = write!(xml, "    <testcase classname=\"{class}\" name=\"{name}\" time=\"{time}\"");
    *xml += &match &case.outcome {
        Outcome::Passed => "/>\n".into(),
        Outcome::Failed(kind, message, text) => format!(
            ">\n      <failure type=\"{kind}\" message=\"{}\">{}</failure>\n    </testcase>\n",
            attribute(message),
            content(text),
        ),
        Outcome::Skipped(message) => {
            format!(">\n      <skipped message=\"{}\"/>\n    </testcase>\n", attribute(message))
        }
    };
}

fn seconds(time: Nanos) -> String {
    format!("{:.3}", time.as_secs_f64())
}

/// Text without characters that XML 1.0 forbids or discourages, and without its markup.
fn content(text: &str) -> String {
    let mut xml = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => xml += "&amp;",
            '<' => xml += "&lt;",
            '>' => xml += "&gt;",
            '\n' | '\t' => xml.push(c),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() => {}
            // Characters that reorder text would mislead anyone who reads the file.
            c if crate::text::is_unsafe(c) => xml += &format!("&#{};", u32::from(c)),
            c => xml.push(c),
        }
    }
    xml
}

/// [`content`] for an attribute in double quotes, in which line ends are escaped.
fn attribute(text: &str) -> String {
    content(text).replace('"', "&quot;").replace('\n', "&#10;").replace('\t', "&#9;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Recording, plan};
    use plimsoll_measure::ErrorClass;

    #[test]
    fn any_text_is_well_formed() {
        let check = |text: &str, escaped: &str| assert_eq!(attribute(text), escaped);
        check("a < b & c > d", "a &lt; b &amp; c &gt; d");
        check("\"]]>", "&quot;]]&gt;");
        check(
            "bell \u{7} esc \u{1b}[31m nul \0 del \u{7f} c1 \u{9b}",
            "bell  esc [31m nul  del  c1 ",
        );
        check("two\r\nlines\t", "two&#10;lines&#9;");
        check("\u{fffe}é日😀\u{ffff}", "é日😀");
        assert_eq!(content("a\n\"b\""), "a\n\"b\"");
    }

    #[test]
    fn verdict_end_and_objectives_are_cases() {
        let plan = plan(
            "rate = \"10/s\"\nduration = \"1s\"\n\
             [[target]]\nname = \"a\"\nrequest = \"GET http://a/\"\n\
             [[objective]]\nthat = \"success >= 50%\"\n\
             [[objective]]\nthat = \"latency.max < 1ms\"\nwhere = { target = \"a\" }\n",
        );
        let mut recording = Recording::new(&plan);
        recording.second(|filled| {
            filled.ok(0, 5, Nanos::from_millis(2));
            filled.failed(0, 5, ErrorClass::Reset, Nanos::from_millis(1));
        });
        let xml = recording.summary().to_junit();
        let counts = "tests=\"4\" failures=\"1\" errors=\"0\" skipped=\"0\" time=\"1.000\"";
        assert!(xml.contains(counts), "{xml}");
        assert!(xml.contains("name=\"verdict: the run is valid\" time=\"1.000\"/>"), "{xml}");
        assert!(xml.contains("name=\"success &gt;= 50%\" time=\"0.000\"/>"), "{xml}");
        let missed = "name=\"latency.max &lt; 1ms where target = a\" time=\"0.000\">\n      \
                      <failure type=\"objective\" message=\"missed: 2ms\">";
        assert!(xml.contains(missed), "{xml}");

        recording.facts.cut_short = true;
        recording.facts.stopped_by = Some("Ctrl-C".into());
        recording.seconds.clear();
        recording.second(|filled| filled.failed(0, 10, ErrorClass::Late, Nanos::from_millis(1)));
        let xml = recording.summary().to_junit();
        assert!(xml.contains("failures=\"4\""), "{xml}");
        assert!(xml.contains("<failure type=\"cut_short\" message=\"the run was stopped"), "{xml}");
    }
}
