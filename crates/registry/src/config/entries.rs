//! Reads services, upstreams and endpoints: the file's tables and the database's entries, which have
//! the same keys.
//!
//! Checks across entries need only the id, the service and their places, so that these are kept even
//! for an entry that is otherwise invalid.

mod by_method;
mod resilience;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use plimsoll_config::{Field, Place, Problems, Table, Text, is_word, nearest};
use plimsoll_measure::Nanos;

use super::access::read_access;
use crate::model::{
    Address, CONCURRENCY_MAX, Concurrency, Definitions, Endpoint, Kind, MethodRules, Sending,
    Service, Spread, TIER_MAX, Upstream, WEIGHT_MAX, check_id_shown_as, masked,
};
use crate::settings::{Faces, Listener};
use crate::store::EntryKind;
use crate::usage::money::{PARAMETER_MAX, Price};
use by_method::read_compute_units;
pub(super) use resilience::show_hedge;
use resilience::{read_agree, read_resilience};

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

/// An entry as far as it could be read.
#[derive(Debug)]
pub(crate) struct ParsedEntry<T> {
    pub(crate) id: String,
    pub(crate) place: Place,
    /// The service that it references, and where.
    pub(crate) service: Option<(String, Place)>,
    /// `None` if the entry is invalid.
    pub(crate) item: Option<T>,
}

/// All entries of a configuration.
#[derive(Debug, Default)]
pub(super) struct ParsedEntries {
    pub(super) listeners: Vec<ParsedListener>,
    pub(super) services: Vec<ParsedEntry<Service>>,
    pub(super) upstreams: Vec<ParsedEntry<Upstream>>,
    pub(super) endpoints: Vec<ParsedEntry<Endpoint>>,
}

