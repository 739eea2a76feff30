//! One HTTP/2 stream: reads a request and writes its answer.

use std::rc::Rc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use plimsoll_measure::Nanos;

use super::{CANCEL_GRACE, Shared};
use crate::buffer;
use crate::call::message::{AllFields, Answer, Body, Request};
use crate::call::records::Settlement;
use crate::call::worker::{View, Worker};
use crate::error::{Error, ErrorKind};
use crate::gzip::too_large;
use crate::http1::{self, Fields, Glimpse};
use crate::local::BUFFER_SIZE;
use crate::offload;
use crate::payload::{Held, Payload};
use crate::permit::{Purpose, Share};
use crate::serve::session::wire::{PROGRESS, next_check};
use crate::serve::{compress, face};
use crate::transport::timer::{Late, Timer};

/// Memory of a stream: h2's state, its task, its headers, and text of its answer.
const STREAM_BYTES: u64 = 16 << 10;

/// Maximum size of the parts in which an answer is passed to h2.
const PART_MAX: usize = 64 << 10;

/// A stream.
pub(super) struct Stream {
    shared: Rc<Shared>,
    respond: SendResponse<Bytes>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let streams = &self.shared.streams;
        streams.set(streams.get() - 1);
        self.shared.idle_since.set(self.shared.worker.local.now());
    }
}

impl Stream {
    pub(super) fn new(shared: Rc<Shared>, respond: SendResponse<Bytes>) -> Stream {
        shared.streams.set(shared.streams.get() + 1);
        Stream { shared, respond }
    }

    /// Answers the request.
    pub(super) async fn serve(mut self, request: http::Request<RecvStream>) {
        let shared = self.shared.clone();
        let worker = &shared.worker;
        let (head, body) = request.into_parts();
        let purpose = match shared.streams.get() {
            1 => Purpose::First,
            _ => Purpose::Further,
        };
        let mut share = worker.local.share(purpose);
        let fields =
            head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64);
        if share.add(STREAM_BYTES + fields.sum::<usize>() as u64).is_err() {
            return self.respond.send_reset(Reason::REFUSED_STREAM);
        }
        let announced = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let announced = announced.and_then(|length| length.parse().ok()).unwrap_or(0);
        let body = read(worker, body, announced).await;
        let view = worker.view();
        let mut answering = std::pin::pin!(answer(&shared, &view, &head, body, purpose));
        let left = std::future::poll_fn(|context| self.respond.poll_reset(context));
        let answer = tokio::select! {
            biased;
            answer = &mut answering => answer,
            // The stream was reset, or the connection closed.
            _ = left => {
                let ended = tokio::time::timeout(CANCEL_GRACE.into(), answering).await;
                return ended.into_iter().for_each(|answer| answer.settlement.cancel());
            }
        };
        self.write(&view, answer, head.method == Method::HEAD).await;
    }

    async fn write(mut self, view: &View, answer: Answer<'_>, is_head: bool) {
        let response = response(&self.shared.worker, view, &answer, is_head);
        let write_time = view.settings.limits.write_time;
        let length = answer.body.length();
        let is_bodiless = is_head || length == Some(0) || matches!(answer.status, 204 | 304);
        let Ok(stream) = self.respond.send_response(response, is_bodiless) else { return };
        let mut writer = Writer {
            worker: &self.shared.worker,
            stream,
            timer: None,
            write_time,
            length: length.map_or(usize::MAX, |length| length as usize),
            sent: 0,
            since: self.shared.worker.local.now(),
            goal: PROGRESS as u64,
            settlement: Some(answer.settlement),
        };
        if is_bodiless {
            writer.settle(true);
        } else if !writer.body(answer.body).await {
            writer.settle(false);
            writer.stream.send_reset(Reason::CANCEL);
        }
        self.shared.meter.answered();
    }
}

