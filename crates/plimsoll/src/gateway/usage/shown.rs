//! Shows a report of usage: as a table for people, as CSV for programs.

use serde_json::Value;

/// A column of figures, after what is distinguished.
struct Figure {
    /// Its key in a document, and its heading in CSV.
    key: &'static str,
    heading: &'static str,
    /// Its place among the columns that a table leaves out if it is too wide, the first 0; `None`: a table
    /// always leaves it out.
    rank: Option<u8>,
}

const fn figure(key: &'static str, heading: &'static str, rank: Option<u8>) -> Figure {
    Figure { key, heading, rank }
}

/// All of them, as far as a document has them.
const FIGURES: [Figure; 15] = [
    figure("calls", "CALLS", Some(11)),
    figure("ok", "OK", None),
    figure("errors", "ERRORS", Some(4)),
    figure("failed", "FAILED", Some(6)),
    figure("cancelled", "CANCELLED", None),
    figure("hits", "HITS", Some(3)),
    figure("relays", "RELAYS", Some(5)),
    figure("hedges", "HEDGES", Some(0)),
    figure("bytes_in", "BYTES IN", Some(1)),
    figure("bytes_out", "BYTES OUT", Some(2)),
    figure("compute_units", "UNITS", Some(10)),
    figure("charge", "CHARGE", Some(12)),
    figure("network_upokt", "uPOKT", Some(7)),
    figure("network_cost", "NETWORK", Some(8)),
    figure("margin", "MARGIN", Some(9)),
];

