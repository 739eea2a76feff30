//! Faults of nodes and of the proxy, as clients see them.

mod plain;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use plain::Plain;
use plimsoll_measure::Nanos;
use plimsoll_sim::{
    Fault, FaultKind, LinkFault, LinkFaultKind, Proxy, ProxySettings, Service, Settings, Sim,
};

const SEED: u64 = 9;
const HOUR: Nanos = Nanos::from_secs(3600);
const CALL: &str = r#"{"jsonrpc":"2.0","method":"eth_chainId","id":1}"#;

fn start() -> Sim {
    Sim::start(Settings::for_tests(SEED, Service::known())).expect("a port is free")
}

fn connect(sim: &Sim) -> Plain {
    Plain::connect(sim.address()).expect("it listens")
}

#[test]
fn faults_change_answers() {
    let sim = start();
    let mut plain = connect(&sim);
    let mut with = |kind: FaultKind| {
        sim.set_faults(vec![Fault::new(kind)]);
        plain.post("eth", CALL).expect("an answer")
    };
    let error = with(FaultKind::Error { code: -32005, message: "limit \"x\"".into() });
    assert_eq!(error.status, 200);
    assert!(error.body.contains(r#""error":{"code":-32005,"message":"limit \"x\""}"#), "{error:?}");
    let limited = with(FaultKind::Status { status: 429, retry_after: Some(3) });
    assert_eq!(limited.status, 429);
    assert!(limited.headers.contains("retry-after: 3\r\n"), "{limited:?}");
    assert!(with(FaultKind::ChainId { id: 5 }).body.contains(r#""result":"0x5""#));
    assert!(with(FaultKind::WrongId).body.contains("not the id that was sent"));
    assert!(plimsoll_rpc::json::validate(with(FaultKind::Garbage).body.as_bytes()).is_err());
    let slow = FaultKind::Slow { bytes: 20, every: Nanos::from_millis(1) };
    assert!(with(slow).body.contains(r#""result":"0x1""#), "slow but complete");
    sim.set_faults(Vec::new());
    assert!(plain.post("eth", CALL).expect("an answer").body.contains(r#""result":"0x1""#));
    let injected = sim.counts().faults;
    let each_once = ["chain_id", "error", "garbage", "slow", "status", "wrong_id"].map(|k| (k, 1));
    assert_eq!(injected, each_once.into());
}

#[test]
fn heads_lag_and_are_reorganised() {
    let sim = start();
    let mut plain = connect(&sim);
    let number =
        |text: String| u64::from_str_radix(text[3..].trim_end_matches('"'), 16).expect("hex");
    let before = number(plain.result("eth", "eth_blockNumber", "[]"));
    sim.set_faults(vec![Fault::new(FaultKind::Lag { blocks: 10 }).for_service("eth")]);
    let lagging = number(plain.result("eth", "eth_blockNumber", "[]"));
    // A block may have been mined in between.
    assert!((before - 10..=before - 9).contains(&lagging), "{lagging} after {before}");
    let hidden = format!(r#"["{before:#x}",false]"#);
    assert_eq!(plain.result("eth", "eth_getBlockByNumber", &hidden), "null");

    sim.set_faults(Vec::new());
    let block = plain.result("eth", "eth_getBlockByNumber", &hidden);
    let hash = block.split(r#""hash":""#).nth(1).and_then(|rest| rest.get(..66)).expect("a hash");
    sim.set_faults(vec![Fault::new(FaultKind::Reorganise { depth: 5 })]);
    let other = plain.result("eth", "eth_getBlockByNumber", &hidden);
    assert!(!other.contains(hash), "replaced");
    let replaced = plain.result("eth", "eth_getBlockByHash", &format!(r#"["{hash}",false]"#));
    assert_eq!(replaced, block, "still available by its hash");
    let address = format!("0x{}", "11".repeat(20));
    let canonical = format!(r#"["{address}",{{"blockHash":"{hash}","requireCanonical":true}}]"#);
    let answer = plain.call("eth", "eth_getBalance", &canonical);
    assert!(answer.contains("hash is not currently canonical"), "{answer}");
}

#[test]
fn connections_are_reset_and_closed() {
    let sim = start();
    let with = |kind: FaultKind| {
        sim.set_faults(vec![Fault::new(kind)]);
        connect(&sim).post("eth", CALL).expect_err("a broken connection").kind()
    };
    assert_eq!(with(FaultKind::Reset { after: 0 }), ErrorKind::ConnectionReset);
    assert_eq!(with(FaultKind::Reset { after: 40 }), ErrorKind::ConnectionReset);
    assert_eq!(with(FaultKind::Truncate { after: None }), ErrorKind::UnexpectedEof);
    assert_eq!(with(FaultKind::Truncate { after: Some(0) }), ErrorKind::UnexpectedEof);
}

#[test]
fn connections_are_refused_until_the_fault_is_cleared() {
    let sim = start();
    let mut before = connect(&sim);
    before.post("eth", CALL).expect("an answer: it was accepted");
    sim.set_faults(vec![Fault::new(FaultKind::Refuse).during(Nanos::ZERO, HOUR)]);
    // The thread closes the listener asynchronously.
    while Plain::connect(sim.address()).is_ok() {}
    let error = TcpStream::connect(sim.address()).expect_err("the listener is closed");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    // Open connections still work, and can clear the fault.
    assert!(before.post("eth", CALL).is_ok());
    assert_eq!(before.ask("DELETE", "/sim/faults", "", "").expect("an answer").status, 200);
    while Plain::connect(sim.address()).is_err() {}
}

#[test]
fn a_stall_holds_answers() {
    let sim = start();
    sim.set_faults(vec![Fault::new(FaultKind::Stall).during(HOUR, HOUR)]);
    connect(&sim).post("eth", CALL).expect("an answer: the window is not open yet");
    sim.set_faults(vec![Fault::new(FaultKind::Stall).during(Nanos::ZERO, HOUR)]);
    let mut plain = connect(&sim);
    let held = std::thread::spawn(move || plain.post("eth", CALL).is_err());
    while sim.counts().faults.is_empty() {
        std::thread::yield_now();
    }
    sim.stop();
    assert!(held.join().expect("no panic"), "held until the simulator stopped");
    // After the window, answers are not held.
    let sim = start();
    let moment = Nanos::from_millis(1);
    sim.set_faults(vec![Fault::new(FaultKind::Stall).during(Nanos::ZERO, moment)]);
    connect(&sim).post("eth", CALL).expect("an answer, at the latest when the window has passed");
}

#[test]
fn the_control_endpoint_changes_faults() {
    let sim = start();
    let mut plain = connect(&sim);
    let mut put = |method: &str, body: &str| {
        let response = plain.ask(method, "/sim/faults", "", body).expect("an answer");
        (response.status, response.body)
    };
    let lag = r#"{"kind":"lag","blocks":3,"service":"eth"}"#;
    let shown = r#"{"kind":"lag","share":"100%","at":"0s","service":"eth"}"#;
    assert_eq!(put("PUT", &format!("[{lag}]")), (200, format!("[{shown}]")));
    assert_eq!(put("POST", lag), (200, format!("[{shown},{shown}]")));
    assert_eq!(put("GET", "").1, format!("[{shown},{shown}]"));
    let (status, problem) = put("PUT", r#"{"kind":"lagg"}"#);
    assert_eq!(status, 400);
    assert!(problem.contains("did you mean \"lag\"?"), "{problem}");
    let (status, problem) = put("PUT", r#"{"kind":"lag","service":"x"}"#);
    assert_eq!((status, problem.contains("one of eth, boba, mantle, kava")), (400, true));
    assert_eq!(put("PUT", "{").0, 400);
    assert_eq!(put("DELETE", ""), (200, "[]".into()));
    let counts = plain.ask("GET", "/sim/counts", "", "").expect("an answer").body;
    assert!(
        counts.starts_with(r#"{"connections":1,"connections_open":1,"requests":0"#),
        "{counts}"
    );
}

fn proxy(sim: &Sim, kind: LinkFaultKind) -> Proxy {
    let settings = ProxySettings {
        listen: "127.0.0.1:0".parse().expect("an address"),
        to: sim.address().to_string(),
        seed: SEED,
        faults: vec![LinkFault::new(kind)],
    };
    Proxy::start(settings).expect("a port is free")
}

#[test]
fn the_proxy_forwards_and_breaks_connections() {
    let sim = start();
    let ms = Nanos::from_millis(1);
    for kind in [
        LinkFaultKind::Delay { by: ms, jitter: ms },
        LinkFaultKind::Bandwidth { rate: 1 << 20 },
        LinkFaultKind::Drip { bytes: 50, pause: ms },
        LinkFaultKind::Limit { connections: 1 },
    ] {
        let proxy = proxy(&sim, kind);
        let mut plain = Plain::connect(proxy.address()).expect("it listens");
        let answer = plain.post("eth", CALL).expect("an answer");
        assert!(answer.body.contains(r#""result":"0x1""#), "{kind:?}");
        // Bytes are counted after they are written, possibly after the answer was read.
        while proxy.counts().bytes_out < 60 {
            std::thread::yield_now();
        }
        let counts = proxy.counts();
        assert_eq!((counts.accepted, counts.open), (1, 1), "{kind:?}");
        assert!(counts.bytes_in > 60, "{kind:?}");
    }
    let broken = |kind| {
        let proxy = proxy(&sim, kind);
        let plain = Plain::connect(proxy.address());
        plain.and_then(|mut plain| plain.post("eth", CALL)).expect_err("broken").kind()
    };
    assert_eq!(broken(LinkFaultKind::Reset { after: 30 }), ErrorKind::ConnectionReset);
    assert_eq!(broken(LinkFaultKind::Truncate { after: 30 }), ErrorKind::UnexpectedEof);
    assert_eq!(broken(LinkFaultKind::Refuse), ErrorKind::ConnectionRefused);
    let none = broken(LinkFaultKind::Limit { connections: 0 });
    assert!(matches!(
        none,
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    ));
}

#[test]
fn the_proxy_falls_silent() {
    let sim = start();
    for kind in [LinkFaultKind::Silence { after: 10 }, LinkFaultKind::BlackHole] {
        let proxy = proxy(&sim, kind);
        let address = proxy.address();
        let mut stream = TcpStream::connect(address).expect("it listens");
        let request = format!("POST /eth HTTP/1.1\r\ncontent-length: {}\r\n\r\n{CALL}", CALL.len());
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("a connection");
        let wanted = if kind == LinkFaultKind::BlackHole { 0 } else { 10 };
        let mut start = vec![0; wanted];
        stream.read_exact(&mut start).expect("the bytes before the silence");
        // Nothing more is sent until the proxy stops.
        let stopped = std::thread::spawn(move || proxy.stop());
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest.len(), 0, "{kind:?}");
        stopped.join().expect("no panic");
    }
}
