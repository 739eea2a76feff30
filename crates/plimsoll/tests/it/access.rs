//! Keys and limits of a real gateway: commands through the database and the admin API, and replicas that
//! share limits through a real Redis, which is killed, stopped and restarted.

use crate::admin::Gateway;
use crate::cache::until;
use crate::gateway::{BLOCK_NUMBER, Caller, Process, Response, ask, eth, metric};
use crate::redis_server::Redis;
use crate::run::{Done, Folder, command};
use nix::sys::signal::Signal;
use plimsoll_sim::Sim;
use serde_json::{Value, json};

/// Runs `plimsoll gateway` in a folder; through the admin API of this gateway, if there is one.
fn run(folder: &Folder, admin: Option<&Gateway>, line: &str) -> Done {
    let url = admin.map(|gateway| format!("http://{}", gateway.admin));
    let words = ["gateway"].into_iter().chain(line.split_whitespace());
    let args: Vec<&str> = words.chain(url.iter().flat_map(|url| ["--admin", url])).collect();
    let mut command = command(&args);
    command.env_remove("DATABASE_URL").current_dir(folder.path());
    if let Some(gateway) = admin {
        command.env("PLIMSOLL_ADMIN_TOKEN", &gateway.token);
    }
    command.output().unwrap().into()
}

fn with_key(address: &str, endpoint: &str, key: &str) -> Response {
    let request = format!("POST /api/gateway?endpoint={endpoint}");
    let headers = format!("Authorization: Bearer {key}\r\n");
    Caller::connect(address).unwrap().send_with(&request, &headers, BLOCK_NUMBER).unwrap()
}

#[test]
fn keys_are_managed_by_commands() {
    let gateway = Gateway::start();
    // Through the database, and through the gateway that follows it.
    for (at, admin) in [None, Some(&gateway)].into_iter().enumerate() {
        let folder = gateway.folder();
        let (endpoint, open) = (format!("acme-{at}"), format!("POST /api/gateway/acme-{at}"));
        let run = |line: &str| {
            let done = run(folder, admin, &line.replace("acme", &endpoint));
            (done.code, done.stdout, done.stderr)
        };
        let ok = |line: &str| {
            let (code, stdout, stderr) = run(line);
            assert_eq!(code, 0, "{line}: {stderr}");
            (stdout, stderr)
        };
        let address = gateway.address();
        ok(
            "endpoint add acme --service eth --calls 1000/s --burst 2s --monthly-compute-units 9000",
        );
        until("the endpoint is open", || ask(address, &open, BLOCK_NUMBER).status == 200);
        let (key, told) = ok("key add acme --name web --calls 20/s --expires 2100-01-01");
        let key = key.trim();
        assert!(key.starts_with("plk_") && key.len() == 44 && !told.contains(key), "{told}");
        until("the key is needed", || ask(address, &open, BLOCK_NUMBER).status == 401);
        assert_eq!(with_key(address, &endpoint, key).status, 200);
        assert_eq!(with_key(address, &endpoint, &key[..43]).status, 401);
        let (other, _) = ok("key add acme --name app --format json");
        let other: Value = serde_json::from_str(&other).unwrap();
        let text = other["key"].as_str().unwrap();
        until("the other key is valid, too", || with_key(address, &endpoint, text).status == 200);
        assert_eq!(with_key(address, &endpoint, key).status, 200);
        let (list, _) = ok("key list acme");
        let rows: Vec<Vec<&str>> =
            list.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), 3, "{list}");
        assert_eq!(rows[1][..3], [&endpoint, "app", other["fingerprint"].as_str().unwrap()]);
        assert_eq!((rows[2][1], rows[2][3]), ("web", "2100-01-01"));
        assert!(rows[2].ends_with(&["20", "calls/s"]), "{list}");
        let (listed, _) = ok("key list acme --format json");
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed[1]["limits"]["calls"], "20/s");
        assert_eq!(
            (&listed[1]["expires"], &listed[1]["expired"]),
            (&json!("2100-01-01T00:00:00Z"), &json!(false))
        );
        let (listed, _) = ok("endpoint list");
        let line = listed.lines().find(|line| line.starts_with(&endpoint)).unwrap();
        assert!(line.contains("enabled  2     1000 calls/s, 9000 units/month  all"), "{listed}");
        // When a key was used is known to the gateway only.
        assert_eq!(list.contains("LAST USED"), admin.is_some(), "{list}");
        assert!(admin.is_none() || rows[2][4].starts_with("20"), "{list}");
        for text in [&list, &ok("endpoint show acme").0] {
            assert!(!text.contains(&key[4..]), "{text}");
        }
        let (_, refused) = (run("key add acme --name web").0, run("key add acme --name web").2);
        assert!(refused.contains("already has a key \"web\""), "{refused}");
        // What is wrong is named with its flag.
        let (code, _, wrong) = run(
            "key add acme --name x --expires tomorrow --calls 0/s --burst 5 --daily-compute-units 0",
        );
        assert_eq!(code, 2, "{wrong}");
        for words in ["--expires", "--calls", "--burst", "--daily-compute-units"] {
            assert!(wrong.contains(words), "{words}: {wrong}");
        }
        let (code, _, late) = run("key add acme --name x --expires 2020-01-01");
        assert_eq!(code, 2, "{late}");
        assert!(late.contains("--expires: 2020-01-01T00:00:00Z is in the past"), "{late}");
        assert!(run("key add nobody --name x").2.contains("there is no endpoint \"nobody\""));
        ok("key remove acme web");
        until("the key is gone", || with_key(address, &endpoint, key).status == 401);
        assert_eq!(with_key(address, &endpoint, text).status, 200);
        let (code, _, last) = run("key remove acme app");
        assert!(code == 2 && last.contains("only key") && last.contains("--last"), "{last}");
        ok("key remove acme app --last");
        until("the endpoint is open again", || ask(address, &open, BLOCK_NUMBER).status == 200);
        assert!(run("key list acme").2.contains("no keys yet"));
    }
}

