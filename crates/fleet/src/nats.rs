//! The bus between agents and coordinators: NATS JetStream.
//!
//! | what | where |
//! |---|---|
//! | the logs of all runs | stream `plimsoll_TENANT`, subjects `plimsoll.TENANT.run.RUN.order`, `….tick`, `….report.AGENT` |
//! | agents | key-value bucket `plimsoll_TENANT_agents`, a key for each, which expires |
//! | plans | object store `plimsoll_TENANT_plans`, an object for each run |
//! | records of requests, if a run asks for them | stream `plimsoll_TENANT_records`, subjects `plimsoll.TENANT.records.RUN.AGENT` |
//! | clocks | request and reply on `plimsoll.TENANT.clock.RUN` |
//!
//! One stream holds orders, ticks and reports, so that all of a run's messages have one order. Each writes to
//! subjects of its own, which is what the server's permissions rest on (deploy/nats/). All names start with the
//! tenant: whoever may not use a tenant's names sees nothing of it.
//!
//! # Layout
//! - `log`: appends to the log until that is confirmed, and reads it without gaps
//! - `backlog`: what waits to be appended, in bounded memory
//! - `connect`: connecting, with each way of proving who one is
//! - `presence`: agents announce themselves
//! - `records`: the records of single requests on their way to the coordinator
//! - `clock`: answers with this host's clock, and measures the offset of another's

mod backlog;
mod clock;
mod connect;
mod log;
mod presence;
mod records;

pub use crate::message::is_name;
use crate::message::{Announcement, WireError, decode_announcement};
use async_nats::jetstream::{self, kv, object_store, stream};
use async_nats::{Client, connection};
pub use backlog::BacklogLimits;
pub use clock::HostClock;
pub use connect::{BusSettings, Credentials, Role};
use futures_util::StreamExt;
pub use log::{LogEvent, LogReader, LogWriter, Written};
pub use presence::{Presence, PresenceLost};
pub use records::RECORDS_BYTES_MAX;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// How long runs are kept: until then a coordinator may resume one, and an agent deliver what it recorded.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// At most this many bytes of all runs of a tenant are kept; beyond, new messages are refused until older ones
/// expire, because a log without its beginning is worth nothing. A second of an agent has a few kilobytes.
pub const STREAM_BYTES_MAX: u64 = 1 << 30;
/// An agent that has not renewed its announcement for this long is gone.
pub(crate) const PRESENCE_TTL: Duration = Duration::from_secs(10);
/// All agents' announcements together.
const PRESENCE_BYTES_MAX: i64 = 64 << 20;
/// A message stored twice within this time is stored once. Beyond, its number shows that it is a repetition.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How long to wait for an answer of the server.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The largest plan, in bytes: more than a resolved plan may have.
const PLAN_BYTES_MAX: usize = 256 << 20;

/// Why the bus cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BusError {
    /// What went wrong.
    pub message: String,
    /// How to fix it; may be empty.
    pub hint: String,
}

fn error(message: impl Into<String>, hint: impl Into<String>) -> BusError {
    BusError { message: message.into(), hint: hint.into() }
}

/// A connection to NATS; clones share it.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    jetstream: jetstream::Context,
    tenant: String,
}

impl Bus {
    /// Creates what does not exist.
    async fn create(&self) -> Result<(), BusError> {
        persist(async || self.create_missing().await).await
    }

    async fn create_missing(&self) -> Result<(), BusError> {
        let name = self.stream_name();
        let config = stream::Config {
            name: name.clone(),
            subjects: vec![format!("plimsoll.{}.run.>", self.tenant)],
            max_age: KEEP,
            max_bytes: STREAM_BYTES_MAX as i64,
            discard: stream::DiscardPolicy::New,
            duplicate_window: DUPLICATE_WINDOW,
            ..stream::Config::default()
        };
        if self.jetstream.get_stream(&name).await.is_err() {
            self.jetstream.create_stream(config).await.map_err(|why| create_error(&name, &why))?;
        }
        let bucket = self.bucket("agents");
        if self.jetstream.get_key_value(&bucket).await.is_err() {
            // As a bucket is laid out (ADR-8). Not with `create_key_value`, which asks for the account first, and
            // cannot read the answer of servers before 2.10.
            let config = stream::Config {
                name: format!("KV_{bucket}"),
                subjects: vec![format!("$KV.{bucket}.>")],
                max_messages_per_subject: 1,
                max_age: PRESENCE_TTL,
                max_bytes: PRESENCE_BYTES_MAX,
                duplicate_window: PRESENCE_TTL,
                discard: stream::DiscardPolicy::New,
                allow_rollup: true,
                deny_delete: true,
                allow_direct: true,
                ..stream::Config::default()
            };
            let created = self.jetstream.create_stream(config).await;
            created.map_err(|why| create_error(&bucket, &why))?;
        }
        let bucket = self.bucket("plans");
        if self.jetstream.get_object_store(&bucket).await.is_err() {
            let config = object_store::Config {
                bucket: bucket.clone(),
                max_age: KEEP,
                max_bytes: STREAM_BYTES_MAX as i64,
                ..object_store::Config::default()
            };
            let created = self.jetstream.create_object_store(config).await;
            created.map_err(|why| create_error(&bucket, &why))?;
        }
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == connection::State::Connected
    }

