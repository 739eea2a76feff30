//! The records of an agent's single requests on their way to the coordinator.
//!
//! They are large, and wanted once, so they are not part of the log. An agent cuts them into chunks and stores each as a
//! message, several at a time, repeating those that are not confirmed. A chunk has its number, so their order in the
//! stream and repetitions do not matter. The agent then reports length and digest in the log; the coordinator
//! reads the chunks into a file, and checks both.
//!
//! Not in an object store: the subjects of its chunks are random and its names encoded as a whole, so a server's
//! permissions could not keep one agent from writing another's. Here, the last token of a subject is the
//! agent's name.
//!
//! Bounds: [`RECORDS_BYTES_MAX`] of all runs of a tenant, a day, and [`ATTEMPTS`] for each chunk. The coordinator deletes a run's
//! records with its log. The stream is only made for a run that asks for records, so that fleets without them need no room
//! for it.

use super::{ANSWER_MAX, Bus, BusError, KEEP, create_error, persist};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream;
use bytes::Bytes;
use futures_util::StreamExt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// At most this many bytes of records of all runs of a tenant are kept; more are refused. A request has 47.
pub const RECORDS_BYTES_MAX: u64 = 1 << 30;
/// Below the server's default limit for a message, 1 MB.
const CHUNK: u64 = 128 << 10;
/// Chunks that are sent before the first of them is confirmed.
const AHEAD: usize = 8;
/// Attempts to store a chunk, or to read on: up to two minutes without NATS.
const ATTEMPTS: u32 = 30;
/// Attempts after which an answer that refuses a chunk is believed: a server that starts refuses, too.
const REFUSALS: u32 = 5;
const RETRY: Duration = Duration::from_secs(1);
/// The header with a chunk's number.
const NUMBER: &str = "Plimsoll-Chunk";

impl Bus {
    /// Creates what records need, if it does not exist.
    ///
    /// # Errors
    /// NATS refuses.
    pub async fn create_records(&self) -> Result<(), BusError> {
        persist(async || self.create_missing_records().await).await
    }

    async fn create_missing_records(&self) -> Result<(), BusError> {
        let name = self.records_name();
        let config = stream::Config {
            name: name.clone(),
            subjects: vec![format!("plimsoll.{}.records.*.*", self.tenant)],
            max_age: KEEP,
            max_bytes: RECORDS_BYTES_MAX as i64,
            discard: stream::DiscardPolicy::New,
            ..stream::Config::default()
        };
        if self.jetstream.get_stream(&name).await.is_err() {
            self.jetstream.create_stream(config).await.map_err(|why| create_error(&name, &why))?;
        }
        Ok(())
    }

    fn records_name(&self) -> String {
        format!("plimsoll_{}_records", self.tenant)
    }

    /// Stores the first `bytes` of a file as an agent's records; `each` receives how many are stored.
    ///
    /// # Errors
    /// The reason.
    pub async fn put_records(
        &self,
        run: &str,
        agent: &str,
        (file, bytes): (&File, u64),
        mut each: impl FnMut(u64),
    ) -> Result<(), String> {
        let subject = format!("plimsoll.{}.records.{run}.{agent}", self.tenant);
        let chunks = futures_util::stream::iter(0..bytes.div_ceil(CHUNK)).map(|number| {
            let (subject, chunk) = (&subject, read_chunk(file, bytes, number));
            async move {
                let chunk = chunk.map_err(|why| format!("cannot read them back: {why}"))?;
                self.put_chunk(subject, number, chunk).await
            }
        });
        let mut stored = chunks.buffered(AHEAD);
        let mut done = 0;
        while let Some(chunk) = stored.next().await {
            done += chunk?;
            each(done);
        }
        Ok(())
    }

