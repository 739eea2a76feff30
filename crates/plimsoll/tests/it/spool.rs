//! Usage on disk, as real gateways leave it: a full disk, and the file of a newer version.

use crate::gateway::{Process, Response, ask, eth, metric};
use crate::replicas::server::Server;
use crate::replicas::wait_until;
use crate::run::Folder;
use plimsoll_sim::Sim;
use std::path::PathBuf;
use std::process::Command;

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}"#;

/// Writes the configuration of a gateway with the endpoint `e`, whose usage waits in `state`.
fn configure(folder: &Folder, state: &Folder, server: &Server, sim: &Sim) {
    folder.file(
        "gateway.toml",
        format!(
            "listen = [\"127.0.0.1:0\"]\ndatabase = \"{}\"\nstate_dir = \"{}\"\n\
             [[service]]\nid = \"eth\"\nchain_id = 1\n\
             [[upstream]]\nid = \"node\"\nservice = \"eth\"\nurl = \"{}\"\n\
             [[endpoint]]\nid = \"e\"\nservice = \"eth\"\n",
            server.url(),
            state.path().display(),
            sim.url("eth")
        ),
    );
}

fn start(folder: &Folder) -> (Process, String) {
    let process = Process::start(folder, &[]);
    let address = process.address("");
    (process, address)
}

fn post(address: &str) -> Response {
    ask(address, "POST /api/gateway?endpoint=e", CALL)
}

/// Calls in the database, as Postgres itself adds them up.
pub(crate) fn stored(server: &Server, endpoint: &str) -> u64 {
    let sql =
        format!("SELECT coalesce(sum(calls), 0) FROM plimsoll_usage WHERE endpoint = '{endpoint}'");
    server.sql(&sql).parse().unwrap()
}

/// The files in which usage waits.
pub(crate) fn spools(folder: &Folder) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder.path()).unwrap().flatten().map(|file| file.path());
    files.filter(|path| path.extension().is_some_and(|kind| kind == "spool")).collect()
}

/// Two gateways with one folder have a file each. What does not fit on the disk waits in memory.
#[test]
fn usage_waits_in_memory_while_the_disk_is_full() {
    let mut server = Server::start();
    let (sim, folder, state) = (eth(), Folder::new(), Folder::new());
    let small = SmallDisk::mount(&state);
    configure(&folder, &state, &server, &sim);
    let started = [start(&folder), start(&folder)];
    let calls = |calls: usize| {
        for (_, address) in &started {
            (0..calls).for_each(|_| assert_eq!(post(address).status, 200));
        }
    };
    calls(10);
    wait_until("it is stored", || stored(&server, "e") == 20);
    assert_eq!(spools(&state).len(), 2);
    // The files have only their headers now, and need another page each.
    if let Some(small) = &small {
        small.fill();
    }
    server.kill();
    calls(5);
    for (process, address) in &started {
        if small.is_some() {
            wait_until("it waits in memory", || metric(address, "plimsoll_usage_held_rows") > 0.0);
            process.wait_for("usage cannot be written to disk, and waits in memory");
            assert_eq!(metric(address, "plimsoll_usage_spool_failed"), 1.0);
            let usage = &ask(address, "GET /ready?detailed=true", "").json()["usage"];
            assert_eq!(usage["waits_in"], "memory", "{usage}");
            assert!(usage["reason"].as_str().unwrap().contains("No space left"), "{usage}");
        } else {
            wait_until("it waits", || metric(address, "plimsoll_usage_spooled_bytes") > 0.0);
        }
    }
    calls(7);
    server.start_again();
    wait_until("all is stored", || stored(&server, "e") == 2 * (10 + 5 + 7));
    if let Some(small) = &small {
        small.empty();
    }
    calls(1);
    for (process, address) in started {
        if small.is_some() {
            process.wait_for("usage is written to disk again");
        }
        let usage = &ask(&address, "GET /ready?detailed=true", "").json()["usage"];
        assert_eq!(usage["waits_in"], "file", "{usage}");
        assert_eq!(metric(&address, "plimsoll_usage_spool_failed"), 0.0);
        process.stop();
    }
    assert_eq!(stored(&server, "e"), 2 * (10 + 5 + 7 + 1));
    assert_eq!(spools(&state), Vec::<PathBuf>::new());
}

/// A file system of a few pages; only root can make one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Folder) -> Option<SmallDisk> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=96k", "plimsoll-test"]).arg(folder.path());
        let is_mounted = nix::unistd::geteuid().is_root()
            && mount.output().is_ok_and(|done| done.status.success());
        is_mounted.then(|| SmallDisk(folder.path().into()))
    }

    /// Fills it until there is no room for another page.
    fn fill(&self) {
        let page = [b'x'; 4_096];
        let writes = |number: &u32| std::fs::write(self.filling(*number), page).is_ok();
        let failed = (0..100).find(|number| !writes(number)).expect("96 KiB have few pages");
        std::fs::remove_file(self.filling(failed)).unwrap();
    }

    fn empty(&self) {
        (0..100).for_each(|number| _ = std::fs::remove_file(self.filling(number)));
    }

    fn filling(&self, number: u32) -> PathBuf {
        self.0.join(format!("filling-{number}"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// It is left as it is, and the gateway counts into a file of its own.
#[test]
fn the_file_of_a_newer_version_is_left_alone() {
    let server = Server::start();
    let (sim, folder, state) = (eth(), Folder::new(), Folder::new());
    configure(&folder, &state, &server, &sim);
    let (process, address) = start(&folder);
    assert_eq!(post(&address).status, 200);
    wait_until("it is stored", || stored(&server, "e") == 1);
    let file = spools(&state).pop().unwrap();
    process.stop();
    let newer = "plimsoll usage spool 3\n...";
    std::fs::write(&file, newer).unwrap();
    let (process, address) = start(&folder);
    process.wait_for(&file.display().to_string());
    process.wait_for("it was written by a newer version of this program (format 3;");
    assert_eq!(post(&address).status, 200);
    wait_until("it is stored", || stored(&server, "e") == 2);
    process.stop();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), newer);
}
