//! Appends to the log of a run, and reads it.

use super::{ANSWER_MAX, Bus};
use crate::message::{Entry, LogMessage, encode};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use bytes::Bytes;
use futures_util::StreamExt;
use std::time::Duration;
use tokio::sync::mpsc;

/// Time between two attempts to store a message.
const RETRY: Duration = Duration::from_millis(250);

/// What became of a message that was to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is stored.
    Stored(LogMessage),
    /// It is not stored yet; the reason. Attempts go on.
    Waiting(String),
}

/// Appends messages in the order in which they are given. Each is repeated until the server confirms it; the
/// server recognises a repetition by the message's id.
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
    pub fn writer(&self, run: &str) -> (LogWriter, mpsc::UnboundedReceiver<Written>) {
        let (queue, mut waiting) = mpsc::unbounded_channel::<LogMessage>();
        let (written, results) = mpsc::unbounded_channel();
        let (bus, run) = (self.clone(), run.to_string());
        tokio::spawn(async move {
            while let Some(message) = waiting.recv().await {
                let (subject, id) = bus.place_of(&run, &message);
                let payload = Bytes::from(encode(&message));
                while let Err(why) = bus.store_once(&subject, &id, &payload).await {
                    let _ = written.send(Written::Waiting(why));
                    tokio::time::sleep(RETRY).await;
                }
                if written.send(Written::Stored(message)).is_err() {
                    break;
                }
            }
        });
        (LogWriter { queue }, results)
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
}

impl LogReader {
    /// What comes next; `None` while the process ends.
    pub async fn next(&mut self) -> Option<LogEvent> {
        self.events.recv().await
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
        let bus = self.clone();
        tokio::spawn(async move {
            let mut from = first;
            while !sender.is_closed() {
                // A consumer ends with its connection or its server: the next one continues after the last entry.
                if let Err(why) = bus.read_from(&filter, &mut from, &sender).await {
                    let trouble = format!("cannot read from NATS: {why}");
                    let _ = sender.send(LogEvent::Trouble(trouble)).await;
                }
                tokio::time::sleep(RETRY).await;
            }
        });
        LogReader { events }
    }

    async fn read_from(
        &self,
        filter: &str,
        from: &mut DeliverPolicy,
        events: &mpsc::Sender<LogEvent>,
    ) -> Result<(), String> {
        let config = pull::OrderedConfig {
            filter_subject: filter.into(),
            deliver_policy: *from,
            ..pull::OrderedConfig::default()
        };
        let name = self.stream_name();
        let consumer = self.jetstream.create_consumer_on_stream(config, name).await;
        let consumer = consumer.map_err(|why| why.to_string())?;
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
