//! Credentials, TLS, and the permissions of deploy/nats/nats-server.conf on a real server.

use super::{Nats, Raw, plan, printed, received, sim};
use crate::run::Folder;
use crate::tls::certificates;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::process::Command;

/// Passwords that tests give to the users of deploy/nats/nats-server.conf.
const PASSWORDS: [(&str, &str); 6] = [
    ("ACME_COORDINATOR", "acme-coordinator-password"),
    ("ACME_AGENT", "acme-agent-password"),
    ("ACME_VIEWER", "acme-viewer-password"),
    ("GLOBEX_COORDINATOR", "globex-coordinator-password"),
    ("GLOBEX_AGENT", "globex-agent-password"),
    ("GLOBEX_VIEWER", "globex-viewer-password"),
];

fn as_user(mut command: Command, user: &str) -> Command {
    command.env("NATS_USER", user).env("NATS_PASSWORD", format!("{user}-password"));
    command
}

/// The configuration with a user for one host, as deploy/nats/README.md says.
fn with_host_user(config: &str) -> String {
    let (_, agent) = config.split_once("AGENT = {").unwrap();
    let (agent, _) = agent.split_once("\n}\n").unwrap();
    let mut own = agent.to_string();
    for subject in ["run.*.report", "records.*"] {
        let all = format!("plimsoll.default.{subject}.*");
        assert!(own.contains(&all), "{all}");
        own = own.replace(&all, &format!("plimsoll.default.{subject}.host-1"));
    }
    own = own.replace("agents.*\"", "agents.host-1\"").replace("agent.>", "agent.host-1.>");
    let user =
        "{ user: \"acme-host-1\", password: \"acme-host-1-password\", permissions: $OWN_NAME }";
    let config = config.replace("accounts {", &format!("OWN_NAME = {{{own}\n}}\n\naccounts {{"));
    let users = "      { user: \"acme-agent\"";
    assert!(config.contains(users));
    config.replace(users, &format!("      {user}\n{users}"))
}

fn names(nats: &Nats, user: &str) -> Vec<String> {
    let (all, stderr) =
        printed(as_user(nats.command(&["agents", "--format", "json"]), user).output().unwrap());
    assert_eq!(stderr, "", "nothing is refused");
    let names = all["agents"].as_array().unwrap().iter();
    names.map(|agent| agent["agent"].as_str().unwrap().to_string()).collect()
}

