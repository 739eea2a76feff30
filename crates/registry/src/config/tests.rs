//! Typical configurations, invalid ones, and printing.

use super::*;
use crate::settings::{Cors, Network};
use plimsoll_measure::Nanos;

const FULL: &str = r#"
listen = ["127.0.0.1:3069", "[::1]:3069"]
instance = "gw-1"
database = "sqlite:registry.db"
workers = 2
instances = ["http://127.0.0.1:4001", "http://path.example:3069/v1"]
trusted_proxies = ["10.0.0.0/8"]
reveal = false
cors = ["https://app.example"]
drain = "10s"
access_log = { sample = "1%", file = "access.log" }
limits = { body = "2MiB", batch = 50, header = "16KiB", idle_time = "1m" }

[[service]]
id = "base"
chain_id = 8453
block_time = "2s"
spread = "least-loaded"
timeout = "20s"

[[service]]
id = "eth"
chain_id = 1

[[upstream]]
id = "node-a"
service = "eth"
url = "https://node-a.example/${NODE_A_KEY}"
headers = { Authorization = "Bearer ${NODE_A_TOKEN}", User-Agent = "edge" }
weight = 2
tier = 1
rate_limit = "500/s"
methods = { deny = ["debug_*"] }

[[endpoint]]
id = "ethpath_1764014188689_1764014188693"
service = "eth"
methods = { allow = ["eth_*", "net_version"] }
"#;

