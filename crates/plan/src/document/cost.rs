//! What the tested system costs: `[cost]`.
//!
//! Prices are written with their currency and, for things of which there are many, with the number that
//! they are for: `database_query = "1 USD per million"`. A number alone is a problem: nobody could tell what
//! it means. Everything is optional; a report says which figures it cannot compute, and why.

use super::scrape::{Charted, Scrape, read_chart};
use crate::Target;
use plimsoll_config::money::{Currency, Money, PARAMETER_MAX, Price};
use plimsoll_config::values::{plain_number, quote, quote_filled, share, show_rate, show_share};
use plimsoll_config::{Field, Table, nearest};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// The tag whose values are chains, unless the plan names another.
const BY: &str = "chain";
/// The counter of relays, and the label with the service, of Plimsoll gateways.
const RELAYS: (&str, &str) = ("plimsoll_relays_total", "service");
/// For gateways that count no relays: each request that was answered as expected is one.
const ANSWERS: &str = "answers";
/// The share of an instance's processors that a projection uses, unless the plan says otherwise: the rest is
/// for bursts, and for an instance that fails.
const UTILISATION: f64 = 0.6;
/// Virtual processors of an instance at most.
const VCPUS_MAX: f64 = 4096.0;

/// Prices, and how relays are counted.
#[derive(Clone, Debug, PartialEq)]
pub struct CostRules {
    /// An hour of a virtual processor.
    pub vcpu_hour: Option<Price>,
    /// A GiB of traffic, as the load generator reads and writes it.
    pub traffic_gib: Option<Price>,
    /// An operation in Redis.
    pub redis_operation: Option<Price>,
    /// A query of the database.
    pub database_query: Option<Price>,
    /// An instance for a month of 730 hours.
    pub instance_month: Option<Price>,
    /// A compute unit.
    pub compute_unit: Option<Price>,
    /// A POKT, which is 10⁶ uPOKT.
    pub pokt: Option<Money>,
    /// The network's CUTTM and CUCG: a compute unit costs CUTTM ÷ CUCG uPOKT.
    pub network: Option<(u64, u64)>,
    /// Compute units per relay, of chains without their own.
    pub cupr: Option<u64>,
    /// Compute units per relay by chain.
    pub cupr_by_chain: BTreeMap<String, u64>,
    /// Virtual processors of an instance.
    pub instance_vcpus: Option<f64>,
    /// The tag whose values are chains.
    pub by: String,
    /// The gateway's service of a chain, if it has another name.
    pub services: BTreeMap<String, String>,
    /// Where relays are counted.
    pub relays: RelaysFrom,
    /// The group of processes that count relays and are the instances of a projection; `None`: the only group
    /// whose processes count relays.
    pub group: Option<String>,
    /// Requests per second of a projection.
    pub target_rate: Option<f64>,
    /// The share of an instance's processors that a projection uses, 0 to 1.
    pub utilisation: f64,
}

/// Where relays are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelaysFrom {
    /// A counter of the scraped processes, by the label with the service.
    Metric(Charted),
    /// Requests that were answered as expected: each is one relay.
    Answers,
}

