//! The gateway's configuration and its entries, from the command line.

use crate::gateway::Process;
use crate::run::{Done, Folder, command, plimsoll};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Runs `plimsoll gateway` in a folder, with the arguments in `line`.
pub(crate) fn gateway(folder: &Folder, line: &str) -> Done {
    let args: Vec<&str> = ["gateway"].into_iter().chain(line.split_whitespace()).collect();
    command(&args).env_remove("DATABASE_URL").current_dir(folder.path()).output().unwrap().into()
}

#[track_caller]
pub(crate) fn done(folder: &Folder, line: &str) -> Done {
    let done = gateway(folder, line);
    assert_eq!(done.code, 0, "{line}: {}", done.stderr);
    done
}

#[track_caller]
pub(crate) fn refused(folder: &Folder, line: &str, words: &[&str]) {
    let refused = gateway(folder, line);
    assert_eq!(refused.code, 2, "{line}: {}", refused.stderr);
    assert_eq!(refused.stdout, "", "stdout is for data only");
    for word in words {
        assert!(
            refused.stderr.contains(word),
            "{line}\n{}\ndoes not contain\n{word}",
            refused.stderr
        );
    }
}

const FILE: &str = r#"
listen = ["127.0.0.1:0"]
[[service]]
id = "base"
[[upstream]]
id = "in-file"
service = "base"
url = "http://${HOST_OF_NODE}/${NODE_KEY}"
"#;

#[test]
fn an_endpoint_can_be_added_disabled_replaced_and_removed() {
    let folder = Folder::new();
    let none = done(&folder, "endpoint list");
    assert_eq!(none.stdout, "");
    assert!(none.stderr.contains("see plimsoll gateway endpoint add --help"), "{}", none.stderr);
    assert!(!folder.path().join("plimsoll.db").exists(), "listing does not create the database");

    let id = "ethpath_1764014188689_1764014188693";
    let added =
        done(&folder, &format!("endpoint add {id} --service eth --allow eth_* --deny eth_getLogs"));
    assert!(
        added.stderr.starts_with(&format!("added endpoint {id} to sqlite:")),
        "{}",
        added.stderr
    );
    assert_eq!(
        done(&folder, "endpoint list").stdout,
        format!(
            "ID                                   SERVICE  FROM      STATE    KEYS  LIMITS  METHODS\n\
             {id}  eth      database  enabled  –     –       eth_* except eth_getLogs\n"
        )
    );
    refused(
        &folder,
        &format!("endpoint add {id} --service eth"),
        &["already exists", "hint: add --replace"],
    );
    done(&folder, &format!("endpoint disable {id}"));
    let json: Value =
        serde_json::from_str(&done(&folder, "endpoint list --format json").stdout).unwrap();
    assert_eq!(json[0]["state"], "disabled");
    assert_eq!(json[0]["methods"]["deny"][0], "eth_getLogs");
    let again = done(&folder, &format!("endpoint disable {id}"));
    assert!(again.stderr.contains("is unchanged"), "{}", again.stderr);

    let line = format!("endpoint --format json add {id} --service boba --replace");
    let replaced = done(&folder, &line);
    assert_eq!(
        replaced.stdout,
        format!("{{\"id\":\"{id}\",\"kind\":\"endpoint\",\"outcome\":\"replaced\"}}\n")
    );
    done(&folder, &format!("endpoint enable {id}"));
    assert_eq!(
        done(&folder, &format!("endpoint show {id}")).stdout,
        format!("# from: database, enabled\n[[endpoint]]\nid = \"{id}\"\nservice = \"boba\"\n")
    );
    let removed = done(&folder, &format!("endpoint remove {id}")).stderr;
    assert!(removed.starts_with(&format!("removed endpoint {id} from sqlite:")), "{removed}");
    refused(&folder, &format!("endpoint show {id}"), &["there is no endpoint"]);
    refused(&folder, &format!("endpoint remove {id}"), &["there is no endpoint"]);
}