impl ParsedEntries {
    /// Adds the entries of a document.
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
            table.close_showing(masked_unless_word);
        }
    }

    /// Checks for duplicate ids and, if all services are known, for unknown services.
    pub(super) fn check(
        &self,
        built_in: bool,
        instances: &[&str],
        services_known: bool,
        problems: &mut Problems,
    ) {
        check_twice(EntryKind::Service, &self.services, &[], problems);
        check_twice(EntryKind::Upstream, &self.upstreams, instances, problems);
        check_twice(EntryKind::Endpoint, &self.endpoints, &[], problems);
        if !services_known {
            return;
        }
        let built_in = if built_in { Service::built_in() } else { Vec::new() };
        self.check_chains(&built_in, problems);
        let own = self.services.iter().map(|service| service.id.as_str());
        let mut known: Vec<&str> =
            built_in.iter().map(|service| service.id.as_str()).chain(own).collect();
        known.sort_unstable();
        known.dedup();
        let upstreams = self.upstreams.iter().filter_map(|one| one.service.as_ref());
        let endpoints = self.endpoints.iter().filter_map(|one| one.service.as_ref());
        let upstreams = upstreams.map(|named| (EntryKind::Upstream, named));
        let endpoints = endpoints.map(|named| (EntryKind::Endpoint, named));
        for (kind, (service, place)) in upstreams.chain(endpoints) {
            if known.binary_search(&service.as_str()).is_err() {
                let (message, hint) = unknown_service(kind, service, &known);
                problems.note(place.clone(), message, hint);
            }
        }
    }

    /// A service with the id of a built-in one is on its chain: PATH instances know it by this id.
    fn check_chains(&self, built_in: &[Service], problems: &mut Problems) {
        for service in &self.services {
            let same = built_in.iter().find(|known| known.id == service.id);
            let known = same.and_then(|known| known.chain_id);
            let own = service.item.as_ref().and_then(|item| item.chain_id);
            if let (Some(known), Some(own)) = (known, own)
                && known != own
            {
                let id = &service.id;
                let message = format!(
                    "chain_id = {own}, but the built-in service \"{id}\" is on chain {known}"
                );
                let hint = "give the service another id, or set built_in_services = false";
                problems.note(service.place.clone(), message, hint);
            }
        }
    }

    /// Checks that enough upstreams exist for those that must agree, if all are known.
    pub(super) fn check_agreement(&self, instances: usize, problems: &mut Problems) {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut of_all = instances;
        for upstream in &self.upstreams {
            match &upstream.service {
                Some((service, _)) => *counts.entry(service).or_default() += 1,
                None => of_all += 1,
            }
        }
        let of_service = |id: &str| counts.get(id).copied().unwrap_or_default() + of_all;
        let services = self.services.iter().filter_map(|service| {
            Some((&service.place, &service.id, &service.item.as_ref()?.agree))
        });
        let endpoints = self.endpoints.iter().filter_map(|endpoint| {
            let item = endpoint.item.as_ref()?;
            Some((&endpoint.place, &item.service, item.agree.as_ref()?))
        });
        for (place, service, agree) in services.chain(endpoints) {
            let (most, upstreams) = (agree.most(), of_service(service));
            if most > 1 && usize::from(most) > upstreams {
                let noun = if upstreams == 1 { "upstream" } else { "upstreams" };
                let message =
                    format!("agree = {most}, but service \"{service}\" has {upstreams} {noun}");
                problems.note(place.clone(), message, "add upstreams, or lower agree");
            }
        }
    }

    /// Checks that no upstream is one of the gateway's own addresses.
    pub(super) fn check_loops(&self, own: &[SocketAddr], problems: &mut Problems) {
        for upstream in &self.upstreams {
            let Some(item) = &upstream.item else { continue };
            if let Some(own) = own.iter().find(|own| leads_to(&item.address, **own)) {
                let message =
                    format!("the url of upstream \"{}\" is this gateway itself ({own})", item.id);
                problems.note(upstream.place.clone(), message, "write the node's address");
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

/// Whether a URL leads to a listener.
pub(super) fn leads_to(url: &Address, listener: SocketAddr) -> bool {
    let ip = match url.host.as_str() {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        host => host.parse::<IpAddr>().ok(),
    };
    let is_own = |ip: IpAddr| {
        ip == listener.ip()
            || listener.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified())
    };
    listener.port() != 0 && url.port == listener.port() && ip.is_some_and(is_own)
}

/// The message and the hint for a service that does not exist; `kind` is that of the entry that
/// references it.
pub(crate) fn unknown_service(kind: EntryKind, service: &str, known: &[&str]) -> (String, String) {
    let shown = match kind {
        EntryKind::Endpoint => masked_unless_word(service),
        EntryKind::Service | EntryKind::Upstream => Cow::Borrowed(service),
    };
    unknown_service_shown_as(&shown, service, known)
}

/// The same, with the service shown in this form.
pub(crate) fn unknown_service_shown_as(
    shown: &str,
    service: &str,
    known: &[&str],
) -> (String, String) {
    let near = nearest(service, known.iter().copied());
    let service = shown;
    let hint = match near {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.is_empty() => format!("add [[service]] with id = \"{service}\""),
        None => {
            let known = known.join(", ");
            format!("known services: {known}; or add [[service]] with id = \"{service}\"")
        }
    };
    (format!("unknown service \"{service}\""), hint)
}

fn check_twice<T>(
    kind: EntryKind,
    items: &[ParsedEntry<T>],
    others: &[&str],
    problems: &mut Problems,
) {
    let mut seen: HashMap<&str, Option<&Place>> = others.iter().map(|id| (*id, None)).collect();
    for item in items {
        let first = match seen.insert(&item.id, Some(&item.place)) {
            None => continue,
            Some(Some(place)) => format!("the first is at {place}"),
            Some(None) => "it is already used by \"instances\"".into(),
        };
        let message = format!("a second {} with the id \"{}\"", kind.name(), kind.shown(&item.id));
        problems.note(item.place.clone(), message, first);
    }
}

/// A listener, with the places of its keys.
#[derive(Debug)]
pub(super) struct ParsedListener {
    pub(super) listener: Listener,
    /// The place of `address`.
    pub(super) place: Place,
    /// The place of `tls = true`, if given.
    pub(super) wants_tls: Option<Place>,
}

/// Reads a listener.
fn read_listener(table: &Table<'_>) -> Option<ParsedListener> {
    let field = table.field("address");
    if field.is_none() {
        table.problem("a listener without \"address\"", "add address = \"127.0.0.1:3069\"");
    }
    let address = field.as_ref().and_then(super::fields::address);
    let tls_field = table.field("tls");
    let tls = tls_field.as_ref().and_then(|f| f.boolean());
    let wants_tls = tls_field.filter(|_| tls == Some(true)).map(|f| f.place());
    let mut faces = Faces::NONE;
    match table.field("faces") {
        None => {
            let hint = "add faces = [\"gateway\", \"path\"], or include \"admin\"";
            table.problem("a listener without \"faces\"", hint);
        }
        Some(field) => {
            let items = field.list().unwrap_or_default();
            if items.is_empty() {
                let hint = "name at least one of \"gateway\", \"path\" and \"admin\"";
                field.problem("\"faces\" is empty", hint);
            }
            let words: Vec<_> = Faces::NAMES.into_iter().zip(0..).collect();
            items.iter().filter_map(|item| item.one_of(&words)).for_each(|place| faces.open(place));
        }
    }
    let place = field?.place();
    let listener = Listener { address: address?, faces, tls: tls.unwrap_or(true) };
    Some(ParsedListener { listener, place, wants_tls })
}

/// Reads a service.
pub(crate) fn read_service(table: &Table<'_>) -> Option<ParsedEntry<Service>> {
    let id = read_id(table, EntryKind::Service, "eth");
    let chain_id = table.field("chain_id").and_then(|f| f.integer(1, u64::MAX >> 1));
    let block_time = table.field("block_time").and_then(|f| f.duration_above_zero());
    let allowance = table.field("sync_allowance").and_then(|f| f.integer(0, u64::MAX >> 1));
    let spread = table.field("spread").and_then(|f| f.one_of(&Spread::NAMES));
    let timeout = table.field("timeout").and_then(|f| f.duration_above_zero());
    let rest = table.field("rest").and_then(|f| f.boolean());
    let health_checks = table.field("health_checks").and_then(|f| f.boolean());
    let resilience = read_resilience(table);
    let send = table.field("send").and_then(|f| f.one_of(&Sending::NAMES));
    let agree = read_agree(table);
    let park_dissenters = table.field("park_dissenters").and_then(|f| f.duration_above_zero());
    let block_time = block_time.map(Nanos::from);
    let (cache, prefetch) = super::cache::of_service(table, block_time);
    let compute_units = read_compute_units(table);
    let price = table.field("price").and_then(|field| field.parse(Price::parse));
    let cupr = table.field("cupr").and_then(|field| field.integer(1, PARAMETER_MAX));
    let (id, place) = id?;
    let service = Service {
        chain_id,
        block_time,
        sync_allowance: allowance,
        spread: spread.unwrap_or_default(),
        timeout: timeout.map_or(Service::TIMEOUT, Nanos::from),
        rest: rest.unwrap_or_default(),
        health_checks: health_checks.unwrap_or(true),
        resilience,
        send: send.unwrap_or_default(),
        agree: agree.unwrap_or_default(),
        park_dissenters: park_dissenters.map(Nanos::from),
        cache,
        prefetch,
        compute_units: compute_units.unwrap_or_default(),
        price,
        cupr,
        ..Service::named(id.clone())
    };
    Some(ParsedEntry { id, place, service: None, item: Some(service) })
}

/// Reads an upstream; its relative paths start at `folder`.
pub(crate) fn read_upstream(table: &Table<'_>, folder: &Path) -> Option<ParsedEntry<Upstream>> {
    let id = read_id(table, EntryKind::Upstream, "node-a");
    let service = read_service_name(table, |text| Cow::Borrowed(text));
    let kind = match table.field("kind") {
        Some(field) => field.one_of(&Kind::NAMES),
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
            let hint = "to take the upstream out of use, remove it, or, if it is in the database, run \
                        plimsoll gateway upstream disable ID";
            f.problem("\"rate_limit\" must be above 0/s", hint);
        }
        Some(rate)
    });
    let concurrency = table.field("concurrency").and_then(|f| read_concurrency(&f));
    let methods = read_methods(table);
    let ca = table.field("ca").and_then(|f| super::fields::file(&f, folder));
    let drain = table.field("drain").and_then(|f| f.boolean());
    let (id, place) = id?;
    let item = kind.zip(url).map(|(kind, (url, address))| Upstream {
        service: service.as_ref().map(|(service, _)| service.clone()),
        headers,
        weight: weight.unwrap_or(1) as u32,
        tier: tier.unwrap_or(0) as u8,
        rate_limit,
        concurrency: concurrency.unwrap_or_default(),
        methods,
        ca,
        drain: drain.unwrap_or_default(),
        ..Upstream::at(id.clone(), kind, url, address)
    });
    Some(ParsedEntry { id, place, service, item })
}

