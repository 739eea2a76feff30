//! HTTP/2 with nginx, HAProxy, nghttpd, Caddy and the simulator: by ALPN over TLS and by prior knowledge
//! in clear, with limits of streams, GOAWAY, refused streams, and servers that do not speak it.

use crate::run::{Folder, RPC_RESULT, RunResult, plimsoll, run_plan};
use crate::server::{Reply, Server};
use plimsoll_sim::{Fault, FaultKind, Service, Settings, Sim, TlsFiles};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder with a certificate for 127.0.0.1: `cert.pem`, `key.pem`, and `both.pem`.
pub(crate) fn certified() -> Folder {
    let folder = Folder::new();
    let text = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=h \
                -addext subjectAltName=IP:127.0.0.1";
    let mut openssl = Command::new("openssl");
    openssl.args(text.split_whitespace()).current_dir(folder.path()).stdin(Stdio::null());
    let done = openssl.output().expect("openssl is installed by scripts/test");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    folder.file("both.pem", read("cert.pem") + &read("key.pem"));
    folder
}

/// A real server, which is stopped when it is dropped.
struct Running {
    process: Child,
    folder: Folder,
}

impl Running {
    /// Starts a server with this configuration, whose ports are open once it is ready.
    fn start(folder: Folder, command: &[&str], config: (&str, String), ports: &[u16]) -> Running {
        let here = folder.path().to_str().unwrap().to_string();
        let path = folder.file(config.0, config.1.replace("HERE", &here));
        let filled = |arg: &&str| arg.replace("CONFIG", &path).replace("HERE", &here);
        let args: Vec<String> = command[1..].iter().map(filled).collect();
        let process = Command::new(command[0])
            .args(args)
            .env("HOME", &here)
            .current_dir(&here)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("stderr")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; scripts/test installs it", command[0]));
        let mut running = Running { process, folder };
        for port in ports {
            while TcpStream::connect(("127.0.0.1", *port)).is_err() {
                let ended = running.process.try_wait().unwrap();
                assert!(ended.is_none(), "{} ended: {}", command[0], running.read("stderr"));
                std::thread::yield_now();
            }
        }
        running
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs 60 users for 3,000 requests, all of which must be answered over HTTP/2.
#[track_caller]
fn all_ok(url: &str, protocol: &str, more: &str) -> RunResult {
    let result = run(url, protocol, more);
    let (errors, notes) = (&result.summary["errors"], &result.summary["notes"]);
    assert_eq!(result.count("/requests/ok"), 3_000, "{url}: {errors} {notes}");
    result
}

fn run(url: &str, protocol: &str, more: &str) -> RunResult {
    let plan = format!(
        "users = 60\nrequests = 3000\ntls = {{ insecure = true }}\nprotocol = \"{protocol}\"\n{more}\n\
         [[target]]\nrequest = \"POST {url}\"\nbody = '{{\"jsonrpc\":\"2.0\",\"method\":\"eth_chainId\",\"params\":[],\"id\":1}}'\n"
    );
    let result = run_plan(&plan, &[]);
    assert!(result.count("/connections/http2/streams_peak") > 0, "{url} is HTTP/2");
    result
}

fn nginx() -> (Running, [u16; 2]) {
    let [clear, tls] = [free_port(), free_port()];
    let config = format!(
        "daemon off; master_process off; pid HERE/pid; error_log HERE/log; events {{}}\n\
         http {{ log_format p $server_protocol; access_log HERE/seen p; client_body_temp_path HERE;\n\
         proxy_temp_path HERE; fastcgi_temp_path HERE; uwsgi_temp_path HERE; scgi_temp_path HERE;\n\
         ssl_certificate HERE/cert.pem; ssl_certificate_key HERE/key.pem; keepalive_requests 400;\n\
         http2_max_concurrent_streams 20; default_type application/json;\n\
         server {{ listen 127.0.0.1:{clear} http2; listen 127.0.0.1:{tls} ssl http2;\n\
         location / {{ return 200 '{RPC_RESULT}'; }} }} }}\n"
    );
    let command = ["nginx", "-c", "CONFIG", "-e", "HERE/log"];
    (Running::start(certified(), &command, ("nginx.conf", config), &[clear, tls]), [clear, tls])
}

#[test]
fn nginx_ends_connections_and_no_request_is_lost_or_sent_twice() {
    let (nginx, [clear, tls]) = nginx();
    let mut ok = 0;
    for (url, protocol) in [
        (format!("https://127.0.0.1:{tls}/"), "auto"),
        (format!("https://127.0.0.1:{tls}/"), "http2"),
        (format!("http://127.0.0.1:{clear}/"), "http2"),
    ] {
        let result = run(&url, protocol, "");
        assert_eq!(result.count("/connections/http2/streams_allowed"), 20);
        assert!(result.count("/connections/opened") >= 8, "each carries 400 requests");
        // A request is moved once; its second connection may end, too.
        assert!(result.errors("reset") < 60, "{}", result.summary["errors"]);
        let failed = result.count("/requests/failed");
        assert_eq!(result.errors("reset"), failed, "{}", result.summary["notes"]);
        ok += result.count("/requests/ok");
    }
    let seen = nginx.read("seen");
    assert!(seen.lines().all(|line| line == "HTTP/2.0"));
    assert_eq!(seen.lines().count() as u64, ok, "nginx has processed each answered request once");
}

#[test]
fn haproxy_over_tls_and_in_clear() {
    let [clear, tls] = [free_port(), free_port()];
    let config = format!(
        "global\n maxconn 1000\n tune.h2.max-concurrent-streams 15\ndefaults\n mode http\n\
         \x20timeout client 30s\n timeout server 30s\n timeout connect 5s\nfrontend f\n\
         \x20bind 127.0.0.1:{tls} ssl crt HERE/both.pem alpn h2,http/1.1\n\
         \x20bind 127.0.0.1:{clear} proto h2\n\
         \x20http-request return status 200 content-type application/json string '{}'\n",
        RPC_RESULT.replace(' ', "\\ ")
    );
    let command = ["haproxy", "-db", "-f", "CONFIG"];
    let _running = Running::start(certified(), &command, ("haproxy.cfg", config), &[clear, tls]);
    all_ok(&format!("https://127.0.0.1:{tls}/"), "auto", "");
    let result = all_ok(&format!("http://127.0.0.1:{clear}/"), "http2", "");
    assert_eq!(result.count("/connections/http2/streams_allowed"), 15);
}

#[test]
fn caddy_over_tls_and_in_clear() {
    let [clear, tls] = [free_port(), free_port()];
    let config = format!(
        "{{\n admin off\n auto_https off\n storage file_system HERE\n servers {{\n protocols h1 h2 h2c\n }}\n}}\n\
         http://127.0.0.1:{clear}, https://127.0.0.1:{tls} {{\n tls HERE/cert.pem HERE/key.pem\n\
         \x20header Content-Type application/json\n respond `{RPC_RESULT}`\n}}\n"
    );
    // Caddy refuses a site with TLS on a port without it.
    let (head, tail) = config.split_once(", https://").unwrap();
    let body = tail.split_once("{\n").unwrap().1;
    let plain = body.lines().filter(|line| !line.contains("tls ")).collect::<Vec<_>>().join("\n");
    let config = format!("{head} {{\n{plain}\nhttps://{tail}");
    let command = ["caddy", "run", "--adapter", "caddyfile", "--config", "CONFIG"];
    let _running = Running::start(certified(), &command, ("Caddyfile", config), &[clear, tls]);
    all_ok(&format!("https://127.0.0.1:{tls}/"), "auto", "");
    all_ok(&format!("http://127.0.0.1:{clear}/"), "http2", "");
}

#[test]
fn nghttpd_with_short_and_long_answers() {
    let [clear, tls] = [free_port(), free_port()];
    let folder = certified();
    folder.file("short", RPC_RESULT);
    folder.file("long", format!("{}needle", "x".repeat(3 << 20)));
    let command =
        ["nghttpd", "-n1", "-d", "HERE", &tls.to_string(), "HERE/key.pem", "HERE/cert.pem"];
    let secure = Running::start(folder, &command, ("unused", String::new()), &[tls]);
    let root = secure.folder.path().to_str().unwrap();
    let command = ["nghttpd", "-n1", "--no-tls", "-d", root, &clear.to_string()];
    let _plain = Running::start(Folder::new(), &command, ("unused", String::new()), &[clear]);
    for (url, protocol) in [
        (format!("https://127.0.0.1:{tls}"), "auto"),
        (format!("http://127.0.0.1:{clear}"), "http2"),
    ] {
        let plan = format!(
            "users = 20\nrequests = 400\ntls = {{ insecure = true }}\nprotocol = \"{protocol}\"\n\
             [[target]]\nname = \"short\"\nweight = 9\nrequest = \"GET {url}/short\"\n\
             expect = {{ contains = \"0x10d4f\" }}\n\
             [[target]]\nname = \"long\"\nrequest = \"GET {url}/long\"\nexpect = {{ contains = \"needle\" }}\n\
             [[target]]\nname = \"head\"\nrequest = \"HEAD {url}/long\"\n\
             [[target]]\nname = \"none\"\nrequest = \"GET {url}/none\"\nexpect = {{ status = 404 }}\n"
        );
        let result = run_plan(&plan, &[]);
        assert_eq!(result.count("/requests/ok"), 400, "{url}: {}", result.summary["notes"]);
    }
}

/// The background's failure: a front end that allows few streams at a time.
#[test]
fn a_limit_of_streams_is_named_with_its_number_and_a_fix() {
    let sim = Sim::start(Settings {
        http2_streams: 25,
        latency: plimsoll_sim::Distribution::parse("100ms").ok(),
        ..Settings::for_tests(1, Service::named("eth"))
    });
    let sim = sim.unwrap();
    let run = |connections: u32| {
        let plan = format!(
            "rate = \"500/s\"\nduration = \"1s\"\nprotocol = \"http2\"\n\
             connections = {{ http2 = {{ connections = {connections}, streams = 1000 }} }}\n\
             [[target]]\nrequest = \"POST {}\"\nbody = '{{\"jsonrpc\":\"2.0\",\"method\":\"eth_chainId\",\"params\":[],\"id\":{{{{seq}}}}}}'\n",
            sim.url("eth")
        );
        run_plan(&plan, &[])
    };
    let low = run(1);
    let finding = &low.summary["verdict"]["findings"][0];
    assert_eq!(finding["id"], "peer_stream_limit", "{}", low.summary["verdict"]);
    let evidence = finding["evidence"].as_str().unwrap();
    assert!(evidence.contains("the target allows 25 on it"), "{evidence}");
    let fix = finding["fix"].as_str().unwrap();
    assert!(fix.starts_with("raise connections.http2.connections to "), "{fix}");
    assert_eq!(low.done.code, 98);
    let enough = fix.split_whitespace().nth(3).unwrap().trim_end_matches(',');
    let high = run(enough.parse().unwrap());
    high.assert_code(0);
    assert_eq!(high.count("/requests/ok"), 500, "{}", high.summary["errors"]);
}

#[test]
fn the_simulator_refuses_streams_and_ends_connections() {
    let folder = certified();
    let files = |name: &str| folder.path().join(name);
    let tls = Some(TlsFiles { cert: files("cert.pem"), key: files("key.pem") });
    for tls in [None, tls] {
        let settings = Settings { tls, ..Settings::for_tests(1, Service::named("eth")) };
        let sim = Sim::start(settings).unwrap();
        let protocol = if sim.scheme() == "https" { "auto" } else { "http2" };
        let url = sim.url("eth");
        all_ok(&url, protocol, "");
        sim.set_faults(vec![Fault::new(FaultKind::Goaway { after: 100 })]);
        let result =
            all_ok(&url, protocol, "connections.http2 = { connections = 2, streams = 50 }");
        assert!(result.count("/connections/opened") >= 20);
        sim.forget();
        let failing = |kind: FaultKind, share: f64| {
            sim.set_faults(vec![Fault::new(kind).for_share(share)]);
            let plan = format!(
                "users = 20\nrequests = 1000\nprotocol = \"{protocol}\"\ntls = {{ insecure = true }}\n\
                 [[target]]\nrequest = \"POST {url}\"\nbody = '{{\"jsonrpc\":\"2.0\",\"method\":\"eth_chainId\",\"params\":[],\"id\":1}}'\n"
            );
            let result = run_plan(&plan, &[]);
            assert!(result.count("/requests/ok") > 0 && result.errors("reset") > 0);
            result.summary["verdict"]["findings"].to_string()
        };
        let findings = failing(FaultKind::RefuseStream, 0.2);
        assert!(findings.contains("target_goaway") && findings.contains("REFUSED_STREAM"));
        let findings = failing(FaultKind::Calm, 0.05);
        assert!(
            findings.contains("target_goaway") && findings.contains("ENHANCE_YOUR_CALM"),
            "{findings}"
        );
        let findings = failing(FaultKind::Reset { after: 0 }, 0.2);
        assert!(findings.contains("target_reset"), "{findings}");
        // HTTP/1.1 beside it.
        let plan = format!(
            "users = 2\nrequests = 20\nprotocol = \"http1\"\ntls = {{ insecure = true }}\n\
             [[target]]\nrequest = \"GET {}/ready\"\n",
            url.strip_suffix("/eth").unwrap()
        );
        sim.set_faults(Vec::new());
        let result = run_plan(&plan, &[]);
        assert_eq!(result.count("/requests/ok"), 20, "{}", result.summary["notes"]);
        assert_eq!(result.count("/connections/http2/streams_peak"), 0);
    }
}

#[test]
fn servers_that_do_not_speak_http2() {
    let check = |url: &str, fault: &str, note: &str| {
        let args = ["run", url, "--protocol", "http2", "-n", "3", "--insecure", "--no-out"];
        let done = plimsoll(&[&args[..], &["--format", "json", "--timeout", "300ms"]].concat());
        let result = RunResult::of(done);
        assert_eq!((result.errors("protocol"), result.done.code), (3, 99), "{}", result.summary);
        assert_eq!(result.summary["faults"][fault], 3, "{}", result.summary["faults"]);
        let notes = result.summary["notes"].to_string();
        assert!(notes.contains(note), "{notes}");
        let findings = result.summary["verdict"]["findings"].to_string();
        assert!(findings.contains("use --protocol http1"), "{findings}");
    };
    let plain = Server::start(|_, _| Reply::ok("x"));
    check(&format!("http://{}/", plain.address), "not an HTTP/2 server", "not an HTTP/2 server");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let fault = "HTTP/2 settings not received before the timeout";
    check(&format!("http://{address}/"), fault, "set protocol = \\\"http1\\\"");
    // A TLS server without ALPN.
    let port = free_port();
    let command = ["openssl", "s_server", "-quiet", "-www", "-accept", &port.to_string(), "-cert"];
    let command = [&command[..], &["HERE/cert.pem", "-key", "HERE/key.pem"]].concat();
    let _server = Running::start(certified(), &command, ("unused", String::new()), &[port]);
    let fault = "HTTP/2 not agreed on in the TLS handshake";
    check(&format!("https://127.0.0.1:{port}/"), fault, fault);
}

#[test]
fn a_server_of_http2_alone_is_recognised() {
    let (_nginx, [clear, _]) = nginx();
    let url = format!("http://127.0.0.1:{clear}/");
    let done = plimsoll(&["run", &url, "-n", "3", "--no-out"]);
    assert_eq!(done.code, 99);
    let words = done.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("if it speaks only HTTP/2, use --protocol http2"), "{}", done.stdout);
}

#[test]
fn traces_show_fields_and_bodies() {
    let (_nginx, [clear, _]) = nginx();
    let url = format!("http://127.0.0.1:{clear}/a?b=c");
    let args = ["run", &url, "-n", "2", "--protocol", "http2", "--trace", "1", "--no-out"];
    let done = plimsoll(&[&args[..], &["-H", "X-Own: yes", "-b", "hello"]].concat());
    assert_eq!(done.code, 0, "{}", done.stderr);
    for line in [":method: POST", ":path: /a?b=c", "x-own: yes", "hello", "HTTP/2 200", RPC_RESULT]
    {
        assert!(done.stderr.contains(line), "{line}: {}", done.stderr);
    }
}
