//! Appends to the log of a run, and reads it.

use super::backlog::{Backlog, BacklogLimits};
use super::{ANSWER_MAX, Bus};
use crate::message::{Entry, LogMessage, encode};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use bytes::Bytes;
use futures_util::StreamExt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Time between two attempts to store a message.
const RETRY: Duration = Duration::from_millis(250);

/// What became of a message that was to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is stored.
    Stored(LogMessage),
    /// It is not stored yet; the reason. Attempts go on.
    Waiting(String),
    /// The messages that wait no longer fit into memory; from now on they go to a file.
    Spooling,
    /// As many messages wait as may; the reason. What is still written is kept, but it should not be much.
    Full(String),
    /// Messages that waited cannot be read back and are lost; nothing more is stored.
    Broken(String),
}

/// Appends messages in the order in which they are given. Each is repeated until the server confirms it; the
/// server recognises a repetition by the message's id. Those that wait are bounded as [`BacklogLimits`] says.
#[derive(Clone)]
pub struct LogWriter {
    queue: mpsc::UnboundedSender<LogMessage>,
}

impl LogWriter {
    /// Appends a message.
    pub fn write(&self, message: LogMessage) {
        // Fails only while the process ends.
        let _ = self.queue.send(message);
    }
}

impl Bus {
    /// A writer to the log of the run `run`, or of the run that each message names.
    pub fn writer(
        &self,
        run: &str,
        limits: BacklogLimits,
    ) -> (LogWriter, mpsc::UnboundedReceiver<Written>) {
        let (queue, waiting) = mpsc::unbounded_channel();
        let (written, results) = mpsc::unbounded_channel();
        let backlog = Backlog::new(limits);
        let bus = self.clone();
        tokio::spawn(Writing { bus, run: run.into(), waiting, written, backlog }.run());
        (LogWriter { queue }, results)
    }
}

/// A writer's task. It takes messages from its queue at once, so that only the backlog holds those that wait.
struct Writing {
    bus: Bus,
    run: String,
    waiting: mpsc::UnboundedReceiver<LogMessage>,
    written: mpsc::UnboundedSender<Written>,
    backlog: Backlog,
}

impl Writing {
    /// Ends with its queue, once everything is stored, or with the process.
    async fn run(mut self) {
        loop {
            let (message, payload) = match self.backlog.pop() {
                Ok(Some(payload)) => {
                    (LogMessage::decode(&payload).expect("it was encoded here"), payload)
                }
                Ok(None) => {
                    let Some(message) = self.waiting.recv().await else { return };
                    let payload = Bytes::from(encode(&message));
                    (message, payload)
                }
                Err(why) => {
                    let _ = self.written.send(Written::Broken(why.to_string()));
                    return;
                }
            };
            let (bus, written, run) = (self.bus.clone(), self.written.clone(), self.run.clone());
            let stored = bus.append(&run, message, &payload, &written);
            tokio::pin!(stored);
            let message = loop {
                tokio::select! {
                    message = &mut stored => break message,
                    Some(next) = self.waiting.recv() => self.keep(&next),
                }
            };
            if written.send(Written::Stored(message)).is_err() {
                return;
            }
        }
    }

    /// Keeps a message until those before it are stored.
    fn keep(&mut self, message: &LogMessage) {
        let (on_disk, was_full) = (self.backlog.on_disk(), self.backlog.full().is_some());
        self.backlog.push(encode(message).into());
        if on_disk == 0 && self.backlog.on_disk() > 0 {
            let _ = self.written.send(Written::Spooling);
        }
        if let (false, Some(why)) = (was_full, self.backlog.full()) {
            let _ = self.written.send(Written::Full(why.into()));
        }
    }
}

impl Bus {
    /// Appends a message, with as many attempts as it takes, and returns it.
    async fn append(
        &self,
        run: &str,
        message: LogMessage,
        payload: &Bytes,
        written: &mpsc::UnboundedSender<Written>,
    ) -> LogMessage {
        let (subject, id) = self.place_of(run, &message);
        while let Err(why) = self.store_once(&subject, &id, payload).await {
            let _ = written.send(Written::Waiting(why));
            tokio::time::sleep(RETRY).await;
        }
        message
    }

    /// The subject and the id of a message.
    fn place_of(&self, run: &str, message: &LogMessage) -> (String, String) {
        let prefix = format!("plimsoll.{}.run", self.tenant);
        match message {
            LogMessage::Order(own) => (
                format!("{prefix}.{}.order", own.run),
                format!("{}.order.{}.{}", own.run, own.coordinator, own.number),
            ),
            LogMessage::Report(own) => (
                format!("{prefix}.{}.report.{}", own.run, own.agent),
                format!("{}.{}.{}.{}", own.run, own.agent, own.session, own.number),
            ),
            LogMessage::Tick(own) => (
                format!("{prefix}.{run}.tick"),
                format!("{run}.tick.{}.{}", own.epoch, own.at_unix_ns),
            ),
        }
    }