/// Reads how many calls an upstream is sent at a time.
fn read_concurrency(field: &Field<'_>) -> Option<Concurrency> {
    if field.is_integer() {
        let limit = field.integer(1, CONCURRENCY_MAX.into())?;
        return Some(Concurrency::Fixed(limit as u32));
    }
    let read = |text: &str| match text {
        "auto" => Ok(Concurrency::Auto),
        "off" => Ok(Concurrency::Off),
        _ => match text.parse() {
            Ok(limit @ 1..=CONCURRENCY_MAX) => Ok(Concurrency::Fixed(limit)),
            _ => Err(format!("\"{text}\" is not \"auto\", \"off\" or a number of calls")),
        },
    };
    field.parse(read)
}

/// Reads an endpoint.
pub(crate) fn read_endpoint(table: &Table<'_>) -> Option<ParsedEntry<Endpoint>> {
    let id = read_id(table, EntryKind::Endpoint, "ethpath_1764014188689_1764014188693");
    if table.field("service").is_none() {
        table.problem("an endpoint without \"service\"", "add service = \"eth\"");
    }
    let service = read_service_name(table, masked_unless_word);
    let methods = read_methods(table);
    let agree = read_agree(table);
    let no_cache = table.field("no_cache").and_then(|field| field.boolean());
    let access = read_access(table);
    let (id, place) = id?;
    let item = service.as_ref().map(|(service, _)| Endpoint {
        id: id.clone(),
        service: service.clone(),
        methods,
        agree,
        no_cache: no_cache.unwrap_or_default(),
        access,
    });
    Some(ParsedEntry { id, place, service, item })
}