#[test]
fn secrets_are_neither_printed_nor_stored() {
    let folder = Folder::new();
    let line = "upstream add node-a --service eth --url https://node.example/${NODE_KEY} \
                --header Authorization:${TOKEN} --weight 2 --tier 1 --rate-limit 500/s";
    refused(
        &folder,
        line,
        &["--url: the variable NODE_KEY is not set", "--header: the variable TOKEN"],
    );
    // A note on how an entry is stored appears only if it is stored.
    let bad =
        gateway(&folder, "upstream add x --service no --url http://h/ --header X-Api-Key:s3cret");
    assert!(bad.code == 2 && !bad.stderr.contains("clear text"), "{}", bad.stderr);
    done(&folder, &format!("{line} --set NODE_KEY=s3cret --set TOKEN=s3cret"));
    let listed = done(&folder, "upstream list").stdout;
    assert!(listed.contains("https://node.example/${NODE_KEY}"), "{listed}");
    let bytes = std::fs::read(folder.path().join("plimsoll.db")).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("${NODE_KEY}") && !text.contains("s3cret"));
    // Other entries can be changed without the secrets.
    done(&folder, "upstream add node-b --service eth --url http://127.0.0.1:8545");
    // A value written out is not printed either, but a note says that it is stored.
    let kept = done(
        &folder,
        "upstream add node-c --service eth --url http://h/ --header X-Api-Key:s3cret",
    );
    assert!(
        kept.stderr
            .contains("note: the value of X-Api-Key is stored in the database in clear text"),
        "{}",
        kept.stderr
    );
    let shown = done(&folder, "upstream show node-c --format json");
    assert!(
        shown.stdout.contains("[redacted]") && !shown.stdout.contains("s3cret"),
        "{}",
        shown.stdout
    );
    // Starting a gateway requires them.
    refused(
        &folder,
        "",
        &[
            "upstream \"node-a\" in sqlite:",
            "NODE_KEY is not set",
            "plimsoll gateway upstream disable node-a",
        ],
    );
}

#[test]
fn entries_from_file_database_and_built_in_interact() {
    let folder = Folder::new();
    folder.file("gateway.toml", FILE);
    // Listing does not require the file's secrets.
    assert_eq!(
        done(&folder, "upstream list").stdout,
        "ID       SERVICE  KIND  TIER  WEIGHT  FROM  STATE    URL\n\
         in-file  base     evm   0     1       file  enabled  http://${HOST_OF_NODE}/${NODE_KEY}\n"
    );
    refused(
        &folder,
        "upstream add in-file --service eth --url http://h/ --replace",
        &["the upstream \"in-file\" is defined in the configuration", "hint: choose another id"],
    );
    refused(
        &folder,
        "upstream remove in-file",
        &["is defined in the configuration", "change it there"],
    );
    refused(&folder, "service disable base", &["is defined in the configuration"]);
    refused(
        &folder,
        "endpoint add e --service bsae",
        &["unknown service \"bsae\"", "did you mean \"base\"?"],
    );
    done(&folder, "endpoint add e --service base");

    done(&folder, "service add mine --chain-id 7 --block-time 2s");
    done(&folder, "upstream add mine-1 --service mine --url http://h/");
    done(&folder, "endpoint add mine-2 --service mine");
    refused(
        &folder,
        "service remove mine",
        &[
            "the service \"mine\" is used by upstream \"mine-1\", endpoint \"mine-2\"",
            "hint: remove them first",
        ],
    );
    let built_in = done(&folder, "service add eth --chain-id 1");
    assert!(built_in.stderr.contains("replacing the built-in one"), "{}", built_in.stderr);
    done(&folder, "service remove eth");
    refused(
        &folder,
        "service remove eth",
        &["the service \"eth\" is built in", "service disable eth"],
    );
    done(&folder, "service disable kava");
    let listed = done(&folder, "service list").stdout;
    let line = |id: &str| listed.lines().find(|line| line.starts_with(id)).unwrap_or_default();
    assert!(line("kava").ends_with("built-in  disabled"), "{listed}");
    assert!(line("base").ends_with("file      enabled"), "{listed}");
    assert!(line("mine").ends_with("database  enabled"), "{listed}");
    assert!(listed.lines().all(|line| line.chars().count() <= 80), "{listed}");

    // Another database, none, and flags that do not apply.
    done(&folder, "endpoint list --database sqlite:other.db");
    assert!(!folder.path().join("other.db").exists());
    refused(&folder, "endpoint add e --service eth --database off", &["database = \"off\""]);
    refused(&folder, "endpoint list --listen 127.0.0.1:1", &["unexpected argument"]);
    refused(
        &folder,
        "--listen 127.0.0.1:1 endpoint list",
        &["--listen cannot be used with a command"],
    );
}

