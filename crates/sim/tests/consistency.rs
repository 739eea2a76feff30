//! The verifier finds no disagreement on any service, including after reorganisations, and detects a
//! disagreement that a fault causes.

use plimsoll_measure::Nanos;
use plimsoll_sim::verify::{Options, Outcome, verify};
use plimsoll_sim::{Date, Fault, FaultKind, ManualDate, Service, Settings, Sim};

const SEED: u64 = 20_261_120;

fn start() -> (Sim, ManualDate) {
    let date = ManualDate::after_genesis(Nanos::from_secs(40_000_000));
    let settings = Settings {
        date: Date::Manual(date.clone()),
        ..Settings::for_tests(SEED, Service::known())
    };
    (Sim::start(settings).expect("a port is free"), date)
}

fn walk(url: String, headers: &[(&str, &str)], blocks: u64, until: &str) -> Outcome {
    let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let options = Options { url, headers: headers.collect(), blocks, until: until.into() };
    verify(&options, |_| {}).expect("the node answers")
}

#[test]
fn every_service_is_consistent() {
    let (sim, _) = start();
    for service in Service::known() {
        let outcome = walk(sim.url(&service.name), &[], 8, "latest");
        assert_eq!(outcome.shown, Vec::<String>::new(), "{} seed {SEED}", service.name);
        assert!(outcome.balances && outcome.transactions > 80 && outcome.logs > 60);
    }
}

#[test]
fn the_first_blocks_are_consistent_at_v1() {
    let (sim, _) = start();
    let url = format!("http://{}/v1", sim.address());
    let outcome = walk(url, &[("Target-Service-Id", "kava")], 20, "0x12");
    assert_eq!((outcome.shown, outcome.blocks), (Vec::new(), 19), "seed {SEED}");
}

#[test]
fn a_reorganised_chain_is_consistent() {
    let (sim, date) = start();
    sim.set_faults(vec![Fault::new(FaultKind::Reorganise { depth: 5 })]);
    let before = sim.head("eth");
    let outcome = walk(sim.url("eth"), &[], 10, "latest");
    assert_eq!(outcome.shown, Vec::<String>::new(), "seed {SEED}");
    date.advance(Nanos::from_secs(36));
    assert_eq!(sim.head("eth"), before + 3);
    let outcome = walk(sim.url("eth"), &[], 10, "latest");
    assert_eq!(outcome.shown, Vec::<String>::new(), "seed {SEED}");
}

#[test]
fn disagreements_are_found() {
    let (sim, _) = start();
    let fault = Fault::new(FaultKind::ChainId { id: 5 }).for_method("eth_chainId");
    sim.set_faults(vec![fault]);
    let outcome = walk(sim.url("eth"), &[], 1, "latest");
    assert!(outcome.disagreements > 0, "seed {SEED}");
    assert!(outcome.shown[0].contains("net_version"), "{:?}", outcome.shown);
}
