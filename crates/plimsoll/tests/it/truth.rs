//! Every arrival is accounted for, and times are those that a user would experience.

use crate::run::{Folder, RPC, RPC_RESULT, run_plan, run_plan_in};
use crate::server::{After, Reply, Server};
use std::collections::BTreeSet;

#[test]
fn refused_connections_are_reported() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plan = format!(
        "rate = \"200/s\"\nrequests = 50\n[[target]]\nrequest = \"GET http://{gone}/\"\n\
         [[objective]]\nthat = \"success >= 99%\"\n"
    );
    let result = run_plan(&plan, &[]);
    assert_eq!((result.errors("refused"), result.count("/requests/unsent")), (50, 50));
    let findings = result.summary["verdict"]["findings"].to_string();
    assert!(findings.contains("target_refused"), "{findings}");
    assert_eq!(result.summary["objectives"][0]["ok"], false);
    result.assert_code(99);
}

#[test]
fn a_target_that_dies_in_the_middle_loses_no_arrival() {
    let server = std::sync::Arc::new(Server::start(|_, _| Reply::ok(RPC_RESULT)));
    let plan = format!(
        "rate = \"1000/s\"\nrequests = 1500\ntimeout = \"2s\"\n\
         [[target]]\nrequest = \"POST {}/\"\nbody = '{RPC}'\n",
        server.url()
    );
    let killer = server.clone();
    let kill = std::thread::spawn(move || {
        killer.wait_for(400);
        killer.stop();
    });
    let result = run_plan(&plan, &["--workers", "2"]);
    kill.join().unwrap();
    assert_eq!(result.count("/requests/scheduled"), 1500);
    assert!(result.count("/requests/ok") >= 300, "{}", result.summary);
    assert!(result.errors("refused") > 0, "{}", result.summary["errors"]);
}

#[test]
fn resets_and_early_closes_are_counted() {
    let server = Server::start(|number, _| match number % 4 {
        1 => Reply::raw("HTTP/1.1 200", After::Reset),
        3 => Reply::raw("HTTP/1.1 200", After::Close),
        _ => Reply::ok(RPC_RESULT),
    });
    let plan = format!(
        "users = 4\nrequests = 400\n[[target]]\nrequest = \"POST {}/\"\nbody = '{RPC}'\n",
        server.url()
    );
    let result = run_plan(&plan, &[]);
    assert_eq!((result.count("/requests/ok"), result.count("/requests/unsent")), (200, 0));
    assert_eq!(
        (result.errors("reset"), result.errors("closed_early")),
        (100, 100),
        "{}",
        result.summary
    );
    let lost = result.count("/connections/reasons/after_error");
    assert!((190..=200).contains(&lost), "{}", result.summary["connections"]);
}

