//! Transactions that users send are accepted once, mined in a later block, and change the state.

mod plain;

use plain::Plain;
use plimsoll_measure::Nanos;
use plimsoll_sim::verify::{Options, verify};
use plimsoll_sim::{Date, ManualDate, Service, Settings, Sim, Wallet};

const SEED: u64 = 3;
const TO: [u8; 20] = [0x22; 20];

fn start() -> (Sim, ManualDate, Plain) {
    let date = ManualDate::after_genesis(Nanos::from_secs(12_000));
    let date_setting = Date::Manual(date.clone());
    let settings =
        Settings { date: date_setting, ..Settings::for_tests(SEED, Service::named("eth")) };
    let sim = Sim::start(settings).expect("a port is free");
    let plain = Plain::connect(sim.address()).expect("it listens");
    (sim, date, plain)
}

fn send(plain: &mut Plain, raw: &str) -> String {
    plain.call("eth", "eth_sendRawTransaction", &format!("[\"{raw}\"]"))
}

fn nonce(plain: &mut Plain, wallet: &Wallet, tag: &str) -> String {
    let params = format!(r#"["{}","{tag}"]"#, wallet.address());
    plain.result("eth", "eth_getTransactionCount", &params)
}

#[test]
fn a_transaction_is_accepted_once_and_mined() {
    let (sim, date, mut plain) = start();
    let wallet = Wallet::numbered(1);
    let raw = wallet.transfer(1, 0, TO, 5);
    let answer = send(&mut plain, &raw);
    let hash = answer.strip_prefix(r#""result":"#).expect("accepted").to_owned();
    let error = r#""error":{"code":-32000,"message":"already known"}"#;
    assert_eq!(send(&mut plain, &raw), error);

    let sent = plain.result("eth", "eth_getTransactionByHash", &format!("[{hash}]"));
    assert!(sent.contains(r#""blockHash":null,"blockNumber":null"#), "pending: {sent}");
    assert!(sent.contains(&format!(r#""from":"{}""#, wallet.address())), "{sent}");
    assert_eq!(plain.result("eth", "eth_getTransactionReceipt", &format!("[{hash}]")), "null");
    assert_eq!(nonce(&mut plain, &wallet, "latest"), r#""0x0""#);
    assert_eq!(nonce(&mut plain, &wallet, "pending"), r#""0x1""#);

    let held = format!(r#"["0x{}","latest"]"#, "22".repeat(20));
    let before = plain.result("eth", "eth_getBalance", &held);
    date.advance(Nanos::from_secs(12));
    let receipt = plain.result("eth", "eth_getTransactionReceipt", &format!("[{hash}]"));
    assert!(receipt.contains(r#""blockNumber":"0x3e9""#), "{receipt}");
    assert!(receipt.contains(r#""status":"0x1""#), "{receipt}");
    assert_eq!(nonce(&mut plain, &wallet, "latest"), r#""0x1""#);
    let after = plain.result("eth", "eth_getBalance", &held);
    let wei = |text: &str| u128::from_str_radix(text[3..].trim_end_matches('"'), 16).expect("hex");
    assert_eq!(wei(&after), wei(&before) + 5);

    let again = send(&mut plain, &wallet.transfer(1, 0, TO, 6));
    assert!(again.contains("nonce too low: next nonce 1, tx nonce 0"), "{again}");
    let options =
        Options { url: sim.url("eth"), headers: vec![], blocks: 4, until: "latest".into() };
    let outcome = verify(&options, |_| {}).expect("it answers");
    assert_eq!(outcome.shown, Vec::<String>::new(), "seed {SEED}");
}

#[test]
fn transactions_wait_for_missing_nonces() {
    let (_sim, date, mut plain) = start();
    let wallet = Wallet::numbered(2);
    assert!(send(&mut plain, &wallet.transfer(1, 2, TO, 1)).starts_with("\"result\""));
    assert!(send(&mut plain, &wallet.transfer(1, 1, TO, 1)).starts_with("\"result\""));
    date.advance(Nanos::from_secs(60));
    assert_eq!(nonce(&mut plain, &wallet, "pending"), r#""0x0""#);
    assert!(send(&mut plain, &wallet.transfer(1, 0, TO, 1)).starts_with("\"result\""));
    assert_eq!(nonce(&mut plain, &wallet, "pending"), r#""0x3""#);
    assert_eq!(nonce(&mut plain, &wallet, "latest"), r#""0x0""#);
    date.advance(Nanos::from_secs(12));
    assert_eq!(nonce(&mut plain, &wallet, "latest"), r#""0x3""#);
}

#[test]
fn invalid_transactions_are_refused() {
    let (_sim, _, mut plain) = start();
    let wallet = Wallet::numbered(3);
    let mut check = |raw: String, words: &str| {
        let answer = send(&mut plain, &raw);
        assert!(answer.contains(words), "{answer}");
    };
    check(wallet.transfer(5, 0, TO, 1), "invalid chain id for signer: have 5 want 1");
    check(wallet.transfer(1, 5_000, TO, 1), "nonce too high");
    let tampered = wallet.transfer(1, 0, TO, 1).replace("2222", "2223");
    // The signature is valid, but for another, unknown sender.
    check(tampered, "\"result\"");
    let first = wallet.transfer(1, 0, TO, 1);
    check(first, "\"result\"");
    check(wallet.transfer(1, 0, TO, 2), "replacement transaction underpriced");
}

#[test]
fn a_block_has_at_most_500_sent_transactions() {
    let (_sim, date, mut plain) = start();
    let wallet = Wallet::numbered(4);
    for nonce in 0..501 {
        assert!(send(&mut plain, &wallet.transfer(1, nonce, TO, 1)).starts_with("\"result\""));
    }
    date.advance(Nanos::from_secs(12));
    assert_eq!(nonce(&mut plain, &wallet, "latest"), r#""0x1f4""#);
    date.advance(Nanos::from_secs(12));
    assert_eq!(nonce(&mut plain, &wallet, "latest"), r#""0x1f5""#);
}
