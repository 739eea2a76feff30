//! CSV (RFC 4180): a row for all requests, and for each target, tag value, stream and stage.
//!
//! Names end in their unit; a cell without a value is empty. Each row says which run it is from, what the
//! report is narrowed to, and whether it is valid, so that rows of several files can be put together.
//! Names come from files. Spreadsheets run cells that begin like a formula, also behind characters that are
//! not visible, and some split rows at semicolons: an apostrophe precedes the formula. What would move a
//! cursor or reorder text is escaped (`\n`, `\u{202e}`), so that a row is a line.

use crate::figures::{TIME_STATS, TimeFigure, counts, rates};
use crate::summary::{Group, StreamGroup, Summary};
use plimsoll_measure::{ErrorClass, Histogram, Listed, Nanos};

/// Characters that begin a formula in Excel, LibreOffice or Google Sheets, also in their full-width forms.
const FORMULA: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];

/// A row's times that are not in its group.
#[derive(Default)]
struct Delays {
    lag: Option<Histogram>,
    wait: Option<Histogram>,
}

impl Summary {
    /// The figures as CSV with a line of names.
    pub fn to_csv(&self) -> String {
        let mut lines = vec![names()];
        let by_tag = self.tags.iter().flat_map(|(tag, groups)| {
            groups.iter().map(move |group| ("tag", tag.as_str(), group.name.clone(), group))
        });
        let targets = self.targets.iter().map(|(own, _)| ("target", "", own.name.clone(), own));
        let all = Delays { lag: self.lag(), wait: self.wait() };
        lines.push(self.row(("all", "", String::new(), &self.all), &all));
        lines.extend(targets.chain(by_tag).map(|of| self.row(of, &Delays::default())));
        let named = |stream: &StreamGroup| match &stream.stage {
            None => ("stream", stream.group.name.clone()),
            Some(stage) => ("stage", format!("{}:{}", stream.group.name, stage.number)),
        };
        lines.extend(self.streams.iter().chain(&self.stages).map(|stream| {
            let (kind, name) = named(stream);
            let known = |histogram: &Histogram| {
                let known = self.lag().is_some() || histogram.count() > 0;
                known.then(|| histogram.clone())
            };
            let delays = Delays { lag: known(&stream.lag), wait: known(&stream.wait) };
            self.row((kind, "", name, &stream.group), &delays)
        }));
        lines.concat()
    }

    fn row(
        &self,
        (kind, tag, name, group): (&str, &str, String, &Group),
        delays: &Delays,
    ) -> String {
        let stats = &group.stats;
        let limited_by = self.verdict.limited_by.map_or("none", |side| side.name());
        let runs = self.merged.as_ref().map_or(1, |merged| merged.runs.len());
        let mut cells = vec![
            text(&self.name),
            text(&self.facts.started_at.rfc3339()),
            runs.to_string(),
            text(&self.narrow.words().join("; ")),
            self.verdict.valid.to_string(),
            limited_by.into(),
            kind.into(),
            text(tag),
            text(&name),
        ];
        cells.extend(counts(&stats.requests).map(|(_, n)| n.to_string()));
        cells.extend(
            rates(group.rates())
                .map(|(_, rate)| rate.map_or(String::new(), |rate| format!("{rate:.3}"))),
        );
        for figure in TimeFigure::ALL {
            cells.extend(times(Some(figure.of(group))));
        }
        cells.extend([&delays.lag, &delays.wait].into_iter().flat_map(|own| times(own.as_ref())));
        cells.extend([stats.bytes_in, stats.bytes_out].map(|n| n.to_string()));
        cells.extend(ErrorClass::ALL.iter().map(|class| stats.errors.get(*class).to_string()));
        line(cells)
    }
}

/// The first line.
fn names() -> String {
    let fixed = [
        "plan",
        "started_at",
        "runs",
        "narrowed_to",
        "valid",
        "limited_by",
        "group",
        "tag",
        "name",
    ];
    let mut names: Vec<String> = fixed.map(String::from).into();
    names.extend(counts(&Default::default()).map(|(name, _)| name.to_string()));
    names.extend(rates(Default::default()).map(|(name, _)| format!("{name}_per_s")));
    let figures = TimeFigure::ALL.map(TimeFigure::name).into_iter().chain(["lag", "wait"]);
    for figure in figures {
        names.extend(TIME_STATS.iter().map(|stat| format!("{figure}_{}_ms", stat.name)));
        names.push(format!("{figure}_count"));
    }
    names.extend(["in_bytes", "out_bytes"].map(String::from));
    names.extend(ErrorClass::ALL.iter().map(|class| format!("errors_{}", class.name())));
    line(names)
}