impl CostRules {
    /// All prices with their keys.
    fn prices(&self) -> [(&'static str, Option<&Price>); 6] {
        [
            ("vcpu_hour", self.vcpu_hour.as_ref()),
            ("traffic_gib", self.traffic_gib.as_ref()),
            ("redis_operation", self.redis_operation.as_ref()),
            ("database_query", self.database_query.as_ref()),
            ("instance_month", self.instance_month.as_ref()),
            ("compute_unit", self.compute_unit.as_ref()),
        ]
    }

    /// The currency of all prices; `None` without prices.
    pub fn currency(&self) -> Option<Currency> {
        let prices = self.prices().into_iter().filter_map(|(_, price)| Some(price?.money.currency));
        prices.chain(self.pokt.iter().map(|pokt| pokt.currency)).next()
    }

    /// The service of a chain.
    pub fn service<'c>(&'c self, chain: &'c str) -> &'c str {
        self.services.get(chain).map_or(chain, String::as_str)
    }

    /// Compute units per relay of a chain.
    pub fn cupr_of(&self, chain: &str) -> Option<u64> {
        self.cupr_by_chain.get(chain).copied().or(self.cupr)
    }

    /// As a table of a resolved plan.
    pub(crate) fn show(&self) -> String {
        let mut out = String::from("\n[cost]\n");
        let mut line = |key: &str, value: String| {
            writeln!(out, "{key} = {value}").expect("writing to memory");
        };
        for (key, price) in self.prices() {
            price.iter().for_each(|price| line(key, quote(&price.to_string())));
        }
        self.pokt.iter().for_each(|pokt| line("pokt", quote(&pokt.to_string())));
        if let Some((cuttm, cucg)) = self.network {
            line("cuttm", cuttm.to_string());
            line("cucg", cucg.to_string());
        }
        self.cupr.iter().for_each(|cupr| line("cupr", cupr.to_string()));
        let table = |values: Vec<(&String, String)>| {
            let pair = |(key, value): &(&String, String)| format!("{} = {value}", quote(key));
            format!("{{ {} }}", values.iter().map(pair).collect::<Vec<_>>().join(", "))
        };
        if !self.cupr_by_chain.is_empty() {
            let values = self.cupr_by_chain.iter().map(|(chain, n)| (chain, n.to_string()));
            line("cupr_by_chain", table(values.collect()));
        }
        self.instance_vcpus.iter().for_each(|own| line("instance_vcpus", quote(&own.to_string())));
        line("by", quote_filled(&self.by));
        if !self.services.is_empty() {
            let values = self.services.iter().map(|(chain, own)| (chain, quote_filled(own)));
            line("services", table(values.collect()));
        }
        match &self.relays {
            RelaysFrom::Metric(charted) => line("relays", quote(&charted.to_string())),
            RelaysFrom::Answers => line("relays", quote(ANSWERS)),
        }
        self.group.iter().for_each(|group| line("group", quote_filled(group)));
        self.target_rate.iter().for_each(|rate| line("target_rate", quote(&show_rate(*rate))));
        line("utilisation", quote(&show_share(self.utilisation)));
        out
    }
}

pub(super) fn read_cost(
    root: &Table<'_>,
    targets: &[Target],
    scrapes: &[Scrape],
) -> Option<CostRules> {
    let table = root.field("cost")?.table("[cost]")?;
    let price = |key: &'static str| {
        let field: Field<'_> = table.field(key)?;
        read_price(&field, Price::parse_of_key)
    };
    let compute_unit = table.field("compute_unit").and_then(|field| {
        // As the gateway's configuration has it.
        read_price(&field, |text| Price::parse(text).or_else(|_| Price::parse_of_key(text)))
    });
    let pokt = table.field("pokt").and_then(|field| read_price(&field, Money::parse));
    let parameter = |key: &'static str| {
        let field: Field<'_> = table.field(key)?;
        field.integer(1, PARAMETER_MAX)
    };
    let number = |key: &'static str| table.field(key).is_some();
    let network = match (number("cuttm"), number("cucg")) {
        (true, true) => parameter("cuttm").zip(parameter("cucg")),
        (false, false) => None,
        (has_cuttm, _) => {
            let missing = if has_cuttm { "cucg" } else { "cuttm" };
            table.problem(
                format!("\"{missing}\" is missing"),
                "a compute unit costs CUTTM ÷ CUCG uPOKT",
            );
            None
        }
    };
    let by = table.field("by").and_then(|field| field.open_text("the name of a tag"));
    let group = table.field("group").and_then(|field| field.open_text("the name of a group"));
    let target_rate = table.field("target_rate").and_then(|field| field.rate());
    let utilisation = table.field("utilisation").and_then(|field| read_utilisation(&field));
    let rules = CostRules {
        vcpu_hour: price("vcpu_hour"),
        traffic_gib: price("traffic_gib"),
        redis_operation: price("redis_operation"),
        database_query: price("database_query"),
        instance_month: price("instance_month"),
        compute_unit,
        pokt,
        network,
        cupr: parameter("cupr"),
        cupr_by_chain: read_by_chain(&table, "cupr_by_chain", |field| {
            field.integer(1, PARAMETER_MAX)
        }),
        instance_vcpus: table.field("instance_vcpus").and_then(|field| read_vcpus(&field)),
        by: by.unwrap_or_else(|| BY.into()),
        services: read_by_chain(&table, "services", |field| {
            field.open_text("the name of a service")
        }),
        relays: table.field("relays").and_then(|field| read_relays(&field)).unwrap_or_else(|| {
            RelaysFrom::Metric(Charted { metric: RELAYS.0.into(), by: Some(RELAYS.1.into()) })
        }),
        group,
        target_rate,
        utilisation: utilisation.unwrap_or(UTILISATION),
    };
    check_currencies(&table, &rules);
    check_compute_units(&table, &rules);
    check_names(&table, &rules, targets, scrapes);
    table.close();
    Some(rules)
}