fn read_id(table: &Table<'_>, kind: EntryKind, example: &str) -> Option<(String, Place)> {
    let what = kind.name();
    let Some(field) = table.field("id") else {
        let hint = format!("add id = \"{example}\"");
        table.problem(format!("{} {what} without \"id\"", article(what)), &hint);
        return None;
    };
    let check = |text: &str| check_id_shown_as(text, &kind.shown(text)).map(|()| text.to_string());
    let id = field.parse(check)?;
    Some((id, field.place()))
}

/// A text of an endpoint's table in the form for messages: masked unless it is a word without digits,
/// because it may be an endpoint's id in the wrong place, and that is a credential.
fn masked_unless_word(text: &str) -> Cow<'_, str> {
    let is_shown = is_word(text) && !text.bytes().any(|byte| byte.is_ascii_digit());
    if is_shown { Cow::Borrowed(text) } else { Cow::Owned(masked(text)) }
}

fn article(what: &str) -> &'static str {
    if what.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// The service that an entry references; `shown`: how a message shows it.
fn read_service_name(
    table: &Table<'_>,
    shown: fn(&str) -> Cow<'_, str>,
) -> Option<(String, Place)> {
    let field = table.field("service")?;
    let check = |text: &str| check_id_shown_as(text, &shown(text)).map(|()| text.to_string());
    let service = field.parse(check)?;
    Some((service, field.place()))
}

fn read_url(table: &Table<'_>) -> Option<(Text, Address)> {
    let Some(field) = table.field("url") else {
        table.problem("an upstream without \"url\"", "add url = \"https://node.example/\"");
        return None;
    };
    let url = field.text()?.hiding_all_but_words_of_url();
    if url.unset.is_some() {
        return Some((url, Address::parse("http://unset.invalid/").ok()?));
    }
    match Address::parse(&url.value) {
        Ok(address) => Some((url, address)),
        Err(message) => {
            field.problem_with_value(message, "");
            None
        }
    }
}

pub(super) fn read_headers(table: &Table<'_>, kind: Option<Kind>) -> Vec<(String, Text)> {
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
            field.problem_with_key(format!("duplicate header \"{name}\""), "");
            continue;
        }
        let Some(text) = field.text() else { continue };
        if lower == "accept-encoding" && !["gzip", "identity"].contains(&text.value.as_str()) {
            let message = "\"accept-encoding\" must be \"gzip\" or \"identity\"";
            field.problem(message, "the gateway cannot decode other encodings");
            continue;
        }
        let text = text.hidden_unless_open(&name);
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
        let field: Option<Field<'_>> = table.field(key);
        let items = field.as_ref().and_then(Field::list);
        // The rules have no form for a list that allows nothing: an empty list means all.
        if let (Some(field), Some([]), "allow") = (&field, items.as_deref(), key) {
            let hint = "remove it to allow all methods, or write deny = [\"*\"] to allow none";
            field.problem("\"allow\" is empty", hint);
        }
        let items = items.unwrap_or_default();
        let check = |text: &str| MethodRules::check(text).map(|()| text.to_string());
        items.iter().filter_map(|item| item.parse(check)).collect()
    };
    rules.allow = patterns("allow");
    rules.deny = patterns("deny");
    table.close();
    rules
}