/// The cells of a histogram; empty if it is not known.
fn times(histogram: Option<&Histogram>) -> Vec<String> {
    let Some(histogram) = histogram else { return vec![String::new(); TIME_STATS.len() + 1] };
    let figures = TIME_STATS.iter().map(|stat| (stat.of)(histogram).map_or(String::new(), millis));
    figures.chain([histogram.count().to_string()]).collect()
}

/// Milliseconds, exactly.
fn millis(time: Nanos) -> String {
    let (whole, rest) = (time.0 / 1_000_000, time.0 % 1_000_000);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = format!("{rest:06}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

fn line(cells: Vec<String>) -> String {
    cells.join(",") + "\r\n"
}

/// A cell of text.
fn text(value: &str) -> String {
    let value = crate::clean(value);
    let guarded = |part: &str| {
        let formula = part.trim_start_matches(is_skipped).starts_with(FORMULA);
        format!("{}{part}", if formula { "'" } else { "" })
    };
    let value = value.split(';').map(guarded).collect::<Vec<_>>().join(";");
    if value.contains([',', '"', ';']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value
    }
}

/// Whether a spreadsheet may skip a character in front of a formula: spaces, quotes, and what has no width.
fn is_skipped(c: char) -> bool {
    let invisible = matches!(c, '\u{AD}' | '\u{180E}' | '\u{200B}'..='\u{200D}' | '\u{2060}'..='\u{2064}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}');
    c.is_whitespace() || c == '"' || invisible
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Recording, plan};

    #[test]
    fn cells_are_quoted_and_never_formulas() {
        let check = |value: &str, cell: &str| assert_eq!(text(value), cell);
        check("", "");
        check("eth_call", "eth_call");
        check("a,b", "\"a,b\"");
        check("say \"hi\"", "\"say \"\"hi\"\"\"");
        check("two\r\nlines", "two\\r\\nlines");
        check("=1+1", "'=1+1");
        check("@SUM(A1)", "'@SUM(A1)");
        check("-2+3", "'-2+3");
        check(" =HYPERLINK(\"http://h/\")", "\"' =HYPERLINK(\"\"http://h/\"\")\"");
        check("\t=1", "\\t=1");
        check("\u{202E}=1\x1b[2J", "\\u{202e}=1\\u{1b}[2J");
        check(";=1", "\";'=1\"");
        check("a; =1;b", "\"a;' =1;b\"");
        for hidden in ['\u{A0}', '\u{200B}', '\u{FEFF}', '\u{AD}', '\u{2060}', '\u{3000}'] {
            check(&format!("{hidden}=1"), &format!("'{hidden}=1"));
        }
        check("＝1", "'＝1");
        check("a=b", "a=b"); // only the first character matters
    }

    #[test]
    fn milliseconds_are_exact() {
        let check = |ns: u64, text: &str| assert_eq!(millis(Nanos(ns)), text);
        check(0, "0");
        check(1, "0.000001");
        check(1_500_000, "1.5");
        check(2_000_000, "2");
        check(3_600_000_000_007, "3600000.000007");
    }

    #[test]
    fn each_group_has_a_row_with_every_figure() {
        let plan = plan(
            "[[stream]]\nname = \"s,1\"\nstages = [{ rate = \"9/s\", for = \"1s\" }]\n\
             [[stream.target]]\nname = \"=x\"\ntags = { chain = \"eth\" }\nrequest = \"GET http://a/\"\n\
             [[stream.target]]\nname = \"y\"\ntags = { chain = \"eth\" }\nrequest = \"GET http://a/\"\n",
        );
        let mut recording = Recording::new(&plan);
        recording.second(|filled| {
            filled.ok(0, 3, Nanos::from_millis(2));
            filled.failed(1, 1, ErrorClass::Reset, Nanos::from_millis(1));
        });
        let csv = recording.summary().to_csv();
        let mut lines = csv.split_terminator("\r\n");
        let names: Vec<&str> = lines.next().unwrap().split(',').collect();
        let rows: Vec<&str> = lines.collect();
        let cells = [
            ",all,,,4,4,0,3,1,",
            ",target,,'=x,3,3,0,3,0,",
            ",target,,y,1,1,0,0,1,",
            ",tag,chain,eth,4,4,0,3,1,",
            ",stream,,\"s,1\",4,4,0,3,1,",
            ",stage,,\"s,1:1\",4,4,0,3,1,",
        ];
        assert_eq!(rows.len(), cells.len());
        for (row, cells) in rows.iter().zip(cells) {
            assert!(row.contains(cells), "{row}\n{cells}");
        }
        let all: Vec<&str> = rows[0].split(',').collect();
        assert_eq!(all.len(), names.len());
        let cell = |name: &str| all[names.iter().position(|own| *own == name).unwrap()];
        assert_eq!((cell("errors_reset"), cell("latency_ok_count")), ("1", "3"));
        assert_eq!((cell("scheduled_per_s"), cell("valid")), ("4.000", "true"));
    }
}