#[test]
fn invalid_entries_are_refused() {
    let folder = Folder::new();
    let check = |line: &str, words: &[&str]| refused(&folder, line, words);
    check("endpoint add a/b --service eth", &["ID: \"a/b\" is not a valid id"]);
    check("endpoint add e", &["--service <ID>"]);
    check("endpoint add e --service eth --allow e*h", &["--allow: \"e*h\" is not a method"]);
    check("upstream add n --url http://h/", &["an upstream without \"service\""]);
    check("upstream add n --service eth --url h:1", &["--url: no scheme"]);
    check("upstream add n --service eth --url http://h --kind emv", &["--kind: ", "\"evm\"?"]);
    check(
        "upstream add n --service eth --url http://h --tier 10",
        &["--tier: \"tier\" must be from 0 to 9"],
    );
    check(
        "upstream add n --service eth --url http://h --header X",
        &["--header must be NAME: VALUE"],
    );
    check(
        "upstream add n --service eth --url http://h --ca no.pem",
        &["--ca: file not found: /", "no.pem"],
    );
    check(
        "upstream add n --service eth --url http://h --rate-limit fast",
        &["--rate-limit: ", "is not a rate"],
    );
    check("service add s --spread weigthed", &["--spread: ", "did you mean \"weighted\"?"]);
    assert!(
        !folder.path().join("plimsoll.db").exists(),
        "a refused entry does not create the database"
    );
}

/// The program as an unprivileged user, because root may write everywhere.
fn unprivileged(folder: &Folder, args: &[&str]) -> Command {
    let program = folder.path().join("plimsoll");
    if !program.exists() {
        // By a process of its own: one that a test starts at this moment would inherit the file, open for
        // writing, and a program that is open for writing cannot be started.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_plimsoll")).arg(&program).status();
        assert!(copied.unwrap().success());
    }
    let mut command = Command::new(program);
    command.args(args).env_remove("DATABASE_URL").stdout(Stdio::piped()).stderr(Stdio::piped());
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    command
}

#[test]
fn unusable_databases_are_refused() {
    let folder = Folder::new();
    let check = |database: &str, words: &[&str]| {
        refused(&folder, &format!("endpoint add e --service eth --database {database}"), words);
    };
    check("plimsoll.db", &["--database: not a database URL", "hint: write it like sqlite:"]);
    check("mysql://u:s3cret@h/d", &["--database: \"mysql\" databases are not supported"]);
    check("postgres://u:s3cret@h", &["--database: the Postgres URL names no database", "hint: "]);
    check("postgres://u:s3cret@127.0.0.1:1/d", &["cannot be reached: 127.0.0.1:1: ", "hint: "]);
    check("sqlite:no/such/folder/x.db", &["does not exist", "hint: create it first"]);
    folder.file("text.db", "this is no database\n".repeat(100));
    check(
        "sqlite:text.db",
        &["text.db: file is not a database", "hint: restore the file from a backup"],
    );

    let mode = |name: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::create_dir(folder.path().join("locked")).unwrap();
    mode("locked", 0o555);
    let add = |database: &str| -> Done {
        let args = ["gateway", "endpoint", "add", "e", "--service", "eth", "--database", database];
        unprivileged(&folder, &args).current_dir(folder.path()).output().unwrap().into()
    };
    let locked = add("sqlite:locked/x.db");
    assert_eq!(locked.code, 2, "{}", locked.stderr);
    assert!(locked.stderr.contains("unable to open database file"), "{}", locked.stderr);
    assert!(
        locked.stderr.contains("hint: this user must be able to write the file and its folder")
    );

    done(&folder, "endpoint add first --service eth --database sqlite:read.db");
    mode("read.db", 0o444);
    let read_only = add("sqlite:read.db");
    assert_eq!(read_only.code, 2, "{}", read_only.stderr);
    assert!(
        read_only.stderr.contains("hint: this user must be able to write"),
        "{}",
        read_only.stderr
    );
}

