//! Reads services, upstreams and endpoints: tables of the file, and entries of the database, which
//! have the same keys.
//!
//! Each is read into an outline (id, service, places) and, where nothing is wrong with it, the
//! whole. What is checked across them needs the outline only.

use std::path::Path;

use plimsoll_config::{Field, Place, Problems, Table, Text, nearest};
use plimsoll_measure::Nanos;

use crate::model::{
    Address, Definitions, Endpoint, Kind, MethodRules, Service, Spread, TIER_MAX, Upstream,
    WEIGHT_MAX, check_id,
};
use crate::settings::{Faces, Listener};

/// Headers that the gateway sets itself.
const OWN_HEADERS: [&str; 7] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What is known of an entry even where something is wrong with it.
#[derive(Debug)]
pub(crate) struct Outlined<T> {
    pub(crate) id: String,
    pub(crate) place: Place,
    /// The service that it names, and where.
    pub(crate) service: Option<(String, Place)>,
    pub(crate) item: Option<T>,
}

/// All entries of a configuration.
#[derive(Debug, Default)]
pub(super) struct Outlines {
    pub(super) listeners: Vec<ReadListener>,
    pub(super) services: Vec<Outlined<Service>>,
    pub(super) upstreams: Vec<Outlined<Upstream>>,
    pub(super) endpoints: Vec<Outlined<Endpoint>>,
}

impl Outlines {
    /// Adds those of a document.
    pub(super) fn read(&mut self, root: &Table<'_>, folder: &Path) {
        let tables = |key, what| root.field(key).map(|f| f.tables(what)).unwrap_or_default();
        for table in tables("listener", "[[listener]]") {
            self.listeners.extend(read_listener(&table));
            table.close();
        }
        for table in tables("service", "[[service]]") {
            self.services.extend(read_service(&table));
            table.close();
        }
        for table in tables("upstream", "[[upstream]]") {
            self.upstreams.extend(read_upstream(&table, folder));
            table.close();
        }
        for table in tables("endpoint", "[[endpoint]]") {
            self.endpoints.extend(read_endpoint(&table));
            table.close();
        }
    }

    /// Looks for ids that are there twice, and, where all services are known, for services that
    /// are not there.
    pub(super) fn check(
        &self,
        built_in: bool,
        instances: &[&str],
        services_known: bool,
        problems: &mut Problems,
    ) {
        check_twice("service", &self.services, &[], problems);
        check_twice("upstream", &self.upstreams, instances, problems);
        check_twice("endpoint", &self.endpoints, &[], problems);
        if !services_known {
            return;
        }
        let built_in = if built_in { Service::built_in() } else { Vec::new() };
        let own = self.services.iter().map(|service| service.id.as_str());
        let known: Vec<&str> =
            built_in.iter().map(|service| service.id.as_str()).chain(own).collect();
        let upstreams = self.upstreams.iter().filter_map(|upstream| upstream.service.as_ref());
        let endpoints = self.endpoints.iter().filter_map(|endpoint| endpoint.service.as_ref());
        for (service, place) in upstreams.chain(endpoints) {
            if !known.contains(&service.as_str()) {
                let (message, hint) = unknown_service(service, &known);
                problems.note(place.clone(), message, hint);
            }
        }
    }

    pub(super) fn definitions(self) -> Definitions {
        Definitions {
            services: self.services.into_iter().filter_map(|service| service.item).collect(),
            upstreams: self.upstreams.into_iter().filter_map(|upstream| upstream.item).collect(),
            endpoints: self.endpoints.into_iter().filter_map(|endpoint| endpoint.item).collect(),
        }
    }
}

/// What is said of a service that is not there: the message and the hint.
pub(crate) fn unknown_service(service: &str, known: &[&str]) -> (String, String) {
    let hint = match nearest(service, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.is_empty() => format!("add [[service]] with id = \"{service}\""),
        None => {
            let known = known.join(", ");
            format!("known are {known}; or add [[service]] with id = \"{service}\"")
        }
    };
    (format!("unknown service \"{service}\""), hint)
}

fn check_twice<T>(what: &str, items: &[Outlined<T>], others: &[&str], problems: &mut Problems) {
    let mut seen: std::collections::HashMap<&str, Option<&Place>> =
        others.iter().map(|id| (*id, None)).collect();
    for item in items {
        let first = match seen.insert(&item.id, Some(&item.place)) {
            None => continue,
            Some(Some(place)) => format!("the first is at {place}"),
            Some(None) => "it is among \"instances\" already".into(),
        };
        let message = format!("a second {what} with the id \"{}\"", item.id);
        problems.note(item.place.clone(), message, first);
    }
}

