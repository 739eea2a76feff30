//! Any configuration parses back from its printed form.

use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::*;
use crate::model::MethodRules;
use crate::model::{
    Access, AccessKey, Agree, BURST_MAX, ByMethod, COMPUTE_UNITS_MAX, CONCURRENCY_MAX, CallLimits,
    Concurrency, Endpoint, Prefetch, Resilience, Sending, ServiceTimes, Spread,
};
use crate::settings::{
    AccessLog, CacheSettings, Cors, Faces, Limits, Listener, Network, NetworkCost, TimesToLive,
    TraceEndpoint, TraceSettings, UsageSettings,
};
use crate::usage::money::{Money, PARAMETER_MAX, Price};
use plimsoll_measure::{Nanos, WallClock};
use plimsoll_rpc::method::NAMES;

fn id() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_.:-]{1,12}"
}

/// Strings with characters that need escaping in TOML, including `${` and quotes.
fn words() -> impl Strategy<Value = String> {
    "[ -~äß\"'$\\{\\}\\\\]{0,20}"
}

fn span() -> impl Strategy<Value = Nanos> {
    (1u64..1_000_000_000_000).prop_map(Nanos)
}

fn rules() -> impl Strategy<Value = MethodRules> {
    let pattern = || vec("[a-z_]{1,8}\\*?", 0..3);
    (pattern(), pattern()).prop_map(|(allow, deny)| MethodRules { allow, deny })
}

fn service() -> impl Strategy<Value = Service> {
    let number = || option::of(1u64..1 << 62);
    let flags = (any::<bool>(), any::<bool>());
    let several = (
        resilience(),
        agree(),
        any::<bool>(),
        option::of(span()),
        any::<[Option<u32>; 4]>(),
        vec(prefetch(), 0..3),
        by_method(0..=COMPUTE_UNITS_MAX),
        (option::of(price()), option::of(1..=PARAMETER_MAX)),
    );
    (id(), number(), option::of(span()), number(), 0usize..3, span(), flags, several).prop_map(
        |(id, chain_id, block_time, sync_allowance, spread, timeout, flags, several)| Service {
            id,
            chain_id,
            block_time,
            sync_allowance,
            spread: Spread::NAMES[spread].1,
            timeout,
            rest: flags.0,
            health_checks: flags.1,
            resilience: several.0,
            agree: several.1,
            send: if several.2 { Sending::All } else { Sending::One },
            park_dissenters: several.3,
            cache: times(block_time, several.4),
            prefetch: several.5,
            compute_units: several.6,
            price: several.7.0,
            cupr: several.7.1,
        },
    )
}

fn prefetch() -> impl Strategy<Value = Prefetch> {
    let params = option::of("\\[(\"[ -!#-\\[\\]-~é]{0,9}\",[0-9]|\\{\"a\": *null\\})\\]");
    (0..NAMES.len(), params)
        .prop_map(|(name, params)| Prefetch { method: NAMES[name].into(), params })
}

/// Times that do not contradict each other.
fn times(block_time: Option<Nanos>, times: [Option<u32>; 4]) -> ServiceTimes {
    let [fixed, immutable, finalized, young] =
        times.map(|time| time.map(|time| Nanos(time.into())));
    let young = young.map(|young| young.min(TimesToLive::young_max(block_time)));
    let finalized = finalized.map(|time| time.max(young.unwrap_or_default()));
    ServiceTimes { fixed, immutable, finalized, young }
}

fn price() -> impl Strategy<Value = Price> {
    let unit = "(compute unit|(thousand|million|billion) compute units)";
    (money(), unit).prop_map(|(money, unit)| Price::parse(&format!("{money} per {unit}")).unwrap())
}

fn money() -> impl Strategy<Value = Money> {
    "(0|[1-9][0-9]{0,8})(\\.[0-9]{1,9})? [A-Z]{3}".prop_map(|text| Money::parse(&text).unwrap())
}