/// Reads a whole body.
async fn read(
    worker: &Worker,
    mut stream: RecvStream,
    announced: usize,
) -> Result<Body<'static>, Error> {
    let limits = worker.view().settings.limits;
    let local = &worker.local;
    let mut bytes: Vec<u8> = Vec::new();
    let mut share: Option<Share> = None;
    if stream.is_end_stream() {
        return Ok(Body::Long(Bytes::new()));
    }
    let mut timer = Timer::new(local.instant(local.now() + limits.body_time));
    let (mut since, mut goal) = (local.recent(), PROGRESS);
    loop {
        let data = match timer.limit(local.instant(since + limits.body_time), stream.data()).await {
            Ok(Some(Ok(data))) => data,
            Ok(Some(Err(error))) => {
                let message = format!("the body ended early: {error}");
                return Err(Error::new(ErrorKind::MalformedHttp, message));
            }
            Ok(None) => break,
            Err(Late) => {
                let message =
                    format!("less than 4 KiB of the body arrived within {}", limits.body_time);
                return Err(Error::new(ErrorKind::TooSlow, message));
            }
        };
        let length = bytes.len() + data.len();
        if length as u64 > limits.body {
            return Err(too_large(limits.body));
        }
        if length <= BUFFER_SIZE {
            // The stream's own share covers a short body.
            bytes.extend_from_slice(&data);
        } else {
            let share = share.get_or_insert_with(|| local.share(Purpose::Long));
            let mut rest = &data[..];
            while !rest.is_empty() {
                let due = announced.max(length) - bytes.len();
                let room = buffer::grow(&mut bytes, due, share)?;
                let (piece, behind) = rest.split_at(rest.len().min(room));
                bytes.extend_from_slice(piece);
                rest = behind;
            }
        }
        // An error means that the stream has ended, which the next read reports.
        let _ = stream.flow_control().release_capacity(data.len());
        if length >= goal {
            goal = length + PROGRESS;
            since = local.now();
        }
    }
    Ok(Body::Long(Held { bytes, share: share.filter(|share| !share.is_empty()) }.into_bytes()))
}

async fn answer<'a>(
    shared: &'a Shared,
    view: &'a View,
    head: &http::request::Parts,
    body: Result<Body<'static>, Error>,
    purpose: Purpose,
) -> Answer<'a> {
    let worker = &shared.worker;
    let mut fields = Fields::default();
    let taken = head
        .headers
        .iter()
        .try_for_each(|(name, value)| fields.take(name.as_str(), value.as_bytes()));
    let is_crowded = head.headers.len() > http1::FIELDS_MAX;
    let taken = if is_crowded { Err(http1::too_many_fields()) } else { taken };
    let body = match taken.and(body) {
        Ok(body) => body,
        Err(error) => {
            let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
            let mut seen = Glimpse { method: head.method.as_str(), target, ..Glimpse::default() };
            for (name, value) in &head.headers {
                seen.take(name.as_str(), value.as_bytes());
            }
            return face::refused(worker, view, &error, &seen, (shared.peer, shared.faces), 0);
        }
    };
    let request = Request {
        method: head.method.as_str(),
        target: head.uri.path_and_query().map_or("/", |target| target.as_str()),
        fields: &fields,
        all: AllFields::Map(&head.headers),
        body: match &body {
            // Short bodies are processed on this thread.
            Body::Long(bytes) if bytes.len() <= offload::INLINE_MAX => Body::Short(bytes),
            body => body.clone(),
        },
        peer: shared.peer,
        faces: shared.faces,
        start: worker.local.now(),
        purpose,
    };
    let mut answer = face::answer(worker, view, Some(&shared.turns), &request).await;
    compress::compress(worker, view, fields.accept_encoding, &mut answer).await;
    answer
}