/// A listener, and where the file says what.
#[derive(Debug)]
pub(super) struct ReadListener {
    pub(super) listener: Listener,
    /// Of its address.
    pub(super) place: Place,
    /// Of `tls = true`.
    pub(super) wants_tls: Option<Place>,
}

/// Reads a listener.
fn read_listener(table: &Table<'_>) -> Option<ReadListener> {
    let Some(field) = table.field("address") else {
        table.problem("a listener without \"address\"", "add address = \"127.0.0.1:3069\"");
        return None;
    };
    let address = super::fields::address(&field);
    let tls_field = table.field("tls");
    let tls = tls_field.as_ref().and_then(|f| f.boolean());
    let wants_tls = tls_field.filter(|_| tls == Some(true)).map(|f| f.place());
    let mut faces = Faces::NONE;
    match table.field("faces") {
        None => {
            let hint = "add faces = [\"gateway\", \"path\"]; there is \"admin\" too";
            table.problem("a listener without \"faces\"", hint);
        }
        Some(field) => {
            let items = field.list().unwrap_or_default();
            if items.is_empty() {
                field.problem(
                    "\"faces\" names none",
                    "there are \"gateway\", \"path\" and \"admin\"",
                );
            }
            let words: Vec<_> = Faces::WORDS.into_iter().zip(0..).collect();
            items.iter().filter_map(|item| item.one_of(&words)).for_each(|place| faces.open(place));
        }
    }
    let place = field.place();
    let listener = Listener { address: address?, faces, tls: tls.unwrap_or(true) };
    Some(ReadListener { listener, place, wants_tls })
}

/// Reads a service.
pub(crate) fn read_service(table: &Table<'_>) -> Option<Outlined<Service>> {
    let id = read_id(table, "service", "eth");
    let chain_id = table.field("chain_id").and_then(|f| f.integer(1, u64::MAX >> 1));
    let block_time = table.field("block_time").and_then(|f| f.duration_above_zero());
    let allowance = table.field("sync_allowance").and_then(|f| f.integer(0, u64::MAX >> 1));
    let spread = table.field("spread").and_then(|f| f.one_of(&Spread::WORDS));
    let timeout = table.field("timeout").and_then(|f| f.duration_above_zero());
    let rest = table.field("rest").and_then(|f| f.boolean());
    let (id, place) = id?;
    let service = Service {
        chain_id,
        block_time: block_time.map(Nanos::from),
        sync_allowance: allowance,
        spread: spread.unwrap_or_default(),
        timeout: timeout.map_or(Service::TIMEOUT, Nanos::from),
        rest: rest.unwrap_or_default(),
        ..Service::named(id.clone())
    };
    Some(Outlined { id, place, service: None, item: Some(service) })
}

/// Reads an upstream; relative paths in it are seen from `folder`.
pub(crate) fn read_upstream(table: &Table<'_>, folder: &Path) -> Option<Outlined<Upstream>> {
    let id = read_id(table, "upstream", "node-a");
    let service = read_service_name(table);
    let kind = match table.field("kind") {
        Some(field) => field.one_of(&Kind::WORDS),
        None => Some(Kind::Evm),
    };
    if kind == Some(Kind::Evm) && table.field("service").is_none() {
        let hint = "add service = \"eth\"; only an upstream of kind \"path\" may serve any";
        table.problem("an upstream without \"service\"", hint);
    }
    let url = read_url(table);
    let headers = table.field("headers").and_then(|f| f.table("headers"));
    let headers = headers.map(|table| read_headers(&table, kind)).unwrap_or_default();
    let weight = table.field("weight").and_then(|f| f.integer(1, WEIGHT_MAX.into()));
    let tier = table.field("tier").and_then(|f| f.integer(0, TIER_MAX.into()));
    let rate_limit = table.field("rate_limit").and_then(|f| {
        let rate = f.rate()?;
        if rate <= 0.0 {
            f.problem("\"rate_limit\" must be above 0/s", "disable the upstream instead");
        }
        Some(rate)
    });
    let methods = read_methods(table);
    let ca = table.field("ca").and_then(|f| super::fields::file(&f, folder));
    let (id, place) = id?;
    let item = kind.zip(url).map(|(kind, (url, address))| Upstream {
        service: service.as_ref().map(|(service, _)| service.clone()),
        headers,
        weight: weight.unwrap_or(1) as u32,
        tier: tier.unwrap_or(0) as u8,
        rate_limit,
        methods,
        ca,
        ..Upstream::at(id.clone(), kind, url, address)
    });
    Some(Outlined { id, place, service, item })
}

