//! Agents announce themselves: a key for each name, which its process renews every few seconds and which expires
//! without it. A key is only ever replaced by the process that wrote it, so two agents of one name cannot both
//! be there.

use super::{Bus, BusError, PRESENCE_TTL, error};
use crate::message::{Announcement, decode_announcement};
use async_nats::jetstream::kv;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Time between two renewals: two may fail before the key expires.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// A claim to a name.
pub struct Presence {
    announced: watch::Sender<Announcement>,
    lost: mpsc::Receiver<PresenceLost>,
}

/// Another process has the name now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceLost;

impl Presence {
    /// Changes what is announced.
    pub fn set_run(&self, run: Option<&str>) {
        self.announced.send_if_modified(|own| {
            let changed = own.run.as_deref() != run;
            own.run = run.map(String::from);
            changed
        });
    }

    /// Waits until another process has the name.
    pub async fn lost(&mut self) -> PresenceLost {
        match self.lost.recv().await {
            Some(lost) => lost,
            None => std::future::pending().await,
        }
    }
}

impl Bus {
    /// Announces an agent, and goes on until the claim is dropped. An earlier process of the name is waited for
    /// until its key has expired.
    ///
    /// # Errors
    /// Another process of this name is alive, or NATS does not answer.
    pub async fn announce(&self, announcement: Announcement) -> Result<Presence, BusError> {
        let store = self.store("agents").await?;
        let revision = claim(&store, &announcement).await?;
        let (announced, mut changes) = watch::channel(announcement);
        let (gone, lost) = mpsc::channel(1);
        let bus = self.clone();
        tokio::spawn(async move {
            let mut revision = Some(revision);
            loop {
                tokio::select! {
                    () = tokio::time::sleep(RENEW_EVERY) => {}
                    changed = changes.changed() => if changed.is_err() { break },
                    () = gone.closed() => break,
                }
                let announcement = changes.borrow_and_update().clone();
                if !bus.is_connected() {
                    continue;
                }
                if renew(&store, &announcement, &mut revision).await.is_err() {
                    let _ = gone.send(PresenceLost).await;
                    return;
                }
            }
            // Errors are ignored: the key expires.
            let name = changes.borrow().name.clone();
            let _ = store.delete(name).await;
        });
        Ok(Presence { announced, lost })
    }
}

/// Writes the key for the first time; returns its revision.
async fn claim(store: &kv::Store, own: &Announcement) -> Result<u64, BusError> {
    let failed =
        |why: &dyn std::fmt::Display| error(format!("cannot announce the agent: {why}"), "");
    // One renewal later than the key of a killed process lives.
    let attempts = (PRESENCE_TTL + RENEW_EVERY).as_secs();
    let mut known: Option<u64> = None;
    for _ in 0..=attempts {
        match store.create(&own.name, own.encode().into()).await {
            Ok(revision) => return Ok(revision),
            Err(why) if why.kind() != kv::CreateErrorKind::AlreadyExists => {
                return Err(failed(&why));
            }
            Err(_) => {}
        }
        if let Some(entry) = store.entry(&own.name).await.map_err(|why| failed(&why))? {
            // One that renews its key is alive.
            if known.is_some_and(|before| before != entry.revision) {
                let session = decode_announcement(&entry.value).map(|other| other.session);
                let message = format!(
                    "another agent named \"{}\" is running{}",
                    own.name,
                    session.map(|session| format!(" (session {session})")).unwrap_or_default()
                );
                return Err(error(message, "give each agent a name of its own: --name NAME"));
            }
            known = Some(entry.revision);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Err(error(
        format!("the name \"{}\" does not become free", own.name),
        "choose another one: --name NAME",
    ))
}

/// Renews the key. While NATS does not answer, nothing happens.
async fn renew(
    store: &kv::Store,
    own: &Announcement,
    revision: &mut Option<u64>,
) -> Result<(), PresenceLost> {
    let value = bytes::Bytes::from(own.encode());
    let renewed = match *revision {
        Some(last) => store.update(&own.name, value.clone(), last).await.map_err(|why| why.kind()),
        None => Err(kv::UpdateErrorKind::WrongLastRevision),
    };
    match renewed {
        Ok(next) => *revision = Some(next),
        Err(kv::UpdateErrorKind::WrongLastRevision) => {
            // It expired while NATS could not be reached, or an answer was lost, or another process took it.
            match store.entry(&own.name).await {
                Ok(Some(entry)) => match decode_announcement(&entry.value) {
                    Ok(other) if other.session == own.session => *revision = Some(entry.revision),
                    Ok(other)
                        if other.name == own.name && entry.operation == kv::Operation::Put =>
                    {
                        return Err(PresenceLost);
                    }
                    _ => *revision = store.create(&own.name, value).await.ok(),
                },
                Ok(None) => *revision = store.create(&own.name, value).await.ok(),
                Err(_) => {}
            }
        }
        Err(_) => {}
    }
    Ok(())
}