fn read_price<T>(field: &Field<'_>, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
    if let Some(number) = field.number() {
        let number = number.to_string();
        let why = if number.starts_with('-') { "is negative" } else { "has no currency" };
        let message = format!("{number} {why}");
        field.problem_with_value(
            message,
            &format!("write \"{} USD\"", number.trim_start_matches('-')),
        );
        return None;
    }
    field.parse(read)
}

fn read_utilisation(field: &Field<'_>) -> Option<f64> {
    let value = field.parse(share)?;
    if value <= 0.0 {
        field.problem_with_value("it must be above 0%", "60% leaves room for bursts");
        return None;
    }
    Some(value)
}

fn read_vcpus(field: &Field<'_>) -> Option<f64> {
    let value = match field.number() {
        Some(number) => plain_number(number),
        None => field
            .parse(|text| plain_number(text).ok_or_else(|| format!("\"{text}\" is not a number"))),
    };
    let valid = value.filter(|value| *value > 0.0 && *value <= VCPUS_MAX);
    if valid.is_none() && (value.is_some() || field.number().is_some()) {
        let message = format!("it must be above 0 and at most {VCPUS_MAX}");
        field.problem_with_value(message, "for example 2, or 0.5");
    }
    valid
}

fn read_relays(field: &Field<'_>) -> Option<RelaysFrom> {
    if field.text().is_some_and(|text| text.value == ANSWERS) {
        return Some(RelaysFrom::Answers);
    }
    read_chart(field).map(RelaysFrom::Metric)
}

