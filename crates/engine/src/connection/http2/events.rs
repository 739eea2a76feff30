//! Event streams as answers that stay open.

use super::frames::Handled;
use super::{Complete, Http2, Parsed, STREAM_WINDOW};
use crate::connection::events::{Fed, Opening};
use crate::connection::{Bodies, Event};
use crate::events::Found;
use crate::http2::frame::{self, Code};
use crate::http2::head::Head;
use std::ops::Range;

impl Http2 {
    /// The head of an answer to a request for events.
    pub(super) fn on_event_head(
        &mut self,
        id: u32,
        head: Head,
        ends: bool,
        bodies: &mut Bodies,
    ) -> Option<Parsed> {
        let stream = self.streams.get_mut(id)?;
        match Opening::of(head.status, head.gzip, &head.bytes) {
            Opening::Begins => {
                let (arrival, status) = (stream.arrival, head.status);
                stream.head = Some(head);
                self.idle_frames = 0;
                if ends {
                    return self.end_events(id, bodies);
                }
                let bytes = std::mem::take(&mut stream.bytes_in);
                Some(Parsed::Opened(arrival, status, bytes))
            }
            Opening::Failure(failure) => self.fail(id, Code::CANCEL, failure, bodies),
            Opening::Answer => {
                if let Err(failure) = stream.body.begin((head.status, head.gzip, None), bodies) {
                    return self.fail(id, Code::CANCEL, failure, bodies);
                }
                // Its body is not needed.
                if !ends {
                    frame::put_reset(self.output.bytes(), id, Code::CANCEL);
                    self.cancelled.add(id);
                }
                let stream = self.remove(id)?;
                let complete = Complete { head, body: stream.body, location: None };
                Some(Parsed::Answered(stream.arrival, stream.bytes_in, complete))
            }
        }
    }

    /// A DATA frame of an event stream.
    pub(super) fn on_event_data(
        &mut self,
        id: u32,
        (scratch, content): (&[u8], Range<usize>),
        ends: bool,
        bodies: &mut Bodies,
    ) -> Handled {
        if let Some(stream) = self.streams.get_mut(id)
            && stream.received > STREAM_WINDOW / 2
        {
            let received = std::mem::take(&mut stream.received);
            self.open_window(id, received)?;
        }
        if let Some((.., trace)) = self.traces.iter_mut().find(|(_, own, _)| *own == id) {
            trace.response.extend(&scratch[content.clone()]);
        }
        self.pending = Some((id, content, ends));
        Ok(self.next_pending(scratch, bodies))
    }

    /// The next event in the frame that was not read to its end, or the end of its stream.
    pub(super) fn next_pending(&mut self, scratch: &[u8], bodies: &mut Bodies) -> Option<Parsed> {
        let (id, range, ends) = self.pending.take()?;
        // It may have been released since.
        let events = self.streams.get_mut(id)?.events.as_mut()?;
        let mut piece = &scratch[range.clone()];
        let fed = events.feed(&mut piece);
        match fed {
            Ok(Fed::Found(found)) => {
                self.pending = Some((id, range.end - piece.len()..range.end, ends));
                Some(Parsed::Received(id, found))
            }
            Ok(Fed::Nothing) => match events.hold(bodies) {
                Ok(()) if ends => self.end_events(id, bodies),
                Ok(()) => None,
                Err(failure) => self.fail(id, Code::CANCEL, failure, bodies),
            },
            Err(failure) => self.fail(id, Code::CANCEL, failure, bodies),
        }
    }

    /// The peer has ended an event stream.
    pub(super) fn end_events(&mut self, id: u32, bodies: &mut Bodies) -> Option<Parsed> {
        let failure = self.streams.get_mut(id)?.events.as_ref()?.ended();
        self.fail(id, Code::NO_ERROR, failure, bodies)
    }

    pub(super) fn received(&mut self, id: u32, found: Found) -> Event<'_> {
        let stream = self.streams.get_mut(id).expect("its frame was read");
        let bytes = std::mem::take(&mut stream.bytes_in);
        let events = stream.events.as_ref().expect("as above");
        events.event(stream.arrival, found, bytes)
    }
}