    fn stream_name(&self) -> String {
        format!("plimsoll_{}", self.tenant)
    }

    fn bucket(&self, of: &str) -> String {
        format!("plimsoll_{}_{of}", self.tenant)
    }

    async fn store(&self, of: &str) -> Result<kv::Store, BusError> {
        let bucket = self.bucket(of);
        let store = self.jetstream.get_key_value(&bucket).await;
        store.map_err(|why| error(format!("cannot open the bucket {bucket}: {why}"), NO_JETSTREAM))
    }

    /// The agents that are there, or what they wrote if that cannot be read.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn agents(&self) -> Result<Vec<Result<Announcement, WireError>>, BusError> {
        let store = self.store("agents").await?;
        let unreadable =
            |why: &dyn std::fmt::Display| error(format!("cannot list the agents: {why}"), "");
        let mut keys = store.keys().await.map_err(|why| unreadable(&why))?;
        let mut agents = Vec::new();
        while let Some(key) = keys.next().await {
            let key = key.map_err(|why| unreadable(&why))?;
            // It may have expired meanwhile.
            if let Some(bytes) = store.get(key).await.map_err(|why| unreadable(&why))? {
                agents.push(decode_announcement(&bytes));
            }
        }
        agents.sort_by_key(|agent| agent.as_ref().map(|own| own.name.clone()).unwrap_or_default());
        Ok(agents)
    }

    /// Stores the plan of a run.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn put_plan(&self, run: &str, plan: &[u8]) -> Result<(), BusError> {
        let failed = |why: &dyn std::fmt::Display| {
            error(format!("cannot store the plan in NATS: {why}"), "")
        };
        let store = self.jetstream.get_object_store(self.bucket("plans")).await;
        let store = store.map_err(|why| failed(&why))?;
        store.put(run, &mut &plan[..]).await.map_err(|why| failed(&why)).map(drop)
    }

    /// Reads the plan of a run.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub async fn plan(&self, run: &str) -> Result<Vec<u8>, BusError> {
        let hint = "runs are kept for a day; the name is printed when a run begins";
        let failed = |why: &dyn std::fmt::Display| {
            error(format!("cannot read the plan of the run {run}: {why}"), hint)
        };
        let store = self.jetstream.get_object_store(self.bucket("plans")).await;
        let store = store.map_err(|why| failed(&why))?;
        let mut object = store.get(run).await.map_err(|why| failed(&why))?;
        if object.info().size > PLAN_BYTES_MAX {
            return Err(failed(&format!(
                "it has {} bytes; the maximum is {PLAN_BYTES_MAX}",
                object.info().size
            )));
        }
        let mut bytes = Vec::new();
        object.read_to_end(&mut bytes).await.map_err(|why| failed(&why))?;
        Ok(bytes)
    }

    /// Deletes what NATS has of a run that is over and reported: the records of its requests, its log, which would fill the
    /// stream, and its plan, with the secrets that it may contain.
    ///
    /// # Errors
    /// It could not be deleted.
    pub async fn forget(&self, run: &str) -> Result<(), BusError> {
        let failed = |why: &dyn std::fmt::Display| {
            error(format!("cannot delete the run {run} in NATS: {why}"), "")
        };
        let store = self.jetstream.get_object_store(self.bucket("plans")).await;
        let store = store.map_err(|why| failed(&why))?;
        self.forget_records(run).await.map_err(|why| failed(&why))?;
        store.delete(run).await.map_err(|why| failed(&why))?;
        let stream = self.jetstream.get_stream(self.stream_name()).await;
        let stream = stream.map_err(|why| failed(&why))?;
        let purged = stream.purge().filter(format!("plimsoll.{}.run.{run}.>", self.tenant)).await;
        purged.map_err(|why| failed(&why)).map(drop)
    }
}

const NO_JETSTREAM: &str = "start the server with JetStream: nats-server --jetstream";

const NO_STORAGE: &str = "a fleet needs 3 GB of JetStream's file storage for each tenant, 4 GB with records of requests (--record): jetstream { max_file: 4GB }";

/// Attempts to create something, and the pause between two, while the server says that it has no room: if several
/// agents create the same at the same time, it counts the room for each of them until one has succeeded.
const CREATIONS: u32 = 10;
const CREATION_PAUSE: Duration = Duration::from_millis(200);

/// Creates something that others may be creating, too.
async fn persist(create: impl AsyncFn() -> Result<(), BusError>) -> Result<(), BusError> {
    for _ in 1..CREATIONS {
        match create().await {
            Err(error) if error.hint == NO_STORAGE => tokio::time::sleep(CREATION_PAUSE).await,
            done => return done,
        }
    }
    create().await
}

fn create_error(name: &str, why: &dyn std::error::Error) -> BusError {
    let causes = causes(why);
    let hint = if causes.contains("insufficient storage") || causes.contains("resource limits") {
        NO_STORAGE.into()
    } else if causes.contains("imed out")
        || causes.contains("JetStream not enabled")
        || causes.contains("jetstream unavailable")
        || causes.contains("no responders")
    {
        format!("{NO_JETSTREAM}; with permissions, let a coordinator create it first")
    } else {
        "a coordinator, or a user with its permissions, must create it once".into()
    };
    error(format!("cannot open or create {name} in NATS: {causes}"), hint)
}

/// An error with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    text
}
