//! Costs of synthetic runs, computed by hand.

use super::*;
use crate::summary::Summary;
use crate::synthetic::{Recording, plan};
use plimsoll_measure::prometheus;
use plimsoll_plan::Plan;

const TWO_CHAINS: &str = "rate = 100\nduration = \"10s\"\nwarmup = \"2s\"\n\
    [[target]]\nname = \"ethereum\"\ntags = { chain = \"ethereum\" }\nrequest = \"GET http://h/\"\n\
    [[target]]\nname = \"boba\"\ntags = { chain = \"boba\" }\nrequest = \"GET http://h/\"\n";
const GATEWAY: &str = "[[scrape]]\nname = \"gw-1\"\nurl = \"http://h/metrics\"\n";

/// The page of a gateway after this many seconds: each second 60 relays of eth and 40 of boba, 20 ms of CPU,
/// 50 operations in Redis of which 10 were skipped, 5 queries.
fn page(n: u64) -> String {
    format!(
        "process_cpu_seconds_total {}\nplimsoll_relays_total{{service=\"eth\",upstream=\"a\"}} {}\n\
         plimsoll_relays_total{{service=\"boba\",upstream=\"b\"}} {}\nplimsoll_db_queries_total {}\n\
         plimsoll_redis_operations_total{{result=\"hit\"}} {}\nplimsoll_redis_operations_total{{result=\"skipped\"}} {}\n",
        n as f64 * 0.02,
        60 * n,
        40 * n,
        5 * n,
        40 * n,
        10 * n
    )
}

/// A run of two seconds of warm-up and ten more, in which each second's end has the page of `scrape`.
fn run(plan: &Plan, scrape: impl Fn(u64) -> Option<String>) -> Summary {
    let mut run = Recording::new(plan);
    let scraped = |n: u64| match scrape(n) {
        None => Scraped::failure("status 500"),
        Some(page) => {
            let at = WallClock { unix_ns: n * 1_000_000_000 };
            Scraped::page(at, prometheus::parse(&page).unwrap(), &[])
        }
    };
    for n in 1..=12u64 {
        run.second(|second| {
            if n > 2 {
                second.ok(0, 60, Nanos(1_000));
                second.ok(1, 40, Nanos(1_000));
                second.snapshot.stats[0].bytes_in += 60 * 1_000;
                second.snapshot.stats[1].bytes_out += 40 * 500;
            }
            if n == 1 {
                second.snapshot.scraped(0, &scraped(0));
            }
            second.snapshot.scraped(0, &scraped(n));
        });
    }
    run.summary()
}

fn near(found: Known<f64>, expected: f64) {
    let found = found.unwrap();
    assert!((found / expected - 1.0).abs() < 1e-9, "{found}, not {expected}");
}

#[test]
fn figures_per_relay_without_the_warm_up() {
    let plan = plan(&format!(
        "{TWO_CHAINS}{GATEWAY}[cost]\nvcpu_hour = \"0.036 USD\"\ntraffic_gib = \"0.09 USD\"\nredis_operation = \"0.20 USD per million\"\n\
         database_query = \"1 USD per million\"\ncompute_unit = \"0.3 USD per million\"\ncupr = 100\n\
         services = {{ ethereum = \"eth\" }}\ninstance_month = \"62 USD\"\ninstance_vcpus = 2\n\
         target_rate = \"60000/s\"\nutilisation = \"50%\"\n"
    ));
    let summary = run(&plan, |n| Some(page(n)));
    let cost = summary.cost.as_ref().unwrap();
    let total = &cost.total;
    assert_eq!((&total.relays, &total.cpu), (&Ok(1_000), &Ok(Nanos::from_millis(200))));
    assert_eq!((&total.redis, &total.database, total.bytes), (&Ok(400), &Ok(50), 800_000));
    assert_eq!(total.compute_units, Ok(100_000));
    // Per million relays: 200 CPU seconds, 800 MB, 400,000 operations, 50,000 queries, 10⁸ units.
    let parts = [0.002, 0.09 * 8e8 / 1_073_741_824.0, 0.08, 0.05, 30.0];
    for ((_, part), expected) in total.parts.iter().zip(parts) {
        near(total.per_relay(part).map(|cost| cost * 1e6), expected);
    }
    near(total.per_million(), parts.iter().sum());
    near(total.per_million_ok(), parts.iter().sum());
    let [boba, ethereum] = &cost.chains[..] else { panic!("two") };
    assert_eq!((boba.name.as_str(), &boba.relays, &ethereum.relays), ("boba", &Ok(400), &Ok(600)));
    assert_eq!((boba.bytes, &boba.compute_units), (200_000, &Ok(40_000)));
    let why = "not counted by chain: gw-1 may serve several";
    assert_eq!((&boba.cpu, boba.per_million()), (&Err(why.into()), Err(why.into())));
    assert_eq!(
        cost.unknown(),
        [Unknown {
            of: vec!["boba", "ethereum"],
            figures: vec!["CPU", "Redis operations", "database queries"],
            why
        }]
    );
    // 60,000 × 0.2 ms = 12 vCPUs, and half of two for each instance.
    let projection = cost.projection.as_ref().unwrap().as_ref().unwrap();
    assert_eq!((projection.instances, projection.relays_per_request), (12, 1.0));
    assert_eq!(projection.steps[1].text, "12.00 ÷ (2 vCPUs × 50 %) = 12.00, rounded up: 12");
    let month = projection.month.as_ref().unwrap();
    assert_eq!((month.instances, month.usage.len()), (744.0, 4));
    let usage = (parts.iter().sum::<f64>() - parts[0]) * 60_000.0 * 730.0 * 3_600.0 / 1e6;
    near(Ok(month.total), 744.0 + usage);
}