/// A table of values by chain.
fn read_by_chain<T>(
    table: &Table<'_>,
    key: &'static str,
    read: impl Fn(&Field<'_>) -> Option<T>,
) -> BTreeMap<String, T> {
    let Some(inner) = table.field(key).and_then(|field| field.table(key)) else {
        return BTreeMap::new();
    };
    let entries = inner.entries().into_iter();
    entries.filter_map(|(chain, field)| Some((chain, read(&field)?))).collect()
}

fn check_currencies(table: &Table<'_>, rules: &CostRules) {
    let pokt = ("pokt", rules.pokt.as_ref().map(|pokt| pokt.currency));
    let prices = rules.prices().map(|(key, price)| (key, price.map(|price| price.money.currency)));
    let mut given = prices.into_iter().chain([pokt]).filter_map(|(key, own)| Some((key, own?)));
    let Some((first, currency)) = given.next() else { return };
    for (key, own) in given.filter(|(_, own)| *own != currency) {
        if let Some(field) = table.field(key) {
            field.problem_with_value(
                format!("the price is in {own}, and \"{first}\" is in {currency}"),
                "write all prices of a plan in one currency, so that they can be added up",
            );
        }
    }
}

fn check_compute_units(table: &Table<'_>, rules: &CostRules) {
    let priced = rules.compute_unit.is_some() || rules.network.is_some();
    if rules.compute_unit.is_some() && rules.network.is_some() {
        table.problem(
            "compute units have two prices: \"compute_unit\", and \"cuttm\" ÷ \"cucg\" uPOKT",
            "keep one of them",
        );
    }
    if rules.pokt.is_some() && rules.network.is_none() {
        table.problem(
            "\"pokt\" needs \"cuttm\" and \"cucg\"",
            "a compute unit costs CUTTM ÷ CUCG uPOKT",
        );
    }
    if priced && rules.cupr.is_none() && rules.cupr_by_chain.is_empty() {
        table.problem(
            "the number of compute units per relay is missing",
            "add cupr = …, or cupr_by_chain = { … }; the owner of a service sets it",
        );
    }
}

fn check_names(table: &Table<'_>, rules: &CostRules, targets: &[Target], scrapes: &[Scrape]) {
    let chains: BTreeSet<&str> =
        targets.iter().filter_map(|own| Some(own.tags.get(&rules.by)?.as_str())).collect();
    // A plan that is shown names the default, too.
    if chains.is_empty() && rules.by != BY {
        let message = format!("no target has the tag \"{}\"", rules.by);
        let known = targets.iter().flat_map(|own| own.tags.keys()).map(String::as_str);
        table.problem(message, &near(&rules.by, known));
    }
    let named = rules.cupr_by_chain.keys().chain(rules.services.keys());
    let scraped = scrapes.iter().filter_map(|own| own.chain.as_ref());
    for chain in named.chain(scraped).filter(|chain| !chains.contains(chain.as_str())) {
        let message = format!("no target has the tag {} = \"{chain}\"", rules.by);
        table.problem(message, &near(chain, chains.iter().copied()));
    }
    if let Some(group) = &rules.group
        && scrapes.iter().all(|own| own.group != *group)
    {
        let message = format!("no scrape has the group \"{group}\"");
        table.problem(message, &near(group, scrapes.iter().map(|own| own.group.as_str())));
    }
}

fn near<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> String {
    let known: BTreeSet<&str> = known.collect();
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.is_empty() => String::new(),
        None => format!("known: {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plan;
    use plimsoll_config::{Document, Variables};
    use std::path::Path;

    fn read(text: &str) -> Result<Plan, String> {
        let text = format!(
            "rate = 1\nduration = \"1s\"\n[[target]]\nrequest = \"GET http://h/\"\ntags = {{ chain = \"ethereum\" }}\n\
             [[scrape]]\nurl = \"http://h/metrics\"\n{text}\n"
        );
        let read = Plan::read(&Document::new("p", text), &Variables::none(), Path::new("."));
        read.map_err(|problems| problems.to_string())
    }

    #[test]
    fn prices_read_back() {
        let all = "[cost]\nvcpu_hour = \"0.04 USD\"\ntraffic_gib = \"0.09 USD\"\nredis_operation = \"0.20 USD per million\"\n\
                   database_query = \"1 USD per million\"\ninstance_month = \"62 USD\"\npokt = \"0.007 USD\"\n\
                   cuttm = 145990\ncucg = 1000000\ncupr = 100\ncupr_by_chain = { ethereum = 80 }\ninstance_vcpus = 0.5\n\
                   services = { ethereum = \"eth\" }\nrelays = \"path_relays_total by service_id\"\n\
                   group = \"gateways\"\ntarget_rate = \"60000/s\"\nutilisation = \"70%\"";
        let plan = read(all).unwrap();
        let cost = plan.cost.clone().unwrap();
        assert_eq!((cost.service("ethereum"), cost.service("boba")), ("eth", "boba"));
        assert_eq!((cost.cupr_of("ethereum"), cost.cupr_of("boba")), (Some(80), Some(100)));
        assert_eq!((cost.instance_vcpus, cost.target_rate), (Some(0.5), Some(60_000.0)));
        assert_eq!(cost.currency().unwrap().to_string(), "USD");
        let document = Document::new("p", plan.to_toml());
        let again = Plan::read(&document, &Variables::none(), Path::new(".")).unwrap();
        assert_eq!(again.cost, plan.cost);
        let plan = "rate = 1\nduration = \"1s\"\n[[target]]\nrequest = \"GET http://h/\"\n[cost]\nvcpu_hour = \"1 USD\"";
        let read_back = |text: String| {
            Plan::read(&Document::new("p", text), &Variables::none(), Path::new(".")).unwrap()
        };
        let untagged = read_back(plan.into());
        assert_eq!(read_back(untagged.to_toml()).cost, untagged.cost);
        assert_eq!(read("").unwrap().cost, None);
        let least = read(
            "[cost]\ncompute_unit = \"0.3 USD per million compute units\"\ncupr = 1\nrelays = \"answers\"",
        );
        let least = least.unwrap().cost.unwrap();
        assert_eq!((&least.relays, least.utilisation), (&RelaysFrom::Answers, 0.6));
    }

    #[test]
    fn problems_of_prices() {
        let check = |lines: &str, words: &str| {
            let error = read(&format!("[cost]\n{lines}")).expect_err(lines);
            assert!(error.contains(words), "{lines}: {error}");
        };
        check(
            "vcpu_hour = 0.04",
            "p:9:13: \"vcpu_hour\": 0.04 has no currency\n  hint: write \"0.04 USD\"",
        );
        check("vcpu_hour = \"0.04\"", "\"0.04\" has no currency; write an amount and a currency");
        check("vcpu_hour = -1", "-1 is negative");
        check(
            "vcpu_hour = \"-0.04 USD\"",
            "\"-0.04 USD\" starts with \"-0.04\", which is negative",
        );
        check("vcpu_hour = \"0.04 USD per hour\"", "is for \"hour\" units");
        check("vcpu_hour = \"nan USD\"", "which is not an amount");
        check("redis_operation = \"1 dollar\"", "not three capital letters");
        check(
            "vcpu_hour = \"1 USD\"\ntraffic_gib = \"1 EUR\"",
            "the price is in EUR, and \"vcpu_hour\" is in USD",
        );
        check("vcpu_hours = \"1 USD\"", "unknown key \"vcpu_hours\" in [cost]");
        check("cuttm = 5\ncupr = 1", "\"cucg\" is missing");
        check("cuttm = 5\ncucg = 1", "compute units per relay is missing");
        check("cuttm = 5\ncucg = 0\ncupr = 1", "must be from 1");
        check("pokt = \"1 USD\"", "\"pokt\" needs \"cuttm\" and \"cucg\"");
        check("compute_unit = \"1 USD\"\ncuttm = 5\ncucg = 1\ncupr = 1", "two prices");
        check(
            "cupr_by_chain = { etherium = 1 }",
            "no target has the tag chain = \"etherium\"\n  hint: did you mean \"ethereum\"?",
        );
        check("by = \"chian\"", "no target has the tag \"chian\"\n  hint: did you mean \"chain\"?");
        check(
            "group = \"gateway\"",
            "no scrape has the group \"gateway\"\n  hint: did you mean \"gateways\"?",
        );
        check("relays = \"relays by\"", "is not the name of a metric");
        check("utilisation = \"0%\"", "it must be above 0%");
        check("utilisation = \"120%\"", "is not a share");
        check("instance_vcpus = 0", "above 0 and at most 4096");
        check("instance_vcpus = \"two\"", "\"two\" is not a number");
        // All at once.
        let error = read("[cost]\nvcpu_hour = 1\ntraffic_gib = -2\ngroup = \"x\"").unwrap_err();
        assert_eq!(error.lines().filter(|line| line.starts_with("p:")).count(), 3, "{error}");
    }
}