#[test]
fn agents_cannot_give_orders_and_tenants_do_not_see_each_other() {
    let folder = Folder::new();
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/nats/nats-server.conf");
    let config = std::fs::read_to_string(config).unwrap();
    // The only changes: its files are those of the test, and a host has a user of its own.
    let (before, after) = config.split_once("  store_dir: \"/var/lib/nats\"\n").unwrap();
    let config = folder.file("nats-server.conf", with_host_user(&(before.to_string() + after)));
    let nats = Nats::start_with("nats", &["-c", &config], &PASSWORDS);
    let sim = sim(&["eth", "boba"]);
    let address = sim.address().to_string();
    // Coordinators create what their tenants need; an agent that comes earlier is told so.
    let mut early = as_user(nats.command(&["agent", "--allow", "a"]), "acme-agent");
    let early = String::from_utf8(early.output().unwrap().stderr).unwrap();
    assert!(early.contains("let a coordinator create it first"), "{early}");
    for tenant in ["acme", "globex"] {
        assert!(names(&nats, &format!("{tenant}-coordinator")).is_empty());
    }
    let agent = |tenant: &str, name: &str, label: &str| {
        let args = ["agent", "--name", name, "--label", label, "--allow", &address];
        let agent = as_user(nats.command(&args), &format!("{tenant}-agent"));
        let agent = crate::gateway::Process::spawn(agent);
        agent.wait_for("waits for orders");
        agent
    };
    let agents = [
        agent("acme", "one", "chain=eth"),
        agent("acme", "two", "chain=boba"),
        agent("globex", "one", "chain=eth"),
        agent("globex", "three", "chain=boba"),
    ];
    assert_eq!(names(&nats, "acme-viewer"), ["one", "two"]);
    assert_eq!(names(&nats, "globex-viewer"), ["one", "three"]);

    // A run needs no permission that the roles lack.
    let file = folder.file("plan.toml", plan(&address, "1s"));
    let out = folder.path().join("out");
    let args = ["run", &file, "--agents", "2", "--format", "json", "--out", out.to_str().unwrap()];
    let args = [&args[..], &["--record", "all"]].concat();
    let (summary, stderr) =
        printed(as_user(nats.command(&args), "acme-coordinator").output().unwrap());
    assert_eq!((&summary["requests"]["ok"], received(&address)), (&100.into(), 100), "{stderr}");
    agents.iter().for_each(|agent| assert!(!agent.has_logged("iolation"), "nothing is refused"));
    for agent in summary["agents"].as_array().unwrap() {
        assert_eq!(
            (&agent["records"], &agent["records_missing"]),
            (&agent["scheduled"], &0.into())
        );
    }

    // Another tenant's run is not there, whatever the tenant calls itself.
    let run = stderr.split_once("run ").unwrap().1.split(' ').next().unwrap();
    for tenant in ["default", "acme"] {
        let args = ["run", "--resume", run, "--tenant", tenant, "--no-out"];
        let other = as_user(nats.command(&args), "globex-coordinator").output().unwrap();
        assert_eq!(other.status.code(), Some(2), "{}", String::from_utf8_lossy(&other.stderr));
    }
    // An agent's credentials do not begin a run.
    let begun = as_user(nats.command(&["run", &file, "--agents", "1", "--no-out"]), "acme-agent");
    let begun = { begun }.output().unwrap();
    assert_eq!(begun.status.code(), Some(2), "{}", String::from_utf8_lossy(&begun.stderr));
    assert_eq!(received(&address), 100);

    let mut raw = Raw::connect(&nats, "acme-agent");
    let order = format!("plimsoll.default.run.{run}.order");
    let tick = format!("plimsoll.default.run.{run}.tick");
    for subject in [
        order.as_str(),
        &tick,
        "plimsoll.default.run.any.order",
        "$O.plimsoll_default_plans.C.any",
        "$JS.API.STREAM.CREATE.any",
        "$JS.API.STREAM.CREATE.plimsoll_default_records",
        "$JS.API.STREAM.PURGE.plimsoll_default_records",
        "$JS.API.STREAM.MSG.GET.plimsoll_default_records",
        "$JS.API.DIRECT.GET.plimsoll_default_records",
        "$JS.API.CONSUMER.CREATE.plimsoll_default_records",
        "$JS.API.CONSUMER.CREATE.plimsoll_default_records.any.plimsoll.default.records.any.two",
        "$JS.API.STREAM.UPDATE.plimsoll_default",
        "$JS.API.STREAM.DELETE.plimsoll_default",
        "$JS.API.STREAM.PURGE.plimsoll_default",
        "$JS.API.STREAM.MSG.DELETE.plimsoll_default",
        "$JS.API.STREAM.RESTORE.plimsoll_default",
        "$JS.API.CONSUMER.CREATE.plimsoll_default",
        "$JS.API.CONSUMER.NAMES.plimsoll_default",
        "_INBOX.plimsoll.default.coordinator.any",
    ] {
        assert!(!raw.may_publish(subject), "an agent may publish to {subject}");
    }
    assert!(raw.may_publish("plimsoll.default.run.any.report.one"));
    assert!(raw.may_publish("plimsoll.default.records.any.one"));
    // A host's own user reports and stores in its own name only.
    let mut own = Raw::connect(&nats, "acme-host-1");
    for subject in [
        "plimsoll.default.run.any.report",
        "plimsoll.default.records.any",
        "$KV.plimsoll_default_agents",
    ] {
        assert!(own.may_publish(&format!("{subject}.host-1")), "{subject}");
        assert!(!own.may_publish(&format!("{subject}.one")), "{subject}");
    }
    for subject in [">", "plimsoll.>", &order, "_INBOX.>", "_INBOX.plimsoll.default.coordinator.>"]
    {
        let errors = raw.errors(&format!("SUB {subject} 1\r\n"));
        assert!(
            errors[0].contains("Permissions Violation for Subscription"),
            "{subject}: {errors:?}"
        );
    }
    let mut viewer = Raw::connect(&nats, "acme-viewer");
    for subject in
        [order.as_str(), "$KV.plimsoll_default_agents.one", "plimsoll.default.run.any.report.one"]
    {
        assert!(!viewer.may_publish(subject), "a viewer may publish to {subject}");
    }
}

