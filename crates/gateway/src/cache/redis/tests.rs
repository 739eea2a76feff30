//! Redis as it is in production: restarted, stopped, full, with foreign values, or not Redis at all.

mod leases;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plimsoll_rpc::method::Method;
use tokio::runtime::Runtime;

use tokio::time::sleep;

use super::*;
use crate::cache::class::Class;
use crate::cache::key::Canonical;

/// A redis-server on a socket in a folder of its own; killed when it is dropped.
struct Server {
    folder: PathBuf,
    child: Child,
}

impl Server {
    fn start(test: &str, options: &[&str]) -> Server {
        let folder =
            std::env::temp_dir().join(format!("plimsoll-redis-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let child = Server::spawn(&folder, options);
        Server { folder, child }
    }

    fn spawn(folder: &PathBuf, options: &[&str]) -> Child {
        Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"])
            .args(options)
            .current_dir(folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, which scripts/test installs")
    }

    fn url(&self) -> String {
        format!("unix://{}", self.folder.join("redis.sock").display())
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Generous, because the machine that runs the tests may be busy; production uses a few milliseconds.
const TIMEOUT: Duration = Duration::from_millis(200);

fn redis(url: &str) -> Redis {
    let settings = RedisSettings { url: url.into(), timeout: TIMEOUT, result_max: 1 << 20 };
    Redis::start(settings, Clock::start(), &Handle::current()).expect("a valid URL")
}

/// Waits for a condition, which only a defect prevents.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("not {what}"));
}

fn name(n: u32) -> Name {
    let method = Method::find("eth_call").expect("a method");
    let (params, mut buffer) = (format!("[{n}]"), Vec::new());
    let call = Canonical::write("eth@1", method, Some(params.as_bytes()), &mut buffer);
    Name::new("eth@1", method, &call.expect("a canonical form"))
}

fn entry(length: usize) -> SharedEntry {
    SharedEntry {
        result: Bytes::from(vec![b'x'; length]),
        class: Class::Final,
        head: None,
        anchor: None,
        remaining: Nanos::from_secs(600),
    }
}

/// Stores an answer and reads it back.
async fn works(redis: &Redis, n: u32) -> bool {
    let before = redis.counts().written;
    redis.put(name(n), entry(100));
    sleep(Duration::from_millis(1)).await;
    redis.counts().written > before && redis.get(&name(n)).await.is_some()
}

#[test]
fn answers_are_shared_for_their_time() {
    let server = Server::start("shared", &[]);
    runtime().block_on(async {
        let [one, other] = std::array::from_fn(|_| redis(&server.url()));
        until("used", async || one.is_used() && other.is_used()).await;
        assert_eq!(one.get(&name(1)).await, None);
        for (n, length) in [(1, 0), (2, 100), (3, 100_000), (4, 1 << 20)] {
            one.put(name(n), entry(length));
        }
        until("written", async || one.counts().written == 4).await;
        for (n, length) in [(1, 0), (2, 100), (3, 100_000), (4, 1 << 20)] {
            let found = other.get(&name(n)).await.expect("a shared answer");
            assert!(
                found.remaining <= entry(0).remaining && found.remaining > Nanos::from_secs(500)
            );
            assert_eq!(SharedEntry { remaining: entry(0).remaining, ..found }, entry(length));
        }
        let counts = other.counts();
        assert_eq!((counts.hits, counts.misses, counts.foreign), (4, 0, 0));
        assert_eq!((one.counts().misses, one.trouble()), (1, None));
        one.put(name(5), SharedEntry { remaining: Nanos::from_millis(1), ..entry(1) });
        until("gone", async || one.counts().written == 5 && other.get(&name(5)).await.is_none())
            .await;
    });
}

#[test]
fn foreign_values_are_ignored_and_counted() {
    let server = Server::start("foreign", &[]);
    runtime().block_on(async {
        let redis = redis(&server.url());
        until("used", async || redis.is_used()).await;
        let client = Client::open(server.url()).expect("a URL");
        let mut raw = client.get_multiplexed_async_connection().await.expect("a connection");
        let value = shared::encode(&name(1), &entry(100));
        let mut damaged = value.clone();
        damaged[60] ^= 1;
        let mut other_version = value.clone();
        other_version[4] = 2;
        let of_other_call = shared::encode(&name(2), &entry(100));
        let cut = value[..80].to_vec();
        let endless = vec![b'x'; 8 << 20];
        let json = br#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#.to_vec();
        let values = [damaged, other_version, of_other_call, cut, endless, json, b"\0".to_vec()];
        let count = values.len() as u64;
        for value in values {
            let mut set = redis::cmd("SET");
            set.arg(&name(1).text).arg(value).arg("PX").arg(60_000);
            set.exec_async(&mut raw).await.expect("it is set");
            assert_eq!(redis.get(&name(1)).await, None);
        }
        assert_eq!(redis.counts().foreign, count);
        // ours, but without an end
        redis::cmd("SET").arg(&name(1).text).arg(&value).exec_async(&mut raw).await.expect("set");
        assert_eq!(redis.get(&name(1)).await, None);
        // of another type
        redis::cmd("DEL").arg(&name(1).text).exec_async(&mut raw).await.expect("deleted");
        redis::cmd("LPUSH").arg(&name(1).text).arg("x").exec_async(&mut raw).await.expect("a list");
        assert_eq!(redis.get(&name(1)).await, None);
        let counts = redis.counts();
        assert_eq!((counts.foreign, counts.failed, counts.hits), (count + 2, 0, 0));
        // A new answer replaces it.
        until("replaced", async || works(&redis, 1).await).await;
        assert_eq!(redis.trouble(), None);
    });
}

#[test]
fn it_is_skipped_while_it_is_killed_and_used_when_it_is_back() {
    let mut server = Server::start("killed", &[]);
    runtime().block_on(async {
        let redis = redis(&server.url());
        until("used", async || works(&redis, 1).await).await;
        server.kill();
        until("skipped", async || redis.get(&name(1)).await.is_none() && !redis.is_used()).await;
        let before = redis.counts();
        redis.put(name(2), entry(10));
        assert_eq!(redis.get(&name(2)).await, None);
        assert_eq!(redis.counts().skipped, before.skipped + 2);
        assert!(redis.trouble().is_some_and(|why| why.contains("without it")));
        server.child = Server::spawn(&server.folder, &[]);
        until("back", async || works(&redis, 3).await).await;
        assert_eq!((redis.trouble(), redis.counts().foreign), (None, 0));
    });
}

#[test]
fn it_is_skipped_while_it_is_stopped_and_used_when_it_continues() {
    let server = Server::start("stopped", &[]);
    runtime().block_on(async {
        let redis = redis(&server.url());
        until("used", async || works(&redis, 1).await).await;
        server.signal(Signal::SIGSTOP);
        // As many as may wait: then nobody does.
        for _ in 0..SLOW_MAX {
            assert_eq!(redis.get(&name(1)).await, None);
        }
        assert!(!redis.is_used());
        let before = redis.counts();
        assert_eq!(before.slow, u64::from(SLOW_MAX));
        for _ in 0..100 {
            assert_eq!(redis.get(&name(1)).await, None);
        }
        let after = redis.counts();
        assert_eq!((after.slow, after.skipped), (before.slow, before.skipped + 100));
        server.signal(Signal::SIGCONT);
        until("back", async || works(&redis, 2).await).await;
    });
}

#[test]
fn a_full_one_still_answers() {
    let server = Server::start("full", &["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]);
    runtime().block_on(async {
        let redis = redis(&server.url());
        until("used", async || works(&redis, 1).await).await;
        let noise: Vec<u8> =
            (0..60_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let noise = SharedEntry { result: noise.into(), ..entry(0) };
        let mut n = 1;
        until("full", async || {
            n += 1;
            redis.put(name(n), noise.clone());
            redis.counts().failed > 0
        })
        .await;
        assert!(redis.get(&name(1)).await.is_some());
        assert!(redis.is_used());
        let trouble = redis.trouble().expect("trouble");
        assert!(trouble.contains("it is full; set maxmemory-policy"), "{trouble}");
    });
}

#[test]
fn a_wrong_password_is_explained() {
    let server = Server::start("password", &["--requirepass", "s3cret"]);
    runtime().block_on(async {
        let path = server.folder.join("redis.sock");
        let [none, wrong, right] = ["", "?pass=wr0ng", "?pass=s3cret"]
            .map(|pass| redis(&format!("unix://{}{pass}", path.display())));
        until("used", async || works(&right, 1).await).await;
        for refused in [none, wrong] {
            let explained = async || refused.trouble().is_some_and(|why| why.contains("password"));
            until("explained", explained).await;
            assert!(!refused.is_used());
            assert_eq!(refused.get(&name(1)).await, None);
            let trouble = refused.trouble().unwrap_or_default();
            assert!(!trouble.contains("wr0ng"), "{trouble}");
        }
    });
}

/// Answers every read with the next of these texts, over and over.
fn peer(answers: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let (mut buffer, mut answers) = ([0; 4096], answers.iter().cycle());
            while matches!(connection.read(&mut buffer), Ok(1..)) {
                let answer = answers.next().copied().unwrap_or_default();
                if connection.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    format!("redis://{address}")
}

#[test]
fn what_is_not_a_supported_redis_is_explained() {
    let check = |answers: &'static [&'static str], expected: &str| {
        runtime().block_on(async {
            let redis = redis(&peer(answers));
            let explained = async || {
                redis.trouble().is_some_and(|why| {
                    assert!(why.contains(expected), "{why}");
                    true
                })
            };
            until(expected, explained).await;
            assert!(!redis.is_used());
            assert_eq!(redis.get(&name(1)).await, None);
        });
    };
    // The client first sets its name and version, twice.
    check(
        &["+OK\r\n+OK\r\n", "$21\r\nredis_version:2.8.24\n\r\n"],
        "it is Redis 2.8.24; version 6 or later is required",
    );
    check(
        &["+OK\r\n+OK\r\n", "$41\r\nredis_version:7.0.1\r\nredis_mode:cluster\r\n\r\n"],
        "it is a cluster, which is not supported",
    );
    check(&["+OK\r\n+OK\r\n", "$6\r\nos:XYZ\r\n"], "it does not report redis_version");
    check(&["HTTP/1.1 400 Bad Request\r\n\r\n"], "it does not answer like a Redis");
}

/// The forms that the configuration accepts are those that the client accepts.
#[test]
fn urls_are_accepted() {
    for url in [
        "redis://h",
        "redis://u:p@h:1/2",
        "redis://:p@%2F@h",
        "redis://[::1]",
        "unix:///s",
        "valkey://h:1",
    ] {
        assert!(check::client(url).is_ok(), "{url}");
    }
    let error = check::client("redis://:s3cret@").expect_err("no host").to_string();
    assert!(
        error.starts_with("not a valid URL of a Redis") && !error.contains("s3cret"),
        "{error}"
    );
}
