//! A client of the admin API, over HTTP or HTTPS. It follows no redirect, so that the token goes only to
//! the gateway that was named.

use super::super::cache::escaped;
use super::super::listing::Shown;
use super::wire;
use crate::usage_error;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use plimsoll_config::Variables;
use plimsoll_registry::model::Address;
use plimsoll_registry::sources::Request;
use plimsoll_registry::store::EntryKind;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// The variable with the token.
const TOKEN: &str = "PLIMSOLL_ADMIN_TOKEN";

/// How long to wait for a connection, and for an answer: longer than the gateway waits for a database.
const CONNECT_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(70);

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Entries asked for at once.
const PER_PAGE: usize = 1_000;

/// The token, if its variable is set.
///
/// # Errors
/// It has a character that no token has, which would not be sent as it is.
pub(crate) fn token(variables: &Variables) -> anyhow::Result<Option<&str>> {
    let token = variables.get(TOKEN).filter(|token| !token.is_empty());
    if token.is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(usage_error(format!("{TOKEN} has a character that no token has"), ""));
    }
    Ok(token)
}

/// A client of one gateway.
pub(crate) struct Client {
    /// As given.
    url: String,
    address: Address,
    token: String,
    /// For https.
    tls: Option<TlsConnector>,
}

/// Where a connection may fail, with what to look at then.
const HINT: &str = "check that it runs, that its admin_listen has this address, and whether that has TLS \
                    (https)";
const HINT_TLS: &str = "--admin-ca FILE names the certificate of a CA of your own; write http:// if the \
                        listener has no TLS";

