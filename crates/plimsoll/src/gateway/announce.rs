//! What a gateway prints when it has started: its addresses, what it serves, and a call to try.

use super::ServeArgs;
use super::messages::{counted, listed};
use crate::{put, tell};
use plimsoll_gateway::{Definitions, Gateway};
use plimsoll_registry::config::Config;
use plimsoll_registry::model::{Endpoint, masked};
use plimsoll_registry::settings::{Faces, Listener};
use std::io::IsTerminal;

/// The method of the call to try.
const METHOD: &str = "eth_blockNumber";

/// Prints the addresses, what is served and how to try it.
pub(super) fn announce(
    args: &ServeArgs,
    config: &Config,
    definitions: &Definitions,
    gateway: &Gateway,
    database: Option<&str>,
    simulated: bool,
) -> anyhow::Result<()> {
    let has_tls = config.settings.tls.is_some();
    let listeners = config.settings.listeners.iter().zip(gateway.addresses());
    let urls: Vec<String> = listeners
        .clone()
        .map(|(listener, address)| {
            let scheme = if has_tls && listener.tls { "https" } else { "http" };
            format!("{scheme}://{address}")
        })
        .collect();
    let instance = &config.settings.instance;
    let mut text = String::new();
    for (url, (listener, _)) in urls.iter().zip(listeners) {
        let faces = listener.faces.names();
        let restricted = if faces.len() < Faces::NAMES.len() {
            format!(" ({})", faces.join(", "))
        } else {
            String::new()
        };
        text += &format!("plimsoll gateway {instance}: listening on {url}{restricted}\n");
    }
    if args.supervised {
        // The supervisor waits for this line, and prints the rest once for all instances.
        put(&format!("{}\n", urls.join(" ")))?;
    } else {
        text += &Description {
            definitions,
            database,
            listeners: &config.settings.listeners,
            urls: &urls,
            is_simulated: simulated,
        }
        .text();
    }
    tell(text.trim_end());
    Ok(())
}

/// What a gateway serves.
pub(super) struct Description<'a> {
    pub(super) definitions: &'a Definitions,
    pub(super) database: Option<&'a str>,
    pub(super) listeners: &'a [Listener],
    /// The URL of each listener.
    pub(super) urls: &'a [String],
    pub(super) is_simulated: bool,
}

impl Description<'_> {
    /// Lists the upstreams of each service, and a curl command to try.
    pub(super) fn text(&self) -> String {
        let Description { definitions, database, is_simulated, .. } = *self;
        let mut text = String::new();
        let served = self.served();
        for (service, upstreams) in &served {
            text += &format!("  {service:8} → {}\n", listed(upstreams));
        }
        if is_simulated {
            text += "  these chains are simulated until an upstream is added\n";
        } else if served.is_empty() {
            text += "  no upstream is configured: calls are answered with no_upstream, and /ready returns 503\n  \
                     hint: add one with plimsoll gateway upstream add or --upstream eth=URL; --simulate serves simulated chains\n";
        }
        if let Some(database) = database {
            let endpoints = counted(definitions.endpoints.len(), "endpoint");
            text += &format!("  {endpoints}; database: {database}\n");
        }
        let services: Vec<&str> = served.iter().map(|(service, _)| *service).collect();
        // On a terminal only the operator sees an endpoint's id; elsewhere stderr ends up in logs.
        text += &self.example(&services, std::io::stderr().is_terminal()).unwrap_or_default();
        text
    }

    /// The services with an upstream, and the ids of their upstreams.
    fn served(&self) -> Vec<(&str, Vec<&str>)> {
        let all = &self.definitions.upstreams;
        let any = all.iter().filter(|upstream| upstream.service.is_none());
        let any: Vec<&str> = any.map(|upstream| upstream.id.as_str()).collect();
        let services = self.definitions.services.iter().map(|service| {
            let own = all.iter().filter(|one| one.service.as_ref() == Some(&service.id));
            let own = own.map(|one| one.id.as_str()).chain(any.iter().copied());
            (service.id.as_str(), own.collect::<Vec<_>>())
        });
        services.filter(|(_, upstreams)| !upstreams.is_empty()).collect()
    }

    /// A call that works, over a listener and a path that relay it: `/v1` if there is one, else an
    /// endpoint, whose id is a customer's credential and printed only if `shows_ids`.
    fn example(&self, services: &[&str], shows_ids: bool) -> Option<String> {
        let service = services.first()?;
        if let Some(url) = self.url(|faces| faces.path) {
            let header = format!("-H 'Target-Service-Id: {service}'");
            return Some(format!("try: {}\n", curl(&format!("{url}/v1 {header}"))));
        }
        let url = self.url(|faces| faces.gateway)?;
        let works = |endpoint: &&Endpoint| {
            services.contains(&endpoint.service.as_str()) && endpoint.methods.permit(METHOD)
        };
        let Some(endpoint) = self.definitions.endpoints.iter().find(works) else {
            return Some(format!(
                "  no endpoint to call yet: plimsoll gateway endpoint add ID --service {service}\n"
            ));
        };
        let call = |id: &str| curl(&format!("'{url}/api/gateway?endpoint={id}'"));
        Some(if shows_ids || masked(&endpoint.id) == endpoint.id {
            format!("try: {}\n", call(&endpoint.id))
        } else {
            let list = "plimsoll gateway endpoint list";
            format!("try, with the id of an endpoint ({list}): {}\n", call("ID"))
        })
    }

    /// The URL for local calls of a listener with this face; one without TLS if there is one.
    fn url(&self, has_face: impl Fn(Faces) -> bool) -> Option<String> {
        let urls = self.listeners.iter().zip(self.urls);
        let mut urls: Vec<&String> =
            urls.filter(|(one, _)| has_face(one.faces)).map(|(_, url)| url).collect();
        urls.sort_by_key(|url| url.starts_with("https:"));
        let url = urls.first()?.replace("://0.0.0.0:", "://127.0.0.1:");
        Some(url.replace("://[::]:", "://[::1]:"))
    }
}

