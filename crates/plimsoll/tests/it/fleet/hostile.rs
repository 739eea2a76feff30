//! Orders that no coordinator of ours gives: agents read no files for them, repeat no secrets, and take no part.

use super::{Nats, received, sim};
use crate::run::Folder;
use plimsoll_fleet::nats::{BacklogLimits, Bus, BusSettings, Credentials, LogEvent, Role};
use plimsoll_fleet::{LogMessage, MemberOrder, Order, OrderKind, Problem, ReportKind};
use serde_json::json;
use std::time::Duration;

const SECRET: &str = "s3cret-of-the-agent";
const CANARY: &str = "canary = of the agent's disk";

/// Whoever may give orders.
struct Hostile {
    bus: Bus,
    orders: u32,
}

impl Hostile {
    async fn connect(nats: &Nats) -> Hostile {
        let settings = BusSettings {
            url: nats.url.clone(),
            credentials: Credentials::None,
            ca: None,
            certificate: None,
            tenant: "default".into(),
            role: Role::Coordinator,
        };
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        Hostile { bus: Bus::connect(&settings, events).await.unwrap(), orders: 0 }
    }

    /// Orders an agent to run a plan; returns why it refuses.
    async fn order(&mut self, plan: &str) -> Vec<Problem> {
        self.orders += 1;
        let run = format!("hostile-{}", self.orders);
        let sent = json!({ "schema": "plimsoll/fleet-plan/1", "plan": plan, "variables": {} });
        self.bus.put_plan(&run, sent.to_string().as_bytes()).await.unwrap();
        let agents = self.bus.agents().await.unwrap();
        let [Ok(agent)] = &agents[..] else { panic!("{agents:?}") };
        let member = MemberOrder {
            name: agent.name.clone(),
            session: agent.session.clone(),
            labels: agent.labels.clone(),
            part: vec!["0-1023/1".into()],
        };
        let what = OrderKind::Begin {
            digest: String::new(),
            seed: 1,
            lease_ns: None,
            hands_over: false,
            records: None,
            members: vec![member],
        };
        let (coordinator, epoch, number) = ("hostile".into(), 1, 1);
        let order = Order { run: run.clone(), epoch, number, coordinator, what };
        let (writer, _written) = self.bus.writer(&run, BacklogLimits::default());
        writer.write(LogMessage::Order(order));
        let mut log = self.bus.read_run(&run);
        loop {
            let LogEvent::Entry(entry, _) = log.next().await.unwrap() else { continue };
            if let LogMessage::Report(report) = entry.message {
                match report.what {
                    ReportKind::Refused { problems } => return problems,
                    other => panic!("{plan}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn orders_reach_no_files_and_no_secrets_of_an_agents_host() {
    let (nats, sim) = (Nats::start(), sim(&["eth"]));
    let address = sim.address().to_string();
    let folder = Folder::new();
    let there = folder.file("canary", CANARY);
    let mut agent = nats.command(&["agent", "--name", "one", "--allow", &address]);
    agent.args(["--secret", "AGENT_KEY"]).env("AGENT_KEY", SECRET).env("AGENT_PLAIN", SECRET);
    let agent = crate::gateway::Process::spawn(agent);
    agent.wait_for("waits for orders");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut hostile = runtime.block_on(Hostile::connect(&nats));
    let mut refused = |plan: String| {
        let answer = hostile.order(&plan);
        let answer = async { tokio::time::timeout(Duration::from_secs(30), answer).await };
        let problems = runtime.block_on(answer).unwrap_or_else(|_| panic!("no answer: {plan}"));
        let text: String =
            problems.iter().map(|own| format!("{}\n{}\n", own.message, own.hint)).collect();
        assert!(!text.contains(SECRET) && !text.contains("canary ="), "{plan}\n{text}");
        text
    };
    let head = "rate = 1\nduration = \"1s\"\n";
    let target = format!("[[target]]\nname = \"t\"\nrequest = \"POST http://{address}/eth\"\n");
    let of_file = "[[target]]\nname = \"t\"\n";
    let missing = folder.path().join("absent").display().to_string();
    // What names a file is refused, and the refusal does not say whether the file exists.
    for file in [
        format!("{head}{target}body_file = \"FILE\"\n"),
        format!("{head}{of_file}file = \"FILE\"\n"),
        format!("{head}{of_file}file = \"FILE\"\nformat = \"json\"\n"),
        format!("{head}{of_file}file = \"FILE\"\nliteral = true\nbody_folder = \"/\"\n"),
        format!("{head}{of_file}file = \"FILE\"\ndigest = \"0000000000000000\"\n"),
        format!(
            "{head}{of_file}[[target.turn]]\nrequest = \"POST http://{address}/\"\nbody_file = \"FILE\"\n"
        ),
        format!("{head}tls = {{ ca = \"FILE\" }}\n{target}"),
        format!("{head}tls = {{ cert = \"FILE\", key = \"FILE\" }}\n{target}"),
    ] {
        let texts = [&there, &missing, "/dev/stdin", "/proc/self/environ"].map(|path| {
            let text = refused(file.replace("FILE", path));
            assert!(text.contains("an agent reads no files for others"), "{file}\n{text}");
            text.replace(path, "FILE")
        });
        // Of the same length, so that the columns are the same.
        assert_eq!(texts[0], texts[1]);
    }
    let stdin = refused(format!("{head}{of_file}file = \"-\"\n"));
    assert!(stdin.contains("an agent reads no files for others"), "{stdin}");
    let mut wrong = Vec::new();
    // Only the variables that the operator named; and their values in no message.
    for (plan, text) in [
        (format!("{head}{target}body = \"${{AGENT_PLAIN}}\"\n"), "AGENT_PLAIN is not set"),
        (format!("{head}{target}body = \"${{PATH}}\"\n"), "PATH is not set"),
        (format!("rate = \"${{AGENT_KEY}}\"\nduration = \"1s\"\n{target}"), "rate"),
        (format!("name = \"${{AGENT_KEY}}\"\n{head}{target}"), "AGENT_KEY"),
        (format!("{head}tls = {{ server_name = \"${{AGENT_KEY}}\" }}\n{target}"), "AGENT_KEY"),
        (format!("{head}[[target]]\nrequest = \"GET http://${{AGENT_KEY}}/\"\n"), "AGENT_KEY"),
        (format!("{head}[[target]]\nrequest = \"${{AGENT_KEY}}\"\n"), "METHOD URL"),
        (format!("{head}{target}body_file = \"${{AGENT_KEY}}\"\n"), "reads no files"),
        (format!("{head}[[target]]\nfile = \"${{AGENT_KEY}}\"\n"), "AGENT_KEY"),
        (format!("{head}{target}[[scrape]]\nurl = \"file://{there}\"\n"), "scheme"),
        (format!("{head}{target}[[scrape]]\ncgroup = \"../../etc\"\n"), "control group"),
        (format!("{head}{target}[[scrape]]\nurl = \"http://127.0.0.1:1/${{AGENT_KEY}}\"\n"), ""),
        (format!("{head}{target}[[log]]\nfile = \"{there}\"\npatterns = [\"canary.*\"]\n"), ""),
        (
            format!(
                "{head}{target}[[log]]\ncommand = [\"cat\", \"{there}\"]\npatterns = [\".\"]\n"
            ),
            "",
        ),
    ] {
        let problems = refused(plan.clone());
        let expected = if text.is_empty() { "reads differently here" } else { text };
        if !problems.contains(expected) {
            wrong.push(format!("no \"{expected}\" for {plan}\n{problems}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!agent.has_logged(SECRET) && !agent.has_logged("canary ="));
    // Names that lead elsewhere: into the subjects of others, or out of a folder.
    let mut raw = super::Raw::connect(&nats, "nobody");
    for (number, name) in (1..).zip(["../run", "a.order", "a b", "a\\r\\nPUB x 0"]) {
        let order = format!(
            "{{\"schema\":\"plimsoll/order/1\",\"run\":\"{name}\",\"epoch\":1,\"number\":1,\
             \"coordinator\":\"c\",\"what\":{{\"resume\":{{}}}}}}"
        );
        let subject = format!("plimsoll.default.run.hostile-name-{number}.order");
        assert!(raw.errors(&format!("PUB {subject} {}\r\n{order}\r\n", order.len())).is_empty());
        agent.wait_for(&format!("a message on {subject} cannot be read"));
    }
    assert_eq!(received(&address), 0);
}
