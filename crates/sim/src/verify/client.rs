//! A plain HTTP/1.1 JSON-RPC client over one connection.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::VerifyError;

/// Maximum size of a response, in bytes.
const BODY_MAX: usize = 256 << 20;

pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    calls: u64,
}

/// The result, or the error object.
pub(super) type Answer = Result<Value, Value>;

impl Client {
    pub(super) async fn connect(
        url: &str,
        headers: &[(String, String)],
    ) -> Result<Client, VerifyError> {
        let wrong = |why: &str| VerifyError::Url { url: url.into(), why: why.into() };
        let uri: Uri = url.parse().map_err(|_| wrong("not a valid URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only http:// is supported"));
        }
        let host = uri.host().ok_or_else(|| wrong("the URL has no host"))?;
        let port = uri.port_u16().unwrap_or(80);
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut all = Vec::new();
        for (name, value) in [("host".to_string(), authority)].iter().chain(headers) {
            let name: HeaderName = name.parse().map_err(|_| wrong("invalid header name"))?;
            let value = HeaderValue::from_str(value).map_err(|_| wrong("invalid header value"))?;
            all.push((name, value));
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await.map_err(VerifyError::Connect)?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Client { sender, uri, headers: all, calls: 0 })
    }

    /// Number of calls made.
    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    /// Makes a call.
    pub(super) async fn call(
        &mut self,
        method: &str,
        params: Value,
    ) -> Result<Answer, VerifyError> {
        self.calls += 1;
        let id = self.calls;
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::new(Bytes::from(body.to_string())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().unwrap_or_default();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|error| VerifyError::Body(error.to_string()))?.to_bytes();
        let malformed = || VerifyError::NotJsonRpc { method: method.into(), status };
        let mut answer: Value = serde_json::from_slice(&body).map_err(|_| malformed())?;
        if !answer.is_object() || (answer["id"] != id && !answer["id"].is_null()) {
            return Err(malformed());
        }
        match answer.get_mut("error").map(Value::take) {
            Some(error) if !error.is_null() => Ok(Err(error)),
            _ => answer.get_mut("result").map(|result| Ok(result.take())).ok_or_else(malformed),
        }
    }
}