/// Scripts may run several commands at the same time.
#[test]
fn concurrent_additions_all_succeed() {
    let folder = Folder::new();
    const SCRIPTS: usize = 6;
    const EACH: usize = 5;
    std::thread::scope(|scope| {
        for script in 0..SCRIPTS {
            let folder = &folder;
            scope.spawn(move || {
                for number in 0..EACH {
                    done(folder, &format!("endpoint add e-{script}-{number} --service eth"));
                }
            });
        }
    });
    let listed = done(&folder, "endpoint list --format json").stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), SCRIPTS * EACH);
}

#[test]
fn a_configuration_is_printed_resolved() {
    let folder = Folder::new();
    let path = folder.file("gateway.toml", FILE);
    let printed: Done = command(&["gateway", "--print-config", "--workers", "3"])
        .current_dir(folder.path())
        .env("PLIMSOLL_LIMITS_BODY", "1MiB")
        .env("PLIMSOLL_LIMIT_BATCH", "5")
        .envs([("HOST_OF_NODE", "node"), ("NODE_KEY", "s3cret")])
        .output()
        .unwrap()
        .into();
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    for line in [
        "workers = 3",
        "body = \"1MiB\"",
        "url = \"http://node/${NODE_KEY}\"",
        "listen = [\"127.0.0.1:0\"]",
    ] {
        assert!(printed.stdout.contains(line), "{}", printed.stdout);
    }
    assert!(printed.stderr.contains("did you mean PLIMSOLL_LIMITS_BATCH?"), "{}", printed.stderr);
    // The output is itself a configuration.
    let again = folder.file("again.toml", &printed.stdout);
    let set = ["--set", "NODE_KEY=s3cret"];
    let checked = plimsoll(&[&["check", again.as_str()], &set[..]].concat());
    assert_eq!(
        (checked.code, checked.stdout.as_str()),
        (0, printed.stdout.as_str()),
        "{}",
        checked.stderr
    );

    let wrong = plimsoll(&["check", &path]);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.stderr.contains("gateway.toml:8:7: the variable HOST_OF_NODE is not set"),
        "{}",
        wrong.stderr
    );
    refused(
        &folder,
        "--config no.toml",
        &["no.toml: cannot be read", "hint: choose another file with --config"],
    );
    refused(
        &folder,
        "--workers 0 --upstream eth",
        &["--workers: \"workers\" must be", "--upstream: \"eth\" is not SERVICE=URL"],
    );
}

#[test]
fn check_distinguishes_plans_from_configurations() {
    let folder = Folder::new();
    let check = |text: &str, args: &[&str]| {
        let path = folder.file("file.toml", text);
        plimsoll(&[&["check", path.as_str()], args].concat())
    };
    let both = check("tls = { cert = \"a\" }", &[]);
    assert_eq!(both.code, 2);
    assert!(both.stderr.contains("cannot determine whether"), "{}", both.stderr);
    assert!(both.stderr.contains("choose one with --kind"), "{}", both.stderr);
    let empty = check("", &[]);
    assert!(empty.stderr.contains("it has no readable keys"), "{}", empty.stderr);
    assert_eq!(check("", &["--kind", "gateway"]).code, 0);
    assert!(check("", &["--kind", "plan"]).stderr.contains("the plan is not valid"));
    assert!(check("listen = 5", &[]).stderr.contains("the configuration is not valid"));
    assert!(check("rate = 5", &[]).stderr.contains("the plan is not valid"));
}