fn response(worker: &Worker, view: &View, answer: &Answer<'_>, is_head: bool) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    let mut add = |name: &str, value: &[u8]| {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    };
    if !answer.content_type.is_empty() {
        add("content-type", &answer.content_type);
    }
    let length = answer.body.length().filter(|length| *length > 0 || !is_head);
    if let Some(length) = length.filter(|_| !matches!(answer.status, 204 | 304)) {
        add("content-length", length.to_string().as_bytes());
    }
    let mut text = Vec::new();
    worker.local.write_date(worker.local.recent(), &mut text);
    add("date", &text);
    if view.settings.reveal {
        add("x-plimsoll-instance", view.settings.instance.as_bytes());
        if let Some(cache) = answer.summary.cache {
            add("x-cache", cache.name().as_bytes());
        }
        if answer.summary.attempts > 0 {
            text.clear();
            answer.summary.write_upstreams(&mut text);
            add("x-plimsoll-upstream", &text);
            add("x-plimsoll-attempts", answer.summary.attempts.to_string().as_bytes());
        }
    }
    for (name, value) in &answer.fields {
        add(name, value);
    }
    response
}

/// Writes a body as fast as the caller's windows allow.
struct Writer<'a> {
    worker: &'a Worker,
    stream: SendStream<Bytes>,
    /// Created on first use.
    timer: Option<Timer>,
    write_time: Nanos,
    /// The length of the whole body.
    length: usize,
    sent: u64,
    /// When the deadline was last renewed, and the value of `sent` that renews it next.
    since: Nanos,
    goal: u64,
    settlement: Option<Settlement<'a>>,
}

impl Writer<'_> {
    /// Records the outcome. Called before the last part is passed to h2, so that the metrics include
    /// every answer that a caller has read.
    fn settle(&mut self, is_complete: bool) {
        if let Some(mut settlement) = self.settlement.take() {
            settlement.settle(self.sent, is_complete);
        }
    }

    fn send(&mut self, data: Bytes, is_last: bool) -> bool {
        self.sent += data.len() as u64;
        if is_last {
            self.settle(true);
        }
        self.stream.send_data(data, is_last).is_ok()
    }

    /// Writes a body; false if the caller does not read it or has disconnected.
    async fn body(&mut self, body: Payload<'_>) -> bool {
        match body {
            Payload::Whole(buffer) => {
                let bytes = Bytes::copy_from_slice(&buffer);
                self.worker.local.give_buffer(buffer);
                self.part(bytes, true).await
            }
            Payload::Shared(parts) => {
                let count = parts.len();
                for (at, part) in parts.into_iter().enumerate() {
                    if !self.part(part, at + 1 == count).await {
                        return false;
                    }
                }
                true
            }
            Payload::Pieces(mut pieces) => loop {
                let left = std::future::poll_fn(|context| self.stream.poll_reset(context));
                let next = tokio::select! {
                    biased;
                    next = pieces.next() => next,
                    // The stream was reset, or the connection closed.
                    _ = left => return false,
                };
                match next {
                    Ok(Some(piece)) => {
                        if !self.part(piece, false).await {
                            return false;
                        }
                    }
                    Ok(None) => return self.send(Bytes::new(), true),
                    Err(_) => return false,
                }
            },
        }
    }

    async fn part(&mut self, mut part: Bytes, is_last: bool) -> bool {
        if part.is_empty() {
            return !is_last || self.send(part, true);
        }
        while !part.is_empty() {
            self.stream.reserve_capacity(part.len().min(PART_MAX));
            if self.stream.capacity() == 0 && !self.wait().await {
                return false;
            }
            let piece = part.split_to(part.len().min(self.stream.capacity()));
            if !self.send(piece, is_last && part.is_empty()) {
                return false;
            }
        }
        true
    }

    /// Waits until the caller accepts more.
    async fn wait(&mut self) -> bool {
        let local = &self.worker.local;
        let mut now = local.now();
        if self.sent >= self.goal {
            (self.since, self.goal) = (now, self.sent + PROGRESS as u64);
        }
        while let Some(until) = next_check(local, self.length, self.since, self.write_time, now) {
            let until = local.instant(until);
            let timer = self.timer.get_or_insert_with(|| Timer::new(until));
            let stream = &mut self.stream;
            let more = std::future::poll_fn(|context| stream.poll_capacity(context));
            match timer.limit(until, more).await {
                Ok(Some(Ok(0))) | Err(Late) => now = local.now(),
                Ok(Some(Ok(_))) => return true,
                Ok(Some(Err(_)) | None) => return false,
            }
        }
        false
    }
}