/// The columns that a document distinguishes.
fn columns(answer: &Value) -> Vec<&str> {
    answer["by"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn rows(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["usage"].as_array().into_iter().flatten()
}

/// A value as text; empty if there is none.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The columns of a report as CSV.
pub(in crate::gateway) struct CsvForm {
    columns: Vec<String>,
    currency: Option<String>,
}

impl CsvForm {
    /// The columns that a document has.
    pub(in crate::gateway) fn of(answer: &Value) -> CsvForm {
        let figures = FIGURES.iter().map(|figure| figure.key);
        let figures = figures.filter(|key| answer["total"].get(key).is_some());
        CsvForm {
            columns: columns(answer).into_iter().chain(figures).map(String::from).collect(),
            currency: answer["currency"].as_str().map(String::from),
        }
    }

    /// The line of headings.
    pub(in crate::gateway) fn header(&self) -> String {
        let names = self.columns.iter().map(String::as_str);
        names.chain(self.currency.iter().map(|_| "currency")).collect::<Vec<_>>().join(",") + "\n"
    }

    /// The line of a row.
    pub(in crate::gateway) fn line(&self, row: &Value) -> String {
        let cells = self.columns.iter().map(|column| quoted(plain(&row[column.as_str()])));
        cells.chain(self.currency.clone()).collect::<Vec<_>>().join(",") + "\n"
    }
}

fn quoted(text: String) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

/// A document as CSV with a header.
pub(in crate::gateway) fn csv(answer: &Value) -> String {
    let form = CsvForm::of(answer);
    form.header() + &rows(answer).map(|row| form.line(row)).collect::<String>()
}

/// A column of a table.
struct Column {
    cells: Vec<String>,
    is_text: bool,
    /// As [`Figure::rank`]; `None`: it stays.
    rank: Option<u8>,
}

impl Column {
    fn width(&self) -> usize {
        self.cells.iter().map(|cell| cell.chars().count()).max().unwrap_or_default()
    }
}

/// A document as an aligned table of at most this width, with a line of totals if there are several
/// rows; and the headings of the columns that were left out because there was no room.
pub(in crate::gateway) fn table(answer: &Value, width: usize) -> (String, Vec<String>) {
    let mut columns = table_columns(answer);
    let mut left_out = Vec::new();
    let is_too_wide = |columns: &[Column]| {
        let widths: usize = columns.iter().map(Column::width).sum();
        widths + 2 * columns.len().saturating_sub(1) > width
    };
    while is_too_wide(&columns) {
        let ranked = columns.iter().enumerate().filter_map(|(at, one)| Some((one.rank?, at)));
        let Some((_, at)) = ranked.min() else { break };
        left_out.push(columns.remove(at).cells.swap_remove(0));
    }
    (aligned(&columns), left_out)
}

fn table_columns(answer: &Value) -> Vec<Column> {
    let lines: Vec<&Value> = rows(answer).collect();
    let total = (lines.len() > 1).then(|| &answer["total"]);
    let cell = |value: &Value| match plain(value) {
        text if text.is_empty() => String::from("–"),
        text => text,
    };
    let names = columns(answer).into_iter().enumerate().map(|(place, name)| {
        let total = total.map(|_| if place == 0 { "total".into() } else { String::new() });
        let cells = lines.iter().map(|row| cell(&row[name])).chain(total);
        let cells = std::iter::once(name.to_uppercase()).chain(cells).collect();
        Column { cells, is_text: true, rank: None }
    });
    let currency = answer["currency"].as_str().unwrap_or_default();
    let figures = FIGURES.iter().filter(|figure| answer["total"].get(figure.key).is_some());
    let figures = figures.filter(|figure| figure.rank.is_some()).map(|figure| {
        let heading = match figure.key {
            "charge" | "network_cost" | "margin" => format!("{} {currency}", figure.heading),
            _ => figure.heading.to_string(),
        };
        let cells = lines.iter().copied().chain(total).map(|row| cell(&row[figure.key]));
        let cells = std::iter::once(heading).chain(cells).collect();
        Column { cells, is_text: false, rank: figure.rank }
    });
    names.chain(figures).collect()
}

/// Aligned columns: text to the left, figures to the right.
fn aligned(columns: &[Column]) -> String {
    let lines = columns.first().map_or(0, |column| column.cells.len());
    let mut out = String::new();
    for line in 0..lines {
        let cells = columns.iter().map(|column| {
            let (cell, width) = (&column.cells[line], column.width());
            if column.is_text { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        out += cells.collect::<Vec<_>>().join("  ").trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    fn document() -> Value {
        report().page(1, usize::MAX)
    }

    #[test]
    fn tables_are_aligned_and_have_totals() {
        let expected = "\
ENDPOINT  SERVICE    CALLS  ERRORS  FAILED  HITS  RELAYS  HEDGES  BYTES IN  BYTES OUT     UNITS  CHARGE USD    uPOKT  NETWORK USD   MARGIN USD
–         eth            0       0       0     0       3       0         0          0         0        0.00    12600    0.0000882   -0.0000882
e,1       boba        1000       0       0     0      10       0         0          0     26000      0.0078     2940   0.00002058   0.00777942
e,1       eth      2000000       0       0     0     500       0         0          0  52000000       15.60  2100000       0.0147      15.5853
total              2001000       0       0     0     513       0         0          0  52026000     15.6078  2115540   0.01480878  15.59299122
";
        assert_eq!(table(&document(), usize::MAX), (expected.to_string(), Vec::new()));
    }

    #[test]
    fn csv_has_a_header_and_plain_numbers() {
        let expected = "\
endpoint,service,calls,ok,errors,failed,cancelled,hits,relays,hedges,bytes_in,bytes_out,compute_units,charge,network_upokt,network_cost,margin,currency
,eth,0,0,0,0,0,0,3,0,0,0,0,0.00,12600,0.0000882,-0.0000882,USD
\"e,1\",boba,1000,1000,0,0,0,0,10,0,0,0,26000,0.0078,2940,0.00002058,0.00777942,USD
\"e,1\",eth,2000000,2000000,0,0,0,0,500,0,0,0,52000000,15.60,2100000,0.0147,15.5853,USD
";
        assert_eq!(csv(&document()), expected);
    }

    #[test]
    fn tables_leave_out_what_does_not_fit() {
        let (table, left_out) = table(&document(), 80);
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        let expected =
            ["HEDGES", "BYTES IN", "BYTES OUT", "HITS", "ERRORS", "RELAYS", "FAILED", "uPOKT"];
        assert_eq!(left_out, expected);
        let head = "ENDPOINT  SERVICE    CALLS     UNITS  CHARGE USD  NETWORK USD";
        assert!(table.starts_with(head), "{table}");
        // What is distinguished always stays.
        assert!(super::table(&document(), 10).0.starts_with("ENDPOINT  SERVICE\n"));
    }
}
