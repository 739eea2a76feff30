//! Decodes the content coding of request bodies.

use bytes::Bytes;

use crate::call::message::Body;
use crate::error::{Error, ErrorKind};
use crate::gzip;
use crate::http1::quoted;
use crate::local::Local;

/// Decodes a body.
///
/// # Errors
/// The coding is not gzip, the body is corrupt or too long, or there is no memory for it.
pub(crate) async fn decoded<'a>(
    local: &Local,
    coding: Option<&[u8]>,
    body: Body<'a>,
    limit: u64,
) -> Result<Body<'a>, Error> {
    let Some(coding) = coding.filter(|coding| !coding.eq_ignore_ascii_case(b"identity")) else {
        return Ok(body);
    };
    if !coding.eq_ignore_ascii_case(b"gzip") && !coding.eq_ignore_ascii_case(b"x-gzip") {
        let message = format!("content coding {} is not supported; use gzip", quoted(coding));
        return Err(Error::new(ErrorKind::UnsupportedEncoding, message));
    }
    Box::pin(async {
        let own = || match &body {
            Body::Short(bytes) => Bytes::copy_from_slice(bytes),
            Body::Long(bytes) => bytes.clone(),
        };
        let plain = gzip::decompressed(local, body.bytes(), own, limit).await?;
        Ok(Body::Long(plain.into_bytes()))
    })
    .await
}
