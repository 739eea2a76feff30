//! Targets from files, and targets with several requests.

use super::*;
use crate::{Body, RequestSpec, RpcExpect};
use std::sync::atomic::{AtomicU32, Ordering};

/// A test's temporary folder, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn with(files: &[(&str, &[u8])]) -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-plan-{}-{number}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.0.join(name), bytes).unwrap();
        }
        folder
    }

    /// Reads a plan with these lines for its only target.
    fn read(&self, target: &str) -> Result<Plan, Problems> {
        let text = format!("rate = \"1/s\"\nduration = \"1s\"\n[[target]]\n{target}\n");
        let mut variables = Variables::none();
        variables.set("GATEWAY", "http://gw:3069");
        variables.set("ETH_KEY", "k3y");
        Plan::read(&Document::new("plan.toml", text), &variables, &self.0)
    }

    /// The problems of such a plan, without the folder's name.
    fn problem(&self, target: &str) -> String {
        let problems = self.read(target).map(|plan| plan.to_toml()).unwrap_err().to_string();
        problems.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A plan in a run directory is read where neither its variables nor its files exist.
#[test]
fn a_recorded_plan_is_read_without_variables_and_files() {
    let many = "GET http://b/${API_TOKEN}\n\n".repeat(10_001);
    let files: [(&str, &[u8]); 3] = [
        ("many.txt", many.as_bytes()),
        ("body.json", br#"{"jsonrpc":"2.0","method":"m","id":1}"#),
        ("ca.pem", b""),
    ];
    let folder = Folder::with(&files);
    let text = "rate = 1\nduration = \"1s\"\ntls = { ca = \"ca.pem\" }\n\
        [[target]]\nrequest = \"POST http://a/${API_TOKEN}?x=${OTHER}\"\n\
        headers = { Authorization = \"Bearer ${API_TOKEN}\" }\nbody_file = \"body.json\"\n\
        [[target]]\nrequest = \"POST http://a/\"\n\
        body = '{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"id\":${ID_TOKEN}}'\n\
        [[target]]\nfile = \"many.txt\"\n\
        [[target]]\nrequest = \"GET http://c/\"\n";
    let mut variables = Variables::none();
    variables.set("API_TOKEN", "s3cret-value");
    variables.set("OTHER", "2");
    variables.set("ID_TOKEN", "7");
    let document = Document::new("plan.toml", text);
    let plan = Plan::read(&document, &variables, &folder.0).unwrap();
    let written = plan.to_toml();
    assert!(!written.contains("s3cret-value"));
    let names = plan.origin_names();
    drop(folder);
    let recorded = Plan::read_recorded(&Document::new("run/plan.toml", written), &names).unwrap();
    assert_eq!(recorded.origin_names(), ["http://a:80", "http://b:80", "http://c:80"]);
    assert_eq!(recorded.origin_names(), names);
    let targets = |plan: &Plan| plan.targets.iter().map(|own| own.name.clone()).collect::<Vec<_>>();
    assert_eq!(targets(&recorded), targets(&plan));
    assert_eq!(recorded.load_in_words(), plan.load_in_words());
    let first =
        |plan: &Plan| plan.requests[..2].iter().map(|own| own.expect.rpc).collect::<Vec<_>>();
    assert_eq!(first(&recorded), [RpcExpect::Result; 2]);
    assert_eq!(first(&recorded), first(&plan));
}

/// Reads a resolved plan back; it must contain the same requests without any files.
fn read_back(plan: &Plan) -> Plan {
    let shown = plan.to_toml();
    assert!(!shown.contains("k3y"), "{shown}");
    let nowhere = Path::new("/nonexistent");
    let mut variables = Variables::none();
    variables.set("ETH_KEY", "k3y");
    let again = Plan::read(&Document::new("resolved.toml", shown.as_str()), &variables, nowhere);
    let again = again.unwrap_or_else(|problems| panic!("{problems}\n{shown}"));
    assert_eq!(again.to_toml(), shown);
    assert_eq!(again.digest(), plan.digest());
    let bytes = |spec: &RequestSpec| {
        let body = spec.body.template().cloned();
        (spec.method.clone(), spec.url.clone(), spec.headers.clone(), body, spec.expect.clone())
    };
    let all = |plan: &Plan| plan.requests.iter().map(bytes).collect::<Vec<_>>();
    assert_eq!(all(&again), all(plan));
    again
}

const MIXED: &[u8] = b"# three requests
POST ${GATEWAY}/api?endpoint=${ETH_KEY}
Content-Type: application/json
X-B: ${WHO:-me}
X-A: 1

{\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\",\"params\":[],\"id\":{{seq}}}

GET ${GATEWAY}/health
X-All: own

POST ${GATEWAY}/raw/{{uuid}}
@body.bin
";

#[test]
fn a_file_becomes_a_target() {
    let folder = Folder::with(&[("targets-boba.txt", MIXED), ("body.bin", b"\xff\x00{{seq}}")]);
    let target = "file = \"targets-boba.txt\"\nweight = 7\ntags = { chain = \"boba\" }\n\
        headers = { X-All = \"all\" }\nexpect = { status = \"2xx\" }";
    let plan = folder.read(target).unwrap();
    let target = &plan.targets[0];
    assert_eq!((target.name.as_str(), target.weight), ("targets-boba", 7));
    assert_eq!((plan.targets.len(), target.requests.clone()), (1, 0..3));
    let names = |spec: &RequestSpec| {
        spec.headers.iter().map(|h| format!("{}={}", h.name, h.shown)).collect::<Vec<_>>()
    };
    let [rpc, health, raw] = plan.requests.as_slice() else { panic!("three requests") };
    assert_eq!(rpc.url.path, "/api?endpoint=k3y");
    assert_eq!(names(rpc), ["Content-Type=application/json", "X-A=1", "X-All=all", "X-B=me"]);
    assert_eq!((rpc.expect.rpc, rpc.expect.status[0].clone()), (RpcExpect::Result, 200..=299));
    assert_eq!((names(health), health.expect.rpc), (vec!["X-All=own".into()], RpcExpect::Off));
    assert!(matches!(raw.body, Body::Bytes(_)));
    assert_eq!([0, 1, 2, 3, 4].map(|number| target.request(number)), [0, 1, 2, 0, 1]);
    let words = plan.describe();
    let expected = "100 %  targets-boba: POST http://gw:3069/api?endpoint=${ETH_KEY} with a body and 2 more in turn";
    assert!(words.contains(expected), "{words}");
    read_back(&plan);
}

#[test]
fn json_bodies_are_sent_unchanged() {
    let line = b"{\"method\":\"POST\",\"url\":\"${GATEWAY}/\",\"body\":\"eyJhIjoiJHtYfSJ9\"}\n\
        {\"method\":\"POST\",\"url\":\"${GATEWAY}/\",\"body\":\"e3tzZXF9fQ==\"}";
    let folder = Folder::with(&[("t.json", line)]);
    let plan = folder.read("file = \"t.json\"\nname = \"raw\"").unwrap();
    assert_eq!(plan.targets[0].name, "raw");
    let plain = |spec: &RequestSpec| spec.body.template().unwrap().as_plain().map(<[u8]>::to_vec);
    assert_eq!(plain(&plan.requests[0]), Some(b"{\"a\":\"${X}\"}".to_vec()));
    assert_eq!(plain(&plan.requests[1]), Some(b"{{seq}}".to_vec()));
    read_back(&plan);
}

#[test]
fn turns_can_be_written_in_the_plan() {
    let folder = Folder::with(&[]);
    let plan = folder
        .read(
            "name = \"both\"\nheaders = { A = \"1\" }\n[[target.turn]]\nrequest = \"GET http://h/\"\n\
             [[target.turn]]\nrequest = \"POST http://h/\"\nheaders = { a = \"2\" }\nbody_base64 = \"/w==\"\n\
             expect = { status = 201 }",
        )
        .unwrap();
    assert_eq!(
        plan.requests.iter().map(|spec| spec.headers[0].shown.as_str()).collect::<Vec<_>>(),
        ["1", "2"]
    );
    assert_eq!(plan.requests[1].expect.status, vec![201..=201]);
    read_back(&plan);
}

#[test]
fn all_problems_of_a_file_are_reported_with_positions() {
    let text =
        b"GET http://h/${NO}\na b: c\nConnection: keep-alive\nX: ${NO}\n\nBREW http://h:0/\n\n\
        POST http://h/\n@missing.json\n\nPOST http://h/\n\n{\"a\":\"{{sek}}\"}\n\nGET h/";
    let folder = Folder::with(&[("t.txt", text)]);
    assert_eq!(
        folder.problem("file = \"t.txt\"\nrate = 1"),
        "t.txt:1:14: the variable NO is not set\n  hint: set it with --set NO=VALUE or in the environment\n\
         t.txt:2:1: \"a b\" is not a valid header name\n\
         t.txt:3:1: \"Connection\" is set by the engine itself\n  hint: for a new connection each time: connections = { reuse = false }\n\
         t.txt:4:4: the variable NO is not set\n  hint: set it with --set NO=VALUE or in the environment\n\
         t.txt:6:6: port \"0\" must be a number from 1 to 65535\n\
         t.txt:9:2: cannot read missing.json: No such file or directory (os error 2)\n  hint: the path is relative to body_folder, or else to the target file's folder\n\
         t.txt:13:1: unknown placeholder {{sek}}; known: {{seq}}, {{uuid}}, {{random MIN MAX}}, and {{{{ for a literal {{\n\
         t.txt:15:5: \"h/\" is not a valid URL; write it like http://host:port/path\n\
         plan.toml:5:1: unknown key \"rate\" in [[target]]\n  hint: known keys: add_headers, body, \
         body_base64, body_file, body_folder, digest, expect, file, format, headers, literal, name, request, \
         tags, transfer, turn, weight"
    );
}

#[test]
fn invalid_files() {
    let long = format!("GET http://h/\n#{}", "x".repeat(64 << 20));
    let folder = Folder::with(&[
        ("empty.txt", b""),
        ("bytes.txt", b"GET http://h/\n\xff"),
        ("good.txt", b"GET http://h/"),
        ("long.txt", long.as_bytes()),
    ]);
    let check = |target: &str, expected: &str| {
        let problem = folder.problem(target);
        assert!(problem.contains(expected), "{target}\nreports\n{problem}\ninstead of\n{expected}");
    };
    check("file = \"empty.txt\"", "empty.txt:1:1: the file contains no requests");
    check("file = \"bytes.txt\"", "bytes.txt:2:1: not valid UTF-8");
    check("file = \"none.txt\"", "plan.toml:4:8: cannot read none.txt: No such file");
    check("file = \".\"", "plan.toml:4:8: cannot read .: it is a directory");
    check("file = \"long.txt\"", "plan.toml:4:8: long.txt is larger than 67108864 bytes");
    check("request = \"GET http://h/\"\ndigest = \"0\"", "\"digest\" requires \"file\"");
    check(
        "file = \"good.txt\"\nformat = \"jsn\"",
        "plan.toml:5:10: \"format\" must be \"http\" or \"json\"",
    );
    check(
        "file = \"good.txt\"\nrequest = \"GET http://h/\"",
        "plan.toml:5:1: \"request\" and \"file\" cannot be used together",
    );
    check(
        "file = \"good.txt\"\nexpect = { jsonrpc = \"any\" }",
        "good.txt:1:1: a JSON-RPC answer is expected",
    );
    check(
        "file = \"good.txt\"\n[[target.turn]]\nrequest = \"GET http://h/\"",
        "\"file\" and \"turn\" cannot be used together",
    );
    check("request = \"GET http://h/\"\nformat = \"http\"", "\"format\" requires \"file\"");
    check("[[target.turn]]\nbody = \"x\"", "a turn needs \"request\"");
    check("request = \"GET http://h/\"\nbody_base64 = \"*\"", "\"body_base64\": not valid base64");
    let twice = "file = \"good.txt\"\n[[target]]\nfile = \"good.txt\"";
    check(twice, "duplicate target name \"good\"");
}

#[test]
fn the_total_size_of_files_is_limited() {
    let half = vec![b'x'; 33 << 20];
    let request = b"POST http://h/\n@half\n";
    let folder = Folder::with(&[("a.txt", request), ("b.txt", request), ("half", &half)]);
    let problem = folder.problem("file = \"a.txt\"\n[[target]]\nfile = \"b.txt\"");
    assert!(
        problem.starts_with("b.txt:2:2: with half, the target files of this plan"),
        "{problem}"
    );
}

/// The resolved plan names a file whose requests it cannot contain, and notices that they have changed.
#[test]
fn large_files_are_named_with_a_digest() {
    let many = "GET ${GATEWAY}/a\nX-Id: {{seq}}\n\n".repeat(10_001);
    let controls = vec![b'\x01'; 2 << 20]; // longer in TOML than may be inlined
    let folder = Folder::with(&[
        ("many.txt", many.as_bytes()),
        ("long.txt", b"POST http://h/\n@body\n"),
        ("body", &controls),
        ("small.txt", b"GET http://h/\n"),
    ]);
    let settings = "headers = { Authorization = \"${ETH_KEY}\", A = [\"1\", \"2\"] }\n\
                    transfer = \"chunked\"\nexpect = { status = 200, contains = \"x\" }";
    let plan = folder
        .read(&format!(
            "file = \"many.txt\"\nformat = \"http\"\n{settings}\n[[target]]\nfile = \"long.txt\"\n\
             [[target]]\nfile = \"small.txt\""
        ))
        .unwrap();
    let shown = plan.to_toml();
    assert!(shown.len() < 2_000, "{} bytes", shown.len());
    assert_eq!(shown.matches("\ndigest = ").count(), 2, "{shown}");
    assert!(shown.contains("request = \"GET http://h/\""), "the small file is inlined: {shown}");
    let again = |gateway: &str| {
        let mut variables = Variables::none();
        variables.set("GATEWAY", gateway);
        variables.set("ETH_KEY", "k3y");
        Plan::read(&Document::new("resolved.toml", &shown), &variables, Path::new("/nonexistent"))
    };
    let same = again("http://gw:3069").unwrap();
    assert_eq!((same.to_toml(), same.digest()), (shown.clone(), plan.digest()));
    assert_eq!(same.requests, plan.requests);
    // A variable, the file, or a file that it names.
    let changed = |gateway: &str, file: &str| {
        let problems = again(gateway).unwrap_err().to_string();
        assert!(problems.contains(&format!("{file} have digest ")), "{problems}");
        assert!(problems.contains("has changed\n  hint: restore them, or remove"), "{problems}");
    };
    changed("http://other:3069", "many.txt");
    std::fs::write(folder.0.join("body"), "other").unwrap();
    changed("http://gw:3069", "long.txt");
}

/// Of a Host and of vegeta's own headers, the first is sent; `add_headers` comes first. `Connection: close` is
/// sent, and in the resolved plan.
#[test]
fn single_headers_are_sent_once() {
    let file = b"GET http://h/\nHost: a\nhost: b\nX-Vegeta-Seq: 9\nX-A: 1\nConnection: Close\n";
    let folder = Folder::with(&[("t.txt", file)]);
    let check = |added: &str, sent: &str| {
        let target = format!("file = \"t.txt\"\nliteral = true\nadd_headers = {{ {added} }}");
        let plan = folder.read(&target).unwrap();
        let one = |h: &crate::Header| format!("{}={}", h.name, h.shown);
        let shown: Vec<_> = plan.requests[0].headers.iter().map(one).collect();
        assert_eq!(shown.join(" "), sent);
        let document = Document::new("resolved.toml", plan.to_toml());
        let again = Plan::read(&document, &Variables::none(), Path::new("/nonexistent")).unwrap();
        assert_eq!(again.requests, plan.requests);
    };
    check("", "Connection=Close Host=a X-A=1 X-Vegeta-Seq=9");
    check(
        "HOST = [\"c\", \"d\"], X-Vegeta-Seq = \"{{seq}}\", X-A = \"0\"",
        "Connection=Close HOST=c X-A=0 X-A=1 X-Vegeta-Seq={{seq}}",
    );
}

/// With `literal`, nothing in a file is a variable or a placeholder, and the target's headers are added.
#[test]
fn literal_files_are_sent_as_they_are() {
    let file =
        b"POST http://h/${X}/{{seq}}?k=v\nContent-Length: 9\nconnection: Keep-Alive\nA: ${Y}\n\n\
        {\"a\":\"{{uuid}}\"}\n\nPUT http://h/\n@body.bin\nGET http://h/\n";
    let target = "file = \"t.txt\"\nliteral = true\nbody_folder = \"bodies\"\nbody = \"d {{seq}}\"\n\
        headers = { B = \"{{seq}}\", a = \"no\" }\nadd_headers = { A = [\"1\", \"{{seq}}\"] }\n";
    let many = b"GET http://h/{{x}}\n".repeat(10_001);
    let folder = Folder::with(&[("t.txt", file), ("many.txt", &many)]);
    std::fs::create_dir(folder.0.join("bodies")).unwrap();
    std::fs::write(folder.0.join("bodies/body.bin"), "${Z} {{w}}").unwrap();
    let plan = folder.read(target).unwrap();
    let rendered = |template: &crate::Template| {
        let mut out = Vec::new();
        template.render(crate::Values { seq: 7, key: Key::new(0) }, &mut out);
        String::from_utf8(out).unwrap()
    };
    let shown = |spec: &RequestSpec| {
        let headers = spec.headers.iter().map(|h| format!("{}={}", h.name, rendered(&h.value)));
        let body = spec.body.template().map(rendered).unwrap_or_default();
        format!("{} {} {body}", rendered(&spec.path), headers.collect::<Vec<_>>().join(" "))
    };
    let [post, put, get] = plan.requests.as_slice() else { panic!("three requests") };
    assert_eq!(
        shown(post),
        "/$%7BX%7D/%7B%7Bseq%7D%7D?k=v A=1 A=7 A=${Y} B=7 {\"a\":\"{{uuid}}\"}"
            .replace("%7B", "{")
            .replace("%7D", "}")
    );
    assert_eq!(shown(put), "/ A=1 A=7 B=7 a=no ${Z} {{w}}");
    assert_eq!(shown(get), "/ A=1 A=7 B=7 a=no d {{seq}}");
    assert_eq!(post.url_written.replace("{{{{", "{{"), "http://h/${X}/{{seq}}?k=v");
    read_back(&plan);
    // A file that the resolved plan names is read by the same rules.
    let plan = folder.read(&target.replace("t.txt", "many.txt")).unwrap();
    let again = read_back(&plan);
    assert!(plan.to_toml().contains("literal = true"));
    assert_eq!(again.requests, plan.requests);
}

#[test]
fn a_stream_has_the_rules_of_its_target() {
    let text = "rate = 1\nduration = \"1s\"\n[[target]]\nfile = \"-\"\nformat = \"http\"\nliteral = true\n\
        add_headers = { A = \"1\" }\nbody = \"d\"\n";
    let document = Document::new("plan.toml", text);
    let request = |line, text: &str| RequestText { line, bytes: text.as_bytes().to_vec() };
    let first = request(3, "GET http://h/1\n");
    let (plan, stream) = Plan::read_stream(&document, Path::new("."), &first).unwrap();
    assert_eq!((plan.requests.len(), plan.targets[0].name.as_str()), (1, "stdin"));
    assert_eq!(stream.read(&first).unwrap(), plan.requests[0]);
    let other = stream.read(&request(9, "POST http://h/2\nA: 2\n\n{}\n")).unwrap();
    assert_eq!((other.headers.len(), other.url.path.as_str()), (2, "/2"));
    let check = |text: &str, problem: &str| {
        let found = stream.read(&request(9, text)).unwrap_err();
        assert!(found.starts_with(problem), "{text}: {found}");
    };
    check("GET http://h/\nA\n", "stdin:10:1: \"A\" is not a valid header\n  hint: ");
    check("GET h\n", "stdin:9:5: \"h\" is not a valid URL");
    check("PUT http://h/\n@none\n", "stdin:10:2: cannot read ");
    let bad = Plan::read_stream(&document, Path::new("."), &request(3, "BREW\n")).err().unwrap();
    assert!(bad.to_string().starts_with("stdin:3:1: \"BREW\""), "{bad}");
}

#[test]
fn limits_and_headers_of_vegeta() {
    let check = |lines: &str, shown: &str| {
        let text = format!(
            "rate = 1\nduration = \"1s\"\n{lines}\n[[target]]\nrequest = \"GET http://h/\""
        );
        let plan =
            Plan::read(&Document::new("plan.toml", text), &Variables::none(), Path::new("."));
        let found =
            plan.map_or_else(|problems| problems.to_string(), |plan| read_back(&plan).to_toml());
        assert!(found.contains(shown), "{lines}: {found}");
    };
    check(
        "timeout_from = \"start\"\nmax_in_flight = 5",
        "timeout_from = \"start\"\nmax_in_flight = 5\n",
    );
    check("default_headers = \"go\"", "default_headers = \"go\"\n");
    check(
        "connections = { idle = 3, retry_stale = true }",
        ", idle = 3, retry_stale = true, dns_ttl",
    );
    check(
        "max_in_flight = 5",
        "plan.toml:3:1: \"max_in_flight\" requires timeout_from = \"start\"",
    );
    check("timeout_from = \"send\"", "\"timeout_from\" must be \"schedule\" or \"start\"");
}
