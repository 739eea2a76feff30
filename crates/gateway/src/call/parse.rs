//! Bodies as calls, without stopping the worker for long ones.
//!
//! A short body is read where it is. A long one is read on another thread, which gives the places of
//! its parts; so are the long calls of a batch.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use plimsoll_rpc::json;
use plimsoll_rpc::request::{self, Call, Refusal, Refused};

use crate::offload;

/// A call as places in a body.
pub(crate) struct CallAt {
    id: Option<Range<usize>>,
    method: String,
    params: Option<Range<usize>>,
}

/// A call that was refused, and the place of its id.
pub(crate) struct RefusedAt {
    id: Option<Range<usize>>,
    why: Refusal,
}

/// A long body, read.
pub(crate) enum Parsed {
    Single(CallAt),
    /// The places of a batch's items.
    Batch(Vec<Range<usize>>),
}

impl CallAt {
    fn of(body: &[u8], call: Call<'_>) -> CallAt {
        CallAt {
            id: call.id.map(|id| place(body, id)),
            params: call.params.map(|params| place(body, params)),
            method: call.method.into_owned(),
        }
    }

    /// The call, in its body.
    pub(crate) fn within<'a>(&'a self, body: &'a [u8]) -> Call<'a> {
        Call {
            id: self.id.clone().map(|id| &body[id]),
            method: Cow::Borrowed(&self.method),
            params: self.params.clone().map(|params| &body[params]),
        }
    }
}

impl RefusedAt {
    fn of(body: &[u8], refused: Refused<'_>) -> RefusedAt {
        RefusedAt { id: refused.id.map(|id| place(body, id)), why: refused.why }
    }

    /// The refusal, in its body.
    pub(crate) fn within<'a>(&self, body: &'a [u8]) -> Refused<'a> {
        Refused { id: self.id.clone().map(|id| &body[id]), why: self.why }
    }
}

fn place(body: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - body.as_ptr() as usize;
    start..start + part.len()
}

/// Reads a long body; `None`: the gateway is ending.
pub(crate) async fn body(bytes: &Bytes, batch_max: usize) -> Option<Result<Parsed, RefusedAt>> {
    let bytes = bytes.clone();
    offload::run(move || {
        let refused = |refused| RefusedAt::of(&bytes, refused);
        match request::parse(&bytes, batch_max).map_err(refused)? {
            request::Body::Single(call) => Ok(Parsed::Single(CallAt::of(&bytes, call))),
            request::Body::Batch(_) => {
                // Its syntax was checked.
                let items = json::items(&bytes).filter_map(Result::ok);
                Ok(Parsed::Batch(items.map(|item| place(&bytes, item)).collect()))
            }
        }
    })
    .await
}

/// Reads a long call of a batch; `None`: the gateway is ending.
pub(crate) async fn call(bytes: Bytes) -> Option<Result<CallAt, RefusedAt>> {
    offload::run(move || match request::call(&bytes) {
        Ok(call) => Ok(CallAt::of(&bytes, call)),
        Err(refused) => Err(RefusedAt::of(&bytes, refused)),
    })
    .await
}
