//! Reports of usage: read from the database, priced, and shown.
//!
//! The form between reading and showing is the JSON document that the admin API serves, so that both
//! ways to ask lead to the same table.

use plimsoll_measure::WallClock;
use plimsoll_registry::model::Service;
use plimsoll_registry::settings::UsageSettings;
use plimsoll_registry::sources::{Editor, LoadError};
use plimsoll_registry::store::StoreError;
use plimsoll_registry::usage::money::{Amount, Currency, Price, of_upokt, upokt};
use plimsoll_registry::usage::{
    Counts, Filter, Group, Grouping, HOUR_NS, Period, Span, UsageQuery, fold, month_start,
    parse_moment, show_moment,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is distinguished by default.
const BY: &str = "endpoint,service";

/// A question as it is written.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::gateway) struct Asked<'a> {
    pub(in crate::gateway) from: Option<&'a str>,
    pub(in crate::gateway) to: Option<&'a str>,
    pub(in crate::gateway) by: Option<&'a str>,
    pub(in crate::gateway) service: Option<&'a str>,
    pub(in crate::gateway) endpoint: Option<&'a str>,
    pub(in crate::gateway) key: Option<&'a str>,
    pub(in crate::gateway) method: Option<&'a str>,
}

impl<'a> Asked<'a> {
    /// The question.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::gateway) fn query(&self) -> Result<UsageQuery, String> {
        let moment =
            |name: &str, text: &str| parse_moment(text).map_err(|why| format!("{name}: {why}"));
        let from = match self.from {
            Some(text) => moment("from", text)?,
            None => month_start(WallClock::now().unix_ns / HOUR_NS),
        };
        let to = self.to.map(|text| moment("to", text)).transpose()?.unwrap_or(1 << 40);
        if let (true, Some(end)) = (to <= from, self.to) {
            let from = show_moment(from, Period::Hour);
            return Err(format!("to: {end} is not after {from}, with which the time starts"));
        }
        let by = Grouping::parse(self.by.unwrap_or(BY)).map_err(|why| format!("by: {why}"))?;
        let owned = |text: Option<&str>| text.map(String::from);
        let filter = Filter {
            endpoint: owned(self.endpoint),
            key: owned(self.key),
            service: owned(self.service),
            method: owned(self.method),
        };
        Ok(UsageQuery { span: Span { from, to }, by, filter })
    }

    /// The question as parameters of the admin API.
    pub(in crate::gateway) fn parameters(&self) -> Vec<(&'static str, &'a str)> {
        let all = [
            ("from", self.from),
            ("to", self.to),
            ("by", self.by),
            ("service", self.service),
            ("endpoint", self.endpoint),
            ("key", self.key),
            ("method", self.method),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// Why there is no report.
#[derive(Debug)]
pub(in crate::gateway) enum ReportError {
    /// The configuration or the entries cannot be read.
    Load(LoadError),
    /// The database cannot be used.
    Store(StoreError),
    /// Prices are in several currencies.
    Currencies(String),
}

/// An answer, with prices.
pub(in crate::gateway) struct Report {
    query: UsageQuery,
    groups: Vec<Group>,
    prices: Prices,
}

impl Report {
    /// The answer to a question.
    ///
    /// # Errors
    /// Why there is none.
    pub(in crate::gateway) async fn of(
        editor: &mut Editor,
        query: &UsageQuery,
    ) -> Result<Report, ReportError> {
        let (config, definitions) = editor.load().await.map_err(ReportError::Load)?;
        let prices = Prices::of(&config.settings.usage, &definitions.services)?;
        let rows = editor.usage(query).await.map_err(ReportError::Store)?;
        Ok(Report { groups: fold(rows, query.by), query: query.clone(), prices })
    }

    /// The number of pages, at least one.
    pub(in crate::gateway) fn pages(&self, per_page: usize) -> usize {
        self.groups.len().div_ceil(per_page).max(1)
    }

    /// A page as a document; the first has the number 1.
    pub(in crate::gateway) fn page(&self, page: usize, per_page: usize) -> Value {
        let shown = self.groups.iter().skip((page - 1) * per_page).take(per_page);
        let shown: Vec<Value> = shown.map(|group| self.row(group)).collect();
        let mut services: BTreeMap<String, Counts> = BTreeMap::new();
        let mut total = Counts::default();
        for group in &self.groups {
            total.add(&group.counts);
            for (service, counts) in &group.services {
                services.entry(service.clone()).or_default().add(counts);
            }
        }
        let mut document = json!({
            "usage": shown,
            "total": self.figures(&total, &services),
            "from": show_moment(self.query.span.from, Period::Hour),
            "by": self.columns(),
            "page": page,
            "per_page": per_page,
            "pages": self.pages(per_page),
            "rows": self.groups.len(),
        });
        if self.query.span.to < 1 << 40 {
            document["to"] = show_moment(self.query.span.to, Period::Hour).into();
        }
        if let Some(currency) = self.prices.currency {
            document["currency"] = currency.to_string().into();
        }
        document
    }

    fn columns(&self) -> Vec<&'static str> {
        let by = self.query.by;
        let all = [
            ("time", by.period.is_some()),
            ("endpoint", by.endpoint),
            ("key", by.key),
            ("service", by.service),
            ("method", by.method),
        ];
        all.into_iter().filter(|(_, is_shown)| *is_shown).map(|(name, _)| name).collect()
    }

    fn row(&self, group: &Group) -> Value {
        let mut row = self.figures(&group.counts, &group.services);
        let subject = &group.subject;
        for column in self.columns() {
            row[column] = match column {
                "time" => {
                    let period = self.query.by.period.unwrap_or(Period::Hour);
                    show_moment(group.start.unwrap_or_default(), period).into()
                }
                "endpoint" => subject.endpoint.as_str().into(),
                "key" => subject.key.as_str().into(),
                "service" => subject.service.as_str().into(),
                _ => subject.method.as_str().into(),
            };
        }
        row
    }

    fn figures(&self, counts: &Counts, services: &BTreeMap<String, Counts>) -> Value {
        let mut row = json!({ "cancelled": counts.cancelled() });
        for (name, figure) in Counts::NAMES.into_iter().zip(counts.values()) {
            row[name] = figure.into();
        }
        let amount = |amount: Option<Amount>| amount.map(|amount| amount.to_string());
        let (charge, upokt) = (self.prices.charge(services), self.prices.upokt(services));
        if self.prices.has_price {
            row["charge"] = amount(charge).into();
        }
        if self.prices.has_network {
            row["network_upokt"] = upokt.into();
        }
        if let Some(price) = &self.prices.settings.network.pokt {
            let cost = upokt.map(|upokt| of_upokt(price, upokt));
            row["network_cost"] = amount(cost).into();
            if self.prices.has_price {
                let margin = charge.zip(cost).map(|(charge, cost)| charge.minus(cost));
                row["margin"] = amount(margin).into();
            }
        }
        row
    }
}

/// What services cost.
struct Prices {
    settings: UsageSettings,
    /// Price and CUPR of services that have their own.
    services: BTreeMap<String, (Option<Price>, Option<u64>)>,
    has_price: bool,
    has_network: bool,
    currency: Option<Currency>,
}

impl Prices {
    fn of(settings: &UsageSettings, services: &[Service]) -> Result<Prices, ReportError> {
        let own = services.iter().filter_map(|service| service.price.as_ref());
        let prices = own.chain(&settings.price).map(|price| price.money.currency);
        let pokt = settings.network.pokt.as_ref().map(|money| money.currency);
        let mut currencies: Vec<Currency> = prices.clone().chain(pokt).collect();
        currencies.sort();
        currencies.dedup();
        if let [one, other, ..] = currencies[..] {
            let why = format!("prices are in {one} and in {other}, and cannot be added");
            return Err(ReportError::Currencies(why));
        }
        let has_cupr = services.iter().any(|service| service.cupr.is_some());
        Ok(Prices {
            has_price: prices.count() > 0,
            has_network: settings.network.cuttm.is_some()
                && (settings.network.cupr.is_some() || has_cupr),
            currency: currencies.first().copied(),
            services: services
                .iter()
                .map(|service| (service.id.clone(), (service.price.clone(), service.cupr)))
                .collect(),
            settings: settings.clone(),
        })
    }

    /// What customers pay; `None` if a service has no price.
    fn charge(&self, services: &BTreeMap<String, Counts>) -> Option<Amount> {
        let used = services.iter().filter(|(_, counts)| counts.compute_units > 0);
        let mut sum = Amount::default();
        for (service, counts) in used {
            let own = self.services.get(service).and_then(|(price, _)| price.as_ref());
            let price = own.or(self.settings.price.as_ref())?;
            sum = sum.plus(price.of(counts.compute_units));
        }
        Some(sum)
    }

    /// What the network costs; `None` if a parameter is missing.
    fn upokt(&self, services: &BTreeMap<String, Counts>) -> Option<u64> {
        let used = services.iter().filter(|(_, counts)| counts.relays > 0);
        let relays = used.map(|(service, counts)| {
            let own = self.services.get(service).and_then(|(_, cupr)| *cupr);
            Some((counts.relays, own.or(self.settings.network.cupr)?))
        });
        upokt(&self.settings.network, relays.collect::<Option<Vec<_>>>()?)
    }
}

/// The columns of figures after what is distinguished, as far as a document has them: the key, the
/// heading of the table, and whether the table shows it.
const FIGURES: [(&str, &str, bool); 15] = [
    ("calls", "CALLS", true),
    ("ok", "OK", false),
    ("errors", "ERRORS", true),
    ("failed", "FAILED", true),
    ("cancelled", "CANCELLED", false),
    ("hits", "HITS", true),
    ("relays", "RELAYS", true),
    ("hedges", "HEDGES", true),
    ("bytes_in", "BYTES IN", true),
    ("bytes_out", "BYTES OUT", true),
    ("compute_units", "UNITS", true),
    ("charge", "CHARGE", true),
    ("network_upokt", "uPOKT", true),
    ("network_cost", "NETWORK", true),
    ("margin", "MARGIN", true),
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

/// A document as CSV with a header.
pub(in crate::gateway) fn csv(answer: &Value) -> String {
    let quoted = |text: String| {
        if text.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text
        }
    };
    let figures = FIGURES.iter().map(|(key, ..)| *key);
    let figures = figures.filter(|key| answer["total"].get(key).is_some());
    let columns: Vec<&str> = columns(answer).into_iter().chain(figures).collect();
    let currency = answer["currency"].as_str();
    let header = columns.iter().copied().chain(currency.map(|_| "currency"));
    let mut out = header.collect::<Vec<_>>().join(",") + "\n";
    for row in rows(answer) {
        let cells = columns.iter().map(|column| quoted(plain(&row[*column])));
        let cells = cells.chain(currency.map(String::from));
        out += &(cells.collect::<Vec<_>>().join(",") + "\n");
    }
    out
}

/// A document as an aligned table, with a line of totals if there are several.
pub(in crate::gateway) fn table(answer: &Value) -> String {
    let names = columns(answer);
    let currency = answer["currency"].as_str().unwrap_or_default();
    let figures =
        FIGURES.iter().filter(|(key, _, is_shown)| *is_shown && answer["total"].get(key).is_some());
    let figures: Vec<(&str, String)> = figures
        .map(|(key, heading, _)| match *key {
            "charge" | "network_cost" | "margin" => (*key, format!("{heading} {currency}")),
            key => (key, heading.to_string()),
        })
        .collect();
    let cell = |value: &Value| match plain(value) {
        text if text.is_empty() => String::from("–"),
        text => text,
    };
    let line = |row: &Value| -> Vec<String> {
        let keys = names.iter().copied().chain(figures.iter().map(|(key, _)| *key));
        keys.map(|key| cell(&row[key])).collect()
    };
    let headings = names.iter().map(|name| name.to_uppercase());
    let mut lines = vec![
        headings.chain(figures.iter().map(|(_, heading)| heading.clone())).collect::<Vec<_>>(),
    ];
    lines.extend(rows(answer).map(line));
    if lines.len() > 2 {
        let mut total = line(&answer["total"]);
        for (place, name) in total.iter_mut().take(names.len()).enumerate() {
            *name = if place == 0 { "total".into() } else { String::new() };
        }
        lines.push(total);
    }
    aligned(&lines, names.len())
}

/// Aligned columns: this many of text to the left, the others to the right.
fn aligned(lines: &[Vec<String>], texts: usize) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let longest = |column: usize| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(longest).collect();
    let mut out = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(place, (cell, width))| {
            if place < texts { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        out += cells.collect::<Vec<_>>().join("  ").trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        let counts = |calls: u64, relays: u64| Counts {
            calls,
            ok: calls,
            relays,
            compute_units: calls * 26,
            ..Counts::default()
        };
        let group = |endpoint: &str, service: &str, counts: Counts| Group {
            start: None,
            subject: plimsoll_registry::usage::Subject {
                endpoint: endpoint.into(),
                service: service.into(),
                ..Default::default()
            },
            counts,
            services: BTreeMap::from([(service.to_string(), counts)]),
        };
        let settings = UsageSettings {
            price: Some(Price::parse("0.30 USD per million compute units").unwrap()),
            network: plimsoll_registry::settings::NetworkCost {
                cupr: Some(100),
                cuttm: Some(42_000_000),
                cucg: Some(1_000_000),
                pokt: Some(plimsoll_registry::usage::money::Money::parse("0.007 USD").unwrap()),
            },
            ..UsageSettings::default()
        };
        let boba = Service { cupr: Some(7), ..Service::named("boba") };
        let asked = Asked { from: Some("2026-11"), to: Some("2026-12"), ..Asked::default() };
        Report {
            query: asked.query().unwrap(),
            groups: vec![
                group("", "eth", counts(0, 3)),
                group("e,1", "boba", counts(1_000, 10)),
                group("e,1", "eth", counts(2_000_000, 500)),
            ],
            prices: Prices::of(&settings, &[boba]).unwrap_or_else(|_| panic!("one currency")),
        }
        .page(1, usize::MAX)
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
        assert_eq!(table(&document()), expected);
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
    fn bad_questions_are_refused() {
        let check = |asked: Asked<'_>, words: &str| {
            let why = asked.query().unwrap_err();
            assert!(why.contains(words), "{why}");
        };
        let none = Asked::default();
        check(Asked { from: Some("soon"), ..none }, "from: \"soon\" is not a date");
        check(Asked { to: Some("2026-13"), ..none }, "to: \"2026-13\" is not a date");
        check(
            Asked { from: Some("2026-11"), to: Some("2026-11"), ..none },
            "to: 2026-11 is not after 2026-11-01T00",
        );
        check(Asked { by: Some("week"), ..none }, "by: \"week\" cannot be grouped by");
        assert!(none.query().is_ok());
    }
}
