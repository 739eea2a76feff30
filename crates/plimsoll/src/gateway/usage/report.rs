//! Reports of usage: read from the database, and priced.
//!
//! The form between reading and showing ([`super::shown`]) is the JSON document that the admin API serves,
//! so that both ways to ask lead to the same table.

use super::super::access::load_words;
use super::{shown, unknown};
use plimsoll_measure::WallClock;
use plimsoll_registry::model::Service;
use plimsoll_registry::settings::UsageSettings;
use plimsoll_registry::sources::{Editor, LoadError};
use plimsoll_registry::store::{StoreError, StoreErrorKind};
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
        let filter = Filter {
            endpoint: filtered("endpoint", self.endpoint)?,
            key: filtered("key", self.key)?,
            service: filtered("service", self.service)?,
            method: filtered("method", self.method)?,
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

/// The longest text of a filter, in characters: more than any id, name of a key or method has.
const FILTER_MAX: usize = 256;

/// The text of a filter. Databases cannot compare all control characters, and no id or name has one.
fn filtered(name: &str, text: Option<&str>) -> Result<Option<String>, String> {
    let Some(text) = text else { return Ok(None) };
    if text.chars().any(char::is_control) {
        return Err(format!("{name}: it has a control character, and no {name} has one"));
    }
    if text.chars().nth(FILTER_MAX).is_some() {
        return Err(format!("{name}: it has over {FILTER_MAX} characters, and no {name} has that"));
    }
    Ok(Some(text.into()))
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
    /// The configuration has no database.
    NoDatabase,
    /// Nothing was found, and a filter names something that does not exist: the message and the hint.
    Unknown(String, String),
}

impl ReportError {
    /// The message and the hint.
    pub(in crate::gateway) fn words(&self) -> (String, String) {
        match self {
            ReportError::Load(error) => load_words(error),
            ReportError::Store(StoreError { database, kind: StoreErrorKind::Missing }) => (
                format!(
                    "the database {database} does not exist yet, so no usage is recorded in it"
                ),
                "run the command in the folder of the gateway's configuration file, or name its \
                 configuration or database: --config FILE, --database URL, --admin URL"
                    .into(),
            ),
            ReportError::Store(error) => (error.to_string(), error.hint().into()),
            ReportError::Currencies(why) => {
                (why.clone(), "write all prices in one currency".into())
            }
            ReportError::NoDatabase => (
                "there is no database, so usage is only counted in /metrics".into(),
                "set database or DATABASE_URL where the gateway runs, and here --config FILE, \
                 --database URL or --admin URL"
                    .into(),
            ),
            ReportError::Unknown(message, hint) => (message.clone(), hint.clone()),
        }
    }
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
        if editor.database().is_none() {
            return Err(ReportError::NoDatabase);
        }
        let rows = editor.usage(query).await.map_err(ReportError::Store)?;
        if rows.is_empty() {
            unknown::check(editor, &query.filter).await?;
        }
        Ok(Report { groups: fold(rows, query.by), query: query.clone(), prices })
    }

    /// The number of pages, at least one.
    pub(in crate::gateway) fn pages(&self, per_page: usize) -> usize {
        self.groups.len().div_ceil(per_page).max(1)
    }

    /// All rows as CSV. Formats one row at a time: as documents, 100,000 rows would take 20 times the
    /// memory of their text.
    pub(in crate::gateway) fn csv(&self) -> String {
        let form = shown::CsvForm::of(&self.document(&[], 1, 1));
        let mut out = form.header();
        self.groups.iter().for_each(|group| out += &form.line(&self.row(group)));
        out
    }

    /// A page as a document; the first has the number 1.
    pub(in crate::gateway) fn page(&self, page: usize, per_page: usize) -> Value {
        let from = self.groups.len().min((page - 1).saturating_mul(per_page));
        let to = self.groups.len().min(from.saturating_add(per_page));
        self.document(&self.groups[from..to], page, per_page)
    }

    /// A document with these rows, and with the total of all.
    fn document(&self, groups: &[Group], page: usize, per_page: usize) -> Value {
        let shown: Vec<Value> = groups.iter().map(|group| self.row(group)).collect();
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A report with prices.
    pub(in crate::gateway::usage) fn report() -> Report {
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
    }

    #[test]
    fn csv_has_all_rows_whether_written_from_the_report_or_its_document() {
        let report = report();
        assert_eq!(report.csv(), shown::csv(&report.page(1, usize::MAX)));
        assert_eq!(report.csv().lines().count(), 4);
        assert_eq!(report.page(2, 2)["usage"].as_array().map(Vec::len), Some(1));
        assert_eq!(report.page(2, 2)["rows"], 3);
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
        check(Asked { endpoint: Some("a\0"), ..none }, "endpoint: it has a control character");
        check(Asked { key: Some("a\u{85}"), ..none }, "key: it has a control character");
        check(Asked { service: Some("\n"), ..none }, "service: it has a control character");
        check(Asked { method: Some("\u{7f}"), ..none }, "method: it has a control character");
        check(Asked { method: Some(&"m".repeat(257)), ..none }, "method: it has over 256");
        assert!(none.query().is_ok());
        assert!(Asked { endpoint: Some(""), method: Some("eth_ü"), ..none }.query().is_ok());
    }
}