/// A curl command; a certificate is not verified, because it names the public host.
fn curl(target: &str) -> String {
    let flags = if target.contains("https://") { "-sk" } else { "-s" };
    let body = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{METHOD}\",\"params\":[],\"id\":1}}");
    format!("curl {flags} {target} -d '{body}'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_config::Text;
    use plimsoll_registry::model::{Address, Kind, MethodRules, Service, Upstream};

    /// Definitions with an upstream for `eth`.
    fn definitions(endpoints: &[(&str, &str)]) -> Definitions {
        let address = Address::parse("http://h/").expect("a URL");
        let upstream = Upstream::at("a", Kind::Evm, Text::plain("http://h/"), address);
        let endpoint = |(id, deny): &(&str, &str)| Endpoint {
            methods: MethodRules {
                deny: deny.split_whitespace().map(String::from).collect(),
                ..MethodRules::default()
            },
            ..Endpoint::named(*id, "eth")
        };
        Definitions {
            services: Service::built_in(),
            upstreams: vec![Upstream { service: Some("eth".into()), ..upstream }],
            endpoints: endpoints.iter().map(endpoint).collect(),
        }
    }

    #[test]
    fn the_call_to_try_uses_a_listener_and_a_path_that_relay_it() {
        let gateway = Faces { gateway: true, ..Faces::NONE };
        let path = Faces { path: true, ..Faces::NONE };
        let admin = Faces { admin: true, ..Faces::NONE };
        let check =
            |listeners: &[(&str, Faces)], endpoints: &[(&str, &str)], shows_ids, start: &str| {
                let urls: Vec<String> = listeners.iter().map(|(url, _)| url.to_string()).collect();
                let at = |(_, faces): &(&str, Faces)| Listener {
                    faces: *faces,
                    ..Listener::at(([127, 0, 0, 1], 1).into())
                };
                let description = Description {
                    definitions: &definitions(endpoints),
                    database: None,
                    listeners: &listeners.iter().map(at).collect::<Vec<_>>(),
                    urls: &urls,
                    is_simulated: false,
                };
                let example = description.example(&["eth"], shows_ids).unwrap_or_default();
                assert!(example.starts_with(start), "{example} does not start with {start}");
            };
        let header = "-H 'Target-Service-Id: eth' -d '{\"jsonrpc\"";
        let first = [("http://h:1", gateway), ("http://h:2", path)];
        check(&first, &[], false, &format!("try: curl -s http://h:2/v1 {header}"));
        let any = [("http://0.0.0.0:1", Faces::ALL)];
        check(&any, &[], false, "try: curl -s http://127.0.0.1:1/v1 ");
        check(&[("http://[::]:1", path)], &[], false, "try: curl -s http://[::1]:1/v1 ");
        let tls = [("https://h:1", path)];
        check(&tls, &[], false, "try: curl -sk https://h:1/v1 ");
        check(&[tls[0], ("http://h:2", path)], &[], false, "try: curl -s http://h:2/v1 ");
        let customers = [("http://h:0", admin), ("http://h:1", gateway)];
        let long = "ethpath_1764014188689_1764014188693";
        let endpoints = [("denied", "eth_*"), (long, "debug_*")];
        let call = format!("try: curl -s 'http://h:1/api/gateway?endpoint={long}' -d ");
        check(&customers, &endpoints, true, &call);
        let hidden = "try, with the id of an endpoint (plimsoll gateway endpoint list): curl -s \
                      'http://h:1/api/gateway?endpoint=ID' -d ";
        check(&customers, &endpoints, false, hidden);
        check(&customers, &endpoints[..1], true, "  no endpoint to call yet: plimsoll gateway");
        check(&customers[..1], &endpoints, true, "");
    }
}
