//! Secrets are planted in every place of a plan and of the command line, a target repeats all that it is
//! sent, and everything that a run and `plimsoll check` print or write is searched for them.

use crate::run::{Done, Folder, command, plimsoll};
use crate::server::{Received, Reply, Server};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

/// Variables, from the environment and from `--set`.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("PATH_KEY", "v4r/in path+1"),
    ("QUERY_TOKEN", "v4r-in-query"),
    ("BODY_SECRET", "v4r \"in\" body\\2"),
    ("SHORT_PASS", "zq9"),
];
const SET: [&str; 2] = ["HEADER_TOKEN=v4r-in-header", "USER_PASSWORD=v4r-in-userinfo"];

/// All secrets but the short one, which is masked as a word.
const SECRETS: [&str; 15] = [
    "v4r/in path+1",
    "v4r-in-query",
    "v4r \"in\" body\\2",
    "v4r-in-header",
    "v4r-in-userinfo",
    "d3fault-of-variable",
    "us3r-in-url",
    "pa55-in-url",
    "l1teral-in-query",
    "l1teral-in-authorization",
    "l1teral-in-x-api-key",
    "l1teral-in-cookie",
    "l1teral-in-target-file",
    "l1teral-beside-variable",
    "l1teral-in-fragment",
];

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |text, byte| {
        text + &match byte {
            b'-' => "-".into(),
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        }
    })
}

#[track_caller]
fn search(what: &str, text: &str) {
    for secret in SECRETS {
        let json = serde_json::to_string(secret).unwrap();
        let forms = [
            secret.to_string(),
            percent_encoded(secret),
            BASE64.encode(secret).trim_end_matches('=').to_string(),
            json.trim_matches('"').to_string(),
        ];
        for form in forms {
            assert!(!text.contains(&form), "{what} contains {secret} as {form}:\n{text}");
        }
    }
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    assert!(words.clone().all(|word| word != "zq9"), "{what} contains the short secret:\n{text}");
    for pair in ["us3r-in-url:pa55-in-url", "ann:v4r-in-userinfo"] {
        let encoded = BASE64.encode(pair);
        assert!(!text.contains(encoded.trim_end_matches('=')), "{what} contains {pair}:\n{text}");
    }
}

/// Repeats what it was sent: raw and encoded, in the body and in headers.
fn repeat(received: &Received) -> Reply {
    let token = received.header("x-plain").unwrap_or_default();
    let mut body = format!("no such page: {}\n{}\n", received.line(), received.head);
    let all = format!("{}{}", received.head, received.body);
    let is_token = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let words = all.split(|c| !is_token(c)).filter(|word| word.contains("l1teral"));
    let variables = SECRETS[..6].iter().copied().chain(["zq9"]);
    let sent = |secret: &&str| all.contains(secret) || all.contains(&percent_encoded(secret));
    for secret in words.chain(variables.filter(sent)) {
        body += &format!(
            "{secret} {} {} {}\n",
            percent_encoded(secret),
            BASE64.encode(secret),
            serde_json::to_string(secret).unwrap()
        );
    }
    let path = received.line().split_once(' ').unwrap().1;
    let headers = format!(
        "Location: http://other.example{path}\r\nX-Echo: {path} {token}\r\nX-Instance: {token}\r\n"
    );
    Reply::with(404, &headers, &(body + &received.body))
}

/// Targets with literal secrets, each beside one of these.
const BESIDE: [&str; 4] = ["", "${QUERY_TOKEN}", "$${", "{{seq}}"];

fn plan(address: &str, targets: &str) -> String {
    let mut plan = format!(
        "duration = \"2s\"\nrate = \"40/s\"\nsplit_by = {{ header = \"x-instance\" }}\n\
         [[target]]\nname = \"variables\"\n\
         request = \"POST http://ann:${{USER_PASSWORD}}@{address}/${{PATH_KEY}}/x?a=${{QUERY_TOKEN}}\"\n\
         headers = {{ X-Plain = \"${{HEADER_TOKEN}}\", Authorization = \"Bearer ${{DEFAULT_KEY:-d3fault-of-variable}}\" }}\n\
         body = 'a=${{BODY_SECRET}}&b=${{SHORT_PASS}}'\n\
         [[target]]\nrequest = \"GET http://us3r-in-url:pa55-in-url@{address}/\"\n\
         [[target]]\nfile = \"{targets}\"\n"
    );
    for beside in BESIDE {
        plan += &format!(
            "[[target]]\nrequest = \"GET http://us3r-in-url:pa55-in-url@{address}/{beside}?api_key=l1teral-in-query&x={beside}#token=l1teral-in-fragment{beside}\"\n\
             headers = {{ Authorization = \"Bearer l1teral-in-authorization{beside}\", \
             X-Api-Key = \"{beside}l1teral-in-x-api-key\", Cookie = \"sid=l1teral-in-cookie; x={beside}\" }}\n"
        );
    }
    plan
}

