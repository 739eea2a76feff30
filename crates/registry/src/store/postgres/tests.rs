//! Postgres: the suite for all dialects, and the faults of servers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};

use super::server::Server;
use crate::store::conformance::{add, conforms, endpoint};
use crate::store::{Applied, Change, Status, Store, StoreError, StoreErrorKind};

async fn open(url: &str) -> Result<Store, StoreError> {
    Store::open(url, true, Arc::default()).await
}

#[tokio::test]
async fn postgres_conforms() {
    let server = Server::start();
    conforms(&server.new_database()).await;
}

/// Four gateways that start at the same time, several times.
#[test]
fn gateways_may_create_the_same_tables_concurrently() {
    let server = Server::start();
    for _ in 0..5 {
        let url = server.new_database();
        let start = Arc::new(std::sync::Barrier::new(4));
        let opener = |number: usize| {
            let (url, start) = (url.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                start.wait();
                runtime.unwrap().block_on(async {
                    let store = open(&url).await.unwrap();
                    add(&store, endpoint(&format!("e{number}"))).await;
                });
            })
        };
        let openers: Vec<_> = (0..4).map(opener).collect();
        openers.into_iter().for_each(|opener| opener.join().unwrap());
        let database = url.rsplit('/').next().unwrap();
        let row = server.sql_in(database, "SELECT version, sequence FROM plimsoll_registry");
        assert_eq!(row, "4|4", "one row, and every change");
    }
}

/// Tables of version 2, which four gateways migrate at the same time.
#[test]
fn older_schemas_are_migrated() {
    let server = Server::start();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime().block_on(async {
        let store = open(&server.url()).await.unwrap();
        add(&store, endpoint("before")).await;
    });
    server.sql(
        "DROP TABLE plimsoll_usage, plimsoll_usage_day, plimsoll_usage_writer; \
         UPDATE plimsoll_registry SET version = 2",
    );
    let openers: Vec<_> = (0..4)
        .map(|_| {
            let url = server.url();
            std::thread::spawn(move || runtime().block_on(async { open(&url).await.map(drop) }))
        })
        .collect();
    openers.into_iter().for_each(|opener| opener.join().unwrap().unwrap());
    assert_eq!(server.sql("SELECT version, sequence FROM plimsoll_registry"), "4|1");
    assert_eq!(server.sql("SELECT count(*) FROM plimsoll_usage"), "0");
}

#[tokio::test]
async fn newer_schemas_are_rejected() {
    let server = Server::start();
    let store = open(&server.url()).await.unwrap();
    let mut known = store.load().await.unwrap();
    server.sql("UPDATE plimsoll_registry SET version = 5");
    let is_newer = |error: &StoreError| {
        assert!(matches!(error.kind, StoreErrorKind::Newer { found: 5, known: 4 }), "{error}");
        assert!(error.hint().contains("cannot be downgraded"));
    };
    is_newer(&store.refresh(&mut known).await.unwrap_err());
    is_newer(&open(&server.url()).await.unwrap_err());
    assert_eq!(server.sql("SELECT version FROM plimsoll_registry"), "5", "left unchanged");
    // A program that is open does not write to tables that it does not know.
    server.sql("UPDATE plimsoll_registry SET version = 4");
    let store = open(&server.url()).await.unwrap();
    server.sql("UPDATE plimsoll_registry SET version = 5");
    let add = [Change::Add(endpoint("e"))];
    assert_eq!(store.apply(&add, 0).await.unwrap(), Applied::Moved);
}