#[test]
fn the_network_charges_compute_units() {
    let plan = plan(&format!(
        "{TWO_CHAINS}{GATEWAY}[cost]\ncuttm = 145990\ncucg = 1000000\npokt = \"0.007 USD\"\n\
         cupr_by_chain = {{ ethereum = 7, boba = 100 }}\nservices = {{ ethereum = \"eth\" }}\n"
    ));
    let summary = run(&plan, |n| Some(page(n)));
    let cost = summary.cost.as_ref().unwrap();
    // 600 × 7 and 400 × 100 units; floor(4,200 × 0.14599), floor(40,000 × 0.14599), and of the sum.
    assert_eq!(cost.total.compute_units, Ok(44_200));
    assert_eq!(cost.chains[1].upokt, Some(Ok(613)));
    assert_eq!(cost.chains[0].upokt, Some(Ok(5_839)));
    assert_eq!(cost.total.upokt, Some(Ok(6_452)));
    near(cost.total.per_million(), 6_452.0 * 0.007 / 1e6 / 1_000.0 * 1e6);
    near(cost.chains[0].per_million(), 5_839.0 * 0.007 / 1e6 / 400.0 * 1e6);
}

#[test]
fn what_is_not_known_says_why() {
    let prices = "[cost]\nvcpu_hour = \"0.04 USD\"\ntarget_rate = 10\ninstance_vcpus = 1\n";
    let check = |text: &str, scrape: &dyn Fn(u64) -> Option<String>, words: &str| {
        let plan = plan(&format!("{TWO_CHAINS}{text}"));
        let summary = run(&plan, scrape);
        let cost = summary.cost.as_ref().unwrap();
        let unknown = format!("{:?} {:?}", cost.unknown(), cost.projection);
        assert!(unknown.contains(words), "{words}: {unknown}");
        assert!(cost.total.per_million().is_err(), "{words}");
    };
    let whole = |n: u64| Some(page(n));
    let with = |scrape: &str| format!("{scrape}{prices}");
    let gateway = with(GATEWAY);
    check(&gateway, &|_| None, "gw-1: its metrics were not read twice (status 500)");
    check(
        &gateway,
        &|n| (n < 7).then(|| page(n)),
        "gw-1: its metrics cover only 4s of 10s (status 500)",
    );
    check(
        &gateway,
        &|_| Some("process_cpu_seconds_total 1".into()),
        "has the counter plimsoll_relays_total",
    );
    let other = "[[scrape]]\nname = \"edge\"\ngroup = \"edge\"\nurl = \"http://h/\"\n";
    check(&with(&format!("{GATEWAY}{other}")), &whole, "edge: its metrics were not read twice");
    let no_cpu = |n: u64| Some(format!("plimsoll_relays_total{{service=\"eth\"}} {n}"));
    check(&gateway, &no_cpu, "gw-1 has no process_cpu_seconds_total");
    let nothing = plan(&format!("{TWO_CHAINS}[cost]\nvcpu_hour = \"1 USD\"\n"));
    let nothing = Recording::new(&nothing).seconds(3, |second| second.ok(0, 1, Nanos(1))).summary();
    let nothing = nothing.cost.unwrap();
    assert_eq!(nothing.total.cpu, Err("the plan reads no process: it has no [[scrape]]".into()));
    let why = nothing.total.relays.unwrap_err();
    assert!(
        why.ends_with("no [[scrape]]; cost.relays = \"answers\" counts answers instead"),
        "{why}"
    );
    // A service of another name.
    let summary = run(&plan(&format!("{TWO_CHAINS}{gateway}")), whole);
    let why = summary.cost.unwrap().chains[1].relays.clone().unwrap_err();
    assert!(why.contains("\"ethereum\" were counted, only of: boba, eth"), "{why}");
}

#[test]
fn a_restart_and_answers_instead_of_relays() {
    let plan = plan(&format!(
        "{TWO_CHAINS}{GATEWAY}[cost]\nvcpu_hour = \"0.036 USD\"\nrelays = \"answers\"\n"
    ));
    // Restarted after 6 seconds: 80 ms before and 120 ms after.
    let summary = run(&plan, |n| Some(page(if n > 6 { n - 6 } else { n })));
    let cost = summary.cost.unwrap();
    assert_eq!(
        (cost.total.relays.clone(), cost.total.cpu.clone()),
        (Ok(1_000), Ok(Nanos::from_millis(200)))
    );
    assert_eq!(cost.chains[0].relays, Ok(400));
    assert!(cost.notes[0].starts_with("gw-1 was restarted"), "{:?}", cost.notes);
}

#[test]
fn processes_of_one_chain_each_are_known_by_chain() {
    let scrape = |name: &str| {
        format!("[[scrape]]\nname = \"{name}\"\nurl = \"http://{name}/\"\nchain = \"{name}\"\n")
    };
    let plan = plan(&format!(
        "{TWO_CHAINS}{}[cost]\nvcpu_hour = \"0.036 USD\"\nrelays = \"answers\"\n",
        scrape("ethereum")
    ));
    let cost = run(&plan, |n| Some(page(n))).cost.unwrap();
    assert_eq!(cost.chains[1].cpu, Ok(Nanos::from_millis(200)));
    assert_eq!(cost.chains[0].cpu, Err("no scraped process serves this chain".into()));
    near(cost.chains[1].per_million(), 0.2 / 3_600.0 * 0.036 / 600.0 * 1e6);
}

#[test]
fn amounts_are_short() {
    let check = |value: f64, text: &str| assert_eq!(amount(value), text);
    check(0.0, "0");
    check(12_345.6, "12,346");
    check(682.0, "682.00");
    check(4.305, "4.30");
    check(0.5, "0.5000");
    check(0.000_912_34, "0.0009123");
}
