//! The admin API of a real gateway: tokens, resources, actions, events, and commands through it.

use crate::clients::schemathesis;
use crate::gateway::{Process, ask, eth};
use crate::run::{Done, Folder, RunResult, command, plimsoll};
use plimsoll_sim::Sim;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

/// A gateway with an admin listener.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    /// For callers, and for operators.
    address: String,
    pub(crate) admin: String,
    pub(crate) token: String,
    folder: Folder,
    _sim: Sim,
}

impl Gateway {
    pub(crate) fn start() -> Gateway {
        Gateway::with("admin_listen = \"127.0.0.1:0\"\n", Folder::new())
    }

    /// Starts one with an admin listener as configured by these lines.
    fn with(lines: &str, folder: Folder) -> Gateway {
        let made = plimsoll(&["gateway", "token"]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        let token = made.stdout.trim().to_string();
        let hash = made.stderr.split('"').nth(1).unwrap();
        assert!(token.len() == 64 && hash.len() == 64 && token != hash);
        let sim = eth();
        folder.file(
            "gateway.toml",
            format!(
                "listen = [\"127.0.0.1:0\"]\nadmin_token_sha256 = [\"{hash}\"]\n{lines}\
                 [[upstream]]\nid = \"in-file\"\nservice = \"eth\"\nurl = \"{}\"\n",
                sim.url("eth")
            ),
        );
        let process = Process::start(&folder, &[]);
        let output = process.wait_for("(admin)");
        let urls: Vec<&str> = output
            .split("listening on http")
            .skip(1)
            .filter_map(|one| one.split("//").nth(1))
            .collect();
        let address = |at: usize| urls[at].split_whitespace().next().unwrap().to_string();
        Gateway { address: address(0), admin: address(1), process, token, folder, _sim: sim }
    }

    /// Where its configuration and its database are.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Where callers reach it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    fn send(&self, request: &str, headers: &str, body: &str) -> (u16, String, String) {
        let token = format!("Authorization: Bearer {}\r\n", self.token);
        raw(&self.admin, request, &(token + headers), body)
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        let (status, _, body) = self.send(&format!("GET /api/v1/{path}"), "", "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// An action that is refused with this status, and with words of the message.
    #[track_caller]
    fn refuse(&self, action: &Value, status: u16, words: &str) {
        let found = self.send("POST /api/v1/action", "", &action.to_string());
        assert_eq!(found.0, status, "{action}: {}", found.2);
        let error: Value = serde_json::from_str(&found.2).unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{action}: {message}");
    }

    #[track_caller]
    pub(crate) fn act(&self, action: &Value) -> Value {
        let (status, _, body) = self.send("POST /api/v1/action", "", &action.to_string());
        assert_eq!(status, 200, "{action}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

/// Sends a request; returns the status, the head and the body.
fn raw(address: &str, request: &str, headers: &str, body: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    let length = body.len();
    let text = format!(
        "{request} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.into(), body.into())
}

fn endpoint(id: &str) -> Value {
    json!({ "action": "add", "kind": "endpoint", "id": id, "service": "eth" })
}

#[test]
fn questions_about_usage_are_checked() {
    let gateway = Gateway::start();
    let ask = |query: &str, headers: &str| {
        gateway.send(&format!("GET /api/v1/usage?from=2026-01&{query}"), headers, "")
    };
    let refuse = |query: &str, status: u16, words: &str| {
        let (found, _, body) = ask(query, "");
        assert_eq!(found, status, "{query}: {body}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{query}: {body}");
    };
    for name in ["endpoint", "key", "service", "method"] {
        refuse(&format!("{name}=a%00b"), 400, &format!("{name}: it has a control character"));
        refuse(&format!("{name}=%C2%85"), 400, &format!("{name}: it has a control character"));
        refuse(&format!("{name}={}", "x".repeat(257)), 400, &format!("{name}: it has over 256"));
    }
    refuse("endpoint=nope", 404, "there is no endpoint \"nope\"");
    refuse("format=csv&page=1", 400, "CSV has all rows and no pages");
    refuse("format=csv&per_page=10", 400, "CSV has all rows and no pages");
    refuse("per_page=1001", 400, "per_page must be a number from 1 to 1000");
    for (query, headers) in [("format=csv", ""), ("method=x", "Accept: text/csv\r\n")] {
        let (status, head, body) = ask(query, headers);
        assert_eq!(status, 200, "{body}");
        assert!(head.contains("content-type: text/csv"), "{head}");
        assert!(body.starts_with("endpoint,service,calls,ok,errors,"), "{body}");
    }
    let (status, _, body) = ask("endpoint=", "");
    assert_eq!(status, 200, "{body}");
}

#[test]
fn tokens_are_required_and_the_api_is_for_operators_only() {
    let gateway = Gateway::start();
    let check = |address: &str, request: &str, header: &str, status: u16| {
        let (found, head, body) = raw(address, request, header, "");
        assert_eq!(found, status, "{request} {header}: {body}");
        assert!(!body.contains(&gateway.token));
        head
    };
    let right = format!("Authorization: Bearer {}\r\n", gateway.token);
    let paths = ["health", "resources", "resource/eth", "events/stream", "openapi.json", "no-such"];
    for path in paths.map(|path| format!("GET /api/v1/{path}")) {
        for wrong in [
            String::new(),
            "Authorization: Bearer x\r\n".into(),
            "Authorization: Bearer \r\n".into(),
            format!("Authorization: Basic {}\r\n", gateway.token),
            format!("Authorization: {}\r\n", gateway.token),
            format!("Authorization: Bearer {}x\r\n", gateway.token),
            format!("Authorization: Bearer x\r\n{right}"),
        ] {
            let head = check(&gateway.admin, &path, &wrong, 401);
            assert!(head.contains("www-authenticate: Bearer"), "{head}");
        }
        check(&gateway.address, &path, &right, 404);
    }
    check(&gateway.admin, "GET /api/v1/health", &right, 200);
    check(&gateway.admin, "GET /api/v1/no-such", &right, 404);
    check(&gateway.admin, "GET /api/v1/resource/", &right, 404);
    let head = check(&gateway.admin, "DELETE /api/v1/resources", &right, 405);
    assert!(head.contains("allow: GET"), "{head}");
    check(&gateway.admin, "GET /api/v1/action", &right, 405);
    // A reload takes the token away.
    let config = std::fs::read_to_string(gateway.folder.path().join("gateway.toml")).unwrap();
    let without = config.lines().filter(|line| !line.starts_with("admin_token"));
    gateway.folder.file("gateway.toml", without.collect::<Vec<_>>().join("\n"));
    gateway.process.wait_for("admin_token_sha256");
    let (status, _, body) = raw(&gateway.admin, "GET /api/v1/health", &right, "");
    assert!(status == 404 && body.contains("the admin API is off"), "{body}");
    // A token in clear text is not accepted as a hash, and not repeated.
    let file = gateway.folder.file("bad.toml", "admin_token_sha256 = [\"s3cret-token\"]\n");
    let refused = plimsoll(&["gateway", "--config", &file, "--print-config"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("not a SHA-256 hash"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("s3cret"), "{}", refused.stderr);
}

#[test]
fn resources_have_pages_and_entity_tags() {
    let gateway = Gateway::start();
    let many: Vec<Value> = (0..25).rev().map(|n| endpoint(&format!("e{n:02}"))).collect();
    gateway.act(&json!({ "actions": many }));
    let mut seen = Vec::new();
    for page in 1..=4 {
        let found = gateway.get(&format!("resources?kind=endpoint&per_page=8&page={page}"));
        assert_eq!((&found["pages"], &found["total"]), (&json!(4), &json!(25)));
        let ids = found["resources"].as_array().unwrap().iter();
        seen.extend(ids.map(|one| one["id"].as_str().unwrap().to_string()));
    }
    assert_eq!(seen, (0..25).map(|n| format!("e{n:02}")).collect::<Vec<_>>());
    let all = gateway.get("resources");
    assert_eq!(all["total"], 30, "four built-in services, one upstream, 25 endpoints");
    for (path, status) in [
        ("resources?kind=endpoint&per_page=8&page=5", 404),
        ("resources?page=0", 400),
        ("resources?page=-1", 400),
        ("resources?page=1e3", 400),
        ("resources?page=99999999999999999999999", 400),
        ("resources?page=", 400),
        ("resources?page=1&page=2", 400),
        ("resources?per_page=0", 400),
        ("resources?per_page=1001", 400),
        ("resources?kind=table", 400),
        ("resources?kind=endpoint%27%20OR%201=1", 400),
        ("resources?offset=1", 400),
        ("resource/nobody", 404),
        ("resource/e00%00", 404),
        ("resource/e00%27--", 404),
        ("resource/..%2f..%2fetc", 404),
    ] {
        let (found, _, body) = gateway.send(&format!("GET /api/v1/{path}"), "", "");
        assert_eq!(found, status, "{path}: {body}");
    }
    let (_, head, body) = gateway.send("GET /api/v1/resource/e00", "", "");
    assert!(head.contains("cache-control: private, no-cache"), "{head}");
    assert!(body.contains("service = \\\"eth\\\""), "{body}");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let known = format!("If-None-Match: {tag}\r\n");
    let (status, _, body) = gateway.send("GET /api/v1/resource/e00", &known, "");
    assert_eq!((status, body.as_str()), (304, ""));
    gateway.act(&json!({ "action": "disable", "kind": "endpoint", "id": "e00" }));
    let (status, _, body) = gateway.send("GET /api/v1/resource/e00", &known, "");
    assert!(status == 200 && body.contains("disabled"), "{body}");
    // The same id in two kinds.
    gateway.act(&endpoint("in-file"));
    let (status, _, _) = gateway.send("GET /api/v1/resource/in-file", "", "");
    assert_eq!(status, 409);
    assert_eq!(gateway.get("resource/in-file?kind=upstream")["entry"]["from"], "file");
}

#[test]
fn actions_are_made_whole_or_not_at_all() {
    let gateway = Gateway::start();
    let before = gateway.get("resources");
    let line = |text: &str| {
        json!({ "action": "add", "kind": "upstream", "id": "u", "service": "eth",
                "definition": [{ "name": "url", "line": text }] })
    };
    let odd = "x'); DROP TABLE entry; --";
    let named = |id: &str| json!({ "action": "disable", "kind": "endpoint", "id": id });
    for (action, status, words) in [
        (
            json!({ "actions": [endpoint("a"), endpoint("a b")] }),
            422,
            "1 of the changes was rejected",
        ),
        (
            json!({ "actions": [endpoint("a"), endpoint("a")] }),
            422,
            "2 (endpoint \"a\"): the endpoint \"a\" already exists",
        ),
        (
            json!({ "actions": [endpoint("a"), named("nobody"), endpoint("")] }),
            422,
            "2 of the changes",
        ),
        (endpoint(odd), 422, "is not a valid id"),
        (endpoint(&"x".repeat(129)), 422, "x…\" is not a valid id"),
        (
            json!({ "actions": [{ "action": "drop_cache", "kind": "service", "id": "eth" }] }),
            400,
            "drop_cache alone",
        ),
        (json!({ "action": "drop_cache", "servcie": "eth" }), 400, "unknown member"),
        (json!({ "action": "drop_cache", "service": 1 }), 400, "is not a string"),
        (json!({ "action": "drop_cache", "key": "[]" }), 400, "is not an array"),
        (json!({ "action": "drop_cache", "service": odd }), 422, "there is no service"),
        (json!({ "action": "drop_cache", "method": "eth_none" }), 422, "no answers of"),
        (json!({ "action": "drop_cache", "key": [] }), 422, "needs its service and method"),
        (endpoint("a\r\nX-Header: 1"), 422, "is not a valid id"),
        (named(odd), 409, "there is no endpoint"),
        (
            json!({ "action": "add", "kind": "endpoint", "id": "a", "service": odd }),
            422,
            "is not a valid id",
        ),
        (line("url = \"http://h/\"\nid = \"other\""), 400, "control character"),
        (line("url = \"http://h/\\r\\nHost: evil\""), 422, "not a"),
        (line("url = 5"), 422, "must be"),
        (line("headers = { \"X\\r\\nY\" = \"1\" }"), 422, "entry is not valid"),
        (json!({ "action": "remove", "kind": "service", "id": "eth" }), 409, "is built in"),
        (
            json!({ "action": "drain", "kind": "upstream", "id": "in-file" }),
            409,
            "defined in the configuration",
        ),
        (json!({ "action": "drop", "kind": "upstream", "id": "u" }), 400, "\"action\" is not"),
        (json!([]), 400, "not an object"),
    ] {
        gateway.refuse(&action, status, words);
    }
    let (status, _, body) = gateway.send("POST /api/v1/action", "", "{\"action\": \"add\", \"kind");
    assert!(status == 400 && body.contains("not valid JSON"), "{body}");
    let (status, _, _) = gateway.send("POST /api/v1/action", "", &" ".repeat(11 << 20));
    assert_eq!(status, 413);
    assert_eq!(gateway.get("resources"), before, "nothing was changed");

    let done = gateway.act(&json!({ "actions": [
        line("url = \"http://127.0.0.1:9/\""),
        { "action": "drain", "kind": "upstream", "id": "u" },
        endpoint("a"),
        { "action": "disable", "kind": "endpoint", "id": "a" },
        { "action": "disable", "kind": "endpoint", "id": "a" },
    ]}));
    let outcomes: Vec<&str> = done["outcomes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["changed", "changed", "changed", "changed", "unchanged"]);
    assert_eq!(gateway.get("resource/u")["entry"]["state"], "drained");
    gateway.process.wait_for("reloaded: added 1 upstream (u)");
}

/// Entries to import.
const GOOD: &str = r#"
[[endpoint]]
id = "i1"
service = "imported"
methods = { allow = ["eth_*"], deny = ["eth_getLogs"] }
[[service]]
id = "imported"
block_time = "2s"
agree = { "*" = 1, eth_getBalance = 2 }
[[upstream]]
id = "i2"
service = "imported"
url = "http://127.0.0.1:9/${HOME}"
headers = { "X-Odd 1" = "x" }
"#;

/// Further rows, of which all but the first are wrong.
const BAD: &str = r#"
[[endpoint]]
id = "i3"
service = "eth"
[[endpoint]]
id = "i'4"
service = "eth"
[[endpoint]]
id = "i5"
[[endpoint]]
id = "i6"
service = "eth"
wieght = 5
"#;

#[test]
fn imports_add_everything_or_list_all_that_is_wrong() {
    let folder = Folder::new();
    let good = GOOD.replace("X-Odd 1", "X-Odd");
    folder.file("good.toml", &good);
    folder.file("bad.toml", good + BAD);
    let run = |line: &str| -> Done {
        let args: Vec<&str> = ["gateway"].into_iter().chain(line.split_whitespace()).collect();
        let mut command = command(&args);
        command.env_remove("DATABASE_URL").current_dir(folder.path()).output().unwrap().into()
    };
    let bad = run("import bad.toml");
    assert_eq!(bad.code, 2);
    for words in [
        "3 of the changes were rejected; nothing was changed",
        "(endpoint \"i'4\"): the entry is not valid",
        "(endpoint \"i5\"): the entry is not valid",
        "(endpoint \"i6\"): the entry is not valid",
        "wieght",
    ] {
        assert!(bad.stderr.contains(words), "{words}: {}", bad.stderr);
    }
    assert_eq!(run("endpoint list").stdout, "", "nothing was added");
    folder.file("many.toml", "[[endpoint]]\nid = \"e\"\nservice = \"eth\"\n".repeat(10_001));
    let many = run("import many.toml");
    assert!(many.stderr.contains("10001 entries; at most 10000"), "{}", many.stderr);
    let good = run("import good.toml");
    assert_eq!(good.code, 0, "{}", good.stderr);
    assert!(
        good.stderr.starts_with("added 3, replaced 0, left 0 unchanged in sqlite:"),
        "{}",
        good.stderr
    );
    let shown = run("service show imported").stdout;
    assert!(shown.contains("agree = { \"eth_getBalance\" = 2, \"*\" = 1 }"), "{shown}");
    let shown = run("upstream show i2").stdout;
    assert!(shown.contains("http://127.0.0.1:9/${HOME}") || shown.contains("headers"), "{shown}");
    let again = run("import good.toml --replace");
    assert!(again.stderr.starts_with("added 0, replaced 0, left 3 unchanged"), "{}", again.stderr);
}

/// Each command through the database and through the admin API: the same words, results and exit codes.
#[test]
fn commands_say_the_same_through_a_gateway() {
    let gateway = Gateway::start();
    let beside = Folder::new();
    let config = std::fs::read_to_string(gateway.folder.path().join("gateway.toml")).unwrap();
    beside.file("gateway.toml", &config);
    for folder in [&gateway.folder, &beside] {
        folder.file("good.toml", GOOD);
        folder.file("bad.toml", format!("{GOOD}{BAD}"));
        folder.file("wrong.toml", "[[endpoints]]\nid = \"e\"\n");
    }
    let run = |folder: &Folder, line: &str, admin: Option<&str>| -> Done {
        let admin = admin.map(|admin| format!("http://{admin}"));
        let admin = admin.iter().flat_map(|url| ["--admin", url]);
        let args: Vec<&str> =
            ["gateway"].into_iter().chain(line.split_whitespace()).chain(admin).collect();
        let mut command = command(&args);
        command.env_remove("DATABASE_URL").env("PLIMSOLL_ADMIN_TOKEN", &gateway.token);
        command.current_dir(folder.path()).output().unwrap().into()
    };
    for line in [
        "endpoint list",
        "service list",
        "upstream list --format json",
        "endpoint add e1 --service eth --allow eth_* --deny eth_getLogs",
        "endpoint add e1 --service eth",
        "endpoint add e1 --service boba --replace",
        "endpoint add e1 --service boba --replace --format json",
        "endpoint add e2 --service nowhere",
        "endpoint add e/2 --service eth",
        "endpoint list",
        "endpoint list --format json",
        "endpoint show e1",
        "endpoint show e9",
        "endpoint disable e1",
        "endpoint disable e1",
        "endpoint enable e1 --format json",
        "endpoint add e3 --service eth --allow eth_cal",
        "upstream add u1 --service eth --url http://127.0.0.1:9/${KEY}",
        "upstream add u1 --service eth --url http://127.0.0.1:9/ --header X-Api-Key:s3cret",
        "upstream list",
        "upstream show u1",
        "upstream drain u1",
        "upstream drain in-file",
        "upstream enable u1",
        "upstream add u2 --service eth --url ftp://h/",
        "service add base --chain-id 8453 --block-time 2s",
        "service add kava --chain-id 1",
        "service disable mantle",
        "service list",
        "service show base --format json",
        "endpoint add e4 --service base",
        "service remove base",
        "endpoint remove e4",
        "service remove base",
        "service remove eth",
        "endpoint remove e9",
        "upstream remove u1 --format json",
        "import good.toml",
        "import good.toml",
        "import good.toml --replace",
        "import good.toml --replace --format json",
        "import bad.toml",
        "import none.toml",
        "import wrong.toml",
        "endpoint list",
        "service list",
    ] {
        let (direct, through) =
            (run(&beside, line, None), run(&gateway.folder, line, Some(&gateway.admin)));
        // The two databases have different paths.
        let at =
            |text: &str, folder: &Folder| text.replace(&folder.path().display().to_string(), "");
        assert_eq!(through.code, direct.code, "{line}: {}", through.stderr);
        assert_eq!(through.stdout, direct.stdout, "{line}");
        assert_eq!(at(&through.stderr, &gateway.folder), at(&direct.stderr, &beside), "{line}");
        assert!(!through.stdout.contains("s3cret") && !through.stderr.contains("s3cret"), "{line}");
    }
    for (admin, words) in [
        ("127.0.0.1:1", "cannot be asked"),
        (gateway.address.as_str(), "the address of admin_listen"),
        ("user:pw@h", "user name"),
        ("127.0.0.1:1/x", "the URL has a path"),
    ] {
        let refused = run(&beside, "endpoint list", Some(admin));
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
}

/// Over https, the gateway must have a certificate for its name by a trusted CA.
#[test]
fn commands_check_the_gateway_over_tls() {
    let folder = Folder::new();
    for name in ["127.0.0.1", "localhost"] {
        let made = rcgen::generate_simple_self_signed([name.to_string()]).unwrap();
        folder.file(&format!("{name}.pem"), made.cert.pem());
        folder.file(&format!("{name}.key"), made.signing_key.serialize_pem());
    }
    let listener = "tls = { cert = \"127.0.0.1.pem\", key = \"127.0.0.1.key\" }\n\
                    [[listener]]\naddress = \"127.0.0.1:0\"\nfaces = [\"admin\"]\n";
    let gateway = Gateway::with(listener, folder);
    let run = |admin: &str, more: &[&str]| -> Done {
        let args = [&["gateway", "endpoint", "list", "--admin", admin], more].concat();
        let mut command = command(&args);
        command.env("PLIMSOLL_ADMIN_TOKEN", &gateway.token).current_dir(gateway.folder.path());
        command.output().unwrap().into()
    };
    let url = format!("https://{}", gateway.admin);
    let own = ["--admin-ca", "127.0.0.1.pem"];
    let listed = run(&url, &own);
    assert_eq!(
        (listed.code, listed.stderr.as_str()),
        (0, "no endpoints yet; see plimsoll gateway endpoint add --help\n")
    );
    let by_name = url.replace("127.0.0.1", "localhost");
    let plain = url.replace("https", "http");
    let other = eth();
    let without_tls = other.url("").replace("http", "https");
    for (admin, more, words) in [
        (&url, &[][..], "UnknownIssuer"),
        (&url, &["--admin-ca", "localhost.pem"], "invalid peer certificate"),
        (&by_name, &own, "not valid for name"),
        (&url, &["--admin-ca", "none.pem"], "--admin-ca: cannot read certificates from none.pem"),
        (&url, &["--admin-ca", "127.0.0.1.key"], "there is no certificate in 127.0.0.1.key"),
        (&plain, &[], "whether that has TLS"),
        (&plain, &own, "the URL of --admin is not https"),
        (&without_tls, &own, "write http://"),
    ] {
        let refused = run(admin, more);
        assert_eq!(refused.code, 2, "{admin} {more:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(words), "{admin} {more:?}: {}", refused.stderr);
        assert!(!refused.stderr.contains(&gateway.token));
    }
}

/// The cache is shown and emptied through the API, which demands its token, with the same words as on the
/// gateway's host.
#[test]
fn the_cache_is_part_of_the_api() {
    let gateway = Gateway::start();
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"eth_getBlockByNumber","params":["0x1",false]}"#;
    let fill = || {
        let sent = ask(&gateway.address, "POST /v1", call);
        assert_eq!(sent.status, 200, "{}", sent.body);
    };
    let run = |line: &str, admin: bool, token: &str| -> Done {
        let url = format!("http://{}", gateway.admin);
        let at =
            if admin { ["--admin", url.as_str()] } else { ["--address", gateway.admin.as_str()] };
        let words = ["gateway", "cache"].into_iter().chain(line.split_whitespace());
        let args: Vec<&str> = words.chain(at).collect();
        let mut command = command(&args);
        command.env("PLIMSOLL_ADMIN_TOKEN", token).current_dir(gateway.folder.path());
        command.output().unwrap().into()
    };
    assert_eq!(gateway.get("health")["redis"]["state"], "none");
    for line in ["stats", "drop --service eth", "drop --method nothing", "drop --service nowhere"] {
        fill();
        let direct = run(line, false, &gateway.token);
        fill();
        let through = run(line, true, &gateway.token);
        assert_eq!(through.code, direct.code, "{line}: {} {}", direct.stderr, through.stderr);
        let words = |text: &str| text.replace("http://", "");
        assert_eq!(words(&through.stderr), words(&direct.stderr), "{line}");
        if line != "stats" {
            assert_eq!(through.stdout, direct.stdout, "{line}");
        }
        assert_eq!(run(line, false, "wrong").code, 2, "{line}");
        assert_eq!(run(line, true, "wrong").code, 2, "{line}");
    }
    fill();
    let dropped = gateway.act(&json!({ "action": "drop_cache", "service": "eth",
        "method": "eth_getBlockByNumber", "key": ["0x1", false] }));
    assert_eq!(dropped, json!({ "memory": 1, "redis": null }));
    for (query, status) in [("?servcie=eth", 400), ("?service=a&service=b", 400), ("?key=[", 422)] {
        let (found, _, body) = gateway.send(&format!("DELETE /api/v1/cache{query}"), "", "");
        assert_eq!(found, status, "{query}: {body}");
    }
}

/// The scenario, shortened.
#[test]
fn the_scenario_of_the_admin_api_succeeds() {
    let gateway = Gateway::start();
    let plan = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios/admin/api.toml");
    let set = [
        format!("ADMIN=http://{}", gateway.admin),
        format!("PLIMSOLL_ADMIN_TOKEN={}", gateway.token),
        "DURATION=2s".into(),
        "BURST_START=500ms".into(),
        "BURST_DURATION=500ms".into(),
        "ACTION_RATE=5/s".into(),
    ];
    let mut args = vec!["run", plan, "--no-out", "--format", "json"];
    args.extend(set.iter().flat_map(|set| ["--set", set.as_str()]));
    let result = RunResult::of(plimsoll(&args));
    assert_eq!(result.count("/requests/ok"), 200 + 500 + 80 + 10, "{}", result.summary);
    assert!(!result.done.stderr.contains(&gateway.token));
    assert_eq!(gateway.get("resource/scenario")["entry"]["state"], "enabled");
}

#[test]
fn the_description_matches_the_handlers() {
    let gateway = Gateway::start();
    schemathesis(&format!("http://{}/api/v1/openapi.json", gateway.admin), &gateway.token);
    assert_eq!(ask(&gateway.address, "GET /ready", "").status, 200);
    gateway.process.stop();
}
