//! TLS with nginx: custom CA, client certificate, server name, resumption, no verification.

use crate::run::{Folder, run_plan};
use std::net::TcpListener;
use std::process::{Command, Stdio};

/// An nginx with two TLS servers with the same certificate; one requires client certificates.
struct Nginx {
    folder: Folder,
    port: u16,
    port_client: u16,
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

impl Nginx {
    fn start() -> Nginx {
        let folder = Folder::new();
        openssl(
            &folder,
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca",
        );
        folder.file(
            "server.ext",
            "subjectAltName=DNS:gateway.test,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
        );
        folder.file("client.ext", "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n");
        for name in ["server", "client"] {
            openssl(
                &folder,
                &format!(
                    "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
                ),
            );
            openssl(
                &folder,
                &format!(
                    "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile {name}.ext"
                ),
            );
        }
        let (port, port_client) = (free_port(), free_port());
        let here = folder.path().display();
        let tls = format!(
            "ssl_certificate {here}/server.pem; ssl_certificate_key {here}/server.key; ssl_session_cache shared:s:1m;"
        );
        let answer =
            "location / { return 200 \"$ssl_session_reused $ssl_server_name $ssl_client_s_dn\"; }";
        let conf = folder.file(
            "nginx.conf",
            format!(
                "daemon on; pid {here}/pid; error_log {here}/log; events {{}}\n\
                 http {{ access_log {here}/access.log; log_format r '$ssl_session_reused $ssl_server_name'; access_log {here}/seen.log r; {tls}\n\
                 server {{ listen 127.0.0.1:{port} ssl; {answer} }}\n\
                 server {{ listen 127.0.0.1:{port_client} ssl; ssl_client_certificate {here}/ca.pem; ssl_verify_client on; {answer} }} }}\n"
            ),
        );
        let started = Command::new("nginx")
            .args(["-c", &conf])
            .output()
            .expect("nginx is installed by scripts/test");
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Nginx { folder, port, port_client }
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

    let unknown = failed(nginx.port, "insecure = false", "UnknownIssuer");
    assert_eq!((unknown.errors("tls"), unknown.count("/requests/unsent")), (6, 6));
    let misnamed = failed(
        nginx.port,
        "ca = \"HERE/ca.pem\", server_name = \"other.test\"",
        "not valid for name",
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