/// A JWT as NATS's operators issue it.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: Value) -> String {
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": name, "nats": nats,
    });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let encoded = |value: Value| BASE64.encode(value.to_string());
    let text = format!("{}.{}", encoded(header), encoded(claims));
    let signature = issuer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", BASE64.encode(signature))
}

fn credentials(account: &KeyPair) -> String {
    let user = KeyPair::new_user();
    let nats = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let (jwt, seed) = (jwt(account, &user, "user", nats), user.seed().unwrap());
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

#[test]
fn credentials_files_and_client_certificates_are_accepted() {
    let folder = Folder::new();
    certificates(&folder);
    let (operator, account, system) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let account_jwt = |key: &KeyPair, storage: i64| {
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1, "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
        });
        jwt(&operator, key, "account", json!({ "type": "account", "version": 2, "limits": limits }))
    };
    let operator_jwt =
        jwt(&operator, &operator, "operator", json!({ "type": "operator", "version": 2 }));
    let here = folder.path().display();
    let config = folder.file(
        "nats.conf",
        format!(
            "operator: \"{operator_jwt}\"\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{ {account}: \"{}\", {system}: \"{}\" }}\n\
             jetstream {{ max_mem: 64MB, max_file: 4GB }}\n\
             tls {{ cert_file: \"{here}/server.pem\", key_file: \"{here}/server.key\", \
             ca_file: \"{here}/ca.pem\", verify: true }}\n",
            account_jwt(&account, -1),
            account_jwt(&system, 0),
            account = account.public_key(),
            system = system.public_key(),
        ),
    );
    let nats = Nats::start_with("tls", &["-c", &config], &[]);
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let creds = folder.file("user.creds", credentials(&account));
    let agents = |flags: &[(&str, &str)]| {
        let mut command = nats.command(&["agents"]);
        flags.iter().for_each(|(flag, value)| _ = command.args([flag, value]));
        let done = command.output().unwrap();
        (
            done.status.code(),
            String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned(),
        )
    };
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let proof = [("--nats-cert", cert.as_str()), ("--nats-key", &key), ("--nats-ca", &ca)];
    let with = |creds: &str| agents(&[&proof[..], &[("--nats-creds", creds)]].concat());
    assert_eq!(with(&creds), (Some(0), "no agents\n".into()));

    let check = |(code, output): (Option<i32>, String), text: &str| {
        assert_eq!(code, Some(2), "{output}");
        assert!(output.contains(text), "no \"{text}\" in\n{output}");
    };
    let stranger = folder.file("stranger.creds", credentials(&KeyPair::new_account()));
    check(with(&stranger), "refused the credentials file");
    check(with(&folder.file("empty.creds", "")), "cannot use the credentials in");
    check(with(&file("missing.creds")), "cannot use the credentials in");
    check(agents(&proof), "refused a connection without credentials");
    // Without its certificate, and without trusting the server's.
    check(agents(&[("--nats-ca", &ca), ("--nats-creds", &creds)]), "NATS at tls://127.0.0.1:");
    check(agents(&[("--nats-creds", &creds)]), "--nats-ca FILE");
    check(agents(&[("--nats-ca", &file("none.pem"))]), "cannot read");
    check(agents(&[("--nats-cert", &cert)]), "--nats-key");
}