const START: [&str; 5] =
    ["gateway", "--listen", "127.0.0.1:0", "--upstream", "eth=http://127.0.0.1:1"];

/// The default database is not explicitly configured: if it cannot be created, a gateway runs without.
#[test]
fn a_gateway_starts_in_a_read_only_folder() {
    let folder = Folder::new();
    let locked = folder.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).unwrap();
    let mut starts = unprivileged(&folder, &START);
    starts.current_dir(&locked);
    let running = Process::spawn(starts);
    running.wait_for_next("note: database /");
    running.wait_for_next("listening on http://127.0.0.1:");
    running.stop();
}

#[test]
fn a_running_gateway_applies_only_valid_changes() {
    let folder = Folder::new();
    let mut starts = command(&START);
    starts.args(["--upstream", "boba=http://127.0.0.1:1"]).current_dir(folder.path());
    let running = Process::spawn(starts);
    running.wait_for_next("listening on http://127.0.0.1:");
    done(&folder, "endpoint add e --service eth");
    running
        .wait_for_next("reloaded: added 1 endpoint (…); now 4 services, 2 upstreams, 1 endpoint");
    done(&folder, "upstream add n --service eth --url http://h/${NODE} --set NODE=x");
    running.wait_for_next("still using the previous one");
    running.wait_for_next("upstream \"n\" in sqlite:");
    running.wait_for_next("disable the entry: plimsoll gateway upstream disable n");
    done(&folder, "upstream disable n");
    running.wait_for_next("reloaded: nothing changed; now 4 services, 2 upstreams, 1 endpoint");
    done(&folder, "service disable eth");
    running.wait_for_next(
        "reloaded: removed 1 service (eth), 1 upstream (eth-1) and 1 endpoint (…); now 3 services, \
         1 upstream, 0 endpoints",
    );
    running.stop();
}

#[test]
fn a_change_that_running_gateways_reject_is_warned_about() {
    let folder = Folder::new();
    let warning = "warning: the resulting configuration is not valid: running gateways reject it";
    // The file exists, but contains no certificate.
    folder.file("ca.pem", "");
    let add = "upstream add n --service eth --url https://h/ --ca ca.pem";
    let added = done(&folder, add).stderr;
    assert!(added.contains(warning) && added.contains("there is no certificate in"), "{added}");
    let added = done(&folder, "endpoint add e --service eth").stderr;
    assert!(added.contains(warning) && added.contains("upstream \"n\": "), "{added}");
    done(&folder, "upstream disable n");
    let added = done(&folder, "endpoint add f --service eth").stderr;
    assert!(!added.contains("warning"), "{added}");
    // Both the file and the database define it.
    folder.file("gateway.toml", "[[endpoint]]\nid = \"e\"\nservice = \"eth\"\n");
    let added = done(&folder, "endpoint add g --service eth").stderr;
    assert!(
        added.contains(warning) && added.contains("also defined in the configuration"),
        "{added}"
    );
}

#[test]
fn certificates_are_checked() {
    let folder = Folder::new();
    let name = |number: u8, part: &str| format!("{number}.{part}.pem");
    for number in [1, 2] {
        let done = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args([
                "-subj",
                "/CN=h",
                "-keyout",
                &name(number, "key"),
                "-out",
                &name(number, "cert"),
            ])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let check = |cert: &str, key: &str, says: &str| {
        let text = format!("tls = {{ cert = \"{cert}\", key = \"{key}\" }}\n");
        let checked = plimsoll(&["check", &folder.file("gateway.toml", text)]);
        let stderr = &checked.stderr;
        assert_eq!(checked.code, if says.is_empty() { 0 } else { 2 }, "{stderr}");
        assert!(stderr.contains(says), "{stderr}\nwithout {says}");
    };
    check("1.cert.pem", "1.key.pem", "");
    check("1.cert.pem", "2.key.pem", "tls: the key does not belong to the certificate: ");
    check("1.cert.pem", "1.cert.pem", "tls: there is no private key in ");
    check("1.key.pem", "1.key.pem", "tls: there is no certificate in ");
}