/// Replicas with one endpoint that has this many calls, and practically no more.
struct Replicas {
    processes: Vec<Process>,
    addresses: Vec<String>,
    _folders: Vec<Folder>,
    _sim: Sim,
}

/// What the endpoint's limit admits.
const CALLS: u64 = 1_000;

impl Replicas {
    fn start(redis: &Redis, count: usize) -> Replicas {
        Replicas::start_with(&redis.url(), "", count)
    }

    /// Starts replicas with a Redis at this URL and these further lines.
    fn start_with(redis: &str, lines: &str, count: usize) -> Replicas {
        let sim = eth();
        // An hour to refill.
        let config = format!(
            "listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n{lines}\
             cache = {{ redis = \"{redis}\", redis_timeout = \"100ms\" }}\n\
             [[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{}\"\n\
             [[endpoint]]\nid = \"e\"\nservice = \"eth\"\n\
             limits = {{ calls = \"{CALLS}/h\", burst = \"1h\" }}\n",
            sim.url("eth")
        );
        let folders: Vec<Folder> = (0..count).map(|_| Folder::new()).collect();
        let start = |folder: &Folder| {
            folder.file("gateway.toml", &config);
            Process::start(folder, &[])
        };
        let processes: Vec<Process> = folders.iter().map(start).collect();
        let addresses = processes.iter().map(|one| one.address("")).collect();
        Replicas { processes, addresses, _folders: folders, _sim: sim }
    }

    /// Waits until all share their limits, and know each other.
    fn wait_for_sharing(&self) {
        for address in &self.addresses {
            until("limits are shared", || {
                // One that was killed is forgotten after 10 s.
                metric(address, "plimsoll_limits_local") == 0.0
                    && metric(address, "plimsoll_limits_replicas") >= self.addresses.len() as f64
            });
        }
    }