    async fn put_chunk(&self, subject: &str, number: u64, chunk: Bytes) -> Result<u64, String> {
        let (mut why, mut refusals) = (String::new(), 0);
        for _ in 0..ATTEMPTS {
            let mut headers = HeaderMap::new();
            headers.insert(NUMBER, number.to_string());
            headers.insert("Nats-Msg-Id", format!("{subject}.{number}"));
            let sent =
                self.jetstream.publish_with_headers(subject.to_string(), headers, chunk.clone());
            let stored = async { sent.await?.await };
            match tokio::time::timeout(ANSWER_MAX, stored).await {
                Ok(Ok(_)) => return Ok(chunk.len() as u64),
                // The stream may be full, or gone.
                Ok(Err(error)) => {
                    let refused = [PublishErrorKind::Other, PublishErrorKind::StreamNotFound]
                        .contains(&error.kind());
                    refusals += u32::from(refused);
                    why = super::causes(&error);
                }
                Err(_) => why = "it does not confirm".into(),
            }
            if refusals == REFUSALS {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        Err(format!("NATS does not take them: {why}"))
    }

    /// Reads an agent's records, which have this many bytes, into an empty file.
    ///
    /// # Errors
    /// The reason.
    pub async fn records(
        &self,
        run: &str,
        agent: &str,
        bytes: u64,
        file: &File,
    ) -> Result<(), String> {
        if bytes > RECORDS_BYTES_MAX {
            return Err(format!("they have {bytes} bytes; the maximum is {RECORDS_BYTES_MAX}"));
        }
        let mut missing = Missing::new(bytes);
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            let before = missing.left;
            match self.read_records(run, agent, &mut missing, file).await {
                Ok(()) if missing.left == 0 => return Ok(()),
                // All that NATS has was read, and no more comes: the agent has reported that everything is stored.
                Ok(()) if missing.left == before => {
                    return Err(format!("{} of {bytes} bytes are not in NATS", missing.left));
                }
                Ok(()) => {}
                Err(ReadError::File(error)) => return Err(format!("cannot write them: {error}")),
                Err(ReadError::Nats(error)) => {
                    why = error;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        Err(format!("cannot read them from NATS: {why}"))
    }

    /// Reads what NATS has.
    async fn read_records(
        &self,
        run: &str,
        agent: &str,
        missing: &mut Missing,
        file: &File,
    ) -> Result<(), ReadError> {
        let failed = |why: &dyn std::error::Error| ReadError::Nats(super::causes(why));
        let filter = format!("plimsoll.{}.records.{run}.{agent}", self.tenant);
        let config = pull::OrderedConfig {
            filter_subject: filter,
            deliver_policy: DeliverPolicy::All,
            ..pull::OrderedConfig::default()
        };
        let name = self.records_name();
        let created = self.jetstream.create_consumer_on_stream(config, name).await;
        let consumer = created.map_err(|why| failed(&why))?;
        if consumer.cached_info().num_pending == 0 {
            return Ok(());
        }
        let mut messages = consumer.messages().await.map_err(|why| failed(&why))?;
        while let Some(message) = messages.next().await {
            let message = message.map_err(|why| failed(&why))?;
            let number = message.headers.as_ref().and_then(|own| own.get(NUMBER));
            if let Some(number) = number.and_then(|own| own.as_str().parse().ok())
                && missing.takes(number, message.payload.len())
            {
                let written = file.write_all_at(&message.payload, number * CHUNK);
                written.map_err(ReadError::File)?;
                missing.took(number);
            }
            let is_last =
                message.info().map_err(|why| ReadError::Nats(why.to_string()))?.pending == 0;
            if is_last || missing.left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Deletes the records of a run, if there are any.
    pub(super) async fn forget_records(&self, run: &str) -> Result<(), stream::PurgeError> {
        // There is no such stream if no run has asked for records.
        let Ok(stream) = self.jetstream.get_stream(self.records_name()).await else {
            return Ok(());
        };
        let filter = format!("plimsoll.{}.records.{run}.*", self.tenant);
        stream.purge().filter(filter).await.map(drop)
    }
}

enum ReadError {
    Nats(String),
    File(io::Error),
}

/// The chunks that are not read yet.
struct Missing {
    bytes: u64,
    chunks: Vec<bool>,
    left: u64,
}

impl Missing {
    fn new(bytes: u64) -> Missing {
        Missing { bytes, chunks: vec![true; bytes.div_ceil(CHUNK) as usize], left: bytes }
    }

    /// Whether this is a chunk that is missing, of the right length.
    fn takes(&self, number: u64, len: usize) -> bool {
        let missing = usize::try_from(number).ok().and_then(|place| self.chunks.get(place));
        missing == Some(&true) && len as u64 == self.len_of(number)
    }

    fn took(&mut self, number: u64) {
        self.chunks[number as usize] = false;
        self.left -= self.len_of(number);
    }

    fn len_of(&self, number: u64) -> u64 {
        CHUNK.min(self.bytes - number * CHUNK)
    }
}

fn read_chunk(file: &File, bytes: u64, number: u64) -> io::Result<Bytes> {
    let at = number * CHUNK;
    let mut chunk = vec![0; CHUNK.min(bytes - at) as usize];
    file.read_exact_at(&mut chunk, at).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the file is shorter"),
        _ => error,
    })?;
    Ok(chunk.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_chunks_of_the_right_length_are_taken() {
        let mut missing = Missing::new(2 * CHUNK + 5);
        let whole = CHUNK as usize;
        for (number, len) in [(0, whole - 1), (2, whole), (3, 5), (u64::MAX, whole)] {
            assert!(!missing.takes(number, len), "{number} {len}");
        }
        for (number, len, left) in [(2, 5, 2 * CHUNK), (0, whole, CHUNK), (1, whole, 0)] {
            assert!(missing.takes(number, len));
            missing.took(number);
            assert_eq!(missing.left, left);
            assert!(!missing.takes(number, len), "a repetition");
        }
    }
}
