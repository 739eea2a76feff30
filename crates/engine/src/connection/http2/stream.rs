//! The streams of a connection.

use super::super::body::Body;
use super::super::events::EventStream;
use crate::arrival::Id;
use crate::connection::Bodies;
use crate::connection::numbers::Numbered;
use crate::http2::head::Head;
use slab::Slab;
use std::collections::VecDeque;

/// An exchange on a connection.
pub(super) struct Stream {
    pub(super) arrival: Id,
    pub(super) id: u32,
    pub(super) head_only: bool,
    /// Whether the kernel has accepted a byte of the request.
    pub(super) sent: bool,
    /// Whether the beginning of its answer was reported.
    pub(super) began: bool,
    /// Whether the connection had carried an answer before, and how many frames.
    pub(super) before: (bool, u64),
    /// Index in [`super::Http2::split_names`] of the header to extract.
    pub(super) split: Option<u8>,
    /// The head of the answer, once it was read.
    pub(super) head: Option<Head>,
    /// Number of 1xx responses so far.
    pub(super) interim: u32,
    pub(super) bytes_in: u64,
    pub(super) body: Body,
    /// If the answer is an event stream.
    pub(super) events: Option<Box<EventStream>>,
    /// Bytes of the answer for which the window was not opened again.
    pub(super) received: u32,
    /// How many more bytes of the request's body the peer accepts.
    pub(super) window: i64,
    /// The part of the request's body that is not in the output yet, and how much of it is since.
    pub(super) rest: (Vec<u8>, usize),
}

impl Stream {
    /// Gives up its answer.
    pub(super) fn discard(&mut self, bodies: &mut Bodies) {
        self.body.discard(bodies);
        if let Some(events) = &mut self.events {
            events.discard(bodies);
        }
    }

    /// Whether its answer is an event stream that has begun.
    pub(super) fn is_open_stream(&self) -> bool {
        self.events.is_some() && self.head.is_some()
    }

    /// Whether a part of the request waits for the peer's window.
    pub(super) fn has_rest(&self) -> bool {
        self.rest.1 < self.rest.0.len()
    }
}

/// The open streams, by number.
#[derive(Default)]
pub(super) struct Streams {
    slab: Slab<Stream>,
    places: Numbered<u32>,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn insert(&mut self, stream: Stream) {
        let id = stream.id;
        self.places.insert(id, self.slab.insert(stream) as u32);
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.places.get(&id).map(|place| &mut self.slab[*place as usize])
    }

    #[inline]
    pub(super) fn remove(&mut self, id: u32) -> Option<Stream> {
        self.places.remove(&id).map(|place| self.slab.remove(place as usize))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slab.iter().map(|(_, stream)| stream)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slab.iter_mut().map(|(_, stream)| stream)
    }

    /// The number of the stream of an arrival.
    pub(super) fn of(&self, arrival: Id) -> Option<u32> {
        self.iter().find(|stream| stream.arrival == arrival).map(|stream| stream.id)
    }

    /// The lowest open stream with at least this number.
    pub(super) fn first_from(&self, id: u32) -> Option<u32> {
        self.iter().map(|stream| stream.id).filter(|own| *own >= id).min()
    }
}

/// Streams that were reset by this side: the peer may still send frames on them, which are ignored. On
/// others that have ended, it may not.
#[derive(Default)]
pub(super) struct Cancelled {
    recent: VecDeque<u32>,
    /// Streams up to this number may have been among those forgotten.
    forgotten: u32,
}

/// Maximum number of cancelled streams that are remembered.
const CANCELLED_MAX: usize = 1_000;

impl Cancelled {
    pub(super) fn add(&mut self, id: u32) {
        if self.recent.len() == CANCELLED_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.recent.push_back(id);
    }

    pub(super) fn may_have(&self, id: u32) -> bool {
        id <= self.forgotten || self.recent.contains(&id)
    }
}
