//! Tests: a Postgres server of their own, on a free port, with its data in a temporary folder.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

/// A server, stopped and removed on drop. Its only user is `plimsoll`, without a password.
pub(crate) struct Server {
    folder: PathBuf,
    port: u16,
    process: Option<(Child, BufReader<ChildStderr>)>,
}

impl Server {
    /// Creates and starts a server.
    pub(crate) fn start() -> Server {
        let mut server = Server::prepared();
        let mut make = server.command("initdb");
        make.args(["--auth=trust", "--username=plimsoll", "--no-sync", "--encoding=UTF8"]);
        run(make.arg(format!("--pgdata={}", server.data().display())));
        server.start_again();
        server
    }

    /// Creates and starts a server that accepts only connections with TLS, from clients with a certificate
    /// of their own. Paths of its certificate, its key and the CA of the clients.
    #[allow(dead_code, reason = "this file belongs to two test binaries")]
    pub(crate) fn with_tls(cert: &Path, key: &Path, ca: &Path) -> Server {
        let mut server = Server::start();
        server.kill();
        let data = server.data();
        for (name, from) in [("server.crt", cert), ("server.key", key), ("root.crt", ca)] {
            std::fs::copy(from, data.join(name)).unwrap();
            std::fs::set_permissions(data.join(name), Permissions::from_mode(0o600)).unwrap();
            if let Some(user) = user() {
                chown(data.join(name), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
            }
        }
        let settings = "ssl = on\nssl_ca_file = 'root.crt'\n";
        std::fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
        let rules = "local all all trust\nhostssl all all 127.0.0.1/32 cert\n";
        std::fs::write(data.join("pg_hba.conf"), rules).unwrap();
        server.start_again();
        server
    }

    /// Creates and starts a standby, which accepts changes once it is promoted.
    #[allow(dead_code, reason = "this file belongs to two test binaries")]
    pub(crate) fn standby(&self) -> Server {
        let mut server = Server::prepared();
        let source = format!("host=127.0.0.1 port={} user=plimsoll", self.port);
        let mut copy = server.command("pg_basebackup");
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-d", &source, "-D"]);
        run(copy.arg(server.data()));
        server.start_again();
        server
    }

    /// Makes a standby accept changes; returns when it does.
    #[allow(dead_code, reason = "this file belongs to two test binaries")]
    pub(crate) fn promote(&self) {
        self.sql("SELECT pg_promote()");
    }

    /// A server without data.
    fn prepared() -> Server {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-postgres-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        if let Some(user) = user() {
            chown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        Server { folder, port, process: None }
    }

    /// Starts it after it was killed, on the same port; returns when it accepts connections.
    pub(crate) fn start_again(&mut self) {
        let mut child = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "fsync=off", "-c", "max_connections=60", "-k"])
            .arg(&self.folder)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let ready = ["ready to accept connections\n", "ready to accept read-only connections\n"];
        while !ready.iter().any(|ready| log.ends_with(ready)) {
            assert!(lines.read_line(&mut log).unwrap() > 0, "it did not start:\n{log}");
        }
        self.process = Some((child, lines));
    }

    /// Host and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of a database that exists.
    pub(crate) fn url(&self) -> String {
        format!("postgres://plimsoll@{}/postgres", self.address())
    }

    /// The URL of a new database.
    #[allow(dead_code, reason = "this file belongs to two test binaries")]
    pub(crate) fn new_database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("db{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("CREATE DATABASE {name}"));
        format!("postgres://plimsoll@{}/{name}", self.address())
    }

    /// Runs SQL; returns the rows, unaligned.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    /// Runs SQL in a database.
    pub(crate) fn sql_in(&self, database: &str, sql: &str) -> String {
        let done = Command::new(bin().join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "plimsoll"])
            .arg("-h")
            .arg(&self.folder)
            .args(["-p", &self.port.to_string(), "-d", database, "-c", sql])
            .output()
            .unwrap();
        assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_string()
    }

    /// Kills all its processes at once, as a crash of the host would.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some((mut child, _)) = self.process.take() {
            child.wait().unwrap();
        }
        // The next start must not find the old one's lock.
        let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
    }

    /// Sends all its processes a signal: SIGSTOP makes it hang, SIGCONT ends that.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some((child, _)) = &self.process else { return };
        let main = child.id();
        // The main process first, so that it starts no others.
        for pid in std::iter::once(main).chain(children(main)) {
            let _ = kill(Pid::from_raw(pid as i32), signal);
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// A program of Postgres, run by the right user; ends with the thread that started it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        if let Some(user) = user() {
            command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
            command.arg("--clear-groups");
        }
        command.arg(bin().join(program)).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).env("LC_ALL", "C").env("TZ", "UTC");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The user that runs the server, if it is another one: it refuses to run as root.
fn user() -> Option<User> {
    let find = |name| User::from_name(name).ok().flatten();
    geteuid().is_root().then(|| find("postgres").or_else(|| find("nobody")).expect("a user"))
}

/// The folder of the newest installed version.
fn bin() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|one| one.path().join("bin")).collect();
    versions.retain(|bin| bin.join("initdb").exists());
    versions.sort();
    versions.pop().expect("Postgres is installed: apt-get install postgresql")
}

fn children(of: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|one| one.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent(*pid) == Some(of)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    // The name, in parentheses, may contain anything.
    stat.ok()?.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