fn usage() -> impl Strategy<Value = UsageSettings> {
    let parameter = || option::of(1..=PARAMETER_MAX);
    let own = || 1..=PARAMETER_MAX;
    let network = (parameter(), option::of((own(), own())), option::of(money()));
    (32u64 * 86_400..1 << 28, 1u64 << 20..1 << 40, option::of(price()), network).prop_map(
        |(keep, spool, price, (cupr, multiplier, pokt))| UsageSettings {
            keep: Nanos::from_secs(keep),
            spool,
            network: NetworkCost {
                cupr,
                cuttm: multiplier.map(|(cuttm, _)| cuttm),
                cucg: multiplier.map(|(_, cucg)| cucg),
                // In the currency of the price.
                pokt: price.as_ref().map_or(pokt, |price| Some(price.money.clone())),
            },
            price,
        },
    )
}

fn agree() -> impl Strategy<Value = Agree> {
    by_method(1u8..=9)
}

fn by_method<T: Copy + std::fmt::Debug>(
    numbers: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = ByMethod<T>> {
    let methods = proptest::collection::btree_map("[a-c_]{1,8}\\*?", numbers.clone(), 0..3);
    (numbers, methods).prop_map(|(default, methods)| {
        let mut methods: Vec<_> = methods.into_iter().collect();
        methods.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then(a.cmp(b)));
        ByMethod { default, methods }
    })
}

fn resilience() -> impl Strategy<Value = Resilience> {
    let share = || (0u32..=1_000).prop_map(|tenths| f64::from(tenths) / 10.0 / 100.0);
    let quantile = option::of((500u32..=999).prop_map(|tenths| f64::from(tenths) / 10.0 / 100.0));
    (share(), 0u32..=10_000, quantile, share(), option::of(span()), span()).prop_map(
        |(retry_budget, floor, hedge, hedge_budget, patience, slow_start)| Resilience {
            retry_budget,
            retry_floor: f64::from(floor),
            hedge,
            hedge_budget,
            patience,
            slow_start,
        },
    )
}

/// A string with or without the variable `KEY`, which is secret, and `HOST`, which is not.
fn filled() -> impl Strategy<Value = Text> {
    (words(), 0..3).prop_map(|(text, variable)| match variable {
        0 => Text { shown: text.replace("${", "$${"), value: text, unset: None },
        1 => Text { value: format!("{text}-s3cret"), shown: shown(&text, "-${KEY}"), unset: None },
        _ => Text { value: format!("h{text}"), shown: shown("h", &text), unset: None },
    })
}

fn shown(before: &str, after: &str) -> String {
    let after = if after.ends_with("${KEY}") { after.into() } else { after.replace("${", "$${") };
    let before = before.replace("${", "$${");
    format!("{before}{after}")
}