fn with_secrets(args: &[&str]) -> std::process::Command {
    let mut command = command(args);
    command.envs(ENVIRONMENT);
    SET.iter().for_each(|pair| _ = command.args(["--set", pair]));
    command
}

fn files(out: &Path) -> Vec<(String, String)> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let (name, path) = entry.map(|own| (own.file_name(), own.path())).unwrap();
        let bytes = std::fs::read(path).unwrap();
        (name.into_string().unwrap(), String::from_utf8_lossy(&bytes).into_owned())
    };
    let found: Vec<_> = std::fs::read_dir(out).unwrap().map(read).collect();
    for name in ["plan.toml", "host.json", "snapshots.jsonl", "samples.parquet", "summary.json"] {
        assert!(found.iter().any(|(own, _)| own == name), "{name} is missing");
    }
    found
}

/// Everything that a run prints and writes, with the metrics page of its second second.
fn searched_run(args: &[&str], out: &Path) -> Done {
    let fixed =
        ["run", "--trace", "40", "--out", out.to_str().unwrap(), "--metrics", "127.0.0.1:0"];
    let mut child = with_secrets(&[&fixed, args].concat()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    while !first.contains("metrics at http://") {
        assert!(stderr.read_line(&mut first).unwrap() > 0, "{first}");
    }
    let address = first.rsplit("http://").next().unwrap().split('/').next().unwrap().to_string();
    let metrics = std::thread::spawn(move || {
        let mut page = String::new();
        // Once a second has been counted, its targets and values are on the page.
        while !page.contains("plimsoll_run_responses_total{") {
            let Ok(mut socket) = TcpStream::connect(&address) else { return page };
            page.clear();
            let request = "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
            if socket.write_all(request.as_bytes()).is_err() {
                return page;
            }
            let _ = socket.read_to_string(&mut page);
        }
        page
    });
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    let done = Done { code, stdout, stderr: first + &rest };
    search("stdout", &done.stdout);
    search("stderr", &done.stderr);
    search("the metrics", &metrics.join().unwrap());
    files(out).iter().for_each(|(name, text)| search(name, text));
    for format in ["text", "json", "junit", "csv", "hdr", "hlog", "parquet"] {
        let args = ["report", out.to_str().unwrap(), "--format", format];
        let report = command(&args).output().unwrap();
        search(format, &String::from_utf8_lossy(&report.stdout));
        search(format, &String::from_utf8_lossy(&report.stderr));
        let stderr = String::from_utf8_lossy(&report.stderr);
        assert!(!report.stdout.is_empty(), "{format}: {stderr}");
    }
    done
}

#[test]
fn nothing_that_a_run_prints_or_writes_contains_a_secret() {
    let server = Server::start(|_, received| repeat(received));
    let address = server.address.to_string();
    let folder = Folder::new();
    let targets = folder.file(
        "targets.txt",
        format!(
            "GET http://{address}/f?token=l1teral-in-target-file${{QUERY_TOKEN}}\n\
             X-Api-Key: l1teral-in-target-file${{QUERY_TOKEN}}\n"
        ),
    );
    let path = folder.file("plan.toml", plan(&address, &targets));
    let checked: Done = with_secrets(&["check", &path]).output().unwrap().into();
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    search("check", &(checked.stdout + &checked.stderr));

    let out = folder.path().join("out");
    let done = searched_run(&[&path], &out);
    // The run did send them, and the trace shows all that is not secret.
    let sent: String = server.received().iter().map(|r| r.head.clone() + &r.body).collect();
    let basic = BASE64.encode("us3r-in-url:pa55-in-url");
    for secret in [&basic, "l1teral-in-x-api-key", "v4r-in-header", "v4r \"in\" body\\2"] {
        assert!(sent.contains(secret), "{secret} was not sent");
    }
    for shown in ["/${PATH_KEY}/x?a=${QUERY_TOKEN}", "a=${BODY_SECRET}&b=${SHORT_PASS}", "404"] {
        assert!(done.stderr.contains(shown), "{shown}: {}", done.stderr);
    }
    assert!(done.stdout.contains("404"), "{}", done.stdout);

    // The resolved plan keeps all placeholders, and can be run again.
    let resolved = out.join("plan.toml");
    let text = std::fs::read_to_string(&resolved).unwrap();
    for kept in [
        "ann:${USER_PASSWORD}@".replace("ann", "[redacted]"),
        "/${PATH_KEY}/x?a=${QUERY_TOKEN}".into(),
        "Bearer ${DEFAULT_KEY:-[redacted]}".into(),
        "api_key=[redacted]&x=${QUERY_TOKEN}".into(),
        "[redacted]{{seq}}".into(),
    ] {
        assert!(text.contains(&kept), "{kept}: {text}");
    }
    let again = |set: &[&str]| -> Done {
        let args = [&["check", resolved.to_str().unwrap()], set].concat();
        with_secrets(&args).output().unwrap().into()
    };
    let unset = again(&[]);
    assert!(unset.stderr.contains("the variable DEFAULT_KEY is not set"), "{}", unset.stderr);
    let rerun = again(&["--set", "DEFAULT_KEY=d3fault-of-variable"]);
    assert_eq!(rerun.code, 0, "{}", rerun.stderr);
    assert!(
        rerun.stderr.contains("\"[redacted]\" is sent in place of a secret"),
        "{}",
        rerun.stderr
    );
    search("check of the resolved plan", &(rerun.stdout + &rerun.stderr));
}

#[test]
fn nothing_from_the_command_line_is_repeated() {
    let server = Server::start(|_, received| repeat(received));
    let folder = Folder::new();
    let url = format!(
        "http://ann:${{USER_PASSWORD}}@{}/${{PATH_KEY}}?token=l1teral-in-query${{QUERY_TOKEN}}",
        server.address
    );
    let args = [
        &url,
        "-n",
        "20",
        "-H",
        "X-Plain: ${HEADER_TOKEN}",
        "-H",
        "X-Api-Key: l1teral-in-x-api-key$${",
        "-b",
        "${BODY_SECRET} ${SHORT_PASS}",
    ];
    searched_run(&args, &folder.path().join("out"));

    // Mistakes are reported without repeating what may be a secret.
    for args in [
        &["run", "us3r-in-url:pa55-in-url@host:x"][..],
        &["run", "http://us3r-in-url:pa55-in-url/@h/"],
        &["run", "http://us3r-in-url:pa55-in-url@h:x/"],
        &["run", "http://h/?token=l1teral-in-query", "http://h/?token=l1teral-in-query"],
        &["run", "http://h/", "-H", "X-Api-Key l1teral-in-x-api-key"],
        &["run", "http://h/", "--set", "TOKEN:v4r-in-query"],
        &["run", "http://h/", "-u", "us3r-in-url:pa55-in-url"],
        &["run", "http://h/${QUERY_TOKEN:x", "--set", "QUERY_TOKEN=v4r-in-query"],
        &["run", "http://h/", "--rate", "${QUERY_TOKEN}", "--set", "QUERY_TOKEN=v4r-in-query"],
        &[
            "run",
            "http://h/",
            "--cert",
            "${QUERY_TOKEN}",
            "--key",
            "x",
            "--set",
            "QUERY_TOKEN=v4r-in-query",
        ],
    ] {
        let done = plimsoll(args);
        assert_eq!(done.code, 2, "{args:?}: {}", done.stderr);
        search("a message", &(done.stdout + &done.stderr));
    }
}

#[test]
fn secret_variables_are_refused_where_results_would_contain_them() {
    let check = |plan: &str, place: &str, what: &str| {
        let folder = Folder::new();
        let path = folder.file("plan.toml", plan);
        let done: Done = with_secrets(&["check", &path, "--set", "QUERY_TOKEN=v4r-in-query"])
            .output()
            .unwrap()
            .into();
        assert_eq!(done.code, 2, "{plan}: {}", done.stdout);
        for words in
            [&format!("plan.toml:{place}: {what}"), "contains the secret variable QUERY_TOKEN"]
        {
            assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
        }
        assert!(done.stderr.contains("hint: use a variable whose name"), "{}", done.stderr);
        search("a message", &done.stderr);
    };
    let target = "[[target]]\nrequest = \"GET http://h/\"\n";
    let base = format!("rate = 1\nduration = \"1s\"\n{target}");
    let named = |key: &str| format!("{base}{key} = \"x-${{QUERY_TOKEN}}\"\n");
    check(&format!("name = \"x-${{QUERY_TOKEN}}\"\n{base}"), "1:8", "the plan's name");
    check(&named("name"), "5:8", "a target's name");
    check(&format!("{base}tags = {{ a = \"${{QUERY_TOKEN}}\" }}\n"), "5:14", "a tag");
    check(&format!("labels = {{ a = \"${{QUERY_TOKEN}}\" }}\n{base}"), "1:16", "a label");
    check(
        &format!("{base}expect = {{ contains = \"${{QUERY_TOKEN}}\" }}\n"),
        "5:23",
        "an expected text",
    );
    for url in ["http://${QUERY_TOKEN}.example/", "http://h:${QUERY_TOKEN}/", "${QUERY_TOKEN}"] {
        let plan = base.replace("http://h/", url);
        check(&plan, "4:11", "the host");
    }
    check(&base.replace("GET ", "${QUERY_TOKEN} "), "4:11", "the method");
    check(
        &format!("{base}[[scrape]]\nname = \"${{QUERY_TOKEN}}\"\nurl = \"http://h/\"\n"),
        "6:8",
        "the name of a scrape",
    );
    check(&format!("{base}[[scrape]]\nurl = \"http://${{QUERY_TOKEN}}/\"\n"), "6:7", "the host");
    check(
        &format!(
            "{base}[[objective]]\nthat = \"latency.p99 < 1s\"\nwhere = {{ a = \"${{QUERY_TOKEN}}\" }}\n"
        ),
        "7:15",
        "a value of \"where\"",
    );
}
