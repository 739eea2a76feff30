//! The growth of the chains, for subscriptions: each block is computed once per thread, however many
//! connections are notified of it, or ask for it again after they were disconnected.
//!
//! A block is announced when the date makes it the newest, and blocks that a reorganisation has put in
//! place of announced ones together with the next block.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_measure::Nanos;
use tokio::sync::broadcast;

use crate::chain::block::BlockId;
use crate::node::news::News;
use crate::service::GENESIS_UNIX_SECS;
use crate::settings::Calendar;
use crate::sim::{Host, Shared};
use crate::timer::Timer;

/// How many blocks a connection may be behind before it is closed as a slow reader.
const BACKLOG: usize = 64;
/// How many announced blocks are compared with the chain to notice a reorganisation.
const ANNOUNCED_MAX: usize = 128;
/// If the date jumps, only the last blocks are announced, so that readers that keep up are never behind.
const JUMP_MAX: u64 = BACKLOG as u64 / 2;
/// How often a date that tests set is looked at.
const MANUAL_EVERY: Nanos = Nanos::from_millis(5);

/// The feeds of all services, for the connections of one thread.
#[derive(Clone)]
pub(crate) struct Feeds(Arc<Vec<Feed>>);

struct Feed {
    sender: broadcast::Sender<Arc<News>>,
    /// The last [`BACKLOG`] blocks that were computed.
    recent: Mutex<VecDeque<Arc<News>>>,
}

impl Feed {
    fn news(&self, host: &Host, id: BlockId) -> Arc<News> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = recent.iter().find(|news| news.id() == id) {
            return known.clone();
        }
        let news = Arc::new(host.node.news(id));
        if recent.len() == BACKLOG {
            recent.pop_front();
        }
        recent.push_back(news.clone());
        news
    }
}

impl Feeds {
    /// Follows the chains until the runtime ends.
    pub(crate) fn start(shared: &Arc<Shared>, timer: &Timer) -> Feeds {
        let feed = |_| Feed { sender: broadcast::Sender::new(BACKLOG), recent: Mutex::default() };
        let feeds = Feeds(Arc::new(shared.hosts.iter().map(feed).collect()));
        for number in 0..shared.hosts.len() {
            tokio::spawn(follow(shared.clone(), timer.clone(), number, feeds.clone()));
        }
        feeds
    }

    /// The news of a service from now on.
    pub(crate) fn subscribe(&self, host: usize) -> broadcast::Receiver<Arc<News>> {
        self.0[host].sender.subscribe()
    }

    /// The news of a block.
    pub(crate) fn news(&self, shared: &Shared, host: usize, id: BlockId) -> Arc<News> {
        self.0[host].news(&shared.hosts[host], id)
    }
}

async fn follow(shared: Arc<Shared>, timer: Timer, number: usize, feeds: Feeds) {
    let (host, feed) = (&shared.hosts[number], &feeds.0[number]);
    let mut announced = VecDeque::from([host.node.id_at(head(&shared, host))]);
    loop {
        timer.until(shared.clock.now() + until_next(&shared, host)).await;
        for id in fresh(host, head(&shared, host), &mut announced) {
            if feed.sender.receiver_count() > 0 {
                // Errors mean that no connection is subscribed any more.
                let _ = feed.sender.send(feed.news(host, id));
            }
        }
    }
}

fn head(shared: &Shared, host: &Host) -> u64 {
    host.node.view(shared.calendar.unix()).head
}

/// Time until the next block.
fn until_next(shared: &Shared, host: &Host) -> Nanos {
    if matches!(shared.calendar, Calendar::Manual(_)) {
        return MANUAL_EVERY;
    }
    let unix = shared.calendar.unix();
    let next = host.node.view(unix).head + 1;
    let at = Nanos(host.node.service.block_time.0.saturating_mul(next));
    Nanos::from_secs(GENESIS_UNIX_SECS) + at - unix
}

/// The blocks to announce: those that replaced announced ones, then the new ones.
fn fresh(host: &Host, head: u64, announced: &mut VecDeque<BlockId>) -> Vec<BlockId> {
    let newest = announced.back().map_or(head, |id| id.number);
    if head <= newest {
        return Vec::new();
    }
    let mut first = newest + 1;
    while let Some(replaced) = announced.pop_back_if(|id| host.node.id_at(id.number) != *id) {
        first = replaced.number;
    }
    first = first.max(head.saturating_sub(JUMP_MAX - 1));
    let fresh: Vec<_> = (first..=head).map(|number| host.node.id_at(number)).collect();
    announced.extend(&fresh);
    announced.drain(..announced.len().saturating_sub(ANNOUNCED_MAX));
    fresh
}