#[test]
fn requests_without_a_connection_are_unsent_but_have_a_latency() {
    let server = Server::start(|_, _| Reply::raw("", After::Hang));
    let plan = format!(
        "rate = \"100000/s\"\nrequests = 10\ntimeout = \"400ms\"\nconnections = {{ max = 1 }}\n\
         [[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let result = run_plan(&plan, &[]);
    // All are due at once, and the first one occupies the only connection until all have timed out.
    assert!(result.errors("no_connection") >= 7, "{}", result.summary["errors"]);
    assert!(result.errors("response_timeout") >= 1);
    assert_eq!(
        result.count("/requests/unsent"),
        result.errors("no_connection") + result.errors("connect_timeout")
    );
    assert!(result.count("/latency/min") >= 399_000_000);
}

#[test]
fn latency_starts_at_the_planned_instant_and_service_time_at_the_first_byte() {
    // The first answer is held until 20 requests are due behind it on the only connection.
    let server = Server::start(|number, _| {
        if number == 0 {
            let gate = std::sync::mpsc::channel::<()>();
            let _ = gate.1.recv_timeout(std::time::Duration::from_millis(500));
        }
        Reply::ok(RPC_RESULT)
    });
    let plan = format!(
        "rate = \"100/s\"\nrequests = 20\nconnections = {{ max = 1 }}\n\
         [[target]]\nrequest = \"POST {}/\"\nbody = '{RPC}'\n",
        server.url()
    );
    let result = run_plan(&plan, &[]);
    assert_eq!(result.count("/requests/ok"), 20);
    // Request k was due 10 k ms after the first and waited at least 500 - 10 k ms for it.
    assert!(result.count("/latency/p50") >= 390_000_000, "{}", result.summary["latency"]);
    assert!(result.count("/service_time/p50") < result.count("/latency/p50") / 2);
    assert!(result.count("/wait/p50") >= 390_000_000, "{}", result.summary["wait"]);
}

#[test]
fn the_same_seed_sends_the_same_requests_with_any_number_of_workers() {
    let requests = |load: &str, workers: &str| {
        let server = Server::start(|_, _| Reply::ok(RPC_RESULT));
        let url = server.url();
        let plan = format!(
            "{load}\nrequests = 600\nseed = 7\n\
             [[target]]\nname = \"a\"\nweight = 2\nrequest = \"POST {url}/a/{{{{random 1 1000}}}}\"\nbody = \"{{{{seq}}}} {{{{uuid}}}}\"\n\
             [[target]]\nname = \"b\"\nweight = 1\nrequest = \"GET {url}/b/{{{{uuid}}}}\"\n"
        );
        let result = run_plan(&plan, &["--workers", workers]);
        assert_eq!(result.count("/requests/ok"), 600, "{}", result.summary);
        assert_eq!(result.summary["targets"][0]["requests"]["scheduled"], 400, "weights are exact");
        let received = server.received();
        received
            .iter()
            .map(|received| format!("{} {}", received.line(), received.body))
            .collect::<BTreeSet<_>>()
    };
    for load in ["rate = \"3000/s\"", "rate = \"3000/s\"\narrivals = \"poisson\"", "users = 12"] {
        let alone = requests(load, "1");
        assert_eq!(alone.len(), 600, "all requests differ");
        assert_eq!(alone, requests(load, "3"), "{load}");
    }
}

/// The bodies that a plan sends, in the order in which they came.
fn bodies(load: &str, flags: &[&str]) -> Vec<String> {
    let server = Server::start(|_, _| Reply::ok(RPC_RESULT));
    let plan = load.replace("URL", &server.url());
    let ran = run_plan(&plan, flags);
    assert_eq!(ran.count("/requests/failed") + ran.count("/requests/unsent"), 0, "{}", ran.summary);
    let received = server.received();
    let sent = ran.count("/requests/sent") + ran.count("/warmup/requests/sent");
    assert_eq!(received.len() as u64, sent);
    received.into_iter().map(|request| request.body).collect()
}

#[test]
fn no_two_requests_have_the_same_values() {
    let target = "request = \"POST URL/\"\nbody = \"{{seq}} {{uuid}}\"\n";
    let plans = [
        format!("rate = \"500/s\"\nduration = \"200ms\"\nwarmup = \"100ms\"\n[[target]]\n{target}"),
        format!("users = 3\nduration = \"200ms\"\nwarmup = \"100ms\"\n[[target]]\n{target}"),
        format!("users = 3\nrequests = 50\nwarmup = \"100ms\"\n[[target]]\n{target}"),
        [
            "rate = \"500/s\"\nduration = \"200ms\"",
            "users = 3\nrequests = 50",
            "users = 2\nduration = \"100ms\"",
        ]
        .map(|load| {
            format!("[[stream]]\n{load}\n[[stream.target]]\nname = \"{}\"\n{target}", load.len())
        })
        .concat(),
    ];
    for plan in plans {
        let mut seen = (BTreeSet::new(), BTreeSet::new());
        let mut total = 0;
        // A run without a seed repeats nothing of the run before; the numbers start again.
        for _ in 0..2 {
            seen.0.clear();
            let sent = bodies(&plan, &["--workers", "2"]);
            for body in &sent {
                let (seq, uuid) = body.split_once(' ').unwrap();
                assert!(seen.0.insert(seq.to_string()), "{seq} twice\n{plan}");
                assert!(seen.1.insert(uuid.to_string()), "{uuid} twice\n{plan}");
            }
            total += sent.len();
        }
        assert!(total > 100, "{total}\n{plan}");
        let first: BTreeSet<String> = bodies(&plan, &["--seed", "5"]).into_iter().collect();
        let again: BTreeSet<String> = bodies(&plan, &["--seed", "5"]).into_iter().collect();
        let common = first.intersection(&again).count();
        assert!(common >= 50, "only {common} of {} again\n{plan}", first.len());
    }
}

#[test]
fn weights_are_exact_in_the_closed_model_whatever_the_pace_of_its_users() {
    // Every third answer is slow, so that users are at different places of their decks.
    let server = Server::start(|number, _| {
        if number % 3 == 0 {
            let never = std::sync::mpsc::channel::<()>();
            let _ = never.1.recv_timeout(std::time::Duration::from_millis(2));
        }
        Reply::ok(RPC_RESULT)
    });
    let url = server.url();
    let rows: String = (0..8).map(|row| format!("GET {url}/row/{row}\n\n")).collect();
    let folder = Folder::new();
    folder.file("rows.txt", rows);
    let plan = format!(
        "users = 16\nduration = \"500ms\"\n\
         [[target]]\nname = \"a\"\nweight = 3\nrequest = \"GET {url}/a\"\n\
         [[target]]\nname = \"rows\"\nweight = 2\nfile = \"rows.txt\"\n"
    );
    let ran = run_plan_in(&folder, &plan, &["--workers", "1"]);
    let of = |place: usize| ran.count(&format!("/targets/{place}/requests/scheduled"));
    assert!(of(0) + of(1) > 100, "{}", ran.summary["requests"]);
    // Exact over whole decks of five; what is left is less than one deck.
    assert!((of(0) * 2).abs_diff(of(1) * 3) <= 2 * 3, "{} and {}", of(0), of(1));
    let mut by_row = [0u64; 8];
    for request in
        server.received().iter().filter(|request| request.line().starts_with("GET /row/"))
    {
        by_row[request.line()["GET /row/".len()..].parse::<usize>().unwrap()] += 1;
    }
    let (least, most) = (by_row.iter().min().unwrap(), by_row.iter().max().unwrap());
    assert!(most - least <= 2, "{by_row:?}: rows are sent in turn");
}

#[test]
fn the_warm_up_is_sent_but_not_measured() {
    let server = Server::start(|_, _| Reply::ok(RPC_RESULT));
    for load in [
        "rate = \"200/s\"\nduration = \"500ms\"",
        "users = 3\nthink_time = \"10ms\"\nduration = \"500ms\"",
    ] {
        let plan = format!(
            "{load}\nwarmup = \"300ms\"\n[[target]]\nrequest = \"POST {}/\"\nbody = '{RPC}'\n",
            server.url()
        );
        let before = server.received().len() as u64;
        let result = run_plan(&plan, &[]);
        let warm = result.count("/warmup/requests/scheduled");
        assert!(warm > 0, "{}", result.summary["warmup"]);
        let sent = warm + result.count("/requests/scheduled");
        assert_eq!(server.received().len() as u64 - before, sent, "both sides count the same");
        assert_eq!(result.count("/duration_ns"), 500_000_000);
    }
    let received = server.received().len();
    assert!(received > 100, "{received}");
}

#[test]
fn stages_and_streams_send_what_they_plan() {
    let server = Server::start(|_, _| Reply::ok(RPC_RESULT));
    let url = server.url();
    let target = |name: &str, tag: &str| {
        format!(
            "[[stream.target]]\nname = \"{name}\"\ntags = {{ chain = \"{tag}\" }}\nrequest = \"GET {url}/{name}\"\n"
        )
    };
    let plan = format!(
        "[[stream]]\nname = \"ramp\"\nstages = [{{ rate = \"400/s\", over = \"500ms\" }}, {{ rate = \"100/s\", for = \"500ms\" }}]\n{}{}\
         [[stream]]\nname = \"burst\"\nstart = \"400ms\"\nrate = \"1000/s\"\nduration = \"100ms\"\nlabels = {{ kind = \"burst\" }}\n{}\
         [[stream]]\nname = \"people\"\nusers = 2\nrequests = 40\n{}",
        target("a", "eth"),
        target("b", "boba"),
        target("c", "eth"),
        target("d", "boba"),
    );
    let result = run_plan(&plan, &["--workers", "2"]);
    let of = |name: &str| {
        server
            .received()
            .iter()
            .filter(|received| received.line() == format!("GET /{name}"))
            .count()
    };
    assert_eq!((of("a"), of("b"), of("c"), of("d")), (75, 75, 100, 40));
    let by = |pointer: &str| result.count(&format!("/tags/{pointer}/requests/ok"));
    assert_eq!((by("chain/eth"), by("chain/boba"), by("kind/burst")), (175, 115, 100));
}

#[test]
fn an_objective_can_stop_the_run() {
    let server = Server::start(|_, _| Reply::with(500, "", "no"));
    let plan = format!(
        "rate = \"50/s\"\nduration = \"60s\"\n[[target]]\nrequest = \"GET {}/\"\n\
         [[objective]]\nthat = \"success >= 99%\"\nabort = {{ after = \"0s\" }}\n",
        server.url()
    );
    let result = run_plan(&plan, &[]);
    assert_eq!(result.summary["cut_short"], true);
    assert!(result.count("/duration_ns") < 50_000_000_000);
    assert!(
        result.done.stderr.contains("stopping: the objective \"success >= 99%\" does not hold"),
        "{}",
        result.done.stderr
    );
    result.assert_code(99);
}
