//! Parses long bodies without blocking the worker.
//!
//! Short bodies are parsed in place. Long bodies, and long calls of a batch, are parsed on another
//! thread, which returns the ranges of their parts.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use plimsoll_rpc::json;
use plimsoll_rpc::request::{self, Call, Refusal, Refused};

use crate::offload;

/// A call, as ranges of a body.
pub(crate) struct CallRanges {
    id: Option<Range<usize>>,
    method: String,
    params: Option<Range<usize>>,
}

/// Why a call was refused, and the range of its id.
pub(crate) struct RefusedRanges {
    id: Option<Range<usize>>,
    why: Refusal,
}

/// A parsed long body.
pub(crate) enum Parsed {
    Single(CallRanges),
    /// The ranges of a batch's items.
    Batch(Vec<Range<usize>>),
}

impl CallRanges {
    fn of(body: &[u8], call: Call<'_>) -> CallRanges {
        CallRanges {
            id: call.id.map(|id| range_in(body, id)),
            params: call.params.map(|params| range_in(body, params)),
            method: call.method.into_owned(),
        }
    }

    /// The call, borrowed from its body.
    pub(crate) fn within<'a>(&'a self, body: &'a [u8]) -> Call<'a> {
        Call {
            id: self.id.clone().map(|id| &body[id]),
            method: Cow::Borrowed(&self.method),
            params: self.params.clone().map(|params| &body[params]),
        }
    }
}

impl RefusedRanges {
    fn of(body: &[u8], refused: Refused<'_>) -> RefusedRanges {
        RefusedRanges { id: refused.id.map(|id| range_in(body, id)), why: refused.why }
    }

    /// The refusal, borrowed from its body.
    pub(crate) fn within<'a>(&self, body: &'a [u8]) -> Refused<'a> {
        Refused { id: self.id.clone().map(|id| &body[id]), why: self.why }
    }
}

/// The range of `part`, a subslice of `body`.
fn range_in(body: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - body.as_ptr() as usize;
    start..start + part.len()
}

/// Parses a long body; `None` if the gateway is shutting down.
pub(crate) async fn body(bytes: &Bytes, batch_max: usize) -> Option<Result<Parsed, RefusedRanges>> {
    let bytes = bytes.clone();
    offload::run(move || {
        let refused = |refused| RefusedRanges::of(&bytes, refused);
        match request::parse(&bytes, batch_max).map_err(refused)? {
            request::Body::Single(call) => Ok(Parsed::Single(CallRanges::of(&bytes, call))),
            request::Body::Batch(_) => {
                // The syntax was checked by `parse`.
                let items = json::items(&bytes).filter_map(Result::ok);
                Ok(Parsed::Batch(items.map(|item| range_in(&bytes, item)).collect()))
            }
        }
    })
    .await
}

/// Parses a long call of a batch; `None` if the gateway is shutting down.
pub(crate) async fn call(bytes: Bytes) -> Option<Result<CallRanges, RefusedRanges>> {
    offload::run(move || match request::call(&bytes) {
        Ok(call) => Ok(CallRanges::of(&bytes, call)),
        Err(refused) => Err(RefusedRanges::of(&bytes, refused)),
    })
    .await
}