    async fn store_once(&self, subject: &str, id: &str, payload: &Bytes) -> Result<(), String> {
        // Else each attempt would wait in the client, too.
        if !self.is_connected() {
            return Err("not connected to NATS".into());
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        let sent =
            self.jetstream.publish_with_headers(subject.to_string(), headers, payload.clone());
        let stored = tokio::time::timeout(ANSWER_MAX, async {
            sent.await.map_err(|why| why.to_string())?.await.map_err(|why| why.to_string())
        });
        match stored.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(why)) => Err(why),
            Err(_) => Err("NATS does not confirm".into()),
        }
    }
}

/// What is read from a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// An entry, and whether it was the last one at that time.
    Entry(Entry, bool),
    /// Something cannot be read; the reason.
    Trouble(String),
}

/// Reads a log, one entry after another and without gaps.
pub struct LogReader {
    events: mpsc::Receiver<LogEvent>,
    begun: watch::Receiver<bool>,
}

impl LogReader {
    /// What comes next; `None` while the process ends.
    pub async fn next(&mut self) -> Option<LogEvent> {
        self.events.recv().await
    }

    /// Waits until the server knows the reader: what is stored from then on is read, also after the connection was lost.
    pub async fn begun(&mut self) {
        // The sender is gone only while the process ends.
        let _ = self.begun.wait_for(|begun| *begun).await;
    }
}

impl Bus {
    /// Reads the log of a run from its beginning.
    pub fn read_run(&self, run: &str) -> LogReader {
        self.read(format!("plimsoll.{}.run.{run}.>", self.tenant), DeliverPolicy::All)
    }

    /// Reads new orders of all runs.
    pub fn read_orders(&self) -> LogReader {
        self.read(format!("plimsoll.{}.run.*.order", self.tenant), DeliverPolicy::New)
    }

    fn read(&self, filter: String, first: DeliverPolicy) -> LogReader {
        /// Entries that wait for the reader.
        const AHEAD: usize = 256;
        let (sender, events) = mpsc::channel(AHEAD);
        let (begins, begun) = watch::channel(false);
        let bus = self.clone();
        tokio::spawn(async move {
            let mut from = first;
            while !sender.is_closed() {
                // A consumer ends with its connection or its server: the next one continues after the last entry.
                if let Err(why) = bus.read_from(&filter, &mut from, &begins, &sender).await {
                    let trouble = format!("cannot read from NATS: {why}");
                    let _ = sender.send(LogEvent::Trouble(trouble)).await;
                }
                tokio::time::sleep(RETRY).await;
            }
        });
        LogReader { events, begun }
    }

    async fn read_from(
        &self,
        filter: &str,
        from: &mut DeliverPolicy,
        begins: &watch::Sender<bool>,
        events: &mpsc::Sender<LogEvent>,
    ) -> Result<(), String> {
        let config = pull::OrderedConfig {
            // With a name, the request's subject has the filter, by which a server's permissions tell orders from
            // the rest of the log. Nobody can guess it, so nobody else can delete the consumer.
            name: Some(format!("{:016x}", RandomState::new().hash_one(filter))),
            filter_subject: filter.into(),
            deliver_policy: *from,
            ..pull::OrderedConfig::default()
        };
        let name = self.stream_name();
        let consumer = self.jetstream.create_consumer_on_stream(config, name).await;
        let consumer = consumer.map_err(|why| why.to_string())?;
        if matches!(from, DeliverPolicy::New) {
            // A later consumer must not leave out what is stored before it is made.
            let last = consumer.cached_info().delivered.stream_sequence;
            *from = DeliverPolicy::ByStartSequence { start_sequence: last + 1 };
        }
        begins.send_replace(true);
        let mut messages = consumer.messages().await.map_err(|why| why.to_string())?;
        while let Some(message) = messages.next().await {
            let message = message.map_err(|why| why.to_string())?;
            let info = message.info().map_err(|why| why.to_string())?;
            let (place, is_last) = (info.stream_sequence, info.pending == 0);
            *from = DeliverPolicy::ByStartSequence { start_sequence: place + 1 };
            let event = match LogMessage::decode(&message.payload) {
                Ok(message) => LogEvent::Entry(Entry { place, message }, is_last),
                Err(why) => LogEvent::Trouble(format!(
                    "a message on {} cannot be read: {why}",
                    message.subject
                )),
            };
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}
