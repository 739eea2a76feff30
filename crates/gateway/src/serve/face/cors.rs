//! CORS: which pages may call from a browser. Pages never read what a listener for operators only
//! (`faces = ["admin"]`) answers.

use crate::call::message::Answer;
use crate::http1::Fields;
use plimsoll_registry::settings::{Cors, Faces};

/// How long a browser may cache the answer to a preflight, in seconds: a day, the most that any browser
/// accepts.
const MAX_AGE: &[u8] = b"86400";

/// The response headers that a script may read.
const EXPOSED: &[u8] =
    b"x-plimsoll-instance, x-plimsoll-upstream, x-plimsoll-attempts, x-cache, x-request-id, retry-after";

/// The rule for a listener: the configured one if it serves calls.
pub(crate) fn rule(cors: &Cors, faces: Faces) -> &Cors {
    if faces.serves_calls() { cors } else { &Cors::Off }
}

/// Adds the headers that let the calling page read the answer, if its origin is allowed.
pub(crate) fn permit(cors: &Cors, origin: Option<&[u8]>, answer: &mut Answer<'_>) {
    let Some(origin) = origin else { return };
    let may = match cors {
        Cors::Off => return,
        Cors::Any => true,
        Cors::Origins(origins) => origins.iter().any(|known| known.as_bytes() == origin),
    };
    answer.fields.push(("vary".into(), b"origin".to_vec()));
    // The origin is echoed: it must not be able to inject anything.
    let plain = origin.iter().all(|byte| byte.is_ascii_graphic());
    if may && plain {
        answer.fields.push(("access-control-allow-origin".into(), origin.to_vec()));
        answer.fields.push(("access-control-expose-headers".into(), EXPOSED.to_vec()));
    }
}

/// Lets any page read the answer to an unreadable request, if all origins are allowed.
pub(crate) fn permit_any(cors: &Cors, answer: &mut Answer<'_>) {
    if *cors == Cors::Any {
        answer.fields.push(("access-control-allow-origin".into(), b"*".to_vec()));
    }
}

/// Whether an OPTIONS request is a browser's question whether it may send another request.
pub(crate) fn is_preflight(fields: &Fields<'_>) -> bool {
    fields.origin.is_some() && fields.request_method.is_some()
}

/// Answers OPTIONS: the methods that the path allows and, for a preflight, what a page may send.
pub(super) fn options<'a>(methods: &'static str, cors: &Cors, fields: &Fields<'_>) -> Answer<'a> {
    let mut answer = Answer::new(204, b"", Vec::new());
    answer.fields.push(("allow".into(), methods.into()));
    if *cors != Cors::Off && fields.request_method.is_some() {
        let wanted = fields.request_headers.unwrap_or(b"content-type, target-service-id");
        let plain = wanted.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        let wanted = if plain { wanted } else { b"content-type" };
        answer.fields.push(("access-control-allow-methods".into(), methods.into()));
        answer.fields.push(("access-control-allow-headers".into(), wanted.to_vec()));
        answer.fields.push(("access-control-max-age".into(), MAX_AGE.to_vec()));
    }
    answer
}