/// Why there is no answer, and what to look at.
type Failure = (String, &'static str);

impl Client {
    /// A client for the URL of an admin listener, which over https must have a certificate by a CA in
    /// the file, or by one that the system trusts; the token is a variable.
    pub(crate) fn new(
        url: &str,
        ca: Option<&Path>,
        variables: &Variables,
    ) -> anyhow::Result<Client> {
        let hint = "write it like --admin http://127.0.0.1:9069";
        let address =
            Address::parse(url).map_err(|why| usage_error(format!("--admin: {why}"), ""))?;
        let tls = address.tls.then(|| plimsoll_gateway::connector(ca)).transpose();
        let tls = tls.map_err(|why| usage_error(format!("--admin-ca: {why}"), ""))?;
        if tls.is_none() && ca.is_some() {
            let hint = "write --admin https://…, or leave out --admin-ca";
            return Err(usage_error("--admin-ca: the URL of --admin is not https", hint));
        }
        if address.path != "/" {
            return Err(usage_error("--admin: the URL has a path", hint));
        }
        let token = token(variables)?.ok_or_else(|| {
            usage_error(format!("--admin: the variable {TOKEN} is not set"), "set it to the token")
        })?;
        Ok(Client { url: url.into(), token: token.into(), address, tls })
    }

    /// The entries of a kind.
    pub(crate) async fn list(&mut self, kind: EntryKind) -> anyhow::Result<Vec<Shown>> {
        let mut all = Vec::new();
        for page in 1.. {
            let kind = kind.name();
            let path = format!("resources?kind={kind}&per_page={PER_PAGE}&page={page}");
            let value = self.ask("GET", &path, Vec::new()).await?;
            let entries = value["resources"].as_array().into_iter().flatten();
            all.extend(entries.filter_map(wire::read_resource));
            if value["pages"].as_u64().is_none_or(|pages| page >= pages) {
                break;
            }
        }
        Ok(all)
    }

    /// Asks what was used, as CSV; returns all rows.
    pub(crate) async fn usage_csv(&self, asked: &[(&str, &str)]) -> anyhow::Result<String> {
        let path = format!("usage?format=csv{}", parameters(asked));
        let body = self.succeed("GET", &path, Vec::new()).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Asks what was used; returns all pages as one.
    pub(crate) async fn usage(&self, asked: &[(&str, &str)]) -> anyhow::Result<Value> {
        let mut whole = Value::Null;
        let asked = parameters(asked);
        for page in 1.. {
            let path = format!("usage?per_page={PER_PAGE}&page={page}{asked}");
            let mut value = self.ask("GET", &path, Vec::new()).await?;
            let rows = value["usage"].take();
            let is_last = value["pages"].as_u64().is_none_or(|pages| page >= pages);
            match whole["usage"].as_array_mut() {
                None => {
                    whole = value;
                    whole["usage"] = rows;
                }
                Some(all) => all.extend(rows.as_array().into_iter().flatten().cloned()),
            }
            if is_last {
                break;
            }
        }
        (whole["page"], whole["pages"]) = (1.into(), 1.into());
        whole["per_page"] = whole["rows"].clone();
        Ok(whole)
    }

    /// Makes changes; returns the answer.
    pub(crate) async fn change(&mut self, requests: &[Request]) -> anyhow::Result<Value> {
        let body = wire::show_requests(requests).to_string().into_bytes();
        self.ask("POST", "action", body).await
    }

    /// The keys of an endpoint, or of all, as the gateway knows them.
    pub(crate) async fn keys(&mut self, endpoint: Option<&str>) -> anyhow::Result<Vec<Value>> {
        self.of_endpoint("keys", endpoint).await
    }

    /// What an endpoint and its keys, or all, may use, have used and were refused.
    pub(crate) async fn limits(&mut self, endpoint: Option<&str>) -> anyhow::Result<Vec<Value>> {
        self.of_endpoint("limits", endpoint).await
    }

    /// A list that the API has under its name, of an endpoint or of all.
    async fn of_endpoint(
        &mut self,
        name: &str,
        endpoint: Option<&str>,
    ) -> anyhow::Result<Vec<Value>> {
        let query = endpoint.map(|id| format!("?endpoint={}", escaped(id))).unwrap_or_default();
        let value = self.ask("GET", &format!("{name}{query}"), Vec::new()).await?;
        Ok(value[name].as_array().cloned().unwrap_or_default())
    }

    /// Asks for the cache's figures (`GET`), or removes what a query selects (`DELETE`); returns the status
    /// and the answer as it is.
    pub(crate) async fn cache(&self, method: &str, query: &str) -> anyhow::Result<(u16, String)> {
        let (status, body) = self.answer(method, &format!("cache{query}"), Vec::new()).await?;
        Ok((status, String::from_utf8_lossy(&body).trim_end().to_string()))
    }

    /// The URL, as given.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    async fn answer(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<(u16, Bytes)> {
        let Client { url, .. } = self;
        let answer = tokio::time::timeout(ANSWER_MAX, self.send(method, path, body)).await;
        match answer {
            Ok(answer) => answer.map_err(|(why, hint)| {
                usage_error(format!("the gateway at {url} cannot be asked: {why}"), hint)
            }),
            Err(_) => {
                let message = format!(
                    "the gateway at {url} did not answer within {} s",
                    ANSWER_MAX.as_secs()
                );
                Err(usage_error(message, "list the entries to see whether a change was made"))
            }
        }
    }

    async fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> anyhow::Result<Value> {
        let body = self.succeed(method, path, body).await?;
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    /// The body of a successful answer.
    async fn succeed(&self, method: &str, path: &str, body: Vec<u8>) -> anyhow::Result<Bytes> {
        let Client { url, .. } = self;
        let (status, body) = self.answer(method, path, body).await?;
        if status == 200 {
            return Ok(body);
        }
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let error = &value["error"];
        match error["message"].as_str() {
            Some(message) => {
                let hint = match status {
                    413 => "import fewer entries at a time, or raise limits.body of the gateway",
                    _ => error["hint"].as_str().unwrap_or_default(),
                };
                Err(usage_error(message.to_string(), hint))
            }
            None => Err(usage_error(
                format!("the gateway at {url} answered with HTTP status {status}"),
                "give --admin the address of admin_listen",
            )),
        }
    }

    async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Bytes), Failure> {
        let Address { host, port, .. } = &self.address;
        let late = || (format!("no connection within {} s", CONNECT_MAX.as_secs()), HINT);
        let connect = TcpStream::connect((host.as_str(), *port));
        let connected = tokio::time::timeout(CONNECT_MAX, connect).await.map_err(|_| late())?;
        let stream = connected.map_err(|error| (error.to_string(), HINT))?;
        let Some(tls) = &self.tls else {
            return self.exchange(stream, method, path, body).await;
        };
        let failed = |why: String| (format!("the TLS handshake failed: {why}"), HINT_TLS);
        let name = ServerName::try_from(host.clone()).map_err(|why| failed(why.to_string()))?;
        let shake = tokio::time::timeout(CONNECT_MAX, tls.connect(name, stream));
        let stream = shake.await.map_err(|_| late())?.map_err(|error| failed(error.to_string()))?;
        self.exchange(stream, method, path, body).await
    }

    /// One request and its answer on a connection.
    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Bytes), Failure> {
        let failed = |why: hyper::Error| (why.to_string(), HINT);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(failed)?;
        // Its errors are those of the request.
        tokio::spawn(async move { drop(connection.await) });
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("/api/v1/{path}"))
            .header(HOST, &self.address.authority)
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|why| (why.to_string(), HINT))?;
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|why| (why.to_string(), HINT))?.to_bytes()))
    }
}

/// Parameters of a query, behind others.
fn parameters(asked: &[(&str, &str)]) -> String {
    asked.iter().map(|(name, value)| format!("&{name}={}", escaped(value))).collect()
}