/// Reads an endpoint.
pub(crate) fn read_endpoint(table: &Table<'_>) -> Option<Outlined<Endpoint>> {
    let id = read_id(table, "endpoint", "ethpath_1764014188689_1764014188693");
    if table.field("service").is_none() {
        table.problem("an endpoint without \"service\"", "add service = \"eth\"");
    }
    let service = read_service_name(table);
    let methods = read_methods(table);
    let (id, place) = id?;
    let item = service.as_ref().map(|(service, _)| Endpoint {
        id: id.clone(),
        service: service.clone(),
        methods,
    });
    Some(Outlined { id, place, service, item })
}

fn read_id(table: &Table<'_>, what: &str, example: &str) -> Option<(String, Place)> {
    let Some(field) = table.field("id") else {
        let hint = format!("add id = \"{example}\"");
        table.problem(format!("{} {what} without \"id\"", article(what)), &hint);
        return None;
    };
    let id = field.parse(|text| check_id(text).map(|()| text.to_string()))?;
    Some((id, field.place()))
}

fn article(what: &str) -> &'static str {
    if what.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

fn read_service_name(table: &Table<'_>) -> Option<(String, Place)> {
    let field = table.field("service")?;
    let service = field.parse(|text| check_id(text).map(|()| text.to_string()))?;
    Some((service, field.place()))
}

fn read_url(table: &Table<'_>) -> Option<(Text, Address)> {
    let Some(field) = table.field("url") else {
        table.problem("an upstream without \"url\"", "add url = \"https://node.example/\"");
        return None;
    };
    let url = field.text()?.hiding_keys_of_url();
    if url.unset.is_some() {
        return Some((url, Address::parse("http://unset.invalid/").ok()?));
    }
    match Address::parse(&url.value) {
        Ok(address) => Some((url, address)),
        Err(message) => {
            field.problem(format!("\"url\": {message}"), "");
            None
        }
    }
}

fn read_headers(table: &Table<'_>, kind: Option<Kind>) -> Vec<(String, Text)> {
    let mut headers: Vec<(String, Text)> = Vec::new();
    for (name, field) in table.entries() {
        if !super::fields::is_header_name(&name) {
            field.problem_with_key(format!("\"{name}\" is not a valid header name"), "");
            continue;
        }
        let lower = name.to_ascii_lowercase();
        let is_service = kind == Some(Kind::Path) && lower == "target-service-id";
        if OWN_HEADERS.contains(&lower.as_str()) || is_service {
            field.problem_with_key(format!("\"{name}\" is set by the gateway itself"), "");
            continue;
        }
        if headers.iter().any(|(other, _)| *other == lower) {
            field.problem_with_key(format!("the header \"{name}\" is there twice"), "");
            continue;
        }
        let Some(text) = field.text() else { continue };
        if lower == "accept-encoding" && !["gzip", "identity"].contains(&text.value.as_str()) {
            let message = "\"accept-encoding\" must be \"gzip\" or \"identity\"";
            field.problem(message, "no other coding can be read here");
            continue;
        }
        let text = text.hidden_if_secret(&name);
        if text.value.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f) {
            field.problem(format!("a control character in header \"{name}\""), "");
            continue;
        }
        headers.push((lower, text));
    }
    headers.sort_by(|(a, _), (b, _)| a.cmp(b));
    headers
}

fn read_methods(table: &Table<'_>) -> MethodRules {
    let mut rules = MethodRules::default();
    let Some(table) = table.field("methods").and_then(|f| f.table("methods")) else { return rules };
    let patterns = |key| {
        let items = table.field(key).and_then(|f: Field<'_>| f.list()).unwrap_or_default();
        let check = |text: &str| MethodRules::check(text).map(|()| text.to_string());
        items.iter().filter_map(|item| item.parse(check)).collect()
    };
    rules.allow = patterns("allow");
    rules.deny = patterns("deny");
    table.close();
    rules
}