#[tokio::test]
async fn errors_name_the_address_and_no_secret() {
    let server = Server::start();
    server.sql("CREATE ROLE guest LOGIN");
    server.sql("REVOKE CREATE ON SCHEMA public FROM public");
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = server.address();
    for (url, words) in [
        (format!("postgres://u:s3cret@{refused}/db"), "cannot be reached: 127.0.0.1:"),
        (format!("postgres://u:s3cret@{address}/postgres"), "role \"u\" does not exist"),
        (format!("postgres://plimsoll:s3cret@{address}/none"), "\"none\" does not exist"),
        (format!("postgres://guest:s3cret@{address}/postgres"), "permission denied for schema"),
        (format!("postgres://plimsoll:s3cret@{address}/postgres?sslmode=require"), "TLS"),
    ] {
        let error = open(&url).await.unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
    // Reading needs no more than the right to read.
    open(&server.url()).await.unwrap();
    server.sql("GRANT SELECT ON plimsoll_registry, plimsoll_entry, plimsoll_change TO guest");
    let store = open(&format!("postgres://guest@{address}/postgres")).await.unwrap();
    store.load().await.unwrap();
    let error = store.apply(&[Change::Add(endpoint("e"))], 0).await.unwrap_err();
    assert!(error.hint().contains("grant"), "{error}");
}

/// A restarted server is used again at once; a change made while there is none is an error, and is not
/// made later.
#[tokio::test]
async fn restarts_are_survived() {
    let mut server = Server::start();
    let status = Arc::new(Status::default());
    let store = Store::open(&server.url(), true, status.clone()).await.unwrap();
    add(&store, endpoint("before")).await;
    let mut known = store.load().await.unwrap();
    server.kill();
    let error = store.apply(&[Change::Add(endpoint("lost"))], 1).await.unwrap_err();
    assert!(matches!(error.kind, StoreErrorKind::Unreachable(_)), "{error}");
    assert_eq!(status.connections(), 0);
    server.start_again();
    assert!(!store.refresh(&mut known).await.unwrap(), "acknowledged, and nothing else");
    assert_eq!(known.entries, [endpoint("before")]);
    // The connection is dead, which the next use notices and repairs.
    server.kill();
    server.start_again();
    assert_eq!(store.apply(&[Change::Add(endpoint("after"))], 1).await.unwrap(), Applied::Done(2));
    assert_eq!(status.connections(), 1);
}

/// A server that hangs delays only whoever asks it, for a limited time.
#[tokio::test]
async fn hanging_servers_are_given_up() {
    let server = Server::start();
    let store = open(&server.url()).await.unwrap();
    let mut known = store.load().await.unwrap();
    server.signal(Signal::SIGSTOP);
    let change = [Change::Add(endpoint("e"))];
    let hung = async { store.apply(&change, 0).await.unwrap_err() };
    let error = tokio::time::timeout(Duration::from_secs(30), hung).await.unwrap();
    assert!(error.to_string().contains("no answer within"), "{error}");
    server.signal(Signal::SIGCONT);
    store.refresh(&mut known).await.unwrap();
    assert_eq!(known.entries, [], "the change that failed is not made later");
}

/// The second address takes over; a standby is not used for changes.
#[tokio::test]
async fn other_addresses_are_tried() {
    let (mut first, second) = (Server::start(), Server::start());
    let url = format!("postgres://plimsoll@{},{}/postgres", first.address(), second.address());
    let mut standing = open(&second.url()).await.unwrap();
    add(&standing, endpoint("second")).await;
    let store = open(&url).await.unwrap();
    let mut known = store.load().await.unwrap();
    assert_eq!(known.entries, []);
    first.kill();
    assert!(store.refresh(&mut known).await.unwrap());
    assert_eq!(
        known.entries,
        [endpoint("second")],
        "loaded as a whole, although both are at change 1"
    );
    first.start_again();
    second.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    second.sql("SELECT pg_reload_conf()");
    standing = open(&url).await.unwrap();
    assert_eq!(standing.load().await.unwrap().entries, []);
    let error = open(&second.url()).await.unwrap_err();
    assert!(error.to_string().contains("accepts no changes"), "{error}");
}

/// A role that does not wait for the disk by default still waits for changes of the registry.
#[tokio::test]
async fn changes_are_flushed_and_announced() {
    let server = Server::start();
    server.sql("ALTER ROLE plimsoll SET synchronous_commit = off");
    let store = open(&server.url()).await.unwrap();
    store.load().await.unwrap();
    let mut listener = store.listen().await.unwrap();
    server.sql(
        "CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         CREATE TABLE setting AS SELECT current_setting('synchronous_commit') AS value; \
         RETURN NULL; END $$",
    );
    server.sql(
        "CREATE TRIGGER seen AFTER INSERT ON plimsoll_entry FOR EACH ROW EXECUTE FUNCTION seen()",
    );
    add(&store, endpoint("e")).await;
    assert_eq!(server.sql("SELECT value FROM setting"), "on");
    assert!(listener.hear().await);
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'");
    assert!(!listener.hear().await, "the loss is reported");
}

/// A CA, the certificate of the server, and that of the client, as files.
struct Certificates(PathBuf);

impl Certificates {
    fn new() -> Certificates {
        let folder = std::env::temp_dir().join(format!("plimsoll-tls-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let made = Certificates(folder);
        let authority = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            std::fs::write(made.path(name), params.self_signed(&key).unwrap().pem()).unwrap();
            Issuer::new(params, key)
        };
        let ca = authority("ca");
        authority("other");
        for (name, subject) in [("server", "127.0.0.1"), ("client", "plimsoll")] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![subject.to_string()]).unwrap();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, subject);
            std::fs::write(made.path(name), params.signed_by(&key, &ca).unwrap().pem()).unwrap();
            std::fs::write(made.path(&format!("{name}-key")), key.serialize_pem()).unwrap();
        }
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.pem"))
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Both connections use TLS and check the server; certificates that do not fit are refused with the
/// reason, at once.
#[tokio::test]
async fn servers_are_checked_over_tls() {
    let made = Certificates::new();
    let shown = |name: &str| made.path(name).display().to_string();
    let server = Server::with_tls(&made.path("server"), &made.path("server-key"), &made.path("ca"));
    let own = format!("sslcert={}&sslkey={}", shown("client"), shown("client-key"));
    let full = format!("{}?sslmode=verify-full&sslrootcert={}", server.url(), shown("ca"));
    let url = format!("{full}&{own}");
    let store = open(&url).await.unwrap();
    add(&store, endpoint("e")).await;
    let mut listener = store.listen().await.unwrap();
    add(&store, endpoint("f")).await;
    assert!(listener.hear().await);
    let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE ssl AND client_dn = '/CN=plimsoll' AND application_name = 'plimsoll'";
    assert_eq!(server.sql(encrypted), "2");

    let (right, port) = (shown("ca"), server.address());
    let plain = Server::start();
    for (url, words, hint) in [
        (url.replace(&right, &shown("other")), "its issuer is not trusted", "sslrootcert="),
        (url.replace(&format!("&sslrootcert={right}"), ""), "its issuer is not trusted", "sslroot"),
        (url.replace("127.0.0.1", "localhost"), "only valid for", "a name in the certificate"),
        (url.replace(&right, "/no/such+file"), "sslrootcert: cannot read /no/such file", "PEM"),
        (url.replace(&right, &shown("server-key")), "its issuer is not trusted", "sslrootcert="),
        (url.replace(&shown("client"), "/none"), "sslcert: cannot read /none", "PEM"),
        (full.clone(), "valid client certificate", "pg_hba.conf"),
        (url.replace("sslmode=verify-full", "sslmode=disable"), "no encryption", "pg_hba.conf"),
        (url.replace(&port, &plain.address()), "does not support TLS", "ssl = on"),
    ] {
        let error = open(&url).await.expect_err(&url);
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(error.hint().contains(hint), "{hint}: {}", error.hint());
    }
    // The name is not checked if only the CA is to be.
    let by_name = url.replace("127.0.0.1", "localhost").replace("verify-full", "verify-ca");
    open(&by_name).await.unwrap();
}
