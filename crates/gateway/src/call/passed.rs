//! Header fields of a caller that go on to upstreams.
//!
//! A call is written anew, so that nothing of a request's head reaches an upstream but what is named
//! here: what a trace needs, what PATH takes from its callers (only to PATH instances), what the
//! operator lists, and the way that a request has come through gateways like this one, by which loops
//! are found.

use plimsoll_registry::model::Kind;
use plimsoll_registry::settings::Settings;

use super::message::Request;
use crate::error::{Error, ErrorKind};
use crate::http1::write_field;
use crate::observe::access_log;

/// What PATH instances take from callers.
const TO_PATH: [&str; 5] =
    ["app-address", "portal-account-id", "portal-application-id", "rpc-type", "target-suppliers"];

/// What goes to every upstream.
const TO_ALL: [&str; 3] = [REQUEST_ID, "traceparent", "tracestate"];

/// What a caller calls its request.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Names the gateways that a request has come through, each in a field of its own.
pub(crate) const VIA: &str = "x-plimsoll-via";

/// A request that has come through more gateways than this goes in a circle.
const VIA_MAX: usize = 8;

/// The longest request id that is taken from a caller, in bytes.
const ID_MAX: usize = 128;

/// What goes on with a request. Mostly there is none: it must not take room in every connection.
#[derive(Debug, Default)]
pub(crate) struct Passed(Option<Box<Lines>>);

/// Whole header lines.
#[derive(Debug, Default)]
struct Lines {
    everywhere: Vec<u8>,
    to_path: Vec<u8>,
    /// X-Forwarded-For.
    chain: Vec<u8>,
}

impl Passed {
    /// What of a request goes on; `own_id` is this gateway's, `id` what the request
    /// is called.
    ///
    /// # Errors
    /// The request has been here before.
    pub(crate) fn of(
        request: &Request<'_>,
        settings: &Settings,
        own_id: &str,
        id: Option<&[u8]>,
    ) -> Result<Passed, Error> {
        let has_fields = request.fields.is_passed || !settings.pass_headers.is_empty();
        if id.is_none() && !has_fields {
            return Ok(Passed::default());
        }
        let mut passed = Box::<Lines>::default();
        if let Some(id) = id {
            write_field(REQUEST_ID, id, &mut passed.everywhere);
        }
        if !has_fields {
            return Ok(Passed(Some(passed)));
        }
        let mut gateways = 0;
        let mut is_loop = false;
        request.all.visit(|name, value| {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is(VIA) {
                gateways += 1;
                is_loop |= value == own_id.as_bytes() || gateways > VIA_MAX;
                write_field(VIA, value, &mut passed.everywhere);
            } else if is(REQUEST_ID) {
                // Written already, where it is one.
            } else if TO_PATH.iter().any(|known| is(known)) {
                write_field(&name.to_ascii_lowercase(), value, &mut passed.to_path);
            } else if TO_ALL.iter().any(|known| is(known))
                || settings.pass_headers.iter().any(|known| is(known))
            {
                write_field(&name.to_ascii_lowercase(), value, &mut passed.everywhere);
            }
        });
        if is_loop {
            let message = "this request has come through this gateway before, or through too many; \
                           an upstream leads back to it";
            return Err(Error::new(ErrorKind::Loop, message));
        }
        if let Some(chain) = forwarded_for(request, settings) {
            write_field("x-forwarded-for", &chain, &mut passed.chain);
        }
        Ok(Passed(Some(passed)))
    }

    /// Appends what an upstream of this kind gets with a call.
    #[inline]
    pub(crate) fn write(&self, kind: Kind, out: &mut Vec<u8>) {
        self.write_without_chain(kind, out);
        if let (Some(lines), Kind::Path) = (&self.0, kind) {
            out.extend_from_slice(&lines.chain);
        }
    }

    /// The same without X-Forwarded-For.
    #[inline]
    pub(crate) fn write_without_chain(&self, kind: Kind, out: &mut Vec<u8>) {
        let Some(lines) = &self.0 else { return };
        out.extend_from_slice(&lines.everywhere);
        if kind == Kind::Path {
            out.extend_from_slice(&lines.to_path);
        }
    }
}

/// Who a request comes from, for the next in line: what a trusted proxy says, and the proxy itself.
/// `None` where no proxy says anything.
pub(crate) fn forwarded_for(request: &Request<'_>, settings: &Settings) -> Option<Vec<u8>> {
    let chain = request.fields.forwarded_for?;
    let is_trusted = settings.trusted_proxies.iter().any(|network| network.holds(request.peer));
    let peer = request.peer.to_string();
    Some(match is_trusted && access_log::is_chain(chain) {
        true => [chain, b", ", peer.as_bytes()].concat(),
        false => peer.into_bytes(),
    })
}

/// The caller's own name for its request, where it can be one.
pub(crate) fn request_id<'a>(request: &Request<'a>) -> Option<&'a [u8]> {
    let id = request.fields.request_id?;
    let fits = (1..=ID_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    fits.then_some(id)
}
