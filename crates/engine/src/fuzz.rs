//! Entry points for fuzzing: a connection fed with the bytes of a server, without sockets. Not a public
//! interface.

use crate::connection::{
    Arrived, Bodies, BodyBudget, Connection, Event, Excerpts, Offer, Outgoing, ReadResources,
};
use crate::http2::frame::{HEAD_LEN, Head, kind};
use crate::request::{Request, Style};
use crate::system::{Readiness, Socket};
use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Key;
use plimsoll_plan::{Document, Plan, Protocol, Values, Variables};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;

/// The state of a [`Wire`].
pub(crate) struct WireState {
    /// Segments from the peer, each of which one read returns at most.
    pub(crate) arrived: VecDeque<Vec<u8>>,
    pub(crate) written: Vec<u8>,
    /// Number of writes.
    pub(crate) writes: usize,
    /// How much more the kernel accepts.
    pub(crate) room: usize,
    /// Whether the peer has closed the connection.
    pub(crate) has_ended: bool,
}

/// A socket whose peer is a script.
#[derive(Clone)]
pub(crate) struct Wire(pub(crate) Rc<RefCell<WireState>>);

impl Wire {
    pub(crate) fn new() -> Wire {
        Wire(Rc::new(RefCell::new(WireState {
            arrived: VecDeque::new(),
            written: Vec::new(),
            writes: 0,
            room: usize::MAX,
            has_ended: false,
        })))
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.borrow_mut();
        let Some(mut segment) = state.arrived.pop_front() else {
            return if state.has_ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        };
        let n = segment.len().min(buffer.len());
        buffer[..n].copy_from_slice(&segment[..n]);
        if n < segment.len() {
            state.arrived.push_front(segment.split_off(n));
        }
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.borrow_mut();
        let n = bytes.len().min(state.room);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.room -= n;
        state.writes += 1;
        state.written.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for Wire {
    fn is_connected(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn read_stamped(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<Nanos>)> {
        self.read(buffer).map(|n| (n, None))
    }
}

/// A request over HTTP/2 with a body of this length.
pub(crate) fn request(len: usize) -> Request {
    let text = format!(
        "protocol = \"http2\"\nrate = 1\nduration = \"1s\"\n[[target]]\n\
         request = \"POST http://h/t/{{{{seq}}}}\"\nheaders = {{ X-Key = \"k\" }}\nbody = \"{}\"\n",
        "q".repeat(len)
    );
    let document = Document::new("plan.toml", text);
    let plan = Plan::read(&document, &Variables::default(), Path::new("."));
    let plan = plan.unwrap_or_else(|problems| panic!("{problems}"));
    Request::compile(&plan.requests[0], 0, Style::of(&plan))
}

/// An HTTP/2 connection over a wire.
pub(crate) fn connection(wire: &Wire, streams: u32) -> Connection<Wire> {
    let offer = Offer { protocol: Protocol::Http2, streams };
    let connection =
        Connection::new(wire.clone(), (None, offer, None), (0, 0), (1, false), Nanos::ZERO);
    connection.expect("without TLS, nothing can fail")
}

/// A request for an arrival.
pub(crate) fn outgoing(request: &Request, arrival: u32, body_max: Option<u64>) -> Outgoing<'_> {
    Outgoing {
        arrival,
        request,
        values: Values { seq: u64::from(arrival), key: Key::new(0) },
        body_max,
        target: 0,
        spec: 0,
        last: false,
        split_by: None,
        capture: None,
        trace: false,
        standing: None,
        last_event: &[],
    }
}

/// An event as text.
pub(crate) fn show(event: &Event<'_>) -> String {
    match event {
        Event::Handshaking => "Handshaking".into(),
        Event::Settling => "Settling".into(),
        Event::Established => "Established".into(),
        Event::Sent { arrival } => format!("Sent {arrival}"),
        Event::Began { arrival } => format!("Began {arrival}"),
        Event::Answered { arrival, answer, .. } => {
            let body = String::from_utf8_lossy(answer.body);
            format!("Answered {arrival} {} {body}", answer.status)
        }
        Event::Failed { arrival, failure, .. } => {
            format!("Failed {arrival} {:?} {:?}", failure.class, failure.fault)
        }
        Event::Returned { arrival, .. } => format!("Returned {arrival}"),
        Event::Opened { arrival, status, .. } => format!("Opened {arrival} {status}"),
        Event::Received { arrival, message, .. } => match message {
            Arrived::Notification(result) => {
                format!("Notified {arrival} {}", String::from_utf8_lossy(result))
            }
            Arrived::Unmatched => format!("Unmatched {arrival}"),
            Arrived::Heartbeat => format!("Heartbeat {arrival}"),
            Arrived::Retry(pause) => format!("Retry {arrival} {pause}"),
            Arrived::Event { id, data } => {
                let id = id.map_or("-".into(), String::from_utf8_lossy);
                format!("Event {arrival} {id} {}", String::from_utf8_lossy(data))
            }
        },
        Event::Ponged { arrival } => format!("Ponged {arrival}"),
        Event::Stray { fault } => format!("Stray {fault:?}"),
        Event::Closed { failure, .. } => {
            format!("Closed {:?}", failure.as_ref().and_then(|failure| failure.fault))
        }
    }
}

/// Runs a connection until nothing more happens or it has closed, and writes its events down.
#[cfg(test)]
pub(crate) fn run(
    connection: &mut Connection<Wire>,
    mut ready: Readiness,
    resources: &mut ReadResources,
    events: &mut Vec<String>,
) {
    while let Some(event) = connection.next(&mut ready, &mut usize::MAX.clone(), resources) {
        events.push(show(&event));
        if matches!(event, Event::Closed { .. }) {
            break;
        }
    }
    if connection.is_unflushed() {
        connection.flush();
    }
}

/// What an HTTP/2 connection reports when the server sends these bytes in segments and then closes the
/// connection; what depends on the segments is left out. If they begin with settings, up to six requests
/// are started after these.
///
/// # Panics
/// If an exchange does not end exactly once, if memory of a body is not freed, or if the connection does
/// not close.
pub fn http2(bytes: &[u8], segment: usize) -> Vec<String> {
    const BUDGET: u64 = 1 << 20;
    thread_local!(static REQUEST: Request = request(100));
    let wire = Wire::new();
    let mut connection = connection(&wire, 6);
    let bodies = Bodies { budget: BodyBudget::new(BUDGET), excerpts: Excerpts::default() };
    let mut resources = ReadResources::new(1 << 10, bodies);
    let settings = Head::read(bytes).filter(|head| head.kind == kind::SETTINGS);
    let settings = settings.map_or(0, |head| (HEAD_LEN + head.len).min(bytes.len()));
    let (settings, rest) = bytes.split_at(settings);
    let segments = [settings].into_iter().chain(rest.chunks(segment.max(1)));
    wire.0.borrow_mut().arrived =
        segments.filter(|segment| !segment.is_empty()).map(<[u8]>::to_vec).collect();
    let (mut events, mut started, mut open) = (Vec::new(), 0, Vec::new());
    while !events.last().is_some_and(|last: &String| last.starts_with("Closed")) {
        let is_over = wire.0.borrow().arrived.is_empty();
        let stalled = is_over && wire.0.borrow().has_ended;
        wire.0.borrow_mut().has_ended = is_over;
        let mut ready = Readiness { readable: true, writable: true, read_closed: is_over };
        let before = events.len();
        while let Some(event) = connection.next(&mut ready, &mut usize::MAX.clone(), &mut resources)
        {
            let ended = match &event {
                Event::Answered { arrival, .. }
                | Event::Failed { arrival, .. }
                | Event::Returned { arrival, .. } => Some(*arrival),
                _ => None,
            };
            if let Some(ended) = ended {
                let at = open.iter().position(|own| *own == ended);
                open.swap_remove(at.expect("an exchange ends once"));
            }
            if !matches!(event, Event::Began { .. } | Event::Sent { .. }) {
                events.push(show(&event));
            }
            if matches!(event, Event::Closed { .. }) {
                break;
            }
        }
        assert!(!stalled || events.len() > before, "the connection closes: {events:?}");
        let is_first = events.last().is_some_and(|last| last == "Established");
        while is_first && connection.capacity() > 0 {
            REQUEST.with(|request| {
                let body_max = (started % 2 == 0).then_some(2_000);
                let buffers = (&mut Vec::new(), &mut Vec::new());
                connection.start(outgoing(request, started, body_max), buffers, &mut resources);
            });
            open.push(started);
            started += 1;
        }
        connection.flush();
    }
    assert!(open.is_empty() && connection.is_idle(), "each exchange ends");
    assert_eq!(resources.bodies.budget.used(), 0, "each body is freed");
    events
}

/// What an HTTP/1.1 connection reports that has asked for events, when the server sends these bytes in segments
/// and then closes the connection. Events have at most 200 bytes.
///
/// # Panics
/// If the exchange does not end exactly once, if memory is not freed, or if the connection does not close.
pub fn events(bytes: &[u8], segment: usize) -> Vec<String> {
    const TEXT: &str =
        "sockets = 1\nduration = \"1s\"\n[[target]]\nsse = \"http://h/\"\nnumbered = true\n";
    thread_local!(static PLAN: Plan = {
        let document = Document::new("plan.toml", TEXT);
        let plan = Plan::read(&document, &Variables::default(), Path::new("."));
        plan.unwrap_or_else(|problems| panic!("{problems}"))
    });
    let wire = Wire::new();
    let offered = (None, Offer { protocol: Protocol::Http1, streams: 1 }, None);
    let connection = Connection::new(wire.clone(), offered, (0, 0), (1, false), Nanos::ZERO);
    let mut connection = connection.expect("without TLS, nothing can fail");
    let bodies = Bodies { budget: BodyBudget::new(1 << 20), excerpts: Excerpts::default() };
    let mut resources = ReadResources::new(1 << 10, bodies);
    let mut seen = Vec::new();
    let mut run = |connection: &mut Connection<Wire>,
                   mut ready: Readiness,
                   resources: &mut ReadResources| {
        while let Some(event) = connection.next(&mut ready, &mut usize::MAX.clone(), resources) {
            seen.push(show(&event));
            if matches!(event, Event::Closed { .. }) {
                return true;
            }
        }
        false
    };
    run(&mut connection, Readiness { writable: true, ..Readiness::NONE }, &mut resources);
    PLAN.with(|plan| {
        let request = Request::compile(&plan.requests[0], 0, Style::of(plan));
        let standing = plan.requests[0].standing.as_ref();
        let outgoing = Outgoing { standing, ..outgoing(&request, 7, Some(200)) };
        let buffers = (&mut Vec::new(), &mut Vec::new());
        connection.start(outgoing, buffers, &mut resources);
    });
    let readable = Readiness { readable: true, ..Readiness::NONE };
    let mut has_closed = false;
    for part in bytes.chunks(segment.max(1)) {
        wire.0.borrow_mut().arrived.push_back(part.to_vec());
        while !has_closed && !wire.0.borrow().arrived.is_empty() {
            has_closed = run(&mut connection, readable, &mut resources);
        }
    }
    wire.0.borrow_mut().has_ended = true;
    let has_closed = has_closed || run(&mut connection, readable, &mut resources);
    assert!(has_closed && connection.is_idle(), "the connection closes: {seen:?}");
    assert_eq!(resources.bodies.budget.used(), 0, "each event is freed");
    let is_end = |event: &&String| event.starts_with("Failed 7") || event.starts_with("Answered 7");
    assert_eq!(seen.iter().filter(is_end).count(), 1, "the exchange ends once: {seen:?}");
    seen
}