    /// Calls these replicas in turn until each has refused several calls in a row; returns how many
    /// calls each has admitted.
    fn exhaust(&self, replicas: &[usize]) -> Vec<u64> {
        let body = json!({"jsonrpc": "2.0", "method": "eth_chainId", "id": 1}).to_string();
        let mut callers: Vec<Caller> =
            replicas.iter().map(|at| Caller::connect(&self.addresses[*at]).unwrap()).collect();
        let mut admitted = vec![0; replicas.len()];
        let mut refused_in_a_row = 0;
        // A refusal may be that of a short pause, in which other replicas return their leases.
        while refused_in_a_row < 400 * replicas.len() {
            for (caller, admitted) in callers.iter_mut().zip(&mut admitted) {
                let answer = caller.send("POST /api/gateway/e", &body).unwrap();
                match answer.status {
                    200 => {
                        *admitted += 1;
                        refused_in_a_row = 0;
                    }
                    429 => refused_in_a_row += 1,
                    status => panic!("{status}: {}", answer.body),
                }
            }
        }
        admitted
    }
}

/// What may be refilled while a test runs, in calls.
const REFILLED: u64 = 20;

#[test]
fn replicas_share_a_limit_whatever_happens_to_redis() {
    let mut redis = Redis::start();
    let mut replicas = Replicas::start(&redis, 4);
    replicas.wait_for_sharing();
    let admitted = replicas.exhaust(&[0, 1, 2, 3]);
    let total: u64 = admitted.iter().sum();
    // Exactly the limit: what a replica holds and does not use comes back.
    assert!((CALLS - CALLS / 100..=CALLS + REFILLED).contains(&total), "{admitted:?}");
    assert!(admitted.iter().all(|one| *one > 0), "{admitted:?}");
    // Redis is killed: each replica has its part, once.
    redis.kill();
    until("limits are local", || {
        replicas.addresses.iter().all(|one| metric(one, "plimsoll_limits_local") == 1.0)
    });
    let admitted = replicas.exhaust(&[0, 1, 2, 3]);
    let part = CALLS / 4 + REFILLED;
    assert!(admitted.iter().all(|one| *one > 0 && *one <= part), "{admitted:?}");
    // It has forgotten everything: the limit again, from one replica alone.
    redis.restart();
    replicas.wait_for_sharing();
    let body = json!({"jsonrpc": "2.0", "method": "eth_chainId", "id": 1}).to_string();
    until("there are tokens again", || {
        ask(&replicas.addresses[2], "POST /api/gateway/e", &body).status == 200
    });
    let admitted = replicas.exhaust(&[2])[0] + 1;
    assert!((CALLS - CALLS / 100..=CALLS + REFILLED).contains(&admitted), "{admitted}");
    // A replica is killed; the others go on, and notice.
    replicas.processes[3].signal(Signal::SIGKILL);
    replicas.addresses.pop();
    let total: u64 = replicas.exhaust(&[0, 1]).iter().sum();
    assert!(total <= REFILLED, "{total}");
    // Redis hangs: no call does.
    redis.signal(Signal::SIGSTOP);
    until("limits are local", || metric(&replicas.addresses[0], "plimsoll_limits_local") == 1.0);
    replicas.exhaust(&[0, 1, 2]);
    redis.signal(Signal::SIGCONT);
    replicas.wait_for_sharing();
}

#[test]
fn replicas_that_start_without_redis_enforce_their_part_and_say_so() {
    // Nothing listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let lines = "limits.replicas = 4\n";
    let replicas = Replicas::start_with(&format!("redis://{free}"), lines, 1);
    replicas.processes[0].wait_for(
        "limits are not shared, because Redis has not answered since the start: this replica \
         enforces 1/4 of every limit",
    );
    let admitted = replicas.exhaust(&[0])[0];
    assert!((CALLS / 4..=CALLS / 4 + REFILLED).contains(&admitted), "{admitted}");
}

#[test]
fn limits_can_be_each_replicas_own() {
    let redis = Redis::start();
    let sim = eth();
    let folder = Folder::new();
    let config = format!(
        "listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\nlimits.shared = false\n\
         cache.redis = \"{}\"\n\
         [[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{}\"\n",
        redis.url(),
        sim.url("eth")
    );
    folder.file("gateway.toml", &config);
    let process = Process::start(&folder, &[]);
    let page = ask(&process.address(""), "GET /metrics", "").body;
    assert!(!page.contains("plimsoll_limits_local"), "{page}");
}
