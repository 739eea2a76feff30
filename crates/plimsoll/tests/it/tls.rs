//! TLS with nginx and openssl's test server: custom CA, client certificate, server name, resumption,
//! large bodies, unusual certificates, no verification, and the messages for failed handshakes.

use crate::run::{Folder, plimsoll, run_plan};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// An nginx with two TLS servers with the same certificate; one requires client certificates.
struct Nginx {
    folder: Folder,
    port: u16,
    port_client: u16,
    /// TLS 1.2 only.
    port_old: u16,
}

fn openssl(folder: &Folder, args: &str) {
    let done = Command::new("openssl")
        .args(args.split_whitespace())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed by scripts/test");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A CA, and certificates of a server and of a client by it: NAME.pem and NAME.key.
pub(crate) fn certificates(folder: &Folder) {
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca",
    );
    folder.file(
        "server.ext",
        "subjectAltName=DNS:gateway.test,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    );
    folder.file("client.ext", "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n");
    for name in ["server", "client"] {
        openssl(
            folder,
            &format!(
                "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile {name}.ext"
            ),
        );
    }
}

impl Nginx {
    fn start() -> Nginx {
        let folder = Folder::new();
        certificates(&folder);
        let (port, port_client, port_old) = (free_port(), free_port(), free_port());
        let here = folder.path().display();
        let tls = format!(
            "ssl_certificate {here}/server.pem; ssl_certificate_key {here}/server.key; ssl_session_cache shared:s:1m;"
        );
        let answer = "client_max_body_size 0; location = / { return 200 \"$ssl_session_reused $ssl_server_name $ssl_client_s_dn\"; }";
        let conf = folder.file(
            "nginx.conf",
            format!(
                "daemon on; pid {here}/pid; error_log {here}/log; events {{}}\n\
                 http {{ access_log {here}/access.log; log_format r '$ssl_session_reused $ssl_server_name'; access_log {here}/seen.log r; {tls} root {here};\n\
                 server {{ listen 127.0.0.1:{port_old} ssl; ssl_protocols TLSv1.2; {answer} }}\n\
                 server {{ listen 127.0.0.1:{port} ssl; {answer} }}\n\
                 server {{ listen 127.0.0.1:{port_client} ssl; ssl_client_certificate {here}/ca.pem; ssl_verify_client on; {answer} }} }}\n"
            ),
        );
        let started = Command::new("nginx")
            .args(["-c", &conf])
            .output()
            .expect("nginx is installed by scripts/test");
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Nginx { folder, port, port_client, port_old }
    }

    fn plan(&self, port: u16, tls: &str, expect: &str) -> String {
        let tls = tls.replace("HERE", self.folder.path().to_str().unwrap());
        format!(
            "users = 1\nrequests = 6\nconnections = {{ reuse = false }}\ntls = {{ {tls} }}\n\
             [[target]]\nrequest = \"GET https://127.0.0.1:{port}/\"\nexpect = {{ status = 200, contains = \"{expect}\" }}\n"
        )
    }

    fn seen(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("seen.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let conf = self.folder.path().join("nginx.conf");
        let _ = Command::new("nginx").arg("-c").arg(conf).args(["-s", "stop"]).output();
    }
}

#[test]
fn certificates_names_and_resumption() {
    let nginx = Nginx::start();
    let ok = |port: u16, tls: &str, expect: &str| {
        let result = run_plan(&nginx.plan(port, tls, expect), &[]);
        assert_eq!(
            result.count("/requests/ok"),
            6,
            "{tls}: {}\n{}",
            result.summary["errors"],
            result.summary["notes"]
        );
        result
    };
    let failed = |port: u16, tls: &str, words: &str| {
        let result = run_plan(&nginx.plan(port, tls, ""), &[]);
        assert_eq!(result.count("/requests/ok"), 0, "{tls}");
        let notes = result.summary["notes"].to_string();
        assert!(notes.contains(words), "{tls}: {notes}");
        result
    };
    ok(nginx.port, "ca = \"HERE/ca.pem\"", "");
    assert!(
        nginx.seen().lines().any(|line| line.starts_with("r ")),
        "sessions resume: {}",
        nginx.seen()
    );
    ok(nginx.port, "insecure = true", "");
    ok(nginx.port, "ca = \"HERE/ca.pem\", server_name = \"gateway.test\"", "gateway.test");
    ok(
        nginx.port_client,
        "ca = \"HERE/ca.pem\", cert = \"HERE/client.pem\", key = \"HERE/client.key\"",
        "CN=client",
    );

    let untrusted = "signed by an issuer this host does not trust; set tls.ca";
    let unknown = failed(nginx.port, "insecure = false", untrusted);
    assert_eq!((unknown.errors("tls"), unknown.count("/requests/unsent")), (6, 6));
    let misnamed = failed(
        nginx.port,
        "ca = \"HERE/ca.pem\", server_name = \"other.test\"",
        "the certificate is for gateway.test and 127.0.0.1, not for other.test",
    );
    assert_eq!(misnamed.errors("tls"), 6);
    let no_cert = run_plan(&nginx.plan(nginx.port_client, "ca = \"HERE/ca.pem\"", ""), &[]);
    assert_eq!(no_cert.count("/status/400"), 6, "a certificate is required: {}", no_cert.summary);

    // A server without TLS.
    let plain = crate::server::Server::start(|_, _| crate::server::Reply::ok("fine"));
    let plan = nginx.plan(plain.address.port(), "insecure = true", "");
    let plain = run_plan(&format!("timeout = \"300ms\"\n{plan}"), &[]);
    assert_eq!(plain.errors("tls"), 6, "{}", plain.summary["errors"]);
    assert_eq!(plain.count("/requests/ok"), 0);
}

/// OpenSSL's test server, which answers any GET with a page until it closes the connection.
struct TestServer {
    child: Child,
    port: u16,
}

impl TestServer {
    /// Starts it with the certificate and key `NAME.pem` and `NAME.key` in the folder.
    fn start(folder: &Folder, name: &str, args: &str) -> TestServer {
        let port = free_port();
        let all = format!("s_server -accept {port} -cert {name}.pem -key {name}.key -www {args}");
        let mut child = Command::new("openssl")
            .args(all.split_whitespace())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line.contains("ACCEPT"));
        assert!(ready, "openssl {all}");
        TestServer { child, port }
    }

    /// Whether a request is answered, and the text report.
    fn run(&self, tls: &str) -> (bool, String) {
        let plan = format!(
            "users = 1\nrequests = 1\ntls = {{ {tls} }}\n\
             [[target]]\nrequest = \"GET https://127.0.0.1:{}/\"\n",
            self.port
        );
        let folder = Folder::new();
        let done = plimsoll(&["run", &folder.file("plan.toml", plan), "--no-out"]);
        // A table folds long texts.
        let report = done.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        (report.contains("ok 1 "), report)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn certificates_of_version_1_and_self_signed_ones() {
    let folder = Folder::new();
    let here = folder.path().display();
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    openssl(&folder, &format!("req -x509 {new} -keyout own.key -out own.pem -subj /CN=own"));
    openssl(&folder, &format!("req {new} -keyout v1.key -out v1.csr -subj /CN=v1"));
    openssl(&folder, "x509 -req -in v1.csr -signkey v1.key -days 2 -out v1.pem");
    openssl(&folder, &format!("req {new} -keyout leaf.key -out leaf.csr -subj /CN=leaf"));
    folder.file("leaf.ext", "subjectAltName=IP:127.0.0.1\n");
    openssl(
        &folder,
        "x509 -req -in leaf.csr -CA v1.pem -CAkey v1.key -CAcreateserial -days 2 -out leaf.pem -extfile leaf.ext",
    );
    for name in ["own", "v1"] {
        for version in ["-tls1_2", "-tls1_3"] {
            let server = TestServer::start(&folder, name, version);
            let ca = format!("ca = \"{here}/{name}.pem\"");
            for tls in ["insecure = true", &ca] {
                let (ok, report) = server.run(tls);
                assert!(ok, "{name} {version} {tls}: {report}");
            }
        }
        let (ok, report) = TestServer::start(&folder, name, "").run("insecure = false");
        assert!(!ok && report.contains("certificate is self-signed; set tls.ca"), "{report}");
    }
    let (ok, report) =
        TestServer::start(&folder, "leaf", "").run(&format!("ca = \"{here}/v1.pem\""));
    assert!(ok, "issued by a CA of version 1: {report}");
}

#[test]
fn the_report_explains_failed_handshakes() {
    let folder = Folder::new();
    openssl(
        &folder,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout own.key -out own.pem -subj /CN=own",
    );
    for (args, expected) in [
        ("-tls1_3 -Verify 1", "the server requires a client certificate; set tls.cert and tls.key"),
        ("-tls1_2 -Verify 1", "or it requires a client certificate"),
        ("-tls1_1", "the server supports neither TLS 1.2 nor TLS 1.3"),
        ("-alpn spdy/3", "no HTTP version in common with the server (ALPN"),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA", "no cipher or kind of key in common"),
    ] {
        let (ok, report) = TestServer::start(&folder, "own", args).run("insecure = true");
        assert!(!ok && report.contains(expected), "{args}: {report}");
    }
    // A server that answers in plain HTTP, whatever it is sent.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", plain.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in plain.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let done = plimsoll(&["run", "--users", "1", "--requests", "2", "--no-out", "--url", &url]);
    let report = done.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(report.contains("it answers in plain HTTP; use http://"), "{report}{}", done.stderr);
}

#[test]
fn large_bodies_over_keep_alive_connections() {
    let nginx = Nginx::start();
    let body = vec![b'q'; 3 << 20];
    nginx.folder.file("big", &body);
    for len in [1, 65_537, body.len()] {
        let sent = nginx.folder.file("body", &body[..len]);
        for port in [nginx.port, nginx.port_old] {
            let plan = format!(
                "users = 3\nrequests = 24\ntls = {{ insecure = true }}\n\
                 [[target]]\nrequest = \"POST https://127.0.0.1:{port}/\"\nbody_file = \"{sent}\"\n\
                 [[target]]\nrequest = \"GET https://127.0.0.1:{port}/big\"\n"
            );
            let ran = run_plan(&plan, &[]);
            assert_eq!(ran.count("/requests/ok"), 24, "{len}: {}", ran.summary["errors"]);
            assert!(ran.count("/bytes/in") > 3 << 20, "{}", ran.summary["bytes"]);
            // nginx may close a connection after an answer that it sent before it had read the body.
            let closed = ran.summary["connections"]["reasons"]["target_closed"].as_u64();
            let closed = closed.unwrap_or(0);
            let opened = ran.count("/connections/opened");
            assert!(opened <= 3 + closed && closed <= 2, "{}", ran.summary["connections"]);
        }
    }
}