fn inputs(variables: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Inputs {
    let mut inputs = Inputs { file: Some("/tmp/gateway.toml".into()), ..Inputs::default() };
    variables.iter().for_each(|(name, value)| inputs.variables.set(*name, *value));
    inputs.flags = flags.iter().map(|(flag, value)| (*flag, value.to_string())).collect();
    inputs
}

const SECRETS: [(&str, &str); 2] = [("NODE_A_KEY", "k3y"), ("NODE_A_TOKEN", "t0ken")];

fn read(text: &str) -> Config {
    Config::read_with(&inputs(&SECRETS, &[]), Some(text)).unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn a_full_file() {
    let config = read(FULL);
    let settings = &config.settings;
    assert_eq!(settings.listeners.len(), 2);
    assert_eq!((settings.instance.as_str(), settings.workers), ("gw-1", 2));
    assert_eq!(settings.trusted_proxies, [Network::parse("10.0.0.0/8").unwrap()]);
    assert_eq!(settings.cors, Cors::Origins(vec!["https://app.example".into()]));
    assert_eq!(settings.access_log.sample, 0.01);
    assert_eq!(settings.access_log.file.as_deref(), Some(Path::new("/tmp/access.log")));
    assert_eq!((settings.limits.body, settings.limits.batch), (2 << 20, 50));
    assert_eq!(
        (settings.limits.idle_time, settings.drain),
        (Nanos::from_secs(60), Nanos::from_secs(10))
    );
    assert_eq!(config.database.as_ref().unwrap().url.value, "sqlite:/tmp/registry.db");

    let ids: Vec<&str> = config.instances.iter().map(|instance| instance.id.as_str()).collect();
    assert_eq!(ids, ["path-1", "path-2"]);
    assert_eq!(config.instances[0].url.value, "http://127.0.0.1:4001/v1");
    assert_eq!((config.instances[0].kind, &config.instances[0].service), (Kind::Path, &None));

    let upstream = &config.definitions.upstreams[0];
    assert_eq!(upstream.url.value, "https://node-a.example/k3y");
    assert_eq!(upstream.address.path, "/k3y");
    let names: Vec<&str> = upstream.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["authorization", "user-agent"]);
    assert_eq!((upstream.weight, upstream.tier, upstream.rate_limit), (2, 1, Some(500.0)));

    // The file's eth replaces the one that is built in.
    let services = config.services();
    let eth: Vec<_> = services.iter().filter(|service| service.id == "eth").collect();
    assert_eq!((eth.len(), eth[0].block_time), (1, None));
    assert_eq!(services.len(), 5);
}

#[test]
fn printed_configurations_have_no_secrets_and_read_back() {
    let config = read(FULL);
    let printed = config.to_toml();
    for secret in ["k3y", "t0ken"] {
        assert!(!printed.contains(secret), "{printed}");
    }
    assert_eq!(read(&printed), config, "{printed}");
    // The default configuration, too.
    let config = read("");
    assert_eq!(read(&config.to_toml()), config);
    assert!(config.settings.instance.ends_with(":3069"), "{}", config.settings.instance);
    assert!(!config.database.as_ref().unwrap().named);
    // A secret written in the file itself is not printed.
    let literal = "[[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"http://h/\"\n\
                   headers = { X-Tenant = \"k3y\" }\n";
    assert!(read(literal).to_toml().contains("\"x-tenant\" = \"[redacted]\""));
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let file = "listen = [\"127.0.0.1:1\"]\nworkers = 2\nreveal = false\nlimits = { batch = 7 }\n";
    let variables = [
        ("PLIMSOLL_WORKERS", "3"),
        ("PLIMSOLL_LIMITS_BATCH", "8"),
        ("PLIMSOLL_LIMITS_BODY", "1MiB"),
        ("PLIMSOLL_LISTEN", "127.0.0.1:2, 127.0.0.1:3"),
        ("PLIMSOLL_REVEAL", ""),
        ("PLIMSOLL_CORS", "https://a.example,https://b.example"),
        ("DATABASE_URL", "sqlite:///var/lib/plimsoll.db"),
        ("PATH_GATEWAY_INSTANCES", "http://127.0.0.1:3069,http://127.0.0.1:3070/"),
        ("PLIMSOLL_LIMIT_BODY", "1MiB"),
        ("PLIMSOLL_DATABASE", "sqlite:x.db"),
        ("PLIMSOLL_SERVICE_HOST", "10.0.0.1"),
        ("PLIMSOLL_PORT", "tcp://10.0.0.1:3069"),
    ];
    let flags = [
        ("--workers", "4"),
        ("--upstream", "eth=http://127.0.0.1:8545/eth"),
        ("--upstream", "boba=http://127.0.0.1:8545/boba"),
    ];
    let config = Config::read_with(&inputs(&variables, &flags), Some(file)).unwrap();
    let settings = &config.settings;
    assert_eq!((settings.workers, settings.limits.batch, settings.limits.body), (4, 8, 1 << 20));
    assert_eq!(settings.listeners.iter().map(|one| one.address.port()).collect::<Vec<_>>(), [2, 3]);
    assert!(!settings.reveal, "an empty variable counts as unset");
    assert!(matches!(&settings.cors, Cors::Origins(origins) if origins.len() == 2));
    assert_eq!(config.database.as_ref().unwrap().url.value, "sqlite:/var/lib/plimsoll.db");
    assert_eq!(config.instances[1].url.value, "http://127.0.0.1:3070/v1");
    let ids: Vec<&str> = config.definitions.upstreams.iter().map(|u| u.id.as_str()).collect();
    assert_eq!(ids, ["eth-1", "boba-1"]);
    assert_eq!(
        config.notes,
        [
            "the variable PLIMSOLL_DATABASE is not a setting; did you mean DATABASE_URL?",
            "the variable PLIMSOLL_LIMIT_BODY is not a setting; did you mean PLIMSOLL_LIMITS_BODY?"
        ]
    );
    let read = inputs(&[], &[]);
    assert_eq!(
        fixed_differences(&Config::read_with(&read, None).unwrap(), &config),
        ["listen", "workers", "database"]
    );
}

#[track_caller]
fn refused(inputs: &Inputs, text: &str, words: &[&str]) {
    let problems = Config::read_with(inputs, Some(text)).map(|config| config.to_toml());
    let problems = problems.expect_err(text).to_string();
    for word in words {
        assert!(problems.contains(word), "\n{text}\nreports\n{problems}\nwithout\n{word}");
    }
}

/// The text has one problem, without further consequences.
#[track_caller]
fn refused_only(inputs: &Inputs, text: &str, start: &str) {
    let problems = Config::read_with(inputs, Some(text)).expect_err(text).to_string();
    assert!(problems.starts_with(start), "{problems}");
    assert_eq!(problems.matches("gateway.toml:").count(), 1, "{problems}");
}

#[test]
fn invalid_files() {
    let check = |text: &str, words: &[&str]| refused(&inputs(&SECRETS, &[]), text, words);
    check(
        "lisden = []",
        &["/tmp/gateway.toml:1:1: unknown key \"lisden\"", "did you mean \"listen\"?"],
    );
    check("admin_listen = \"here\"", &["\"admin_listen\": \"here\" is not an address"]);
    check(
        "listen = [\"127.0.0.1:1\"]\nadmin_listen = \"127.0.0.1:1\"",
        &["2:16: 127.0.0.1:1 is listed twice"],
    );
    let text = "[[listener]]\nfaces = [\"path\"]\ntls = false";
    refused_only(&inputs(&[], &[]), text, "/tmp/gateway.toml:1:1: a listener without \"address\"");
    check("[[listener]]\naddress = \"[::]:1\"", &["1:1: a listener without \"faces\""]);
    check("[[listener]]\naddress = \"[::]:1\"\nfaces = []", &["3:9: \"faces\" is empty"]);
    check(
        "[[listener]]\naddress = \"[::]:1\"\nfaces = [\"rest\"]",
        &["3:10:", "must be \"gateway\", \"path\" or \"admin\", not \"rest\""],
    );
    check(
        "admin_listen = \"[::]:2\"\n[[listener]]\naddress = \"[::]:1\"\nfaces = [\"admin\"]",
        &["3:11: this listener has the face \"admin\", and admin_listen is set"],
    );
    check(
        "[[listener]]\naddress = \"[::]:1\"\nfaces = [\"path\"]\ntls = true",
        &["4:7: tls = true, but the gateway has no certificate", "set [tls] cert and key"],
    );
    for (name, reason) in [
        ("Authorization", "is never forwarded to an upstream"),
        ("cookie", "is never forwarded to an upstream"),
        ("X-Real-IP", "is never forwarded to an upstream"),
        ("x-plimsoll-via", "is set by the gateway"),
        ("Target-Service-Id", "is set by the gateway"),
        ("Content-Type", "is set by the gateway"),
        ("Accept", "is set by the gateway"),
        ("Via", "is set by the gateway"),
        ("HTTP2-Settings", "is set by the gateway"),
        ("User-Agent", "is set by the gateway"),
        ("X-Request-ID", "is set by the gateway"),
    ] {
        let text = format!("pass_headers = [\"x-a\", \"{name}\"]");
        check(&text, &["1:24:", reason]);
    }
    check(
        "listen = [\"127.0.0.1:7\", \"0.0.0.0:7\"]",
        &["1:10: 0.0.0.0:7 overlaps 127.0.0.1:7, which is listed too"],
    );
    check(
        "listen = [\"[::1]:7\"]\n[[listener]]\naddress = \"[::]:7\"\nfaces = [\"path\"]",
        &["3:11: [::]:7 overlaps [::1]:7"],
    );
    read("listen = [\"0.0.0.0:7\", \"[::]:7\"]");
    check("pass_headers = [\"a b\"]", &["\"a b\" is not a header name"]);
    check("limits = { bodi = 1 }", &["gateway.toml:1:12: unknown key \"bodi\" in limits"]);
    check("listen = \"127.0.0.1:1\"", &["1:10: \"listen\" must be a list, not a string"]);
    check("listen = []", &["\"listen\" is empty"]);
    check(
        "listen = [\"localhost\"]",
        &["1:11: \"listen\": \"localhost\" is not an address to listen on"],
    );
    check("listen = [\"1.2.3.4:5\", \"1.2.3.4:5\"]", &["1.2.3.4:5 is listed twice"]);
    check("workers = 0", &["1:11: \"workers\" must be from 1 to 256, not 0"]);
    check("instance = \"a b\"", &["\"instance\" must be 1 to 255 printable ASCII"]);
    check("limits = { header = 10 }", &["1:21: must be from 1KiB to 16MiB, not 10B"]);
    check("limits = { idle_time = \"0s\" }", &["\"idle_time\" must be longer than zero"]);
    check("reveal = \"no\"", &["\"reveal\" must be true or false"]);
    check("cors = \"all\"", &["\"cors\" must be \"any\" or \"off\", not \"all\""]);
    check("cors = [\"https://a/b\"]", &["\"https://a/b\" is not a valid origin"]);
    check("cors = [\"https://*\"]", &["\"https://*\" is not a valid origin"]);
    check("trusted_proxies = [\"10.0.0.0/33\"]", &["is not a network"]);
    check("access_log = { sample = \"2\" }", &["\"2\" is not a share"]);
    check(
        "access_log = { file = \"no/such/x\" }",
        &["the folder of /tmp/no/such/x does not exist"],
    );
    check("database = \"mysql://u:secret@h/d\"", &["\"mysql\" databases are not supported"]);
    check("database = \"sqlite::memory:\"", &["an in-memory database"]);
    check(
        "tls = { cert = \"no.pem\" }",
        &[
            "1:16: file not found: /tmp/no.pem",
            "a certificate without its key",
            "hint: set \"tls.key\" too",
        ],
    );
    check("instances = [\"127.0.0.1:3069\"]", &["1:14: "]);
    check(
        "instances = [\"http://h:1\", \"http://h:1/v1\"]",
        &["the instance http://h:1/v1 is listed twice"],
    );
    check("listen = [\nworkers = = 3", &["gateway.toml:"]);
}

#[test]
fn invalid_entries() {
    let check = |text: &str, words: &[&str]| refused(&inputs(&SECRETS, &[]), text, words);
    check("[service]\nid = \"a\"", &["must be a list of tables", "write [[service]]"]);
    check("[[service]]\nchain_id = 1", &["1:1: a service without \"id\""]);
    check("[[service]]\nid = \"a b\"", &["2:6: \"id\": \"a b\" is not a valid id"]);
    check("[[service]]\nid = \"a\"\nchain_id = -1", &["\"chain_id\" must be at least 1"]);
    check("[[service]]\nid = \"a\"\nspread = \"weigthed\"", &["did you mean \"weighted\"?"]);
    check(
        "[[service]]\nid = \"a\"\n[[service]]\nid = \"a\"",
        &[
            "gateway.toml:4:6: a second service with the id \"a\"",
            "the first is at /tmp/gateway.toml:2:6",
        ],
    );
    check(
        "[[endpoint]]\nid = \"customer-4711\"\nservice = \"eth\"\n\
         [[endpoint]]\nid = \"customer-4711\"\nservice = \"eth\"",
        &["gateway.toml:5:6: a second endpoint with the id \"cust…4711\""],
    );
    // An endpoint's id is a credential, also in the wrong place.
    check(
        "[[endpoint]]\nid = \"customer 4711\"\nservice = \"customer-4711\"\ncustomer-4711 = 1\neht = 1",
        &[
            "2:6: \"id\": \"cust…4711\" is not a valid id",
            "unknown key \"cust…4711\" in [[endpoint]]",
            "unknown key \"eht\" in [[endpoint]]",
        ],
    );
    check(
        "[[endpoint]]\nid = \"e\"\nservice = \"customer-4711\"",
        &["unknown service \"cust…4711\"", "or add [[service]] with id = \"cust…4711\""],
    );
    check(
        "[[endpoint]]\nid = \"e\"\nservice = \"customer 4711\"",
        &["3:11: \"service\": \"cust…4711\" is not a valid id"],
    );
    check(
        "[[service]]\nid = \"eth\"\n[[endpoint]]\nid = \"e\"\nservice = \"nope\"",
        &["unknown service \"nope\"", "known services: boba, eth, kava, mantle; or"],
    );
    let upstream = |lines: &str| {
        format!("[[upstream]]\nid = \"n\"\nservice = \"eth\"\nurl = \"http://h/\"\n{lines}")
    };
    check("[[upstream]]\nid = \"n\"", &["an upstream without \"service\"", "without \"url\""]);
    check(
        "[[upstream]]\nid = \"n\"\nservice = \"boa\"\nurl = \"http://h\"",
        &["gateway.toml:3:11: unknown service \"boa\"", "did you mean \"boba\"?"],
    );
    check(
        "built_in_services = false\n[[endpoint]]\nid = \"e\"\nservice = \"eth\"",
        &["4:11: unknown service \"eth\""],
    );
    check(
        "[[upstream]]\nid = \"n\"\nservice = \"eth\"\nurl = \"h:1\"",
        &["4:7: \"url\": no scheme"],
    );
    check(
        "[[upstream]]\nid = \"n\"\nservice = \"eth\"\nurl = \"http://${NO_HOST}/\"",
        &["4:7: the variable NO_HOST is not set"],
    );
    check(&upstream("weight = 0"), &["\"weight\" must be from 1 to 1000"]);
    check(&upstream("tier = 10"), &["\"tier\" must be from 0 to 9"]);
    check(
        &upstream("rate_limit = \"0/s\""),
        &["\"rate_limit\" must be above 0/s", "hint: to take the upstream out of use"],
    );
    check(&upstream("rate_limit = \"fast\""), &["\"rate_limit\": \"fast\""]);
    check(&upstream("concurrency = 0"), &["\"concurrency\" must be from 1 to 10000000"]);
    check(
        &upstream("concurrency = \"on\""),
        &["\"concurrency\": \"on\" is not \"auto\", \"off\" or a number of calls"],
    );
    let service = |keys: &str| format!("[[service]]\nid = \"x\"\n{keys}\n");
    check(&service("hedge = \"p20\""), &["the quantile p20 is out of range", "from p50 to p99.9"]);
    check(&service("hedge = \"95\""), &["\"95\" is not a quantile", "such as \"p95\", or \"off\""]);
    check(&service("retry_budget = \"101%\""), &["\"101%\" is not a share"]);
    check(&service("retry_floor = \"10001/s\""), &["\"retry_floor\" must be at most 10000/s"]);
    check(&service("patience = \"0s\""), &["\"patience\""]);
    check(&service("send = \"both\""), &["\"send\""]);
    check(&service("agree = 0"), &["\"agree\" must be from 1 to 9"]);
    check(&service("agree = { \"eth_*x\" = 2 }"), &["\"eth_*x\" is not a method pattern"]);
    let unit = "such as \"0.30 USD per million compute units\"";
    check(&service("price = \"0.30\""), &["\"0.30\" has no currency", unit]);
    check(&service("price = \"0.30 USD\""), &["\"0.30 USD\" has no unit", unit]);
    check(&service("cupr = 0"), &["\"cupr\" must be from 1 to"]);
    check("[usage]\nprice = \"5 USD per call\"\n", &["2:9", "has the unit \"per call\"", unit]);
    check("[usage]\nkeep = \"24h\"\n", &["\"keep\" must be at least \"768h\""]);
    check("[usage]\nkeep = \"400d\"\n", &["\"400d\" is in days", "write \"9600h\""]);
    check("[usage]\nspool = \"1KiB\"\n", &["must be from 1MiB to"]);
    check("[network]\ncuttm = 1\n", &["2:9: \"network.cucg\" is missing", "CUPR × CUTTM ÷ CUCG"]);
    check("[network]\npokt = \"0.007\"\n", &["\"0.007\" has no currency"]);
    check(
        "[usage]\nprice = \"1 EUR per compute unit\"\n[network]\npokt = \"0.007 USD\"\n",
        &["4:8: the price of a POKT is in USD, and usage.price is in EUR"],
    );
    check(&service("compute_units = -1"), &["\"compute_units\""]);
    check(&service("compute_units = { eth_call = 1000001 }"), &["must be from 0 to 1000000"]);
    check(&service("compute_units = { \"e*l\" = 2 }"), &["\"e*l\" is not a method pattern"]);
    check(&service("compute_units = { eth_call = \"two\" }"), &["\"eth_call\""]);
    check(
        &service("compute_units = { \"*\" = 1, default = 2 }"),
        &["\"*\" and \"default\" mean the same", "hint: remove one of the two"],
    );
    check(
        &format!("database = \"off\"\n{}", service("agree = 2")),
        &["agree = 2, but service \"x\" has 0 upstreams", "hint: add upstreams, or lower agree"],
    );
    check(
        "[[service]]\nid = \"eth\"\nchain_id = 5\n",
        &["2:6: chain_id = 5, but the built-in service \"eth\" is on chain 1"],
    );
    check(
        "listen = [\"0.0.0.0:4000\"]\ninstances = [\"http://localhost:4000\"]\n",
        &["the instance 0.0.0.0:4000 is this gateway itself"],
    );
    check(
        "[[upstream]]\nid = \"u\"\nservice = \"eth\"\nurl = \"http://127.0.0.1:3069/\"\n",
        &["the url of upstream \"u\" is this gateway itself (127.0.0.1:3069)"],
    );
    check(&upstream("kind = \"emv\""), &["did you mean \"evm\"?"]);
    check(&upstream("headers = { TE = \"a\" }"), &["\"TE\" is set by the gateway itself"]);
    check(
        &upstream("headers = { Accept-Encoding = \"br\" }"),
        &["\"accept-encoding\" must be \"gzip\" or \"identity\""],
    );
    check(&upstream("headers = { \"a b\" = \"a\" }"), &["\"a b\" is not a valid header name"]);
    check(&upstream("headers = { A = \"a\", a = \"b\" }"), &["duplicate header \"a\""]);
    check(&upstream("headers = { A = \"a\\nb\" }"), &["a control character in header \"A\""]);
    check(&upstream("methods = { allow = [\"e*h\"] }"), &["\"e*h\" is not a method"]);
    check(
        &upstream("methods = { allow = [] }"),
        &["5:21: \"allow\" is empty", "deny = [\"*\"] to allow none"],
    );
    read(&upstream("methods = { deny = [] }"));
    check(&upstream("methods = { allowed = [] }"), &["unknown key \"allowed\" in methods"]);
    check(&upstream("ca = \"no.pem\""), &["file not found: /tmp/no.pem"]);
    check("[[endpoint]]\nid = \"e\"", &["an endpoint without \"service\""]);
    // An id of an instance.
    let taken = "instances = [\"http://h:1\"]\n[[upstream]]\nid = \"path-1\"\nservice = \"eth\"\nurl = \"http://h/\"";
    check(taken, &["a second upstream with the id \"path-1\"", "already used by \"instances\""]);
    // All problems at once, in order of place.
    check(
        "workers = 0\nx = 1\n[[endpoint]]\nid = \"e\"\nservice = \"no\"",
        &[
            "gateway.toml:1:11: ",
            "gateway.toml:2:1: unknown key \"x\"",
            "gateway.toml:5:11: unknown service \"no\"",
        ],
    );
}

#[test]
fn invalid_variables_and_flags() {
    let check = |name: &str, value: &str, word: &str| {
        refused(&inputs(&[(name, value)], &[]), "", &[&format!("{name}: {word}")]);
    };
    check("PLIMSOLL_WORKERS", "many", "\"many\" is not a whole number");
    check("PLIMSOLL_WORKERS", "0", "\"workers\" must be from 1 to 256, not 0");
    check("PLIMSOLL_REVEAL", "yes", "\"yes\" is neither true nor false");
    check("PLIMSOLL_LISTEN", "here", "\"here\" is not an address");
    check("PLIMSOLL_LIMITS_BODY", "10 parsecs", "\"10 parsecs\" is not a size");
    check("PLIMSOLL_CORS", "all", "\"cors\" must be \"any\" or \"off\"");
    check("PLIMSOLL_TLS_CERT", "/no.pem", "file not found: /no.pem");
    check("DATABASE_URL", "plimsoll.db", "not a database URL");
    check("PATH_GATEWAY_INSTANCES", "ftp://h", "\"ftp\" is not a scheme");
    let flag = |flag: &'static str, value: &str, word: &str| {
        refused(&inputs(&[], &[(flag, value)]), "", &[&format!("{flag}: {word}")]);
    };
    flag("--workers", "0", "\"workers\" must be from 1");
    flag("--listen", "x", "\"x\" is not an address");
    flag("--upstream", "http://h/?a=b", "\"http://h/?a=[redacted]\" is not SERVICE=URL");
    flag("--upstream", "eth", "\"eth\" is not SERVICE=URL");
    flag("--upstream", "eth=h:1", "no scheme");
    flag("--upstream", "eht=http://h/", "unknown service \"eht\"");
    flag("--upstream", "eth=http://h/${NO}", "the variable NO is not set");
    let twice = [("--upstream", "eth=http://h/a"), ("--upstream", "eth=http://h/b")];
    let config = Config::read_with(&inputs(&[], &twice), None).unwrap();
    let ids: Vec<&str> = config.definitions.upstreams.iter().map(|u| u.id.as_str()).collect();
    assert_eq!(ids, ["eth-1", "eth-2"]);
}

#[test]
fn cache_settings_that_contradict_each_other_are_refused() {
    let check = |text: &str, words: &[&str]| refused(&inputs(&SECRETS, &[]), text, words);
    check(
        "[cache]\nmemory = \"1MiB\"",
        &[
            "gateway.toml:2:",
            "\"cache.memory\" is 1MiB, less than one answer",
            "(1MiB)",
            "write at least",
        ],
    );
    check("[cache]\nentry = \"128MiB\"", &["gateway.toml:2:", "\"cache.memory\" is 64MiB"]);
    check("[cache]\nentry = 0", &["must be from"]);
    check(
        "[cache]\nfinal = \"5s\"",
        &["gateway.toml:2:", "\"final\" is \"5s\", shorter than \"young\", which is \"12s\""],
    );
    check("[cache]\nyoung = \"2h\"", &["gateway.toml:2:", "shorter than \"young\""]);
    check("[cache]\nyoung = \"9000h\"", &["must be at most"]);
    check("[cache]\nyoung = 5", &["must be a string with a unit"]);
    check("[cache]\nold = \"5s\"", &["unknown key \"old\"", "known keys: "]);
    check("[cache]\nredis_timeout = \"5s\"", &["must be at most \"1s\"", "a few milliseconds"]);
    check("[cache]\nredis_timeout = \"0s\"", &["longer than zero"]);
    let service = |rest: &str| format!("[[service]]\nid = \"x\"\n{rest}");
    check(
        &service("block_time = \"2s\"\ncache = { young = \"3s\" }"),
        &[
            "gateway.toml:4:",
            "\"young\" is \"3s\", but a block takes \"2s\"",
            "write at most \"2s\"",
        ],
    );
    check(
        &service("cache = { young = \"3s\" }"),
        &["the service has no \"block_time\"", "set block_time, or write at most \"1s\""],
    );
    check(
        &service("cache = { young = \"1s\", final = \"0.5s\" }"),
        &["\"final\" is \"500ms\", shorter than \"young\""],
    );
    check(&service("cache = false"), &["must be a table"]);
    check(&service("cache = { latest = \"1s\" }"), &["unknown key \"latest\""]);
    let prefetch = |calls: &str| service(&format!("cache = {{ prefetch = [{calls}] }}"));
    check(
        &prefetch("'eth_getBlocksByNumber [\"latest\"]'"),
        &[
            "gateway.toml:3:",
            "is not a method that is cached",
            "did you mean \"eth_getBlockByNumber\"",
        ],
    );
    for calls in
        ["'eth_call latest'", "'eth_call [\"latest\"'", "'eth_call [latest]'", "'eth_call 5'"]
    {
        check(
            &prefetch(calls),
            &["gateway.toml:3:", "are not a JSON array or object", "write the"],
        );
    }
    check(&prefetch(&"'eth_gasPrice', ".repeat(33)), &["33 calls in \"prefetch\", at most 32"]);
    let redis = |url: &str, words: &[&str]| {
        let inputs = inputs(&[("REDIS_URL", url)], &[]);
        refused(&inputs, "", words);
        let problems = Config::read_with(&inputs, Some("")).expect_err(url).to_string();
        assert!(problems.contains("REDIS_URL") && !problems.contains("s3cret"), "{problems}");
    };
    redis("localhost:6379", &["not a URL", "write redis://HOST:PORT"]);
    redis("http://:s3cret@localhost", &["\"http\" is not a scheme of Redis"]);
    redis("rediss://:s3cret@localhost", &["needs TLS, which is not supported", "stunnel"]);
    redis("redis://:s3cret@", &["no host"]);
    redis("redis://:s3cret@h:s3cret", &["no valid port"]);
    redis("redis://h/s3cret", &["not the number of a database"]);
    redis("unix://run/redis.sock", &["not absolute", "write unix:///PATH"]);
    for url in ["redis://:s3cret/x@h", "redis://:s3cret#x@h", "redis://:s3cret?x@h"] {
        redis(url, &["the password contains \"/\", \"?\" or \"#\"", "/ as %2F"]);
    }
    for url in ["redis://:s3cret%@h", "redis://:%zzs3cret@h", "redis://:s3cret%2@h"] {
        redis(url, &["the password contains a \"%\"", "% as %25"]);
    }
    redis("redis://s3cret@h", &["a user, but no password", "redis://:PASSWORD@HOST:PORT"]);
    for url in ["redis://:6379", "redis://:s3cret@:6379", "redis:///0"] {
        redis(url, &["no host"]);
    }
    for url in ["redis://h:", "redis://h:0", "redis://h:65536"] {
        redis(url, &["no valid port"]);
    }
    redis("redis://h?db=s3cret", &["not the number of a database"]);
    redis("redis://::1:6379", &["without brackets", "redis://[::1]:6379"]);
    redis("redis://a:1,b:1", &["no valid host", "a cluster is not supported"]);
    for value in ["false", "\"off\"", "0"] {
        check(&format!("cache = {value}"), &["must be a table", "write cache.memory = 0"]);
        let service = format!("[[service]]\nid = \"a\"\ncache = {value}\n");
        check(&service, &["gateway.toml:3:", "must be a table", "write cache = { static = \"0s\""]);
    }
}

#[test]
fn cache_settings_are_resolved_for_each_service() {
    let config = read(
        "[cache]\nmemory = 0\nstatic = \"2h\"\nyoung = \"5s\"\n\
         [[service]]\nid = \"slow\"\nblock_time = \"12s\"\n\
         [[service]]\nid = \"fast\"\nblock_time = \"250ms\"\ncache = { final = \"0s\" }\n\
         [[service]]\nid = \"unknown\"\ncache = { static = \"1s\", young = \"0s\" }\n",
    );
    let check = |id: &str, expected: [&str; 4]| {
        let mut services = config.definitions.services.iter();
        let service = services.find(|service| service.id == id).expect(id);
        let times = config.settings.cache.times.of(service);
        let times = [times.fixed, times.immutable, times.finalized, times.young];
        let times = times.map(|time| plimsoll_config::values::show_duration(time.into()));
        assert_eq!(times, expected, "{id}");
    };
    check("slow", ["2h", "1h", "1h", "5s"]);
    check("fast", ["2h", "1h", "0s", "250ms"]);
    check("unknown", ["1s", "1h", "1h", "0s"]);
    for url in [
        "redis://localhost",
        "redis://u:p@h:1/2",
        "redis://:p@%2F@h",
        "redis://[::1]",
        "valkey://h",
        "unix:///s",
    ] {
        let config = Config::read_with(&inputs(&[("REDIS_URL", url)], &[]), Some(""));
        let redis = config.unwrap_or_else(|why| panic!("{why}")).settings.cache.redis;
        assert_eq!(redis.expect("a URL").value, url);
    }
}

/// A file can be read where its secrets are not set.
#[test]
fn unset_variables_can_be_tolerated() {
    let mut inputs = inputs(&[], &[]);
    inputs.variables = inputs.variables.leave_unset();
    let config = Config::read_with(&inputs, Some(FULL)).unwrap();
    assert_eq!(config.definitions.upstreams[0].url.shown, "https://node-a.example/${NODE_A_KEY}");
    refused(&inputs, "workers = 0", &["\"workers\" must be"]);
}

/// The keys of a table, from the hint for an unknown key.
fn known_keys(text: &str) -> Vec<String> {
    let problems = Config::read_with(&inputs(&[], &[]), Some(text)).unwrap_err().to_string();
    let listed = problems.split("known keys: ").nth(1).expect(&problems);
    listed.lines().next().unwrap().split(", ").map(String::from).collect()
}

/// Compares docs/configuration.md with the table of keys and the parsers.
#[test]
fn the_documentation_names_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = |heading: &str| -> Vec<Vec<String>> {
        let part = text.split(heading).nth(1).expect(heading);
        let part = part.split("\n## ").next().unwrap();
        // Of the first table.
        let rows = part.lines().skip_while(|line| !line.starts_with("| `"));
        let rows = rows.take_while(|line| line.starts_with("| `"));
        let cells = |row: &str| row.trim_matches('|').split('|').map(|c| c.trim().into()).collect();
        rows.map(cells).collect()
    };
    let code = |text: &str| format!("`{text}`");
    let default = read("");
    let documented = rows("## The process");
    assert_eq!(documented.len(), KEYS.len());
    for (row, key) in documented.iter().zip(&KEYS) {
        assert_eq!(row[0], code(key.path));
        assert_eq!(row[3], code(&key.variable()), "{}", key.path);
        let flag = key.flag.map_or(String::new(), code);
        assert_eq!(row[4], flag, "{}", key.path);
        assert_eq!(row[5], if key.reloads { "yes" } else { "restart" }, "{}", key.path);
        // The default instance name depends on the host.
        if key.path != "instance"
            && let Some(value) = key.show(&default)
        {
            assert_eq!(row[2], code(&value), "{}", key.path);
        }
    }
    let names = |heading: &str| {
        let mut names: Vec<String> =
            rows(heading).iter().map(|row| row[0].trim_matches('`').to_string()).collect();
        names.sort();
        names
    };
    for (heading, table) in
        [("## Services", "service"), ("## Upstreams", "upstream"), ("## Endpoints", "endpoint")]
    {
        let known = known_keys(&format!("[[{table}]]\nid = \"x\"\nqqqqqqqqqqqqqq = 1\n"));
        assert_eq!(names(heading), known, "{table}");
    }
}

mod access;
mod properties;
