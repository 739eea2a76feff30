//! Requests that are not part of the plan: read from a file or a pipe while the run sends them.
//!
//! The reader's thread compiles each request and passes it to the only worker through a channel of
//! [`QUEUE_LEN`] requests, so that input without end takes little memory. While the channel is empty,
//! due arrivals are held back; the reader then wakes the worker. At the end of the input, sending stops.

use crate::request::{FedRequest, Hop, Request, Style};
use crate::system::Message;
use crate::system::kernel::Mailbox;
use plimsoll_measure::Nanos;
use plimsoll_plan::{Plan, RequestSpec};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

/// Maximum number of requests read ahead.
pub(crate) const QUEUE_LEN: usize = 1024;

/// The engine's end. Part of a run's settings.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Until the worker takes it.
    requests: Arc<Mutex<Option<Receiver<Box<Hop>>>>>,
    starved: Arc<Starved>,
}

/// The reader's end. Dropping it ends the input.
pub struct Feeder {
    requests: Option<SyncSender<Box<Hop>>>,
    starved: Arc<Starved>,
    style: Style,
    redirects: u32,
}

/// What the two ends share.
#[derive(Default)]
struct Starved {
    /// Arrivals that waited for a request.
    arrivals: AtomicU64,
    /// Whether the worker found the channel empty and has to be woken.
    waits: AtomicBool,
    mailbox: OnceLock<Mailbox>,
}

impl std::fmt::Debug for Starved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.waits.fmt(f)
    }
}

impl Feed {
    /// A new pair of ends. Requests are sent by the rules of `plan`.
    pub fn new(plan: &Plan) -> (Feed, Feeder) {
        let (sender, receiver) = sync_channel(QUEUE_LEN);
        let starved = Arc::new(Starved::default());
        let feed =
            Feed { requests: Arc::new(Mutex::new(Some(receiver))), starved: starved.clone() };
        let (style, redirects) = (Style::of(plan), plan.redirects);
        (feed, Feeder { requests: Some(sender), starved, style, redirects })
    }

    /// The worker's end; `None` if it was taken.
    pub(crate) fn begin(&self) -> Option<Feeding> {
        let requests = self.requests.lock().expect("no holder panics").take()?;
        let starved = self.starved.clone();
        let starved_until = Nanos::ZERO;
        Some(Feeding { requests, ahead: None, is_starved: false, starved_until, starved })
    }

    /// How many arrivals were due before there was a request for them.
    pub fn waited(&self) -> u64 {
        self.starved.arrivals.load(Ordering::Relaxed)
    }

    /// Sets the worker to wake.
    pub(crate) fn wakes(&self, mailbox: Mailbox) {
        let _ = self.starved.mailbox.set(mailbox);
    }
}

impl Feeder {
    /// Passes a request to the worker; waits while the channel is full. Returns false if the run has
    /// ended.
    pub fn send(&self, spec: RequestSpec) -> bool {
        let request = Request::compile(&spec, 0, self.style);
        let fed = Some(Arc::new(FedRequest {
            method: spec.method.clone(),
            url: spec.url_written.clone(),
            body_len: request.body_len,
        }));
        let left = self.redirects;
        let hop = Box::new(Hop { left, is_redirect: false, fed, before: None, spec, request });
        let sent = self.requests.as_ref().is_some_and(|requests| requests.send(hop).is_ok());
        self.starved.wake();
        sent
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.requests = None;
        self.starved.wake();
    }
}

impl Starved {
    /// Wakes the worker if it waits.
    fn wake(&self) {
        if self.waits.swap(false, Ordering::SeqCst)
            && let Some(mailbox) = self.mailbox.get()
        {
            mailbox.send(Message::Fed);
        }
    }
}

/// What the worker finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supply {
    /// A request.
    Ready,
    /// Nothing yet.
    Empty,
    /// Nothing, and nothing will come.
    Ended,
}

/// The worker's end.
pub(crate) struct Feeding {
    requests: Receiver<Box<Hop>>,
    ahead: Option<Box<Hop>>,
    is_starved: bool,
    /// Until when arrivals that are due waited for a request.
    starved_until: Nanos,
    starved: Arc<Starved>,
}

impl Feeding {
    /// Whether there is a request.
    pub(crate) fn supply(&mut self, now: Nanos) -> Supply {
        if self.ahead.is_some() {
            return Supply::Ready;
        }
        let mut read = self.requests.try_recv();
        if matches!(read, Err(TryRecvError::Empty)) {
            // Looks again after it has asked to be woken: a request may have come in between.
            self.starved.waits.store(true, Ordering::SeqCst);
            read = self.requests.try_recv();
        }
        self.is_starved = matches!(read, Err(TryRecvError::Empty));
        if self.is_starved {
            self.starved_until = now;
        }
        match read {
            Ok(hop) => {
                self.ahead = Some(hop);
                Supply::Ready
            }
            Err(TryRecvError::Empty) => Supply::Empty,
            Err(TryRecvError::Disconnected) => Supply::Ended,
        }
    }

    /// Whether it was empty when it was looked at last.
    pub(crate) fn is_starved(&self) -> bool {
        self.is_starved
    }

    /// Takes the request that was found, for an arrival that was due at `scheduled_at`.
    pub(crate) fn take(&mut self, scheduled_at: Nanos) -> Box<Hop> {
        if scheduled_at <= self.starved_until {
            self.starved.arrivals.fetch_add(1, Ordering::Relaxed);
        }
        self.ahead.take().expect("looked for before")
    }
}