fn upstream(services: Vec<String>) -> impl Strategy<Value = Upstream> {
    // Headers whose literal values are printed.
    let names = ["accept", "accept-language", "cache-control", "rpc-type", "user-agent"];
    let names = prop::sample::select(names.map(String::from).to_vec());
    let headers = proptest::collection::btree_map(names, filled(), 0..3);
    let place =
        (prop::sample::select(services), any::<bool>(), "[a-z]{1,8}", 1u16.., any::<bool>());
    let rate = option::of((1u32..1_000_000).prop_map(f64::from));
    let concurrency = prop_oneof![
        Just(Concurrency::Auto),
        Just(Concurrency::Off),
        (1..=CONCURRENCY_MAX).prop_map(Concurrency::Fixed),
    ];
    let limits = (rate, concurrency);
    let flags = (any::<bool>(), any::<bool>());
    (id(), place, headers, 1u32..=1_000, 0u8..=9, limits, rules(), flags).prop_map(
        |(id, place, headers, weight, tier, limits, methods, (any_service, drain))| {
            let (rate_limit, concurrency) = limits;
            let (service, tls, host, port, secret) = place;
            let scheme = if tls { "https" } else { "http" };
            let base = format!("{scheme}://{host}:{port}/");
            let (value, shown) = if secret {
                (format!("{base}s3cret"), format!("{base}${{KEY}}"))
            } else {
                (base.clone(), base)
            };
            let kind = if any_service { Kind::Path } else { Kind::Evm };
            let address = Address::parse(&value).unwrap();
            Upstream {
                service: (!any_service).then_some(service),
                headers: headers.into_iter().collect(),
                weight,
                tier,
                rate_limit,
                concurrency,
                methods,
                drain,
                ..Upstream::at(id, kind, Text { value, shown, unset: None }, address)
            }
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let sizes = (1u64..1 << 40, 1usize..1_000, 1usize << 10..1 << 20, 1u64..1 << 40, 1u64..1 << 40);
    let counts = (1usize..10_000_000, 1u32..100_000, 1usize..10_000_000);
    (sizes, counts, (span(), span(), span(), span())).prop_map(|(sizes, counts, times)| Limits {
        body: sizes.0,
        batch: sizes.1,
        header: sizes.2,
        connections: counts.0,
        calls: counts.0,
        calls_per_connection: counts.0,
        calls_per_endpoint: counts.0,
        http2_streams: counts.1,
        answer: sizes.3,
        memory: sizes.4,
        upstream_connections: counts.2,
        header_time: times.0,
        body_time: times.1,
        idle_time: times.2,
        write_time: times.3,
        shared: times.0.0 % 2 == 0,
        replicas: 1 + counts.1 % 10_000,
    })
}

fn cache() -> impl Strategy<Value = CacheSettings> {
    let times = std::array::from_fn::<_, 4, _>(|_| 0u64..1_000_000_000_000);
    let redis = option::of(any::<bool>()).prop_map(|redis| {
        redis.map(|is_secret| match is_secret {
            true => Text {
                value: "redis://:s3cret@h:6379/1".into(),
                shown: "redis://:${KEY}@h:6379/1".into(),
                unset: None,
            },
            false => Text::plain("unix:///run/redis.sock"),
        })
    });
    (any::<bool>(), 1u64..1 << 30, 0u64..1 << 40, redis, 1u64..1_000_000_000, times).prop_map(
        |(is_on, entry, more, redis, redis_timeout, [fixed, immutable, finalized, young])| {
            CacheSettings {
                memory: if is_on { CacheSettings::memory_min(entry) + more } else { 0 },
                entry,
                redis,
                redis_timeout: Nanos(redis_timeout),
                times: TimesToLive {
                    fixed: Nanos(fixed),
                    immutable: Nanos(immutable),
                    finalized: Nanos(finalized.max(young)),
                    young: Nanos(young),
                },
            }
        },
    )
}

fn traces() -> impl Strategy<Value = TraceSettings> {
    let endpoint = option::of("http://[a-z]{1,5}:4318/v1/traces").prop_map(|url| {
        let address = |url: &str| Address::parse(url).expect("a URL");
        url.map(|url| TraceEndpoint { address: address(&url), url: Text::plain(url) })
    });
    (endpoint, "[!-~]{1,9}", 0u32..=1_000, any::<bool>()).prop_map(
        |(endpoint, service, share, respect_parent)| TraceSettings {
            endpoint,
            headers: vec![(
                "x-token".into(),
                Text { value: "s3cret".into(), shown: "${KEY}".into(), unset: None },
            )],
            service,
            sample: f64::from(share) / 10.0 / 100.0,
            respect_parent,
        },
    )
}

fn settings() -> impl Strategy<Value = Settings> {
    let passed = vec("x-[a-z]{1,8}", 0..3);
    let cors = prop_oneof![
        Just(Cors::Any),
        Just(Cors::Off),
        vec("https://[a-z]{1,5}\\.example", 1..3).prop_map(Cors::Origins),
    ];
    let networks = vec(network(), 0..3);
    let log = (0u32..=1_000, any::<bool>()).prop_map(|(share, file)| AccessLog {
        sample: f64::from(share) / 10.0 / 100.0,
        file: file.then(|| "/tmp/${x}\".log".into()),
    });
    let times = (span(), cache(), traces(), usage());
    (passed, "[!-~]{1,9}", 1usize..=256, limits(), networks, any::<bool>(), cors, log, times)
        .prop_map(
            |(
                pass_headers,
                instance,
                workers,
                limits,
                proxies,
                reveal,
                cors,
                access_log,
                (drain, cache, traces, usage),
            )| {
                Settings {
                    admin_tokens: vec![[0x5a; 32], [0x0f; 32]],
                    listeners: Vec::new(),
                    pass_headers,
                    instance,
                    workers,
                    tls: None,
                    limits,
                    trusted_proxies: proxies,
                    reveal,
                    cors,
                    access_log,
                    traces,
                    gzip: reveal,
                    cache,
                    usage,
                    idle_close: drain,
                    drain,
                }
            },
        )
}

/// Without flow label and scope id, which have no textual form.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

fn network() -> impl Strategy<Value = Network> {
    (any::<[u8; 4]>(), 0u8..=32).prop_map(|([a, b, c, d], bits)| {
        Network::parse(&format!("{a}.{b}.{c}.{d}/{bits}")).expect("a network")
    })
}

fn access() -> impl Strategy<Value = Access> {
    let origins = vec("https://[a-z]{1,9}(:[1-9][0-9]{0,3})?", 0..3);
    (vec(key(), 0..4), origins, vec(network(), 0..3), call_limits()).prop_map(
        |(mut keys, origins, networks, limits)| {
            let mut hashes = std::collections::BTreeSet::new();
            keys.retain(|key: &AccessKey| hashes.insert(key.hash));
            keys.sort_by(|a, b| a.name.cmp(&b.name));
            keys.dedup_by(|a, b| a.name == b.name);
            Access { keys, origins, networks, limits }
        },
    )
}

fn key() -> impl Strategy<Value = AccessKey> {
    let expires = option::of((0..1u64 << 33).prop_map(|secs| secs * 1_000_000_000));
    let expires = expires.prop_map(|at| at.map(|unix_ns| WallClock { unix_ns }));
    ("[a-zA-Z0-9_-]{1,9}", any::<[u8; 32]>(), expires, call_limits())
        .prop_map(|(name, hash, expires, limits)| AccessKey { name, hash, expires, limits })
}

fn call_limits() -> impl Strategy<Value = CallLimits> {
    let rate = || option::of((1u32..1_000_000).prop_map(f64::from));
    let burst = option::of((1..BURST_MAX.0).prop_map(Nanos));
    let quota = || option::of(1u64..1 << 62);
    (rate(), rate(), burst, quota(), quota()).prop_map(
        |(calls, compute_units, burst, daily, monthly)| {
            let burst = burst.filter(|_| calls.is_some() || compute_units.is_some());
            CallLimits { calls, compute_units, burst, daily, monthly }
        },
    )
}

fn definitions() -> impl Strategy<Value = Definitions> {
    vec(service(), 0..3).prop_flat_map(|services| {
        let mut ids: Vec<String> = services.iter().map(|service| service.id.clone()).collect();
        ids.push("eth".into());
        let service = prop::sample::select(ids.clone());
        let endpoint = (id(), service, rules(), option::of(agree()), any::<bool>(), access());
        let endpoint = endpoint.prop_map(|(id, service, methods, agree, no_cache, access)| {
            Endpoint { id, service, methods, agree, no_cache, access }
        });
        (Just(services), vec(upstream(ids), 0..3), vec(endpoint, 0..3)).prop_map(
            |(mut services, mut upstreams, mut endpoints)| {
                let mut seen = std::collections::BTreeSet::new();
                services.retain(|service| seen.insert(("service", service.id.clone())));
                upstreams.retain(|upstream| seen.insert(("upstream", upstream.id.clone())));
                endpoints.retain(|endpoint| seen.insert(("endpoint", endpoint.id.clone())));
                // Without a database, no more may have to agree than there are.
                let limit = |agree: &mut Agree, service: &str| {
                    let serves =
                        |one: &&Upstream| one.service.as_deref().is_none_or(|id| id == service);
                    let most = upstreams.iter().filter(serves).count().max(1) as u8;
                    let numbers = agree.methods.iter_mut().map(|(_, number)| number);
                    numbers.chain([&mut agree.default]).for_each(|one| *one = (*one).min(most));
                    if upstreams.iter().filter(serves).count() == 0 {
                        *agree = Agree::default();
                    }
                };
                for service in &mut services {
                    limit(&mut service.agree, &service.id);
                }
                for endpoint in &mut endpoints {
                    let agree = endpoint.agree.iter_mut();
                    agree.for_each(|agree| limit(agree, &endpoint.service));
                    if !upstreams
                        .iter()
                        .any(|one| one.service.as_ref().is_none_or(|id| *id == endpoint.service))
                    {
                        endpoint.agree = None;
                    }
                }
                Definitions { services, upstreams, endpoints }
            },
        )
    })
}

fn config() -> impl Strategy<Value = Config> {
    let database = prop_oneof![
        Just(None),
        any::<bool>().prop_map(|named| {
            Some(Database { url: Text::plain("sqlite:/tmp/plimsoll.db"), named })
        }),
    ];
    let instances = proptest::collection::btree_set(1u16.., 0..3).prop_map(|ports| {
        let url = |port| Text::plain(format!("http://127.0.0.1:{port}/v1"));
        ports.into_iter().zip(1..).map(|(port, n)| instance(url(port), n).unwrap()).collect()
    });
    let face = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(gateway, path, admin)| {
        Faces { gateway: gateway || !(path || admin), path, admin }
    });
    let listeners = (
        proptest::collection::btree_set(any::<SocketAddr>(), 1..6),
        0usize..3,
        vec((face, any::<bool>()), 6),
    );
    (settings(), definitions(), database, instances, listeners).prop_map(
        |(settings, definitions, database, instances, (addresses, listening, own))| {
            let mut addresses = addresses.into_iter().map(plain);
            let listen: Vec<_> = addresses.by_ref().take(1 + listening).collect();
            let admin_listen = addresses.next();
            // Two places for operators' pages are a problem.
            let faces = |faces: Faces| match admin_listen {
                Some(_) => Faces { admin: false, path: faces.path || faces.admin, ..faces },
                None => faces,
            };
            let listener = |(address, (own, tls))| Listener { address, faces: faces(own), tls };
            let listeners: Vec<Listener> = addresses.zip(own).map(listener).collect();
            let mut config = Config {
                settings,
                listen,
                admin_listen,
                listeners,
                built_in_services: true,
                entry_variables: Some(vec!["NODE_*".into(), "T".into()]),
                instances,
                definitions,
                database,
                state_dir: None,
                notes: Vec::new(),
            };
            config.settings.listeners = config.all_listeners();
            config
        },
    )
}

proptest! {
    #[test]
    fn printed_configurations_read_back(config in config()) {
        let printed = config.to_toml();
        prop_assert!(!printed.contains("s3cret"), "{printed}");
        let mut inputs = Inputs { file: Some("/tmp/gateway.toml".into()), ..Inputs::default() };
        inputs.variables.set("KEY", "s3cret");
        match Config::read_with(&inputs, Some(&printed)) {
            Ok(read) => prop_assert_eq!(read, config, "{}", printed),
            Err(problems) => prop_assert!(false, "{printed}\n{problems}"),
        }
    }
}
